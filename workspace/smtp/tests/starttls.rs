//! The rules of RFC 3207 that a written dialogue cannot say: where exactly the plain stream ends, and what a session
//! shows of itself. The dialogues `starttls_*` and `tls_first` say the others.
#![allow(clippy::unwrap_used, reason = "a test that cannot go on ends there")]

use std::sync::Arc;
use std::time::{Duration, Instant};
use sternpost_message::{BodyType, Diagnostic, EnhancedStatus, Mailbox, ReversePath};
use sternpost_smtp::Protocol;
use sternpost_smtp::client::{self, ClientPolicy, ClientSession, Tls, Transaction, TransactionRecipient};
use sternpost_smtp::server::{self, Answer, Question, ServerPolicy, ServerSession, StartTls, replies};

fn server_policy(starttls: StartTls, protocol: Protocol) -> Arc<ServerPolicy> {
    Arc::new(ServerPolicy { starttls, protocol, ..ServerPolicy::new("mx.example.org") })
}

fn client_session(now: Instant, tls: Tls) -> ClientSession {
    ClientSession::new(now, ClientPolicy { tls, ..ClientPolicy::new("mx.example.org", Protocol::Smtp) })
}

/// What a server did until it was left alone.
#[derive(Debug, Default)]
struct Served {
    said: String,
    questions: Vec<Question>,
    wants_handshake: bool,
    wake_at: Option<Instant>,
    is_closed: bool,
}

impl Served {
    /// Offers octets as a driver does that answers every question at once, with yes.
    fn offer(&mut self, now: Instant, session: &mut ServerSession, octets: &[u8]) {
        let mut rest = octets;
        loop {
            let taken = session.handle(now, server::Input::Octets(rest));
            rest = &rest[taken..];
            self.drain(now, session);
            if rest.is_empty() || taken == 0 {
                return;
            }
        }
    }

    fn drain(&mut self, now: Instant, session: &mut ServerSession) {
        while let Some(output) = session.poll() {
            match output {
                server::Output::Send(octets) => {
                    assert!(!self.wants_handshake, "nothing is said between the reply and the handshake");
                    self.said.push_str(std::str::from_utf8(&octets).unwrap());
                }
                server::Output::Ask(question) => {
                    self.questions.push(question);
                    session.handle(now, server::Input::Answer(Answer::Accept));
                }
                server::Output::StartTls => {
                    assert!(self.said.ends_with(&format!("{}\r\n", replies::READY_FOR_TLS)));
                    self.wants_handshake = true;
                }
                server::Output::WakeAt(at) => self.wake_at = Some(at),
                server::Output::Close => self.is_closed = true,
                server::Output::Content(_)
                | server::Output::TransactionAborted
                | server::Output::AuthenticationAborted => {}
            }
        }
    }

    fn secure(&mut self, now: Instant, session: &mut ServerSession) {
        assert!(std::mem::take(&mut self.wants_handshake));
        session.handle(now, server::Input::Secured);
        self.drain(now, session);
    }
}

#[test]
fn octets_behind_starttls_are_obeyed_neither_before_the_handshake_nor_behind_it() {
    let before = b"EHLO c\r\nSTARTTLS\r\n";
    let smuggled = b"EHLO s\r\nMAIL FROM:<smuggled@b>\r\nRCPT TO:<c@d>\r\n";
    for octets in 1..=smuggled.len() {
        let wire = [&before[..], &smuggled[..octets]].concat();
        for cut in 0..=wire.len() {
            let now = Instant::now();
            let mut session = ServerSession::new(now, server_policy(StartTls::Offered, Protocol::Smtp));
            let mut served = Served::default();
            for piece in [&wire[..cut], &wire[cut..]] {
                if !piece.is_empty() {
                    served.offer(now, &mut session, piece);
                }
            }
            // The reply has left only where nothing had come behind the command by then.
            let is_ready = served.said.contains(replies::READY_FOR_TLS);
            assert_eq!(is_ready, cut == before.len(), "cut at {cut}: {served:?}");
            assert_eq!(served.said.contains(replies::BEHIND_STARTTLS), !is_ready, "cut at {cut}: {served:?}");
            assert!(served.is_closed && served.questions == [Question::StartTls], "cut at {cut}: {served:?}");
            session.handle(now, server::Input::Secured);
            assert!(session.poll().is_none() && !session.is_secured(), "what has ended is not secured");
        }
    }
}

