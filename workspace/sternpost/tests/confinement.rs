//! What a running `smtp-server` may do, asked of the kernel in its own name: this test stops the process, has it make one
//! system call (ptrace), and sees what the kernel answers. So it is the confinement of the very process that serves
//! strangers, and no copy of it.
#![allow(clippy::unwrap_used, reason = "a test that cannot go on fails here, with the place")]

mod switch;

use nix::sys::ptrace;
use nix::sys::signal::Signal;
use nix::sys::wait::{WaitStatus, waitpid};
use nix::unistd::Pid;
use rustix::process::geteuid;
use std::fs;
use std::io::Read;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{PermissionsExt, chown};
use std::path::Path;
use std::process::{Command, Stdio};
use sternpost_config::{ExampleParameters, example_tree};
use sternpost_directory::Bootstrap;
use sternpost_directory::testing::{BASE_DN, Slapd};
use switch::client::Client;
use switch::mail::nobody;
use switch::{SMALL_ROOM, Switch, new_home, wait_for};

const GETPID: u64 = 39;
const EXECVE: u64 = 59;
const OPENAT: u64 = 257;
const IO_URING_SETUP: u64 = 425;
const IO_URING_REGISTER: u64 = 427;
/// The folder that a relative path starts at.
const AT_FDCWD: u64 = (-100_i64).cast_unsigned();

/// What the kernel answers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Answer {
    /// What the call returned, not negative.
    Works(i64),
    /// An error number.
    Refused(i32),
    /// It has ended the process by this signal.
    Killed(Signal),
}

/// Has a process make a system call. `path` is written below its stack, where nothing lives, and its address becomes the
/// argument of that number. What the process was doing goes on afterwards.
fn ask(pid: u32, call: u64, mut arguments: [u64; 4], path: Option<(usize, &Path)>) -> Answer {
    const BELOW_THE_STACK: u64 = 64 << 10;
    const SYSCALL: i64 = 0x050f;
    let pid = Pid::from_raw(i32::try_from(pid).unwrap());
    ptrace::attach(pid).unwrap();
    assert!(matches!(waitpid(pid, None), Ok(WaitStatus::Stopped(..))));
    let before = ptrace::getregs(pid).unwrap();
    // It waits in a call: the instruction is the one before.
    let instruction = before.rip - 2;
    let octets = ptrace::read(pid, instruction as *mut _).unwrap();
    assert_eq!(octets & 0xffff, SYSCALL, "it was not stopped in a system call");
    if let Some((argument, path)) = path {
        let place = (before.rsp - BELOW_THE_STACK) & !7;
        arguments[argument] = place;
        let text = [path.as_os_str().as_bytes(), &[0; 8]].concat();
        for (at, word) in text.chunks_exact(8).enumerate() {
            let word = i64::from_le_bytes(word.try_into().unwrap());
            ptrace::write(pid, (place + 8 * at as u64) as *mut _, word).unwrap();
        }
    }
    let mut during = before;
    (during.rip, during.rax, during.orig_rax) = (instruction, call, u64::MAX);
    [during.rdi, during.rsi, during.rdx, during.r10] = arguments;
    ptrace::setregs(pid, during).unwrap();
    ptrace::step(pid, None).unwrap();
    match waitpid(pid, None).unwrap() {
        WaitStatus::Stopped(_, Signal::SIGTRAP) => {}
        WaitStatus::Signaled(_, signal, _) => return Answer::Killed(signal),
        other => panic!("{other:?}"),
    }
    let returned = ptrace::getregs(pid).unwrap().rax.cast_signed();
    ptrace::setregs(pid, before).unwrap();
    ptrace::detach(pid, None).unwrap();
    if returned < 0 { Answer::Refused(i32::try_from(-returned).unwrap()) } else { Answer::Works(returned) }
}

fn opens(pid: u32, path: &Path) -> Answer {
    ask(pid, OPENAT, [AT_FDCWD, 0, 0, 0], Some((1, path)))
}

/// A switch that a directory configures, and the directory's bind secret.
struct Lab {
    slapd: Slapd,
    _folder: tempfile::TempDir,
    switch: Switch,
}

