//! Who may try how often: a machine that counts failures and says how long to wait.
//!
//! # The rule
//!
//! Failures are counted for a name *from a network* (an IPv4 address, an IPv6 /64), and for a network alone with a higher
//! bound. Who has failed too often is refused for a while, there and nowhere else. No count is of a name alone: whoever
//! knows a user's name could otherwise keep him out of everywhere by failing in his name. The price is that somebody with
//! very many networks has as many times more attempts; against him stand the delay of each reply and a good password. Who
//! shares a network with a stranger (an address behind which many are) can be refused because of him, in that network.
//!
//! Unknown names are counted as known ones, so a refusal tells nothing about who is there. A success ends the count of its
//! name, not that of its network: one account of one's own would otherwise buy guesses at all others.
//!
//! # Memory
//!
//! At most [`AttemptsPolicy::entries_max`] counts of a fixed size are kept; of names only hashes. When all are in use the
//! least relevant goes: one that is over, else one that refuses nobody with the fewest failures, the oldest first. So who
//! fills the table with names that nobody has pushes out his own counts, not those that matter.

use crate::Name;
use ring::digest;
use std::collections::BTreeMap;
use std::net::{IpAddr, Ipv6Addr};
use std::time::{Duration, Instant};

/// Where a client is, as far as failures are counted: an IPv4 address, or the first 64 bits of an IPv6 address, for a host
/// has all the others for itself.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct ClientNetwork(Ipv6Addr);

impl From<IpAddr> for ClientNetwork {
    fn from(address: IpAddr) -> Self {
        let address = match address {
            IpAddr::V4(address) => return Self(address.to_ipv6_mapped()),
            IpAddr::V6(address) if address.to_ipv4_mapped().is_some() => return Self(address),
            IpAddr::V6(address) => address,
        };
        Self(Ipv6Addr::from_bits(address.to_bits() & (u128::MAX << 64)))
    }
}

/// How many failures are borne, and how long.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct AttemptsPolicy {
    /// Failures of one name from one network before it is refused there. At least 1.
    pub failures_max: u32,
    /// Failures of all names from one network before all are refused there. At least 1.
    pub network_failures_max: u32,
    /// A count is forgotten when so long nothing has failed, so `failures_max` failures within this time are always too many.
    pub quiet_time: Duration,
    /// How long is refused. What is refused is not counted: a client that goes on by itself does not keep its user out.
    pub refusal_time: Duration,
    /// The delay before the reply to a first failure; it doubles with each one that follows.
    pub reply_delay_first: Duration,
    /// The longest delay, also before the reply to whoever is refused.
    pub reply_delay_max: Duration,
    /// How many counts are kept, of some 100 octets each. At least 1.
    pub entries_max: usize,
}

impl Default for AttemptsPolicy {
    fn default() -> Self {
        Self {
            failures_max: 5,
            network_failures_max: 50,
            quiet_time: Duration::from_secs(10 * 60),
            refusal_time: Duration::from_secs(15 * 60),
            reply_delay_first: Duration::from_secs(1),
            reply_delay_max: Duration::from_secs(8),
            entries_max: 8192,
        }
    }
}

/// What is counted: a name (its hash) from a network, or a network.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
struct Key {
    network: ClientNetwork,
    name: Option<[u8; 16]>,
}

impl Key {
    fn of_name(name: &Name, network: ClientNetwork) -> Self {
        let hash = digest::digest(&digest::SHA256, name.as_str().as_bytes());
        Self { network, name: hash.as_ref().first_chunk().copied() }
    }

    const fn of_network(network: ClientNetwork) -> Self {
        Self { network, name: None }
    }
}

#[derive(Clone, Copy, Debug)]
struct Count {
    failures: u32,
    failed_at: Instant,
    refused_until: Option<Instant>,
}

impl Count {
    fn is_over(&self, now: Instant, quiet_time: Duration) -> bool {
        self.refused_until
            .map_or_else(|| now.saturating_duration_since(self.failed_at) >= quiet_time, |until| now >= until)
    }
}

/// The failures that are remembered.
#[derive(Debug)]
pub struct Attempts {
    policy: AttemptsPolicy,
    counts: BTreeMap<Key, Count>,
}

impl Attempts {
    /// Nobody has failed yet.
    #[must_use]
    pub const fn new(policy: AttemptsPolicy) -> Self {
        Self { policy, counts: BTreeMap::new() }
    }

    /// How long a name is still refused from a network. None: it may try.
    #[must_use]
    pub fn refusal(&self, now: Instant, name: &Name, network: ClientNetwork) -> Option<Duration> {
        [Key::of_name(name, network), Key::of_network(network)]
            .into_iter()
            .filter_map(|key| self.counts.get(&key)?.refused_until)
            .map(|until| until.saturating_duration_since(now))
            .max()
            .filter(|left| !left.is_zero())
    }

