//! QMGR's tree beside the log: when all that the store had to say has reached it, it is a function of the log.

use std::collections::{BTreeMap, BTreeSet};

use sternpost_message::{
    MessageSequence, MlistId, ROUTE_DELAY_REPORT, ROUTE_FINAL_REPORT, RecipientRange, RouteIndex,
};
use sternpost_queue::MessageFacts;
use sternpost_scheduler::MlistStatus;

use super::{Kept, World};
use crate::model::Message;

type Mlists = BTreeMap<RouteIndex, MlistStatus>;

impl World {
    /// Compares the tree with the log, if there is something to compare.
    pub(crate) fn compare_tree(&mut self) -> Kept {
        if !self.tree_is_told() {
            return Ok(());
        }
        self.summary.trees_compared += 1;
        self.invariant_the_tree_equals_the_log()
    }

    /// Each recipient that waits in the log waits in the tree, with the rank that it has there, and no other does. But for
    /// delay reports: these are due by time, and the housekeeper looks whether somebody still waits when it makes one.
    fn invariant_the_tree_equals_the_log(&self) -> Kept {
        let (Some(service), Some(manager)) = (self.store.service(), self.qmgr.manager()) else {
            return Ok(());
        };
        let mut tree: BTreeMap<MessageSequence, Mlists> = BTreeMap::new();
        for mlist in manager.scheduler().mlists() {
            let MlistId { message, route } = mlist.id;
            tree.entry(message).or_default().insert(route, mlist);
        }
        for facts in service.log().messages_from(MessageSequence(0)) {
            let mlists = tree.remove(&facts.sequence).unwrap_or_default();
            let message = &self.model.messages[&facts.id];
            if !message.is_hit && service.is_isolated(facts.sequence) {
                return Err(format!("{} is kept apart and was not hit", facts.id));
            }
            if !message.is_hit {
                invariant_the_mlists_are_those_of_the_message(&facts, message, &mlists)?;
            }
        }
        // What the log sets apart while it is in use QMGR learns when it asks for it.
        let is_hit = |message: &MessageSequence| {
            self.model.sequences.get(message).is_some_and(|id| self.model.messages[id].is_hit)
        };
        tree.retain(|message, _| !is_hit(message));
        let mut left = tree.into_iter().flat_map(|(message, mlists)| {
            mlists.into_iter().map(move |(route, mlist)| (message, route, mlist))
        });
        match left.find(|(.., mlist)| !mlist.pending.is_empty()) {
            Some((message, route, _)) => Err(format!(
                "the tree has an Mlist of route {} of message {message}, which does not live in the log",
                route.0
            )),
            None => Ok(()),
        }
    }

    /// Whether nothing is left to do.
    pub(crate) fn is_over(&self) -> bool {
        let nothing_waits =
            || self.qmgr.manager().is_some_and(|manager| manager.scheduler().mlists_count() == 0);
        let nothing_lives = || {
            let service = self.store.service();
            service.is_some_and(|service| {
                let mut living = service.log().messages_from(MessageSequence(0));
                living.all(|facts| service.is_isolated(facts.sequence))
            })
        };
        self.tree_is_told()
            && self.submitters.iter().all(super::Submitter::is_over)
            && self.channels.values().all(|channel| channel.jobs.is_empty())
            && nothing_waits()
            && nothing_lives()
    }

