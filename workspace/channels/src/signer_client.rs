//! The links to the signer: on one it says what credentials there are, on the other signatures are asked for, and the thread waits
//! for them.
//!
//! While the signer is away there is no TLS that needs a key of ours: a handshake is not begun, and who asks for it is told to come
//! again. A signer that hangs costs one handshake its time, once; signatures are asked for again when it has said something.

use std::cell::RefCell;
use std::convert::Infallible;
use std::io;
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};
use std::rc::Rc;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;
use sternpost_link::signer::{Credentials, FromSigner, KeyId, PublicCredential, SIGNED_OCTETS_MAX, ToSigner};
use sternpost_link::{DATAGRAM_OCTETS_MAX, Frames, Hello, Outbox};
use sternpost_platform::exchange::Exchange;
use sternpost_platform::link::{Link, connect};
use sternpost_platform::memory;
use sternpost_tls::{KeyUnavailable, Signatures};
use tokio::sync::Notify;
use tokio::task::spawn_local;

/// The longest wait for one signature. Of the largest key of RSA it takes some milliseconds.
const SIGNATURE_MAX: Duration = Duration::from_secs(1);
/// Without the signer mail goes on, but for TLS.
const READY_MAX: Duration = Duration::from_secs(2);
/// Between two looks whether it has said something.
const LOOK_AGAIN: Duration = Duration::from_millis(5);
/// Between two attempts to reach the signer.
const RECONNECT: Duration = Duration::from_millis(50);

/// Why there is no credential now.
#[derive(Debug, thiserror::Error)]
pub(crate) enum Absent {
    /// Nobody signs.
    #[error("the signer is away; TLS is back when it is")]
    Signer,
    /// There is nothing to sign with.
    #[error(
        "the credential {name} is not there: put {name}.pem into the folder of the credentials; sternpost credentials says what is wrong with one that is"
    )]
    File {
        /// Its name.
        name: String,
    },
}

/// What is known of the signer.
#[derive(Debug)]
pub(crate) struct SignerClient {
    credentials: RefCell<Rc<Credentials>>,
    /// The credentials have changed, or signatures can be had again, or no more.
    changed: Notify,
    signatures: Arc<AskedSignatures>,
}

impl SignerClient {
    /// Connects, now and whenever the signer comes back.
    pub(crate) fn start(socket: PathBuf, hello: Hello) -> Rc<Self> {
        let signatures = Arc::new(AskedSignatures {
            socket: socket.clone(),
            hello: hello.clone(),
            asking: Mutex::new(Asking { exchange: None, number_last: 0, is_silent: true }),
            fell_silent: Notify::new(),
        });
        let client = Rc::new(Self { credentials: RefCell::default(), changed: Notify::new(), signatures });
        spawn_local(Rc::clone(&client).keep(socket, hello));
        client
    }

    /// The credential of that name.
    ///
    /// # Errors
    /// Why there is none.
    pub(crate) fn credential(&self, name: &str) -> Result<PublicCredential, Absent> {
        if self.signatures.asking().is_silent {
            return Err(Absent::Signer);
        }
        let credentials = self.credentials.borrow();
        let credential = credentials.usable.iter().find(|credential| credential.name == name).cloned();
        credential.ok_or_else(|| Absent::File { name: name.to_owned() })
    }

    /// Where signatures come from.
    pub(crate) fn signatures(&self) -> Arc<dyn Signatures> {
        Arc::clone(&self.signatures) as Arc<dyn Signatures>
    }

    /// Waits until the signer has said what there is, or until nobody should wait for that any longer.
    pub(crate) async fn ready(&self) {
        let heard = async {
            while self.signatures.asking().is_silent {
                tokio::time::sleep(LOOK_AGAIN).await;
            }
        };
        if tokio::time::timeout(READY_MAX, heard).await.is_err() {
            tracing::warn!(
                event = "signer.away",
                "the signer has not said which credentials there are: begun without"
            );
        }
    }

    /// Waits until something has changed since the last call.
    pub(crate) async fn changed(&self) {
        self.changed.notified().await;
    }

    async fn keep(self: Rc<Self>, socket: PathBuf, hello: Hello) {
        loop {
            if let Ok(link) = connect(&socket).and_then(Link::new) {
                let greeted = link.push(&ToSigner::Hello(hello.clone()));
                debug_assert!(greeted.is_ok(), "a greeting is small");
                let read = link.read_until_end(|datagram, mut attached| {
                    let mut frames = Frames::open(datagram)?;
                    while let Some(frame) = frames.next_frame::<FromSigner>()? {
                        if frame == FromSigner::Credentials {
                            self.take(attached.take());
                        }
                    }
                    Ok(())
                });
                let end = tokio::select! {
                    end = read => end,
                    never = self.watch(&link) => match never {},
                };
                tracing::info!(event = "signer.lost", reason = %end, "the signer has gone");
                self.signatures.asking().fall_silent();
                self.changed.notify_one();
            }
            tokio::time::sleep(RECONNECT).await;
        }
    }

