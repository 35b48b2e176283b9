//! What is kept of a password: enough to check it, too little to use it elsewhere (RFC 5802, section 3).

use crate::{Hash, ITERATIONS_MAX, ITERATIONS_MIN, Mechanism, Password};
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use ring::rand::SecureRandom;
use ring::{digest, hmac, pbkdf2};
use std::fmt;
use std::num::NonZeroU32;
use subtle::ConstantTimeEq;

/// The salt of a verifier that is made here, in octets.
pub const SALT_OCTETS: usize = 16;

/// The shortest and the longest salt that is taken.
const SALT_OCTETS_TAKEN: std::ops::RangeInclusive<usize> = 8..=64;

/// The longest text that can be a verifier, in octets: names, a count, and base64 of two keys of 64 octets and a salt.
const TEXT_OCTETS_MAX: usize = 512;

/// Why a text is no verifier, or none could be made. No problem repeats any part of the text.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum VerifierError {
    /// Not of the form of RFC 5803.
    #[error(
        "a verifier is written as SCRAM-SHA-256$ITERATIONS:SALT$STOREDKEY:SERVERKEY (RFC 5803): make a new one"
    )]
    Form,
    /// Another scheme than the two.
    #[error("a verifier is of SCRAM-SHA-256 or SCRAM-SHA-512: make a new one from the password")]
    Scheme,
    /// A count out of the bounds.
    #[error(
        "a verifier has {ITERATIONS_MIN} to {ITERATIONS_MAX} iterations: make a new one from the password"
    )]
    Iterations,
    /// A part that is no base64, or of a wrong length.
    #[error(
        "the {part} of the verifier is not base64 of the right length: copy the whole of it, or make a new one"
    )]
    Part {
        /// Which of them.
        part: &'static str,
    },
    /// The kernel gives no random octets.
    #[error("the kernel gives no random octets for a salt")]
    NoRandomness,
}

/// The stored keys of one password (RFC 5802, section 3; in text RFC 5803). Who has it can check a password and can play
/// the server, but cannot play the user. Its keys are never printed.
#[derive(Clone, PartialEq, Eq)]
pub struct Verifier {
    hash: Hash,
    iterations: u32,
    salt: Vec<u8>,
    stored_key: Vec<u8>,
    server_key: Vec<u8>,
}

impl Verifier {
    /// Makes one from a password, with a random salt of [`SALT_OCTETS`].
    ///
    /// # Errors
    /// `Iterations` out of the bounds; `NoRandomness`.
    pub fn new(hash: Hash, iterations: u32, password: &Password) -> Result<Self, VerifierError> {
        let mut salt = [0; SALT_OCTETS];
        ring::rand::SystemRandom::new().fill(&mut salt).map_err(|_| VerifierError::NoRandomness)?;
        Self::derive(hash, iterations, &salt, password)
    }

    /// Derives one from a password and a salt of 8 to 64 octets: the same from the same.
    ///
    /// # Errors
    /// `Iterations` or `Part` out of the bounds.
    pub fn derive(
        hash: Hash,
        iterations: u32,
        salt: &[u8],
        password: &Password,
    ) -> Result<Self, VerifierError> {
        if !SALT_OCTETS_TAKEN.contains(&salt.len()) {
            return Err(VerifierError::Part { part: "salt" });
        }
        let iterations = checked(iterations)?;
        let (stored_key, server_key) = keys(hash, iterations, salt, password);
        Ok(Self { hash, iterations: iterations.get(), salt: salt.to_vec(), stored_key, server_key })
    }

