//! A workload as a file: limits, channels, peers, what comes when, and the bounds that what comes of it must keep.
//!
//! Times of the workload are seconds from its beginning, latencies are milliseconds; each field's name ends in its unit.
//! Nothing here depends on the seed. A file that is wrong is refused with its name, the place and what to do.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};

use serde::Deserialize;
use sternpost_message::{Precedence, UnixMillis};
use sternpost_scheduler::{ChannelLimits, Limits, Minimise, PeerLimits, Reserves};

use super::BEGINNING_MS;

/// Peers in one scenario. The recorder keeps some hundred figures of each.
const PEERS_MAX: usize = 20_000;

/// The longest time in a scenario: ten years in seconds, and a day for what one attempt takes, in milliseconds.
const S_MAX: u64 = 10 * 366 * 86_400;
const ATTEMPT_MS_MAX: u64 = 86_400_000;

/// One workload.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Scenario {
    /// The file's name without its end, or what made it.
    #[serde(skip)]
    pub name: String,
    /// What it is about, for the page.
    pub title: String,
    /// It is a mistake of the scheduler if mail still lives after so many seconds.
    pub end_s_max: u64,
    /// Limits of the whole switch.
    #[serde(default)]
    pub limits: SwitchLimits,
    /// The channels.
    #[serde(rename = "channel")]
    pub channels: Vec<ChannelKind>,
    /// Kinds of peers.
    #[serde(rename = "peer")]
    pub peers: Vec<PeerKind>,
    /// What comes.
    pub arrivals: Vec<Arrivals>,
    /// Bounds.
    #[serde(default)]
    pub expect: Expect,
    /// What goes wrong beside the peers; only worlds made of a seed have any.
    #[serde(skip)]
    pub trouble: Trouble,
}

/// `[limits]`: those of [`Limits`], with its defaults.
#[derive(Clone, Debug, Deserialize)]
#[serde(default, deny_unknown_fields)]
#[allow(missing_docs, reason = "each is the field of Limits of this name")]
pub struct SwitchLimits {
    pub qmgr_maxchans: u32,
    pub qmgr_reserve_urgent: u32,
    pub qmgr_reserve_normal: u32,
    pub qmgr_chan_time1_ms: u64,
    pub qmgr_chan_time2_ms: u64,
    pub qmgr_chan_time3_ms: u64,
    pub age_share_percent: u32,
    pub retry_step_ms: u64,
    pub retry_max_ms: u64,
}

impl Default for SwitchLimits {
    fn default() -> Self {
        let limits = Limits::default();
        Self {
            qmgr_maxchans: limits.qmgr_maxchans,
            qmgr_reserve_urgent: limits.qmgr_reserve_urgent,
            qmgr_reserve_normal: limits.qmgr_reserve_normal,
            qmgr_chan_time1_ms: limits.qmgr_chan_time1_ms,
            qmgr_chan_time2_ms: limits.qmgr_chan_time2_ms,
            qmgr_chan_time3_ms: limits.qmgr_chan_time3_ms,
            age_share_percent: limits.age_share_percent,
            retry_step_ms: limits.retry_step_ms,
            retry_max_ms: limits.retry_max_ms,
        }
    }
}

/// Places kept free for higher levels: [`Reserves`].
#[derive(Clone, Copy, Debug, Default, Deserialize)]
#[serde(default, deny_unknown_fields)]
#[allow(missing_docs, reason = "each is the field of Reserves of this name")]
pub struct KeptFree {
    pub urgent: u32,
    pub normal: u32,
}

impl From<KeptFree> for Reserves {
    fn from(kept: KeptFree) -> Self {
        Self { urgent: kept.urgent, normal: kept.normal }
    }
}

