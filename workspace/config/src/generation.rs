//! From one generation of the configuration to the next.
//!
//! An entry that has become wrong keeps its last good version; a change that looks like a broken access rule waits
//! for a person. Facts → decision:
//!
//! | in force before | the new set | decision |
//! |---|---|---|
//! | nothing | has the node's entry, good | in force; wrong entries are left out |
//! | nothing | node's entry missing, doubled or wrong | unusable |
//! | something | node's entry missing | held; unusable when confirmed |
//! | something | lacks more than a fifth of a class (but of orders to wait), and at least two entries | held; in force when confirmed |
//! | something | an entry is wrong that was good | its last good version stays, and grants no more than the new one |
//! | something | an entry is wrong that never was good | left out |
//! | something | a good entry is gone | gone |

use crate::attribute::NOBODY;
use crate::load::{own_node, visible};
use crate::{Attribute, Class, Closed, Configuration, Effect, Entry, Problem, Syntax, load};
use serde::{Deserialize, Serialize};
use std::collections::{BTreeMap, BTreeSet, HashSet};

/// A generation that is in force.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct InForce {
    /// What the roles get their views from.
    pub configuration: Configuration,
    /// The entries that it was made from, with kept last good versions: what goes to disk as last known good.
    pub entries: Vec<Entry>,
    /// What a person must put right.
    pub problems: Vec<Problem>,
    /// The identity by which the node's entry was found.
    pub node_identity: String,
}

/// What comes of a new set of entries.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Step {
    /// A new generation. May be equal to the one before.
    InForce(Box<InForce>),
    /// The change takes away so much that somebody must confirm it; what was in force stays.
    Held {
        /// Why, as a sentence.
        reason: String,
        /// The DNs of the entries that would be removed.
        would_remove: Vec<String>,
    },
    /// Nothing can be made of the set; what was in force stays, if anything was.
    Unusable {
        /// Why.
        problems: Vec<Problem>,
    },
}

/// What to do with a change that takes away a lot.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Removals {
    /// Hold it.
    #[default]
    Hold,
    /// Somebody confirmed this very change: let it go into force.
    Confirmed,
}

/// A change is held when more than one part in this many of a class would go …
const HELD_PART: usize = 5;
/// … and at least so many entries.
const HELD_ENTRIES_MIN: usize = 2;

/// Compares a new set with what is in force and decides.
///
/// `node_identity` as for [`load()`]. The entries may be in any order and may hold entries of others.
#[must_use]
pub fn next(
    previous: Option<&InForce>,
    entries: Vec<Entry>,
    node_identity: &str,
    removals: Removals,
) -> Step {
    if let Some(previous) = previous
        && removals == Removals::Hold
        && let Some((reason, would_remove)) = large_removal(previous, &entries, node_identity)
    {
        return Step::Held { reason, would_remove };
    }
    let last_good: BTreeMap<&str, &Entry> = previous
        .into_iter()
        .flat_map(|previous| &previous.entries)
        .map(|entry| (entry.uuid.as_str(), entry))
        .collect();
    let mut entries = entries;
    let mut kept: BTreeSet<String> = BTreeSet::new();
    let mut problems: Vec<Problem> = Vec::new();
    // Each pass keeps at least one entry more, and each entry is kept once: the loop ends. A kept entry can make
    // another one wrong (it brings back a name) or right (a peer for a route), so everything is read again.
    let (configuration, used) = loop {
        let loaded = load(&entries, node_identity);
        let replaceable = |entry: &Entry| {
            let good = last_good.get(entry.uuid.as_str()).filter(|good| **good != entry)?;
            (loaded.wrong.contains(&entry.uuid) && !kept.contains(&entry.uuid)).then_some(*good)
        };
        // One class at a time, in the order in which they refer to each other: a peer that is wrong only because
        // its channel is must not go back to its old version when the channel does.
        let class =
            entries.iter().filter(|entry| replaceable(entry).is_some()).filter_map(Entry::class).min();
        if let Some(class) = class {
            let mut replaced = BTreeSet::new();
            for entry in entries.iter_mut().filter(|entry| entry.class() == Some(class)) {
                if let Some(good) = replaceable(entry) {
                    *entry = kept_version(good, entry);
                    replaced.insert(entry.uuid.clone());
                }
            }
            // The problems of the versions that were replaced; those of the rest come again in the last pass.
            problems.extend(loaded.problems.into_iter().filter(|problem| replaced.contains(&problem.uuid)));
            kept.extend(replaced);
            continue;
        }
        let wrong_though_kept = |problem: &Problem| loaded.wrong.contains(&problem.uuid);
        for problem in &mut problems {
            problem.effect = if wrong_though_kept(problem) { Effect::Dropped } else { Effect::KeptLastGood };
        }
        for problem in loaded.problems {
            // A kept version repeats what was noted of it when it was new; only a fresh fault is news.
            if !kept.contains(&problem.uuid) || loaded.wrong.contains(&problem.uuid) {
                problems.push(problem);
            }
        }
        break (loaded.configuration, loaded.used);
    };
    match configuration {
        Some(configuration) => {
            // The whole surroundings stay with the used entries: entries of other nodes tell what is not ours.
            let is_kept = |entry: &Entry| used.contains(&entry.uuid) || entry.class() == Some(Class::Node);
            entries.retain(is_kept);
            let node_identity = node_identity.to_owned();
            Step::InForce(Box::new(InForce { configuration, entries, problems, node_identity }))
        }
        None => Step::Unusable { problems },
    }
}

