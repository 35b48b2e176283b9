//! The null hop: an SMTP or LMTP server on the loopback that takes one probe, checks it and keeps nothing.
//!
//! It lives as long as the probe is waited for. It takes no other message: the recipients carry a token that only this
//! process and the log know, and the content must be the probe's, octet for octet.

use sha2::{Digest, Sha256};
use std::cell::Cell;
use std::io;
use std::net::Ipv4Addr;
use std::num::NonZeroU16;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Instant;
use sternpost_message::{EnhancedStatus, Mailbox, NullHop, ReversePath};
use sternpost_smtp::Protocol;
use sternpost_smtp::reply::Reply;
use sternpost_smtp::server::{Answer, Input, Output, Question, ServerPolicy, ServerSession};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::Notify;

/// What the hop waits for.
#[derive(Clone, Debug)]
pub(super) struct Expected {
    /// Taken.
    pub(super) passes: Mailbox,
    /// Refused for good, so that the housekeeper gets work; none where there is no such recipient.
    pub(super) fails: Option<Mailbox>,
    /// SHA-256 of the content.
    pub(super) content_sha256: [u8; 32],
}

/// A hop that is being served, and what has come to it.
#[derive(Debug)]
pub(super) struct Serving {
    pub(super) hop: NullHop,
    seen: Rc<Seen>,
    server: tokio::task::JoinHandle<()>,
}

#[derive(Debug)]
struct Seen {
    expected: Expected,
    passed_at: Cell<Option<Instant>>,
    bell: Rc<Notify>,
}

impl Serving {
    /// Serves a hop on a port that the system chooses. `bell` rings when the probe has passed.
    ///
    /// # Errors
    /// Those of `bind`.
    pub(super) async fn start(protocol: Protocol, expected: Expected, bell: Rc<Notify>) -> io::Result<Self> {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await?;
        let port = NonZeroU16::new(listener.local_addr()?.port())
            .ok_or_else(|| io::Error::other("the system gave no port"))?;
        let seen = Rc::new(Seen { expected, passed_at: Cell::new(None), bell });
        let policy = Arc::new(ServerPolicy { protocol, ..ServerPolicy::new("null.invalid") });
        let server = tokio::task::spawn_local(accept(listener, policy, Rc::clone(&seen)));
        Ok(Self { hop: NullHop::new(port), seen, server })
    }

    /// When the probe's content had come, whole and unchanged.
    pub(super) fn passed_at(&self) -> Option<Instant> {
        self.seen.passed_at.get()
    }
}

impl Drop for Serving {
    fn drop(&mut self) {
        self.server.abort();
    }
}

async fn accept(listener: TcpListener, policy: Arc<ServerPolicy>, seen: Rc<Seen>) {
    // A connection that breaks says nothing of the next one; without descriptors the probe runs out of time.
    while let Ok((stream, _)) = listener.accept().await {
        tokio::task::spawn_local(converse(stream, Arc::clone(&policy), Rc::clone(&seen)));
    }
}

/// One connection, until either end closes it. The patience is that of the process, which ends first.
async fn converse(mut stream: TcpStream, policy: Arc<ServerPolicy>, seen: Rc<Seen>) -> io::Result<()> {
    let mut session = ServerSession::new(Instant::now(), policy);
    let mut coming = Coming::default();
    let mut buffer = [0; 4_096];
    // Octets of `buffer` that the session has not taken yet.
    let mut rest = 0..0;
    loop {
        while let Some(output) = session.poll() {
            match output {
                Output::Send(octets) => stream.write_all(&octets).await?,
                Output::Ask(question) => {
                    let answer = coming.answer(&question, &seen);
                    session.handle(Instant::now(), Input::Answer(answer));
                }
                Output::Content(octets) => coming.hash.update(&octets),
                Output::TransactionAborted => coming = Coming::default(),
                Output::AuthenticationAborted | Output::WakeAt(_) => {}
                Output::StartTls | Output::Close => return Ok(()),
            }
        }
        if rest.is_empty() {
            rest = 0..stream.read(&mut buffer).await?;
            if rest.is_empty() {
                return Ok(());
            }
        }
        rest.start += session.handle(Instant::now(), Input::Octets(&buffer[rest.clone()]));
    }
}

