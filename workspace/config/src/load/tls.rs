//! What listeners and peers say about TLS, and what holds where that does not fit together.
//!
//! Two rules decide: what restricts and cannot be kept restricts (mail waits rather than go in clear), and what somebody wrote in
//! the belief that it protects, though it does not, is a problem that says so. A default is nobody's mistake.

use crate::load::{Effect, Hostname};
use crate::model::NextHop;
use crate::reader::{Reader, is_name, shown};
use crate::tls::{
    ClientCertificates, ListenerTls, ListenerTlsPolicy, PeerReference, PeerTls, PeerTlsPolicy, TlsVersion,
};
use crate::{Trust, TrustScope};
use std::collections::BTreeMap;
use std::str::FromStr;

const CREDENTIAL: &str =
    "Give the name of a credential: 1 to 64 letters, digits, dots, hyphens and underscores, no dot first.";
const VERSION: &str = "Say 1.2 or 1.3.";
const TRUST: &str = "Give the cn of a trust entry, or make or correct the entry.";
const MAKE_TRUST: &str =
    "Make a trust entry with the certificate of the authority, or put the ones that are there right.";

/// Reads the attributes of a listener.
pub(super) fn listener(reader: &mut Reader<'_>, trusts: &BTreeMap<String, Trust>) -> ListenerTls {
    let mut tls = ListenerTls {
        policy: reader
            .one("tls", "Say none, offered, required or immediate.")
            .unwrap_or(ListenerTlsPolicy::Required),
        credential: credential(reader, "tls_credential"),
        client_certificates: reader
            .one("tls_client_certificates", "Say none, requested or required.")
            .unwrap_or(ClientCertificates::Required),
        client_trust: trust_scope(reader, "tls_client_trust", trusts),
        version_min: reader.one("tls_version_min", VERSION).unwrap_or(TlsVersion::Tls13),
    };
    let certificates = Some("sternpostTlsClientCertificates");
    match tls.client_certificates {
        ClientCertificates::Required if !tls.policy.is_required() => {
            if reader.says("tls") {
                reader.note(
                    Some("sternpostTls"),
                    "a client without TLS has no certificate, and one is required, so required holds".into(),
                    "Say required or immediate, or change sternpostTlsClientCertificates.",
                    Effect::FailsClosed,
                );
            }
            tls.policy = ListenerTlsPolicy::Required;
        }
        ClientCertificates::Requested if tls.policy == ListenerTlsPolicy::None => reader.note(
            certificates,
            "a client without TLS is asked for no certificate".into(),
            "Raise sternpostTls, or leave the attribute out.",
            Effect::Ignored,
        ),
        ClientCertificates::None if reader.says("tls_client_trust") => reader.note(
            Some("sternpostTlsClientTrust"),
            "no client is asked for a certificate".into(),
            "Set sternpostTlsClientCertificates, or leave the attribute out.",
            Effect::Ignored,
        ),
        _ => {}
    }
    if tls.client_certificates != ClientCertificates::None && !has_certificates(&tls.client_trust, trusts) {
        let what = match tls.client_certificates {
            ClientCertificates::Required => "so no client can send mail here",
            _ => "so no client's certificate is trusted",
        };
        let reason = format!("no trust entry that counts here holds a certificate, {what}");
        reader.note(certificates, reason, MAKE_TRUST, Effect::FailsClosed);
    }
    tls
}

