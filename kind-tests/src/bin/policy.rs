//! The third part of `make bench`: what network policy costs packets, beside other layouts of rules, and what it costs
//! ourselves.

use std::fmt::Write as _;
use std::path::PathBuf;
use std::process::ExitCode;

use anyhow::{Result, ensure};
use clap::Parser;
use serde::Serialize;
use shunt_kind_tests::benchmark::{self, goal};
use shunt_kind_tests::policy::cost::{Cost, Pair, of_layout, of_shunt};
use shunt_kind_tests::policy::layout::Layout;
use shunt_kind_tests::policy::own::{self, Own, Times};
use shunt_kind_tests::policy::scene::Scene;
use shunt_kind_tests::scenario::shunt_binary_or;

/// Measure network policy
#[derive(Parser, Clone, Debug)]
#[command(name = "policy", max_term_width = 100)]
struct Arguments {
    /// How many policies there are
    #[arg(long, value_name = "N,...", value_delimiter = ',')]
    policies: Vec<usize>,
    /// How many pods the cluster has
    #[arg(long, value_name = "N")]
    pods: Option<usize>,
    /// 10 and 1,000 policies, 10,000 pods, few repetitions
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
    pods: usize,
    sizes: Vec<Size>,
}

/// What was found with so many policies.
#[derive(Clone, Debug, Serialize)]
struct Size {
    policies: usize,
    /// By the name of the rules.
    costs: Vec<(String, Cost)>,
    own: Own,
}

fn main() -> ExitCode {
    benchmark::end("policy", run(&Arguments::parse()))
}

fn run(arguments: &Arguments) -> Result<()> {
    ensure!(nix::unistd::geteuid().is_root(), "namespaces and nftables take root");
    let shunt = shunt_binary_or(arguments.shunt.as_deref())?;
    let (usual, pods, rounds, changes): (&[_], _, _, _) = match arguments.quick {
        true => (&[10, 1000], 10_000, 1000, 50),
        false => (&[10, 10_000], 100_000, 5000, 200),
    };
    let policies = if arguments.policies.is_empty() { usual } else { &arguments.policies };
    let mut results = Results { pods: arguments.pods.unwrap_or(pods), sizes: Vec::new() };
    for policies in policies {
        let scene = Scene { pods: results.pods, policies: *policies };
        eprintln!("policy: {policies} policies, {} pods: our own time", scene.pods);
        let own = own::measure(&scene, changes)?;
        eprintln!("policy: connections under shunt");
        let mut costs = vec![("shunt".to_owned(), of_shunt(&shunt, &scene, rounds)?)];
        for layout in Layout::ALL {
            eprintln!("policy: connections under a {layout}");
            costs.push((layout.to_string(), of_layout(layout, &scene, rounds)?));
        }
        results.sizes.push(Size { policies: *policies, costs, own });
    }
    finish(arguments, &results)
}

fn finish(arguments: &Arguments, results: &Results) -> Result<()> {
    let section = section(results);
    print!("{section}");
    benchmark::save("policy", results)?;
    if arguments.write_docs {
        benchmark::publish("policy", &section)?;
    }
    Ok(())
}

/// The section of the page.
fn section(results: &Results) -> String {
    let mut out = String::from("### A connection of an isolated pod\n\n");
    let _ = writeln!(
        out,
        "Medians in microseconds, from a pod to two pods of the same node in turn: one that no policy selects, and one that policies isolate, \
         of which the last lets the client in. {} pods in the cluster; every policy selects a pod of this node. _New_: `connect()`. \
         _Established_: a byte there and one back, by one thread that has both ends. The other layouts are loaded by `nft -f`.\n",
        results.pods
    );
    out.push_str("| policies | rules | new, no policy | new, isolated | times | established, no policy | isolated | times |\n");
    out.push_str("|---:|---|---:|---:|---|---:|---:|---|\n");
    for Size { policies, costs, .. } in &results.sizes {
        for (name, Cost { connect, exchange, .. }) in costs {
            let ratio = |ratio: f64, limit: f64| match name.as_str() {
                "shunt" => goal(ratio, limit),
                _ => format!("{ratio:.2}"),
            };
            let _ = writeln!(
                out,
                "| {policies} | {name} | {:.1} | {:.1} | {} | {:.2} | {:.2} | {} |",
                connect.plain,
                connect.isolated,
                ratio(connect.ratio(), 1.5),
                exchange.plain,
                exchange.isolated,
                ratio(exchange.ratio(), 1.03),
            );
        }
    }
    out.push('\n');
    for (Size { policies, .. }, pair) in judged(results) {
        let _ = writeln!(
            out,
            "Just after a change, while packets of live connections are judged too (`netpolicy/README.md`), \
             at {policies} policies: {:.2} and {:.2}, {:.2} times.",
            pair.plain,
            pair.isolated,
            pair.ratio()
        );
    }
    out.push_str("\n### Our own time for a change, and memory\n\n");
    out.push_str("From the text of the object to the kernel's answer, at this many policies and pods. _First_: all objects at once, converted already. ");
    out.push_str("Resident: the daemon that follows an API server with all of them.\n\n");
    out.push_str("| policies | first | pod elsewhere, of a known class | pod of this node | policy: another port | policy: new peers | resident |\n");
    out.push_str("|---:|---:|---|---|---|---|---|\n");
    for Size { policies, costs, own } in &results.sizes {
        let resident = costs.first().map_or(0, |(_, cost)| cost.resident);
        let megabytes = f64::from(u32::try_from(resident / 1000).unwrap_or(u32::MAX)) / 1e3;
        let _ = writeln!(
            out,
            "| {policies} | {:.0} ms | {} | {} | {} | {} | {} |",
            own.first_ms,
            times(&own.remote_pod, 1.0),
            times(&own.local_pod, 1.0),
            times(&own.known_peers, 50.0),
            times(&own.new_peers, 50.0),
            goal(megabytes, 100.0).replacen(',', " MB,", 1),
        );
    }
    out.push('\n');
    out
}

fn judged(results: &Results) -> impl Iterator<Item = (&Size, Pair)> {
    let of = |size: &'_ Size| size.costs.iter().find_map(|(_, cost)| cost.judged);
    results.sizes.iter().filter_map(move |size| Some((size, of(size)?)))
}

/// Both times in milliseconds, and whether the median meets its goal.
fn times(times: &Times, limit: f64) -> String {
    let verdict = if times.p50 / 1e3 <= limit { "met" } else { "MISSED" };
    format!(
        "p50 {:.2} ms, p99 {:.2} ms, goal {limit} ms: {verdict}",
        times.p50 / 1e3,
        times.p99 / 1e3
    )
}
