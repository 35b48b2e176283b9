//! Certificates that vouch for others: how the text of a value becomes DER.
//!
//! Judged here is the form alone: PEM or base64, and one DER value of the right length in each certificate. What stands in a
//! certificate (names, dates, signatures) is for who uses it. They are public; a private key among them is refused and
//! never repeated in a message.

use crate::ldif::base64;
use rustls_pki_types::CertificateDer;
use rustls_pki_types::pem::PemObject as _;
use serde::{Deserialize, Serialize};

/// The largest certificate: 64 KiB. One with thousands of names has less.
pub(crate) const CERTIFICATE_OCTETS_MAX: usize = 65_536;
/// The most certificates of an entry. The lists that come with systems have less than 200.
pub(crate) const CERTIFICATES_MAX: usize = 1_000;

/// Whose word counts about who a peer or a client is.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Trust {
    /// Its name, which listeners and peers refer to.
    pub name: String,
    /// X.509 certificates in DER, each once: 0 to 1,000 of 65,536 octets at most. None where no value can be read: such an
    /// entry vouches for nobody.
    #[serde(with = "as_text")]
    pub certificates: Vec<Vec<u8>>,
}

/// Whose word counts in one place.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub enum TrustScope {
    /// Every trust entry's.
    #[default]
    All,
    /// That of these entries. Nobody's where there is none.
    Named(Vec<String>),
}

impl TrustScope {
    /// Whether the word of the entry of that name counts.
    #[must_use]
    pub fn holds(&self, name: &str) -> bool {
        match self {
            Self::All => true,
            Self::Named(names) => names.iter().any(|named| named == name),
        }
    }

    /// The certificates of the entries that count, in DER. One that stands in two entries comes twice.
    pub fn certificates<'a>(&'a self, trusts: &'a [Trust]) -> impl Iterator<Item = &'a [u8]> {
        let counting = trusts.iter().filter(|trust| self.holds(&trust.name));
        counting.flat_map(|trust| trust.certificates.iter().map(Vec::as_slice))
    }
}

/// Why a value is no list of certificates. No text of the value is repeated, but for the label of a section.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub(crate) enum CertificateError {
    /// Somebody put a secret into the directory.
    #[error("holds a private key")]
    PrivateKey,
    /// A request, a list of revocations, a key.
    #[error("holds a section {0:?}, which is no certificate")]
    Section(String),
    /// No base64, or no end of a section.
    #[error("is neither PEM nor base64")]
    Encoding,
    /// Not one SEQUENCE that begins with a SEQUENCE, or not all of it.
    #[error("holds what is no certificate in DER, or only a part of one")]
    Der,
    /// Beyond [`CERTIFICATE_OCTETS_MAX`].
    #[error("holds a certificate of {0} octets; {CERTIFICATE_OCTETS_MAX} are the most")]
    Octets(usize),
}

const BEGIN: &str = "-----BEGIN CERTIFICATE-----";
const END: &str = "-----END CERTIFICATE-----";

/// The certificates of one value, in DER: at least one.
///
/// PEM may stand on one line (RFC 2849 folds lines, and what a client puts together again has no ends of lines), and
/// other text may stand before and behind its sections.
///
/// # Errors
/// Whatever is not as it should be makes the whole value unreadable.
pub(crate) fn certificates(value: &str) -> Result<Vec<Vec<u8>>, CertificateError> {
    let labels =
        value.split("-----BEGIN ").skip(1).map(|rest| rest.split("-----").next().unwrap_or_default());
    for label in labels.clone() {
        if label.contains("PRIVATE KEY") {
            return Err(CertificateError::PrivateKey);
        }
        if label != "CERTIFICATE" {
            let line = label.lines().next().unwrap_or_default();
            return Err(CertificateError::Section(line.chars().take(40).collect()));
        }
    }
    let sections = labels.count();
    let pem = if sections == 0 {
        format!("{BEGIN}\n{value}\n{END}\n")
    } else {
        value.replace(BEGIN, &format!("\n{BEGIN}\n")).replace(END, &format!("\n{END}\n"))
    };
    let read: Result<Vec<_>, _> = CertificateDer::pem_slice_iter(pem.as_bytes()).collect();
    let read = read.map_err(|_| CertificateError::Encoding)?;
    if read.len() != sections.max(1) {
        return Err(CertificateError::Encoding);
    }
    read.into_iter()
        .map(|certificate| match certificate.as_ref() {
            der if der.len() > CERTIFICATE_OCTETS_MAX => Err(CertificateError::Octets(der.len())),
            der if !is_certificate_shaped(der) => Err(CertificateError::Der),
            der => Ok(der.to_vec()),
        })
        .collect()
}

