//! `sternpost device console` beside a real switch.
#![allow(clippy::unwrap_used, reason = "a test that cannot go on fails here, with the place")]

mod switch;

use std::fs;
use std::io::Read;
use std::process::{Child, Command, Stdio};
use std::sync::{Arc, Mutex};
use switch::{Switch, program, wait_for};

const TABLES: &str = "[node]\nname = \"n\"\nhostname = \"n.example\"\n[[listener]]\nname = \"inbound\"\n\
                      addresses = [\"127.0.0.1:0\"]\n";

const PROFILE: &str = r#"{"values": {"method": {"value": "dsync", "reason": "it is faster"},
    "batch_octets": {"value": 4096, "reason": "so it is"}, "channel_processes_max": {"value": 2, "reason": "few"}}}"#;

/// A console whose output is collected. Ended when it is dropped.
struct Console {
    child: Child,
    output: Arc<Mutex<Vec<u8>>>,
}

impl Console {
    /// On `switch`; its files stand in the switch's folder.
    fn start(switch: &Switch, how: &str) -> Self {
        let home = switch.home();
        let mut command = Command::new(program());
        command.args(["device", "console", how, "--run-directory"]).arg(home.join("r"));
        command.arg("--device-directory").arg(home).arg("--self-test").arg(home.join("profile.json"));
        command.arg("--good").arg(home.join("good"));
        let mut child = command.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().unwrap();
        let (output, mut stdout) = (Arc::new(Mutex::new(Vec::new())), child.stdout.take().unwrap());
        let collected = Arc::clone(&output);
        std::thread::spawn(move || {
            let mut buffer = [0; 4_096];
            while let Ok(octets @ 1..) = stdout.read(&mut buffer) {
                collected.lock().unwrap().extend_from_slice(&buffer[..octets]);
            }
        });
        Self { child, output }
    }

    fn said(&self) -> String {
        String::from_utf8_lossy(&self.output.lock().unwrap()).into_owned()
    }

    fn wait_for(&self, words: &str) -> String {
        wait_for(words, || self.said().lines().find(|line| line.contains(words)).map(str::to_owned))
    }
}

impl Drop for Console {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

#[test]
fn a_console_of_lines_says_each_milestone_once_and_the_status_behind_it() {
    let switch = Switch::start(TABLES);
    let console = Console::start(&switch, "--lines");
    let configured = console.wait_for("configured: generation 1 from the directory");
    assert!(configured.starts_with("sternpost: ") && configured.contains(" s: configured: "), "{configured}");
    console.wait_for(&format!(" s: listening: inbound on {}", switch.address()));
    fs::write(switch.home().join("profile.json"), PROFILE).unwrap();
    console.wait_for("self test: batches of 4,096 octets");
    console.wait_for("| DURABLE WRITE");
    console.wait_for("| batch_octets 4,096: so it is");
    let lacking = r#"[{"what": "channel smtp", "says": "no probe passed", "since_kernel_start_s": 0.0}]"#;
    fs::write(switch.home().join("good.lacking"), lacking).unwrap();
    console.wait_for("problem: not good yet: channel smtp: no probe passed");
    fs::write(switch.home().join("good"), r#"{"since_kernel_start_s": 12.31}"#).unwrap();
    console.wait_for(" s: boot is good");
    console.wait_for("| State          RUNNING: all is well");
    assert_eq!(console.said().matches("configured: ").count(), 1, "{}", console.said());
}

#[test]
fn a_screen_is_drawn_on_change_and_when_enter_is_pressed() {
    use std::io::Write;
    let switch = Switch::start(TABLES);
    fs::write(switch.home().join("profile.json"), PROFILE).unwrap();
    let mut console = Console::start(&switch, "--screen");
    console.wait_for("State          STARTING: the health check is under way");
    let screens = |console: &Console| console.said().matches("\u{1b}[H").count();
    let before = screens(&console);
    console.child.stdin.as_mut().unwrap().write_all(b"anything\n").unwrap();
    wait_for("another screen", || (screens(&console) > before).then_some(()));
    // A switch that has gone away ends no console.
    let _home = switch.stop();
    console.wait_for("State          STARTING: the switch does not run yet");
}
