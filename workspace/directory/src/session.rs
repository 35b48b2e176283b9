//! One session with one server: refresh, then changes as they come, until the connection ends.

use crate::connection::{Connection, DirectoryError, Owned};
use crate::content::{Content, Sync, Verdict};
use crate::poll;
use crate::search::Search;
use crate::{Bootstrap, Handover};
use ldap3::controls::{Control, ControlType, MakeCritical, SyncInfo, SyncRequest, SyncState, parse_syncinfo};
use ldap3::controls::{EntryState, RefreshMode};
use ldap3::exop::WhoAmI;
use ldap3::{Ldap, ResultEntry, Scope, SearchEntry, SearchStream};
use std::time::Duration;
use sternpost_config::{Class, Entry};
use tokio::sync::mpsc::Sender;
use tokio::time::Instant;

/// The control of RFC 4533.
const SYNC_REQUEST: &str = "1.3.6.1.4.1.4203.1.9.1.1";

/// Attributes that change without the configuration changing; they tell when to read, and are no part of an entry.
pub(crate) const OPERATIONAL: [&str; 4] = ["entryuuid", "entrycsn", "modifytimestamp", "nsuniqueid"];

/// Why a session ended.
#[derive(Debug)]
pub(crate) enum Ended {
    /// Nobody takes handovers any more.
    Unwanted,
    /// The copy is of no use: connect again at once.
    Anew,
    /// Something failed.
    Failed(DirectoryError),
}

/// What a session needs, and what outlives it.
pub(crate) struct Session {
    pub(crate) bootstrap: Bootstrap,
    pub(crate) uri: String,
    pub(crate) content: Content,
    pub(crate) handover: Sender<Handover>,
    /// Whether a whole set was handed over or found unchanged: the server works.
    pub(crate) worked: bool,
}

impl Session {
    /// Runs until something ends it. Boxed by the caller: the future is large.
    pub(crate) async fn run(&mut self) -> Ended {
        let mut connection = match Connection::open(&self.bootstrap, &self.uri).await {
            Ok(connection) => connection,
            Err(error) => return Ended::Failed(error),
        };
        match self.follow(&mut connection).await {
            Ended::Failed(error) => Ended::Failed(connection.explain(error).await),
            ended => ended,
        }
    }

    async fn follow(&mut self, connection: &mut Connection) -> Ended {
        let can_sync = match supports_sync(&mut connection.ldap, self.limit()).await {
            Ok(can_sync) => can_sync,
            Err(error) => return Ended::Failed(error),
        };
        let mut pulse = Owned(tokio::spawn(pulse(connection.ldap.clone(), self.bootstrap.clone())));
        tokio::select! {
            ended = self.watch(&mut connection.ldap, can_sync) => ended,
            ended = &mut pulse.0 => match ended {
                Ok(error) => Ended::Failed(error),
                Err(_) => Ended::Failed(DirectoryError::Closed),
            },
        }
    }

    async fn watch(&mut self, ldap: &mut Ldap, can_sync: bool) -> Ended {
        let ended = if can_sync { self.sync(ldap).await } else { poll::watch(self, ldap).await };
        ended.unwrap_or_else(Ended::Failed)
    }

    /// For reading everything once.
    pub(crate) fn limit(&self) -> Duration {
        Duration::from_millis(self.bootstrap.timings.refresh_timeout_ms)
    }

