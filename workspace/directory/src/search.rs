//! One search that ends: bounded in time and in what it brings, whatever the server sends.

use crate::connection::DirectoryError;
use crate::content::{ENTRIES_MAX, OCTETS_MAX, memory_octets};
use ldap3::{Ldap, Scope, SearchEntry};
use std::time::Duration;

/// What is asked for, and how long the whole answer may take.
pub(crate) struct Search<'a> {
    /// For people.
    pub(crate) step: &'static str,
    pub(crate) limit: Duration,
    pub(crate) base: &'a str,
    pub(crate) scope: Scope,
    pub(crate) filter: &'a str,
    pub(crate) attributes: Vec<&'a str>,
}

impl Search<'_> {
    /// All entries of the answer. Any result but success may come with a part of them: not one of them is used.
    ///
    /// # Errors
    /// `Silent` when the answer is not complete in time, `TooLarge` when it is beyond the bounds of a set.
    pub(crate) async fn all(self, ldap: &mut Ldap) -> Result<Vec<SearchEntry>, DirectoryError> {
        let (limit, step) = (self.limit, self.step);
        tokio::time::timeout(limit, self.collect(ldap)).await.unwrap_or(Err(DirectoryError::Silent(step)))
    }

    async fn collect(self, ldap: &mut Ldap) -> Result<Vec<SearchEntry>, DirectoryError> {
        let failed = || DirectoryError::ldap(self.step);
        let mut stream = ldap
            .streaming_search(self.base, self.scope, self.filter, self.attributes)
            .await
            .map_err(failed())?;
        let mut entries = Vec::new();
        let mut octets = 0;
        while let Some(item) = stream.next().await.map_err(failed())? {
            // Continuations lead to other servers; what they hold is not ours to read.
            if item.is_ref() || item.is_intermediate() {
                continue;
            }
            let entry = SearchEntry::construct(item);
            octets += entry_octets(&entry);
            entries.push(entry);
            if entries.len() > ENTRIES_MAX || octets > OCTETS_MAX {
                return Err(DirectoryError::TooLarge);
            }
        }
        let result = stream.finish().await;
        if result.rc == 0 { Ok(entries) } else { Err(DirectoryError::refused(self.step, &result)) }
    }
}

fn entry_octets(entry: &SearchEntry) -> usize {
    let names = entry.attrs.keys().chain(entry.bin_attrs.keys()).map(String::len);
    let texts = entry.attrs.values().flatten().map(String::len);
    let octets = entry.bin_attrs.values().flatten().map(Vec::len);
    memory_octets([entry.dn.len()].into_iter().chain(names).chain(texts).chain(octets))
}
