//! One mail transaction, from its sender to its envelope.

use crate::date::internet_date;
use crate::trace::{Trace, received_field};
use crate::{
    ContentFacts, ForwardPath, HeaderScan, MailFacts, Policy, Rank, RecipientFacts, Rejection, RouteAnswer,
    Routing, SessionFacts, Verdict,
};
use std::collections::HashMap;
use std::collections::hash_map::RandomState;
use std::hash::BuildHasher;
use std::sync::Arc;
use sternpost_message::{
    BodyType, EnhancedStatus, Envelope, Mailbox, MessageId, MtPriority, ROUTE_DELAY_REPORT, Recipient, Route,
    RouteIndex, UnixMillis,
};

/// The routes that one envelope can hold: fewer than the first of the indexes that mean something else.
pub const ROUTES_MAX: usize = ROUTE_DELAY_REPORT.0 as usize - 1;

/// One transaction: what was accepted of it so far.
///
/// | reply | when |
/// |---|---|
/// | `451 4.3.5` | `<postmaster>`'s own address has no route: a fault of the configuration, not of the client |
/// | `452 4.5.3` | more recipients (or routes) than a message may have; the rest may come in another transaction |
/// | `503 5.5.1` | a second sender, a recipient without a sender, content without a recipient |
/// | `550 5.1.1` | `<postmaster>`, but nobody is configured |
/// | `550 5.1.2` | the domain has no route (said to listed clients, who could use any) |
/// | `530 5.7.0` | nobody has authenticated where users submit |
/// | `550 5.7.1` | the domain has no route for this client: it would be relaying; or the sender is none of the user's |
/// | `552 5.3.4` | declared or actual size above the limit |
/// | `553 5.6.7` | an address with UTF-8 without `SMTPUTF8` (RFC 6531, section 3.5) |
/// | `554 5.4.6` | more `Received` fields than allowed: the message loops |
#[derive(Debug)]
pub struct Submission {
    policy: Arc<Policy>,
    session: SessionFacts,
    mail: Option<MailFacts>,
    recipients: Vec<Recipient>,
    routes: Vec<Route>,
    /// The position of the first recipient with a hash, for finding duplicates: 16 octets a recipient instead of a
    /// second copy of its address.
    positions: HashMap<u64, usize>,
    /// Keyed at random, so that no client can choose addresses that collide; it never changes a verdict.
    hasher: RandomState,
    scan: HeaderScan,
    content_has_ended: bool,
}

/// A transaction that may be committed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Accepted {
    /// The envelope.
    pub envelope: Envelope,
    /// `Received` fields that the content came with.
    pub received_count: u32,
    /// Octets of the content as received, without our trace header.
    pub content_octets: u64,
    /// How the message is ranked, and why.
    pub rank: Rank,
}

impl Submission {
    /// A transaction of this session.
    #[must_use]
    pub fn new(policy: Arc<Policy>, session: SessionFacts) -> Self {
        Self {
            policy,
            session,
            mail: None,
            recipients: Vec::new(),
            routes: Vec::new(),
            positions: HashMap::new(),
            hasher: RandomState::new(),
            scan: HeaderScan::new(),
            content_has_ended: false,
        }
    }

    /// Validates the sender. The null sender and address literals are good senders.
    pub fn sender(&mut self, mail: MailFacts) -> Verdict {
        if self.mail.is_some() {
            return Verdict::reject(503, EnhancedStatus::new(5, 5, 1), "The sender was already given");
        }
        if mail.size.is_some_and(|octets| octets > self.policy.message_octets_max) {
            return Verdict::Reject(self.too_large());
        }
        if !mail.smtputf8 && mail.sender.mailbox().is_some_and(|mailbox| !mailbox.is_ascii()) {
            return utf8_without_smtputf8();
        }
        match (&self.session.identity, mail.sender.mailbox()) {
            (None, _) if self.policy.is_submission => {
                return Verdict::reject(530, EnhancedStatus::new(5, 7, 0), "Authentication required");
            }
            // RFC 6409, 6.1. The null sender is nobody's: reports of a user's reader have it (RFC 8098).
            (Some(identity), Some(mailbox)) if !identity.senders.iter().any(|own| own.holds(mailbox)) => {
                let text = "You may not send as this address";
                return Verdict::reject(550, EnhancedStatus::new(5, 7, 1), text);
            }
            _ => {}
        }
        self.mail = Some(mail);
        Verdict::Accept
    }

