//! The grammar of the messages, checked before `rsasl` sees them: PLAIN (RFC 4616, section 2) and SCRAM (RFC 5802,
//! section 7).
//!
//! Extensions of SCRAM are refused: none is defined, and `rsasl` would leave them out of what is signed. Channel binding is
//! refused, for no mechanism with it is offered.

use crate::Hash;
use base64::Engine;
use base64::engine::general_purpose::STANDARD;

/// The longest nonce that is taken, in octets, and that of both sides together twice as long. Real ones have 18 to 64.
const NONCE_OCTETS_MAX: usize = 256;

/// The longest salt that a client takes, in octets.
const SALT_OCTETS_MAX: usize = 256;

/// A message that is not of the grammar.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Malformed;

/// The message of PLAIN.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Plain<'a> {
    /// Empty where the client says none.
    pub(crate) authorization: &'a str,
    pub(crate) name: &'a str,
}

impl<'a> Plain<'a> {
    pub(crate) fn parse(message: &'a [u8]) -> Result<Self, Malformed> {
        let mut fields = message.split(|&octet| octet == 0);
        let (Some(authorization), Some(name), Some(password), None) =
            (fields.next(), fields.next(), fields.next(), fields.next())
        else {
            return Err(Malformed);
        };
        if name.is_empty() || password.is_empty() {
            return Err(Malformed);
        }
        Ok(Self { authorization: text(authorization)?, name: text(name)? })
    }
}

/// The client's first message of SCRAM.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct ClientFirst {
    /// Empty where the client says none.
    pub(crate) authorization: String,
    pub(crate) name: String,
}

impl ClientFirst {
    pub(crate) fn parse(message: &[u8]) -> Result<Self, Malformed> {
        let mut parts = text(message)?.split(',');
        let (Some("n" | "y"), Some(authorization), Some(name), Some(nonce), None) =
            (parts.next(), parts.next(), parts.next(), parts.next(), parts.next())
        else {
            return Err(Malformed);
        };
        let authorization = match authorization {
            "" => String::new(),
            given => saslname(attribute(given, "a=")?)?,
        };
        let name = saslname(attribute(name, "n=")?)?;
        is_nonce(attribute(nonce, "r=")?, NONCE_OCTETS_MAX)
            .then_some(Self { authorization, name })
            .ok_or(Malformed)
    }
}

/// Whether a message is a client's final one of SCRAM, with a proof of the hash's length.
pub(crate) fn client_final(message: &[u8], hash: Hash) -> Result<(), Malformed> {
    let mut parts = text(message)?.split(',');
    let (Some(binding), Some(nonce), Some(proof), None) =
        (parts.next(), parts.next(), parts.next(), parts.next())
    else {
        return Err(Malformed);
    };
    decoded(attribute(binding, "c=")?)?;
    let proof = decoded(attribute(proof, "p=")?)?;
    let is_good = is_nonce(attribute(nonce, "r=")?, 2 * NONCE_OCTETS_MAX) && proof.len() == hash.key_octets();
    is_good.then_some(()).ok_or(Malformed)
}

/// The iteration count of a server's first message of SCRAM.
pub(crate) fn server_first(message: &[u8]) -> Result<u64, Malformed> {
    let mut parts = text(message)?.split(',');
    let (Some(nonce), Some(salt), Some(iterations), None) =
        (parts.next(), parts.next(), parts.next(), parts.next())
    else {
        return Err(Malformed);
    };
    let salt = decoded(attribute(salt, "s=")?)?;
    if !is_nonce(attribute(nonce, "r=")?, 2 * NONCE_OCTETS_MAX)
        || !(1..=SALT_OCTETS_MAX).contains(&salt.len())
    {
        return Err(Malformed);
    }
    let iterations = attribute(iterations, "i=")?;
    let is_number = !iterations.starts_with('0') && iterations.bytes().all(|octet| octet.is_ascii_digit());
    iterations.parse().ok().filter(|_| is_number).ok_or(Malformed)
}

/// What a server says in the end.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum ServerFinal {
    /// A signature, to be verified.
    Signature,
    /// Why it refuses.
    Error,
}

impl ServerFinal {
    pub(crate) fn parse(message: &[u8], hash: Hash) -> Result<Self, Malformed> {
        let message = text(message)?;
        if message.contains(',') {
            return Err(Malformed);
        }
        if attribute(message, "e=").is_ok_and(|error| !error.is_empty()) {
            return Ok(Self::Error);
        }
        let signature = decoded(attribute(message, "v=")?)?;
        (signature.len() == hash.key_octets()).then_some(Self::Signature).ok_or(Malformed)
    }
}

fn text(octets: &[u8]) -> Result<&str, Malformed> {
    str::from_utf8(octets).map_err(|_| Malformed)
}

