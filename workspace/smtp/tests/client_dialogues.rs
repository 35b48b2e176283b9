//! The client's dialogues, whole and cut at every octet.
//!
//! Happens: `transaction id sender recipients(,) octets [8bit] [utf8] [ret=full|hdrs] [envid=…] [priority=…]
//! [ordinary=…] [notify=never] [notify=success] (of all) [orcpt=…]`, `content octets`, `end`, `quit`, `time seconds`, `closed` (by the peer),
//! `failed` (the content), `secured` (the handshake is done), `handshake-failed status text`, `admitted …`.
//! Wants: `need id`, `result id recipient kind code status text`, `done id`, `handshake`, `failed code status text`,
//! `close`.
#![allow(clippy::unwrap_used, reason = "a test that cannot go on ends there")]

mod script;

use proptest::prelude::*;
use script::{Cut, Item, Script, escape, scripts, unescape};
use std::time::{Duration, Instant};
use sternpost_message::{
    BodyType, Diagnostic, EnhancedStatus, ErrorScope, Mailbox, Notify, Outcome, Ret, ReversePath,
};
use sternpost_smtp::client::{
    ClientPolicy, ClientSession, Input, Output, Protocol, Tls, Transaction, TransactionRecipient,
};

#[derive(Debug, Default, PartialEq, Eq)]
struct Heard {
    commands: Vec<u8>,
    wants: Vec<String>,
}

fn policy(script: &Script) -> ClientPolicy {
    let mut policy = ClientPolicy::new("mx.example.org", Protocol::Smtp);
    for (name, value) in &script.policy {
        match (name.as_str(), value.as_str()) {
            ("protocol", "lmtp") => policy.protocol = Protocol::Lmtp,
            ("chain", "no") => policy.chain = false,
            ("bdat_octets_min", octets) => policy.bdat_octets_min = octets.parse().unwrap(),
            ("tls", "opportunistic") => policy.tls = Tls::Opportunistic,
            ("tls", "required") => policy.tls = Tls::Required,
            ("tls", "first") => {}
            other => panic!("no policy {other:?}"),
        }
    }
    policy
}

fn transaction(words: &str) -> Transaction {
    let mut words = words.split(' ');
    let mut word = || words.next().unwrap();
    let (id, sender, recipients, octets) = (word(), word(), word(), word());
    let recipient = |text| TransactionRecipient {
        address: Mailbox::parse(text).unwrap(),
        notify: None,
        original_recipient: None,
    };
    let mut transaction = Transaction {
        id: id.parse().unwrap(),
        sender: if sender == "<>" {
            ReversePath::Null
        } else {
            ReversePath::Mailbox(Mailbox::parse(sender).unwrap())
        },
        recipients: recipients.split(',').map(recipient).collect(),
        content_octets: octets.parse().unwrap(),
        body: BodyType::SevenBit,
        smtputf8: false,
        ret: None,
        envelope_id: None,
        mt_priority: None,
        mt_priority_is_given: false,
    };
    for word in words {
        match word.split_once('=').unwrap_or((word, "")) {
            ("8bit", _) => transaction.body = BodyType::EightBitMime,
            ("utf8", _) => transaction.smtputf8 = true,
            ("ret", "full") => transaction.ret = Some(Ret::Full),
            ("ret", "hdrs") => transaction.ret = Some(Ret::Headers),
            ("envid", id) => transaction.envelope_id = Some(id.to_owned()),
            ("priority", value) => {
                transaction.mt_priority = Some(value.parse().unwrap());
                transaction.mt_priority_is_given = true;
            }
            ("ordinary", value) => transaction.mt_priority = Some(value.parse().unwrap()),
            ("notify", "never") => transaction.recipients[0].notify = Some(Notify::NEVER),
            ("notify", "success") => {
                for recipient in &mut transaction.recipients {
                    recipient.notify = Some(Notify { success: true, failure: true, delay: false });
                }
            }
            ("orcpt", text) => transaction.recipients[0].original_recipient = Some(text.to_owned()),
            other => panic!("what is {other:?}?"),
        }
    }
    transaction
}

struct Driver {
    session: ClientSession,
    now: Instant,
    wake: Option<Instant>,
    heard: Heard,
}

impl Driver {
    fn input(&mut self, input: Input<'_>) {
        self.session.handle(self.now, input);
        while let Some(output) = self.session.poll() {
            let want = match output {
                Output::Send(octets) => {
                    self.heard.commands.extend(octets);
                    continue;
                }
                Output::WakeAt(at) => {
                    self.wake = Some(at);
                    continue;
                }
                Output::NeedContent { transaction } => format!("need {transaction}"),
                Output::Result { transaction, recipient, outcome } => {
                    format!("result {transaction} {recipient} {}", describe(&outcome))
                }
                Output::TransactionDone { transaction } => format!("done {transaction}"),
                Output::StartTls => "handshake".to_owned(),
                Output::Failed { diagnostic } => format!("failed {}", words(&diagnostic)),
                Output::Close => "close".to_owned(),
            };
            self.heard.wants.push(want);
        }
    }

    fn happens(&mut self, what: &str) {
        let (word, rest) = what.split_once(' ').unwrap_or((what, ""));
        match word {
            "transaction" => self.input(Input::Transaction(Box::new(transaction(rest)))),
            "content" => self.input(Input::Content(&unescape(rest))),
            "end" => self.input(Input::ContentEnd),
            "quit" => self.input(Input::Quit),
            "closed" => self.input(Input::PeerClosed),
            "failed" => self.input(Input::ContentFailed),
            "secured" => self.input(Input::Secured),
            "handshake-failed" => {
                let (status, text) = EnhancedStatus::split_from(rest).unwrap();
                self.input(Input::HandshakeFailed(Diagnostic::own(status, text)));
            }
            "admitted" => assert_eq!(self.session.is_admitted().to_string(), rest),
            "can" => assert_eq!(self.session.can_take_transaction().to_string(), rest),
            "idle" => assert_eq!(self.session.is_idle().to_string(), rest),
            "time" => {
                let end = self.now + Duration::from_secs(rest.parse().unwrap());
                while let Some(wake) = self.wake.filter(|&wake| wake <= end) {
                    self.wake = None;
                    self.now = wake;
                    self.input(Input::Wake);
                }
                self.now = end;
            }
            other => panic!("what happens when {other}?"),
        }
    }
}

