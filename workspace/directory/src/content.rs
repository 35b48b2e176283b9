//! The copy of the directory that RFC 4533 keeps up to date: a machine without I/O.
//!
//! Entries are known by their entryUUID and by nothing else: a renamed entry comes as a modified one with another DN.
//! Facts → decision:
//!
//! | what comes | what it means here |
//! |---|---|
//! | refreshPresent at the end of a present phase | what was neither sent nor named as present is gone |
//! | refreshDelete, syncIdSet with refreshDeletes | what is named is gone, the rest stays |
//! | end of the refresh without a cookie, after we sent one | the server did not know our cookie and tells nothing of deletions: all is dropped and read anew |
//! | end of the refresh without a cookie, when we sent none | complete; the next session reads all again |
//! | result 53 or 4096 after we sent a cookie | the cookie is from another time of the server: all is dropped and read anew |
//! | the copy holds what the server has not, after a refresh from a cookie | all is dropped and read anew |
//! | more entries or octets than the bounds | all is dropped; the session fails, what was handed over stays |
//! | an empty cookie | never kept |
//! | a cookie in the middle of a refresh | not kept: it would claim what is not complete |

use std::collections::{BTreeMap, BTreeSet};
use sternpost_config::Entry;

/// unwillingToPerform: OpenLDAP's answer to a cookie from its future (a restored backup).
const UNWILLING_TO_PERFORM: u32 = 53;
/// e-syncRefreshRequired. RFC 4533, 2.5.
const SYNC_REFRESH_REQUIRED: u32 = 4096;

/// The most entries of one set, and the most uuids that a present phase names.
pub(crate) const ENTRIES_MAX: usize = 100_000;

/// The most that one set takes in memory, by [`memory_octets`]: 64 MiB, or 671 octets for each of 100,000 entries.
pub(crate) const OCTETS_MAX: usize = 64 << 20;

/// What texts of these lengths take in memory, about: a text without a single octet takes its place, too.
pub(crate) fn memory_octets(lengths: impl Iterator<Item = usize>) -> usize {
    lengths.map(|octets| octets + size_of::<String>()).sum()
}

fn entry_octets(entry: &Entry) -> usize {
    let attributes = entry.attributes.iter();
    memory_octets(
        [entry.uuid.len(), entry.dn.len()]
            .into_iter()
            .chain(attributes.flat_map(|(name, values)| {
                std::iter::once(name.len()).chain(values.iter().map(String::len))
            })),
    )
}

/// What the server says, apart from its encoding. A cookie may be absent or empty, which is the same.
#[derive(Clone, Debug)]
pub(crate) enum Sync {
    /// The entry is new or has changed.
    Put(Entry),
    /// The entry is as it was.
    Present(String),
    /// The entry is gone.
    Delete(String),
    /// Several entries are as they were, or gone.
    Set { uuids: Vec<String>, deletes: bool },
    /// A phase of the refresh ends, perhaps the refresh.
    PhaseEnd { present: bool, done: bool },
}

/// What the session does next.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Verdict {
    /// Go on.
    Continue,
    /// The copy is of no use: begin again without a cookie.
    Anew,
    /// The set is beyond [`ENTRIES_MAX`] or [`OCTETS_MAX`]: the session fails.
    TooLarge,
}

/// The copy.
#[derive(Clone, Debug)]
pub(crate) struct Content {
    entries: BTreeMap<String, Entry>,
    /// What the entries take, by [`memory_octets`].
    octets: usize,
    cookie: Option<Vec<u8>>,
    /// The cookie that this session began with.
    sent_cookie: bool,
    /// What the present phase has named so far.
    seen: BTreeSet<String>,
    refreshed: bool,
    changed: bool,
}

impl Default for Content {
    /// Empty, and changed: the first whole set is handed over even if nothing is in it.
    fn default() -> Self {
        Self {
            entries: BTreeMap::new(),
            octets: 0,
            cookie: None,
            sent_cookie: false,
            seen: BTreeSet::new(),
            refreshed: false,
            changed: true,
        }
    }
}

