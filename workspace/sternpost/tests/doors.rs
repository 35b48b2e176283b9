//! The sockets of the run directory: who connects is who the kernel says, and says what is its own business.

mod switch;

use rustix::process::geteuid;
use rustix::thread::{Gid, Uid, set_thread_res_gid, set_thread_res_uid};
use std::fs;
use std::os::unix::fs::{PermissionsExt, chown};
use std::os::unix::net::UnixDatagram;
use std::path::PathBuf;
use sternpost_link::qmgr::ToQmgr;
use sternpost_link::store::{Append, Lane, ToStore};
use sternpost_link::supervisor::ToSupervisor;
use sternpost_link::{ChannelKind, DATAGRAM_OCTETS_MAX, Hello, Outbox, PROTOCOL_VERSION, Role};
use sternpost_load::sink::Sink;
use sternpost_message::{MessageId, MessageSequence, Outcome, RecipientRange};
use switch::mail::{send, sink, to};
use switch::site::Site;
use switch::{PATIENCE, SMALL_ROOM, Switch, new_home};

const GROUP: u32 = 900;
const STORE: u32 = 901;
const QMGR: u32 = 902;
const DIRECTORY: u32 = 903;
const SMTP_SERVER: u32 = 904;
const CHANNEL: u32 = 905;
const HOUSEKEEPER: u32 = 906;

/// A switch with users for its roles where this test may give some, with a channel process that runs.
fn stage() -> (Switch, Sink, bool) {
    let smtp = sink();
    let tables = Site::new().peer("mta", "smtp", smtp.address(), &["smtp.test"]).tables();
    let is_separate = geteuid().is_root();
    let switch = if is_separate {
        let home = new_home();
        fs::set_permissions(home.path(), fs::Permissions::from_mode(0o711))
            .expect("the folder of a test can be written");
        fs::write(home.path().join("tables.toml"), tables).expect("the folder of a test can be written");
        fs::write(home.path().join("log"), "").expect("the folder of a test can be written");
        chown(home.path().join("log"), Some(STORE), Some(GROUP))
            .expect("the folder of a test can be written");
        let lines = "role_users = \"separate\"\n";
        Switch::start_with(home, SMALL_ROOM, "auto", lines, "[tables]\npath = \"tables.toml\"\n")
    } else {
        Switch::start(&tables)
    };
    send(to(switch.address(), "before@smtp.test"));
    assert!(smtp.wait_for(1, PATIENCE));
    (switch, smtp, is_separate)
}

fn is_unharmed(switch: &Switch, smtp: &Sink) {
    send(to(switch.address(), "after@smtp.test"));
    assert!(smtp.wait_for(2, PATIENCE), "mail does not pass any more");
    switch.wait_until_empty();
}

/// Connects as a user: of this one thread, which then ends.
fn connect_as(uid: u32, path: PathBuf) -> UnixDatagram {
    let connecting = std::thread::spawn(move || {
        if geteuid().is_root() {
            let (uid, gid) = (Uid::from_raw(uid), Gid::from_raw(GROUP));
            set_thread_res_gid(gid, gid, gid).expect("root may be anybody");
            set_thread_res_uid(uid, uid, uid).expect("root may be anybody");
        }
        sternpost_platform::link::connect_patiently(&path, PATIENCE).expect("the socket is there")
    });
    let socket = UnixDatagram::from(connecting.join().expect("it connects"));
    socket.set_nonblocking(false).expect("a socket can be set");
    socket.set_read_timeout(Some(PATIENCE)).expect("a socket can be set");
    socket
}

/// A datagram with this one frame.
fn datagram<F: serde::Serialize>(frame: &F) -> Vec<u8> {
    let mut outbox = Outbox::default();
    outbox.push(frame).expect("the frames of these tests are small");
    outbox.front().expect("it was pushed").to_vec()
}

fn hello(role: Role, process: u64) -> Hello {
    Hello { version: PROTOCOL_VERSION, role, pid: 1, process, channel: "smtp".into(), capacity: 3 }
}

