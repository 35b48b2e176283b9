//! A switch, a disk, a recovery or a scheduler that is wrong on purpose must be caught: otherwise the histories prove nothing.

use sternpost_simulator::disk::Habits;
use sternpost_simulator::scheduling::{self, Mistake as SchedulerMistake};
use sternpost_simulator::search::safely;
use sternpost_simulator::switch::Mistake;
use sternpost_simulator::{history, switch};

/// The seeds of `seeds` whose history of the log breaks a promise.
fn caught_in_the_log(habits: Habits, seeds: u64) -> Vec<String> {
    let options = history::Options { habits, ..history::Options::default() };
    (0..seeds).filter_map(|seed| safely(|| history::history(seed, options)).err()).collect()
}

/// The seeds of `seeds` whose history of the switch breaks a promise.
fn caught_in_the_switch(habits: Habits, mistake: Option<Mistake>, seeds: u64) -> Vec<String> {
    let options = switch::Options { habits, mistake, ..switch::Options::default() };
    (0..seeds).filter_map(|seed| safely(|| switch::history(seed, options)).err()).collect()
}

fn assert_caught(broken: &[String], at_least: usize, words: &[&str]) {
    assert!(broken.len() >= at_least, "only {} histories noticed: {broken:#?}", broken.len());
    let is_about = |why: &String| words.iter().any(|word| why.contains(word));
    let told = broken.iter().filter(|why| is_about(why)).count();
    assert!(2 * told >= broken.len(), "few of these speak of {words:?}: {broken:#?}");
}

#[test]
fn a_writer_whose_sync_is_removed_is_caught() {
    let habits = Habits { lies: true, ..Habits::default() };
    assert_caught(&caught_in_the_log(habits, 20), 15, &["gone", "durably", "damage", "dead"]);
    assert_caught(&caught_in_the_switch(habits, None, 20), 12, &["gone", "durably", "damage", "dead"]);
}

#[test]
fn a_store_that_acknowledges_what_a_failed_sync_covered_is_caught() {
    let habits = Habits { hides_failed_syncs: true, ..Habits::default() };
    assert_caught(&caught_in_the_log(habits, 40), 10, &["gone", "durably", "damage", "dead"]);
    assert_caught(
        &caught_in_the_switch(habits, None, 90),
        10,
        &["acknowledged and is not durable", "damage"],
    );
}

#[test]
fn a_store_that_does_not_wait_for_the_last_write_of_the_one_before_is_caught() {
    let habits = Habits { knows_no_lock: true, ..Habits::default() };
    let words = ["gone", "damage", "durably", "dead", "Void", "different mail"];
    assert_caught(&caught_in_the_log(habits, 300), 5, &words);
}

#[test]
fn a_recovery_that_takes_stale_batches_for_fresh_ones_is_caught() {
    let habits = Habits { revives: true, ..Habits::default() };
    let words = [
        "number",
        "Void",
        "dead",
        "durably",
        "gone",
        "not what was appended",
        "possible",
        "damage",
        "different mail",
        "cannot be read and was not hit",
    ];
    assert_caught(&caught_in_the_log(habits, 40), 20, &words);
}

#[test]
fn a_qmgr_that_forgets_an_mlist_is_caught() {
    let broken = caught_in_the_switch(Habits::default(), Some(Mistake::ForgottenMlist), 20);
    assert_caught(&broken, 12, &["not in the tree"]);
}

#[test]
fn a_channel_that_repeats_a_recipient_who_is_done_with_is_caught() {
    let broken = caught_in_the_switch(Habits::default(), Some(Mistake::RepeatedRecipient), 20);
    assert_caught(&broken, 15, &["is attempted"]);
}

#[test]
fn a_housekeeper_that_tears_the_report_from_what_it_reports_is_caught() {
    let broken = caught_in_the_switch(Habits::default(), Some(Mistake::TornReport), 150);
    assert_caught(&broken, 5, &["reported twice", "does not know it"]);
}

/// Of a hundred worlds of the scheduler, those that notice the mistake: at least so many, and most of them in one of these words.
fn assert_caught_in_the_scheduler(mistake: SchedulerMistake, at_least: usize, words: &[&str]) {
    let options = scheduling::Options { mistake: Some(mistake), ..scheduling::Options::default() };
    let live = |seed| scheduling::live(&scheduling::random_scenario(seed), seed, options);
    let broken: Vec<String> = (0..100).filter_map(|seed| safely(|| live(seed)).err()).collect();
    assert_caught(&broken, at_least, words);
}

#[test]
fn a_scheduler_that_loses_delays_or_doubles_what_it_assigns_is_caught() {
    assert_caught_in_the_scheduler(SchedulerMistake::LostAssignment, 50, &["lost or doubled"]);
    assert_caught_in_the_scheduler(SchedulerMistake::LateAssignment, 50, &["lost or doubled"]);
    assert_caught_in_the_scheduler(SchedulerMistake::DoubledAssignment, 50, &["is doubled"]);
    assert_caught_in_the_scheduler(SchedulerMistake::LostMlist, 50, &["lost or doubled"]);
}

#[test]
fn a_scheduler_that_takes_another_order_is_caught() {
    let words = ["precedence order", "order of equals"];
    assert_caught_in_the_scheduler(SchedulerMistake::SwappedAssignments, 25, &words);
    let words = ["precedence order", "left undone", "runnable"];
    assert_caught_in_the_scheduler(SchedulerMistake::ForgottenPrecedence, 50, &words);
}

#[test]
fn a_scheduler_that_passes_a_limit_is_caught() {
    let words = ["limits:", "of slots in use"];
    assert_caught_in_the_scheduler(SchedulerMistake::OverfilledProcess, 50, &words);
    assert_caught_in_the_scheduler(SchedulerMistake::OverfilledPeer, 30, &words);
    assert_caught_in_the_scheduler(SchedulerMistake::ForgottenReserves, 50, &words);
    assert_caught_in_the_scheduler(SchedulerMistake::OneProcessMore, 30, &words);
    assert_caught_in_the_scheduler(SchedulerMistake::DoubledStart, 30, &words);
}

#[test]
fn a_scheduler_that_starts_no_process_or_overlooks_a_death_is_caught() {
    assert_caught_in_the_scheduler(SchedulerMistake::LostStart, 30, &["left undone"]);
    let words = ["the tree has", "left undone", "takes nothing", "late:"];
    assert_caught_in_the_scheduler(SchedulerMistake::UnheardDeath, 50, &words);
}

#[test]
fn a_back_off_that_is_wrong_by_a_millisecond_is_caught() {
    let words = ["back-off", "of the peer", "runnable", "the tree says Waiting"];
    assert_caught_in_the_scheduler(SchedulerMistake::ShortBackOff, 40, &words);
    assert_caught_in_the_scheduler(SchedulerMistake::LongBackOff, 40, &["late:"]);
    assert_caught_in_the_scheduler(SchedulerMistake::LateWake, 50, &["late:"]);
}
