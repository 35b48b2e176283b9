//! What listeners say about authentication, and what holds where that does not fit together.

use crate::authentication::{AuthenticationPolicy, ListenerAuthentication, Mechanism};
use crate::load::Effect;
use crate::reader::Reader;
use crate::{ClientCertificates, ListenerTls, ListenerTlsPolicy};

const MECHANISMS: &str =
    "Give some of external, scram-sha-512, scram-sha-256, plain, login and anonymous, in small letters.";

/// Reads the attributes of a listener whose TLS is known.
pub(super) fn listener(reader: &mut Reader<'_>, tls: &ListenerTls) -> ListenerAuthentication {
    let default = ListenerAuthentication::default();
    let mut mechanisms =
        reader.many_if_any::<Mechanism>("auth_mechanisms", MECHANISMS).unwrap_or(default.mechanisms);
    mechanisms.sort();
    mechanisms.dedup();
    let mut authentication = ListenerAuthentication {
        policy: reader
            .one("auth", "Say none, offered or required.")
            .unwrap_or(AuthenticationPolicy::Required),
        mechanisms,
        is_submission: reader.one("submission", "Say TRUE or FALSE.").unwrap_or(true),
    };
    if authentication.is_submission && authentication.policy != AuthenticationPolicy::Required {
        if reader.says("auth") {
            reader.note_key(
                "auth",
                "nobody submits without being known, so required holds".into(),
                "Say required, or change sternpostSubmission.",
                Effect::FailsClosed,
            );
        }
        authentication.policy = AuthenticationPolicy::Required;
    }
    note_what_nobody_can_use(reader, &authentication, tls);
    authentication
}

fn note_what_nobody_can_use(
    reader: &mut Reader<'_>,
    authentication: &ListenerAuthentication,
    tls: &ListenerTls,
) {
    let mechanisms = &authentication.mechanisms;
    if authentication.policy == AuthenticationPolicy::None {
        if reader.says("auth_mechanisms") {
            reader.note_key(
                "auth_mechanisms",
                "no client of this listener authenticates".into(),
                "Set sternpostAuth, or leave the attribute out.",
                Effect::Ignored,
            );
        }
        return;
    }
    let has_tls = tls.policy != ListenerTlsPolicy::None;
    let asks = has_tls && tls.client_certificates != ClientCertificates::None;
    let is_usable = |mechanism: &Mechanism| match mechanism {
        Mechanism::External => asks,
        _ => has_tls || !mechanism.needs_tls(),
    };
    if !mechanisms.iter().any(is_usable) {
        reader.note_key(
            "auth_mechanisms",
            "none can be offered here (plain and login are under TLS alone, external needs a certificate of the client), so nobody can authenticate"
                .into(),
            "Raise sternpostTls, set sternpostTlsClientCertificates, or give a mechanism that needs neither.",
            Effect::FailsClosed,
        );
    } else if mechanisms.contains(&Mechanism::External) && !asks && reader.says("auth_mechanisms") {
        reader.note_key(
            "auth_mechanisms",
            "no client is asked for a certificate, so external is not offered".into(),
            "Set sternpostTlsClientCertificates, or leave external out.",
            Effect::Ignored,
        );
    }
}
