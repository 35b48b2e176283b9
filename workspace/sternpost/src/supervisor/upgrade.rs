//! Upgrades: another executable takes the supervisor's place in the same process, with its sockets and its children.
//!
//! `handover` is what goes over, `successor` the executable, [`Family::taken_over`] what becomes of the children. Here is
//! when it happens, and what is said of it.

use super::family::{self, Event, Family};
use super::handover::{self, HANDOVER_VERSION, HandedProcess, Handover, Settings};
use super::limits::UPGRADE_TRIAL;
use super::listening::Listening;
use super::paths::{self, RunDirectory, Sockets};
use super::successor::{self, Sound, Successor};
use super::upgrade_file::{self, Instance, Upgraded};
use super::{Input, Supervisor, SupervisorError, VERSION};
use crate::bootstrap::Bootstrap;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd, RawFd};
use std::path::{Path, PathBuf};
use std::time::Instant;
use sternpost_link::PROTOCOL_VERSION;
use sternpost_platform::process;

/// With what a supervisor begins.
pub(super) struct Beginning {
    pub(super) run_directory: RunDirectory,
    pub(super) sockets: Sockets,
    pub(super) listening: Listening,
    pub(super) family: Family,
    /// Children that are there already, each with the pipe of its last words.
    pub(super) children: Vec<(u32, Option<OwnedFd>)>,
    pub(super) upgrades: Upgrades,
}

/// Where upgrades stand.
pub(super) struct Upgrades {
    /// The file of the executable.
    pub(super) executable: PathBuf,
    pub(super) settings: Settings,
    pub(super) attempts_count: u32,
    /// A check is under way.
    pub(super) is_checking: bool,
    /// The last executable whose roles have stayed, which can be gone back to while this one is on trial.
    pub(super) before: Option<Before>,
    /// It takes over when everything has ended.
    pub(super) waiting: Option<Waiting>,
    /// Why the executable before is in force again, or nothing but that this one is, until it was told.
    pub(super) untold: Option<Option<String>>,
}

/// An executable that can be gone back to.
#[derive(Debug)]
pub(super) struct Before {
    program: Successor,
    /// The version of the protocol between its processes.
    link: u16,
}

/// What a successor can go back to.
#[derive(Debug, Default)]
struct WayBack {
    /// When its roles do not stay, and when it cannot begin unless `on_trial` is there.
    before: Option<Before>,
    /// This executable, where it is not `before`: when the successor cannot begin.
    on_trial: Option<Successor>,
}

impl WayBack {
    fn programs(&self) -> impl Iterator<Item = &Successor> {
        self.before.iter().map(|before| &before.program).chain(&self.on_trial)
    }
}

/// An executable that speaks another protocol, so that nothing of this one may run beside it.
#[derive(Debug)]
pub(super) struct Waiting {
    program: Successor,
    /// Why it is gone back to, if it is.
    went_back: Option<String>,
}

/// How far an upgrade is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Stage {
    /// The other executable is being checked, or takes over when everything has ended.
    Begun,
    /// This executable has taken over and is on trial.
    Trial,
    /// It is over, and another executable is in force.
    InForce,
    /// It is over, or there was none: the executable of before is in force.
    NotInForce,
}

/// Whether this executable could take over what was handed over by that number, and what it is.
///
/// # Errors
/// Why it could not.
pub(crate) fn check(bootstrap_path: &Path, number: RawFd) -> Result<Sound, SupervisorError> {
    let bootstrap = Bootstrap::read(bootstrap_path)?;
    paths::check_users(&bootstrap)?;
    Handover::take(number, &bootstrap)?;
    Ok(Sound { version: VERSION.to_owned(), link: PROTOCOL_VERSION })
}

/// The first supervisor of a switch.
///
/// # Errors
/// What keeps it from starting.
pub(super) fn begin(bootstrap: &Bootstrap, listening: Listening) -> Result<Beginning, SupervisorError> {
    let run_directory = RunDirectory::take(bootstrap)?;
    let sockets = run_directory.listen()?;
    let executable = successor::own_path()
        .map_err(|source| SupervisorError::Process { what: "find its executable", source })?;
    let upgrades = Upgrades {
        executable,
        settings: Settings::of(bootstrap).map_err(SupervisorError::Given)?,
        attempts_count: 0,
        is_checking: false,
        before: None,
        waiting: None,
        untold: None,
    };
    let family = Family::new(Instant::now());
    Ok(Beginning { run_directory, sockets, listening, family, children: Vec::new(), upgrades })
}