    /// Validates and routes one recipient. One that was accepted before with the same address (the domain in any
    /// case) and parameters is accepted again and kept once. `<postmaster>` and `postmaster` at this switch's own name
    /// become the configured address.
    pub fn recipient(&mut self, facts: RecipientFacts, routing: &dyn Routing) -> Verdict {
        let Some(mail) = &self.mail else {
            return Verdict::reject(503, EnhancedStatus::new(5, 5, 1), "The sender comes first");
        };
        let RecipientFacts { address, notify, original_recipient } = facts;
        let (address, is_postmaster) = match (address, &self.policy.postmaster) {
            (ForwardPath::Mailbox(mailbox), Some(postmaster)) if self.is_own_postmaster(&mailbox) => {
                (postmaster.clone(), true)
            }
            (ForwardPath::Mailbox(mailbox), _) => (mailbox, false),
            (ForwardPath::Postmaster, Some(postmaster)) => (postmaster.clone(), true),
            (ForwardPath::Postmaster, None) => {
                return Verdict::reject(
                    550,
                    EnhancedStatus::new(5, 1, 1),
                    "No postmaster is configured here",
                );
            }
        };
        if !mail.smtputf8 && !address.is_ascii() {
            return utf8_without_smtputf8();
        }
        let domain = address.domain().to_lowercase();
        let hash = self.hasher.hash_one((address.local_part(), &domain, notify, &original_recipient));
        let recipient = Recipient { address, route: RouteIndex(0), notify, original_recipient };
        // A hash is only a hint: two different recipients with the same one are both kept.
        let first = self.positions.get(&hash).and_then(|&position| self.recipients.get(position));
        if first.is_some_and(|first| is_same(first, &recipient)) {
            return Verdict::Accept;
        }
        if self.recipients.len() >= self.policy.recipients_max {
            return too_many();
        }
        let answer = match self.authorized_route(routing, &domain, is_postmaster) {
            Ok(answer) => answer,
            Err(rejection) => return Verdict::Reject(rejection),
        };
        let Some(route) = self.route_index(answer) else { return too_many() };
        self.positions.insert(hash, self.recipients.len());
        self.recipients.push(Recipient { route, ..recipient });
        Verdict::Accept
    }

    /// Whether a mailbox is the postmaster's of this very switch, as which a protocol may show `<postmaster>`.
    fn is_own_postmaster(&self, mailbox: &Mailbox) -> bool {
        mailbox.local_part().eq_ignore_ascii_case("postmaster")
            && mailbox.domain().eq_ignore_ascii_case(&self.policy.hostname)
    }

