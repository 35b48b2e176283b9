//! TLS of a listener: its policy and the credentials that are there, made into what a connection needs.

use crate::signer_client::SignerClient;
use sternpost_config::{ClientCertificates, Listener, ListenerTlsPolicy, TlsVersion, Trust};
use sternpost_message::chain;
use sternpost_smtp::server::StartTls;
use sternpost_tls::{self as tls, Inbound, VersionMin};

/// What a listener does about TLS.
#[derive(Debug)]
pub(super) struct ListenerTls {
    policy: ListenerTlsPolicy,
    /// None while it cannot be done.
    inbound: Option<Inbound>,
}

impl ListenerTls {
    pub(super) fn new(listener: &Listener, trusts: &[Trust], signer: &SignerClient) -> Self {
        let policy = listener.tls.policy;
        let inbound =
            if policy == ListenerTlsPolicy::None { None } else { inbound(listener, trusts, signer) };
        Self { policy, inbound }
    }

    /// What the session says of STARTTLS. Where it is merely offered and cannot be done, it is not offered.
    pub(super) const fn starttls(&self) -> StartTls {
        match (self.policy, &self.inbound) {
            (ListenerTlsPolicy::None | ListenerTlsPolicy::Immediate, _)
            | (ListenerTlsPolicy::Offered, None) => StartTls::Absent,
            (ListenerTlsPolicy::Offered, Some(_)) => StartTls::Offered,
            (ListenerTlsPolicy::Required, _) => StartTls::Required,
        }
    }

    /// Whether TLS begins with the first octet.
    pub(super) const fn is_immediate(&self) -> bool {
        matches!(self.policy, ListenerTlsPolicy::Immediate)
    }

    /// The configuration for handshakes; none while they cannot be done.
    pub(super) const fn inbound(&self) -> Option<&Inbound> {
        self.inbound.as_ref()
    }
}

fn inbound(listener: &Listener, trusts: &[Trust], signer: &SignerClient) -> Option<Inbound> {
    let wanted = &listener.tls;
    let name = &listener.name;
    let Some(credential) = signer.credential(&wanted.credential) else {
        // Offered is what nobody has asked for: its credential may never have been meant to be there.
        if wanted.policy.is_required() {
            tracing::error!(
                event = "listener.no-credential",
                listener = name,
                credential = wanted.credential,
                "the credential of a listener is not there: nobody can send mail to it until it is"
            );
        }
        return None;
    };
    let (trust, wrong) = tls::Trust::new(wanted.client_trust.certificates(trusts));
    for error in &wrong {
        tracing::warn!(
            event = "trust.wrong",
            listener = name,
            error = error as &dyn std::error::Error,
            "a certificate of a trust entry is left out"
        );
    }
    let clients = match wanted.client_certificates {
        ClientCertificates::None => tls::ClientCertificates::None,
        ClientCertificates::Requested => tls::ClientCertificates::Requested,
        ClientCertificates::Required => tls::ClientCertificates::Required,
    };
    let inbound =
        Inbound::new(&credential, &signer.signatures(), version_min(wanted.version_min), clients, &trust);
    inbound
        .inspect_err(|error| {
            let why = chain(error);
            tracing::error!(event = "listener.no-tls", listener = name, why, "a listener cannot do TLS");
        })
        .ok()
}

/// The lowest version as TLS knows it.
pub(crate) const fn version_min(version: TlsVersion) -> VersionMin {
    match version {
        TlsVersion::Tls12 => VersionMin::Tls12,
        TlsVersion::Tls13 => VersionMin::Tls13,
    }
}
