//! A process that takes mail in, as `smtp-server` does: modelled, with the product's appender and frames.
//!
//! A message goes in one set or chunk by chunk, in the lane of its precedence, with a window of unanswered chunks; what has no
//! answer is sent again to a store that has restarted. Only what the store has committed is acknowledged.

use std::rc::Rc;

use sternpost_link::store::{Append, FromStore, Lane, Refusal, ToStore};
use sternpost_link::{Appender, Frames, Hello, PROTOCOL_VERSION, Role};
use sternpost_message::{
    BodyType, Envelope, Mailbox, MessageId, Notify, Precedence, Recipient, Ret, ReversePath, RouteIndex,
    UnixMillis,
};
use sternpost_platform::wire::Wire;

use super::links::{End, Received};
use super::peers::Peers;
use super::{Kept, Owner, World};
use crate::model::Message;

/// Unanswered chunks of one message at most.
const CHUNKS_IN_FLIGHT_MAX: usize = 4;
/// Messages on their way in at a time.
const UPLOADS_MAX: usize = 3;
const RECONNECT_MS: u64 = 20;

/// One submitter.
#[derive(Default)]
pub(crate) struct Submitter {
    /// 0 while it does not run.
    pid: u32,
    restart_at: UnixMillis,
    link: Option<(u64, Rc<End>)>,
    reconnect_at: UnixMillis,
    is_welcome: bool,
    appender: Appender<Sent>,
    uploads: Vec<Upload>,
    next_at: UnixMillis,
    /// Sets that were sent again.
    repeated: Vec<MessageId>,
}

/// What a set was.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Sent {
    Chunk(MessageId),
    Envelope(MessageId),
    Discard,
}

struct Upload {
    id: MessageId,
    lane: Lane,
    chunk_octets: usize,
    next: u32,
    in_flight: usize,
    is_refused: bool,
}

impl Submitter {
    pub(crate) fn wants_to_act(&self, now: UnixMillis, is_concluding: bool) -> bool {
        if self.pid == 0 {
            return self.restart_at <= now;
        }
        if self.link.is_none() {
            return self.reconnect_at <= now;
        }
        self.uploads.iter().any(Upload::can_go_on)
            || (!is_concluding && self.next_at <= now && self.has_room())
    }

    fn has_room(&self) -> bool {
        self.uploads.len() < UPLOADS_MAX && self.appender.octets() < 200_000
    }

    pub(crate) fn due(&self, is_concluding: bool) -> Option<UnixMillis> {
        if self.pid == 0 {
            return Some(self.restart_at);
        }
        if self.link.is_none() {
            return Some(self.reconnect_at);
        }
        (!is_concluding && self.has_room()).then_some(self.next_at)
    }

    /// The messages of which a set has no answer.
    pub(crate) fn open_messages(&self) -> impl Iterator<Item = MessageId> {
        self.appender.contexts().filter_map(|sent| match sent {
            Sent::Envelope(id) => Some(*id),
            Sent::Chunk(_) | Sent::Discard => None,
        })
    }

    /// Whether everything that it began is answered.
    pub(crate) fn is_over(&self) -> bool {
        self.appender.is_empty() && self.uploads.is_empty()
    }

    fn append(&mut self, lane: Lane, records: &[Append<'_>], sent: Sent) -> Kept {
        let frame = self
            .appender
            .append(lane, records, sent)
            .map_err(|error| format!("a set is too large: {error}"))?;
        if let Some((_, link)) = self.link.as_ref().filter(|_| self.is_welcome) {
            link.push_encoded(frame);
        }
        Ok(())
    }

    fn with_upload(&mut self, id: MessageId, act: impl FnOnce(&mut Upload)) {
        if let Some(upload) = self.uploads.iter_mut().find(|upload| upload.id == id) {
            act(upload);
        }
    }
}

impl Upload {
    const fn can_go_on(&self) -> bool {
        self.in_flight < CHUNKS_IN_FLIGHT_MAX
    }
}

impl World {
    pub(crate) fn submitter_acts(&mut self, number: usize) -> Kept {
        let submitter = &mut self.submitters[number];
        if submitter.pid == 0 {
            submitter.next_at = UnixMillis(0);
            let pid = self.new_pid();
            self.submitters[number].pid = pid;
            return Ok(());
        }
        if submitter.link.is_none() {
            return self.submitter_connects(number);
        }
        let can_go_on = submitter.uploads.iter().any(Upload::can_go_on);
        if can_go_on && (self.is_concluding || !submitter.has_room() || self.random.chance(60)) {
            self.goes_on_with_an_upload(number)
        } else if !self.is_concluding {
            self.takes_a_message(number)
        } else {
            Ok(())
        }
    }

