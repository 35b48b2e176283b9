//! Who goes first, and what has to wait: the scheduler's controls on a running switch.

mod switch;

use std::time::Duration;
use sternpost_load::source::SourceOptions;
use switch::client::Client;
use switch::mail::{lmtp_sink, sink, sink_with, start, to};
use switch::site::Site;
use switch::{PATIENCE, Switch, wait_for};

const HELLO: &[u8] = b"Subject: hello\r\n\r\nhello\r\n";

fn submit(switch: &Switch, parameters: &str, recipient: &str) {
    let mut client = Client::greet(switch.address());
    let reply = client.message(&format!("<a@sender.test>{parameters}"), &[recipient], HELLO);
    assert!(reply.starts_with("250 "), "{reply}");
}

#[test]
fn while_mail_is_minimised_a_flash_goes_and_routine_waits_and_says_why() {
    let smtp = sink();
    let site = Site::new().peer("mta", "smtp", smtp.address(), &["smtp.test"]);
    let order =
        "\n[[minimise]]\nname = \"exercise\"\nlowest_precedence = \"flash\"\nminimise_peer = \"mta\"\n";
    let switch = Switch::start(&(site.tables() + order));
    submit(&switch, "", "routine@smtp.test");
    submit(&switch, " MT-PRIORITY=4", "flash@smtp.test");
    assert!(smtp.wait_for(1, PATIENCE));
    assert_eq!(smtp.received()[0].recipients, ["flash@smtp.test"]);
    let list = switch.ask(&["queue", "list"]);
    let why = switch.ask(&["queue", "why", list[0]["id"].as_str().expect("an id")]);
    let mlist = &why["mlists"][0];
    assert_eq!((&mlist["channel"], &mlist["peer"]), (&"smtp".into(), &"mta".into()), "{why}");
    assert!(mlist["reason"].as_str().is_some_and(|reason| reason.contains("sternpostMinimise")), "{why}");
    assert!(mlist["last_start"]["for_precedence"].is_string(), "{why}");
    assert_eq!(smtp.counts().received, 1);
    switch.replace_tables(&site.tables());
    assert!(smtp.wait_for(2, PATIENCE));
    assert_eq!(smtp.received()[1].recipients, ["routine@smtp.test"]);
}

#[test]
fn limits_of_connections_change_while_the_switch_runs() {
    let site = |connections: u32| {
        Site::new()
            .listener(&format!("connections_max = {connections}"))
            .peer("mta", "smtp", switch::mail::nobody(), &["smtp.test"])
            .tables()
    };
    let switch = Switch::start(&site(1));
    let mut first = Client::greet(switch.address());
    let (_, greeting) = Client::connect(switch.address());
    assert!(greeting.starts_with("421 4.3.2 "), "{greeting}");
    let server = switch.pid("smtp-server");
    switch.replace_tables(&site(2));
    let second = wait_for("larger limit", || {
        let (client, greeting) = Client::connect(switch.address());
        greeting.starts_with("220 ").then_some(client)
    });
    switch.replace_tables(&site(1));
    wait_for("smaller limit", || {
        let shown = switch.ask(&["config", "show"]);
        (shown["configuration"]["listeners"][0]["connections_max"] == 1).then_some(())
    });
    drop(second);
    // Who is connected stays so; nobody is let in beyond the limit; and the process is the same.
    first.expect("NOOP", "250");
    let (_, greeting) = Client::connect(switch.address());
    assert!(greeting.starts_with("421 4.3.2 "), "{greeting}");
    assert_eq!(switch.pid("smtp-server"), server);
}