/// `[[channel]]`: its limits, and how its processes behave.
#[derive(Clone, Debug, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct ChannelKind {
    /// Its name.
    pub name: String,
    /// Processes at a time.
    pub processes_max: u32,
    /// Mlists that a process works on at a time, by the limits and by its handshake.
    pub capacity: u32,
    /// The handshake's number, where it is another one.
    pub capacity_announced: Option<u32>,
    /// Slots kept free.
    pub slots_reserve: KeptFree,
    /// Mlists in progress for a peer at a time.
    pub peer_slots_max: u32,
    /// The fewest, where what a peer bears is to be found; else the number is fixed.
    pub peer_slots_min: u32,
    /// KeptFree free of them.
    pub peer_slots_reserve: KeptFree,
    /// A process without work for this long is stopped.
    pub idle_stop_ms: u64,
    /// From the order to start a process to its handshake.
    pub start_ms: u64,
    /// Of a hundred starts so many fail.
    pub start_failure_percent: u64,
    /// A process dies, on average, after so long.
    pub death_after_ms: Option<u64>,
    /// From the end of an attempt to its durable outcome.
    pub commit_ms: u64,
    /// Of a hundred Mlists so many are given back untouched.
    pub give_back_percent: u64,
    /// Of a hundred Mlists so many are said to be finished after their outcome is durable.
    pub late_word_percent: u64,
}

impl Default for ChannelKind {
    fn default() -> Self {
        let limits = ChannelLimits::new("", []);
        Self {
            name: String::new(),
            processes_max: limits.processes_max,
            capacity: limits.slots_per_process,
            capacity_announced: None,
            slots_reserve: KeptFree::default(),
            peer_slots_max: limits.peer_slots_max,
            peer_slots_min: limits.peer_slots_min,
            peer_slots_reserve: KeptFree::default(),
            idle_stop_ms: limits.idle_stop_ms,
            start_ms: 50,
            start_failure_percent: 0,
            death_after_ms: None,
            commit_ms: 2,
            give_back_percent: 0,
            late_word_percent: 0,
        }
    }
}

/// `[[peer]]`: so many peers of one behaviour. The behaviours can be combined.
#[derive(Clone, Debug, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct PeerKind {
    /// The kind's name, and the peer's if there is one of it.
    pub name: String,
    /// The channel that reaches them.
    pub channel: String,
    /// How many there are.
    pub count: u32,
    /// Instead of the channel's `peer_slots_max`.
    pub slots_max: Option<u32>,
    /// Instead of the channel's `peer_slots_reserve`.
    pub slots_reserve: Option<KeptFree>,
    /// Until a connection stands, or is refused.
    pub connect_ms: u64,
    /// Until a connection to a peer that is down has failed.
    pub connect_failure_ms: u64,
    /// The work for one Mlist.
    pub service_ms: u64,
    /// Each time is longer or shorter by up to so much.
    pub jitter_percent: u64,
    /// Mlists that it works on at a time; what is beyond that waits its turn there. As many as come, if not given.
    pub workers: Option<u32>,
    /// Each association beyond `workers` makes all work longer by so much: a server that loses itself in its load.
    pub slowdown_percent: u64,
    /// More associations than that are refused, with an error of the peer (421).
    pub associations_max: Option<u32>,
    /// When it is down.
    pub down: Vec<Window>,
    /// Of a hundred attempts so many fail for the message, for now.
    pub message_error_percent: u64,
    /// Of a hundred attempts so many fail for the peer, for now.
    pub peer_error_percent: u64,
    /// Of a hundred attempts so many fail for good.
    pub failure_percent: u64,
}

impl Default for PeerKind {
    fn default() -> Self {
        Self {
            name: String::new(),
            channel: String::new(),
            count: 1,
            slots_max: None,
            slots_reserve: None,
            connect_ms: 2,
            connect_failure_ms: 1_000,
            service_ms: 20,
            jitter_percent: 0,
            workers: None,
            slowdown_percent: 0,
            associations_max: None,
            down: Vec::new(),
            message_error_percent: 0,
            peer_error_percent: 0,
            failure_percent: 0,
        }
    }
}

/// A time, in seconds from the beginning.
#[derive(Clone, Copy, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Window {
    /// Its first instant.
    pub from_s: u64,
    /// It is over then.
    pub until_s: u64,
}

