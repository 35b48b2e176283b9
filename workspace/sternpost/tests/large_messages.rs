//! Large messages on their way through the switch, and those that stay partial: they stream across segments, are listed with
//! size, peer and age, killed by an operator, swept with time, and moved with the survivors.

mod switch;

use serde_json::Value;
use sha2::{Digest, Sha256};
use std::fs;
use std::net::SocketAddr;
use std::process::Output;
use sternpost_load::sink::Sink;
use switch::client::Client;
use switch::mail::{nobody, sink, sink_at};
use switch::site::Site;
use switch::{PATIENCE, Room, Switch, text, wait_for};

const TABLES: &str = "[tables]\npath = \"tables.toml\"\n";
const CHUNK_OCTETS: usize = 61_440;

fn site(address: SocketAddr) -> String {
    Site::new().peer("mta", "smtp", address, &["smtp.test"]).tables()
}

/// Lines of 32 octets, each of them unlike all others.
fn lines(subject: &str, octets: usize) -> Vec<u8> {
    let mut content = format!("Subject: {subject}\r\n\r\n").into_bytes();
    content.reserve(octets + 32);
    for number in 0.. {
        if content.len() >= octets {
            break;
        }
        content.extend_from_slice(format!("{subject:->14} {number:010} line\r\n").as_bytes());
    }
    content
}

fn sha256(octets: &[u8]) -> [u8; 32] {
    Sha256::digest(octets).into()
}

/// A client that has begun a message and sent so much of it.
fn in_the_middle(switch: &Switch, sent: &[u8]) -> Client {
    let mut client = Client::greet(switch.address());
    client.expect("MAIL FROM:<a@sender.test>", "250");
    client.expect("RCPT TO:<b@smtp.test>", "250");
    client.expect("DATA", "354");
    client.send(sent);
    client
}

/// Sends the rest of a message, which must be accepted.
fn complete(client: &mut Client, rest: &[u8]) {
    client.send(rest);
    client.send(b".\r\n");
    let reply = client.reply();
    assert!(reply.starts_with("250 "), "{reply}");
}

fn partials(switch: &Switch) -> Vec<Value> {
    switch.ask(&["queue", "list", "--partials"]).as_array().expect("a list").clone()
}

/// The partial message that this client sends, if there is one.
fn partial_of(switch: &Switch, client: &Client) -> Option<Value> {
    let peer = client.address().to_string();
    partials(switch).into_iter().find(|partial| partial["peer"] == peer.as_str())
}

/// The same, as soon as so much of it is in the log.
fn partial_from(switch: &Switch, client: &Client, octets: usize) -> Value {
    let least = octets as u64;
    let look = || partial_of(switch, client).filter(|partial| partial["octets"].as_u64() >= Some(least));
    wait_for("partial message", look)
}

fn discard(switch: &Switch, partial: &Value, why: &str) -> Output {
    switch.command(&["queue", "discard", partial["id"].as_str().expect("an id"), "--why", why])
}

/// What the peer got under a subject is this content behind its trace header, octet for octet.
fn arrives(smtp: &Sink, subject: &str, content: &[u8]) {
    let subject = format!("Subject: {subject}\r\n");
    let receipts = smtp.received();
    let found: Vec<_> = receipts
        .iter()
        .filter_map(|receipt| receipt.content.as_ref())
        .filter(|arrived| text(&arrived[..arrived.len().min(2_000)]).contains(&subject))
        .collect();
    assert_eq!(found.len(), 1, "{subject}");
    let trace_octets = found[0].len().checked_sub(content.len()).expect("nothing is missing");
    assert!(found[0].starts_with(b"Received: ") && trace_octets < 2_000, "{trace_octets}");
    assert_eq!(sha256(&found[0][trace_octets..]), sha256(content), "{subject}");
}

#[test]
fn a_message_of_100_mib_streams_across_segments_and_has_its_sha256_on_the_other_side() {
    // Content without its envelope may take a fifth of the log.
    const ROOM: Room = Room { segment_octets: 16 << 20, segments: 40 };
    const OCTETS: usize = 100 << 20;
    let address = nobody();
    let switch = Switch::start_in(&site(address), ROOM, "auto");
    let content = lines("large", OCTETS);
    let (half, rest) = content.split_at(OCTETS / 2);
    let mut client = in_the_middle(&switch, half);
    // What has come is in the log, not in somebody's memory: all but what is on its way there.
    let partial = partial_from(&switch, &client, half.len() - 64 * CHUNK_OCTETS);
    assert!(partial["octets"].as_u64() <= Some(OCTETS as u64 / 2 + 1_000), "{partial}");
    complete(&mut client, rest);
    assert_eq!(partials(&switch), Vec::<Value>::new());
    let store = &switch.status()["store"];
    let taken = store["segments"].as_u64().zip(store["segments_free"].as_u64()).map(|(all, free)| all - free);
    assert!(taken >= Some(7), "{store}");
    // It goes out from the disk: nothing of it is left in memory.
    let switch = Switch::start_at(switch.stop(), ROOM, "auto", TABLES);
    let smtp = sink_at(address);
    assert!(smtp.wait_for(1, PATIENCE), "{:?}", smtp.counts());
    switch.wait_until_empty();
    arrives(&smtp, "large", &content);
}

