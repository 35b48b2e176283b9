//! The bootstrap: one small TOML file with what must be known before the directory is reachable.
//!
//! | key | value | default | bounds |
//! |---|---|---|---|
//! | `run_directory` | folder of the sockets between the processes | `/run/sternpost` | |
//! | `state_directory` | folder of the last known good configuration | `/var/lib/sternpost` | |
//! | `node` | the node's identity in the directory | SMBIOS serial, else the host name; for tables their only node | |
//! | `role_users` | whether each process runs as its own user of `image/roles.toml`, or all as the supervisor's | `"same"` | `"same"`, `"separate"` |
//! | `[queue]` `path` | file or block device of the log | required | |
//! | `[queue]` `segment_octets` | octets of a segment | 67,108,864; less on a small device | 1,048,576 … 67,108,864, whole pages of 4,096 |
//! | `[queue]` `segments` | segments of the log | in a file 16 (1 GiB in all); on a device those that fill it | 8 … 65,536 |
//! | `[queue]` `backend` | how the disk is written | `"auto"` | `"auto"`, `"io_uring"`, `"dsync"` |
//! | `[queue]` `batch_octets_max` | octets of the largest batch | what the self test found, else 1,048,576 | 131,072 … 1,048,576, whole pages of 4,096 |
//! | `[queue]` `partial_timeout_s` | when content whose message is not complete, and of which nothing more comes, is thrown away | 3,600 | 1 … 604,800 |
//! | `[qmgr]` `record` | name of the files, `.1` and so on behind it, into which QMGR records the events and decisions of its scheduler (scheduler/JOURNAL.md) | none | |
//! | `[qmgr]` `record_octets_max` | octets of these files together, at which the recording ends | 268,435,456 | 1,048,576 … 1,073,741,824 |
//! | `[signer]` `credentials` | folder of the certificates with their private keys: the credential `mx` is `mx.pem` | `credentials` in `state_directory` | |
//! | `[self_test]` `profile` | file in which the self test says what it found, and from which `run` takes it | none | |
//! | `[self_test]` `history` | folder of the last ten profiles | none | |
//! | `[tables]` `path` | the configuration as a TOML file | one of the two | |
//! | `[directory]` | the configuration directory (see `sternpost-directory`) | one of the two | |
//!
//! Relative paths start at the folder of the file. A file without `[tables]` and `[directory]` is enough for what only
//! looks at the machine ([`Machine`]). Not here: the configuration itself (`sternpost-config`).

use crate::command::device::identity;
use serde::{Deserialize, Serialize};
use std::io;
use std::path::{Path, PathBuf};
use sternpost_scheduler::self_test::{BATCH_OCTETS_MAX, BATCH_OCTETS_MIN};
use toml::Spanned;

/// Where the sockets are when nobody says otherwise.
pub(crate) const RUN_DIRECTORY_DEFAULT: &str = "/run/sternpost";
const STATE_DIRECTORY_DEFAULT: &str = "/var/lib/sternpost";
/// The folder of the credentials, in the state directory.
const CREDENTIALS_FOLDER: &str = "credentials";
const SEGMENT_OCTETS_MIN: u32 = 1 << 20;
const SEGMENT_OCTETS_MAX: u32 = 64 << 20;
/// The log is written, read and aligned in pages. queue/FORMAT.md.
const PAGE_OCTETS: u32 = 4_096;
const SEGMENTS_MIN: u32 = 8;
const SEGMENTS_MAX: u32 = 65_536;
const PARTIAL_TIMEOUT_S_MIN: u32 = 1;
const PARTIAL_TIMEOUT_S_MAX: u32 = 7 * 24 * 3_600;
const RECORD_OCTETS_MIN: u32 = 1 << 20;
/// Five million messages: nobody carries more to a desk.
const RECORD_OCTETS_MAX: u32 = 1 << 30;
/// 210 octets for a message of one recipient (measured): 1.2 million of them.
const RECORD_OCTETS_DEFAULT: u32 = 256 << 20;