/// `[[arrivals]]`: messages that come at a rate, each to a peer of these kinds that the seed chooses, or at once, to all of
/// these peers in turn.
#[derive(Clone, Debug, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Arrivals {
    /// The kinds of peers.
    pub to: Vec<String>,
    /// When they begin to come.
    pub from_s: u64,
    /// When they have come; for a rate.
    pub until_s: u64,
    /// So many a second, on average, independent of each other.
    pub rate_per_s: f64,
    /// So many at once at `from_s`.
    pub count: u64,
    /// How many of a hundred have which precedence.
    pub precedence_percent: BTreeMap<String, u64>,
    /// Recipients of each Mlist.
    pub recipients: u32,
    /// Peers, next to each other in the list, to which each message goes: as many Mlists.
    pub peers_per_message: u32,
    /// From when on no further attempt is made, from its acceptance.
    pub life_s: u64,
    /// When the sender is told of the delay, from its acceptance.
    pub delay_report_s: Option<u64>,
}

impl Default for Arrivals {
    fn default() -> Self {
        Self {
            to: Vec::new(),
            from_s: 0,
            until_s: 0,
            rate_per_s: 0.0,
            count: 0,
            precedence_percent: BTreeMap::from([("routine".to_owned(), 100)]),
            recipients: 1,
            peers_per_message: 1,
            life_s: 5 * 86_400,
            delay_report_s: None,
        }
    }
}

/// `[expect]`: what must have come of it.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Expect {
    /// Every recipient was transferred: none failed, none expired.
    pub all_transferred: bool,
    /// The last Mlist is over so many seconds after the beginning.
    pub end_s_max: Option<u64>,
    /// Mlists that wait at a time.
    pub waiting_max: Option<u64>,
    /// Processes that exist at a time.
    pub processes_max: Option<u64>,
    /// Bounds by precedence.
    pub precedence: BTreeMap<String, Bounds>,
    /// Bounds by kind of peers.
    pub peer: BTreeMap<String, Bounds>,
}

/// Bounds for some of the Mlists.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Bounds {
    /// From acceptance to the first assignment, 99 of a hundred.
    pub wait_ms_p99_max: Option<u64>,
    /// The same, half of them.
    pub wait_ms_p50_max: Option<u64>,
    /// From acceptance to the durable end, 99 of a hundred.
    pub over_ms_p99_max: Option<u64>,
    /// Mlists transferred each second, from the first attempt to the last transfer; of a kind of peers: all of them together.
    pub transferred_per_s_min: Option<f64>,
    /// Of a hundred Mlists that any peer got, how many these got at least.
    pub share_percent_min: Option<f64>,
    /// At most.
    pub share_percent_max: Option<f64>,
    /// Attempts, at least; of a kind of peers: of all of them together.
    pub attempts_min: Option<u64>,
    /// At most.
    pub attempts_max: Option<u64>,
    /// In progress at a time, at most; of a kind of peers: for each of them.
    pub in_progress_max: Option<u64>,
    /// The same on average, from the first attempt to the last transfer.
    pub in_progress_mean_max: Option<f64>,
    /// Attempts that end with an error of the peer, at most; of a kind of peers: of all of them together.
    pub errors_max: Option<u64>,
}

/// What goes wrong beside the peers, and what an operator does.
#[derive(Clone, Debug, Default)]
pub struct Trouble {
    /// These limits hold from these instants on, milliseconds from the beginning.
    pub changes: Vec<(u64, Limits)>,
    /// At these instants an operator discards an Mlist, milliseconds from the beginning.
    pub discards: Vec<u64>,
    /// Then nothing goes wrong any more, these limits hold, and everything has to end: milliseconds from the beginning.
    pub end: Option<(u64, Limits)>,
}

