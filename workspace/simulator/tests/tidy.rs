//! The rules of the house that a machine can check: who may depend on whom, where `unsafe` may stand, how long a file
//! may be. Each rule is one test, and each failure says which file or edge broke it.

use cargo_metadata::{DependencyKind, Metadata, MetadataCommand, Package, PackageId};
use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};
use std::fs;
use std::path::{Path, PathBuf};

/// Each crate with its layer and the crates of the workspace that it may depend on (not counting tests of its own).
/// Layers: 0 words, 1 protocols, 2 deciders, 3 devices, 4 processes, 5 the edge, 6 development only, 7 the booted image.
const CRATES: &[(&str, u8, &[&str])] = &[
    ("message", 0, &[]),
    ("config", 0, &["message"]),
    ("smtp", 1, &["message"]),
    ("link", 1, &["message"]),
    ("scheduler", 2, &["message"]),
    ("submission", 2, &["message"]),
    ("queue", 2, &["message"]),
    ("platform", 3, &["message", "link", "queue"]),
    ("directory", 3, &["message", "config"]),
    ("tls", 3, &["message", "link"]),
    // No I/O, but its random numbers come from the kernel (`getrandom` knows libc).
    ("sasl", 3, &["message"]),
    ("dns", 3, &["message"]),
    ("store", 4, &["message", "link", "queue", "platform"]),
    // QMGR keeps the last known good configuration, whose file format is the directory's.
    ("qmgr", 4, &["message", "config", "link", "scheduler", "platform", "directory"]),
    ("signer", 4, &["message", "link", "platform", "tls"]),
    ("channels", 4, &["message", "config", "smtp", "link", "submission", "platform", "sasl", "tls", "dns"]),
    (
        "sternpost",
        5,
        // The self test measures with `platform` and asks `scheduler` what follows; `health` serves the hop to which its
        // probe goes.
        &[
            "message",
            "config",
            "smtp",
            "link",
            "scheduler",
            "queue",
            "platform",
            "directory",
            "store",
            "qmgr",
            "signer",
            "channels",
            // `verifier` makes what a password is checked by.
            "sasl",
            // `health` greets a listener inside TLS.
            "tls",
        ],
    ),
    // Drives the machines of the store, of QMGR and of the channels with a disk, links and a clock of its own.
    (
        "simulator",
        6,
        &["message", "config", "link", "scheduler", "queue", "platform", "store", "qmgr", "channels"],
    ),
    // The demonstration starts a configuration directory; the bench makes logs, and appends and reads as the channels do.
    (
        "load",
        6,
        &["message", "config", "link", "scheduler", "queue", "platform", "directory", "tls", "channels"],
    ),
    // Boots the image between the directory, the sources and the sinks that the others have. The crash campaign recovers what
    // a power cut leaves of the log.
    ("hw-tests", 7, &["message", "config", "queue", "directory", "simulator", "load"]),
];

/// The highest layer without clock, file, socket and thread.
const PURE_LAYER_MAX: u8 = 2;

/// Crates that would bring the outside world into a pure layer.
const WORLD: [&str; 4] = ["tokio", "rustix", "libc", "io-uring"];

/// Longer files hold more than one thing.
const LINES_MAX: usize = 900;

/// Names that say nothing about a crate's duty.
const EMPTY_NAMES: [&str; 6] = ["common", "util", "utils", "misc", "core", "helpers"];

fn workspace() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().expect("a crate lies in workspace/").to_owned()
}

fn metadata(with_dependencies: bool) -> Metadata {
    let mut command = MetadataCommand::new();
    command.manifest_path(workspace().join("../Cargo.toml"));
    let mut options = vec!["--offline".to_owned()];
    if with_dependencies {
        // Only what is built for this machine: elsewhere a crate may need `libc` to ask for the processor's features.
        options.push(format!("--filter-platform={}-unknown-linux-gnu", std::env::consts::ARCH));
    } else {
        command.no_deps();
    }
    command.other_options(options);
    command.exec().unwrap_or_else(|error| panic!("cargo metadata: {error}"))
}

/// `sternpost-queue` is `queue`; the binary's package keeps its name.
fn short(name: &str) -> &str {
    name.strip_prefix("sternpost-").unwrap_or(name)
}

fn layer(name: &str) -> u8 {
    let row = CRATES.iter().find(|(known, ..)| *known == name);
    row.unwrap_or_else(|| panic!("{name} is not in the table of crates")).1
}

fn normal_dependencies(package: &Package) -> impl Iterator<Item = &str> {
    package
        .dependencies
        .iter()
        .filter(|dependency| dependency.kind == DependencyKind::Normal)
        .map(|dependency| dependency.name.as_str())
}

#[test]
fn every_crate_depends_only_on_those_that_it_may_know() {
    let metadata = metadata(false);
    let mut broken = Vec::new();
    for package in metadata.workspace_packages() {
        let name = short(&package.name);
        let Some((_, _, allowed)) = CRATES.iter().find(|(known, ..)| *known == name) else {
            broken.push(format!("{name} is not in the table of crates"));
            continue;
        };
        let ours = normal_dependencies(package).filter(|dependency| dependency.starts_with("sternpost"));
        broken.extend(
            ours.map(short)
                .filter(|dependency| !allowed.contains(dependency))
                .map(|dependency| format!("{name} -> {dependency}")),
        );
    }
    assert!(broken.is_empty(), "edges that the table does not allow: {broken:#?}");
}

