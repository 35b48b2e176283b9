//! How many reports the senders of one domain get in an hour: whoever makes others' mail fail under a forged address must not make
//! the switch fill that one's mailbox. Counts; decides nothing else. A process that dies forgets its counts.

use rustc_hash::FxHashMap;
use sternpost_message::{ReversePath, UnixMillis};

const HOUR_MS: u64 = 3_600_000;
/// Domains that are counted at a time, in some 100 octets each. Those beyond are one.
const DOMAINS_MAX: usize = 10_000;
/// What stands for those.
const OTHERS: &str = "(others)";

#[derive(Clone, Copy, Debug, Default)]
struct Counts {
    made: u32,
    suppressed: u64,
}

/// What was counted in the hour before, of one domain.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Suppressed {
    /// The domain; `<>` for reports on what nobody has sent.
    pub(super) domain: String,
    /// Reports that were not made.
    pub(super) count: u64,
}

/// Whether one more report may be made.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Admission {
    /// It may.
    Made,
    /// It may not.
    Suppressed(Suppressed),
}

/// The counts of the hour that runs.
#[derive(Debug, Default)]
pub(super) struct Limits {
    hour: u64,
    domains: FxHashMap<String, Counts>,
}

impl Limits {
    /// Begins a new hour if it is time, and gives what was suppressed in the last one.
    pub(super) fn turn(&mut self, now: UnixMillis) -> Vec<Suppressed> {
        let hour = now.0 / HOUR_MS;
        if hour == self.hour {
            return Vec::new();
        }
        self.hour = hour;
        let before = std::mem::take(&mut self.domains).into_iter();
        let suppressed = before.filter(|(_, counts)| counts.suppressed > 0);
        suppressed.map(|(domain, counts)| Suppressed { domain, count: counts.suppressed }).collect()
    }

    /// Counts one more report to this sender; 0 is no limit.
    pub(super) fn admit(&mut self, sender: &ReversePath, max: u32) -> Admission {
        if max == 0 {
            return Admission::Made;
        }
        let domain =
            sender.mailbox().map_or_else(|| "<>".to_owned(), |mailbox| mailbox.domain().to_lowercase());
        let is_counted = self.domains.contains_key(&domain) || self.domains.len() < DOMAINS_MAX;
        let domain = if is_counted { domain } else { OTHERS.to_owned() };
        let counts = self.domains.entry(domain.clone()).or_default();
        if counts.made < max {
            counts.made += 1;
            return Admission::Made;
        }
        counts.suppressed += 1;
        Admission::Suppressed(Suppressed { domain, count: counts.suppressed })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use sternpost_message::Mailbox;

    fn sender(address: &str) -> ReversePath {
        ReversePath::Mailbox(Mailbox::parse(address).unwrap())
    }

    #[test]
    fn a_domain_gets_so_many_reports_in_an_hour_and_the_rest_is_counted() {
        let mut limits = Limits::default();
        assert!(limits.turn(UnixMillis(HOUR_MS)).is_empty());
        assert_eq!(limits.admit(&sender("a@One.example"), 2), Admission::Made);
        assert_eq!(limits.admit(&sender("b@one.example"), 2), Admission::Made);
        let suppressed = |count| Suppressed { domain: "one.example".to_owned(), count };
        for count in 1..=3 {
            assert_eq!(limits.admit(&sender("c@one.example"), 2), Admission::Suppressed(suppressed(count)));
        }
        assert_eq!(limits.admit(&sender("a@two.example"), 2), Admission::Made);
        assert_eq!(limits.admit(&ReversePath::Null, 2), Admission::Made);
        assert!(limits.turn(UnixMillis(2 * HOUR_MS - 1)).is_empty());
        assert_eq!(limits.turn(UnixMillis(2 * HOUR_MS)), [suppressed(3)]);
        assert_eq!(limits.admit(&sender("a@one.example"), 2), Admission::Made);
    }

    #[test]
    fn zero_is_no_limit_and_domains_beyond_the_bound_are_one() {
        let mut limits = Limits::default();
        for number in 0..2 * DOMAINS_MAX {
            assert_eq!(limits.admit(&sender(&format!("a@d{number}.example")), 0), Admission::Made);
        }
        let admitted = (0..2 * DOMAINS_MAX)
            .filter(|number| limits.admit(&sender(&format!("a@d{number}.example")), 1) == Admission::Made);
        assert_eq!(admitted.count(), DOMAINS_MAX + 1);
        assert_eq!(limits.domains.len(), DOMAINS_MAX + 1);
    }
}