    /// One that no password fits, for a user that is not there. The parts are whoever's calls; the lengths are right.
    pub(crate) fn concealing(
        hash: Hash,
        iterations: u32,
        part: impl Fn(&'static str, usize) -> Vec<u8>,
    ) -> Self {
        Self {
            hash,
            iterations,
            salt: part("salt", SALT_OCTETS),
            stored_key: part("stored key", hash.key_octets()),
            server_key: part("server key", hash.key_octets()),
        }
    }

    /// Reads the text that [`Self::to_text`] writes. Spaces may stand around each `$` (RFC 3112).
    ///
    /// # Errors
    /// What is wrong with the text.
    pub fn parse(text: &str) -> Result<Self, VerifierError> {
        let text = text.trim_matches(' ');
        if text.len() > TEXT_OCTETS_MAX {
            return Err(VerifierError::Form);
        }
        let mut fields = text.split('$').map(|field| field.trim_matches(' '));
        let (Some(scheme), Some(info), Some(value), None) =
            (fields.next(), fields.next(), fields.next(), fields.next())
        else {
            return Err(VerifierError::Form);
        };
        let hash = Mechanism::from_name(scheme).and_then(Mechanism::hash).ok_or(VerifierError::Scheme)?;
        let (iterations, salt) = info.split_once(':').ok_or(VerifierError::Form)?;
        let (stored_key, server_key) = value.split_once(':').ok_or(VerifierError::Form)?;
        let is_number = !iterations.is_empty() && iterations.bytes().all(|octet| octet.is_ascii_digit());
        let iterations = iterations.parse().ok().filter(|_| is_number).ok_or(VerifierError::Iterations)?;
        checked(iterations)?;
        let key_octets = hash.key_octets()..=hash.key_octets();
        Ok(Self {
            hash,
            iterations,
            salt: part(salt, "salt", SALT_OCTETS_TAKEN)?,
            stored_key: part(stored_key, "stored key", key_octets.clone())?,
            server_key: part(server_key, "server key", key_octets)?,
        })
    }

    /// The text of RFC 5803: `SCRAM-SHA-256$4096:salt$stored:server`. It is a secret.
    #[must_use]
    pub fn to_text(&self) -> String {
        format!(
            "{}${}:{}${}:{}",
            self.hash.mechanism(),
            self.iterations,
            STANDARD.encode(&self.salt),
            STANDARD.encode(&self.stored_key),
            STANDARD.encode(&self.server_key)
        )
    }

    /// Whether it was made from this password. Takes the time of its iterations, whatever the password; the comparison
    /// takes the same time for every one.
    #[must_use]
    pub fn fits(&self, password: &Password) -> bool {
        let Ok(iterations) = checked(self.iterations) else { return false };
        let (stored_key, _) = keys(self.hash, iterations, &self.salt, password);
        stored_key.ct_eq(&self.stored_key).into()
    }

    /// The hash function of its keys.
    #[must_use]
    pub const fn hash(&self) -> Hash {
        self.hash
    }

    /// How often the hash is iterated.
    #[must_use]
    pub const fn iterations(&self) -> u32 {
        self.iterations
    }

    /// The salt, which every client is told.
    #[must_use]
    pub fn salt(&self) -> &[u8] {
        &self.salt
    }

    pub(crate) fn stored_key(&self) -> &[u8] {
        &self.stored_key
    }

    pub(crate) fn server_key(&self) -> &[u8] {
        &self.server_key
    }
}

impl fmt::Debug for Verifier {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Verifier")
            .field("hash", &self.hash)
            .field("iterations", &self.iterations)
            .finish_non_exhaustive()
    }
}

fn checked(iterations: u32) -> Result<NonZeroU32, VerifierError> {
    NonZeroU32::new(iterations)
        .filter(|count| (ITERATIONS_MIN..=ITERATIONS_MAX).contains(&count.get()))
        .ok_or(VerifierError::Iterations)
}

fn part(
    text: &str,
    part: &'static str,
    octets: std::ops::RangeInclusive<usize>,
) -> Result<Vec<u8>, VerifierError> {
    let decoded = STANDARD.decode(text).ok();
    decoded.filter(|decoded| octets.contains(&decoded.len())).ok_or(VerifierError::Part { part })
}

