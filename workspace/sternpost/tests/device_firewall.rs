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

/// Two links to a neighbour, who has taken the address of the one for a place behind the other.
const WEAK_HOST: &str = "PATH=$PATH:/usr/sbin:/sbin; nft=$(command -v nft)
    unshare --net sleep 60 &
    far=$!
    trap 'kill $far' EXIT
    until [ $(readlink /proc/$far/ns/net) != $(readlink /proc/self/ns/net) ]; do :; done
    neighbour() { nsenter --net=/proc/$far/ns/net \"$@\"; }
    for link in 'outside 192.0.2' 'inside 198.51.100'; do
        set -- \"$1\" \"$2\" $link
        ip link add $3 type veth peer name far-$3 netns $far
        ip address add $4.1/24 dev $3
        ip link set $3 up
        neighbour ip address add $4.2/24 dev far-$3
        neighbour ip link set far-$3 up
    done
    \"$1\" device firewall --nft \"$nft\" --run-directory \"$2\"
    # Nobody listens: what comes through is refused, what is dropped gets no answer.
    reach() { neighbour timeout $1 bash -c \"exec 3<>/dev/tcp/$2/587\" 2>&1 || echo \"$3 ends with $?\"; }
    reach 20 198.51.100.1 'its own link'
    neighbour ip route add 198.51.100.1 via 192.0.2.1
    reach 2 198.51.100.1 'the other link'";

#[test]
fn an_address_is_reached_through_its_own_interface_alone() {
    let home = new_home();
    let listeners = r#"{"listeners": [{"name": "inside", "address": "198.51.100.1", "port": 587}]}"#;
    fs::write(home.path().join("listeners.json"), listeners).unwrap();
    let output = alone(home.path(), WEAK_HOST);
    let said = text(&output.stdout);
    assert!(output.status.success(), "{said}{}", text(&output.stderr));
    assert!(said.contains("Connection refused") && said.contains("its own link ends with 1"), "{said}");
    // 124 is timeout's word for "no answer".
    assert!(said.ends_with("the other link ends with 124\n"), "{said}");
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
