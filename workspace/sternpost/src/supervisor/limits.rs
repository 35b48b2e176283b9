//! The supervisor's parameters, in one place, and the hold-off between two starts of a role.
//!
//! | parameter | value | what it is |
//! |---|---|---|
//! | `LONG_LIFE` | 10 s | a role that lived as long is started again at once |
//! | `HOLD_OFF_FIRST` | 100 ms | wait after the first short life |
//! | `HOLD_OFF_MAX` | 5 s | the wait doubles with each short life up to this |
//! | `LOOP_COUNTS` | 3, 10, 30, 100, 300 | ends of a role by itself within `LOOP_TIME` at which an alarm is raised, each once |
//! | `LOOP_TIME` | 1 h | |
//! | `LOOP_COUNT_SHOWN` | 5 | … at which status shows it, however long it lived each time |
//! | `UPGRADE_TRIAL` | 60 s | after an upgrade: a role that does not stay puts the executable before back into force |
//! | `UPGRADE_FAILURES_MAX` | 3 | short lives of one role in a row that mean that |
//! | `CHECK_MAX` | 20 s | time of a new executable to say that it can take over |
//! | `SMTP_SERVER_LEAVE_MAX` | 10 min | after an upgrade, sessions of the `smtp-server` before go on for so long; RFC 5321, 4.5.3.2.7 leaves a client 5 min for each command |
//! | `SMTP_SERVER_STOP_MAX` | 10 s | from SIGTERM to SIGKILL of `smtp-server`, also when its sockets change; before everything ends for another executable, its sessions may end by themselves for as long |
//! | `CHANNEL_STOP_MAX` | 5 s | … of a channel process |
//! | `QMGR_STOP_MAX` | 5 s | … of QMGR, which SIGTERM ends at once |
//! | `DIRECTORY_STOP_MAX` | 2 s | … of `directory`, which SIGTERM ends at once |
//! | `SIGNER_STOP_MAX` | 2 s | … of `signer`, which SIGTERM ends at once |
//! | `STORE_STOP_MAX` | 20 s | … of the store; SIGTERM ends it at once unless the device holds it in a write |
//! | `WATCH_RETRY` | 1 s | between two attempts to watch a child for which there was no descriptor |
//! | `LISTEN_RETRY` | 1 s | between two attempts at a listening socket that could not be opened |
//! | `LISTEN_LOOK` | 1 s | between two looks at the listening sockets while an `smtp-server` of the executable before shares them |
//! | `LISTEN_BACKLOG` | 1,024 | connections that wait while `smtp-server` starts |

use std::collections::VecDeque;
use std::time::{Duration, Instant};

pub(crate) const LONG_LIFE: Duration = Duration::from_secs(10);
pub(crate) const HOLD_OFF_FIRST: Duration = Duration::from_millis(100);
pub(crate) const HOLD_OFF_MAX: Duration = Duration::from_secs(5);
pub(crate) const LOOP_COUNTS: [usize; 5] = [3, 10, 30, 100, 300];
pub(crate) const LOOP_TIME: Duration = Duration::from_secs(3_600);
pub(crate) const LOOP_COUNT_SHOWN: usize = 5;
pub(crate) const UPGRADE_TRIAL: Duration = Duration::from_secs(60);
pub(crate) const UPGRADE_FAILURES_MAX: u32 = 3;
pub(crate) const CHECK_MAX: Duration = Duration::from_secs(20);
pub(crate) const SMTP_SERVER_LEAVE_MAX: Duration = Duration::from_secs(600);
pub(crate) const SMTP_SERVER_STOP_MAX: Duration = Duration::from_secs(10);
pub(crate) const CHANNEL_STOP_MAX: Duration = Duration::from_secs(5);
pub(crate) const QMGR_STOP_MAX: Duration = Duration::from_secs(5);
pub(crate) const DIRECTORY_STOP_MAX: Duration = Duration::from_secs(2);
pub(crate) const SIGNER_STOP_MAX: Duration = Duration::from_secs(2);
pub(crate) const STORE_STOP_MAX: Duration = Duration::from_secs(20);
pub(crate) const WATCH_RETRY: Duration = Duration::from_secs(1);
pub(crate) const LISTEN_RETRY: Duration = Duration::from_secs(1);
pub(crate) const LISTEN_LOOK: Duration = Duration::from_secs(1);
pub(crate) const LISTEN_BACKLOG: u32 = 1_024;

