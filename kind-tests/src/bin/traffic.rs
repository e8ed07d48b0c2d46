//! The second part of `make bench`: what a new connection costs, and whether scaling loses any; shunt beside kube-proxy
//! in nftables and in iptables mode, in one run.
//!
//! No time is too long for it, as machines differ: what fails is a connection of shunt's that is not served.

use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use clap::Parser;
use serde::Serialize;
use shunt_kind_tests::benchmark;
use shunt_kind_tests::kube_proxy::Mode;
use shunt_kind_tests::scenario::shunt_binary_or;
use shunt_kind_tests::traffic::Proxy;
use shunt_kind_tests::traffic::connect::{Medians, Way, measure};
use shunt_kind_tests::traffic::soak::{self, Report, Soak};

/// The longest that a proxy may take for its first sync.
const START: Duration = Duration::from_secs(600);
/// How many Services kube-proxy is measured with at most, unless asked for more: with 30,000 of them it takes many
/// minutes to start.
const MOST_OF_OTHERS: usize = 10_000;
/// The most that a connection may cost at the largest size, in what it costs at the smallest.
const GROWTH: f64 = 1.1;

/// Measure traffic through shunt beside kube-proxy
#[derive(Parser, Clone, Debug)]
#[command(name = "traffic", max_term_width = 100)]
struct Arguments {
    /// How many Services there are besides those that are asked
    #[arg(long, value_name = "N,...", value_delimiter = ',')]
    sizes: Vec<usize>,
    /// How long the soak takes for each proxy
    #[arg(long, value_name = "SECONDS")]
    soak: Option<u64>,
    /// Measure kube-proxy with this many Services at most
    #[arg(long, value_name = "N", default_value_t = MOST_OF_OTHERS)]
    others_up_to: usize,
    /// 10 and 1,000 Services, five seconds of soak
    #[arg(long)]
    quick: bool,
    /// The release binary of shunt [default: what this checkout builds]
    #[arg(long, value_name = "FILE")]
    shunt: Option<PathBuf>,
    /// Write the figures into docs/benchmarks.md
    #[arg(long)]
    write_docs: bool,
}

#[derive(Clone, Debug, Serialize)]
struct Results {
    connections: Vec<Size>,
    soak: Vec<(String, Report)>,
}

/// What was found with so many Services.
#[derive(Clone, Debug, Serialize)]
struct Size {
    services: usize,
    /// By the name of the proxy; none where it was not synced in time.
    proxies: Vec<(String, Option<Medians>)>,
}

fn main() -> ExitCode {
    benchmark::end("traffic", run(&Arguments::parse()))
}

fn run(arguments: &Arguments) -> Result<()> {
    ensure!(nix::unistd::geteuid().is_root(), "namespaces and nftables take root");
    let shunt = shunt_binary_or(arguments.shunt.as_deref())?;
    let modes = Mode::ALL.map(Proxy::KubeProxy);
    let proxies: Vec<_> = std::iter::once(Proxy::Shunt(shunt)).chain(modes).collect();
    let (sizes, rounds, seconds): (&[_], _, _) =
        if arguments.quick { (&[10, 1000], 1000, 5) } else { (&[10, 10_000, 30_000], 5000, 60) };
    let sizes = if arguments.sizes.is_empty() { sizes } else { &arguments.sizes };
    let duration = Duration::from_secs(arguments.soak.unwrap_or(seconds));
    let mut results = Results { connections: Vec::new(), soak: Vec::new() };
    for size in sizes {
        let one = |proxy: &Proxy| {
            eprintln!("traffic: new connections through {proxy}, {size} Services");
            let medians = measure(proxy, *size, rounds, START);
            if let Err(error) = &medians {
                eprintln!("traffic: {error:#}");
            }
            (proxy.to_string(), medians.ok())
        };
        let measured = proxies
            .iter()
            .filter(|p| matches!(p, Proxy::Shunt(_)) || *size <= arguments.others_up_to);
        results.connections.push(Size { services: *size, proxies: measured.map(one).collect() });
    }
    for proxy in &proxies {
        eprintln!("traffic: soak of {proxy}");
        let soak = Soak {
            services: 200,
            duration,
            fewest: (0, 0),
            every: Duration::from_millis(20),
            seed: 1,
        };
        results.soak.push((proxy.to_string(), soak::run(proxy, &soak)?));
    }
    finish(arguments, &results)
}

fn finish(arguments: &Arguments, results: &Results) -> Result<()> {
    let section = section(results);
    print!("{section}");
    benchmark::save("traffic", results)?;
    let (_, own) = results.soak.first().context("no soak")?;
    ensure!(own.failures() == 0, "connections that shunt did not serve: {own}");
    let measured = results.connections.iter().all(|size| size.proxies[0].1.is_some());
    ensure!(measured, "shunt was not measured at every size");
    if arguments.write_docs {
        benchmark::publish("traffic", &section)?;
    }
    Ok(())
}

