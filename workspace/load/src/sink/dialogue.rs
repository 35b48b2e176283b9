//! The sink's side of one SMTP or LMTP session, without sockets and clocks.
//!
//! Octets go in through [`Dialogue::take`], replies gather in [`Dialogue::replies`], and each message that is complete
//! comes out as an event *before* its reply: the driver decides whether and when that reply goes.

use super::{Protocol, SinkOptions};
use crate::content::{Inspected, Inspector};
use crate::wire::{DotReader, line};

/// Longest command line that is taken. RFC 5321 (4.5.3.1.4) asks for 512 octets, extensions add to it.
const COMMAND_OCTETS_MAX: usize = 8192;

/// A service extension that a sink offers unless told otherwise.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Extension {
    /// RFC 2920.
    Pipelining,
    /// RFC 6152.
    EightBitMime,
    /// RFC 1870.
    Size,
    /// RFC 3030.
    Chunking,
    /// RFC 6531.
    SmtpUtf8,
    /// RFC 3461.
    Dsn,
    /// RFC 2034.
    EnhancedStatusCodes,
    /// RFC 6710.
    MtPriority,
}

impl Extension {
    /// All of them, in the order in which they are announced.
    pub const ALL: [Self; 8] = [
        Self::Pipelining,
        Self::EightBitMime,
        Self::Size,
        Self::Chunking,
        Self::SmtpUtf8,
        Self::Dsn,
        Self::EnhancedStatusCodes,
        Self::MtPriority,
    ];

    /// The EHLO keyword.
    #[must_use]
    pub const fn keyword(self) -> &'static str {
        match self {
            Self::Pipelining => "PIPELINING",
            Self::EightBitMime => "8BITMIME",
            Self::Size => "SIZE",
            Self::Chunking => "CHUNKING",
            Self::SmtpUtf8 => "SMTPUTF8",
            Self::Dsn => "DSN",
            Self::EnhancedStatusCodes => "ENHANCEDSTATUSCODES",
            Self::MtPriority => "MT-PRIORITY",
        }
    }
}

impl std::str::FromStr for Extension {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let known = Self::ALL.into_iter().find(|extension| extension.keyword().eq_ignore_ascii_case(text));
        known.ok_or_else(|| format!("{text:?} is none of {}", Self::ALL.map(Self::keyword).join(", ")))
    }
}

/// A message that is complete and waits for its reply.
#[derive(Debug)]
pub(super) struct Arrival {
    pub(super) sender: String,
    pub(super) recipients: Vec<String>,
    pub(super) priority: Option<i8>,
    pub(super) inspected: Inspected,
}

/// What the driver has to do.
#[derive(Debug)]
pub(super) enum Event {
    /// All input is used up: send the replies, read on.
    NeedInput,
    /// A message is complete. Record it, then call [`Dialogue::accept`], or drop the connection.
    Arrived(Box<Arrival>),
    /// A recipient was refused, as told.
    Rejected,
    /// Send the replies and make the handshake. The session has forgotten all that was said before.
    StartTls,
    /// Send the replies and close.
    Close,
}

#[derive(Debug)]
enum State {
    ExpectCommand,
    ReadContent { reader: DotReader, inspector: Box<Inspector> },
    ReadChunk { octets_left: u64, last: bool },
    AwaitAccept { recipients_count: usize },
}

/// One session.
#[derive(Debug)]
pub(super) struct Dialogue<'a> {
    options: &'a SinkOptions,
    state: State,
    greeted: bool,
    secured: bool,
    mail: Option<Mail>,
    replies: Vec<u8>,
}

#[derive(Debug)]
struct Mail {
    sender: String,
    recipients: Vec<String>,
    priority: Option<i8>,
    /// Content so far, while BDAT chunks come in.
    chunks: Option<Box<Inspector>>,
}

impl<'a> Dialogue<'a> {
    /// A new session: its greeting is the first reply.
    pub(super) fn new(options: &'a SinkOptions) -> Self {
        let mut dialogue = Self {
            options,
            state: State::ExpectCommand,
            greeted: false,
            secured: false,
            mail: None,
            replies: Vec::new(),
        };
        let name = if dialogue.lmtp() { "LMTP" } else { "ESMTP" };
        dialogue.say(&format!("220 sink.load.test {name}"));
        dialogue
    }

