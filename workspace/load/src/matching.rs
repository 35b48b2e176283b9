//! What became of accepted mail: the 250s of a source against the receipts of one or more sinks.

use serde::{Deserialize, Serialize};
use std::collections::{HashMap, HashSet};

use crate::{sink, source};

/// Examples of lost pairs that [`Tally::lost_examples`] names.
const EXAMPLES_MAX: usize = 20;

/// The comparison. Everything but the latency counts (message, recipient) pairs.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Tally {
    /// Pairs that the source began to send.
    pub submitted: u64,
    /// Pairs that got a 250: the switch is responsible for these.
    pub accepted: u64,
    /// Accepted pairs that a sink received at least once.
    pub delivered: u64,
    /// Receipts of a pair beyond its first.
    pub duplicated: u64,
    /// Accepted pairs that no sink received. Anything but 0 is a fault of the switch, once it had its time.
    pub lost: u64,
    /// Pairs that came to a sink although their source never read a 250 (its connection broke before). No fault.
    pub unacknowledged: u64,
    /// Receipts whose body is not what the source made. Anything but 0 is a fault.
    pub damaged: u64,
    /// From the source's 250 to the first receipt, over the delivered pairs.
    pub latency: Latency,
    /// The first lost pairs, as `id recipient`.
    pub lost_examples: Vec<String>,
}

/// Quantiles in milliseconds. A receipt may precede the moment at which the source has read its 250: then it is negative.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Latency {
    /// Half are faster.
    pub p50_ms: f64,
    /// One in a hundred is slower.
    pub p99_ms: f64,
    /// The slowest.
    pub max_ms: f64,
}

impl Latency {
    /// From differences in nanoseconds, in any order. All zero without any.
    #[must_use]
    pub fn of(mut differences_ns: Vec<i64>) -> Self {
        differences_ns.sort_unstable();
        let at = |per_cent: usize| {
            let index = (differences_ns.len() * per_cent / 100).min(differences_ns.len().saturating_sub(1));
            #[allow(clippy::cast_precision_loss, reason = "a latency needs no 53 bits")]
            let ms = differences_ns.get(index).map_or(0.0, |&ns| ns as f64 / 1e6);
            ms
        };
        Self { p50_ms: at(50), p99_ms: at(99), max_ms: at(100) }
    }
}

/// Compares sources with sinks. The order of either does not matter.
#[must_use]
pub fn tally(sources: &[source::Report], sinks: &[sink::Report]) -> Tally {
    let mut tally = Tally::default();
    // First receipt of each pair.
    let mut first: HashMap<(&str, &str), u64> = HashMap::new();
    for receipt in sinks.iter().flat_map(|sink| &sink.receipts) {
        tally.damaged += u64::from(receipt.integrity == crate::content::Integrity::Damaged);
        let Some(id) = &receipt.id else { continue };
        for recipient in &receipt.recipients {
            let arrived = first.entry((id, recipient));
            if let std::collections::hash_map::Entry::Occupied(mut known) = arrived {
                tally.duplicated += 1;
                let earlier = receipt.arrived_ns.min(*known.get());
                known.insert(earlier);
            } else {
                arrived.or_insert(receipt.arrived_ns);
            }
        }
    }
    let mut accepted: HashSet<(&str, &str)> = HashSet::new();
    let mut differences_ns = Vec::with_capacity(first.len());
    for source in sources {
        tally.submitted += source.submitted_count;
        for acceptance in &source.accepted {
            for recipient in &acceptance.recipients {
                let pair = (acceptance.id.as_str(), recipient.as_str());
                if !accepted.insert(pair) {
                    continue;
                }
                match first.get(&pair) {
                    Some(&arrived_ns) => {
                        differences_ns.push(difference_ns(arrived_ns, acceptance.accepted_ns));
                    }
                    None if tally.lost_examples.len() < EXAMPLES_MAX => {
                        tally.lost_examples.push(format!("{} {recipient}", acceptance.id));
                    }
                    None => {}
                }
            }
        }
    }
    tally.accepted = accepted.len() as u64;
    tally.delivered = differences_ns.len() as u64;
    tally.lost = tally.accepted - tally.delivered;
    tally.unacknowledged = first.keys().filter(|pair| !accepted.contains(*pair)).count() as u64;
    tally.latency = Latency::of(differences_ns);
    tally
}

fn difference_ns(later: u64, earlier: u64) -> i64 {
    i64::try_from(i128::from(later) - i128::from(earlier)).unwrap_or(i64::MAX)
}

impl std::fmt::Display for Tally {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let rows = [
            ("submitted", self.submitted),
            ("accepted (250)", self.accepted),
            ("delivered", self.delivered),
            ("duplicated", self.duplicated),
            ("lost", self.lost),
            ("received without a 250", self.unacknowledged),
            ("damaged", self.damaged),
        ];
        for (name, count) in rows {
            writeln!(f, "{name:<24}{count:>12}")?;
        }
        let Latency { p50_ms, p99_ms, max_ms } = self.latency;
        writeln!(f, "{:<24}{p50_ms:>12.2} ms p50 {p99_ms:.2} ms p99 {max_ms:.2} ms max", "250 to receipt")?;
        for example in &self.lost_examples {
            writeln!(f, "lost: {example}")?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::content::Integrity;
    use crate::sink::Receipt;
    use crate::source::Acceptance;

    fn accepted(id: &str, recipients: &[&str], accepted_ns: u64) -> Acceptance {
        let recipients = recipients.iter().map(|&recipient| recipient.to_owned()).collect();
        let id = id.to_owned();
        Acceptance { id, recipients, sent_ns: 0, accepted_ns, octets: 1, priority: None, attempts_count: 1 }
    }

    fn received(id: &str, recipients: &[&str], arrived_ns: u64) -> Receipt {
        Receipt {
            id: Some(id.to_owned()),
            arrived_ns,
            sent_ns: None,
            sender: String::new(),
            recipients: recipients.iter().map(|&recipient| recipient.to_owned()).collect(),
            priority: None,
            octets: 1,
            integrity: Integrity::Intact,
            answered: true,
            content: None,
        }
    }

    #[test]
    fn lost_duplicated_and_unacknowledged_pairs_are_told_apart() {
        let source = source::Report {
            submitted_count: 5,
            accepted: vec![accepted("1", &["a", "b"], 1_000_000), accepted("2", &["a"], 2_000_000)],
            ..source::Report::default()
        };
        let one = sink::Report {
            receipts: vec![received("1", &["a"], 3_000_000), received("1", &["a"], 2_000_000)],
            ..sink::Report::default()
        };
        let two = sink::Report {
            receipts: vec![received("2", &["a"], 1_500_000), received("3", &["a"], 9)],
            ..sink::Report::default()
        };
        let tally = tally(&[source], &[one, two]);
        assert_eq!((tally.submitted, tally.accepted, tally.delivered), (5, 3, 2));
        assert_eq!((tally.duplicated, tally.lost, tally.unacknowledged), (1, 1, 1));
        assert_eq!(tally.lost_examples, ["1 b"]);
        assert_eq!(tally.latency, Latency { p50_ms: 1.0, p99_ms: 1.0, max_ms: 1.0 });
    }

    #[test]
    fn the_latency_of_nothing_is_zero_and_may_be_negative_otherwise() {
        assert_eq!(Latency::of(vec![]), Latency::default());
        assert_eq!(Latency::of(vec![-2_000_000, 4_000_000, 1_000_000]).p50_ms, 1.0);
    }
}
