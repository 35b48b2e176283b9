//! A switch under load whose roles are killed, and what has become of the mail afterwards.

use super::mail::{RETRY, Sending, compare, sink_with, start, to};
use super::site::Site;
use super::{Process, Room, Switch, program, run, text, wait_for};
use std::process::Command;
use std::time::{Duration, Instant};
use sternpost_load::sink::{Protocol, Sink};
use sternpost_load::source::SourceOptions;

/// Room for what waits while everything is dead.
pub(crate) const ROOM: Room = Room { segment_octets: 4 << 20, segments: 32 };

/// A switch between a source that never gives up and two sinks.
pub(crate) struct Stage {
    pub(crate) switch: Switch,
    pub(crate) smtp: Sink,
    pub(crate) lmtp: Sink,
}

impl Stage {
    pub(crate) fn new() -> Self {
        // Slow enough that a death finds transfers under way.
        let sink = |protocol| {
            sink_with(|options| {
                options.protocol = protocol;
                options.keep_content = false;
                options.delay = Duration::from_millis(10);
            })
        };
        let (smtp, lmtp) = (sink(Protocol::Smtp), sink(Protocol::Lmtp));
        let site = Site::new().peer("mta", "smtp", smtp.address(), &["smtp.test"]).peer(
            "store",
            "lmtp",
            lmtp.address(),
            &["lmtp.test"],
        );
        Self { switch: Switch::start_in(&site.tables(), ROOM, "auto"), smtp, lmtp }
    }

    /// Load until it is stopped.
    pub(crate) fn load(&self, rate_per_s: f64) -> Sending {
        start(SourceOptions {
            sessions_count: 8,
            messages_count: u64::MAX,
            // 4 MiB a second at most: the log does not fill while QMGR waits out its hold-off.
            octets: vec![1_000, 4_096, 4_096, 70_000],
            recipients: vec!["a%d@smtp.test".into(), "b%d@lmtp.test".into()],
            recipients_count: 2,
            messages_per_connection: Some(50),
            retry: Some(RETRY),
            rate_per_s: Some(rate_per_s),
            reply_timeout: Duration::from_secs(20),
            ..to(self.switch.address(), "")
        })
    }

    /// Different pairs that have come.
    fn arrived(&self) -> u64 {
        self.smtp.counts().distinct + self.lmtp.counts().distinct
    }

    /// Kills a role, waits until another process has its place and mail is accepted and handed on again.
    pub(crate) fn kill_and_wait(&self, role: &str, sending: &Sending) {
        let dead = self.switch.kill(role);
        let (accepted, arrived) = (sending.progress.accepted_count(), self.arrived());
        let is_back = || {
            let is_new = |process: &Process| process.role == role && process.pid != dead;
            let is_back = self.switch.processes().iter().any(is_new);
            let goes_on = sending.progress.accepted_count() > accepted + 20 && self.arrived() > arrived + 20;
            (is_back && goes_on).then_some(())
        };
        wait_for(&format!("new process {role} and more mail"), is_back);
    }

    /// Waits for the rest, and counts. Gives the pairs that came twice.
    pub(crate) fn settle(self, sending: Sending) -> u64 {
        let begin = Instant::now();
        let report = sending.stop();
        assert_eq!(report.refused, [], "a source that never gives up was refused");
        let (retries, troubles) = (report.retries_count, report.troubles.clone());
        let compared = compare(&[report], &[&self.smtp, &self.lmtp]);
        println!("{retries} repeated by the source: {troubles:?}\n{compared}");
        assert_eq!((compared.lost, compared.accepted), (0, compared.delivered), "{compared}");
        println!("all arrived after {:?}", begin.elapsed());
        self.switch.wait_until_empty();
        println!("nothing lives after {:?}", begin.elapsed());
        for alarm in self.switch.log().lines().filter(|line| line.contains("log.alarm")) {
            println!("{alarm}");
        }
        verify(self.switch);
        compared.duplicated
    }
}

/// Stops the switch and checks every octet of its log.
pub(crate) fn verify(switch: Switch) {
    let home = switch.stop();
    let mut command = Command::new(program());
    let output = run(command.args(["queue", "verify", "--path"]).arg(home.path().join("log")));
    assert!(output.status.success(), "{}{}", text(&output.stdout), text(&output.stderr));
}
