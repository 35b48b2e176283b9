//! What happens to one arriving message: who may send it, where each recipient goes, which trace it carries, and the
//! envelope that is committed in the end.
//!
//! A [`Submission`] is one mail transaction. The driver of a protocol (the SMTP server, the housekeeper) tells it the
//! facts in the order of RFC 5321, section 3.3, and passes its verdicts on:
//!
//! ```text
//! sender → Verdict, recipient (each) → Verdict, content (as it comes), finish → Envelope
//! ```
//!
//! The trace header stands before the content and says how the message is ranked, for which its header section may count:
//! it is to be asked for when [`Submission::beginning_is_known`].
//!
//! Not here: the syntax of commands and paths (`smtp`), the configuration itself (a [`Routing`] answers from it),
//! storing (`store`). Nothing here does I/O or reads a clock; memory grows with the recipients, never with the content.
#![forbid(unsafe_code)]

mod date;
mod facts;
mod header;
mod rank;
mod routing;
mod trace;
mod transaction;
mod verdict;

pub use date::internet_date;
pub use facts::{ContentFacts, ForwardPath, Identity, MailFacts, RecipientFacts, SessionFacts};
pub use header::{HeaderScan, RANK_OCTETS_MAX, Said, fuzz_header_scan};
pub use rank::{Asked, AskedBy, Rank};
pub use routing::{Policy, RouteAnswer, Routing};
pub use transaction::{Accepted, ROUTES_MAX, Submission};
pub use verdict::{Rejection, Verdict};
