//! `sternpost device bootstrap`: finds the site's bootstrap, judges it, keeps it, and puts it and the network into force.
//!
//! In this order: the stick labelled STERNPOST, because somebody has just brought it; the credential of the machine's
//! firmware, once for each version of it, because it stays there for ever; what was kept. A new one that is wrong never
//! replaces a good one that was kept: it is reported, and the kept one stays in force. With none at all the device asks
//! for nothing on the network, says what is missing, and looks again every second.
//! Not here: what a bootstrap means (`site`), what the network daemon reads (`networkd`).

use super::identity::{self, SERIAL_FILE};
use super::network::Kind;
use super::problem::Problem;
use super::site::{Beside, FILE_NAME, Site, TEXT_OCTETS_MAX};
use super::state::{FOLDER_DEFAULT, PortName, STATE_FILE, State};
use super::{CommandResult, DeviceError, joined, networkd, ports, stick};
use crate::bootstrap::Bootstrap;
use crate::place::{self, Owner};
use crate::roles::Roles;
use crate::{logging, output};
use sha2::{Digest, Sha256};
use std::collections::BTreeSet;
use std::io;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::{Duration, Instant};

/// The credential's name. systemd takes it from SMBIOS type 11 or from `opt/io.systemd.credentials/` of fw_cfg.
const CREDENTIAL: &str = "sternpost.bootstrap";
/// Where the credential's digest is kept.
const CREDENTIAL_DIGEST: &str = "credential.sha256";
/// The switch's bootstrap in the run folder.
const JOINED: &str = "bootstrap.toml";
/// The folder of what the directory role alone may read.
const SECRETS: &str = "directory";
/// The folder of what the signer reads.
const CREDENTIALS: &str = "credentials";
/// Between two looks at the stick when there is no bootstrap.
const LOOK_AGAIN: Duration = Duration::from_secs(1);
/// Between two looks at the stick at the start, when one may just be appearing.
const LOOK_AGAIN_SOON: Duration = Duration::from_millis(50);
/// Between a stick's appearance on the bus and its mount.
const MOUNT_MAX: Duration = Duration::from_secs(3);
/// Where the kernel shows what is on a USB, and on PCI.
const USB_DEVICES: &str = "/sys/bus/usb/devices";
const PCI_DEVICES: &str = "/sys/bus/pci/devices";

/// Where things are.
#[derive(Debug, clap::Args)]
pub(crate) struct Arguments {
    /// Where the stick is mounted
    #[arg(long, value_name = "FOLDER", default_value = "/run/sternpost-device/usb")]
    usb: PathBuf,
    /// How long to wait for a stick on a machine with USB
    #[arg(long, value_name = "MILLISECONDS", default_value_t = 2_000)]
    usb_wait_ms: u64,
    /// Where the service manager puts credentials
    #[arg(long, value_name = "FOLDER", env = "CREDENTIALS_DIRECTORY")]
    credentials: Option<PathBuf>,
    /// Where the bootstrap is kept
    #[arg(long, value_name = "FOLDER", default_value = "/var/lib/sternpost/bootstrap")]
    kept: PathBuf,
    /// The image's part of the bootstrap
    #[arg(long, value_name = "FILE", default_value = "/etc/sternpost/device.toml")]
    device: PathBuf,
    /// Where the bootstrap in force is written
    #[arg(long, value_name = "FOLDER", default_value = FOLDER_DEFAULT)]
    out: PathBuf,
    /// Where the network daemon reads
    #[arg(long, value_name = "FOLDER", default_value = "/run/systemd/network")]
    network: PathBuf,
    /// Where the machine's serial number is
    #[arg(long, value_name = "FILE", default_value = SERIAL_FILE)]
    serial: PathBuf,
    /// Where the kernel shows disks
    #[arg(long, value_name = "FOLDER", default_value = stick::BLOCK_DEVICES, hide = true)]
    block_devices: PathBuf,
    /// Where the device manager keeps what it knows of them
    #[arg(long, value_name = "FOLDER", default_value = ports::DEVICE_DATA, hide = true)]
    device_data: PathBuf,
    /// Look once, and fail if there is none
    #[arg(long)]
    once: bool,
}

