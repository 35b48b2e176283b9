//! What a channel process holds, and what it tells QMGR of it: the skeleton's mind, without links.
//!
//! An Mlist is held from its assignment until the outcome of each assigned recipient is durable. That is what a new
//! QMGR is told when this process attaches to it, and why it never gives the Mlist to another one meanwhile.
//! `channel` drives this with links; the simulator with faulty ones. Not here: the work itself.

use rustc_hash::FxHashMap;
use std::collections::BTreeMap;
use sternpost_link::Hello;
use sternpost_link::qmgr::{Assignment, FromQmgr, ToQmgr};
use sternpost_message::{MlistId, RecipientRange};

/// Mlists in one frame of those held.
const HELD_PER_FRAME: usize = 500;

/// What follows from something that happened, in this order.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Step {
    /// To QMGR, on the link that is up.
    Tell(ToQmgr),
    /// An Mlist to process; ends with [`Holding::finished`] and [`Holding::release`], or with [`Holding::give_back`].
    Work(Assignment),
    /// No more assignments will come; what was not begun is to be given back.
    Drain,
}

/// See the module.
#[derive(Debug, Default)]
pub struct Holding {
    held: FxHashMap<MlistId, Held>,
    is_draining: bool,
    /// There is a view to work by. A process that outlived its QMGR works on with the one that it has.
    has_view: bool,
    /// QMGR on the present link knows what is held.
    is_attached: bool,
    /// Octets that peers' sockets have taken.
    sent_octets: u64,
    /// Associations that each peer holds; 0 where QMGR has not heard yet that there are none any more.
    associations: BTreeMap<String, u32>,
}

#[derive(Debug)]
struct Held {
    recipients: Vec<RecipientRange>,
    /// How many of its assignments are in work. None: the outcomes are on their way to the log.
    in_work: u32,
    /// How often it was assigned and not released. QMGR may hear from the store that the outcomes are durable, and assign what
    /// they leave open, before this process hears the same.
    count: u32,
}

impl Holding {
    /// The greeting on a new link. A process that drains attaches too: what it holds must not be given to another.
    #[must_use]
    pub fn greeting(&self, own: &Hello) -> ToQmgr {
        let capacity = if self.is_draining { 0 } else { own.capacity };
        ToQmgr::Hello(Hello { capacity, ..own.clone() })
    }

    /// Takes one frame of QMGR's. That of a view counts once the view was read, and only if it could be.
    pub fn take(&mut self, frame: FromQmgr) -> Vec<Step> {
        let mut steps = Vec::new();
        match frame {
            FromQmgr::View { .. } => {
                self.has_view = true;
                self.attach(&mut steps);
            }
            FromQmgr::Welcome(_) if self.has_view => self.attach(&mut steps),
            FromQmgr::Assign(assignment) => {
                let (in_work, count) =
                    self.held.get(&assignment.mlist).map_or((0, 0), |held| (held.in_work, held.count));
                let recipients = assignment.recipients.clone();
                let held = Held { recipients, in_work: in_work + 1, count: count + 1 };
                self.held.insert(assignment.mlist, held);
                if self.is_draining {
                    steps.extend(self.give_back(assignment.mlist, "the process is stopping"));
                } else {
                    steps.push(Step::Work(assignment));
                }
            }
            FromQmgr::Drain => steps = self.drain(),
            FromQmgr::Ping { token } => {
                steps.push(Step::Tell(ToQmgr::Pong { token, sent_octets: self.sent_octets }));
            }
            FromQmgr::Recount { token } => {
                self.tell_held(&mut steps);
                steps.push(Step::Tell(ToQmgr::Counted { token }));
            }
            FromQmgr::Welcome(_) | FromQmgr::Answer | FromQmgr::NoAnswer { .. } => {}
        }
        steps
    }

    /// The link to QMGR has ended.
    pub const fn lost(&mut self) {
        self.is_attached = false;
    }

    /// Whether QMGR is there and knows what is held.
    #[must_use]
    pub const fn is_attached(&self) -> bool {
        self.is_attached
    }

    /// Says what this process holds, and takes assignments from now on.
    fn attach(&mut self, steps: &mut Vec<Step>) {
        if self.is_attached {
            return;
        }
        self.tell_held(steps);
        steps.push(Step::Tell(ToQmgr::Attached));
        // Since the greeting it may have been told to stop: an upgrade replaces QMGR and stops the channels in one moment.
        if self.is_draining {
            steps.push(Step::Tell(ToQmgr::Draining));
        }
        let finished = self.held.iter().filter(|(_, held)| held.in_work == 0);
        steps.extend(finished.map(|(mlist, _)| Step::Tell(ToQmgr::Finished { mlist: *mlist })));
        let holds = |(peer, associations): (&String, &u32)| {
            Step::Tell(ToQmgr::PeerHolds { peer: peer.clone(), associations: *associations })
        };
        steps.extend(self.associations.iter().map(holds));
        self.associations.retain(|_, associations| *associations > 0);
        self.is_attached = true;
    }