fn attribute<'a>(part: &'a str, name: &str) -> Result<&'a str, Malformed> {
    part.strip_prefix(name).ok_or(Malformed)
}

fn decoded(value: &str) -> Result<Vec<u8>, Malformed> {
    STANDARD.decode(value).map_err(|_| Malformed)
}

fn is_nonce(nonce: &str, octets_max: usize) -> bool {
    (1..=octets_max).contains(&nonce.len())
        && nonce.bytes().all(|octet| octet.is_ascii_graphic() && octet != b',')
}

/// `saslname`: a comma is written as `=2C` and an equals sign as `=3D`, in no other way.
fn saslname(value: &str) -> Result<String, Malformed> {
    if value.is_empty() || value.contains('\0') {
        return Err(Malformed);
    }
    let mut pieces = value.split('=');
    let mut name = pieces.next().unwrap_or_default().to_owned();
    for piece in pieces {
        let (character, rest) = match (piece.strip_prefix("2C"), piece.strip_prefix("3D")) {
            (Some(rest), _) => (',', rest),
            (_, Some(rest)) => ('=', rest),
            _ => return Err(Malformed),
        };
        name.push(character);
        name.push_str(rest);
    }
    Ok(name)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_is_read_with_its_commas_and_equals_signs() {
        let first = ClientFirst::parse(b"n,a=x=3D,n=a=2Cb=3D=2Cc,r=abc").unwrap();
        assert_eq!((first.authorization.as_str(), first.name.as_str()), ("x=", "a,b=,c"));
        for name in ["=", "a=2", "a=2c", "a=41", "a==2C"] {
            assert_eq!(ClientFirst::parse(format!("n,,n={name},r=abc").as_bytes()), Err(Malformed), "{name}");
        }
    }

    #[test]
    fn what_is_not_the_grammar_of_scram_is_refused() {
        for message in [
            "",
            ",",
            ",,",
            "n",
            "n,",
            "n,,",
            "n,,,",
            "n,,,,",
            "n,a,n=u,r=x",
            "n,b=c,n=u,r=x",
            "n,,n,r=x",
            "n,,n=,r=x",
            "n,,n=u,r",
            "n,,n=u,r=",
            "n,,n=u,r=x,",
            "n,,n=u,r=x,e=1",
            "n,,m=1,n=u,r=x",
            "p=tls-exporter,,n=u,r=x",
            "p=,,n=u,r=x",
            "q,,n=u,r=x",
            "n,,n=u,r= ",
            "n,,n=u\0,r=x",
        ] {
            assert_eq!(ClientFirst::parse(message.as_bytes()), Err(Malformed), "{message}");
        }
        for message in
            ["", "c", "c=biws", "c=biws,r=x", "c=biws,,p=", "c=biws,r=x,,p=eA==", "c=biws,r=x,p=eA=="]
        {
            assert_eq!(client_final(message.as_bytes(), Hash::Sha256), Err(Malformed), "{message}");
        }
        for message in [
            "",
            ",,",
            "r=x",
            "r=x,s=,i=4096",
            "r=x,s=eA==,i=",
            "r=x,s=eA==,i=+4096",
            "r=x,s=eA==,i=04096",
            "r=x,s=eA==,i=4096,",
            "r=x,s=eA==,i=4096,x=1",
            "m=1,r=x,s=eA==,i=4096",
            "r=x,s=?,i=4096",
            "r=x,s=eA==,i=99999999999999999999999",
        ] {
            assert_eq!(server_first(message.as_bytes()), Err(Malformed), "{message}");
        }
        assert_eq!(server_first(b"r=x,s=eA==,i=4096"), Ok(4096));
        for message in ["", "v", "v=", "e=", "v=eA==", "v=eA==,x=1"] {
            assert_eq!(ServerFinal::parse(message.as_bytes(), Hash::Sha256), Err(Malformed), "{message}");
        }
        assert_eq!(ServerFinal::parse(b"e=other-error", Hash::Sha256), Ok(ServerFinal::Error));
    }

    #[test]
    fn plain_has_three_fields_of_which_the_last_two_are_not_empty() {
        assert_eq!(Plain::parse(b"a\0b\0c"), Ok(Plain { authorization: "a", name: "b" }));
        assert_eq!(Plain::parse(b"\0b\0c"), Ok(Plain { authorization: "", name: "b" }));
        for message in
            [&b""[..], b"\0", b"\0\0", b"\0b\0", b"\0\0c", b"a\0b", b"a\0b\0c\0", b"\xff\0b\0c", b"\0\xff\0c"]
        {
            assert_eq!(Plain::parse(message), Err(Malformed));
        }
    }
}
