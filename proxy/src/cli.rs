//! The command line.

use std::net::SocketAddr;
use std::path::PathBuf;

use clap::{ArgAction, Args, Parser, Subcommand, ValueEnum};

use crate::ask::PolicyCommand;
use crate::config::{self, Effective, GoDuration, KubeProxyArgs, PlanArgs, boolean};
use crate::demo::{self, DemoArgs};
use crate::explain::ExplainArgs;
use crate::failure::{EXIT_CODES, Failure};
use crate::{doctor, render, rivals, run, status};

/// A Kubernetes service proxy
#[derive(Parser, Clone, Debug)]
#[command(name = "shunt", version, about, after_help = EXIT_CODES, max_term_width = 100)]
pub struct Cli {
    /// What to do.
    #[command(subcommand)]
    pub command: Command,
}

/// What to do.
#[derive(Subcommand, Clone, Debug, PartialEq)]
pub enum Command {
    /// Watch Services and keep the kernel's rules as they ask
    Run(Box<RunArgs>),
    /// Print what would be done for a directory of manifests; needs neither a kernel nor root
    Render(RenderArgs),
    /// Show what the running daemon and the kernel hold
    Status(StatusArgs),
    /// Tell where the packets of a connection go, and why
    Explain(Box<ExplainArgs>),
    /// Ask what policy says of connections; needs neither a kernel nor root
    #[command(subcommand)]
    Policy(PolicyCommand),
    /// Remove all that shunt has installed, and nothing else
    Cleanup,
    /// Look for what on this machine keeps Services from working; changes nothing
    Doctor(DoctorArgs),
    /// Look at a configuration file
    #[command(subcommand)]
    Config(ConfigCommand),
    /// Show the main job in network namespaces of its own; needs neither a cluster nor root
    Demo(DemoArgs),
    /// Print the version
    Version,
}

/// The flags of `shunt run`: kube-proxy's, and below them our own.
#[derive(Args, Clone, Debug, Default, PartialEq)]
#[command(after_help = EXIT_CODES, args_override_self = true)]
pub struct RunArgs {
    /// kube-proxy's configuration file; then its flags are ignored, but those of logging,
    /// --hostname-override and --master
    #[arg(long, value_name = "FILE", conflicts_with = "manifests")]
    pub config: Option<PathBuf>,
    /// Write the configuration, with what flags and defaults make of it, to this file, and end
    #[arg(long, value_name = "FILE")]
    pub write_config_to: Option<PathBuf>,
    /// Remove all that shunt has installed, and end; the same as `shunt cleanup`
    #[arg(long, value_name = "BOOL", action = ArgAction::Set, num_args = 0..=1, require_equals = true, default_missing_value = "true", default_value = "false", hide_default_value = true, value_parser = boolean)]
    pub cleanup: bool,
    /// Only set what needs more privileges than CAP_NET_ADMIN, and end
    #[arg(long, value_name = "BOOL", action = ArgAction::Set, num_args = 0..=1, require_equals = true, default_missing_value = "true", default_value = "false", hide_default_value = true, value_parser = boolean)]
    pub init_only: bool,
    /// kube-proxy's flags.
    #[command(flatten)]
    pub kube_proxy: KubeProxyArgs,
    /// Our own flags.
    #[command(flatten)]
    pub own: OwnArgs,
}

