//! `sternpost verifier`: reads a password and prints what it is checked by, for `sternpostUserVerifiers`.

use super::CommandResult;
use crate::output;
use rustix::termios::{LocalModes, OptionalActions, isatty, tcgetattr, tcsetattr};
use std::io::{self, BufRead, Read};
use std::process::ExitCode;
use sternpost_sasl::{Hash, Password, PreparationError, Verifier, VerifierError};

/// What is made.
#[derive(Debug, clap::Args)]
#[command(
    after_help = "The password is one line of standard input; on a terminal it is not shown. What is printed is a secret: with it the password can be guessed.\n\nExamples:\n  sternpost verifier\n  sternpost verifier --hash sha-512 < password.txt\n\nExit status: 0 it was printed, 1 the password cannot be used, 2 the command line was wrong."
)]
pub(crate) struct Arguments {
    /// The hash: the same for all users
    #[arg(long, value_enum, default_value = "sha-256")]
    hash: HashName,
    /// How often it is iterated: the same for all users, from 4096 to 100000
    #[arg(long, value_name = "NUMBER", default_value_t = sternpost_sasl::ITERATIONS_MIN, value_parser = clap::value_parser!(u32).range(4096..=100_000))]
    iterations: u32,
}

#[derive(Clone, Copy, Debug, clap::ValueEnum)]
enum HashName {
    #[value(name = "sha-256")]
    Sha256,
    #[value(name = "sha-512")]
    Sha512,
}

/// Why a password makes no verifier. Nothing of it is repeated.
#[derive(Debug, thiserror::Error)]
pub(crate) enum PasswordError {
    /// Standard input.
    #[error("the password cannot be read from standard input")]
    Read(#[source] io::Error),
    /// The password itself.
    #[error("the password cannot be used: give one line of UTF-8 without control characters")]
    Password(#[source] PreparationError),
    /// The verifier.
    #[error("no verifier could be made")]
    Verifier(#[source] VerifierError),
}

/// Reads and prints.
///
/// # Errors
/// `CommandError::Verifier`.
pub(crate) fn run(arguments: &Arguments) -> CommandResult {
    let line = read_line().map_err(PasswordError::Read)?;
    let password = Password::prepare_octets(&line).map_err(PasswordError::Password)?;
    let hash = match arguments.hash {
        HashName::Sha256 => Hash::Sha256,
        HashName::Sha512 => Hash::Sha512,
    };
    let verifier = Verifier::new(hash, arguments.iterations, &password).map_err(PasswordError::Verifier)?;
    output::print(&verifier.to_text());
    Ok(ExitCode::SUCCESS)
}

/// One line without its end, and one octet more than a password may have at most.
fn read_line() -> io::Result<Vec<u8>> {
    let stdin = io::stdin().lock();
    let shown = isatty(&stdin).then(|| tcgetattr(&stdin)).transpose()?;
    if let Some(shown) = &shown {
        let mut hidden = shown.clone();
        hidden.local_modes.remove(LocalModes::ECHO);
        tcsetattr(&stdin, OptionalActions::Flush, &hidden)?;
        eprint!("Password: ");
    }
    let mut line = Vec::new();
    let mut limited = stdin.take(Password::OCTETS_MAX as u64 + 3);
    let read = limited.read_until(b'\n', &mut line);
    if let Some(shown) = &shown {
        tcsetattr(io::stdin(), OptionalActions::Now, shown)?;
        eprintln!();
    }
    read?;
    if line.ends_with(b"\n") {
        line.pop();
    }
    if line.ends_with(b"\r") {
        line.pop();
    }
    Ok(line)
}
