//! `sternpost health` on a real switch: good, not good for each reason, and without a trace.

mod switch;

use rustix::process::Signal;
use serde_json::Value;
use std::fs;
use std::net::{SocketAddr, TcpListener};
use std::process::Output;
use std::time::{Duration, Instant};
use switch::client::Client;
use switch::mail::{compare, lmtp_sink, nobody, sink, start, to};
use switch::site::Site;
use switch::{PATIENCE, Room, Switch, signal, text, wait_for};

/// What `health --json` says, and its exit status.
fn health(switch: &Switch, arguments: &[&str]) -> (Value, Option<i32>) {
    let output = switch.command(&[&["health", "--json"], arguments].concat());
    (json(&output), output.status.code())
}

fn json(output: &Output) -> Value {
    serde_json::from_slice(&output.stdout)
        .unwrap_or_else(|error| panic!("{error}: {}{}", text(&output.stdout), text(&output.stderr)))
}

/// What is said of one part.
fn finding<'a>(health: &'a Value, what: &str) -> &'a Value {
    let findings = health["findings"].as_array().expect("findings are a list");
    let found = findings.iter().find(|finding| finding["what"] == what);
    found.unwrap_or_else(|| panic!("nothing is said of {what}: {health}"))
}

fn is_good(health: &Value, what: &str) -> bool {
    finding(health, what)["good"] == true
}

fn says<'a>(health: &'a Value, what: &str) -> &'a str {
    finding(health, what)["says"].as_str().expect("every finding says something")
}

fn tables() -> String {
    Site::new().peer("mta", "smtp", nobody(), &["smtp.test"]).tables()
}

/// A peer behind each kind of channel.
fn tables_of_both(smtp: SocketAddr, lmtp: SocketAddr) -> String {
    let site = Site::new().peer("mta", "smtp", smtp, &["smtp.test"]);
    site.peer("box", "lmtp", lmtp, &["lmtp.test"]).tables()
}

#[test]
fn a_probe_passes_through_every_kind_of_channel_and_leaves_nothing_behind() {
    let (smtp, lmtp) = (sink(), lmtp_sink());
    let switch = Switch::start(&tables_of_both(smtp.address(), lmtp.address()));
    let good = switch.home().join("good");
    let boot = format!("--boot={}", good.display());
    let (health, code) = health(&switch, &["--wait", "30", &boot]);
    assert_eq!((code, &health["good"]), (Some(0), &Value::Bool(true)), "{health}");
    for what in ["configuration", "queue", "listener inbound", "channel smtp", "channel lmtp", "housekeeper"]
    {
        assert!(is_good(&health, what), "{health}");
    }
    assert!(says(&health, "channel lmtp").starts_with("a probe passed through it in "), "{health}");
    let written: Value =
        serde_json::from_slice(&fs::read(good).expect("it was written")).expect("it is JSON");
    assert_eq!(written["findings"], health["findings"]);
    assert_eq!(switch.ask(&["queue", "list"]), Value::Array(Vec::new()));
    let status = switch.status();
    assert_eq!(
        (&status["store"]["messages"], &status["qmgr"]["scheduler"]["waiting"]),
        (&0.into(), &0.into())
    );
    assert!(!status.to_string().contains("null:"), "{status}");
    assert_eq!((smtp.counts().distinct, lmtp.counts().distinct), (0, 0));
    // No report was made of the recipient that was refused.
    assert!(!switch.log().contains("report.made"), "{}", switch.log());
}

#[test]
fn a_switch_whose_listener_has_no_port_is_not_good_until_it_has() {
    let other = TcpListener::bind("127.0.0.1:0").expect("loopback has free ports");
    let taken = other.local_addr().expect("a listener has an address");
    let two = format!("addresses = [\"127.0.0.1:0\", \"{taken}\"]");
    let switch = Switch::start(&tables().replace("addresses = [\"127.0.0.1:0\"]", &two));
    let good = switch.home().join("good");
    let (lacking, boot) = (good.with_extension("lacking"), format!("--boot={}", good.display()));
    let (health, code) = health(&switch, &[&boot]);
    assert_eq!((code, &health["good"]), (Some(1), &Value::Bool(false)), "{health}");
    let said: Value = serde_json::from_slice(&fs::read(&lacking).expect("what is lacking was written"))
        .expect("what is lacking is JSON");
    assert_eq!(said[0]["what"], "listener inbound", "{said}");
    assert!(said[0]["since_kernel_start_s"].as_f64().is_some_and(|seconds| seconds > 0.0), "{said}");
    let why = format!("does not listen: {taken}: ");
    let findings = health["findings"].as_array().expect("findings are a list");
    let failed = findings.iter().find(|finding| finding["good"] == false).expect("one of them is bad");
    assert!(failed["says"].as_str().is_some_and(|says| says.starts_with(&why)), "{health}");
    assert!(is_good(&health, "channel smtp"), "{health}");
    // `status` says the same, and its exit status too.
    let output = switch.command(&["status", "--json"]);
    let status = json(&output);
    assert_eq!(output.status.code(), Some(1), "{status}");
    assert_eq!(status["listeners_failed"][0]["configured"], taken.to_string(), "{status}");
    assert!(
        status["listeners_failed"][0]["why"].as_str().is_some_and(|why| why.contains("in use")),
        "{status}"
    );
    drop(other);
    let output = switch.command(&["health", "--wait", "30", &boot]);
    assert_eq!(output.status.code(), Some(0), "{}", text(&output.stdout));
    assert!(text(&output.stdout).ends_with("the switch is good\n"), "{}", text(&output.stdout));
    assert!(good.exists() && !lacking.exists());
}

