//! The server's dialogues, whole and cut at every octet.
//!
//! Happens: `accept [x.y.z] [text]`, `reject code [x.y.z] text`, `time seconds`, `secured` (the handshake is done),
//! `offer mechanisms` (behind a handshake), `challenge text`, `shutdown`, `closed` (by the client).
//! Wants: `sender …`, `recipient …`, `start`, `content octets` and then `end`, `aborted`, `tls`, `handshake`, `close`;
//! `auth mechanism`, with an initial response `auth mechanism octets|`, then `response octets`; `unauthenticated` when none comes.
#![allow(clippy::unwrap_used, reason = "a test that cannot go on ends there")]

mod script;

use proptest::prelude::*;
use script::{Cut, Item, Script, escape, scripts};
use std::sync::Arc;
use std::time::{Duration, Instant};
use sternpost_message::{BodyType, EnhancedStatus};
use sternpost_smtp::Protocol;
use sternpost_smtp::reply::Reply;
use sternpost_smtp::server::{
    Answer, Authentication, BareLineEndings, Input, Output, Question, Response, ServerPolicy, ServerSession,
    StartTls, replies,
};

/// What the machine said and wanted, in two streams: how the one lies in the other depends on the cuts.
#[derive(Debug, Default, PartialEq, Eq)]
struct Heard {
    replies: Vec<u8>,
    wants: Vec<String>,
}

fn policy(script: &Script) -> ServerPolicy {
    let mut policy = ServerPolicy { message_octets_max: 1000, ..ServerPolicy::new("mx.example.org") };
    for (name, value) in &script.policy {
        let seconds = || Duration::from_secs(value.parse().unwrap());
        match name.as_str() {
            "message_octets_max" => policy.message_octets_max = value.parse().unwrap(),
            "recipients_max" => policy.recipients_max = value.parse().unwrap(),
            "protocol" if value == "lmtp" => policy.protocol = Protocol::Lmtp,
            "errors_max" => policy.errors_max = value.parse().unwrap(),
            "transactions_max" => policy.transactions_max = value.parse().unwrap(),
            "command_line_octets_max" => policy.command_line_octets_max = value.parse().unwrap(),
            "content_line_octets_max" => policy.content_line_octets_max = value.parse().unwrap(),
            "priority_policy" => policy.priority_policy = value.parse().unwrap(),
            "session_timeout" => policy.session_timeout = seconds(),
            "bare_line_endings" if value == "normalise" => {
                policy.bare_line_endings = BareLineEndings::Normalise;
            }
            "starttls" if value == "offered" => policy.starttls = StartTls::Offered,
            "starttls" if value == "required" => policy.starttls = StartTls::Required,
            "authentication" if value == "offered" => policy.authentication = Authentication::Offered,
            "authentication" if value == "required" => policy.authentication = Authentication::Required,
            "command_timeout" => policy.command_timeout = seconds(),
            "mechanisms" => {}
            "tls" if value == "first" => {}
            other => panic!("no policy {other} {value}"),
        }
    }
    policy
}

struct Driver {
    session: ServerSession,
    now: Instant,
    waiting: Vec<u8>,
    content: Vec<u8>,
    wake: Option<Instant>,
    heard: Heard,
}

impl Driver {
    fn new(script: &Script) -> Self {
        let now = Instant::now();
        let is_secured = script.policy.iter().any(|(name, _)| name == "tls");
        let begin = if is_secured { ServerSession::secured } else { ServerSession::new };
        let mut session = begin(now, Arc::new(policy(script)));
        if let Some((_, names)) = script.policy.iter().find(|(name, _)| name == "mechanisms") {
            session.offer_mechanisms(names.split(' '));
        }
        let (waiting, content) = (Vec::new(), Vec::new());
        let mut driver = Self { session, now, waiting, content, wake: None, heard: Heard::default() };
        driver.drain();
        driver
    }

    fn octets(&mut self, octets: &[u8]) {
        self.waiting.extend_from_slice(octets);
        self.offer();
    }

    /// Also while nothing is taken: that octets are there may matter.
    fn offer(&mut self) {
        while !self.waiting.is_empty() {
            let taken = self.session.handle(self.now, Input::Octets(&self.waiting));
            self.waiting.drain(..taken);
            self.drain();
            if taken == 0 {
                break;
            }
        }
    }

