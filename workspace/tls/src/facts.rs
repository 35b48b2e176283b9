//! What a handshake has come to.

use rustls::pki_types::CertificateDer;
use rustls::{CommonState, ProtocolVersion};
use sha2::{Digest, Sha256};
use sternpost_message::{PeerCertificate, TlsFacts};
use x509_parser::extensions::GeneralName;
use x509_parser::parse_x509_certificate;

/// The facts of a connection whose handshake is complete; `verify` says whether the other end's certificate is to be trusted.
pub(crate) fn facts(
    connection: &CommonState,
    verify: impl FnOnce(&[CertificateDer<'_>]) -> bool,
) -> TlsFacts {
    let version = match connection.protocol_version() {
        Some(ProtocolVersion::TLSv1_3) => "TLSv1.3".to_owned(),
        Some(ProtocolVersion::TLSv1_2) => "TLSv1.2".to_owned(),
        other => format!("{other:?}"),
    };
    let suite = connection.negotiated_cipher_suite().map(|suite| suite.suite());
    // The library has a name of its own for the suites of TLS 1.3.
    let cipher_suite = suite.and_then(|suite| suite.as_str()).map_or_else(String::new, |name| {
        name.strip_prefix("TLS13_").map_or_else(|| name.to_owned(), |rest| format!("TLS_{rest}"))
    });
    let group = connection.negotiated_key_exchange_group().and_then(|group| group.name().as_str());
    let peer =
        connection.peer_certificates().filter(|chain| !chain.is_empty()).map(|chain| PeerCertificate {
            subject: subject(&chain[0]),
            fingerprint: Sha256::digest(&chain[0]).into(),
            is_verified: verify(chain),
        });
    TlsFacts { version, cipher_suite, group: group.map(str::to_owned), peer }
}

/// The names in a certificate's subjectAltName by which users are known, in small letters: `email:` with an rfc822Name, `dns:`
/// with a dNSName. None when it has none or cannot be read.
pub(crate) fn alternative_names(certificate: &CertificateDer<'_>) -> Vec<String> {
    let Ok((_, certificate)) = parse_x509_certificate(certificate) else { return Vec::new() };
    let Ok(Some(extension)) = certificate.subject_alternative_name() else { return Vec::new() };
    let name = |name: &GeneralName<'_>| match name {
        GeneralName::RFC822Name(address) => Some(format!("email:{}", address.to_ascii_lowercase())),
        GeneralName::DNSName(name) => Some(format!("dns:{}", name.to_ascii_lowercase())),
        _ => None,
    };
    extension.value.general_names.iter().filter_map(name).collect()
}

/// The subject by RFC 4514; empty when it cannot be read.
pub(crate) fn subject(certificate: &CertificateDer<'_>) -> String {
    let mut subject =
        parse_x509_certificate(certificate).map(|(_, it)| it.subject().to_string()).unwrap_or_default();
    subject.retain(|c| !c.is_control());
    let end = (0..=PeerCertificate::SUBJECT_OCTETS_MAX.min(subject.len())).rev();
    let end = end.into_iter().find(|at| subject.is_char_boundary(*at)).unwrap_or(0);
    subject.truncate(end);
    subject
}