/// What has come of a message.
#[derive(Default)]
struct Coming {
    is_for_us: bool,
    hash: Sha256,
}

impl Coming {
    fn answer(&mut self, question: &Question, seen: &Seen) -> Answer {
        let expected = &seen.expected;
        let no =
            |text: &str| Answer::Reject(Reply::new(550, Some(EnhancedStatus::new(5, 1, 1)), text.to_owned()));
        match question {
            Question::Sender(mail) if mail.sender == ReversePath::Null => {
                *self = Self::default();
                Answer::Accept
            }
            Question::Recipient(recipient) if recipient.address == expected.passes => {
                self.is_for_us = true;
                Answer::Accept
            }
            Question::Recipient(recipient) if Some(&recipient.address) == expected.fails.as_ref() => {
                no("the probe fails here, for the housekeeper")
            }
            Question::StartContent if self.is_for_us => Answer::Accept,
            Question::EndOfContent(_) if self.is_for_us => {
                let hash: [u8; 32] = std::mem::take(&mut self.hash).finalize().into();
                if hash != expected.content_sha256 {
                    return no("the content is not that of the probe");
                }
                seen.passed_at.set(seen.passed_at.get().or_else(|| Some(Instant::now())));
                seen.bell.notify_one();
                Answer::Accept
            }
            _ => no("nothing but the probe ends here"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const CONTENT: &[u8] = b"Subject: probe\r\n\r\n.\r\n";

    fn address(text: &str) -> Mailbox {
        Mailbox::parse(text).unwrap()
    }

    fn expected() -> Expected {
        Expected {
            passes: address("passes.1@probe.invalid"),
            fails: Some(address("fails.1@probe.invalid")),
            content_sha256: Sha256::digest(CONTENT).into(),
        }
    }

    /// What the hop replies to these commands, and whether the probe has passed.
    async fn dialogue(protocol: Protocol, commands: &[u8]) -> (String, bool) {
        let serving = Serving::start(protocol, expected(), Rc::new(Notify::new())).await.unwrap();
        let mut stream = TcpStream::connect(serving.hop.address()).await.unwrap();
        stream.write_all(commands).await.unwrap();
        let mut replies = String::new();
        stream.read_to_string(&mut replies).await.unwrap();
        (replies, serving.passed_at().is_some())
    }

    fn on_loop<T>(work: impl Future<Output = T>) -> T {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        tokio::task::LocalSet::new().block_on(&runtime, work)
    }

    #[test]
    fn the_probe_passes_by_either_protocol_and_its_second_recipient_is_refused() {
        let transaction = "MAIL FROM:<>\r\nRCPT TO:<passes.1@probe.invalid>\r\n\
                           RCPT TO:<fails.1@probe.invalid>\r\nDATA\r\n\
                           Subject: probe\r\n\r\n..\r\n.\r\nQUIT\r\n";
        for (protocol, hello) in [(Protocol::Smtp, "EHLO"), (Protocol::Lmtp, "LHLO")] {
            let commands = format!("{hello} switch.test\r\n{transaction}");
            let (replies, passed) = on_loop(dialogue(protocol, commands.as_bytes()));
            assert!(passed, "{replies}");
            let codes: Vec<_> = replies.lines().filter(|line| line.as_bytes()[3] == b' ').collect();
            let codes: Vec<_> = codes.iter().map(|line| &line[..3]).collect();
            assert_eq!(codes, ["220", "250", "250", "250", "550", "354", "250", "221"], "{replies}");
        }
    }

    #[test]
    fn nothing_but_the_probe_is_taken() {
        let rows = [
            "MAIL FROM:<a@b>\r\nQUIT\r\n",
            "MAIL FROM:<>\r\nRCPT TO:<passes.2@probe.invalid>\r\nDATA\r\nQUIT\r\n",
            "MAIL FROM:<>\r\nRCPT TO:<passes.1@probe.invalid>\r\nDATA\r\nother\r\n.\r\nQUIT\r\n",
        ];
        for row in rows {
            let commands = format!("EHLO switch.test\r\n{row}");
            let (replies, passed) = on_loop(dialogue(Protocol::Smtp, commands.as_bytes()));
            assert!(!passed && replies.contains("\r\n550 "), "{row}: {replies}");
        }
    }
}