fn lab(lines: &str) -> Lab {
    #[derive(serde::Serialize)]
    struct Source {
        directory: Bootstrap,
    }
    let (folder, home) = (new_home(), new_home());
    let slapd = Slapd::start(folder.path(), false);
    let pattern = |text: &str| vec![text.parse().unwrap()];
    let parameters = ExampleParameters {
        node: "switch-1".into(),
        hostname: "switch.test".into(),
        listener: "127.0.0.1:0".parse().unwrap(),
        smtp_peer: nobody(),
        lmtp_peer: nobody(),
        smtp_domains: pattern("smtp.test"),
        lmtp_domains: pattern("lmtp.test"),
    };
    slapd.add_ldif(&example_tree(BASE_DN, &parameters));
    // As on a device: the secret is its one reader's, the log the store's, and anybody may pass by.
    for place in [folder.path(), home.path()] {
        fs::set_permissions(place, fs::Permissions::from_mode(0o711)).unwrap();
    }
    fs::write(home.path().join("log"), "").unwrap();
    for (path, uid) in [(slapd.password_file(), 903), (home.path().join("log"), 901)] {
        fs::set_permissions(&path, fs::Permissions::from_mode(0o600)).unwrap();
        if !lines.is_empty() {
            chown(&path, Some(uid), Some(900)).unwrap();
        }
    }
    let source = toml::to_string(&Source { directory: slapd.bootstrap("switch-1") }).unwrap();
    let switch = Switch::start_with(home, SMALL_ROOM, "auto", lines, &source);
    Lab { slapd, _folder: folder, switch }
}

fn holds(lab: &Lab) {
    let switch = &lab.switch;
    let (secret, log) = (lab.slapd.password_file(), switch.log_path());
    let server = || {
        // It serves, so its door is closed.
        Client::greet(switch.address()).expect("NOOP", "250");
        switch.pid("smtp-server")
    };
    let pid = server();
    assert_eq!(ask(pid, GETPID, [0; 4], None), Answer::Works(i64::from(pid)), "it is asked in its own name");
    let enosys = Answer::Refused(rustix::io::Errno::NOSYS.raw_os_error());
    for path in [&*secret, &*log, Path::new("/etc/passwd")] {
        assert_eq!(opens(pid, path), enosys, "{}", path.display());
    }
    assert_eq!(server(), pid, "it was not harmed by what it was asked");
    // The one reader of the secret can read it, and nothing of the log: the question is a good one.
    let directory = switch.pid("directory");
    assert!(matches!(opens(directory, &secret), Answer::Works(_)));
    assert!(matches!(opens(directory, &log), Answer::Refused(_)));
    let attempts = [
        ("a new ring", IO_URING_SETUP, [1, 0, 0, 0], None),
        ("what a ring registers", IO_URING_REGISTER, [0; 4], None),
        ("another program", EXECVE, [0; 4], Some((0, Path::new("/bin/true")))),
    ];
    for (what, call, arguments, path) in attempts {
        let pid = server();
        assert_eq!(ask(pid, call, arguments, path), Answer::Killed(Signal::SIGSYS), "{what}");
        wait_for("another server", || (switch.pid("smtp-server") != pid).then_some(()));
    }
    server();
    // Somebody must look at a process that asks for such things.
    let status = switch.status();
    assert_eq!(status["roles_failing"][0]["role"], "smtp-server", "{status}");
    assert_eq!(status["roles_failing"][0]["why"], "signal: 31 (SIGSYS)");
}

/// A process without confinement does what it is asked: else the answers above would show nothing.
fn works_without() {
    let mut child = Command::new("cat").stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().unwrap();
    let wchan = format!("/proc/{}/syscall", child.id());
    wait_for("program that waits for its input", || {
        fs::read_to_string(&wchan).ok()?.starts_with("0 ").then_some(())
    });
    assert!(matches!(opens(child.id(), Path::new("/etc/passwd")), Answer::Works(_)));
    drop(child.stdin.take());
    let mut output = String::new();
    child.stdout.take().unwrap().read_to_string(&mut output).unwrap();
    assert!(child.wait().unwrap().success() && output.is_empty());
}

#[test]
fn a_running_smtp_server_opens_neither_the_bind_secret_nor_the_log_makes_no_ring_and_runs_no_program() {
    if !cfg!(target_arch = "x86_64") || !geteuid().is_root() {
        return println!("needs root, to stop the processes of others, and the filters of x86_64");
    }
    works_without();
    // All roles are root here, and every file is theirs: the filter and Landlock alone keep them.
    holds(&lab(""));
    holds(&lab("role_users = \"separate\"\n"));
}
