//! What may go wrong with a device, and how often it has.

/// What may befall a write.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum WriteFault {
    /// The device says no after it has written any part.
    Torn,
    /// The write is complete and its sync fails: each sector is durable, or in the cache, or nowhere.
    Sync,
    /// There is no room: nothing is written.
    Full,
    /// It takes so many milliseconds.
    Stall(u64),
    /// It is reported as durable, and stands elsewhere.
    Misdirected,
}

/// How long a sector is not read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Unreadable {
    /// So many times.
    Times(u32),
    /// Until it is written again.
    ForEver,
}

/// What has happened how often, in words.
pub(crate) fn counted(classes: &[(&'static str, u64)]) -> String {
    classes.iter().map(|(name, count)| format!("{count} {name}")).collect::<Vec<_>>().join(", ")
}

/// How often each fault has happened.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct FaultCounts {
    /// Writes of which a part arrived, cut off by the power.
    pub cut_writes: u64,
    /// Writes that the device refused after a part.
    pub torn_writes: u64,
    /// Syncs that failed.
    pub failed_syncs: u64,
    /// Times that the power took sectors which were written and not synced.
    pub lost_unsynced: u64,
    /// Times that it left some of them and took others which were written before.
    pub reordered_unsynced: u64,
    /// Writes for which there was no room.
    pub full: u64,
    /// Writes that took long.
    pub stalls: u64,
    /// Writes that went elsewhere.
    pub misdirected: u64,
    /// Places whose bits rotted.
    pub rotted: u64,
    /// Places that became zero.
    pub zeroed: u64,
    /// Reads that failed.
    pub failed_reads: u64,
    /// Writes that landed after the process that began them was gone.
    pub landed_late: u64,
}

impl FaultCounts {
    /// Both.
    pub const fn add(&mut self, other: &Self) {
        self.cut_writes += other.cut_writes;
        self.torn_writes += other.torn_writes;
        self.failed_syncs += other.failed_syncs;
        self.lost_unsynced += other.lost_unsynced;
        self.reordered_unsynced += other.reordered_unsynced;
        self.full += other.full;
        self.stalls += other.stalls;
        self.misdirected += other.misdirected;
        self.rotted += other.rotted;
        self.zeroed += other.zeroed;
        self.failed_reads += other.failed_reads;
        self.landed_late += other.landed_late;
    }

    /// Each with its name.
    #[must_use]
    pub const fn classes(&self) -> [(&'static str, u64); 12] {
        [
            ("writes cut by the power", self.cut_writes),
            ("torn writes", self.torn_writes),
            ("failed syncs", self.failed_syncs),
            ("losses of what was not synced", self.lost_unsynced),
            ("losses of what was written before what stayed", self.reordered_unsynced),
            ("writes to a full device", self.full),
            ("stalls", self.stalls),
            ("misdirected writes", self.misdirected),
            ("rotten places", self.rotted),
            ("places that became zero", self.zeroed),
            ("failed reads", self.failed_reads),
            ("writes that landed after their process", self.landed_late),
        ]
    }
}

/// What the device does by its nature, and a good one does not.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Habits {
    /// It reports writes as durable that it keeps in its cache.
    pub lies: bool,
    /// It reports writes as durable whose sync has failed.
    pub hides_failed_syncs: bool,
    /// It may be opened while a write of the last process is under way.
    pub knows_no_lock: bool,
    /// What stands behind the last batch of a segment it shows as if it had been written there in this use: as a recovery sees
    /// it that takes no notice of salts, uses and sequences.
    pub revives: bool,
}
