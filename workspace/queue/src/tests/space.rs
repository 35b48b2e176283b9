//! Mail as fast as the log takes it while a share of it stays: room is made in time.

use super::*;

const BATCH_OCTETS: usize = 128 << 10;
/// A segment holds eight batches.
const COARSE: Geometry = Geometry { segment_octets: 1 << 20, segments: 32 };
/// A segment holds 64 batches, and there are few: a log of 1 GiB by default, but for its size.
const FINE: Geometry = Geometry { segment_octets: 8 << 20, segments: 16 };
const CONTENT_OCTETS: usize = 4_000;
/// So many messages fill a batch.
const BATCH_MESSAGES: usize = BATCH_OCTETS / (CONTENT_OCTETS + 400);
/// Messages that wait for the log at any time: hardly two batches' worth, so that many are not full, or far more.
const WAITING: [usize; 2] = [2 * BATCH_MESSAGES, 20 * BATCH_MESSAGES];

/// A log into which mail comes without a pause.
struct Flood {
    log: Log<MemoryDisk>,
    waiting_max: usize,
    /// Messages of which the log would be full.
    full: usize,
    appended: u32,
    waiting: usize,
    stayed: Vec<MessageSequence>,
    /// One message in so many is urgent; none if 0.
    urgent_every: u32,
}

impl Flood {
    /// A log of which the first messages stay, and take this share of it.
    fn over(geometry: Geometry, waiting_max: usize, stayed_percent: usize) -> Self {
        let octets = usize::try_from(geometry.octets()).unwrap();
        let parameters = Parameters { batch_octets_max: BATCH_OCTETS, ..Parameters::default() };
        let disk = Log::create(MemoryDisk::new(vec![0xa5; octets]), geometry, [7; 16]).unwrap();
        let (log, full) = (open_with(disk, parameters).0, octets / (CONTENT_OCTETS + 400));
        let stayed = Vec::new();
        let mut flood = Self { log, waiting_max, full, appended: 0, waiting: 0, stayed, urgent_every: 0 };
        let refused = flood.pass(full * stayed_percent / 100, |stayed, sequence| {
            stayed.push(sequence);
            None
        });
        assert_eq!(refused, 0);
        flood
    }

    /// Lets so many messages come; after each one the one dies that `dying` names. How many were refused.
    fn pass(
        &mut self,
        messages: usize,
        mut dying: impl FnMut(&mut Vec<MessageSequence>, MessageSequence) -> Option<MessageSequence>,
    ) -> usize {
        let (mut came, mut refused) = (0, 0);
        while came < messages && refused == 0 {
            while self.waiting < self.waiting_max && refused == 0 {
                self.appended += 1;
                let set = message(self.appended, CONTENT_OCTETS, 1);
                let is_urgent = self.urgent_every != 0 && self.appended.is_multiple_of(self.urgent_every);
                let lane = if is_urgent { Lane::Urgent } else { Lane::Normal };
                refused += usize::from(self.log.append(NOW, lane, set, 1).is_err());
                self.waiting += 1;
            }
            self.log.drive(NOW);
            while let Some(event) = self.log.poll() {
                match event {
                    LogEvent::Committed { ticket: 1 } => self.waiting -= 1,
                    LogEvent::Refused { .. } => refused += 1,
                    LogEvent::Accepted { sequence, .. } => {
                        came += 1;
                        if let Some(dead) = dying(&mut self.stayed, sequence) {
                            self.log.append(NOW, Lane::Outcome, outcome(dead, 0, 1, delivered()), 2).unwrap();
                        }
                    }
                    _ => {}
                }
            }
        }
        refused
    }
}

impl std::fmt::Display for Flood {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let Self { log, waiting_max, appended, stayed, .. } = self;
        let (stayed, status) = (stayed.len(), log.status());
        write!(f, "{stayed} stay, {waiting_max} wait, {appended} came: {status:?}")
    }
}

/// Each number of messages that wait with each share of the log that stays.
fn floods(geometry: Geometry) -> impl Iterator<Item = Flood> {
    let rows = WAITING.into_iter().flat_map(|waiting| [10, 25, 40, 50].map(|percent| (waiting, percent)));
    rows.map(move |(waiting_max, stayed_percent)| Flood::over(geometry, waiting_max, stayed_percent))
}

#[test]
fn mail_is_not_refused_behind_old_mail_that_stands_closely() {
    for mut flood in floods(COARSE) {
        let refused = flood.pass(3 * flood.full, |_, sequence| Some(sequence));
        assert_eq!(refused, 0, "{flood}");
    }
}

#[test]
fn mail_is_not_refused_in_a_log_of_few_segments_that_hold_many_batches() {
    for stayed_percent in [10, 40] {
        let mut flood = Flood::over(FINE, WAITING[1], stayed_percent);
        let refused = flood.pass(flood.full * 3 / 2, |_, sequence| Some(sequence));
        assert_eq!(refused, 0, "{flood}");
    }
}

#[test]
fn mail_is_not_refused_among_old_mail_that_is_strewn() {
    for mut flood in floods(COARSE) {
        let mut came = 0_usize;
        let refused = flood.pass(4 * flood.full, |stayed, sequence| {
            came += 1;
            // One in twenty stays, and takes the place of any of those that stayed before.
            let place = came.wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 20;
            let place = place % stayed.len();
            Some(if came.is_multiple_of(20) {
                std::mem::replace(&mut stayed[place], sequence)
            } else {
                sequence
            })
        });
        assert_eq!(refused, 0, "{flood}");
    }
}

#[test]
fn mail_is_not_refused_while_something_urgent_is_in_every_batch() {
    for urgent_every in [2, 8, 40] {
        for mut flood in floods(COARSE) {
            flood.urgent_every = urgent_every;
            let refused = flood.pass(3 * flood.full, |_, sequence| Some(sequence));
            assert_eq!(refused, 0, "one in {urgent_every} is urgent: {flood}");
        }
    }
}

#[test]
fn an_urgent_message_travels_without_survivors_and_they_go_on_behind_it() {
    let mut flood = Flood::over(COARSE, WAITING[0], 40);
    while flood.log.status().moved_records == 0 {
        assert_eq!(flood.pass(100, |_, sequence| Some(sequence)), 0);
    }
    for number in 0..2 {
        flood.log.append(NOW, Lane::Urgent, message(900_000 + number, 400, 1), 9).unwrap();
        // Ends what is under way, and begins the batch that has it; ends that one; goes on behind it, with a part of an index first
        // if one is due.
        let mut moved = Vec::new();
        let mut committed_in = None;
        for turn in 0..4 {
            flood.log.drive(NOW);
            let mut events = std::iter::from_fn(|| flood.log.poll());
            if events.any(|event| event == LogEvent::Committed { ticket: 9 }) {
                committed_in = Some(turn);
            }
            while flood.log.poll().is_some() {}
            moved.push(flood.log.status().moved_records);
        }
        assert_eq!(committed_in, Some(1), "{moved:?}");
        assert!(moved[0] == moved[1] && moved[1] < moved[3], "{moved:?}");
    }
}