    /// refreshAndPersist.
    async fn sync(&mut self, ldap: &mut Ldap) -> Result<Ended, DirectoryError> {
        let request = SyncRequest {
            mode: RefreshMode::RefreshAndPersist,
            cookie: self.content.begin(),
            reload_hint: false,
        };
        let mut stream = ldap
            .with_controls(request.critical())
            .streaming_search(&self.bootstrap.base_dn, Scope::Subtree, &filter(), vec!["*", "entryUUID"])
            .await
            .map_err(DirectoryError::ldap("the search"))?;
        // For the whole refresh: a server that always has one more entry must not keep us for ever.
        let refreshed_by = Instant::now() + self.limit();
        let mut settling = Settling::default();
        loop {
            let was_refreshed = self.content.is_refreshed();
            let wake_at = if was_refreshed { settling.due() } else { Some(refreshed_by) };
            tokio::select! {
                item = stream.next() => {
                    let item = item.map_err(|error| match error {
                        ldap3::LdapError::EndOfStream => DirectoryError::Closed,
                        error => DirectoryError::ldap("the search")(error),
                    })?;
                    let Some(item) = item else { return self.search_ended(&mut stream).await };
                    match self.take(item)? {
                        Verdict::Continue => {}
                        Verdict::Anew => return Ok(Ended::Anew),
                        Verdict::TooLarge => return Err(DirectoryError::TooLarge),
                    }
                    if self.content.is_refreshed() {
                        if !was_refreshed {
                            if self.content.built_on_a_copy() {
                                let present = poll::uuids(self, ldap).await?;
                                if self.content.checked(&present) == Verdict::Anew {
                                    return Ok(Ended::Anew);
                                }
                            }
                            self.worked = true;
                            let text = "connected; changes arrive as they are made";
                            if self.report(text).await.is_err() { return Ok(Ended::Unwanted) }
                        }
                        if self.content.is_changed() {
                            settling.changed(&self.bootstrap);
                        }
                    }
                }
                () = sleep_until(wake_at) => {
                    if !was_refreshed {
                        return Err(DirectoryError::Silent("the refresh"));
                    }
                    settling = Settling::default();
                    if self.hand_over().await.is_err() { return Ok(Ended::Unwanted) }
                }
            }
        }
    }

    /// Hands over what changed, whole.
    pub(crate) async fn hand_over(&mut self) -> Result<(), ()> {
        match self.content.take() {
            Some(entries) => self.handover.send(Handover::Entries(entries)).await.map_err(|_| ()),
            None => Ok(()),
        }
    }

    pub(crate) async fn report(&mut self, text: &str) -> Result<(), ()> {
        let status = crate::DirectoryStatus {
            connected: true,
            since: crate::now(),
            uri: self.uri.clone(),
            text: text.to_owned(),
        };
        self.handover.send(Handover::Status(status)).await.map_err(|_| ())
    }

    async fn search_ended(&mut self, stream: &mut Stream<'_>) -> Result<Ended, DirectoryError> {
        let result = stream.finish().await;
        if self.content.ended(result.rc) == Verdict::Anew {
            return Ok(Ended::Anew);
        }
        Err(DirectoryError::refused("the search", &result))
    }

    /// One message of the search.
    fn take(&mut self, item: ResultEntry) -> Result<Verdict, DirectoryError> {
        if item.is_ref() {
            // Continuations lead to other servers; what they hold is not ours to watch.
            return Ok(Verdict::Continue);
        }
        if item.is_intermediate() {
            return Ok(match parse_syncinfo(item) {
                SyncInfo::NewCookie(cookie) => {
                    self.content.keep_cookie(Some(cookie));
                    Verdict::Continue
                }
                SyncInfo::RefreshDelete { cookie, refresh_done } => {
                    self.content.apply(Sync::PhaseEnd { present: false, done: refresh_done }, cookie)
                }
                SyncInfo::RefreshPresent { cookie, refresh_done } => {
                    self.content.apply(Sync::PhaseEnd { present: true, done: refresh_done }, cookie)
                }
                SyncInfo::SyncIdSet { cookie, refresh_deletes, sync_uuids } => {
                    let uuids =
                        sync_uuids.iter().map(|octets| uuid_text(octets)).collect::<Result<_, _>>()?;
                    self.content.apply(Sync::Set { uuids, deletes: refresh_deletes }, cookie)
                }
            });
        }
        let state = item.1.iter().find_map(|control| match control {
            Control(Some(ControlType::SyncState), raw) => Some(raw.parse::<SyncState>()),
            _ => None,
        });
        let Some(SyncState { state, entry_uuid, cookie }) = state else {
            return Err(DirectoryError::Protocol("an entry came without its state".into()));
        };
        let uuid = uuid_text(&entry_uuid)?;
        let sync = match state {
            EntryState::Add | EntryState::Modify => {
                Sync::Put(entry(SearchEntry::construct(item), Some(uuid)))
            }
            EntryState::Present => Sync::Present(uuid),
            EntryState::Delete => Sync::Delete(uuid),
        };
        Ok(self.content.apply(sync, cookie))
    }
}

