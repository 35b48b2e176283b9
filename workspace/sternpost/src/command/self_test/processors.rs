//! What one processor does in a second: TLS handshakes, SHA-256, copying. In memory; no octet leaves the process.
//!
//! The certificates are made here and now and are gone with the process. Not measured: a key of RSA, which `ring` uses
//! but cannot make, and one that lies in the program would be in everybody's hands.

use super::measure::per_second;
use rcgen::{BasicConstraints, CertificateParams, IsCa, Issuer, KeyPair, PKCS_ECDSA_P256_SHA256};
use rustls::pki_types::{PrivatePkcs8KeyDer, ServerName};
use rustls::{ClientConfig, ClientConnection, RootCertStore, ServerConfig, ServerConnection};
use sha2::{Digest, Sha256};
use std::hint::black_box;
use std::sync::Arc;
use std::time::{Duration, Instant};

/// A name that nobody has. RFC 2606.
const NAME: &str = "self-test.invalid";
/// Octets hashed at a time: as many as a connection of the SMTP server reads.
const HASHED_OCTETS: usize = 32 << 10;
/// Octets copied at a time: more than most caches of a processor hold.
const COPIED_OCTETS: usize = 32 << 20;

/// What one processor does in a second.
#[derive(Clone, Copy, Debug)]
pub(super) struct Processors {
    /// Full handshakes of TLS 1.3 with a key of ECDSA P-256, the server's work alone.
    pub(super) tls_server_per_s: f64,
    /// The client's work alone, verification of a chain of two certificates included.
    pub(super) tls_client_per_s: f64,
    pub(super) sha256_octets_per_s: f64,
    /// From memory to memory; each octet counts once.
    pub(super) copy_octets_per_s: f64,
}

