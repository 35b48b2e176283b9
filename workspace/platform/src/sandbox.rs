//! What a process gives up: its user, its capabilities, resources beyond its limits, and the system calls that it does
//! not need.
//!
//! Four steps, each for good. [`confine`] has the parent's child take its user and limits and drop every capability
//! before its program begins. [`renounce`] has a process do the last of that for itself, whoever started it.
//! [`keep_to`] leaves it some places of the file system. [`Filter::install`] closes the door behind what a role has set up. Not here: who may do what (`image/roles.toml`).

use landlock::{Access, RulesetAttr, RulesetCreatedAttr};
use rustix::io::Errno;
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
use rustix::thread::CapabilitySet;
use serde_json::json;
use std::collections::BTreeMap;
use std::io;
use std::os::unix::process::CommandExt;
use std::path::PathBuf;
use std::process::Command;

/// A user and its only group.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Identity {
    /// The user.
    pub uid: u32,
    /// The group.
    pub gid: u32,
}

/// Bounds of a process. Each is lowered to what this host allows, never raised above it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Limits {
    /// Open descriptors.
    pub open_files: u64,
    /// Memory that stays in place: what a ring registers.
    pub locked_octets: u64,
    /// Private memory that can be written to. None: as the host has it.
    pub data_octets: Option<u64>,
}

/// Has the child of `command` take `identity` (none: it keeps the parent's), live within `limits`, make no core, and
/// hold no capability, before its program begins. It can never get back what it gave up, by no program that it starts.
pub fn confine(command: &mut Command, identity: Option<Identity>, limits: Limits) {
    let taking = move || {
        limit(limits)?;
        if let Some(identity) = identity {
            take(identity)?;
        }
        renounce()
    };
    // SAFETY: the closure runs in the child between fork and exec and makes system calls alone: it takes no lock,
    // allocates nothing and touches no memory but its own copies of two values.
    unsafe { command.pre_exec(taking) };
}

fn limit(Limits { open_files, locked_octets, data_octets }: Limits) -> io::Result<()> {
    let bound = |resource, wanted: u64| {
        let allowed = getrlimit(resource).maximum.map_or(wanted, |maximum| maximum.min(wanted));
        setrlimit(resource, Rlimit { current: Some(allowed), maximum: Some(allowed) })
    };
    bound(Resource::Nofile, open_files)?;
    bound(Resource::Memlock, locked_octets)?;
    bound(Resource::Core, 0)?;
    if let Some(octets) = data_octets {
        bound(Resource::Data, octets)?;
    }
    Ok(())
}

/// Becomes another user with one group and no other.
fn take(Identity { uid, gid }: Identity) -> io::Result<()> {
    // The bounding set is emptied while this process may still do so; where it may not, no_new_privs stands in for it.
    let _ = empty_bounding_set();
    let none: *const libc::gid_t = std::ptr::null();
    // The C library's own functions would signal all threads of a process; this one has one, and the child of a fork
    // must not wait for any. So these are the bare calls.
    let calls = [
        // SAFETY: the list is empty, so that no memory is read.
        unsafe { libc::syscall(libc::SYS_setgroups, 0, none) },
        // SAFETY: three numbers.
        unsafe { libc::syscall(libc::SYS_setresgid, gid, gid, gid) },
        // SAFETY: three numbers.
        unsafe { libc::syscall(libc::SYS_setresuid, uid, uid, uid) },
    ];
    if calls.contains(&-1) { Err(io::Error::last_os_error()) } else { Ok(()) }
}

/// Gives up every capability in every set, and the way to any by a later program. A process without capabilities may
/// call it too.
///
/// # Errors
/// Those of `prctl` and `capset`.
pub fn renounce() -> io::Result<()> {
    let _ = empty_bounding_set();
    rustix::thread::clear_ambient_capability_set()?;
    let none = CapabilitySet::empty();
    let sets = rustix::thread::CapabilitySets { effective: none, permitted: none, inheritable: none };
    rustix::thread::set_capabilities(None, sets)?;
    rustix::thread::set_no_new_privs(true)?;
    Ok(())
}

