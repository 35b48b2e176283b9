//! What the family does when its members are born and die, with processes that exist only here.

use super::*;

/// A family with processes that exist only here: starting one gives it the next number.
struct Play {
    family: Family,
    now: Instant,
    next_pid: u32,
    told: Vec<FromSupervisor>,
    signals: Vec<(u32, &'static str)>,
    went_back: Option<String>,
    is_finished: bool,
}

impl Play {
    fn new() -> Self {
        let now = Instant::now();
        Self::of(Family::new(now), now)
    }

    fn of(family: Family, now: Instant) -> Self {
        let mut play = Self {
            family,
            now,
            next_pid: 100,
            told: vec![],
            signals: vec![],
            went_back: None,
            is_finished: false,
        };
        play.drain();
        play
    }

    /// Another executable takes over what runs here.
    fn upgraded(self) -> Self {
        let Self { family, now, next_pid, .. } = self;
        let taken_over = Family::taken_over(now, family.hand_over(now), true, true);
        let mut play = Self::of(Family::new(now), now);
        (play.family, play.next_pid) = (taken_over, next_pid + 100);
        play.drain();
        play
    }

    fn apply(&mut self, event: Event) {
        self.family.apply(self.now, event);
        self.drain();
    }

    fn drain(&mut self) {
        while let Some(action) = self.family.poll() {
            match action {
                Action::Start(start) => {
                    let pid = self.next_pid;
                    self.next_pid += 1;
                    self.family.apply(self.now, Event::Started { start, pid });
                }
                Action::Terminate { pid } => self.signals.push((pid, "term")),
                Action::Leave { pid } => self.signals.push((pid, "leave")),
                Action::GoBack { why } => self.went_back = Some(why),
                Action::Kill { pid } => self.signals.push((pid, "kill")),
                Action::Tell(frame) => self.told.push(frame),
                Action::Finish => self.is_finished = true,
            }
        }
    }

    fn pass(&mut self, time: Duration) {
        self.now += time;
        self.apply(Event::Wake);
    }

    fn end(&mut self, pid: u32) {
        self.apply(Event::Ended { pid, status: "exit status: 0".into() });
    }

    fn pid(&self, name: &str) -> Option<u32> {
        self.family.running().iter().find(|running| running.name == name).map(|running| running.pid)
    }

