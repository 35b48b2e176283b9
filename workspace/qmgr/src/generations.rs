//! The configuration in force: how a set of entries becomes a generation, the limits that the scheduler gets from it,
//! and the view that each role gets.

use crate::Found;
use crate::concealment;
use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use sternpost_config::{
    Channel, ChannelKind, ChannelView, ConcealmentSecret, Configuration, Entry, HOUSEKEEPER, HousekeeperView,
    InForce, Listener, Peer, Qmgr, Removals, SmtpServerView, Step,
};
use sternpost_directory::last_known_good;
use sternpost_link::store::Origin;
use sternpost_message::{DomainPeer, UnixMillis};
use sternpost_scheduler::self_test::CONNECTIONS_MIN;
use sternpost_scheduler::{ChannelLimits, Limits, Minimise, PeerLimits, Reserves};

/// The one peer of the housekeeper's channel: the reports that it makes.
pub(crate) const REPORTS: &str = "reports";

/// The peer of every channel that transfers, which stands for all null hops: a name that no configuration can give.
pub(crate) const NULL_HOPS: &str = "null:";

/// So many clients at least have a place where the self test has chosen how many connections there are.
const CLIENTS_MIN: u32 = 4;
const _: () = assert!(CONNECTIONS_MIN == CLIENTS_MIN * Listener::CONNECTIONS_PER_CLIENT_MAX_DEFAULT);

/// A change that waits for a person.
#[derive(Debug)]
pub(crate) struct HeldChange {
    pub(crate) reason: String,
    pub(crate) would_remove: Vec<String>,
    entries: Vec<Entry>,
}

/// What is in force, since when, and what waits.
#[derive(Debug)]
pub struct Generations {
    node: String,
    file: PathBuf,
    pub(crate) in_force: Option<InForce>,
    /// 0 before the first one.
    pub(crate) generation: u64,
    pub(crate) held: Option<HeldChange>,
    /// Problems of a set that could not be used at all.
    pub(crate) unusable: Vec<sternpost_config::Problem>,
    found: Found,
    concealment: ConcealmentSecret,
}

impl Generations {
    /// Nothing is in force yet. The last known good one lives in `state_directory`.
    #[must_use]
    pub fn new(node: String, state_directory: &Path, found: Found) -> Self {
        let file = state_directory.join("configuration.last-known-good");
        let concealment = concealment::secret(state_directory);
        let (held, unusable) = (None, Vec::new());
        Self { node, file, in_force: None, generation: 0, held, unusable, found, concealment }
    }

    /// Puts the last known good configuration into force, if there is one. True when it is.
    pub(crate) fn load_last_known_good(&mut self) -> bool {
        match last_known_good::load(&self.file) {
            Ok(entries) => {
                tracing::info!(
                    event = "configuration.last-known-good",
                    entries = entries.len(),
                    "running from the last known good configuration until the directory answers"
                );
                self.begin_with(entries)
            }
            Err(last_known_good::LastKnownGoodError::Missing(_)) => false,
            Err(error) => {
                tracing::error!(event = "configuration.last-known-good.damaged", error = &error as &dyn std::error::Error, file = %self.file.display(), "the last known good configuration cannot be read; waiting for the directory");
                false
            }
        }
    }

    /// Puts entries into force that were kept somewhere. True when they are.
    pub fn begin_with(&mut self, entries: Vec<Entry>) -> bool {
        self.step(entries, Removals::Hold, false)
    }

    /// Takes a set of entries from the directory. True when a new generation is in force.
    pub(crate) fn take(&mut self, entries: Vec<Entry>) -> bool {
        self.step(entries, Removals::Hold, true)
    }

    /// Puts the held change into force.
    pub(crate) fn confirm(&mut self) -> bool {
        self.held.take().is_some_and(|held| self.step(held.entries, Removals::Confirmed, true))
    }

