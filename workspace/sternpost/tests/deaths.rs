//! One role dies again and again: what its death costs, and what it does not.

mod switch;

use rustix::process::Signal;
use std::time::Duration;
use sternpost_load::source::SourceOptions;
use switch::client::Client;
use switch::mail::{compare, start, to};
use switch::stage::{Stage, verify};
use switch::{lives, signal, wait_at_most, wait_for};

#[test]
fn nothing_comes_twice_when_qmgr_alone_is_killed() {
    let stage = Stage::new();
    let sending = stage.load(100.0);
    for _ in 0..10 {
        stage.kill_and_wait("qmgr", &sending);
    }
    assert_eq!(stage.settle(sending), 0);
}

#[test]
fn no_client_is_refused_or_cut_off_while_qmgr_is_killed_under_load_and_those_that_wait_are_served() {
    const KILLS: usize = 5;
    const WAITING: usize = 20;
    let stage = Stage::new();
    // It never tries a second time: whatever a client could notice beyond a pause is told.
    let sending = start(SourceOptions {
        sessions_count: 8,
        messages_count: u64::MAX,
        recipients: vec!["a%d@smtp.test".into(), "b%d@lmtp.test".into()],
        recipients_count: 2,
        messages_per_connection: Some(1),
        rate_per_s: Some(100.0),
        reply_timeout: Duration::from_secs(30),
        ..to(stage.switch.address(), "")
    });
    for _ in 0..KILLS {
        stage.kill_and_wait("qmgr", &sending);
    }
    let report = sending.stop();
    assert!(report.troubles.is_empty() && report.refused.is_empty(), "{:?}", report.troubles);
    let compared = compare(&[report], &[&stage.smtp, &stage.lmtp]);
    assert_eq!((compared.lost, compared.duplicated), (0, 0), "{compared}");
    // A server that has just begun has nothing to say before a QMGR has told it what: clients wait in the backlog.
    let dead = ["qmgr", "smtp-server"].map(|role| stage.switch.kill(role));
    wait_for("end of both", || dead.iter().all(|pid| !lives(*pid)).then_some(()));
    let waiting: Vec<_> = (0..WAITING)
        .map(|_| {
            let address = stage.switch.address();
            std::thread::spawn(move || {
                let mut client = Client::greet(address);
                client.message("<w@sender.test>", &["w@smtp.test"], b"Subject: waited\r\n\r\n")
            })
        })
        .collect();
    for client in waiting {
        let reply = client.join().expect("a client that waits is served");
        assert!(reply.starts_with("250 "), "{reply}");
    }
    stage.switch.wait_until_empty();
    verify(stage.switch);
}

#[test]
fn a_channel_that_hangs_is_killed_and_what_it_had_goes_by_another() {
    // A ping every 5 s, 30 s for the answer, and the start of another: far less than this.
    const HANGING_MAX: Duration = Duration::from_secs(90);
    let stage = Stage::new();
    let submit = |recipient: &str| {
        let mut client = Client::greet(stage.switch.address());
        let reply = client.message("<a@sender.test>", &[recipient], b"Subject: x\r\n\r\n");
        assert!(reply.starts_with("250 "), "{reply}");
    };
    submit("first@smtp.test");
    wait_for("first message", || (stage.smtp.counts().received == 1).then_some(()));
    stage.switch.wait_until_empty();
    let hanging = stage.switch.pid("smtp");
    signal(hanging, Signal::STOP);
    submit("held@smtp.test");
    stage.switch.wait_for_status("Mlist in the process that hangs", |status| {
        let mut channels = status["qmgr"]["scheduler"]["channels"].as_array()?.iter();
        channels.any(|channel| channel["in_progress"] == 1).then_some(())
    });
    wait_at_most(HANGING_MAX, "second message", || (stage.smtp.counts().received == 2).then_some(()));
    assert!(!lives(hanging) && stage.switch.log().contains("channel.hangs"));
    stage.switch.wait_until_empty();
    assert_eq!(stage.smtp.counts().duplicated, 0);
}

#[test]
fn a_death_of_the_store_or_of_a_channel_repeats_no_more_than_was_under_way() {
    const ROUNDS: u64 = 4;
    let stage = Stage::new();
    let sending = stage.load(100.0);
    wait_for("mail at both sinks", || {
        (stage.smtp.counts().distinct > 20 && stage.lmtp.counts().distinct > 20).then_some(())
    });
    let duplicated = |stage: &Stage| stage.smtp.counts().duplicated + stage.lmtp.counts().duplicated;
    for _ in 0..ROUNDS {
        for role in ["store", "smtp", "lmtp"] {
            let before = duplicated(&stage);
            stage.kill_and_wait(role, &sending);
            println!("{role} was killed: {} pairs came twice so far", duplicated(&stage) - before);
        }
    }
    // 20 associations with each of two peers, each with one message that waits for its reply or its durable outcome.
    assert!(stage.settle(sending) <= 3 * ROUNDS * 40);
}
