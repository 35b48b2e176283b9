//! What QMGR tells operators, as JSON.

use crate::generations::{Generations, NULL_HOPS};
use crate::lived::Clocks;
use crate::manager::{Manager, Tree};
use serde_json::{Map, Value, json};
use std::cmp::Reverse;
use sternpost_config::{Channel, Listener};
use sternpost_link::qmgr::{ListenerConnections, Question};
use sternpost_link::store::Origin;
use sternpost_message::{DomainPeer, MessageId, Precedence};
use sternpost_platform::clock::Timepiece;
use sternpost_platform::wire::Wire;
use sternpost_scheduler::{ChannelStatus, NextProcess, PeerStatus, Start, Status};

/// Answers a question.
///
/// # Errors
/// A sentence when there is no answer.
pub(crate) fn answer<L: Wire, T: Timepiece>(
    manager: &mut Manager<L, T>,
    question: &Question,
) -> Result<Value, String> {
    match question {
        Question::Status => Ok(status(manager)),
        Question::Configuration => match &manager.generations.in_force {
            Some(in_force) => Ok(json!({
                "generation": manager.generations.generation,
                "configuration": in_force.configuration,
                "problems": in_force.problems,
            })),
            None => Err(none_in_force(manager)),
        },
        Question::Why { message } => why(manager, *message),
        Question::ConfirmConfiguration => {
            if manager.confirm() {
                Ok(json!({ "generation": manager.generations.generation }))
            } else {
                Err("no change waits for confirmation".to_owned())
            }
        }
    }
}

/// Why nothing is in force: what there is of the directory, and what was wrong with what came.
fn none_in_force<L: Wire, T: Timepiece>(manager: &Manager<L, T>) -> String {
    let since = manager.clocks.name(manager.directory_since);
    let mut why = format!("no configuration is in force yet; {} (since {since})", manager.directory);
    if let Some(first) = manager.generations.unusable.first() {
        why.push_str(&format!("; what came cannot be used: {first}"));
        if manager.generations.unusable.len() > 1 {
            why.push_str(&format!(" (and {} more)", manager.generations.unusable.len() - 1));
        }
    }
    why
}

fn status<L: Wire, T: Timepiece>(manager: &Manager<L, T>) -> Value {
    let generations = &manager.generations;
    json!({
        "tree": match manager.tree {
            Tree::Waiting => "waiting for the store and the channels",
            Tree::Snapshot | Tree::Recounting | Tree::Marking(_) => "building",
            Tree::Going => "going",
        },
        "configuration": {
            "generation": generations.generation,
            "problems": generations.in_force.as_ref().map(|in_force| &in_force.problems),
            "none_in_force": generations.in_force.is_none().then(|| none_in_force(manager)),
            "unusable": generations.unusable,
            "held": generations.held.as_ref().map(|held| json!({
                "reason": held.reason,
                "would_remove": held.would_remove,
            })),
        },
        "directory": manager.directory,
        "directory_connected": manager.directory_away_since.is_none(),
        "directory_away": manager.directory_away_since.map(|since| json!({
            "since": manager.clocks.name(since),
            "for_s": manager.clocks.now().0.saturating_sub(since.0) / 1_000,
        })),
        "directory_since": manager.clocks.name(manager.directory_since),
        "connections": manager.servers.connections().iter().map(|one| connections(one, generations)).collect::<Vec<_>>(),
        "recording": manager.recording.status(),
        "mlists_in_progress": manager.processes.holders_count(),
        "channel_processes_max": generations.maxchans().map(chosen),
        "slots_per_process": generations.configuration().map(|configuration| {
            let chosen = |one: &Channel| (one.name.clone(), chosen(generations.slots_per_process(one)));
            configuration.channels.iter().map(chosen).collect::<Map<_, _>>()
        }),
        "connections_max": generations.configuration().map(|configuration| {
            let chosen =
                |one: &Listener| (one.name.clone(), chosen(generations.connections_max(configuration, one)));
            configuration.listeners.iter().map(chosen).collect::<Map<_, _>>()
        }),
        "connections_per_client_max": generations.configuration().map(|configuration| {
            let chosen = |one: &Listener| {
                (one.name.clone(), chosen(generations.connections_per_client_max(configuration, one)))
            };
            configuration.listeners.iter().map(chosen).collect::<Map<_, _>>()
        }),
        "scheduler": scheduler(&manager.scheduler.status(), &manager.clocks),
    })
}

/// A value, and who has chosen it.
fn chosen((value, from): (u32, Origin)) -> Value {
    json!({ "value": value, "from": from.name() })
}

/// A listener's connections by what their clients may ask for.
fn connections(listener: &ListenerConnections, generations: &Generations) -> Value {
    json!({
        "listener": listener.listener,
        "urgent": listener.urgent,
        "normal": listener.normal,
        "non_urgent": listener.non_urgent,
        "max": listener.max,
        "max_for_normal": listener.max_for_normal,
        "max_for_non_urgent": listener.max_for_non_urgent,
        "refused": listener.refused,
        "not_kept": generations.configuration().and_then(|configuration| {
            let is_it = |one: &&Listener| one.name == listener.listener;
            let ordinary = configuration.node.priority_policy.ordinary();
            not_kept(configuration.listeners.iter().find(is_it)?, ordinary)
        }),
    })
}

