//! Who may do what on the device: `image/roles.toml`, compiled in, read and checked.
//!
//! The supervisor takes each role's user and limits from here, a role its filter of system calls and the places that it
//! may open. Not here: how that is enforced (`sternpost_platform::sandbox`), and what the image makes of the same file.

use serde::Deserialize;
use std::collections::{BTreeMap, BTreeSet};
use std::path::PathBuf;
use std::sync::LazyLock;
use sternpost_platform::sandbox::{Condition, Filter, FilterError, Identity, Limits, Places, Rule, Test};

/// The set of calls whose roles may connect to TCP peers.
const TCP_CLIENT: &str = "tcp-client";
const TEXT: &str = include_str!("../../../image/roles.toml");

/// Why a table of roles cannot be used.
#[derive(Debug, thiserror::Error)]
pub(crate) enum RolesError {
    /// It is no TOML, or not of this form.
    #[error("image/roles.toml: {0}")]
    Form(String),
    /// It names what it does not define, or twice.
    #[error("image/roles.toml: {name}: {what}")]
    Wrong {
        /// The role, user or set.
        name: String,
        /// What is wrong.
        what: String,
    },
    /// A set of system calls that the kernel would not take.
    #[error("image/roles.toml: the calls of {role} make no filter")]
    Filter {
        /// The role.
        role: String,
        /// Why.
        source: FilterError,
    },
}

/// The group of all users.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Group {
    /// In `/etc/group`.
    pub(crate) name: String,
    /// Its number.
    pub(crate) gid: u32,
}

/// A user of the device.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct User {
    /// In `/etc/passwd`.
    pub(crate) name: String,
    /// Its number.
    pub(crate) uid: u32,
    /// What it owns, for people.
    pub(crate) what: String,
}

/// Who makes a process, and so who enforces what stands in the table.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub(crate) enum StartedBy {
    /// A unit of the image.
    Systemd,
    /// `sternpost run`.
    Supervisor,
}

/// What one role may do.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Role {
    /// One of the users, or root.
    pub(crate) user: String,
    /// Who makes it.
    pub(crate) started_by: StartedBy,
    /// What it keeps.
    #[serde(default)]
    pub(crate) capabilities: BTreeSet<String>,
    /// Names of sets.
    #[serde(default)]
    pub(crate) calls: Vec<String>,
    /// What it may read below, beside what it may write.
    #[serde(default)]
    pub(crate) reads: Vec<String>,
    /// What it may read and write below.
    #[serde(default)]
    pub(crate) writes: Vec<String>,
    limits: LimitsTable,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
struct LimitsTable {
    open_files: u64,
    locked_octets: u64,
    data_octets: Option<u64>,
}

#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct CallSet {
    why: String,
    allow: BTreeSet<String>,
    #[serde(default)]
    when: Vec<When>,
}

/// A call that is allowed for certain values of one argument.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct When {
    call: String,
    argument: u8,
    /// The argument is one of these.
    is: Option<Vec<u32>>,
    /// The argument has all these bits.
    has: Option<u32>,
    /// The argument has none of these bits.
    lacks: Option<u32>,
    why: String,
}

#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Deadly {
    why: String,
    calls: BTreeSet<String>,
}

/// The whole table, consistent in itself.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Roles {
    /// The group of all.
    pub(crate) group: Group,
    /// All but root.
    #[serde(rename = "user")]
    pub(crate) users: Vec<User>,
    /// By name.
    #[serde(rename = "role")]
    pub(crate) roles: BTreeMap<String, Role>,
    calls: BTreeMap<String, CallSet>,
    deadly: Deadly,
}

