//! Who gets the next slot.

use crate::switch::{Switch, channel, id, limits, mlist, one, range};
use sternpost_message::Precedence::{self, Deferred, Flash, Immediate, Override, Priority, Routine};
use sternpost_scheduler::{Action, Event, ProcessId, Reason, Reserves};

#[test]
fn nothing_is_assigned_started_or_expired_before_go() {
    let mut switch = Switch::reading(limits(vec![channel("smtp", 1, 1, &["a"])]));
    let mut spec = mlist(1, "smtp", "a", Routine);
    spec.expires_at.0 = switch.now;
    switch.tell(Event::Queue(spec));
    switch.queue(2, "smtp", "a", Routine);
    assert!(switch.attach(7, "smtp", 1).is_empty());
    assert_eq!(switch.scheduler.wake_at(), None);
    assert_eq!(switch.why(2), Reason::Snapshot);
    switch.tell(Event::Go);
    assert!(matches!(switch.actions[0], Action::Expired { mlist, .. } if mlist == id(1)));
    assert_eq!(switch.assigned(), [2]);
}

#[test]
fn one_message_for_three_peers_is_three_mlists_that_run_at_the_same_time() {
    let mut switch = Switch::going(limits(vec![channel("smtp", 1, 9, &["a", "b", "c"])]));
    switch.attach(7, "smtp", 9);
    for (route, peer) in (0_u16..).zip(["a", "b", "c"]) {
        let mut spec = mlist(1, "smtp", peer, Routine);
        spec.id.route.0 = route;
        switch.tell(Event::Queue(spec));
        assert_eq!(switch.assigned(), [1]);
    }
    assert_eq!(switch.scheduler.counts().in_progress, 3);
}

#[test]
fn the_tree_can_be_listed_with_who_has_what() {
    let mut switch = Switch::going(limits(vec![channel("smtp", 1, 1, &["a", "b"])]));
    switch.attach(7, "smtp", 1);
    switch.queue(1, "smtp", "a", Routine);
    switch.queue(2, "smtp", "b", Flash);
    let mut listed: Vec<_> = switch.scheduler.mlists().collect();
    listed.sort_by_key(|mlist| mlist.id.message);
    let seen: Vec<_> = listed.iter().map(|mlist| (&*mlist.peer, mlist.precedence, mlist.holder)).collect();
    assert_eq!(seen, [("a", Routine, Some(ProcessId(7))), ("b", Flash, None)]);
    assert!(listed.iter().all(|mlist| *mlist.channel == *"smtp" && mlist.attempts == 0));
    assert!(listed.iter().all(|mlist| mlist.pending.len() == 1));
}

#[test]
fn the_highest_precedence_goes_first_whatever_its_peer_and_age() {
    let mut switch = Switch::going(limits(vec![channel("smtp", 1, 1, &["a", "b"])]));
    let levels = [Routine, Deferred, Override, Priority, Flash, Immediate];
    for (message, level) in (1..).zip(levels) {
        switch.queue(message, "smtp", if message % 2 == 0 { "a" } else { "b" }, level);
    }
    switch.attach(1, "smtp", 1);
    let mut order: Vec<Precedence> = Vec::new();
    while let [message] = switch.assigned()[..] {
        order.push(levels[usize::try_from(message).unwrap() - 1]);
        switch.settle(message);
        switch.finish(1, message);
    }
    assert_eq!(order, [Override, Flash, Immediate, Priority, Routine, Deferred]);
}

#[test]
fn among_equals_of_a_peer_the_message_accepted_first_goes_first() {
    let mut switch = Switch::going(limits(vec![channel("smtp", 1, 9, &["a"])]));
    for message in [5, 3, 4, 1, 2] {
        switch.queue(message, "smtp", "a", Routine);
    }
    switch.attach(1, "smtp", 9);
    assert_eq!(switch.assigned(), [1, 2, 3, 4, 5]);
}