#[test]
fn a_switch_without_a_configuration_is_not_good() {
    let switch = Switch::start_unready("[node]\nhostname = \"no domain\"\n");
    // A switch that has just begun may not answer at all.
    let health = wait_for("word of the configuration", || {
        let (health, code) = health(&switch, &[]);
        assert_eq!(code, Some(1), "{health}");
        let findings = health["findings"].as_array().expect("findings are a list").clone();
        let has = |what: &str| findings.iter().any(|finding| finding["what"] == what);
        (has("configuration") && is_good(&health, "queue")).then_some(health)
    });
    assert_eq!(finding(&health, "configuration")["good"], false, "{health}");
    assert!(says(&health, "configuration").contains("no configuration is in force"), "{health}");
}

#[test]
fn where_no_switch_runs_it_is_not_good_and_without_a_bootstrap_nobody_can_tell() {
    let folder = switch::new_home();
    let run = |arguments: &[&str]| {
        switch::run(std::process::Command::new(switch::program()).arg("health").args(arguments))
    };
    let folder = folder.path().to_str().expect("the folder of a test has a plain name");
    let output = run(&["--run-directory", folder]);
    assert_eq!(output.status.code(), Some(1), "{}", text(&output.stdout));
    assert!(text(&output.stdout).contains("the switch is not running"), "{}", text(&output.stdout));
    let output = run(&["--bootstrap", "/nowhere/boot.toml"]);
    assert_eq!(output.status.code(), Some(2), "{}", text(&output.stdout));
}

#[test]
fn a_switch_whose_store_hangs_is_not_good() {
    let switch = Switch::start(&tables());
    let store = switch.pid("store");
    signal(store, Signal::STOP);
    let (health, code) = health(&switch, &[]);
    signal(store, Signal::CONT);
    assert_eq!((code, &finding(&health, "queue")["good"]), (Some(1), &Value::Bool(false)), "{health}");
    assert!(says(&health, "queue").contains("did not answer"), "{health}");
}

#[test]
fn a_switch_whose_channel_hangs_is_not_good_and_the_probe_of_an_earlier_life_is_harmless() {
    let mut switch = Switch::start(&tables());
    let (first, code) = health(&switch, &["--wait", "30"]);
    assert_eq!(code, Some(0), "{first}");
    signal(switch.pid("smtp"), Signal::STOP);
    let (second, code) = health(&switch, &[]);
    assert_eq!(code, Some(1), "{second}");
    assert!(says(&second, "channel smtp").starts_with("no probe passed through it: "), "{second}");
    assert!(is_good(&second, "channel lmtp"), "{second}");
    // The probe waits for a channel that will never answer, and nobody serves its hop any more.
    let left = switch.ask(&["queue", "list"]);
    assert_eq!(left[0]["precedence"], "override", "{left}");
    switch.kill_supervisor();
    switch.launch();
    switch.wait_until_empty();
    let (third, code) = health(&switch, &["--wait", "30"]);
    assert_eq!(code, Some(0), "{third}");
    assert!(!switch.log().contains("report.made"), "{}", switch.log());
}