pub(crate) type Stream<'a> = SearchStream<'a, &'a str, Vec<&'a str>>;

/// When a changed set is at rest.
#[derive(Default)]
struct Settling {
    due: Option<(Instant, Instant)>,
}

impl Settling {
    fn changed(&mut self, bootstrap: &Bootstrap) {
        let now = Instant::now();
        let latest = self.due.map_or(now + bootstrap.timings.change_max(), |(_, latest)| latest);
        self.due = Some((now + bootstrap.timings.quiet(), latest));
    }

    fn due(&self) -> Option<Instant> {
        self.due.map(|(quiet, latest)| quiet.min(latest))
    }
}

/// Sleeps until then; for ever when there is no such time.
async fn sleep_until(instant: Option<Instant>) {
    match instant {
        Some(instant) => tokio::time::sleep_until(instant).await,
        None => std::future::pending().await,
    }
}

/// Asks for a sign of life until there is none.
async fn pulse(mut ldap: Ldap, bootstrap: Bootstrap) -> DirectoryError {
    let limit = Duration::from_millis(bootstrap.timings.whoami_timeout_ms);
    loop {
        tokio::time::sleep(Duration::from_millis(bootstrap.timings.whoami_interval_ms)).await;
        match tokio::time::timeout(limit, ldap.extended(WhoAmI)).await {
            Ok(Ok(_)) => {}
            Ok(Err(error)) => return DirectoryError::ldap("the sign of life")(error),
            Err(_) => return DirectoryError::Silent("the sign of life"),
        }
    }
}

/// Whether the server has RFC 4533, by its root DSE (RFC 4512, 5.1).
async fn supports_sync(ldap: &mut Ldap, limit: Duration) -> Result<bool, DirectoryError> {
    let root_dse = Search {
        step: "reading the root DSE",
        limit,
        base: "",
        scope: Scope::Base,
        filter: "(objectClass=*)",
        attributes: vec!["supportedControl"],
    };
    Ok(root_dse.all(ldap).await?.into_iter().any(|root| {
        root.attrs.iter().any(|(name, values)| {
            name.eq_ignore_ascii_case("supportedControl") && values.iter().any(|value| value == SYNC_REQUEST)
        })
    }))
}

/// Entries of our classes: whatever else stands below the base (people, other software) is not fetched.
pub(crate) fn filter() -> String {
    let classes: String = Class::ALL.iter().map(|class| format!("(objectClass={})", class.name())).collect();
    format!("(|{classes})")
}

/// The entry as `sternpost-config` wants it. Octets that are no UTF-8 become U+FFFD there.
pub(crate) fn entry(found: SearchEntry, uuid: Option<String>) -> Entry {
    let lossy =
        |values: Vec<Vec<u8>>| values.iter().map(|v| String::from_utf8_lossy(v).into_owned()).collect();
    let mut attributes: std::collections::BTreeMap<String, Vec<String>> =
        found.attrs.into_iter().map(|(name, values)| (name.to_ascii_lowercase(), values)).collect();
    attributes
        .extend(found.bin_attrs.into_iter().map(|(name, values)| (name.to_ascii_lowercase(), lossy(values))));
    let operational: Vec<Option<String>> = OPERATIONAL
        .iter()
        .map(|name| attributes.remove(*name).and_then(|values| values.into_iter().next()))
        .collect();
    let uuid = uuid
        .or_else(|| operational[0].as_ref().map(|uuid| uuid.to_ascii_lowercase()))
        .or_else(|| operational[3].clone())
        // A server that names its entries by nothing else: a renamed entry is then a new one.
        .unwrap_or_else(|| sternpost_config::normalised_dn(&found.dn));
    Entry { uuid, dn: found.dn, attributes }
}

/// The text form of RFC 4122.
fn uuid_text(octets: &[u8]) -> Result<String, DirectoryError> {
    if octets.len() != 16 {
        return Err(DirectoryError::Protocol(format!("an entryUUID has {} octets", octets.len())));
    }
    let mut text = String::with_capacity(36);
    for (at, octet) in octets.iter().enumerate() {
        if matches!(at, 4 | 6 | 8 | 10) {
            text.push('-');
        }
        text.push_str(&format!("{octet:02x}"));
    }
    Ok(text)
}