    fn tell_held(&self, steps: &mut Vec<Step>) {
        let mlists: Vec<_> =
            self.held.iter().map(|(mlist, held)| (*mlist, held.recipients.clone())).collect();
        for some in mlists.chunks(HELD_PER_FRAME) {
            steps.push(Step::Tell(ToQmgr::Held { mlists: some.to_vec() }));
        }
    }

    /// The process takes no more.
    #[must_use]
    pub fn drain(&mut self) -> Vec<Step> {
        if std::mem::replace(&mut self.is_draining, true) {
            return Vec::new();
        }
        self.tell(ToQmgr::Draining).into_iter().chain([Step::Drain]).collect()
    }

    /// The work on an Mlist is done: its slot is free at once, and it is held until [`Self::release`].
    #[must_use]
    pub fn finished(&mut self, mlist: MlistId) -> Option<Step> {
        if let Some(held) = self.held.get_mut(&mlist) {
            held.in_work = held.in_work.saturating_sub(1);
        }
        self.tell(ToQmgr::Finished { mlist })
    }

    /// Peers' sockets have taken so many octets more.
    pub const fn sent(&mut self, octets: u64) {
        self.sent_octets = self.sent_octets.saturating_add(octets);
    }

    /// So many associations the peer holds now.
    #[must_use]
    pub fn peer_holds(&mut self, peer: &str, associations: u32) -> Option<Step> {
        if associations == 0 && self.is_attached {
            self.associations.remove(peer);
        } else {
            self.associations.insert(peer.to_owned(), associations);
        }
        self.tell(ToQmgr::PeerHolds { peer: peer.to_owned(), associations })
    }

    /// What became of the recipients of an Mlist, as they were assigned once, is durable.
    pub fn release(&mut self, mlist: MlistId) {
        if let Some(held) = self.held.get_mut(&mlist) {
            held.count -= 1;
            if held.count == 0 {
                self.held.remove(&mlist);
            }
        }
    }

    /// An Mlist goes back untouched. Nothing is said of it while another assignment of the same Mlist is in work: QMGR would take
    /// that one for given back as well. Its end is the end of both.
    #[must_use]
    pub fn give_back(&mut self, mlist: MlistId, why: &str) -> Option<Step> {
        let in_work = self.held.get_mut(&mlist).map_or(0, |held| {
            held.in_work = held.in_work.saturating_sub(1);
            held.in_work
        });
        self.release(mlist);
        if in_work > 0 {
            return None;
        }
        self.tell(ToQmgr::Unassigned { mlist, why: why.to_owned() })
    }

    /// A frame to QMGR, if it is there. A new one learns the same when this process attaches to it.
    #[must_use]
    pub fn tell(&self, frame: ToQmgr) -> Option<Step> {
        self.is_attached.then_some(Step::Tell(frame))
    }

    /// Whether the process drains.
    #[must_use]
    pub const fn is_draining(&self) -> bool {
        self.is_draining
    }

