//! What can happen at an instant, and when the next thing is due.

use sternpost_message::UnixMillis;

use super::links::End;
use super::{Kept, Link, Owner, World};
use std::rc::Rc;

/// Something that can happen now.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Action {
    /// One datagram is sent from one side of a link.
    Flush(u64, usize),
    /// One datagram, or the end, is read at one side of a link.
    Read(u64, usize),
    StoreStart,
    StoreAccept(u64),
    StoreDrive,
    StoreSnapshot,
    QmgrStart,
    QmgrAccept(u64),
    QmgrTurn,
    Submitter(usize),
    ChannelConnects(u64),
    ChannelWorks(u64, u32),
    ChannelReleases(u64),
}

impl World {
    pub(crate) fn actions(&self) -> Vec<Action> {
        let now = self.now();
        let mut actions = Vec::with_capacity(32);
        for (id, link) in &self.links {
            for side in 0..2 {
                if !self.is_awake(link.owners[side]) {
                    continue;
                }
                if link.ends[side].has_unsent() {
                    actions.push(Action::Flush(*id, side));
                }
                if link.ends[side].is_readable() && (side == 0 || link.is_accepted) {
                    actions.push(Action::Read(*id, side));
                }
            }
            if !link.is_accepted {
                match link.owners[1] {
                    Owner::Store if self.store.is_up() => actions.push(Action::StoreAccept(*id)),
                    Owner::Qmgr if self.qmgr.is_up() => actions.push(Action::QmgrAccept(*id)),
                    _ => {}
                }
            }
        }
        self.store_actions(now, &mut actions);
        self.qmgr_actions(now, &mut actions);
        for (number, submitter) in self.submitters.iter().enumerate() {
            if submitter.wants_to_act(now, self.is_concluding) {
                actions.push(Action::Submitter(number));
            }
        }
        for (process, channel) in &self.channels {
            channel.actions(*process, now, &mut actions);
        }
        actions
    }

    /// When something is due that nothing announces.
    pub(crate) fn due(&self) -> Option<UnixMillis> {
        let own = [self.medium.wake_at(), self.store.due(), self.qmgr.due()];
        let submitters = self.submitters.iter().filter_map(|submitter| submitter.due(self.is_concluding));
        let channels = self.channels.values().filter_map(super::Channel::due);
        own.into_iter().flatten().chain(submitters).chain(channels).min()
    }

    /// Whether a process does anything at present.
    fn is_awake(&self, owner: Owner) -> bool {
        match owner {
            Owner::Channel(process) => {
                self.channels.get(&process).is_some_and(|channel| channel.is_awake(self.now()))
            }
            Owner::Store => self.store.is_up(),
            Owner::Qmgr => self.qmgr.is_up(),
            Owner::Supervisor | Owner::Submitter(_) => true,
        }
    }

    /// A client connects to a socket of the run directory. The supervisor keeps it open: whoever serves it accepts later.
    pub(crate) fn connect(&mut self, client: Owner, client_pid: u32, server: Owner) -> (u64, Rc<End>) {
        self.link_last += 1;
        let server_pid = match server {
            Owner::Store => self.store.pid(),
            Owner::Qmgr => self.qmgr.pid(),
            _ => 1,
        };
        let ends = End::pair([client_pid, server_pid], &mut self.random);
        let own = Rc::clone(&ends[0]);
        let is_accepted = server == Owner::Supervisor;
        self.links.insert(self.link_last, Link { ends, owners: [client, server], is_accepted });
        (self.link_last, own)
    }

    /// The ends of a process are closed: it is gone. What it had sent can still be read.
    pub(crate) fn close_ends_of(&mut self, owner: Owner) {
        use sternpost_platform::wire::Wire;
        for link in self.links.values() {
            for side in 0..2 {
                // A connection that waits to be accepted outlives the process for which it waits.
                if link.owners[side] == owner && (side == 0 || link.is_accepted) {
                    link.ends[side].close();
                }
            }
        }
        self.forget_closed_links();
    }

    pub(crate) fn forget_closed_links(&mut self) {
        self.links.retain(|_, link| !(link.ends[0].is_closed() && link.ends[1].is_closed()));
    }

    /// One side of a link reads what comes next.
    pub(crate) fn read(&mut self, link: u64, side: usize) -> Kept {
        let Some(Link { ends, owners, .. }) = self.links.get(&link) else { return Ok(()) };
        let (reader, writer) = (owners[side], owners[1 - side]);
        let received = ends[side].receive();
        self.note(|| match &received {
            super::links::Received::Datagram(datagram) => {
                format!("{reader:?} reads {} octets of {writer:?} on link {link}", datagram.octets.len())
            }
            super::links::Received::End => format!("{reader:?} finds the end of link {link} to {writer:?}"),
            super::links::Received::Nothing => format!("{reader:?} finds nothing"),
        });
        match reader {
            Owner::Store => self.store_reads(link, received),
            Owner::Qmgr => self.qmgr_reads(link, writer, received),
            Owner::Supervisor => self.supervisor_reads(received),
            Owner::Submitter(number) => self.submitter_reads(number, link, received),
            Owner::Channel(process) => self.channel_reads(process, link, writer, received),
        }
    }

    /// Closes one side of a link at whose end it has come.
    pub(crate) fn close(&mut self, link: u64, side: usize) {
        use sternpost_platform::wire::Wire;
        if let Some(link) = self.links.get(&link) {
            link.ends[side].close();
        }
        self.forget_closed_links();
    }
}
