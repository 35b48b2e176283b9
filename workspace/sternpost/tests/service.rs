//! The supervisor and a service manager, which this test is: what it is told, and which sockets it hands over.
#![allow(clippy::unwrap_used, reason = "a test that cannot go on fails here, with the place")]

mod switch;

use rustix::process::Signal;
use serde_json::Value;
use std::fs;
use std::io::{BufRead, BufReader};
use std::net::{Shutdown, TcpListener, TcpStream};
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixDatagram;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::Duration;
use switch::{PATIENCE, new_home, program, wait_for};

/// Ends the supervisor, and its children with it.
struct Running(Child);

impl Drop for Running {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

impl Running {
    fn terminate(&mut self) {
        switch::signal(self.0.id(), Signal::TERM);
        let mut status = None;
        wait_for("the end of the supervisor", || {
            status = self.0.try_wait().unwrap();
            status
        });
        assert_eq!(status.and_then(|status| status.code()), Some(0));
    }
}

/// A folder with the bootstrap of a switch that listens at `addresses`.
fn home(addresses: &[String]) -> tempfile::TempDir {
    let home = new_home();
    let bootstrap = "run_directory = \"r\"\nstate_directory = \"s\"\n[queue]\npath = \"log\"\n\
                     segment_octets = 1048576\nsegments = 8\n[tables]\npath = \"tables.toml\"\n";
    fs::write(home.path().join("boot.toml"), bootstrap).unwrap();
    let tables = format!(
        "[node]\nname = \"n\"\nhostname = \"n.example\"\n[[listener]]\nname = \"in\"\naddresses = {addresses:?}\n"
    );
    fs::write(home.path().join("tables.toml"), tables).unwrap();
    home
}

fn log(home: &Path) -> fs::File {
    fs::File::create(home.join("stderr")).unwrap()
}

/// The first line that a server says.
fn greeting(address: &str) -> String {
    let stream = TcpStream::connect(address).unwrap();
    stream.set_read_timeout(Some(PATIENCE)).unwrap();
    let mut line = String::new();
    BufReader::new(stream).read_line(&mut line).unwrap();
    line
}

#[test]
fn the_service_manager_hears_of_ready_status_life_and_stop() {
    let home = home(&["127.0.0.1:0".to_owned()]);
    let path = home.path().join("notify");
    let manager = UnixDatagram::bind(&path).unwrap();
    manager.set_read_timeout(Some(PATIENCE)).unwrap();
    let mut command = Command::new(program());
    command.args(["run", "--bootstrap"]).arg(home.path().join("boot.toml"));
    command.env("NOTIFY_SOCKET", &path).env("WATCHDOG_USEC", "300000");
    let mut running = Running(command.stderr(log(home.path())).spawn().unwrap());
    let mut heard = Vec::new();
    let mut hear_until = |wanted: &dyn Fn(&[String]) -> bool| {
        let mut buffer = [0; 4_096];
        while !wanted(&heard) {
            let octets = manager.recv(&mut buffer).unwrap();
            let text = String::from_utf8(buffer[..octets].to_vec()).unwrap();
            heard.extend(text.lines().map(str::to_owned));
        }
        heard.clone()
    };
    let is_listening =
        |line: &String| line.starts_with("STATUS=") && line.contains("listening: in on 127.0.0.1:");
    let heard_at_start = hear_until(&|heard| {
        let signs_count = heard.iter().filter(|line| *line == "WATCHDOG=1").count();
        heard.iter().any(|line| line == "READY=1") && heard.iter().any(is_listening) && signs_count >= 3
    });
    assert!(!heard_at_start.iter().any(|line| line == "STOPPING=1"));
    // A hung supervisor gives no signs, so the manager would end it.
    switch::signal(running.0.id(), Signal::STOP);
    manager.set_read_timeout(Some(Duration::from_millis(900))).unwrap();
    let mut buffer = [0; 4_096];
    // What was on its way when it was stopped may still come; then there is silence for three limits.
    let silence = (0..64).find_map(|_| manager.recv(&mut buffer).err());
    assert_eq!(silence.map(|error| error.kind()), Some(std::io::ErrorKind::WouldBlock));
    switch::signal(running.0.id(), Signal::CONT);
    manager.set_read_timeout(Some(PATIENCE)).unwrap();
    running.terminate();
    hear_until(&|heard| heard.iter().any(|line| line == "STOPPING=1"));
}

#[test]
fn sockets_that_were_open_before_are_used_and_the_others_serve_nobody() {
    let used = TcpListener::bind("127.0.0.1:0").unwrap();
    let unused = TcpListener::bind("127.0.0.1:0").unwrap();
    let (address, other) = (used.local_addr().unwrap().to_string(), unused.local_addr().unwrap());
    let home = home(std::slice::from_ref(&address));
    // The manager's copies stay open, as they do with systemd: binding the port again fails.
    let (used_copy, unused_copy) = (used.try_clone().unwrap(), unused.try_clone().unwrap());
    let mut command = Command::new("sh");
    command
        .args(["-c", "exec 3<&0 4<&1 </dev/null >/dev/null; export LISTEN_PID=$$ LISTEN_FDS=2; exec \"$0\" run --bootstrap boot.toml"])
        .arg(program())
        .current_dir(home.path())
        .stdin(Stdio::from(OwnedFd::from(used_copy)))
        .stdout(Stdio::from(OwnedFd::from(unused_copy)))
        .stderr(log(home.path()));
    let mut running = Running(command.spawn().unwrap());
    // It may wait in the backlog until the server is there: the socket was open from the beginning.
    let line = greeting(&address);
    assert!(line.starts_with("220 n.example"), "{line}");
    let listeners = fs::read_to_string(home.path().join("r/listeners.json")).unwrap();
    let listeners: Value = serde_json::from_str(&listeners).unwrap();
    let port = used.local_addr().unwrap().port();
    assert_eq!(
        listeners["listeners"],
        serde_json::json!([{"name": "in", "address": "127.0.0.1", "port": port}])
    );
    let said = wait_for("a word about the socket that nobody uses", || {
        let log = fs::read_to_string(home.path().join("stderr")).unwrap();
        log.lines().find(|line| line.contains("listener.unused")).map(str::to_owned)
    });
    assert!(said.contains(&other.to_string()), "{said}");
    // An upgrade hands them on: the manager gives them once.
    let mut upgrade = Command::new(program());
    let upgraded = upgrade
        .args(["upgrade", "--no-wait", "--run-directory"])
        .arg(home.path().join("r"))
        .output()
        .unwrap();
    assert!(upgraded.status.success(), "{upgraded:?}");
    assert!(greeting(&address).starts_with("220 n.example"));
    let log = fs::read_to_string(home.path().join("stderr")).unwrap();
    assert!(log.contains("upgrade.done") && !log.contains("listener.given"), "{log}");
    running.terminate();
    // They are the manager's: a client still reaches the backlog.
    TcpStream::connect(&address).unwrap();
    assert!(!home.path().join("r/listeners.json").exists());
}

/// A journal entry: `NAME=value` lines, and `NAME`, its length in eight octets, the value.
fn fields(mut octets: &[u8]) -> Vec<(String, String)> {
    let mut fields = Vec::new();
    while let Some(end) = octets.iter().position(|octet| *octet == b'\n') {
        let line = String::from_utf8(octets[..end].to_vec()).unwrap();
        octets = &octets[end + 1..];
        if let Some((name, value)) = line.split_once('=') {
            fields.push((name.to_owned(), value.to_owned()));
            continue;
        }
        let (length, rest) = octets.split_first_chunk::<8>().unwrap();
        let (value, rest) = rest.split_at(usize::try_from(u64::from_le_bytes(*length)).unwrap());
        fields.push((line, String::from_utf8(value.to_vec()).unwrap()));
        octets = &rest[1..];
    }
    fields
}

#[test]
fn events_of_every_role_come_into_the_journal_with_their_fields() {
    let home = home(&["127.0.0.1:0".to_owned()]);
    let journal = UnixDatagram::bind(home.path().join("socket")).unwrap();
    journal.set_read_timeout(Some(PATIENCE)).unwrap();
    // A place of its own for the journal's socket, and a stderr of which the service manager says that it is the journal.
    let line =
        "mount -t tmpfs none /run; mkdir -p /run/systemd/journal; mount --bind \"$1\" /run/systemd/journal
        export JOURNAL_STREAM=$(stat -Lc %d:%i /proc/self/fd/2)
        exec \"$0\" run --bootstrap \"$1/boot.toml\"";
    let mut command = Command::new("unshare");
    if !rustix::process::geteuid().is_root() {
        command.arg("--map-root-user");
    }
    command.args(["--mount", "sh", "-ec", line]).arg(program()).arg(home.path());
    let mut running = Running(command.stderr(log(home.path())).spawn().unwrap());
    let wanted = [
        ("sternpost-supervisor", "listening"),
        ("sternpost-qmgr", "a new configuration is in force"),
        ("sternpost-store", "making a new log"),
    ];
    let mut missing: Vec<_> = wanted.into();
    let mut entries = Vec::new();
    while !missing.is_empty() {
        let mut buffer = [0; 65_536];
        let octets = journal
            .recv(&mut buffer)
            .unwrap_or_else(|error| panic!("{error}: {missing:?} not in {entries:?}"));
        let entry = fields(&buffer[..octets]);
        let value = |name: &str| {
            entry.iter().find(|(field, _)| field == name).map_or("", |(_, value)| value.as_str())
        };
        missing.retain(|(role, message)| (value("SYSLOG_IDENTIFIER"), value("MESSAGE")) != (*role, *message));
        if value("MESSAGE") == "a new configuration is in force" {
            assert_eq!(
                (value("EVENT"), value("GENERATION"), value("PRIORITY")),
                ("configuration.in-force", "1", "5")
            );
        }
        entries.push(entry);
    }
    assert_eq!(fs::read_to_string(home.path().join("stderr")).unwrap(), "", "nothing is said twice");
    std::thread::scope(|threads| {
        // The kernel keeps ten entries for a journal that does not read, and whoever writes the next one waits.
        threads.spawn(|| while journal.recv(&mut [0; 65_536]).is_ok_and(|octets| octets > 0) {});
        running.terminate();
        journal.shutdown(Shutdown::Both).unwrap();
    });
}

#[test]
fn one_socket_for_every_address_serves_the_listener_of_one_address_alone() {
    let socket = TcpListener::bind("0.0.0.0:0").unwrap();
    let port = socket.local_addr().unwrap().port();
    let home = home(&[format!("127.0.0.2:{port}")]);
    let mut command = Command::new("sh");
    command
        .args([
            "-c",
            "exec 3<&0 </dev/null; export LISTEN_PID=$$ LISTEN_FDS=1; exec \"$0\" run --bootstrap boot.toml",
        ])
        .arg(program())
        .current_dir(home.path())
        .stdin(Stdio::from(OwnedFd::from(socket.try_clone().unwrap())))
        .stderr(log(home.path()));
    let mut running = Running(command.spawn().unwrap());
    let line = greeting(&format!("127.0.0.2:{port}"));
    assert!(line.starts_with("220 n.example"), "{line}");
    assert_eq!(greeting(&format!("127.0.0.1:{port}")), "", "nobody is served at another address");
    running.terminate();
}
