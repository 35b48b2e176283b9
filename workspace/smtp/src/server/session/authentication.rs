//! AUTH in the session: the command, the lines behind it, and what the driver answers. RFC 4954, section 4.

use super::{Asked, ServerSession, State};
use crate::server::{Answer, Authentication, Output, Question, Response, replies};
use base64::Engine;
use base64::engine::general_purpose::STANDARD;

/// The longest line of AUTH, and of a response, with its CR LF. RFC 4954, section 4.
const AUTH_LINE_OCTETS_MAX: usize = 12_288;
/// The longest name of a mechanism. RFC 4422, section 3.1.
const MECHANISM_OCTETS_MAX: usize = 20;

impl ServerSession {
    /// RFC 4954, section 4. Whether the mechanism is one that is offered the driver says.
    pub(super) fn authenticate(&mut self, argument: &str) {
        let is_extended = self.client.as_ref().is_some_and(|client| client.extended);
        match () {
            () if self.policy.authentication == Authentication::Absent => {
                return self.error(replies::NOT_IMPLEMENTED);
            }
            () if !is_extended => return self.out_of_place(replies::HELLO_FIRST),
            () if self.is_authenticated => return self.out_of_place(replies::AUTH_TWICE),
            () if self.transaction.is_some() => return self.out_of_place(replies::MAIL_TWICE),
            () => {}
        }
        let (mechanism, response) = match argument.split_once(' ') {
            Some((mechanism, response)) => (mechanism, Some(response)),
            None => (argument, None),
        };
        let is_name_octet = |octet: u8| octet.is_ascii_alphanumeric() || matches!(octet, b'-' | b'_');
        if !(1..=MECHANISM_OCTETS_MAX).contains(&mechanism.len()) || !mechanism.bytes().all(is_name_octet) {
            return self.error(replies::AUTH_SYNTAX);
        }
        let decoded = match response {
            Some("=") => Some(Response(Vec::new())),
            Some(text) => match STANDARD.decode(text) {
                Ok(octets) if !octets.is_empty() => Some(Response(octets)),
                _ => return self.error(replies::RESPONSE_ENCODING),
            },
            None => None,
        };
        let mechanism = mechanism.to_ascii_uppercase();
        self.ask(Question::Authenticate { mechanism, initial_response: decoded }, Asked::Authentication);
    }

    /// A line behind a challenge: never a command, whatever it looks like.
    pub(super) fn response(&mut self, line: &[u8]) {
        match STANDARD.decode(line) {
            _ if line == b"*" => self.end_authentication(replies::CANCELLED),
            Err(_) => self.end_authentication(replies::RESPONSE_ENCODING),
            Ok(octets) => {
                self.state = State::Command;
                self.ask(Question::Respond(Response(octets)), Asked::Authentication);
            }
        }
    }

    /// No further response will come. It counts as an error, for it has cost the driver something.
    pub(super) fn end_authentication(&mut self, reply: &'static str) {
        self.state = State::Command;
        self.events.push_back(Output::AuthenticationAborted);
        self.error(reply);
    }

    /// A refusal for good counts as an error: who guesses has no more guesses in one session than it may make errors.
    pub(super) fn answer_authentication(&mut self, answer: &Answer) {
        match answer {
            Answer::Challenge(octets) => {
                self.state = State::Response;
                self.say(&format!("334 {}", STANDARD.encode(octets)));
            }
            Answer::Reject(reply) => {
                self.errors += u32::from(reply.code >= 500);
                if self.errors >= self.policy.errors_max {
                    self.close_with(replies::TOO_MANY_ERRORS);
                } else {
                    self.say_rejection(reply);
                }
            }
            _ => {
                self.is_authenticated = true;
                self.accept(replies::AUTHENTICATED, answer);
            }
        }
    }

    /// How long the line may be that goes on with these octets. The verb is known long before the shorter bound.
    pub(super) fn line_octets_max(&self, octets: &[u8]) -> usize {
        const AUTH: &[u8] = b"AUTH ";
        let is_auth = || {
            let start = self.line.iter().chain(octets).take(AUTH.len());
            self.policy.authentication != Authentication::Absent
                && start.map(u8::to_ascii_uppercase).eq(AUTH.iter().copied())
        };
        match self.state {
            State::Command if !is_auth() => self.policy.command_line_octets_max,
            _ => self.policy.command_line_octets_max.max(AUTH_LINE_OCTETS_MAX),
        }
    }

    pub(super) fn line_too_long(&mut self) {
        if self.state == State::Response {
            self.end_authentication(replies::RESPONSE_TOO_LONG);
        } else {
            self.error(replies::LINE_TOO_LONG);
        }
    }

    /// What is said to commands that must wait for TLS or for AUTH.
    pub(super) fn comes_first(&self) -> Option<&'static str> {
        if self.needs_tls_first() {
            return Some(self.tls_first());
        }
        let needs_authentication =
            self.policy.authentication == Authentication::Required && !self.is_authenticated;
        needs_authentication.then_some(replies::AUTH_FIRST)
    }
}
