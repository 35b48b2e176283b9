//! SASL (RFC 4422) for the sessions, server and client, without sockets, clocks or threads.
//!
//! An exchange is a value: it is handed the next message and gives back a challenge with the exchange that awaits the
//! response, or the outcome. Who has an outcome has no exchange left that could go on. Base64, the commands and the codes
//! of replies are the session's (RFC 4954), the time is an argument.
//!
//! ```text
//! server: Authenticator::begin(mechanism, initial response) → Step::Challenge → Exchange::respond → … → Step::Done(Outcome)
//! client: ClientExchange::begin(what is offered) → initial response → ClientExchange::handle → … → ClientStep::Accepted
//! ```
//!
//! The mechanisms are those of `rsasl`, which this crate lets see nothing that it has not read itself:
//!
//! - `rsasl` panics on some messages of SCRAM that a stranger may send, so the grammar of RFC 5802, section 7, is checked
//!   before (`syntax.rs`);
//! - it says of an unknown user that he is unknown, so it is told a verifier for every name: an unknown one has a salt and
//!   keys that are an HMAC of his name ([`ConcealmentKey`]);
//! - its steps succeed also when a password was wrong, so only the verdict that was asked for counts, and none is a refusal;
//! - its client takes any iteration count, so the count is bounded before.
//!
//! Names and passwords are prepared by SASLprep (RFC 4013, as RFC 5802 and RFC 4616 ask), and names are compared without
//! regard to case ([`Name`]). Channel binding (`-PLUS`) is not there. Nonces are `rsasl`'s, from a generator that the kernel
//! seeds; salts of new verifiers are the kernel's own ([`Verifier::new`]).
//!
//! Deriving keys takes processor time in proportion to the iteration count, about a millisecond for 4096. PLAIN and LOGIN
//! cost the server that once for each attempt, SCRAM does not; [`Attempts`] refuses before anything is derived.
//!
//! Not here: where users are kept ([`Users`] is asked), which identity may send as whom (`submission`).
#![forbid(unsafe_code)]

mod attempts;
mod client;
pub mod fuzz;
mod mechanism;
mod name;
mod server;
mod syntax;
mod verifier;

pub use attempts::{Attempts, AttemptsPolicy, ClientNetwork};
pub use client::{ClientError, ClientExchange, ClientPolicy, ClientStep, Credentials, Said, choose};
pub use mechanism::{Hash, Mechanism};
pub use name::{Name, Password, PreparationError};
pub use server::{
    Authenticator, ConcealmentKey, Connection, Exchange, Identity, Outcome, Refusal, ServerPolicy, Step,
    User, Users,
};
pub use verifier::{SALT_OCTETS, Verifier, VerifierError};

/// The longest message of an exchange that is read, in octets and without base64. A line of AUTH may have 12,288 octets
/// (RFC 4954, section 4); no mechanism here needs more than this.
pub const MESSAGE_OCTETS_MAX: usize = 4096;

/// The fewest iterations by which a key may be derived (RFC 7677, section 4).
pub const ITERATIONS_MIN: u32 = 4096;

/// The most iterations that anybody may ask of this switch: some tenths of a second of one processor.
pub const ITERATIONS_MAX: u32 = 1_000_000;