/// Why a processor was not measured.
#[derive(Debug, thiserror::Error)]
pub(super) enum ProcessorError {
    #[error("no certificate could be made")]
    Certificate(#[from] rcgen::Error),
    #[error("a TLS handshake has failed")]
    Tls(#[from] rustls::Error),
    #[error("a TLS handshake came to no end")]
    Endless,
}

/// Measures for about `each` three times.
///
/// # Errors
/// `ProcessorError`.
pub(super) fn measure(each: Duration) -> Result<Processors, ProcessorError> {
    let (server, client) = handshakes(each)?;
    Ok(Processors {
        tls_server_per_s: server,
        tls_client_per_s: client,
        sha256_octets_per_s: hashing(each),
        copy_octets_per_s: copying(each),
    })
}

/// Handshakes a second of a server and of a client. Each is a full one: nothing is resumed.
fn handshakes(time: Duration) -> Result<(f64, f64), ProcessorError> {
    let (server, client) = configurations()?;
    let (mut count, mut of_server, mut of_client) = (0, Duration::ZERO, Duration::ZERO);
    // The first one finds nothing in any cache.
    handshake(&server, &client)?;
    let began = Instant::now();
    while count == 0 || began.elapsed() < time {
        let (server_time, client_time) = handshake(&server, &client)?;
        of_server += server_time;
        of_client += client_time;
        count += 1;
    }
    Ok((per_second(count, of_server), per_second(count, of_client)))
}

fn configurations() -> Result<(Arc<ServerConfig>, Arc<ClientConfig>), ProcessorError> {
    let key = || KeyPair::generate_for(&PKCS_ECDSA_P256_SHA256);
    let (authority_key, server_key) = (key()?, key()?);
    let mut authority = CertificateParams::new(Vec::new())?;
    authority.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    let root = authority.self_signed(&authority_key)?;
    let issuer = Issuer::new(authority, authority_key);
    let certificate = CertificateParams::new(vec![NAME.to_owned()])?.signed_by(&server_key, &issuer)?;
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let private = PrivatePkcs8KeyDer::from(server_key.serialize_der());
    let server = ServerConfig::builder_with_provider(Arc::clone(&provider))
        .with_protocol_versions(&[&rustls::version::TLS13])?
        .with_no_client_auth()
        .with_single_cert(vec![certificate.der().clone()], private.into())?;
    let mut roots = RootCertStore::empty();
    roots.add(root.der().clone())?;
    let mut client = ClientConfig::builder_with_provider(provider)
        .with_protocol_versions(&[&rustls::version::TLS13])?
        .with_root_certificates(roots)
        .with_no_client_auth();
    client.resumption = rustls::client::Resumption::disabled();
    Ok((Arc::new(server), Arc::new(client)))
}

/// A handshake has two flights; one that takes more turns than this goes round in a circle.
const TURNS_MAX: usize = 8;

/// One handshake from memory to memory: the time of the server, and of the client.
fn handshake(
    server: &Arc<ServerConfig>,
    client: &Arc<ClientConfig>,
) -> Result<(Duration, Duration), ProcessorError> {
    let began = Instant::now();
    let name = ServerName::try_from(NAME).expect("it is a name");
    let mut client = ClientConnection::new(Arc::clone(client), name)?;
    let mut of_client = began.elapsed();
    let began = Instant::now();
    let mut server = ServerConnection::new(Arc::clone(server))?;
    let mut of_server = began.elapsed();
    for _ in 0..TURNS_MAX {
        let (octets, time) = turn(&mut client, &[])?;
        of_client += time;
        let (octets, time) = turn(&mut server, &octets)?;
        of_server += time;
        let (octets, time) = turn(&mut client, &octets)?;
        of_client += time;
        let (_, time) = turn(&mut server, &octets)?;
        of_server += time;
        if !client.is_handshaking() && !server.is_handshaking() {
            return Ok((of_server, of_client));
        }
    }
    Err(ProcessorError::Endless)
}

/// Gives one end the octets of the other, and takes what it says to that, with the time that this took.
fn turn<Side>(
    end: &mut rustls::ConnectionCommon<Side>,
    mut octets: &[u8],
) -> Result<(Vec<u8>, Duration), ProcessorError>
where
    Side: rustls::SideData,
{
    let began = Instant::now();
    while !octets.is_empty() {
        end.read_tls(&mut octets).map_err(|_| ProcessorError::Endless)?;
        end.process_new_packets()?;
    }
    let mut said = Vec::new();
    while end.wants_write() {
        end.write_tls(&mut said).map_err(|_| ProcessorError::Endless)?;
    }
    Ok((said, began.elapsed()))
}

/// By the implementation that hashes content.
fn hashing(time: Duration) -> f64 {
    let content = vec![0x5A; HASHED_OCTETS];
    let mut hash = Sha256::new();
    let (mut octets, began) = (0, Instant::now());
    while octets == 0 || began.elapsed() < time {
        hash.update(black_box(&content));
        octets += HASHED_OCTETS as u64;
    }
    let elapsed = began.elapsed();
    black_box(hash.finalize());
    per_second(octets, elapsed)
}

/// The best of several copies.
fn copying(time: Duration) -> f64 {
    let from = vec![0x5A_u8; COPIED_OCTETS];
    // Written once, so that no copy pays for pages that the kernel has yet to give.
    let mut into = vec![1_u8; COPIED_OCTETS];
    let (mut best, began) = (Duration::MAX, Instant::now());
    while best == Duration::MAX || began.elapsed() < time {
        let copied = Instant::now();
        into.copy_from_slice(black_box(&from));
        black_box(&mut into);
        best = best.min(copied.elapsed());
    }
    per_second(COPIED_OCTETS as u64, best)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_handshake_ends_and_both_ends_have_worked_for_it() {
        let (server, client) = configurations().unwrap();
        let (of_server, of_client) = handshake(&server, &client).unwrap();
        assert!(of_server > Duration::ZERO && of_client > Duration::ZERO);
    }

    #[test]
    fn a_client_does_not_trust_the_certificate_of_another_run() {
        let (server, _) = configurations().unwrap();
        let (_, client) = configurations().unwrap();
        let error = handshake(&server, &client).unwrap_err();
        assert!(matches!(error, ProcessorError::Tls(rustls::Error::InvalidCertificate(_))), "{error:?}");
    }

    #[test]
    fn each_is_measured_once_even_in_no_time() {
        let measured = measure(Duration::ZERO).unwrap();
        let rates = [
            measured.tls_server_per_s,
            measured.tls_client_per_s,
            measured.sha256_octets_per_s,
            measured.copy_octets_per_s,
        ];
        assert!(rates.iter().all(|rate| *rate > 0.0 && rate.is_finite()), "{rates:?}");
    }
}