#[test]
fn octets_that_come_while_the_question_is_open_end_the_session_whatever_the_answer() {
    let reject = sternpost_smtp::reply::Reply::new(454, Some(EnhancedStatus::new(4, 7, 0)), "Not now");
    for answer in [Answer::Accept, Answer::AcceptText("go".to_owned()), Answer::Reject(reject)] {
        let now = Instant::now();
        let mut session = ServerSession::new(now, server_policy(StartTls::Offered, Protocol::Smtp));
        session.handle(now, server::Input::Octets(b"EHLO c\r\nSTARTTLS\r\n"));
        assert_eq!(session.poll(), Some(server::Output::Ask(Question::StartTls)));
        assert_eq!(session.handle(now, server::Input::Octets(b"Q")), 0);
        session.handle(now, server::Input::Answer(answer));
        let Some(server::Output::Send(octets)) = session.poll() else { panic!("nothing was said") };
        let last = format!("{}\r\n", replies::BEHIND_STARTTLS);
        assert!(octets.ends_with(last.as_bytes()), "{}", String::from_utf8_lossy(&octets));
        assert_eq!(session.poll(), Some(server::Output::Close));
    }
}

#[test]
fn starttls_may_be_the_last_of_a_group_and_its_reply_leaves_with_the_others() {
    let now = Instant::now();
    let mut session = ServerSession::new(now, server_policy(StartTls::Required, Protocol::Smtp));
    let mut served = Served::default();
    served.offer(now, &mut session, b"NOOP\r\nEHLO c\r\nRSET\r\nSTARTTLS\r\n");
    assert!(served.wants_handshake && !session.wants_input());
    let codes: Vec<_> =
        served.said.lines().filter(|line| &line[3..4] == " ").map(|line| &line[..3]).collect();
    assert_eq!(codes, ["220", "250", "250", "250", "220"]);
}

#[test]
fn the_timer_runs_from_the_reply_to_the_end_of_the_handshake() {
    let start = Instant::now();
    let mut session = ServerSession::new(start, server_policy(StartTls::Offered, Protocol::Smtp));
    let mut served = Served::default();
    let now = start + Duration::from_secs(10);
    served.offer(now, &mut session, b"EHLO c\r\nSTARTTLS\r\n");
    assert_eq!(served.wake_at, Some(now + ServerPolicy::new("x").handshake_timeout));
}

#[test]
fn a_handshake_that_nobody_asked_for_secures_nothing() {
    let now = Instant::now();
    let mut session = ServerSession::new(now, server_policy(StartTls::Offered, Protocol::Smtp));
    let mut served = Served::default();
    for lines in ["", "EHLO c\r\n", "MAIL FROM:<a@b>\r\nRCPT TO:<c@d>\r\nDATA\r\n", "x\r\n"] {
        served.offer(now, &mut session, lines.as_bytes());
        session.handle(now, server::Input::Secured);
        assert!(!session.is_secured());
    }
    let mut session = client_session(now, Tls::Opportunistic);
    for reply in ["", "220 p\r\n", "250-p\r\n250 STARTTLS\r\n", "454 no\r\n"] {
        session.handle(now, client::Input::Octets(reply.as_bytes()));
        session.handle(now, client::Input::Secured);
        session.handle(now, client::Input::HandshakeFailed(no_certificate()));
        assert!(!session.is_secured());
    }
    assert!(session.is_admitted());
}

#[test]
fn the_with_clause_says_whether_a_message_came_under_tls() {
    let rows = [
        (Protocol::Smtp, "HELO c", "", ["SMTP", "SMTP"]),
        (Protocol::Smtp, "EHLO c", "", ["ESMTP", "ESMTPS"]),
        (Protocol::Smtp, "EHLO c", " SMTPUTF8", ["UTF8SMTP", "UTF8SMTPS"]),
        (Protocol::Lmtp, "LHLO c", "", ["LMTP", "LMTPS"]),
        (Protocol::Lmtp, "LHLO c", " SMTPUTF8", ["UTF8LMTP", "UTF8LMTPS"]),
    ];
    for (protocol, hello, parameter, [in_clear, under_tls]) in rows {
        let now = Instant::now();
        let lines = format!("{hello}\r\nMAIL FROM:<a@b>{parameter}\r\n");
        let policy = server_policy(StartTls::Offered, protocol);
        let mut session = ServerSession::new(now, Arc::clone(&policy));
        Served::default().offer(now, &mut session, lines.as_bytes());
        assert_eq!((session.protocol(), session.is_secured()), (in_clear, false));

        let mut session = ServerSession::secured(now, Arc::clone(&policy));
        assert!(session.is_secured(), "from the first octet");
        Served::default().offer(now, &mut session, lines.as_bytes());
        assert_eq!((session.protocol(), session.is_secured()), (under_tls, true));

        let mut session = ServerSession::new(now, policy);
        let mut served = Served::default();
        let extended = if protocol == Protocol::Lmtp { "LHLO" } else { "EHLO" };
        let first = format!("{extended} p\r\nMAIL FROM:<a@b>\r\nRSET\r\nSTARTTLS\r\n");
        served.offer(now, &mut session, first.as_bytes());
        assert_eq!((session.is_secured(), session.helo()), (false, Some("p")));
        served.secure(now, &mut session);
        assert_eq!((session.is_secured(), session.helo(), session.protocol()), (true, None, "SMTP"));
        served.offer(now, &mut session, lines.as_bytes());
        assert_eq!(session.protocol(), under_tls);
    }
}

