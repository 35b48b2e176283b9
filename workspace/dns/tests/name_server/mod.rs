//! A private name server on loopback: BIND's `named`, which has its zones in a folder of its own and writes down every question.

use std::fmt::Write as _;
use std::fs;
use std::net::{SocketAddr, TcpListener, UdpSocket};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::thread::sleep;
use std::time::{Duration, Instant};
use tempfile::TempDir;

const STARTS_MAX: usize = 8;
/// Generous: only a name server that hangs is meant.
const PATIENCE: Duration = Duration::from_secs(60);
const LOG: &str = "named.log";

/// A running `named`. It is killed when this is dropped.
pub(crate) struct NameServer {
    child: Child,
    folder: TempDir,
    pub(crate) address: SocketAddr,
}

impl NameServer {
    /// Starts with zones (origin, text). A zone without text has no file, and every question for it gives SERVFAIL.
    pub(crate) fn start(zones: &[(&str, &str)]) -> Self {
        let folder = tempfile::tempdir().expect("a folder can be made");
        for (origin, text) in zones.iter().filter(|(_, text)| !text.is_empty()) {
            fs::write(folder.path().join(file(origin)), text).expect("the folder takes a file");
        }
        let origins: Vec<_> = zones.iter().map(|(origin, _)| *origin).collect();
        Self::start_in(folder, &origins)
    }

    /// Starts with the zone files that lie in `folder`.
    pub(crate) fn start_in(folder: TempDir, origins: &[&str]) -> Self {
        for _ in 0..STARTS_MAX {
            let address = free_address();
            let configuration = configuration(folder.path(), address, origins);
            fs::write(folder.path().join("named.conf"), configuration).expect("the folder takes a file");
            drop(fs::remove_file(folder.path().join(LOG)));
            let mut child = tool("named")
                .args(["-f", "-n", "1", "-c"])
                .arg(folder.path().join("named.conf"))
                .current_dir(folder.path())
                .stdout(Stdio::null())
                .stderr(Stdio::null())
                .spawn()
                .unwrap_or_else(|error| panic!("named: {error}; run .ci/packages"));
            if is_serving(&mut child, folder.path()) {
                return Self { child, folder, address };
            }
            drop(child.kill());
            drop(child.wait());
        }
        panic!("named does not start: {}", log(folder.path()));
    }

    /// How many questions for `name` and `kind` have come so far, and how many of them by TCP. Waits until `at_least` have, for the
    /// log is written after the answer is sent.
    pub(crate) fn questions(&self, name: &str, kind: &str, at_least: usize) -> (usize, usize) {
        let question = format!("query: {name} IN {kind} ");
        let start = Instant::now();
        loop {
            let log = log(self.folder.path());
            let flags: Vec<_> = log
                .lines()
                .filter_map(|line| line.split_once(&question))
                .filter_map(|(_, rest)| rest.split_whitespace().next())
                .collect();
            if flags.len() >= at_least {
                return (flags.len(), flags.iter().filter(|flags| flags.contains('T')).count());
            }
            assert!(
                start.elapsed() < PATIENCE,
                "{at_least} questions for {name} {kind} have not come:\n{log}"
            );
            sleep(Duration::from_millis(10));
        }
    }
}

impl Drop for NameServer {
    fn drop(&mut self) {
        drop(self.child.kill());
        drop(self.child.wait());
    }
}

/// A program of BIND, which may lie where only root looks.
pub(crate) fn tool(name: &str) -> Command {
    let mut command = Command::new(name);
    let path = std::env::var("PATH").unwrap_or_default();
    command.env("PATH", format!("{path}:/usr/sbin:/sbin"));
    command
}

/// The file of a zone.
pub(crate) fn file(origin: &str) -> String {
    format!("zone-{}", origin.trim_end_matches('.'))
}

/// `named` takes no port 0. Both kinds of socket were free a moment ago; if one is not any more, the start fails and is repeated.
fn free_address() -> SocketAddr {
    loop {
        let udp = UdpSocket::bind("127.0.0.1:0").expect("loopback has a free port");
        let address = udp.local_addr().expect("a bound socket has an address");
        if TcpListener::bind(address).is_ok() {
            return address;
        }
    }
}

fn configuration(folder: &Path, address: SocketAddr, origins: &[&str]) -> String {
    let folder = folder.display();
    let port = address.port();
    let mut text = format!(
        "options {{
            directory \"{folder}\"; pid-file none; lock-file none; session-keyfile none;
            listen-on port {port} {{ 127.0.0.1; }}; listen-on-v6 {{ none; }};
            recursion no; allow-query {{ any; }}; dnssec-validation no; empty-zones-enable no; notify no; querylog yes;
        }};
        controls {{ }};
        logging {{
            channel all {{ file \"{LOG}\"; severity info; print-category yes; }};
            category default {{ all; }}; category queries {{ all; }};
        }};\n"
    );
    for origin in origins {
        writeln!(text, "zone \"{origin}\" {{ type primary; file \"{}\"; }};", file(origin))
            .expect("text takes text");
    }
    text
}

fn log(folder: &Path) -> String {
    fs::read_to_string(folder.join(LOG)).unwrap_or_default()
}

/// Waits until the server says that it runs. Whether it also listens is said before.
fn is_serving(child: &mut Child, folder: &Path) -> bool {
    let start = Instant::now();
    loop {
        let log = log(folder);
        if log.lines().any(|line| line.ends_with(" running")) {
            return !log.contains("address in use");
        }
        if child.try_wait().expect("a child can be asked").is_some() || start.elapsed() > PATIENCE {
            return false;
        }
        sleep(Duration::from_millis(10));
    }
}