#[test]
fn two_peers_with_100_mlists_each_never_differ_by_more_than_one_in_progress() {
    let mut config = limits(vec![channel("smtp", 1, 9, &["a", "b"])]);
    config.channels[0].peer_slots_max = 100;
    let mut switch = Switch::going(config);
    for message in 1..=200 {
        switch.queue(message, "smtp", if message <= 100 { "a" } else { "b" }, Routine);
    }
    switch.attach(1, "smtp", 9);
    let mut held: Vec<u64> = switch.assigned();
    let mut done = 0;
    while !held.is_empty() {
        let of_a = held.iter().filter(|&&message| message <= 100).count();
        let waiting = switch.scheduler.status().channels[0].peers.iter().all(|peer| peer.waiting > 0);
        if waiting {
            assert!(of_a.abs_diff(held.len() - of_a) <= 1, "{of_a} of {}", held.len());
        }
        // The place of the one that ends wanders, so that one peer is often ahead.
        let message = held.remove((done * 7) % held.len());
        switch.settle(message);
        switch.finish(1, message);
        held.extend(switch.assigned());
        done += 1;
    }
    assert_eq!(done, 200);
}

#[test]
fn among_peers_with_equally_many_the_one_served_longest_ago_goes_first() {
    let mut switch = Switch::going(limits(vec![channel("smtp", 1, 1, &["a", "b", "c"])]));
    for message in 0..9 {
        switch.queue(message + 1, "smtp", ["a", "b", "c"][usize::try_from(message / 3).unwrap()], Routine);
    }
    switch.attach(1, "smtp", 1);
    let mut order = Vec::new();
    while let [message] = switch.assigned()[..] {
        order.push(message);
        switch.settle(message);
        switch.finish(1, message);
    }
    assert_eq!(order, [1, 4, 7, 2, 5, 8, 3, 6, 9]);
}

#[test]
fn a_peer_never_has_more_in_progress_than_its_limit_and_others_go_on() {
    let mut config = limits(vec![channel("smtp", 1, 50, &["a", "b"])]);
    config.channels[0].peer_slots_max = 3;
    config.channels[0].peers[1].slots_max = Some(1);
    let mut switch = Switch::going(config);
    for message in 1..=10 {
        switch.queue(message, "smtp", if message <= 5 { "a" } else { "b" }, Routine);
    }
    switch.attach(1, "smtp", 50);
    assert_eq!(switch.assigned().len(), 4);
    assert_eq!(switch.scheduler.counts().in_progress, 4);
    assert_eq!(switch.why(5), Reason::PeerSlots);
    assert_eq!(switch.finish(1, 6).len(), 1);
    assert_eq!(switch.assigned(), [7]);
}

#[test]
fn an_mlist_goes_to_the_process_with_most_free_slots() {
    let mut switch = Switch::going(limits(vec![channel("smtp", 2, 4, &["a"])]));
    switch.attach(1, "smtp", 2);
    switch.attach(2, "smtp", 4);
    let mut processes = Vec::new();
    for message in 1..=6 {
        match switch.queue(message, "smtp", "a", Routine) {
            [Action::Assign { process, .. }] => processes.push(process.0),
            other => panic!("{other:?}"),
        }
    }
    assert_eq!(processes, [2, 2, 1, 2, 1, 2]);
}

#[test]
fn slot_reserves_let_a_flash_past_a_channel_full_of_routine() {
    let mut config = limits(vec![channel("smtp", 1, 10, &["a", "b"])]);
    config.channels[0].slots_reserve = Reserves { urgent: 2, normal: 3 };
    let mut switch = Switch::going(config);
    for message in 1..=20 {
        switch.queue(message, "smtp", "a", Routine);
    }
    switch.attach(1, "smtp", 10);
    assert_eq!(switch.assigned().len(), 5);
    assert_eq!(switch.why(20), Reason::ChannelProcesses);
    for message in 21..=24 {
        switch.queue(message, "smtp", "a", Immediate);
    }
    assert_eq!(switch.scheduler.counts().in_progress, 8);
    assert_eq!(switch.why(24), Reason::ChannelProcesses);
    switch.queue(25, "smtp", "b", Flash);
    assert_eq!(switch.assigned(), [25]);
    let status = &switch.scheduler.status().channels[0];
    assert_eq!((status.slots, status.slots_for_normal, status.slots_for_non_urgent), (10, 8, 5));
}

