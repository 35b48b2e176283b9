//! Identifiers: which message, which Mlist, which recipients, and when.

use serde::{Deserialize, Serialize};
use std::fmt;
use std::str::FromStr;

/// Milliseconds since 1970-01-01T00:00:00Z. The switch keeps wall-clock instants in this unit and no other.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct UnixMillis(pub u64);

impl UnixMillis {
    /// This instant plus `milliseconds`; stays at the end of time rather than wrap.
    #[must_use]
    pub const fn plus_ms(self, milliseconds: u64) -> Self {
        Self(self.0.saturating_add(milliseconds))
    }

    /// Milliseconds from `earlier` to this instant; zero when the clock was set back.
    #[must_use]
    pub const fn since_ms(self, earlier: Self) -> u64 {
        self.0.saturating_sub(earlier.0)
    }
}

/// The name of a message in the switch: 128 random bits made by the process that accepts it.
///
/// It is also the id of the append that commits the message, by which the store recognises a repetition.
/// People see it as 32 lower-case hexadecimal digits (the *queue id* of the trace header and of `queue show`).
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct MessageId(pub [u8; 16]);

impl fmt::Display for MessageId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.iter().try_for_each(|octet| write!(f, "{octet:02x}"))
    }
}

impl fmt::Debug for MessageId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl FromStr for MessageId {
    type Err = &'static str;

    /// # Errors
    /// A sentence when the text is not 32 hexadecimal digits.
    fn from_str(text: &str) -> Result<Self, Self::Err> {
        const WANTED: &str = "a queue id has 32 hexadecimal digits";
        if text.len() != 32 || !text.bytes().all(|octet| octet.is_ascii_hexdigit()) {
            return Err(WANTED);
        }
        let mut id = [0; 16];
        for (at, octet) in id.iter_mut().enumerate() {
            *octet = u8::from_str_radix(&text[at * 2..at * 2 + 2], 16).map_err(|_| WANTED)?;
        }
        Ok(Self(id))
    }
}

/// The place of a message in the order in which one log took envelopes: given by the store, kept for the life of the message
/// (also when reclaim moves it), never given twice. An urgent one may be durable before one with a lower place. Starts at 1.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct MessageSequence(pub u64);

impl fmt::Display for MessageSequence {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// The position of a recipient in its envelope.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct RecipientIndex(pub u32);

/// Consecutive recipients of one envelope: `first .. first + count`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct RecipientRange {
    /// The first recipient.
    pub first: u32,
    /// How many; at least 1.
    pub count: u32,
}

impl RecipientRange {
    /// All recipients of an envelope, however many it has.
    pub const EVERYBODY: Self = Self { first: 0, count: u32::MAX };

    /// One past the last recipient; stays at the largest index rather than wrap.
    #[must_use]
    pub const fn end(self) -> u32 {
        self.first.saturating_add(self.count)
    }

    /// Whether `index` lies in the range.
    #[must_use]
    pub const fn contains(self, index: RecipientIndex) -> bool {
        index.0 >= self.first && index.0 < self.end()
    }

    /// Packs ascending indexes into the fewest ranges.
    #[must_use]
    pub fn pack(indexes: impl IntoIterator<Item = RecipientIndex>) -> Vec<Self> {
        let mut ranges: Vec<Self> = Vec::new();
        for index in indexes {
            match ranges.last_mut() {
                Some(last) if last.end() == index.0 => last.count += 1,
                _ => ranges.push(Self { first: index.0, count: 1 }),
            }
        }
        ranges
    }
}

/// The position of a route (channel and peer MTA) in its envelope's list of routes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct RouteIndex(pub u16);

/// The route of the Mlist by which `housekeeper` makes the last report on a recipient: of a failure or of a success. Never in
/// an envelope.
pub const ROUTE_FINAL_REPORT: RouteIndex = RouteIndex(u16::MAX);
/// The route of the Mlist by which `housekeeper` makes a delay report. Never in an envelope.
pub const ROUTE_DELAY_REPORT: RouteIndex = RouteIndex(u16::MAX - 1);

/// The name of an Mlist: the recipients of one message that share a route. It survives restarts of every process,
/// because both halves stand in the log.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct MlistId {
    /// The message.
    pub message: MessageSequence,
    /// The route in the envelope, or one of the two report routes.
    pub route: RouteIndex,
}

impl fmt::Display for MlistId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.route {
            ROUTE_FINAL_REPORT => write!(f, "{}/final-report", self.message),
            ROUTE_DELAY_REPORT => write!(f, "{}/delay-report", self.message),
            RouteIndex(route) => write!(f, "{}/{route}", self.message),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_queue_id_survives_being_read_out_and_typed_in() {
        let id = MessageId([0x0f; 16]);
        assert_eq!(id.to_string().parse(), Ok(id));
        assert!("0f".parse::<MessageId>().is_err());
        assert!("é".repeat(16).parse::<MessageId>().is_err());
    }

    #[test]
    fn ascending_indexes_pack_into_the_fewest_ranges() {
        let packed = RecipientRange::pack([0, 1, 2, 5, 7, 8].map(RecipientIndex));
        let pairs: Vec<_> = packed.iter().map(|range| (range.first, range.count)).collect();
        assert_eq!(pairs, [(0, 3), (5, 1), (7, 2)]);
    }
}
