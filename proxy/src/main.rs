//! The shunt binary.

use std::process::ExitCode;

use clap::Parser;
use shunt::cli::Cli;
use shunt::config::arguments;
use tikv_jemallocator::Jemalloc;

/// Small things lie among their like, so that what the first sync has needed for a moment leaves whole pages free, and
/// those go back to the kernel (`.cargo/config.toml`). The C library keeps them: 3 MB at 100,000 endpoints, 5 after a
/// restart.
#[global_allocator]
static HEAP: Jemalloc = Jemalloc;

fn main() -> ExitCode {
    shunt::demo::end_with_demo();
    match Cli::parse_from(arguments(std::env::args_os())).command.execute() {
        Ok(()) => ExitCode::SUCCESS,
        Err(failure) => {
            eprintln!("shunt: {failure}");
            failure.code()
        }
    }
}
