//! QMGR and the roles: channel processes, `smtp-server`, and the configuration that the directory role brings.

use super::{ATTACH_TIMEOUT_MS, Manager, PROGRESS_OCTETS, send, send_view};
use crate::processes::{Holder, Process};
use std::rc::Rc;
use sternpost_config::Entry;
use sternpost_link::Hello;
use sternpost_link::qmgr::{FromQmgr, ListenerConnections, ToQmgr};
use sternpost_link::supervisor::ToSupervisor;
use sternpost_platform::clock::Timepiece;
use sternpost_platform::wire::Wire;
use sternpost_scheduler::{Event, ProcessId};

impl<L: Wire, T: Timepiece> Manager<L, T> {
    /// A channel process shakes hands. One whose channel is no longer configured gets no view: it ends what it holds.
    ///
    /// # Errors
    /// Why it is not the process that the supervisor has started by this number.
    pub fn channel_connected(&mut self, hello: &Hello, link: &Rc<L>) -> Result<(), &'static str> {
        let process = ProcessId(hello.process);
        match self.processes.get(process) {
            Some(known) if (known.pid != 0 && known.pid != hello.pid) || known.channel != hello.channel => {
                return Err("the channel process of its number is another one");
            }
            None if self.supervisor_has_spoken => return Err("there is no channel process of its number"),
            _ => {}
        }
        if self.processes.get(process).is_none() {
            let attach_by = self.clocks.now().plus_ms(ATTACH_TIMEOUT_MS);
            self.processes.insert(process, Process::new(hello.channel.clone(), hello.pid, attach_by, false));
            self.apply(Event::ProcessStarted { process, channel: hello.channel.clone() });
        }
        if let Some(known) = self.processes.get_mut(process) {
            known.link = Some(Rc::clone(link));
            known.pid = hello.pid;
        }
        send(&**link, &FromQmgr::Welcome(self.hello()));
        match self.generations.channel_view(&hello.channel) {
            Some(view) => send_view(&**link, self.generations.generation, &view),
            None => {
                tracing::warn!(
                    event = "channel.unknown",
                    channel = hello.channel,
                    "a process of a channel that is not configured; it is drained"
                );
                send(&**link, &FromQmgr::Drain);
            }
        }
        Ok(())
    }

    /// A channel process has said something that is its business.
    pub fn channel_said(&mut self, hello: &Hello, frame: ToQmgr) {
        let process = ProcessId(hello.process);
        match frame {
            ToQmgr::Held { mlists } => {
                if self.processes.get(process).is_some_and(|known| known.capacity.is_some()) {
                    self.processes.recounted(process, mlists.into_iter().map(|(mlist, _)| mlist));
                } else {
                    for (mlist, recipients) in mlists {
                        self.processes.hold(mlist, Holder::new(process, recipients));
                    }
                }
            }
            ToQmgr::Counted { token } => {
                let vanished = self.processes.end_recount(process, token);
                self.vanished.extend(vanished.into_iter().map(|mlist| (process, mlist)));
                self.mark_if_counted();
            }
            ToQmgr::Draining => {
                if let Some(known) = self.processes.get_mut(process) {
                    known.is_draining = true;
                }
                self.apply(Event::ProcessAttached { process, channel: hello.channel.clone(), capacity: 0 });
            }
            ToQmgr::Attached => {
                if let Some(known) = self.processes.get_mut(process) {
                    known.capacity = Some(hello.capacity);
                    // It was told to stop by somebody else, and says so by taking nothing.
                    known.is_draining |= hello.capacity == 0;
                    known.attach_by = None;
                }
                let (channel, capacity) = (hello.channel.clone(), hello.capacity);
                self.apply(Event::ProcessAttached { process, channel, capacity });
                self.subscribe_if_ready();
            }
            ToQmgr::Finished { mlist } => {
                self.processes.finished(process, mlist);
                self.apply(Event::Finished { process, mlist });
            }
            ToQmgr::Unassigned { mlist, why } => {
                tracing::debug!(event = "mlist.unassigned", %mlist, why, "a channel gave an Mlist back");
                self.processes.given_back(process, mlist);
                self.apply(Event::Unassigned { process, mlist });
            }
            ToQmgr::PeerFailed { peer, .. }
            | ToQmgr::PeerHolds { peer, associations: 1.. }
            | ToQmgr::PeerWorked { peer }
                if !self.scheduler.has_peer(&hello.channel, &peer) =>
            {
                // A channel speaks of those to whom it was given mail.
                tracing::warn!(
                    event = "peer.unknown",
                    channel = hello.channel,
                    peer,
                    "a channel speaks of a peer that is not known"
                );
            }
            ToQmgr::PeerHolds { peer, associations } => {
                self.processes.peer_holds(process, peer, associations);
            }
            ToQmgr::PeerFailed { peer, why, mlists, opening, has_carried } => {
                tracing::info!(
                    event = "peer.failed",
                    channel = hello.channel,
                    peer,
                    why,
                    "a peer MTA does not work"
                );
                let channel = hello.channel.clone();
                let holding = match self.processes.held_by_peer(&channel, &peer) {
                    0 => 0,
                    held => held.saturating_add(opening),
                };
                self.apply(Event::PeerFailed { channel, peer, mlists, holding, has_carried });
            }
            ToQmgr::PeerWorked { peer } => {
                self.apply(Event::PeerWorked { channel: hello.channel.clone(), peer });
            }
            ToQmgr::Pong { sent_octets, .. } => {
                let Some(known) = self.processes.get_mut(process) else { return };
                known.asked_at_ms = None;
                if sent_octets >= known.progress_octets.saturating_add(PROGRESS_OCTETS) {
                    known.progress_octets = sent_octets;
                    self.apply(Event::Progress { process });
                }
            }
            ToQmgr::Hello(_)
            | ToQmgr::Entries { .. }
            | ToQmgr::DirectoryStatus { .. }
            | ToQmgr::Connections { .. }
            | ToQmgr::Ask(_) => {}
        }
    }

    /// The supervisor says which process it has started by a number. If another one has come in its place until now,
    /// nothing that it said holds: it loses its link, and the number ends with the real one.
    pub(super) fn channel_is(&mut self, process: ProcessId, pid: u32) {
        let Some(known) = self.processes.get_mut(process) else { return };
        let before = std::mem::replace(&mut known.pid, pid);
        if before == 0 || before == pid {
            return;
        }
        if let Some(link) = known.link.take() {
            link.close();
        }
        tracing::warn!(
            event = "channel.impostor",
            channel = known.channel,
            process = process.0,
            pid,
            impostor = before,
            "another process said that it is this channel's; both links are given up"
        );
        self.kill(process);
    }

    /// The link of a channel has ended; its process must end too.
    pub fn channel_lost(&mut self, hello: &Hello) {
        let process = ProcessId(hello.process);
        if let Some(known) = self.processes.get_mut(process)
            && known.pid == hello.pid
        {
            known.link = None;
            self.kill(process);
        }
    }

    pub(super) fn kill(&self, process: ProcessId) {
        if let Some(supervisor) = &self.supervisor {
            send(&**supervisor, &ToSupervisor::KillChannel { process: process.0 });
        }
    }

    /// An `smtp-server` has connected. The link that its process had before, if it had one, is closed.
    ///
    /// # Errors
    /// Why it gets no link: there are too many.
    pub fn server_connected(&mut self, hello: &Hello, link: &Rc<L>) -> Result<(), &'static str> {
        if let Some(before) = self.servers.add(hello.pid, Rc::clone(link))? {
            before.close();
        }
        send(&**link, &FromQmgr::Welcome(self.hello()));
        if let Some(view) = self.generations.smtp_server_view() {
            send_view(&**link, self.generations.generation, &view);
        }
        Ok(())
    }

    /// The link of an `smtp-server` has ended.
    pub fn server_lost(&mut self, link: &Rc<L>) {
        self.servers.remove(link);
    }

    /// An `smtp-server` says how it stands with connections.
    pub fn server_said(&mut self, link: &L, listeners: Vec<ListenerConnections>) {
        self.servers.said(link, listeners);
    }

    /// A complete set of entries from the directory role, as it travelled; or why it could not be read.
    pub(crate) fn entries(&mut self, octets: Result<Vec<u8>, String>) {
        let entries = octets.and_then(|octets| {
            postcard::from_bytes::<Vec<Entry>>(&octets).map_err(|error| error.to_string())
        });
        match entries {
            Ok(entries) => {
                if self.generations.take(entries) {
                    self.new_generation();
                }
            }
            Err(error) => tracing::error!(
                event = "configuration.unreadable",
                error,
                "the directory role sent entries that cannot be read"
            ),
        }
    }

    /// Puts a held change into force.
    pub(crate) fn confirm(&mut self) -> bool {
        let confirmed = self.generations.confirm();
        if confirmed {
            self.new_generation();
        }
        confirmed
    }

    /// Gives everybody what the generation in force has for them.
    pub(crate) fn new_generation(&mut self) {
        self.servers.listen(self.generations.listeners());
        if let Some(view) = self.generations.smtp_server_view() {
            for server in self.servers.links() {
                send_view(server, self.generations.generation, &view);
            }
        }
        for process in self.processes.all() {
            if let (Some(link), Some(view)) = (&process.link, self.generations.channel_view(&process.channel))
            {
                send_view(&**link, self.generations.generation, &view);
            }
        }
        self.listen();
        // Last: what the scheduler assigns now must find its peer in the view.
        let limits = self.generations.limits(|wall| self.clocks.lived_of(wall));
        if let Some(limits) = limits {
            self.apply(Event::Configure(limits));
        }
    }
}
