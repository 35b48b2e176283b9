//! The side that is connected to: a listener's policy as a configuration of rustls.

use crate::key::certified;
use crate::{ConfigurationError, Signatures, TlsStream, Trust, VersionMin, facts, provider};
use rustls::pki_types::{CertificateDer, UnixTime};
use rustls::server::danger::{ClientCertVerified, ClientCertVerifier};
use rustls::server::{ClientHello, ResolvesServerCert, WebPkiClientVerifier};
use rustls::sign::CertifiedKey;
use rustls::{
    CertificateError, DigitallySignedStruct, DistinguishedName, Error, ServerConfig, SignatureScheme,
};
use std::io;
use std::sync::Arc;
use sternpost_link::signer::PublicCredential;
use sternpost_message::TlsFacts;
use tokio::net::TcpStream;
use tokio_rustls::TlsAcceptor;

/// What is asked of a client.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum ClientCertificates {
    /// Nothing.
    #[default]
    None,
    /// A certificate, if it has one. One that cannot be verified is a fact and no error: MTAs show what they have to whoever asks.
    Requested,
    /// A certificate that is verified; without it there is no connection.
    Required,
}

/// TLS as a listener does it.
#[derive(Clone, Debug)]
pub struct Inbound {
    config: Arc<ServerConfig>,
    clients: ClientCertificates,
    verifier: Option<Arc<dyn ClientCertVerifier>>,
}

impl Inbound {
    /// A configuration for one credential.
    ///
    /// # Errors
    /// `NoTrust` where certificates are required and there is no anchor; else what rustls says.
    pub fn new(
        credential: &PublicCredential,
        signatures: &Arc<dyn Signatures>,
        version_min: VersionMin,
        clients: ClientCertificates,
        trust: &Trust,
    ) -> Result<Self, ConfigurationError> {
        // Without an anchor nobody can be verified; whoever is only asked is taken as he is.
        let verifier = match clients {
            ClientCertificates::None => None,
            ClientCertificates::Required if trust.is_empty() => return Err(ConfigurationError::NoTrust),
            ClientCertificates::Requested if trust.is_empty() => None,
            ClientCertificates::Requested | ClientCertificates::Required => {
                // A list of all anchors could be longer than a handshake has room for.
                let verifier = WebPkiClientVerifier::builder_with_provider(Arc::clone(&trust.0), provider());
                Some(verifier.clear_root_hint_subjects().build()?)
            }
        };
        let builder =
            ServerConfig::builder_with_provider(provider()).with_protocol_versions(version_min.versions())?;
        let builder = match &verifier {
            None => builder.with_no_client_auth(),
            Some(verifier) if clients == ClientCertificates::Required => {
                builder.with_client_cert_verifier(Arc::clone(verifier))
            }
            Some(verifier) => {
                builder.with_client_cert_verifier(Arc::new(TakesAny { inner: Arc::clone(verifier) }))
            }
        };
        let mut config = builder.with_cert_resolver(Arc::new(One(certified(credential, signatures))));
        // A client that comes again within hours spares both sides the signatures; the keys of tickets live in this process alone.
        config.ticketer = rustls::crypto::ring::Ticketer::new()?;
        Ok(Self { config: Arc::new(config), clients, verifier })
    }

    /// The handshake of a client.
    ///
    /// # Errors
    /// `InvalidData` with the error of rustls inside when the client and this policy do not agree; else those of the socket. In
    /// both cases the connection is of no use any more.
    pub async fn accept(&self, stream: TcpStream) -> io::Result<(TlsStream, TlsFacts)> {
        let stream = TlsAcceptor::from(Arc::clone(&self.config)).accept(stream).await?;
        let facts = facts::facts(stream.get_ref().1, |chain| {
            self.verifier.as_ref().is_some_and(|verifier| {
                verifier.verify_client_cert(&chain[0], &chain[1..], UnixTime::now()).is_ok()
            })
        });
        // A session that is resumed brings the certificate along that was verified when it began: it may have ended since.
        let is_verified = facts.peer.as_ref().is_some_and(|peer| peer.is_verified);
        if self.clients == ClientCertificates::Required && !is_verified {
            let error = Error::InvalidCertificate(CertificateError::ApplicationVerificationFailure);
            return Err(io::Error::new(io::ErrorKind::InvalidData, error));
        }
        Ok((TlsStream::Inbound(Box::new(stream)), facts))
    }
}

/// The same credential for every client, whatever name it expects.
#[derive(Debug)]
struct One(Arc<CertifiedKey>);

impl ResolvesServerCert for One {
    fn resolve(&self, _: ClientHello<'_>) -> Option<Arc<CertifiedKey>> {
        Some(Arc::clone(&self.0))
    }
}

/// Takes whatever certificate a client shows, or none, if only the client has its key.
#[derive(Debug)]
struct TakesAny {
    inner: Arc<dyn ClientCertVerifier>,
}

impl ClientCertVerifier for TakesAny {
    fn client_auth_mandatory(&self) -> bool {
        false
    }

    fn root_hint_subjects(&self) -> &[DistinguishedName] {
        // With hints a client without a certificate of these anchors shows none, and that it has one is a fact as well.
        &[]
    }

    fn verify_client_cert(
        &self,
        _: &CertificateDer<'_>,
        _: &[CertificateDer<'_>],
        _: UnixTime,
    ) -> Result<ClientCertVerified, Error> {
        Ok(ClientCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<rustls::client::danger::HandshakeSignatureValid, Error> {
        self.inner.verify_tls12_signature(message, certificate, signature)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<rustls::client::danger::HandshakeSignatureValid, Error> {
        self.inner.verify_tls13_signature(message, certificate, signature)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.inner.supported_verify_schemes()
    }
}