    /// Asks what credentials there are, at once and whenever a signature has not come: the answer says that the signer lives.
    async fn watch(&self, link: &Link) -> Infallible {
        loop {
            let asked = link.push(&ToSigner::Watch);
            debug_assert!(asked.is_ok(), "a question is small");
            self.signatures.fell_silent.notified().await;
            self.changed.notify_one();
        }
    }

    fn take(&self, attached: Option<OwnedFd>) {
        let memory = attached.ok_or_else(|| io::Error::from(io::ErrorKind::InvalidData));
        let octets = memory.and_then(|memory| memory::unseal(memory, memory::VIEW_OCTETS_MAX));
        match octets.and_then(|octets| postcard::from_bytes(&octets).map_err(io::Error::other)) {
            Ok(credentials) => {
                *self.credentials.borrow_mut() = Rc::new(credentials);
                self.signatures.asking().is_silent = false;
                self.changed.notify_one();
            }
            Err(error) => tracing::error!(
                event = "credentials.unreadable",
                error = &error as &dyn std::error::Error,
                "what the signer says of its credentials cannot be read"
            ),
        }
    }
}

/// Signatures by another process.
#[derive(Debug)]
struct AskedSignatures {
    socket: PathBuf,
    hello: Hello,
    asking: Mutex<Asking>,
    /// It has not answered.
    fell_silent: Notify,
}

#[derive(Debug)]
struct Asking {
    exchange: Option<Exchange>,
    number_last: u64,
    /// Nothing is asked for until the signer has said something by itself.
    is_silent: bool,
}

impl Asking {
    fn fall_silent(&mut self) {
        self.exchange = None;
        self.is_silent = true;
    }
}

impl AskedSignatures {
    fn asking(&self) -> MutexGuard<'_, Asking> {
        // A panic between two lines of `ask` leaves nothing that the next call could not use.
        self.asking.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Signatures for AskedSignatures {
    fn sign(&self, key: KeyId, scheme: u16, message: &[u8]) -> Result<Vec<u8>, KeyUnavailable> {
        if message.len() > SIGNED_OCTETS_MAX {
            return Err(KeyUnavailable(format!(
                "the handshake has {} octets, too many to be signed",
                message.len()
            )));
        }
        let mut asking = self.asking();
        if asking.is_silent {
            return Err(KeyUnavailable("the signer is away".to_owned()));
        }
        match asking.ask(&self.socket, &self.hello, (key, scheme, message)) {
            Ok(answer) => answer.map_err(KeyUnavailable),
            Err(error) => {
                asking.fall_silent();
                self.fell_silent.notify_one();
                tracing::error!(
                    event = "signer.silent",
                    error = &error as &dyn std::error::Error,
                    "the signer has not answered"
                );
                Err(KeyUnavailable(error.to_string()))
            }
        }
    }
}

impl Asking {
    /// The signature, or why the signer refuses it.
    fn ask(
        &mut self,
        socket: &Path,
        hello: &Hello,
        (key, scheme, message): (KeyId, u16, &[u8]),
    ) -> io::Result<Result<Vec<u8>, String>> {
        let mut outbox = Outbox::default();
        if self.exchange.is_none() {
            self.exchange = Some(Exchange::connect(socket, SIGNATURE_MAX)?);
            outbox.push(&ToSigner::Hello(hello.clone())).map_err(io::Error::other)?;
        }
        self.number_last += 1;
        let number = self.number_last;
        let question = ToSigner::Sign { number, key, scheme, message: message.to_vec().into() };
        outbox.push(&question).map_err(io::Error::other)?;
        let Some(exchange) = &self.exchange else { return Err(io::ErrorKind::NotConnected.into()) };
        if let Some(datagram) = outbox.front() {
            exchange.say(datagram)?;
        }
        let mut buffer = vec![0; DATAGRAM_OCTETS_MAX];
        let octets = exchange.hear(&mut buffer)?;
        let mut frames = Frames::open(&buffer[..octets]).map_err(io::Error::other)?;
        match frames.next_frame::<FromSigner>().map_err(io::Error::other)? {
            Some(FromSigner::Signed { number: of, signature }) if of == number => {
                Ok(Ok(signature.into_vec()))
            }
            Some(FromSigner::Refused { number: of, why }) if of == number => Ok(Err(why)),
            _ => Err(io::Error::new(io::ErrorKind::InvalidData, "an answer to another question")),
        }
    }
}