/// Why a bootstrap cannot be used.
#[derive(Debug, thiserror::Error)]
pub(crate) enum BootstrapError {
    /// The file could not be read.
    #[error("the bootstrap {} cannot be read", path.display())]
    Read {
        /// The file.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// A key is wrong, missing or unknown, or the text is no TOML.
    #[error("{}:{line}: {}{what}. {what_to_do}", path.display(), KeyPrefix(key))]
    Wrong {
        /// The file.
        path: PathBuf,
        /// Counted from 1.
        line: usize,
        /// The key with its table; empty when the text has none there.
        key: String,
        /// What is wrong.
        what: String,
        /// What to do, a sentence.
        what_to_do: String,
    },
}

/// A key and a colon, or nothing.
struct KeyPrefix<'a>(&'a str);

impl std::fmt::Display for KeyPrefix<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        if self.0.is_empty() { Ok(()) } else { write!(f, "{}: ", self.0) }
    }
}

/// Where the configuration comes from.
#[derive(Clone, Debug)]
pub(crate) enum Source {
    /// A TOML file.
    Tables(PathBuf),
    /// The configuration directory.
    Directory(Box<sternpost_directory::Bootstrap>),
}

/// The log. The store gets it as one argument, in JSON.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Queue {
    /// File or block device.
    pub(crate) path: PathBuf,
    /// Octets of a segment, if somebody says.
    pub(crate) segment_octets: Option<u32>,
    /// Segments, if somebody says.
    pub(crate) segments: Option<u32>,
    /// How it is written.
    #[serde(default)]
    pub(crate) backend: Backend,
    /// Octets of the largest batch, if somebody says.
    pub(crate) batch_octets_max: Option<u32>,
    /// When content without envelope is thrown away, if somebody says.
    pub(crate) partial_timeout_s: Option<u32>,
}

impl Queue {
    /// The log at `path`, of which nobody says more.
    pub(crate) const fn at(path: PathBuf) -> Self {
        Self {
            path,
            segment_octets: None,
            segments: None,
            backend: Backend::Auto,
            batch_octets_max: None,
            partial_timeout_s: None,
        }
    }
}

/// QMGR's recording.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Record {
    /// The name of its files, without their numbers.
    pub(crate) path: PathBuf,
    /// Their largest size together.
    pub(crate) octets_max: u32,
}

/// The self test's files.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct SelfTest {
    /// What it found.
    pub(crate) profile: Option<PathBuf>,
    /// What it found before.
    pub(crate) history: Option<PathBuf>,
}

/// The part of a bootstrap that speaks of the machine alone.
#[derive(Clone, Debug)]
pub(crate) struct Machine {
    /// The log.
    pub(crate) queue: Queue,
    /// The self test's files.
    pub(crate) self_test: SelfTest,
}

/// How the log's disk is written.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum Backend {
    /// As the self test found, else `RWF_DSYNC`.
    #[default]
    Auto,
    /// io_uring.
    IoUring,
    /// `pwritev2` with `RWF_DSYNC`.
    Dsync,
}

/// As whom the processes of the switch run. In either case they hold no capability.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum RoleUsers {
    /// As the supervisor's user.
    #[default]
    Same,
    /// Each as its own user of `image/roles.toml`: the supervisor must be able to become them.
    Separate,
}

impl RoleUsers {
    /// As the bootstrap has it.
    pub(crate) const fn name(self) -> &'static str {
        match self {
            Self::Same => "same",
            Self::Separate => "separate",
        }
    }
}

