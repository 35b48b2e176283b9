//! What a million Mlists over 10,000 peers cost: octets each, and microseconds for an event at a small and at the
//! full size. `cargo run --release -p sternpost-scheduler --example million`
//!
//! Memory is read from `/proc/self/statm`; where there is none, it says 0.

use std::time::Instant;

use sternpost_message::{MessageSequence, MlistId, Precedence, RecipientRange, RouteIndex, UnixMillis};
use sternpost_scheduler::{Action, ChannelLimits, Event, Limits, MlistSpec, ProcessId, Scheduler};

const PEERS: usize = 10_000;
const PAGE_OCTETS: usize = 4096;

fn resident_octets() -> usize {
    let statm = std::fs::read_to_string("/proc/self/statm").unwrap_or_default();
    statm.split_whitespace().nth(1).and_then(|pages| pages.parse::<usize>().ok()).unwrap_or(0) * PAGE_OCTETS
}

fn mlist(message: u64, names: &[String]) -> Event {
    let peer = usize::try_from(message).unwrap_or(0) * 7_919 % PEERS;
    Event::Queue(MlistSpec {
        id: MlistId { message: MessageSequence(message), route: RouteIndex(0) },
        channel: "smtp".into(),
        peer: names[peer].clone(),
        precedence: Precedence::ALL[peer % 6],
        recipients: vec![RecipientRange { first: 0, count: 1 }],
        accepted_at: UnixMillis(message),
        expires_at: UnixMillis(1_000_000_000 + message),
        delay_report_at: Some(UnixMillis(500_000_000 + message)),
        attempts: 0,
        not_before: UnixMillis(0),
        held_by: None,
    })
}

fn main() {
    let names: Vec<String> = (0..PEERS).map(|peer| format!("peer{peer}.example")).collect();
    let channel = ChannelLimits {
        slots_per_process: 50,
        ..ChannelLimits::new("smtp", names.iter().map(String::as_str))
    };
    let mut scheduler = Scheduler::new();
    let mut actions: Vec<Action> = Vec::new();
    let limits = Limits { channels: vec![channel], ..Limits::default() };
    scheduler.apply(UnixMillis(0), Event::Configure(limits), &mut actions);
    scheduler.apply(UnixMillis(0), Event::Go, &mut actions);
    let process = ProcessId(1);
    let attach = Event::ProcessAttached { process, channel: "smtp".into(), capacity: 50 };
    scheduler.apply(UnixMillis(0), attach, &mut actions);
    let before = resident_octets();
    let mut message = 0;
    for total in [10_000, 100_000, 1_000_000] {
        let (first, start) = (message, Instant::now());
        while message < total {
            message += 1;
            scheduler.apply(UnixMillis(0), mlist(message, &names), &mut actions);
        }
        let queue_us = start.elapsed().as_secs_f64() * 1e6 / (total - first) as f64;
        let each = resident_octets().saturating_sub(before) / scheduler.mlists_count().max(1);
        // Ends 10,000 of them, which lets as many begin.
        let (mut ended, start) = (0, Instant::now());
        while ended < 10_000 {
            let assigned = std::mem::take(&mut actions);
            for action in assigned {
                let Action::Assign { process, mlist: id, recipients, .. } = action else { continue };
                let settled = Event::Settled { mlist: id, recipients, worked: true };
                scheduler.apply(UnixMillis(0), settled, &mut actions);
                scheduler.apply(UnixMillis(0), Event::Finished { process, mlist: id }, &mut actions);
                ended += 1;
            }
        }
        let turn_us = start.elapsed().as_secs_f64() * 1e6 / f64::from(ended);
        println!(
            "{total:>9} Mlists: {each} octets each; queue {queue_us:.2} us, assign to outcome {turn_us:.2} us"
        );
    }
}
