//! The command line.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

use clap::{Args, Parser, Subcommand, ValueEnum};

use crate::demo::{self, DemoArgs};
use crate::failure::{EXIT_CODES, Failure};
use crate::logging::LogArgs;
use crate::settings::{Bind, PlanArgs, duration, healthz_bind, metrics_bind};
use crate::{render, run, status};

/// A Kubernetes service proxy
#[derive(Parser, Clone, Debug)]
#[command(name = "shunt", version, about, after_help = EXIT_CODES, max_term_width = 100)]
pub struct Cli {
    /// What to do.
    #[command(subcommand)]
    pub command: Command,
}

/// What to do.
#[derive(Subcommand, Clone, Debug, PartialEq, Eq)]
pub enum Command {
    /// Watch Services and keep the kernel's rules as they ask
    Run(RunArgs),
    /// Print what would be done for a directory of manifests; needs neither a kernel nor root
    Render(RenderArgs),
    /// Show what the running daemon and the kernel hold
    Status(StatusArgs),
    /// Show the main job in network namespaces of its own; needs neither a cluster nor root
    Demo(DemoArgs),
    /// Print the version
    Version,
}

/// The flags of `shunt run`.
#[derive(Args, Clone, Debug, PartialEq, Eq)]
#[command(after_help = EXIT_CODES)]
pub struct RunArgs {
    /// How to reach the API server [default: as a pod, by its service account]
    #[arg(long, value_name = "FILE", conflicts_with = "manifests")]
    pub kubeconfig: Option<PathBuf>,
    /// Take the objects from this directory of manifests, and follow its changes
    #[arg(long, value_name = "DIR")]
    pub manifests: Option<PathBuf>,
    /// What decides about the plan.
    #[command(flatten)]
    pub plan: PlanArgs,
    /// Where /metrics, /status and /proxyMode are served; empty: nowhere
    #[arg(long, value_name = "IP:PORT", value_parser = metrics_bind, default_value = "127.0.0.1:10249")]
    pub metrics_bind_address: Bind,
    /// Where /healthz and /livez are served; empty: nowhere
    #[arg(long, value_name = "IP:PORT", value_parser = healthz_bind, default_value = "0.0.0.0:10256")]
    pub healthz_bind_address: Bind,
    /// Whether to claim our nftables table, so that no one else can change it (kernel 6.9)
    #[arg(long, value_enum, default_value_t = TableOwner::Auto)]
    pub table_owner: TableOwner,
    /// How often all that is installed is compared with the plan; 0: never
    #[arg(long, value_name = "DURATION", value_parser = duration, default_value = "15m")]
    pub verify_interval: Duration,
    /// What is logged.
    #[command(flatten)]
    pub log: LogArgs,
}

/// Whether to claim the table.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum TableOwner {
    /// Where the kernel can.
    Auto,
    /// Never.
    Off,
}

/// The flags of `shunt render`.
#[derive(Args, Clone, Debug, PartialEq, Eq)]
#[command(after_help = EXIT_CODES)]
pub struct RenderArgs {
    /// The directory of manifests
    #[arg(long, value_name = "DIR")]
    pub manifests: PathBuf,
    /// Which stage to print
    #[arg(long, value_enum)]
    pub stage: Stage,
    /// What decides about the plan.
    #[command(flatten)]
    pub plan: PlanArgs,
}

/// The printable stages.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Stage {
    /// The objects, as they were understood.
    Snapshot,
    /// What the node does with packets.
    Plan,
    /// A script for `nft -f`.
    Nft,
}

/// The flags of `shunt status`.
#[derive(Args, Clone, Debug, PartialEq, Eq)]
#[command(after_help = EXIT_CODES)]
pub struct StatusArgs {
    /// The daemon's --metrics-bind-address
    #[arg(long, value_name = "IP:PORT", default_value = "127.0.0.1:10249")]
    pub address: SocketAddr,
    /// How to print it
    #[arg(short, long, value_enum, default_value_t = Output::Table)]
    pub output: Output,
}

/// How to print.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Output {
    /// Aligned columns.
    Table,
    /// The same with the endpoints and the masquerading.
    Wide,
    /// For programs.
    Json,
}

impl Command {
    /// Does it.
    ///
    /// # Errors
    /// If it cannot be done; the failure says what the shell gets.
    pub fn execute(&self) -> Result<(), Failure> {
        match self {
            Self::Run(args) => run::run(args),
            Self::Render(args) => render::render(args),
            Self::Status(args) => status::show::show(args),
            Self::Demo(args) => demo::demo(args),
            Self::Version => print(&format!("shunt {}\n", env!("CARGO_PKG_VERSION"))),
        }
    }
}

/// Writes to standard output. A reader that has seen enough (`| head`) is no failure.
///
/// # Errors
/// If it cannot be written.
pub fn print(text: &str) -> Result<(), Failure> {
    use std::io::Write;
    let mut out = std::io::stdout().lock();
    match out.write_all(text.as_bytes()).and_then(|()| out.flush()) {
        Err(error) if error.kind() != std::io::ErrorKind::BrokenPipe => Err(error.into()),
        _ => Ok(()),
    }
}

#[cfg(test)]
mod tests;