/// Needs CAP_SETPCAP while anything is in the set.
fn empty_bounding_set() -> rustix::io::Result<()> {
    // Capabilities that this kernel knows and the crate does not are tried by number until there is none.
    for number in 0..64 {
        let capability = CapabilitySet::from_bits_retain(1 << number);
        match rustix::thread::capability_is_in_bounding_set(capability) {
            Ok(true) => rustix::thread::remove_capability_from_bounding_set(capability)?,
            Ok(false) => {}
            Err(_beyond_the_last) => break,
        }
    }
    Ok(())
}

/// Which of SETUID, SETGID and KILL this process lacks to run others as their own users; nothing when it may.
///
/// # Errors
/// Those of `capget`.
pub fn lacks_for_users() -> io::Result<Vec<&'static str>> {
    let held = rustix::thread::capabilities(None)?.effective;
    let needed = [
        ("CAP_SETUID", CapabilitySet::SETUID),
        ("CAP_SETGID", CapabilitySet::SETGID),
        ("CAP_KILL", CapabilitySet::KILL),
    ];
    Ok(needed.into_iter().filter(|(_, one)| !held.contains(*one)).map(|(name, _)| name).collect())
}

/// What is left to a process: places of the file system, with all that is below them, and the way out.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Places {
    /// To read.
    pub reads: Vec<PathBuf>,
    /// To read and to write.
    pub writes: Vec<PathBuf>,
    /// Whether it may connect to TCP peers.
    pub may_connect: bool,
}

/// Why a process could not be kept to its places.
#[derive(Debug, thiserror::Error)]
#[error("the kernel does not keep this process to its places")]
pub struct KeepError(#[source] landlock::RulesetError);

/// From here on this process opens no file but those of `places`, runs none, binds no TCP port, connects to no TCP peer unless it
/// may, nor by a socket that it has been given, connects to no abstract
/// socket and signals no process of another sandbox (Landlock). Descriptors that are open stay usable. To be called while the
/// process has one thread. A place that is not there yet never becomes one.
///
/// What the kernel knows of this is enforced; false when it knows nothing of it at all.
///
/// # Errors
/// When a kernel that knows Landlock refuses.
pub fn keep_to(places: &Places) -> Result<bool, KeepError> {
    let abi = landlock::ABI::V6;
    let execute = landlock::AccessFs::Execute;
    let read = landlock::AccessFs::from_read(abi) & !execute;
    let write = landlock::AccessFs::from_all(abi) & !execute;
    let mut network = landlock::AccessNet::BindTcp | landlock::AccessNet::ConnectTcp;
    if places.may_connect {
        // A rule would name ports; peers listen on any.
        network.remove(landlock::AccessNet::ConnectTcp);
    }
    let status = landlock::Ruleset::default()
        .handle_access(landlock::AccessFs::from_all(abi))
        .and_then(|rules| rules.handle_access(network))
        .and_then(|rules| rules.scope(landlock::Scope::from_all(abi)))
        .and_then(landlock::Ruleset::create)
        .and_then(|rules| rules.add_rules(landlock::path_beneath_rules(&places.reads, read)))
        .and_then(|rules| rules.add_rules(landlock::path_beneath_rules(&places.writes, write)))
        .and_then(landlock::RulesetCreated::restrict_self)
        .map_err(KeepError)?;
    Ok(status.ruleset != landlock::RulesetStatus::NotEnforced)
}

/// What one argument of a call must be.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Test {
    /// Its lower 32 bits are this number.
    Is(u32),
    /// All these bits are set.
    Has(u32),
    /// None of these bits is set.
    Lacks(u32),
}

/// An argument, counted from 0, and what it must be.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Condition {
    /// Which.
    pub argument: u8,
    /// What it must be.
    pub test: Test,
}

/// A system call by its name in the kernel, always or on a condition. Several rules for one call are alternatives.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Rule<'a> {
    /// Its name, as in `man 2 syscalls`.
    pub call: &'a str,
    /// None: whatever its arguments.
    pub condition: Option<Condition>,
}

