//! The last part of `make bench`: what a Service costs on each network, as a share of the throughput between the same
//! pods without it.

use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use clap::Parser;
use shunt_cluster::Network;
use shunt_kind_tests::benchmark;
use shunt_kind_tests::overlay::{Throughput, measure};
use shunt_kind_tests::scenario::shunt_binary_or;

/// What a Service may leave of the throughput at least.
const GOAL: f64 = 0.97;

/// Measure the throughput through a Service on each network of this kernel
#[derive(Parser, Clone, Debug)]
#[command(name = "overlay", max_term_width = 100)]
struct Arguments {
    /// Networks by name [default: all that this kernel has]
    #[arg(long, value_name = "NAME,...", value_delimiter = ',')]
    networks: Vec<String>,
    /// Pairs of samples
    #[arg(long, value_name = "N", default_value_t = 31)]
    pairs: usize,
    /// How long a sample takes
    #[arg(long, value_name = "MILLISECONDS", default_value_t = 300)]
    each: u64,
    /// Nine pairs
    #[arg(long)]
    quick: bool,
    /// The release binary of shunt [default: what this checkout builds]
    #[arg(long, value_name = "FILE")]
    shunt: Option<PathBuf>,
    /// Write the figures into docs/benchmarks.md
    #[arg(long)]
    write_docs: bool,
}

fn main() -> ExitCode {
    benchmark::end("overlay", run(&Arguments::parse()))
}

fn run(arguments: &Arguments) -> Result<()> {
    ensure!(nix::unistd::geteuid().is_root(), "namespaces and nftables take root");
    let shunt = shunt_binary_or(arguments.shunt.as_deref())?;
    let mut networks = Vec::new();
    for name in &arguments.networks {
        networks.push(Network::named(name).with_context(|| format!("no network is named {name}"))?);
    }
    if networks.is_empty() {
        let by_itself = |network: &Network| !network.takes_daemons() && network.is_possible_here();
        networks.extend(Network::ALL.into_iter().filter(by_itself));
    }
    let pairs = if arguments.quick { 9 } else { arguments.pairs };
    let mut results = Vec::new();
    for network in networks {
        eprintln!("overlay: {}", network.name());
        let measured = measure(network, &shunt, pairs, Duration::from_millis(arguments.each));
        results.push(measured.with_context(|| network.name())?);
    }
    finish(arguments, &results)
}

fn finish(arguments: &Arguments, results: &[Throughput]) -> Result<()> {
    let section = section(results);
    print!("{section}");
    benchmark::save("overlay", results)?;
    if arguments.write_docs {
        benchmark::publish("overlay", &section)?;
    }
    Ok(())
}

/// The section of the page.
fn section(results: &[Throughput]) -> String {
    let mut out = String::from(
        "| network | straight, Gbit/s | through a ClusterIP | ratio | |\n|---|---:|---:|---:|---|\n",
    );
    for Throughput { network, direct, service, ratio } in results {
        let verdict = if *ratio >= GOAL { "met" } else { "MISSED" };
        out += &format!(
            "| `{network}` | {direct:.2} | {service:.2} | {ratio:.3} | goal {GOAL}: {verdict} |\n"
        );
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_goal_is_about_the_ratio() {
        let of = |ratio| Throughput { network: "ptp".into(), direct: 10.0, service: 9.9, ratio };
        assert!(
            section(&[of(0.97)]).ends_with("| `ptp` | 10.00 | 9.90 | 0.970 | goal 0.97: met |\n")
        );
        assert!(section(&[of(0.969)]).contains("MISSED"));
    }
}
