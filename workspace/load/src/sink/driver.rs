//! The sink's sockets: one task for each connection, one [`Dialogue`] in each.

use std::net::TcpListener;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tokio::sync::watch;
use tokio::task::JoinSet;
use tokio_rustls::rustls::ServerConfig;

use super::SinkOptions;
use super::dialogue::{Arrival, Dialogue, Event};
use super::ledger::{Ledger, Receipt};
use crate::now_ns;
use crate::stream::Stream;

/// Octets read at once: a message of 4 KiB and the commands around it fit many times.
const READ_OCTETS: usize = 64 * 1024;

struct Shared {
    options: SinkOptions,
    tls: Option<Arc<ServerConfig>>,
    ledger: Arc<Ledger>,
    arrivals_count: AtomicU64,
}

/// Takes connections until told to stop, then drops them all.
pub(super) async fn serve(
    listener: TcpListener,
    options: SinkOptions,
    tls: Option<Arc<ServerConfig>>,
    ledger: Arc<Ledger>,
    mut stopped: watch::Receiver<bool>,
) {
    // It is non-blocking and this runtime has its I/O driver: no registration fails but for want of memory.
    let Ok(listener) = tokio::net::TcpListener::from_std(listener) else { return };
    let shared = Arc::new(Shared { options, tls, ledger, arrivals_count: AtomicU64::new(0) });
    let mut sessions = JoinSet::new();
    let mut turned_away = JoinSet::new();
    loop {
        tokio::select! {
            _ = stopped.changed() => return,
            taken = listener.accept() => match taken {
                Ok((stream, _)) if shared.options.connections_max.is_some_and(|max| sessions.len() >= max) => {
                    shared.ledger.turn_away();
                    turned_away.spawn(async move { let _ = turn_away(stream).await; });
                }
                Ok((stream, _)) => {
                    shared.ledger.connect();
                    let shared = Arc::clone(&shared);
                    // What ends a session early is the other side's affair: its messages stand in the ledger or not.
                    sessions.spawn(async move { let _ = session(stream, &shared).await; });
                }
                // Out of descriptors, mostly: the connections that end give some back.
                Err(_) => tokio::time::sleep(std::time::Duration::from_millis(10)).await,
            },
            Some(_) = sessions.join_next() => {}
            Some(_) = turned_away.join_next() => {}
        }
    }
}

/// Says that there are too many connections (RFC 5321, 3.1), and hears the client out until it has closed.
async fn turn_away(mut stream: TcpStream) -> std::io::Result<()> {
    stream.write_all(b"421 4.7.0 too many connections\r\n").await?;
    stream.shutdown().await?;
    let mut ignored = [0; 256];
    while stream.read(&mut ignored).await? > 0 {}
    Ok(())
}

async fn session(stream: TcpStream, shared: &Shared) -> std::io::Result<()> {
    stream.set_nodelay(true)?;
    let mut stream = Stream::Clear(stream);
    let mut dialogue = Dialogue::new(&shared.options);
    let mut input = Vec::with_capacity(READ_OCTETS);
    let mut messages_count = 0;
    loop {
        let mut used = 0;
        loop {
            let (octets_count, event) = dialogue.take(&input[used..]);
            used += octets_count;
            match event {
                Event::NeedInput => break,
                Event::Close => return send(&mut stream, dialogue.replies()).await,
                Event::StartTls => {
                    send(&mut stream, dialogue.replies()).await?;
                    // What came in front of the handshake is not for the session behind it (RFC 3207, 4.2).
                    let Some(config) = shared.tls.as_ref().filter(|_| used == input.len()) else {
                        return Ok(());
                    };
                    stream.accept(config).await?;
                }
                Event::Rejected => shared.ledger.reject(),
                Event::Arrived(arrival) => {
                    messages_count += 1;
                    if !keep(shared, *arrival) {
                        return send(&mut stream, dialogue.replies()).await;
                    }
                    if !shared.options.delay.is_zero() {
                        tokio::time::sleep(shared.options.delay).await;
                    }
                    dialogue.accept();
                    if Some(messages_count) == shared.options.drop_after_count {
                        return send(&mut stream, dialogue.replies()).await;
                    }
                }
            }
        }
        input.drain(..used);
        send(&mut stream, dialogue.replies()).await?;
        input.reserve(READ_OCTETS);
        if stream.read_buf(&mut input).await? == 0 {
            return Ok(());
        }
    }
}

/// Writes the arrival down. False: this one gets no reply, as told.
fn keep(shared: &Shared, arrival: Arrival) -> bool {
    let number = shared.arrivals_count.fetch_add(1, Ordering::Relaxed) + 1;
    let answered =
        shared.options.close_before_reply_count.is_none_or(|every| !number.is_multiple_of(every.max(1)));
    let Arrival { sender, recipients, priority, inspected } = arrival;
    let receipt = Receipt {
        id: inspected.load_id,
        arrived_ns: now_ns(),
        sent_ns: inspected.sent_ns,
        sender,
        recipients,
        priority,
        octets: inspected.octets,
        integrity: inspected.integrity,
        answered,
        content: inspected.content,
    };
    if let Some(witness) = &shared.options.on_receipt {
        witness.tell(&receipt);
    }
    shared.ledger.enter(receipt);
    answered
}

async fn send(stream: &mut Stream, replies: &mut Vec<u8>) -> std::io::Result<()> {
    if !replies.is_empty() {
        stream.write_all(replies).await?;
        stream.flush().await?;
        replies.clear();
    }
    Ok(())
}
