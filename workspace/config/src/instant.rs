//! Instants of the wall clock as directories and people write them.

use std::str::FromStr;

use serde::{Deserialize, Deserializer, Serialize, Serializer, de::Error as _};
use sternpost_message::UnixMillis;
use time::OffsetDateTime;
use time::format_description::well_known::Rfc3339;

/// An instant, written as Generalized Time (RFC 4517, 3.3.13: `20261123180000Z`; minutes and seconds may be missing, an
/// offset may stand for the Z) or as RFC 3339 has it (`2026-11-23T18:00:00Z`). Not before 1970.
/// Formats for people have it as RFC 3339 in UTC, others as milliseconds.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Instant(pub UnixMillis);

impl Serialize for Instant {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let nanoseconds = i128::from(self.0.0) * 1_000_000;
        let text = OffsetDateTime::from_unix_timestamp_nanos(nanoseconds).ok();
        match text.and_then(|time| time.format(&Rfc3339).ok()) {
            Some(text) if serializer.is_human_readable() => serializer.serialize_str(&text),
            _ => self.0.serialize(serializer),
        }
    }
}

impl<'de> Deserialize<'de> for Instant {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        if deserializer.is_human_readable() {
            String::deserialize(deserializer)?.parse().map_err(D::Error::custom)
        } else {
            UnixMillis::deserialize(deserializer).map(Self)
        }
    }
}

impl FromStr for Instant {
    type Err = &'static str;

    fn from_str(text: &str) -> Result<Self, &'static str> {
        const WANTED: &str = "a time such as 20261123180000Z or 2026-11-23T18:00:00Z";
        let expanded = generalized(text);
        let time =
            OffsetDateTime::parse(expanded.as_deref().unwrap_or(text), &Rfc3339).map_err(|_| WANTED)?;
        let millis = u64::try_from(time.unix_timestamp_nanos() / 1_000_000).map_err(|_| WANTED)?;
        Ok(Self(UnixMillis(millis)))
    }
}

/// Generalized Time as RFC 3339 has it, if it looks like one: what the digits mean is for the library to say.
/// A fraction is one of a second; those of hours and minutes, which no server writes, are not known.
fn generalized(text: &str) -> Option<String> {
    let digits_count = text.bytes().take_while(u8::is_ascii_digit).count();
    let (digits, rest) = text.split_at_checked(digits_count)?;
    let (minute, second) = match digits_count {
        10 => ("00", "00"),
        12 => (&digits[10..12], "00"),
        14 => (&digits[10..12], &digits[12..14]),
        _ => return None,
    };
    let zone_at = rest.find(['Z', '+', '-'])?;
    let (fraction, zone) = rest.split_at_checked(zone_at)?;
    if !(fraction.is_empty() || digits_count == 14) {
        return None;
    }
    let fraction = fraction.replace(',', ".");
    let offset = match zone.len() {
        1 if zone == "Z" => zone.to_owned(),
        3 => format!("{zone}:00"),
        5 if zone.is_ascii() => format!("{}:{}", &zone[..3], &zone[3..]),
        _ => return None,
    };
    let (year, month, day, hour) = (&digits[..4], &digits[4..6], &digits[6..8], &digits[8..10]);
    Some(format!("{year}-{month}-{day}T{hour}:{minute}:{second}{fraction}{offset}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn both_forms_are_read() {
        let rows = [
            ("20261123180000Z", 1_795_456_800_000),
            ("202611231800Z", 1_795_456_800_000),
            ("2026112318Z", 1_795_456_800_000),
            ("20261123190000+01", 1_795_456_800_000),
            ("20261123193000+0130", 1_795_456_800_000),
            ("20261123180000.5Z", 1_795_456_800_500),
            ("20261123180000,25Z", 1_795_456_800_250),
            ("2026-11-23T18:00:00Z", 1_795_456_800_000),
            ("2026-11-23T19:00:00+01:00", 1_795_456_800_000),
            ("19700101000000Z", 0),
        ];
        for (text, millis) in rows {
            assert_eq!(text.parse(), Ok(Instant(UnixMillis(millis))), "{text}");
        }
    }

    #[test]
    fn what_is_no_time_is_refused() {
        let rows = [
            "",
            "Z",
            "20261123180000",
            "20261323180000Z",
            "20260230000000Z",
            "20261123250000Z",
            "19691231235959Z",
            "2026112318.5Z",
            "20261123180000Zulu",
            "20261123180000+0",
            "20261123180000+1é",
            "tomorrow",
            "2026-11-23",
            "20261123180000..Z",
            "202611231Z",
        ];
        for text in rows {
            assert!(text.parse::<Instant>().is_err(), "{text}");
        }
    }
}
