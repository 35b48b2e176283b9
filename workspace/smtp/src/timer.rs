//! One deadline, announced sparingly: most reads move a deadline further into the future, and a timer that is set
//! anew for each of them costs more than one that rings too early now and then.

use std::time::Instant;

/// A deadline and the instant for which the driver was last asked to wake the session.
#[derive(Debug, Default)]
pub(crate) struct Timer {
    deadline: Option<Instant>,
    /// The wake that the driver knows of and that has not rung yet.
    announced: Option<Instant>,
}

impl Timer {
    pub(crate) const fn set(&mut self, deadline: Option<Instant>) {
        self.deadline = deadline;
    }

    /// Whether the deadline has come. Called on every wake: a driver that rang too early is told again.
    pub(crate) fn rings(&mut self, now: Instant) -> bool {
        self.announced = None;
        self.deadline.is_some_and(|at| at <= now)
    }

    /// The instant that the driver has to be told, if it does not know of one early enough.
    pub(crate) fn announce(&mut self) -> Option<Instant> {
        let deadline = self.deadline?;
        if self.announced.is_some_and(|at| at <= deadline) {
            return None;
        }
        self.announced = Some(deadline);
        self.announced
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::Duration;

    #[test]
    fn a_deadline_that_moves_away_is_announced_only_when_the_old_one_has_rung() {
        let start = Instant::now();
        let at = |seconds| start + Duration::from_secs(seconds);
        let mut timer = Timer::default();
        timer.set(Some(at(10)));
        assert_eq!(timer.announce(), Some(at(10)));
        timer.set(Some(at(15)));
        assert_eq!(timer.announce(), None);
        assert!(!timer.rings(at(10)));
        assert_eq!(timer.announce(), Some(at(15)));
        timer.set(Some(at(12)));
        assert_eq!(timer.announce(), Some(at(12)), "an earlier deadline is announced at once");
        assert!(timer.rings(at(12)));
    }
}
