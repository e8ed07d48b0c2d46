//! The last part of `make bench`: what a Service costs on each network, as a share of the throughput between the same
//! pods without it.

use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use clap::Parser;
use shunt_cluster::{Family, Network};
use shunt_kind_tests::benchmark;
use shunt_kind_tests::overlay::{Share, Throughput, measure};
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
    /// IPv6 in place of IPv4
    #[arg(long)]
    ipv6: bool,
    /// Sets of connections, one for each way
    #[arg(long, value_name = "N", default_value_t = 60)]
    sets: usize,
    /// How long a turn takes, about
    #[arg(long, value_name = "MILLISECONDS", default_value_t = 8)]
    each: u64,
    /// A quarter of the sets
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
    let sets = if arguments.quick { arguments.sets / 4 } else { arguments.sets };
    let family = if arguments.ipv6 { Family::V6 } else { Family::V4 };
    let each = Duration::from_millis(arguments.each);
    let mut results = Vec::new();
    for network in networks {
        eprintln!("overlay: {}", network.name());
        let measured = measure(network, family, &shunt, sets, each);
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
        "| network | straight, Gbit for a second of a processor | straight again | bare rule | ClusterIP | |\n\
         |---|---:|---:|---:|---:|---|\n",
    );
    for Throughput { network, straight, shares } in results {
        let [control, bare, service] = shares;
        let verdict = if service.median >= GOAL { "met" } else { "MISSED" };
        out += &format!("| `{network}` | {straight:.2} |");
        for Share { median, low, high } in [control, bare, service] {
            out += &format!(" {median:.3} ({low:.3} to {high:.3}) |");
        }
        out += &format!(" goal {GOAL}: {verdict} |\n");
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_goal_is_about_the_ratio() {
        let share = |median| Share { median, low: 0.96, high: 1.01 };
        let of = |ratio| Throughput {
            network: "ptp".into(),
            straight: 10.0,
            shares: [share(1.0), share(0.99), share(ratio)],
        };
        let row = "| `ptp` | 10.00 | 1.000 (0.960 to 1.010) | 0.990 (0.960 to 1.010) \
                   | 0.970 (0.960 to 1.010) | goal 0.97: met |\n";
        assert!(section(&[of(0.97)]).ends_with(row));
        assert!(section(&[of(0.969)]).contains("MISSED"));
    }
}