    /// The replies that wait to be sent; the driver clears them.
    pub(super) fn replies(&mut self) -> &mut Vec<u8> {
        &mut self.replies
    }

    /// Goes through the input up to the next event; returns how much of it was used.
    pub(super) fn take(&mut self, input: &[u8]) -> (usize, Event) {
        let mut used = 0;
        loop {
            let (octets_count, event) = self.step(&input[used..]);
            used += octets_count;
            if let Some(event) = event {
                return (used, event);
            }
        }
    }

    /// Accepts the message that has arrived: one reply, or one for each recipient (RFC 2033, 4.2).
    pub(super) fn accept(&mut self) {
        if let State::AwaitAccept { recipients_count } = self.state {
            for _ in 0..if self.lmtp() { recipients_count } else { 1 } {
                self.status("250", "2.0.0", "taken");
            }
            self.state = State::ExpectCommand;
        }
    }

    fn step(&mut self, input: &[u8]) -> (usize, Option<Event>) {
        match &mut self.state {
            State::ExpectCommand => match line(input) {
                Some((line, octets_count)) if line.len() <= COMMAND_OCTETS_MAX => {
                    let event = self.command(&String::from_utf8_lossy(line));
                    (octets_count, event)
                }
                None if input.len() <= COMMAND_OCTETS_MAX => (0, Some(Event::NeedInput)),
                _ => {
                    self.status("500", "5.5.2", "line too long");
                    (input.len(), Some(Event::Close))
                }
            },
            State::ReadContent { reader, inspector } => {
                let taken = reader.take(input, |octets| inspector.take(octets));
                if !taken.ended {
                    return (taken.octets_count, Some(Event::NeedInput));
                }
                let State::ReadContent { inspector, .. } = self.expect_accept() else {
                    unreachable!("the state was matched above");
                };
                (taken.octets_count, self.arrived(*inspector))
            }
            State::ReadChunk { octets_left, last } => {
                let octets_count = usize::try_from(*octets_left).unwrap_or(usize::MAX).min(input.len());
                *octets_left -= octets_count as u64;
                let (done, last) = (*octets_left == 0, *last);
                let inspector = self.mail.as_mut().and_then(|mail| mail.chunks.as_mut());
                // Without a transaction the chunk is read and thrown away: its reply has been given.
                let open = inspector.is_some();
                if let Some(inspector) = inspector {
                    inspector.take(&input[..octets_count]);
                }
                if !done {
                    return (octets_count, Some(Event::NeedInput));
                }
                self.state = State::ExpectCommand;
                if open && last {
                    self.expect_accept();
                    let inspector = self.mail.as_mut().and_then(|mail| mail.chunks.take());
                    return (octets_count, inspector.and_then(|inspector| self.arrived(*inspector)));
                }
                if open {
                    self.status("250", "2.0.0", "chunk taken");
                }
                (octets_count, None)
            }
            State::AwaitAccept { .. } => (0, Some(Event::NeedInput)),
        }
    }

    fn expect_accept(&mut self) -> State {
        let recipients_count = self.mail.as_ref().map_or(0, |mail| mail.recipients.len());
        std::mem::replace(&mut self.state, State::AwaitAccept { recipients_count })
    }

    fn arrived(&mut self, inspector: Inspector) -> Option<Event> {
        let inspected = inspector.finish();
        let mail = self.mail.take()?;
        if inspected.octets > self.options.message_octets_max {
            for _ in 0..if self.lmtp() { mail.recipients.len() } else { 1 } {
                self.status("552", "5.3.4", "too large");
            }
            self.state = State::ExpectCommand;
            return None;
        }
        let Mail { sender, recipients, priority, .. } = mail;
        Some(Event::Arrived(Box::new(Arrival { sender, recipients, priority, inspected })))
    }

