//! `sternpost-load dialogue`.

use std::collections::BTreeMap;
use std::io::Write as _;
use std::net::{IpAddr, SocketAddr};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;
use sternpost_load::dialogue::{Departure, PlayOptions, Script, play};
use sternpost_message::chain;
use tokio::task::JoinSet;

use super::Outcome;

/// The lines of a dialogue.
const NOTATION: &str = "\
Lines of a dialogue:
  C: text         the client sends the text and CR LF; c: text with \\r \\n \\0 \\t \\\\ \\xNN as it stands
  S: text         a line that the server must send; * stands for anything
  R: code text    a whole reply; + text and - text below: what one of its lines is, and none
  * octets N | file PATH | tls | pause N ms | shut | close
  ? end | silence N ms
  repeat N ... again
  {name}          the value of --set name=value; {{ is a brace

Example: sternpost-load dialogue hello.txt --to 127.0.0.1:2525 --set name=client.example.net";

/// Speaks a dialogue that stands in a text file.
#[derive(Debug, clap::Args)]
#[command(after_help = NOTATION)]
pub(crate) struct DialogueArguments {
    /// Files with a dialogue, spoken one after the other.
    #[arg(required = true)]
    files: Vec<PathBuf>,
    /// The server, as ADDRESS:PORT.
    #[arg(long)]
    to: SocketAddr,
    /// The own address.
    #[arg(long)]
    from: Option<IpAddr>,
    /// TLS from the first octet on.
    #[arg(long)]
    tls_immediate: bool,
    /// What stands for {NAME} in the files.
    #[arg(long = "set", value_name = "NAME=VALUE", value_parser = value)]
    values: Vec<(String, String)>,
    /// Connections on which each dialogue is spoken at the same time. What was said is shown of a single one only.
    #[arg(long, default_value_t = 1)]
    sessions: u32,
    /// Seconds that the server may take.
    #[arg(long, default_value_t = 60)]
    timeout: u64,
}

fn value(text: &str) -> Result<(String, String), String> {
    let (name, value) = text.split_once('=').ok_or_else(|| format!("{text:?} is not NAME=VALUE"))?;
    Ok((name.to_owned(), value.to_owned()))
}

/// A file that cannot be spoken.
#[derive(Debug, thiserror::Error)]
#[error("{}", path.display())]
struct Unusable {
    path: PathBuf,
    #[source]
    source: Box<dyn std::error::Error>,
}

impl DialogueArguments {
    pub(crate) fn run(self) -> Outcome {
        let values: BTreeMap<_, _> = self.values.into_iter().collect();
        let mut scripts = Vec::new();
        // All are read before the first is spoken: a fault in the last one is known at once.
        for path in self.files {
            match read(&path, &values) {
                Ok(script) => scripts.push((path, Arc::new(script))),
                Err(source) => return Err(Unusable { path, source }.into()),
            }
        }
        let options = PlayOptions {
            from: self.from,
            is_tls_immediate: self.tls_immediate,
            reply_timeout: Duration::from_secs(self.timeout),
            ..PlayOptions::to(self.to)
        };
        let mut is_well = true;
        for (path, script) in scripts {
            let departures = super::block_on(all(script, options.clone(), self.sessions))?;
            if let Some(departure) = departures.first() {
                eprintln!("{}: {}", path.display(), chain(departure));
            }
            if self.sessions > 1 {
                let as_written = self.sessions as usize - departures.len();
                eprintln!("{}: {as_written} of {} sessions as written", path.display(), self.sessions);
            }
            is_well &= departures.is_empty();
        }
        Ok(is_well)
    }
}

fn read(path: &Path, values: &BTreeMap<String, String>) -> Result<Script, Box<dyn std::error::Error>> {
    Ok(Script::parse(&std::fs::read_to_string(path)?, values)?)
}

/// The sessions that went another way.
async fn all(script: Arc<Script>, options: PlayOptions, sessions_count: u32) -> Vec<Departure> {
    let mut playing = JoinSet::new();
    for _ in 0..sessions_count {
        let (script, options) = (Arc::clone(&script), options.clone());
        playing.spawn(async move {
            play(&script, &options, |line| {
                if sessions_count == 1 {
                    // Who reads no more of it still wants to know how it ends.
                    let _ = writeln!(std::io::stdout(), "{line}");
                }
            })
            .await
        });
    }
    playing.join_all().await.into_iter().filter_map(Result::err).collect()
}