#[test]
fn every_allowed_edge_goes_down() {
    for (name, from, allowed) in CRATES {
        for dependency in *allowed {
            // `config` is made of the words of `message`.
            let is_words = (*name, *dependency) == ("config", "message");
            assert!(layer(dependency) < *from || is_words, "{name} -> {dependency} does not go down");
        }
    }
}

#[test]
fn the_table_names_every_crate_and_no_other() {
    let metadata = metadata(false);
    let found: BTreeSet<_> =
        metadata.workspace_packages().iter().map(|p| short(&p.name).to_owned()).collect();
    let known: BTreeSet<_> = CRATES.iter().map(|(name, ..)| (*name).to_owned()).collect();
    assert_eq!(found, known);
}

#[test]
fn the_layers_below_the_devices_know_no_runtime_and_no_system_call() {
    let metadata = metadata(true);
    let packages: HashMap<&PackageId, &Package> =
        metadata.packages.iter().map(|package| (&package.id, package)).collect();
    let resolve = metadata.resolve.as_ref().expect("metadata with dependencies has a resolution");
    let mut edges: HashMap<&PackageId, Vec<&PackageId>> = HashMap::new();
    for node in &resolve.nodes {
        let normal = node
            .deps
            .iter()
            .filter(|dependency| dependency.dep_kinds.iter().any(|kind| kind.kind == DependencyKind::Normal));
        edges.insert(&node.id, normal.map(|dependency| &dependency.pkg).collect());
    }
    for package in metadata.workspace_packages() {
        let name = short(&package.name);
        if layer(name) > PURE_LAYER_MAX {
            continue;
        }
        let mut seen = HashSet::from([&package.id]);
        let mut open = vec![(&package.id, name.to_owned())];
        while let Some((id, path)) = open.pop() {
            for next in edges.get(id).into_iter().flatten().filter(|next| seen.insert(**next)) {
                let next_name = packages[next].name.as_str();
                let path = format!("{path} -> {next_name}");
                assert!(!WORLD.contains(&next_name), "{path}");
                // The macros of a crate run in the compiler, not in the switch.
                if !packages[next].targets.iter().any(cargo_metadata::Target::is_proc_macro) {
                    open.push((next, path));
                }
            }
        }
    }
}

#[test]
fn no_crate_or_module_has_a_name_that_says_nothing() {
    for package in metadata(false).workspace_packages() {
        assert!(!EMPTY_NAMES.contains(&short(&package.name)), "{}", package.name);
    }
    for path in rust_files().keys() {
        let stem = path.file_stem().and_then(|stem| stem.to_str()).unwrap_or_default();
        assert!(!EMPTY_NAMES.contains(&stem), "{}", path.display());
    }
}

/// Every Rust file below `workspace/` and `hw-tests/` with its text, but for what a build made.
fn rust_files() -> BTreeMap<PathBuf, String> {
    let mut files = BTreeMap::new();
    let mut folders = vec![workspace(), workspace().join("../hw-tests")];
    while let Some(folder) = folders.pop() {
        for item in fs::read_dir(&folder).unwrap_or_else(|error| panic!("{}: {error}", folder.display())) {
            let path = item.expect("a folder that was opened can be listed").path();
            if path.is_dir() {
                if path.file_name().is_some_and(|name| name != "target") {
                    folders.push(path);
                }
            } else if path.extension().is_some_and(|extension| extension == "rs") {
                let text =
                    fs::read_to_string(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()));
                files.insert(path, text);
            }
        }
    }
    assert!(files.len() > CRATES.len(), "the walk has found the crates");
    files
}

/// The root file of each library and program of the workspace (not of tests and examples), with its crate.
fn roots() -> Vec<(String, PathBuf)> {
    let mut roots = Vec::new();
    for package in metadata(false).workspace_packages() {
        for target in package.targets.iter().filter(|target| target.is_lib() || target.is_bin()) {
            roots.push((short(&package.name).to_owned(), target.src_path.clone().into_std_path_buf()));
        }
    }
    roots
}

#[test]
fn unsafe_is_forbidden_in_every_crate_but_platform() {
    for (name, root) in roots() {
        let text = fs::read_to_string(&root).unwrap_or_else(|error| panic!("{}: {error}", root.display()));
        let is_forbidden = text.lines().any(|line| line == "#![forbid(unsafe_code)]");
        assert!(is_forbidden || name == "platform", "{} does not forbid unsafe code", root.display());
    }
}

#[test]
fn every_crate_begins_by_saying_what_it_is() {
    for (_, root) in roots() {
        let text = fs::read_to_string(&root).unwrap_or_else(|error| panic!("{}: {error}", root.display()));
        assert!(text.starts_with("//! "), "{} does not begin with //!", root.display());
    }
}

#[test]
fn no_file_is_longer_than_a_reader_keeps_in_mind() {
    for (path, text) in rust_files() {
        let lines = text.lines().count();
        assert!(lines <= LINES_MAX, "{} has {lines} lines", path.display());
    }
}

#[test]
fn no_test_is_switched_off_and_nothing_is_left_undone() {
    // Put together here, so that this file does not find itself.
    let forbidden = [concat!("#[", "ignore"), concat!("todo", "!"), concat!("unimplemented", "!")];
    for (path, text) in rust_files() {
        for word in forbidden {
            assert!(!text.contains(word), "{} has {word}", path.display());
        }
    }
}
