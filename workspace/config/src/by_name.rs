//! A precedence as people read it: by its name where the format is for people, as a number elsewhere.

use serde::{Deserialize as _, Deserializer, Serialize as _, Serializer, de::Error as _};
use sternpost_message::Precedence;

pub(crate) fn serialize<S: Serializer>(precedence: &Precedence, serializer: S) -> Result<S::Ok, S::Error> {
    if serializer.is_human_readable() {
        serializer.serialize_str(precedence.name())
    } else {
        precedence.serialize(serializer)
    }
}

pub(crate) fn deserialize<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Precedence, D::Error> {
    if deserializer.is_human_readable() {
        String::deserialize(deserializer)?.parse().map_err(D::Error::custom)
    } else {
        Precedence::deserialize(deserializer)
    }
}
