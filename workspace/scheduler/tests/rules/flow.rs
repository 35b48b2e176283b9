//! How intake is told to wait for delivery.

use crate::switch::{Switch, channel, limits};
use sternpost_message::Precedence::Routine;
use sternpost_message::UnixMillis;
use sternpost_scheduler::Intake;

/// A switch whose peers take and get so many messages a second each, in steps of 10 ms.
struct Load {
    switch: Switch,
    last: u64,
    busy: Vec<(String, u64)>,
}

impl Load {
    fn new(peers: &[&str]) -> Self {
        let mut channel = channel("smtp", 1, 10_000, peers);
        channel.peer_slots_max = 10;
        let mut switch = Switch::going(limits(vec![channel]));
        switch.attach(1, "smtp", 10_000);
        Self { switch, last: 0, busy: Vec::new() }
    }

    /// So many arrive for the peer, and so many of those that it has leave.
    fn step(&mut self, peer: &str, arrive: u64, leave: u64) {
        for _ in 0..arrive {
            self.last += 1;
            self.switch.queue(self.last, "smtp", peer, Routine);
            let began = self.switch.assigned();
            self.busy.extend(began.into_iter().map(|message| (peer.to_owned(), message)));
        }
        for _ in 0..leave {
            let Some(at) = self.busy.iter().position(|(busy, _)| busy == peer) else { return };
            let (_, message) = self.busy.remove(at);
            self.switch.settle(message);
            self.switch.finish(1, message);
            let began = self.switch.assigned();
            self.busy.extend(began.into_iter().map(|message| (peer.to_owned(), message)));
        }
    }

    fn second(&mut self, peers: &[(&str, u64, u64)]) -> Intake {
        for step in 0..100 {
            for &(peer, arrive, leave) in peers {
                let part = |count: u64| count * (step + 1) / 100 - count * step / 100;
                self.step(peer, part(arrive), part(leave));
            }
            self.switch.wait_ms(10);
        }
        self.switch.scheduler.intake(UnixMillis(self.switch.now))
    }
}

#[test]
fn intake_waits_for_what_leaves_within_a_second() {
    let mut load = Load::new(&["a"]);
    load.second(&[("a", 1_000, 900)]);
    let intake = load.second(&[("a", 1_000, 900)]);
    assert_eq!((intake.leaving / 50, intake.delay_ms), (3, 20), "{intake:?}");
}

#[test]
fn a_queue_that_has_outgrown_a_second_is_caught_up_with() {
    let mut load = Load::new(&["a"]);
    // The peer stood still for three seconds, and then takes less than what comes.
    for _ in 0..3 {
        let intake = load.second(&[("a", 1_000, 0)]);
        assert_eq!(intake.leaving, 0, "a peer that takes nothing slows nobody down");
    }
    let delays: Vec<u32> = (0..5)
        .map(|_| {
            let intake = load.second(&[("a", 1_000, 700)]);
            assert!(intake.leaving > 2_000, "{intake:?}");
            intake.delay_ms
        })
        .collect();
    assert_eq!(delays, [40, 80, 160, 160, 160]);
    // The senders are slowed, the queue shrinks; the delay stays until less waits than leaves in a second.
    let mut seconds = 0;
    while load.second(&[("a", 400, 900)]).delay_ms == 160 {
        seconds += 1;
        assert!(seconds < 20, "it never ends");
    }
    assert!(load.switch.scheduler.counts().runnable <= 900);
    assert_eq!(load.second(&[("a", 900, 900)]).delay_ms, 20);
}

#[test]
fn a_slow_peer_slows_nobody_down_however_much_waits_for_it() {
    let mut load = Load::new(&["fast", "slow"]);
    load.second(&[("slow", 3_000, 2)]);
    for _ in 0..5 {
        let intake = load.second(&[("fast", 1_000, 1_000), ("slow", 3, 2)]);
        assert!(intake.leaving < 64, "{intake:?}");
        assert_eq!(intake.delay_ms, 20);
    }
    assert!(load.switch.scheduler.counts().runnable > 2_900);
}