impl Roles {
    /// The table of this build.
    ///
    /// # Panics
    /// Never: `the_table_of_this_build_is_consistent` reads the same text.
    pub(crate) fn of_this_build() -> &'static Self {
        static ROLES: LazyLock<Roles> =
            LazyLock::new(|| Roles::parse(TEXT).expect("a test reads the same text"));
        &ROLES
    }

    /// Reads a table.
    ///
    /// # Errors
    /// The first thing that is wrong.
    pub(crate) fn parse(text: &str) -> Result<Self, RolesError> {
        let roles: Self =
            toml::from_str(text).map_err(|error| RolesError::Form(error.to_string().trim().to_owned()))?;
        roles.check()?;
        Ok(roles)
    }

    fn check(&self) -> Result<(), RolesError> {
        let wrong = |name: &str, what: String| Err(RolesError::Wrong { name: name.to_owned(), what });
        let (mut names, mut numbers) = (BTreeSet::from(["root"]), BTreeSet::from([0]));
        for user in &self.users {
            if !names.insert(&user.name) || !numbers.insert(user.uid) {
                return wrong(&user.name, format!("the name or the number {} is taken", user.uid));
            }
        }
        for (name, role) in &self.roles {
            if !names.contains(role.user.as_str()) {
                return wrong(name, format!("there is no user {}", role.user));
            }
            if let Some(set) = role.calls.iter().find(|set| !self.calls.contains_key(*set)) {
                return wrong(name, format!("there is no set of calls {set}"));
            }
            if role.started_by == StartedBy::Supervisor {
                if let Some(capability) = role.capabilities.first() {
                    return wrong(name, format!("a role of the supervisor has no {capability}"));
                }
                if role.calls.is_empty() || role.user == "root" {
                    return wrong(
                        name,
                        "a role of the supervisor has calls, and a user that is not root".into(),
                    );
                }
            }
        }
        for (name, set) in &self.calls {
            if set.why.is_empty() {
                return wrong(name, "say why".to_owned());
            }
            let called = set.allow.iter().chain(set.when.iter().map(|when| &when.call));
            if let Some(call) = called.into_iter().find(|call| self.deadly.calls.contains(*call)) {
                return wrong(name, format!("{call} is deadly"));
            }
            for when in &set.when {
                let tests = [when.is.is_some(), when.has.is_some(), when.lacks.is_some()];
                if tests.iter().filter(|is_there| **is_there).count() != 1 || when.why.is_empty() {
                    return wrong(name, format!("{}: one of is, has and lacks, and why", when.call));
                }
            }
        }
        if self.deadly.why.is_empty() { wrong("deadly", "say why".to_owned()) } else { Ok(()) }
    }

    /// The user and the group of a role's process; none for a role that is not in the table.
    pub(crate) fn identity(&self, role: &str) -> Option<Identity> {
        let user = &self.roles.get(role)?.user;
        let uid = match user.as_str() {
            "root" => 0,
            _ => self.users.iter().find(|known| known.name == *user)?.uid,
        };
        Some(Identity { uid, gid: self.group.gid })
    }

    /// The limits of a role's process; none for a role that is not in the table.
    pub(crate) fn limits(&self, role: &str) -> Option<Limits> {
        let LimitsTable { open_files, locked_octets, data_octets } = self.roles.get(role)?.limits;
        Some(Limits { open_files, locked_octets, data_octets })
    }

    /// The places of the file system that a role may open and whether it may connect out, with what the words of the table stand for.
    ///
    /// # Errors
    /// `Wrong` for a role that is not in the table, and for a word that stands for nothing.
    pub(crate) fn places(&self, role: &str, words: &[(&str, Vec<PathBuf>)]) -> Result<Places, RolesError> {
        let wrong = |what: String| RolesError::Wrong { name: role.to_owned(), what };
        let known = self.roles.get(role).ok_or_else(|| wrong("there is no such role".to_owned()))?;
        let paths = |places: &[String]| {
            let mut paths = Vec::new();
            for place in places {
                match words.iter().find(|(word, _)| word == place) {
                    Some((_, meant)) => paths.extend_from_slice(meant),
                    None if place.starts_with('/') => paths.push(place.into()),
                    None => return Err(wrong(format!("{place} stands for nothing"))),
                }
            }
            Ok(paths)
        };
        let may_connect = known.calls.iter().any(|set| set == TCP_CLIENT);
        Ok(Places { reads: paths(&known.reads)?, writes: paths(&known.writes)?, may_connect })
    }

    /// The filter of a role's system calls.
    ///
    /// # Errors
    /// `Wrong` for a role that is not in the table or that the supervisor does not start; `Filter`.
    pub(crate) fn filter(&self, role: &str) -> Result<Filter, RolesError> {
        let known = self.roles.get(role).filter(|known| known.started_by == StartedBy::Supervisor);
        let known = known.ok_or_else(|| RolesError::Wrong {
            name: role.to_owned(),
            what: "the supervisor starts no such role".to_owned(),
        })?;
        let mut rules = Vec::new();
        for set in known.calls.iter().filter_map(|set| self.calls.get(set)) {
            rules.extend(set.allow.iter().map(|call| Rule { call, condition: None }));
            rules.extend(set.when.iter().flat_map(When::rules));
        }
        let deadly: Vec<&str> = self.deadly.calls.iter().map(String::as_str).collect();
        Filter::new(&rules, &deadly).map_err(|source| RolesError::Filter { role: role.to_owned(), source })
    }
}