/// Why a scenario cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum ScenarioError {
    /// The file cannot be read.
    #[error("{path} cannot be read")]
    Read {
        /// The file.
        path: PathBuf,
        /// Why.
        source: std::io::Error,
    },
    /// It is no TOML, or has a field that is not known, or lacks one.
    #[error(
        "{path} is not understood: the fields are those of workspace/simulator/src/scheduling/scenario.rs"
    )]
    Syntax {
        /// The file.
        path: PathBuf,
        /// With line and column.
        source: Box<toml::de::Error>,
    },
    /// A value makes no sense.
    #[error("{path}, {place}: {what}")]
    Value {
        /// The file.
        path: PathBuf,
        /// The table, and its name or number.
        place: String,
        /// What is wrong, and what to do.
        what: String,
    },
}

impl Scenario {
    /// Reads a file.
    ///
    /// # Errors
    /// [`ScenarioError`] names the file, the place and what to do.
    pub fn read(path: &Path) -> Result<Self, ScenarioError> {
        let text = std::fs::read_to_string(path)
            .map_err(|source| ScenarioError::Read { path: path.to_owned(), source })?;
        Self::parse(path, &text)
    }

    /// Reads the text of a file.
    ///
    /// # Errors
    /// As [`Scenario::read`].
    pub fn parse(path: &Path, text: &str) -> Result<Self, ScenarioError> {
        let mut scenario: Self = toml::from_str(text)
            .map_err(|source| ScenarioError::Syntax { path: path.to_owned(), source: Box::new(source) })?;
        scenario.name = path.file_stem().unwrap_or_default().to_string_lossy().into_owned();
        scenario.check().map_err(|(place, what)| ScenarioError::Value {
            path: path.to_owned(),
            place,
            what,
        })?;
        Ok(scenario)
    }

    /// The place and what is wrong there.
    fn check(&self) -> Result<(), (String, String)> {
        let mut names = BTreeSet::new();
        check_time("the file", "end_s_max", self.end_s_max, S_MAX)?;
        for (field, ms) in [
            ("qmgr_chan_time1_ms", self.limits.qmgr_chan_time1_ms),
            ("qmgr_chan_time2_ms", self.limits.qmgr_chan_time2_ms),
            ("qmgr_chan_time3_ms", self.limits.qmgr_chan_time3_ms),
            ("retry_step_ms", self.limits.retry_step_ms),
            ("retry_max_ms", self.limits.retry_max_ms),
        ] {
            check_time("[limits]", field, ms, S_MAX)?;
        }
        for (at, channel) in self.channels.iter().enumerate() {
            let place = format!("[[channel]] {} {:?}", at + 1, channel.name);
            ensure(&place, !channel.name.is_empty(), || "it has no name: give it one".to_owned())?;
            ensure(&place, names.insert(channel.name.clone()), || "there are two: rename one".to_owned())?;
            let bounded =
                [("processes_max", channel.processes_max), ("capacity", channel.capacity)].into_iter();
            for (field, value) in bounded {
                ensure(&place, (1..=10_000).contains(&value), || {
                    format!("{field} is {value}: take 1 to 10000")
                })?;
            }
            for (field, ms) in [
                ("start_ms", channel.start_ms),
                ("commit_ms", channel.commit_ms),
                ("death_after_ms", channel.death_after_ms.unwrap_or(1)),
                ("idle_stop_ms", channel.idle_stop_ms),
            ] {
                check_time(&place, field, ms, S_MAX * 1_000)?;
            }
            ensure(&place, channel.death_after_ms != Some(0), || {
                "death_after_ms is 0: take 1 or more, or leave it out".to_owned()
            })?;
            check_percent(&place, "start_failure_percent", channel.start_failure_percent)?;
            check_percent(&place, "give_back_percent", channel.give_back_percent)?;
            check_percent(&place, "late_word_percent", channel.late_word_percent)?;
        }
        for (at, kind) in self.peers.iter().enumerate() {
            self.check_peer(&format!("[[peer]] {} {:?}", at + 1, kind.name), kind, &mut names)?;
        }
        let peers: usize = self.peers.iter().map(|kind| kind.count as usize).sum();
        ensure("[[peer]]", (1..=PEERS_MAX).contains(&peers), || {
            format!("there are {peers} peers: take 1 to {PEERS_MAX}")
        })?;
        for (at, arrivals) in self.arrivals.iter().enumerate() {
            self.check_arrivals(&format!("[[arrivals]] {}", at + 1), arrivals)?;
        }
        for level in self.expect.precedence.keys() {
            precedence(&format!("[expect.precedence.{level}]"), level)?;
        }
        for kind in self.expect.peer.keys() {
            self.kind_at(&format!("[expect.peer.{kind}]"), kind)?;
        }
        Ok(())
    }

