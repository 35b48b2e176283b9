//! The directory role: hands what `sternpost-directory` finds to QMGR. The only process that speaks to the
//! configuration directory.
//!
//! The watch goes on while QMGR restarts; a new QMGR gets the last set and the last status again. A set that nobody
//! took is replaced by the next one. Not here: LDAP and tables (`sternpost-directory`), what a set means (QMGR).

use crate::bootstrap::{Bootstrap, Source};
use std::io;
use std::path::{Path, PathBuf};
use std::rc::Rc;
use std::time::Duration;
use sternpost_config::Entry;
use sternpost_directory::{DirectoryStatus, Handover};
use sternpost_link::qmgr::ToQmgr;
use sternpost_link::{DATAGRAM_OCTETS_MAX, Hello, PROTOCOL_VERSION, Role};
use sternpost_platform::link::{Link, connect};
use sternpost_platform::memory;
use tokio::sync::mpsc;

/// Between two attempts to reach QMGR.
const RECONNECT: Duration = Duration::from_millis(100);

/// Watches the source of the configuration for ever.
///
/// # Errors
/// When the event loop cannot be made, or the watch has ended.
pub(crate) fn run(bootstrap: Bootstrap, run_directory: &Path) -> io::Result<()> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let socket = run_directory.join(crate::supervisor::QMGR_SOCKET);
    tokio::task::LocalSet::new().block_on(&runtime, async {
        let (sender, receiver) = mpsc::channel(4);
        let watch = async {
            match bootstrap.source {
                Source::Directory(directory) => sternpost_directory::watch(*directory, sender).await,
                Source::Tables(path) => sternpost_directory::watch_tables(path, sender).await,
            }
        };
        tokio::select! {
            _ = watch => Err(io::Error::other("the watch has ended")),
            result = hand_over(socket, receiver) => result,
        }
    })
}

/// What QMGR should have.
#[derive(Debug, Default)]
struct Last {
    entries: Option<Vec<Entry>>,
    status: Option<DirectoryStatus>,
}

impl Last {
    /// Remembers it, and sends it if there is a link.
    fn take(&mut self, handover: Handover, link: Option<&Link>) -> io::Result<()> {
        match handover {
            Handover::Entries(entries) => {
                let entries = self.entries.insert(entries);
                link.map_or(Ok(()), |link| send_entries(link, entries))
            }
            Handover::Status(status) => {
                let status = self.status.insert(status);
                link.map_or(Ok(()), |link| send_status(link, status))
            }
        }
    }

    /// Sends everything to a QMGR that is new.
    fn send(&self, link: &Link) -> io::Result<()> {
        let hello = Hello {
            version: PROTOCOL_VERSION,
            role: Role::Directory,
            pid: std::process::id(),
            process: 0,
            channel: String::new(),
            capacity: 0,
        };
        link.push(&ToQmgr::Hello(hello)).map_err(io::Error::other)?;
        self.status.as_ref().map_or(Ok(()), |status| send_status(link, status))?;
        self.entries.as_ref().map_or(Ok(()), |entries| send_entries(link, entries))
    }
}

fn send_entries(link: &Link, entries: &[Entry]) -> io::Result<()> {
    let octets = postcard::to_stdvec(entries).map_err(io::Error::other)?;
    if octets.len() as u64 > memory::SEALED_OCTETS_MAX {
        // QMGR would not take it; the set that is in force stays.
        tracing::error!(entries = entries.len(), octets = octets.len(), "a set of entries that is too large");
        return Ok(());
    }
    let entries_count = u32::try_from(entries.len()).map_err(io::Error::other)?;
    tracing::info!(entries_count, "a set of entries goes to QMGR");
    link.push_with(&ToQmgr::Entries { entries_count }, memory::seal(&octets)?).map_err(io::Error::other)
}

fn send_status(link: &Link, status: &DirectoryStatus) -> io::Result<()> {
    let text = format!("{}: {}", status.uri, status.text);
    link.push(&ToQmgr::DirectoryStatus { connected: status.connected, text }).map_err(io::Error::other)
}

