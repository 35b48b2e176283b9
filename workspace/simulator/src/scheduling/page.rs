//! What came of a scenario, for people: an SVG page with curves over time, and a table.

use sternpost_message::Precedence;

use super::chart::{COLOURS, LEFT, Line, PANEL_HEIGHT, Panel, Time, WIDTH, text};
use super::expect::peers_of;
use super::record::{Figures, Gauge, Record};
use super::scenario::Scenario;

/// With at most so many peers each has a line of its own; else each kind has one.
const OWN_LINES_MAX: usize = 8;

/// Height of a line of the table, pixels.
const LINE_HEIGHT: f64 = 15.0;

/// Some peers that share a line.
struct Group {
    name: String,
    peers: Vec<usize>,
}

/// The page.
#[must_use]
pub fn page(scenario: &Scenario, record: &Record) -> String {
    let panels = panels(scenario, record);
    let table = table(scenario, record);
    let table_top = 50.0 + panels.len() as f64 * PANEL_HEIGHT;
    let height = table_top + (table.lines().count() + 1) as f64 * LINE_HEIGHT;
    let mut svg = format!(
        "<svg xmlns=\"http://www.w3.org/2000/svg\" width=\"{WIDTH:.0}\" height=\"{height:.0}\" font-family=\"sans-serif\" \
         font-size=\"11\" fill=\"#222\">\n<rect width=\"100%\" height=\"100%\" fill=\"white\"/>\n"
    );
    text(&mut svg, LEFT, 26.0, "font-size=\"15\" font-weight=\"bold\"", &scenario.title);
    let time = Time { bucket_ms: record.bucket_ms, end_ms: record.end_ms };
    let mut top = 42.0;
    for panel in &panels {
        panel.draw(&mut svg, top, time);
        top += PANEL_HEIGHT;
    }
    for (at, line) in table.lines().enumerate() {
        let style = "font-family=\"monospace\" xml:space=\"preserve\"";
        text(&mut svg, LEFT, table_top + at as f64 * LINE_HEIGHT, style, line);
    }
    svg.push_str("</svg>\n");
    svg
}

fn panels(scenario: &Scenario, record: &Record) -> Vec<Panel> {
    let groups = groups(scenario);
    let bucket_ms = record.bucket_ms;
    let buckets = usize::try_from(record.end_ms / bucket_ms).unwrap_or(0) + 1;
    let per_s = 1_000.0 / bucket_ms as f64;
    let of_groups = |title: &str, of: &dyn Fn(&Group) -> Vec<f64>| Panel {
        title: title.into(),
        is_whole: false,
        lines: groups
            .iter()
            .enumerate()
            .map(|(at, group)| Line {
                name: group.name.clone(),
                colour: COLOURS[at % COLOURS.len()],
                values: of(group),
            })
            .collect(),
    };
    let sum = |of: &dyn Fn(usize) -> Vec<f64>, group: &Group| {
        let mut sums = Vec::new();
        for &peer in &group.peers {
            let values = of(peer);
            sums.resize(sums.len().max(values.len()), 0.0);
            sums.iter_mut().zip(values).for_each(|(sum, value)| *sum += value);
        }
        sums.resize(buckets, 0.0);
        sums
    };
    let floats = |counts: &[u64]| counts.iter().map(|count| *count as f64).collect::<Vec<f64>>();
    let all = [
        waiting(record),
        Panel {
            title: "processes".into(),
            is_whole: true,
            lines: vec![whole("processes", &record.processes, bucket_ms)],
        },
        of_groups("in progress, Mlists of all peers of the name", &|group| {
            sum(&|peer| record.peers[peer].in_progress.means(bucket_ms), group)
        }),
        of_groups("transferred, Mlists/s", &|group| {
            let counts = sum(&|peer| floats(&record.peers[peer].transferred), group);
            counts.into_iter().map(|count| count * per_s).collect()
        }),
        // Where nothing ended there is no mean: 0 / 0 is not a number.
        of_groups("time of an attempt, mean, ms", &|group| {
            let attempts = sum(&|peer| floats(&record.peers[peer].attempts), group);
            let took_ms = sum(&|peer| floats(&record.peers[peer].attempts_ms), group);
            took_ms.iter().zip(attempts).map(|(ms, attempts)| ms / attempts).collect()
        }),
    ];
    all.into_iter().flat_map(Panel::split).collect()
}

/// A line for each level that came, also if none of it ever waited.
fn waiting(record: &Record) -> Panel {
    let came = |level: &Precedence| record.lived.iter().any(|lived| lived.level == *level);
    let lines = Precedence::ALL.into_iter().rev().filter(came).map(|level| Line {
        name: level.name().into(),
        colour: COLOURS[level as usize],
        values: record.waiting[level as usize].means(record.bucket_ms),
    });
    Panel { title: "waiting, Mlists by precedence".into(), is_whole: true, lines: lines.collect() }
}

