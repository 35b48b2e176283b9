//! Who may authenticate to a listener: names, verifiers of passwords, certificates, and the senders that each may use.
//!
//! A verifier is a secret: with it a password can be guessed, and a server be played. It is stored in the directory, goes to
//! `smtp-server` alone, and is never shown: not in a problem, not in the configuration that an operator asks for.
//!
//! Judged here is the form of RFC 5803 alone; what is done with a verifier is `sasl`'s.

use crate::reader::Reader;
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use serde::{Deserialize, Deserializer, Serialize, Serializer};
use std::collections::BTreeSet;
use std::fmt;
use std::str::FromStr;
use sternpost_message::SenderPattern;

/// The fewest iterations (RFC 7677, section 4), and the most: deriving a key holds up every session of the process, by some
/// 20 ms at the most.
const ITERATIONS: std::ops::RangeInclusive<u32> = 4_096..=100_000;
/// The salt of a verifier, in octets.
const SALT_OCTETS: std::ops::RangeInclusive<usize> = 8..=64;
/// The longest text of a verifier, in octets.
const VERIFIER_OCTETS_MAX: usize = 512;
/// The longest name, in octets (RFC 4616, section 2).
const NAME_OCTETS_MAX: usize = 255;

/// Somebody who may authenticate.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct User {
    /// The entry's name, by which the switch speaks of the user.
    pub name: String,
    /// What the user calls itself in AUTH: printable US-ASCII without a space, in small letters; no two users have the same.
    /// Default the entry's name.
    pub user_name: String,
    /// Of the password, one for each hash. Without one there is no password.
    pub verifiers: Vec<Verifier>,
    /// The certificates by which it is known.
    pub certificates: Vec<CertificateName>,
    /// What it may send as, besides the null sender. Default nothing.
    pub senders: Vec<SenderPattern>,
}

/// The stored keys of a password, as text: `SCRAM-SHA-256$4096:salt$stored:server` (RFC 5803).
#[derive(Clone, PartialEq, Eq)]
pub struct Verifier(String);

impl Verifier {
    /// The text: a secret.
    #[must_use]
    pub fn secret_text(&self) -> &str {
        &self.0
    }

    /// The mechanism that it is for.
    #[must_use]
    pub fn mechanism(&self) -> &str {
        self.0.split('$').next().unwrap_or_default()
    }
}

impl FromStr for Verifier {
    /// What is wrong, as the end of a sentence. No part of the text is repeated.
    type Err = &'static str;

    fn from_str(text: &str) -> Result<Self, &'static str> {
        const FORM: &str =
            "is no verifier of the form SCRAM-SHA-256$ITERATIONS:SALT$STOREDKEY:SERVERKEY (RFC 5803)";
        if text.len() > VERIFIER_OCTETS_MAX {
            return Err(FORM);
        }
        let mut parts = text.split('$');
        let (Some(mechanism), Some(info), Some(keys), None) =
            (parts.next(), parts.next(), parts.next(), parts.next())
        else {
            return Err(FORM);
        };
        let key_octets = match mechanism {
            "SCRAM-SHA-256" => 32,
            "SCRAM-SHA-512" => 64,
            _ => return Err("is a verifier of another mechanism than SCRAM-SHA-256 and SCRAM-SHA-512"),
        };
        let ((iterations, salt), (stored, server)) =
            info.split_once(':').zip(keys.split_once(':')).ok_or(FORM)?;
        let is_number = !iterations.is_empty() && iterations.bytes().all(|octet| octet.is_ascii_digit());
        let iterations: u32 = iterations.parse().ok().filter(|_| is_number).ok_or(FORM)?;
        if !ITERATIONS.contains(&iterations) {
            return Err("is a verifier with fewer than 4096 iterations, or more than 100000");
        }
        if !STANDARD.decode(salt).is_ok_and(|salt| SALT_OCTETS.contains(&salt.len())) {
            return Err("is a verifier whose salt is not base64 of 8 to 64 octets");
        }
        let is_key = |text: &str| STANDARD.decode(text).is_ok_and(|key| key.len() == key_octets);
        if !is_key(stored) || !is_key(server) {
            return Err(
                "is a verifier whose keys are not base64 of the right length: it was not copied whole",
            );
        }
        Ok(Self(text.to_owned()))
    }
}