/// What became of a link.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum End {
    /// It was answered and is open.
    Answered,
    /// It was closed without a word.
    Refused,
}

/// What comes next: an answer, or the end.
fn next(socket: &UnixDatagram) -> End {
    let mut buffer = vec![0; DATAGRAM_OCTETS_MAX];
    match socket.recv(&mut buffer) {
        Ok(0) => End::Refused,
        Ok(_) => End::Answered,
        Err(error) if error.kind() == std::io::ErrorKind::ConnectionReset => End::Refused,
        Err(error) => panic!("neither an answer nor the end: {error}"),
    }
}

/// Says something to a socket as a user and looks what comes.
fn says(switch: &Switch, socket: &str, uid: u32, greeting: &[u8]) -> (UnixDatagram, End) {
    let link = connect_as(uid, switch.socket(socket));
    // One that is closed already cannot be sent to: that is the end, too.
    let _ = link.send(greeting);
    let end = next(&link);
    (link, end)
}

#[test]
fn who_connects_is_who_the_kernel_says() {
    let (switch, smtp, is_separate) = stage();
    let process = switch.ask(&["status"])["roles"]
        .as_array()
        .and_then(|roles| roles.iter().find(|role| role["role"] == "smtp")?["process"].as_u64())
        .expect("a channel process runs");
    let at_store = |role| datagram(&ToStore::Hello(hello(role, process)));
    let at_qmgr = |role, process| datagram(&ToQmgr::Hello(hello(role, process)));
    let at_supervisor = |role| datagram(&ToSupervisor::Hello(hello(role, 0)));
    let roles = [
        (Role::Store, STORE),
        (Role::Qmgr, QMGR),
        (Role::Directory, DIRECTORY),
        (Role::SmtpServer, SMTP_SERVER),
        (Role::Channel, CHANNEL),
        (Role::Housekeeper, HOUSEKEEPER),
        (Role::Operator, GROUP),
    ];
    if is_separate {
        for (role, own) in roles {
            for (_, uid) in roles.into_iter().filter(|(_, uid)| *uid != own) {
                for (socket, greeting) in [
                    ("store.sock", at_store(role)),
                    ("qmgr.sock", at_qmgr(role, process)),
                    ("supervisor.sock", at_supervisor(role)),
                ] {
                    let (_, end) = says(&switch, socket, uid, &greeting);
                    assert_eq!(end, End::Refused, "{uid} as {} at {socket}", role.name());
                }
            }
        }
        let refusals = switch.log().lines().filter(|line| line.contains("link.refused")).count();
        assert!((1..20).contains(&refusals), "{refusals} lines for 126 refusals");
        assert!(switch.log().contains("uid=904") || switch.log().contains("uid=902"));
    }
    // Whom the user does not tell apart the process id does: a channel process, and QMGR, are those that were started.
    for number in [process, process + 1_000] {
        let (_, end) = says(&switch, "qmgr.sock", CHANNEL, &at_qmgr(Role::Channel, number));
        assert_eq!(end, End::Refused, "as channel process {number}");
    }
    assert_eq!(says(&switch, "supervisor.sock", QMGR, &at_supervisor(Role::Qmgr)).1, End::Refused);
    for uid in [0, GROUP] {
        assert_eq!(says(&switch, "store.sock", uid, &at_store(Role::Operator)).1, End::Answered);
        assert_eq!(says(&switch, "qmgr.sock", uid, &at_qmgr(Role::Operator, 0)).1, End::Answered);
        assert_eq!(says(&switch, "supervisor.sock", uid, &at_supervisor(Role::Operator)).1, End::Answered);
    }
    is_unharmed(&switch, &smtp);
}

