//! The profile: what the self test measured on this machine, what follows from it, and why. A JSON file that the self test
//! writes and the roles read at their start; the console shows it.
//!
//! Not here: measuring (`command/self_test`), the arithmetic (`scheduler::self_test`).

use crate::bootstrap::SelfTest;
use crate::output;
use crate::place::{self, Owner};
use serde::{Deserialize, Serialize};
use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use sternpost_scheduler::self_test::{
    BATCH_OCTETS_MAX, BATCH_OCTETS_MIN, CHANNEL_PROCESSES_MAX, CHANNEL_PROCESSES_MIN, CONNECTIONS_MAX,
    CONNECTIONS_MIN, Curve, Derived, SLOTS_PER_PROCESS_MAX, SLOTS_PER_PROCESS_MIN, Values, WriteMethod,
};
use time::OffsetDateTime;
use time::format_description::well_known::Rfc3339;
use time::macros::format_description;

/// What this software writes and reads.
const VERSION: u32 = 2;
/// A profile has 8 KiB; whatever is larger than this is none.
const OCTETS_MAX: u64 = 1 << 20;
/// Profiles that the history keeps.
const HISTORY_COUNT_MAX: usize = 10;
const HISTORY_PREFIX: &str = "profile-";

/// A profile.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub(crate) struct Profile {
    /// 2.
    pub(crate) version: u32,
    /// RFC 3339, UTC.
    pub(crate) measured_at: String,
    /// The log for whose disk it was made: file or device.
    pub(crate) queue: PathBuf,
    /// Where it was measured, in words.
    pub(crate) place: String,
    /// What the machine has.
    pub(crate) machine: Machine,
    /// Durable writes.
    pub(crate) commits: Vec<Commit>,
    /// Content.
    pub(crate) content: Content,
    /// What one processor does; none when that could not be measured.
    pub(crate) processor: Option<Processor>,
    /// Mail over the loopback; none when that could not be tried.
    pub(crate) transfer: Option<Transfer>,
    /// What follows.
    pub(crate) values: Chosen,
    /// What a person should know, in sentences.
    pub(crate) remarks: Vec<String>,
}

/// What the machine has.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub(crate) struct Machine {
    pub(crate) cpus_count: u32,
    pub(crate) memory_octets: u64,
    /// What is free or can be freed at once; none where the system does not say.
    pub(crate) memory_available_octets: Option<u64>,
    /// From the wish for a process to its end when it has nothing to do: the least of several, microseconds.
    pub(crate) process_start_us: f64,
}

/// One method with one size of batch.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub(crate) struct Commit {
    /// `io_uring`, `dsync`, `fdatasync`, all of them past the page cache where that is possible; `buffered` is `fdatasync`
    /// through it; `unsynced` is not durable and shows what a flush adds.
    pub(crate) method: String,
    pub(crate) batch_octets: u32,
    /// How many were measured.
    pub(crate) count: u32,
    /// Microseconds. The values follow from the lowest tenth.
    pub(crate) p10_us: f64,
    pub(crate) p50_us: f64,
    pub(crate) p99_us: f64,
    /// Batches a second, one after the other.
    pub(crate) per_s: f64,
}

/// Octets a second, in the largest pieces.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub(crate) struct Content {
    /// Durable.
    pub(crate) write_octets_per_s: f64,
    /// From the device, if that was measured.
    pub(crate) read_octets_per_s: Option<f64>,
}

/// What one processor does in a second.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub(crate) struct Processor {
    /// Full handshakes of TLS 1.3 with a key of ECDSA P-256, the server's work alone.
    pub(crate) tls_server_per_s: f64,
    /// The client's work alone.
    pub(crate) tls_client_per_s: f64,
    pub(crate) sha256_octets_per_s: f64,
    /// From memory to memory; each octet counts once.
    pub(crate) copy_octets_per_s: f64,
}