impl fmt::Debug for Verifier {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Verifier({}, not shown)", self.mechanism())
    }
}

/// Whole between processes; for people only its mechanism.
impl Serialize for Verifier {
    fn serialize<S: Serializer>(&self, to: S) -> Result<S::Ok, S::Error> {
        if to.is_human_readable() {
            to.collect_str(&format_args!("{}, not shown", self.mechanism()))
        } else {
            self.0.serialize(to)
        }
    }
}

impl<'de> Deserialize<'de> for Verifier {
    fn deserialize<D: Deserializer<'de>>(from: D) -> Result<Self, D::Error> {
        String::deserialize(from)?.parse().map_err(serde::de::Error::custom)
    }
}

/// The key by which unknown users are concealed: `sasl` makes verifiers for names that nobody has with it. Never shown.
#[derive(Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct ConcealmentSecret(pub [u8; 32]);

impl fmt::Debug for ConcealmentSecret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("ConcealmentSecret(not shown)")
    }
}

/// What tells a user by its certificate: that very one, or a name among its subjectAltNames that an authority vouches for.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub enum CertificateName {
    /// SHA-256 of the certificate in DER; written `sha256:` and 64 hexadecimal digits, colons between pairs as openssl has them.
    Sha256([u8; 32]),
    /// An rfc822Name, in small letters; written `email:`.
    Email(String),
    /// A dNSName, in small letters; written `dns:`.
    Dns(String),
}

impl FromStr for CertificateName {
    type Err = ();

    fn from_str(text: &str) -> Result<Self, ()> {
        let (kind, value) = text.split_once(':').ok_or(())?;
        let is_name = (1..=254).contains(&value.len()) && value.bytes().all(|octet| octet.is_ascii_graphic());
        match kind.to_ascii_lowercase().as_str() {
            "sha256" => sha256(value).map(Self::Sha256).ok_or(()),
            "email" if is_name && value.contains('@') => Ok(Self::Email(value.to_ascii_lowercase())),
            "dns" if is_name && !value.contains(['@', '*', '/']) => Ok(Self::Dns(value.to_ascii_lowercase())),
            _ => Err(()),
        }
    }
}

fn sha256(text: &str) -> Option<[u8; 32]> {
    let digits: Vec<u8> = text.bytes().filter(|octet| *octet != b':').collect();
    if digits.len() != 64 {
        return None;
    }
    let mut octets = [0; 32];
    for (octet, pair) in octets.iter_mut().zip(digits.chunks(2)) {
        let digit = |at: usize| char::from(pair[at]).to_digit(16);
        *octet = u8::try_from(digit(0)? << 4 | digit(1)?).ok()?;
    }
    Some(octets)
}

struct UserName(String);

impl FromStr for UserName {
    type Err = ();

    fn from_str(text: &str) -> Result<Self, ()> {
        let is_good =
            (1..=NAME_OCTETS_MAX).contains(&text.len()) && text.bytes().all(|octet| octet.is_ascii_graphic());
        if is_good { Ok(Self(text.to_ascii_lowercase())) } else { Err(()) }
    }
}

