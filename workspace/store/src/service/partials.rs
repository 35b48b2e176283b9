//! The share of the log that partial messages may fill: when it is full, and when it has room again, is said once.

use super::Service;
use sternpost_link::store::Append;
use sternpost_message::UnixMillis;
use sternpost_platform::wire::Wire;
use sternpost_queue::{Disk, Log, Parameters};

/// Between two looks whether a share that was full has room again.
const LOOK_AGAIN_MS: u64 = 250;

/// See the module.
#[derive(Debug)]
pub(super) struct PartialShare {
    /// In percent of the log.
    max_percent: u8,
    /// When a full share is looked at again; none while it is not.
    full_until: Option<UnixMillis>,
}

impl PartialShare {
    pub(super) const fn new(parameters: &Parameters) -> Self {
        Self { max_percent: parameters.partial_share_max_percent, full_until: None }
    }

    /// Whether the share is full.
    pub(super) const fn is_full(&self) -> bool {
        self.full_until.is_some()
    }

    /// When [`Self::has_room_again`] should be asked.
    pub(super) const fn wake_at(&self) -> Option<UnixMillis> {
        self.full_until
    }

    /// The log has refused content without envelope for want of room, though it accepts mail. True when that is because
    /// the share is full, and was not known.
    pub(super) fn is_full_now<D: Disk>(&mut self, log: &Log<D>, octets: u64, now: UnixMillis) -> bool {
        if self.is_full() {
            return false;
        }
        let is_over = log.partial_octets() + octets > self.octets_max(log);
        let is_news = log.status().accepts && is_over;
        if is_news {
            self.full_until = Some(now.plus_ms(LOOK_AGAIN_MS));
        }
        is_news
    }

    /// Whether a share that was full has room again: an eighth of it.
    pub(super) fn has_room_again<D: Disk>(&mut self, log: &Log<D>, now: UnixMillis) -> bool {
        if self.full_until.is_none_or(|until| now < until) {
            return false;
        }
        let has_room = log.partial_octets() <= self.octets_max(log) / 8 * 7;
        self.full_until = (!has_room).then(|| now.plus_ms(LOOK_AGAIN_MS));
        has_room
    }

    fn octets_max<D: Disk>(&self, log: &Log<D>) -> u64 {
        log.status().geometry.octets() / 100 * u64::from(self.max_percent)
    }
}

impl<D: Disk, L: Wire> Service<D, L> {
    /// Content without envelope was refused: says once that its share is full.
    pub(super) fn partials_refused(&mut self, octets: u64) {
        if self.partial_share.is_full_now(&self.log, octets, self.now) {
            tracing::error!(
                event = "log.alarm",
                "messages that are not complete fill their {} % of the log; content of others gets 452 until there is room \
                 (sternpost queue list --partials shows whose they are)",
                self.partial_share.max_percent
            );
        }
    }

    /// Says once that there is room again.
    pub(super) fn look_at_partials(&mut self) {
        if self.partial_share.has_room_again(&self.log, self.now) {
            tracing::warn!(event = "log.alarm", "messages that are not complete have room again");
        }
    }
}

/// Whether a set brings content and no envelope.
pub(super) fn only_content(records: &[Append<'_>]) -> Option<u64> {
    records.iter().try_fold(0, |sum, record| match record {
        Append::Content { octets, .. } => Some(sum + octets.len() as u64),
        _ => None,
    })
}

/// Octets of content without envelope.
pub(super) fn octets<D: Disk>(log: &Log<D>) -> u64 {
    log.partials().map(|partial| partial.octets).sum()
}
