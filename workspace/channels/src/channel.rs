//! The skeleton of a channel process: handshake with the store and with QMGR, views, assignments, outcomes, drain.
//!
//! Links, signals and the recording of outcomes. Not here: what is held and what QMGR is told of it (`holding`).

use crate::RoleError;
use crate::holding::{Holding, Step};
use crate::store_client::StoreClient;
use std::cell::RefCell;
use std::os::fd::OwnedFd;
use std::path::PathBuf;
use std::rc::Rc;
use std::time::Duration;
use sternpost_link::qmgr::{Assignment, FromQmgr, ToQmgr};
use sternpost_link::store::{Append, Lane, Refusal};
use sternpost_link::{Appended, ChannelKind, Frames, Hello, PROTOCOL_VERSION};
use sternpost_message::{MlistId, Outcome, RecipientIndex, RecipientRange};
use sternpost_platform::clock::Clock;
use sternpost_platform::link::{Link, connect};
use sternpost_platform::memory;
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::Notify;
use tokio::task::{LocalSet, spawn_local};

/// Outcomes in one set: forty diagnostics of 600 octets stay well below a datagram.
const OUTCOMES_PER_SET: usize = 40;
/// Wait before an outcome that the log's device did not take is recorded again.
const RECORD_AGAIN: Duration = Duration::from_secs(1);
/// Pause before a link that has ended is made anew.
const RECONNECT_PAUSE: Duration = Duration::from_millis(20);

/// What a channel process is started with.
#[derive(Clone, Debug)]
pub struct ChannelOptions {
    /// Where the sockets of the other processes are.
    pub run_directory: PathBuf,
    /// The channel's name.
    pub channel: String,
    /// What it does.
    pub kind: ChannelKind,
    /// The scheduler's number for this process.
    pub process: u64,
    /// How many Mlists it takes at a time, at least 1.
    pub capacity: u32,
}

/// What a kind of channel does with what comes.
pub(crate) trait Work {
    /// A new view of the configuration. False when it cannot be read.
    fn view(&self, octets: &[u8]) -> bool;
    /// An Mlist to process; ends with [`Channel::done`] or [`Channel::unassigned`].
    fn assign(&self, assignment: Assignment);
    /// No more assignments will come; what was not begun is given back.
    fn drain(&self);
}

/// One channel process.
#[derive(Debug)]
pub(crate) struct Channel {
    pub(crate) store: Rc<StoreClient>,
    pub(crate) clock: Clock,
    hello: Hello,
    qmgr: RefCell<Option<Rc<Link>>>,
    holding: RefCell<Holding>,
    released: Notify,
}

/// Runs a channel process until it has drained.
///
/// # Errors
/// `RoleError`.
pub(crate) fn run<W: Work + 'static>(
    options: &ChannelOptions,
    work: impl FnOnce(Rc<Channel>) -> Rc<W>,
) -> Result<(), RoleError> {
    let runtime =
        tokio::runtime::Builder::new_current_thread().enable_all().build().map_err(RoleError::Runtime)?;
    LocalSet::new().block_on(&runtime, async {
        let hello = Hello {
            version: PROTOCOL_VERSION,
            role: options.kind.role(),
            pid: std::process::id(),
            process: options.process,
            channel: options.channel.clone(),
            capacity: options.capacity,
        };
        let channel = Rc::new(Channel {
            store: StoreClient::start(options.run_directory.join("store.sock"), hello.clone()),
            clock: Clock::default(),
            hello,
            qmgr: RefCell::default(),
            holding: RefCell::default(),
            released: Notify::new(),
        });
        let work = work(Rc::clone(&channel));
        // The store must know this process before QMGR does: when it ends, QMGR asks the store for its last words.
        channel.store.ready().await;
        spawn_local(Rc::clone(&channel).keep_qmgr(Rc::clone(&work), options.run_directory.join("qmgr.sock")));
        let mut terminate = signal(SignalKind::terminate()).map_err(RoleError::Signal)?;
        loop {
            tokio::select! {
                _ = terminate.recv() => channel.drain(&*work),
                () = channel.released.notified() => {}
            }
            if channel.holding.borrow().is_over() {
                channel.flush().await;
                return Ok(());
            }
        }
    })
}

impl Channel {
    /// What this process says that it is.
    pub(crate) const fn hello(&self) -> &Hello {
        &self.hello
    }

