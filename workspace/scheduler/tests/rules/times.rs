//! The three times between starts of a channel's processes.

use crate::switch::{START, Switch, channel, limits};
use sternpost_message::Precedence::{Flash, Immediate, Routine};
use sternpost_message::UnixMillis;
use sternpost_scheduler::{Action, Limits, NextProcess, Reason, Waiting};

/// A channel of capacity 1 with up to ten processes.
fn config(time1: u64, time2: u64, time3: u64) -> Limits {
    let mut config = limits(vec![channel("smtp", 10, 1, &["a"])]);
    (config.qmgr_chan_time1_ms, config.qmgr_chan_time2_ms, config.qmgr_chan_time3_ms) = (time1, time2, time3);
    config
}

fn queue_many(switch: &mut Switch, messages: std::ops::Range<u64>) {
    for message in messages {
        switch.queue(message, "smtp", "a", Routine);
    }
}

#[test]
fn chan_time2_keeps_starts_of_a_channel_apart_however_much_waits() {
    let mut switch = Switch::going(config(0, 100, 100));
    queue_many(&mut switch, 1..9);
    let mut starts = vec![0];
    for elapsed in 1..=350 {
        switch.wait_ms(1);
        starts.extend(switch.started().iter().map(|_| elapsed));
    }
    assert_eq!(starts, [0, 100, 200, 300]);
    assert_eq!((switch.why(8), switch.scheduler.status().processes), (Reason::ProcessStart, 4));
}

#[test]
fn chan_time3_keeps_them_further_apart_while_less_waits_than_the_channel_has_slots() {
    let mut switch = Switch::going(config(0, 100, 1_000));
    queue_many(&mut switch, 1..4);
    switch.attach(1, "smtp", 1);
    switch.wait_ms(100);
    assert_eq!(switch.started().len(), 1, "two wait beside one slot: the load is great");
    switch.attach(2, "smtp", 1);
    switch.wait_ms(999);
    assert_eq!(switch.started().len(), 0, "one waits beside two slots: the load is not great");
    assert_eq!((switch.why(3), switch.until(3)), (Reason::ChanTime3, Some(START + 1_100)));
    assert_eq!(switch.scheduler.wake_at(), Some(UnixMillis(START + 1_100)));
    switch.wait_ms(1);
    assert_eq!(switch.started().len(), 1);
}

#[test]
fn load_that_becomes_great_ends_the_wait_for_chan_time3() {
    let mut switch = Switch::going(config(0, 100, 1_000));
    switch.queue(1, "smtp", "a", Routine);
    switch.attach(1, "smtp", 2);
    queue_many(&mut switch, 2..4);
    switch.wait_ms(500);
    assert_eq!((switch.started().len(), switch.why(3)), (0, Reason::ChanTime3));
    switch.queue(4, "smtp", "a", Routine);
    assert_eq!(switch.started().len(), 1);
}

#[test]
fn chan_time1_lets_messages_gather_after_the_last_process_has_gone() {
    let mut config = config(1_000, 200, 200);
    config.channels[0].idle_stop_ms = 10;
    let mut switch = Switch::going(config);
    // A message each 100 ms, done in no time; a process without work goes after 10 ms.
    let (mut starts, mut served) = (0, 0);
    for tick in 0..600 {
        switch.wait_ms(10);
        serve(&mut switch, &mut starts, &mut served);
        if tick % 10 == 0 {
            switch.queue(tick + 1, "smtp", "a", Routine);
            serve(&mut switch, &mut starts, &mut served);
        }
    }
    assert_eq!(starts, 6, "one start a second");
    assert!((51..=60).contains(&served), "each serves what has come meanwhile: {served}");
}

/// Processes start, work, and exit in no time.
fn serve(switch: &mut Switch, starts: &mut u32, served: &mut u32) {
    let mut todo = std::collections::VecDeque::from(std::mem::take(&mut switch.actions));
    while let Some(action) = todo.pop_front() {
        match action {
            Action::StartProcess { process, .. } => {
                *starts += 1;
                todo.extend(switch.attach(process.0, "smtp", 1).to_vec());
            }
            Action::Assign { process, mlist, .. } => {
                *served += 1;
                todo.extend(switch.settle(mlist.message.0).to_vec());
                todo.extend(switch.finish(process.0, mlist.message.0).to_vec());
            }
            Action::StopProcess { process, .. } => todo.extend(switch.gone(process.0).to_vec()),
            other => panic!("{other:?}"),
        }
    }
}

#[test]
fn urgent_mail_waits_for_none_of_the_three() {
    // After a start, with much and with little that waits.
    for (times, capacity, reason) in
        [((0, 10_000, 10_000), 1, Reason::ChanTime2), ((0, 0, 10_000), 2, Reason::ChanTime3)]
    {
        let mut switch = Switch::going(config(times.0, times.1, times.2));
        switch.queue(1, "smtp", "a", Routine);
        switch.attach(1, "smtp", capacity);
        queue_many(&mut switch, 2..u64::from(capacity) + 1);
        switch.queue(9, "smtp", "a", Immediate);
        assert_eq!((switch.started().len(), switch.why(9)), (0, reason));
        switch.queue(10, "smtp", "a", Flash);
        assert_eq!(switch.started().len(), 1, "{reason:?}");
    }
    // After the last process has gone.
    let mut switch = Switch::going(config(10_000, 5_000, 5_000));
    switch.queue(1, "smtp", "a", Routine);
    switch.attach(1, "smtp", 1);
    switch.settle(1);
    switch.finish(1, 1);
    switch.wait_ms(60_000);
    assert_eq!(switch.stopped().len(), 1);
    switch.gone(1);
    switch.queue(2, "smtp", "a", Immediate);
    assert_eq!((switch.started().len(), switch.why(2)), (0, Reason::ChanTime1));
    switch.queue(3, "smtp", "a", Flash);
    assert_eq!(switch.started().len(), 1);
}

#[test]
fn what_is_decided_about_the_next_process_and_what_the_last_one_was_for_can_be_asked() {
    let mut switch = Switch::going(config(0, 100, 100));
    assert_eq!(switch.next_process(), NextProcess::NotNeeded);
    queue_many(&mut switch, 1..4);
    let start = switch.scheduler.status().channels[0].last_start.unwrap();
    assert_eq!((start.process.0, start.at.0, start.need), (1, START, Some((Routine, 1))));
    let waiting_for = Waiting { reason: Reason::ChanTime2, until: Some(UnixMillis(START + 100)) };
    assert_eq!(
        switch.next_process(),
        NextProcess::Waits { precedence: Routine, waiting: 3, waiting_for },
        "three wait and one process starts"
    );
    switch.tell(sternpost_scheduler::Event::Configure(Limits { qmgr_maxchans: 1, ..config(0, 0, 0) }));
    let waiting_for = Waiting { reason: Reason::Maxchans, until: None };
    assert_eq!(switch.next_process(), NextProcess::Waits { precedence: Routine, waiting: 3, waiting_for });
}
