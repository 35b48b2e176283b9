//! Entry points for fuzzing, which plain tests also run over `tests/corpus`. Each asserts what must hold whatever the
//! octets are: no panic, bounded memory, and an end to everything that was begun.

use crate::client::{self, ClientPolicy, ClientSession, Protocol, Tls, Transaction, TransactionRecipient};
use crate::reply::{LINE_OCTETS_MAX, Reply, ReplyReader, TEXT_OCTETS_MAX};
use crate::server::{
    self, Answer, Authentication, BareLineEndings, Question, ServerPolicy, ServerSession, StartTls,
};
use std::sync::Arc;
use std::time::{Duration, Instant};
use sternpost_message::{BodyType, Diagnostic, EnhancedStatus, Mailbox, ReversePath};

/// The wire in pieces of so many octets; for none, one line at a time, as somebody talks who waits for each reply.
fn pieces(wire: &[u8], piece_octets: u8) -> Vec<&[u8]> {
    match piece_octets {
        0 => wire.split_inclusive(|&octet| octet == b'\n').collect(),
        octets => wire.chunks(usize::from(octets)).collect(),
    }
}

/// Feeds a server: the first octet chooses the policy, the second the size of the pieces, the rest is the client.
/// Every seventh answer is a refusal, and some handshakes fail.
///
/// # Panics
/// When an invariant is broken.
pub fn fuzz_server(data: &[u8]) {
    let [choice, piece_octets, wire @ ..] = data else { return };
    let bare_line_endings =
        if choice & 1 == 0 { BareLineEndings::Refuse } else { BareLineEndings::Normalise };
    let policy = ServerPolicy {
        message_octets_max: 4096,
        recipients_max: 5,
        command_line_octets_max: 1024,
        content_line_octets_max: 512,
        bare_line_endings,
        starttls: [StartTls::Absent, StartTls::Offered, StartTls::Required][usize::from(choice >> 6) % 3],
        authentication: [Authentication::Absent, Authentication::Offered, Authentication::Required]
            [usize::from(choice >> 4 & 3) % 3],
        ..ServerPolicy::new("mx.example.org")
    };
    let needs_authentication = policy.authentication == Authentication::Required;
    let needs_tls = policy.starttls == StartTls::Required;
    let now = Instant::now();
    let begin = if *choice >> 6 == 3 { ServerSession::secured } else { ServerSession::new };
    let mut session = begin(now, Arc::new(policy));
    let answers = u32::from(*choice);
    let mut watch = ServerWatch { answers, needs_tls, needs_authentication, ..ServerWatch::default() };
    session.offer_mechanisms(["PLAIN"]);
    for piece in pieces(wire, *piece_octets) {
        let mut rest = piece;
        loop {
            let taken = session.handle(now, server::Input::Octets(rest));
            assert!(taken <= rest.len(), "more octets are taken than were offered");
            rest = &rest[taken..];
            watch.drain(now, &mut session);
            let has_plain_octets = std::mem::take(&mut watch.shook_hands) && !rest.is_empty();
            assert!(!has_plain_octets, "nothing of the plain stream is left behind the handshake");
            if rest.is_empty() || !session.wants_input() {
                break;
            }
            assert!(taken > 0, "a session that wants input takes some");
        }
        // A pipelined group leaves at most one reply of ours for each octet that it has.
        assert!(session.held_octets() <= 12_288 + 64 * 1024, "the session holds too much");
        if watch.closed {
            return;
        }
    }
    session.handle(now, server::Input::PeerClosed);
    watch.drain(now, &mut session);
    assert!(watch.closed && !watch.open, "a session ends with its transaction closed");
}

#[derive(Default)]
struct ServerWatch {
    answers: u32,
    /// A sender was accepted, and neither the end of the content nor an abort has come.
    open: bool,
    content_octets: u64,
    /// Without TLS there is no transaction.
    needs_tls: bool,
    /// Nor without AUTH.
    needs_authentication: bool,
    /// A handshake was asked for since the last offer.
    shook_hands: bool,
    closed: bool,
}