    fn check_peer(
        &self,
        place: &str,
        kind: &PeerKind,
        names: &mut BTreeSet<String>,
    ) -> Result<(), (String, String)> {
        ensure(place, !kind.name.is_empty(), || "it has no name: give it one".to_owned())?;
        ensure(place, names.insert(kind.name.clone()), || {
            "a kind or a channel has this name too: rename one".to_owned()
        })?;
        let channels: Vec<&str> = self.channels.iter().map(|channel| channel.name.as_str()).collect();
        ensure(place, channels.contains(&kind.channel.as_str()), || {
            format!("channel {:?} is not in the file: name one of {channels:?}", kind.channel)
        })?;
        ensure(place, kind.count > 0, || "count is 0: take 1 or more, or remove it".to_owned())?;
        ensure(place, kind.workers != Some(0), || {
            "workers is 0: take 1 or more, or leave it out for a peer that works on all at once".to_owned()
        })?;
        for (field, value) in [
            ("jitter_percent", kind.jitter_percent),
            ("message_error_percent", kind.message_error_percent),
            ("peer_error_percent", kind.peer_error_percent),
            ("failure_percent", kind.failure_percent),
            (
                "the sum of its three errors",
                kind.message_error_percent + kind.peer_error_percent + kind.failure_percent,
            ),
        ] {
            check_percent(place, field, value)?;
        }
        for (field, ms) in [
            ("connect_ms", kind.connect_ms),
            ("connect_failure_ms", kind.connect_failure_ms),
            ("service_ms", kind.service_ms),
        ] {
            check_time(place, field, ms, ATTEMPT_MS_MAX)?;
        }
        ensure(place, kind.slowdown_percent <= 10_000, || {
            format!("slowdown_percent is {}: take 0 to 10000", kind.slowdown_percent)
        })?;
        for window in &kind.down {
            check_window(place, *window)?;
        }
        Ok(())
    }

    fn check_arrivals(&self, place: &str, arrivals: &Arrivals) -> Result<(), (String, String)> {
        ensure(place, !arrivals.to.is_empty(), || {
            "it goes to nobody: name kinds of peers in `to`".to_owned()
        })?;
        for kind in &arrivals.to {
            self.kind_at(place, kind)?;
        }
        let sum: u64 = arrivals.precedence_percent.values().sum();
        ensure(place, sum == 100, || format!("precedence_percent makes {sum}: let it make 100"))?;
        for level in arrivals.precedence_percent.keys() {
            precedence(place, level)?;
        }
        ensure(place, (1..=1_000).contains(&arrivals.recipients), || {
            format!("recipients is {}: take 1 to 1000", arrivals.recipients)
        })?;
        let peers: usize = self.peers_of(&arrivals.to).map(|(_, kind)| kind.count as usize).sum();
        ensure(place, (1..=peers).contains(&(arrivals.peers_per_message as usize)), || {
            format!("peers_per_message is {}: take 1 to {peers}", arrivals.peers_per_message)
        })?;
        for (field, s) in [
            ("from_s", arrivals.from_s),
            ("life_s", arrivals.life_s),
            ("delay_report_s", arrivals.delay_report_s.unwrap_or(0)),
        ] {
            check_time(place, field, s, S_MAX)?;
        }
        if arrivals.count > 0 {
            return ensure(place, arrivals.rate_per_s == 0.0, || {
                "it has a count and a rate: keep one, or make two of it".to_owned()
            });
        }
        check_window(place, Window { from_s: arrivals.from_s, until_s: arrivals.until_s })?;
        ensure(place, arrivals.rate_per_s > 0.0 && arrivals.rate_per_s <= 100_000.0, || {
            "it has neither a count nor a rate_per_s above 0 and up to 100000: give it one".to_owned()
        })
    }

