//! Trust anchors: the certificates by which others are verified.

use rustls::RootCertStore;
use rustls::pki_types::CertificateDer;
use std::sync::Arc;

/// Why a certificate is no trust anchor.
#[derive(Debug, thiserror::Error)]
#[error("certificate {number} cannot be a trust anchor")]
pub struct TrustError {
    /// From 1 on, in the order in which they were given.
    pub number: usize,
    /// Why.
    pub source: rustls::Error,
}

/// A set of trust anchors. May be empty: then it verifies nothing.
#[derive(Clone, Debug)]
pub struct Trust(pub(crate) Arc<RootCertStore>);

impl Trust {
    /// Takes certificates in DER. Those that cannot be trust anchors are left out, and said.
    pub fn new<'a>(certificates: impl IntoIterator<Item = &'a [u8]>) -> (Self, Vec<TrustError>) {
        let mut store = RootCertStore::empty();
        let mut wrong = Vec::new();
        for (index, der) in certificates.into_iter().enumerate() {
            if let Err(source) = store.add(CertificateDer::from(der)) {
                wrong.push(TrustError { number: index + 1, source });
            }
        }
        (Self(Arc::new(store)), wrong)
    }

    /// Whether nothing can be verified by it.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }
}
