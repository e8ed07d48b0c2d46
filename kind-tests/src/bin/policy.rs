//! The third part of `make bench`: what network policy costs packets, beside other layouts of rules, and what it costs
//! ourselves.

use std::fmt::Write as _;
use std::path::PathBuf;
use std::process::ExitCode;

use anyhow::{Result, ensure};
use clap::Parser;
use serde::Serialize;
use shunt_kind_tests::benchmark::{self, goal};
use shunt_kind_tests::policy::cost::{Choice, Chosen, Cost, Pair, of_choice, of_layout, of_shunt};
use shunt_kind_tests::policy::layout::Layout;
use shunt_kind_tests::policy::own::{self, Change, Own};
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
    /// By the flag.
    chosen: Vec<(String, Chosen)>,
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
        let mut chosen = Vec::new();
        for choice in Choice::ALL {
            let flag = choice.flag();
            eprintln!("policy: connections under shunt {flag}");
            chosen.push((flag.to_owned(), of_choice(&shunt, choice, &scene, rounds)?));
        }
        for layout in Layout::ALL {
            eprintln!("policy: connections under a {layout}");
            costs.push((layout.to_string(), of_layout(layout, &scene, rounds)?));
        }
        results.sizes.push(Size { policies: *policies, costs, chosen, own });
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
    choices(&mut out, results);
    own_times(&mut out, results);
    out
}

/// What counters and audits add.
fn choices(out: &mut String, results: &Results) {
    out.push_str("\n### A new connection with counters, and in an audit\n\n");
    out.push_str("As above, and beside _shunt_ there: how much more an isolated pod pays for a new connection. ");
    out.push_str("_Denied_: what an audit logs and lets pass.\n\n");
    out.push_str("| policies | flag | new, no policy | new, isolated | times | times without the flag | resident |\n");
    out.push_str("|---:|---|---:|---:|---|---:|---:|\n");
    for Size { policies, costs, chosen, .. } in &results.sizes {
        let plain = costs.first().map_or(f64::NAN, |(_, cost)| cost.connect.ratio());
        for (flag, Chosen { allowed, denied, resident }) in chosen {
            let mut row = |of: &str, pair: &Pair, resident: &str| {
                let _ = writeln!(
                    out,
                    "| {policies} | `{flag}`{of} | {:.1} | {:.1} | {} | {:.2} | {resident} |",
                    pair.plain,
                    pair.isolated,
                    goal(pair.ratio(), 1.5),
                    pair.ratio() / plain,
                );
            };
            row("", allowed, &format!("{:.2} MB", megabytes(*resident)));
            denied.iter().for_each(|denied| row(", denied", denied, ""));
        }
    }
}

fn own_times(out: &mut String, results: &Results) {
    out.push_str("\n### Our own time for a change, and memory\n\n");
    let _ = writeln!(
        out,
        "From the text of the object to the kernel's answer, with {} pods. _Everything_: all objects at once, converted already. \
         Resident: the daemon that follows an API server with all of them.\n",
        results.pods
    );
    out.push_str("| policies | change | p50 | p99 | goal of p50 |\n");
    out.push_str("|---:|---|---:|---:|---|\n");
    for Size { policies, costs, own, .. } in &results.sizes {
        let _ = writeln!(out, "| {policies} | everything | {:.0} ms | | |", own.first_ms);
        for Change { what, times, limit } in &own.changes {
            let (p50, p99) = (times.p50 / 1e3, times.p99 / 1e3);
            let verdict = if p50 <= *limit { "met" } else { "MISSED" };
            let _ = writeln!(
                out,
                "| {policies} | {what} | {p50:.2} ms | {p99:.2} ms | {limit} ms: {verdict} |"
            );
        }
        let resident = costs.first().map_or(0, |(_, cost)| cost.resident);
        let _ =
            writeln!(out, "| {policies} | resident | | | {} |", goal(megabytes(resident), 100.0));
    }
    out.push('\n');
}

fn megabytes(bytes: u64) -> f64 {
    f64::from(u32::try_from(bytes / 1000).unwrap_or(u32::MAX)) / 1e3
}

fn judged(results: &Results) -> impl Iterator<Item = (&Size, Pair)> {
    let of = |size: &'_ Size| size.costs.iter().find_map(|(_, cost)| cost.judged);
    results.sizes.iter().filter_map(move |size| Some((size, of(size)?)))
}
