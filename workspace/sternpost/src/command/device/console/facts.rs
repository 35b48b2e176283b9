//! What the console knows: answers of the switch, and files. Anything may be absent at any time, or not of the form
//! that is expected; then it is not there.

use super::super::identity;
use super::super::ports::{self, Port};
use super::super::state::{STATE_FILE, State};
use super::Arguments;
use super::storage::Storage;
use crate::ask::{self, AskError, Which};
use crate::command::health::lacking::{self, Lacking};
use crate::command::status;
use crate::place;
use crate::profile;
use serde_json::Value;
use std::collections::BTreeMap;
use std::path::Path;
use std::time::{Duration, SystemTime};
use sternpost_platform::clock::since_kernel_start;

/// Far more than any of the files has.
const OCTETS_MAX: u64 = 1 << 20;
/// The switch answers in milliseconds, or not at all.
const ANSWER_MAX: Duration = Duration::from_secs(3);

/// A look at everything.
#[derive(Clone, Debug, Default)]
pub(super) struct Facts {
    /// The bootstrap, if `device bootstrap` has said a word.
    pub(super) device: Option<State>,
    /// What is wrong with the device's disk.
    pub(super) storage: Vec<String>,
    /// `sternpost status`, if the supervisor answers.
    pub(super) status: Option<Value>,
    /// The self test's profile, and how long ago it was done.
    pub(super) self_test: Option<(Value, Duration)>,
    /// Why there is none, if the self test has said so.
    pub(super) self_test_failure: Option<String>,
    /// When the boot was found good, in seconds since the kernel's start.
    pub(super) good_at_s: Option<f64>,
    /// What the health check does not find good, and for how long.
    pub(super) lacking: Vec<(Lacking, Duration)>,
    /// The wired ports.
    pub(super) ports: Vec<Port>,
    /// Addresses with the lengths of their prefixes, by interface; without the loopback's and the links' own.
    pub(super) addresses: BTreeMap<String, Vec<String>>,
    /// The serial number, where this process may read it.
    pub(super) serial: Option<String>,
}

impl Facts {
    pub(super) fn gather(arguments: &Arguments) -> Self {
        let device = json(&arguments.device_directory.join(STATE_FILE));
        let device: Option<State> = device.and_then(|state| serde_json::from_value(state).ok());
        let serial = device.as_ref().and_then(|state| state.serial.clone());
        Self {
            storage: Storage::look(&arguments.device)
                .map(|storage| storage.problems(since_kernel_start()))
                .unwrap_or_default(),
            status: status_of(&Which::in_run_directory(arguments.run_directory.clone())),
            self_test: json(&arguments.self_test).map(|profile| (profile, age(&arguments.self_test))),
            self_test_failure: place::read_text(&profile::failure_beside(&arguments.self_test), OCTETS_MAX)
                .ok()
                .flatten(),
            good_at_s: json(&arguments.good).map(|good| good["since_kernel_start_s"].as_f64().unwrap_or(0.0)),
            lacking: lacking(&arguments.good),
            ports: ports::all(Path::new(ports::INTERFACES), Path::new(ports::DEVICE_DATA)),
            addresses: addresses(),
            serial: serial.or_else(|| identity::serial(Path::new(identity::SERIAL_FILE)).ok()),
            device,
        }
    }
}

fn json(path: &Path) -> Option<Value> {
    serde_json::from_str(&place::read_text(path, OCTETS_MAX).ok()??).ok()
}

fn lacking(good: &Path) -> Vec<(Lacking, Duration)> {
    let parts: Vec<Lacking> =
        json(&lacking::beside(good)).and_then(|parts| serde_json::from_value(parts).ok()).unwrap_or_default();
    let now = since_kernel_start();
    let with_age = |part: Lacking| {
        let since = Duration::try_from_secs_f64(part.since_kernel_start_s).unwrap_or(now);
        (part, now.saturating_sub(since))
    };
    parts.into_iter().map(with_age).collect()
}

fn age(path: &Path) -> Duration {
    let changed = std::fs::metadata(path).and_then(|metadata| metadata.modified());
    changed.ok().and_then(|changed| SystemTime::now().duration_since(changed).ok()).unwrap_or_default()
}

fn status_of(which: &Which) -> Option<Value> {
    let looking = async {
        // The supervisor answers for parts that do not.
        let within = 2 * ANSWER_MAX;
        let silent = Err(AskError::Silent { who: "the switch", within });
        tokio::time::timeout(within, status::look(which, ANSWER_MAX)).await.unwrap_or(silent)
    };
    ask::on_loop(looking).ok()
}

fn addresses() -> BTreeMap<String, Vec<String>> {
    let mut by_interface: BTreeMap<String, Vec<String>> = BTreeMap::new();
    for interface in if_addrs::get_if_addrs().unwrap_or_default() {
        if interface.is_loopback() || interface.is_link_local() {
            continue;
        }
        let prefix = match &interface.addr {
            if_addrs::IfAddr::V4(four) => four.prefixlen,
            if_addrs::IfAddr::V6(six) => six.prefixlen,
        };
        let address = format!("{}/{prefix}", interface.ip());
        by_interface.entry(interface.name).or_default().push(address);
    }
    by_interface
}