#[test]
fn a_channel_with_all_processes_gives_some_to_another_at_the_end_of_a_message() {
    const MANY: u64 = 60;
    let slow = sink_with(|options| options.delay = Duration::from_millis(100));
    let store = lmtp_sink();
    let switch = Switch::start(
        &Site::new()
            .channel("slots_per_process = 1\nprocesses_max = 4\nslots_reserve_urgent = 0\nslots_reserve_normal = 0")
            .qmgr("qmgr_maxchans = 4\nqmgr_reserve_urgent = 0\nqmgr_reserve_normal = 0\nqmgr_chan_time3 = 50")
            .peer("mta", "smtp", slow.address(), &["smtp.test"])
            .peer("store", "lmtp", store.address(), &["lmtp.test"])
            .tables(),
    );
    let many = start(SourceOptions { messages_count: MANY, ..to(switch.address(), "many@smtp.test") }).end();
    assert_eq!(many.accepted_count, MANY);
    let of = |name: &str| {
        let status = switch.status();
        let channels = status["qmgr"]["scheduler"]["channels"].as_array().cloned().unwrap_or_default();
        let channel = channels.into_iter().find(|channel| channel["name"] == name);
        channel.and_then(|channel| channel["processes"].as_u64()).unwrap_or(0)
    };
    wait_for("all processes", || (of("smtp") == 4).then_some(()));
    submit(&switch, "", "one@lmtp.test");
    assert!(store.wait_for(1, PATIENCE));
    assert!(slow.counts().received < MANY, "the other channel had not to be done first");
    assert!(slow.wait_for(MANY, PATIENCE));
    switch.wait_until_empty();
    // Nobody was stopped in the middle of a message: each came once and whole.
    let counts = slow.counts();
    assert_eq!((counts.distinct, counts.duplicated, counts.damaged), (MANY, 0, 0), "{counts:?}");
}

#[test]
fn a_peer_that_allows_two_connections_gets_its_mail_over_two_and_is_not_put_off() {
    a_peer_that_allows_two_connections_is_served_by("");
}

#[test]
fn a_peer_that_allows_two_connections_is_not_put_off_by_a_process_that_has_neither() {
    a_peer_that_allows_two_connections_is_served_by("slots_per_process = 1\nprocesses_max = 4\n");
}

fn a_peer_that_allows_two_connections_is_served_by(channel: &str) {
    const MANY: u64 = 400;
    let narrow = sink_with(|options| {
        options.connections_max = Some(2);
        options.delay = Duration::from_millis(5);
    });
    let site = Site::new().channel(channel);
    let switch = Switch::start(&site.peer("mta", "smtp", narrow.address(), &["smtp.test"]).tables());
    let many = start(SourceOptions { messages_count: MANY, ..to(switch.address(), "many@smtp.test") }).end();
    assert_eq!(many.accepted_count, MANY);
    assert!(narrow.wait_for(MANY, PATIENCE), "{:?}", narrow.counts());
    switch.wait_until_empty();
    let counts = narrow.counts();
    assert_eq!((counts.distinct, counts.duplicated, counts.damaged), (MANY, 0, 0), "{counts:?}");
    // It begins with four; what was refused is known, and is tried again after half a minute at the earliest.
    assert!((1..=8).contains(&counts.turned_away), "{counts:?}");
    let status = switch.status();
    let channels = status["qmgr"]["scheduler"]["channels"].as_array().expect("channels");
    let smtp = channels.iter().find(|channel| channel["name"] == "smtp").expect("the channel");
    let borne = smtp["peers"][0]["slots_borne"].as_u64().expect("a number");
    assert!(borne <= 2, "{smtp}");
}

#[test]
fn a_flash_does_not_wait_behind_a_message_that_its_peer_is_about_to_answer() {
    // Two associations for routine and one that is kept for the flash; each reply takes a second.
    let slow = sink_with(|options| options.delay = Duration::from_secs(1));
    let peer = "associations_max = 3\nassociations_min = 3\nassociations_reserve_urgent = 1\n";
    let switch =
        Switch::start(&Site::new().peer_with("mta", "smtp", slow.address(), &["smtp.test"], peer).tables());
    // All three have been open: one of them becomes idle.
    for _ in 0..3 {
        submit(&switch, " MT-PRIORITY=4", "before@smtp.test");
    }
    assert!(slow.wait_for(3, PATIENCE));
    switch.wait_until_empty();
    for _ in 0..4 {
        submit(&switch, "", "routine@smtp.test");
    }
    assert!(slow.wait_for(5, PATIENCE), "two are under way");
    submit(&switch, " MT-PRIORITY=4", "flash@smtp.test");
    assert!(slow.wait_for(6, PATIENCE));
    assert_eq!(slow.received()[5].recipients, ["flash@smtp.test"]);
}