/// What the file says, with the defaults filled in.
#[derive(Clone, Debug)]
pub(crate) struct Bootstrap {
    /// The sockets.
    pub(crate) run_directory: PathBuf,
    /// The last known good configuration.
    pub(crate) state_directory: PathBuf,
    /// As whom the roles run.
    pub(crate) role_users: RoleUsers,
    /// The log.
    pub(crate) queue: Queue,
    /// What QMGR records, if anything.
    pub(crate) record: Option<Record>,
    /// The folder of the certificates with their private keys.
    pub(crate) credentials: PathBuf,
    /// The self test's files.
    pub(crate) self_test: SelfTest,
    /// The configuration.
    pub(crate) source: Source,
    /// The node's identity in the configuration; empty stands for the only node of the tables.
    pub(crate) node: String,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Document {
    run_directory: Option<PathBuf>,
    state_directory: Option<PathBuf>,
    node: Option<Spanned<String>>,
    #[serde(default)]
    role_users: RoleUsers,
    queue: Spanned<QueueSection>,
    qmgr: Option<QmgrSection>,
    signer: Option<SignerSection>,
    self_test: Option<SelfTestSection>,
    tables: Option<Spanned<TablesSection>>,
    directory: Option<Spanned<sternpost_directory::Bootstrap>>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct QueueSection {
    path: PathBuf,
    segment_octets: Option<Spanned<u64>>,
    segments: Option<Spanned<u64>>,
    #[serde(default)]
    backend: Backend,
    batch_octets_max: Option<Spanned<u64>>,
    partial_timeout_s: Option<Spanned<u64>>,
}

#[derive(Default, Deserialize)]
#[serde(deny_unknown_fields)]
struct QmgrSection {
    record: Option<PathBuf>,
    record_octets_max: Option<Spanned<u64>>,
}

#[derive(Default, Deserialize)]
#[serde(deny_unknown_fields)]
struct SignerSection {
    credentials: Option<PathBuf>,
}

#[derive(Default, Deserialize)]
#[serde(deny_unknown_fields)]
struct SelfTestSection {
    profile: Option<PathBuf>,
    history: Option<PathBuf>,
}

impl SelfTestSection {
    fn placed(self, folder: &Path) -> SelfTest {
        let place = |path: PathBuf| folder.join(path);
        SelfTest { profile: self.profile.map(place), history: self.history.map(place) }
    }
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct TablesSection {
    path: PathBuf,
}

impl Bootstrap {
    /// Reads the file.
    ///
    /// # Errors
    /// `Read`, or `Wrong` with the first thing that is.
    pub(crate) fn read(path: &Path) -> Result<Self, BootstrapError> {
        let failed = |source| BootstrapError::Read { path: path.to_owned(), source };
        let text = std::fs::read_to_string(path).map_err(failed)?;
        let folder = std::path::absolute(path).map_err(failed)?;
        Self::parse(&text, path, folder.parent().unwrap_or(Path::new("/")))
    }

    fn parse(text: &str, path: &Path, folder: &Path) -> Result<Self, BootstrapError> {
        let reading = Reading { text, path };
        let document = reading.document()?;
        let source = match (document.tables, document.directory) {
            (Some(tables), None) => Source::Tables(folder.join(tables.into_inner().path)),
            (None, Some(directory)) => {
                let mut directory = directory.into_inner();
                place(&mut directory, folder);
                Source::Directory(Box::new(directory))
            }
            (Some(tables), Some(_)) => {
                return Err(reading.wrong(
                    Some(tables.span()),
                    "[tables]",
                    "there is a [directory] too",
                    "Keep the one from which this node gets its configuration.",
                ));
            }
            (None, None) => {
                return Err(reading.wrong(
                    None,
                    "",
                    "neither [tables] nor [directory]",
                    "Add [tables] with a path, or [directory], so that the node has a configuration.",
                ));
            }
        };
        let node = match (document.node, &source) {
            (Some(node), _) if node.get_ref().trim().is_empty() => {
                return Err(reading.wrong(
                    Some(node.span()),
                    "node",
                    "is empty",
                    "Name the node, or leave the key out: then it is the machine's serial number or host name.",
                ));
            }
            (Some(node), _) => node.into_inner(),
            (None, Source::Tables(_)) => String::new(),
            (None, Source::Directory(directory)) if !directory.node.is_empty() => directory.node.clone(),
            (None, Source::Directory(_)) => machine_identity(),
        };
        let source = match source {
            Source::Directory(mut directory) => {
                directory.node.clone_from(&node);
                Source::Directory(directory)
            }
            tables @ Source::Tables(_) => tables,
        };
        let absolute =
            |path: Option<PathBuf>, default: &str| folder.join(path.unwrap_or_else(|| default.into()));
        let state_directory = absolute(document.state_directory, STATE_DIRECTORY_DEFAULT);
        let credentials = document.signer.unwrap_or_default().credentials;
        Ok(Self {
            run_directory: absolute(document.run_directory, RUN_DIRECTORY_DEFAULT),
            credentials: credentials
                .map_or_else(|| state_directory.join(CREDENTIALS_FOLDER), |path| folder.join(path)),
            state_directory,
            role_users: document.role_users,
            queue: reading.queue(document.queue.into_inner(), folder)?,
            record: reading.record(document.qmgr.unwrap_or_default(), folder)?,
            self_test: document.self_test.unwrap_or_default().placed(folder),
            source,
            node,
        })
    }
}

impl Machine {
    /// Reads the file, which may lack what only a switch needs.
    ///
    /// # Errors
    /// `Read`, or `Wrong` with the first thing that is.
    pub(crate) fn read(path: &Path) -> Result<Self, BootstrapError> {
        let failed = |source| BootstrapError::Read { path: path.to_owned(), source };
        let text = std::fs::read_to_string(path).map_err(failed)?;
        let file = std::path::absolute(path).map_err(failed)?;
        let folder = file.parent().unwrap_or(Path::new("/"));
        let reading = Reading { text: &text, path };
        let document = reading.document()?;
        Ok(Self {
            queue: reading.queue(document.queue.into_inner(), folder)?,
            self_test: document.self_test.unwrap_or_default().placed(folder),
        })
    }
}

/// Lets relative paths of the section start at `folder`.
fn place(directory: &mut sternpost_directory::Bootstrap, folder: &Path) {
    let place = |path: &mut PathBuf| *path = folder.join(&*path);
    directory.trust_anchor.iter_mut().for_each(place);
    match &mut directory.bind {
        sternpost_directory::Bind::Simple { password_file, .. } => place(password_file),
        sternpost_directory::Bind::External { certificate, key } => {
            place(certificate);
            place(key);
        }
    }
}

/// A text with its name, for errors that say where they are.
struct Reading<'a> {
    text: &'a str,
    path: &'a Path,
}

impl Reading<'_> {
    fn document(&self) -> Result<Document, BootstrapError> {
        toml::from_str(self.text).map_err(|error| {
            let what = error.message().to_owned();
            let what_to_do = "Correct the line; the keys stand in README.md, \"The bootstrap\".";
            self.wrong(error.span(), "", &what, what_to_do)
        })
    }

    fn queue(&self, section: QueueSection, folder: &Path) -> Result<Queue, BootstrapError> {
        let segment_octets = self.number(
            section.segment_octets,
            "queue.segment_octets",
            SEGMENT_OCTETS_MIN..=SEGMENT_OCTETS_MAX,
            PAGE_OCTETS,
        )?;
        let segments = self.number(section.segments, "queue.segments", SEGMENTS_MIN..=SEGMENTS_MAX, 1)?;
        let batch_octets_max = self.number(
            section.batch_octets_max,
            "queue.batch_octets_max",
            BATCH_OCTETS_MIN..=BATCH_OCTETS_MAX,
            PAGE_OCTETS,
        )?;
        let partial_timeout_s = self.number(
            section.partial_timeout_s,
            "queue.partial_timeout_s",
            PARTIAL_TIMEOUT_S_MIN..=PARTIAL_TIMEOUT_S_MAX,
            1,
        )?;
        let path = folder.join(section.path);
        let backend = section.backend;
        Ok(Queue { path, segment_octets, segments, backend, batch_octets_max, partial_timeout_s })
    }

    fn record(&self, section: QmgrSection, folder: &Path) -> Result<Option<Record>, BootstrapError> {
        let octets_max = self.number(
            section.record_octets_max,
            "qmgr.record_octets_max",
            RECORD_OCTETS_MIN..=RECORD_OCTETS_MAX,
            1,
        )?;
        let octets_max = octets_max.unwrap_or(RECORD_OCTETS_DEFAULT);
        Ok(section.record.map(|path| Record { path: folder.join(path), octets_max }))
    }

    /// A number within its bounds and a multiple of `step`, if there is one.
    fn number(
        &self,
        value: Option<Spanned<u64>>,
        key: &str,
        bounds: std::ops::RangeInclusive<u32>,
        step: u32,
    ) -> Result<Option<u32>, BootstrapError> {
        let Some(value) = value else { return Ok(None) };
        let number = u32::try_from(*value.get_ref()).ok().filter(|number| bounds.contains(number));
        number.filter(|number| number % step == 0).map(Some).ok_or_else(|| {
            let multiple = if step == 1 { String::new() } else { format!(", a multiple of {step}") };
            let what_to_do = format!("Write a number from {} to {}{multiple}.", bounds.start(), bounds.end());
            let what = format!("{} is out of bounds", value.get_ref());
            self.wrong(Some(value.span()), key, &what, &what_to_do)
        })
    }

    fn wrong(
        &self,
        span: Option<std::ops::Range<usize>>,
        key: &str,
        what: &str,
        what_to_do: &str,
    ) -> BootstrapError {
        let before = self.text.as_bytes().iter().take(span.map_or(0, |span| span.start));
        BootstrapError::Wrong {
            path: self.path.to_owned(),
            line: before.filter(|octet| **octet == b'\n').count() + 1,
            key: key.to_owned(),
            what: what.trim_end_matches('.').replace('\n', ", "),
            what_to_do: what_to_do.to_owned(),
        }
    }
}

/// The SMBIOS serial number if there is one and this process may read it, else the host name.
fn machine_identity() -> String {
    identity::serial(Path::new(identity::SERIAL_FILE)).unwrap_or_else(|_| {
        std::fs::read_to_string("/proc/sys/kernel/hostname").unwrap_or_default().trim().to_owned()
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(text: &str) -> Result<Bootstrap, BootstrapError> {
        Bootstrap::parse(text, Path::new("boot.toml"), Path::new("/etc/sternpost"))
    }

    const SMALL: &str = "[queue]\npath = \"log\"\n[tables]\npath = \"tables.toml\"\n";

    const QUEUE: &str = "[queue]\npath = \"/dev/vdb\"\n";
    const DIRECTORY: &str = "[directory]\nuris = [\"ldaps://ldap.example\"]\ntrust_anchor = \"ca.pem\"\nbind = { simple = { dn = \"cn=n\", password_file = \"password\" } }\nbase_dn = \"dc=example\"\n";

    #[test]
    fn a_small_bootstrap_gets_its_defaults_and_paths_from_its_own_folder() {
        let bootstrap = parse(SMALL).unwrap();
        assert_eq!(bootstrap.run_directory, Path::new("/run/sternpost"));
        assert_eq!(bootstrap.state_directory, Path::new("/var/lib/sternpost"));
        let queue = Queue {
            path: "/etc/sternpost/log".into(),
            segment_octets: None,
            segments: None,
            backend: Backend::Auto,
            batch_octets_max: None,
            partial_timeout_s: None,
        };
        assert_eq!(bootstrap.queue, queue);
        assert!(
            matches!(bootstrap.source, Source::Tables(path) if path == Path::new("/etc/sternpost/tables.toml"))
        );
        assert_eq!(bootstrap.node, "", "tables have one node, whatever it is called");
    }

    #[test]
    fn nothing_is_recorded_unless_a_file_is_named() {
        let record = |lines: &str| parse(&format!("{SMALL}[qmgr]\n{lines}")).unwrap().record;
        assert_eq!(parse(SMALL).unwrap().record, None);
        assert_eq!(record("record_octets_max = 2000000\n"), None);
        let path = PathBuf::from("/etc/sternpost/events");
        let named = |octets_max| Some(Record { path: path.clone(), octets_max });
        assert_eq!(record("record = \"events\"\n"), named(RECORD_OCTETS_DEFAULT));
        assert_eq!(record("record = \"events\"\nrecord_octets_max = 2000000\n"), named(2_000_000));
    }

    #[test]
    fn the_machines_part_alone_is_enough_for_the_self_test() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("device.toml");
        std::fs::write(&path, format!("{QUEUE}[self_test]\nprofile = \"profile.json\"\n")).unwrap();
        let machine = Machine::read(&path).unwrap();
        assert_eq!(machine.queue.path, Path::new("/dev/vdb"));
        assert_eq!(machine.self_test.profile, Some(folder.path().join("profile.json")));
        assert!(matches!(Bootstrap::read(&path), Err(BootstrapError::Wrong { .. })));
    }

    #[test]
    fn a_node_of_the_directory_has_an_identity_without_being_named() {
        let bootstrap = parse(&format!("{QUEUE}{DIRECTORY}")).unwrap();
        assert!(!bootstrap.node.is_empty());
        let Source::Directory(directory) = bootstrap.source else { panic!("not a directory") };
        assert_eq!(directory.node, bootstrap.node);
        assert_eq!(directory.trust_anchor.as_deref(), Some(Path::new("/etc/sternpost/ca.pem")));
        let named = parse(&format!("node = \"north\"\n{QUEUE}{DIRECTORY}")).unwrap();
        assert_eq!(named.node, "north");
        let named = parse(&format!("{QUEUE}{DIRECTORY}node = \"south\"\n")).unwrap();
        assert_eq!(named.node, "south");
    }

    #[test]
    fn what_is_wrong_is_named_with_file_line_key_and_what_to_do() {
        let rows = [
            ("run_directory = 1\n", "boot.toml:1: invalid type"),
            ("[queue\n", "boot.toml:1: "),
            (&SMALL.replace("\"log\"", "\"log\"\nsegmets = 3"), "boot.toml:3: unknown field `segmets`"),
            (
                &SMALL.replace("\"log\"", "\"log\"\nsegments = 7"),
                "boot.toml:3: queue.segments: 7 is out of bounds. Write a number from 8 to 65536.",
            ),
            (
                &SMALL.replace("\"log\"", "\"log\"\nsegment_octets = 1048577"),
                "boot.toml:3: queue.segment_octets: 1048577 is out of bounds. Write a number from 1048576 to 67108864, a multiple of 4096.",
            ),
            (
                &SMALL.replace("\"log\"", "\"log\"\nbackend = \"aio\""),
                "boot.toml:3: unknown variant `aio`, expected one of `auto`, `io_uring`, `dsync`",
            ),
            (
                &SMALL.replace("\"log\"", "\"log\"\nbatch_octets_max = 4096"),
                "boot.toml:3: queue.batch_octets_max: 4096 is out of bounds. Write a number from 131072 to 1048576, a multiple of 4096.",
            ),
            (
                &SMALL.replace("\"log\"", "\"log\"\npartial_timeout_s = 0"),
                "boot.toml:3: queue.partial_timeout_s: 0 is out of bounds. Write a number from 1 to 604800.",
            ),
            (
                &format!("{SMALL}[qmgr]\nrecord_octets_max = 1000\n"),
                "boot.toml:6: qmgr.record_octets_max: 1000 is out of bounds. Write a number from 1048576 to 1073741824.",
            ),
            (&format!("{SMALL}[self_test]\nprofil = \"p\"\n"), "boot.toml:6: unknown field `profil`"),
            (&format!("node = \" \"\n{SMALL}"), "boot.toml:1: node: is empty."),
            (&format!("{SMALL}[directory]\n"), "boot.toml:5: missing field `uris`"),
            (&format!("{SMALL}{DIRECTORY}"), "boot.toml:3: [tables]: there is a [directory] too. Keep"),
            ("[queue]\npath = \"log\"\n", "boot.toml:1: neither [tables] nor [directory]. Add"),
            ("[tables]\npath = \"t\"\n", "missing field `queue`"),
        ];
        for (text, message) in rows {
            let error = parse(text).unwrap_err().to_string();
            assert!(error.contains(message), "{text}\n{error}");
        }
    }

    #[test]
    fn a_bootstrap_that_is_not_there_is_named() {
        let error = Bootstrap::read(Path::new("/nowhere/boot.toml")).unwrap_err();
        assert_eq!(error.to_string(), "the bootstrap /nowhere/boot.toml cannot be read");
    }
}
