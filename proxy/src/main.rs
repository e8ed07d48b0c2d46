//! The shunt binary.

use std::process::ExitCode;

use clap::Parser;
use shunt::cli::Cli;

fn main() -> ExitCode {
    shunt::demo::end_with_demo();
    match Cli::parse().command.execute() {
        Ok(()) => ExitCode::SUCCESS,
        Err(failure) => {
            eprintln!("shunt: {failure}");
            failure.code()
        }
    }
}