/// Reads the attributes of a peer. Its addresses, if they can be read, are the names of which it must have one where no other is given.
pub(super) fn peer(
    reader: &mut Reader<'_>,
    next_hop: Option<&NextHop>,
    trusts: &BTreeMap<String, Trust>,
) -> PeerTls {
    const NAMES: &str = "Give a domain name, such as mx.example.org: no wildcard and no address (without the attribute the peer's own address counts).";
    let names: Option<Vec<ReferenceDomain>> = reader.many_if_any("peer_tls_names", NAMES);
    let is_by_dns = matches!(next_hop, Some(NextHop::Dns(_)));
    let references = match names {
        Some(_) if is_by_dns => {
            reader.note_key(
                "peer_tls_names",
                "the names of this peer are those of the domains, or of the hosts that the DNS names".into(),
                "Leave it out.",
                Effect::Ignored,
            );
            Vec::new()
        }
        Some(names) => names.into_iter().map(|ReferenceDomain(name)| PeerReference::Domain(name)).collect(),
        None => {
            let addresses = next_hop.into_iter().flat_map(NextHop::addresses);
            addresses.map(|address| PeerReference::Address(address.0.ip().to_canonical())).collect()
        }
    };
    let mut tls = PeerTls {
        policy: reader
            .one("peer_tls", "Say none, opportunistic, required, verified or mutual.")
            .unwrap_or(PeerTlsPolicy::Verified),
        immediate: reader.one("peer_tls_immediate", "Say TRUE or FALSE.").unwrap_or(false),
        references,
        credential: credential(reader, "peer_tls_credential"),
        trust: trust_scope(reader, "peer_tls_trust", trusts),
        version_min: reader.one("peer_tls_version_min", VERSION).unwrap_or(TlsVersion::Tls13),
    };
    if tls.immediate && !tls.policy.is_required() {
        if reader.says("peer_tls") {
            reader.note(
                Some("sternpostPeerTls"),
                format!("TLS from the first octet cannot be {}, so required holds", tls.policy.name()),
                "Say required, verified or mutual, or change sternpostPeerTlsImmediate.",
                Effect::FailsClosed,
            );
        }
        tls.policy = PeerTlsPolicy::Required;
    }
    note_what_protects_nothing(reader, &tls);
    if tls.policy.is_verified()
        && tls.references.is_empty()
        && next_hop.is_some_and(|next_hop| next_hop.addresses().next().is_some())
    {
        reader.note(
            Some("sternpostPeerTlsNames"),
            "no value can be read, so no certificate has the peer's name and no mail goes there".into(),
            NAMES,
            Effect::FailsClosed,
        );
    }
    if tls.policy.is_verified() && !has_certificates(&tls.trust, trusts) {
        reader.note(
            Some("sternpostPeerTls"),
            "no trust entry that counts here holds a certificate, so no mail goes there: it waits".into(),
            MAKE_TRUST,
            Effect::FailsClosed,
        );
    }
    tls
}

/// Whoever gives names, authorities or a credential believes that the peer is checked by them.
fn note_what_protects_nothing(reader: &mut Reader<'_>, tls: &PeerTls) {
    let rows = [
        ("peer_tls_names", "verified or mutual", tls.policy.is_verified()),
        ("peer_tls_trust", "verified or mutual", tls.policy.is_verified()),
        ("peer_tls_credential", "mutual", tls.policy == PeerTlsPolicy::Mutual),
    ];
    for (key, policies, counts) in rows {
        if !counts && reader.says(key) {
            reader.note_key(
                key,
                format!("it counts where sternpostPeerTls is {policies}; here it is {}", tls.policy.name()),
                "Raise sternpostPeerTls, or leave the attribute out.",
                Effect::Ignored,
            );
        }
    }
}

/// A name that cannot be read makes the entry wrong: nobody knows what to show instead.
fn credential(reader: &mut Reader<'_>, key: &str) -> String {
    reader.one(key, CREDENTIAL).map_or_else(String::new, |CredentialName(name)| name)
}

/// A name that leads nowhere counts for nothing, and does not make every entry count.
fn trust_scope(reader: &mut Reader<'_>, key: &str, trusts: &BTreeMap<String, Trust>) -> TrustScope {
    let Some(names) = reader.many_if_any::<String>(key, TRUST) else { return TrustScope::All };
    let (known, unknown): (Vec<_>, Vec<_>) = names.into_iter().partition(|name| trusts.contains_key(name));
    for name in unknown {
        let reason = format!("there is no trust entry {} in force, so it vouches for nobody", shown(&name));
        reader.note_key(key, reason, TRUST, Effect::FailsClosed);
    }
    TrustScope::Named(known)
}

fn has_certificates(scope: &TrustScope, trusts: &BTreeMap<String, Trust>) -> bool {
    match scope {
        TrustScope::All => trusts.values().any(|trust| !trust.certificates.is_empty()),
        TrustScope::Named(names) => {
            names.iter().any(|name| trusts.get(name).is_some_and(|trust| !trust.certificates.is_empty()))
        }
    }
}

/// The name of a file without its ending: no part of a path, and not hidden.
struct CredentialName(String);

impl FromStr for CredentialName {
    type Err = ();

    fn from_str(text: &str) -> Result<Self, ()> {
        if is_name(text) && !text.starts_with('.') { Ok(Self(text.to_owned())) } else { Err(()) }
    }
}

/// A domain name as a certificate has it: in small letters, 253 octets at most, labels of 63 at most, and not an address.
struct ReferenceDomain(String);

impl FromStr for ReferenceDomain {
    type Err = ();

    fn from_str(text: &str) -> Result<Self, ()> {
        let Hostname { name, .. } = text.parse()?;
        let last = name.rsplit('.').next().unwrap_or_default();
        let is_good = name.len() <= 253
            && name.split('.').all(|label| label.len() <= 63)
            // RFC 1123, 2.1: no name ends in a number, every address does.
            && !last.bytes().all(|octet| octet.is_ascii_digit());
        if is_good { Ok(Self(name.to_ascii_lowercase())) } else { Err(()) }
    }
}
