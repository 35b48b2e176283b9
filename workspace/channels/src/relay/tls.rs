//! TLS with a peer: its policy and the credentials that are there, made into what an association needs.

use crate::signer_client::SignerClient;
use crate::smtp_server::tls::version_min;
use sternpost_config::{ChannelView, Peer, PeerReference, PeerTlsPolicy};
use sternpost_message::chain;
use sternpost_smtp::client::Tls;
use sternpost_tls::{Authentication, Outbound, ServerName, Trust};

/// What associations with a peer do about TLS.
#[derive(Clone, Debug)]
pub(super) struct PeerTls {
    policy: PeerTlsPolicy,
    is_immediate: bool,
    /// Or why it cannot be done.
    outbound: Result<Outbound, String>,
}

impl PeerTls {
    pub(super) fn new(peer: &Peer, view: &ChannelView, signer: &SignerClient) -> Self {
        let policy = peer.tls.policy;
        let outbound = match policy {
            PeerTlsPolicy::None => Err("the peer's policy is none".to_owned()),
            _ => outbound(peer, view, signer),
        };
        Self { policy, is_immediate: peer.tls.immediate, outbound }
    }

    /// A peer to which mail goes in the clear.
    pub(super) fn never() -> Self {
        Self { policy: PeerTlsPolicy::None, is_immediate: false, outbound: Err(String::new()) }
    }

    /// What a session does about STARTTLS.
    pub(super) fn starttls(&self) -> Tls {
        match self.policy {
            PeerTlsPolicy::None => Tls::Never,
            PeerTlsPolicy::Opportunistic if self.outbound.is_err() => Tls::Never,
            PeerTlsPolicy::Opportunistic => Tls::Opportunistic,
            PeerTlsPolicy::Required | PeerTlsPolicy::Verified | PeerTlsPolicy::Mutual => Tls::Required,
        }
    }

    /// Whether TLS begins with the first octet.
    pub(super) const fn is_immediate(&self) -> bool {
        self.is_immediate
    }

    /// Whether mail may go in the clear when a handshake fails.
    pub(super) fn may_go_in_the_clear(&self) -> bool {
        !self.policy.is_required()
    }

    /// The configuration for handshakes.
    ///
    /// # Errors
    /// Why there is none, for people.
    pub(super) fn outbound(&self) -> Result<&Outbound, &str> {
        self.outbound.as_ref().map_err(String::as_str)
    }
}

fn outbound(peer: &Peer, view: &ChannelView, signer: &SignerClient) -> Result<Outbound, String> {
    let wanted = &peer.tls;
    let names: Vec<ServerName<'static>> = wanted.references.iter().filter_map(server_name).collect();
    let credential = match wanted.policy {
        PeerTlsPolicy::Mutual => Some(signer.credential(&wanted.credential).ok_or_else(|| {
            format!(
                "the credential {} is not there: put {0}.pem into the folder of the credentials",
                wanted.credential
            )
        })?),
        _ => None,
    };
    let signatures = signer.signatures();
    let authentication = if wanted.policy.is_verified() {
        let (trust, wrong) = Trust::new(wanted.trust.certificates(&view.trusts));
        for error in &wrong {
            tracing::warn!(
                event = "trust.wrong",
                peer = peer.name,
                error = error as &dyn std::error::Error,
                "a certificate of a trust entry is left out"
            );
        }
        Authentication::Verified { trust, names: names.clone() }
    } else {
        Authentication::Anybody
    };
    let address = ServerName::IpAddress(peer.address.0.ip().into());
    let told = names.into_iter().next().unwrap_or(address);
    let credential = credential.as_ref().map(|credential| (credential, &signatures));
    Outbound::new(told, authentication, version_min(wanted.version_min), credential)
        .map_err(|error| chain(&error))
}

fn server_name(reference: &PeerReference) -> Option<ServerName<'static>> {
    match reference {
        PeerReference::Domain(name) => ServerName::try_from(name.clone()).ok(),
        PeerReference::Address(address) => Some(ServerName::IpAddress((*address).into())),
    }
}
