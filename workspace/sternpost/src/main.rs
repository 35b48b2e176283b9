//! `sternpost`: the one executable of the switch. A command for people, or a role that the supervisor starts.
//!
//! Exit status: 0 all is well, 1 a problem was found or something failed, 2 the command line was wrong.
//! Not here: what a role does (`sternpost-store`, `-qmgr`, `-directory`, `-signer`, `-channels`). This is the edge, where an
//! error is printed, with its causes, once.
#![forbid(unsafe_code)]

mod ask;
mod bootstrap;
mod command;
mod logging;
mod output;
mod place;
mod profile;
mod role;
mod roles;
mod supervisor;

use clap::{Parser, Subcommand};
use std::os::fd::RawFd;
use std::path::PathBuf;
use std::process::ExitCode;

/// A message switch.
#[derive(Debug, Parser)]
#[command(
    name = "sternpost",
    version,
    about = "A message switch for the boundary between organisations",
    after_help = "Examples:\n  sternpost run --bootstrap /etc/sternpost/bootstrap.toml\n  sternpost check-config --tables tables.toml\n  sternpost status --json\n  sternpost queue list --limit 20\n\nExit status: 0 all is well, 1 a problem was found or something failed, 2 the command line was wrong."
)]
struct Arguments {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Run the switch until it is told to stop (SIGTERM or SIGINT)
    #[command(
        after_help = "Examples:\n  sternpost run --bootstrap /etc/sternpost/bootstrap.toml\n  STERNPOST_LOG=debug sternpost run --bootstrap ./bootstrap.toml"
    )]
    Run {
        /// The bootstrap: where the sockets, the log and the configuration are
        #[arg(long, value_name = "FILE")]
        bootstrap: PathBuf,
        /// What the executable before has left, in an upgrade
        #[arg(long, hide = true)]
        take_over: Option<RawFd>,
        /// Say whether it could be taken over, and end
        #[arg(long, hide = true, requires = "take_over")]
        check: bool,
    },
    /// Put the executable's file, as it is now, into force: a running switch takes it over without refusing a client
    Upgrade(command::upgrade::Arguments),
    /// Check tables without a switch, and say what is wrong with them
    CheckConfig(command::check_config::Arguments),
    /// Show the configuration in force, or confirm one that is held
    #[command(subcommand)]
    Config(command::config::Command),
    /// Show what runs, where it listens, and what waits
    Status(command::status::Arguments),
    /// Show the certificates that the switch has a private key for, and what is wrong with others
    Credentials(command::credentials::Arguments),
    /// Make what a user's password is checked by, of a password on standard input
    Verifier(command::verifier::Arguments),
    /// Say whether the switch is good: a probe of its own passes through every kind of channel
    Health(command::health::Arguments),
    /// Measure the disk and the machine, and derive the values that the switch works by
    SelfTest(command::self_test::Arguments),
    /// Look into the queue
    #[command(subcommand)]
    Queue(command::queue::Command),
    /// Write what the directory needs: the schema, an example tree
    #[command(subcommand)]
    Provision(command::provision::Command),
    /// Write the manual pages, of the commands and of the configuration
    Man(command::man::Arguments),
    /// What makes a machine the appliance: run by the units of the image
    #[command(subcommand, hide = true)]
    Device(command::device::Command),
    /// What the supervisor starts
    #[command(subcommand, hide = true)]
    Role(role::Role),
}

fn main() -> ExitCode {
    let result = match Arguments::parse().command {
        Command::Run { bootstrap, take_over: Some(number), check: true } => {
            supervisor::check(&bootstrap, number).map_err(Into::into).and_then(|sound| {
                output::print_json(&serde_json::to_value(sound)?);
                Ok(ExitCode::SUCCESS)
            })
        }
        Command::Run { bootstrap, take_over, .. } => {
            logging::start("supervisor");
            supervisor::run(&bootstrap, take_over).map(|()| ExitCode::SUCCESS).map_err(Into::into)
        }
        Command::Upgrade(arguments) => command::upgrade::run(&arguments),
        Command::CheckConfig(arguments) => command::check_config::run(&arguments),
        Command::Config(command) => command::config::run(&command),
        Command::Status(arguments) => command::status::run(&arguments),
        Command::Credentials(arguments) => command::credentials::run(&arguments),
        Command::Verifier(arguments) => command::verifier::run(&arguments),
        Command::Health(arguments) => command::health::run(&arguments),
        Command::SelfTest(arguments) => command::self_test::run(&arguments),
        Command::Queue(command) => command::queue::run(&command),
        Command::Provision(command) => command::provision::run(command),
        Command::Man(arguments) => command::man::run(&arguments),
        Command::Device(command) => command::device::run(&command),
        Command::Role(role) => role::run(role).map(|()| ExitCode::SUCCESS).map_err(|error| {
            // The supervisor reads it there, and says it to whoever asks.
            output::print(&output::chain(&error));
            error.into()
        }),
    };
    output::judged(result.unwrap_or_else(|error| {
        eprintln!("error: {}", output::chain(&error));
        ExitCode::FAILURE
    }))
}
