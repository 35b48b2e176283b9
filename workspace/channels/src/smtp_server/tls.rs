//! TLS of a listener: its policy and the credentials that are there, made into what a connection needs.

use crate::signer_client::{Absent, SignerClient};
use crate::tls::{Unable, trust, version_min};
use sternpost_config::{ClientCertificates, Listener, ListenerTlsPolicy, Trust};
use sternpost_message::chain;
use sternpost_smtp::server::StartTls;
use sternpost_tls::{self as tls, Inbound};

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
        let inbound = match policy {
            ListenerTlsPolicy::None => None,
            _ => inbound(listener, trusts, signer).inspect_err(|error| say_why_not(listener, error)).ok(),
        };
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

fn inbound(listener: &Listener, trusts: &[Trust], signer: &SignerClient) -> Result<Inbound, Unable> {
    let wanted = &listener.tls;
    let credential = signer.credential(&wanted.credential)?;
    let trust = trust(&wanted.client_trust, trusts, &listener.name);
    let clients = match wanted.client_certificates {
        ClientCertificates::None => tls::ClientCertificates::None,
        ClientCertificates::Requested => tls::ClientCertificates::Requested,
        ClientCertificates::Required => tls::ClientCertificates::Required,
    };
    let version_min = version_min(wanted.version_min);
    Ok(Inbound::new(&credential, &signer.signatures(), version_min, clients, &trust)?)
}

/// Offered is what nobody has asked for: its credential may never have been meant to be there.
fn say_why_not(listener: &Listener, error: &Unable) {
    let (listener, is_required, why) = (&listener.name, listener.tls.policy.is_required(), chain(error));
    match error {
        Unable::Credential(Absent::Signer) => {
            tracing::debug!(event = "listener.no-tls", listener, why, "a listener cannot do TLS now");
        }
        Unable::Credential(Absent::File { .. }) if !is_required => {}
        Unable::Credential(Absent::File { .. }) | Unable::Configuration(_) => {
            tracing::error!(
                event = "listener.no-tls",
                listener,
                is_required,
                why,
                "a listener cannot do TLS; where it is required, nobody can send mail to it"
            );
        }
    }
}