    fn submitter_connects(&mut self, number: usize) -> Kept {
        let pid = self.submitters[number].pid;
        let (link, end) = self.connect(Owner::Submitter(number), pid, Owner::Store);
        let hello = Hello {
            version: PROTOCOL_VERSION,
            role: Role::SmtpServer,
            pid,
            process: 0,
            channel: String::new(),
            capacity: 0,
        };
        end.push(&ToStore::Hello(hello)).map_err(|error| error.to_string())?;
        let submitter = &mut self.submitters[number];
        submitter.link = Some((link, end));
        submitter.is_welcome = false;
        Ok(())
    }

    fn takes_a_message(&mut self, number: usize) -> Kept {
        let now = self.now();
        if !self.has_room() {
            self.submitters[number].next_at = now.plus_ms(200);
            return Ok(());
        }
        let gap_ms = self.random.below(if self.random.clone().chance(70) { 60 } else { 1_500 });
        let octets = match self.random.below(20) {
            0 => 0,
            1..14 => self.random.place(3_000),
            14..18 => self.random.place(20_000),
            _ => 20_000 + self.random.place(60_000),
        };
        let content = self.content(octets);
        let id = self.new_message_id();
        let envelope = self.envelope(now);
        let lane = Lane::of(envelope.precedence);
        self.note(|| {
            let recipients: Vec<_> = envelope.recipients.iter().map(|recipient| recipient.route.0).collect();
            format!(
                "submitter {number} takes {id}: {octets} octets, routes {recipients:?} of {:?}",
                envelope.routes
            )
        });
        self.model.messages.insert(id, Message::new(content, envelope));
        let chunk_octets = 1_000 + self.random.place(15_000);
        let submitter = &mut self.submitters[number];
        submitter.next_at = now.plus_ms(gap_ms);
        submitter.uploads.push(Upload { id, lane, chunk_octets, next: 0, in_flight: 0, is_refused: false });
        self.goes_on_with_an_upload(number)
    }

    /// Content: noise, or a true copy of what stands on the disk: batches, headers and superblocks.
    fn content(&mut self, octets: usize) -> Vec<u8> {
        if !self.random.chance(30) {
            return self.random.octets(octets);
        }
        let pages = self.medium.octets() / 4_096 - octets.div_ceil(4_096) - 1;
        let page = match self.random.below(8) {
            0 => [0, 8][self.random.place(2)],
            _ => self.random.place(pages),
        };
        let shift = if self.random.chance(50) { 0 } else { self.random.place(4_096) };
        self.medium.octets_at(page * 4_096 + shift, octets)
    }

    pub(crate) fn new_message_id(&mut self) -> MessageId {
        self.id_last += 1;
        let mut id = [0; 16];
        id[..8].copy_from_slice(&self.random.next().to_le_bytes());
        id[8..].copy_from_slice(&self.id_last.to_le_bytes());
        MessageId(id)
    }

    fn envelope(&mut self, now: UnixMillis) -> Envelope {
        let random = &mut self.random;
        let address = |text: &str| Mailbox::parse(text).expect("a good address");
        let mut routes = vec![Peers::route(random)];
        for _ in 0..random.below(3) {
            let another = Peers::route(random);
            if !routes.contains(&another) {
                routes.push(another);
            }
        }
        let recipients = match random.below(20) {
            0..13 => 1,
            13..19 => 1 + random.place(6),
            _ => 1 + random.place(60),
        };
        let recipients = (0..recipients).map(|number| Recipient {
            address: address(&format!("r{number}@example.com")),
            route: RouteIndex(u16::try_from(random.place(routes.len())).expect("three routes at most")),
            notify: match random.below(6) {
                0 => Some(Notify::NEVER),
                1 => Some(Notify { success: false, failure: true, delay: false }),
                2 => Some(Notify { success: true, failure: true, delay: true }),
                _ => None,
            },
            original_recipient: None,
        });
        let recipients: Vec<Recipient> = recipients.collect();
        let sender = match random.below(10) {
            0 => ReversePath::Null,
            1..4 => ReversePath::Mailbox(address("s@example.org")),
            _ => ReversePath::Mailbox(address("s@example.net")),
        };
        Envelope {
            sender,
            recipients,
            routes,
            accepted_at: now,
            precedence: Precedence::ALL[random.place(Precedence::ALL.len())],
            mt_priority: None,
            body: BodyType::EightBitMime,
            smtputf8: false,
            ret: [None, Some(Ret::Full), Some(Ret::Headers)][random.place(3)],
            envelope_id: None,
            source: "inbound".to_owned(),
            client: "192.0.2.9".to_owned(),
            tls: None,
            identity: None,
        }
    }

