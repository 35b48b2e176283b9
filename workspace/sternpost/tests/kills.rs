//! Roles die at any moment, and all of them at once: nothing that was accepted is lost.

mod switch;

use rustix::process::Signal;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};
use sternpost_load::sink::RejectRule;
use sternpost_load::source::SourceOptions;
use switch::mail::{RETRY, compare, lmtp_sink, sink, sink_with, start, to};
use switch::site::Site;
use switch::stage::{ROOM, Stage, verify};
use switch::{PATIENCE, Process, Switch, lives, signal, wait_for};

/// Numbers from a seed (xorshift64*): the same seed kills the same roles after the same waits.
struct Random(u64);

impl Random {
    /// The seed is `STERNPOST_TEST_SEED`, or made from the clock; a test prints it.
    fn new() -> Self {
        let given = std::env::var("STERNPOST_TEST_SEED").ok().and_then(|seed| seed.parse().ok());
        let clock = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().as_micros();
        let seed = given.unwrap_or_else(|| u64::try_from(clock).unwrap_or(1)).max(1);
        println!("STERNPOST_TEST_SEED={seed}");
        Self(seed)
    }

    fn below(&mut self, bound: u64) -> u64 {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        (self.0.wrapping_mul(0x2545_f491_4f6c_dd1d) >> 33) % bound
    }
}

#[test]
fn nothing_is_lost_when_roles_are_killed_at_random() {
    const KILLS: usize = 50;
    const ROLES: [&str; 7] = ["qmgr", "store", "smtp-server", "smtp", "lmtp", "directory", "housekeeper"];
    let mut random = Random::new();
    let senders = sink();
    let (smtp, lmtp) = (sink_with(|options| options.keep_content = false), lmtp_sink());
    let refusing = sink_with(|options| {
        options.reject_recipients = vec![RejectRule { pattern: "bad".into(), code: 550 }];
    });
    let site = Site::new()
        .peer("mta", "smtp", smtp.address(), &["smtp.test"])
        .peer("store", "lmtp", lmtp.address(), &["lmtp.test"])
        .peer("refusing", "smtp", refusing.address(), &["refusing.test"])
        .peer("senders", "smtp", senders.address(), &["sender.test"]);
    let stage = Stage { switch: Switch::start_in(&site.tables(), ROOM, "auto"), smtp, lmtp };
    let sending = stage.load(150.0);
    // These fail for good, so that the housekeeper has work.
    let failing = start(SourceOptions {
        messages_count: u64::MAX,
        retry: Some(RETRY),
        rate_per_s: Some(10.0),
        reply_timeout: Duration::from_secs(20),
        ..to(stage.switch.address(), "bad%d@refusing.test")
    });
    let mut killed = std::collections::BTreeMap::<String, usize>::new();
    let begin = Instant::now();
    while killed.values().sum::<usize>() < KILLS {
        assert!(begin.elapsed() < 2 * PATIENCE, "too few roles were there to be killed: {killed:?}");
        // A role that waits out its hold-off cannot be killed again: the choice is among those that live.
        let living: Vec<Process> = stage
            .switch
            .processes()
            .into_iter()
            .filter(|process| ROLES.contains(&process.role.as_str()))
            .collect();
        if !living.is_empty() {
            let chosen = usize::try_from(random.below(living.len() as u64)).expect("an index is small");
            signal(living[chosen].pid, Signal::KILL);
            *killed.entry(living[chosen].role.clone()).or_default() += 1;
        }
        // Not a wait for something: the moment of the next death shall be any.
        std::thread::sleep(Duration::from_millis(50 + random.below(300)));
    }
    println!("killed: {killed:?} in {:?}", begin.elapsed());
    let failed = failing.stop();
    let wanted: Vec<String> =
        failed.accepted.iter().flat_map(|acceptance| acceptance.recipients.clone()).collect();
    let duplicated = stage.settle(sending);
    // A death of the store or of a channel repeats what was under way: 20 associations with each of two peers.
    assert!(duplicated <= 40 * KILLS as u64, "{duplicated}");
    let reported: Vec<String> = senders
        .received()
        .into_iter()
        .filter_map(|receipt| String::from_utf8(receipt.content?).ok())
        .collect();
    for address in &wanted {
        let line = format!("Final-Recipient: rfc822; {address}\r\n");
        assert!(reported.iter().any(|report| report.contains(&line)), "no report about {address}");
    }
    assert!(!wanted.is_empty());
}

#[test]
fn when_the_supervisor_dies_all_end_and_the_next_one_loses_nothing() {
    let mut stage = Stage::new();
    let mut reports = Vec::new();
    for _ in 0..3 {
        let sending = start(SourceOptions {
            sessions_count: 8,
            messages_count: 3_000,
            recipients: vec!["a%d@smtp.test".into(), "b%d@lmtp.test".into()],
            ..to(stage.switch.address(), "")
        });
        wait_for("some mail", || (sending.progress.accepted_count() > 200).then_some(()));
        let pids: Vec<u32> = stage.switch.processes().iter().map(|process| process.pid).collect();
        assert!(pids.len() >= 5, "{pids:?}");
        stage.switch.kill_supervisor();
        wait_for("end of every process", || (!pids.iter().any(|pid| lives(*pid))).then_some(()));
        reports.push(sending.end());
        stage.switch.launch();
    }
    let compared = compare(&reports, &[&stage.smtp, &stage.lmtp]);
    println!("{compared}");
    assert!(compared.lost == 0 && compared.accepted > 600, "{compared}");
    stage.switch.wait_until_empty();
    verify(stage.switch);
}

#[test]
fn a_stop_in_order_under_load_loses_nothing_and_repeats_nothing() {
    let Stage { mut switch, smtp, lmtp } = Stage::new();
    let mut reports = Vec::new();
    for _ in 0..3 {
        let sending = start(SourceOptions {
            sessions_count: 8,
            messages_count: 3_000,
            recipients: vec!["a%d@smtp.test".into(), "b%d@lmtp.test".into()],
            ..to(switch.address(), "")
        });
        wait_for("some mail", || (sending.progress.accepted_count() > 200).then_some(()));
        let home = switch.stop();
        reports.push(sending.end());
        switch = Switch::start_at(home, ROOM, "auto", "[tables]\npath = \"tables.toml\"\n");
    }
    let compared = compare(&reports, &[&smtp, &lmtp]);
    assert!(compared.lost == 0 && compared.duplicated == 0 && compared.accepted > 600, "{compared}");
    switch.wait_until_empty();
    verify(switch);
}