    /// Counts a failure. The result is how long to wait before the client is told.
    pub fn failed(&mut self, now: Instant, name: &Name, network: ClientNetwork) -> Duration {
        self.count(now, Key::of_network(network), self.policy.network_failures_max);
        let failures = self.count(now, Key::of_name(name, network), self.policy.failures_max);
        let doublings = failures.saturating_sub(1).min(31);
        self.policy.reply_delay_first.saturating_mul(1 << doublings).min(self.policy.reply_delay_max)
    }

    /// Ends the count of a name from a network: its user was there.
    pub fn succeeded(&mut self, name: &Name, network: ClientNetwork) {
        self.counts.remove(&Key::of_name(name, network));
    }

    /// How long to wait before somebody is told that he is refused.
    #[must_use]
    pub const fn refusal_reply_delay(&self) -> Duration {
        self.policy.reply_delay_max
    }

    /// How long to wait before somebody without a name is told that he has failed.
    #[must_use]
    pub const fn nameless_reply_delay(&self) -> Duration {
        self.policy.reply_delay_first
    }

    /// How many counts are kept.
    #[must_use]
    pub fn entries_count(&self) -> usize {
        self.counts.len()
    }

    /// Counts one failure more; the result is how many there are.
    fn count(&mut self, now: Instant, key: Key, failures_max: u32) -> u32 {
        if !self.counts.contains_key(&key) && self.counts.len() >= self.policy.entries_max {
            self.forget_least_relevant(now);
        }
        let quiet_time = self.policy.quiet_time;
        let new = Count { failures: 0, failed_at: now, refused_until: None };
        let count = self.counts.entry(key).or_insert(new);
        if count.is_over(now, quiet_time) {
            *count = new;
        }
        count.failures = count.failures.saturating_add(1);
        count.failed_at = now;
        if count.failures >= failures_max {
            count.refused_until.get_or_insert(now + self.policy.refusal_time);
        }
        count.failures
    }