/// Why rules make no filter, or why it could not be installed.
#[derive(Debug, thiserror::Error)]
pub enum FilterError {
    /// A name that this architecture does not know, or a condition on an argument that no call has.
    #[error("the rules cannot be compiled")]
    Compile(#[source] seccompiler::Error),
    /// The kernel refused it.
    #[error("the kernel takes no filter of system calls")]
    Install(#[source] seccompiler::Error),
}

/// A compiled filter of system calls.
///
/// What is allowed works. What is deadly kills the process (SIGSYS). All else fails with ENOSYS, as on a kernel that
/// has no such call: libraries know a way around that, and the operation that has none fails in words.
/// A call of another architecture (32-bit, x32) is one of the first two kinds of refusal too.
#[derive(Clone, Debug)]
pub struct Filter {
    /// The kernel asks both programs and takes the stricter answer.
    programs: Vec<seccompiler::BpfProgram>,
}

impl Filter {
    /// Compiles. On an architecture other than x86_64 there is no filter yet: their calls have other names.
    ///
    /// # Errors
    /// `Compile`.
    pub fn new(allowed: &[Rule<'_>], deadly: &[&str]) -> Result<Self, FilterError> {
        if !Self::is_known_here() {
            return Ok(Self { programs: Vec::new() });
        }
        // A call that is allowed whatever its arguments needs no conditional rule; seccompiler takes no mixture.
        let mut by_call: BTreeMap<&str, Option<Vec<Condition>>> = BTreeMap::new();
        for rule in allowed {
            let conditions = by_call.entry(rule.call).or_insert_with(|| Some(Vec::new()));
            match (rule.condition, conditions.as_mut()) {
                (Some(condition), Some(conditions)) => conditions.push(condition),
                (None, _) => *conditions = None,
                (Some(_), None) => {}
            }
        }
        let allow: Vec<_> = by_call
            .into_iter()
            .flat_map(|(call, conditions)| match conditions {
                None => vec![json!({ "syscall": call })],
                Some(conditions) => conditions
                    .into_iter()
                    .map(|condition| json!({ "syscall": call, "args": [condition.as_json()] }))
                    .collect(),
            })
            .collect();
        let deadly: Vec<_> = deadly.iter().map(|call| json!({ "syscall": call })).collect();
        // The door of seccompiler that knows the names of system calls is its JSON.
        let text = json!({
            "allowed": {
                "mismatch_action": { "errno": Errno::NOSYS.raw_os_error() },
                "match_action": "allow",
                "filter": allow,
            },
            "deadly": { "mismatch_action": "allow", "match_action": "kill_process", "filter": deadly },
        })
        .to_string();
        let architecture = seccompiler::TargetArch::x86_64;
        let mut programs =
            seccompiler::compile_from_json(text.as_bytes(), architecture).map_err(FilterError::Compile)?;
        // In this order: what the second one allows has no place for installing a third.
        Ok(Self {
            programs: ["deadly", "allowed"].iter().filter_map(|name| programs.remove(*name)).collect(),
        })
    }

    /// Whether there are filters for this architecture.
    #[must_use]
    pub const fn is_known_here() -> bool {
        cfg!(target_arch = "x86_64")
    }

    /// Puts every thread of this process behind the filter, for good.
    ///
    /// # Errors
    /// `Install`: the filter may stand in part, so the process should end.
    pub fn install(&self) -> Result<(), FilterError> {
        for program in &self.programs {
            seccompiler::apply_filter_all_threads(program).map_err(FilterError::Install)?;
        }
        Ok(())
    }
}

impl Condition {
    fn as_json(self) -> serde_json::Value {
        let Self { argument, test } = self;
        let (operation, value) = match test {
            Test::Is(value) => (json!("eq"), value),
            Test::Has(bits) => (json!({ "masked_eq": bits }), bits),
            Test::Lacks(bits) => (json!({ "masked_eq": bits }), 0),
        };
        json!({ "index": argument, "type": "dword", "op": operation, "val": value })
    }
}