/// Whether these octets are one SEQUENCE, whole and with nothing behind it, whose first member is a SEQUENCE: the
/// outermost of `Certificate` and `tbsCertificate` (RFC 5280, 4.1). A private key begins with a number.
fn is_certificate_shaped(der: &[u8]) -> bool {
    const SEQUENCE: u8 = 0x30;
    let [SEQUENCE, first, rest @ ..] = der else { return false };
    // X.690, 10.1: the length is definite, in as few octets as it needs.
    let (length, content) = match *first {
        short @ 0..=0x7F => (usize::from(short), rest),
        long @ 0x81..=0x83 => match rest.split_at_checked(usize::from(long & 0x7F)) {
            Some((octets, content)) if octets[0] != 0 => {
                (octets.iter().fold(0, |length, octet| length << 8 | usize::from(*octet)), content)
            }
            _ => return false,
        },
        _ => return false,
    };
    let is_shortest = length > 0x7F || *first <= 0x7F;
    is_shortest && content.len() == length && content.first() == Some(&SEQUENCE)
}

/// Base64 where the format is for people, octets elsewhere.
mod as_text {
    use super::base64;
    use serde::{Deserialize as _, Deserializer, Serialize as _, Serializer, de::Error as _};

    pub(super) fn serialize<S: Serializer>(certificates: &[Vec<u8>], to: S) -> Result<S::Ok, S::Error> {
        if to.is_human_readable() {
            to.collect_seq(certificates.iter().map(|der| base64(der)))
        } else {
            certificates.serialize(to)
        }
    }