    async fn keep_qmgr<W: Work>(self: Rc<Self>, work: Rc<W>, path: PathBuf) {
        loop {
            let link = match connect(&path).and_then(Link::new) {
                Ok(link) => link,
                Err(error) => {
                    tracing::debug!(error = &error as &dyn std::error::Error, "QMGR is not there yet");
                    tokio::time::sleep(Duration::from_millis(20)).await;
                    continue;
                }
            };
            send(&link, &self.holding.borrow().greeting(&self.hello));
            *self.qmgr.borrow_mut() = Some(Rc::clone(&link));
            let end = link
                .read_until_end(|datagram, mut attached| {
                    let mut frames = Frames::open(datagram)?;
                    while let Some(frame) = frames.next_frame::<FromQmgr>()? {
                        self.take(&*work, frame, &mut attached);
                    }
                    Ok(())
                })
                .await;
            tracing::info!(event = "qmgr.lost", reason = %end, "QMGR has gone; waiting for it");
            *self.qmgr.borrow_mut() = None;
            self.holding.borrow_mut().lost();
            tokio::time::sleep(RECONNECT_PAUSE).await;
        }
    }

    fn take<W: Work>(&self, work: &W, frame: FromQmgr, attached: &mut Option<OwnedFd>) {
        if let FromQmgr::View { generation } = frame {
            let good = attached
                .take()
                .and_then(|memory| memory::unseal(memory, memory::VIEW_OCTETS_MAX).ok())
                .is_some_and(|octets| work.view(&octets));
            if !good {
                tracing::error!(
                    event = "view.unreadable",
                    generation,
                    "the view of the configuration cannot be read"
                );
                return;
            }
        }
        let steps = self.holding.borrow_mut().take(frame);
        self.follow(work, steps);
    }

    fn follow<W: Work>(&self, work: &W, steps: Vec<Step>) {
        for step in steps {
            match step {
                Step::Tell(frame) => self.send(&frame),
                Step::Work(assignment) => work.assign(assignment),
                Step::Drain => work.drain(),
            }
        }
        self.ring_if_over();
    }

    fn drain<W: Work>(&self, work: &W) {
        let steps = self.holding.borrow_mut().drain();
        self.follow(work, steps);
    }

    /// Wakes the one who waits for the end, if it has come.
    fn ring_if_over(&self) {
        if self.holding.borrow().is_over() {
            self.released.notify_one();
        }
    }

    fn send(&self, frame: &ToQmgr) {
        if let Some(link) = &*self.qmgr.borrow() {
            match frame {
                ToQmgr::Held { mlists } => push_held(link, mlists),
                frame => send(link, frame),
            }
        }
    }

    fn tell(&self, step: Option<&Step>) {
        if let Some(Step::Tell(frame)) = step {
            self.send(frame);
        }
    }

    /// The work on an Mlist is done: its slot is free at once, and it is held until the outcomes are durable.
    /// `outcomes` has one for each recipient that was attempted; it may be empty when nothing was left to attempt.
    pub(crate) fn done(self: &Rc<Self>, mlist: MlistId, outcomes: Vec<(RecipientIndex, Outcome)>) {
        let step = self.holding.borrow_mut().finished(mlist);
        self.tell(step.as_ref());
        spawn_local(Rc::clone(self).record(mlist, pack(outcomes)));
    }

    /// The work on an Mlist is done, and what became of its recipients is durable already.
    pub(crate) fn done_durably(&self, mlist: MlistId) {
        let step = self.holding.borrow_mut().finished(mlist);
        self.tell(step.as_ref());
        self.release(mlist);
    }

    /// An Mlist goes back untouched.
    pub(crate) fn unassigned(&self, mlist: MlistId, why: &str) {
        let step = self.holding.borrow_mut().give_back(mlist, why);
        self.tell(step.as_ref());
        self.ring_if_over();
    }

    /// Says what a [`ToQmgr::PeerFailed`] says.
    pub(crate) fn peer_failed(&self, frame: ToQmgr) {
        let step = self.holding.borrow().tell(frame);
        self.tell(step.as_ref());
    }

    /// So many associations the peer holds now.
    pub(crate) fn peer_holds(&self, peer: &str, associations: u32) {
        let step = self.holding.borrow_mut().peer_holds(peer, associations);
        self.tell(step.as_ref());
    }

    pub(crate) fn peer_worked(&self, peer: &str) {
        let step = self.holding.borrow().tell(ToQmgr::PeerWorked { peer: peer.to_owned() });
        self.tell(step.as_ref());
    }

