//! Handshakes over the loopback: what two policies agree on, and what they refuse.
#![allow(clippy::unwrap_used, reason = "a test that cannot go on fails here, with the place")]

use rcgen::{BasicConstraints, CertificateParams, IsCa, Issuer, KeyPair};
use std::io;
use std::sync::Arc;
use sternpost_link::signer::{KeyId, PublicCredential};
use sternpost_message::{TlsFacts, chain};
use sternpost_tls::{
    Authentication, ClientCertificates, Credential, Inbound, KeyUnavailable, Outbound, ServerName,
    Signatures, Trust, VersionMin,
};
use tokio::net::{TcpListener, TcpStream};

/// Somebody who certifies.
struct Authority {
    der: Vec<u8>,
    pem: String,
    issuer: Issuer<'static, KeyPair>,
}

impl Authority {
    fn new() -> Self {
        let mut params = CertificateParams::new(vec![]).unwrap();
        params.distinguished_name.push(rcgen::DnType::CommonName, "authority");
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        let key = KeyPair::generate().unwrap();
        let certificate = params.self_signed(&key).unwrap();
        Self { der: certificate.der().to_vec(), pem: certificate.pem(), issuer: Issuer::new(params, key) }
    }

    /// A credential with names and the authority's own certificate in its chain.
    fn credential(&self, names: &[String], change: impl FnOnce(&mut CertificateParams)) -> Credential {
        let key = KeyPair::generate().unwrap();
        let mut params = CertificateParams::new(names.to_vec()).unwrap();
        change(&mut params);
        let certificate = params.signed_by(&key, &self.issuer).unwrap();
        Credential::parse("x", (certificate.pem() + &self.pem + &key.serialize_pem()).as_bytes()).unwrap()
    }

    fn trust(&self) -> Trust {
        let (trust, wrong) = Trust::new([&self.der[..]]);
        assert!(wrong.is_empty());
        trust
    }
}

/// A signer without a process of its own.
#[derive(Debug)]
struct Here(Vec<Credential>);

impl Signatures for Here {
    fn sign(&self, key: KeyId, scheme: u16, message: &[u8]) -> Result<Vec<u8>, KeyUnavailable> {
        let credential = self.0.iter().find(|credential| credential.public().key == key);
        let credential = credential.ok_or_else(|| KeyUnavailable("there is no such key".to_owned()))?;
        credential.sign(scheme, message).map_err(KeyUnavailable)
    }
}

fn here(credential: Credential) -> (PublicCredential, Arc<dyn Signatures>) {
    (credential.public().clone(), Arc::new(Here(vec![credential])))
}

fn name(name: &str) -> ServerName<'static> {
    ServerName::try_from(name.to_owned()).unwrap()
}

/// What both ends find, each for itself. An end whose handshake is done hears of the other's refusal when it reads.
async fn meet(inbound: &Inbound, outbound: &Outbound) -> (io::Result<TlsFacts>, io::Result<TlsFacts>) {
    use tokio::io::AsyncReadExt;
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let server = async {
        let (stream, _) = listener.accept().await?;
        inbound.accept(stream).await.map(|(_, facts)| facts)
    };
    let client = async {
        let stream = TcpStream::connect(address).await?;
        let (mut stream, facts) = outbound.connect(stream).await?;
        match stream.read(&mut [0]).await {
            Err(error) if error.kind() == io::ErrorKind::InvalidData => Err(error),
            _ => Ok(facts),
        }
    };
    tokio::join!(server, client)
}

fn inbound(authority: &Authority, clients: ClientCertificates) -> Inbound {
    let (credential, signatures) = here(authority.credential(&["mx.test".to_owned()], |_| {}));
    Inbound::new(&credential, &signatures, VersionMin::Tls12, clients, &authority.trust()).unwrap()
}

fn verified(trust: Trust, names: &[&str]) -> Authentication {
    Authentication::Verified { trust, names: names.iter().map(|text| name(text)).collect() }
}

#[tokio::test]
async fn both_ends_say_the_same_of_version_suite_and_group_and_each_of_the_other() {
    let authority = Authority::new();
    let outbound = Outbound::new(
        name("mx.test"),
        verified(authority.trust(), &["other.test", "mx.test"]),
        VersionMin::Tls13,
        None,
    );
    let (server, client) = meet(&inbound(&authority, ClientCertificates::None), &outbound.unwrap()).await;
    let (server, client) = (server.unwrap(), client.unwrap());
    assert_eq!(
        (&server.version, &server.cipher_suite, &server.group),
        (&client.version, &client.cipher_suite, &client.group)
    );
    assert_eq!(client.version, "TLSv1.3");
    assert!(client.cipher_suite.starts_with("TLS_") && client.group.is_some(), "{client:?}");
    assert!(server.peer.is_none() && client.peer.unwrap().is_verified);
}

