//! The self test with the real binary: what it says, where it writes, and what a switch makes of it.

mod switch;

use serde_json::Value;
use std::collections::HashSet;
use std::fs;
use std::io::{BufRead, BufReader};
use std::net::TcpStream;
use std::path::Path;
use std::process::{Command, Output, Stdio};
use std::time::{Duration, Instant};
use switch::loop_device::LoopDevice;
use switch::site::Site;
use switch::{PATIENCE, Switch, new_home, program, run, text};

/// The command promises 5 s at boot; the tests of a busy machine allow for its own start.
const BOOT_MAX: Duration = Duration::from_secs(15);

fn self_test(arguments: &[&str]) -> Output {
    run(Command::new(program()).arg("self-test").args(arguments))
}

fn json(output: &Output) -> Value {
    assert!(output.status.success(), "{}", text(&output.stderr));
    serde_json::from_slice(&output.stdout).expect("--json gives JSON")
}

const VALUES: [&str; 6] = [
    "method",
    "batch_octets",
    "channel_processes_max",
    "association_slots_max",
    "slots_per_process",
    "connections_max",
];

/// What every profile holds.
fn assert_profile(profile: &Value, queue: &Path) {
    assert_eq!(profile["version"], 2);
    assert_eq!(profile["queue"].as_str(), queue.to_str());
    let commits = profile["commits"].as_array().expect("a list");
    for method in ["dsync", "fdatasync", "unsynced"] {
        assert!(commits.iter().any(|commit| commit["method"] == method), "{method}: {profile:#}");
    }
    let number = |value: &Value| value.as_f64().expect("a number");
    for commit in commits {
        let times = ["p10_us", "p50_us", "p99_us"].map(|name| number(&commit[name]));
        assert!(times[0] > 0.0 && times.is_sorted(), "{commit}");
        assert!(number(&commit["per_s"]) > 0.0 && number(&commit["count"]) >= 1.0, "{commit}");
    }
    assert!(number(&profile["content"]["write_octets_per_s"]) > 0.0);
    let machine = &profile["machine"];
    assert!(number(&machine["process_start_us"]) > 0.0);
    assert!(number(&machine["memory_available_octets"]) <= number(&machine["memory_octets"]), "{machine}");
    for name in ["tls_server_per_s", "tls_client_per_s", "sha256_octets_per_s", "copy_octets_per_s"] {
        assert!(number(&profile["processor"][name]) > 0.0, "{name}: {profile:#}");
    }
    let transfer = &profile["transfer"];
    assert!(commits.iter().any(|commit| commit["method"] == transfer["method"]), "{transfer}");
    let points = transfer["points"].as_array().expect("a list");
    let levels: Vec<f64> = points.iter().map(|point| number(&point["associations"])).collect();
    assert!(levels.first() == Some(&1.0) && levels.is_sorted(), "{levels:?}");
    for point in points {
        let batch = number(&point["batch_messages"]);
        assert!(number(&point["per_s"]) > 0.0, "{point}");
        assert!(
            (1.0..=number(&point["associations"])).contains(&batch),
            "no more wait than are at work: {point}"
        );
    }
    let choice = &transfer["choice"];
    assert!(number(&choice["associations"]) <= levels.iter().copied().fold(0.0, f64::max), "{transfer:#}");
    assert_eq!(choice["rule"] == "share", transfer["law"].is_null(), "{transfer:#}");
    let values = &profile["values"];
    assert!(["io_uring", "dsync"].contains(&values["method"]["value"].as_str().unwrap_or_default()));
    let batch = number(&values["batch_octets"]["value"]);
    assert!((131_072.0..=1_048_576.0).contains(&batch), "{batch}");
    assert!(number(&values["channel_processes_max"]["value"]) >= 4.0);
    let slots = number(&values["association_slots_max"]["value"]);
    let share = number(&values["slots_per_process"]["value"]);
    assert!(share * number(&values["channel_processes_max"]["value"]) <= slots, "{values:#}");
    assert!((400.0..=65_535.0).contains(&number(&values["connections_max"]["value"])), "{values:#}");
    for value in VALUES {
        let reason = values[value]["reason"].as_str().expect("a reason");
        assert!(reason.len() > 20, "{value}: {reason}");
    }
}