impl When {
    /// One rule for each value: the rules of a call are alternatives.
    fn rules(&self) -> impl Iterator<Item = Rule<'_>> {
        let values = self.is.iter().flatten().map(|value| Test::Is(*value));
        let bits = self.has.map(Test::Has).into_iter().chain(self.lacks.map(Test::Lacks));
        let rule =
            |test| Rule { call: &self.call, condition: Some(Condition { argument: self.argument, test }) };
        values.chain(bits).map(rule)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SMALL: &str = "[group]\nname = \"g\"\ngid = 9\n[[user]]\nname = \"u\"\nuid = 8\nwhat = \"w\"\n\
        [role.r]\nuser = \"u\"\nstarted_by = \"supervisor\"\ncalls = [\"c\"]\nlimits = { open_files = 1, locked_octets = 0 }\n\
        [calls.c]\nwhy = \"w\"\nallow = [\"read\"]\n[deadly]\nwhy = \"w\"\ncalls = [\"execve\"]\n";

    #[test]
    fn the_table_of_this_build_is_consistent() {
        let roles = Roles::parse(TEXT).unwrap();
        for (name, role) in &roles.roles {
            assert!(roles.identity(name).is_some() && roles.limits(name).is_some(), "{name}");
            assert_eq!(roles.filter(name).is_ok(), role.started_by == StartedBy::Supervisor, "{name}");
        }
        assert!(roles.users.iter().all(|user| roles.roles.values().any(|role| role.user == user.name)));
        let used: BTreeSet<_> = roles.roles.values().flat_map(|role| &role.calls).collect();
        assert!(roles.calls.keys().all(|set| used.contains(set)));
    }

    #[test]
    fn every_role_that_the_supervisor_starts_is_in_the_table_with_a_filter() {
        let started = ["store", "qmgr", "directory", "signer", "smtp-server", "smtp", "lmtp", "housekeeper"];
        let roles = Roles::of_this_build();
        let known = roles.roles.iter().filter(|(_, role)| role.started_by == StartedBy::Supervisor);
        assert_eq!(known.map(|(name, _)| name.as_str()).collect::<BTreeSet<_>>(), BTreeSet::from(started));
    }

    /// Says to a copy of this test program which role it is to be, and what it is to try.
    const ATTEMPT: &str = "STERNPOST_TEST_ATTEMPT";

    /// How an attempt ended.
    #[derive(Clone, Copy, Debug, PartialEq, Eq)]
    enum End {
        Works,
        /// With ENOSYS.
        /// Or with EACCES, by Landlock.
        IsRefused,
        /// By SIGSYS.
        Kills,
    }

