//! TLS with a peer: its policy and the credentials that are there, made into what an association needs.

use super::next_hop::Host;
use crate::signer_client::SignerClient;
use crate::tls::{Unable, trust, version_min};
use sternpost_config::{ChannelView, Peer, PeerReference, PeerTlsPolicy};
use sternpost_smtp::client::Tls;
use sternpost_tls::{Authentication, Outbound, ServerName};

/// What an association with a peer does about TLS.
#[derive(Debug)]
pub(super) struct AssociationTls {
    policy: PeerTlsPolicy,
    is_immediate: bool,
    /// None where it is not to be done; or why it cannot be.
    outbound: Option<Result<Outbound, Unable>>,
}

impl AssociationTls {
    pub(super) fn new(peer: &Peer, host: &Host, view: &ChannelView, signer: &SignerClient) -> Self {
        let policy = peer.tls.policy;
        let outbound = (policy != PeerTlsPolicy::None).then(|| outbound(peer, host, view, signer));
        Self { policy, is_immediate: peer.tls.immediate, outbound }
    }

    /// Mail goes in the clear.
    pub(super) const fn never() -> Self {
        Self { policy: PeerTlsPolicy::None, is_immediate: false, outbound: None }
    }

    /// What a session does about STARTTLS.
    pub(super) const fn starttls(&self) -> Tls {
        match (self.policy, &self.outbound) {
            (PeerTlsPolicy::None, _) | (PeerTlsPolicy::Opportunistic, None | Some(Err(_))) => Tls::Never,
            (PeerTlsPolicy::Opportunistic, Some(Ok(_))) => Tls::Opportunistic,
            (PeerTlsPolicy::Required | PeerTlsPolicy::Verified | PeerTlsPolicy::Mutual, _) => Tls::Required,
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

    /// The configuration for handshakes; none where there are none to be.
    ///
    /// # Errors
    /// Why it cannot be made.
    pub(super) fn outbound(&self) -> Result<Option<&Outbound>, &Unable> {
        self.outbound.as_ref().map(Result::as_ref).transpose()
    }
}

fn outbound(peer: &Peer, host: &Host, view: &ChannelView, signer: &SignerClient) -> Result<Outbound, Unable> {
    let wanted = &peer.tls;
    let domain = |name: &String| ServerName::try_from(name.clone()).ok();
    let names: Vec<ServerName<'static>> = match &host.found {
        Some(found) => found.references.iter().filter_map(domain).collect(),
        None => wanted.references.iter().filter_map(server_name).collect(),
    };
    let credential = match wanted.policy {
        PeerTlsPolicy::Mutual => Some(signer.credential(&wanted.credential)?),
        _ => None,
    };
    let signatures = signer.signatures();
    let authentication = if wanted.policy.is_verified() {
        Authentication::Verified {
            trust: trust(&wanted.trust, &view.trusts, &peer.name),
            names: names.clone(),
        }
    } else {
        Authentication::Anybody
    };
    let address = ServerName::IpAddress(host.address.ip().into());
    let own_name = host.found.as_ref().and_then(|found| found.name.as_ref()).and_then(domain);
    let told = own_name.or_else(|| names.into_iter().next()).unwrap_or(address);
    let credential = credential.as_ref().map(|credential| (credential, &signatures));
    Ok(Outbound::new(told, authentication, version_min(wanted.version_min), credential)?)
}

fn server_name(reference: &PeerReference) -> Option<ServerName<'static>> {
    match reference {
        PeerReference::Domain(name) => ServerName::try_from(name.clone()).ok(),
        PeerReference::Address(address) => Some(ServerName::IpAddress((*address).into())),
    }
}