/// Where a bootstrap came from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Source {
    Stick,
    Credential,
    Kept,
}

impl Source {
    const fn name(self) -> &'static str {
        match self {
            Self::Stick => "USB stick",
            Self::Credential => "credential",
            Self::Kept => "kept bootstrap",
        }
    }
}

/// A bootstrap that can be put into force.
#[derive(Debug)]
struct Chosen {
    source: Source,
    site: Site,
    node: String,
    joined: String,
}

/// Collects until there is a bootstrap in force.
///
/// # Errors
/// When the image's part is wrong or what is found cannot be written.
pub(crate) fn run(arguments: &Arguments) -> CommandResult {
    logging::start("bootstrap");
    place::folder(&arguments.out, Owner { mode: 0o755, ..Owner::PUBLIC })
        .map_err(DeviceError::write(&arguments.out))?;
    wait_for_stick(arguments);
    let mut said = None;
    loop {
        let state = collect(arguments)?;
        let path = arguments.out.join(STATE_FILE);
        if said.as_ref() != Some(&state) {
            tell(&state);
            let text = serde_json::to_vec_pretty(&state)?;
            place::put(&path, &text, Owner::PUBLIC).map_err(DeviceError::write(&path))?;
        }
        if state.source.is_some() {
            return Ok(ExitCode::SUCCESS);
        }
        if arguments.once {
            return Ok(ExitCode::FAILURE);
        }
        said = Some(state);
        std::thread::sleep(LOOK_AGAIN);
    }
}

/// A stick that was in when the machine was switched on takes a moment to appear, and one that is on the bus already takes
/// another until it is mounted. Machines without USB do not wait.
fn wait_for_stick(arguments: &Arguments) {
    let started = Instant::now();
    let most = Duration::from_millis(arguments.usb_wait_ms);
    if most.is_zero() || !has_usb() {
        return;
    }
    while !arguments.usb.join(FILE_NAME).exists() {
        let waited = started.elapsed();
        if waited >= most && (waited >= most + MOUNT_MAX || !has_usb_storage()) {
            return;
        }
        std::thread::sleep(LOOK_AGAIN_SOON);
    }
}

/// Whether the machine has a controller for USB, with or without a driver by now.
fn has_usb() -> bool {
    any_device(PCI_DEVICES, "class", "0x0c03")
        || std::fs::read_dir(USB_DEVICES).is_ok_and(|mut all| all.next().is_some())
}

/// Whether there is mass storage on a USB.
fn has_usb_storage() -> bool {
    any_device(USB_DEVICES, "bInterfaceClass", "08")
}

/// Whether an attribute of a device of this bus begins so.
fn any_device(bus: &str, attribute: &str, begin: &str) -> bool {
    let begins = |entry: std::fs::DirEntry| {
        std::fs::read_to_string(entry.path().join(attribute)).is_ok_and(|text| text.starts_with(begin))
    };
    std::fs::read_dir(bus).is_ok_and(|devices| devices.flatten().any(begins))
}

fn tell(state: &State) {
    for problem in &state.problems {
        tracing::error!(event = "device.bootstrap.problem", problem, "a problem with the bootstrap");
    }
    for need in &state.needs {
        tracing::warn!(event = "device.bootstrap.waiting", need, "there is no bootstrap");
    }
    if let (Some(source), Some(node)) = (&state.source, &state.node) {
        tracing::info!(event = "device.bootstrap", source, node, "the bootstrap is in force");
    }
}

