//! `listeners.json` in the run directory: where the switch listens, for whoever opens the way there (`sternpost device
//! firewall`). Written whole, by renaming, at each change; empty as long as nothing is open.

use crate::place::{self, Owner};
use std::fs::File;
use std::io;
use std::net::IpAddr;
use std::path::Path;
use sternpost_link::supervisor::ListeningSocket;

/// Its name in the run directory.
pub(crate) const LISTENERS_FILE: &str = "listeners.json";

/// Stands beside it from a change until somebody has begun to look: a change while the rules of the one before are still
/// being made is not missed.
pub(crate) const CHANGED_FILE: &str = "listeners.changed";

/// What stands in the file.
#[derive(Clone, Debug, Default, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Listeners {
    pub(crate) listeners: Vec<OpenListener>,
}

/// One place where the switch listens.
#[derive(Clone, Debug, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct OpenListener {
    /// The listener's name in the configuration.
    pub(crate) name: String,
    /// `0.0.0.0` and `::` stand for every address of their family.
    pub(crate) address: IpAddr,
    pub(crate) port: u16,
}

/// Puts the file into `run_directory`, in the place of the one before. It is read by another user: mode 0644, in a
/// folder that decides who gets there.
///
/// # Errors
/// Those of the file system; the file is then the one before.
pub(crate) fn write(run_directory: &Path, sockets: &[ListeningSocket]) -> io::Result<()> {
    let listener = |socket: &ListeningSocket| OpenListener {
        name: socket.listener.clone(),
        address: socket.bound.ip(),
        port: socket.bound.port(),
    };
    let listeners = Listeners { listeners: sockets.iter().map(listener).collect() };
    let octets = serde_json::to_vec_pretty(&listeners)?;
    place::put(&run_directory.join(LISTENERS_FILE), &octets, Owner::PUBLIC)?;
    File::create(run_directory.join(CHANGED_FILE)).map(drop)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_written_is_read_back_and_replaced_as_a_whole() {
        let folder = tempfile::tempdir().unwrap();
        let socket = ListeningSocket {
            listener: "in \"x\"".into(),
            configured: "[::]:25".parse().unwrap(),
            bound: "[::]:25".parse().unwrap(),
        };
        let read = || -> Listeners {
            serde_json::from_slice(&std::fs::read(folder.path().join(LISTENERS_FILE)).unwrap()).unwrap()
        };
        write(folder.path(), &[socket]).unwrap();
        let wanted = OpenListener { name: "in \"x\"".into(), address: "::".parse().unwrap(), port: 25 };
        assert_eq!(read().listeners, [wanted]);
        write(folder.path(), &[]).unwrap();
        assert_eq!(read(), Listeners::default());
        assert!(folder.path().join(CHANGED_FILE).exists());
        assert_eq!(std::fs::read_dir(folder.path()).unwrap().count(), 2, "nothing else is left beside it");
    }
}