    fn order(&mut self, process: u64) {
        let order = ChannelOrder { process, channel: "smtp".into(), kind: ChannelKind::Smtp, capacity: 64 };
        self.apply(Event::StartChannel(order));
    }
}

#[test]
fn store_qmgr_directory_and_signer_run_from_the_start_and_the_server_does_not() {
    let play = Play::new();
    let names: Vec<_> = play.family.running().into_iter().map(|running| running.name).collect();
    assert_eq!(names, ["store", "qmgr", "directory", "signer"]);
    assert_eq!(play.family.wake_at(), None);
}

#[test]
fn a_role_that_does_not_stay_is_told_with_its_reason_until_it_lives_long() {
    let mut play = Play::new();
    let failing = |play: &Play| {
        let failing = play.family.failing(play.now).into_iter();
        failing.map(|failing| (failing.role, failing.ends_count, failing.why)).collect::<Vec<_>>()
    };
    assert!(failing(&play).is_empty());
    for ends in 1..=3 {
        let status = format!("exit status: 1: number {ends}");
        play.apply(Event::Ended { pid: play.pid("store").unwrap(), status: status.clone() });
        assert_eq!(failing(&play), [(Role::Store, ends, status)]);
        play.pass(Duration::from_secs(5));
    }
    // It runs, and may end like the others before it.
    assert_eq!(failing(&play).len(), 1);
    play.pass(LONG_LIFE);
    assert!(failing(&play).is_empty());
    play.end(play.pid("store").unwrap());
    assert!(failing(&play).is_empty(), "a long life is no failure");
    play.end(play.pid("store").unwrap());
    assert_eq!(failing(&play)[0].1, 1);
    // Its sockets have changed: what is told to end has not failed.
    play.apply(Event::ListeningChanged { is_empty: false });
    let server = play.pid("smtp-server").unwrap();
    play.apply(Event::ListeningChanged { is_empty: false });
    play.end(server);
    assert_eq!(failing(&play).len(), 1);
}

#[test]
fn a_role_that_dies_young_is_held_off_and_one_that_dies_old_is_not() {
    let mut play = Play::new();
    play.end(play.pid("store").unwrap());
    assert_eq!(play.pid("store"), None);
    assert_eq!(play.family.wake_at(), Some(play.now + Duration::from_millis(100)));
    play.pass(Duration::from_millis(99));
    assert_eq!(play.pid("store"), None);
    play.pass(Duration::from_millis(1));
    assert!(play.pid("store").is_some());
    play.pass(Duration::from_secs(10));
    let old = play.pid("store").unwrap();
    play.end(old);
    assert!(play.pid("store").is_some_and(|pid| pid != old));
    assert_eq!(play.family.running()[0].starts_count, 3);
}

#[test]
fn a_role_that_cannot_be_started_is_tried_again_after_the_hold_off() {
    let mut play = Play::new();
    play.pass(Duration::from_secs(20));
    let pid = play.pid("qmgr").unwrap();
    play.family.apply(play.now, Event::Ended { pid, status: String::new() });
    assert_eq!(play.family.poll(), Some(Action::Start(Start::Kept(Role::Qmgr))));
    let failed = Event::StartFailed { start: Start::Kept(Role::Qmgr), why: "no memory".into() };
    play.family.apply(play.now, failed);
    assert_eq!(play.family.poll(), None);
    play.pass(Duration::from_millis(100));
    assert!(play.pid("qmgr").is_some());
}

#[test]
fn a_channel_that_dies_is_reported_and_not_started_again() {
    let mut play = Play::new();
    play.order(7);
    let pid = play.pid("smtp").unwrap();
    play.end(pid);
    play.pass(Duration::from_secs(60));
    assert_eq!(play.pid("smtp"), None);
    assert_eq!(
        play.told,
        [
            FromSupervisor::Started { process: 7, pid },
            FromSupervisor::Exited { process: 7, pid, status: "exit status: 0".into() }
        ]
    );
}

#[test]
fn a_second_channel_process_of_the_same_number_is_refused() {
    let mut play = Play::new();
    play.order(7);
    play.order(7);
    assert!(matches!(play.told.last(), Some(FromSupervisor::StartFailed { process: 7, .. })));
}

#[test]
fn a_channel_is_killed_once_at_the_word_of_qmgr() {
    let mut play = Play::new();
    play.order(7);
    let pid = play.pid("smtp").unwrap();
    play.apply(Event::KillChannel { process: 7 });
    play.apply(Event::KillChannel { process: 7 });
    play.apply(Event::KillChannel { process: 8 });
    assert_eq!(play.signals, [(pid, "kill")]);
}

#[test]
fn the_server_is_replaced_when_its_sockets_change_and_killed_when_it_does_not_end() {
    let mut play = Play::new();
    play.apply(Event::ListeningChanged { is_empty: false });
    let first = play.pid("smtp-server").unwrap();
    play.apply(Event::ListeningChanged { is_empty: false });
    play.apply(Event::ListeningChanged { is_empty: false });
    assert_eq!(play.signals, [(first, "term")]);
    play.pass(Duration::from_secs(10));
    assert_eq!(play.signals, [(first, "term"), (first, "kill")]);
    play.end(first);
    assert!(play.pid("smtp-server").is_some_and(|pid| pid != first), "started at once, without a hold-off");
}

#[test]
fn the_server_ends_when_no_socket_is_left() {
    let mut play = Play::new();
    play.apply(Event::ListeningChanged { is_empty: false });
    let pid = play.pid("smtp-server").unwrap();
    play.apply(Event::ListeningChanged { is_empty: true });
    play.end(pid);
    play.pass(Duration::from_secs(60));
    assert_eq!(play.pid("smtp-server"), None);
    play.apply(Event::ListeningChanged { is_empty: false });
    assert!(play.pid("smtp-server").is_some());
}

#[test]
fn a_change_of_sockets_does_not_cut_a_hold_off_short() {
    let mut play = Play::new();
    play.apply(Event::ListeningChanged { is_empty: false });
    play.end(play.pid("smtp-server").unwrap());
    play.apply(Event::ListeningChanged { is_empty: false });
    assert_eq!(play.pid("smtp-server"), None);
    play.pass(Duration::from_millis(100));
    assert!(play.pid("smtp-server").is_some());
}

#[test]
fn everything_stops_in_order_with_the_server_first_and_the_store_last() {
    let mut play = Play::new();
    play.apply(Event::ListeningChanged { is_empty: false });
    play.order(1);
    play.order(2);
    let all = play.family.running();
    let mut order = Vec::new();
    for name in ["smtp-server", "smtp", "qmgr", "directory", "signer", "store"] {
        order.extend(all.iter().filter(|running| running.name == name).map(|running| running.pid));
    }
    play.apply(Event::Stop);
    for at in [0..1, 1..3, 3..4, 4..5, 5..6, 6..7] {
        let terminated: Vec<u32> = play.signals.iter().map(|(pid, _)| *pid).collect();
        assert_eq!(terminated, order[..at.end]);
        assert!(!play.is_finished);
        order[at].iter().for_each(|pid| play.end(*pid));
    }
    assert!(play.is_finished && play.family.running().is_empty());
}

#[test]
fn who_does_not_stop_in_time_is_killed() {
    let mut play = Play::new();
    let qmgr = play.pid("qmgr").unwrap();
    play.apply(Event::Stop);
    play.pass(QMGR_STOP_MAX);
    assert_eq!(play.signals, [(qmgr, "term"), (qmgr, "kill")]);
}

#[test]
fn a_second_word_to_stop_does_not_wait() {
    let mut play = Play::new();
    let qmgr = play.pid("qmgr").unwrap();
    play.apply(Event::Stop);
    play.apply(Event::Stop);
    assert_eq!(play.signals, [(qmgr, "term"), (qmgr, "kill")]);
}

#[test]
fn nothing_is_started_while_the_switch_stops() {
    let mut play = Play::new();
    play.end(play.pid("directory").unwrap());
    play.apply(Event::Stop);
    play.order(9);
    play.apply(Event::ListeningChanged { is_empty: false });
    play.end(play.pid("qmgr").unwrap());
    play.end(play.pid("signer").unwrap());
    play.pass(Duration::from_secs(5));
    assert_eq!(play.family.running().len(), 1, "the store is on its way out");
    assert!(matches!(play.told.last(), Some(FromSupervisor::StartFailed { process: 9, .. })));
    play.end(play.pid("store").unwrap());
    assert!(play.is_finished);
}

#[test]
fn after_an_upgrade_every_process_of_the_executable_before_is_replaced_and_none_is_killed_that_works() {
    let mut play = Play::new();
    play.apply(Event::ListeningChanged { is_empty: false });
    play.order(7);
    let before: Vec<_> = ["smtp-server", "smtp", "store", "qmgr", "directory", "signer"]
        .map(|name| play.pid(name).unwrap())
        .into();
    let [server, channel, kept @ ..] = &before[..] else { unreachable!() };
    let mut play = play.upgraded();
    assert!(play.signals.contains(&(*server, "leave")) && play.signals.contains(&(*channel, "term")));
    assert!(kept.iter().all(|pid| play.signals.contains(&(*pid, "term"))));
    // Both accept; the sessions of the one before go on.
    assert_ne!(play.pid("smtp-server"), Some(*server));
    assert_eq!(play.pid("smtp-server (leaving)"), Some(*server));
    assert!(!play.family.is_renewed());
    for pid in kept {
        play.end(*pid);
    }
    assert!(play.family.is_renewed() && play.family.failing(play.now).is_empty());
    play.signals.clear();
    // QMGR bounds the transfers, and this family the sessions.
    play.pass(SMTP_SERVER_LEAVE_MAX - Duration::from_secs(1));
    assert_eq!(play.signals, []);
    play.pass(Duration::from_secs(1));
    assert_eq!(play.signals, [(*server, "term")]);
    play.pass(SMTP_SERVER_STOP_MAX);
    assert_eq!(play.signals, [(*server, "term"), (*server, "kill")]);
    play.end(*server);
    play.end(*channel);
    assert!(matches!(play.told.last(), Some(FromSupervisor::Exited { process: 7, .. })));
    assert_eq!(play.family.running().len(), 5);
}

#[test]
fn before_another_executable_sessions_may_end_by_themselves_for_ten_seconds() {
    let mut play = Play::new();
    play.apply(Event::ListeningChanged { is_empty: false });
    let names = ["smtp-server", "qmgr", "directory", "signer", "store"];
    let pids = names.map(|name| play.pid(name).unwrap());
    play.apply(Event::StopForAnother);
    assert_eq!(play.signals, [(pids[0], "leave")]);
    play.pass(SMTP_SERVER_STOP_MAX - Duration::from_secs(1));
    assert_eq!(play.signals, [(pids[0], "leave")]);
    play.pass(Duration::from_secs(1));
    assert_eq!(play.signals, [(pids[0], "leave"), (pids[0], "term")]);
    // Then the others as ever.
    pids.iter().for_each(|pid| play.end(*pid));
    assert_eq!(play.signals[2..], [1, 2, 3, 4].map(|at| (pids[at], "term")));
    assert!(play.is_finished);
}

#[test]
fn a_server_that_leaves_can_break_the_sockets_once_and_no_executable_is_given_up_for_it() {
    let mut play = Play::new();
    play.apply(Event::ListeningChanged { is_empty: false });
    let mut play = play.upgraded();
    let leaving = play.pid("smtp-server (leaving)").unwrap();
    play.signals.clear();
    for _ in 0..2 * UPGRADE_FAILURES_MAX {
        let server = play.pid("smtp-server").unwrap();
        assert!(play.family.accepts(server) && !play.family.accepts(leaving));
        play.apply(Event::SocketsBroken);
        play.end(server);
        // Another one at once.
        assert_ne!(play.pid("smtp-server").unwrap(), server);
    }
    assert_eq!(play.signals.iter().filter(|signal| **signal == (leaving, "kill")).count(), 1);
    assert!(play.went_back.is_none() && play.family.failing(play.now).is_empty());
    play.end(leaving);
    assert!(!play.family.is_one_leaving());
    // With nobody else who could have done it, what breaks the sockets is the new executable.
    for _ in 0..UPGRADE_FAILURES_MAX {
        let server = play.pid("smtp-server").unwrap();
        play.apply(Event::SocketsBroken);
        play.end(server);
        play.pass(Duration::from_secs(5));
    }
    assert!(play.went_back.is_some());
}

#[test]
fn a_second_upgrade_gives_the_sessions_of_the_first_executable_no_more_time() {
    let mut play = Play::new();
    play.apply(Event::ListeningChanged { is_empty: false });
    let server = play.pid("smtp-server").unwrap();
    let mut play = play.upgraded();
    play.pass(SMTP_SERVER_LEAVE_MAX / 2);
    let mut play = play.upgraded();
    assert!(!play.signals.contains(&(server, "leave")), "it was told before");
    play.pass(SMTP_SERVER_LEAVE_MAX / 2);
    assert!(play.signals.contains(&(server, "term")));
    // A stop in order waits for all of them.
    play.apply(Event::Stop);
    let servers: Vec<_> = play
        .family
        .running()
        .iter()
        .filter(|running| running.role == Role::SmtpServer)
        .map(|running| running.pid)
        .collect();
    assert_eq!(servers.len(), 3);
    assert!(servers.iter().all(|pid| play.signals.contains(&(*pid, "term"))));
}

#[test]
fn an_executable_whose_role_does_not_stay_is_given_up_within_a_minute_and_not_later() {
    let fails = |play: &mut Play| {
        for _ in 0..UPGRADE_FAILURES_MAX {
            let pid = play.pid("store").unwrap();
            play.apply(Event::Ended { pid, status: "exit status: 1: no log".into() });
            play.pass(Duration::from_secs(5));
        }
    };
    let renewed = || {
        let mut play = Play::new().upgraded();
        for name in ["store", "qmgr", "directory"] {
            play.end(play.pid(name).unwrap());
        }
        play
    };
    let mut play = renewed();
    fails(&mut play);
    assert_eq!(
        play.went_back.as_deref(),
        Some("store of the new executable does not stay: exit status: 1: no log")
    );
    let mut play = renewed();
    play.pass(UPGRADE_TRIAL + Duration::from_millis(1));
    fails(&mut play);
    assert_eq!(play.went_back, None);
}

#[test]
fn a_role_that_ends_too_often_within_the_hour_is_told_however_long_it_lives() {
    let mut play = Play::new();
    for ends in 1..=LOOP_COUNT_SHOWN {
        assert!(play.family.failing(play.now).is_empty());
        play.pass(LONG_LIFE + Duration::from_secs(60));
        let pid = play.pid("directory").unwrap();
        play.apply(Event::Ended { pid, status: format!("signal: {ends}") });
    }
    let failing = play.family.failing(play.now).remove(0);
    assert_eq!((failing.role, failing.ends_count, failing.ends_in_hour), (Role::Directory, 0, 5));
    assert_eq!((failing.why.as_str(), failing.next_start_ms), ("signal: 5", None), "it runs already");
    play.pass(Duration::from_secs(3_600));
    assert!(play.family.failing(play.now).is_empty());
}