fn whole(name: &str, gauge: &Gauge, bucket_ms: u64) -> Line {
    Line { name: name.into(), colour: COLOURS[0], values: gauge.means(bucket_ms) }
}

fn groups(scenario: &Scenario) -> Vec<Group> {
    let names = scenario.peer_names();
    if names.len() <= OWN_LINES_MAX {
        return names.into_iter().enumerate().map(|(at, name)| Group { name, peers: vec![at] }).collect();
    }
    let named = |kind: &super::PeerKind| {
        if kind.count == 1 { kind.name.clone() } else { format!("{} × {}", kind.count, kind.name) }
    };
    let kinds = scenario.peers.iter();
    kinds.map(|kind| Group { name: named(kind), peers: peers_of(scenario, &kind.name) }).collect()
}

/// A line for each precedence and each kind of peers.
#[must_use]
pub fn table(scenario: &Scenario, record: &Record) -> String {
    let mut text = format!(
        "{:<16} {:>8} {:>11}   {:>8} {:>8} {:>8}   {:>8} {:>8} {:>8}\n",
        "", "Mlists", "transferred", "wait p50", "p99", "max", "over p50", "p99", "max"
    );
    for level in Precedence::ALL.into_iter().rev() {
        let figures = record.figures(|lived| lived.level == level);
        if figures.count > 0 {
            text += &format!("{}\n", row(level.name(), &figures));
        }
    }
    for (at, kind) in scenario.peers.iter().enumerate() {
        let figures = record.figures(|lived| lived.kind == at);
        text += &format!("{}\n", row(&kind.name, &figures));
    }
    text += &format!(
        "{:<16} {:>8} {:>11} {:>12} {:>26}\n",
        "", "attempts", "peer errors", "Mlists/s", "in progress at a peer, max"
    );
    for kind in &scenario.peers {
        let peers = peers_of(scenario, &kind.name);
        let [attempts, errors, _] = record.totals(&peers);
        let most = peers.iter().map(|&peer| record.peers[peer].in_progress.max).max().unwrap_or(0);
        let rate = record.rate(&peers);
        text += &format!("{:<16} {attempts:>8} {errors:>11} {rate:>12.1} {most:>26}\n", kind.name);
    }
    text += &format!(
        "over after {}; at most {} waited, {} were in progress, {} processes ran\n",
        time(record.end_ms),
        record.waiting_max,
        record.in_progress.max,
        record.processes.max
    );
    text
}

fn row(name: &str, figures: &Figures) -> String {
    let [wait, over] =
        [figures.wait_ms, figures.over_ms].map(|times| times.map(|ms| format!("{:>8}", time(ms))).join(" "));
    format!("{name:<16} {:>8} {:>11}   {wait}   {over}", figures.count, figures.transferred)
}

/// With three digits or so.
fn time(ms: u64) -> String {
    let value = ms as f64;
    match ms {
        0..2_000 => format!("{ms} ms"),
        2_000..300_000 => format!("{:.1} s", value / 1e3),
        300_000..18_000_000 => format!("{:.1} min", value / 6e4),
        _ => format!("{:.1} h", value / 3.6e6),
    }
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::super::{Options, live};
    use super::*;

    const SCENARIO: &str = r#"
        title = "Two & two"
        end_s_max = 60
        [[channel]]
        name = "smtp"
        [[peer]]
        name = "quick"
        channel = "smtp"
        count = 10
        [[peer]]
        name = "slow"
        channel = "smtp"
        service_ms = 3000
        [[arrivals]]
        to = ["quick", "slow"]
        count = 220
        precedence_percent = { routine = 90, flash = 10 }
    "#;

    #[test]
    fn a_page_shows_every_level_every_kind_of_peers_and_the_table() {
        let scenario = Scenario::parse(Path::new("two.toml"), SCENARIO).expect("it is good");
        let report = live(&scenario, 1, Options::default()).expect("every rule is kept");
        let page = page(&scenario, &report.record);
        for wanted in [
            ">Two &amp; two</text>",
            ">flash</text>",
            ">routine</text>",
            ">10 × quick</text>",
            ">slow</text>",
            ">processes</text>",
            ">transferred, Mlists/s</text>",
            ">time of an attempt, mean, ms (smaller)</text>",
            "over p50",
        ] {
            assert!(page.contains(wanted), "{wanted} is not in {page}");
        }
        assert!(!page.contains("NaN") && page.ends_with("</svg>\n"), "{page}");
        // 20 Mlists for each of 11 peers.
        let table = table(&scenario, &report.record);
        let line = |name: &str| table.lines().find(|line| line.starts_with(name)).expect(name).to_owned();
        assert_eq!(line("quick").split_whitespace().collect::<Vec<_>>()[..3], ["quick", "200", "200"]);
        assert_eq!(line("slow").split_whitespace().collect::<Vec<_>>()[..3], ["slow", "20", "20"]);
    }
}
