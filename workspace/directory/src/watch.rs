//! The watch: one session after the other, over all servers, for ever.

use crate::connection::{DirectoryError, Owned};
use crate::content::Content;
use crate::session::{Ended, Session};
use crate::{Bootstrap, DirectoryStatus, Handover};
use std::collections::BTreeMap;
use std::time::Duration;
use sternpost_message::chain;
use tokio::sync::mpsc::Sender;

/// Keeps a copy of the directory and hands it over, whole, whenever it changed and is at rest.
///
/// Tries the servers in their order; when all failed, it waits (500 ms, doubled up to 30 s) and begins again.
/// Returns when nobody takes handovers any more, or at once when there is no server to try or a time is zero.
pub async fn watch(bootstrap: Bootstrap, handover: Sender<Handover>) {
    watch_with(bootstrap, Content::default(), handover).await;
}

pub(crate) async fn watch_with(bootstrap: Bootstrap, content: Content, handover: Sender<Handover>) {
    let fault = match bootstrap.timings.zero() {
        _ if bootstrap.uris.is_empty() => Some("it names no server".to_owned()),
        zero => zero.map(|name| format!("{name} is 0")),
    };
    if let Some(fault) = fault {
        let error = DirectoryError::Bootstrap(fault);
        let _ = handover.send(down(String::new(), chain(&error))).await;
        return;
    }
    let mut watch = Watch { content, handover, bootstrap, down: BTreeMap::new(), said: String::new() };
    let mut wait_ms = watch.bootstrap.timings.retry_ms_min;
    loop {
        let mut worked = false;
        for (number, uri) in watch.bootstrap.uris.clone().into_iter().enumerate() {
            let Some(session_worked) = watch.session(number, &uri).await else { return };
            worked |= session_worked;
        }
        if worked {
            wait_ms = watch.bootstrap.timings.retry_ms_min;
        }
        tokio::select! {
            () = tokio::time::sleep(Duration::from_millis(wait_ms)) => {}
            () = watch.handover.closed() => return,
        }
        wait_ms = wait_ms.saturating_mul(2).min(watch.bootstrap.timings.retry_ms_max);
    }
}

struct Watch {
    bootstrap: Bootstrap,
    content: Content,
    handover: Sender<Handover>,
    /// Why each server, by its place in the bootstrap, could not be used since one worked last.
    down: BTreeMap<usize, String>,
    /// What was last said about being away: it is not said again at each attempt.
    said: String,
}

impl Watch {
    /// One session with one server, and a second one at once where the first says that its copy is of no use.
    /// None when nobody wants to hear of it any more; else whether the server worked.
    async fn session(&mut self, number: usize, uri: &str) -> Option<bool> {
        let mut worked = false;
        // A server that says `Anew` twice in a row is treated as one that fails.
        for _ in 0..2 {
            let mut session = Session {
                bootstrap: self.bootstrap.clone(),
                uri: uri.to_owned(),
                content: std::mem::take(&mut self.content),
                handover: self.handover.clone(),
                worked: false,
            };
            // A task of its own: what the client library makes of a hostile server ends there.
            let mut task = Owned(tokio::spawn(async move {
                let ended = session.run().await;
                (session, ended)
            }));
            let (session_worked, ended) = match tokio::select! {
                ended = &mut task.0 => Some(ended),
                () = self.handover.closed() => None,
            }? {
                Ok((session, ended)) => {
                    self.content = session.content;
                    (session.worked, ended)
                }
                // The copy went with the task: the next session reads all anew.
                Err(error) if error.is_panic() => {
                    let error = DirectoryError::Protocol("it sent what the client cannot read".into());
                    (false, Ended::Failed(error))
                }
                Err(_) => (false, Ended::Failed(DirectoryError::Closed)),
            };
            worked |= session_worked;
            if session_worked {
                self.down.clear();
                self.said.clear();
            }
            match ended {
                Ended::Unwanted => return None,
                Ended::Anew => {
                    tracing::info!(uri, "the server does not know what we knew of it; reading all anew");
                }
                Ended::Failed(error) => {
                    self.say(number, uri, &error).await?;
                    break;
                }
            }
        }
        Some(worked)
    }

    /// Says how every server that was tried has failed, in the order of the bootstrap: so the words stay the same for as
    /// long as nothing changes, whichever failed last.
    async fn say(&mut self, number: usize, uri: &str, error: &DirectoryError) -> Option<()> {
        let why = chain(error);
        let is_new = self.down.get(&number) != Some(&why);
        self.down.insert(number, why);
        if is_new {
            tracing::warn!(uri, error = chain(error), "no connection to the directory");
        }
        let (first, text) = self.all_down();
        let words = format!("{first} {text}");
        if words == self.said {
            return Some(());
        }
        self.said = words;
        self.handover.send(down(first, text)).await.ok()
    }

    /// The first server that failed, and why; behind it the others.
    fn all_down(&self) -> (String, String) {
        let uri = |number: usize| self.bootstrap.uris.get(number).cloned().unwrap_or_default();
        let mut all = self.down.iter();
        let Some((first, why)) = all.next() else { return (String::new(), String::new()) };
        let others: String = all.map(|(number, why)| format!("; {}: {why}", uri(*number))).collect();
        (uri(*first), format!("{why}{others}"))
    }
}

fn down(uri: String, text: String) -> Handover {
    Handover::Status(DirectoryStatus { connected: false, since: crate::now(), uri, text })
}