/// Keeps a link to QMGR and passes on what comes, until the watch ends.
async fn hand_over(socket: PathBuf, mut watch: mpsc::Receiver<Handover>) -> io::Result<()> {
    let mut last = Last::default();
    loop {
        let link = tokio::select! {
            link = connected(&socket) => link,
            handover = watch.recv() => match handover {
                Some(handover) => {
                    last.take(handover, None)?;
                    continue;
                }
                None => return Ok(()),
            },
        };
        last.send(&link)?;
        let mut buffer = vec![0; DATAGRAM_OCTETS_MAX];
        loop {
            tokio::select! {
                // QMGR says Welcome and nothing else; its end is what is waited for.
                received = link.receive(&mut buffer) => if let Err(error) = received {
                    tracing::info!(%error, "the link to QMGR has ended");
                    break;
                },
                handover = watch.recv() => match handover {
                    Some(handover) => last.take(handover, Some(&link))?,
                    None => return Ok(()),
                },
            }
        }
    }
}

async fn connected(socket: &Path) -> Rc<Link> {
    loop {
        match connect(socket).and_then(Link::new) {
            Ok(link) => return link,
            Err(error) => tracing::debug!(%error, "QMGR is not there yet"),
        }
        tokio::time::sleep(RECONNECT).await;
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use sternpost_link::Frames;
    use sternpost_message::UnixMillis;
    use sternpost_platform::link::{Listener, listen};

    fn entry(name: &str) -> Entry {
        Entry { uuid: name.into(), dn: name.into(), ..Entry::default() }
    }

    /// Takes a connection and reads until a set of entries came.
    async fn next_set(listener: &Listener) -> (Rc<Link>, Vec<String>, Vec<Entry>) {
        let link = Link::new(listener.accept().await.unwrap()).unwrap();
        let mut buffer = vec![0; DATAGRAM_OCTETS_MAX];
        let mut seen = Vec::new();
        loop {
            let received = link.receive(&mut buffer).await.unwrap();
            let mut frames = Frames::open(&buffer[..received.octets]).unwrap();
            while let Some(frame) = frames.next_frame::<ToQmgr>().unwrap() {
                match frame {
                    ToQmgr::Hello(hello) => seen.push(hello.role.name().to_owned()),
                    ToQmgr::DirectoryStatus { text, .. } => seen.push(text),
                    ToQmgr::Entries { entries_count } => {
                        let octets = memory::unseal(received.attached.unwrap()).unwrap();
                        let entries: Vec<Entry> = postcard::from_bytes(&octets).unwrap();
                        assert_eq!(entries.len(), entries_count as usize);
                        return (link, seen, entries);
                    }
                    other => panic!("{other:?}"),
                }
            }
        }
    }

    #[tokio::test(flavor = "current_thread")]
    async fn a_new_qmgr_gets_the_last_set_and_status_again() {
        let test = async {
            let folder = tempfile::tempdir().unwrap();
            let socket = folder.path().join("qmgr.sock");
            let listener = Listener::new(listen(&socket).unwrap()).unwrap();
            let (sender, receiver) = mpsc::channel(4);
            let role = tokio::task::spawn_local(hand_over(socket, receiver));
            let status = DirectoryStatus {
                connected: true,
                since: UnixMillis(1),
                uri: "t".into(),
                text: "read".into(),
            };
            sender.send(Handover::Status(status)).await.unwrap();
            sender.send(Handover::Entries(vec![entry("one")])).await.unwrap();
            let (first, _, entries) = next_set(&listener).await;
            assert_eq!(entries, [entry("one")]);
            first.close();
            drop(first);
            let (_second, seen, entries) = next_set(&listener).await;
            assert_eq!(seen, ["directory", "t: read"]);
            assert_eq!(entries, [entry("one")]);
            drop(sender);
            role.await.unwrap().unwrap();
        };
        let limit = Duration::from_secs(20);
        tokio::time::timeout(limit, tokio::task::LocalSet::new().run_until(test)).await.unwrap();
    }
}