impl ServerWatch {
    fn drain(&mut self, now: Instant, session: &mut ServerSession) {
        while let Some(output) = session.poll() {
            assert!(!self.closed, "nothing comes behind Close");
            match output {
                server::Output::Send(octets) => {
                    assert!(octets.ends_with(b"\r\n"), "replies are whole lines");
                }
                server::Output::Content(octets) => {
                    assert!(self.open && !octets.is_empty(), "content belongs to an open transaction");
                    self.content_octets += octets.len() as u64;
                }
                server::Output::TransactionAborted => {
                    assert!(std::mem::take(&mut self.open), "only what is open is aborted");
                    self.content_octets = 0;
                }
                server::Output::Ask(question) => {
                    assert!(
                        question == Question::StartTls || session.is_secured() || !self.needs_tls,
                        "where TLS is required nothing else is asked before it"
                    );
                    let is_sender = matches!(question, Question::Sender(_));
                    assert!(
                        !is_sender || session.is_authenticated() || !self.needs_authentication,
                        "where authentication is required no mail comes before it"
                    );
                    let answer = self.answer(&question);
                    session.handle(now, server::Input::Answer(answer));
                }
                server::Output::AuthenticationAborted => {}
                server::Output::StartTls => self.shake_hands(now, session),
                server::Output::WakeAt(_) => {}
                server::Output::Close => self.closed = true,
            }
        }
    }

    /// Three of five handshakes are done, one fails, and in one the client goes on in the clear.
    fn shake_hands(&mut self, now: Instant, session: &mut ServerSession) {
        assert_eq!(
            (session.held_octets(), session.wants_input()),
            (0, false),
            "all was sent, and nothing is taken"
        );
        let input = match self.answers % 5 {
            0 => server::Input::PeerClosed,
            1 => server::Input::Octets(b"EHLO c\r\n"),
            _ => server::Input::Secured,
        };
        let is_done = matches!(input, server::Input::Secured);
        assert_eq!(session.handle(now, input), 0, "no octet is taken before the handshake");
        assert_eq!(session.is_secured(), is_done);
        assert!(!is_done || session.helo().is_none(), "what was said before the handshake is forgotten");
        self.shook_hands = true;
    }

    fn answer(&mut self, question: &Question) -> Answer {
        self.answers += 1;
        let is_refused = self.answers.is_multiple_of(7);
        match question {
            Question::Sender(_) => {
                assert!(!self.open, "transactions do not nest");
                self.open = !is_refused;
            }
            Question::StartTls => assert!(!self.open, "TLS does not begin within a transaction"),
            Question::Authenticate { .. } | Question::Respond(_) => {
                assert!(!self.open, "nobody authenticates within a transaction");
                if self.answers.is_multiple_of(2) && !is_refused {
                    return Answer::Challenge(vec![0; 12]);
                }
            }
            Question::Recipient(_) | Question::StartContent => assert!(self.open, "a sender came before"),
            Question::EndOfContent(summary) => {
                assert!(std::mem::take(&mut self.open), "a message belongs to an open transaction");
                let octets = std::mem::take(&mut self.content_octets);
                assert_eq!(summary.octets, octets, "the summary counts what came");
            }
        }
        if is_refused {
            Answer::Reject(Reply::new(550, Some(EnhancedStatus::new(5, 7, 1)), "No"))
        } else {
            Answer::Accept
        }
    }
}

/// Feeds a client: the first octet chooses protocol, TLS and content, the second the size of the pieces, the rest is the
/// peer.
///
/// # Panics
/// When an invariant is broken.
pub fn fuzz_client(data: &[u8]) {
    let [choice, piece_octets, wire @ ..] = data else { return };
    let protocol = if choice & 1 == 0 { Protocol::Smtp } else { Protocol::Lmtp };
    let tls_choice = usize::from(choice >> 1 & 3);
    let tls = [Tls::Never, Tls::Opportunistic, Tls::Required, Tls::Required][tls_choice];
    let policy = ClientPolicy { bdat_octets_min: 100, tls, ..ClientPolicy::new("mx.example.org", protocol) };
    let content = vec![b'.'; usize::from(*choice)];
    let start = Instant::now();
    let begin = if tls_choice == 3 { ClientSession::secured } else { ClientSession::new };
    let mut session = begin(start, policy);
    let mut watch = ClientWatch {
        content: &content,
        open: Vec::new(),
        next: 0,
        needs_tls: tls == Tls::Required,
        handshake_fails: choice & 8 != 0,
        closed: false,
    };
    watch.offer(start, &mut session);
    for piece in pieces(wire, *piece_octets) {
        session.handle(start, client::Input::Octets(piece));
        watch.drain(start, &mut session);
        watch.offer(start, &mut session);
        assert!(session.held_octets() <= LINE_OCTETS_MAX + TEXT_OCTETS_MAX, "the session holds too much");
    }
    let late = start + Duration::from_secs(24 * 60 * 60);
    session.handle(late, client::Input::Quit);
    session.handle(late, client::Input::Wake);
    session.handle(late, client::Input::PeerClosed);
    watch.drain(late, &mut session);
    assert!(watch.closed && watch.open.is_empty(), "a session ends with every transaction done");
}