    /// Octets have gone to a peer: a process that was asked to stop and gets on is let finish.
    pub(crate) fn sent(&self, octets: usize) {
        self.holding.borrow_mut().sent(octets as u64);
    }

    fn release(&self, mlist: MlistId) {
        self.holding.borrow_mut().release(mlist);
        self.ring_if_over();
    }

    async fn record(self: Rc<Self>, mlist: MlistId, outcomes: Vec<(RecipientRange, Outcome)>) {
        // All sets first, then their answers: they travel and commit together.
        let sets: Vec<Vec<_>> = outcomes.chunks(OUTCOMES_PER_SET).map(<[_]>::to_vec).collect();
        let mut answers = Vec::with_capacity(sets.len());
        for set in sets {
            let answer = self.append_outcomes(mlist, &set);
            answers.push((set, answer));
        }
        for (set, mut answer) in answers {
            loop {
                match answer.await {
                    Ok(Appended::Refused(Refusal::Device | Refusal::Full)) => {
                        tracing::error!(event = "outcome.refused", %mlist, "the log did not take an outcome; trying again");
                        tokio::time::sleep(RECORD_AGAIN).await;
                        answer = self.append_outcomes(mlist, &set);
                    }
                    Ok(Appended::Refused(Refusal::Invalid(why))) => {
                        tracing::error!(event = "outcome.invalid", %mlist, why, "the log refused an outcome");
                        break;
                    }
                    // Outcomes are neither discarded nor late.
                    Ok(Appended::Committed | Appended::Refused(Refusal::Discarded | Refusal::Expired))
                    | Err(_) => break,
                }
            }
        }
        self.release(mlist);
    }

    fn append_outcomes(
        &self,
        mlist: MlistId,
        outcomes: &[(RecipientRange, Outcome)],
    ) -> tokio::sync::oneshot::Receiver<Appended> {
        let record = Append::Outcome { message: mlist.message, outcomes: outcomes.to_vec() };
        self.store.append(Lane::Outcome, &[record]).expect("OUTCOMES_PER_SET diagnostics fit a datagram")
    }

    async fn flush(&self) {
        let link = self.qmgr.borrow().clone();
        if let Some(link) = link {
            link.flushed().await;
        }
    }
}

/// Mlists with many ranges may not fit one frame together; each of them fits alone.
fn push_held(link: &Link, mlists: &[(MlistId, Vec<RecipientRange>)]) {
    if link.push(&ToQmgr::Held { mlists: mlists.to_vec() }).is_ok() {
        return;
    }
    match mlists {
        [] => {}
        [alone] => tracing::error!(mlist = %alone.0, "an Mlist that is held does not fit a frame"),
        several => {
            let (first, second) = several.split_at(several.len() / 2);
            push_held(link, first);
            push_held(link, second);
        }
    }
}

fn send(link: &Link, frame: &ToQmgr) {
    if let Err(error) = link.push(frame) {
        tracing::error!(error = &error as &dyn std::error::Error, "a frame was not sent");
    }
}

/// Equal outcomes of neighbours become one.
fn pack(outcomes: Vec<(RecipientIndex, Outcome)>) -> Vec<(RecipientRange, Outcome)> {
    let mut packed: Vec<(RecipientRange, Outcome)> = Vec::new();
    for (index, outcome) in outcomes {
        match packed.last_mut() {
            Some((range, last)) if range.end() == index.0 && *last == outcome => range.count += 1,
            _ => packed.push((RecipientRange { first: index.0, count: 1 }, outcome)),
        }
    }
    packed
}

#[cfg(test)]
mod tests {
    use super::*;
    use sternpost_message::{Diagnostic, EnhancedStatus};

    #[test]
    fn equal_outcomes_of_neighbours_are_recorded_once() {
        let worked = Outcome::Transferred(Diagnostic::own(EnhancedStatus::new(2, 0, 0), "Ok"));
        let failed = Outcome::Failed(Diagnostic::own(EnhancedStatus::new(5, 1, 1), "No"));
        let packed = pack(vec![
            (RecipientIndex(0), worked.clone()),
            (RecipientIndex(1), worked.clone()),
            (RecipientIndex(2), failed),
            (RecipientIndex(4), worked),
        ]);
        let ranges: Vec<_> = packed.iter().map(|(range, _)| (range.first, range.count)).collect();
        assert_eq!(ranges, [(0, 2), (2, 1), (4, 1)]);
    }
}
