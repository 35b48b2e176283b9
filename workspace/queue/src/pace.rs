//! How fast survivors move: the share of what is written that they must have, so that room is won before mail has used up
//! what is left.
//!
//! Mail and survivors go into the same free segments, and a segment is won when all that lives in it has moved, oldest first.
//! If moves have the share *s* of all octets, those of the first *n* segments are done when (living in them) / *s* octets
//! were written; until then the room is what is free and what the segments before the last of them held. So *s* is the largest
//! living / room over all *n*: a constant share that is enough at every point of the way, however the living are strewn.

/// The smallest share: room is won somewhat earlier than it must be, and batches with little mail carry moves too.
const SHARE_MIN: u64 = SHARE_WHOLE / 4;
/// The largest: mail goes on, if slowly, while there is any room for it.
const SHARE_MAX: u64 = SHARE_WHOLE / 8 * 7;
/// From here on it would soon be too late: what is lost at the ends of pages and segments is not counted.
const SHARE_URGENT: u64 = SHARE_WHOLE / 4 * 3;
/// From here on no batch goes without moves.
const SHARE_LATE: u64 = SHARE_WHOLE / 16 * 13;
const SHARE_WHOLE: u64 = 1 << 16;

/// A sealed segment.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Sealed {
    /// How far it is filled: the room that is won with it.
    pub(crate) filled_octets: u64,
    /// What of it must move first.
    pub(crate) living_octets: u64,
}

/// The share of moves in what is written.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Share(u64);

impl Share {
    /// The share that moves must have. `room_octets`: what mail and moves may still write before the first segment is won.
    /// `sealed`: oldest first.
    pub(crate) fn needed(mut room_octets: u64, sealed: impl Iterator<Item = Sealed>) -> Self {
        let (mut living, mut share) = (0, SHARE_MIN);
        for segment in sealed {
            living += segment.living_octets;
            share = share.max((living * SHARE_WHOLE).checked_div(room_octets).unwrap_or(SHARE_MAX));
            room_octets += segment.filled_octets;
        }
        Self(share.min(SHARE_MAX))
    }

    /// Whether moves cannot wait for anything more to die.
    pub(crate) const fn is_urgent(self) -> bool {
        self.0 >= SHARE_URGENT
    }

    /// Whether a batch may go without moves for once.
    pub(crate) const fn can_wait_for_one_batch(self) -> bool {
        self.0 < SHARE_LATE
    }

    /// Octets of moves in a batch that carries mail too.
    pub(crate) fn octets_of(self, batch_octets: usize) -> usize {
        let octets = batch_octets as u64 * self.0 / SHARE_WHOLE;
        usize::try_from(octets).unwrap_or(batch_octets)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MIB: u64 = 1 << 20;

    fn moves(room: u64, segments: &[(u64, u64)]) -> usize {
        let sealed = segments
            .iter()
            .map(|(filled, living)| Sealed { filled_octets: filled * MIB, living_octets: living * MIB });
        Share::needed(room * MIB, sealed).octets_of(1000)
    }

    #[test]
    fn while_little_lives_moves_have_a_quarter_of_a_batch() {
        assert_eq!(moves(10, &[]), 250);
        assert_eq!(moves(10, &[(10, 2), (10, 1), (10, 0)]), 250);
    }

    #[test]
    fn moves_have_what_the_densest_beginning_of_the_log_asks_for() {
        // 18 of the 20 + 10 that can be written until the second segment is won.
        assert_eq!(moves(20, &[(10, 9), (10, 9), (10, 0)]), 599);
        // Dead segments behind change nothing, living ones do.
        assert_eq!(moves(20, &[(10, 9), (10, 9), (10, 0), (10, 0)]), 599);
        assert_eq!(moves(20, &[(10, 9), (10, 9), (10, 9), (10, 9)]), 719);
    }

    #[test]
    fn moves_begin_while_there_is_room_for_old_mail_that_stands_closely() {
        let close = [Sealed { filled_octets: MIB, living_octets: MIB }; 12];
        assert!(!Share::needed(6 * MIB, close.into_iter()).is_urgent());
        assert!(Share::needed(4 * MIB, close.into_iter()).is_urgent());
    }

    #[test]
    fn mail_keeps_an_eighth_when_there_is_no_room() {
        assert_eq!(moves(0, &[(10, 10)]), 875);
        assert_eq!(moves(1, &[(10, 10)]), 875);
    }
}
