//! What a connection costs in the clear and inside TLS: greeting, EHLO, the handshake and EHLO again where there is one, QUIT.
//!
//! Every handshake is a whole one (no session is resumed) with a certificate that signs itself, so the client's share of the work is as
//! small as it can be, and it runs on the same processors.

use super::super::tool::{Series, number};
use serde::Serialize;
use std::collections::BTreeMap;
use std::error::Error;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};
use sternpost_load::dialogue::{Departure, PlayOptions, Script, play};
use sternpost_load::process;
use sternpost_message::chain;
use tokio::task::JoinSet;

/// Connections at a time: as many as keep two processors busy.
const SESSIONS: u64 = 8;
/// Connections of a run.
const CONNECTIONS: u64 = 1_000;

const CLEAR: &str = "R: 220\nC: EHLO bench.load.test\nR: 250\nC: QUIT\nR: 221\n? end\n";
const TLS: &str = "R: 220\nC: EHLO bench.load.test\nR: 250\nC: STARTTLS\nR: 220\n* tls\nC: EHLO bench.load.test\nR: 250\nC: QUIT\n\
                   R: 221\n? end\n";

/// Connections to the switch, and to our sink without it.
#[derive(Debug, Default)]
pub(super) struct Handshakes {
    clear: Vec<Measured>,
    tls: Vec<Measured>,
    sink_tls: Vec<Measured>,
}

#[derive(Clone, Copy, Debug)]
struct Measured {
    rate_per_s: f64,
    /// Of the processes that were connected to, for each connection.
    cpu_us: f64,
}

/// The same as medians.
#[derive(Debug, Serialize)]
pub(super) struct HandshakesReport {
    sessions: u64,
    connections: u64,
    clear_per_s: Series,
    clear_switch_cpu_us: Series,
    tls_per_s: Series,
    tls_switch_cpu_us: Series,
    sink_tls_per_s: Series,
}

impl Handshakes {
    /// One round.
    pub(super) fn measure(
        &mut self,
        switch: (SocketAddr, u32),
        sink: (SocketAddr, u32),
    ) -> Result<(), Box<dyn Error>> {
        self.clear.push(connections(switch, CLEAR)?);
        self.tls.push(connections(switch, TLS)?);
        self.sink_tls.push(connections(sink, TLS)?);
        Ok(())
    }

    pub(super) fn report(&self) -> HandshakesReport {
        let rate = |of: &[Measured]| Series::of(of.iter().map(|it| it.rate_per_s));
        let cpu = |of: &[Measured]| Series::of(of.iter().map(|it| it.cpu_us));
        HandshakesReport {
            sessions: SESSIONS,
            connections: CONNECTIONS,
            clear_per_s: rate(&self.clear),
            clear_switch_cpu_us: cpu(&self.clear),
            tls_per_s: rate(&self.tls),
            tls_switch_cpu_us: cpu(&self.tls),
            sink_tls_per_s: rate(&self.sink_tls),
        }
    }
}

impl HandshakesReport {
    pub(super) fn print(&self) {
        println!(
            "connections/s, {} at a time: clear {}, TLS {}, TLS to the sink alone {}; switch us each: clear {}, TLS {}",
            self.sessions,
            self.clear_per_s,
            self.tls_per_s,
            self.sink_tls_per_s,
            self.clear_switch_cpu_us,
            self.tls_switch_cpu_us
        );
    }
}

fn connections((to, pid): (SocketAddr, u32), script: &str) -> Result<Measured, Box<dyn Error>> {
    let script = Arc::new(Script::parse(script, &BTreeMap::new())?);
    let cpu_before_us = process::cpu_us(pid);
    let begun = Instant::now();
    super::super::block_on(all(to, script))?.map_err(|departure| chain(&departure))?;
    let duration = begun.elapsed().max(Duration::from_micros(1));
    let cpu_us = process::cpu_us(pid).saturating_sub(cpu_before_us);
    Ok(Measured {
        rate_per_s: number(CONNECTIONS) / duration.as_secs_f64(),
        cpu_us: number(cpu_us) / number(CONNECTIONS),
    })
}

/// Connects again and again until there were enough.
async fn all(to: SocketAddr, script: Arc<Script>) -> Result<(), Departure> {
    let begun_count = Arc::new(AtomicU64::new(0));
    let mut sessions = JoinSet::new();
    for _ in 0..SESSIONS {
        let (script, begun_count) = (Arc::clone(&script), Arc::clone(&begun_count));
        sessions.spawn(async move {
            while begun_count.fetch_add(1, Ordering::Relaxed) < CONNECTIONS {
                play(&script, &PlayOptions::to(to), |_| {}).await?;
            }
            Ok(())
        });
    }
    sessions.join_all().await.into_iter().collect()
}