    pub(super) fn deserialize<'de, D: Deserializer<'de>>(from: D) -> Result<Vec<Vec<u8>>, D::Error> {
        if !from.is_human_readable() {
            return Vec::deserialize(from);
        }
        let texts = Vec::<String>::deserialize(from)?;
        let read: Result<Vec<_>, _> = texts.iter().map(|text| super::certificates(text)).collect();
        Ok(read.map_err(D::Error::custom)?.concat())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    /// The smallest that has the shape.
    const SMALL: &str = "MAMwAQA=";

    /// A SEQUENCE that begins with a SEQUENCE and has so many octets in all, at least 300.
    fn shaped(octets: usize) -> Vec<u8> {
        let content = octets - 4;
        let mut der =
            vec![0x30, 0x82, u8::try_from(content >> 8).unwrap(), u8::try_from(content & 255).unwrap()];
        der.resize(octets, 0x30);
        der
    }

    fn pem(der: &[u8]) -> String {
        format!("{BEGIN}\n{}\n{END}\n", base64(der))
    }

    #[test]
    fn pem_on_many_lines_on_one_line_and_base64_alone_are_the_same() {
        let der = shaped(1_000);
        let text = base64(&der);
        let lines: Vec<&str> = text.as_bytes().chunks(64).map(|line| str::from_utf8(line).unwrap()).collect();
        let rows = [
            format!("{BEGIN}\n{}\n{END}\n", lines.join("\n")),
            format!("{BEGIN}\r\n{}\r\n{END}\r\n", lines.join("\r\n")),
            format!("{BEGIN}{}{END}", lines.join("")),
            format!("{BEGIN} {} {END}", lines.join(" ")),
            format!("subject=CN = Ünser Amt\nissuer=CN = x\n{BEGIN}\n{text}\n{END}\nand so on"),
            text.clone(),
            format!("  {}\n", lines.join("\n ")),
        ];
        for row in rows {
            assert_eq!(certificates(&row).as_ref(), Ok(&vec![der.clone()]), "{row}");
        }
    }

    #[test]
    fn one_value_may_hold_several_certificates_and_all_of_them_must_be_right() {
        let (one, two) = (shaped(300), shaped(400));
        let both = pem(&one) + &pem(&two);
        assert_eq!(certificates(&both), Ok(vec![one.clone(), two]));
        let cut = pem(&one) + BEGIN + "\nMAMw";
        assert_eq!(certificates(&cut), Err(CertificateError::Encoding));
        assert_eq!(certificates(&(pem(&one) + &pem(&one[..299]))), Err(CertificateError::Der));
    }

    #[test]
    fn what_is_no_certificate_is_told_apart_and_no_secret_is_repeated() {
        use CertificateError::{Der, Encoding, Octets, PrivateKey, Section};
        let section = |label: &str| format!("-----BEGIN {label}-----\nU0VDUkVU\n-----END {label}-----\n");
        let rows = [
            (section("PRIVATE KEY"), PrivateKey),
            (section("ENCRYPTED PRIVATE KEY"), PrivateKey),
            (pem(&shaped(300)) + &section("EC PRIVATE KEY"), PrivateKey),
            (section("PRIVATE KEY").replace('\n', ""), PrivateKey),
            ("-----BEGIN PRIVATE KEY\nU0VDUkVU".into(), PrivateKey),
            ("-----BEGIN KEY\nU0VDUkVU".into(), Section("KEY".into())),
            (section("CERTIFICATE REQUEST"), Section("CERTIFICATE REQUEST".into())),
            (section("TRUSTED CERTIFICATE"), Section("TRUSTED CERTIFICATE".into())),
            (String::new(), Der),
            ("to be done!".into(), Encoding),
            ("MAMw".into(), Der),
            (section("CERTIFICATE"), Der),
            // A private key in DER (PKCS #8) begins with its version.
            (base64(&[0x30, 3, 2, 1, 0]), Der),
            // Too long, too short, of no definite length, of a length in more octets than it needs.
            (base64(&[0x30, 3, 0x30, 1, 0, 0]), Der),
            (base64(&[0x30, 4, 0x30, 1, 0]), Der),
            (base64(&[0x30, 0x80, 0x30, 0, 0, 0]), Der),
            (base64(&[0x30, 0x81, 3, 0x30, 1, 0]), Der),
            (base64(&[0x30, 0x82, 0]), Der),
            (base64(&[0x30]), Der),
            (pem(&shaped(CERTIFICATE_OCTETS_MAX + 3)), Octets(CERTIFICATE_OCTETS_MAX + 3)),
        ];
        for (value, error) in rows {
            let found = certificates(&value);
            assert_eq!(found, Err(error), "{value}");
            assert!(!found.unwrap_err().to_string().contains("U0VDUkVU"));
        }
        assert!(certificates(&pem(&shaped(65_535))).is_ok());
        assert_eq!(certificates(SMALL), Ok(vec![vec![0x30, 3, 0x30, 1, 0]]));
    }

    #[test]
    fn certificates_are_text_for_people_and_octets_for_processes() {
        let trust = Trust { name: "partner".into(), certificates: vec![vec![0x30, 3, 0x30, 1, 0]] };
        let text = toml::to_string(&trust).unwrap();
        assert_eq!(text, format!("name = \"partner\"\ncertificates = [\"{SMALL}\"]\n"));
        assert_eq!(toml::from_str::<Trust>(&text).unwrap(), trust);
        let octets = postcard::to_stdvec(&trust).unwrap();
        assert_eq!(octets.len(), 8 + 1 + 1 + 5);
        assert_eq!(postcard::from_bytes::<Trust>(&octets).unwrap(), trust);
    }

    proptest! {
        #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::default() })]

        #[test]
        fn any_text_is_certificates_or_an_error(
            parts in proptest::collection::vec(
                prop_oneof![
                    Just(BEGIN.to_owned()), Just(END.to_owned()), Just(SMALL.to_owned()), Just("\n".to_owned()),
                    "-----(BEGIN|END) .{0,9}", "[A-Za-z0-9+/=]{0,9}", any::<String>(),
                ],
                0..9,
            )
        ) {
            crate::fuzz::fuzz_certificates(parts.concat().as_bytes());
        }
    }

    #[test]
    fn nobody_vouches_where_no_entry_is_named() {
        let of = |name: &str| Trust { name: name.into(), certificates: vec![name.as_bytes().to_vec()] };
        let trusts = [of("a"), of("b")];
        let count = |scope: &TrustScope| scope.certificates(&trusts).count();
        assert_eq!(count(&TrustScope::All), 2);
        assert_eq!(count(&TrustScope::Named(vec!["b".into(), "c".into()])), 1);
        assert_eq!(count(&TrustScope::Named(Vec::new())), 0);
    }
}