    fn attempt(what: &str, given: std::os::fd::OwnedFd) -> std::io::Result<()> {
        use std::os::unix::process::CommandExt;
        let port_of_nobody = std::net::SocketAddr::from(([127, 0, 0, 1], 1));
        match what {
            "exec" => Err(std::process::Command::new("/bin/true").exec()),
            "spawn" => std::process::Command::new("/bin/true").status().map(drop),
            "chown" => std::os::unix::fs::chown("/proc/self/cwd", None, None),
            "chroot" => std::os::unix::fs::chroot("/"),
            "ring" => sternpost_platform::disk::open_log_disk(
                &std::env::current_dir().unwrap().join("qmgr/log"),
                sternpost_platform::disk::DiskBackend::IoUring,
                0,
            )
            .map(drop)
            .map_err(std::io::Error::other),
            "open" => std::fs::File::open("/etc/passwd").map(drop),
            "write" => std::fs::write("qmgr/file", "text"),
            "write elsewhere" => std::fs::write("file", "text"),
            "signal" => Ok(rustix::process::kill_process(
                rustix::process::getppid().unwrap(),
                rustix::process::Signal::CONT,
            )?),
            "thread" => std::thread::Builder::new().spawn(|| ()).map(drop),
            "tcp" => match std::net::TcpStream::connect(port_of_nobody) {
                Err(error) if error.kind() == std::io::ErrorKind::ConnectionRefused => Ok(()),
                result => result.map(drop),
            },
            "connect what it was given" => match rustix::net::connect(given, &port_of_nobody) {
                Err(rustix::io::Errno::CONNREFUSED) => Ok(()),
                result => Ok(result?),
            },
            "udp" => std::net::UdpSocket::bind("127.0.0.1:0").map(drop),
            "listen" => std::net::TcpListener::bind("127.0.0.1:0").map(drop),
            "link" => std::os::unix::net::UnixDatagram::unbound().map(drop),
            "memory" => sternpost_platform::memory::seal(&[7; 9_000])
                .and_then(|memory| sternpost_platform::memory::unseal(memory, 9_000))
                .map(|octets| assert_eq!(octets, [7; 9_000])),
            _ => panic!("{what}"),
        }
    }

    /// In the copy: becomes the role, tries, and says by the exit status how it went.
    fn end_after(attempt_of_role: &str) -> ! {
        let (role, what) = attempt_of_role.split_once(' ').unwrap();
        let (family, stream) = (rustix::net::AddressFamily::INET, rustix::net::SocketType::STREAM);
        let given = rustix::net::socket(family, stream, None).unwrap();
        sternpost_platform::sandbox::renounce().unwrap();
        if role != "store" {
            let words = [
                ("<state>/qmgr", vec!["qmgr".into()]),
                ("<configuration>", vec![]),
                ("<name-servers>", vec![]),
            ];
            let places = Roles::of_this_build().places(role, &words).unwrap();
            sternpost_platform::sandbox::keep_to(&places).unwrap();
        }
        Roles::of_this_build().filter(role).unwrap().install().unwrap();
        std::process::exit(match attempt(what, given) {
            Ok(()) => 10,
            Err(error) if matches!(error.raw_os_error(), Some(38 | 13)) => 11,
            Err(error) => {
                eprintln!("{attempt_of_role}: {error:?}");
                12
            }
        })
    }

    /// In the test: has a copy try it.
    fn end_of(role: &str, what: &str) -> End {
        use std::os::unix::process::ExitStatusExt;
        let folder = tempfile::tempdir().unwrap();
        std::fs::create_dir(folder.path().join("qmgr")).unwrap();
        let output = std::process::Command::new(std::env::current_exe().unwrap())
            .args([
                "--exact",
                "--nocapture",
                "roles::tests::a_role_can_do_what_its_filter_names_and_nothing_else",
            ])
            .env(ATTEMPT, format!("{role} {what}"))
            .current_dir(folder.path())
            .output()
            .unwrap();
        match (output.status.code(), output.status.signal()) {
            (Some(10), None) => End::Works,
            (Some(11), None) => End::IsRefused,
            (None, Some(31)) => End::Kills,
            other => panic!("{role} {what}: {other:?} {}", String::from_utf8_lossy(&output.stderr)),
        }
    }

    /// Major and minor version.
    fn kernel() -> (u32, u32) {
        let uname = rustix::system::uname();
        let mut numbers =
            uname.release().to_str().unwrap().split('.').map(|number| number.parse().unwrap_or(0));
        (numbers.next().unwrap(), numbers.next().unwrap())
    }

