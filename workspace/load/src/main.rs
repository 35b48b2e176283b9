//! `sternpost-load`: the source, the sink, and the drivers of `make demo`, `make bench`, `make bench-queue` and
//! `make bench-peer`.
//!
//! Results go to standard output as JSON or as a table; progress and problems go to standard error. Exit status: 0 done
//! and well, 1 done but mail was lost or refused, 2 not done.
#![forbid(unsafe_code)]

mod command;

use clap::Parser as _;
use std::process::ExitCode;
use sternpost_message::chain;

fn main() -> ExitCode {
    match command::Command::parse().run() {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::from(1),
        Err(error) => {
            eprintln!("sternpost-load: {}", chain(&*error));
            ExitCode::from(2)
        }
    }
}
