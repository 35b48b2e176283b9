//! A client and a server that talk to each other: what goes in at one end comes out at the other, octet for octet.
#![allow(clippy::unwrap_used, reason = "a test that cannot go on ends there")]

use proptest::prelude::*;
use std::collections::VecDeque;
use std::sync::Arc;
use std::time::Instant;
use sternpost_message::{BodyType, EnhancedStatus, Mailbox, MtPriority, Notify, Outcome, Ret, ReversePath};
use sternpost_smtp::client::{
    self, ClientPolicy, ClientSession, Protocol, Tls, Transaction, TransactionRecipient,
};
use sternpost_smtp::reply::Reply;
use sternpost_smtp::server::{
    self, Answer, MailFrom, Question, RcptTo, ServerPolicy, ServerSession, StartTls,
};

/// A message as the server received it.
#[derive(Debug)]
struct Received {
    protocol: &'static str,
    mail: MailFrom,
    recipients: Vec<RcptTo>,
    content: Vec<u8>,
}

#[derive(Debug)]
struct Relay {
    client: ClientSession,
    server: ServerSession,
    now: Instant,
    to_server: Vec<u8>,
    to_client: Vec<u8>,
    /// Octets that a read gives at most.
    read_octets_max: usize,
    /// Octets of content that the client gets at once.
    piece_octets: usize,
    messages: VecDeque<(Transaction, Vec<u8>)>,
    sending: Vec<(u64, Vec<u8>)>,
    receiving: Option<Received>,
    received: Vec<Received>,
    results: Vec<(u64, usize, Outcome)>,
    done: Vec<u64>,
    /// Who wants the handshake to begin: the client, the server.
    wants_handshake: [bool; 2],
    client_closed: bool,
}

impl Relay {
    fn run(mut self) -> Self {
        let total = self.messages.len();
        for _ in 0..1_000_000 {
            self.drain_server();
            self.drain_client();
            if self.wants_handshake == [true, true] {
                assert!(self.to_server.is_empty() && self.to_client.is_empty(), "nothing is on its way");
                self.wants_handshake = [false, false];
                self.server.handle(self.now, server::Input::Secured);
                self.client.handle(self.now, client::Input::Secured);
                self.drain_client();
            }
            let octets = take(&mut self.to_client, self.read_octets_max);
            if !octets.is_empty() {
                self.client.handle(self.now, client::Input::Octets(&octets));
                self.drain_client();
            }
            while self.client.can_take_transaction() && !self.messages.is_empty() {
                let (transaction, content) = self.messages.pop_front().unwrap();
                self.sending.push((transaction.id, content));
                self.client.handle(self.now, client::Input::Transaction(Box::new(transaction)));
                self.drain_client();
            }
            let length = self.to_server.len().min(self.read_octets_max);
            let taken = self.server.handle(self.now, server::Input::Octets(&self.to_server[..length]));
            self.to_server.drain(..taken);
            self.drain_server();
            if self.done.len() == total {
                self.client.handle(self.now, client::Input::Quit);
            }
            if self.client_closed {
                return self;
            }
        }
        panic!("the two came to no end: {self:?}");
    }

    fn drain_client(&mut self) {
        while let Some(output) = self.client.poll() {
            match output {
                client::Output::Send(octets) => self.to_server.extend(octets),
                client::Output::NeedContent { transaction } => {
                    let at = self.sending.iter().position(|(id, _)| *id == transaction).unwrap();
                    let (_, content) = self.sending.remove(at);
                    for piece in content.chunks(self.piece_octets) {
                        self.client.handle(self.now, client::Input::Content(piece));
                    }
                    self.client.handle(self.now, client::Input::ContentEnd);
                }
                client::Output::Result { transaction, recipient, outcome } => {
                    self.results.push((transaction, recipient, outcome));
                }
                client::Output::TransactionDone { transaction } => self.done.push(transaction),
                client::Output::StartTls => self.wants_handshake[0] = true,
                client::Output::Failed { diagnostic } => panic!("{diagnostic}"),
                client::Output::Close => self.client_closed = true,
                client::Output::WakeAt(_) => {}
            }
        }
    }

