//! The last part of `make bench`: what a Service costs on each network, as a share of the throughput between the same
//! pods without it. With nftables on this kernel where it has the devices; all else in the guest.

use std::collections::BTreeMap;
use std::env;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode};
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use clap::Parser;
use shunt_cluster::{Family, Network};
use shunt_guest::Guest;
use shunt_kind_tests::benchmark;
use shunt_kind_tests::overlay::{Backend, Setting, Share, Throughput, measure};
use shunt_kind_tests::scenario::shunt_binary_or;

/// What a Service may leave of the throughput at least.
const GOAL: f64 = 0.97;
/// The longest that all of it may take in the guest.
const PATIENCE: Duration = Duration::from_mins(40);

/// Measure the throughput through a Service on each network
#[derive(Parser, Clone, Debug)]
#[command(name = "overlay", max_term_width = 100)]
struct Arguments {
    /// Networks by name [default: all that take no daemons]
    #[arg(long, value_name = "NAME,...", value_delimiter = ',')]
    networks: Vec<String>,
    /// Backends [default: both]
    #[arg(long, value_name = "NAME,...", value_delimiter = ',')]
    backends: Vec<Backend>,
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
    /// This is the guest: measure, and print the figures as JSON, a line for each network
    #[arg(long, hide = true)]
    inside: bool,
}

fn main() -> ExitCode {
    benchmark::end("overlay", run(&Arguments::parse()))
}

fn run(arguments: &Arguments) -> Result<()> {
    ensure!(nix::unistd::geteuid().is_root(), "namespaces and nftables take root");
    let shunt = shunt_binary_or(arguments.shunt.as_deref())?;
    let networks = networks(&arguments.networks)?;
    if arguments.inside {
        for backend in &arguments.backends {
            for figures in measure_all(arguments, &networks, *backend, &shunt)? {
                println!("{}", serde_json::to_string(&figures)?);
            }
        }
        return Ok(());
    }
    let (mut here, mut elsewhere) = (Vec::new(), Vec::new());
    let asked = |backend| arguments.backends.is_empty() || arguments.backends.contains(&backend);
    if asked(Backend::Nftables) {
        let possible = networks.iter().partition(|network| network.is_possible_here());
        let (natively, guest): (Vec<_>, Vec<_>) = possible;
        here = measure_all(arguments, &natively, Backend::Nftables, &shunt)?;
        elsewhere = measure_in_guest(arguments, &guest, Backend::Nftables, &shunt)?;
    }
    if asked(Backend::Ipvs) {
        elsewhere.extend(measure_in_guest(arguments, &networks, Backend::Ipvs, &shunt)?);
    }
    finish(arguments, &here, &elsewhere)
}

/// Those of these names, or all that can be built without daemons. The bare rule to compare with does not meet what pods
/// send as if their node had.
fn networks(names: &[String]) -> Result<Vec<Network>> {
    if names.is_empty() {
        let is_measured = |network: &Network| !network.takes_daemons() && !network.sends_as_node();
        return Ok(Network::ALL.into_iter().filter(is_measured).collect());
    }
    let named =
        |name: &String| Network::named(name).with_context(|| format!("no network is named {name}"));
    names.iter().map(named).collect()
}

fn measure_all(
    arguments: &Arguments,
    networks: &[Network],
    backend: Backend,
    shunt: &Path,
) -> Result<Vec<Throughput>> {
    let measure = |network: &Network| {
        eprintln!("overlay: {} with {backend}", network.name());
        let setting = Setting {
            network: *network,
            family: if arguments.ipv6 { Family::V6 } else { Family::V4 },
            backend,
            shunt,
            sets: if arguments.quick { arguments.sets / 4 } else { arguments.sets },
            each: Duration::from_millis(arguments.each),
            by_the_wall: arguments.inside,
        };
        measure(&setting).with_context(|| format!("{} with {backend}", network.name()))
    };
    networks.iter().map(measure).collect()
}

