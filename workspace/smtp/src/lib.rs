//! SMTP and LMTP sessions, server and client, without sockets, clocks or threads.
//!
//! Each session is a machine: octets, answers and the time go in through `handle`, work comes out of `poll`.
//! Drain `poll` after every `handle`. The driver owns the socket, the timer and the patience.
//!
//! Not here: the TLS handshake (the driver's: a session says when, RFC 3207, and is told what came of it),
//! authentication, what an address means (`submission`), where content is kept (`store`), when to try again
//! (`scheduler`). No machine reads a clock: `now` is an argument.
#![forbid(unsafe_code)]

pub mod client;
pub mod fuzz;
mod protocol;
pub mod reply;
pub mod server;
mod timer;
mod xtext;

pub use protocol::Protocol;
