//! A credential: a certificate chain and the private key that belongs to it. Only the role `signer` holds one.

use crate::{facts, provider};
use rustls::SignatureScheme;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::sign::{CertifiedKey, SigningKey};
use sha2::{Digest, Sha256};
use std::fmt;
use std::sync::Arc;
use sternpost_link::signer::{KeyId, PublicCredential, SIGNED_OCTETS_MAX};
use x509_parser::parse_x509_certificate;

/// Certificates in a chain. A real one has two to four.
const CHAIN_MAX: usize = 10;

/// Every scheme by which a key that rustls loads may sign (RFC 8446, 4.2.3).
const SCHEMES: [SignatureScheme; 9] = [
    SignatureScheme::ED25519,
    SignatureScheme::ECDSA_NISTP256_SHA256,
    SignatureScheme::ECDSA_NISTP384_SHA384,
    SignatureScheme::RSA_PSS_SHA512,
    SignatureScheme::RSA_PSS_SHA384,
    SignatureScheme::RSA_PSS_SHA256,
    SignatureScheme::RSA_PKCS1_SHA512,
    SignatureScheme::RSA_PKCS1_SHA384,
    SignatureScheme::RSA_PKCS1_SHA256,
];

/// Why a text is no credential.
#[derive(Debug, thiserror::Error)]
pub enum CredentialError {
    /// The text is no PEM.
    #[error("it is not PEM: {0}")]
    Pem(rustls::pki_types::pem::Error),
    /// There is no certificate in it.
    #[error("it has no certificate: put the chain into it, the switch's own certificate first")]
    NoCertificate,
    /// More than anybody has.
    #[error("its chain has more than {CHAIN_MAX} certificates")]
    ChainTooLong,
    /// There is no private key in it, or one that is encrypted.
    #[error(
        "it has no private key, or an encrypted one: put the key into it, unencrypted, as PKCS #8, PKCS #1 or SEC 1"
    )]
    NoKey,
    /// A key of a kind that is not known.
    #[error("its private key cannot be used: RSA from 2048 bits on, ECDSA on P-256 or P-384, or Ed25519")]
    Key(#[source] rustls::Error),
    /// Certificate and key are of two pairs.
    #[error("its private key does not belong to its first certificate")]
    Mismatch,
    /// The first certificate is no X.509 certificate.
    #[error("its first certificate cannot be read")]
    Certificate(#[source] rustls::Error),
    /// Certificates that are not one chain.
    #[error("certificate {number} of its chain is not the issuer of the one before it")]
    Order {
        /// From 1 on.
        number: usize,
    },
}

/// A certificate chain and its private key.
pub struct Credential {
    public: PublicCredential,
    key: Arc<dyn SigningKey>,
}

impl fmt::Debug for Credential {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Credential").field("name", &self.public.name).finish_non_exhaustive()
    }
}

impl Credential {
    /// Reads PEM text: the chain, the owner's certificate first, and the private key, in any order.
    ///
    /// # Errors
    /// What is wrong with the text.
    pub fn parse(name: &str, pem: &[u8]) -> Result<Self, CredentialError> {
        let chain: Vec<CertificateDer<'static>> =
            CertificateDer::pem_slice_iter(pem).collect::<Result<_, _>>().map_err(CredentialError::Pem)?;
        if chain.is_empty() {
            return Err(CredentialError::NoCertificate);
        }
        if chain.len() > CHAIN_MAX {
            return Err(CredentialError::ChainTooLong);
        }
        let key = PrivateKeyDer::from_pem_slice(pem).map_err(|_| CredentialError::NoKey)?;
        let key = provider().key_provider.load_private_key(key).map_err(CredentialError::Key)?;
        match CertifiedKey::new(chain.clone(), Arc::clone(&key)).keys_match() {
            Ok(()) => {}
            Err(rustls::Error::InconsistentKeys(_)) => return Err(CredentialError::Mismatch),
            Err(error) => return Err(CredentialError::Certificate(error)),
        }
        check_order(&chain)?;
        let key_id = KeyId(key.public_key().map(|public| Sha256::digest(&public)).unwrap_or_default().into());
        let public = PublicCredential {
            name: name.to_owned(),
            key: key_id,
            chain: chain.iter().map(|certificate| certificate.to_vec().into()).collect(),
            schemes: SCHEMES
                .iter()
                .filter(|scheme| key.choose_scheme(&[**scheme]).is_some())
                .map(|scheme| u16::from(*scheme))
                .collect(),
            subject: facts::subject(&chain[0]),
            not_after_s: not_after_s(&chain[0]),
        };
        Ok(Self { public, key })
    }

    /// What everybody may know of it.
    #[must_use]
    pub const fn public(&self) -> &PublicCredential {
        &self.public
    }

    /// Signs what a handshake asks for.
    ///
    /// # Errors
    /// In words: a scheme that is none of the key's, or a message of more than [`SIGNED_OCTETS_MAX`].
    pub fn sign(&self, scheme: u16, message: &[u8]) -> Result<Vec<u8>, String> {
        if message.len() > SIGNED_OCTETS_MAX {
            return Err(format!("{} octets are more than a handshake signs", message.len()));
        }
        let signer = self.key.choose_scheme(&[scheme.into()]);
        let signer = signer.ok_or_else(|| format!("the key does not sign by the scheme {scheme:#06x}"))?;
        signer.sign(message).map_err(|error| error.to_string())
    }
}