/// The supervisor that takes the place of another.
///
/// # Errors
/// `Handover`.
pub(super) fn go_on(bootstrap: &Bootstrap, handover: Handover) -> Result<Beginning, SupervisorError> {
    // The kernel has named it by the descriptor from which it was run.
    process::set_name("sternpost");
    let (run_directory, sockets) = RunDirectory::taken_over(bootstrap, &handover)?;
    let listening = Listening::taken_over(&handover.given, &handover.listeners)?;
    drop(handover.successor.map(handover::descriptor).transpose()?);
    // Only a successor that cannot begin has a use for it, and that one has a copy.
    drop(handover.on_trial.map(handover::descriptor).transpose()?);
    let link = handover.before_link.unwrap_or(PROTOCOL_VERSION);
    let before = handover.before.map(handover::descriptor).transpose()?;
    let before = before.map(|program| Before { program: Successor::of(program), link });
    let mut children = Vec::new();
    let mut adopted = Vec::new();
    for HandedProcess { adopted: process, words } in handover.processes {
        children.push((process.pid, words.map(handover::descriptor).transpose()?));
        adopted.push(process);
    }
    let upgrades = Upgrades {
        executable: handover.executable,
        settings: handover.settings,
        attempts_count: handover.attempts_count,
        is_checking: false,
        before,
        waiting: None,
        untold: Some(handover.went_back),
    };
    let has_trial = upgrades.before.is_some();
    let family = Family::taken_over(Instant::now(), adopted, !listening.is_empty(), has_trial);
    Ok(Beginning { run_directory, sockets, listening, family, children, upgrades })
}

impl Supervisor {
    /// Somebody wants the executable's file, as it is now, to take over.
    pub(super) fn upgrade(&mut self) {
        if self.upgrades.is_checking || self.upgrades.waiting.is_some() {
            return tracing::info!(event = "upgrade.again", "an upgrade is under way already");
        }
        self.upgrades.attempts_count = self.upgrades.attempts_count.saturating_add(1);
        let path = &self.upgrades.executable;
        tracing::info!(event = "upgrade.check", executable = %path.display(), "looking at the executable");
        let opened = Successor::open(path).and_then(|successor| {
            let memory = self.hand_over(None, &WayBack::default(), None).seal()?;
            Ok((successor, memory))
        });
        let (successor, memory) = match opened {
            Ok(opened) => opened,
            Err(error) => return self.refuse_upgrade(&error.to_string()),
        };
        self.upgrades.is_checking = true;
        self.tell_of_upgrade(Stage::Begun, "the new executable is being checked".to_owned());
        let (bootstrap, inputs) = (self.spawner.bootstrap_path.clone(), self.inputs.clone());
        tokio::task::spawn_local(async move {
            let result = successor.check(&bootstrap, &memory).await;
            let _ = inputs.send(Input::Checked(successor, result)).await;
        });
    }

    pub(super) fn checked(&mut self, successor: Successor, result: Result<Sound, String>) {
        self.upgrades.is_checking = false;
        match result {
            _ if self.service.is_stopping() => {}
            Err(why) => self.refuse_upgrade(&why),
            Ok(Sound { version, link }) if link == PROTOCOL_VERSION => {
                tracing::info!(event = "upgrade.begin", version, "another executable takes over");
                let way_back = self.way_back();
                self.step_over(&successor, &way_back, None);
                // It is there still, and on trial as before.
                self.upgrades.before = way_back.before.filter(|_| self.family.is_on_trial());
            }
            Ok(Sound { version, .. }) => {
                tracing::info!(
                    event = "upgrade.begin",
                    version,
                    "another executable takes over when all processes have ended, for it speaks another protocol; \
                     clients wait meanwhile"
                );
                let says = format!(
                    "version {version} takes over when all processes have ended, for it speaks another protocol"
                );
                self.tell_of_upgrade(Stage::Begun, says);
                self.end_all_for(Waiting { program: successor, went_back: None });
            }
        }
    }

    fn end_all_for(&mut self, waiting: Waiting) {
        self.upgrades.waiting = Some(waiting);
        self.family.apply(Instant::now(), Event::StopForAnother);
    }

    /// What the next executable could go back to: this one, and later, while this one is on trial itself, the one before.
    fn way_back(&mut self) -> WayBack {
        let own = Successor::open(Path::new("/proc/self/exe")).ok();
        match self.upgrades.before.take() {
            Some(before) => WayBack { before: Some(before), on_trial: own },
            None => {
                let before = own.map(|program| Before { program, link: PROTOCOL_VERSION });
                WayBack { before, on_trial: None }
            }
        }
    }

    /// Roles of this executable do not stay.
    pub(super) fn go_back(&mut self, why: String) {
        let Some(Before { program, link }) = self.upgrades.before.take() else { return };
        tracing::error!(event = "upgrade.back", why, "the executable before takes over again");
        if link == PROTOCOL_VERSION {
            self.step_over(&program, &WayBack::default(), Some(why));
        } else {
            self.end_all_for(Waiting { program, went_back: Some(why) });
        }
    }

    /// The trial of this executable is over, if there was one.
    pub(super) fn end_trial(&mut self) {
        // One that has not been told of is told of when its roles run.
        if self.upgrades.before.take().is_some() && self.upgrades.untold.is_none() {
            tracing::info!(
                event = "upgrade.stays",
                version = VERSION,
                "the roles of this executable have stayed"
            );
            self.tell_of_upgrade(
                Stage::InForce,
                format!("version {VERSION} is in force, and its roles have stayed"),
            );
        }
    }