impl Content {
    /// Begins a session and gives the cookie to send. Without one, what is known is not trusted any more.
    pub(crate) fn begin(&mut self) -> Option<Vec<u8>> {
        if self.cookie.is_none() {
            self.forget();
        }
        self.sent_cookie = self.cookie.is_some();
        self.seen.clear();
        self.refreshed = false;
        self.cookie.clone()
    }

    /// Takes what the server says.
    pub(crate) fn apply(&mut self, sync: Sync, cookie: Option<Vec<u8>>) -> Verdict {
        let cookie = cookie.filter(|cookie| !cookie.is_empty());
        match sync {
            Sync::Put(entry) => {
                self.see([entry.uuid.clone()]);
                self.put(entry);
            }
            Sync::Present(uuid) => self.see([uuid]),
            Sync::Delete(uuid) => self.remove(&uuid),
            Sync::Set { uuids, deletes: true } => uuids.iter().for_each(|uuid| self.remove(uuid)),
            Sync::Set { uuids, deletes: false } => self.see(uuids),
            Sync::PhaseEnd { present, done } => {
                if present {
                    let before = self.entries.len();
                    self.entries.retain(|uuid, _| self.seen.contains(uuid));
                    self.octets = self.entries.values().map(entry_octets).sum();
                    self.changed |= self.entries.len() != before;
                    self.seen.clear();
                }
                if done {
                    if cookie.is_none() && self.sent_cookie {
                        self.forget();
                        return Verdict::Anew;
                    }
                    self.refreshed = true;
                    self.seen.clear();
                    self.cookie.clone_from(&cookie);
                }
            }
        }
        if self.entries.len().max(self.seen.len()) > ENTRIES_MAX || self.octets > OCTETS_MAX {
            self.forget();
            return Verdict::TooLarge;
        }
        self.keep_cookie(cookie);
        Verdict::Continue
    }

    /// Takes a cookie that comes alone.
    pub(crate) fn keep_cookie(&mut self, cookie: Option<Vec<u8>>) {
        if self.refreshed && cookie.as_ref().is_some_and(|cookie| !cookie.is_empty()) {
            self.cookie = cookie;
        }
    }

    /// Takes the result that ends the search.
    pub(crate) fn ended(&mut self, result: u32) -> Verdict {
        if self.sent_cookie && matches!(result, UNWILLING_TO_PERFORM | SYNC_REFRESH_REQUIRED) {
            self.forget();
            return Verdict::Anew;
        }
        // Said in the middle of a session without cookie, it means the same for the next one.
        if result == SYNC_REFRESH_REQUIRED {
            self.forget();
        }
        Verdict::Continue
    }

    /// Takes all entries at once, as a server without RFC 4533 gives them.
    pub(crate) fn reread(&mut self, entries: impl Iterator<Item = Entry>) -> Verdict {
        self.sent_cookie = false;
        self.refreshed = false;
        self.seen.clear();
        for entry in entries {
            let verdict = self.apply(Sync::Put(entry), None);
            if verdict != Verdict::Continue {
                return verdict;
            }
        }
        self.apply(Sync::PhaseEnd { present: true, done: true }, None)
    }

    /// Whether a refresh that just ended built on an earlier copy.
    pub(crate) const fn built_on_a_copy(&self) -> bool {
        self.sent_cookie
    }

    /// Compares the copy with the uuids that the server has now. An entry that is only here means that the server
    /// read something into the cookie that it does not say: it sent what is there, and not what is gone.
    pub(crate) fn checked(&mut self, present: &BTreeSet<String>) -> Verdict {
        if self.entries.keys().all(|uuid| present.contains(uuid)) {
            return Verdict::Continue;
        }
        self.forget();
        Verdict::Anew
    }

    /// Whether the copy is whole.
    pub(crate) const fn is_refreshed(&self) -> bool {
        self.refreshed
    }

    /// Whether it differs from what was taken last.
    pub(crate) const fn is_changed(&self) -> bool {
        self.changed
    }

    /// The whole set, if it changed since it was taken last; never a part of a refresh.
    pub(crate) fn take(&mut self) -> Option<Vec<Entry>> {
        if !(self.refreshed && self.changed) {
            return None;
        }
        self.changed = false;
        Some(self.entries.values().cloned().collect())
    }