/// How long a role waits before it is started again.
#[derive(Debug)]
pub(crate) struct HoldOff {
    next: Duration,
}

impl Default for HoldOff {
    fn default() -> Self {
        Self { next: HOLD_OFF_FIRST }
    }
}

impl HoldOff {
    /// The wait after a life of `life`: none after a long one, else from 100 ms on, doubling.
    pub(crate) fn after(&mut self, life: Duration) -> Duration {
        if life >= LONG_LIFE {
            self.next = HOLD_OFF_FIRST;
            return Duration::ZERO;
        }
        let wait = self.next;
        self.next = (wait * 2).min(HOLD_OFF_MAX);
        wait
    }
}

/// The ends of a role by itself within the last hour, and which alarms were raised about them.
#[derive(Debug, Default)]
pub(crate) struct Ends {
    /// At most the largest of `LOOP_COUNTS`.
    at: VecDeque<Instant>,
    /// How many of `LOOP_COUNTS` were said.
    told: usize,
}

impl Ends {
    /// Notes an end. How many there were within the hour, if that is worth an alarm that was not raised yet.
    pub(crate) fn note(&mut self, now: Instant) -> Option<usize> {
        let count = self.count(now);
        self.at.drain(..self.at.len() - count);
        if count < LOOP_COUNTS[0] {
            self.told = 0;
        }
        if self.at.len() == LOOP_COUNTS[LOOP_COUNTS.len() - 1] {
            self.at.pop_front();
        }
        self.at.push_back(now);
        let count = self.at.len();
        let is_news = LOOP_COUNTS.get(self.told).is_some_and(|alarm| count >= *alarm);
        is_news.then(|| {
            self.told += 1;
            count
        })
    }

    /// How many there were within the hour.
    pub(crate) fn count(&self, now: Instant) -> usize {
        let is_recent = |at: &&Instant| now.saturating_duration_since(**at) < LOOP_TIME;
        self.at.iter().rev().take_while(is_recent).count()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_loop_raises_one_alarm_for_each_level_and_begins_again_after_a_quiet_hour() {
        let (mut ends, start) = (Ends::default(), Instant::now());
        let alarms: Vec<_> =
            (0..720).filter_map(|end| ends.note(start + 5 * Duration::from_secs(end))).collect();
        assert_eq!(alarms, LOOP_COUNTS);
        let later = start + 3 * LOOP_TIME;
        assert_eq!(ends.count(later), 0);
        assert_eq!([0, 1, 2].map(|s| ends.note(later + Duration::from_secs(s))), [None, None, Some(3)]);
    }

    #[test]
    fn short_lives_double_the_hold_off_up_to_its_maximum() {
        let mut hold_off = HoldOff::default();
        let waits: Vec<_> = (0..8).map(|_| hold_off.after(Duration::from_secs(1)).as_millis()).collect();
        assert_eq!(waits, [100, 200, 400, 800, 1_600, 3_200, 5_000, 5_000]);
    }

    #[test]
    fn a_long_life_is_followed_at_once_and_resets_the_hold_off() {
        let mut hold_off = HoldOff::default();
        for _ in 0..8 {
            hold_off.after(Duration::ZERO);
        }
        assert_eq!(hold_off.after(LONG_LIFE), Duration::ZERO);
        assert_eq!(hold_off.after(LONG_LIFE), Duration::ZERO);
        assert_eq!(hold_off.after(Duration::ZERO), HOLD_OFF_FIRST);
    }
}
