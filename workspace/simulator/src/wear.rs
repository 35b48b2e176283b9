//! How a disk wears out, in both kinds of histories: where sectors rot or are not read any more.

use std::ops::Range;

use crate::disk::{Medium, SECTOR_OCTETS, Unreadable};
use crate::ledger::Ledger;
use crate::random::Random;

/// A sector at which something living stands, or which may head its segment; any, if nothing lives.
fn sector_in_use(random: &mut Random, ledger: &Ledger, medium: &Medium) -> usize {
    let living = ledger.living();
    let place = match living.len() {
        0 => 0..medium.octets() as u64,
        count => living[random.place(count)].clone(),
    };
    let start = place.start.saturating_sub(if random.chance(20) { 4_096 } else { 0 });
    let offset = start + random.below(place.end - start);
    usize::try_from(offset).expect("a place in memory") / SECTOR_OCTETS
}

/// Some sectors rot. Gives the place.
pub(crate) fn rot(random: &mut Random, ledger: &Ledger, medium: &Medium) -> Option<Range<u64>> {
    let sector = sector_in_use(random, ledger, medium);
    let sectors = if random.chance(70) { 1 } else { 1 + random.place(24) };
    let end = (sector + sectors).min(medium.octets() / SECTOR_OCTETS);
    if medium.is_writing() { None } else { medium.rot(sector..end) }
}

/// A sector of one of the superblocks rots.
pub(crate) fn rot_superblock(random: &mut Random, medium: &Medium) -> Option<Range<u64>> {
    let sector = [0, 64][random.place(2)];
    if medium.is_writing() { None } else { medium.rot(sector..sector + 1) }
}

/// A sector is not read for some time, or for ever. Gives the place that is damaged by that: what is isolated in the end is
/// isolated by pages.
pub(crate) fn fail_reads(
    random: &mut Random,
    ledger: &Ledger,
    medium: &Medium,
    is_for_ever: bool,
) -> Option<Range<u64>> {
    let offset = (sector_in_use(random, ledger, medium) * SECTOR_OCTETS) as u64;
    if medium.is_writing() {
        return None;
    }
    let times = Unreadable::Times([1, 2, 3][random.place(3)]);
    medium.fail_reads(offset, if is_for_ever { Unreadable::ForEver } else { times });
    let page = offset / 4_096 * 4_096;
    is_for_ever.then_some(page..page + 4_096)
}