    fn command(&mut self, line: &str) -> Option<Event> {
        let (verb, rest) = line.split_once(' ').unwrap_or((line, ""));
        match verb.to_ascii_uppercase().as_str() {
            "EHLO" if !self.lmtp() => self.greet(true),
            "LHLO" if self.lmtp() => self.greet(true),
            "HELO" if !self.lmtp() => self.greet(false),
            "MAIL" => self.mail(rest),
            "RCPT" => return self.recipient(rest),
            "DATA" => self.data(),
            "BDAT" if self.offers(Extension::Chunking) => return self.chunk(rest),
            "STARTTLS" if self.options.offers_tls && !self.secured && self.mail.is_none() => {
                (self.greeted, self.secured) = (false, true);
                self.status("220", "2.0.0", "go on inside TLS");
                return Some(Event::StartTls);
            }
            "RSET" => {
                self.mail = None;
                self.status("250", "2.0.0", "forgotten");
            }
            "NOOP" => self.status("250", "2.0.0", "still here"),
            "VRFY" => self.status("252", "2.5.2", "send and see"),
            "QUIT" => {
                self.status("221", "2.0.0", "bye");
                return Some(Event::Close);
            }
            _ => self.status("500", "5.5.1", "command not known"),
        }
        None
    }

    fn greet(&mut self, extended: bool) {
        self.greeted = true;
        self.mail = None;
        if !extended {
            return self.say("250 sink.load.test");
        }
        let mut lines = vec!["sink.load.test".to_owned()];
        for extension in Extension::ALL.into_iter().filter(|&extension| self.offers(extension)) {
            lines.push(match extension {
                Extension::Size => format!("SIZE {}", self.options.message_octets_max),
                _ => extension.keyword().to_owned(),
            });
        }
        if self.options.offers_tls && !self.secured {
            lines.push("STARTTLS".to_owned());
        }
        let last = lines.len() - 1;
        for (at, line) in lines.iter().enumerate() {
            self.say(&format!("250{}{line}", if at == last { ' ' } else { '-' }));
        }
    }

    fn mail(&mut self, rest: &str) {
        if !self.greeted || self.mail.is_some() {
            return self.status("503", "5.5.1", "not now");
        }
        let Some((sender, parameters)) = path(rest, "FROM:") else {
            return self.status("501", "5.5.4", "MAIL FROM:<address>");
        };
        let mut priority = None;
        for parameter in parameters.split_ascii_whitespace() {
            let (keyword, value) = parameter.split_once('=').unwrap_or((parameter, ""));
            let (extension, fits) = match keyword.to_ascii_uppercase().as_str() {
                "SIZE" => (Extension::Size, value.parse::<u64>().is_ok()),
                "BODY" => {
                    (Extension::EightBitMime, ["7BIT", "8BITMIME"].contains(&&*value.to_ascii_uppercase()))
                }
                "SMTPUTF8" => (Extension::SmtpUtf8, value.is_empty()),
                "RET" => (Extension::Dsn, ["FULL", "HDRS"].contains(&&*value.to_ascii_uppercase())),
                "ENVID" => (Extension::Dsn, !value.is_empty()),
                "MT-PRIORITY" => {
                    priority = value.parse().ok().filter(|priority| (-9..=9).contains(priority));
                    (Extension::MtPriority, priority.is_some())
                }
                _ => return self.status("555", "5.5.4", "parameter not known"),
            };
            if !self.offers(extension) {
                return self.status("555", "5.5.4", "parameter not offered");
            }
            if !fits {
                return self.status("501", "5.5.4", "parameter not understood");
            }
            let octets_max = self.options.message_octets_max;
            if extension == Extension::Size && value.parse().is_ok_and(|octets: u64| octets > octets_max) {
                return self.status("552", "5.3.4", "too large");
            }
        }
        self.mail = Some(Mail { sender: sender.to_owned(), recipients: Vec::new(), priority, chunks: None });
        self.status("250", "2.1.0", "sender taken");
    }