fn measure_in_guest(
    arguments: &Arguments,
    networks: &[Network],
    backend: Backend,
    shunt: &Path,
) -> Result<Vec<Throughput>> {
    if networks.is_empty() {
        return Ok(Vec::new());
    }
    let names: Vec<_> = networks.iter().map(|network| network.name()).collect();
    eprintln!("overlay: in the guest, with {backend}: {}", names.join(" "));
    let mut command = Command::new(env::current_exe()?);
    command.args(["--inside", "--networks", &names.join(","), "--backends", &backend.to_string()]);
    command.args(["--sets", &arguments.sets.to_string(), "--each", &arguments.each.to_string()]);
    let flags = [("--quick", arguments.quick), ("--ipv6", arguments.ipv6)];
    command.args(flags.into_iter().filter_map(|(flag, given)| given.then_some(flag)));
    let outcome = Guest::builder().timeout(PATIENCE).run(command.arg("--shunt").arg(shunt))?;
    ensure!(outcome.code == 0, "in the guest:\n{}{}", outcome.stdout, outcome.stderr);
    let figures = outcome.stdout.lines().map(serde_json::from_str);
    figures.collect::<Result<_, _>>().with_context(|| outcome.stdout.clone())
}

fn finish(arguments: &Arguments, here: &[Throughput], elsewhere: &[Throughput]) -> Result<()> {
    let section = section(here, elsewhere);
    print!("{section}");
    benchmark::save("overlay", &BTreeMap::from([("here", here), ("guest", elsewhere)]))?;
    if arguments.write_docs {
        benchmark::publish("overlay", &section)?;
    }
    Ok(())
}

/// The section of the page.
fn section(here: &[Throughput], elsewhere: &[Throughput]) -> String {
    let mut out = String::from(
        "| network | backend | kernel | straight, Gbit for a second of a processor | straight again | bare rule \
         | ClusterIP | |\n|---|---|---|---:|---:|---:|---:|---|\n",
    );
    for (kernel, all) in [("here", here), ("guest", elsewhere)] {
        for figures in all {
            out += &row(kernel, figures);
        }
    }
    out
}

fn row(kernel: &str, figures: &Throughput) -> String {
    let Throughput { network, backend, straight, .. } = figures;
    let mut row = format!("| `{network}` | {backend} | {kernel} | {straight:.2} |");
    for share in [figures.control, figures.bare_rule, figures.cluster_ip] {
        row += &format!(" {} |", text(share));
    }
    let measures = figures.control.low >= GOAL && figures.control.high <= 1.0 / GOAL;
    let verdict = |share: Share| match share.median >= GOAL {
        _ if !measures => "undecided, as the control differs by as much",
        true => "met",
        false => "MISSED",
    };
    row += &format!(" goal {GOAL}: {}", verdict(figures.cluster_ip));
    if let Some(share) = figures.of_through_node {
        row += &format!("; of the same way untranslated {}: {}", text(share), verdict(share));
    }
    row + " |\n"
}

fn text(Share { median, low, high }: Share) -> String {
    format!("{median:.3} ({low:.3} to {high:.3})")
}

#[cfg(test)]
mod tests {
    use super::*;

    const fn share(median: f64) -> Share {
        Share { median, low: 0.97, high: 1.01 }
    }

    fn figures(of_straight: f64) -> Throughput {
        Throughput {
            network: "macvlan".into(),
            backend: Backend::Ipvs,
            straight: 10.0,
            control: share(1.0),
            bare_rule: share(0.99),
            cluster_ip: share(of_straight),
            of_through_node: None,
        }
    }

    #[test]
    fn the_goal_is_about_the_ratio() {
        let row = "| `macvlan` | ipvs | guest | 10.00 | 1.000 (0.970 to 1.010) | 0.990 (0.970 to 1.010) \
                   | 0.970 (0.970 to 1.010) | goal 0.97: met |\n";
        assert!(section(&[], &[figures(0.97)]).ends_with(row));
        assert!(section(&[figures(0.969)], &[]).contains("MISSED"));
    }

    #[test]
    fn a_run_that_measures_badly_decides_nothing() {
        let control = Share { median: 1.0, low: 0.96, high: 1.01 };
        assert!(row("here", &Throughput { control, ..figures(0.98) }).contains("undecided"));
    }

    #[test]
    fn where_there_is_a_longer_way_it_is_told_besides() {
        let missed = Throughput { of_through_node: Some(share(0.98)), ..figures(0.75) };
        let verdict =
            "| goal 0.97: MISSED; of the same way untranslated 0.980 (0.970 to 1.010): met |\n";
        assert!(row("here", &missed).ends_with(verdict));
    }
}