/// Mail over the loopback at rising concurrency.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub(crate) struct Transfer {
    /// Octets of a message's content.
    pub(crate) message_octets: u32,
    /// How each message was made durable.
    pub(crate) method: String,
    /// By rising concurrency.
    pub(crate) points: Vec<TransferPoint>,
    /// The scalability law; none when it does not say what was measured.
    pub(crate) law: Option<Law>,
    /// The chosen point; none when nothing passed in time.
    pub(crate) choice: Option<Choice>,
}

/// One level of concurrency.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub(crate) struct TransferPoint {
    /// Associations at work at a time.
    pub(crate) associations: u32,
    /// Messages a second of all of them together.
    pub(crate) per_s: f64,
    /// Messages that shared a durable write, on average.
    pub(crate) batch_messages: f64,
}

/// X(N) = λN / (1 + σ(N − 1) + κN(N − 1)).
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub(crate) struct Law {
    /// λ.
    pub(crate) lambda_per_s: f64,
    /// σ.
    pub(crate) sigma: f64,
    /// κ.
    pub(crate) kappa: f64,
    /// The root of the mean square of the relative errors.
    pub(crate) residual: f64,
}

/// The point at which the machine works best.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub(crate) struct Choice {
    pub(crate) associations: u32,
    pub(crate) per_s: f64,
    /// `knee`, `highest` or `share`.
    pub(crate) rule: String,
    pub(crate) reason: String,
}

impl Transfer {
    /// Takes over what the arithmetic has made of the points; without a curve nothing passed in time.
    pub(crate) fn new(
        message_octets: u32,
        method: &str,
        points: Vec<TransferPoint>,
        curve: Option<&Curve>,
    ) -> Self {
        let law = curve.and_then(|curve| curve.law).map(|law| Law {
            lambda_per_s: law.lambda,
            sigma: law.sigma,
            kappa: law.kappa,
            residual: law.residual,
        });
        let choice = curve.map(|Curve { choice: Derived { value, reason }, .. }| Choice {
            associations: value.associations,
            per_s: value.per_s,
            rule: value.rule.name().to_owned(),
            reason: reason.clone(),
        });
        Self { message_octets, method: method.to_owned(), points, law, choice }
    }
}

/// The values.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub(crate) struct Chosen {
    /// How the log is written.
    pub(crate) method: Value<Method>,
    /// Octets of the largest batch.
    pub(crate) batch_octets: Value<u32>,
    /// Channel processes in all.
    pub(crate) channel_processes_max: Value<u32>,
    /// Association slots of all channel processes together; none, as the two below, when no mail could be transferred.
    pub(crate) association_slots_max: Option<Value<u32>>,
    /// Its share for each process.
    pub(crate) slots_per_process: Option<Value<u32>>,
    /// Connections on all listeners together.
    pub(crate) connections_max: Option<Value<u32>>,
}

impl Chosen {
    /// Each number with its name, as far as there is one.
    pub(crate) fn numbers(&self) -> impl Iterator<Item = (&'static str, &Value<u32>)> {
        [
            ("batch_octets", Some(&self.batch_octets)),
            ("channel_processes_max", Some(&self.channel_processes_max)),
            ("association_slots_max", self.association_slots_max.as_ref()),
            ("slots_per_process", self.slots_per_process.as_ref()),
            ("connections_max", self.connections_max.as_ref()),
        ]
        .into_iter()
        .filter_map(|(name, value)| Some((name, value?)))
    }

    /// Whether every number is one that a switch can work by.
    fn is_within_bounds(&self) -> bool {
        self.numbers().all(|(name, number)| {
            let bounds = match name {
                "batch_octets" => BATCH_OCTETS_MIN..=BATCH_OCTETS_MAX,
                "channel_processes_max" => CHANNEL_PROCESSES_MIN..=CHANNEL_PROCESSES_MAX,
                "slots_per_process" => SLOTS_PER_PROCESS_MIN..=SLOTS_PER_PROCESS_MAX,
                "connections_max" => CONNECTIONS_MIN..=CONNECTIONS_MAX,
                // Nobody obeys the total itself, only its shares.
                _ => 0..=u32::MAX,
            };
            bounds.contains(&number.value)
        })
    }
}

/// A value and why it is this one.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub(crate) struct Value<T> {
    pub(crate) value: T,
    pub(crate) reason: String,
}