    fn kind_at(&self, place: &str, name: &str) -> Result<(), (String, String)> {
        let kinds: Vec<&str> = self.peers.iter().map(|kind| kind.name.as_str()).collect();
        ensure(place, kinds.contains(&name), || {
            format!("there is no [[peer]] {name:?}: name one of {kinds:?}")
        })
    }

    /// The kinds of these names, and where they stand in the list.
    pub(super) fn peers_of<'a>(
        &'a self,
        names: &'a [String],
    ) -> impl Iterator<Item = (usize, &'a PeerKind)> + 'a {
        self.peers.iter().enumerate().filter(|(_, kind)| names.contains(&kind.name))
    }

    /// The names of all peers, in the order of the record.
    #[must_use]
    pub fn peer_names(&self) -> Vec<String> {
        self.peers.iter().flat_map(PeerKind::names).collect()
    }

    /// What the scheduler is configured with.
    #[must_use]
    pub fn limits(&self) -> Limits {
        let limits = &self.limits;
        Limits {
            qmgr_maxchans: limits.qmgr_maxchans,
            qmgr_reserve_urgent: limits.qmgr_reserve_urgent,
            qmgr_reserve_normal: limits.qmgr_reserve_normal,
            qmgr_chan_time1_ms: limits.qmgr_chan_time1_ms,
            qmgr_chan_time2_ms: limits.qmgr_chan_time2_ms,
            qmgr_chan_time3_ms: limits.qmgr_chan_time3_ms,
            age_share_percent: limits.age_share_percent,
            retry_step_ms: limits.retry_step_ms,
            retry_max_ms: limits.retry_max_ms,
            minimise: Vec::new(),
            drain_timeout_ms: Limits::default().drain_timeout_ms,
            drain_time_max_ms: Limits::default().drain_time_max_ms,
            channels: self.channels.iter().map(|channel| self.channel_limits(channel)).collect(),
        }
    }

    fn channel_limits(&self, channel: &ChannelKind) -> ChannelLimits {
        let kinds = self.peers.iter().filter(|kind| kind.channel == channel.name);
        let peers = kinds.flat_map(|kind| {
            kind.names().map(|name| PeerLimits {
                slots_max: kind.slots_max,
                slots_reserve: kind.slots_reserve.map(Into::into),
                ..PeerLimits::new(&name)
            })
        });
        ChannelLimits {
            processes_max: channel.processes_max,
            slots_per_process: channel.capacity,
            slots_reserve: channel.slots_reserve.into(),
            peer_slots_max: channel.peer_slots_max,
            peer_slots_min: channel.peer_slots_min,
            peer_slots_reserve: channel.peer_slots_reserve.into(),
            idle_stop_ms: channel.idle_stop_ms,
            peers: peers.collect(),
            ..ChannelLimits::new(&channel.name, [])
        }
    }
}

impl PeerKind {
    /// The names of its peers.
    pub fn names(&self) -> impl Iterator<Item = String> + '_ {
        (1..=self.count)
            .map(|number| if self.count == 1 { self.name.clone() } else { format!("{}-{number}", self.name) })
    }
}

/// An order to wait on a channel from and until these milliseconds after the beginning.
pub(super) fn order(
    channel: &str,
    peer: Option<String>,
    lowest: Precedence,
    from: u64,
    until: u64,
) -> Minimise {
    Minimise {
        name: "order".into(),
        channel: channel.into(),
        peer,
        lowest,
        from: UnixMillis(BEGINNING_MS + from),
        until: UnixMillis(BEGINNING_MS + until),
    }
}

