//! Processes: descriptors that a child inherits, names, another program in this one's place, the end with the parent,
//! random octets.

use rustix::io::FdFlags;
use std::ffi::CString;
use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, FromRawFd, OwnedFd, RawFd};
use std::os::unix::process::CommandExt;
use std::process::Command;

/// Lets children inherit `descriptor` until [`keep_from_children`] is called. The supervisor has one thread and starts
/// one process at a time, so no other child can catch it in between.
///
/// # Errors
/// Those of `fcntl`.
pub fn give_to_children(descriptor: BorrowedFd<'_>) -> io::Result<RawFd> {
    rustix::io::fcntl_setfd(descriptor, FdFlags::empty())?;
    Ok(descriptor.as_raw_fd())
}

/// Ends what [`give_to_children`] began.
///
/// # Errors
/// Those of `fcntl`.
pub fn keep_from_children(descriptor: BorrowedFd<'_>) -> io::Result<()> {
    Ok(rustix::io::fcntl_setfd(descriptor, FdFlags::CLOEXEC)?)
}

/// Takes over a descriptor that the parent named in the arguments. To be called once for each number, at the start,
/// before anything else was opened.
///
/// # Errors
/// When the number is not an open descriptor, or one of the three standard ones.
pub fn inherited(number: RawFd) -> io::Result<OwnedFd> {
    if number <= 2 {
        return Err(io::Error::new(
            io::ErrorKind::InvalidInput,
            "descriptors 0 to 2 are the standard streams",
        ));
    }
    // SAFETY: the caller (a role's start, before it opened anything) names a number that its parent left open for it
    // and that nothing else in this process owns; `fcntl_setfd` fails when it is not open at all.
    let descriptor = unsafe { OwnedFd::from_raw_fd(number) };
    if let Err(error) = rustix::io::fcntl_setfd(descriptor.as_fd(), FdFlags::CLOEXEC) {
        // It is not open: closing it would be an error of its own.
        std::mem::forget(descriptor);
        return Err(error.into());
    }
    Ok(descriptor)
}

/// A descriptor of its own for what stands behind a number that the program before this one has left open. The number
/// stays open, and children do not inherit it any more.
///
/// # Errors
/// When the number is not an open descriptor, or none is left.
pub fn copy_of(number: RawFd) -> io::Result<OwnedFd> {
    if number < 0 {
        return Err(io::Error::new(io::ErrorKind::InvalidInput, "no descriptor"));
    }
    // SAFETY: the number is not negative; it is borrowed for two system calls, which fail when it is not open, and nothing
    // is closed.
    let descriptor = unsafe { BorrowedFd::borrow_raw(number) };
    rustix::io::fcntl_setfd(descriptor, FdFlags::CLOEXEC)?;
    Ok(rustix::io::fcntl_dupfd_cloexec(descriptor, 3)?)
}

/// The signals that a supervisor listens to.
const LISTENED: [libc::c_int; 4] = [libc::SIGTERM, libc::SIGINT, libc::SIGHUP, libc::SIGUSR2];

/// Puts another program into the place of this one: the same process, with its children and the descriptors that were
/// given to them. Signals that a supervisor listens to wait until the program calls [`hear_signals`]: their default
/// would end it before it has begun. Returns only when that failed; everything is then as it was.
pub fn replace_by(command: &mut Command) -> io::Error {
    // SAFETY: `exec` runs the closure in this process, in the place where a program may do whatever it likes; it makes
    // one system call on memory of its own.
    unsafe { command.pre_exec(|| mask_signals(libc::SIG_BLOCK)) };
    let error = command.exec();
    match hear_signals() {
        Ok(()) => error,
        Err(error) => error,
    }
}

/// Ends what [`replace_by`] began: to be called when the signals are listened to.
///
/// # Errors
/// Those of `sigprocmask`.
pub fn hear_signals() -> io::Result<()> {
    mask_signals(libc::SIG_UNBLOCK)
}

fn mask_signals(how: libc::c_int) -> io::Result<()> {
    let mut set = std::mem::MaybeUninit::<libc::sigset_t>::uninit();
    // SAFETY: `sigemptyset` makes the set that the next two calls use, and which lives until they are over; no pointer
    // is kept, and a null pointer asks for no old set.
    let result = unsafe {
        libc::sigemptyset(set.as_mut_ptr());
        for signal in LISTENED {
            libc::sigaddset(set.as_mut_ptr(), signal);
        }
        libc::sigprocmask(how, set.as_ptr(), std::ptr::null_mut())
    };
    if result == -1 { Err(io::Error::last_os_error()) } else { Ok(()) }
}

/// Shows `name` (at most 15 octets are kept) as this process's name in `ps -o comm` and the journal.
pub fn set_name(name: &str) {
    if let Ok(name) = CString::new(name) {
        let _ = rustix::thread::set_name(&name);
    }
}

/// Ends this process (by SIGKILL) when its parent ends: a supervisor that was killed leaves nothing running.
///
/// # Errors
/// Those of `prctl`.
pub fn end_with_parent() -> io::Result<()> {
    Ok(rustix::process::set_parent_process_death_signal(Some(rustix::process::Signal::KILL))?)
}

/// Lets this process have as many open descriptors as it is allowed to (RLIMIT_NOFILE), and says how many. The
/// usual 1,024 are for programs that use `select`.
///
/// # Errors
/// Those of `setrlimit`: the limit is as it was.
pub fn raise_descriptor_limit() -> io::Result<Option<u64>> {
    use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
    let maximum = getrlimit(Resource::Nofile).maximum;
    setrlimit(Resource::Nofile, Rlimit { current: maximum, maximum })?;
    Ok(maximum)
}

/// Kills a child by its process id.
///
/// # Errors
/// `InvalidInput` for a number that is no process id; else those of `kill`.
pub fn kill(pid: u32) -> io::Result<()> {
    signal(pid, rustix::process::Signal::KILL)
}

/// Asks a child to end.
///
/// # Errors
/// `InvalidInput` for a number that is no process id; else those of `kill`.
pub fn terminate(pid: u32) -> io::Result<()> {
    signal(pid, rustix::process::Signal::TERM)
}

fn signal(pid: u32, signal: rustix::process::Signal) -> io::Result<()> {
    let pid = i32::try_from(pid)
        .ok()
        .and_then(rustix::process::Pid::from_raw)
        .ok_or_else(|| io::Error::new(io::ErrorKind::InvalidInput, "not a process id"))?;
    Ok(rustix::process::kill_process(pid, signal)?)
}

/// Random octets from the kernel.
///
/// # Panics
/// When the kernel gives none: then no message can be named.
#[must_use]
pub fn random<const N: usize>() -> [u8; N] {
    let mut octets = [0; N];
    let filled = rustix::rand::getrandom(&mut octets, rustix::rand::GetRandomFlags::empty());
    assert!(filled.is_ok_and(|count| count == N), "the kernel gives up to 256 random octets in one call");
    octets
}

#[cfg(test)]
mod tests {
    use super::*;
    use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};

    #[test]
    fn the_descriptor_limit_is_raised_to_what_is_allowed() {
        let before = getrlimit(Resource::Nofile);
        let fewer = before.current.map(|count| count - 1);
        setrlimit(Resource::Nofile, Rlimit { current: fewer, maximum: before.maximum }).unwrap();
        assert_eq!(raise_descriptor_limit().unwrap(), before.maximum);
        let after = getrlimit(Resource::Nofile);
        assert_eq!((after.current, after.maximum), (before.maximum, before.maximum));
    }
}
