//! A 250 promises that the message survives the loss of power: the order of system calls shows whether it may.

mod switch;

use rustix::process::Signal;
use std::process::{Child, Command, Stdio};
use switch::client::Client;
use switch::mail::nobody;
use switch::site::Site;
use switch::{Room, Switch, signal, wait_for};

const MESSAGES: usize = 40;

/// strace on two processes of the switch, with its output in one file, in the order of what happened.
struct Trace {
    strace: Child,
    path: std::path::PathBuf,
}

impl Trace {
    fn attach(switch: &Switch, pids: &[u32]) -> Self {
        let path = switch.home().join("strace");
        let mut command = Command::new("strace");
        command
            .args(["-f", "-tt", "-s", "48", "-e", "trace=pwritev2,sendto,write,writev,sendmsg", "-o"])
            .arg(&path);
        for pid in pids {
            command.arg("-p").arg(pid.to_string());
        }
        let strace = command.stdin(Stdio::null()).stderr(Stdio::null()).spawn().expect("strace is installed");
        let is_traced = |pid: &u32| {
            let status = std::fs::read_to_string(format!("/proc/{pid}/status")).unwrap_or_default();
            status
                .lines()
                .any(|line| line.strip_prefix("TracerPid:").is_some_and(|tracer| tracer.trim() != "0"))
        };
        wait_for("strace on both processes", || pids.iter().all(is_traced).then_some(()));
        Self { strace, path }
    }

    /// Lets the processes go and gives the lines.
    fn end(mut self) -> Vec<String> {
        signal(self.strace.id(), Signal::INT);
        self.strace.wait().expect("a child can be waited for");
        let text = std::fs::read(&self.path).expect("strace writes its file");
        String::from_utf8_lossy(&text).lines().map(str::to_owned).collect()
    }
}

/// What a line of strace says, as far as it matters.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Call {
    /// The server asked for content: the message has not arrived yet.
    AskedForContent,
    /// A write of the log began, and was not complete when the next line was written.
    WriteBegan,
    /// A write of the log is on the device.
    WriteEnded,
    /// The 250 after the end of the content.
    Accepted,
}

fn call(line: &str) -> Option<Call> {
    let is_write = line.contains("pwritev2(");
    if line.contains("\"354 ") {
        Some(Call::AskedForContent)
    } else if line.contains("\"250 2.0.0 Ok: queued as ") {
        Some(Call::Accepted)
    } else if is_write && line.ends_with("<unfinished ...>") {
        assert!(!line.contains("RWF_NOWAIT"), "{line}");
        Some(Call::WriteBegan)
    } else if is_write || line.contains("pwritev2 resumed>") {
        let octets = line.rsplit_once(" = ").and_then(|(_, octets)| octets.trim().parse::<i64>().ok());
        assert!(octets.is_some_and(|octets| octets > 0), "a write that failed: {line}");
        assert!(!is_write || line.contains("RWF_DSYNC"), "a write that is not durable: {line}");
        Some(Call::WriteEnded)
    } else {
        None
    }
}

#[test]
fn a_250_is_sent_after_the_write_that_makes_its_message_durable() {
    // Nobody takes the mail, and nobody is asked again: apart from the messages themselves nothing is written.
    let site = Site::new().qmgr("retry_step_s = 3600\nretry_max_s = 3600\n").peer(
        "absent",
        "smtp",
        nobody(),
        &["absent.test"],
    );
    // Nor is the end of a segment among the messages: its index is a write that no 250 waits for.
    let room = Room { segment_octets: 4 << 20, segments: 16 };
    let switch = Switch::start_in(&site.tables(), room, "dsync");
    assert!(switch.status()["store"]["backend"].as_str().is_some_and(|backend| backend.contains("DSYNC")));
    let mut client = Client::greet(switch.address());
    let content =
        |octets: usize| ["Subject: durable\r\n\r\n", &"a line of filler\r\n".repeat(octets / 18)].concat();
    let mut send = |recipient: &str, octets: usize| {
        let reply = client.message("<>", &[recipient], content(octets).as_bytes());
        assert!(reply.starts_with("250 2.0.0 Ok: queued as "), "{reply}");
    };
    send("first@absent.test", 100);
    let is_tried = |status: &serde_json::Value| {
        let scheduler = &status["qmgr"]["scheduler"];
        (scheduler["in_progress"] == 0
            && scheduler["awaiting_outcome"] == 0
            && scheduler["channels"].to_string().contains("\"errors\":1"))
        .then_some(())
    };
    switch.wait_for_status("first attempt", is_tried);
    let trace = Trace::attach(&switch, &[switch.pid("store"), switch.pid("smtp-server")]);
    for number in 0..MESSAGES {
        // Small messages fit one set; the larger ones are several, of which the last must be waited for.
        send(&format!("a{number}@absent.test"), [10, 4_000, 90_000][number % 3]);
    }
    let lines = trace.end();
    let (mut began, mut ended, mut accepted) = (0, 0, 0);
    for line in &lines {
        match call(line) {
            Some(Call::AskedForContent) => (began, ended) = (0, 0),
            Some(Call::WriteBegan) => began += 1,
            Some(Call::WriteEnded) => ended += 1,
            Some(Call::Accepted) => {
                accepted += 1;
                assert!(ended > 0, "message {accepted}: a 250 before any write of its message: {line}");
                assert!(began <= ended, "message {accepted}: a 250 while a write is under way: {line}");
            }
            None => {}
        }
    }
    assert_eq!(accepted, MESSAGES, "{} lines", lines.len());
    // The log says the same: a new store finds all of them.
    switch.kill("store");
    switch.wait_for_status("store that is back", |status| {
        (status["store"]["messages"] == MESSAGES + 1).then_some(())
    });
}