    fn input(&mut self, input: Input<'_>) {
        self.session.handle(self.now, input);
        self.drain();
        self.offer();
    }

    fn happens(&mut self, what: &str) {
        let (word, rest) = what.split_once(' ').unwrap_or((what, ""));
        match word {
            "accept" if rest.is_empty() => self.input(Input::Answer(Answer::Accept)),
            "accept" => self.input(Input::Answer(match EnhancedStatus::split_from(rest) {
                Some((status, text)) => Answer::AcceptAs(status, text.to_owned()),
                None => Answer::AcceptText(rest.to_owned()),
            })),
            "reject" => {
                let (code, text) = rest.split_once(' ').unwrap();
                let (enhanced, text) = match EnhancedStatus::split_from(text) {
                    Some((status, text)) => (Some(status), text),
                    None => (None, text),
                };
                self.input(Input::Answer(Answer::Reject(Reply::new(code.parse().unwrap(), enhanced, text))));
            }
            "time" => self.sleep(Duration::from_secs(rest.parse().unwrap())),
            "secured" => self.input(Input::Secured),
            "offer" => self.session.offer_mechanisms(rest.split(' ')),
            "challenge" => self.input(Input::Answer(Answer::Challenge(rest.as_bytes().to_vec()))),
            "shutdown" => self.input(Input::Shutdown),
            "closed" => self.input(Input::PeerClosed),
            other => panic!("what happens when {other}?"),
        }
    }

    /// Time passes, and whenever a wake was asked for it comes.
    fn sleep(&mut self, time: Duration) {
        let end = self.now + time;
        while let Some(wake) = self.wake.filter(|&wake| wake <= end) {
            self.wake = None;
            self.now = wake;
            self.input(Input::Wake);
        }
        self.now = end;
    }

    fn drain(&mut self) {
        while let Some(output) = self.session.poll() {
            let want = match output {
                Output::Send(octets) => {
                    self.heard.replies.extend(octets);
                    continue;
                }
                Output::Content(octets) => {
                    self.content.extend(octets);
                    continue;
                }
                Output::WakeAt(at) => {
                    self.wake = Some(at);
                    continue;
                }
                Output::TransactionAborted => {
                    self.content.clear();
                    "aborted".to_owned()
                }
                Output::AuthenticationAborted => "unauthenticated".to_owned(),
                Output::StartTls => "handshake".to_owned(),
                Output::Close => "close".to_owned(),
                Output::Ask(Question::EndOfContent(summary)) => {
                    let content = std::mem::take(&mut self.content);
                    assert_eq!(summary.octets, content.len() as u64);
                    assert_eq!(summary.eight_bit, !content.is_ascii());
                    self.heard.wants.push(format!("content {}", escape(&content)));
                    "end".to_owned()
                }
                Output::Ask(question) => describe(&question),
            };
            self.heard.wants.push(want);
        }
    }
}

fn describe(question: &Question) -> String {
    match question {
        Question::Sender(mail) => {
            let mut words = format!("sender {}", mail.sender);
            let mut add = |word: String| words += &format!(" {word}");
            mail.size.into_iter().for_each(|size| add(format!("size={size}")));
            (mail.body == BodyType::EightBitMime).then(|| add("8bit".to_owned()));
            mail.smtputf8.then(|| add("utf8".to_owned()));
            mail.ret.into_iter().for_each(|ret| add(format!("ret={ret:?}")));
            mail.envelope_id.iter().for_each(|id| add(format!("envid={id}")));
            mail.mt_priority.into_iter().for_each(|priority| add(format!("priority={priority}")));
            words
        }
        Question::Recipient(rcpt) => {
            let notify = rcpt.notify.map(|notify| {
                format!(
                    " notify={}{}{}",
                    u8::from(notify.success),
                    u8::from(notify.failure),
                    u8::from(notify.delay)
                )
            });
            let original = rcpt.original_recipient.as_ref().map(|original| format!(" orcpt={original}"));
            format!(
                "recipient {}{}{}",
                rcpt.address,
                notify.unwrap_or_default(),
                original.unwrap_or_default()
            )
        }
        Question::StartContent => "start".to_owned(),
        Question::StartTls => "tls".to_owned(),
        Question::Authenticate { mechanism, initial_response: None } => format!("auth {mechanism}"),
        Question::Authenticate { mechanism, initial_response: Some(Response(octets)) } => {
            format!("auth {mechanism} {}", escape(octets)).trim_end().to_owned() + "|"
        }
        Question::Respond(Response(octets)) => format!("response {}", escape(octets)).trim_end().to_owned(),
        Question::EndOfContent(_) => "end".to_owned(),
    }
}

