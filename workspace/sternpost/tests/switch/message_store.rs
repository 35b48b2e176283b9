//! Dovecot as a message store: its LMTP server, in the foreground, from Debian's package and in a folder of its own.

use super::mail::nobody;
use super::wait_for;
use rustix::process::{Pid, Signal, kill_process};
use std::fs;
use std::net::{SocketAddr, TcpStream};
use std::os::unix::fs::{PermissionsExt as _, chown};
use std::path::PathBuf;
use std::process::{Child, Command};
use tempfile::TempDir;

/// Debian's `nobody`: Dovecot delivers for nobody who is root.
const MAIL_USER: u32 = 65_534;

/// A running Dovecot with some mailboxes. Dropping it ends it.
#[derive(Debug)]
pub(crate) struct MessageStore {
    home: TempDir,
    address: SocketAddr,
    process: Child,
}

impl MessageStore {
    /// Starts it with a mailbox for each of these addresses, and waits until it listens.
    pub(crate) fn start(addresses: &[&str]) -> Self {
        let home = TempDir::new().expect("a folder for Dovecot");
        let path = home.path();
        // Its processes are of several users, who find their way into it.
        fs::set_permissions(path, fs::Permissions::from_mode(0o755)).expect("the folder is ours");
        fs::create_dir(path.join("mail")).expect("the folder is ours");
        chown(path.join("mail"), Some(MAIL_USER), Some(MAIL_USER)).expect("tests run as root");
        let user = |address: &&str| {
            format!("{address}::{MAIL_USER}:{MAIL_USER}::{}/mail/{address}::\n", path.display())
        };
        fs::write(path.join("users"), addresses.iter().map(user).collect::<String>())
            .expect("it can be written");
        // It cannot choose a port by itself.
        let address = nobody();
        fs::write(path.join("dovecot.conf"), configuration(&path.display().to_string(), address))
            .expect("it can be written");
        let process = Command::new("/usr/sbin/dovecot")
            .args(["-F", "-c"])
            .arg(path.join("dovecot.conf"))
            .spawn()
            .expect("dovecot is installed by .ci/packages");
        let store = Self { home, address, process };
        wait_for("Dovecot that listens", || TcpStream::connect(address).ok());
        store
    }

    /// Where it speaks LMTP.
    pub(crate) const fn address(&self) -> SocketAddr {
        self.address
    }

    /// The messages in the mailbox of an address, as they were stored.
    pub(crate) fn messages(&self, address: &str) -> Vec<Vec<u8>> {
        let new = self.home.path().join("mail").join(address).join("new");
        let files = fs::read_dir(new).into_iter().flatten();
        files.filter_map(|file| fs::read(file.ok()?.path()).ok()).collect()
    }

    /// What Dovecot says, for a test that fails.
    pub(crate) fn log(&self) -> String {
        let path: PathBuf = self.home.path().join("log");
        fs::read_to_string(path).unwrap_or_default()
    }
}

impl Drop for MessageStore {
    fn drop(&mut self) {
        let pid = i32::try_from(self.process.id()).ok().and_then(Pid::from_raw);
        // The master ends its processes; a kill would leave them behind.
        let asked = pid.is_some_and(|pid| kill_process(pid, Signal::TERM).is_ok());
        if asked {
            drop(self.process.wait());
        }
        if std::thread::panicking() {
            eprintln!("Dovecot said:\n{}", self.log());
        }
    }
}

fn configuration(home: &str, address: SocketAddr) -> String {
    format!(
        "base_dir = {home}/run\n\
         state_dir = {home}/run\n\
         log_path = {home}/log\n\
         protocols = lmtp\n\
         ssl = no\n\
         mail_location = maildir:{home}/mail/%u\n\
         first_valid_uid = 1\n\
         userdb {{\n  driver = passwd-file\n  args = {home}/users\n}}\n\
         passdb {{\n  driver = static\n  args = nopassword=y\n}}\n\
         service lmtp {{\n  inet_listener lmtp {{\n    address = {}\n    port = {}\n  }}\n  unix_listener lmtp {{\n    mode = 0\n  }}\n}}\n\
         service stats {{\n  chroot =\n}}\n",
        address.ip(),
        address.port()
    )
}