    fn recipient(&mut self, rest: &str) -> Option<Event> {
        if self.mail.as_ref().is_none_or(|mail| mail.chunks.is_some()) {
            self.status("503", "5.5.1", "not now");
            return None;
        }
        let Some((recipient, parameters)) = path(rest, "TO:").filter(|(recipient, _)| !recipient.is_empty())
        else {
            self.status("501", "5.5.4", "RCPT TO:<address>");
            return None;
        };
        for parameter in parameters.split_ascii_whitespace() {
            let keyword = parameter.split_once('=').map_or("", |(keyword, _)| keyword).to_ascii_uppercase();
            if !self.offers(Extension::Dsn) || !["NOTIFY", "ORCPT"].contains(&&*keyword) {
                self.status("555", "5.5.4", "parameter not known");
                return None;
            }
        }
        if let Some(rule) = self.options.reject_recipients.iter().find(|rule| rule.matches(recipient)) {
            let enhanced = if rule.code < 500 { "4.2.0" } else { "5.1.1" };
            self.status(&rule.code.to_string(), enhanced, "refused, as told");
            return Some(Event::Rejected);
        }
        if let Some(mail) = &mut self.mail {
            mail.recipients.push(recipient.to_owned());
        }
        self.status("250", "2.1.5", "recipient taken");
        None
    }

    fn data(&mut self) {
        match &self.mail {
            Some(mail) if mail.chunks.is_some() => self.status("503", "5.5.1", "chunks or data, not both"),
            Some(mail) if !mail.recipients.is_empty() => {
                self.state = State::ReadContent {
                    reader: DotReader::default(),
                    inspector: Box::new(self.inspector()),
                };
                self.say("354 end with a dot");
            }
            _ => self.status("503", "5.5.1", "no recipient"),
        }
    }

    fn chunk(&mut self, rest: &str) -> Option<Event> {
        let mut words = rest.split_ascii_whitespace();
        let octets = words.next().and_then(|word| word.parse::<u64>().ok());
        let last = match words.next() {
            None => Some(false),
            Some(word) => word.eq_ignore_ascii_case("LAST").then_some(true),
        };
        let (Some(octets_left), Some(last), None) = (octets, last, words.next()) else {
            // Where the next command begins is unknown: nothing sensible can follow.
            self.status("501", "5.5.4", "BDAT octets [LAST]");
            return Some(Event::Close);
        };
        let inspector = self.inspector();
        match &mut self.mail {
            Some(mail) if !mail.recipients.is_empty() => {
                mail.chunks.get_or_insert_with(|| Box::new(inspector));
            }
            _ => self.status("503", "5.5.1", "no recipient"),
        }
        self.state = State::ReadChunk { octets_left, last };
        None
    }

    fn inspector(&self) -> Inspector {
        Inspector::new(self.options.verify, self.options.keep_content)
    }

    fn lmtp(&self) -> bool {
        self.options.protocol == Protocol::Lmtp
    }

    fn offers(&self, extension: Extension) -> bool {
        !self.options.without.contains(&extension)
    }

    fn status(&mut self, code: &str, enhanced: &str, text: &str) {
        if self.offers(Extension::EnhancedStatusCodes) {
            self.say(&format!("{code} {enhanced} {text}"));
        } else {
            self.say(&format!("{code} {text}"));
        }
    }

    fn say(&mut self, line: &str) {
        self.replies.extend_from_slice(line.as_bytes());
        self.replies.extend_from_slice(b"\r\n");
    }
}

/// The address and the parameters behind `FROM:` or `TO:`. A quoted local part may hold a `>`.
fn path<'t>(rest: &'t str, keyword: &str) -> Option<(&'t str, &'t str)> {
    let (head, rest) = rest.split_at_checked(keyword.len())?;
    let rest = head.eq_ignore_ascii_case(keyword).then_some(rest)?.trim_start().strip_prefix('<')?;
    let mut quoted = false;
    let end = rest.char_indices().find(|&(at, letter)| {
        quoted ^= letter == '"' && !rest[..at].ends_with('\\');
        letter == '>' && !quoted
    })?;
    Some((&rest[..end.0], &rest[end.0 + 1..]))
}

#[cfg(test)]
#[path = "dialogue_tests.rs"]
mod tests;
