//! A client of QEMU's control socket (QMP): one command, one answer; events are passed over.
//!
//! Own code because it is a screenful, and the crates that there are bring a generated model of all of QEMU.

use serde_json::{Value, json};
use std::io::{self, BufRead, BufReader, Write};
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::time::Duration;

/// An answer takes no longer on the slowest machine.
const ANSWER_MAX: Duration = Duration::from_secs(30);

/// Why a command was not carried out.
#[derive(Debug, thiserror::Error)]
pub enum QmpError {
    /// The socket failed, or QEMU has ended.
    #[error("{command}: QEMU's control socket failed")]
    Socket {
        /// What was to be done.
        command: String,
        /// What the system said.
        source: io::Error,
    },
    /// QEMU refused.
    #[error("{command}: {reason}")]
    Refused {
        /// What was to be done.
        command: String,
        /// What QEMU said.
        reason: String,
    },
}

/// A connection.
#[derive(Debug)]
pub struct Qmp {
    reader: BufReader<UnixStream>,
    writer: UnixStream,
}

impl Qmp {
    /// Connects and leaves the negotiation of capabilities behind.
    ///
    /// # Errors
    /// `Socket` while QEMU does not listen yet.
    pub fn connect(path: &Path) -> Result<Self, QmpError> {
        let failed = |source| QmpError::Socket { command: "connect".to_owned(), source };
        let writer = UnixStream::connect(path).map_err(failed)?;
        writer.set_read_timeout(Some(ANSWER_MAX)).map_err(failed)?;
        let reader = BufReader::new(writer.try_clone().map_err(failed)?);
        let mut qmp = Self { reader, writer };
        qmp.read("connect")?;
        qmp.execute("qmp_capabilities", &Value::Null)?;
        Ok(qmp)
    }

    /// Carries out a command and gives its answer. `arguments` is an object, or null for none.
    ///
    /// # Errors
    /// `Refused` with QEMU's words; `Socket` when QEMU has ended, which `quit` may cause.
    pub fn execute(&mut self, command: &str, arguments: &Value) -> Result<Value, QmpError> {
        let mut request = json!({ "execute": command });
        if !arguments.is_null() {
            request["arguments"] = arguments.clone();
        }
        let mut line = request.to_string();
        line.push('\n');
        let failed = |source| QmpError::Socket { command: command.to_owned(), source };
        self.writer.write_all(line.as_bytes()).map_err(failed)?;
        loop {
            let mut answer = self.read(command)?;
            if let Some(error) = answer.get("error") {
                let reason = error["desc"].as_str().unwrap_or("refused without a reason").to_owned();
                return Err(QmpError::Refused { command: command.to_owned(), reason });
            }
            if let Some(answer) = answer.get_mut("return") {
                return Ok(answer.take());
            }
        }
    }

    /// A command of the human monitor, for what QMP has none.
    ///
    /// # Errors
    /// As [`Qmp::execute`].
    pub fn monitor(&mut self, line: &str) -> Result<String, QmpError> {
        let answer = self.execute("human-monitor-command", &json!({ "command-line": line }))?;
        Ok(answer.as_str().unwrap_or_default().to_owned())
    }

    fn read(&mut self, command: &str) -> Result<Value, QmpError> {
        let failed = |source| QmpError::Socket { command: command.to_owned(), source };
        let mut line = String::new();
        if self.reader.read_line(&mut line).map_err(failed)? == 0 {
            return Err(failed(io::ErrorKind::UnexpectedEof.into()));
        }
        serde_json::from_str(&line).map_err(|error| failed(error.into()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::net::UnixListener;

    #[test]
    fn events_between_command_and_answer_are_passed_over_and_refusals_are_told() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("qmp");
        let listener = UnixListener::bind(&path).unwrap();
        let server = std::thread::spawn(move || {
            let (mut stream, _) = listener.accept().unwrap();
            let mut lines = BufReader::new(stream.try_clone().unwrap()).lines();
            let mut answer = |text: &str| stream.write_all(text.as_bytes()).unwrap();
            answer("{\"QMP\": {}}\n");
            let mut asked = Vec::new();
            for text in [
                "{\"return\": {}}\n",
                "{\"event\": \"STOP\"}\n{\"return\": {\"running\": false}}\n",
                "{\"error\": {\"class\": \"GenericError\", \"desc\": \"no such device\"}}\n",
            ] {
                asked.push(lines.next().unwrap().unwrap());
                answer(text);
            }
            asked
        });
        let mut qmp = Qmp::connect(&path).unwrap();
        assert_eq!(qmp.execute("query-status", &Value::Null).unwrap()["running"], false);
        let error = qmp.execute("device_del", &json!({ "id": "stick" })).unwrap_err();
        assert_eq!(error.to_string(), "device_del: no such device");
        let asked = server.join().unwrap();
        assert!(asked[2].contains("\"arguments\":{\"id\":\"stick\"}"), "{}", asked[2]);
    }
}