/// The section of the page.
fn section(results: &Results) -> String {
    let mut out = String::from("### A new connection\n\n");
    out.push_str("Medians of `connect()` in microseconds, from a pod to a pod of the same node, all ways in turn in one run. ");
    out.push_str("_Direct_ goes straight to the pod and is tracked too. Each other way is compared with the one in brackets.\n\n");
    out.push_str("| Services | proxy | direct | ClusterIP (direct) | affinity (ClusterIP) | load balancer | source ranges (load balancer) | Local (ClusterIP) |\n");
    out.push_str("|---:|---|---:|---:|---:|---:|---:|---:|\n");
    for Size { services, proxies } in &results.connections {
        for (proxy, medians) in proxies {
            let cell = |way: Way| {
                medians
                    .as_ref()
                    .map_or_else(|| "-".to_owned(), |medians| figure(proxy, medians, way))
            };
            out.push_str(&format!(
                "| {services} | {proxy} | {} |\n",
                Way::ALL.map(cell).join(" | ")
            ));
        }
    }
    out.push_str(&growth(&results.connections));
    out.push_str("\n### Scaling under load\n\n");
    out.push_str("200 Services of 1 to 6 pods are scaled one after the other without a pause to speak of, while a pod opens connections to all of them. ");
    out.push_str("No pod ever stops to serve, so no connection need be lost. _Late_: answered by a pod that had left less than five seconds before, as the proxy did not know yet.\n\n");
    out.push_str("| proxy | changes | connections | refused | lost | misdirected | late | |\n|---|---:|---:|---:|---:|---:|---:|---|\n");
    for (proxy, report) in &results.soak {
        let goal = match (proxy.as_str(), report.failures()) {
            ("shunt", 0) => "goal 0: met",
            ("shunt", _) => "goal 0: MISSED",
            _ => "",
        };
        let Report { changes, connections, refused, lost, misdirected, late, .. } = report;
        out.push_str(&format!("| {proxy} | {changes} | {connections} | {refused} | {lost} | {misdirected} | {late} | {goal} |\n"));
    }
    out.push('\n');
    out
}

/// Whether a connection costs the same with few and with many Services: compared are not the times but how many times the
/// price of a direct connection in the same run they are.
fn growth(sizes: &[Size]) -> String {
    let of_shunt = |size: &Size| {
        let medians = size.proxies.first().and_then(|(_, medians)| medians.as_ref())?;
        Some((size.services, medians.ratio(Way::Plain)))
    };
    let (Some(first), Some(last)) =
        (sizes.first().and_then(of_shunt), sizes.last().and_then(of_shunt))
    else {
        return String::new();
    };
    let growth = last.1 / first.1;
    let verdict = if growth <= GROWTH { "met" } else { "MISSED" };
    format!(
        "\nThrough shunt a connection to a ClusterIP is {:.2} times a direct one with {} Services and {:.2} times with {}: \
         {growth:.2} times as dear, goal {GROWTH}: {verdict}.\n",
        first.1, first.0, last.1, last.0
    )
}

/// A median, its ratio, and for shunt whether that meets its goal.
fn figure(proxy: &str, medians: &Medians, way: Way) -> String {
    let (median, ratio) = (medians.of(way), medians.ratio(way));
    match way.goal() {
        Some(goal) if proxy == "shunt" => {
            let verdict = if ratio <= goal { "met" } else { "MISSED" };
            format!("{median:.1}, {ratio:.2} times, goal {goal}: {verdict}")
        }
        Some(_) => format!("{median:.1}, {ratio:.2} times"),
        None => format!("{median:.1}"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn goals_are_about_ratios_and_about_shunt() {
        let medians = Medians([10.0, 11.0, 13.0, 12.0, 12.0, 11.0]);
        assert_eq!(figure("shunt", &medians, Way::Plain), "11.0, 1.10 times, goal 1.2: met");
        assert_eq!(figure("shunt", &medians, Way::Affinity), "13.0, 1.18 times, goal 1.1: MISSED");
        assert_eq!(figure("kube-proxy-iptables", &medians, Way::Affinity), "13.0, 1.18 times");
        assert_eq!(figure("shunt", &medians, Way::Direct), "10.0");
    }

    #[test]
    fn growth_is_that_of_the_ratio() {
        let size = |services, plain| Size {
            services,
            proxies: vec![("shunt".to_owned(), Some(Medians([10.0, plain, 0.0, 0.0, 0.0, 0.0])))],
        };
        let said = growth(&[size(10, 11.0), size(30_000, 11.55)]);
        assert!(said.contains("1.05 times as dear, goal 1.1: met"), "{said}");
        assert!(growth(&[size(10, 11.0), size(30_000, 13.0)]).contains("MISSED"));
    }
}
