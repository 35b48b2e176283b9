//! `sternpost-load store-client`: producers or readers in a process of their own, so that their CPU time is their own, and
//! the driver's end of it.
//!
//! The client says `ready` when all that shall not be measured is done, waits for one line that says what to do, does it
//! and prints what it has found.

use serde::Serialize;
use serde::de::DeserializeOwned;
use std::ffi::OsStr;
use std::io::{BufRead as _, BufReader, Write as _};
use std::path::{Path, PathBuf};
use std::process::{ChildStdin, ChildStdout, Stdio};
use sternpost_load::store::{Appended, Burst, Pass, Producers, Readers, Reads};
use sternpost_message::MessageSequence;
use tokio::task::LocalSet;

use super::tool::{Guarded, print_json};
use super::{Outcome, block_on};

/// What a client says before it is told to begin.
const READY: &str = "ready";

/// Appends to a store or reads from it, for `bench-queue`.
#[derive(Debug, clap::Args)]
pub(crate) struct ClientArguments {
    /// What to do.
    #[arg(value_enum)]
    work: Work,
    /// The store's socket.
    #[arg(long)]
    socket: PathBuf,
    /// Producers or readers.
    #[arg(long)]
    count: usize,
    /// Octets of a message that is appended.
    #[arg(long, default_value_t = 4096)]
    octets: usize,
}

#[derive(Clone, Copy, Debug, clap::ValueEnum)]
enum Work {
    Append,
    Read,
}

impl ClientArguments {
    pub(crate) fn run(self) -> Outcome {
        let clients = LocalSet::new();
        block_on(clients.run_until(async {
            match self.work {
                Work::Append => {
                    let producers = Producers::connect(self.socket, self.count, self.octets).await;
                    print_json(&READY)?;
                    print_json(&producers.run(line()?).await)?;
                }
                Work::Read => {
                    let messages: Vec<u64> = line()?;
                    let messages = messages.into_iter().map(MessageSequence).collect();
                    let readers = Readers::connect(self.socket, self.count, messages).await;
                    print_json(&READY)?;
                    print_json(&readers.run(line()?).await?)?;
                }
            }
            Ok(true)
        }))?
    }
}

/// The next word of the driver. Nothing else has to go on meanwhile.
fn line<T: DeserializeOwned>() -> Result<T, Box<dyn std::error::Error>> {
    let mut text = String::new();
    std::io::stdin().lock().read_line(&mut text)?;
    Ok(serde_json::from_str(&text)?)
}

/// The driver's end of a client.
#[derive(Debug)]
pub(super) struct Client {
    /// Ends the process with this value.
    _guarded: Guarded,
    questions: ChildStdin,
    answers: BufReader<ChildStdout>,
}

type ClientResult<T> = Result<T, Box<dyn std::error::Error>>;

impl Client {
    /// Producers that are ready to append.
    pub(super) fn producers(socket: &Path, count: u32, octets: usize) -> ClientResult<Self> {
        let mut client = Self::start("append", socket, count, octets)?;
        client.wait_until_ready()?;
        Ok(client)
    }

    /// Readers that are ready to read these messages.
    pub(super) fn readers(socket: &Path, count: u32, messages: &[MessageSequence]) -> ClientResult<Self> {
        let mut client = Self::start("read", socket, count, 0)?;
        let messages: Vec<u64> = messages.iter().map(|message| message.0).collect();
        client.tell(&messages)?;
        client.wait_until_ready()?;
        Ok(client)
    }

    fn start(work: &str, socket: &Path, count: u32, octets: usize) -> ClientResult<Self> {
        let own = std::env::current_exe()?;
        let [count, octets] = [count.to_string(), octets.to_string()];
        let words = ["store-client", work, "--count", &count, "--octets", &octets, "--socket"];
        let arguments: Vec<&OsStr> = words.iter().map(OsStr::new).chain([socket.as_os_str()]).collect();
        let mut guarded = Guarded::start(&own, &arguments, |command| {
            command.stdin(Stdio::piped()).stdout(Stdio::piped());
        })?;
        let questions = guarded.stdin().ok_or("the client has no input")?;
        let answers = BufReader::new(guarded.stdout().ok_or("the client has no output")?);
        Ok(Self { _guarded: guarded, questions, answers })
    }

    fn wait_until_ready(&mut self) -> ClientResult<()> {
        let said: String = self.hear()?;
        if said == READY { Ok(()) } else { Err(format!("the client said {said}").into()) }
    }

    fn tell(&mut self, words: &impl Serialize) -> ClientResult<()> {
        let line = serde_json::to_string(words)? + "\n";
        Ok(self.questions.write_all(line.as_bytes())?)
    }

    fn hear<T: DeserializeOwned>(&mut self) -> ClientResult<T> {
        let mut line = String::new();
        self.answers.read_line(&mut line)?;
        Ok(serde_json::from_str(&line).map_err(|error| format!("the store's client: {error}"))?)
    }

    /// Has all clients append at the same time.
    pub(super) fn append(clients: &mut [Self], burst: Burst) -> ClientResult<Vec<Appended>> {
        for client in &mut *clients {
            client.tell(&burst)?;
        }
        let appended: Vec<Appended> = clients.iter_mut().map(Self::hear).collect::<Result<_, _>>()?;
        match appended.iter().find_map(|appended| appended.failed.as_ref()) {
            Some(why) => Err(format!("a message was not appended: {why}").into()),
            None => Ok(appended),
        }
    }

    /// Has the readers read.
    pub(super) fn read(&mut self, pass: Pass) -> ClientResult<Reads> {
        self.tell(&pass)?;
        self.hear()
    }
}