#[test]
fn port_25_is_served_again_after_a_process_has_broken_its_socket() {
    let (switch, smtp, _) = stage();
    let first = switch.pid("smtp-server");
    let sockets = switch::listening_sockets_of(switch.supervisor_pid());
    assert!(!sockets.is_empty(), "the supervisor holds the listening sockets");
    for socket in sockets {
        // As a server could that strangers have taken over.
        rustix::net::shutdown(socket, rustix::net::Shutdown::Read).unwrap();
    }
    let is_another = || (switch.pid("smtp-server") != first).then_some(());
    switch::wait_for("another smtp-server", is_another);
    is_unharmed(&switch, &smtp);
    assert!(switch.log().contains("listener.broken") && switch.log().contains("it did not listen any more"));
}

#[test]
fn a_role_says_what_is_its_business_and_nothing_else() {
    let (switch, smtp, _) = stage();
    let message = MessageId([7; 16]);
    let append =
        |record| ToStore::Append { lane: Lane::Normal, number: 1, records: vec![record].into(), peer: None };
    let content = append(Append::Content { message, index: 0, octets: b"octets" });
    let discard = append(Append::DiscardPartial { message });
    let outcomes = vec![(RecipientRange { first: 0, count: 1 }, Outcome::DelayReported)];
    let outcome = append(Append::Outcome { message: MessageSequence(1), outcomes });
    let fetch = ToStore::Fetch { request: 1, message: MessageSequence(1), offset: 0, octets_max: 9 };
    let list = ToStore::List { from: MessageSequence(0), count_max: 9 };
    let piece = ToStore::ReadPiece { message: MessageSequence(1), chunk: 0, offset: 0 };
    let restore = ToStore::Restore { message };
    let end = ToStore::Discard { number: 1, message, why: "" };
    let none_of_theirs = [
        (Role::SmtpServer, SMTP_SERVER, vec![&outcome, &fetch, &list, &ToStore::Subscribe, &ToStore::Status]),
        (Role::SmtpServer, SMTP_SERVER, vec![&piece, &restore, &end]),
        (Role::Channel, CHANNEL, vec![&content, &discard, &list, &ToStore::Subscribe, &piece, &restore]),
        (Role::Housekeeper, HOUSEKEEPER, vec![&discard, &list, &ToStore::Subscribe, &end]),
        (Role::Operator, 0, vec![&outcome, &discard, &fetch, &ToStore::Subscribe]),
    ];
    for (role, uid, frames) in none_of_theirs {
        for frame in frames {
            let greeting = datagram(&ToStore::Hello(hello(role, 4_711)));
            let (link, end) = says(&switch, "store.sock", uid, &greeting);
            assert_eq!(end, End::Answered, "{}", role.name());
            link.send(&datagram(frame)).unwrap();
            assert_eq!(next(&link), End::Refused, "{} said {frame:?}", role.name());
        }
    }
    let greeting = datagram(&ToQmgr::Hello(hello(Role::Operator, 0)));
    for frame in [ToQmgr::Attached, ToQmgr::Entries { entries_count: 1 }] {
        let (link, end) = says(&switch, "qmgr.sock", 0, &greeting);
        assert_eq!(end, End::Answered);
        link.send(&datagram(&frame)).unwrap();
        assert_eq!(next(&link), End::Refused, "an operator said {frame:?}");
    }
    let greeting = datagram(&ToSupervisor::Hello(hello(Role::Operator, 0)));
    let (channel, kind) = ("smtp".to_owned(), ChannelKind::Smtp);
    let orders = [
        ToSupervisor::StartChannel { process: 9_999, channel, kind, capacity: 1 },
        ToSupervisor::Listen { listeners: Vec::new() },
    ];
    for order in orders {
        let (link, end) = says(&switch, "supervisor.sock", 0, &greeting);
        assert_eq!(end, End::Answered);
        link.send(&datagram(&order)).unwrap();
        assert_eq!(next(&link), End::Refused, "an operator said {order:?}");
    }
    // What comes before the greeting is nobody's business.
    let early = datagram(&ToSupervisor::Status);
    assert_eq!(says(&switch, "supervisor.sock", 0, &early).1, End::Refused);
    is_unharmed(&switch, &smtp);
}