/// The flags that kube-proxy does not have. They count beside `--config` too.
#[derive(Args, Clone, Debug, Default, PartialEq)]
#[command(next_help_heading = "Options of shunt's own")]
pub struct OwnArgs {
    /// Take the objects from this directory of manifests, and follow its changes
    #[arg(long, value_name = "DIR", conflicts_with = "kubeconfig")]
    pub manifests: Option<PathBuf>,
    /// Whether to claim our nftables table, so that no one else can change it (kernel 6.9)
    /// [default: auto]
    #[arg(long, value_enum)]
    pub table_owner: Option<TableOwner>,
    /// Whether NetworkPolicies are enforced on this node [default: auto]
    #[arg(long, value_enum)]
    pub network_policy: Option<NetworkPolicy>,
    /// Log what network policy drops, with the names of pods and policies [default: true]
    #[arg(long, value_name = "BOOL", action = ArgAction::Set, num_args = 0..=1, require_equals = true, default_missing_value = "true", value_parser = boolean)]
    pub policy_log: Option<bool>,
    /// Count in the kernel which connections each policy accepts and denies [default: false]
    #[arg(long, value_name = "BOOL", action = ArgAction::Set, num_args = 0..=1, require_equals = true, default_missing_value = "true", value_parser = boolean)]
    pub policy_counters: Option<bool>,
    /// DNS servers whose answers tell policy which addresses a domain name has, beside the cluster's and this node's own
    #[arg(long, value_name = "IP,...", value_delimiter = ',')]
    pub dns_servers: Option<Vec<String>>,
    /// How much longer than such an answer says an address has the name [default: 30s]
    #[arg(long, value_name = "DURATION")]
    pub dns_grace: Option<GoDuration>,
    /// What may reach an address of this node's pods whose pod is not known yet [default: open]
    #[arg(long, value_enum)]
    pub new_pods: Option<NewPods>,
    /// The NRI socket of the container runtime, which lets new pods start when their policies are in force; empty: not
    /// used [default: /var/run/nri/nri.sock]
    #[arg(long, value_name = "PATH")]
    pub nri_socket: Option<String>,
    /// What becomes of live connections that a changed policy does not allow [default: cut]
    #[arg(long, value_enum)]
    pub live_connections: Option<LiveConnections>,
    /// Whether netfilter is made to see what is switched between pods on a bridge, where `br_netfilter` is there
    /// [default: auto]
    #[arg(long, value_enum)]
    pub bridge_netfilter: Option<BridgeNetfilter>,
    /// Masquerade connections to Services that go back to the link they came from, where the reply would not come back
    /// through this node: bridges that netfilter does not see, macvlan and ipvlan pods [default: true]
    #[arg(long, value_name = "BOOL", action = ArgAction::Set, num_args = 0..=1, require_equals = true, default_missing_value = "true", value_parser = boolean)]
    pub masquerade_same_link: Option<bool>,
    /// What to do where the kernel lacks what IPVS mode needs: end, or serve with nftables
    /// [default: exit]
    #[arg(long, value_enum)]
    pub ipvs_fallback: Option<IpvsFallback>,
    /// How often all that is installed is compared with the plan; 0: never [default: 15m]
    #[arg(long, value_name = "DURATION")]
    pub verify_interval: Option<GoDuration>,
    /// Serve Services' externalIPs [default: true]
    #[arg(long, value_name = "BOOL", action = ArgAction::Set, num_args = 0..=1, require_equals = true, default_missing_value = "true", value_parser = boolean)]
    pub external_ips: Option<bool>,
    /// Forget TCP connections to endpoints that no longer exist: the client's next packet is
    /// answered by a reset, where it would wait until it gives up [default: false]
    #[arg(long, value_name = "BOOL", action = ArgAction::Set, num_args = 0..=1, require_equals = true, default_missing_value = "true", value_parser = boolean)]
    pub reset_tcp: Option<bool>,
    /// Count new connections in the kernel: to frontends, and also those that each endpoint gets
    /// [default: off]
    #[arg(long, value_enum)]
    pub counters: Option<Counters>,
    /// Export what is counted of each frontend and endpoint on /metrics [default: false]
    #[arg(long, value_name = "BOOL", action = ArgAction::Set, num_args = 0..=1, require_equals = true, default_missing_value = "true", value_parser = boolean)]
    pub service_metrics: Option<bool>,
    /// error, warn, info, debug, trace, or directives such as info,shunt::event_loop=debug
    #[arg(long, value_name = "LEVEL", conflicts_with = "verbosity")]
    pub log_level: Option<String>,
}

