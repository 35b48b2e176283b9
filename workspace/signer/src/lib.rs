//! The role `signer`: the one process that holds private keys.
//!
//! It reads them from a folder, tells the roles that talk to strangers which certificates there are, and signs for them what a
//! handshake asks for. So whoever takes over one of those can have signatures made while he is there, and takes no key along. A
//! file that changes is read again by itself; what is wrong with it is said, and what was good stays. Not here: TLS
//! (`sternpost-tls`), which listener or peer has which credential (the configuration).
#![forbid(unsafe_code)]

mod keyring;

use keyring::Keyring;
use std::cell::{Cell, RefCell};
use std::collections::BTreeMap;
use std::convert::Infallible;
use std::os::fd::OwnedFd;
use std::path::PathBuf;
use std::rc::Rc;
use std::time::Duration;
use sternpost_link::signer::{FromSigner, ToSigner};
use sternpost_link::{Frames, Hello};
use sternpost_platform::door::{Door, Users};
use sternpost_platform::link::{Link, Listener};
use sternpost_platform::memory;
use tokio::task::{LocalSet, spawn_local};

/// Between two looks at the folder.
const LOOK_EVERY: Duration = Duration::from_secs(5);
/// A link that has not said who it is by then is closed.
const HELLO_MAX: Duration = Duration::from_secs(5);
/// Answers that a client has not read, beyond which its link is closed: it asks for one signature at a time.
const UNREAD_OCTETS_MAX: usize = 64 << 10;
/// Links of one process at a time: each has two, and one that is made anew may come before the end of the old one is seen.
const LINKS_PER_PROCESS_MAX: u32 = 4;

/// What the role is started with.
#[derive(Debug)]
pub struct Options {
    /// The listening socket of `signer.sock`.
    pub listening: OwnedFd,
    /// Where the credentials are.
    pub folder: PathBuf,
    /// Who may connect as what.
    pub users: Users,
}