/// Looks once at all sources, and puts the first good one into force.
///
/// # Errors
/// When the image's part is wrong or what was found cannot be written.
fn collect(arguments: &Arguments) -> Result<State, DeviceError> {
    let mut state = State { serial: identity::serial(&arguments.serial).ok(), ..State::default() };
    let word = stick::word(&arguments.usb, &arguments.block_devices, &arguments.device_data);
    let stick = arguments.usb.join(FILE_NAME);
    let kept = arguments.kept.join(FILE_NAME);
    let credential = arguments.credentials.as_ref().map(|folder| folder.join(CREDENTIAL));
    let mut refused: Vec<(Source, Vec<String>)> = Vec::new();
    let mut read = |path: &Path, source: Source| match place::read_text(path, TEXT_OCTETS_MAX) {
        Ok(text) => text,
        Err(error) => {
            refused.push((source, vec![format!("the {} cannot be read: {error}", source.name())]));
            None
        }
    };
    let stick = read(&stick, Source::Stick);
    let credential = credential.and_then(|path| read(&path, Source::Credential));
    let kept = read(&kept, Source::Kept);
    let digest = credential.as_ref().map(|text| digest(text));
    let is_known = digest.is_some() && digest == known_digest(&arguments.kept);
    let (new_credential, old_credential) =
        if is_known { (None, credential.as_ref()) } else { (credential.as_ref(), None) };
    let candidates = [
        (Source::Stick, stick.as_ref()),
        (Source::Credential, new_credential),
        (Source::Kept, kept.as_ref()),
        // Nothing else is left: better the one that was replaced than none.
        (Source::Credential, old_credential),
    ];
    for (source, text) in candidates {
        let Some(text) = text else { continue };
        match prepare(arguments, source, text)? {
            Ok(chosen) => {
                put_into_force(arguments, &chosen)?;
                if let Err(error) = keep(arguments, &chosen, kept.as_deref(), digest.as_deref()) {
                    let what = format!(
                        "the bootstrap cannot be kept ({error}): it is needed again at the next start, and the state partition needs a look"
                    );
                    state.problems.push(what);
                }
                state.problems.extend(
                    refused
                        .into_iter()
                        .flat_map(|(source, problems)| with_remedy(problems, source, chosen.source)),
                );
                // Some other stick may stay in: it says nothing of a device that has what it needs.
                state.problems.extend(word.filter(|_| stick::is_mounted(&arguments.usb)));
                state.ports = port_names(&chosen.site);
                state.source = Some(chosen.source.name().to_owned());
                state.directory = chosen.site.directory(Path::new(""), "").uris;
                state.node = Some(chosen.node);
                return Ok(state);
            }
            Err(problems) => refused.push((source, problems)),
        }
    }
    state.problems.extend(word.into_iter().chain(refused.into_iter().flat_map(|(_, problems)| problems)));
    state.needs = needs(&state);
    Ok(state)
}

/// The problems of a source, of which the first says what holds instead and what to do.
fn with_remedy(mut problems: Vec<String>, refused: Source, in_force: Source) -> Vec<String> {
    if let Some(first) = problems.first_mut() {
        let (refused, in_force) = (refused.name(), in_force.name());
        let remedy = if first.ends_with('.') { " The" } else { "; the" };
        first.push_str(&format!(
            "{remedy} {in_force} is in force; correct the {refused} and start the machine again"
        ));
    }
    problems
}

/// The wired ports that it names.
fn port_names(site: &Site) -> Vec<PortName> {
    let name = |kind: &Kind| match kind {
        Kind::Wired { name, mac } => {
            Some(PortName { name: name.clone(), mac: mac.map(|mac| mac.to_string()) })
        }
        Kind::Vlan { .. } | Kind::Bond { .. } => None,
    };
    site.network.links.iter().filter_map(|link| name(&link.kind)).collect()
}

/// What is missing, and the ways to give it.
fn needs(state: &State) -> Vec<String> {
    let serial = state.serial.as_deref().unwrap_or("none; write node = \"NAME\" into the bootstrap");
    let missing = if state.problems.is_empty() {
        "there is no bootstrap"
    } else {
        "there is no bootstrap without a problem"
    };
    vec![
        format!("{missing}; the serial number of this machine is {serial}"),
        format!(
            "give it on a USB stick: a FAT file system labelled STERNPOST with the file {FILE_NAME}; it may be put in now"
        ),
        format!(
            "or as the systemd credential {CREDENTIAL} (SMBIOS type 11 or fw_cfg), and start the machine again"
        ),
        "what was given once is kept on the state partition, which has none yet".to_owned(),
    ]
}