/// The end of a certificate, in seconds since 1970.
fn not_after_s(certificate: &CertificateDer<'_>) -> i64 {
    let parsed = parse_x509_certificate(certificate);
    parsed.map(|(_, certificate)| certificate.validity().not_after.timestamp()).unwrap_or_default()
}

/// RFC 5246, 7.4.2: each certificate certifies the one before it. Clients of today forgive another order, those of others do not.
fn check_order(chain: &[CertificateDer<'_>]) -> Result<(), CredentialError> {
    let parsed: Vec<_> = chain.iter().map(|der| parse_x509_certificate(der).ok()).collect();
    for (index, pair) in parsed.windows(2).enumerate() {
        if let [Some((_, subject)), Some((_, issuer))] = pair
            && subject.issuer() != issuer.subject()
        {
            return Err(CredentialError::Order { number: index + 2 });
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use rcgen::{BasicConstraints, CertificateParams, IsCa, Issuer, KeyPair};
    use sternpost_message::chain;

    fn key() -> KeyPair {
        KeyPair::generate().unwrap()
    }

    fn self_signed(key: &KeyPair) -> String {
        CertificateParams::new(vec!["mx.example".to_owned()]).unwrap().self_signed(key).unwrap().pem()
    }

    #[test]
    fn the_chain_and_the_key_are_read_in_any_order_and_the_key_stays_here() {
        let (own, authority) = (key(), key());
        let mut params = CertificateParams::new(vec![]).unwrap();
        params.distinguished_name.push(rcgen::DnType::CommonName, "authority");
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        let root = params.self_signed(&authority).unwrap();
        let issuer = Issuer::new(params, authority);
        let leaf =
            CertificateParams::new(vec!["mx.example".to_owned()]).unwrap().signed_by(&own, &issuer).unwrap();
        let [leaf, root, key] = [leaf.pem(), root.pem(), own.serialize_pem()];
        for text in
            [format!("{leaf}{root}{key}"), format!("{key}{leaf}{root}"), format!("a note\n{leaf}{key}{root}")]
        {
            let credential = Credential::parse("mx", text.as_bytes()).unwrap();
            let public = credential.public();
            assert_eq!((public.name.as_str(), public.chain.len()), ("mx", 2));
            assert_eq!(public.schemes, [u16::from(SignatureScheme::ECDSA_NISTP256_SHA256)]);
            assert!(public.not_after_s > 0 && !format!("{credential:?}").contains("key"));
        }
        let turned = Credential::parse("mx", format!("{leaf}{key}{leaf}").as_bytes()).unwrap_err();
        assert!(matches!(turned, CredentialError::Order { number: 2 }), "{turned}");
    }

    #[test]
    fn what_is_no_credential_is_said_with_what_to_do() {
        let (own, other) = (key(), key());
        let certificate = self_signed(&own);
        let rows = [
            (String::new(), "put the chain into it"),
            (own.serialize_pem(), "put the chain into it"),
            (certificate.clone(), "put the key into it, unencrypted"),
            (
                format!(
                    "{certificate}-----BEGIN ENCRYPTED PRIVATE KEY-----\nAAAA\n-----END ENCRYPTED PRIVATE KEY-----\n"
                ),
                "put the key into it, unencrypted",
            ),
            (certificate.clone() + &other.serialize_pem(), "does not belong to its first certificate"),
            (
                format!("{certificate}-----BEGIN PRIVATE KEY-----\nAAAA\n-----END PRIVATE KEY-----\n"),
                "RSA from 2048 bits on",
            ),
            ("-----BEGIN CERTIFICATE-----\nAAAA\n".to_owned(), "it is not PEM"),
            (certificate.repeat(11) + &own.serialize_pem(), "more than 10 certificates"),
        ];
        for (text, words) in rows {
            let error = Credential::parse("mx", text.as_bytes()).unwrap_err();
            assert!(chain(&error).contains(words), "{} instead of {words}", chain(&error));
        }
    }

    #[test]
    fn a_key_signs_by_its_schemes_and_no_more_than_a_handshake_asks_for() {
        let own = key();
        let text = self_signed(&own) + &own.serialize_pem();
        let credential = Credential::parse("mx", text.as_bytes()).unwrap();
        let scheme = credential.public().schemes[0];
        assert!(!credential.sign(scheme, b"a transcript").unwrap().is_empty());
        assert!(credential.sign(SignatureScheme::ED25519.into(), b"a transcript").is_err());
        assert!(credential.sign(scheme, &[0; SIGNED_OCTETS_MAX + 1]).is_err());
    }

    #[test]
    fn what_was_cut_or_changed_panics_never_and_signs_if_it_is_a_credential() {
        let own = key();
        let good = self_signed(&own) + &own.serialize_pem();
        for at in 0..good.len() {
            let mut changed = good.clone().into_bytes();
            changed[at] ^= 1;
            for text in [&good.as_bytes()[..at], &changed] {
                if let Ok(credential) = Credential::parse("x", text) {
                    assert!(credential.sign(credential.public().schemes[0], b"x").is_ok());
                }
            }
        }
    }
}
