//! Test messages: composed so that whoever receives one knows which it is, when it left, and whether it is whole.
//!
//! Three header fields carry that: `X-Load-Id`, `X-Load-Sent-Ns` (CLOCK_REALTIME) and `X-Load-Sha256` (of the body, which
//! is everything after the first empty line). A switch may add header fields above them; it must not touch the body. The
//! body's last line names the id, so that no two messages have the same body and mixed-up contents are found.

use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};
use std::collections::BTreeMap;
use std::fmt::Write as _;
use time::OffsetDateTime;
use time::format_description::well_known::Rfc2822;

use crate::wire::with_dots;

/// Octets of a header that [`Inspector`] keeps to find its fields. Longer ones count as unmarked.
pub const HEADER_OCTETS_MAX: usize = 256 * 1024;

/// Octets of a message that is not all header: below this, `octets` of [`Composer::compose`] is not reached.
pub const MESSAGE_OCTETS_MIN: usize = 512;

/// Makes the messages of one run. Bodies of one size share their filler and its hash, so that a message costs little more
/// than its copy.
#[derive(Debug)]
pub struct Composer {
    run: String,
    date: String,
    fillers: BTreeMap<usize, Filler>,
}

#[derive(Debug)]
struct Filler {
    /// With dots added, without the final one.
    wire: Vec<u8>,
    hash: Sha256,
}

/// One message as it goes after the 354: dots added, the final one included.
#[derive(Debug)]
pub struct Composed {
    /// Header, body and final dot.
    pub wire: Vec<u8>,
    /// The moment in `X-Load-Sent-Ns`.
    pub sent_ns: u64,
}

impl Composer {
    /// A composer for messages of the given sizes; `run` begins every load id and should be unique on the machine.
    #[must_use]
    pub fn new(run: &str, octets: &[usize]) -> Self {
        let date = OffsetDateTime::now_utc();
        let date = date.format(&Rfc2822).unwrap_or_else(|_| "Thu, 01 Jan 1970 00:00:00 +0000".to_owned());
        let fillers = octets.iter().map(|&octets| (octets, Filler::new(octets))).collect();
        Self { run: run.to_owned(), date, fillers }
    }

    /// The load id of the message with this number.
    #[must_use]
    pub fn id(&self, number: u64) -> String {
        format!("{}-{number:08}", self.run)
    }

    /// Composes message `id` of about `octets` (one of the sizes given to `new`; another is made on the spot).
    #[must_use]
    pub fn compose(&self, id: &str, octets: usize, sender: &str, recipient: &str, sent_ns: u64) -> Composed {
        let made;
        let filler = match self.fillers.get(&octets) {
            Some(filler) => filler,
            None => {
                made = Filler::new(octets);
                &made
            }
        };
        let last = format!("end of {id}\r\n");
        let mut hash = filler.hash.clone();
        hash.update(last.as_bytes());
        let hash = hex(&hash.finalize());
        let mut wire = String::with_capacity(MESSAGE_OCTETS_MIN + sender.len() + recipient.len());
        let date = &self.date;
        // Writing to a String cannot fail.
        let _ = write!(
            wire,
            "From: <{sender}>\r\nTo: <{recipient}>\r\nDate: {date}\r\nMessage-ID: <{id}@load.test>\r\n\
             Subject: load {id}\r\nX-Load-Id: {id}\r\nX-Load-Sent-Ns: {sent_ns:020}\r\nX-Load-Sha256: {hash}\r\n\r\n"
        );
        let mut wire = wire.into_bytes();
        wire.reserve(filler.wire.len() + last.len() + 3);
        wire.extend_from_slice(&filler.wire);
        wire.extend_from_slice(last.as_bytes());
        wire.extend_from_slice(b".\r\n");
        Composed { wire, sent_ns }
    }
}

impl Filler {
    fn new(octets: usize) -> Self {
        let mut filler = Vec::with_capacity(octets);
        let want = octets.saturating_sub(MESSAGE_OCTETS_MIN - 128);
        let mut number = 0_usize;
        while filler.len() < want {
            // Every sixteenth line begins with a dot: transparency is part of every test.
            let lead = if number % 16 == 7 { "." } else { "" };
            let line =
                format!("{lead}{number:08} {}\r\n", "the quick brown fox jumps over the lazy dog, twice");
            let room = want - filler.len();
            if room < line.len() {
                filler.extend_from_slice("-".repeat(room.saturating_sub(2)).as_bytes());
                filler.extend_from_slice(b"\r\n");
            } else {
                filler.extend_from_slice(line.as_bytes());
            }
            number += 1;
        }
        let mut hash = Sha256::new();
        hash.update(&filler);
        let mut wire = with_dots(&filler);
        wire.truncate(wire.len() - b".\r\n".len());
        Self { wire, hash }
    }
}

/// Whether a body is what its sender made.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Integrity {
    /// The hash in the header is that of the body.
    Intact,
    /// It is not.
    Damaged,
    /// No hash in the header, or not asked for.
    Unknown,
}

/// Reads a message while it arrives and finds what [`Composer`] wrote into it.
#[derive(Debug)]
pub struct Inspector {
    header: Vec<u8>,
    header_ended: bool,
    hash: Option<Sha256>,
    octets: u64,
    kept: Option<Vec<u8>>,
}

/// What [`Inspector`] found.
#[derive(Debug)]
pub struct Inspected {
    /// `X-Load-Id`, when there is one.
    pub load_id: Option<String>,
    /// `X-Load-Sent-Ns`, when there is one.
    pub sent_ns: Option<u64>,
    /// The judgement on the body.
    pub integrity: Integrity,
    /// Octets of header and body.
    pub octets: u64,
    /// Header and body, when they were to be kept.
    pub content: Option<Vec<u8>>,
}