    fn step(&mut self, entries: Vec<Entry>, removals: Removals, save: bool) -> bool {
        let held_entries = entries.clone();
        match sternpost_config::next(self.in_force.as_ref(), entries, &self.node, removals) {
            Step::InForce(next) => {
                self.held = None;
                self.unusable.clear();
                for problem in &next.problems {
                    tracing::warn!(
                        event = "configuration.problem",
                        dn = problem.dn,
                        attribute = problem.attribute,
                        "{problem}"
                    );
                }
                let is_new = self.in_force.as_ref().is_none_or(|old| old.configuration != next.configuration);
                if save && let Err(error) = last_known_good::save(&self.file, &next.entries) {
                    tracing::error!(
                        event = "configuration.not-saved",
                        error = &error as &dyn std::error::Error,
                        "the configuration is in force, but would not survive a restart without the directory"
                    );
                }
                self.in_force = Some(*next);
                if is_new {
                    self.generation += 1;
                    tracing::info!(
                        event = "configuration.in-force",
                        generation = self.generation,
                        "a new configuration is in force"
                    );
                }
                is_new
            }
            Step::Held { reason, would_remove } => {
                tracing::warn!(
                    event = "configuration.held",
                    reason,
                    "a change of the directory waits for confirmation: sternpost config confirm"
                );
                self.held = Some(HeldChange { reason, would_remove, entries: held_entries });
                false
            }
            Step::Unusable { problems } => {
                for problem in &problems {
                    tracing::error!(event = "configuration.unusable", dn = problem.dn, "{problem}");
                }
                self.unusable = problems;
                false
            }
        }
    }

    /// The configuration in force.
    pub(crate) fn configuration(&self) -> Option<&Configuration> {
        self.in_force.as_ref().map(|in_force| &in_force.configuration)
    }

    /// The names of the listeners in force.
    pub(crate) fn listeners(&self) -> BTreeSet<String> {
        let listeners = self.configuration().into_iter().flat_map(|configuration| &configuration.listeners);
        listeners.map(|listener| listener.name.clone()).collect()
    }

    /// The view of `smtp-server`, encoded.
    pub(crate) fn smtp_server_view(&self) -> Option<Vec<u8>> {
        let configuration = self.configuration()?;
        let connections = |listener: &Listener| {
            let (max, _) = self.connections_max(configuration, listener);
            (max, self.connections_per_client_max(configuration, listener).0)
        };
        let mut view = SmtpServerView::new(configuration, connections);
        view.concealment = self.concealment.clone();
        encode(&view)
    }

    /// The view of a process of `channel`, encoded; none when there is no such channel.
    pub(crate) fn channel_view(&self, channel: &str) -> Option<Vec<u8>> {
        let configuration = self.configuration()?;
        if channel == HOUSEKEEPER {
            return encode(&HousekeeperView::new(configuration)?);
        }
        encode(&ChannelView::new(configuration, channel)?)
    }

    /// Channel processes at a time, and who has chosen how many. What is not the operator's number grows with the
    /// operator's reserves: those must leave a process for other mail.
    pub(crate) fn maxchans(&self) -> Option<(u32, Origin)> {
        let qmgr = &self.configuration()?.qmgr;
        let reserves = qmgr.qmgr_reserve_urgent.saturating_add(qmgr.qmgr_reserve_normal);
        let fewest = reserves.saturating_add(1);
        Some(match (qmgr.qmgr_maxchans, self.found.channel_processes_max) {
            (Some(maxchans), _) => (maxchans, Origin::Operator),
            (None, Some(measured)) => (measured.max(fewest), Origin::SelfTest),
            (None, None) => (Qmgr::MAXCHANS_DEFAULT.max(fewest), Origin::Default),
        })
    }

    /// Associations of one process of a channel, and who has chosen how many. What the self test found grows with the
    /// operator's reserves: those must leave a slot for other mail. What the housekeeper does are no associations.
    pub(crate) fn slots_per_process(&self, channel: &Channel) -> (u32, Origin) {
        let found = self.found.slots_per_process.filter(|_| channel.kind != ChannelKind::Housekeeper);
        match (channel.slots_per_process, found) {
            (Some(slots), _) => (slots, Origin::Operator),
            (None, Some(found)) => {
                let reserves = channel.slots_reserve_urgent.saturating_add(channel.slots_reserve_normal);
                let fewest = reserves / channel.processes_max.max(1) + 1;
                (found.max(fewest), Origin::SelfTest)
            }
            (None, None) => (Channel::SLOTS_PER_PROCESS_DEFAULT, Origin::Default),
        }
    }