/// Judges a text completely: form, files, identity, and what the switch itself will make of it.
///
/// # Errors
/// The outer ones are the device's, the inner ones what is wrong with the text.
fn prepare(
    arguments: &Arguments,
    source: Source,
    text: &str,
) -> Result<Result<Chosen, Vec<String>>, DeviceError> {
    let words = |problems: Vec<Problem>| problems.iter().map(ToString::to_string).collect();
    let on_stick = |name: &str| -> Result<Vec<u8>, String> {
        match place::read_text(&arguments.usb.join(name), TEXT_OCTETS_MAX) {
            Ok(Some(text)) => Ok(text.into_bytes()),
            Ok(None) => Err("is not there".to_owned()),
            Err(error) => Err(format!("cannot be read: {error}")),
        }
    };
    let nothing = |_: &str| Err("cannot be given here".to_owned());
    let beside: Beside<'_> = if source == Source::Stick { &on_stick } else { &nothing };
    let site = match Site::parse(text, source.name(), beside) {
        Ok(site) => site,
        Err(problems) => return Ok(Err(words(problems))),
    };
    let node = match site.node.clone().map_or_else(|| identity::serial(&arguments.serial), Ok) {
        Ok(node) => node,
        Err(error) => return Ok(Err(vec![format!("{}: {}", source.name(), output::chain(&error))])),
    };
    let trial = arguments.out.join(".trial");
    let judged = judge(&arguments.device, &arguments.out.join(SECRETS), &site, &node, &trial);
    // Secrets lie there; the next run would replace them, if there is one.
    let _ = std::fs::remove_dir_all(&trial);
    Ok(match judged? {
        Ok(joined) => Ok(Chosen { source, site, node, joined }),
        Err(problem) => Err(vec![problem]),
    })
}

/// Tries the site's bootstrap in a folder of its own, and gives the joined text: with the image's part in `device`, for
/// secrets that will lie in `secrets`.
///
/// # Errors
/// The outer ones are the device's, the inner one what is wrong with the text.
pub(super) fn judge(
    device: &Path,
    secrets: &Path,
    site: &Site,
    node: &str,
    trial: &Path,
) -> Result<Result<String, String>, DeviceError> {
    place::folder(trial, Owner { mode: 0o700, ..Owner::PRIVATE }).map_err(DeviceError::write(trial))?;
    for (name, text) in site.files() {
        let path = trial.join(name);
        place::put(&path, text.as_bytes(), Owner::PRIVATE).map_err(DeviceError::write(&path))?;
    }
    if let Err(problem) = site.check(trial) {
        return Ok(Err(problem.to_string()));
    }
    let credentials = secrets.with_file_name(CREDENTIALS);
    let joined = joined::joined(device, node, &site.directory(secrets, node), &credentials)?;
    let path = trial.join(JOINED);
    place::put(&path, joined.as_bytes(), Owner::PRIVATE).map_err(DeviceError::write(&path))?;
    Ok(Bootstrap::read(&path).map(|_| joined).map_err(|error| output::chain(&error)))
}