#[test]
fn every_reason_to_wait_can_be_asked_for() {
    let mut switch = Switch::going(limits(vec![channel("smtp", 1, 1, &["a"])]));
    switch.queue(1, "gone", "a", Routine);
    assert_eq!(switch.why(1), Reason::ChannelNotConfigured);
    switch.queue(2, "smtp", "gone", Routine);
    assert_eq!(switch.why(2), Reason::PeerNotConfigured);
    switch.queue(3, "smtp", "a", Routine);
    assert_eq!(switch.why(3), Reason::ProcessStart);
    switch.attach(1, "smtp", 1);
    assert_eq!(switch.why(3), Reason::InProgress(ProcessId(1)));
    switch.finish(1, 3);
    assert_eq!(switch.why(3), Reason::AwaitingOutcome(ProcessId(1)));
    switch.settle(3);
    assert_eq!(switch.scheduler.why(id(3)), None);
    let counts = switch.scheduler.counts();
    assert_eq!((counts.waiting, counts.runnable, counts.in_progress, counts.awaiting_outcome), (2, 0, 0, 0));
    assert!(!Reason::Maxchans.to_string().is_empty());
}

#[test]
fn mail_of_a_channel_or_peer_that_vanishes_waits_and_runs_when_it_is_back() {
    let config = limits(vec![channel("smtp", 1, 9, &["a", "b"])]);
    let mut switch = Switch::going(config.clone());
    switch.queue(1, "smtp", "a", Routine);
    switch.queue(2, "smtp", "b", Routine);
    switch.tell(Event::Configure(limits(vec![channel("smtp", 1, 9, &["b"])])));
    switch.attach(1, "smtp", 9);
    assert_eq!(switch.assigned(), [2]);
    assert_eq!(switch.why(1), Reason::PeerNotConfigured);
    switch.tell(Event::Configure(limits(vec![])));
    assert_eq!(switch.why(1), Reason::ChannelNotConfigured);
    assert_eq!(switch.why(2), Reason::InProgress(ProcessId(1)));
    switch.tell(Event::ProcessGone { process: ProcessId(1) });
    switch.tell(Event::Returned { process: ProcessId(1) });
    switch.tell(Event::Configure(config));
    assert_eq!(switch.started().len(), 1);
    switch.attach(2, "smtp", 9);
    assert_eq!(switch.assigned(), [1, 2]);
}

#[test]
fn recipients_of_a_known_mlist_are_added_to_it() {
    let mut switch = Switch::going(limits(vec![channel("smtp", 1, 9, &["a"])]));
    switch.queue(1, "smtp", "a", Routine);
    let mut spec = mlist(1, "smtp", "a", Routine);
    spec.recipients = range(1, 2);
    switch.tell(Event::Queue(spec.clone()));
    switch.attach(1, "smtp", 9);
    assert!(matches!(&switch.actions[..], [Action::Assign { recipients, .. }] if *recipients == range(0, 3)));
    spec.recipients = range(5, 1);
    switch.tell(Event::Queue(spec));
    assert!(switch.actions.is_empty());
    switch.tell(Event::Settled { mlist: id(1), recipients: range(0, 3), worked: true });
    switch.finish(1, 1);
    assert!(matches!(&switch.actions[..], [Action::Assign { recipients, .. }] if *recipients == range(5, 1)));
}