#[test]
fn a_queue_that_is_full_because_peers_are_down_does_not_make_the_switch_bad() {
    let room = Room { segment_octets: 1 << 20, segments: 8 };
    let site = Site::new().peer("mta", "smtp", nobody(), &["smtp.test"]);
    let switch = Switch::start_in(&site.tables(), room, "auto");
    let mut client = Client::greet(switch.address());
    let mut fill = |lines_count: usize| {
        let content = format!("Subject: filler\r\n\r\n{}", "0123456789abcdef\r\n".repeat(lines_count));
        // A refusal may pass, while the log makes room.
        let mut refused_count = 0;
        while refused_count < 3 {
            let reply = client.message("<sender@sender.test>", &["a@smtp.test"], content.as_bytes());
            assert!(reply.starts_with("250 ") || reply.starts_with("452 4.3.1 "), "{reply}");
            refused_count = if reply.starts_with("452 ") { refused_count + 1 } else { 0 };
        }
    };
    fill(20_000);
    let health = wait_for("look at a full queue", || {
        // Into what reclaim has freed meanwhile.
        fill(200);
        let (health, code) = health(&switch, &[]);
        assert_eq!(code, Some(0), "{health}");
        says(&health, "queue").contains("full: new mail gets 452").then_some(health)
    });
    assert!(is_good(&health, "channel smtp") && is_good(&health, "housekeeper"), "{health}");
}

#[test]
fn a_hundred_looks_under_load_harm_nothing() {
    let (smtp, lmtp) = (sink(), lmtp_sink());
    let switch = Switch::start(&tables_of_both(smtp.address(), lmtp.address()));
    let sending = start(sternpost_load::source::SourceOptions {
        sessions_count: 8,
        messages_count: 1_000_000,
        recipients: vec!["a%d@smtp.test".into(), "b%d@lmtp.test".into()],
        ..to(switch.address(), "")
    });
    let begin = Instant::now();
    let mut slowest = Duration::ZERO;
    std::thread::scope(|scope| {
        let looks = |count: usize| {
            let switch = &switch;
            scope.spawn(move || {
                let mut slowest = Duration::ZERO;
                for _ in 0..count {
                    let begin = Instant::now();
                    let (health, code) = health(switch, &[]);
                    assert_eq!(code, Some(0), "{health}");
                    slowest = slowest.max(begin.elapsed());
                }
                slowest
            })
        };
        for looking in [looks(25), looks(25), looks(25), looks(25)] {
            slowest = slowest.max(looking.join().expect("every look finds a good switch"));
        }
    });
    let report = sending.stop();
    println!(
        "100 looks in {:?}, the slowest in {slowest:?}, beside {} messages",
        begin.elapsed(),
        report.accepted_count
    );
    assert!(report.accepted_count > 0, "{:?}", report.troubles);
    let compared = compare(&[report], &[&smtp, &lmtp]);
    assert_eq!((compared.lost, compared.duplicated), (0, 0), "{compared}");
    switch.wait_until_empty();
    assert!(slowest < PATIENCE);
}

/// How often the threads of a process have gone to sleep since it began.
fn sleeps(pid: u32) -> u64 {
    let threads = fs::read_dir(format!("/proc/{pid}/task")).expect("a process that lives has threads");
    let of_thread = |thread: std::io::Result<fs::DirEntry>| {
        let status = fs::read_to_string(thread?.path().join("status"))?;
        let count = status.lines().find_map(|line| line.strip_prefix("voluntary_ctxt_switches:"));
        Ok::<u64, std::io::Error>(
            count.expect("the kernel counts").trim().parse().expect("a count is a number"),
        )
    };
    // A thread that ends meanwhile wakes nobody.
    threads.filter_map(|thread| of_thread(thread).ok()).sum()
}

#[test]
fn where_nothing_is_to_be_done_every_process_sleeps() {
    let (smtp, lmtp) = (sink(), lmtp_sink());
    let switch = Switch::start(&tables_of_both(smtp.address(), lmtp.address()));
    let reply = Client::greet(switch.address()).message(
        "<a@sender.test>",
        &["b@smtp.test", "c@lmtp.test"],
        b"Subject: x\r\n\r\n",
    );
    assert!(reply.starts_with("250 "), "{reply}");
    assert!(smtp.wait_for(1, PATIENCE) && lmtp.wait_for(1, PATIENCE));
    switch.wait_until_empty();
    // Every timer that runs by itself is due at least once in this: QMGR asks its channels every five seconds.
    std::thread::sleep(Duration::from_secs(6));
    let before: Vec<_> =
        switch.processes().into_iter().map(|process| (sleeps(process.pid), process)).collect();
    assert!(before.len() >= 6, "{before:?}");
    let seconds = 5;
    std::thread::sleep(Duration::from_secs(seconds));
    for (before, process) in before {
        let rate = sleeps(process.pid).saturating_sub(before) / seconds;
        println!("{}: {rate} a second", process.role);
        assert!(rate <= 20, "{process:?} wakes {rate} times a second");
    }
}
