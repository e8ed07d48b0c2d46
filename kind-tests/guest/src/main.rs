//! `shunt-guest run -- COMMAND`: a command in a guest kernel, from a shell.

use std::path::PathBuf;
use std::process::{Command, ExitCode};
use std::time::Duration;

use anyhow::Result;
use clap::{Args, Parser};
use shunt_guest::{Guest, Kernel};

/// What we exit with when the guest failed, not the command.
const GUEST_FAILED: u8 = 125;

#[derive(Parser)]
#[command(about = "Runs commands in a guest kernel")]
enum Cli {
    /// Boots a guest, runs a command in it, and exits with the command's exit code (125: the guest failed).
    Run(Run),
}

#[derive(Args)]
struct Run {
    /// The kernel: um (user-mode Linux), or Debian's 6.1 or 5.10 in QEMU.
    #[arg(long, default_value = "um", value_parser = parse_kernel)]
    kernel: Kernel,
    /// Memory in MiB.
    #[arg(long, default_value_t = 2048)]
    memory: u32,
    /// The clock jumps to the next timer when nothing runs.
    #[arg(long)]
    time_travel: bool,
    /// Seconds after which the guest is killed.
    #[arg(long, default_value_t = 600)]
    timeout: u64,
    /// A directory where what the guest writes stays.
    #[arg(long, value_name = "DIR")]
    writable: Vec<PathBuf>,
    /// A variable of the command's environment.
    #[arg(long, value_name = "NAME=VALUE", value_parser = parse_variable)]
    env: Vec<(String, String)>,
    /// Program and arguments.
    #[arg(required = true, last = true)]
    command: Vec<String>,
}

fn parse_kernel(text: &str) -> Result<Kernel, String> {
    match text {
        "um" => Ok(Kernel::UserMode),
        "6.1" => Ok(Kernel::Debian6_1),
        "5.10" => Ok(Kernel::Debian5_10),
        _ => Err("um, 6.1 or 5.10 is expected".to_owned()),
    }
}

fn parse_variable(text: &str) -> Result<(String, String), String> {
    let (name, value) = text.split_once('=').ok_or("NAME=VALUE is expected")?;
    Ok((name.to_owned(), value.to_owned()))
}

fn run(run: Run) -> Result<i32> {
    let mut guest = Guest::builder().kernel(run.kernel).echo();
    guest = guest.memory(run.memory).timeout(Duration::from_secs(run.timeout));
    if run.time_travel {
        guest = guest.time_travel();
    }
    guest = run.writable.into_iter().fold(guest, Guest::writable);
    let mut command = Command::new(&run.command[0]);
    command.args(&run.command[1..]).envs(run.env);
    Ok(guest.run(&command)?.code)
}

fn main() -> ExitCode {
    let Cli::Run(arguments) = Cli::parse();
    match run(arguments) {
        Ok(code) => ExitCode::from(u8::try_from(code).unwrap_or(GUEST_FAILED)),
        Err(error) => {
            eprintln!("shunt-guest: {error:#}");
            ExitCode::from(GUEST_FAILED)
        }
    }
}
