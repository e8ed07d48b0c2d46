//! The fourth part of `make bench`: shunt's IPVS mode beside kube-proxy's, and beside the bare requests, in the guest
//! kernel, in one run.
//!
//! No time is too long for it, as machines differ: what fails is a change for which the kernel was read.

mod bare;
mod inside;
mod section;
mod world;

use std::env;
use std::path::PathBuf;
use std::process::{Command, ExitCode};
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use clap::Parser;
use shunt_guest::Guest;
use shunt_kind_tests::benchmark;
use shunt_kind_tests::scenario::shunt_binary_or;

use inside::{Effort, Results};

/// The longest that all of it may take.
const PATIENCE: Duration = Duration::from_mins(40);
/// The guest's memory in MiB, twice of what is needed at 10,000.
const MEMORY: u32 = 3072;

/// Measure shunt's IPVS mode beside kube-proxy's, in a guest kernel
#[derive(Parser, Clone, Debug)]
#[command(name = "ipvs", max_term_width = 100)]
struct Arguments {
    /// How many Services of five endpoints each [default: 10000]
    #[arg(long, value_name = "N")]
    services: Option<usize>,
    /// 1,000 Services and fewer changes
    #[arg(long)]
    quick: bool,
    /// Measure shunt alone: at 10,000 kube-proxy takes the ten minutes that it has
    #[arg(long)]
    skip_kube_proxy: bool,
    /// The release binary of shunt [default: what this checkout builds]
    #[arg(long, value_name = "FILE")]
    shunt: Option<PathBuf>,
    /// Write the figures into docs/benchmarks.md
    #[arg(long)]
    write_docs: bool,
    /// This is the guest: measure, and print the figures as JSON
    #[arg(long, hide = true)]
    inside: bool,
}

fn main() -> ExitCode {
    benchmark::end("ipvs", run(&Arguments::parse()))
}

fn run(arguments: &Arguments) -> Result<()> {
    let shunt = shunt_binary_or(arguments.shunt.as_deref())?;
    let usual = if arguments.quick { 1000 } else { 10_000 };
    let services = arguments.services.unwrap_or(usual);
    if arguments.inside {
        let changes = if arguments.quick { 100 } else { 500 };
        let effort = Effort { services, changes, with_kube_proxy: !arguments.skip_kube_proxy };
        let results = inside::measure(&shunt, effort)?;
        println!("{}", serde_json::to_string(&results)?);
        return Ok(());
    }
    let mut command = Command::new(env::current_exe()?);
    command.args(["--inside", "--services", &services.to_string(), "--shunt"]).arg(&shunt);
    let flags = [("--quick", arguments.quick), ("--skip-kube-proxy", arguments.skip_kube_proxy)];
    command.args(flags.into_iter().filter_map(|(flag, given)| given.then_some(flag)));
    eprintln!("ipvs: {services} virtual servers in the guest");
    let outcome = Guest::builder().memory(MEMORY).timeout(PATIENCE).run(&command)?;
    ensure!(outcome.code == 0, "in the guest:\n{}{}", outcome.stdout, outcome.stderr);
    eprint!("{}", outcome.stderr);
    let line = outcome.stdout.lines().last().context("the guest printed nothing")?;
    finish(arguments, &serde_json::from_str(line).with_context(|| line.to_owned())?)
}

fn finish(arguments: &Arguments, results: &Results) -> Result<()> {
    let section = section::of(results);
    print!("{section}");
    // The page has a place for each of the usual sizes.
    let name = format!("ipvs-{}", results.services);
    benchmark::save(&name, results)?;
    ensure!(results.shunt.changes_that_read == 0, "the kernel was read for a change");
    if arguments.write_docs {
        benchmark::publish(&name, &section)?;
    }
    Ok(())
}