/// Which reserves of connections are not kept, and why; none when all are.
fn not_kept(listener: &Listener, ordinary: Precedence) -> Option<String> {
    let (urgent, normal) = listener.connections_reserves_in_force(ordinary);
    let reserves = [
        ("connections_reserve_urgent", urgent < listener.connections_reserve_urgent),
        ("connections_reserve_normal", normal < listener.connections_reserve_normal),
    ];
    let names: Vec<_> = reserves.into_iter().filter(|(_, is_not)| *is_not).map(|(name, _)| name).collect();
    (!names.is_empty()).then(|| {
        format!(
            "{} would help nobody: no client of this listener may ask for more than {}",
            names.join(" and "),
            listener.precedence_max_of_all(ordinary)
        )
    })
}

fn scheduler(status: &Status, clocks: &Clocks<impl Timepiece>) -> Value {
    let counts = &status.counts;
    json!({
        "waiting": counts.waiting,
        "runnable": counts.runnable,
        "in_progress": counts.in_progress,
        "awaiting_outcome": counts.awaiting_outcome,
        "processes": status.processes,
        "processes_max": status.processes_max,
        "channels": status.channels.iter().map(|one| channel(one, clocks)).collect::<Vec<_>>(),
    })
}

/// Of the domains that are peers by DNS, those for which most mail waits: there may be as many as messages, and health asks often.
const DOMAINS_SHOWN: usize = 100;

fn channel(channel: &ChannelStatus, clocks: &Clocks<impl Timepiece>) -> Value {
    // The switch's own probes are no mail of anybody's.
    let peers = channel.peers.iter().filter(|peer| *peer.name != *NULL_HOPS);
    let (mut domains, mut peers): (Vec<_>, Vec<_>) =
        peers.partition(|peer| DomainPeer::of_peer(&peer.name).is_some());
    let omitted = domains.len().saturating_sub(DOMAINS_SHOWN);
    domains.sort_by_key(|peer| Reverse(peer.waiting));
    domains.truncate(DOMAINS_SHOWN);
    peers.extend(domains);
    json!({
        "name": *channel.name,
        "is_configured": channel.is_configured,
        "waiting": channel.waiting,
        "runnable": channel.runnable,
        "in_progress": channel.in_progress,
        "slots": channel.slots,
        "slots_used": channel.slots_used,
        "processes": channel.processes,
        "processes_starting": channel.processes_starting,
        "processes_draining": channel.processes_draining,
        "processes_leaving": channel.processes_leaving,
        "drain_until": channel.drain_until.map(|at| clocks.name(at)),
        "drain_until_max": channel.drain_until_max.map(|at| clocks.name(at)),
        "failures": channel.failures,
        "slots_for_non_urgent": channel.slots_for_non_urgent,
        "slots_for_normal": channel.slots_for_normal,
        "last_start": last_start(channel.last_start, clocks),
        "next_process": next_process(channel.next_process, clocks),
        "peers": peers.into_iter().map(|one| peer(one, clocks)).collect::<Vec<_>>(),
        "peers_omitted": omitted,
    })
}

/// What the last process was started for; null before the first one.
fn last_start(start: Option<Start>, clocks: &Clocks<impl Timepiece>) -> Value {
    let Some(start) = start else { return Value::Null };
    json!({
        "process": start.process.0,
        "at": clocks.name(start.at),
        "for_precedence": start.need.map(|(precedence, _)| precedence.name()),
        "for_waiting": start.need.map(|(_, waiting)| waiting),
    })
}

/// What stands against one more process; null when none is needed.
fn next_process(next: NextProcess, clocks: &Clocks<impl Timepiece>) -> Value {
    match next {
        NextProcess::NotNeeded => Value::Null,
        NextProcess::Waits { precedence, waiting, waiting_for } => json!({
            "for_precedence": precedence.name(),
            "for_waiting": waiting,
            "reason": waiting_for.reason.to_string(),
            "until": waiting_for.until.map(|at| clocks.name(at)),
        }),
    }
}

fn peer(peer: &PeerStatus, clocks: &Clocks<impl Timepiece>) -> Value {
    json!({
        "name": *peer.name,
        "is_configured": peer.is_configured,
        "waiting": peer.waiting,
        "delayed": peer.delayed,
        "in_progress": peer.in_progress,
        "slots_max": peer.slots_max,
        "slots_borne": peer.slots_borne,
        "slots_for_non_urgent": peer.slots_for_non_urgent,
        "slots_for_normal": peer.slots_for_normal,
        "lowest_precedence": peer.lowest.name(),
        "errors": peer.errors,
        "delayed_until": peer.delayed_until.map(|at| clocks.name(at)),
        "oldest_accepted_at": peer.oldest_accepted_at.map(|at| clocks.name(at)),
    })
}

fn why<L: Wire, T: Timepiece>(manager: &Manager<L, T>, id: MessageId) -> Result<Value, String> {
    let sequence = manager.messages.find(id).ok_or_else(|| format!("no living message {id}"))?;
    let message = manager.messages.get(sequence).ok_or_else(|| format!("no living message {id}"))?;
    let mlists: Vec<_> = message
        .mlists(sequence)
        .filter_map(|mlist| {
            let waiting = manager.scheduler.why(mlist)?;
            let there = manager.scheduler.whereabouts(mlist)?;
            Some(json!({
                "mlist": mlist.to_string(),
                "channel": *there.channel,
                "peer": *there.peer,
                "reason": waiting.reason.to_string(),
                "until": waiting.until.map(|at| manager.clocks.name(at)),
                "orders": there.orders.iter().map(|name| &**name).collect::<Vec<_>>(),
                "last_start": last_start(there.last_start, &manager.clocks),
                "next_process": next_process(there.next_process, &manager.clocks),
            }))
        })
        .collect();
    Ok(json!({ "id": id.to_string(), "precedence": message.precedence.name(), "mlists": mlists }))
}