    /// The route of `domain`, if this client may use it. Everybody may write to the postmaster (RFC 5321, 4.5.1).
    fn authorized_route<'r>(
        &self,
        routing: &'r dyn Routing,
        domain: &str,
        is_postmaster: bool,
    ) -> Result<RouteAnswer<'r>, Rejection> {
        let may_go_anywhere = self.policy.client_is_listed || is_postmaster;
        match routing.route(domain) {
            Some(answer) if answer.open_to_all || may_go_anywhere => Ok(answer),
            None if is_postmaster => Err(Rejection::new(
                451,
                EnhancedStatus::new(4, 3, 5),
                "The postmaster's address has no route, try again later",
            )),
            None if self.policy.client_is_listed => {
                Err(Rejection::new(550, EnhancedStatus::new(5, 1, 2), "No route to this domain"))
            }
            Some(_) | None => Err(Rejection::new(550, EnhancedStatus::new(5, 7, 1), "Relaying denied")),
        }
    }

    /// The index of a route, which is added if it is new. None when the envelope has no room for another one.
    fn route_index(&mut self, answer: RouteAnswer<'_>) -> Option<RouteIndex> {
        let is_wanted = |route: &Route| route.channel == answer.channel && route.peer == answer.peer;
        // Recipients of one domain tend to follow each other: the newest route first.
        let position = self.routes.iter().rposition(is_wanted).unwrap_or(self.routes.len());
        if position >= ROUTES_MAX {
            return None;
        }
        if position == self.routes.len() {
            self.routes.push(Route { channel: answer.channel.to_owned(), peer: answer.peer.into_owned() });
        }
        u16::try_from(position).ok().map(RouteIndex)
    }

    /// Recipients accepted so far, each once.
    #[must_use]
    pub const fn recipients_count(&self) -> usize {
        self.recipients.len()
    }

    /// What stands before the content: the trace header, and where users submit the fields that are missing, with their line
    /// ends. To be asked for when all recipients are known, and [`Self::beginning_is_known`] or the content has ended.
    #[must_use]
    pub fn beginning(&self, now: UnixMillis, id: MessageId) -> Vec<u8> {
        let mut octets = self.trace_header(now, id);
        octets.extend_from_slice(self.missing_fields(now, id).as_bytes());
        octets
    }

    /// RFC 6409, 8.2 and 8.3. Of a header section whose end is beyond what is waited for, nobody knows what is missing.
    fn missing_fields(&self, now: UnixMillis, id: MessageId) -> String {
        let mut fields = String::new();
        if !self.policy.is_submission || !(self.scan.has_ended() || self.content_has_ended) {
            return fields;
        }
        if !self.scan.has_date() {
            fields.push_str(&format!("Date: {}\r\n", internet_date(now)));
        }
        if !self.scan.has_message_id() {
            fields.push_str(&format!("Message-ID: <{id}@{}>\r\n", self.policy.hostname));
        }
        fields
    }

    fn trace_header(&self, now: UnixMillis, id: MessageId) -> Vec<u8> {
        let only_recipient = match self.recipients.as_slice() {
            [recipient] => Some(&recipient.address),
            _ => None,
        };
        received_field(&Trace {
            helo: &self.session.helo,
            client: &self.session.client,
            hostname: &self.policy.hostname,
            protocol: self.session.protocol,
            tls: self.session.tls.as_deref(),
            smtputf8: self.mail.as_ref().is_some_and(|mail| mail.smtputf8),
            id,
            only_recipient,
            rank: self.rank(),
            at: now,
        })
    }

    /// Reads the next octets of the content as the client sent it: without our trace header, dots unstuffed, lines
    /// ending in CRLF. The octets are not kept.
    pub fn content(&mut self, octets: &[u8]) {
        self.scan.feed(octets);
    }

    /// Whether the message has more `Received` fields than allowed. Once true it stays true, so that a driver need
    /// not store the rest; [`Self::finish`] will refuse it.
    #[must_use]
    pub fn loop_detected(&self) -> bool {
        self.scan.received_count() > self.policy.received_headers_max
    }

    /// Whether the content is larger than allowed. Once true it stays true.
    #[must_use]
    pub fn is_too_large(&self) -> bool {
        self.scan.octets() > self.policy.message_octets_max
    }

    /// There is no more content: the rank is known. [`Self::finish`] does the same.
    pub fn end_content(&mut self) {
        self.scan.finish();
        self.content_has_ended = true;
    }

    /// Ends the transaction: all content was seen.
    ///
    /// # Errors
    /// The reply to the end of the content when the message is refused: nothing of it may be committed.
    pub fn finish(mut self, now: UnixMillis, content: ContentFacts) -> Result<Accepted, Rejection> {
        if self.is_too_large() {
            return Err(self.too_large());
        }
        if self.loop_detected() {
            let text = format!("The message loops: {} Received fields", self.scan.received_count());
            return Err(Rejection::new(554, EnhancedStatus::new(5, 4, 6), &text));
        }
        self.end_content();
        let rank = self.rank();
        let (received_count, content_octets) = (self.scan.received_count(), self.scan.octets());
        let Some(mail) = self.mail.filter(|_| !self.recipients.is_empty()) else {
            return Err(Rejection::new(503, EnhancedStatus::new(5, 5, 1), "No recipient was accepted"));
        };
        let envelope = Envelope {
            sender: mail.sender,
            recipients: self.recipients,
            routes: self.routes,
            accepted_at: now,
            precedence: rank.precedence,
            mt_priority: rank.priority,
            body: if content.eight_bit { BodyType::EightBitMime } else { mail.body },
            smtputf8: mail.smtputf8,
            ret: mail.ret,
            envelope_id: mail.envelope_id,
            source: self.policy.listener.clone(),
            client: self.session.client,
            tls: self.session.tls,
            identity: self.session.identity.map(|identity| identity.name.as_str().into()),
        };
        Ok(Accepted { envelope, received_count, content_octets, rank })
    }

    /// How the message will be ranked, by what is known of it.
    #[must_use]
    pub fn rank(&self) -> Rank {
        Rank::new(&self.policy, self.parameter(), &self.scan)
    }

    /// Whether no content that is still to come can change the rank. At the latest behind [`crate::RANK_OCTETS_MAX`], or when
    /// the content has ended.
    #[must_use]
    pub fn rank_is_known(&self) -> bool {
        self.policy.priority_fields.is_empty()
            || self.parameter().is_some()
            || self.scan.has_said_all()
            || self.content_has_ended
    }

    /// Whether no content that is still to come can change what stands before it. At the latest behind
    /// [`crate::RANK_OCTETS_MAX`], or when the content has ended.
    #[must_use]
    pub fn beginning_is_known(&self) -> bool {
        let header_is_known = self.scan.has_said_all() || self.content_has_ended;
        self.rank_is_known() && (header_is_known || !self.policy.is_submission)
    }

    fn parameter(&self) -> Option<MtPriority> {
        self.mail.as_ref().and_then(|mail| mail.mt_priority)
    }

    fn too_large(&self) -> Rejection {
        let text = format!("A message has at most {} octets here", self.policy.message_octets_max);
        Rejection::new(552, EnhancedStatus::new(5, 3, 4), &text)
    }
}

/// Whether two recipients are one: the local part is case-sensitive, the domain is not (RFC 5321, section 2.4).
fn is_same(a: &Recipient, b: &Recipient) -> bool {
    let is_same_mailbox = |a: &Mailbox, b: &Mailbox| {
        a.local_part() == b.local_part() && a.domain().to_lowercase() == b.domain().to_lowercase()
    };
    a.notify == b.notify
        && a.original_recipient == b.original_recipient
        && is_same_mailbox(&a.address, &b.address)
}

fn too_many() -> Verdict {
    Verdict::reject(
        452,
        EnhancedStatus::new(4, 5, 3),
        "Too many recipients, send the rest in another transaction",
    )
}

fn utf8_without_smtputf8() -> Verdict {
    Verdict::reject(553, EnhancedStatus::new(5, 6, 7), "An address with UTF-8 needs SMTPUTF8")
}

#[cfg(test)]
mod tests;
