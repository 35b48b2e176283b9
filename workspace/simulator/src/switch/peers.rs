//! The peer MTAs: modelled by what they answer. They keep what they have got.

use std::collections::BTreeMap;

use sternpost_message::{Diagnostic, EnhancedStatus, ErrorScope, MessageId, Outcome, Route, UnixMillis};

use crate::random::Random;

/// The channels and peers of the configuration.
const PEERS: [(&str, &str); 3] = [("smtp", "a"), ("smtp", "b"), ("lmtp", "c")];

/// What QMGR is configured with.
pub(crate) const TABLES: &str = r#"
[node]
name = "north"
hostname = "mx.example.org"

[[channel]]
name = "smtp"
kind = "smtp"
processes_max = 2
slots_per_process = 3
slots_reserve_urgent = 1
slots_reserve_normal = 1
idle_stop_s = 3

[[channel]]
name = "lmtp"
kind = "lmtp"
processes_max = 1
slots_per_process = 2
slots_reserve_urgent = 0
slots_reserve_normal = 0
idle_stop_s = 20

[[peer]]
name = "a"
channel = "smtp"
address = "192.0.2.1:25"

[[peer]]
name = "b"
channel = "smtp"
address = "192.0.2.2:25"

[[peer]]
name = "c"
channel = "lmtp"
address = "192.0.2.3:24"

[[route]]
domain = "example.org"
peer = "c"

[[route]]
domain = "*"
peer = "a"

[qmgr]
qmgr_maxchans = 6
qmgr_reserve_urgent = 1
qmgr_reserve_normal = 1
retry_step_s = 1
retry_max_s = 4
expire_after_s = 40
delay_report_after_s = 6
"#;

/// All peers.
pub(crate) struct Peers {
    /// Until when each of them does not answer.
    down_until: BTreeMap<String, UnixMillis>,
    got: BTreeMap<(MessageId, usize), u32>,
    /// In percent: recipients that are refused for now, and for good.
    deferring: u64,
    failing: u64,
}

impl Peers {
    pub(crate) fn new(random: &mut Random) -> Self {
        Self {
            down_until: BTreeMap::new(),
            got: BTreeMap::new(),
            deferring: random.below(30),
            failing: random.below(25),
        }
    }

    /// A route to any of them.
    pub(crate) fn route(random: &mut Random) -> Route {
        let (channel, peer) = PEERS[random.place(PEERS.len())];
        Route { channel: channel.to_owned(), peer: peer.to_owned() }
    }

    /// One of them does not answer for some time.
    pub(crate) fn fail(&mut self, random: &mut Random, now: UnixMillis) {
        let (_, peer) = PEERS[random.place(PEERS.len())];
        self.down_until.insert(peer.to_owned(), now.plus_ms(500 + random.below(20_000)));
    }

    /// All answer, and take everything.
    pub(crate) fn mend(&mut self) {
        self.down_until.clear();
        (self.deferring, self.failing) = (0, 0);
    }

    pub(crate) fn answers(&self, peer: &str, now: UnixMillis) -> bool {
        self.down_until.get(peer).is_none_or(|until| *until <= now)
    }

    /// What a peer that answers says to one recipient, who may want a report of success. Half of the MTAs do not know that.
    pub(crate) fn outcome(&self, random: &mut Random, channel: &str, is_report_wanted: bool) -> Outcome {
        let diagnostic = |class| Diagnostic::own(EnhancedStatus::new(class, 0, 0), "the words of a peer");
        let dice = random.below(100);
        if dice < self.deferring {
            Outcome::Deferred { scope: ErrorScope::Message, diagnostic: diagnostic(4) }
        } else if dice < self.deferring + self.failing {
            Outcome::Failed(diagnostic(5))
        } else if channel == "lmtp" && is_report_wanted {
            Outcome::DeliveredReportOwed(diagnostic(2))
        } else if channel == "lmtp" {
            Outcome::Delivered(diagnostic(2))
        } else if is_report_wanted && random.chance(50) {
            Outcome::RelayedReportOwed(diagnostic(2))
        } else {
            Outcome::Transferred(diagnostic(2))
        }
    }

    /// A peer has taken a message for a recipient. Whether it had it before.
    pub(crate) fn takes(&mut self, id: MessageId, recipient: usize) -> bool {
        let count = self.got.entry((id, recipient)).or_default();
        *count += 1;
        *count > 1
    }

    pub(crate) fn has_got(&self, id: MessageId, recipient: usize) -> bool {
        self.got.contains_key(&(id, recipient))
    }
}