    /// Remembers that the refresh has named these; afterwards it is of no interest.
    fn see(&mut self, uuids: impl IntoIterator<Item = String>) {
        if !self.refreshed {
            self.seen.extend(uuids);
        }
    }

    fn put(&mut self, entry: Entry) {
        if self.entries.get(&entry.uuid) == Some(&entry) {
            return;
        }
        self.octets += entry_octets(&entry);
        if let Some(before) = self.entries.insert(entry.uuid.clone(), entry) {
            self.octets -= entry_octets(&before);
        }
        self.changed = true;
    }

    fn remove(&mut self, uuid: &str) {
        if let Some(before) = self.entries.remove(uuid) {
            self.octets -= entry_octets(&before);
            self.changed = true;
        }
    }

    fn forget(&mut self) {
        *self = Self::default();
    }

    /// A copy that claims to know these entries by this cookie.
    #[cfg(any(test, feature = "testing"))]
    pub(crate) fn pretending(entries: Vec<Entry>, cookie: Vec<u8>) -> Self {
        let mut content = Self::default();
        entries.into_iter().for_each(|entry| content.put(entry));
        Self { cookie: Some(cookie), ..content }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn entry(uuid: &str) -> Entry {
        Entry { uuid: uuid.into(), dn: format!("cn={uuid},dc=lab"), ..Entry::default() }
    }

    fn cookie() -> Option<Vec<u8>> {
        Some(b"csn=1".to_vec())
    }

    fn uuids(content: &mut Content) -> Option<Vec<String>> {
        content.take().map(|entries| entries.into_iter().map(|entry| entry.uuid).collect())
    }

    fn known(names: &[&str]) -> Content {
        let mut content = Content::default();
        content.begin();
        for name in names {
            content.apply(Sync::Put(entry(name)), None);
        }
        content.apply(Sync::PhaseEnd { present: true, done: true }, cookie());
        content.take();
        content
    }

    #[test]
    fn nothing_is_handed_over_before_the_refresh_is_done() {
        let mut content = Content::default();
        assert_eq!(content.begin(), None);
        content.apply(Sync::Put(entry("a")), cookie());
        assert_eq!(uuids(&mut content), None);
        content.apply(Sync::PhaseEnd { present: true, done: true }, cookie());
        assert_eq!(uuids(&mut content), Some(vec!["a".into()]));
        assert_eq!(uuids(&mut content), None);
        assert_eq!(content.begin(), cookie());
    }

    #[test]
    fn what_the_present_phase_does_not_name_is_gone() {
        let mut content = known(&["a", "b", "c"]);
        content.begin();
        content.apply(Sync::Set { uuids: vec!["a".into()], deletes: false }, None);
        content.apply(Sync::Present("b".into()), None);
        content.apply(Sync::PhaseEnd { present: true, done: true }, cookie());
        assert_eq!(uuids(&mut content), Some(vec!["a".into(), "b".into()]));
    }

    #[test]
    fn what_the_delete_phase_does_not_name_stays() {
        let mut content = known(&["a", "b", "c"]);
        content.begin();
        content.apply(Sync::Set { uuids: vec!["a".into()], deletes: true }, None);
        content.apply(Sync::PhaseEnd { present: false, done: true }, cookie());
        assert_eq!(uuids(&mut content), Some(vec!["b".into(), "c".into()]));
    }

    #[test]
    fn a_present_phase_that_was_cut_off_does_not_count_in_the_next_session() {
        let mut content = known(&["a", "b"]);
        content.begin();
        content.apply(Sync::Present("a".into()), None);
        content.begin();
        content.apply(Sync::Present("b".into()), None);
        content.apply(Sync::PhaseEnd { present: true, done: true }, cookie());
        assert_eq!(uuids(&mut content), Some(vec!["b".into()]));
    }

    #[test]
    fn a_refresh_that_ends_without_a_cookie_is_not_trusted_when_we_sent_one() {
        for empty in [None, Some(Vec::new())] {
            let mut content = known(&["ghost"]);
            content.begin();
            content.apply(Sync::Put(entry("a")), None);
            assert_eq!(content.apply(Sync::PhaseEnd { present: false, done: true }, empty), Verdict::Anew);
            assert_eq!(content.begin(), None);
            assert_eq!(uuids(&mut content), None);
        }
    }

    #[test]
    fn a_copy_that_holds_more_than_the_server_is_dropped() {
        let mut content = known(&["a", "b"]);
        let on_server = |names: &[&str]| names.iter().map(|name| (*name).to_owned()).collect();
        assert_eq!(content.checked(&on_server(&["a", "b", "c"])), Verdict::Continue);
        assert_eq!(content.checked(&on_server(&["a", "c"])), Verdict::Anew);
        assert_eq!(content.begin(), None);
    }

    #[test]
    fn a_cookie_from_the_future_of_the_server_is_dropped_with_the_copy() {
        for code in [53, 4096] {
            let mut content = known(&["a"]);
            content.begin();
            assert_eq!(content.ended(code), Verdict::Anew);
            assert_eq!(content.begin(), None);
            assert_eq!(
                content.ended(code),
                Verdict::Continue,
                "without a cookie it is an error like any other"
            );
        }
    }

    #[test]
    fn an_empty_cookie_is_never_kept_and_none_in_the_middle_of_a_refresh() {
        let mut content = known(&["a"]);
        content.apply(Sync::Put(entry("b")), Some(Vec::new()));
        assert_eq!(content.begin(), cookie());
        content.keep_cookie(Some(b"csn=2".to_vec()));
        assert_eq!(content.begin(), cookie());
    }

    #[test]
    fn a_set_beyond_the_bounds_is_dropped_and_read_anew() {
        let names = || (0..=ENTRIES_MAX).map(|n| n.to_string());
        let large = |n: usize| Entry {
            attributes: [("description".to_owned(), vec!["x".repeat(OCTETS_MAX / 4)])].into(),
            ..entry(&n.to_string())
        };
        let mut by_count = names().skip(1).map(|name| Sync::Put(entry(&name)));
        let mut by_octets = (0..4).map(|n| Sync::Put(large(n)));
        let mut by_names = names().map(Sync::Present);
        let rows: [&mut dyn Iterator<Item = Sync>; 3] = [&mut by_count, &mut by_octets, &mut by_names];
        for mut row in rows {
            let mut content = known(&["a"]);
            content.begin();
            assert!(Iterator::any(&mut row, |sync| content.apply(sync, None) == Verdict::TooLarge));
            assert!(row.next().is_none(), "the last one was too much and none before it");
            assert_eq!(content.begin(), None);
            assert_eq!((content.entries.len(), content.octets), (0, 0));
        }
        let mut content = known(&["a"]);
        assert_eq!(content.reread((0..4).map(large)), Verdict::TooLarge);
        assert_eq!(uuids(&mut content), None);
    }

    #[test]
    fn what_the_set_takes_follows_what_is_put_and_removed() {
        let mut content = known(&["a", "b"]);
        let both = content.octets;
        content.apply(Sync::Put(Entry { dn: String::new(), ..entry("a") }), None);
        assert!(content.octets < both);
        content.apply(Sync::Put(entry("a")), None);
        assert_eq!(content.octets, both);
        content.apply(Sync::Delete("a".into()), None);
        assert_eq!(content.octets, both / 2);
        assert_eq!(content.reread(std::iter::empty()), Verdict::Continue);
        assert_eq!(content.octets, 0);
    }

    #[test]
    fn changes_after_the_refresh_leave_nothing_behind() {
        let mut content = known(&["a"]);
        for name in ["b", "c"] {
            content.apply(Sync::Put(entry(name)), None);
            content.apply(Sync::Delete(name.into()), None);
        }
        assert!(content.seen.is_empty());
    }

    #[test]
    fn an_entry_that_comes_again_unchanged_is_no_change() {
        let mut content = known(&["a"]);
        content.apply(Sync::Put(entry("a")), cookie());
        assert!(!content.is_changed());
        content.apply(Sync::Put(Entry { dn: "cn=renamed,dc=lab".into(), ..entry("a") }), cookie());
        assert_eq!(content.take().map(|entries| entries.len()), Some(1));
    }
}
