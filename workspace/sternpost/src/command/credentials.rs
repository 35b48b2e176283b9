//! `sternpost credentials`: the certificates that the signer has a private key for, and what is wrong with others.

use super::{CommandResult, exit_code};
use crate::ask::{self, Which};
use crate::output;
use serde_json::{Value, json};
use sternpost_link::signer::{Credentials, PublicCredential};
use sternpost_platform::clock::wall_now;
use time::OffsetDateTime;
use time::format_description::well_known::Rfc3339;

/// A certificate that ends within so many seconds is named, and counts as something that somebody must do.
const ENDS_SOON_S: i64 = 14 * 86_400;

/// What is asked.
#[derive(Debug, clap::Args)]
#[command(
    after_help = "Examples:\n  sternpost credentials\n  sternpost credentials --reload --json\n\nExit status: 0 all can be used and end in more than 14 days, 1 one cannot or ends sooner."
)]
pub(crate) struct Arguments {
    #[command(flatten)]
    which: Which,
    /// Have the files read at once; a change is noticed within five seconds anyway
    #[arg(long)]
    reload: bool,
    /// Print JSON
    #[arg(long)]
    json: bool,
}

/// Asks and prints.
///
/// # Errors
/// When the signer does not answer.
pub(crate) fn run(arguments: &Arguments) -> CommandResult {
    let credentials = ask::on_loop(ask::credentials(&arguments.which, arguments.reload))?;
    let now_s = now_s();
    if arguments.json {
        output::print_json(&value(&credentials, now_s));
    } else {
        output::print(&text(&credentials, now_s));
    }
    let all_last = credentials.usable.iter().all(|credential| left(credential, now_s).1);
    Ok(exit_code(credentials.wrong.is_empty() && all_last))
}

/// Now, in seconds since 1970.
pub(super) fn now_s() -> i64 {
    i64::try_from(wall_now().0 / 1_000).unwrap_or(i64::MAX)
}

/// How long a credential lasts, in words, and whether that is long enough.
fn left(credential: &PublicCredential, now_s: i64) -> (String, bool) {
    let left_s = credential.not_after_s.saturating_sub(now_s);
    match left_s {
        ..0 => (
            "has ended: nobody who verifies will talk to this switch; put a new one into its place"
                .to_owned(),
            false,
        ),
        0..86_400 => ("ends today: put a new one into its place".to_owned(), false),
        86_400..ENDS_SOON_S => {
            (format!("ends in {} days: put a new one into its place", left_s / 86_400), false)
        }
        _ => (format!("ends in {} days", left_s / 86_400), true),
    }
}

fn until(credential: &PublicCredential) -> String {
    OffsetDateTime::from_unix_timestamp(credential.not_after_s)
        .ok()
        .and_then(|at| at.format(&Rfc3339).ok())
        .unwrap_or_else(|| format!("{} s", credential.not_after_s))
}

/// The same for programs.
pub(super) fn value(credentials: &Credentials, now_s: i64) -> Value {
    let usable = credentials.usable.iter().map(|credential| {
        json!({
            "name": credential.name,
            "subject": credential.subject,
            "certificates": credential.chain.len(),
            "not_after": until(credential),
            "lasts": left(credential, now_s).1,
            "key_sha256": output::hex(&credential.key.0),
        })
    });
    let wrong = credentials.wrong.iter().map(|wrong| json!({ "name": wrong.name, "why": wrong.why }));
    json!({ "usable": usable.collect::<Vec<_>>(), "wrong": wrong.collect::<Vec<_>>() })
}

fn text(credentials: &Credentials, now_s: i64) -> String {
    let mut lines = Vec::new();
    for credential in &credentials.usable {
        let (name, subject) = (&credential.name, output::printable(&credential.subject));
        lines.push(format!("{name}: {subject}, until {}: {}", until(credential), left(credential, now_s).0));
    }
    for wrong in &credentials.wrong {
        let name = if wrong.name.is_empty() { "the folder of the credentials" } else { &wrong.name };
        lines.push(format!("{}: cannot be used: {}", output::printable(name), output::printable(&wrong.why)));
    }
    if lines.is_empty() {
        lines.push(
            "no credential is there: put NAME.pem into the folder of the credentials (README.md, \"TLS\")"
                .to_owned(),
        );
    }
    lines.join("\n")
}