    fn drain_server(&mut self) {
        while let Some(output) = self.server.poll() {
            match output {
                server::Output::Send(octets) => self.to_client.extend(octets),
                server::Output::Content(octets) => self.receiving.as_mut().unwrap().content.extend(octets),
                server::Output::TransactionAborted => self.receiving = None,
                server::Output::StartTls => self.wants_handshake[1] = true,
                server::Output::Ask(question) => {
                    let answer = self.answer(question);
                    self.server.handle(self.now, server::Input::Answer(answer));
                }
                server::Output::WakeAt(_) | server::Output::AuthenticationAborted | server::Output::Close => {
                }
            }
        }
    }

    /// Nobody whose name begins with `no` is known, and nobody named `later` now.
    fn answer(&mut self, question: Question) -> Answer {
        match question {
            Question::Sender(mail) => {
                let protocol = self.server.protocol();
                self.receiving =
                    Some(Received { protocol, mail, recipients: Vec::new(), content: Vec::new() });
            }
            Question::Recipient(rcpt) if rcpt.address.as_str().starts_with("no") => {
                return Answer::Reject(Reply::new(550, Some(EnhancedStatus::new(5, 1, 1)), "Nobody"));
            }
            Question::Recipient(rcpt) if rcpt.address.as_str().starts_with("later") => {
                return Answer::Reject(Reply::new(450, Some(EnhancedStatus::new(4, 2, 1)), "Later"));
            }
            Question::Recipient(rcpt) => self.receiving.as_mut().unwrap().recipients.push(rcpt),
            Question::StartContent | Question::StartTls => {}
            Question::Authenticate { .. } | Question::Respond(_) => {}
            Question::EndOfContent(_) => self.received.extend(self.receiving.take()),
        }
        Answer::Accept
    }
}

fn take(octets: &mut Vec<u8>, octets_max: usize) -> Vec<u8> {
    let length = octets.len().min(octets_max);
    octets.drain(..length).collect()
}

fn relay(
    messages: Vec<(Transaction, Vec<u8>)>,
    read_octets_max: usize,
    piece_octets: usize,
    chain: bool,
    bdat_octets_min: u64,
    (tls, starttls): (Tls, StartTls),
) -> Relay {
    let now = Instant::now();
    let client = ClientPolicy {
        chain,
        bdat_octets_min,
        tls,
        ..ClientPolicy::new("client.example.org", Protocol::Smtp)
    };
    let server = ServerPolicy { starttls, ..ServerPolicy::new("server.example.org") };
    Relay {
        client: ClientSession::new(now, client),
        server: ServerSession::new(now, Arc::new(server)),
        now,
        to_server: Vec::new(),
        to_client: Vec::new(),
        read_octets_max,
        piece_octets,
        messages: messages.into(),
        sending: Vec::new(),
        receiving: None,
        received: Vec::new(),
        results: Vec::new(),
        done: Vec::new(),
        wants_handshake: [false, false],
        client_closed: false,
    }
    .run()
}

/// Lines, dots at their starts, and every now and then no line ending at the end.
fn content() -> impl Strategy<Value = Vec<u8>> {
    let line = prop_oneof![
        "[a-zA-Z .]{0,30}",
        Just(".".to_owned()),
        Just("..".to_owned()),
        Just(String::new()),
        Just("é.ü".to_owned())
    ];
    (proptest::collection::vec(line, 0..20), any::<bool>()).prop_map(|(lines, is_ended)| {
        let end = if is_ended && !lines.is_empty() { "\r\n" } else { "" };
        (lines.join("\r\n") + end).into_bytes()
    })
}

fn mailbox() -> impl Strategy<Value = Mailbox> {
    prop_oneof!["[a-z]{1,8}@[a-z]{1,8}", "no[a-z]@b", "later@b", "\"[a-z >@.]{1,8}\"@b", "é[a-z]{1,3}@пример"]
        .prop_map(|text| Mailbox::parse(&text).unwrap())
}

fn notify() -> impl Strategy<Value = Notify> {
    any::<[bool; 3]>().prop_map(|[success, failure, delay]| Notify { success, failure, delay })
}

fn recipient() -> impl Strategy<Value = TransactionRecipient> {
    let original_recipient = proptest::option::of("rfc822;[a-z]{1,8}\\+2B@[a-z]{1,8}");
    (mailbox(), proptest::option::of(notify()), original_recipient).prop_map(
        |(address, notify, original_recipient)| TransactionRecipient { address, notify, original_recipient },
    )
}