/// `StoredKey` and `ServerKey` of RFC 5802, section 3.
fn keys(hash: Hash, iterations: NonZeroU32, salt: &[u8], password: &Password) -> (Vec<u8>, Vec<u8>) {
    let (derivation, authentication, digest) = match hash {
        Hash::Sha256 => (pbkdf2::PBKDF2_HMAC_SHA256, hmac::HMAC_SHA256, &digest::SHA256),
        Hash::Sha512 => (pbkdf2::PBKDF2_HMAC_SHA512, hmac::HMAC_SHA512, &digest::SHA512),
    };
    let mut salted_password = vec![0; hash.key_octets()];
    pbkdf2::derive(derivation, iterations, salt, password.as_octets(), &mut salted_password);
    let key = hmac::Key::new(authentication, &salted_password);
    let client_key = hmac::sign(&key, b"Client Key");
    let stored_key = digest::digest(digest, client_key.as_ref());
    (stored_key.as_ref().to_vec(), hmac::sign(&key, b"Server Key").as_ref().to_vec())
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn password(text: &str) -> Password {
        Password::prepare(text).unwrap()
    }

    /// The salt and the count of RFC 7677, section 3; the server key is proven by the dialogue with its server signature.
    #[test]
    fn a_verifier_has_the_keys_of_the_example_of_rfc_7677() {
        let salt = STANDARD.decode("W22ZaJ0SNY7soEsUEjb6gQ==").unwrap();
        let verifier = Verifier::derive(Hash::Sha256, 4096, &salt, &password("pencil")).unwrap();
        let first = "n=user,r=rOprNGfwEbeRWgbNEkqO,r=rOprNGfwEbeRWgbNEkqO%hvYDpWUa2RaTCAfuxFIlj)hNlF$k0,\
                     s=W22ZaJ0SNY7soEsUEjb6gQ==,i=4096,c=biws,r=rOprNGfwEbeRWgbNEkqO%hvYDpWUa2RaTCAfuxFIlj)hNlF$k0";
        let signature =
            hmac::sign(&hmac::Key::new(hmac::HMAC_SHA256, verifier.server_key()), first.as_bytes());
        assert_eq!(STANDARD.encode(signature), "6rriTRBi23WpRR/wtup+mMhUZUn/dB5nLTJRsjl95G4=");
        let client_signature =
            hmac::sign(&hmac::Key::new(hmac::HMAC_SHA256, verifier.stored_key()), first.as_bytes());
        let proof = STANDARD.decode("dHzbZapWIk4jUhN+Ute9ytag9zjfMHgsqmmiz7AndVQ=").unwrap();
        let client_key: Vec<u8> = proof.iter().zip(client_signature.as_ref()).map(|(x, y)| x ^ y).collect();
        assert_eq!(digest::digest(&digest::SHA256, &client_key).as_ref(), verifier.stored_key());
    }

    #[test]
    fn a_verifier_fits_its_password_and_no_other() {
        for hash in [Hash::Sha256, Hash::Sha512] {
            let verifier = Verifier::new(hash, ITERATIONS_MIN, &password("pencil")).unwrap();
            assert!(verifier.fits(&password("pencil")) && verifier.fits(&password("pen\u{ad}cil")));
            assert!(!verifier.fits(&password("Pencil")) && !verifier.fits(&password("pencil ")));
            assert_eq!(Verifier::parse(&verifier.to_text()), Ok(verifier));
        }
    }

    #[test]
    fn two_verifiers_of_one_password_have_two_salts() {
        let [one, other] = [(); 2].map(|()| Verifier::new(Hash::Sha256, 4096, &password("pencil")).unwrap());
        assert_ne!(one.salt(), other.salt());
        assert_ne!(one.stored_key(), other.stored_key());
    }

    #[test]
    fn a_text_that_is_no_verifier_says_which_part_is_wrong() {
        let good =
            Verifier::derive(Hash::Sha256, 4096, b"salt of 16 octet", &password("pencil")).unwrap().to_text();
        assert!(Verifier::parse(&good.replace('$', " $ ")).is_ok(), "spaces around the dollar signs");
        let (head, keys) = good.rsplit_once('$').unwrap();
        let (stored_key, server_key) = keys.split_once(':').unwrap();
        for (text, problem) in [
            (String::new(), VerifierError::Form),
            ("pencil".to_owned(), VerifierError::Form),
            (format!("{good}$"), VerifierError::Form),
            (format!("{head}${stored_key}"), VerifierError::Form),
            ("x".repeat(10_000), VerifierError::Form),
            (good.replace("SHA-256", "SHA-1"), VerifierError::Scheme),
            (good.replace("SCRAM-SHA-256", "PLAIN"), VerifierError::Scheme),
            (good.replace("SHA-256", "SHA-512"), VerifierError::Part { part: "stored key" }),
            (good.replace("4096", "4095"), VerifierError::Iterations),
            (good.replace("4096", "+4096"), VerifierError::Iterations),
            (good.replace("4096", "1000001"), VerifierError::Iterations),
            (good.replace("4096", "99999999999"), VerifierError::Iterations),
            (good.replace("4096:", "4096:c2FsdA==?"), VerifierError::Part { part: "salt" }),
            (format!("SCRAM-SHA-256$4096:c2FsdA==${keys}"), VerifierError::Part { part: "salt" }),
            (format!("{head}$x{stored_key}:{server_key}"), VerifierError::Part { part: "stored key" }),
            (format!("{head}${stored_key}:{stored_key}:"), VerifierError::Part { part: "server key" }),
            (format!("{head}${stored_key}:"), VerifierError::Part { part: "server key" }),
        ] {
            assert_eq!(Verifier::parse(&text), Err(problem), "{text}");
        }
    }

    #[test]
    fn a_verifier_is_not_printed_but_by_its_own_text() {
        let verifier = Verifier::new(Hash::Sha256, 4096, &password("pencil")).unwrap();
        let printed = format!("{verifier:?}");
        assert!(
            !printed.contains(&format!("{:?}", verifier.stored_key())) && !printed.contains("key"),
            "{printed}"
        );
    }

    proptest! {
        #[test]
        fn any_text_is_a_verifier_that_reads_back_or_a_problem(text in "(SCRAM-SHA-(256|512))?[$:=+/a-zA-Z0-9 ]{0,200}") {
            if let Ok(verifier) = Verifier::parse(&text) {
                prop_assert_eq!(Verifier::parse(&verifier.to_text()), Ok(verifier));
            }
        }
    }
}