/// Why the signer has ended.
#[derive(Debug, thiserror::Error)]
pub enum SignerError {
    /// The event loop.
    #[error("the event loop cannot be made")]
    Runtime(#[source] std::io::Error),
    /// The socket.
    #[error("the socket of the signer cannot be watched")]
    Listen(#[source] std::io::Error),
}

struct Shared {
    door: Door,
    keyring: RefCell<Keyring>,
    watching: RefCell<Vec<Rc<Link>>>,
    /// By process.
    links: RefCell<BTreeMap<u32, u32>>,
}

/// Signs until it is killed.
///
/// # Errors
/// `SignerError`.
pub fn run(options: Options) -> Result<(), SignerError> {
    let runtime =
        tokio::runtime::Builder::new_current_thread().enable_all().build().map_err(SignerError::Runtime)?;
    LocalSet::new().block_on(&runtime, async {
        let listener = Listener::new(options.listening).map_err(SignerError::Listen)?;
        let shared = Rc::new(Shared {
            door: Door::new(options.users),
            keyring: RefCell::new(Keyring::new(options.folder)),
            watching: RefCell::default(),
            links: RefCell::default(),
        });
        spawn_local(look(Rc::clone(&shared)));
        loop {
            match listener.accept().await.and_then(Link::new) {
                Ok(link) => drop(spawn_local(serve(Rc::clone(&shared), link))),
                Err(error) => {
                    tracing::error!(error = &error as &dyn std::error::Error, "cannot accept a link");
                    tokio::time::sleep(Duration::from_millis(100)).await;
                }
            }
        }
    })
}

/// Keeps the credentials as the folder has them.
async fn look(shared: Rc<Shared>) {
    loop {
        shared.read_again();
        tokio::time::sleep(LOOK_EVERY).await;
    }
}

impl Shared {
    /// Counts a link of a process, if it may have one more.
    fn takes_link_of(&self, pid: u32) -> bool {
        let mut links = self.links.borrow_mut();
        let count = links.entry(pid).or_default();
        let takes = *count < LINKS_PER_PROCESS_MAX;
        *count += u32::from(takes);
        takes
    }

    fn link_ended(&self, pid: u32) {
        let mut links = self.links.borrow_mut();
        if let Some(count) = links.get_mut(&pid) {
            *count -= 1;
        }
        links.retain(|_, count| *count > 0);
    }

    fn read_again(&self) {
        if self.keyring.borrow_mut().read() {
            for link in self.watching.borrow().iter() {
                self.tell(link);
            }
        }
    }

    fn tell(&self, link: &Link) {
        let keyring = self.keyring.borrow();
        let sent = postcard::to_stdvec(&keyring.credentials())
            .map_err(std::io::Error::other)
            .and_then(|octets| memory::seal(&octets))
            .and_then(|memory| {
                link.push_with(&FromSigner::Credentials, memory).map_err(std::io::Error::other)
            });
        if let Err(error) = sent {
            tracing::error!(error = &error as &dyn std::error::Error, "the credentials were not told");
        }
    }

    fn take(&self, link: &Rc<Link>, frame: ToSigner) {
        match frame {
            ToSigner::Hello(_) => {}
            // What it is told waits to be read.
            ToSigner::Watch if link.unsent_octets() > 0 => {}
            ToSigner::Watch => {
                let mut watching = self.watching.borrow_mut();
                if !watching.iter().any(|known| Rc::ptr_eq(known, link)) {
                    watching.push(Rc::clone(link));
                }
                drop(watching);
                self.tell(link);
            }
            ToSigner::Sign { number, key, scheme, message } => {
                let answer = match self.keyring.borrow().sign(key, scheme, &message) {
                    Ok(signature) => FromSigner::Signed { number, signature: signature.into() },
                    Err(why) => FromSigner::Refused { number, why },
                };
                if let Err(error) = link.push(&answer) {
                    tracing::error!(error = &error as &dyn std::error::Error, "an answer was not sent");
                }
                // Whoever asks waits, and does nothing else meanwhile.
                link.send_now();
            }
            ToSigner::Reload => self.read_again(),
        }
    }
}

async fn serve(shared: Rc<Shared>, link: Rc<Link>) {
    let pid = link.peer().map_or(0, |peer| peer.pid);
    if !shared.takes_link_of(pid) {
        return shared.door.refuse(&*link, "its process has too many links");
    }
    let mut greeted: Option<Hello> = None;
    let is_greeted = Cell::new(false);
    let too_late = async {
        tokio::time::sleep(HELLO_MAX).await;
        if !is_greeted.get() {
            shared.door.refuse(&*link, "it does not say who it is");
        }
        std::future::pending::<Infallible>().await
    };
    let read = link.read_in_turns(
        |datagram, _| {
            let mut frames = Frames::open(datagram)?;
            let mut has_signed = false;
            while let Some(frame) = frames.next_frame::<ToSigner>()? {
                match (&greeted, frame) {
                    (None, ToSigner::Hello(hello)) => {
                        let Some(hello) = shared.door.admit(&*link, hello) else { return Ok(false) };
                        greeted = Some(hello);
                        is_greeted.set(true);
                    }
                    (Some(_), _) if link.unsent_octets() > UNREAD_OCTETS_MAX => {
                        shared.door.refuse(&*link, "it does not read what it is answered");
                        return Ok(false);
                    }
                    (Some(_), ToSigner::Sign { .. }) if has_signed => {
                        shared.door.refuse(&*link, "it asks for several signatures at once");
                        return Ok(false);
                    }
                    (Some(hello), frame) if frame.is_business_of(hello.role) => {
                        has_signed |= matches!(frame, ToSigner::Sign { .. });
                        shared.take(&link, frame);
                    }
                    (hello, _) => {
                        let who = hello
                            .as_ref()
                            .map_or("a process that has not said who it is", |hello| hello.role.name());
                        let why = format!("{who} has sent what is not its business");
                        shared.door.refuse(&*link, &why);
                        return Ok(false);
                    }
                }
            }
            // After each signature the others have their turn.
            Ok(has_signed)
        },
        async || tokio::task::yield_now().await,
    );
    let end = tokio::select! {
        end = read => end,
        never = too_late => match never {},
    };
    shared.link_ended(pid);
    shared.watching.borrow_mut().retain(|known| !Rc::ptr_eq(known, &link));
    if let Some(hello) = greeted {
        tracing::debug!(peer = hello.role.name(), pid = hello.pid, %end, "a link has ended");
    }
}
