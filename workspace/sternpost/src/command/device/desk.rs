//! A site's file judged on a desk, as a device would judge it: form, files beside it, identity, network, and what the
//! switch would make of it. Nothing is changed, and nobody is asked.
//!
//! The image's part of the bootstrap is the one that was built into this executable. Not here: what only the machine
//! knows, such as which ports it has.

use super::identity;
use super::network::Kind;
use super::site::{Site, TEXT_OCTETS_MAX};
use super::{DeviceError, bootstrap};
use crate::output;
use crate::place::{self, Owner};
use std::fs::DirBuilder;
use std::io;
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};
use sternpost_message::MessageId;
use sternpost_platform::process;

/// What the image's `/etc/sternpost/device.toml` says.
const DEVICE: &str = include_str!("../../../../../image/overlay/etc/sternpost/device.toml");
/// Stands for a serial number that nobody has said.
const ANY_SERIAL: &str = "SERIAL-NUMBER";

/// What a good file says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Judged {
    /// None: the machine's serial number.
    pub(crate) node: Option<String>,
    pub(crate) directory: Vec<String>,
    /// Wired interfaces, bonds and VLANs; none is every wired interface by DHCP.
    pub(crate) interfaces: Vec<String>,
}

/// Judges the file; `serial` stands for the machine's serial number.
///
/// # Errors
/// The outer ones: the file, or a scratch folder for what it holds. The inner ones: what is wrong with it.
pub(crate) fn judge(path: &Path, serial: Option<&str>) -> Result<Result<Judged, Vec<String>>, DeviceError> {
    let read = |source| DeviceError::Read { path: path.to_owned(), source };
    let absent = || read(io::Error::from(io::ErrorKind::NotFound));
    let text = match place::read_text(path, TEXT_OCTETS_MAX) {
        Ok(text) => text.ok_or_else(absent)?,
        // Too large, or no text: a device would refuse it as well.
        Err(error) if error.kind() == io::ErrorKind::InvalidData => {
            return Ok(Err(vec![format!("{}: {error}", path.display())]));
        }
        Err(error) => return Err(read(error)),
    };
    let folder = path.parent().unwrap_or(Path::new(""));
    let beside = |name: &str| match place::read_text(&folder.join(name), TEXT_OCTETS_MAX) {
        Ok(Some(text)) => Ok(text.into_bytes()),
        Ok(None) => Err("is not there".to_owned()),
        Err(error) => Err(format!("cannot be read: {error}")),
    };
    let source = path.display().to_string();
    let site = match Site::parse(&text, &source, &beside) {
        Ok(site) => site,
        Err(problems) => return Ok(Err(problems.iter().map(ToString::to_string).collect())),
    };
    let serial = serial.map(identity::judged).transpose();
    let node = match (site.node.clone(), serial) {
        (Some(node), _) => Some(node),
        (None, Ok(serial)) => serial,
        (None, Err(error)) => return Ok(Err(vec![format!("{source}: {}", output::chain(&error))])),
    };
    let scratch = Scratch::new()?;
    let device = scratch.0.join("device.toml");
    place::put(&device, DEVICE.as_bytes(), Owner::PRIVATE).map_err(DeviceError::write(&device))?;
    let (trial, secrets) = (scratch.0.join("trial"), scratch.0.join("directory"));
    let name = node.as_deref().unwrap_or(ANY_SERIAL);
    Ok(match bootstrap::judge(&device, &secrets, &site, name, &trial)? {
        Ok(_) => Ok(Judged {
            node,
            directory: site.directory(Path::new(""), "").uris,
            interfaces: site.network.links.iter().map(|link| words(&link.kind)).collect(),
        }),
        Err(problem) => Err(vec![problem]),
    })
}

fn words(kind: &Kind) -> String {
    match kind {
        Kind::Wired { mac: Some(mac), .. } => mac.to_string(),
        Kind::Wired { name, mac: None } => name.clone().unwrap_or_default(),
        Kind::Vlan { name, .. } | Kind::Bond { name, .. } => name.clone(),
    }
}

/// A folder that nobody else may read, for what the file holds; gone with its owner.
struct Scratch(PathBuf);

impl Scratch {
    fn new() -> Result<Self, DeviceError> {
        let path = std::env::temp_dir().join(format!("sternpost-{}", MessageId(process::random())));
        // One that is there already is somebody else's.
        DirBuilder::new().mode(0o700).create(&path).map_err(DeviceError::write(&path))?;
        Ok(Self(path))
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.0);
    }
}
