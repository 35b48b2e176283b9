//! The supervisor's parameters, in one place, and the hold-off between two starts of a role.
//!
//! | parameter | value | what it is |
//! |---|---|---|
//! | `LONG_LIFE` | 10 s | a role that lived as long is started again at once |
//! | `HOLD_OFF_FIRST` | 100 ms | wait after the first short life |
//! | `HOLD_OFF_MAX` | 5 s | the wait doubles with each short life up to this |
//! | `SMTP_SERVER_STOP_MAX` | 10 s | from SIGTERM to SIGKILL of `smtp-server`, also when its sockets change |
//! | `CHANNEL_STOP_MAX` | 5 s | … of a channel process |
//! | `QMGR_STOP_MAX` | 5 s | … of QMGR, which SIGTERM ends at once |
//! | `DIRECTORY_STOP_MAX` | 2 s | … of `directory`, which SIGTERM ends at once |
//! | `STORE_STOP_MAX` | 20 s | … of the store; SIGTERM ends it at once unless the device holds it in a write |
//! | `LISTEN_RETRY` | 1 s | between two attempts at a listening socket that could not be opened |
//! | `LISTEN_BACKLOG` | 1,024 | connections that wait while `smtp-server` starts |

use std::time::Duration;

pub(crate) const LONG_LIFE: Duration = Duration::from_secs(10);
pub(crate) const HOLD_OFF_FIRST: Duration = Duration::from_millis(100);
pub(crate) const HOLD_OFF_MAX: Duration = Duration::from_secs(5);
pub(crate) const SMTP_SERVER_STOP_MAX: Duration = Duration::from_secs(10);
pub(crate) const CHANNEL_STOP_MAX: Duration = Duration::from_secs(5);
pub(crate) const QMGR_STOP_MAX: Duration = Duration::from_secs(5);
pub(crate) const DIRECTORY_STOP_MAX: Duration = Duration::from_secs(2);
pub(crate) const STORE_STOP_MAX: Duration = Duration::from_secs(20);
pub(crate) const LISTEN_RETRY: Duration = Duration::from_secs(1);
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

#[cfg(test)]
mod tests {
    use super::*;

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
