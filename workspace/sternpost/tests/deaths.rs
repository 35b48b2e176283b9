//! One role dies again and again: what its death costs, and what it does not.

mod switch;

use switch::stage::Stage;
use switch::wait_for;

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
