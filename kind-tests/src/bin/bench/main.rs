//! `make bench`: shunt beside the real kube-proxy, in one run, with the same objects on the same
//! API server.
//!
//! No time is too long for it, as machines differ: what fails is a wrong result.

mod figures;
mod kernel;
mod lister;
mod machine;
mod measure;
mod page;
mod picture;
mod proxy;
mod table;
mod world;

use std::fs;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::thread;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use clap::Parser;
use shunt_kind_tests::benchmark;
use tikv_jemallocator::Jemalloc;

use crate::figures::Results;
use crate::machine::{Machine, Versions};
use crate::measure::{Effort, Run, say};
use crate::world::{Size, World};

/// As shunt has it, for [`lister`].
#[global_allocator]
static HEAP: Jemalloc = Jemalloc;

/// Measure shunt beside kube-proxy
#[derive(Parser, Clone, Debug)]
#[command(name = "bench", max_term_width = 100)]
struct Arguments {
    /// Services x endpoints of each, in growing order [default: 1000x10,10000x10]
    #[arg(long, value_name = "NxM,...", value_delimiter = ',')]
    sizes: Vec<Size>,
    /// Few repetitions, and 1000x10 if no sizes are named: less than a minute
    #[arg(long)]
    quick: bool,
    /// Measure shunt alone
    #[arg(long)]
    skip_kube_proxy: bool,
    /// The release binary of shunt [default: what `make build` builds]
    #[arg(long, value_name = "FILE")]
    shunt: Option<PathBuf>,
    /// Write the figures into docs/benchmarks.md, and docs/benchmarks.svg
    #[arg(long)]
    write_docs: bool,
    /// Take the lists for this node and end: for the program itself
    #[arg(long, hide = true, value_name = "NODE", requires = "kubeconfig")]
    list_alone: Option<String>,
    /// The credentials for --list-alone
    #[arg(long, hide = true, value_name = "FILE")]
    kubeconfig: Option<PathBuf>,
}

fn main() -> ExitCode {
    let arguments = Arguments::parse();
    let done = match (&arguments.list_alone, &arguments.kubeconfig) {
        (Some(node), Some(kubeconfig)) => lister::run(kubeconfig, node),
        _ => bench(&arguments),
    };
    benchmark::end("bench", done)
}

fn bench(arguments: &Arguments) -> Result<()> {
    ensure!(nix::unistd::geteuid().is_root(), "namespaces and nftables take root");
    ensure!(arguments.sizes.is_sorted(), "--sizes must grow");
    let shunt = match &arguments.shunt {
        Some(path) => fs::canonicalize(path).with_context(|| path.display().to_string())?,
        None => world::shunt_binary()?,
    };
    let kube_proxy = world::built("kube-proxy")?;
    let mut results = Results {
        date: jiff::Zoned::now().strftime("%Y-%m-%d").to_string(),
        machine: Machine::look(),
        versions: Versions::ask(&shunt, Some(&kube_proxy))?,
        ..Results::default()
    };
    run(arguments, &shunt, &kube_proxy, &mut results)?;
    results.machine.load_after = machine::load();
    print!("{}", header(&results));
    print!("{}", table::terminal(&results));
    save(&results)?;
    for wrong in &results.wrong {
        eprintln!("bench: wrong: {wrong}");
    }
    ensure!(results.wrong.is_empty(), "there are wrong results; no page is written of them");
    if arguments.write_docs {
        page::write(&results)?;
    }
    Ok(())
}

fn run(
    arguments: &Arguments,
    shunt: &Path,
    kube_proxy: &Path,
    results: &mut Results,
) -> Result<()> {
    let effort = if arguments.quick { QUICK } else { THOROUGH };
    let mut sizes = arguments.sizes.clone();
    if sizes.is_empty() {
        let usual = if arguments.quick { &USUAL[..1] } else { &USUAL[..] };
        sizes.extend(usual);
    }
    say("starting the API server");
    let logs = benchmark::directory().join("logs");
    // Those of the run before are none of ours.
    let _ = fs::remove_dir_all(&logs);
    fs::create_dir_all(&logs)?;
    let mut world = World::build(sizes.len(), shunt, kube_proxy, &logs)?;
    for (index, size) in sizes.iter().enumerate() {
        say(&format!("creating {} Services with {} endpoints each", size.services, size.endpoints));
        let created_seconds = world.load(*size, sizes.len())?;
        // The API server tidies up after so many writes.
        thread::sleep(effort.settle);
        let run = Run {
            world: &world,
            index,
            size: *size,
            effort,
            with_kube_proxy: !arguments.skip_kube_proxy,
        };
        let mut result = run.measure(&mut results.wrong)?;
        result.created_seconds = created_seconds;
        results.sizes.push(result);
    }
    Ok(())
}

/// The sizes where none are named.
const USUAL: [Size; 2] =
    [Size { services: 1000, endpoints: 10 }, Size { services: 10_000, endpoints: 10 }];
const THOROUGH: Effort = Effort {
    settle: Duration::from_secs(10),
    starts: 5,
    changes: 120,
    kube_proxy_changes: Duration::from_secs(60),
    floors: 7,
};
const QUICK: Effort = Effort {
    settle: Duration::from_secs(1),
    starts: 3,
    changes: 20,
    kube_proxy_changes: Duration::from_secs(8),
    floors: 3,
};

fn header(results: &Results) -> String {
    let (machine, versions) = (&results.machine, &results.versions);
    format!(
        "\n{}, {} cores, {} GiB, Linux {}; load average {} before, {} after\n{} ({:.1} MB), kube-proxy {}, {}\n\n",
        machine.cpu,
        machine.cores,
        machine.memory_gib,
        machine.kernel,
        machine.load_before,
        machine.load_after,
        versions.shunt,
        versions.shunt_megabytes,
        versions.kube_proxy,
        versions.nft,
    )
}

/// Writes all figures to a file of this run and to one that always has the newest.
fn save(results: &Results) -> Result<()> {
    benchmark::save(&jiff::Zoned::now().strftime("%Y%m%d-%H%M%S").to_string(), results)?;
    benchmark::save("latest", results)?;
    say("all figures are in target/bench/latest.json, logs in target/bench/logs");
    Ok(())
}
