//! The directory role: hands what `sternpost-directory` finds to QMGR. The only process that speaks to the
//! configuration directory.
//!
//! The watch goes on while QMGR restarts; a new QMGR gets the last set and the last status again. A set that nobody
//! took is replaced by the next one; one that is too large for QMGR is refused, and the last good one stays. Not here: LDAP and tables (`sternpost-directory`), what a set means (QMGR).

use crate::bootstrap::Source;
use std::io;
use std::path::{Path, PathBuf};
use std::rc::Rc;
use std::time::Duration;
use sternpost_config::Entry;
use sternpost_directory::{Bind, DirectoryStatus, Handover};
use sternpost_link::qmgr::ToQmgr;
use sternpost_link::{DATAGRAM_OCTETS_MAX, FrameError, Hello, PROTOCOL_VERSION, Role};
use sternpost_message::Diagnostic;
use sternpost_platform::link::{Link, connect};
use sternpost_platform::memory;
use tokio::sync::mpsc;

/// Between two attempts to reach QMGR.
const RECONNECT: Duration = Duration::from_millis(100);

/// What the words of the role's places stand for: the folders of the files that the configuration's source names, and the
/// one in which the system keeps its name servers. Links are followed once, now.
pub(super) fn places(source: &Source) -> [(&'static str, Vec<PathBuf>); 2] {
    let files = match source {
        Source::Tables(path) => vec![path],
        Source::Directory(directory) => {
            let own: [Option<&PathBuf>; 2] = match &directory.bind {
                Bind::Simple { password_file, .. } => [Some(password_file), None],
                Bind::External { certificate, key } => [Some(certificate), Some(key)],
            };
            own.into_iter().flatten().chain(&directory.trust_anchor).collect()
        }
    };
    let folder = |path: &Path| path.parent().map(Path::to_owned);
    let folders = files.into_iter().flat_map(|file| {
        let real = file.canonicalize().ok();
        folder(file).into_iter().chain(real.as_deref().and_then(folder))
    });
    let resolver = Path::new("/etc/resolv.conf").canonicalize().ok();
    [
        ("<configuration>", folders.collect()),
        ("<name-servers>", resolver.as_deref().and_then(folder).into_iter().collect()),
    ]
}

/// Watches the source of the configuration for ever.
///
/// # Errors
/// When the event loop cannot be made, or the watch has ended.
pub(crate) fn run(source: Source, run_directory: &Path) -> io::Result<()> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let socket = run_directory.join(crate::supervisor::QMGR_SOCKET);
    tokio::task::LocalSet::new().block_on(&runtime, async {
        let (sender, receiver) = mpsc::channel(4);
        let watch = async {
            match source {
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

/// A set of entries, encoded for QMGR.
#[derive(Debug)]
struct Set {
    entries_count: u32,
    octets: Vec<u8>,
}

impl Set {
    /// # Errors
    /// Why QMGR would not take it, for people.
    fn encode(entries: &[Entry]) -> Result<Self, String> {
        let octets = postcard::to_stdvec(entries).map_err(|error| error.to_string())?;
        let (found, most) = (octets.len(), memory::ENTRIES_OCTETS_MAX);
        if found as u64 > most {
            let count = entries.len();
            return Err(format!(
                "{count} entries of {found} octets are refused: at most {most} octets; what is in force stays"
            ));
        }
        let entries_count = u32::try_from(entries.len()).map_err(|error| error.to_string())?;
        Ok(Self { entries_count, octets })
    }

    /// # Errors
    /// Those of making sealed memory.
    fn send(&self, link: &Link) -> io::Result<()> {
        let Self { entries_count, octets } = self;
        tracing::info!(entries_count, octets = octets.len(), "a set of entries goes to QMGR");
        let frame = ToQmgr::Entries { entries_count: *entries_count };
        pushed("a set of entries", link.push_with(&frame, memory::seal(octets)?));
        Ok(())
    }
}

/// What QMGR should have.
#[derive(Debug, Default)]
struct Last {
    set: Option<Set>,
    status: Option<DirectoryStatus>,
    /// Why the newest set is not the one that QMGR should have.
    refusal: Option<String>,
}

impl Last {
    /// Remembers it, and sends it if there is a link.
    ///
    /// # Errors
    /// Those of making sealed memory.
    fn take(&mut self, handover: Handover, link: Option<&Link>) -> io::Result<()> {
        match handover {
            Handover::Entries(entries) => self.take_entries(&entries, link),
            Handover::Status(status) => {
                self.status = Some(status);
                self.send_status(link);
                Ok(())
            }
        }
    }

    fn take_entries(&mut self, entries: &[Entry], link: Option<&Link>) -> io::Result<()> {
        match Set::encode(entries) {
            Ok(set) => {
                if self.refusal.take().is_some() {
                    self.send_status(link);
                }
                let set = self.set.insert(set);
                link.map_or(Ok(()), |link| set.send(link))
            }
            Err(reason) => {
                tracing::error!(event = "configuration.too-large", reason, "a set of entries is too large");
                self.refusal = Some(reason);
                self.send_status(link);
                Ok(())
            }
        }
    }

    /// Sends everything to a QMGR that is new.
    ///
    /// # Errors
    /// Those of making sealed memory.
    fn send(&self, link: &Link) -> io::Result<()> {
        let hello = Hello {
            version: PROTOCOL_VERSION,
            role: Role::Directory,
            pid: std::process::id(),
            process: 0,
            channel: String::new(),
            capacity: 0,
        };
        pushed("the greeting", link.push(&ToQmgr::Hello(hello)));
        self.send_status(Some(link));
        self.set.as_ref().map_or(Ok(()), |set| set.send(link))
    }

    fn send_status(&self, link: Option<&Link>) {
        let (Some(link), Some(status)) = (link, &self.status) else { return };
        let text = self.refusal.as_ref().unwrap_or(&status.text);
        // A server's words may have any length, and a datagram has a bound.
        let text = Diagnostic::one_line(&format!("{}: {text}", status.uri));
        pushed("the status", link.push(&ToQmgr::DirectoryStatus { connected: status.connected, text }));
    }
}

/// A frame of ours that does not fit is a defect; the role goes on without it.
fn pushed(what: &str, result: Result<(), FrameError>) {
    if let Err(error) = result {
        tracing::error!(error = &error as &dyn std::error::Error, "{what} was not sent to QMGR");
    }
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

    fn status(text: &str) -> Handover {
        let (uri, text) = ("t".into(), text.into());
        Handover::Status(DirectoryStatus { connected: true, since: UnixMillis(1), uri, text })
    }

    /// A set that is just above what QMGR takes.
    fn too_large() -> Handover {
        let octets = usize::try_from(memory::ENTRIES_OCTETS_MAX).unwrap();
        Handover::Entries(vec![entry(&"x".repeat(octets / 2))])
    }

    /// What QMGR gets until a frame that is `wanted`: the sets, and the other frames in words.
    async fn read_until(link: &Link, wanted: impl Fn(&ToQmgr) -> bool) -> (Vec<String>, Vec<Vec<Entry>>) {
        let mut buffer = vec![0; DATAGRAM_OCTETS_MAX];
        let (mut seen, mut sets) = (Vec::new(), Vec::new());
        loop {
            let mut received = link.receive(&mut buffer).await.unwrap();
            let mut frames = Frames::open(&buffer[..received.octets]).unwrap();
            let mut found = false;
            while let Some(frame) = frames.next_frame::<ToQmgr>().unwrap() {
                found |= wanted(&frame);
                match frame {
                    ToQmgr::Hello(hello) => seen.push(hello.role.name().to_owned()),
                    ToQmgr::DirectoryStatus { text, .. } => seen.push(text),
                    ToQmgr::Entries { entries_count } => {
                        let memory = received.attached.take().unwrap();
                        let octets = memory::unseal(memory, memory::ENTRIES_OCTETS_MAX).unwrap();
                        let entries: Vec<Entry> = postcard::from_bytes(&octets).unwrap();
                        assert_eq!(entries.len(), entries_count as usize);
                        sets.push(entries);
                    }
                    other => panic!("{other:?}"),
                }
            }
            if found {
                return (seen, sets);
            }
        }
    }

    const fn is_set(frame: &ToQmgr) -> bool {
        matches!(frame, ToQmgr::Entries { .. })
    }

    fn says(frame: &ToQmgr, words: &str) -> bool {
        matches!(frame, ToQmgr::DirectoryStatus { text, .. } if text.contains(words))
    }

    /// The role beside a QMGR whose links the test accepts.
    struct Lab {
        listener: Listener,
        sender: mpsc::Sender<Handover>,
        role: tokio::task::JoinHandle<io::Result<()>>,
        _folder: tempfile::TempDir,
    }

    impl Lab {
        fn new() -> Self {
            let folder = tempfile::tempdir().unwrap();
            let socket = folder.path().join("qmgr.sock");
            let listener = Listener::new(listen(&socket).unwrap()).unwrap();
            let (sender, receiver) = mpsc::channel(4);
            let role = tokio::task::spawn_local(hand_over(socket, receiver));
            Self { listener, sender, role, _folder: folder }
        }

        async fn link(&self) -> Rc<Link> {
            Link::new(self.listener.accept().await.unwrap()).unwrap()
        }

        async fn say(&self, handover: Handover) {
            self.sender.send(handover).await.unwrap();
        }

        async fn ends_well(self) {
            drop(self.sender);
            self.role.await.unwrap().unwrap();
        }
    }

    async fn bounded(test: impl Future<Output = ()>) {
        let limit = Duration::from_secs(20);
        tokio::time::timeout(limit, tokio::task::LocalSet::new().run_until(test)).await.unwrap();
    }

    #[tokio::test(flavor = "current_thread")]
    async fn a_new_qmgr_gets_the_last_set_and_status_again() {
        bounded(async {
            let lab = Lab::new();
            lab.say(status("read")).await;
            lab.say(Handover::Entries(vec![entry("one")])).await;
            let first = lab.link().await;
            let (_, sets) = read_until(&first, is_set).await;
            assert_eq!(sets, [[entry("one")]]);
            first.close();
            drop(first);
            let (seen, sets) = read_until(&*lab.link().await, is_set).await;
            assert_eq!(seen, ["directory", "t: read"]);
            assert_eq!(sets, [[entry("one")]]);
            lab.ends_well().await;
        })
        .await;
    }

    #[tokio::test(flavor = "current_thread")]
    async fn a_set_that_is_too_large_is_refused_with_a_reason_and_the_last_good_one_stays() {
        bounded(async {
            let lab = Lab::new();
            let link = lab.link().await;
            lab.say(status("read")).await;
            lab.say(Handover::Entries(vec![entry("one")])).await;
            lab.say(too_large()).await;
            let (seen, sets) = read_until(&link, |frame| says(frame, "are refused")).await;
            assert_eq!(sets, [[entry("one")]]);
            let refusal = seen.last().unwrap();
            assert!(
                refusal.starts_with("t: 1 entries of 335") && refusal.contains("in force stays"),
                "{refusal}"
            );
            link.close();
            drop(link);
            let link = lab.link().await;
            let (again, sets) = read_until(&link, is_set).await;
            assert_eq!((again.last(), sets), (Some(refusal), vec![vec![entry("one")]]));
            lab.say(Handover::Entries(vec![entry("two")])).await;
            let (seen, sets) = read_until(&link, is_set).await;
            assert_eq!((seen, sets), (vec!["t: read".to_owned()], vec![vec![entry("two")]]));
            lab.ends_well().await;
        })
        .await;
    }

    #[tokio::test(flavor = "current_thread")]
    async fn a_status_of_any_length_is_cut_and_the_role_goes_on() {
        bounded(async {
            let lab = Lab::new();
            let link = lab.link().await;
            lab.say(status(&"no\n".repeat(100_000))).await;
            lab.say(Handover::Entries(vec![entry("one")])).await;
            let (seen, sets) = read_until(&link, is_set).await;
            let text = seen.last().unwrap();
            assert!(text.starts_with("t: no no") && text.len() <= Diagnostic::TEXT_OCTETS_MAX, "{text}");
            assert_eq!(sets, [[entry("one")]]);
            lab.ends_well().await;
        })
        .await;
    }
}
