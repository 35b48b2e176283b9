//! Our source and sink against those of Postfix: what both ends of a test agree on must be SMTP, not our reading of it.

use std::net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream};
use std::path::Path;
use std::process::{Child, Stdio};
use std::time::{Duration, Instant};
use sternpost_load::postfix::Postfix;
use sternpost_load::sink::{Protocol, Sink, SinkOptions};
use sternpost_load::source::{self, Pipelining, SourceOptions};

const LIMIT: Duration = Duration::from_secs(30);

struct Ended(Child);

impl Drop for Ended {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// The package, unpacked beside; `.ci/packages` has put it there.
fn postfix() -> Postfix {
    let directory = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../target/peer");
    std::fs::create_dir_all(&directory).expect("the tree is ours to write");
    match Postfix::unpack(&directory.canonicalize().expect("it was made above")) {
        Ok(postfix) => postfix,
        Err(error) => panic!("{error}: {:?}; run .ci/packages as root", std::error::Error::source(&error)),
    }
}

#[test]
fn the_sink_takes_mail_from_smtp_source_by_smtp_and_lmtp() {
    let postfix = postfix();
    for protocol in [Protocol::Smtp, Protocol::Lmtp] {
        let sink = Sink::start(SinkOptions { protocol, ..SinkOptions::default() }).unwrap();
        let mut command = postfix.command("smtp-source");
        command.args([
            "-d",
            "-s",
            "5",
            "-m",
            "50",
            "-r",
            "3",
            "-l",
            "20000",
            "-f",
            "a@load.test",
            "-t",
            "b@load.test",
        ]);
        if protocol == Protocol::Lmtp {
            command.arg("-L");
        }
        let mut child = Ended(command.arg(sink.address().to_string()).stdin(Stdio::null()).spawn().unwrap());
        assert!(sink.wait_for(150, LIMIT), "{:?}", sink.counts());
        assert!(child.0.wait().unwrap().success());
        let report = sink.stop();
        assert_eq!((report.counts.received, report.counts.unnamed, report.counts.distinct), (50, 50, 150));
        assert!(
            report.receipts.iter().all(|receipt| receipt.sender == "a@load.test" && receipt.octets >= 20_000)
        );
    }
}

#[test]
fn smtp_sink_takes_mail_from_the_source_by_smtp_and_lmtp() {
    let postfix = postfix();
    for (protocol, pipelining) in [
        (Protocol::Smtp, Pipelining::Off),
        (Protocol::Smtp, Pipelining::Group),
        (Protocol::Smtp, Pipelining::Chain),
        (Protocol::Lmtp, Pipelining::Group),
    ] {
        // smtp-sink cannot choose a port by itself.
        let free = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
        let address: SocketAddr = free.local_addr().unwrap();
        drop(free);
        let mut command = postfix.command("smtp-sink");
        command.args(["-u", "nobody"]);
        if protocol == Protocol::Lmtp {
            command.arg("-L");
        }
        let _child = Ended(command.args([&address.to_string(), "100"]).stdin(Stdio::null()).spawn().unwrap());
        let until = Instant::now() + LIMIT;
        while TcpStream::connect(address).is_err() {
            assert!(Instant::now() < until, "smtp-sink does not listen");
            std::thread::yield_now();
        }
        let options = SourceOptions {
            protocol,
            pipelining,
            sessions_count: 5,
            messages_count: 50,
            recipients_count: 3,
            reply_timeout: LIMIT,
            ..SourceOptions::to(address)
        };
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        let report = runtime.block_on(source::run(options));
        assert_eq!((report.accepted_count, report.refused), (150, vec![]));
    }
}