impl RunArgs {
    /// What file and flags come to, and remarks on the file for the log.
    ///
    /// # Errors
    /// If the file cannot be read, or something in it or in the flags is invalid.
    pub fn effective(&self) -> Result<(Effective, Vec<String>), Failure> {
        let (mut made, remarks) = match &self.config {
            None => (self.kube_proxy.configuration(), Vec::new()),
            Some(path) => {
                let loaded = config::load::file(path).map_err(Failure::Usage)?;
                let (mut made, mut remarks) = (loaded.configuration, loaded.remarks);
                self.kube_proxy.apply_beside_file(&mut made);
                if self.kube_proxy.has_ignored() {
                    remarks.push("--config is given: kube-proxy's other flags are ignored".into());
                }
                (made, remarks)
            }
        };
        let shunt = &mut made.shunt;
        if let Some(owner) = self.own.table_owner {
            shunt.table_owner = owner.to_possible_value().map(|value| value.get_name().to_owned());
        }
        if let Some(policy) = self.own.network_policy {
            shunt.network_policy =
                policy.to_possible_value().map(|value| value.get_name().to_owned());
        }
        if let Some(fallback) = self.own.ipvs_fallback {
            shunt.ipvs_fallback =
                fallback.to_possible_value().map(|value| value.get_name().to_owned());
        }
        shunt.dns_servers = self.own.dns_servers.clone().or_else(|| shunt.dns_servers.take());
        shunt.dns_grace = self.own.dns_grace.or(shunt.dns_grace);
        shunt.nri_socket = self.own.nri_socket.clone().or_else(|| shunt.nri_socket.take());
        shunt.policy_counters = self.own.policy_counters.or(shunt.policy_counters);
        shunt.policy_log = self.own.policy_log.or(shunt.policy_log);
        let word = |value: clap::builder::PossibleValue| value.get_name().to_owned();
        if let Some(mode) = self.own.new_pods {
            shunt.new_pods = mode.to_possible_value().map(word);
        }
        if let Some(mode) = self.own.live_connections {
            shunt.live_connections = mode.to_possible_value().map(word);
        }
        if let Some(mode) = self.own.bridge_netfilter {
            shunt.bridge_netfilter = mode.to_possible_value().map(word);
        }
        if let Some(counters) = self.own.counters {
            shunt.counters = counters.to_possible_value().map(word);
        }
        shunt.masquerade_same_link = self.own.masquerade_same_link.or(shunt.masquerade_same_link);
        shunt.service_metrics = self.own.service_metrics.or(shunt.service_metrics);
        shunt.verify_interval = self.own.verify_interval.or(shunt.verify_interval);
        shunt.external_ips = self.own.external_ips.or(shunt.external_ips);
        shunt.reset_tcp = self.own.reset_tcp.or(shunt.reset_tcp);
        shunt.log_level = self.own.log_level.clone().or_else(|| shunt.log_level.take());
        Ok((Effective::new(made)?, remarks))
    }
}

/// Whether NetworkPolicies are enforced.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, ValueEnum)]
pub enum NetworkPolicy {
    /// Where there are any.
    #[default]
    Auto,
    /// Drop nothing: count and log what would be dropped.
    Audit,
    /// Never: another one does.
    Off,
}

/// What may reach an address of this node's pods whose pod is not known yet.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, ValueEnum)]
pub enum NewPods {
    /// Everyone.
    #[default]
    Open,
    /// Only the node itself, while a policy is in force.
    Closed,
}

/// What becomes of live connections that a changed policy does not allow.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, ValueEnum)]
pub enum LiveConnections {
    /// Their packets are dropped.
    #[default]
    Cut,
    /// They go on.
    Keep,
}

/// Whether netfilter is made to see what is switched between pods on a bridge.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, ValueEnum)]
pub enum BridgeNetfilter {
    /// On each bridge with veth ports, by an attribute of its own; no module is loaded.
    #[default]
    Auto,
    /// Bridges and sysctls are left as they are.
    Off,
}

/// What to do where the kernel lacks what IPVS mode needs.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, ValueEnum)]
pub enum IpvsFallback {
    /// End with what is missing, and how to get it.
    #[default]
    Exit,
    /// Serve with nftables, and report it as a problem.
    Nftables,
}

/// What is counted in the kernel.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, ValueEnum)]
pub enum Counters {
    /// Nothing; IPVS counts what it forwards in any case.
    #[default]
    Off,
    /// New connections to each frontend.
    Frontends,
    /// The same, and those that each endpoint of each frontend gets.
    Endpoints,
}

/// Whether to claim the table.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, ValueEnum)]
pub enum TableOwner {
    /// Where the kernel can.
    #[default]
    Auto,
    /// Never.
    Off,
}

/// The flags of `shunt doctor`.
#[derive(Args, Clone, Copy, Debug, PartialEq, Eq)]
#[command(after_help = EXIT_CODES)]
pub struct DoctorArgs {
    /// How to print it
    #[arg(short, long, value_enum, default_value_t = Output::Table)]
    pub output: Output,
}

/// What to do with a configuration file.
#[derive(Subcommand, Clone, Debug, PartialEq, Eq)]
pub enum ConfigCommand {
    /// Tell what a KubeProxyConfiguration would do, without doing it
    Check {
        /// The file
        #[arg(value_name = "FILE")]
        file: PathBuf,
    },
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
    /// The same for network policy; empty if no pod of the node is isolated.
    Policy,
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
            Self::Explain(args) => args.execute(),
            Self::Policy(asked) => asked.execute(),
            Self::Cleanup => rivals::cleanup(),
            Self::Doctor(args) => doctor::doctor(args),
            Self::Config(ConfigCommand::Check { file }) => config::check::check(file),
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