    #[test]
    fn a_role_can_do_what_its_filter_names_and_nothing_else() {
        if let Ok(attempt) = std::env::var(ATTEMPT) {
            end_after(&attempt);
        }
        let all = ["store", "qmgr", "directory", "smtp-server", "smtp", "lmtp", "housekeeper"];
        if !Filter::is_known_here() {
            return assert_eq!(end_of("store", "open"), End::Works);
        }
        // Each attempt, the roles for which it works, and how it ends for the others.
        let rows: [(&str, &[&str], End); 14] = [
            ("exec", &[], End::Kills),
            ("chown", &[], End::Kills),
            ("chroot", &[], End::Kills),
            ("spawn", &[], End::IsRefused),
            ("signal", &[], End::IsRefused),
            ("listen", &[], End::IsRefused),
            ("udp", &["directory", "smtp", "lmtp"], End::IsRefused),
            ("tcp", &["directory", "smtp", "lmtp"], End::IsRefused),
            ("open", &["directory"], End::IsRefused),
            ("write", &["qmgr"], End::IsRefused),
            ("write elsewhere", &[], End::IsRefused),
            ("thread", &["directory"], End::IsRefused),
            ("link", &all, End::IsRefused),
            ("memory", &all, End::IsRefused),
        ];
        for (what, works_for, otherwise) in rows {
            for role in all {
                let expected = if works_for.contains(&role) { End::Works } else { otherwise };
                assert_eq!(end_of(role, what), expected, "{role}: {what}");
            }
        }
        // The store is given no TCP socket, and has no Landlock. Linux 6.7 has the rule.
        if kernel() >= (6, 7) {
            for role in all {
                let is_free = ["store", "directory", "smtp", "lmtp"].contains(&role);
                let expected = if is_free { End::Works } else { End::IsRefused };
                assert_eq!(end_of(role, "connect what it was given"), expected, "{role}");
            }
        }
        // QMGR can open a file to write on; a ring it cannot make. The list of what kills is the same for all.
        assert_eq!(end_of("qmgr", "ring"), End::Kills);
        assert!(Roles::of_this_build().deadly.calls.contains("io_uring_setup"));
        assert!(Roles::of_this_build().deadly.calls.contains("io_uring_register"));
    }

    fn overlay(path: &str) -> String {
        let path = format!("{}/../../image/overlay/usr/lib/{path}", env!("CARGO_MANIFEST_DIR"));
        std::fs::read_to_string(&path).unwrap_or_else(|error| panic!("{path}: {error}"))
    }

    #[test]
    fn the_units_of_the_image_give_each_command_what_the_table_gives_it() {
        let units = [
            ("supervisor", "sternpost"),
            ("bootstrap", "sternpost-bootstrap"),
            ("self-test", "sternpost-self-test"),
            ("health", "sternpost-health"),
            ("console", "sternpost-console@"),
            ("firewall", "sternpost-firewall"),
        ];
        let roles = Roles::of_this_build();
        let by_systemd = roles.roles.iter().filter(|(_, role)| role.started_by == StartedBy::Systemd);
        assert_eq!(by_systemd.count(), units.len());
        for (name, unit) in units {
            let text = overlay(&format!("systemd/system/{unit}.service"));
            let value = |key: &str| text.lines().find_map(|line| line.strip_prefix(key));
            let role = &roles.roles[name];
            assert_eq!(value("User=").unwrap_or("root"), role.user, "{unit}");
            let bounding: BTreeSet<_> =
                value("CapabilityBoundingSet=").unwrap().split_whitespace().map(str::to_owned).collect();
            assert_eq!(bounding, role.capabilities, "{unit}");
            assert_eq!(value("NoNewPrivileges="), Some("yes"), "{unit}");
            let limit = |key: &str| {
                let text = value(key).unwrap_or_else(|| panic!("{unit} has no {key}"));
                let (number, factor) = text.strip_suffix('M').map_or((text, 1), |mib| (mib, 1 << 20));
                number.parse::<u64>().unwrap() * factor
            };
            assert_eq!(limit("LimitNOFILE="), role.limits.open_files, "{unit}");
            assert_eq!(limit("LimitMEMLOCK="), role.limits.locked_octets, "{unit}");
            if role.user != "root" {
                assert_eq!(value("Group="), Some(roles.group.name.as_str()), "{unit}");
                let ambient = value("AmbientCapabilities=").unwrap_or_default();
                let ambient: BTreeSet<_> = ambient.split_whitespace().map(str::to_owned).collect();
                assert_eq!(ambient, role.capabilities, "{unit}");
            }
        }
    }