fn describe(outcome: &Outcome) -> String {
    match outcome {
        Outcome::Transferred(diagnostic) => format!("transferred {}", words(diagnostic)),
        Outcome::Delivered(diagnostic) => format!("delivered {}", words(diagnostic)),
        Outcome::RelayedReportOwed(diagnostic) => format!("relayed-owing {}", words(diagnostic)),
        Outcome::DeliveredReportOwed(diagnostic) => format!("delivered-owing {}", words(diagnostic)),
        Outcome::Failed(diagnostic) => format!("failed {}", words(diagnostic)),
        Outcome::Deferred { scope: ErrorScope::Peer, diagnostic } => {
            format!("deferred-peer {}", words(diagnostic))
        }
        Outcome::Deferred { scope: ErrorScope::Message, diagnostic } => {
            format!("deferred-message {}", words(diagnostic))
        }
        other => panic!("a session has no outcome {other:?}"),
    }
}

fn words(diagnostic: &Diagnostic) -> String {
    let code = diagnostic.reply_code.map_or_else(|| "-".to_owned(), |code| code.to_string());
    assert!(diagnostic.remote.is_empty());
    format!("{code} {} {}", diagnostic.status, diagnostic.text)
}

fn run(script: &Script, cut: &Cut, strict: bool) {
    let now = Instant::now();
    let is_secured = script.policy.contains(&("tls".to_owned(), "first".to_owned()));
    let begin = if is_secured { ClientSession::secured } else { ClientSession::new };
    let session = begin(now, policy(script));
    let mut driver = Driver { session, now, wake: None, heard: Heard::default() };
    driver.input(Input::Wake);
    let mut expected = Heard::default();
    let mut offset = 0;
    let compare = |driver: &Driver, expected: &Heard| {
        let (heard, said) = (escape(&driver.heard.commands), escape(&expected.commands));
        assert_eq!(
            heard.replace("\\n", "\n"),
            said.replace("\\n", "\n"),
            "{} {cut:?}",
            script.path.display()
        );
        assert_eq!(driver.heard.wants, expected.wants, "{} {cut:?}", script.path.display());
    };
    for item in &script.items {
        match item {
            Item::Server(octets) => {
                if strict {
                    compare(&driver, &expected);
                }
                cut.pieces(octets, offset).into_iter().for_each(|piece| driver.input(Input::Octets(piece)));
                offset += octets.len();
            }
            Item::Happens(what) => {
                if strict {
                    compare(&driver, &expected);
                }
                driver.happens(what);
            }
            Item::Client(octets) => expected.commands.extend(octets),
            Item::Wants(want) => expected.wants.push(want.clone()),
        }
    }
    compare(&driver, &expected);
}

fn peer_octets(script: &Script) -> usize {
    script.items.iter().map(|item| if let Item::Server(octets) = item { octets.len() } else { 0 }).sum()
}

#[test]
fn the_content_its_end_and_the_next_commands_leave_in_one_piece() {
    let now = Instant::now();
    let mut session = ClientSession::new(now, ClientPolicy::new("mx.example.org", Protocol::Smtp));
    let mut sends = Vec::new();
    let mut drain = |session: &mut ClientSession| {
        std::iter::from_fn(|| session.poll()).for_each(|output| match output {
            Output::Send(octets) => sends.push(octets),
            Output::Failed { diagnostic } => panic!("{diagnostic}"),
            _ => {}
        });
    };
    session.handle(now, Input::Octets(b"220 peer\r\n"));
    session.handle(now, Input::Transaction(Box::new(transaction("1 a@b c@d 3"))));
    session.handle(now, Input::Octets(b"250-peer\r\n250 PIPELINING\r\n"));
    drain(&mut session);
    session.handle(now, Input::Octets(b"250 ok\r\n250 ok\r\n354 go\r\n"));
    drain(&mut session);
    session.handle(now, Input::Transaction(Box::new(transaction("2 a@b c@d 3"))));
    drain(&mut session);
    session.handle(now, Input::Content(b"a\r\n"));
    drain(&mut session);
    session.handle(now, Input::ContentEnd);
    drain(&mut session);
    let last = sends.last().unwrap();
    assert_eq!(sends.len(), 2, "the first is EHLO and the first group");
    assert_eq!(escape(last), escape(b"a\r\n.\r\nMAIL FROM:<a@b>\r\nRCPT TO:<c@d>\r\nDATA\r\n"));
}

#[test]
fn every_dialogue_goes_as_it_is_written() {
    scripts("client").iter().for_each(|script| run(script, &Cut::Nowhere, true));
}

#[test]
fn cutting_the_input_at_every_octet_gives_the_same_dialogue() {
    for script in scripts("client") {
        run(&script, &Cut::Everywhere, false);
        (1..peer_octets(&script)).for_each(|at| run(&script, &Cut::Before(at), false));
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]
    #[test]
    fn random_cuts_give_the_same_dialogue(sizes in proptest::collection::vec(1usize..40, 1..20)) {
        let cut = Cut::Pieces(sizes);
        scripts("client").iter().for_each(|script| run(script, &cut, false));
    }
}