/// Runs a dialogue; `strict` compares before everything that happens, not only at the end.
fn run(script: &Script, cut: &Cut, strict: bool) {
    let mut driver = Driver::new(script);
    let mut expected = Heard::default();
    let mut offset = 0;
    let compare = |driver: &Driver, expected: &Heard| {
        let (heard, said) = (escape(&driver.heard.replies), escape(&expected.replies));
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
            Item::Client(octets) => {
                if strict {
                    compare(&driver, &expected);
                }
                cut.pieces(octets, offset).into_iter().for_each(|piece| driver.octets(piece));
                offset += octets.len();
            }
            Item::Happens(what) => {
                if strict && driver.waiting.is_empty() {
                    compare(&driver, &expected);
                }
                driver.happens(what);
            }
            Item::Server(octets) => expected.replies.extend(octets),
            Item::Wants(want) => expected.wants.push(want.clone()),
        }
    }
    compare(&driver, &expected);
}

fn client_octets(script: &Script) -> usize {
    script.items.iter().map(|item| if let Item::Client(octets) = item { octets.len() } else { 0 }).sum()
}

#[test]
fn every_dialogue_goes_as_it_is_written() {
    scripts("server").iter().for_each(|script| run(script, &Cut::Nowhere, true));
}

#[test]
fn cutting_the_input_at_every_octet_gives_the_same_dialogue() {
    for script in scripts("server") {
        run(&script, &Cut::Everywhere, false);
        (1..client_octets(&script)).for_each(|at| run(&script, &Cut::Before(at), false));
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]
    #[test]
    fn random_cuts_give_the_same_dialogue(sizes in proptest::collection::vec(1usize..40, 1..20)) {
        let cut = Cut::Pieces(sizes);
        scripts("server").iter().for_each(|script| run(script, &cut, false));
    }
}

#[test]
fn every_reply_of_the_server_stands_in_a_dialogue() {
    let said: Vec<u8> = scripts("server")
        .into_iter()
        .flat_map(|script| script.items)
        .filter_map(|item| if let Item::Server(octets) = item { Some(octets) } else { None })
        .flatten()
        .collect();
    let said = String::from_utf8(said).unwrap();
    let missing: Vec<_> =
        replies::ALL.iter().filter(|reply| !said.lines().any(|line| line == **reply)).collect();
    assert!(missing.is_empty(), "no dialogue has {missing:#?}");
}

#[test]
fn the_replies_to_a_pipelined_group_leave_in_one_piece() {
    let now = Instant::now();
    let mut session = ServerSession::new(now, Arc::new(ServerPolicy::new("mx.example.org")));
    let group = b"EHLO c\r\nMAIL FROM:<a@b>\r\nRCPT TO:<c@d>\r\nRCPT TO:<e@f>\r\nDATA\r\n";
    let mut rest = &group[..];
    let mut sends = Vec::new();
    while !rest.is_empty() {
        let taken = session.handle(now, Input::Octets(rest));
        rest = &rest[taken..];
        while let Some(output) = session.poll() {
            match output {
                Output::Ask(_) => assert_eq!(session.handle(now, Input::Answer(Answer::Accept)), 0),
                Output::Send(octets) => sends.push(octets),
                _ => {}
            }
        }
    }
    assert_eq!(sends.len(), 1, "greeting and replies leave together");
    assert!(sends[0].ends_with(b"354 End the content with CR LF . CR LF\r\n"));
}

/// What a session that offers AUTH says to these octets, offered in pieces of so many; every question is refused or, by
/// challenges, answered.
fn said_to(octets: &[u8], piece_octets: usize) -> String {
    let now = Instant::now();
    let policy =
        ServerPolicy { authentication: Authentication::Offered, ..ServerPolicy::new("mx.example.org") };
    let mut session = ServerSession::new(now, Arc::new(policy));
    let mut said = Vec::new();
    for piece in octets.chunks(piece_octets) {
        let mut rest = piece;
        while !rest.is_empty() {
            let taken = session.handle(now, Input::Octets(rest));
            rest = &rest[taken..];
            while let Some(output) = session.poll() {
                match output {
                    Output::Ask(_) => {
                        session.handle(now, Input::Answer(Answer::Challenge(Vec::new())));
                    }
                    Output::Send(octets) => said.extend(octets),
                    _ => {}
                }
            }
        }
    }
    String::from_utf8(said).unwrap()
}

