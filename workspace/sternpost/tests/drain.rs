//! A channel process that was asked to stop, and a peer that does not let it end; or that does, slowly.
#![allow(clippy::unwrap_used, reason = "a test that cannot go on fails here, with the place")]

mod switch;

use serde_json::Value;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::{SocketAddr, TcpListener};
use std::sync::mpsc;
use std::thread;
use std::time::{Duration, Instant};
use switch::client::Client;
use switch::mail::{lmtp_sink, sink, sink_with};
use switch::site::Site;
use switch::{PATIENCE, Switch, wait_for};

/// The least that can be configured.
const DRAIN_TIMEOUT: Duration = Duration::from_secs(10);

fn qmgr(more: &str) -> String {
    format!(
        "qmgr_maxchans = 1\nqmgr_reserve_urgent = 0\nqmgr_reserve_normal = 0\nqmgr_chan_time1 = 0\n\
         drain_timeout_s = 10\nretry_step_s = 1\nretry_max_s = 1\n{more}"
    )
}

/// One process in all: what a channel needs, the other has to give.
fn site(smtp: SocketAddr, lmtp: SocketAddr) -> Site {
    Site::new().qmgr(&qmgr("")).peer("mta", "smtp", smtp, &["smtp.test"]).peer(
        "store",
        "lmtp",
        lmtp,
        &["lmtp.test"],
    )
}

fn submit(switch: &Switch, recipient: &str, content: &[u8]) {
    let reply = Client::greet(switch.address()).message("<a@sender.test>", &[recipient], content);
    assert!(reply.starts_with("250 "), "{reply}");
}

fn channel(status: &Value, name: &str) -> Value {
    let channels = status["qmgr"]["scheduler"]["channels"].as_array().cloned().unwrap_or_default();
    channels.into_iter().find(|channel| channel["name"] == name).unwrap_or_default()
}

#[test]
fn a_peer_that_never_ends_does_not_keep_the_place_of_another_channel() {
    // It takes the message and then says nothing.
    let tarpit = sink_with(|options| options.delay = Duration::from_secs(3_600));
    let store = lmtp_sink();
    let switch = Switch::start(&site(tarpit.address(), store.address()).tables());
    submit(&switch, "held@smtp.test", b"Subject: held\r\n\r\nheld\r\n");
    switch.wait_for_status("transfer to the tarpit", |status| {
        (channel(status, "smtp")["in_progress"] == 1).then_some(())
    });
    submit(&switch, "other@lmtp.test", b"Subject: other\r\n\r\nother\r\n");
    switch.wait_for_status("process that finishes, and until when it may", |status| {
        let (smtp, lmtp) = (channel(status, "smtp"), channel(status, "lmtp"));
        let is_said = smtp["drain_until"].is_string() && lmtp["next_process"]["until"].is_string();
        (smtp["processes_draining"] == 1 && is_said).then_some(())
    });
    assert!(store.wait_for(1, PATIENCE));
    let log = switch.log();
    assert!(
        log.contains("channel.drain-timeout") && log.contains("took less than 64 KiB, for drain_timeout_s")
    );
    // What it had under way has come back. The peer may have taken it: that is not known, and it is sent again.
    let good = sink();
    switch.replace_tables(&site(good.address(), store.address()).tables());
    drop(tarpit);
    assert!(good.wait_for(1, PATIENCE));
    assert_eq!(good.received()[0].recipients, ["held@smtp.test"]);
    switch.wait_until_empty();
    assert_eq!((good.counts().received, store.counts().received), (1, 1));
}

/// A peer that reads 160 KiB a second, takes one connection, and says how many octets of content came, if all did.
fn slow_peer() -> (SocketAddr, mpsc::Receiver<usize>) {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    rustix::net::sockopt::set_socket_recv_buffer_size(&listener, 16 << 10).unwrap();
    let address = listener.local_addr().unwrap();
    let (told, received) = mpsc::channel();
    thread::spawn(move || {
        let (mut stream, _) = listener.accept().unwrap();
        let mut reader = BufReader::with_capacity(16 << 10, stream.try_clone().unwrap());
        stream.write_all(b"220 slow.test\r\n").unwrap();
        let mut line = String::new();
        while reader.read_line(&mut line).is_ok_and(|octets| octets > 0) {
            let reply: &[u8] = match &line[..4] {
                "DATA" => {
                    stream.write_all(b"354 slowly\r\n").unwrap();
                    let mut content = Vec::new();
                    let mut piece = [0; 16 << 10];
                    while !content.ends_with(b"\r\n.\r\n") {
                        let octets = reader.read(&mut piece).unwrap();
                        if octets == 0 {
                            return;
                        }
                        content.extend_from_slice(&piece[..octets]);
                        thread::sleep(Duration::from_millis(100));
                    }
                    told.send(content.len()).unwrap();
                    b"250 Ok\r\n"
                }
                "QUIT" => b"221 Bye\r\n",
                _ => b"250 Ok\r\n",
            };
            stream.write_all(reply).unwrap();
            line.clear();
        }
    });
    (address, received)
}

/// The slow peer takes so much in about twenty seconds.
const OCTETS: usize = 3 << 20;

/// A large message is on its way to the slow peer, and the place of its process wanted by another channel.
fn in_a_slow_transfer(site: &Site) -> Switch {
    let switch = Switch::start(&site.tables());
    let line = [&[b'x'; 70][..], b"\r\n"].concat();
    submit(
        &switch,
        "large@smtp.test",
        &[b"Subject: large\r\n\r\n", &line.repeat(OCTETS / line.len())[..]].concat(),
    );
    switch.wait_for_status("transfer to the slow peer", |status| {
        (channel(status, "smtp")["in_progress"] == 1).then_some(())
    });
    submit(&switch, "other@lmtp.test", b"Subject: other\r\n\r\nother\r\n");
    switch
}

#[test]
fn a_transfer_that_takes_longer_than_the_longest_time_is_cut_off_and_begins_again() {
    let (slow, received) = slow_peer();
    let (store, good) = (lmtp_sink(), sink());
    let bounded = |smtp| site(smtp, store.address()).qmgr(&qmgr("drain_time_max_s = 12"));
    let switch = in_a_slow_transfer(&bounded(slow));
    switch.wait_for_status("until when it may finish at the most", |status| {
        channel(status, "smtp")["drain_until_max"].is_string().then_some(())
    });
    assert_eq!(received.recv_timeout(PATIENCE), Err(mpsc::RecvTimeoutError::Disconnected));
    assert!(switch.log().contains("it was asked to stop drain_time_max_s ago"));
    switch.replace_tables(&bounded(good.address()).tables());
    assert!(good.wait_for(1, PATIENCE) && store.wait_for(1, PATIENCE));
    switch.wait_until_empty();
    assert_eq!((good.counts().received, store.counts().received), (1, 1));
}

#[test]
fn a_transfer_that_gets_on_slowly_is_let_finish() {
    let (slow, received) = slow_peer();
    let store = lmtp_sink();
    let switch = in_a_slow_transfer(&site(slow, store.address()));
    let asked = wait_for("process that finishes", || {
        (channel(&switch.status(), "smtp")["processes_draining"] == 1).then(Instant::now)
    });
    assert!(received.recv_timeout(PATIENCE).unwrap() > OCTETS - 100);
    assert!(asked.elapsed() > DRAIN_TIMEOUT, "this shows nothing: it has ended within the time");
    assert!(store.wait_for(1, PATIENCE));
    assert!(!switch.log().contains("channel.drain-timeout"));
    switch.wait_until_empty();
}
