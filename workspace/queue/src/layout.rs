//! How a whole device is divided: the log, the trial region behind it, and the mark of a device that may become a log.

use crate::format::{Geometry, HEAD_OCTETS, PAGE_OCTETS, SEGMENT_OCTETS_MAX, SEGMENTS_MIN};
use crate::place::SEGMENTS_MAX;

/// What a device that was made for a log begins with, before there is one: this line, then zeroes to the end of the
/// head (65,536 octets). FORMAT.md.
pub const BLANK_MARKER: &[u8] = b"STERNPOST QUEUE BLANK 1\n";

/// Head and trial region of a large device take together what one segment takes, so that partitions of whole
/// segments are used without a rest.
const RESERVE_OCTETS_MAX: u64 = SEGMENT_OCTETS_MAX as u64;
/// A trial region takes the largest batch and the head beside it.
const RESERVE_OCTETS_MIN: u64 = 2 << 20;
/// A device smaller than 16 × 64 MiB gives a sixteenth.
const RESERVE_SHARE: u64 = 16;
/// The unit of the reserve, and the smallest segment that a device is divided into.
const MIB: u64 = 1 << 20;
/// The fewest octets that are worth a trial: one batch of ordinary mail.
const TRIAL_OCTETS_MIN: u64 = 128 << 10;

/// Whether the head of a file (the first 65,536 octets, or as many as there are) says that nothing was ever written: it is
/// all zero, or the [`BLANK_MARKER`] and zeroes.
#[must_use]
pub fn is_blank_head(head: &[u8]) -> bool {
    head.strip_prefix(BLANK_MARKER).unwrap_or(head).iter().all(|octet| *octet == 0)
}

/// Whether the head of a block device says that it is new: the [`BLANK_MARKER`] and zeroes. Zeroes alone say nothing: a drive
/// gives them for a range that it has lost.
#[must_use]
pub fn is_marked_head(head: &[u8]) -> bool {
    head.starts_with(BLANK_MARKER) && is_blank_head(head)
}

impl Geometry {
    /// The log that fills a device and leaves its end as the trial region; none on a device that is too small.
    ///
    /// Without `segment_octets` they are 64 MiB, halved (to 1 MiB at least) until 8 segments fit.
    #[must_use]
    pub fn filling(device_octets: u64, segment_octets: Option<u32>) -> Option<Self> {
        let reserve =
            (device_octets / RESERVE_SHARE / MIB * MIB).clamp(RESERVE_OCTETS_MIN, RESERVE_OCTETS_MAX);
        let room = device_octets.checked_sub(reserve)?;
        let fits = |octets: u32| room / u64::from(octets) >= u64::from(SEGMENTS_MIN);
        let mut octets = segment_octets.unwrap_or(SEGMENT_OCTETS_MAX);
        while segment_octets.is_none() && !fits(octets) && u64::from(octets) > MIB {
            octets /= 2;
        }
        let segments = room.checked_div(u64::from(octets))?.min(u64::from(SEGMENTS_MAX));
        let geometry = Self { segment_octets: octets, segments: u32::try_from(segments).ok()? };
        geometry.is_sound().then_some(geometry)
    }

    /// The octets of a device behind its log that nothing durable ever stands in: begin and length, whole pages. None when
    /// the log leaves no room for a trial.
    #[must_use]
    pub fn trial_region(&self, device_octets: u64) -> Option<(u64, u64)> {
        let page = PAGE_OCTETS as u64;
        let end = device_octets / page * page;
        let begin = self.octets().max(end.saturating_sub(RESERVE_OCTETS_MAX - HEAD_OCTETS));
        let octets = end.checked_sub(begin)?;
        (octets >= TRIAL_OCTETS_MIN).then_some((begin, octets))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_device_is_filled_but_for_its_trial_region() {
        let mib = |count: u64| count << 20;
        let rows = [
            // device, segment octets, segments, trial octets
            (mib(16), mib(1), 14, mib(2) - HEAD_OCTETS),
            (mib(10), mib(1), 8, mib(2) - HEAD_OCTETS),
            (mib(256), mib(16), 15, mib(16) - HEAD_OCTETS),
            (mib(500), mib(32), 14, mib(52) - HEAD_OCTETS),
            (mib(1024), mib(64), 15, mib(64) - HEAD_OCTETS),
            (mib(4096), mib(64), 63, mib(64) - HEAD_OCTETS),
            (mib(1 << 20), mib(64), 16_383, mib(64) - HEAD_OCTETS),
            (mib(8 << 20), mib(64), 65_536, mib(64) - HEAD_OCTETS),
        ];
        for (device, segment_octets, segments, trial_octets) in rows {
            let geometry = Geometry::filling(device, None).unwrap();
            assert_eq!(
                (u64::from(geometry.segment_octets), geometry.segments),
                (segment_octets, segments),
                "{device}"
            );
            let (begin, octets) = geometry.trial_region(device).unwrap();
            assert_eq!(octets, trial_octets, "{device}");
            assert!(begin >= geometry.octets() && begin + octets <= device, "{device}");
        }
    }

    #[test]
    fn a_device_below_ten_mib_takes_no_log() {
        assert_eq!(Geometry::filling(10 * MIB - 1, None), None);
        assert_eq!(Geometry::filling(0, None), None);
        assert_eq!(Geometry::filling(64 * MIB, Some(SEGMENT_OCTETS_MAX)), None);
    }

    #[test]
    fn invariant_log_and_trial_region_never_overlap() {
        for device in (0..3_000_000_000_u64).step_by(7_654_321) {
            let Some(geometry) = Geometry::filling(device, None) else { continue };
            assert!(geometry.is_sound() && geometry.octets() <= device);
            let (begin, octets) = geometry.trial_region(device).unwrap();
            assert!(begin >= geometry.octets() && begin + octets <= device);
            assert!(begin % 4096 == 0 && octets % 4096 == 0);
        }
        // A log that an operator made as large as the device leaves none.
        let full = Geometry { segment_octets: 1 << 20, segments: 9 };
        assert_eq!(full.trial_region(full.octets()), None);
        assert_eq!(full.trial_region(full.octets() - 1), None);
    }

    #[test]
    fn blank_is_zero_or_the_marker_and_zeroes_and_nothing_else_and_zeroes_mark_no_device() {
        let mut head = vec![0; 65_536];
        assert!(is_blank_head(&head) && is_blank_head(&[]));
        assert!(!is_marked_head(&head) && !is_marked_head(&[]));
        head[..BLANK_MARKER.len()].copy_from_slice(BLANK_MARKER);
        assert!(is_blank_head(&head) && is_marked_head(&head));
        for place in [0, 5, BLANK_MARKER.len(), 4096, 32_768, 65_535] {
            let mut other = head.clone();
            other[place] ^= 1;
            assert!(!is_blank_head(&other) && !is_marked_head(&other), "{place}");
        }
        assert!(!is_blank_head(b"STERNPOST QUEUE BLANK 2\n"));
    }

    #[test]
    fn the_image_begins_the_queue_partition_with_the_marker() {
        let head = include_bytes!("../../../image/overlay/usr/share/sternpost/queue-blank");
        assert_eq!(head.len(), 65_536);
        assert!(is_marked_head(head));
    }
}