struct ClientWatch<'a> {
    content: &'a [u8],
    /// The transactions that are not done: the number, and which recipients have no result.
    open: Vec<(u64, Vec<usize>)>,
    next: u64,
    /// Without TLS there is no transaction.
    needs_tls: bool,
    handshake_fails: bool,
    closed: bool,
}

impl ClientWatch<'_> {
    /// Hands in transactions of two recipients as long as the session takes them.
    fn offer(&mut self, now: Instant, session: &mut ClientSession) {
        while session.can_take_transaction() && self.next < 50 {
            let recipients = ["a@example.org", "b@example.org"]
                .iter()
                .filter_map(|address| Mailbox::parse(address).ok())
                .map(|address| TransactionRecipient { address, notify: None, original_recipient: None })
                .collect();
            let transaction = Transaction {
                id: self.next,
                sender: ReversePath::Null,
                recipients,
                content_octets: self.content.len() as u64,
                body: BodyType::SevenBit,
                smtputf8: false,
                ret: None,
                envelope_id: None,
                mt_priority: None,
                mt_priority_is_given: false,
            };
            self.open.push((self.next, vec![0, 1]));
            self.next += 1;
            session.handle(now, client::Input::Transaction(Box::new(transaction)));
            self.drain(now, session);
        }
    }

    fn drain(&mut self, now: Instant, session: &mut ClientSession) {
        while let Some(output) = session.poll() {
            match output {
                client::Output::NeedContent { transaction } => {
                    assert!(
                        self.open.iter().any(|(id, _)| *id == transaction),
                        "content of an open transaction"
                    );
                    session.handle(now, client::Input::Content(self.content));
                    session.handle(now, client::Input::ContentEnd);
                }
                client::Output::Result { transaction, recipient, .. } => {
                    for (_, left) in self.open.iter_mut().filter(|(id, _)| *id == transaction) {
                        let before = left.len();
                        left.retain(|&index| index != recipient);
                        assert_eq!(left.len() + 1, before, "each recipient has one result");
                    }
                }
                client::Output::TransactionDone { transaction } => {
                    let at = self.open.iter().position(|(id, _)| *id == transaction);
                    let (_, left) = self.open.remove(at.expect("a transaction is done once"));
                    assert!(left.is_empty(), "each recipient has its result before the transaction is done");
                }
                client::Output::Close => {
                    assert!(!self.closed, "a session closes once");
                    self.closed = true;
                }
                client::Output::Send(octets) => {
                    let is_of_transaction = octets.windows(5).any(|octets| octets == b"MAIL ");
                    assert!(
                        !is_of_transaction || session.is_secured() || !self.needs_tls,
                        "where TLS is required no transaction begins before it"
                    );
                }
                client::Output::StartTls => {
                    assert_eq!(session.held_octets(), 0, "all was sent and read");
                    if self.handshake_fails {
                        let why = Diagnostic::own(EnhancedStatus::new(4, 7, 5), "No");
                        session.handle(now, client::Input::HandshakeFailed(why));
                    } else {
                        session.handle(now, client::Input::Secured);
                        assert_eq!(*session.extensions(), client::Extensions::default(), "all is forgotten");
                    }
                }
                client::Output::WakeAt(_) | client::Output::Failed { .. } => {}
            }
        }
    }
}

/// Edits the header section of a content on its way to a peer: the first octet chooses where the field goes and where the
/// content is cut, the rest is the content.
///
/// # Panics
/// When an invariant is broken.
pub fn fuzz_header_edit(data: &[u8]) {
    client::header_edit::fuzz(data);
}

/// Reads replies: the first octet is the size of the pieces. What reads as a reply is written and reads as the same.
///
/// # Panics
/// When an invariant is broken.
pub fn fuzz_reply(data: &[u8]) {
    let [piece_octets, wire @ ..] = data else { return };
    let mut reader = ReplyReader::default();
    for piece in wire.chunks(usize::from(*piece_octets).max(1)) {
        let mut rest = piece;
        while !rest.is_empty() {
            let Ok((taken, reply)) = reader.read(rest) else { return };
            assert!(taken > 0 && taken <= rest.len(), "a reader takes something of what it is offered");
            rest = &rest[taken..];
            assert!(reader.held_octets() <= LINE_OCTETS_MAX + TEXT_OCTETS_MAX, "the reader holds too much");
            if let Some(reply) = reply.filter(|reply| reply.text.len() < TEXT_OCTETS_MAX / 2) {
                let wire = reply.encode();
                let (taken, again) = ReplyReader::default().read(&wire).expect("what we write is a reply");
                assert_eq!((taken, again.map(|again| again.code)), (wire.len(), Some(reply.code)));
            }
        }
    }
}