/// Writes what the switch, the directory role and the network daemon read.
fn put_into_force(arguments: &Arguments, chosen: &Chosen) -> Result<(), DeviceError> {
    let write =
        |path: &Path, octets: &[u8], owner| place::put(path, octets, owner).map_err(DeviceError::write(path));
    let identity = Roles::of_this_build().identity("directory");
    let (uid, gid) = identity.map_or((0, 0), |identity| (identity.uid, identity.gid));
    let secrets = arguments.out.join(SECRETS);
    // The role reads there and makes nothing: root writes by names that nobody else can change.
    place::folder(&secrets, Owner { uid: 0, gid, mode: 0o750 }).map_err(DeviceError::write(&secrets))?;
    for (name, text) in chosen.site.files() {
        write(&secrets.join(name), text.as_bytes(), Owner { uid, gid, mode: 0o400 })?;
    }
    put_credentials(arguments, chosen)?;
    let network = &chosen.site.network;
    place::folder(&arguments.network, Owner { mode: 0o755, ..Owner::PUBLIC })
        .map_err(DeviceError::write(&arguments.network))?;
    let files = networkd::files(network);
    remove_others(&arguments.network, &files).map_err(DeviceError::write(&arguments.network))?;
    for (name, text) in files {
        write(&arguments.network.join(name), text.as_bytes(), Owner::PUBLIC)?;
    }
    let resolv_conf = networkd::resolv_conf(&network.dns);
    write(&arguments.out.join("resolv.conf"), resolv_conf.as_bytes(), Owner::PUBLIC)?;
    if let Some(hostname) = &network.hostname
        && let Err(error) = rustix::system::sethostname(hostname.as_bytes())
    {
        tracing::warn!(event = "device.hostname", hostname, %error, "the machine's name was not set");
    }
    // The last: whoever waits for the bootstrap finds the rest. It holds no secret.
    write(&arguments.out.join(JOINED), chosen.joined.as_bytes(), Owner { uid: 0, gid, mode: 0o640 })
}

/// Writes the credentials for the signer, and takes those of another bootstrap away.
fn put_credentials(arguments: &Arguments, chosen: &Chosen) -> Result<(), DeviceError> {
    let signer = Roles::of_this_build().identity("signer");
    let (uid, gid) = signer.map_or((0, 0), |identity| (identity.uid, identity.gid));
    let folder = arguments.out.join(CREDENTIALS);
    let failed = |source| DeviceError::Write { path: folder.clone(), source };
    place::folder(&folder, Owner { uid: 0, gid, mode: 0o750 }).map_err(failed)?;
    let names: BTreeSet<String> = chosen.site.credentials().map(|(name, _)| format!("{name}.pem")).collect();
    for entry in std::fs::read_dir(&folder).map_err(failed)? {
        let entry = entry.map_err(failed)?;
        if !names.contains(entry.file_name().to_string_lossy().as_ref()) {
            std::fs::remove_file(entry.path()).map_err(failed)?;
        }
    }
    for (name, text) in chosen.site.credentials() {
        let path = folder.join(format!("{name}.pem"));
        place::put(&path, text.as_bytes(), Owner { uid, gid, mode: 0o400 })
            .map_err(DeviceError::write(&path))?;
    }
    Ok(())
}

/// Removes network files of ours that belong to another bootstrap.
fn remove_others(folder: &Path, files: &networkd::Files) -> io::Result<()> {
    for entry in std::fs::read_dir(folder)? {
        let entry = entry?;
        let name = entry.file_name();
        let name = name.to_string_lossy();
        if name.starts_with(networkd::PREFIX) && !files.contains_key(name.as_ref()) {
            std::fs::remove_file(entry.path())?;
        }
    }
    Ok(())
}

/// Keeps what is in force for the time when the stick is gone, and remembers the credential that was there beside it.
fn keep(arguments: &Arguments, chosen: &Chosen, kept: Option<&str>, digest: Option<&str>) -> io::Result<()> {
    place::folder(&arguments.kept, Owner { mode: 0o700, ..Owner::PRIVATE })?;
    let whole = chosen.site.whole();
    if kept != Some(whole) {
        place::put(&arguments.kept.join(FILE_NAME), whole.as_bytes(), Owner::PRIVATE)?;
    }
    // One that was wrong, or that nobody has looked at, is new at the next start too; unless a stick has gone before it.
    let settles_credential = matches!(chosen.source, Source::Credential | Source::Stick);
    if let Some(digest) = digest.filter(|_| settles_credential)
        && known_digest(&arguments.kept).as_deref() != Some(digest)
    {
        place::put(&arguments.kept.join(CREDENTIAL_DIGEST), digest.as_bytes(), Owner::PRIVATE)?;
    }
    Ok(())
}

fn digest(text: &str) -> String {
    output::hex(&Sha256::digest(text.as_bytes()))
}

fn known_digest(kept: &Path) -> Option<String> {
    place::read_text(&kept.join(CREDENTIAL_DIGEST), 64).ok().flatten()
}