/// How the log is written.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum Method {
    /// A write linked to an `fdatasync` on a ring.
    IoUring,
    /// `pwritev2` with `RWF_DSYNC`.
    Dsync,
}

impl Method {
    /// As it is called in a bootstrap.
    pub(crate) const fn name(self) -> &'static str {
        match self {
            Self::IoUring => "io_uring",
            Self::Dsync => "dsync",
        }
    }

    /// Reads a name.
    ///
    /// # Errors
    /// What to write instead.
    pub(crate) fn parse(name: &str) -> Result<Self, String> {
        let found = [Self::IoUring, Self::Dsync].into_iter().find(|method| method.name() == name);
        found.ok_or_else(|| "write io_uring or dsync".to_owned())
    }
}

impl From<Values> for Chosen {
    fn from(values: Values) -> Self {
        let number = |derived: Derived<u32>| Value { value: derived.value, reason: derived.reason };
        let value = match values.method.value {
            WriteMethod::IoUring => Method::IoUring,
            WriteMethod::Dsync => Method::Dsync,
        };
        let (slots, share, connections) = match values.totals {
            Some(totals) => (
                Some(totals.association_slots_max),
                Some(totals.slots_per_process),
                Some(totals.connections_max),
            ),
            None => (None, None, None),
        };
        Self {
            method: Value { value, reason: values.method.reason },
            batch_octets: number(values.batch_octets),
            channel_processes_max: number(values.channel_processes_max),
            association_slots_max: slots.map(number),
            slots_per_process: share.map(number),
            connections_max: connections.map(number),
        }
    }
}

/// Why a profile cannot be used.
#[derive(Debug, thiserror::Error)]
pub(crate) enum ProfileError {
    /// It cannot be read or written.
    #[error("the self test's profile {} cannot be {action}", path.display())]
    Io {
        /// The file.
        path: PathBuf,
        /// `read` or `written`.
        action: &'static str,
        /// Why.
        source: io::Error,
    },
    /// It is no profile.
    #[error("{} is no profile of a self test", path.display())]
    Nonsense {
        /// The file.
        path: PathBuf,
        /// Why.
        source: serde_json::Error,
    },
    /// It is one, but not for this switch.
    #[error("the self test's profile {} is not for this switch: {why}", path.display())]
    Foreign {
        /// The file.
        path: PathBuf,
        /// In words.
        why: String,
    },
}

/// What was measured.
#[derive(Clone, Debug)]
pub(crate) struct Found {
    pub(crate) machine: Machine,
    pub(crate) commits: Vec<Commit>,
    pub(crate) content: Content,
    pub(crate) processor: Option<Processor>,
    pub(crate) transfer: Option<Transfer>,
}

impl Profile {
    /// A profile of this software's version, made now.
    pub(crate) fn new(
        queue: PathBuf,
        place: String,
        found: Found,
        values: Values,
        remarks: Vec<String>,
    ) -> Self {
        let measured_at = OffsetDateTime::now_utc().format(&Rfc3339).unwrap_or_default();
        let Found { machine, commits, content, processor, transfer } = found;
        Self {
            version: VERSION,
            measured_at,
            queue,
            place,
            machine,
            commits,
            content,
            processor,
            transfer,
            values: values.into(),
            remarks,
        }
    }

    /// Reads the profile of the log at `queue`.
    ///
    /// # Errors
    /// `ProfileError`: then the defaults hold.
    pub(crate) fn read(path: &Path, queue: &Path) -> Result<Self, ProfileError> {
        let failed = |source| ProfileError::Io { path: path.to_owned(), action: "read", source };
        let length = fs::metadata(path).map_err(failed)?.len();
        let foreign = |why: String| ProfileError::Foreign { path: path.to_owned(), why };
        if length > OCTETS_MAX {
            return Err(foreign(format!("it has {length} octets")));
        }
        let octets = fs::read(path).map_err(failed)?;
        let nonsense = |source| ProfileError::Nonsense { path: path.to_owned(), source };
        // The version first: the fields of another one may be others.
        let value: serde_json::Value = serde_json::from_slice(&octets).map_err(nonsense)?;
        if value["version"] != VERSION {
            return Err(foreign(format!(
                "its version is {}, and this software reads {VERSION}",
                value["version"]
            )));
        }
        let profile: Self = serde_json::from_value(value).map_err(nonsense)?;
        let values = &profile.values;
        if profile.queue != queue {
            let (theirs, ours) = (profile.queue.display(), queue.display());
            return Err(foreign(format!("it was measured for the log {theirs}, and this one is {ours}")));
        }
        if !values.is_within_bounds() {
            return Err(foreign("a value is out of bounds".to_owned()));
        }
        Ok(profile)
    }