    /// Connections of a listener, and who has chosen how many. What the self test found is shared: a flood on one
    /// listener takes nothing from another one, and all of them together stay within what the machine bears.
    pub(crate) fn connections_max(
        &self,
        configuration: &Configuration,
        listener: &Listener,
    ) -> (u32, Origin) {
        match (listener.connections_max, self.found.connections_max) {
            (Some(connections), _) => (connections, Origin::Operator),
            (None, Some(found)) => {
                let listeners = u32::try_from(configuration.listeners.len()).unwrap_or(u32::MAX);
                ((found / listeners.max(1)).max(1), Origin::SelfTest)
            }
            (None, None) => (Listener::CONNECTIONS_MAX_DEFAULT, Origin::Default),
        }
    }

    /// Connections of one client of a listener, and who has chosen how many. Where the share that the self
    /// test gives a listener is small, one client gets a quarter of it: else it could have the listener to itself.
    pub(crate) fn connections_per_client_max(
        &self,
        configuration: &Configuration,
        listener: &Listener,
    ) -> (u32, Origin) {
        let default = (Listener::CONNECTIONS_PER_CLIENT_MAX_DEFAULT, Origin::Default);
        match (listener.connections_per_client_max, self.connections_max(configuration, listener)) {
            (Some(connections), _) => (connections, Origin::Operator),
            (None, (all, Origin::SelfTest)) => {
                // One at least: 0 is no limit.
                let part = (all / CLIENTS_MIN).max(1);
                if part < default.0 { (part, Origin::SelfTest) } else { default }
            }
            (None, _) => default,
        }
    }

    /// The limits of the scheduler, whose instants are those that `lived_of` makes of the wall clock's.
    pub(crate) fn limits(&self, lived_of: impl Fn(UnixMillis) -> UnixMillis) -> Option<Limits> {
        let configuration = self.configuration()?;
        let qmgr = &configuration.qmgr;
        Some(Limits {
            qmgr_maxchans: self.maxchans()?.0,
            qmgr_reserve_urgent: qmgr.qmgr_reserve_urgent,
            qmgr_reserve_normal: qmgr.qmgr_reserve_normal,
            qmgr_chan_time1_ms: u64::from(qmgr.qmgr_chan_time1_ms),
            qmgr_chan_time2_ms: u64::from(qmgr.qmgr_chan_time2_ms),
            qmgr_chan_time3_ms: u64::from(qmgr.qmgr_chan_time3_ms),
            drain_timeout_ms: u64::from(qmgr.drain_timeout_s) * 1_000,
            drain_time_max_ms: u64::from(qmgr.drain_time_max_s) * 1_000,
            age_share_percent: qmgr.qmgr_age_share_percent,
            retry_step_ms: u64::from(qmgr.retry_step_s) * 1_000,
            retry_max_ms: u64::from(qmgr.retry_max_s) * 1_000,
            minimise: configuration
                .minimise
                .iter()
                .flat_map(|order| minimise(configuration, order, &lived_of))
                .collect(),
            channels: configuration
                .channels
                .iter()
                .map(|channel| channel_limits(configuration, channel, self.slots_per_process(channel).0))
                .collect(),
        })
    }

    /// What a process of a channel does, and how many Mlists a process of it takes.
    pub(crate) fn channel_start(&self, channel: &str) -> Option<(sternpost_link::ChannelKind, u32)> {
        let channel = self.configuration()?.channel(channel)?;
        let kind = match channel.kind {
            ChannelKind::Smtp => sternpost_link::ChannelKind::Smtp,
            ChannelKind::Lmtp => sternpost_link::ChannelKind::Lmtp,
            ChannelKind::Housekeeper => sternpost_link::ChannelKind::Housekeeper,
        };
        Some((kind, self.slots_per_process(channel).0))
    }
}

