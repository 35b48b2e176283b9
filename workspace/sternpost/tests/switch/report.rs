//! Reports as a program of another make reads them: Python's `email`, which has its own idea of the standards.

use serde::Deserialize;
use std::collections::BTreeMap;
use std::io::Write;
use std::process::{Command, Stdio};
use tempfile::TempDir;

const PARSER: &str = r#"
import email, email.policy, json, sys
message = email.message_from_bytes(sys.stdin.buffer.read(), policy=email.policy.default)
fields = lambda part: {name.lower(): str(value) for name, value in part.items()}
parts = list(message.iter_parts())
blocks = [fields(block) for block in parts[1].get_payload()]
json.dump({
    "content_type": message.get_content_type(),
    "report_type": message.get_param("report-type"),
    "header": fields(message),
    "parts": [part.get_content_type() for part in parts],
    "text": parts[0].get_content(),
    "message": blocks[0],
    "recipients": blocks[1:],
    "defects": [str(d) for part in message.walk() for d in part.defects],
}, sys.stdout)
"#;

/// A delivery status report. RFC 3464.
#[derive(Debug, Deserialize)]
pub(crate) struct StatusReport {
    content_type: String,
    report_type: String,
    /// The message's own header; names in lower case, as everywhere here.
    pub(crate) header: BTreeMap<String, String>,
    parts: Vec<String>,
    /// The part for people.
    pub(crate) text: String,
    /// Fields about the message.
    pub(crate) message: BTreeMap<String, String>,
    /// Fields about each recipient.
    pub(crate) recipients: Vec<BTreeMap<String, String>>,
    defects: Vec<String>,
}

impl StatusReport {
    /// Reads a report; it must be one, without a defect.
    pub(crate) fn read(content: &[u8]) -> Self {
        let mut child = Command::new("python3")
            .args(["-c", PARSER])
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .expect("python3 is installed");
        let mut stdin = child.stdin.take().expect("the input is a pipe");
        // The parser reads everything before it writes.
        stdin.write_all(content).expect("the parser reads");
        drop(stdin);
        let output = child.wait_with_output().expect("a child can be waited for");
        let shown = String::from_utf8_lossy(content);
        assert!(output.status.success(), "not a report: {shown}");
        let report: Self = serde_json::from_slice(&output.stdout).expect("the parser writes JSON");
        assert_eq!(report.defects, [] as [&str; 0], "{shown}");
        assert_eq!(
            (report.content_type.as_str(), report.report_type.as_str()),
            ("multipart/report", "delivery-status")
        );
        assert_eq!(report.parts[1], "message/delivery-status", "{:?}", report.parts);
        assert_eq!(report.parts.len(), 3, "{:?}", report.parts);
        report
    }

    /// Action and status of the recipient at this address, which must be reported on.
    pub(crate) fn about(&self, address: &str) -> (&str, &str) {
        let wanted = format!("rfc822; {address}");
        let recipient = self
            .recipients
            .iter()
            .find(|fields| fields["final-recipient"].replace(";", "; ").replace("  ", " ") == wanted);
        let recipient = recipient.unwrap_or_else(|| panic!("{address} is not in {:?}", self.recipients));
        (&recipient["action"], &recipient["status"])
    }
}

/// What flufl.bounce, by which Mailman reads reports, takes from one.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Bounces {
    /// Addresses that fail for now.
    pub(crate) temporary: Vec<String>,
    /// Addresses that fail for good.
    pub(crate) permanent: Vec<String>,
}

const FLUFL: &str = r#"
import email, json, sys
from flufl.bounce import all_failures
temporary, permanent = all_failures(email.message_from_binary_file(sys.stdin.buffer))
addresses = lambda found: sorted(address.decode() for address in found)
json.dump([addresses(temporary), addresses(permanent)], sys.stdout)
"#;

/// Reads a report by flufl.bounce, of Debian's own Python.
pub(crate) fn read_by_flufl(content: &[u8]) -> Bounces {
    let output = fed("/usr/bin/python3", &["-c", FLUFL], content);
    let (temporary, permanent) = serde_json::from_slice(&output).expect("the script writes JSON");
    Bounces { temporary, permanent }
}

const SISIMAI: &str = r#"
use Sisimai;
for my $read (@{ Sisimai->make($ARGV[0], delivered => 1) || [] }) {
    my $recipient = $read->recipient->address;
    print join("\t", $recipient, $read->action, $read->deliverystatus, $read->replycode, $read->reason), "\n";
}
"#;

/// Reads a report by Sisimai: a line for each recipient with its address, action, status, reply code and reason.
pub(crate) fn read_by_sisimai(content: &[u8]) -> Vec<String> {
    let folder = TempDir::new().expect("a folder for a report");
    let path = folder.path().join("report.eml");
    std::fs::write(&path, content).expect("the folder is ours");
    let path = path.to_str().expect("the folder of a test has a plain name");
    let output = fed("perl", &["-e", SISIMAI, path], b"");
    String::from_utf8_lossy(&output).lines().map(str::to_owned).collect()
}

/// What a program writes when it is fed with this.
fn fed(program: &str, arguments: &[&str], octets: &[u8]) -> Vec<u8> {
    let mut child = Command::new(program)
        .args(arguments)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap_or_else(|error| panic!("{program} is installed by .ci/packages: {error}"));
    child.stdin.take().expect("the input is a pipe").write_all(octets).expect("the program reads");
    let output = child.wait_with_output().expect("a child can be waited for");
    assert!(output.status.success(), "{program} cannot read {}", String::from_utf8_lossy(octets));
    output.stdout
}