    /// Puts the profile in the place of the one before, whole or not at all.
    ///
    /// # Errors
    /// `Io`.
    pub(crate) fn write(&self, path: &Path) -> Result<(), ProfileError> {
        let failed = |source| ProfileError::Io { path: path.to_owned(), action: "written", source };
        let octets = serde_json::to_vec_pretty(self).map_err(io::Error::other).map_err(failed)?;
        place::put(path, &octets, Owner::PUBLIC).map_err(failed)
    }

    /// Adds the profile to a folder of earlier ones, and removes all but the last ten.
    ///
    /// # Errors
    /// `Io`.
    pub(crate) fn keep(&self, folder: &Path) -> Result<(), ProfileError> {
        let failed = |source| ProfileError::Io { path: folder.to_owned(), action: "kept", source };
        fs::create_dir_all(folder).map_err(failed)?;
        let format = format_description!("[year][month][day]T[hour][minute][second].[subsecond digits:3]Z");
        let now = OffsetDateTime::now_utc().format(format).unwrap_or_default();
        self.write(&folder.join(format!("{HISTORY_PREFIX}{now}.json")))?;
        let mut kept: Vec<PathBuf> = fs::read_dir(folder)
            .map_err(failed)?
            .filter_map(|entry| Some(entry.ok()?.path()))
            .filter(|path| {
                let name = path.file_name().and_then(|name| name.to_str()).unwrap_or_default();
                name.starts_with(HISTORY_PREFIX) && name.ends_with(".json")
            })
            .collect();
        kept.sort();
        let surplus = kept.len().saturating_sub(HISTORY_COUNT_MAX);
        kept.iter().take(surplus).try_for_each(fs::remove_file).map_err(failed)
    }
}

/// Where it stands why there is no new profile at `profile`, in words.
pub(crate) fn failure_beside(profile: &Path) -> PathBuf {
    profile.with_extension("failure")
}

/// Says beside `profile` why there is no new one, or with `None` that there is nothing to say.
///
/// # Errors
/// `Io`.
pub(crate) fn tell_failure(profile: &Path, why: Option<&dyn std::error::Error>) -> Result<(), ProfileError> {
    let path = failure_beside(profile);
    let told = match why {
        Some(error) => fs::write(&path, format!("{}\n", output::chain(error))),
        None => match fs::remove_file(&path) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
            removed => removed,
        },
    };
    told.map_err(|source| ProfileError::Io { path, action: "written", source })
}

