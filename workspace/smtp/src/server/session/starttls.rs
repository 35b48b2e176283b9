//! STARTTLS in the session: the command, the driver's answer, and what the handshake makes void. RFC 3207.

use super::{Asked, PROTOCOL_UNKNOWN, ServerSession, State};
use crate::server::{Answer, Question, StartTls, replies};
use std::time::Instant;

impl ServerSession {
    pub(super) fn needs_tls_first(&self) -> bool {
        self.policy.starttls == StartTls::Required && !self.is_secured
    }

    pub(super) const fn tls_first(&self) -> &'static str {
        if self.tls_was_refused { replies::TLS_AWAY } else { replies::TLS_FIRST }
    }

    pub(super) fn start_tls(&mut self, argument: &str) {
        let is_extended = self.client.as_ref().is_some_and(|client| client.extended);
        match () {
            () if self.is_secured => self.out_of_place(replies::TLS_TWICE),
            () if self.policy.starttls == StartTls::Absent => self.error(replies::NOT_IMPLEMENTED),
            () if !argument.is_empty() => self.error(replies::NO_PARAMETER),
            () if !is_extended => self.out_of_place(replies::HELLO_FIRST),
            () if self.transaction.is_some() => self.out_of_place(replies::MAIL_TWICE),
            () => self.ask(Question::StartTls, Asked::StartTls),
        }
    }

    /// What stands behind STARTTLS in the plain stream anybody on the way may have put there (CVE-2011-0411): taken for
    /// commands behind the handshake it would be the client's. A client waits for the reply (RFC 3207, section 4), so
    /// the session ends, whatever the answer is.
    pub(super) fn answer_start_tls(&mut self, answer: &Answer) {
        if self.input_waits {
            return self.close_with(replies::BEHIND_STARTTLS);
        }
        match answer {
            Answer::Reject(reply) => {
                self.tls_was_refused = true;
                self.say_rejection(reply);
            }
            _ => {
                self.state = State::HandshakeDue;
                self.accept(replies::READY_FOR_TLS, answer);
            }
        }
    }

    /// RFC 3207, 4.2: what the client has said before the handshake is forgotten. Errors and messages go on counting,
    /// for they measure our patience.
    pub(super) fn handshake_done(&mut self, now: Instant) {
        if self.state != State::Handshake {
            return;
        }
        assert!(self.line.is_empty() && self.replies.is_empty(), "the plain stream ended with our reply");
        self.reset();
        self.client = None;
        self.protocol = PROTOCOL_UNKNOWN;
        self.mechanisms.clear();
        self.is_authenticated = false;
        self.is_secured = true;
        self.active = now;
        self.state = State::Command;
        if self.is_shutting_down {
            self.close_with(replies::SHUTTING_DOWN);
        }
    }
}
