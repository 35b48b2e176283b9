//! A private key that another process holds.

use rustls::pki_types::CertificateDer;
use rustls::sign::{CertifiedKey, Signer, SigningKey};
use rustls::{Error, SignatureAlgorithm, SignatureScheme};
use std::fmt::Debug;
use std::sync::Arc;
use sternpost_link::signer::{KeyId, PublicCredential};

/// Why there is no signature.
#[derive(Debug, thiserror::Error)]
#[error("the private key cannot be used now: {0}")]
pub struct KeyUnavailable(pub String);

/// Where signatures come from. Asked by the thread that drives a handshake, which waits for the answer: a signature by a process
/// of this machine takes no longer than one that is made here.
pub trait Signatures: Debug + Send + Sync {
    /// A signature of `message` by a key and a scheme (RFC 8446, 4.2.3).
    ///
    /// # Errors
    /// `KeyUnavailable`; the handshake fails, and the next one asks again.
    fn sign(&self, key: KeyId, scheme: u16, message: &[u8]) -> Result<Vec<u8>, KeyUnavailable>;
}

/// Certificate chain and key for a configuration.
pub(crate) fn certified(
    credential: &PublicCredential,
    signatures: &Arc<dyn Signatures>,
) -> Arc<CertifiedKey> {
    let chain = credential.chain.iter().map(|der| CertificateDer::from(der.to_vec())).collect();
    let schemes: Vec<SignatureScheme> = credential.schemes.iter().map(|scheme| (*scheme).into()).collect();
    let key = RemoteKey { key: credential.key, schemes, signatures: Arc::clone(signatures) };
    Arc::new(CertifiedKey::new(chain, Arc::new(key)))
}

#[derive(Clone, Debug)]
struct RemoteKey {
    key: KeyId,
    /// By which it signs, the preferred one first.
    schemes: Vec<SignatureScheme>,
    signatures: Arc<dyn Signatures>,
}

impl SigningKey for RemoteKey {
    fn choose_scheme(&self, offered: &[SignatureScheme]) -> Option<Box<dyn Signer>> {
        let scheme = *self.schemes.iter().find(|scheme| offered.contains(scheme))?;
        Some(Box::new(RemoteSigner { key: self.key, scheme, signatures: Arc::clone(&self.signatures) }))
    }

    fn algorithm(&self) -> SignatureAlgorithm {
        match self.schemes.first() {
            Some(SignatureScheme::ED25519) => SignatureAlgorithm::ED25519,
            Some(SignatureScheme::ECDSA_NISTP256_SHA256 | SignatureScheme::ECDSA_NISTP384_SHA384) => {
                SignatureAlgorithm::ECDSA
            }
            _ => SignatureAlgorithm::RSA,
        }
    }
}

#[derive(Debug)]
struct RemoteSigner {
    key: KeyId,
    scheme: SignatureScheme,
    signatures: Arc<dyn Signatures>,
}

impl Signer for RemoteSigner {
    fn sign(&self, message: &[u8]) -> Result<Vec<u8>, Error> {
        let signed = self.signatures.sign(self.key, self.scheme.into(), message);
        signed.map_err(|error| Error::Other(rustls::OtherError(Arc::new(error))))
    }

    fn scheme(&self) -> SignatureScheme {
        self.scheme
    }
}
