//! What goes wrong: deaths, broken links, a faulty disk, peers that do not answer. The seed chooses.

use super::{Kept, Owner, World};
use crate::disk::{SECTOR_OCTETS, WriteFault};
use crate::wear;

/// Kinds of trouble that leave alone what the disk has made durable …
const GENTLE: u64 = 22;
/// … and all kinds.
const ALL: u64 = 29;

impl World {
    pub(crate) fn trouble(&mut self) -> Kept {
        let kind = self.random.below(if self.is_harmful { ALL } else { GENTLE });
        self.note(|| format!("trouble {kind}"));
        match kind {
            0..2 => self.cut_power()?,
            2..5 => self.kill_store()?,
            5..7 => {
                self.summary.qmgr_deaths += u64::from(self.qmgr.is_up());
                self.kill_qmgr();
            }
            7..10 => self.kill_some_channel(),
            10 => {
                let number = self.random.place(self.submitters.len());
                self.summary.submitter_deaths += 1;
                self.kill_submitter(number);
            }
            11 => self.hang_some_channel(),
            12..14 => self.break_some_link(),
            14 => self.pretend_that_qmgr_is_slow(),
            15 => self.peers.fail(&mut self.random.clone(), self.now()),
            16 => {
                let fault = [WriteFault::Torn, WriteFault::Full][self.random.place(2)];
                for _ in 0..=u64::from(self.random.chance(30)) {
                    self.medium.arm(fault);
                }
            }
            17 => self.medium.arm(WriteFault::Sync),
            18 => self.medium.arm(WriteFault::Stall(1_000 + self.random.below(30_000))),
            19 => self.medium.fail_for_ever(self.random.chance(40)),
            20 => self.medium.fail_for_ever(false),
            21 => drop(wear::fail_reads(&mut self.random, &self.ledger, &self.medium, false)),
            22 | 23 => self.medium.arm(WriteFault::Misdirected),
            24 => {
                let place = wear::rot(&mut self.random, &self.ledger, &self.medium);
                self.harm_if(place);
            }
            25 => {
                let place = wear::rot_superblock(&mut self.random, &self.medium);
                self.harm_if(place);
            }
            26 | 27 => self.rot_the_tail_and_kill_the_store()?,
            _ => {
                let place = wear::fail_reads(&mut self.random, &self.ledger, &self.medium, true);
                self.harm_if(place);
            }
        }
        self.take_landed()
    }

    /// Every process ends with the power; what was not durable is there in any part.
    pub(crate) fn cut_power(&mut self) -> Kept {
        self.summary.power_cuts += 1;
        self.note(|| "the power is cut");
        self.kill_store()?;
        self.medium.cut_power();
        self.take_landed()?;
        self.kill_qmgr();
        for number in 0..self.submitters.len() {
            self.kill_submitter(number);
        }
        let processes: Vec<u64> = self.channels.keys().copied().collect();
        for process in processes {
            self.kill_channel(process, "signal: 9 (SIGKILL)");
        }
        // Nothing that was connected or under way is left.
        self.links.clear();
        Ok(())
    }

    fn some_channel(&mut self) -> Option<u64> {
        let count = self.channels.len();
        (count > 0).then(|| self.random.place(count)).and_then(|at| self.channels.keys().nth(at).copied())
    }

    fn kill_some_channel(&mut self) {
        if let Some(process) = self.some_channel() {
            self.summary.channel_deaths += 1;
            self.kill_channel(process, "signal: 11 (SIGSEGV)");
        }
    }

    /// A process stops for longer than QMGR bears, or not so long.
    fn hang_some_channel(&mut self) {
        let until = self.now().plus_ms(100 + self.random.below(50_000));
        if let Some(process) = self.some_channel()
            && let Some(channel) = self.channels.get_mut(&process)
        {
            self.summary.hangs += 1;
            channel.hang(until);
        }
    }

    /// A link between two living processes ends. What was sent last may be lost.
    fn break_some_link(&mut self) {
        let breakable: Vec<u64> = self
            .links
            .iter()
            .filter(|(_, link)| link.owners[1] != Owner::Supervisor)
            .map(|(id, _)| *id)
            .collect();
        if breakable.is_empty() {
            return;
        }
        let id = breakable[self.random.place(breakable.len())];
        self.summary.broken_links += 1;
        self.note(|| format!("link {id} breaks"));
        for side in 0..2 {
            let unread = self.links[&id].ends[side].unread_count();
            let kept = self.random.place(unread + 1);
            self.links[&id].ends[side].break_off(kept);
        }
    }

    /// What looks like a torn tail then was acknowledged, and others know of it.
    fn rot_the_tail_and_kill_the_store(&mut self) -> Kept {
        let Some(tail) = self.ledger.tail().filter(|_| !self.medium.is_writing()) else { return Ok(()) };
        let sector = usize::try_from(tail.start).map_err(|error| error.to_string())? / SECTOR_OCTETS;
        let place = self.medium.rot(sector..sector + 1);
        self.harm_if(place);
        self.kill_store()
    }

    /// A place was damaged, or none.
    fn harm_if(&mut self, place: Option<std::ops::Range<u64>>) {
        if let Some(place) = place {
            self.harm(&place);
        }
    }
}