impl Inspector {
    /// An inspector for one message. `verify`: compute the hash of the body; `keep`: hold on to the whole content.
    #[must_use]
    pub fn new(verify: bool, keep: bool) -> Self {
        let hash = verify.then(Sha256::new);
        Self { header: Vec::new(), header_ended: false, hash, octets: 0, kept: keep.then(Vec::new) }
    }

    /// Takes the next octets of the content, without transparency.
    pub fn take(&mut self, octets: &[u8]) {
        self.octets += octets.len() as u64;
        if let Some(kept) = &mut self.kept {
            kept.extend_from_slice(octets);
        }
        if self.header_ended {
            if let Some(hash) = &mut self.hash {
                hash.update(octets);
            }
            return;
        }
        // The empty line may be cut between two calls: look again from three octets before the seam.
        let from = self.header.len().saturating_sub(3);
        self.header.extend_from_slice(octets);
        let seen = &self.header[from..];
        if let Some(at) = seen.windows(4).position(|octets| octets == b"\r\n\r\n") {
            self.header_ended = true;
            let body = self.header.split_off(from + at + 4);
            if let Some(hash) = &mut self.hash {
                hash.update(&body);
            }
        } else if self.header.len() > HEADER_OCTETS_MAX {
            self.header.clear();
            self.header_ended = true;
            self.hash = None;
        }
    }

    /// Ends the message.
    #[must_use]
    pub fn finish(self) -> Inspected {
        let expected = field(&self.header, "X-Load-Sha256");
        let hash = self.hash.map(|hash| hex(&hash.finalize()));
        let integrity = match (hash, expected) {
            (Some(hash), Some(expected)) if hash == expected => Integrity::Intact,
            (Some(_), Some(_)) => Integrity::Damaged,
            _ => Integrity::Unknown,
        };
        Inspected {
            load_id: field(&self.header, "X-Load-Id").map(str::to_owned),
            sent_ns: field(&self.header, "X-Load-Sent-Ns").and_then(|text| text.parse().ok()),
            integrity,
            octets: self.octets,
            content: self.kept,
        }
    }
}

/// The value of the first header field of that name, without surrounding space. Folded values are not put together: the
/// fields looked for here are short.
fn field<'a>(header: &'a [u8], name: &str) -> Option<&'a str> {
    header.split(|&octet| octet == b'\n').find_map(|line| {
        let (head, value) = line.split_at_checked(name.len() + 1)?;
        let head = head.strip_suffix(b":")?;
        head.eq_ignore_ascii_case(name.as_bytes()).then(|| std::str::from_utf8(value).ok())?.map(str::trim)
    })
}

fn hex(octets: &[u8]) -> String {
    const DIGITS: &[u8; 16] = b"0123456789abcdef";
    octets
        .iter()
        .flat_map(|&octet| [DIGITS[usize::from(octet >> 4)], DIGITS[usize::from(octet & 15)]])
        .map(char::from)
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::wire::DotReader;

    fn received(wire: &[u8], piece_octets: usize) -> Inspected {
        let mut reader = DotReader::default();
        let mut inspector = Inspector::new(true, true);
        inspector.take(b"Received: from here\r\n by there\r\n");
        let ended = wire.chunks(piece_octets).map(|piece| reader.take(piece, |o| inspector.take(o)).ended);
        assert_eq!(ended.filter(|&ended| ended).count(), 1);
        inspector.finish()
    }

    #[test]
    fn a_message_is_known_and_whole_however_it_is_cut() {
        let composer = Composer::new("run", &[4096]);
        let composed = composer.compose("run-00000007", 4096, "a@load.test", "b@load.test", 17);
        for piece_octets in [1, 2, 3, 5, 64, 1000, 100_000] {
            let inspected = received(&composed.wire, piece_octets);
            assert_eq!(inspected.load_id.as_deref(), Some("run-00000007"));
            assert_eq!(inspected.sent_ns, Some(17));
            assert_eq!(inspected.integrity, Integrity::Intact);
        }
    }

    #[test]
    fn one_changed_octet_in_the_body_is_damage() {
        let composer = Composer::new("run", &[]);
        let mut wire = composer.compose("run-00000001", 2048, "a@load.test", "b@load.test", 1).wire;
        let at = wire.len() - 10;
        wire[at] ^= 1;
        assert_eq!(received(&wire, 100).integrity, Integrity::Damaged);
    }

    #[test]
    fn a_message_is_about_as_large_as_asked_for() {
        for octets in [512, 1024, 4096, 65536, 1 << 20] {
            let composer = Composer::new("0123456789", &[octets]);
            let wire =
                composer.compose(&composer.id(1), octets, "source@load.test", "user1@smtp.test", 1).wire;
            let got = usize::try_from(received(&wire, 4096).octets).unwrap();
            assert!(got.abs_diff(octets) < 128, "{octets} became {got}");
        }
    }

    #[test]
    fn a_message_from_elsewhere_has_no_id_and_unknown_integrity() {
        let mut inspector = Inspector::new(true, false);
        inspector.take(b"Subject: x\r\n\r\nbody\r\n");
        let inspected = inspector.finish();
        assert_eq!(inspected.load_id, None);
        assert_eq!(inspected.integrity, Integrity::Unknown);
        assert_eq!(inspected.octets, 20);
    }
}
