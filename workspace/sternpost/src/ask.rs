//! The operator's end of a link: one question to a running process, and its answer, in a bounded time.

use crate::bootstrap::{Bootstrap, BootstrapError, RUN_DIRECTORY_DEFAULT};
use crate::supervisor::{QMGR_SOCKET, SIGNER_SOCKET, STORE_SOCKET, SUPERVISOR_SOCKET};
use serde::Serialize;
use std::future::Future;
use std::io;
use std::os::fd::OwnedFd;
use std::path::PathBuf;
use std::rc::Rc;
use std::time::Duration;
use sternpost_link::qmgr::{FromQmgr, Question, ToQmgr};
use sternpost_link::signer::{Credentials, FromSigner, ToSigner};
use sternpost_link::store::{FromStore, MessageDetail, Shown, StoreStatus, ToStore};
use sternpost_link::supervisor::{
    FailedListener, Failing, FromSupervisor, ListeningSocket, Running, ToSupervisor,
};
use sternpost_link::{DATAGRAM_OCTETS_MAX, DatagramError, Frames, Hello, PROTOCOL_VERSION, Role};
use sternpost_message::MessageId;
use sternpost_platform::link::{Link, connect_patiently};
use sternpost_platform::memory;

/// Time for one answer: a process that restarts is back in less.
pub(crate) const ANSWER_MAX: Duration = Duration::from_secs(10);

/// The most that one frame of a list may hold.
pub(crate) const PAGE_MAX: u32 = 256;

/// The environment variable that names the run directory.
const RUN_DIRECTORY: &str = "STERNPOST_RUN_DIRECTORY";

/// Which switch is asked.
#[derive(Clone, Debug, Default, clap::Args)]
pub(crate) struct Which {
    /// The folder of the switch's sockets [default: that of --bootstrap, else $STERNPOST_RUN_DIRECTORY, else
    /// /run/sternpost]
    #[arg(long, value_name = "FOLDER")]
    run_directory: Option<PathBuf>,
    /// The bootstrap that the switch was started with
    #[arg(long, value_name = "FILE", conflicts_with = "run_directory")]
    bootstrap: Option<PathBuf>,
}

impl Which {
    /// The switch of a run directory.
    pub(crate) const fn in_run_directory(run_directory: PathBuf) -> Self {
        Self { run_directory: Some(run_directory), bootstrap: None }
    }

    pub(crate) fn run_directory(&self) -> Result<PathBuf, BootstrapError> {
        Ok(match (&self.run_directory, &self.bootstrap) {
            (Some(folder), _) => folder.clone(),
            (None, Some(bootstrap)) => Bootstrap::read(bootstrap)?.run_directory,
            (None, None) => {
                std::env::var_os(RUN_DIRECTORY).map_or_else(|| RUN_DIRECTORY_DEFAULT.into(), PathBuf::from)
            }
        })
    }
}

/// Why there is no answer.
#[derive(Debug, thiserror::Error)]
pub(crate) enum AskError {
    /// The bootstrap.
    #[error(transparent)]
    Bootstrap(#[from] BootstrapError),
    /// No socket, or nobody behind it.
    #[error(
        "the switch is not running (no socket at {}); start it with sternpost run --bootstrap FILE",
        path.display()
    )]
    NotRunning {
        /// Where the socket should be.
        path: PathBuf,
    },
    /// The socket is there and cannot be used.
    #[error("{} cannot be asked", path.display())]
    Connect {
        /// The socket.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// The link ended before the answer.
    #[error("{who} ended the link before it answered")]
    Ended {
        /// Which process.
        who: &'static str,
        /// How.
        source: io::Error,
    },
    /// The process does not speak our protocol.
    #[error("{who} was not understood")]
    NotUnderstood {
        /// Which process.
        who: &'static str,
        /// Why.
        source: DatagramError,
    },
    /// An answer that should have come with shared memory, or JSON that is none.
    #[error("{who} sent an answer that cannot be read")]
    Answer {
        /// Which process.
        who: &'static str,
        /// Why.
        source: io::Error,
    },
    /// Nothing came.
    #[error("{who} did not answer within {} s; sternpost status shows what runs", within.as_secs())]
    Silent {
        /// Which process.
        who: &'static str,
        /// How long it was waited for.
        within: Duration,
    },
    /// The process answered that it cannot.
    #[error("{who}: {why}")]
    Refused {
        /// Which process.
        who: &'static str,
        /// In its words.
        why: String,
    },
    /// This process cannot start its event loop.
    #[error("this command cannot start its event loop")]
    Runtime {
        /// Why.
        source: io::Error,
    },
}

/// Does the asking on an event loop of its own.
///
/// # Errors
/// `Runtime`, and those of what is asked.
pub(crate) fn on_loop<T, E: From<AskError>>(asking: impl Future<Output = Result<T, E>>) -> Result<T, E> {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .map_err(|source| E::from(AskError::Runtime { source }))?;
    tokio::task::LocalSet::new().block_on(&runtime, asking)
}

