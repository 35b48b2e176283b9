//! The channels that hand mail on: `smtp` transfers to other MTAs, `lmtp` delivers to message stores.
//!
//! Mlists are queued by peer; associations take them from there, several one after the other. Not here: which peer is
//! tried when (QMGR), the dialogue (`sternpost-smtp`).

mod association;
mod job;
mod next_hop;
mod tls;

use crate::RoleError;
use crate::channel::{self, Channel, ChannelOptions, Work};
use crate::signer_client::SignerClient;
use job::{Job, PeerJobs};
use next_hop::Lookup;
use rustc_hash::FxHashMap;
use std::borrow::Cow;
use std::cell::RefCell;
use std::rc::Rc;
use sternpost_config::{ChannelView, NextHop, Peer, PeerAddress, PeerTls, PeerTlsPolicy};
use sternpost_link::qmgr::Assignment;
use sternpost_message::{MlistId, NullHop, Outcome, RecipientIndex};

/// Runs a process of an SMTP or LMTP channel until it has drained.
///
/// # Errors
/// `RoleError`.
pub fn run(options: &ChannelOptions) -> Result<(), RoleError> {
    channel::run(options, |channel| {
        Rc::new_cyclic(|own| Relay {
            own: own.clone(),
            signer: SignerClient::start(options.run_directory.join("signer.sock"), channel.hello().clone()),
            channel,
            view: RefCell::default(),
            lookup: Lookup::default(),
            peers: RefCell::default(),
        })
    })
}

#[derive(Debug)]
struct Relay {
    own: std::rc::Weak<Self>,
    channel: Rc<Channel>,
    signer: Rc<SignerClient>,
    view: RefCell<Option<Rc<ChannelView>>>,
    lookup: Lookup,
    peers: RefCell<FxHashMap<String, Rc<PeerJobs>>>,
}

impl Relay {
    /// The view in force; there is one before the first assignment.
    fn view(&self) -> Option<Rc<ChannelView>> {
        self.view.borrow().clone()
    }

    /// The work on an Mlist is done. A probe is tried once: what sent it sends another, and no peer is delayed by it.
    fn done(&self, jobs: &PeerJobs, mlist: MlistId, mut outcomes: Vec<(RecipientIndex, Outcome)>) {
        if jobs.is_null_hop {
            for (_, outcome) in &mut outcomes {
                if let Outcome::Deferred { diagnostic, .. } = outcome {
                    tracing::warn!(event = "probe.failed", %mlist, %diagnostic, "a probe was not transferred");
                    *outcome = Outcome::Failed(diagnostic.clone());
                }
            }
        }
        self.channel.done(mlist, outcomes);
    }

    /// An association with the peer has ended, and nothing waits for the next one.
    fn association_ended(&self, jobs: &PeerJobs) {
        jobs.association_ended();
        // Every null hop has a port of its own, and is not met again; the names of domains are anybody's to make.
        if (jobs.is_null_hop || jobs.is_of_a_domain) && jobs.is_unused() {
            self.peers.borrow_mut().remove(&jobs.name);
        }
    }
}

/// A peer as it is configured, or as the one that stands for its domain; a null hop has nothing but its address.
fn peer(view: &ChannelView, name: &str) -> Option<Peer> {
    match NullHop::of_peer(name) {
        Some(hop) => Some(Peer {
            name: name.to_owned(),
            channel: view.channel.name.clone(),
            next_hop: NextHop::Address(PeerAddress(hop.address())),
            associations_max: None,
            associations_min: None,
            associations_reserve_urgent: None,
            associations_reserve_normal: None,
            tls: PeerTls { policy: PeerTlsPolicy::None, ..PeerTls::default() },
        }),
        None => view.peer(name).map(Cow::into_owned),
    }
}

impl Work for Relay {
    fn view(&self, octets: &[u8]) -> bool {
        let Ok(view) = postcard::from_bytes::<ChannelView>(octets) else { return false };
        *self.view.borrow_mut() = Some(Rc::new(view));
        // Associations whose peer has moved must notice, also those that wait for work.
        for jobs in self.peers.borrow().values() {
            jobs.wake_all();
        }
        true
    }

    fn assign(&self, assignment: Assignment) {
        let Some(view) = self.view() else { return self.channel.unassigned(assignment.mlist, "no view yet") };
        let Some(peer) = peer(&view, &assignment.peer) else {
            return self.channel.unassigned(assignment.mlist, "the peer is not configured");
        };
        let jobs = Rc::clone(
            self.peers.borrow_mut().entry(peer.name.clone()).or_insert_with(|| PeerJobs::new(&peer.name)),
        );
        let fetched = self.channel.store.fetch(assignment.mlist.message, u64::MAX);
        let associations_max = peer.associations_max.unwrap_or(view.channel.associations_per_peer_max);
        if jobs.push(Job::new(assignment, fetched), associations_max)
            && let Some(own) = self.own.upgrade()
        {
            tokio::task::spawn_local(association::serve(own, jobs));
        }
    }

    fn drain(&self) {
        for jobs in self.peers.borrow().values() {
            for job in jobs.take_all() {
                self.channel.unassigned(job.mlist(), "the process is stopping");
            }
            jobs.wake_all();
        }
    }
}