    pub(crate) fn describe_what_is_left(&self) -> String {
        let mlists: Vec<_> = self.qmgr.manager().map_or_else(Vec::new, |manager| {
            let why = |mlist: MlistStatus| {
                let reason = manager.scheduler().why(mlist.id).map(|waiting| waiting.reason.to_string());
                format!("{} to {}: {}", mlist.id, mlist.peer, reason.unwrap_or_default())
            };
            manager.scheduler().mlists().map(why).collect()
        });
        let living: Vec<_> = self.store.service().map_or_else(Vec::new, |service| {
            service.log().messages_from(MessageSequence(0)).map(|facts| facts.sequence.0).collect()
        });
        let jobs: Vec<_> =
            self.channels.iter().map(|(process, channel)| (process, channel.jobs.len())).collect();
        let open: Vec<_> = self.submitters.iter().map(super::Submitter::is_over).collect();
        let tree = self.qmgr.manager().map(sternpost_qmgr::Manager::tree);
        let log = self.store.service().map(|service| service.log().status());
        format!(
            "log {log:?}, tree {tree:?} with {mlists:?}, log with {living:?}, channels with {jobs:?}, submitters that are done {open:?}, store up: {}",
            self.store.is_up()
        )
    }
}

fn recipients(ranges: &[RecipientRange]) -> BTreeSet<u32> {
    ranges.iter().flat_map(|range| range.first..range.end()).collect()
}

fn invariant_the_mlists_are_those_of_the_message(
    facts: &MessageFacts,
    message: &Message,
    mlists: &Mlists,
) -> Kept {
    let say = |what: String| Err(format!("message {} ({}): {what}", facts.sequence, facts.id));
    let waiting =
        |route: RouteIndex| mlists.get(&route).map_or_else(BTreeSet::new, |mlist| recipients(&mlist.pending));
    if let Some(mlist) = mlists.values().find(|mlist| mlist.precedence != facts.precedence) {
        return say(format!("{:?} in the log and {:?} in the tree", facts.precedence, mlist.precedence));
    }
    let failing = waiting(ROUTE_FINAL_REPORT);
    let owed = recipients(&facts.report_owed);
    let mut pending = BTreeSet::new();
    for route in &facts.routes {
        let here = recipients(&route.pending);
        let there = waiting(route.index);
        if !there.is_subset(&here) {
            return say(format!("route {} has {there:?} in the tree, {here:?} in the log", route.index.0));
        }
        // What has expired waits for its failure report instead.
        if let Some(lost) =
            here.iter().find(|recipient| !there.contains(recipient) && !failing.contains(recipient))
        {
            return say(format!(
                "recipient {lost} of route {} waits in the log and not in the tree",
                route.index.0
            ));
        }
        // The Mlist counts attempts, the log those of each recipient: some may be done with meanwhile. And an attempt of which a
        // snapshot has shown a part counts once more when the rest is told.
        let own = message.envelope.recipients.iter().zip(&message.recorded);
        let own = own.filter(|(recipient, _)| recipient.route == route.index);
        let most = own.map(|(_, recorded)| recorded.attempts).max().unwrap_or(0);
        if let Some(mlist) = mlists.get(&route.index)
            && mlist.attempts > most.saturating_add(1)
        {
            return say(format!("{} attempts in the tree and {most} in the log", mlist.attempts));
        }
        if route.route.peer
            != *mlists.get(&route.index).map_or(route.route.peer.as_str(), |mlist| &mlist.peer)
        {
            return say(format!("route {} leads elsewhere in the tree", route.index.0));
        }
        pending.extend(here);
    }
    if let Some(lost) = owed.iter().find(|recipient| !failing.contains(recipient)) {
        return say(format!("a report on recipient {lost} is owed in the log and does not wait in the tree"));
    }
    if let Some(more) =
        failing.iter().find(|recipient| !owed.contains(recipient) && !pending.contains(recipient))
    {
        return say(format!("a report waits on recipient {more}, who is done with in the log"));
    }
    let is_of_message = |route: &RouteIndex| {
        *route == ROUTE_FINAL_REPORT
            || *route == ROUTE_DELAY_REPORT
            || facts.routes.iter().any(|known| known.index == *route)
    };
    match mlists.iter().find(|(route, mlist)| !is_of_message(route) && !mlist.pending.is_empty()) {
        Some((route, _)) => say(format!("route {} is done with in the log and waits in the tree", route.0)),
        None => Ok(()),
    }
}