#[test]
fn the_self_test_measures_beside_a_file_and_leaves_nothing_but_its_profile() {
    let home = new_home();
    let queue = home.path().join("log");
    fs::write(&queue, b"mail").expect("the folder of a test can be written");
    let boot = home.path().join("boot.toml");
    fs::write(
        &boot,
        "[queue]\npath = \"log\"\n[self_test]\nprofile = \"profile.json\"\nhistory = \"history\"\n",
    )
    .expect("the folder of a test can be written");
    let began = Instant::now();
    for round in 1..=2 {
        let output = self_test(&["--boot", "--json", "--bootstrap", &boot.to_string_lossy()]);
        let profile = json(&output);
        assert_profile(&profile, &queue);
        let file = fs::read(home.path().join("profile.json")).expect("the profile was written");
        assert_eq!(serde_json::from_slice::<Value>(&file).expect("JSON"), profile);
        assert_eq!(fs::read_dir(home.path().join("history")).expect("the history is kept").count(), round);
    }
    assert!(began.elapsed() < 2 * BOOT_MAX, "{:?}", began.elapsed());
    assert_eq!(fs::read(&queue).expect("the log is there"), b"mail");
    let mut names: Vec<_> = fs::read_dir(home.path())
        .expect("a folder can be listed")
        .map(|entry| entry.expect("a folder can be listed").file_name().to_string_lossy().into_owned())
        .collect();
    names.sort();
    assert_eq!(names, ["boot.toml", "history", "log", "profile.json"]);
    let table = text(&self_test(&["--boot", "--queue", &queue.to_string_lossy()]).stdout);
    let words =
        ["METHOD", "P50", "P99", "dsync", "1024 KiB", "TLS handshakes", "SHA-256", "AT A TIME", "chosen"];
    for word in words.into_iter().chain(VALUES) {
        assert!(table.contains(word), "{word}: {table}");
    }
    assert!(table.lines().skip(1).all(|line| line.chars().count() <= 80), "{table}");
}

/// The names of the elements of a text in XML, each beginning once. Panics where one does not end as it should.
fn elements(xml: &str) -> Vec<String> {
    let body = xml.strip_prefix("<?xml version=\"1.0\" encoding=\"UTF-8\"?>").expect("a declaration");
    let (mut names, mut open) = (Vec::new(), Vec::new());
    for piece in body.split('<').skip(1) {
        let (tag, words) = piece.split_once('>').expect("a tag ends");
        assert!(!words.contains('>') && tag.matches('"').count().is_multiple_of(2), "{piece}");
        let entities = words.split('&').skip(1);
        assert!(entities.clone().all(|rest| ["amp;", "lt;", "gt;"].iter().any(|one| rest.starts_with(one))));
        let name = tag.trim_end_matches('/').split(' ').next().unwrap_or_default();
        match name.strip_prefix('/') {
            Some(name) => assert_eq!(open.pop().as_deref(), Some(name), "{piece}"),
            None => {
                names.push(name.to_owned());
                if !tag.ends_with('/') {
                    open.push(name.to_owned());
                }
            }
        }
    }
    assert!(open.is_empty(), "{open:?}");
    names
}

#[test]
fn the_curve_is_drawn_with_each_point_that_was_measured() {
    let home = new_home();
    let (queue, svg) = (home.path().join("lög & <log>"), home.path().join("curve.svg"));
    let profile = json(&self_test(&[
        "--boot",
        "--json",
        "--queue",
        &queue.to_string_lossy(),
        "--svg",
        &svg.to_string_lossy(),
    ]));
    let drawn = fs::read_to_string(&svg).expect("the picture was drawn");
    assert_eq!(elements(&drawn)[0], "svg");
    let points = profile["transfer"]["points"].as_array().expect("a list");
    assert_eq!(drawn.matches("class=\"measured\"").count(), points.len());
    for point in points {
        let title = format!(
            "<title>{} at a time: {:.0}/s</title>",
            point["associations"],
            point["per_s"].as_f64().unwrap()
        );
        assert!(drawn.contains(&title), "{title}: {drawn}");
    }
    assert_eq!(drawn.matches("class=\"law\"").count(), usize::from(!profile["transfer"]["law"].is_null()));
    assert_eq!(drawn.matches("class=\"chosen\"").count(), 1);
    assert!(drawn.contains("Chosen: "), "{drawn}");
}

/// The inodes of the sockets that a process has open.
fn sockets(pid: u32) -> HashSet<String> {
    let folder = fs::read_dir(format!("/proc/{pid}/fd"));
    let links = folder.into_iter().flatten().filter_map(|entry| fs::read_link(entry.ok()?.path()).ok());
    links
        .filter_map(|link| {
            let inode = link.to_str()?.strip_prefix("socket:[")?.strip_suffix(']')?;
            Some(inode.to_owned())
        })
        .collect()
}

