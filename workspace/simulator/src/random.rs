//! Numbers from one seed: SplitMix64. Fit for choosing what happens next, for nothing else.

/// A stream of numbers that its seed names.
#[derive(Clone, Debug)]
pub struct Random(u64);

impl Random {
    /// The stream of `seed`.
    #[must_use]
    pub const fn new(seed: u64) -> Self {
        Self(seed)
    }

    /// The next number.
    pub const fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mixed = (self.0 ^ (self.0 >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        mixed ^ (mixed >> 31)
    }

    /// A number below `bound`, which is at least 1.
    pub const fn below(&mut self, bound: u64) -> u64 {
        self.next() % bound
    }

    /// A place in something of `length`.
    ///
    /// # Panics
    /// When there is nothing.
    pub fn place(&mut self, length: usize) -> usize {
        usize::try_from(self.below(length as u64)).expect("a number below a length is a length")
    }

    /// True in `percent` of a hundred cases.
    pub const fn chance(&mut self, percent: u64) -> bool {
        self.below(100) < percent
    }

    /// `octets` numbers of eight bits.
    pub fn octets(&mut self, octets: usize) -> Vec<u8> {
        let mut made: Vec<u8> = (0..octets.div_ceil(8)).flat_map(|_| self.next().to_le_bytes()).collect();
        made.truncate(octets);
        made
    }
}