fn ensure(place: &str, holds: bool, what: impl FnOnce() -> String) -> Result<(), (String, String)> {
    if holds { Ok(()) } else { Err((place.to_owned(), what())) }
}

fn check_percent(place: &str, field: &str, value: u64) -> Result<(), (String, String)> {
    ensure(place, value <= 100, || format!("{field} is {value}: take 0 to 100"))
}

fn check_time(place: &str, field: &str, value: u64, max: u64) -> Result<(), (String, String)> {
    ensure(place, value <= max, || format!("{field} is {value}: take 0 to {max}"))
}

fn check_window(place: &str, window: Window) -> Result<(), (String, String)> {
    check_time(place, "until_s", window.until_s, S_MAX)?;
    ensure(place, window.from_s < window.until_s, || {
        format!("it ends at {} s and begins at {} s: let it end later", window.until_s, window.from_s)
    })
}

fn precedence(place: &str, name: &str) -> Result<Precedence, (String, String)> {
    name.parse().map_err(|error| (place.to_owned(), format!("{name:?}: {error}")))
}

#[cfg(test)]
mod tests {
    use super::*;

    const GOOD: &str = r#"
        title = "one"
        end_s_max = 60
        [[channel]]
        name = "smtp"
        [[peer]]
        name = "a"
        channel = "smtp"
        count = 3
        [[arrivals]]
        to = ["a"]
        count = 3
    "#;

    fn refused(text: &str) -> String {
        let error = Scenario::parse(Path::new("x/wrong.toml"), text).expect_err(text);
        sternpost_message::chain(&error)
    }

    #[test]
    fn a_scenario_gives_the_limits_that_it_names_and_defaults_for_the_rest() {
        let scenario = Scenario::parse(Path::new("good.toml"), GOOD).expect("it is good");
        let limits = scenario.limits();
        assert_eq!((scenario.name.as_str(), limits.qmgr_maxchans), ("good", Limits::default().qmgr_maxchans));
        let names: Vec<&str> = limits.channels[0].peers.iter().map(|peer| peer.name.as_str()).collect();
        assert_eq!(names, ["a-1", "a-2", "a-3"]);
        assert_eq!(limits.channels[0], ChannelLimits::new("smtp", names));
    }

    #[test]
    fn a_scenario_that_is_wrong_is_refused_with_file_place_and_what_to_do() {
        let wrong = |from: &str, to: &str| refused(&GOOD.replace(from, to));
        let rows = [
            (
                wrong("channel = \"smtp\"", "channel = \"lmtp\""),
                "[[peer]] 1 \"a\": channel \"lmtp\" is not in the file",
            ),
            (
                wrong("to = [\"a\"]", "to = [\"b\"]"),
                "[[arrivals]] 1: there is no [[peer]] \"b\": name one of [\"a\"]",
            ),
            (wrong("count = 3\n        [[arr", "count = 0\n        [[arr"), "count is 0: take 1 or more"),
            (wrong("to = ", "rate_per_s = 2.0\n to = "), "it has a count and a rate: keep one"),
            (wrong("to = ", "precedence_percent = { flash = 9 }\n to = "), "makes 9: let it make 100"),
            (
                wrong("to = ", "precedence_percent = { flsh = 100 }\n to = "),
                "\"flsh\": a precedence is one of",
            ),
            (wrong("to = ", "tp = 1\n to = "), "line 11"),
            (wrong("name = \"smtp\"", "name = \"smtp\"\ncapacity = 0"), "capacity is 0: take 1 to 10000"),
            (wrong("title = \"one\"", ""), "missing field `title`"),
            (
                wrong("end_s_max = 60", "end_s_max = 9000000000000000000"),
                "the file: end_s_max is 9000000000000000000: take 0 to",
            ),
        ];
        for (told, wanted) in rows {
            assert!(told.contains("wrong.toml") && told.contains(wanted), "{told}\nshould say {wanted}");
        }
    }
}