    #[test]
    fn the_folders_of_the_image_belong_to_users_of_the_table() {
        let roles = Roles::of_this_build();
        let user = |role: &str| roles.roles[role].user.as_str();
        let text = overlay("tmpfiles.d/sternpost.conf");
        let folders: BTreeMap<_, _> = text
            .lines()
            .filter(|line| line.starts_with("d "))
            .map(|line| line.split_whitespace().collect::<Vec<_>>())
            .map(|words| (words[1], (words[2], words[3], words[4])))
            .collect();
        let group = roles.group.name.as_str();
        let expected = [
            ("/var/lib/sternpost", ("0755", "root", "root")),
            ("/var/lib/sternpost/bootstrap", ("0700", "root", "root")),
            ("/var/lib/sternpost/qmgr", ("0700", user("qmgr"), group)),
            ("/var/lib/sternpost/self-test", ("0750", user("self-test"), group)),
        ];
        assert_eq!(folders, BTreeMap::from(expected));
        let rules = overlay("udev/rules.d/90-sternpost.rules");
        let owner = format!("OWNER=\"{}\", GROUP=\"{group}\", MODE=\"0600\"", user("store"));
        assert!(rules.contains(&owner), "{rules}");
    }

    #[test]
    fn the_table_in_architecture_md_is_the_table() {
        let roles = Roles::of_this_build();
        let mut table =
            "| role | user | capabilities | system calls | limits |\n|---|---|---|---|---|\n".to_owned();
        let or = |words: Vec<&str>, none: &str| {
            if words.is_empty() { none.to_owned() } else { words.join(", ") }
        };
        for (name, role) in &roles.roles {
            let capabilities = role.capabilities.iter().map(|name| name.trim_start_matches("CAP_")).collect();
            let LimitsTable { open_files, locked_octets, data_octets } = role.limits;
            let mut limits = format!("{open_files} descriptors");
            for (octets, what) in [(locked_octets, "locked"), (data_octets.unwrap_or(0), "of data")] {
                if octets > 0 {
                    limits.push_str(&format!(", {} MiB {what}", octets >> 20));
                }
            }
            table.push_str(&format!(
                "| `{name}` | `{}` {} | {} | {} | {limits} |\n",
                role.user,
                roles.identity(name).unwrap().uid,
                or(capabilities, "none"),
                or(role.calls.iter().map(String::as_str).collect(), "its unit's"),
            ));
        }
        let path = format!("{}/../../ARCHITECTURE.md", env!("CARGO_MANIFEST_DIR"));
        let text = std::fs::read_to_string(path).unwrap();
        assert!(text.contains(&table), "ARCHITECTURE.md should have this table:\n{table}");
    }

    #[test]
    fn what_the_table_names_it_must_define() {
        assert!(Roles::parse(SMALL).is_ok());
        let wrong = [
            ("user = \"u\"", "user = \"v\"", "r: there is no user v"),
            ("calls = [\"c\"]", "calls = [\"d\"]", "r: there is no set of calls d"),
            ("calls = [\"c\"]", "", "r: a role of the supervisor has calls"),
            ("uid = 8", "uid = 0", "u: the name or the number 0 is taken"),
            ("[\"read\"]", "[\"execve\"]", "c: execve is deadly"),
            ("[calls.c]\nwhy = \"w\"", "[calls.c]\nwhy = \"\"", "c: say why"),
            ("calls = [\"c\"]", "calls = [\"c\"]\ncapabilities = [\"CAP_KILL\"]", "has no CAP_KILL"),
            ("gid = 9", "gid = 9\nextra = 1", "unknown field `extra`"),
        ];
        for (from, to, expected) in wrong {
            let error = Roles::parse(&SMALL.replacen(from, to, 1)).unwrap_err().to_string();
            assert!(error.contains(expected), "{error}");
        }
    }

    #[test]
    fn a_condition_tests_one_thing_and_says_why() {
        let with = |when: &str| {
            let when = format!("[[calls.c.when]]\ncall = \"socket\"\nargument = 0\n{when}\n[deadly]");
            Roles::parse(&SMALL.replacen("[deadly]", &when, 1))
        };
        let rules = |when: &str| with(when).unwrap().calls["c"].when[0].rules().count();
        assert_eq!(rules("is = [1, 2]\nwhy = \"w\""), 2);
        assert_eq!(rules("has = 6\nwhy = \"w\""), 1);
        assert!(with("why = \"w\"").is_err());
        assert!(with("is = [1]\nhas = 2\nwhy = \"w\"").is_err());
        assert!(with("is = [1]\nwhy = \"\"").is_err());
    }
}
