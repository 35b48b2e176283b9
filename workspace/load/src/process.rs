//! What processes cost: CPU time and memory of a process and of everything that descends from it, from `/proc`.

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;

/// Clock ticks in a second, as `/proc/*/stat` counts them on every Linux that we run on (USER_HZ).
const TICKS_PER_S: u64 = 100;

/// CPU time that this process has used so far, in microseconds; steps of 10 ms.
#[must_use]
pub fn own_cpu_us() -> u64 {
    Stat::read(Path::new("/proc/self/stat")).map_or(0, |stat| stat.own_us)
}

/// CPU time of the children that this process has waited for so far, in microseconds; steps of 10 ms.
#[must_use]
pub fn waited_cpu_us() -> u64 {
    Stat::read(Path::new("/proc/self/stat")).map_or(0, |stat| stat.waited_us)
}

/// CPU time of the living threads of one process, in nanoseconds: for what is shorter than the ticks of the others. Zero
/// where the kernel does not count (CONFIG_SCHED_INFO).
#[must_use]
pub fn thread_cpu_ns(pid: u32) -> u64 {
    let tasks = fs::read_dir(format!("/proc/{pid}/task")).into_iter().flatten().flatten();
    let run_ns = |text: String| text.split(' ').next()?.parse::<u64>().ok();
    // A thread may end between the two reads: then it is not counted.
    tasks.filter_map(|task| run_ns(fs::read_to_string(task.path().join("schedstat")).ok()?)).sum()
}

/// What a family of processes costs.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Usage {
    /// User and system time of the living and of the children that they have waited for, in microseconds.
    pub cpu_us: u64,
    /// Proportional set size of the living, in octets.
    pub pss_octets: u64,
    /// The living.
    pub processes_count: usize,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Stat {
    pid: u32,
    parent: u32,
    own_us: u64,
    waited_us: u64,
}

impl Stat {
    fn read(path: &Path) -> Option<Self> {
        Self::parse(&fs::read_to_string(path).ok()?)
    }

    /// Fields 1, 4 and 14 to 17 of proc_pid_stat(5). Field 2, the name, may hold spaces and parentheses.
    fn parse(text: &str) -> Option<Self> {
        let (head, rest) = text.rsplit_once(')')?;
        let pid = head.split(' ').next()?.parse().ok()?;
        let fields: Vec<&str> = rest.split_ascii_whitespace().collect();
        let ticks = |field: usize| fields.get(field - 3)?.parse::<u64>().ok();
        let us = 1_000_000 / TICKS_PER_S;
        Some(Self {
            pid,
            parent: fields.get(1)?.parse().ok()?,
            own_us: (ticks(14)? + ticks(15)?) * us,
            waited_us: (ticks(16)? + ticks(17)?) * us,
        })
    }
}

/// The process and all its descendants, the process first. Empty when it does not live.
#[must_use]
pub fn family(pid: u32) -> Vec<u32> {
    family_stats(pid).into_iter().map(|stat| stat.pid).collect()
}

fn family_stats(pid: u32) -> Vec<Stat> {
    let mut children: BTreeMap<u32, Vec<Stat>> = BTreeMap::new();
    let mut found = Vec::new();
    for entry in fs::read_dir("/proc").into_iter().flatten().flatten() {
        if !entry.file_name().to_string_lossy().bytes().all(|octet| octet.is_ascii_digit()) {
            continue;
        }
        // A process may end between the two reads: then it is not listed.
        let Some(stat) = Stat::read(&entry.path().join("stat")) else { continue };
        if stat.pid == pid {
            found.push(stat);
        } else {
            children.entry(stat.parent).or_default().push(stat);
        }
    }
    let mut at = 0;
    while at < found.len() {
        found.extend(children.remove(&found[at].pid).unwrap_or_default());
        at += 1;
    }
    found
}

/// What the process and its descendants have cost so far.
#[must_use]
pub fn usage(pid: u32) -> Usage {
    let stats = family_stats(pid);
    Usage {
        cpu_us: stats.iter().map(|stat| stat.own_us + stat.waited_us).sum(),
        pss_octets: stats.iter().map(|stat| pss_octets(stat.pid)).sum(),
        processes_count: stats.len(),
    }
}

/// CPU time alone: what [`usage`] reads without the walk through every page table, which itself costs.
#[must_use]
pub fn cpu_us(pid: u32) -> u64 {
    family_stats(pid).iter().map(|stat| stat.own_us + stat.waited_us).sum()
}

fn pss_octets(pid: u32) -> u64 {
    let text = fs::read_to_string(format!("/proc/{pid}/smaps_rollup")).unwrap_or_default();
    let kib = text
        .lines()
        .find_map(|line| line.strip_prefix("Pss:")?.split_ascii_whitespace().next()?.parse().ok());
    kib.unwrap_or(0_u64) * 1024
}

/// The load average over one minute: whoever reads a measurement wants to know what else ran.
#[must_use]
pub fn load_average() -> f64 {
    let text = fs::read_to_string("/proc/loadavg").unwrap_or_default();
    text.split(' ').next().and_then(|first| first.parse().ok()).unwrap_or(0.0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_process_name_with_a_parenthesis_does_not_shift_the_fields() {
        let text = "42 (a ) b) S 7 42 42 0 -1 4194304 1 2 3 4 10 20 30 40 20 0 1 0 5 6 7";
        let expected = Stat { pid: 42, parent: 7, own_us: 300_000, waited_us: 700_000 };
        assert_eq!(Stat::parse(text), Some(expected));
        assert_eq!(Stat::parse("nonsense"), None);
    }

    #[test]
    fn a_process_that_works_is_seen_to_within_a_tick() {
        // Of this process other threads may end meanwhile, and their time with them.
        let mut worker =
            std::process::Command::new("sh").args(["-c", "while :; do :; done"]).spawn().unwrap();
        let began = std::time::Instant::now();
        while thread_cpu_ns(worker.id()) < 2_000_000 && began.elapsed().as_secs() < 30 {}
        let seen_ns = thread_cpu_ns(worker.id());
        worker.kill().unwrap();
        worker.wait().unwrap();
        assert!(seen_ns >= 2_000_000, "two milliseconds of work are seen, and not {seen_ns} ns");
        assert_eq!(thread_cpu_ns(0), 0);
    }

    #[test]
    fn a_child_belongs_to_the_family_until_it_is_waited_for() {
        let own = std::process::id();
        let mut child = std::process::Command::new("sleep").arg("60").spawn().unwrap();
        assert!(family(own).contains(&child.id()));
        assert_eq!(family(child.id()), [child.id()]);
        assert!(usage(own).pss_octets > 0);
        child.kill().unwrap();
        child.wait().unwrap();
        assert!(!family(own).contains(&child.id()));
        assert_eq!(usage(child.id()), Usage::default());
    }
}