#[test]
fn a_client_that_goes_silent_is_listed_with_size_peer_and_age_and_its_message_killed_alone() {
    let smtp = sink();
    let switch = Switch::start(&site(smtp.address()));
    let (doomed, other) = (lines("doomed", 300_000), lines("other", 500_000));
    let mut silent = in_the_middle(&switch, &doomed[..200_000]);
    let mut kept = in_the_middle(&switch, &other[..400_000]);
    let first = partial_from(&switch, &silent, 3 * CHUNK_OCTETS);
    let second = partial_from(&switch, &kept, 6 * CHUNK_OCTETS);
    let octets = |partial: &Value| partial["octets"].as_u64().expect("a number");
    assert_eq!((octets(&first), octets(&second)), (3 * CHUNK_OCTETS as u64, 6 * CHUNK_OCTETS as u64));
    let age = |partial: &Value| partial["age_s"].as_u64();
    let is_older = || partial_of(&switch, &silent).filter(|now| age(now) > age(&first)).map(drop);
    wait_for("older message", is_older);
    let output = discard(&switch, &first, "its client is silent");
    assert!(output.status.success(), "{}", text(&output.stderr));
    // Its room is free before its client says a word, and nobody else has lost anything.
    assert_eq!(
        partials(&switch).iter().map(|one| one["id"].clone()).collect::<Vec<_>>(),
        [second["id"].clone()]
    );
    assert_eq!(switch.status()["store"]["partials_octets"], octets(&second));
    complete(&mut kept, &other[400_000..]);
    silent.send(&doomed[200_000..]);
    silent.send(b".\r\n");
    let reply = silent.reply();
    assert!(reply.starts_with("554 5.3.0 "), "{reply}");
    let reply = silent.message("<a@sender.test>", &["b@smtp.test"], &lines("after", 300));
    assert!(reply.starts_with("250 "), "{reply}");
    assert!(smtp.wait_for(2, PATIENCE), "{:?}", smtp.counts());
    switch.wait_until_empty();
    arrives(&smtp, "other", &other);
    assert_eq!(smtp.counts().received, 2);
}

#[test]
fn what_a_silent_client_has_sent_is_swept_and_what_a_slow_one_sends_is_not() {
    const ROOM: Room = Room { segment_octets: 4 << 20, segments: 32 };
    let smtp = sink();
    let home = switch::new_home();
    fs::write(home.path().join("tables.toml"), site(smtp.address())).expect("the folder can be written");
    let switch = Switch::start_at(home, ROOM, "auto", &format!("partial_timeout_s = 2\n{TABLES}"));
    let content = lines("slow", 16 << 20);
    let mut pieces = content.chunks(CHUNK_OCTETS);
    let mut silent = in_the_middle(&switch, &lines("silent", 200_000));
    let mut slow = in_the_middle(&switch, &[]);
    let mut sent = 0;
    partial_from(&switch, &silent, 3 * CHUNK_OCTETS);
    // It sends a chunk as soon as the one before is in the log, for longer than the time-out.
    while partial_of(&switch, &silent).is_some() || sent < 2 * CHUNK_OCTETS {
        let piece = pieces.next().expect("the other message is swept in time");
        slow.send(piece);
        sent += piece.len();
        partial_from(&switch, &slow, sent / CHUNK_OCTETS * CHUNK_OCTETS);
    }
    assert_eq!(partials(&switch).len(), 1);
    complete(&mut slow, &content[sent..]);
    silent.send(b".\r\n");
    let reply = silent.reply();
    assert!(reply.starts_with("451 4.4.2 "), "{reply}");
    assert!(smtp.wait_for(1, PATIENCE), "{:?}", smtp.counts());
    switch.wait_until_empty();
    arrives(&smtp, "slow", &content);
    assert_eq!(smtp.counts().received, 1);
}

#[test]
fn a_partial_message_is_moved_with_the_survivors_and_can_still_be_completed() {
    const ROOM: Room = Room { segment_octets: 1 << 20, segments: 16 };
    let smtp = sink();
    let switch = Switch::start_in(&site(smtp.address()), ROOM, "auto");
    let content = lines("at-rest", 500_000);
    let mut client = in_the_middle(&switch, &content[..400_000]);
    let partial = partial_from(&switch, &client, 6 * CHUNK_OCTETS);
    let mut others = Client::greet(switch.address());
    let other = lines("other", 900_000);
    let log_octets = u64::from(ROOM.segment_octets) * u64::from(ROOM.segments);
    let mut count = 0;
    while switch.status()["store"]["written_octets"].as_u64() < Some(3 * log_octets) {
        let reply = others.message("<a@sender.test>", &["b@smtp.test"], &other);
        assert!(reply.starts_with("250 "), "{reply}");
        count += 1;
        assert!(smtp.wait_for(count, PATIENCE), "{:?}", smtp.counts());
    }
    let moved = partial_of(&switch, &client).expect("it is still there");
    assert_eq!((&moved["id"], &moved["octets"]), (&partial["id"], &partial["octets"]));
    complete(&mut client, &content[400_000..]);
    assert!(smtp.wait_for(count + 1, PATIENCE), "{:?}", smtp.counts());
    switch.wait_until_empty();
    arrives(&smtp, "at-rest", &content);
}
