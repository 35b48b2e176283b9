//! Messages for the channels: envelope and content, cell by cell through the window of each.

use super::{Service, push};
use crate::client::{Asked, Client, ClientId, Window};
use crate::isolated::is_loss;
use crate::translate;
use sternpost_link::Role;
use sternpost_link::store::{Absence, FromStore, Shown, StreamFrame};
use sternpost_message::{MessageSequence, chain};
use sternpost_platform::wire::{Cells, Wire};
use sternpost_queue::{Disk, Log, ReadError};

impl<D: Disk, L: Wire> Service<D, L> {
    pub(super) fn fetch(&mut self, id: ClientId, asked: Asked) {
        let Some(window) = self.clients.get_mut(&id).and_then(|client| client.window.as_mut()) else {
            return;
        };
        if window.ask(asked) {
            self.answer_fetches(id);
        } else {
            self.refuse(id, "it fetches more messages at a time than its window has cells");
        }
    }

    /// Whether a client has asked for messages and does not read the answers that it has: until it does, nothing more that it
    /// sends need be read.
    #[must_use]
    pub fn owes_answers(&self, id: ClientId) -> bool {
        self.clients.get(&id).is_some_and(Client::is_owed_answers)
    }

    /// Answers what a client has asked for, as far as it reads the answers. [`Self::drive`] does so for all.
    pub fn answer_fetches(&mut self, id: ClientId) {
        while let Some(asked) = self.clients.get_mut(&id).and_then(Client::next_asked) {
            self.answer_fetch(id, asked);
        }
    }

    fn answer_fetch(&mut self, id: ClientId, asked: Asked) {
        let Asked { request, message, offset, octets_max } = asked;
        let detail = self.log.message(message);
        let is_isolated = self.isolated.contains(message);
        let (absence, why) = match detail {
            Ok(Some(_)) if is_isolated => (Absence::Isolated, "the message is kept apart".to_owned()),
            Ok(Some(detail)) => {
                let Some(client) = self.clients.get_mut(&id) else { return };
                let end = detail.content_octets.min(offset.saturating_add(octets_max));
                let frame = FromStore::Message { request, detail: Some(Box::new(translate::detail(detail))) };
                if let Err(why) = client.send_detail(frame) {
                    client.send(&FromStore::NoMessage { request, absence: Absence::Unreadable, why });
                }
                match &mut client.window {
                    Some(window) if offset < end => window.fetch(request, message, offset, end),
                    _ => client.send(&FromStore::Content { request, cell: u16::MAX, octets: 0, last: true }),
                }
                return;
            }
            Ok(None) => {
                // Whoever wants it has been told of it by QMGR, who may not know that the log has lost it.
                if self.stream_has_room_for_hints() {
                    self.tell(message, || StreamFrame::Dead { message });
                }
                (Absence::Dead, "the message is no longer in the log".to_owned())
            }
            Err(error) if is_loss(&error) => {
                let why = chain(&error);
                self.isolate(message, &why);
                (Absence::Isolated, why)
            }
            Err(error) => (Absence::Unreadable, chain(&error)),
        };
        if let Some(client) = self.clients.get(&id) {
            client.send(&FromStore::NoMessage { request, absence, why });
        }
    }

    /// Fills what is free of the channels' windows.
    pub(super) fn show_content(&mut self) {
        let is_owed = |(id, client): (&ClientId, &Client<L>)| client.is_owed_answers().then_some(*id);
        let owed: Vec<ClientId> = self.clients.iter().filter_map(is_owed).collect();
        for id in owed {
            self.answer_fetches(id);
        }
        let mut lost = Vec::new();
        for client in self.clients.values_mut() {
            // A report does without the words that it is about.
            let does_without = client.is(Role::Housekeeper);
            let Client { window: Some(window), link, .. } = client else { continue };
            show(&mut self.log, window, &**link, &mut |message, why| {
                lost.extend((!does_without).then_some((message, why)));
                !does_without
            });
        }
        for (message, why) in lost {
            self.isolate(message, &why);
        }
    }
}

/// Fills free cells, one for each fetch in turn. What turns out to be lost is told to `lost`, which says whether its message is
/// to be kept apart.
fn show<D: Disk, L: Wire>(
    log: &mut Log<D>,
    window: &mut Window<L::Cells>,
    link: &L,
    lost: &mut dyn FnMut(MessageSequence, String) -> bool,
) {
    let mut at = 0;
    while at < window.fetches.len() {
        let Some(cell) = window.take_cell(at) else {
            at += 1;
            continue;
        };
        let (request, message, from, end) = {
            let fetch = &window.fetches[at];
            (fetch.request, fetch.message, fetch.at, fetch.end)
        };
        let read = window.memory.fill(cell, |octets| {
            let wanted = usize::try_from(end - from).unwrap_or(usize::MAX).min(octets.len());
            log.read_content(message, from, &mut octets[..wanted])
        });
        let Some(read) = read else { return };
        match read {
            Ok(read) if read > 0 => {
                let octets = u32::try_from(read).unwrap_or(u32::MAX);
                let last = from + read as u64 >= end;
                push(link, &FromStore::Content { request, cell, octets, last });
                window.fetches[at].at += read as u64;
                if last {
                    window.end_fetch(at);
                }
            }
            Err(ReadError::Unknown(_)) => {
                // It has come to its end while it was read, by an order or by another process.
                window.put_back(at, cell);
                window.end_fetch(at);
                let why = "the message is no longer in the log".to_owned();
                push(link, &FromStore::NoMessage { request, absence: Absence::Dead, why });
            }
            other => {
                let is_lost = other.as_ref().map_or_else(is_loss, |_| true);
                let why = other.map_or_else(|error| chain(&error), |_| "the content ends early".to_owned());
                tracing::error!(event = "content.unreadable", %message, why, "content cannot be read");
                window.put_back(at, cell);
                window.end_fetch(at);
                let is_isolated = is_lost && lost(message, why.clone());
                let absence = if is_isolated { Absence::Isolated } else { Absence::Unreadable };
                push(link, &FromStore::NoMessage { request, absence, why });
            }
        }
    }
}

impl<L: Wire> Client<L> {
    /// Sends a message's details: in the datagram, or in sealed memory when they do not fit. Else says why not.
    pub(super) fn send_detail(&self, frame: FromStore) -> Result<(), String> {
        if self.link.push(&frame).is_ok() {
            return Ok(());
        }
        let (detail, frame) = match frame {
            FromStore::Message { request, detail: Some(detail) } => {
                (detail, FromStore::Message { request, detail: None })
            }
            FromStore::Shown(Shown::Detail(detail)) => (detail, FromStore::Shown(Shown::Attached)),
            _ => return Ok(()),
        };
        let octets = postcard::to_stdvec(&detail).map_err(|error| chain(&error))?;
        self.link.push_sealed(&frame, &octets).map_err(|error| chain(&error))
    }
}