#[tokio::test]
async fn a_name_that_the_certificate_does_not_have_and_an_issuer_that_nobody_trusts_are_refused() {
    let (authority, stranger) = (Authority::new(), Authority::new());
    let rows = [
        (verified(authority.trust(), &["other.test"]), "not valid for name"),
        (verified(authority.trust(), &["127.0.0.1"]), "not valid for name"),
        (verified(stranger.trust(), &["mx.test"]), "certificate"),
    ];
    for (authentication, words) in rows {
        let outbound = Outbound::new(name("mx.test"), authentication, VersionMin::Tls12, None).unwrap();
        let (server, client) = meet(&inbound(&authority, ClientCertificates::None), &outbound).await;
        let why = chain(&client.unwrap_err());
        assert!(server.is_err() && why.contains(words), "{why}");
    }
    let none = Authentication::Verified { trust: authority.trust(), names: Vec::new() };
    assert!(Outbound::new(name("mx.test"), none, VersionMin::Tls12, None).is_err());
    assert!(
        Outbound::new(name("mx.test"), verified(Trust::new([]).0, &["mx.test"]), VersionMin::Tls12, None)
            .is_err()
    );
}

#[tokio::test]
async fn a_client_that_is_only_asked_may_show_anything_and_one_that_must_may_not() {
    let (authority, stranger) = (Authority::new(), Authority::new());
    let good = here(authority.credential(&["client.test".to_owned()], |_| {}));
    let strange = here(stranger.credential(&["client.test".to_owned()], |_| {}));
    let ended = here(authority.credential(&["client.test".to_owned()], |params| {
        params.not_after = rcgen::date_time_ymd(2020, 1, 1);
    }));
    let rows = [
        (ClientCertificates::Requested, None, Some(None)),
        (ClientCertificates::Requested, Some(&good), Some(Some(true))),
        (ClientCertificates::Requested, Some(&strange), Some(Some(false))),
        (ClientCertificates::Requested, Some(&ended), Some(Some(false))),
        (ClientCertificates::Required, None, None),
        (ClientCertificates::Required, Some(&good), Some(Some(true))),
        (ClientCertificates::Required, Some(&strange), None),
        (ClientCertificates::Required, Some(&ended), None),
    ];
    for (clients, credential, expected) in rows {
        let credential = credential.map(|(public, signatures)| (public, signatures));
        let outbound = Outbound::new(name("mx.test"), Authentication::Anybody, VersionMin::Tls12, credential);
        let (server, client) = meet(&inbound(&authority, clients), &outbound.unwrap()).await;
        let found = server.ok().map(|facts| facts.peer.map(|peer| peer.is_verified));
        assert_eq!((found, client.is_ok()), (expected, expected.is_some()), "{clients:?}");
    }
}

#[tokio::test]
async fn a_peer_of_tls_1_2_gets_a_signature_over_the_whole_handshake_however_long_its_chain_is() {
    let authority = Authority::new();
    let names: Vec<String> = (0..300).map(|number| format!("host-{number}.mx.test")).collect();
    let server = authority.credential(&names, |_| {});
    let chain: Vec<_> = server.public().chain.iter().map(|der| der.to_vec().into()).collect();
    // A peer that speaks nothing newer: rustls with a key of its own.
    let key = KeyPair::generate().unwrap();
    let mut params = CertificateParams::new(names).unwrap();
    params.is_ca = IsCa::NoCa;
    let own = params.signed_by(&key, &authority.issuer).unwrap();
    let mut roots = rustls::RootCertStore::empty();
    roots.add(authority.der.clone().into()).unwrap();
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let verifier =
        rustls::server::WebPkiClientVerifier::builder_with_provider(Arc::new(roots), Arc::clone(&provider));
    let config = rustls::ServerConfig::builder_with_provider(provider)
        .with_protocol_versions(&[&rustls::version::TLS12])
        .unwrap()
        .with_client_cert_verifier(verifier.build().unwrap())
        .with_single_cert(
            vec![own.der().clone()].into_iter().chain(chain).collect(),
            rustls::pki_types::PrivateKeyDer::try_from(key.serialize_der()).unwrap(),
        )
        .unwrap();
    let acceptor = tokio_rustls::TlsAcceptor::from(Arc::new(config));
    let (credential, signatures) = here(authority.credential(&["client.test".to_owned()], |_| {}));
    let outbound = Outbound::new(
        name("host-7.mx.test"),
        verified(authority.trust(), &["host-7.mx.test"]),
        VersionMin::Tls12,
        Some((&credential, &signatures)),
    );
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let server = async { acceptor.accept(listener.accept().await?.0).await };
    let outbound = outbound.unwrap();
    let client = async { outbound.connect(TcpStream::connect(address).await?).await };
    let (server, client) = tokio::join!(server, client);
    assert_eq!(client.unwrap().1.version, "TLSv1.2");
    assert!(server.unwrap().get_ref().1.peer_certificates().is_some());
}
