//! The side that connects: a peer's policy as a configuration of rustls.

use crate::key::certified;
use crate::{ConfigurationError, Signatures, TlsStream, Trust, VersionMin, facts, provider};
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::client::{ResolvesClientCert, WebPkiServerVerifier};
use rustls::crypto::{CryptoProvider, verify_tls12_signature, verify_tls13_signature};
use rustls::pki_types::{CertificateDer, ServerName, UnixTime};
use rustls::sign::CertifiedKey;
use rustls::{CertificateError, ClientConfig, DigitallySignedStruct, Error, SignatureScheme};
use std::io;
use std::sync::Arc;
use sternpost_link::signer::PublicCredential;
use sternpost_message::TlsFacts;
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;

/// Who the peer has to be.
#[derive(Clone, Debug)]
pub enum Authentication {
    /// Anybody who answers: the connection is secret from those who only listen (RFC 7435).
    Anybody,
    /// Whoever has a certificate of one of these anchors for one of these names (RFC 9525), of which there is at least one.
    Verified {
        /// The anchors.
        trust: Trust,
        /// The names.
        names: Vec<ServerName<'static>>,
    },
}

/// TLS as a channel does it with one peer.
#[derive(Clone, Debug)]
pub struct Outbound {
    config: Arc<ClientConfig>,
    /// What the peer is told to be wanted by (SNI, RFC 6066, 3): a domain name, or an address, which is not said.
    wanted: ServerName<'static>,
    is_verified: bool,
}

impl Outbound {
    /// A configuration for one peer. `wanted` is the name that it is told where no name is verified. With a credential a peer that
    /// asks for a certificate gets it.
    ///
    /// # Errors
    /// `NoTrust` where there is nobody, or no name, by whom the peer could be verified; else what rustls says.
    pub fn new(
        wanted: ServerName<'static>,
        authentication: Authentication,
        version_min: VersionMin,
        credential: Option<(&PublicCredential, &Arc<dyn Signatures>)>,
    ) -> Result<Self, ConfigurationError> {
        let builder =
            ClientConfig::builder_with_provider(provider()).with_protocol_versions(version_min.versions())?;
        let (verifier, wanted, is_verified): (Arc<dyn ServerCertVerifier>, _, _) = match authentication {
            Authentication::Anybody => (Arc::new(Anybody { provider: provider() }), wanted, false),
            Authentication::Verified { trust, names } => {
                let first = names.first().filter(|_| !trust.is_empty()).cloned();
                let first = first.ok_or(ConfigurationError::NoTrust)?;
                let inner = WebPkiServerVerifier::builder_with_provider(trust.0, provider()).build()?;
                (Arc::new(OneOf { inner, names }), first, true)
            }
        };
        // Who may be trusted and whether it must be is decided by the two verifiers of this file.
        let builder = builder.dangerous().with_custom_certificate_verifier(verifier);
        let config = match credential {
            None => builder.with_no_client_auth(),
            Some((credential, signatures)) => {
                builder.with_client_cert_resolver(Arc::new(Ours(certified(credential, signatures))))
            }
        };
        Ok(Self { config: Arc::new(config), wanted, is_verified })
    }

    /// The handshake with the peer.
    ///
    /// # Errors
    /// `InvalidData` with the error of rustls inside when the peer is not who it has to be, or does not agree; else those of the
    /// socket. In both cases the connection is of no use any more.
    pub async fn connect(&self, stream: TcpStream) -> io::Result<(TlsStream, TlsFacts)> {
        let connector = TlsConnector::from(Arc::clone(&self.config));
        let stream = connector.connect(self.wanted.clone(), stream).await?;
        // A handshake that was to verify has failed or has done so.
        let facts = facts::facts(stream.get_ref().1, |_| self.is_verified);
        Ok((TlsStream::Outbound(Box::new(stream)), facts))
    }
}

/// The same credential for every peer, whichever issuers it names.
#[derive(Debug)]
struct Ours(Arc<CertifiedKey>);

impl ResolvesClientCert for Ours {
    fn resolve(&self, _: &[&[u8]], schemes: &[SignatureScheme]) -> Option<Arc<CertifiedKey>> {
        self.0.key.choose_scheme(schemes).map(|_| Arc::clone(&self.0))
    }

    fn has_certs(&self) -> bool {
        true
    }
}

/// Takes whatever certificate a peer shows, if only the peer has its key.
#[derive(Debug)]
struct Anybody {
    provider: Arc<CryptoProvider>,
}

impl ServerCertVerifier for Anybody {
    fn verify_server_cert(
        &self,
        _: &CertificateDer<'_>,
        _: &[CertificateDer<'_>],
        _: &ServerName<'_>,
        _: &[u8],
        _: UnixTime,
    ) -> Result<ServerCertVerified, Error> {
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        verify_tls12_signature(
            message,
            certificate,
            signature,
            &self.provider.signature_verification_algorithms,
        )
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        verify_tls13_signature(
            message,
            certificate,
            signature,
            &self.provider.signature_verification_algorithms,
        )
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.provider.signature_verification_algorithms.supported_schemes()
    }
}

/// Verifies the chain, and that the certificate is for one of the names.
#[derive(Debug)]
struct OneOf {
    inner: Arc<WebPkiServerVerifier>,
    /// At least one.
    names: Vec<ServerName<'static>>,
}

impl ServerCertVerifier for OneOf {
    fn verify_server_cert(
        &self,
        certificate: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        _: &ServerName<'_>,
        ocsp: &[u8],
        now: UnixTime,
    ) -> Result<ServerCertVerified, Error> {
        let mut fault = Error::InvalidCertificate(CertificateError::NotValidForName);
        for name in &self.names {
            match self.inner.verify_server_cert(certificate, intermediates, name, ocsp, now) {
                Ok(verified) => return Ok(verified),
                // Whatever else is wrong is so for every name.
                Err(Error::InvalidCertificate(
                    error @ (CertificateError::NotValidForName
                    | CertificateError::NotValidForNameContext { .. }),
                )) => fault = Error::InvalidCertificate(error),
                Err(error) => return Err(error),
            }
        }
        Err(fault)
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        self.inner.verify_tls12_signature(message, certificate, signature)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        self.inner.verify_tls13_signature(message, certificate, signature)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.inner.supported_verify_schemes()
    }
}
