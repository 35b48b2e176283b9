//! What is absent: the invariants of ARCHITECTURE.md that say "only this crate" and that the table of crates in
//! `tidy.rs` does not show already. Each is one test over manifests or source text.
#![allow(clippy::unwrap_used, reason = "a test that cannot go on fails here, with the place")]

use cargo_metadata::{DependencyKind, MetadataCommand};
use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};

/// The crates of the product: not what is there for development alone.
const DEVELOPMENT: [&str; 3] = ["simulator", "load", "fuzz"];

fn workspace() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().expect("a crate lies in workspace/").to_owned()
}

/// The crates whose manifest names `dependency` for more than their tests.
fn crates_with(dependency: &str) -> BTreeSet<String> {
    let mut command = MetadataCommand::new();
    command
        .manifest_path(workspace().join("../Cargo.toml"))
        .no_deps()
        .other_options(["--offline".to_owned()]);
    let metadata = command.exec().unwrap();
    let has = |package: &&cargo_metadata::Package| {
        package.dependencies.iter().any(|d| d.kind == DependencyKind::Normal && d.name == dependency)
    };
    let short = |name: &str| name.strip_prefix("sternpost-").unwrap_or(name).to_owned();
    metadata.workspace_packages().into_iter().filter(has).map(|package| short(&package.name)).collect()
}

/// Modules that are there for tests alone.
const TEST_MODULES: [&str; 3] = ["tests.rs", "testing.rs", "fuzz.rs"];

/// How the tests at the end of a file begin.
const TESTS: &str = "#[cfg(test)]\nmod tests {";

/// The product's crates in whose `src` a line of code has `text`; comments and tests do not count.
fn crates_that_say(text: &str) -> BTreeSet<String> {
    let mut found = BTreeSet::new();
    for entry in fs::read_dir(workspace()).unwrap() {
        let folder = entry.unwrap().path();
        let name = folder.file_name().unwrap().to_string_lossy().into_owned();
        if !DEVELOPMENT.contains(&name.as_str()) && says(&folder.join("src"), text) {
            found.insert(name);
        }
    }
    found
}

fn says(folder: &Path, text: &str) -> bool {
    fs::read_dir(folder).unwrap().any(|entry| {
        let path = entry.unwrap().path();
        if path.is_dir() {
            return says(&path, text);
        }
        if TEST_MODULES.iter().any(|name| path.to_string_lossy().ends_with(name)) {
            return false;
        }
        let file = fs::read_to_string(&path).unwrap();
        let product = file.split(TESTS).next().unwrap_or_default();
        product.lines().any(|line| !line.trim_start().starts_with("//") && line.contains(text))
    })
}

fn only<const N: usize>(crates: [&str; N]) -> BTreeSet<String> {
    crates.map(str::to_owned).into()
}

#[test]
fn only_platform_knows_io_uring() {
    assert_eq!(crates_with("io-uring"), only(["platform"]));
    assert_eq!(crates_with("libc"), only(["platform"]));
}

#[test]
fn only_directory_speaks_ldap() {
    assert_eq!(crates_with("ldap3"), only(["directory"]));
}

#[test]
fn only_the_store_opens_the_log() {
    assert_eq!(crates_that_say("open_log_disk("), only(["platform", "store"]));
    assert_eq!(crates_that_say("Log::open"), only(["store"]));
}

#[test]
fn qmgr_and_channels_never_read_the_queue() {
    let crates = crates_with("sternpost-queue");
    assert!(crates.contains("store"), "{crates:?}");
    assert!(!crates.contains("qmgr") && !crates.contains("channels"), "{crates:?}");
    for word in ["platform::disk", "O_DIRECT"] {
        let crates = crates_that_say(word);
        assert!(!crates.contains("qmgr") && !crates.contains("channels"), "{word}: {crates:?}");
    }
}

#[test]
fn only_the_supervisor_starts_processes_and_binds_ports() {
    assert_eq!(crates_that_say("Command::new("), only(["sternpost"]));
    for word in ["TcpListener::bind", "TcpSocket::new_v4"] {
        assert_eq!(crates_that_say(word), only(["sternpost"]), "{word}");
    }
    // Beside it, `sternpost health` binds a port of the loopback for the time of its probe: nobody else is to serve the
    // hop at which the probe ends, and a socket handed out by the supervisor would be one more thing to ask of it.
    // The self test transfers mail from itself to itself.
    let wanted = ["command/health/null_hop.rs", "command/self_test/transfer.rs", "supervisor/listening.rs"];
    let binds = ["TcpListener::bind", "TcpSocket::new_v4"];
    let found = files_that_say(&workspace().join("sternpost/src"), &binds);
    assert!(found.iter().all(|path| wanted.iter().any(|wanted| path.ends_with(wanted))), "{found:?}");
    // The self test starts this executable, and nothing else, to learn what that costs; the firewall's command hands its
    // rules to nft.
    let wanted = [
        "command/device/firewall.rs",
        "command/role_trial.rs",
        "supervisor/spawn.rs",
        "supervisor/successor.rs",
    ];
    let found = files_that_say(&workspace().join("sternpost/src"), &["Command::new("]);
    assert!(found.iter().all(|path| wanted.iter().any(|wanted| path.ends_with(wanted))), "{found:?}");
}

/// The files below a folder that say one of these words outside of their tests.
fn files_that_say(folder: &Path, words: &[&str]) -> Vec<PathBuf> {
    let mut found = Vec::new();
    for entry in fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            found.append(&mut files_that_say(&path, words));
            continue;
        }
        let text = fs::read_to_string(&path).unwrap();
        let product = text.split(TESTS).next().unwrap_or_default();
        if words.iter().any(|word| product.contains(word)) {
            found.push(path);
        }
    }
    found
}

#[test]
fn no_library_erases_its_errors() {
    for word in ["anyhow", "eyre"] {
        assert_eq!(crates_with(word), only([]), "{word}");
    }
}