fn channel_limits(configuration: &Configuration, channel: &Channel, slots_per_process: u32) -> ChannelLimits {
    // What is no peer MTA has nothing that it bears.
    let own = |name| PeerLimits { slots_min: Some(u32::MAX), ..PeerLimits::new(name) };
    let peers = if channel.kind == ChannelKind::Housekeeper {
        vec![own(REPORTS)]
    } else {
        let configured = configuration.peers.iter().filter(|peer| peer.channel == channel.name);
        configured.map(|peer| peer_limits(channel, peer)).chain([own(NULL_HOPS)]).collect()
    };
    ChannelLimits {
        name: channel.name.clone(),
        processes_max: channel.processes_max,
        slots_per_process,
        slots_reserve: Reserves {
            urgent: channel.slots_reserve_urgent,
            normal: channel.slots_reserve_normal,
        },
        peer_slots_max: channel.associations_per_peer_max,
        peer_slots_min: channel.associations_per_peer_min,
        peer_slots_reserve: Reserves {
            urgent: channel.associations_per_peer_reserve_urgent,
            normal: channel.associations_per_peer_reserve_normal,
        },
        idle_stop_ms: u64::from(channel.idle_stop_s) * 1_000,
        peers,
    }
}

fn peer_limits(channel: &Channel, peer: &Peer) -> PeerLimits {
    PeerLimits {
        name: tree_name(peer),
        slots_max: peer.associations_max,
        slots_min: peer.associations_min,
        slots_reserve: Some(Reserves {
            urgent: peer.associations_reserve_urgent.unwrap_or(channel.associations_per_peer_reserve_urgent),
            normal: peer.associations_reserve_normal.unwrap_or(channel.associations_per_peer_reserve_normal),
        }),
    }
}

/// What a peer is called in the tree: one that stands for domains by what the names of their peers begin with.
fn tree_name(peer: &Peer) -> String {
    if peer.is_by_dns() { DomainPeer::prefix(&peer.name) } else { peer.name.clone() }
}

/// The order for each channel where it holds. One that names neither channel nor peer holds on all but the housekeeper's:
/// a report is made in time, and waits where it goes out.
fn minimise(
    configuration: &Configuration,
    order: &sternpost_config::Minimise,
    lived_of: impl Fn(UnixMillis) -> UnixMillis,
) -> Vec<Minimise> {
    let peer = order
        .peer
        .as_deref()
        .map(|name| configuration.peer(name).expect("every name that is referred to exists"));
    let channels: Vec<&str> = match (peer, order.channel.as_deref()) {
        (Some(peer), _) => vec![&peer.channel],
        (None, Some(channel)) => vec![channel],
        (None, None) => {
            let all =
                configuration.channels.iter().filter(|channel| channel.kind != ChannelKind::Housekeeper);
            all.map(|channel| channel.name.as_str()).collect()
        }
    };
    let from = order.from.map_or(UnixMillis(0), |at| lived_of(at.0));
    let until = order.until.map_or(UnixMillis(u64::MAX), |at| lived_of(at.0));
    channels
        .into_iter()
        .map(|channel| Minimise {
            name: order.name.as_str().into(),
            channel: channel.to_owned(),
            peer: peer.map(tree_name),
            lowest: order.lowest,
            from,
            until,
        })
        .collect()
}

fn encode<T: serde::Serialize>(view: &T) -> Option<Vec<u8>> {
    postcard::to_stdvec(view)
        .inspect_err(|error| {
            tracing::error!(error = error as &dyn std::error::Error, "a view cannot be encoded");
        })
        .ok()
}

#[cfg(test)]
mod tests {
    use super::*;
    use sternpost_message::Precedence;

    /// Channel processes with these lines in the table of QMGR, when the self test found so many.
    fn maxchans(lines: &str, measured: Option<u32>) -> Option<(u32, Origin)> {
        let folder = tempfile::tempdir().unwrap();
        let found = Found { channel_processes_max: measured, ..Found::default() };
        let mut generations = Generations::new("north".into(), folder.path(), found);
        assert_eq!(generations.maxchans(), None);
        let tables = format!("[node]\nname = \"north\"\nhostname = \"mx.example.org\"\n[qmgr]\n{lines}");
        assert!(generations.take(sternpost_config::entries_from_tables(&tables).unwrap()));
        let maxchans = generations.maxchans();
        assert_eq!(
            generations.limits(|wall| wall).map(|limits| limits.qmgr_maxchans),
            maxchans.map(|(count, _)| count)
        );
        maxchans
    }

