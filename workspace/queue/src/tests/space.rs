//! Mail as fast as the log takes it while a share of it stays: room is made in time.

use super::*;

/// A segment holds eight batches.
const GEOMETRY: Geometry = Geometry { segment_octets: 1 << 20, segments: 32 };
const BATCH_OCTETS: usize = 128 << 10;
/// Messages that wait for the log at any time.
const WAITING: usize = 60;
const CONTENT_OCTETS: usize = 4_000;
/// Messages of which the log would be full.
const FULL: usize = (32 << 20) / (CONTENT_OCTETS + 400);

/// A log into which mail comes without a pause.
struct Flood {
    log: Log<MemoryDisk>,
    appended: u32,
    waiting: usize,
    stayed: Vec<MessageSequence>,
    /// One message in so many is urgent; none if 0.
    urgent_every: u32,
}

impl Flood {
    /// A log of which the first messages stay, and take this share of it.
    fn over(stayed_percent: usize) -> Self {
        let disk = MemoryDisk::new(vec![0xa5; usize::try_from(GEOMETRY.octets()).unwrap()]);
        let parameters = Parameters { batch_octets_max: BATCH_OCTETS, ..Parameters::default() };
        let log = open_with(Log::create(disk, GEOMETRY, [7; 16]).unwrap(), parameters).0;
        let mut flood = Self { log, appended: 0, waiting: 0, stayed: Vec::new(), urgent_every: 0 };
        let refused = flood.pass(FULL * stayed_percent / 100, |stayed, sequence| {
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
            while self.waiting < WAITING && refused == 0 {
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

#[test]
fn mail_is_not_refused_behind_old_mail_that_stands_closely() {
    for stayed_percent in [10, 25, 40, 50] {
        let mut flood = Flood::over(stayed_percent);
        let refused = flood.pass(3 * FULL, |_, sequence| Some(sequence));
        assert_eq!(refused, 0, "{stayed_percent} % live: {:?}", flood.log.status());
    }
}

#[test]
fn mail_is_not_refused_among_old_mail_that_is_strewn() {
    for stayed_percent in [10, 25, 40, 50] {
        let mut flood = Flood::over(stayed_percent);
        let mut came = 0_usize;
        let refused = flood.pass(4 * FULL, |stayed, sequence| {
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
        assert_eq!(refused, 0, "{stayed_percent} % live: {:?}", flood.log.status());
    }
}

#[test]
fn mail_is_not_refused_while_something_urgent_is_in_every_batch() {
    for (stayed_percent, urgent_every) in
        [10, 25, 40, 50].into_iter().flat_map(|it| [(it, 2), (it, 8), (it, 40)])
    {
        let mut flood = Flood::over(stayed_percent);
        flood.urgent_every = urgent_every;
        let refused = flood.pass(3 * FULL, |_, sequence| Some(sequence));
        let status = flood.log.status();
        assert_eq!(refused, 0, "{stayed_percent} % live, one in {urgent_every} is urgent: {status:?}");
    }
}

#[test]
fn an_urgent_message_travels_without_survivors_and_they_go_on_behind_it() {
    let mut flood = Flood::over(40);
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
