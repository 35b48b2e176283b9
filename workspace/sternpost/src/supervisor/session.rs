//! The links to the supervisor: QMGR's, and those of operators who ask what runs.

use super::Input;
use std::io;
use std::rc::Rc;
use sternpost_link::supervisor::ToSupervisor;
use sternpost_link::{DATAGRAM_OCTETS_MAX, Frames};
use sternpost_platform::link::{Link, Listener};
use tokio::sync::mpsc;

/// A link, by the order of connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(super) struct SessionId(u64);

/// What a link brings.
#[derive(Debug)]
pub(super) enum FromSession {
    /// It is there.
    Opened(Rc<Link>),
    /// A frame.
    Frame(ToSupervisor),
    /// It is gone, or sent something that is no frame.
    Closed,
}

/// Takes connections for ever.
pub(super) async fn accept(listener: Listener, inputs: mpsc::Sender<Input>) {
    for number in 0.. {
        let link = match listener.accept().await.and_then(Link::new) {
            Ok(link) => link,
            Err(error) => {
                // Out of descriptors or memory: the next turn may find some.
                tracing::error!(%error, "a link was not taken");
                tokio::time::sleep(super::limits::LISTEN_RETRY).await;
                continue;
            }
        };
        tokio::task::spawn_local(read(SessionId(number), link, inputs.clone()));
    }
}

async fn read(id: SessionId, link: Rc<Link>, inputs: mpsc::Sender<Input>) {
    if inputs.send(Input::Session(id, FromSession::Opened(Rc::clone(&link)))).await.is_err() {
        return;
    }
    let error = read_frames(id, &link, &inputs).await;
    if !matches!(error.kind(), io::ErrorKind::UnexpectedEof | io::ErrorKind::ConnectionReset) {
        tracing::error!(%error, "a link is closed");
    }
    link.close();
    let _ = inputs.send(Input::Session(id, FromSession::Closed)).await;
}

/// Passes frames on until the link ends, and says why it did.
async fn read_frames(id: SessionId, link: &Link, inputs: &mpsc::Sender<Input>) -> io::Error {
    let mut buffer = vec![0; DATAGRAM_OCTETS_MAX];
    let invalid = |error| io::Error::new(io::ErrorKind::InvalidData, error);
    loop {
        let octets = match link.receive(&mut buffer).await {
            Ok(received) => received.octets,
            Err(error) => return error,
        };
        let mut frames = match Frames::open(&buffer[..octets]) {
            Ok(frames) => frames,
            Err(error) => return invalid(error),
        };
        loop {
            match frames.next_frame() {
                Ok(None) => break,
                Ok(Some(frame)) => {
                    if inputs.send(Input::Session(id, FromSession::Frame(frame))).await.is_err() {
                        return io::ErrorKind::UnexpectedEof.into();
                    }
                }
                Err(error) => return invalid(error),
            }
        }
    }
}
