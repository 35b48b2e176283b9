//! What unknown users have instead of a verifier.

use crate::{Hash, Name, Verifier};
use ring::hmac;
use std::fmt;

/// The key by which a switch makes up verifiers for names that it does not know. Whoever has it can tell who is unknown.
/// It stays the same for the life of the switch, and is the same on all that share a name: a salt that changes would tell.
#[derive(Clone)]
pub struct ConcealmentKey(hmac::Key);

impl ConcealmentKey {
    /// A key of 32 random octets.
    #[must_use]
    pub fn new(octets: &[u8; 32]) -> Self {
        Self(hmac::Key::new(hmac::HMAC_SHA512, octets))
    }

    /// The verifier of an unknown name: always the same, fitted by no password.
    pub(super) fn verifier(&self, name: &Name, hash: Hash, iterations: u32) -> Verifier {
        Verifier::concealing(hash, iterations, |part, octets| {
            let mut context = hmac::Context::with_key(&self.0);
            // No name has a NUL: SASLprep prohibits it.
            for field in [hash.mechanism().name(), part, name.as_str()] {
                context.update(field.as_bytes());
                context.update(&[0]);
            }
            context.sign().as_ref()[..octets].to_vec()
        })
    }
}

impl fmt::Debug for ConcealmentKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("ConcealmentKey(…)")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_unknown_name_always_has_the_same_verifier_and_another_one_another() {
        let key = ConcealmentKey::new(&[7; 32]);
        let name = |text| Name::prepare(text).unwrap();
        let verifier = key.verifier(&name("nobody"), Hash::Sha256, 4096);
        assert_eq!(verifier, key.verifier(&name("NOBODY"), Hash::Sha256, 4096));
        for other in [
            key.verifier(&name("somebody"), Hash::Sha256, 4096),
            key.verifier(&name("nobody"), Hash::Sha512, 4096),
            ConcealmentKey::new(&[8; 32]).verifier(&name("nobody"), Hash::Sha256, 4096),
        ] {
            assert_ne!(verifier.salt(), other.salt());
            assert_ne!(verifier.stored_key(), other.stored_key());
        }
        assert_eq!(verifier.to_text().len(), key.verifier(&name("a"), Hash::Sha256, 4096).to_text().len());
    }
}
