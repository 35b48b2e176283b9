//! For servers without RFC 4533: look at the stamps of all entries from time to time, and read all when one differs.

use crate::connection::DirectoryError;
use crate::content::Verdict;
use crate::search::Search;
use crate::session::{Ended, Session, entry, filter};
use ldap3::{Ldap, Scope, SearchEntry};
use std::collections::BTreeSet;
use std::time::Duration;
use tokio::time::Instant;

/// Reads, hands over, waits; for ever.
pub(crate) async fn watch(session: &mut Session, ldap: &mut Ldap) -> Result<Ended, DirectoryError> {
    let interval = Duration::from_millis(session.bootstrap.timings.poll_interval_ms);
    let mut known: Option<BTreeSet<String>> = None;
    loop {
        let mut found = stamps(session, ldap).await?;
        if known.as_ref() != Some(&found) {
            // As with changes that are sent: at rest, or not longer than the bound.
            let latest = Instant::now() + session.bootstrap.timings.change_max();
            while known.is_some() && Instant::now() < latest {
                tokio::time::sleep(session.bootstrap.timings.quiet()).await;
                let again = stamps(session, ldap).await?;
                if again == found {
                    break;
                }
                found = again;
            }
            read_all(session, ldap).await?;
            if known.is_none() {
                session.worked = true;
                let text = format!("connected; the server is read every {} ms", interval.as_millis());
                if session.report(&text).await.is_err() {
                    return Ok(Ended::Unwanted);
                }
            }
            if session.hand_over().await.is_err() {
                return Ok(Ended::Unwanted);
            }
            // The stamps were read before the entries: a change in between shows the next time.
            known = Some(found);
        }
        if session.handover.is_closed() {
            return Ok(Ended::Unwanted);
        }
        tokio::time::sleep(interval).await;
    }
}

async fn search(
    session: &Session,
    ldap: &mut Ldap,
    attributes: Vec<&str>,
) -> Result<Vec<SearchEntry>, DirectoryError> {
    let base = &session.bootstrap.base_dn;
    let (limit, filter) = (session.limit(), filter());
    Search { step: "the search", limit, base, scope: Scope::Subtree, filter: &filter, attributes }
        .all(ldap)
        .await
}

/// The uuids of all entries that are there now.
pub(crate) async fn uuids(session: &Session, ldap: &mut Ldap) -> Result<BTreeSet<String>, DirectoryError> {
    let entries = search(session, ldap, vec!["entryUUID"]).await?;
    Ok(entries.into_iter().map(|found| entry(found, None).uuid).collect())
}

/// What changes when an entry does: name, uuid, CSN or time.
async fn stamps(session: &Session, ldap: &mut Ldap) -> Result<BTreeSet<String>, DirectoryError> {
    let entries = search(session, ldap, vec!["entryUUID", "entryCSN", "modifyTimestamp"]).await?;
    Ok(entries
        .into_iter()
        .map(|entry| {
            let mut values: Vec<_> = entry.attrs.into_values().flatten().collect();
            values.sort_unstable();
            format!("{} {}", entry.dn, values.join(" "))
        })
        .collect())
}

async fn read_all(session: &mut Session, ldap: &mut Ldap) -> Result<(), DirectoryError> {
    let entries = search(session, ldap, vec!["*", "entryUUID", "nsUniqueId"]).await?;
    match session.content.reread(entries.into_iter().map(|found| entry(found, None))) {
        Verdict::TooLarge => Err(DirectoryError::TooLarge),
        Verdict::Continue | Verdict::Anew => Ok(()),
    }
}
