//! An SMTP client that says what a text file says, and compares what it is answered with what stands there.
//!
//! For what other people's clients cannot say: chunks of any size (RFC 3030), parameters that no client sends, octets in the wrong
//! place, connections that stop in the middle. A file is read from the top:
//!
//! | line | what it is |
//! |---|---|
//! | `# text` | a comment; so is an empty line |
//! | `C: text` | a line that the client sends, CR LF behind it |
//! | `c: text` | octets that the client sends as they stand; `\r \n \0 \t \\ \xNN` are escapes |
//! | `S: text` | a line that the server must send; `*` stands for anything, also for nothing |
//! | `R: code text` | a whole reply of one or more lines with this code. `text`, if it is there, is that of its first line |
//! | `+ text`, `- text` | behind `R:`: what one of its lines is, what none of its lines is |
//! | `* octets N` | the client sends so many generated octets: lines of 78 octets with CR LF, none of them begins with a dot |
//! | `* file PATH` | the client sends what is in a file, as it stands |
//! | `* tls` | the handshake of TLS; whoever the server is |
//! | `* pause N ms` | the client does nothing |
//! | `* shut` | the client sends nothing more, and still reads |
//! | `* close` | the client closes the connection; nothing may follow |
//! | `? end` | the server closes the connection, without saying anything more |
//! | `? silence N ms` | the server says nothing for so long |
//! | `repeat N`, `again` | what stands between the two lines, so many times |
//!
//! `{name}` in any text but that of a comment is the value that was given for the name; `{{` is a brace. The client waits for the
//! server only where a line says so: commands in a row are sent in a row (RFC 2920).
//!
//! [`Script::parse`] reads a file and [`play`] speaks it. The first [`Departure`] ends a dialogue. A server that closes the connection
//! while the client speaks departs from nothing yet: what it said before is compared first, but the script has to say `? end` then.

mod pattern;
mod player;
mod script;

pub use pattern::Pattern;
pub use player::{Departure, PlayOptions, content, play};
pub use script::{Script, ScriptError};