    fn goes_on_with_an_upload(&mut self, number: usize) -> Kept {
        let able: Vec<usize> = (0..self.submitters[number].uploads.len())
            .filter(|at| self.submitters[number].uploads[*at].can_go_on())
            .collect();
        let Some(at) = (!able.is_empty()).then(|| able[self.random.place(able.len())]) else { return Ok(()) };
        let submitter = &mut self.submitters[number];
        let Upload { id, lane, chunk_octets, next, is_refused, .. } = submitter.uploads[at];
        let gives_up = is_refused || (next > 0 && self.random.chance(4));
        if gives_up {
            // As in `smtp-server`: when the answers of its chunks are here.
            if submitter.uploads[at].in_flight == 0 {
                submitter.uploads.remove(at);
                return submitter.append(lane, &[Append::DiscardPartial { message: id }], Sent::Discard);
            }
            submitter.uploads[at].is_refused = true;
            return Ok(());
        }
        let message = &self.model.messages[&id];
        let (content, content_sha256) = (Rc::clone(&message.content), message.sha256);
        let envelope = Box::new(message.envelope.clone());
        let mut chunks = (0_u32..).zip(content.chunks(chunk_octets)).skip(usize::try_from(next).unwrap_or(0));
        let mut records = Vec::new();
        if let Some((index, octets)) = chunks.next() {
            records.push(Append::Content { message: id, index, octets });
        }
        if chunks.next().is_none() {
            let content_octets = content.len() as u64;
            records.push(Append::Envelope { message: id, envelope, content_octets, content_sha256 });
            self.submitters[number].uploads.remove(at);
            self.model.appended(id);
            return self.submitters[number].append(lane, &records, Sent::Envelope(id));
        }
        let submitter = &mut self.submitters[number];
        submitter.uploads[at].next += 1;
        submitter.uploads[at].in_flight += 1;
        submitter.append(lane, &records, Sent::Chunk(id))
    }

    pub(crate) fn submitter_reads(&mut self, number: usize, link: u64, received: Received) -> Kept {
        match received {
            Received::Datagram(datagram) => {
                let mut frames = Frames::open(&datagram.octets).map_err(|error| error.to_string())?;
                while let Some(frame) = frames.next_frame().map_err(|error| error.to_string())? {
                    self.submitter_hears(number, frame)?;
                }
            }
            Received::End => {
                self.close(link, 0);
                let reconnect_at = self.now().plus_ms(RECONNECT_MS);
                let submitter = &mut self.submitters[number];
                (submitter.link, submitter.is_welcome) = (None, false);
                submitter.reconnect_at = reconnect_at;
            }
            Received::Nothing => {}
        }
        Ok(())
    }

    fn submitter_hears(&mut self, number: usize, frame: FromStore) -> Kept {
        let submitter = &mut self.submitters[number];
        match frame {
            FromStore::Welcome { .. } => {
                submitter.is_welcome = true;
                submitter.repeated = submitter.open_messages().collect();
                if let Some((_, link)) = &submitter.link {
                    for frame in submitter.appender.unanswered() {
                        link.push_encoded(frame);
                    }
                }
            }
            FromStore::Committed { lane, number: set } => {
                let mut committed = Vec::new();
                submitter.appender.committed(lane, set, |sent| committed.push(sent));
                for sent in committed {
                    match sent {
                        Sent::Envelope(id) => {
                            self.summary.acknowledged += 1;
                            let is_repeated = self.submitters[number].repeated.contains(&id);
                            self.summary.repeated += u64::from(is_repeated);
                            self.note(|| format!("{id} is acknowledged"));
                            self.model.acknowledged(id)?;
                        }
                        Sent::Chunk(id) => {
                            self.submitters[number].with_upload(id, |upload| upload.in_flight -= 1);
                        }
                        Sent::Discard => {}
                    }
                }
            }
            FromStore::Refused { lane, number: set, refusal } => {
                let sent = submitter.appender.refused(lane, set);
                if let Some(Sent::Chunk(id)) = sent {
                    submitter.with_upload(id, |upload| {
                        upload.in_flight -= 1;
                        upload.is_refused = true;
                    });
                }
                self.note(|| format!("submitter {number} hears that {sent:?} is refused: {refusal:?}"));
                if let (Some(Sent::Envelope(_)), Refusal::Invalid(why)) = (sent, &refusal)
                    && why != "a part of the content is unknown"
                {
                    return Err(format!("a good message is refused as invalid: {why}"));
                }
            }
            _ => {}
        }
        Ok(())
    }

    pub(crate) fn kill_submitter(&mut self, number: usize) {
        let restart_at = self.now().plus_ms(self.random.below(500));
        self.submitters[number] = Submitter { restart_at, ..Submitter::default() };
        self.close_ends_of(Owner::Submitter(number));
    }
}