/// Reads an entry. `taken` has the names in AUTH of those that were read before.
pub(crate) fn user(reader: &mut Reader<'_>, taken: &mut BTreeSet<String>) -> Option<User> {
    const NAME: &str =
        "Give 1 to 255 printable characters of US-ASCII without a blank, such as alice or alice@example.org.";
    const CERTIFICATE: &str = "Give email:alice@example.org, dns:client.example.org, or sha256: and the 64 hexadecimal digits of the certificate.";
    const SENDER: &str = "Give a mailbox, or an at sign and a domain, such as @example.org.";
    let name = reader.name();
    let user_name: Option<UserName> = reader.one_if_any("user_name", NAME);
    let user_name = user_name.map_or_else(|| name.to_ascii_lowercase(), |UserName(name)| name);
    let user = User {
        verifiers: reader.verifiers("user_verifiers"),
        certificates: reader.many("user_certificates", CERTIFICATE),
        senders: reader.many("user_senders", SENDER),
        name,
        user_name,
    };
    if !taken.insert(user.user_name.clone()) {
        reader.wrong(
            Some("sternpostUserName"),
            format!("there is another user that calls itself {:?}", user.user_name),
            "Give each user its own name, or remove one.",
        );
    }
    if user.verifiers.is_empty() && user.certificates.is_empty() {
        reader.note(
            None,
            "it has neither a verifier nor a certificate, so nobody can authenticate as it".into(),
            "Make a verifier of its password with sternpost verifier, or name its certificate.",
            crate::Effect::Ignored,
        );
    }
    Some(user)
}

#[cfg(test)]
mod tests {
    use super::*;

    const GOOD: &str = "SCRAM-SHA-256$4096:W22ZaJ0SNY7soEsUEjb6gQ==$\
                        WG5d8oPm3OtcPnkdi4Uo7BkeZkBFzpcXkuLmtbsT4qY=:wfPLwcE6nTWhTAmQ7tl2KeoiWGPlZqQxSrmfPwDl2dU=";

    #[test]
    fn a_verifier_is_read_and_never_shown() {
        let verifier: Verifier = GOOD.parse().unwrap();
        assert_eq!((verifier.secret_text(), verifier.mechanism()), (GOOD, "SCRAM-SHA-256"));
        for shown in [
            format!("{verifier:?}"),
            toml::to_string(&[("x", &verifier)].into_iter().collect::<std::collections::BTreeMap<_, _>>())
                .unwrap(),
        ] {
            assert!(
                shown.contains("SCRAM-SHA-256") && !shown.contains("W22Z") && !shown.contains("WG5d"),
                "{shown}"
            );
        }
        let octets = postcard::to_stdvec(&verifier).unwrap();
        assert_eq!(postcard::from_bytes::<Verifier>(&octets).unwrap(), verifier);
    }

    #[test]
    fn what_is_no_verifier_is_refused_in_words_that_repeat_nothing_of_it() {
        let texts = [
            "correct horse".to_owned(),
            "{SSHA}W22ZaJ0SNY7soEsUEjb6gQ==".to_owned(),
            GOOD.replace("SHA-256", "SHA-1"),
            GOOD.replace("4096", "4095"),
            GOOD.replace("4096", "100001"),
            GOOD.replace("4096", "+4096"),
            GOOD.replace("W22ZaJ0SNY7soEsUEjb6gQ==", "W22Z"),
            GOOD.replace("wfPL", ""),
            GOOD.replace("SHA-256", "SHA-512"),
            format!("{GOOD}$"),
            "x".repeat(1000),
        ];
        for text in texts {
            let why = text.parse::<Verifier>().unwrap_err();
            assert!(!why.contains("horse") && !why.contains("W22Z"), "{text}: {why}");
        }
    }

    #[test]
    fn a_certificate_is_named_by_its_hash_or_by_a_name_in_it() {
        let digits = "0123456789ABCDEF".repeat(4);
        let with_colons: Vec<&str> = (0..32).map(|at| &digits[2 * at..2 * at + 2]).collect();
        let read = |text: &str| text.parse::<CertificateName>();
        assert_eq!(
            read(&format!("sha256:{digits}")),
            read(&format!("SHA256:{}", with_colons.join(":").to_lowercase()))
        );
        assert_eq!(read("email:Alice@Example.org"), Ok(CertificateName::Email("alice@example.org".into())));
        assert_eq!(read("dns:client.example.org"), Ok(CertificateName::Dns("client.example.org".into())));
        for text in [
            "",
            "alice@example.org",
            "email:alice",
            "dns:*.example.org",
            "dns:",
            "sha256:00",
            "CN=alice",
            "uri:x",
        ] {
            assert_eq!(read(text), Err(()), "{text}");
        }
    }
}