/// Local and remote address, in hexadecimal digits, of each internet socket of a process.
fn internet_addresses(pid: u32) -> Vec<[String; 2]> {
    let own = sockets(pid);
    let mut found = Vec::new();
    for table in ["tcp", "tcp6", "udp", "udp6", "raw", "raw6"] {
        let Ok(file) = fs::File::open(format!("/proc/{pid}/net/{table}")) else { continue };
        for line in BufReader::new(file).lines().skip(1).map_while(Result::ok) {
            let fields: Vec<&str> = line.split_whitespace().collect();
            if fields.get(9).is_some_and(|inode| own.contains(*inode)) {
                found.push(
                    [fields[1], fields[2]].map(|end| end.split(':').next().unwrap_or_default().to_owned()),
                );
            }
        }
    }
    found
}

#[test]
fn the_self_test_connects_to_nobody_but_itself() {
    let home = new_home();
    let queue = home.path().join("log");
    let mut child = Command::new(program())
        .args(["self-test", "--boot", "--json", "--queue", &queue.to_string_lossy()])
        .stdout(Stdio::null())
        .spawn()
        .expect("the program starts");
    let (mut most, began) = (0, Instant::now());
    while child.try_wait().expect("a child can be waited for").is_none() {
        let addresses = internet_addresses(child.id());
        // 127.0.0.1 as the kernel writes it; nobody is at the other end of a listener, and of a socket that is yet to connect.
        for [local, remote] in &addresses {
            assert!(["0100007F", "00000000"].contains(&local.as_str()), "{addresses:?}");
            assert!(["0100007F", "00000000"].contains(&remote.as_str()), "{addresses:?}");
        }
        most = most.max(addresses.len());
        assert!(began.elapsed() < PATIENCE, "it hangs");
        std::thread::sleep(Duration::from_millis(20));
    }
    assert!(most >= 2, "its own connections were seen");
}

#[test]
fn the_self_test_of_a_device_writes_behind_the_log_alone() {
    let mark = b"STERNPOST QUEUE BLANK 1\n";
    let Some(disk) = LoopDevice::with_head(mark) else { return };
    let device = disk.device().to_string_lossy().into_owned();
    let home = new_home();
    let path = home.path().join("profile.json").to_string_lossy().into_owned();
    let profile = json(&self_test(&["--boot", "--json", "--queue", &device, "--profile", &path]));
    assert_profile(&profile, disk.device());
    assert_eq!(profile["place"], "the trial region behind the log");
    // 48 MiB: 3 MiB in reserve, of which the head takes 64 KiB.
    let behind = LoopDevice::OCTETS - (4 << 20);
    let log = disk.octets(0, usize::try_from(behind).expect("a small device"));
    assert!(log.starts_with(mark), "the mark is untouched");
    assert!(log[mark.len()..].iter().all(|octet| *octet == 0), "the log's place is untouched");
    let region = disk.octets(LoopDevice::OCTETS - (2 << 20), 1 << 20);
    assert!(region.iter().any(|octet| *octet != 0), "the trial region was written over");
}

#[test]
fn the_self_test_refuses_a_device_that_holds_something_else() {
    let Some(disk) = LoopDevice::with_head(b"\x7fELF") else { return };
    let output = self_test(&["--boot", "--queue", &disk.device().to_string_lossy()]);
    let said = text(&output.stderr);
    assert_eq!(output.status.code(), Some(1));
    assert!(said.contains("cannot be measured on: this is no log"), "{said}");
    let octets = disk.octets(4, usize::try_from(LoopDevice::OCTETS).expect("a small device") - 4);
    assert!(octets.iter().all(|octet| *octet == 0));
}

#[test]
fn a_self_test_that_cannot_be_done_leaves_word_until_one_can() {
    let home = new_home();
    let boot = home.path().join("boot.toml");
    fs::write(&boot, "[queue]\npath = \"away/log\"\n[self_test]\nprofile = \"profile.json\"\n")
        .expect("the folder of a test can be written");
    let boot = boot.to_string_lossy();
    assert_eq!(self_test(&["--boot", "--bootstrap", &boot]).status.code(), Some(1));
    let word = home.path().join("profile.failure");
    let said = fs::read_to_string(&word).expect("it left word");
    assert!(said.contains("nothing can be measured: "), "{said}");
    fs::create_dir(home.path().join("away")).expect("the folder of a test can be written");
    json(&self_test(&["--boot", "--json", "--bootstrap", &boot]));
    assert!(!word.exists());
}