    fn forget_least_relevant(&mut self, now: Instant) {
        let quiet_time = self.policy.quiet_time;
        let relevance = |count: &Count| {
            (!count.is_over(now, quiet_time), count.refused_until, count.failures, count.failed_at)
        };
        let least = self.counts.iter().min_by_key(|(_, count)| relevance(count)).map(|(key, _)| *key);
        if let Some(key) = least {
            self.counts.remove(&key);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const SECOND: Duration = Duration::from_secs(1);

    fn name(text: &str) -> Name {
        Name::prepare(text).unwrap()
    }

    fn network(address: &str) -> ClientNetwork {
        ClientNetwork::from(address.parse::<IpAddr>().unwrap())
    }

    fn fail(attempts: &mut Attempts, now: Instant, who: &str, from: &str, times: u32) {
        for _ in 0..times {
            attempts.failed(now, &name(who), network(from));
        }
    }

    #[test]
    fn a_name_that_has_failed_too_often_is_refused_for_a_while_and_then_begins_anew() {
        let (mut attempts, start) = (Attempts::new(AttemptsPolicy::default()), Instant::now());
        fail(&mut attempts, start, "alice", "192.0.2.1", 4);
        assert_eq!(attempts.refusal(start, &name("alice"), network("192.0.2.1")), None);
        fail(&mut attempts, start, "ALICE", "192.0.2.1", 1);
        let refused = attempts.refusal(start + SECOND, &name("alice"), network("192.0.2.1"));
        assert_eq!(refused, Some(Duration::from_secs(15 * 60 - 1)));
        let later = start + Duration::from_secs(15 * 60);
        assert_eq!(attempts.refusal(later, &name("alice"), network("192.0.2.1")), None);
        fail(&mut attempts, later, "alice", "192.0.2.1", 4);
        assert_eq!(attempts.refusal(later, &name("alice"), network("192.0.2.1")), None);
        fail(&mut attempts, later, "alice", "192.0.2.1", 1);
        assert!(attempts.refusal(later, &name("alice"), network("192.0.2.1")).is_some());
    }

    #[test]
    fn a_stranger_locks_a_user_out_of_his_own_network_and_of_no_other() {
        let (mut attempts, now) = (Attempts::new(AttemptsPolicy::default()), Instant::now());
        for host in 0..1000 {
            fail(&mut attempts, now, "alice", &format!("198.51.{}.{}", host / 250, host % 250), 60);
            fail(&mut attempts, now, "alice", &format!("2001:db8:0:{host}::1"), 60);
        }
        for own in ["192.0.2.1", "2001:db8:1::1"] {
            assert_eq!(attempts.refusal(now, &name("alice"), network(own)), None);
        }
        assert!(attempts.refusal(now, &name("alice"), network("198.51.0.7")).is_some());
        assert!(attempts.refusal(now, &name("alice"), network("2001:db8:0:7:ffff::9")).is_some());
    }

    #[test]
    fn who_tries_many_names_is_refused_with_every_name() {
        let (mut attempts, now) = (Attempts::new(AttemptsPolicy::default()), Instant::now());
        for number in 0..50 {
            assert_eq!(attempts.refusal(now, &name("alice"), network("192.0.2.1")), None);
            fail(&mut attempts, now, &format!("user{number}"), "192.0.2.1", 1);
        }
        assert!(attempts.refusal(now, &name("alice"), network("192.0.2.1")).is_some());
        assert_eq!(attempts.refusal(now, &name("alice"), network("192.0.2.2")), None);
    }

    #[test]
    fn a_success_ends_the_count_of_its_name_and_not_that_of_its_network() {
        let (mut attempts, now) = (Attempts::new(AttemptsPolicy::default()), Instant::now());
        for round in 0..12 {
            assert_eq!(attempts.refusal(now, &name("alice"), network("192.0.2.1")), None, "{round}");
            fail(&mut attempts, now, "alice", "192.0.2.1", 4);
            attempts.succeeded(&name("alice"), network("192.0.2.1"));
        }
        fail(&mut attempts, now, "alice", "192.0.2.1", 2);
        assert!(attempts.refusal(now, &name("bob"), network("192.0.2.1")).is_some());
    }

    #[test]
    fn the_delay_doubles_up_to_its_bound_and_begins_anew_after_a_quiet_time() {
        let (mut attempts, now) = (Attempts::new(AttemptsPolicy::default()), Instant::now());
        let from = network("192.0.2.1");
        let delays: Vec<u64> =
            (0..40).map(|_| attempts.failed(now, &name("alice"), from).as_secs()).collect();
        assert_eq!((&delays[..5], delays[39]), (&[1, 2, 4, 8, 8][..], 8));
        assert_eq!(attempts.failed(now, &name("bob"), from), SECOND);
        assert_eq!(attempts.failed(now + Duration::from_secs(599), &name("bob"), from), 2 * SECOND);
        assert_eq!(attempts.failed(now + Duration::from_secs(1199), &name("bob"), from), SECOND);
    }

    #[test]
    fn what_matters_stays_when_the_table_is_full_of_what_does_not() {
        let policy = AttemptsPolicy { entries_max: 64, ..AttemptsPolicy::default() };
        let (mut attempts, now) = (Attempts::new(policy), Instant::now());
        fail(&mut attempts, now, "alice", "192.0.2.1", 5);
        fail(&mut attempts, now, "bob", "192.0.2.1", 4);
        for number in 0..10_000_u32 {
            let from = format!("198.51.{}.{}", number / 250, number % 250);
            fail(&mut attempts, now + SECOND, &format!("user{number}"), &from, 1);
            assert!(attempts.entries_count() <= 64);
        }
        assert!(attempts.refusal(now, &name("alice"), network("192.0.2.1")).is_some());
        fail(&mut attempts, now + SECOND, "bob", "192.0.2.1", 1);
        assert!(attempts.refusal(now, &name("bob"), network("192.0.2.1")).is_some());
    }

    #[test]
    fn an_address_is_counted_with_those_that_its_host_can_choose() {
        assert_eq!(network("2001:db8::1"), network("2001:db8::ffff:1:2:3"));
        assert_ne!(network("2001:db8::1"), network("2001:db8:0:1::1"));
        assert_ne!(network("192.0.2.1"), network("192.0.2.2"));
        assert_eq!(network("192.0.2.1"), network("::ffff:192.0.2.1"));
    }

    proptest! {
        /// Against a plain implementation of the rule for the pair, without a bound of the table.
        #[test]
        fn n_failures_within_the_quiet_time_refuse_for_the_refusal_time(
            steps in prop::collection::vec((0_u64..900, any::<bool>()), 1..60),
        ) {
            let policy = AttemptsPolicy { network_failures_max: u32::MAX, ..AttemptsPolicy::default() };
            let mut attempts = Attempts::new(policy.clone());
            let (who, from) = (name("alice"), network("192.0.2.1"));
            let mut now = Instant::now();
            let (mut failures, mut refused_until): (Vec<Instant>, Option<Instant>) = (Vec::new(), None);
            for (seconds, succeeds) in steps {
                now += Duration::from_secs(seconds);
                if refused_until.is_some_and(|until| now >= until) {
                    (failures, refused_until) = (Vec::new(), None);
                }
                prop_assert_eq!(attempts.refusal(now, &who, from), refused_until.map(|until| until - now));
                if refused_until.is_some() {
                    continue;
                }
                if succeeds {
                    attempts.succeeded(&who, from);
                    failures.clear();
                    continue;
                }
                attempts.failed(now, &who, from);
                if failures.last().is_some_and(|last| now - *last >= policy.quiet_time) {
                    failures.clear();
                }
                failures.push(now);
                if failures.len() == 5 {
                    refused_until = Some(now + policy.refusal_time);
                }
            }
        }
    }
}
