//! The self test with the real binary: what it says, where it writes, and what a switch makes of it.

mod switch;

use serde_json::Value;
use std::fs;
use std::path::Path;
use std::process::{Command, Output};
use std::time::{Duration, Instant};
use switch::loop_device::LoopDevice;
use switch::site::Site;
use switch::{Switch, new_home, program, run, text};

/// The command promises 5 s at boot; the tests of a busy machine allow for its own start.
const BOOT_MAX: Duration = Duration::from_secs(15);

fn self_test(arguments: &[&str]) -> Output {
    run(Command::new(program()).arg("self-test").args(arguments))
}

fn json(output: &Output) -> Value {
    assert!(output.status.success(), "{}", text(&output.stderr));
    serde_json::from_slice(&output.stdout).expect("--json gives JSON")
}

/// What every profile holds.
fn assert_profile(profile: &Value, queue: &Path) {
    assert_eq!(profile["version"], 1);
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
    assert!(number(&profile["machine"]["process_start_us"]) > 0.0);
    let values = &profile["values"];
    assert!(["io_uring", "dsync"].contains(&values["method"]["value"].as_str().unwrap_or_default()));
    let batch = number(&values["batch_octets"]["value"]);
    assert!((131_072.0..=1_048_576.0).contains(&batch), "{batch}");
    assert!(number(&values["channel_processes_max"]["value"]) >= 4.0);
    for value in ["method", "batch_octets", "channel_processes_max"] {
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
    for word in ["METHOD", "P50", "P99", "dsync", "1024 KiB", "VALUE", "BECAUSE", "channel_processes_max"] {
        assert!(table.contains(word), "{word}: {table}");
    }
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

/// The values of `status` as `value from` by name.
fn values(switch: &Switch) -> [String; 3] {
    let status = switch.status();
    ["method", "batch_octets", "channel_processes_max"].map(|name| {
        let value = &status["values"][name];
        let is = value["value"].as_str().map_or_else(|| value["value"].to_string(), str::to_owned);
        format!("{is} {}", value["from"].as_str().unwrap_or("nobody"))
    })
}

#[test]
fn a_switch_works_by_its_profile_unless_the_operator_or_nobody_says_otherwise() {
    let home = new_home();
    let profile = home.path().join("profile.json");
    fs::write(home.path().join("tables.toml"), Site::new().tables()).expect("the folder can be written");
    write_bootstrap(home.path(), "");
    let boot = home.path().join("boot.toml");
    json(&self_test(&["--boot", "--json", "--bootstrap", &boot.to_string_lossy()]));
    // Other values than any machine gets by default.
    let mut found: Value = serde_json::from_slice(&fs::read(&profile).expect("a profile")).expect("JSON");
    found["values"]["method"]["value"] = "dsync".into();
    found["values"]["batch_octets"]["value"] = 262_144.into();
    found["values"]["channel_processes_max"]["value"] = 7.into();
    fs::write(&profile, found.to_string()).expect("the folder of a test can be written");

    let switch = Switch::start_from(home);
    assert_eq!(values(&switch), ["dsync self test", "262144 self test", "7 self test"]);
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
    fs::write(home.path().join("tables.toml"), Site::new().qmgr("qmgr_maxchans = 9").tables())
        .expect("the folder of a test can be written");
    let switch = Switch::start_from(home);
    assert_eq!(values(&switch), ["dsync operator", "524288 operator", "9 operator"]);
    let home = switch.stop();

    write_bootstrap(home.path(), "");
    fs::write(home.path().join("tables.toml"), Site::new().tables()).expect("the folder can be written");
    fs::write(home.path().join("profile.json"), "nonsense").expect("the folder of a test can be written");
    let switch = Switch::start_from(home);
    assert_eq!(values(&switch), ["dsync default", "1048576 default", "16 default"]);
    let log = switch.log();
    assert!(log.contains("is no profile of a self test"), "{log}");
}