/// A bootstrap with a profile, and further lines of `[queue]`.
fn write_bootstrap(home: &Path, queue_lines: &str) {
    let text = format!(
        "run_directory = \"r\"\nstate_directory = \"s\"\n[queue]\npath = \"log\"\nsegment_octets = 1048576\n\
         segments = 16\n{queue_lines}[self_test]\nprofile = \"profile.json\"\n[tables]\npath = \"tables.toml\"\n"
    );
    fs::write(home.join("boot.toml"), text).expect("the folder of a test can be written");
}

/// The values of `status` as `value from` by name; of the channels the one for `smtp`.
fn values(switch: &Switch) -> [String; 5] {
    let status = switch.status();
    let places = [
        "/method",
        "/batch_octets",
        "/channel_processes_max",
        "/slots_per_process/smtp",
        "/connections_max/inbound",
    ];
    places.map(|place| {
        let value = status["values"].pointer(place).unwrap_or(&Value::Null);
        let is = value["value"].as_str().map_or_else(|| value["value"].to_string(), str::to_owned);
        format!("{is} {}", value["from"].as_str().unwrap_or("nobody"))
    })
}

#[test]
fn a_switch_works_by_its_profile_unless_the_operator_or_nobody_says_otherwise() {
    let home = new_home();
    let profile = home.path().join("profile.json");
    let unlimited = Site::new().listener("connections_per_client_max = 0").tables();
    fs::write(home.path().join("tables.toml"), unlimited).expect("the folder can be written");
    write_bootstrap(home.path(), "");
    let boot = home.path().join("boot.toml");
    json(&self_test(&["--boot", "--json", "--bootstrap", &boot.to_string_lossy()]));
    // Other values than any machine gets by default.
    let mut found: Value = serde_json::from_slice(&fs::read(&profile).expect("a profile")).expect("JSON");
    found["values"]["method"]["value"] = "dsync".into();
    found["values"]["batch_octets"]["value"] = 262_144.into();
    found["values"]["channel_processes_max"]["value"] = 7.into();
    found["values"]["slots_per_process"]["value"] = 33.into();
    found["values"]["connections_max"]["value"] = 400.into();
    fs::write(&profile, found.to_string()).expect("the folder of a test can be written");

    let switch = Switch::start_from(home);
    let from_self_test =
        ["dsync self test", "262144 self test", "7 self test", "33 self test", "400 self test"];
    assert_eq!(values(&switch), from_self_test);
    // The last one of so many is told that it is one too many.
    let mut connections: Vec<TcpStream> =
        (0..401).map(|_| TcpStream::connect(switch.address()).expect("the switch listens")).collect();
    let said = |stream: &mut TcpStream| {
        stream.set_read_timeout(Some(PATIENCE)).expect("a connection can be waited on");
        let mut line = String::new();
        BufReader::new(stream).read_line(&mut line).expect("a line");
        line
    };
    let last = said(&mut connections[400]);
    assert!(last.starts_with("421 4.3.2 too many connections"), "{last}");
    assert!(said(&mut connections[399]).starts_with("220 "));
    drop(connections);
    // While it runs the profile stays, and what is measured says so.
    let beside =
        json(&self_test(&["--boot", "--json", "--bootstrap", &switch.bootstrap().to_string_lossy()]));
    let remarks = beside["remarks"].to_string();
    assert!(
        remarks.contains("A switch runs on this log") && remarks.contains("was left as it is"),
        "{remarks}"
    );
    let home = switch.stop();
    assert_eq!(fs::read(home.path().join("profile.json")).expect("a profile"), found.to_string().as_bytes());

    write_bootstrap(home.path(), "backend = \"dsync\"\nbatch_octets_max = 524288\n");
    let site = Site::new().qmgr("qmgr_maxchans = 9").channel("slots_per_process = 12");
    fs::write(home.path().join("tables.toml"), site.listener("connections_max = 50").tables())
        .expect("the folder of a test can be written");
    let switch = Switch::start_from(home);
    let from_operator = ["dsync operator", "524288 operator", "9 operator", "12 operator", "50 operator"];
    assert_eq!(values(&switch), from_operator);
    let home = switch.stop();

    write_bootstrap(home.path(), "");
    fs::write(home.path().join("tables.toml"), Site::new().tables()).expect("the folder can be written");
    fs::write(home.path().join("profile.json"), "nonsense").expect("the folder of a test can be written");
    let switch = Switch::start_from(home);
    let defaults = ["dsync default", "1048576 default", "16 default", "64 default", "1000 default"];
    assert_eq!(values(&switch), defaults);
    let log = switch.log();
    assert!(log.contains("is no profile of a self test"), "{log}");
}