    #[test]
    fn an_order_to_wait_holds_at_the_lived_instants_of_its_wall_clock_times() {
        let folder = tempfile::tempdir().unwrap();
        let mut generations = Generations::new("north".into(), folder.path(), Found::default());
        let tables = r#"
            [node]
            name = "north"
            hostname = "mx.example.org"
            [[channel]]
            name = "smtp"
            kind = "smtp"
            associations_per_peer_reserve_urgent = 3
            [[peer]]
            name = "far"
            channel = "smtp"
            address = "192.0.2.1:25"
            associations_reserve_normal = 2
            associations_min = 4
            [[minimise]]
            name = "a"
            lowest_precedence = "flash"
            minimise_peer = "far"
            minimise_from = "1970-01-01T00:00:02Z"
            [[minimise]]
            name = "b"
            lowest_precedence = "priority"
            minimise_until = "19700101000005Z"
        "#;
        assert!(generations.take(sternpost_config::entries_from_tables(tables).unwrap()));
        // The clock was set one second ahead since this life began.
        let limits = generations.limits(|wall| UnixMillis(wall.0 - 1_000)).unwrap();
        let order = |name: &str, peer: Option<&str>, lowest, from, until| Minimise {
            name: name.into(),
            channel: "smtp".into(),
            peer: peer.map(str::to_owned),
            lowest,
            from: UnixMillis(from),
            until: UnixMillis(until),
        };
        // The one for the whole switch leaves out the housekeeper.
        assert_eq!(
            limits.minimise,
            [
                order("a", Some("far"), Precedence::Flash, 1_000, u64::MAX),
                order("b", None, Precedence::Priority, 0, 4_000),
            ]
        );
        let smtp = limits.channels.iter().find(|channel| channel.name == "smtp").unwrap();
        let far = smtp.peers.iter().find(|peer| peer.name == "far").unwrap();
        assert_eq!(far.slots_reserve, Some(Reserves { urgent: 3, normal: 2 }));
        assert_eq!((smtp.peer_slots_min, far.slots_min), (1, Some(4)));
        assert_eq!((limits.qmgr_chan_time1_ms, limits.qmgr_chan_time3_ms), (1_000, 500));
    }

    #[test]
    fn the_operators_maximum_goes_before_the_measured_one_and_that_before_the_default() {
        assert_eq!(maxchans("", None), Some((16, Origin::Default)));
        assert_eq!(maxchans("", Some(9)), Some((9, Origin::SelfTest)));
        assert_eq!(maxchans("qmgr_maxchans = 30", Some(9)), Some((30, Origin::Operator)));
        let reserves = "qmgr_reserve_urgent = 7\nqmgr_reserve_normal = 5";
        assert_eq!(maxchans(reserves, Some(4)), Some((13, Origin::SelfTest)));
    }

    /// A name, its number, and who has chosen that.
    type Shared = Vec<(String, u32, Origin)>;

