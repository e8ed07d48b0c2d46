//! The shunt binary.

use std::ffi::OsString;
use std::path::Path;
use std::process::ExitCode;

use clap::Parser;
use shunt::cli::Cli;
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

/// The command line. Under kube-proxy's name we are called as kube-proxy is: with its flags alone.
fn arguments(given: impl Iterator<Item = OsString>) -> Vec<OsString> {
    let mut arguments: Vec<_> = given.collect();
    let name = arguments.first().map(Path::new).and_then(Path::file_name);
    if name.is_some_and(|name| name == "kube-proxy") {
        arguments.insert(1, "run".into());
    }
    arguments
}