#[test]
fn a_discarded_mlist_is_gone_and_its_slot_is_free_when_the_process_says_so() {
    let mut switch = Switch::going(limits(vec![channel("smtp", 1, 1, &["a"])]));
    switch.attach(1, "smtp", 1);
    switch.queue(1, "smtp", "a", Routine);
    switch.queue(2, "smtp", "a", Routine);
    switch.queue(3, "smtp", "a", Routine);
    switch.tell(Event::Remove { mlist: id(2) });
    assert!(switch.tell(Event::Remove { mlist: id(1) }).is_empty());
    switch.finish(1, 1);
    assert_eq!(switch.assigned(), [3]);
    assert_eq!(switch.scheduler.mlists_count(), 1);
    assert!(switch.tell(Event::Settled { mlist: id(1), recipients: one(), worked: false }).is_empty());
}

#[test]
fn a_flash_finds_an_association_of_a_peer_that_is_full_of_routine() {
    let mut config = limits(vec![channel("smtp", 1, 50, &["a"])]);
    config.channels[0].peers[0].slots_max = Some(5);
    config.channels[0].peers[0].slots_reserve = Some(Reserves { urgent: 1, normal: 1 });
    let mut switch = Switch::going(config);
    switch.attach(1, "smtp", 50);
    for message in 1..=9 {
        switch.queue(message, "smtp", "a", Deferred);
    }
    assert_eq!((switch.scheduler.counts().in_progress, switch.why(9)), (3, Reason::PeerReserve));
    switch.queue(10, "smtp", "a", Priority);
    switch.queue(11, "smtp", "a", Priority);
    assert_eq!((switch.scheduler.counts().in_progress, switch.why(11)), (4, Reason::PeerReserve));
    switch.queue(12, "smtp", "a", Flash);
    assert_eq!(switch.assigned(), [12]);
    switch.queue(13, "smtp", "a", Flash);
    assert_eq!(switch.why(13), Reason::PeerSlots);
}

#[test]
fn a_peer_of_one_or_two_associations_gives_them_to_every_level() {
    let mut config = limits(vec![channel("smtp", 1, 50, &["a"])]);
    config.channels[0].peer_slots_reserve = Reserves { urgent: 1, normal: 1 };
    for slots in [1, 2] {
        config.channels[0].peer_slots_max = slots;
        let mut switch = Switch::going(config.clone());
        switch.attach(1, "smtp", 50);
        for message in 1..=3 {
            switch.queue(message, "smtp", "a", Deferred);
        }
        assert_eq!(switch.scheduler.counts().in_progress, slots as usize);
        assert_eq!(switch.why(3), Reason::PeerSlots);
    }
}

/// Of 100 assignments while both levels wait, how many are routine; a slot becomes free at a time.
fn routine_among_a_flood(flood: Precedence, reserve: Reserves, age_share_percent: u32) -> usize {
    let mut config = limits(vec![channel("smtp", 1, 3, &["a", "b"])]);
    config.channels[0].slots_reserve = reserve;
    config.age_share_percent = age_share_percent;
    let mut switch = Switch::going(config);
    for message in 1..=100 {
        switch.queue(message, "smtp", if message % 2 == 0 { "a" } else { "b" }, Routine);
    }
    for message in 101..=300 {
        switch.queue(message, "smtp", "a", flood);
    }
    switch.attach(1, "smtp", 3);
    let mut order = switch.assigned();
    while order.len() < 100 {
        let Some(&done) = order.last() else { break };
        switch.settle(done);
        switch.finish(1, done);
        order.extend(switch.assigned());
    }
    let routine: Vec<u64> = order.into_iter().filter(|message| *message <= 100).collect();
    assert!(routine.is_sorted(), "the oldest first: {routine:?}");
    routine.len()
}

#[test]
fn precedence_is_strict_unless_age_has_a_share_and_then_it_has_just_that() {
    let none = Reserves::default();
    for share in [0, 5, 30] {
        assert_eq!(routine_among_a_flood(Flash, none, share), share as usize);
    }
    // The reserve for normal mail is no reserve against age where normal mail floods.
    let normal = Reserves { urgent: 0, normal: 2 };
    assert_eq!(routine_among_a_flood(Priority, normal, 30), 30);
}