/// A link to one process, after the Hello.
pub(crate) struct Asking {
    link: Rc<Link>,
    buffer: Vec<u8>,
    who: &'static str,
}

impl Asking {
    fn connect<F: Serialize>(
        which: &Which,
        socket: &str,
        who: &'static str,
        hello: impl Fn(Hello) -> F,
    ) -> Result<Self, AskError> {
        let path = which.run_directory()?.join(socket);
        let socket = match connect_patiently(&path, ANSWER_MAX) {
            Ok(socket) => socket,
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                return Err(AskError::Silent { who, within: ANSWER_MAX });
            }
            Err(error)
                if matches!(error.kind(), io::ErrorKind::NotFound | io::ErrorKind::ConnectionRefused) =>
            {
                return Err(AskError::NotRunning { path });
            }
            Err(source) => return Err(AskError::Connect { path, source }),
        };
        let link = Link::new(socket).map_err(|source| AskError::Connect { path, source })?;
        let asking = Self { link, buffer: vec![0; DATAGRAM_OCTETS_MAX], who };
        asking.say(&hello(Hello {
            version: PROTOCOL_VERSION,
            role: Role::Operator,
            pid: std::process::id(),
            process: 0,
            channel: String::new(),
            capacity: 0,
        }))?;
        Ok(asking)
    }

    pub(crate) fn say<F: Serialize>(&self, frame: &F) -> Result<(), AskError> {
        self.link.push(frame).map_err(|error| AskError::Refused { who: self.who, why: error.to_string() })
    }

    /// Receives frames until `wanted` takes one; others (the Welcome) are passed over.
    async fn answer<F, T>(
        &mut self,
        mut wanted: impl FnMut(F, Option<OwnedFd>) -> Option<Result<T, AskError>>,
    ) -> Result<T, AskError>
    where
        F: for<'a> serde::Deserialize<'a>,
    {
        let who = self.who;
        let receiving = async {
            loop {
                let mut answer = None;
                self.next(|frame, attached| {
                    if answer.is_none() {
                        answer = wanted(frame, attached);
                    }
                })
                .await?;
                if let Some(answer) = answer {
                    return answer;
                }
            }
        };
        tokio::time::timeout(ANSWER_MAX, receiving)
            .await
            .unwrap_or(Err(AskError::Silent { who, within: ANSWER_MAX }))
    }

    /// Hands over every frame of the next datagram.
    async fn next<F>(&mut self, mut take: impl FnMut(F, Option<OwnedFd>)) -> Result<(), AskError>
    where
        F: for<'a> serde::Deserialize<'a>,
    {
        let who = self.who;
        let mut received =
            self.link.receive(&mut self.buffer).await.map_err(|source| AskError::Ended { who, source })?;
        let not_understood = |source| AskError::NotUnderstood { who, source };
        let mut frames = Frames::open(&self.buffer[..received.octets]).map_err(not_understood)?;
        while let Some(frame) = frames.next_frame::<F>().map_err(not_understood)? {
            take(frame, received.attached.take());
        }
        Ok(())
    }
}

/// What the supervisor says.
#[derive(Debug)]
pub(crate) struct Supervised {
    /// The version of its executable.
    pub(crate) version: String,
    /// The processes.
    pub(crate) processes: Vec<Running>,
    /// The listening sockets.
    pub(crate) listening: Vec<ListeningSocket>,
    /// Those that could not be opened.
    pub(crate) failed: Vec<FailedListener>,
    /// The roles that do not stay.
    pub(crate) failing: Vec<Failing>,
}

/// What the supervisor runs, and where it listens.
///
/// # Errors
/// See [`AskError`].
pub(crate) async fn supervisor(which: &Which) -> Result<Supervised, AskError> {
    // The answer to the Hello is all that is wanted.
    let mut asking = Asking::connect(which, SUPERVISOR_SOCKET, "the supervisor", ToSupervisor::Hello)?;
    asking
        .answer(|frame, _| match frame {
            FromSupervisor::Running { version, processes, listening, failed, failing } => {
                Some(Ok(Supervised { version, processes, listening, failed, failing }))
            }
            _ => None,
        })
        .await
}

/// QMGR's answer to a question.
///
/// # Errors
/// See [`AskError`].
pub(crate) async fn qmgr(which: &Which, question: Question) -> Result<serde_json::Value, AskError> {
    let who = "QMGR";
    let mut asking = Asking::connect(which, QMGR_SOCKET, who, ToQmgr::Hello)?;
    asking.say(&ToQmgr::Ask(question))?;
    asking
        .answer(|frame, attached| match frame {
            FromQmgr::Answer => Some(read_json(attached).map_err(|source| AskError::Answer { who, source })),
            FromQmgr::NoAnswer { why } => Some(Err(AskError::Refused { who, why })),
            _ => None,
        })
        .await
}

fn read_json(attached: Option<OwnedFd>) -> io::Result<serde_json::Value> {
    let memory =
        attached.ok_or_else(|| io::Error::new(io::ErrorKind::InvalidData, "no memory came with it"))?;
    Ok(serde_json::from_slice(&memory::unseal(memory, memory::ANSWER_OCTETS_MAX)?)?)
}

