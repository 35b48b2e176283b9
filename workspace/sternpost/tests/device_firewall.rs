//! The rules of `sternpost device firewall` in a network of their own: the kernel takes them, and they say what is open.
#![allow(clippy::unwrap_used, reason = "a test that cannot go on fails here, with the place")]

mod switch;

use std::fs;
use std::process::{Command, Output};
use switch::{new_home, program, run, text};

/// Runs a line of shell in a network namespace of its own, in which the kernel has no rules: `$1` is the binary, `$2` the folder.
fn alone(folder: &std::path::Path, line: &str) -> Output {
    let mut command = Command::new("unshare");
    if !rustix::process::geteuid().is_root() {
        command.arg("--map-root-user");
    }
    run(command.args(["--net", "sh", "-ec", line, "sh"]).arg(program()).arg(folder))
}

const LISTENERS: &str = r#"{"listeners": [
    {"name": "in; accept\n}", "address": "0.0.0.0", "port": 25},
    {"name": "in", "address": "::", "port": 25},
    {"name": "inside", "address": "192.0.2.1", "port": 587}
]}"#;

#[test]
fn the_kernel_takes_the_rules_and_a_change_replaces_them() {
    let home = new_home();
    fs::write(home.path().join("listeners.json"), LISTENERS).unwrap();
    let line = "PATH=$PATH:/usr/sbin:/sbin; nft=$(command -v nft)
        \"$1\" device firewall --nft \"$nft\" --run-directory \"$2\"
        nft list table inet sternpost
        rm \"$2/listeners.json\"
        \"$1\" device firewall --nft \"$nft\" --run-directory \"$2\"
        echo then
        nft list table inet sternpost";
    let output = alone(home.path(), line);
    assert!(output.status.success(), "{}", text(&output.stderr));
    let said = text(&output.stdout);
    let (before, after) = said.split_once("then\n").unwrap();
    let open = |rules: &str| -> Vec<String> {
        rules.lines().filter(|line| line.contains("tcp dport")).map(|line| line.trim().to_owned()).collect()
    };
    let wanted = [
        "meta nfproto ipv4 tcp dport 25 accept",
        "ip daddr 192.0.2.1 tcp dport 587 accept",
        "meta nfproto ipv6 tcp dport 25 accept",
    ];
    assert_eq!(open(before), wanted);
    assert_eq!(open(after), Vec::<String>::new());
    for rules in [before, after] {
        assert_eq!(rules.matches("policy drop;").count(), 2, "{rules}");
    }
}

#[test]
fn a_file_that_is_not_the_supervisors_changes_nothing() {
    let home = new_home();
    fs::write(
        home.path().join("listeners.json"),
        r#"{"listeners": [{"name": "x", "address": "0.0.0.0; accept", "port": 25}]}"#,
    )
    .unwrap();
    let line = "PATH=$PATH:/usr/sbin:/sbin; nft=$(command -v nft)
        \"$1\" device firewall --base --nft \"$nft\"
        ! \"$1\" device firewall --nft \"$nft\" --run-directory \"$2\" 2>\"$2/said\"
        nft list table inet sternpost";
    let output = alone(home.path(), line);
    assert!(output.status.success(), "{}", text(&output.stderr));
    assert!(text(&output.stdout).contains("policy drop;"));
    let said = fs::read_to_string(home.path().join("said")).unwrap();
    assert!(said.contains("listeners.json cannot be used; the packet filter stays as it is"), "{said}");
}
