//! What a switch that is not good yet lacks, for whoever stands before the machine: written by `health --boot` beside
//! its file, shown by the console, and gone as soon as the switch is good.

use super::{Finding, State};
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::time::Duration;

/// A part that is not good.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub(crate) struct Lacking {
    /// Which, in a word or two: `listener inbound`.
    pub(crate) what: String,
    /// Why, a sentence.
    pub(crate) says: String,
    /// Since when, in seconds since the kernel's start.
    pub(crate) since_kernel_start_s: f64,
}

/// Where it stands, beside the file that says when the switch became good.
pub(crate) fn beside(good: &Path) -> PathBuf {
    good.with_extension("lacking")
}

/// Since when each part has not been good.
#[derive(Debug, Default)]
pub(super) struct Since(BTreeMap<String, Duration>);

impl Since {
    /// What is lacking after a look that began at `now` since the kernel's start.
    pub(super) fn lacking(&mut self, findings: &[Finding], now: Duration) -> Vec<Lacking> {
        let bad: Vec<_> = findings.iter().filter(|finding| finding.state != State::Good).collect();
        self.0.retain(|what, _| bad.iter().any(|finding| finding.what == *what));
        let lacking = bad.into_iter().map(|finding| Lacking {
            what: finding.what.clone(),
            says: finding.says.clone(),
            since_kernel_start_s: self.0.entry(finding.what.clone()).or_insert(now).as_secs_f64(),
        });
        lacking.collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_part_lacks_since_it_was_good_last() {
        let mut since = Since::default();
        let mut look = |findings: &[Finding], now: u64| -> Vec<(String, f64)> {
            let lacking = since.lacking(findings, Duration::from_secs(now)).into_iter();
            lacking.map(|lacking| (lacking.says, lacking.since_kernel_start_s)).collect()
        };
        let (good, bad) = (Finding::good("queue", "well"), Finding::bad("queue", "one"));
        assert_eq!(look(std::slice::from_ref(&bad), 10), [("one".to_owned(), 10.0)]);
        assert_eq!(look(&[Finding::unknown("queue", "two")], 20), [("two".to_owned(), 10.0)]);
        assert!(look(&[good], 30).is_empty());
        assert_eq!(look(&[bad], 40), [("one".to_owned(), 40.0)]);
    }
}