    /// Whether the process has drained and may end.
    #[must_use]
    pub fn is_over(&self) -> bool {
        self.is_draining && self.held.is_empty()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use sternpost_link::{PROTOCOL_VERSION, Role};
    use sternpost_message::{MessageSequence, RouteIndex};

    const MLIST: MlistId = MlistId { message: MessageSequence(1), route: RouteIndex(0) };
    const RECIPIENTS: RecipientRange = RecipientRange { first: 0, count: 2 };

    fn hello() -> Hello {
        Hello {
            version: PROTOCOL_VERSION,
            role: Role::Channel,
            pid: 1,
            process: 1,
            channel: "smtp".to_owned(),
            capacity: 5,
        }
    }

    fn assign() -> FromQmgr {
        FromQmgr::Assign(Assignment {
            mlist: MLIST,
            peer: "a".to_owned(),
            recipients: vec![RECIPIENTS],
            attempts: 0,
        })
    }

    fn attached() -> Holding {
        let mut holding = Holding::default();
        assert!(holding.take(FromQmgr::Welcome(hello())).is_empty(), "there is no view yet");
        assert_eq!(holding.take(FromQmgr::View { generation: 1 }), [Step::Tell(ToQmgr::Attached)]);
        holding
    }

    #[test]
    fn an_mlist_is_announced_to_a_new_qmgr_until_its_outcomes_are_durable() {
        let mut holding = attached();
        assert!(matches!(holding.take(assign())[..], [Step::Work(_)]));
        assert_eq!(holding.finished(MLIST), Some(Step::Tell(ToQmgr::Finished { mlist: MLIST })));
        holding.lost();
        assert_eq!(holding.finished(MLIST), None, "nobody is there");
        let held = Step::Tell(ToQmgr::Held { mlists: vec![(MLIST, vec![RECIPIENTS])] });
        let steps = holding.take(FromQmgr::Welcome(hello()));
        let finished = Step::Tell(ToQmgr::Finished { mlist: MLIST });
        assert_eq!(steps, [held.clone(), Step::Tell(ToQmgr::Attached), finished]);
        let counted = Step::Tell(ToQmgr::Counted { token: 3 });
        assert_eq!(holding.take(FromQmgr::Recount { token: 3 }), [held, counted.clone()]);
        holding.release(MLIST);
        assert_eq!(holding.take(FromQmgr::Recount { token: 3 }), [counted]);
    }

    #[test]
    fn a_new_qmgr_hears_what_peers_hold_and_what_they_no_longer_hold() {
        let told =
            |peer: &str, associations| Step::Tell(ToQmgr::PeerHolds { peer: peer.to_owned(), associations });
        let mut holding = attached();
        assert_eq!(holding.peer_holds("a", 1), Some(told("a", 1)));
        assert_eq!(holding.peer_holds("b", 2), Some(told("b", 2)));
        holding.lost();
        assert_eq!(holding.peer_holds("a", 0), None, "nobody is there");
        let attached = Step::Tell(ToQmgr::Attached);
        assert_eq!(holding.take(FromQmgr::Welcome(hello())), [attached.clone(), told("a", 0), told("b", 2)]);
        holding.lost();
        assert_eq!(holding.take(FromQmgr::Welcome(hello())), [attached, told("b", 2)]);
    }

    #[test]
    fn an_mlist_that_is_assigned_again_before_its_outcomes_are_told_durable_is_held_until_the_second_end() {
        let mut holding = attached();
        holding.take(assign());
        drop(holding.finished(MLIST));
        holding.take(assign());
        holding.release(MLIST);
        let held = Step::Tell(ToQmgr::Held { mlists: vec![(MLIST, vec![RECIPIENTS])] });
        let counted = Step::Tell(ToQmgr::Counted { token: 3 });
        assert_eq!(holding.take(FromQmgr::Recount { token: 3 }), [held, counted.clone()]);
        holding.release(MLIST);
        assert_eq!(holding.take(FromQmgr::Recount { token: 3 }), [counted]);
    }

    #[test]
    fn an_assignment_that_goes_back_takes_none_along_that_is_in_work() {
        let mut holding = attached();
        holding.take(assign());
        holding.take(assign());
        assert_eq!(holding.give_back(MLIST, "no room"), None);
        assert_eq!(holding.finished(MLIST), Some(Step::Tell(ToQmgr::Finished { mlist: MLIST })));
        // One whose outcomes are on their way is not in work: the next one goes back by itself.
        holding.take(assign());
        assert!(matches!(holding.give_back(MLIST, "no room"), Some(Step::Tell(ToQmgr::Unassigned { .. }))));
        holding.release(MLIST);
        assert_eq!(holding.take(FromQmgr::Recount { token: 1 }), [Step::Tell(ToQmgr::Counted { token: 1 })]);
    }

    #[test]
    fn a_process_that_drains_gives_back_what_comes_and_is_over_when_it_holds_nothing() {
        let mut holding = attached();
        holding.take(assign());
        assert_eq!(holding.take(FromQmgr::Drain), [Step::Tell(ToQmgr::Draining), Step::Drain]);
        assert!(holding.drain().is_empty() && !holding.is_over());
        holding.release(MLIST);
        assert!(holding.is_over());
        let steps = holding.take(assign());
        assert!(matches!(&steps[..], [Step::Tell(ToQmgr::Unassigned { mlist: MLIST, .. })]));
        assert!(holding.is_over());
        assert_eq!(holding.greeting(&hello()), ToQmgr::Hello(Hello { capacity: 0, ..hello() }));
    }

    #[test]
    fn a_process_that_is_told_to_stop_between_its_greeting_and_its_view_says_so_when_it_attaches() {
        let mut holding = Holding::default();
        assert_eq!(holding.greeting(&hello()), ToQmgr::Hello(hello()));
        assert_eq!(holding.drain(), [Step::Drain], "QMGR does not know yet what it holds");
        let steps = holding.take(FromQmgr::View { generation: 1 });
        assert_eq!(steps, [Step::Tell(ToQmgr::Attached), Step::Tell(ToQmgr::Draining)]);
    }
}