/// What the self test chose for the log at `queue`, if there is a profile that can be used. One that cannot is said.
pub(crate) fn in_force(files: &SelfTest, queue: &Path) -> Option<Chosen> {
    match Profile::read(files.profile.as_ref()?, queue) {
        Ok(profile) => Some(profile.values),
        Err(error) => {
            tracing::warn!(
                event = "self-test.unusable",
                error = &error as &dyn std::error::Error,
                "the defaults hold instead of the self test's values; run sternpost self-test"
            );
            None
        }
    }
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;

    pub(crate) fn example(queue: &Path) -> Profile {
        let number = |value: u32| Value { value, reason: "so it is".to_owned() };
        Profile {
            version: VERSION,
            measured_at: "2026-01-02T03:04:05Z".into(),
            queue: queue.to_owned(),
            place: "the trial region".into(),
            machine: Machine {
                cpus_count: 2,
                memory_octets: 1 << 29,
                memory_available_octets: Some(1 << 28),
                process_start_us: 4_000.5,
            },
            commits: vec![Commit {
                method: "dsync".into(),
                batch_octets: 4_096,
                count: 64,
                p10_us: 300.0,
                p50_us: 312.5,
                p99_us: 900.0,
                per_s: 3_000.0,
            }],
            content: Content { write_octets_per_s: 1e8, read_octets_per_s: None },
            processor: None,
            transfer: None,
            values: Chosen {
                method: Value { value: Method::IoUring, reason: "it is faster".into() },
                batch_octets: number(262_144),
                channel_processes_max: number(12),
                association_slots_max: Some(number(600)),
                slots_per_process: Some(number(50)),
                connections_max: Some(number(2_500)),
            },
            remarks: vec!["a remark".into()],
        }
    }

    #[test]
    fn what_was_written_is_read_back_for_the_same_log_alone() {
        let folder = tempfile::tempdir().unwrap();
        let (path, queue) = (folder.path().join("profile.json"), Path::new("/dev/vdb"));
        let profile = example(queue);
        profile.write(&path).unwrap();
        profile.write(&path).unwrap();
        assert_eq!(Profile::read(&path, queue).unwrap(), profile);
        assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 1, "nothing is left beside it");
        let error = Profile::read(&path, Path::new("/dev/vdc")).unwrap_err();
        assert!(error.to_string().contains("it was measured for the log /dev/vdb, and this one is /dev/vdc"));
        let files = SelfTest { profile: Some(path), history: None };
        assert_eq!(in_force(&files, queue), Some(profile.values));
        assert_eq!(in_force(&files, Path::new("/dev/vdc")), None);
        assert_eq!(in_force(&SelfTest::default(), queue), None);
    }

    #[test]
    fn what_is_no_profile_or_one_of_another_version_is_not_used() {
        let folder = tempfile::tempdir().unwrap();
        let (path, queue) = (folder.path().join("profile.json"), Path::new("/dev/vdb"));
        let good = serde_json::to_string(&example(queue)).unwrap();
        let rows = [
            (String::new(), "is no profile"),
            ("[]".into(), "its version is null"),
            (good.replace("\"version\":2", "\"version\":1"), "its version is 1, and this software reads 2"),
            (good.replace("io_uring", "aio"), "is no profile"),
            (good.replace("262144", "4096"), "a value is out of bounds"),
            (good.replace("\"value\":12", "\"value\":0"), "a value is out of bounds"),
            (good.replace("\"value\":50", "\"value\":8000"), "a value is out of bounds"),
            (good.replace("2500", "70000"), "a value is out of bounds"),
            (good.replace("2500", "399"), "a value is out of bounds"),
            (good.replace("\"machine\"", "\"engine\""), "is no profile"),
            (" ".repeat(2 << 20), "it has 2097152 octets"),
        ];
        for (text, wanted) in rows {
            assert_ne!(text, good);
            fs::write(&path, &text).unwrap();
            let error = Profile::read(&path, queue).unwrap_err();
            assert!(error.to_string().contains(wanted), "{error}: {wanted}");
        }
        fs::remove_file(&path).unwrap();
        assert!(matches!(Profile::read(&path, queue), Err(ProfileError::Io { .. })));
    }

    #[test]
    fn the_history_keeps_ten_profiles_and_touches_nothing_else() {
        let folder = tempfile::tempdir().unwrap();
        let history = folder.path().join("history");
        fs::create_dir(&history).unwrap();
        fs::write(history.join("notes.txt"), "mine").unwrap();
        for day in 1..=12 {
            fs::write(history.join(format!("profile-202401{day:02}T000000.000Z.json")), "{}").unwrap();
        }
        example(Path::new("/dev/vdb")).keep(&history).unwrap();
        let mut names: Vec<String> = fs::read_dir(&history)
            .unwrap()
            .map(|entry| entry.unwrap().file_name().into_string().unwrap())
            .collect();
        names.sort();
        assert_eq!(names.len(), 11);
        assert_eq!(names[0], "notes.txt");
        assert_eq!(names[1], "profile-20240104T000000.000Z.json");
    }
}
