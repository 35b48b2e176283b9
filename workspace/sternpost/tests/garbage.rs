//! Octets that mean nothing, at every door: no process ends, and mail still passes.

mod switch;

use std::io::{Read, Write};
use std::net::{Shutdown, TcpStream};
use std::os::unix::net::UnixDatagram;
use std::time::Duration;
use sternpost_link::qmgr::ToQmgr;
use sternpost_link::store::ToStore;
use sternpost_link::supervisor::ToSupervisor;
use sternpost_link::{DATAGRAM_OCTETS_MAX, Hello, Outbox, PROTOCOL_VERSION, Role};
use sternpost_platform::link::connect_patiently;
use switch::client::Client;
use switch::mail::{send, sink, to};
use switch::site::Site;
use switch::{PATIENCE, Switch};

/// Connections to each door.
const CONNECTIONS: u64 = 150;

/// Octets from a counter (splitmix64): each run throws the same.
struct Random(u64);

impl Random {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mixed = (self.0 ^ (self.0 >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        mixed ^ (mixed >> 31)
    }

    fn octets(&mut self, count_max: usize) -> Vec<u8> {
        let count = usize::try_from(self.next()).unwrap_or(0) % count_max.max(1);
        (0..count.div_ceil(8)).flat_map(|_| self.next().to_le_bytes()).take(count).collect()
    }
}

struct Stage {
    switch: Switch,
    sink: sternpost_load::sink::Sink,
    pids: Vec<(String, u32)>,
}

impl Stage {
    fn new() -> Self {
        let sink = sink();
        let switch = Switch::start(&Site::new().peer("mta", "smtp", sink.address(), &["smtp.test"]).tables());
        send(to(switch.address(), "before@smtp.test"));
        assert!(sink.wait_for(1, PATIENCE));
        let mut stage = Self { switch, sink, pids: Vec::new() };
        stage.pids = stage.now();
        stage
    }

    fn now(&self) -> Vec<(String, u32)> {
        let mut pids: Vec<_> =
            self.switch.processes().into_iter().map(|process| (process.role, process.pid)).collect();
        pids.sort();
        pids
    }

    /// The same processes live, and mail passes.
    fn is_unharmed(&self) {
        send(to(self.switch.address(), "after@smtp.test"));
        assert!(self.sink.wait_for(2, PATIENCE), "mail does not pass any more");
        assert_eq!(self.now(), self.pids);
        self.switch.wait_until_empty();
    }
}

#[test]
fn random_octets_at_the_smtp_port_harm_nobody() {
    let stage = Stage::new();
    let mut random = Random(1);
    for number in 0..CONNECTIONS {
        let mut stream = TcpStream::connect(stage.switch.address()).expect("the switch listens");
        let limit = Some(Duration::from_secs(20));
        stream
            .set_read_timeout(limit)
            .and_then(|()| stream.set_write_timeout(limit))
            .expect("a limit can be set");
        let beginning: &[u8] = match number % 4 {
            0 => b"",
            1 => b"EHLO x\r\n",
            2 => b"EHLO x\r\nMAIL FROM:<a@b.test>\r\nRCPT TO:<c@smtp.test>\r\nDATA\r\n",
            _ => b"EHLO x\r\nMAIL FROM:<a@b.test>\r\nRCPT TO:<c@smtp.test>\r\nBDAT 99999999\r\n",
        };
        // The switch may have closed already: then there is nobody to be harmed.
        let _ = stream.write_all(beginning);
        let _ = stream.write_all(&random.octets(100_000));
        let _ = stream.shutdown(Shutdown::Write);
        let mut replies = Vec::new();
        // A reset is an end, too; a time-out would be a session that hangs.
        if let Err(error) = stream.read_to_end(&mut replies) {
            assert_eq!(error.kind(), std::io::ErrorKind::ConnectionReset, "connection {number}");
        }
    }
    stage.is_unharmed();
    assert_eq!(stage.sink.counts().received, 2);
}

/// A datagram with this one frame.
fn datagram<F: serde::Serialize>(frame: &F) -> Vec<u8> {
    let mut outbox = Outbox::default();
    outbox.push(frame).expect("a greeting is small");
    outbox.seal();
    outbox.front().expect("it was sealed").to_vec()
}

fn hello(role: Role) -> Hello {
    Hello { version: PROTOCOL_VERSION, role, pid: 1, process: 4_711, channel: "smtp".into(), capacity: 3 }
}

/// Throws datagrams at a socket: pure noise, noise behind a good greeting, and good frames with some octets changed.
fn throw(stage: &Stage, socket: &str, seed: u64, greeting: &[u8]) {
    let mut random = Random(seed);
    for number in 0..CONNECTIONS {
        let socket = connect_patiently(&stage.switch.socket(socket), PATIENCE).expect("the socket is there");
        let socket = UnixDatagram::from(socket);
        socket.set_write_timeout(Some(Duration::from_secs(20))).expect("a limit can be set");
        // The switch may have closed already: then there is nobody to be harmed.
        if number % 3 > 0 {
            let _ = socket.send(greeting);
        }
        for _ in 0..4 {
            let thrown = if number % 3 == 2 {
                let mut changed = greeting.to_vec();
                for _ in 0..=random.next() % 4 {
                    let at = usize::try_from(random.next()).unwrap_or(0) % changed.len();
                    changed[at] = random.next().to_le_bytes()[0];
                }
                changed
            } else {
                let count_max = if number % 2 == 0 { 64 } else { DATAGRAM_OCTETS_MAX };
                random.octets(count_max)
            };
            let _ = socket.send(&thrown);
        }
    }
}

#[test]
fn random_datagrams_at_the_stores_socket_harm_nobody() {
    let stage = Stage::new();
    throw(&stage, "store.sock", 2, &datagram(&ToStore::Hello(hello(Role::Channel))));
    stage.is_unharmed();
}

#[test]
fn random_datagrams_at_qmgrs_socket_harm_nobody() {
    let stage = Stage::new();
    throw(&stage, "qmgr.sock", 3, &datagram(&ToQmgr::Hello(hello(Role::Operator))));
    stage.is_unharmed();
}

#[test]
fn random_datagrams_at_the_supervisors_socket_harm_nobody() {
    let stage = Stage::new();
    throw(&stage, "supervisor.sock", 4, &datagram(&ToSupervisor::Hello(hello(Role::Operator))));
    stage.is_unharmed();
}

#[test]
fn a_client_that_says_nothing_keeps_nobody_from_being_served() {
    let stage = Stage::new();
    let silent: Vec<TcpStream> =
        (0..60).map(|_| TcpStream::connect(stage.switch.address()).expect("the switch listens")).collect();
    let mut open = Client::greet(stage.switch.address());
    open.expect("NOOP", "250");
    stage.is_unharmed();
    drop(silent);
}