/// Whether the new set lacks the node's own entry or too much of a class, and what it lacks.
fn large_removal(previous: &InForce, entries: &[Entry], identity: &str) -> Option<(String, Vec<String>)> {
    let own = own_node(&previous.entries, &previous.node_identity).ok()?;
    if let Err(reason) = own_node(entries, identity) {
        return Some((format!("The node's own entry would be gone: {reason}."), vec![own.dn.clone()]));
    }
    let present: HashSet<(Class, &str)> =
        entries.iter().filter_map(|entry| Some((entry.class()?, entry.uuid.as_str()))).collect();
    // A directory that was filled again has new uuids below the old names.
    let names: HashSet<(Class, String)> =
        entries.iter().filter_map(|entry| Some((entry.class()?, crate::normalised_dn(&entry.dn)))).collect();
    let before = visible(&previous.entries, own);
    // Orders to wait end: what would do harm is that they went on.
    for class in Class::ALL.into_iter().filter(|class| *class != Class::Minimise) {
        let of_class = || before.iter().filter(|(of, _)| *of == class).map(|(_, entry)| *entry);
        let gone: Vec<String> = of_class()
            .filter(|entry| {
                !present.contains(&(class, entry.uuid.as_str()))
                    && !names.contains(&(class, crate::normalised_dn(&entry.dn)))
            })
            .map(|entry| entry.dn.clone())
            .collect();
        let total = of_class().count();
        if gone.len() >= HELD_ENTRIES_MIN && gone.len() * HELD_PART > total {
            let reason =
                format!("{} of {total} entries of the class {} would be gone.", gone.len(), class.name());
            return Some((reason, gone));
        }
    }
    None
}

/// The last good version of an entry, cut down so that it allows nothing that the new version does not allow.
fn kept_version(good: &Entry, new: &Entry) -> Entry {
    let mut kept = good.clone();
    let Some(class) = good.class() else { return kept };
    for attribute in class.attributes() {
        let key = attribute.name.to_ascii_lowercase();
        match attribute.closed {
            Closed::Not => {}
            Closed::Grant => {
                if let Some(values) = kept.attributes.get_mut(&key) {
                    values.retain(|value| new.values(&key).contains(value));
                }
            }
            Closed::Only { all_without } => {
                let values = in_both(good.values(&key), new.values(&key), all_without);
                if values.is_empty() {
                    kept.attributes.remove(&key);
                } else {
                    kept.attributes.insert(key, values);
                }
            }
            Closed::At(closed) => {
                let in_force = |entry| readable_value(attribute, entry).unwrap_or(closed);
                let asked = with_its_port(attribute, new, in_force(new));
                let value = narrower(attribute, closed, in_force(good), asked);
                if only_value(attribute, good) != Some(value) {
                    kept.attributes.insert(key, vec![value.to_owned()]);
                }
            }
        }
    }
    kept
}

/// The values of a [`Closed::Only`] that both versions have. Without values a version has all, or something that has no
/// value and that only itself is equal to.
fn in_both(good: &[String], new: &[String], all_without: bool) -> Vec<String> {
    match (good, new) {
        ([], []) => Vec::new(),
        ([], values) | (values, []) if all_without => values.to_vec(),
        _ => {
            let both: Vec<String> = good.iter().filter(|value| new.contains(value)).cloned().collect();
            if both.is_empty() { vec![NOBODY.to_owned()] } else { both }
        }
    }
}

/// What the word of a new version asks of the kept one. TLS from the first octet belongs to a port, and the kept version
/// has its own: it asks for as much, by STARTTLS.
fn with_its_port<'a>(attribute: &Attribute, new: &Entry, word: &'a str) -> &'a str {
    let is_immediate = || {
        let attribute = Attribute::find(Class::Peer, "peer_tls_immediate").expect("the table has it");
        readable_value(attribute, new) != Some("FALSE")
    };
    match (attribute.name, word) {
        ("sternpostTls", "immediate") => "required",
        ("sternpostPeerTls", "none" | "opportunistic") if is_immediate() => "required",
        _ => word,
    }
}

/// What the entry says, or the default; none when that cannot be read.
fn readable_value<'a>(attribute: &'a Attribute, entry: &'a Entry) -> Option<&'a str> {
    only_value(attribute, entry).filter(|value| match attribute.syntax {
        Syntax::Choice(words) => words.contains(value),
        Syntax::Order(words) => {
            *value == "none" || value.split_ascii_whitespace().all(|word| words.contains(&word))
        }
        Syntax::Boolean => matches!(*value, "TRUE" | "FALSE"),
        _ => false,
    })
}

/// The value, or the default where there is none.
fn only_value<'a>(attribute: &'a Attribute, entry: &'a Entry) -> Option<&'a str> {
    match entry.values(attribute.name) {
        [] => Some(attribute.default),
        [value] => Some(value),
        _ => None,
    }
}

/// The value that allows no more than either of two. Words to choose from stand in the table so that each allows more
/// than those before it.
fn narrower<'a>(attribute: &'a Attribute, closed: &'a str, good: &'a str, new: &'a str) -> &'a str {
    match attribute.syntax {
        _ if good == new => good,
        Syntax::Choice(words) => {
            words.iter().copied().find(|word| *word == good || *word == new).unwrap_or(closed)
        }
        _ => closed,
    }
}
