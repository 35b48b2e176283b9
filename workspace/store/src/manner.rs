//! How the log is written, and who has chosen that: the operator, else the self test, else nobody.

use crate::Options;
use sternpost_link::store::Origin;
use sternpost_platform::disk::DiskBackend;
use sternpost_queue::Parameters;

/// How the log is written, and who has chosen that.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Manner {
    /// The way of writing.
    pub backend: DiskBackend,
    /// Who has chosen it.
    pub backend_from: Origin,
    /// Octets of the largest batch.
    pub batch_octets_max: u32,
    /// Who has chosen that.
    pub batch_from: Origin,
}

impl Manner {
    /// The operator's word, else the self test's, else none.
    pub(crate) fn of(options: &Options) -> Self {
        let (backend, backend_from) = match (options.backend, options.recommended.backend) {
            (DiskBackend::Auto, Some(backend)) => (backend, Origin::SelfTest),
            (DiskBackend::Auto, None) => (DiskBackend::Dsync, Origin::Default),
            (backend, _) => (backend, Origin::Operator),
        };
        let (batch, batch_from) = match (options.batch_octets_max, options.recommended.batch_octets_max) {
            (Some(octets), _) => (Some(octets), Origin::Operator),
            (None, Some(octets)) => (Some(octets), Origin::SelfTest),
            (None, None) => (None, Origin::Default),
        };
        let fallback = u32::try_from(Parameters::default().batch_octets_max).unwrap_or(u32::MAX);
        Self { backend, backend_from, batch_octets_max: batch.unwrap_or(fallback), batch_from }
    }

    /// In words.
    pub(crate) const fn words(&self) -> &'static str {
        match self.backend {
            DiskBackend::IoUring => "io_uring, write linked to fdatasync",
            DiskBackend::Dsync | DiskBackend::Auto => "pwritev2 with RWF_DSYNC",
        }
    }
}
