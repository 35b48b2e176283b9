//! What comes when: the streams of a scenario, one message after the other.

use sternpost_message::{MessageSequence, MlistId, Precedence, RecipientRange, RouteIndex, UnixMillis};
use sternpost_scheduler::MlistSpec;

use crate::random::Random;

use super::BEGINNING_MS;
use super::scenario::{Arrivals, Scenario};

/// One stream.
#[derive(Debug)]
pub(super) struct Stream {
    random: Random,
    /// Places of its peers in the world's list.
    peers: Vec<usize>,
    levels: Vec<(Precedence, u64)>,
    /// Messages so far.
    count: u64,
    /// The next one's instant, milliseconds from the beginning.
    next_ms: f64,
}

impl Stream {
    /// `places` says where the peers of each kind stand.
    pub(super) fn new(scenario: &Scenario, arrivals: &Arrivals, places: &[Vec<usize>], seed: u64) -> Self {
        let peers = scenario.peers_of(&arrivals.to).flat_map(|(kind, _)| places[kind].iter().copied());
        let levels = arrivals.precedence_percent.iter().filter_map(|(name, percent)| {
            let level = name.parse().ok()?;
            Some((level, *percent))
        });
        let mut stream = Self {
            random: Random::new(seed),
            peers: peers.collect(),
            levels: levels.collect(),
            count: 0,
            next_ms: arrivals.from_s as f64 * 1_000.0,
        };
        if arrivals.count == 0 {
            stream.go_on(arrivals);
        }
        stream
    }

    /// When the next message comes, if one does.
    pub(super) fn next_at(&self, arrivals: &Arrivals) -> Option<u64> {
        let is_over = if arrivals.count > 0 {
            self.count >= arrivals.count
        } else {
            self.next_ms >= arrivals.until_s as f64 * 1_000.0
        };
        // A scenario's times are far below 2^53 ms, and never negative.
        #[allow(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "see above")]
        let next_ms = self.next_ms as u64;
        (!is_over).then_some(BEGINNING_MS + next_ms)
    }

    /// The Mlists of the next message, each with the place of its peer; `name` gives channel and name of that.
    pub(super) fn next(
        &mut self,
        arrivals: &Arrivals,
        now: u64,
        message: u64,
        name: impl Fn(usize) -> (String, String),
    ) -> Vec<(usize, MlistSpec)> {
        let first = if arrivals.count > 0 {
            usize::try_from(self.count % self.peers.len() as u64)
                .expect("a number below a length is a length")
        } else {
            self.random.place(self.peers.len())
        };
        let precedence = self.level();
        self.count += 1;
        if arrivals.count == 0 {
            self.go_on(arrivals);
        }
        let now = UnixMillis(now);
        (0..arrivals.peers_per_message)
            .map(|route| {
                let peer = self.peers[(first + route as usize) % self.peers.len()];
                let (channel, peer_name) = name(peer);
                let spec = MlistSpec {
                    id: MlistId {
                        message: MessageSequence(message),
                        route: RouteIndex(u16::try_from(route).unwrap_or(u16::MAX)),
                    },
                    channel,
                    peer: peer_name,
                    precedence,
                    recipients: vec![RecipientRange { first: 0, count: arrivals.recipients }],
                    accepted_at: now,
                    expires_at: now.plus_ms(arrivals.life_s * 1_000),
                    delay_report_at: arrivals.delay_report_s.map(|s| now.plus_ms(s * 1_000)),
                    attempts: 0,
                    not_before: UnixMillis(0),
                    held_by: None,
                };
                (peer, spec)
            })
            .collect()
    }

    fn level(&mut self) -> Precedence {
        let mut drawn = self.random.below(100);
        for (level, percent) in &self.levels {
            if drawn < *percent {
                return *level;
            }
            drawn -= percent;
        }
        Precedence::default()
    }

    /// The time between two arrivals that know nothing of each other is exponential.
    fn go_on(&mut self, arrivals: &Arrivals) {
        let drawn = (self.random.below(1 << 53) + 1) as f64 / (1_u64 << 53) as f64;
        self.next_ms += -drawn.ln() * 1_000.0 / arrivals.rate_per_s;
    }
}
