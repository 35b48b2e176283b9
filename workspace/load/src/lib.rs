//! Load for a mail switch: an SMTP/LMTP source that remembers every 250, a sink that remembers every receipt, and the
//! comparison of the two (what was lost, what came twice, how long it took).
//!
//! The tests of other crates use [`source`], [`dialogue`], [`sending`], [`sink`], [`matching`] and [`switch`]; the binary `sternpost-load` adds the
//! drivers of `make demo`, `make bench`, `make bench-queue` and `make bench-peer`. On purpose nothing here knows the switch's own
//! protocol code: a fault in it shall not be answered by the same fault in its judge. The exception is [`store`], which
//! measures the store and judges nothing.
//!
//! Not here: authentication, anything that the device itself runs. TLS is that of crate `tls`, which rustls answers for.
#![forbid(unsafe_code)]

pub mod content;
pub mod dialogue;
pub mod guarded;
pub mod matching;
pub mod postfix;
pub mod process;
pub mod quantiles;
pub mod sending;
pub mod sink;
pub mod source;
pub mod store;
pub mod stream;
pub mod switch;
pub mod wire;
pub mod witness;

/// Nanoseconds since the epoch by the clock that all processes of this machine share (CLOCK_REALTIME).
///
/// Zero when the clock stands before 1970 and the largest value after the year 2554: a load test is wrong then anyway.
#[must_use]
pub fn now_ns() -> u64 {
    let since = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap_or_default();
    u64::try_from(since.as_nanos()).unwrap_or(u64::MAX)
}
