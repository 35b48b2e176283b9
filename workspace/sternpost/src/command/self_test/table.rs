//! What the self test says to people: tables of 80 columns at most, the values with their reasons, the remarks.

use crate::output;
use crate::profile::{Profile, Transfer};
use std::fmt::Write as _;

/// What a terminal has at least.
const COLUMNS: usize = 80;
/// What stands before the reason of a value.
const MARGIN: &str = "    ";

const MIB: f64 = 1_048_576.0;

/// The whole text; `overruled` says which values do not come into force.
pub(super) fn text(profile: &Profile, overruled: &[String]) -> String {
    let mut out = format!("Durable writes in {} {}\n\n", profile.place, profile.queue.display());
    out.push_str(&commits(profile));
    if let Some(read) = profile.content.read_octets_per_s {
        let _ = write!(out, "\nContent is read at {:.1} MiB/s.", read / MIB);
    }
    out.push_str(&machine(profile));
    if let Some(transfer) = &profile.transfer {
        out.push_str(&transferred(transfer));
    }
    out.push_str("\nWhat follows\n\n");
    let method = &profile.values.method;
    push_value(&mut out, "method", method.value.name(), &method.reason);
    for (name, number) in profile.values.numbers() {
        push_value(&mut out, name, &number.value.to_string(), &number.reason);
    }
    for remark in profile.remarks.iter().chain(overruled) {
        out.push('\n');
        out.push_str(&output::wrapped(&output::printable(remark), COLUMNS).join("\n"));
        out.push('\n');
    }
    out
}

fn commits(profile: &Profile) -> String {
    let rows: Vec<Vec<String>> = profile
        .commits
        .iter()
        .map(|commit| {
            let mib_per_s = commit.per_s * f64::from(commit.batch_octets) / MIB;
            vec![
                commit.method.clone(),
                format!("{} KiB", commit.batch_octets >> 10),
                format!("{:.3} ms", commit.p10_us / 1e3),
                format!("{:.3} ms", commit.p50_us / 1e3),
                format!("{:.3} ms", commit.p99_us / 1e3),
                format!("{:.0}/s", commit.per_s),
                format!("{mib_per_s:.1} MiB/s"),
                commit.count.to_string(),
            ]
        })
        .collect();
    output::table(&["METHOD", "BATCH", "P10", "P50", "P99", "RATE", "CONTENT", "COUNT"], &rows)
}

fn machine(profile: &Profile) -> String {
    let machine = &profile.machine;
    let mut out = format!(
        "\nA process starts in {:.2} ms.\n{} processors; {} MiB of memory",
        machine.process_start_us / 1e3,
        machine.cpus_count,
        machine.memory_octets >> 20
    );
    let available =
        machine.memory_available_octets.map(|octets| format!(", {} MiB of it available", octets >> 20));
    out.push_str(&available.unwrap_or_default());
    out.push_str(".\n");
    if let Some(processor) = &profile.processor {
        let _ = write!(
            out,
            "One processor: {:.0} TLS handshakes/s as server, {:.0}/s as client;\nSHA-256 {:.0} MiB/s; copies {:.0} MiB/s.\n",
            processor.tls_server_per_s,
            processor.tls_client_per_s,
            processor.sha256_octets_per_s / MIB,
            processor.copy_octets_per_s / MIB
        );
    }
    out
}

fn transferred(transfer: &Transfer) -> String {
    let Transfer { message_octets, method, .. } = transfer;
    let mut out =
        format!("\nMessages of {message_octets} octets over the loopback, made durable by {method}\n\n");
    let chosen = transfer.choice.as_ref().map(|choice| choice.associations);
    let best = transfer.points.iter().map(|point| point.per_s).fold(0.0, f64::max);
    let rows: Vec<Vec<String>> = transfer
        .points
        .iter()
        .map(|point| {
            #[expect(
                clippy::cast_possible_truncation,
                clippy::cast_sign_loss,
                reason = "a share of 40 columns"
            )]
            let columns = (point.per_s / best * 40.0).round() as usize;
            vec![
                point.associations.to_string(),
                format!("{:.0}/s", point.per_s),
                format!("{:.1}", point.batch_messages),
                "#".repeat(columns),
            ]
        })
        .collect();
    out.push_str(&output::table(&["AT A TIME", "THROUGHPUT", "A BATCH", ""], &rows));
    match (&transfer.choice, chosen) {
        (Some(choice), Some(chosen)) => push_value(
            &mut out,
            "chosen",
            &format!("{chosen} at a time, {:.0}/s ({})", choice.per_s, choice.rule),
            &choice.reason,
        ),
        _ => out.push_str("nothing passed in time\n"),
    }
    out
}

fn push_value(out: &mut String, name: &str, value: &str, reason: &str) {
    let _ = writeln!(out, "{name}  {value}");
    for line in output::wrapped(&output::printable(reason), COLUMNS - MARGIN.len()) {
        let _ = writeln!(out, "{MARGIN}{line}");
    }
}