fn message() -> impl Strategy<Value = (Transaction, Vec<u8>)> {
    let sender = proptest::option::of(mailbox());
    let parameters =
        (any::<bool>(), any::<bool>(), proptest::option::of(-9i8..=9), proptest::option::of("[a-zA-Z]{1,9}"));
    let ret = proptest::option::of(prop_oneof![Just(Ret::Full), Just(Ret::Headers)]);
    let recipients = proptest::collection::vec(recipient(), 1..5);
    (sender, recipients, content(), parameters, ret).prop_map(
        |(sender, recipients, content, parameters, ret)| {
            let (eight_bit, smtputf8, priority, envelope_id) = parameters;
            let transaction = Transaction {
                id: 0,
                sender: sender.map_or(ReversePath::Null, ReversePath::Mailbox),
                recipients,
                content_octets: content.len() as u64,
                body: if eight_bit { BodyType::EightBitMime } else { BodyType::SevenBit },
                smtputf8,
                ret,
                envelope_id,
                mt_priority: priority.map(|value| MtPriority::new(value).unwrap()),
                mt_priority_is_given: priority.is_some(),
            };
            (transaction, content)
        },
    )
}

/// Every pair whose sides can come together: what the client wants, and what the server offers.
fn tls() -> impl Strategy<Value = (Tls, StartTls)> {
    prop::sample::select(vec![
        (Tls::Never, StartTls::Absent),
        (Tls::Never, StartTls::Offered),
        (Tls::Opportunistic, StartTls::Absent),
        (Tls::Opportunistic, StartTls::Offered),
        (Tls::Opportunistic, StartTls::Required),
        (Tls::Required, StartTls::Offered),
        (Tls::Required, StartTls::Required),
    ])
}

proptest! {
    #[test]
    fn every_message_comes_out_as_it_went_in(
        mut messages in proptest::collection::vec(message(), 1..6),
        read_octets_max in prop_oneof![1usize..50, Just(65_536)],
        piece_octets in 1usize..200,
        chain in any::<bool>(),
        bdat_octets_min in prop_oneof![Just(0u64), Just(50), Just(65_536)],
        tls in tls(),
    ) {
        for (id, (transaction, _)) in (0..).zip(&mut messages) {
            transaction.id = id;
        }
        let relayed = relay(messages.clone(), read_octets_max, piece_octets, chain, bdat_octets_min, tls);
        let comes_under_tls = tls.0 != Tls::Never && tls.1 != StartTls::Absent;
        prop_assert_eq!(relayed.done.len(), messages.len());
        let mut received = relayed.received.into_iter();
        for (transaction, content) in &messages {
            let known = |recipient: &&TransactionRecipient| {
                !recipient.address.as_str().starts_with("no") && !recipient.address.as_str().starts_with("later")
            };
            for (index, recipient) in transaction.recipients.iter().enumerate() {
                let mut results = relayed.results.iter().filter(|(id, at, _)| (*id, *at) == (transaction.id, index));
                let is_right = match results.next().map(|(_, _, outcome)| outcome) {
                    Some(Outcome::Transferred(_)) => known(&recipient),
                    Some(Outcome::Failed(_)) => recipient.address.as_str().starts_with("no"),
                    Some(Outcome::Deferred { .. }) => recipient.address.as_str().starts_with("later"),
                    _ => false,
                };
                prop_assert!(is_right && results.next().is_none());
            }
            let wanted: Vec<_> = transaction.recipients.iter().filter(known).collect();
            if wanted.is_empty() {
                continue;
            }
            let got = received.next().unwrap();
            let ended = if content.is_empty() || content.ends_with(b"\r\n") { b"" } else { &b"\r\n"[..] };
            prop_assert_eq!(&got.content, &[content, ended].concat());
            prop_assert_eq!(&got.mail.sender, &transaction.sender);
            prop_assert_eq!(got.protocol.ends_with("SMTPS"), comes_under_tls);
            prop_assert_eq!(got.mail.size, Some(transaction.content_octets));
            prop_assert_eq!((got.mail.body, got.mail.ret), (transaction.body, transaction.ret));
            prop_assert_eq!(got.mail.mt_priority, transaction.mt_priority);
            prop_assert_eq!(&got.mail.envelope_id, &transaction.envelope_id);
            prop_assert!(got.mail.smtputf8 || !transaction.smtputf8);
            let wanted: Vec<_> = wanted.iter().map(|r| (&r.address, r.notify, &r.original_recipient)).collect();
            let got: Vec<_> = got.recipients.iter().map(|r| (&r.address, r.notify, &r.original_recipient)).collect();
            prop_assert_eq!(got, wanted);
        }
        prop_assert!(received.next().is_none());
    }
}
