//! What a recording costs: the way of a million messages through the scheduler, without and with one, into a file and into
//! none. `cargo run --release -p sternpost-scheduler --example recording [FILE]`
//!
//! Rounds alternate, so that both see the same machine; the least of each is compared.

use std::fs::File;
use std::io::Write;
use std::time::Instant;

use sternpost_message::{MessageSequence, MlistId, Precedence, RecipientRange, RouteIndex, UnixMillis};
use sternpost_scheduler::journal::Encoder;
use sternpost_scheduler::{Action, ChannelLimits, Event, Limits, MlistSpec, ProcessId, Scheduler};

const PEERS: usize = 1_000;
const MESSAGES: u64 = 1_000_000;
const ROUNDS: usize = 5;
/// As QMGR writes it.
const PIECE_OCTETS: usize = 64 << 10;

/// Octets that went, and where to.
struct Recording {
    encoder: Encoder,
    file: Option<File>,
    octets: u64,
}

struct Run {
    scheduler: Scheduler,
    actions: Vec<Action>,
    events: u64,
    recording: Option<Recording>,
}

impl Run {
    fn apply(&mut self, now: UnixMillis, event: Event) {
        self.events += 1;
        self.actions.clear();
        let Some(recording) = &mut self.recording else {
            return self.scheduler.apply(now, event, &mut self.actions);
        };
        recording.encoder.event(now, &event).expect("there is no bound");
        self.scheduler.apply(now, event, &mut self.actions);
        recording.encoder.actions(&self.actions).expect("there is no bound");
        if recording.encoder.octets().len() >= PIECE_OCTETS {
            recording.octets += recording.encoder.octets().len() as u64;
            if let Some(file) = &mut recording.file {
                file.write_all(recording.encoder.octets()).expect("the file can be written");
            }
            recording.encoder.clear();
        }
    }
}

fn run(names: &[String], recording: Option<Recording>) -> (f64, Run) {
    let channel = ChannelLimits::new("smtp", names.iter().map(String::as_str));
    let mut run = Run { scheduler: Scheduler::new(), actions: Vec::new(), events: 0, recording };
    run.apply(UnixMillis(0), Event::Configure(Limits { channels: vec![channel], ..Limits::default() }));
    run.apply(UnixMillis(0), Event::Go);
    let process = ProcessId(1);
    run.apply(UnixMillis(0), Event::ProcessAttached { process, channel: "smtp".into(), capacity: 50 });
    let begin = Instant::now();
    for message in 0..MESSAGES {
        let now = UnixMillis(message / 100);
        let id = MlistId { message: MessageSequence(message), route: RouteIndex(0) };
        let recipients = vec![RecipientRange { first: 0, count: 1 }];
        let spec = MlistSpec {
            id,
            channel: "smtp".into(),
            peer: names[usize::try_from(message).unwrap_or(0) * 7_919 % PEERS].clone(),
            precedence: Precedence::Routine,
            recipients: recipients.clone(),
            accepted_at: now,
            expires_at: now.plus_ms(432_000_000),
            delay_report_at: Some(now.plus_ms(14_400_000)),
            attempts: 0,
            not_before: UnixMillis(0),
            held_by: None,
        };
        run.apply(now, Event::Queue(spec));
        run.apply(now, Event::Finished { process, mlist: id });
        run.apply(now, Event::Settled { mlist: id, recipients, worked: true });
        run.apply(now, Event::Remove { mlist: id });
    }
    (begin.elapsed().as_secs_f64(), run)
}

fn main() {
    let path = std::env::args().nth(1);
    let names: Vec<String> = (0..PEERS).map(|peer| format!("peer{peer}.example")).collect();
    let (mut least, mut counts) = ([f64::MAX; 2], (0, 0));
    for _ in 0..ROUNDS {
        for (at, is_recorded) in [false, true].into_iter().enumerate() {
            let file = path.as_ref().map(|path| File::create(path).expect("the file can be made"));
            let recording =
                is_recorded.then(|| Recording { encoder: Encoder::new(u64::MAX), file, octets: 0 });
            let (seconds, run) = run(&names, recording);
            least[at] = least[at].min(seconds);
            counts = (run.events, run.recording.map_or(0, |recording| recording.octets));
        }
    }
    let [without, with] = least.map(|seconds| seconds * 1e9 / counts.0 as f64);
    println!(
        "{} events: {without:.0} ns each without, {with:.0} ns with a recording of {:.0} octets a message",
        counts.0,
        counts.1 as f64 / MESSAGES as f64
    );
}