    /// Each channel's slots and each listener's connections, with what the self test found.
    fn shares(found: Found) -> (Shared, Shared) {
        let folder = tempfile::tempdir().unwrap();
        let mut generations = Generations::new("north".into(), folder.path(), found);
        let tables = r#"
            [node]
            name = "north"
            hostname = "mx.example.org"
            [[listener]]
            name = "in"
            addresses = ["127.0.0.1:25"]
            [[listener]]
            name = "inside"
            addresses = ["127.0.0.2:25"]
            connections_max = 7
            [[channel]]
            name = "lmtp"
            kind = "lmtp"
            slots_per_process = 3
            [[channel]]
            name = "smtp"
            kind = "smtp"
            [[channel]]
            name = "urgent"
            kind = "smtp"
            slots_reserve_urgent = 150
            processes_max = 3
            [[channel]]
            name = "housekeeper"
            kind = "housekeeper"
        "#;
        assert!(generations.take(sternpost_config::entries_from_tables(tables).unwrap()));
        let configuration = generations.configuration().unwrap();
        let limits = generations.limits(|wall| wall).unwrap();
        let slots = configuration.channels.iter().map(|channel| {
            let (slots, from) = generations.slots_per_process(channel);
            let of_scheduler = limits.channels.iter().find(|limits| limits.name == channel.name).unwrap();
            assert_eq!(of_scheduler.slots_per_process, slots, "the scheduler counts by the same number");
            assert_eq!(generations.channel_start(&channel.name).unwrap().1, slots, "and a process gets it");
            (channel.name.clone(), slots, from)
        });
        let view: SmtpServerView = postcard::from_bytes(&generations.smtp_server_view().unwrap()).unwrap();
        let connections = configuration.listeners.iter().map(|listener| {
            let (connections, from) = generations.connections_max(configuration, listener);
            let seen = view.listeners.iter().find(|seen| seen.name == listener.name).unwrap();
            let (per_client, _) = generations.connections_per_client_max(configuration, listener);
            let given = (seen.connections_max, seen.connections_per_client_max);
            assert_eq!(given, (Some(connections), Some(per_client)), "the SMTP server gets the same numbers");
            (listener.name.clone(), connections, from)
        });
        (slots.collect(), connections.collect())
    }

    #[test]
    fn slots_and_connections_are_the_operators_then_the_self_tests_then_the_defaults() {
        let row = |name: &str, value, from| (name.to_owned(), value, from);
        let (slots, connections) = shares(Found::default());
        let lmtp = row("lmtp", 3, Origin::Operator);
        let defaults = [
            row("housekeeper", 64, Origin::Default),
            lmtp.clone(),
            row("smtp", 64, Origin::Default),
            row("urgent", 64, Origin::Default),
        ];
        assert_eq!(slots, defaults);
        assert_eq!(connections, [row("in", 1_000, Origin::Default), row("inside", 7, Origin::Operator)]);
        let found = Found { slots_per_process: Some(20), connections_max: Some(501), ..Found::default() };
        let (slots, connections) = shares(found);
        // 154 slots are kept free, and three processes of 52 have two more.
        let found = [
            row("housekeeper", 64, Origin::Default),
            lmtp,
            row("smtp", 20, Origin::SelfTest),
            row("urgent", 52, Origin::SelfTest),
        ];
        assert_eq!(slots, found);
        assert_eq!(connections, [row("in", 250, Origin::SelfTest), row("inside", 7, Origin::Operator)]);
    }

    #[test]
    fn one_client_gets_a_quarter_of_what_the_self_test_found_at_most_unless_the_operator_says() {
        // What the self test found for two listeners, what the operator says of the first one, and what one client gets there.
        let rows = [
            (None, "", (100, Origin::Default)),
            (Some(65_535), "", (100, Origin::Default)),
            (Some(800), "", (100, Origin::Default)),
            (Some(CONNECTIONS_MIN), "", (50, Origin::SelfTest)),
            (Some(2), "", (1, Origin::SelfTest)),
            (Some(CONNECTIONS_MIN), "connections_per_client_max = 0", (0, Origin::Operator)),
            (Some(CONNECTIONS_MIN), "connections_max = 60", (100, Origin::Default)),
        ];
        for (connections_max, line, wanted) in rows {
            let folder = tempfile::tempdir().unwrap();
            let found = Found { connections_max, ..Found::default() };
            let mut generations = Generations::new("north".into(), folder.path(), found);
            let tables = format!(
                "[node]\nname = \"north\"\nhostname = \"mx.example.org\"\n\
                 [[listener]]\nname = \"in\"\naddresses = [\"127.0.0.1:25\"]\n{line}\n\
                 [[listener]]\nname = \"other\"\naddresses = [\"127.0.0.2:25\"]\n"
            );
            assert!(generations.take(sternpost_config::entries_from_tables(&tables).unwrap()));
            let configuration = generations.configuration().unwrap();
            let listener = &configuration.listeners[0];
            let got = generations.connections_per_client_max(configuration, listener);
            assert_eq!(got, wanted, "{connections_max:?} {line}");
        }
    }
}