    /// Everything has ended. If the other executable cannot be run, this one begins again.
    pub(super) fn step_over_alone(&mut self, waiting: &Waiting) {
        let way_back = if waiting.went_back.is_none() { self.way_back() } else { WayBack::default() };
        self.step_over(&waiting.program, &way_back, waiting.went_back.clone());
        self.family = Family::new(Instant::now());
        self.family.apply(Instant::now(), Event::ListeningChanged { is_empty: self.listening.is_empty() });
    }

    /// Puts another executable into the place of this one. Returns only when that failed.
    fn step_over(&mut self, successor: &Successor, way_back: &WayBack, went_back: Option<String>) {
        let handover = self.hand_over(Some(successor), way_back, went_back);
        let words = self.children.values().filter_map(|child| child.words.as_ref()).map(AsFd::as_fd);
        let own = [
            self.run_directory.lock().1,
            self.spawner.store.as_fd(),
            self.spawner.qmgr.as_fd(),
            self.spawner.signer.as_fd(),
            self.socket.as_fd(),
        ];
        let error = match handover.seal() {
            Ok(memory) => {
                let own = own.into_iter().chain([memory.as_fd(), successor.descriptor()]);
                let programs = way_back.programs().map(Successor::descriptor);
                let descriptors: Vec<BorrowedFd<'_>> =
                    own.chain(programs).chain(self.listening.descriptors()).chain(words).collect();
                successor.step_over(&self.spawner.bootstrap_path, &memory, descriptors)
            }
            Err(error) => error,
        };
        self.refuse_upgrade(&format!("it cannot be run: {error}"));
    }

    fn hand_over(
        &self,
        successor: Option<&Successor>,
        WayBack { before, on_trial }: &WayBack,
        went_back: Option<String>,
    ) -> Handover {
        let (given, listeners) = self.listening.hand_over();
        let handed = |adopted: family::Adopted| {
            let words =
                self.children.get(&adopted.pid).and_then(|child| Some(child.words.as_ref()?.as_raw_fd()));
            HandedProcess { adopted, words }
        };
        Handover {
            version: HANDOVER_VERSION,
            settings: self.upgrades.settings.clone(),
            executable: self.upgrades.executable.clone(),
            successor: successor.map(Successor::number),
            before: before.as_ref().map(|before| before.program.number()),
            before_link: before.as_ref().map(|before| before.link),
            on_trial: on_trial.as_ref().map(Successor::number),
            bootstrap: Some(self.spawner.bootstrap_path.clone()),
            attempts_count: self.upgrades.attempts_count,
            went_back,
            lock: self.run_directory.lock().0,
            store: self.spawner.store.as_raw_fd(),
            qmgr: self.spawner.qmgr.as_raw_fd(),
            signer: self.spawner.signer.as_raw_fd(),
            supervisor: self.socket.as_raw_fd(),
            given,
            listeners,
            processes: self.family.hand_over(Instant::now()).into_iter().map(handed).collect(),
        }
    }

    /// This executable stays in force.
    fn refuse_upgrade(&self, why: &str) {
        let executable = self.upgrades.executable.display().to_string();
        tracing::error!(
            event = "upgrade.refused",
            executable,
            why,
            "the switch was not upgraded and goes on as it was"
        );
        self.tell_of_upgrade(
            Stage::NotInForce,
            format!("{executable} was not taken: {why}; version {VERSION} goes on as before"),
        );
    }

    /// Tells once that this executable is in force, when its own roles run.
    pub(super) fn tell_of_taking_over(&mut self) {
        if self.upgrades.untold.is_none() || !self.family.is_renewed() {
            return;
        }
        match self.upgrades.untold.take().flatten() {
            None => {
                tracing::info!(event = "upgrade.done", version = VERSION, "this executable is in force");
                if self.family.is_on_trial() {
                    let says = format!(
                        "version {VERSION} is in force, and on trial for {} s: should a role of it not stay, the one before takes over again",
                        UPGRADE_TRIAL.as_secs()
                    );
                    self.tell_of_upgrade(Stage::Trial, says);
                } else {
                    self.tell_of_upgrade(Stage::InForce, format!("version {VERSION} is in force"));
                }
            }
            Some(why) => {
                tracing::error!(
                    event = "upgrade.gone-back",
                    version = VERSION,
                    why,
                    "this executable is in force again"
                );
                let trial = if self.family.is_on_trial() { ", and on trial as before" } else { "" };
                self.tell_of_upgrade(
                    Stage::NotInForce,
                    format!("{why}; version {VERSION} is in force again{trial}"),
                );
            }
        }
    }

    pub(super) fn tell_of_upgrade(&self, stage: Stage, says: String) {
        let upgraded = Upgraded {
            by: Instance::of(std::process::id()).ok(),
            attempts_count: self.upgrades.attempts_count,
            has_taken_over: matches!(stage, Stage::Trial | Stage::InForce),
            is_decided: matches!(stage, Stage::InForce | Stage::NotInForce),
            says,
        };
        if let Err(error) = upgrade_file::write(self.run_directory.path(), &upgraded) {
            let error = &error as &dyn std::error::Error;
            tracing::error!(event = "upgrade.file", error, "what became of the upgrade was not written");
        }
    }
}