fn no_certificate() -> Diagnostic {
    Diagnostic::own(EnhancedStatus::new(4, 7, 5), "No certificate")
}

fn transaction() -> Box<Transaction> {
    let address = Mailbox::parse("c@d").unwrap();
    Box::new(Transaction {
        id: 1,
        sender: ReversePath::Null,
        recipients: vec![TransactionRecipient { address, notify: None, original_recipient: None }],
        content_octets: 0,
        body: BodyType::SevenBit,
        smtputf8: false,
        ret: None,
        envelope_id: None,
        mt_priority: None,
        mt_priority_is_given: false,
    })
}

/// What a client did until it was left alone.
#[derive(Debug, Default)]
struct Spoken {
    said: String,
    wants_handshake: bool,
    failed: Vec<Diagnostic>,
    is_closed: bool,
}

impl Spoken {
    fn input(&mut self, now: Instant, session: &mut ClientSession, input: client::Input<'_>) {
        session.handle(now, input);
        while let Some(output) = session.poll() {
            match output {
                client::Output::Send(octets) => self.said.push_str(std::str::from_utf8(&octets).unwrap()),
                client::Output::StartTls => self.wants_handshake = true,
                client::Output::Failed { diagnostic } => self.failed.push(diagnostic),
                client::Output::Close => self.is_closed = true,
                _ => {}
            }
        }
    }
}

#[test]
fn octets_behind_the_reply_to_starttls_lose_the_session_wherever_they_are_cut() {
    let before = b"220 p\r\n250-p\r\n250 STARTTLS\r\n220 go\r\n";
    let smuggled = b"250-p\r\n250 PIPELINING\r\n250 ok\r\n";
    for octets in 1..=smuggled.len() {
        let wire = [&before[..], &smuggled[..octets]].concat();
        for cut in 0..=wire.len() {
            let now = Instant::now();
            let mut session = client_session(now, Tls::Opportunistic);
            let mut spoken = Spoken::default();
            spoken.input(now, &mut session, client::Input::Transaction(transaction()));
            spoken.input(now, &mut session, client::Input::Octets(&wire[..cut]));
            // Who has both in one piece is not asked for a handshake at all.
            assert_eq!(spoken.wants_handshake, cut == before.len(), "cut at {cut}");
            spoken.input(now, &mut session, client::Input::Octets(&wire[cut..]));
            assert_eq!(spoken.said, "EHLO mx.example.org\r\nSTARTTLS\r\n", "cut at {cut}");
            let [diagnostic] = &spoken.failed[..] else { panic!("cut at {cut}: {spoken:?}") };
            assert_eq!(diagnostic.status, EnhancedStatus::new(4, 7, 0));
            assert!(diagnostic.text.contains("between its reply to STARTTLS and the handshake"));
            assert!(spoken.is_closed && !session.is_admitted());
            session.handle(now, client::Input::Secured);
            assert!(session.poll().is_none() && !session.is_secured(), "what has ended is not secured");
        }
    }
}

#[test]
fn nothing_of_a_transaction_is_said_and_no_extension_believed_before_tls_is_settled() {
    for tls in [Tls::Opportunistic, Tls::Required] {
        let now = Instant::now();
        let mut session = client_session(now, tls);
        let mut spoken = Spoken::default();
        spoken.input(now, &mut session, client::Input::Transaction(transaction()));
        for reply in ["220 p\r\n", "250-p\r\n250-PIPELINING\r\n250-SIZE 10\r\n250 STARTTLS\r\n", "220 go\r\n"]
        {
            spoken.input(now, &mut session, client::Input::Octets(reply.as_bytes()));
            assert!(!spoken.said.contains("MAIL") && !session.is_admitted(), "{reply:?}");
        }
        assert!(session.extensions().pipelining && spoken.wants_handshake);
        spoken.input(now, &mut session, client::Input::Secured);
        assert_eq!(*session.extensions(), client::Extensions::default());
        assert!(session.is_secured() && !session.is_admitted());
        assert_eq!(spoken.said, "EHLO mx.example.org\r\nSTARTTLS\r\nEHLO mx.example.org\r\n");
        spoken.input(now, &mut session, client::Input::Octets(b"250-p\r\n250 STARTTLS\r\n"));
        assert!(session.is_admitted());
        assert!(spoken.said.ends_with("EHLO mx.example.org\r\nMAIL FROM:<>\r\n"), "{}", spoken.said);
    }
}
