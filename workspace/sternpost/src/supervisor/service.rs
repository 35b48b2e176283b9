//! What the supervisor and the service manager (systemd) tell each other: ready, status in words, stopping, signs of
//! life, sockets that were opened before. Without a manager nothing is said and nothing is given.
//!
//! *Ready* means that the sockets between the processes are open and that every role was started which is always
//! there. Whether mail passes is asked by `sternpost health`. Not here: the environment's names and the datagram itself
//! (`sd-notify`).

use crate::output;
use sd_notify::NotifyState;
use std::os::fd::OwnedFd;
use std::time::Duration;
use sternpost_link::Role;
use sternpost_link::supervisor::{ListeningSocket, Running};
use sternpost_platform::process;
use tokio::time::{Interval, MissedTickBehavior};

/// Signs of life within the time after which the manager takes this process for hung.
const SIGNS_PER_LIMIT: u32 = 3;
/// The roles that are there before there is a configuration.
const ALWAYS: [Role; 4] = [Role::Store, Role::Qmgr, Role::Directory, Role::Signer];

/// The other end of the manager.
#[derive(Debug, Default)]
pub(super) struct Service {
    is_ready: bool,
    is_stopping: bool,
    status: String,
}

impl Service {
    /// Tells what is new.
    pub(super) fn tell(&mut self, running: &[Running], listening: &[ListeningSocket]) {
        if !self.is_ready && is_ready(running) {
            self.is_ready = true;
            notify(&[NotifyState::Ready]);
        }
        let status = if self.is_stopping {
            format!("stopping: {} processes are left", running.len())
        } else {
            status(running, listening)
        };
        if status != self.status {
            notify(&[NotifyState::Status(&status)]);
            self.status = status;
        }
    }

    /// Whether it was told so.
    pub(super) const fn is_stopping(&self) -> bool {
        self.is_stopping
    }

    /// Tells that the switch is about to end.
    pub(super) fn stop(&mut self) {
        if !std::mem::replace(&mut self.is_stopping, true) {
            notify(&[NotifyState::Stopping]);
        }
    }
}

/// This process lives.
pub(super) fn sign_of_life() {
    notify(&[NotifyState::Watchdog]);
}

/// When signs of life are due; never without a manager that waits for them.
pub(super) fn signs_of_life() -> Option<Interval> {
    let limit = sd_notify::watchdog_enabled()?;
    let mut interval = tokio::time::interval((limit / SIGNS_PER_LIMIT).max(Duration::from_millis(1)));
    interval.set_missed_tick_behavior(MissedTickBehavior::Delay);
    Some(interval)
}

/// The sockets that the manager has opened, and what is wrong with the rest. To be called once, before anything else is
/// opened.
pub(super) fn inherited_sockets() -> (Vec<OwnedFd>, Vec<String>) {
    let numbers = match sd_notify::listen_fds() {
        Ok(numbers) => numbers,
        Err(error) => return (Vec::new(), vec![format!("LISTEN_FDS is not understood ({error})")]),
    };
    let (mut sockets, mut refusals) = (Vec::new(), Vec::new());
    for number in numbers {
        match process::inherited(number) {
            Ok(socket) => sockets.push(socket),
            Err(error) => refusals.push(format!("descriptor {number} is not open ({error})")),
        }
    }
    (sockets, refusals)
}

fn notify(states: &[NotifyState<'_>]) {
    if let Err(error) = sd_notify::notify(states) {
        tracing::warn!(
            event = "service.notify",
            error = &error as &dyn std::error::Error,
            "the service manager was not told"
        );
    }
}

fn is_ready(running: &[Running]) -> bool {
    ALWAYS.iter().all(|role| running.iter().any(|process| process.role == *role))
}

/// One line for people, as `systemctl status` shows it.
fn status(running: &[Running], listening: &[ListeningSocket]) -> String {
    let missing: Vec<_> = ALWAYS
        .iter()
        .filter(|role| !running.iter().any(|process| process.role == **role))
        .map(|role| role.name())
        .collect();
    let listens = if listening.is_empty() {
        "listening nowhere: there is no configuration in force with a listener that can be opened".to_owned()
    } else {
        let places: Vec<_> =
            listening.iter().map(|socket| format!("{} on {}", socket.listener, socket.bound)).collect();
        format!("listening: {}", places.join(", "))
    };
    let text = if missing.is_empty() {
        format!("{} processes, {listens}", running.len())
    } else {
        format!("{} processes, without {}, {listens}", running.len(), missing.join(" and "))
    };
    output::printable(&text)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn running(role: Role) -> Running {
        Running { role, name: role.name().to_owned(), process: 0, pid: 9, starts_count: 1 }
    }

    #[test]
    fn ready_means_that_each_role_was_started_that_is_always_there() {
        let three = [running(Role::Store), running(Role::Qmgr), running(Role::Signer)];
        assert!(!is_ready(&three));
        assert!(is_ready(&[&three[..], &[running(Role::Directory)]].concat()));
    }

    #[test]
    fn the_status_is_one_line_that_says_what_is_missing() {
        let nowhere = status(&[running(Role::Store), running(Role::Directory)], &[]);
        assert!(nowhere.starts_with("2 processes, without qmgr and signer, listening nowhere"), "{nowhere}");
        let socket = ListeningSocket {
            listener: "in\nside".into(),
            configured: "0.0.0.0:25".parse().unwrap(),
            bound: "0.0.0.0:25".parse().unwrap(),
        };
        let all: Vec<_> = ALWAYS.map(running).into();
        assert_eq!(status(&all, &[socket]), "4 processes, listening: in\\u{a}side on 0.0.0.0:25");
    }
}
