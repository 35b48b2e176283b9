//! The supervisor: modelled by what PROTOCOL.md says of it. It starts channel processes at QMGR's word, kills them, and says
//! what runs and what has ended.

use std::collections::BTreeMap;
use std::rc::Rc;

use sternpost_link::supervisor::{FromSupervisor, Running, ToSupervisor};
use sternpost_link::{ChannelKind, Frames};
use sternpost_platform::wire::Wire;

use super::channel::Channel;
use super::links::{End, Received};
use super::{Kept, Owner, World};

/// See the module.
#[derive(Default)]
pub(crate) struct Supervisor {
    qmgr: Option<Rc<End>>,
    /// Channel processes by their number, with process id, name and kind.
    running: BTreeMap<u64, (u32, String, ChannelKind)>,
}

impl Supervisor {
    fn tell(&self, frame: &FromSupervisor) {
        if let Some(qmgr) = &self.qmgr {
            qmgr.push(frame).expect("what the supervisor says fits a datagram");
        }
    }

    pub(crate) fn qmgr_is_gone(&mut self) {
        self.qmgr = None;
    }
}

impl World {
    pub(crate) fn supervisor_reads(&mut self, received: Received) -> Kept {
        let Received::Datagram(datagram) = received else {
            self.close_ends_of_supervisor();
            return Ok(());
        };
        let mut frames = Frames::open(&datagram.octets).map_err(|error| error.to_string())?;
        while let Some(frame) = frames.next_frame().map_err(|error| error.to_string())? {
            self.supervisor_hears(frame);
        }
        Ok(())
    }

    /// The link to a QMGR that is gone.
    fn close_ends_of_supervisor(&mut self) {
        for link in self.links.values() {
            if link.owners[1] == Owner::Supervisor && link.ends[0].is_closed() {
                link.ends[1].close();
            }
        }
        self.forget_closed_links();
    }

    fn supervisor_hears(&mut self, frame: ToSupervisor) {
        self.note(|| format!("the supervisor hears {frame:?}"));
        match frame {
            ToSupervisor::Hello(_) => {
                let link = self.links.values().rfind(|link| {
                    link.owners == [Owner::Qmgr, Owner::Supervisor] && !link.ends[0].is_closed()
                });
                self.supervisor.qmgr = link.map(|link| Rc::clone(&link.ends[1]));
                self.say_what_runs();
            }
            ToSupervisor::StartChannel { process, channel, kind, capacity } => {
                self.start_channel(process, channel, kind, capacity);
            }
            ToSupervisor::KillChannel { process } => self.kill_channel(process, "signal: 9 (SIGKILL)"),
            ToSupervisor::Status => self.say_what_runs(),
            ToSupervisor::Listen { .. } => {}
        }
    }

    fn say_what_runs(&self) {
        let running = self.supervisor.running.iter().map(|(process, (pid, name, kind))| Running {
            role: kind.role(),
            name: name.clone(),
            process: *process,
            pid: *pid,
            starts_count: 1,
        });
        self.supervisor.tell(&FromSupervisor::Running {
            version: String::new(),
            processes: running.collect(),
            listening: Vec::new(),
            failed: Vec::new(),
            failing: Vec::new(),
        });
    }

    fn start_channel(&mut self, process: u64, channel: String, kind: ChannelKind, capacity: u32) {
        let is_refused = !self.is_concluding && self.random.chance(3);
        if is_refused || self.supervisor.running.contains_key(&process) {
            let why = "it cannot be started".to_owned();
            self.supervisor.tell(&FromSupervisor::StartFailed { process, why });
            return;
        }
        let pid = self.new_pid();
        self.supervisor.running.insert(process, (pid, channel.clone(), kind));
        self.channels.insert(process, Channel::new(process, pid, channel, kind, capacity));
        self.supervisor.tell(&FromSupervisor::Started { process, pid });
    }

    /// A channel process has ended.
    pub(crate) fn supervisor_reaps(&mut self, process: u64, status: &str) {
        if let Some((pid, ..)) = self.supervisor.running.remove(&process) {
            let status = status.to_owned();
            self.supervisor.tell(&FromSupervisor::Exited { process, pid, status });
        }
    }
}