/// What credentials the signer has, after it has read the files again if that is wanted.
///
/// # Errors
/// See [`AskError`].
pub(crate) async fn credentials(which: &Which, reload: bool) -> Result<Credentials, AskError> {
    let who = "the signer";
    let mut asking = Asking::connect(which, SIGNER_SOCKET, who, ToSigner::Hello)?;
    if reload {
        asking.say(&ToSigner::Reload)?;
    }
    asking.say(&ToSigner::Watch)?;
    asking
        .answer(|frame, attached| match frame {
            FromSigner::Credentials => {
                Some(read_credentials(attached).map_err(|source| AskError::Answer { who, source }))
            }
            _ => None,
        })
        .await
}

fn read_credentials(attached: Option<OwnedFd>) -> io::Result<Credentials> {
    let memory =
        attached.ok_or_else(|| io::Error::new(io::ErrorKind::InvalidData, "no memory came with it"))?;
    postcard::from_bytes(&memory::unseal(memory, memory::VIEW_OCTETS_MAX)?).map_err(io::Error::other)
}

/// A link to the store, for one question after the other.
///
/// # Errors
/// See [`AskError`].
pub(crate) fn store(which: &Which) -> Result<Asking, AskError> {
    Asking::connect(which, STORE_SOCKET, "the store", ToStore::Hello)
}

/// How the store is.
///
/// # Errors
/// See [`AskError`].
pub(crate) async fn store_status(which: &Which) -> Result<StoreStatus, AskError> {
    store(which)?
        .store_answer(&ToStore::Status, |frame| match frame {
            FromStore::Status(status) => Some(status),
            _ => None,
        })
        .await
}

impl Asking {
    /// Asks the store.
    ///
    /// # Errors
    /// See [`AskError`].
    pub(crate) async fn store_answer<T>(
        &mut self,
        question: &ToStore<'_>,
        mut wanted: impl FnMut(FromStore) -> Option<T>,
    ) -> Result<T, AskError> {
        self.say(question)?;
        self.answer(|frame, _| wanted(frame).map(Ok)).await
    }

    /// Asks the store for a list, page by page, to its end or until it is so long.
    ///
    /// # Errors
    /// See [`AskError`].
    pub(crate) async fn store_list<T, P: Copy + PartialOrd>(
        &mut self,
        first: P,
        limit: usize,
        question: impl Fn(P, u32) -> ToStore<'static>,
        page: impl Fn(FromStore) -> Option<(Vec<T>, Option<P>)>,
    ) -> Result<Vec<T>, AskError> {
        let (mut list, mut from) = (Vec::new(), Some(first));
        while let Some(place) = from
            && list.len() < limit
        {
            let count_max = u32::try_from(limit - list.len()).map_or(PAGE_MAX, |count| count.min(PAGE_MAX));
            let (mut items, next) = self.store_answer(&question(place, count_max), &page).await?;
            list.append(&mut items);
            // A store that names the same place again would be asked for ever.
            from = next.filter(|next| *next > place);
        }
        list.truncate(limit);
        Ok(list)
    }

    /// Asks the store for one message's details.
    ///
    /// # Errors
    /// See [`AskError`]; `Refused` when its envelope cannot be read.
    pub(crate) async fn store_detail(
        &mut self,
        message: MessageId,
    ) -> Result<Option<Box<MessageDetail>>, AskError> {
        let who = self.who;
        self.say(&ToStore::Show { message })?;
        self.answer(|frame, attached| match frame {
            FromStore::Shown(Shown::Detail(detail)) => Some(Ok(Some(detail))),
            FromStore::Shown(Shown::Attached) => {
                Some(read_detail(attached).map(Some).map_err(|source| AskError::Answer { who, source }))
            }
            FromStore::Shown(Shown::Absent) => Some(Ok(None)),
            FromStore::Shown(Shown::Unreadable { why }) => Some(Err(AskError::Refused { who, why })),
            _ => None,
        })
        .await
    }

    /// Sends the store a frame that was encoded before.
    pub(crate) fn say_encoded(&self, frame: &[u8]) {
        self.link.push_encoded(frame);
    }

    /// Hands over what the store says next. It may take its time: a disk that is slow is no error.
    ///
    /// # Errors
    /// `Ended`, `NotUnderstood`.
    pub(crate) async fn store_says(&mut self, mut take: impl FnMut(FromStore)) -> Result<(), AskError> {
        self.next(|frame, _| take(frame)).await
    }
}

fn read_detail(attached: Option<OwnedFd>) -> io::Result<Box<MessageDetail>> {
    let invalid = |why: String| io::Error::new(io::ErrorKind::InvalidData, why);
    let memory = attached.ok_or_else(|| invalid("no memory came with it".to_owned()))?;
    let octets = memory::unseal(memory, memory::DETAIL_OCTETS_MAX)?;
    postcard::from_bytes(&octets).map_err(|error| invalid(error.to_string()))
}
