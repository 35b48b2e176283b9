//! The words of the configuration about TLS as TLS knows them, for both directions.

use crate::signer_client::Absent;
use sternpost_config::{TlsVersion, Trust, TrustScope};
use sternpost_tls::{self as tls, VersionMin};

/// Why TLS cannot be done. Its words say what to do.
#[derive(Debug, thiserror::Error)]
pub(crate) enum Unable {
    /// Nobody signs, or there is nothing to sign with.
    #[error(transparent)]
    Credential(#[from] Absent),
    /// What is configured does not go together.
    #[error(transparent)]
    Configuration(#[from] tls::ConfigurationError),
}

/// The lowest version.
pub(crate) const fn version_min(version: TlsVersion) -> VersionMin {
    match version {
        TlsVersion::Tls12 => VersionMin::Tls12,
        TlsVersion::Tls13 => VersionMin::Tls13,
    }
}

/// The anchors of a scope. One that cannot be used is left out, and logged with who needs it.
pub(crate) fn trust(scope: &TrustScope, trusts: &[Trust], of: &str) -> tls::Trust {
    let mut names = Vec::new();
    for trust in trusts.iter().filter(|trust| scope.holds(&trust.name)) {
        names.extend(trust.certificates.iter().map(|der| (trust.name.as_str(), der.as_slice())));
    }
    let (trust, wrong) = tls::Trust::new(names.iter().map(|(_, der)| *der));
    for error in &wrong {
        let entry = names.get(error.number - 1).map_or("", |(name, _)| name);
        let source = &error.source as &dyn std::error::Error;
        tracing::debug!(
            event = "trust.wrong",
            of,
            entry,
            error = source,
            "a certificate of a trust entry is left out"
        );
    }
    trust
}