/// RFC 4954, section 4; all other lines have the policy's bound.
#[test]
fn a_line_of_auth_and_a_response_have_12288_octets_and_not_one_more() {
    for (octets, is_short) in [(12_288, true), (12_289, false)] {
        // A text of base64 has a multiple of four octets; what is short of that is refused for another reason.
        let response = "A".repeat(octets - 2);
        let initial = "A".repeat(octets - 2 - "auth PLAIN ".len());
        let wire =
            format!("EHLO c\r\nauth PLAIN {initial}\r\nAUTH PLAIN\r\n{response}\r\nNOOP {initial}\r\n");
        for piece_octets in [1, 3, 4096, wire.len()] {
            let said = said_to(wire.as_bytes(), piece_octets);
            let replies: Vec<&str> = said.lines().filter(|line| !line.starts_with("2")).collect();
            let expected = if is_short {
                [replies::RESPONSE_ENCODING, "334 ", replies::RESPONSE_ENCODING, replies::LINE_TOO_LONG]
            } else {
                [replies::LINE_TOO_LONG, "334 ", replies::RESPONSE_TOO_LONG, replies::LINE_TOO_LONG]
            };
            assert_eq!(replies, expected, "{octets} in pieces of {piece_octets}");
        }
    }
}

#[test]
fn what_a_client_proves_itself_with_is_never_printed() {
    let now = Instant::now();
    let policy =
        ServerPolicy { authentication: Authentication::Offered, ..ServerPolicy::new("mx.example.org") };
    let mut session = ServerSession::new(now, Arc::new(policy));
    session.handle(now, Input::Octets(b"EHLO c\r\nAUTH PLAIN AGEAcGVuY2ls\r\n"));
    let outputs: Vec<_> = std::iter::from_fn(|| session.poll()).collect();
    let printed = format!("{outputs:?}");
    assert!(printed.contains("Authenticate") && printed.contains("Response(9 octets)"), "{printed}");
    assert!(!printed.contains("112, 101, 110"), "{printed}");
}

#[test]
fn replies_can_be_released_while_a_question_is_open() {
    let now = Instant::now();
    let mut session = ServerSession::new(now, Arc::new(ServerPolicy::new("mx.example.org")));
    session.handle(now, Input::Octets(b"HELO c\r\nMAIL FROM:<a@b>\r\n"));
    assert!(matches!(session.poll(), Some(Output::Ask(_))));
    assert_eq!(session.poll(), None);
    session.release_replies();
    assert!(matches!(session.poll(), Some(Output::Send(_))));
}

#[test]
fn a_session_that_is_busy_asks_for_few_wakes() {
    let mut now = Instant::now();
    let mut session = ServerSession::new(now, Arc::new(ServerPolicy::new("mx.example.org")));
    let mut wakes = 0;
    for _ in 0..1000 {
        now += Duration::from_millis(1);
        session.handle(now, Input::Octets(b"NOOP\r\n"));
        while let Some(output) = session.poll() {
            wakes += usize::from(matches!(output, Output::WakeAt(_)));
        }
    }
    assert_eq!(wakes, 1);
}

#[test]
fn the_with_clause_follows_the_last_sender() {
    let now = Instant::now();
    let mut session = ServerSession::new(now, Arc::new(ServerPolicy::new("mx.example.org")));
    for (lines, protocol) in [
        ("HELO c\r\nMAIL FROM:<a@b>\r\n", "SMTP"),
        ("EHLO c\r\nMAIL FROM:<a@b>\r\n", "ESMTP"),
        ("EHLO c\r\nMAIL FROM:<a@b> SMTPUTF8\r\n", "UTF8SMTP"),
    ] {
        session.handle(now, Input::Octets(lines.as_bytes()));
        session.handle(now, Input::Answer(Answer::Accept));
        assert_eq!((session.protocol(), session.helo()), (protocol, Some("c")));
    }
}
