//! What a configuration comes to: all that the rest of the daemon knows of it.

use std::collections::BTreeSet;
use std::net::{IpAddr, SocketAddr};
use std::path::PathBuf;
use std::time::Duration;

use anyhow::anyhow;
use shunt_model::compile::Settings;

use super::kube_proxy::{Conntrack, KubeProxyConfiguration, Mode};
use super::notes::notes;
use super::own::{self, addresses, choice};
use super::validate::validate;
use crate::cli::{
    BridgeNetfilter, Counters, IpvsFallback, LiveConnections, NetworkPolicy, NewPods, TableOwner,
};
use crate::failure::Failure;
use crate::logging::{Format, LogArgs};
use crate::settings;

/// How often all that is installed is compared with the plan, if nothing else is said.
const VERIFY_INTERVAL: Duration = Duration::from_secs(900);
/// How much longer than DNS says an address has a name, if nothing else is said: clients keep answers a little longer.
const DNS_GRACE: Duration = Duration::from_secs(30);

/// Where containerd and CRI-O have their NRI, if nothing else is said (`DefaultSocketPath` of NRI's `pkg/api`).
const NRI_SOCKET: &str = "/var/run/nri/nri.sock";

/// The effective configuration.
#[derive(Clone, Debug, PartialEq)]
pub struct Effective {
    /// kube-proxy's mode; iptables is carried out by the nftables backend.
    pub mode: Mode,
    /// What the plan depends on.
    pub settings: Settings,
    /// How to reach the API server; `None`: as a pod.
    pub kubeconfig: Option<PathBuf>,
    /// Where `/metrics` is served; `None`: nowhere.
    pub metrics: Option<SocketAddr>,
    /// Where `/healthz` is served; `None`: nowhere.
    pub healthz: Option<SocketAddr>,
    /// Whether an address that cannot be had ends the daemon.
    pub bind_hard_fail: bool,
    /// How long we may be without progress and still call ourselves healthy.
    pub patience: Duration,
    /// Our score for the out-of-memory killer.
    pub oom_score_adj: i32,
    /// The limits of connection tracking.
    pub conntrack: Conntrack,
    /// Whether to claim our nftables table.
    pub table_owner: TableOwner,
    /// Whether NetworkPolicies are enforced.
    pub network_policy: NetworkPolicy,
    /// Whether what policy drops is logged.
    pub policy_log: bool,
    /// Whether it is counted which connections each policy accepts and denies.
    pub policy_counters: bool,
    /// DNS servers that are believed beside the cluster's.
    pub dns_servers: BTreeSet<IpAddr>,
    /// How much longer than DNS says an address has a name.
    pub dns_grace: Duration,
    /// What may reach an address of this node's pods whose pod is not known yet.
    pub new_pods: NewPods,
    /// The container runtime's NRI socket; `None`: not used.
    pub nri_socket: Option<PathBuf>,
    /// What becomes of live connections that a changed policy does not allow.
    pub live_connections: LiveConnections,
    /// Whether netfilter is made to see what is switched between pods on a bridge.
    pub bridge_netfilter: BridgeNetfilter,
    /// Whether connections that go back to the link they came from are masqueraded where that is due.
    pub masquerade_same_link: bool,
    /// What to do where the kernel lacks what IPVS mode needs.
    pub ipvs_fallback: IpvsFallback,
    /// What is counted in the kernel.
    pub counters: Counters,
    /// Whether what is counted of each frontend and endpoint is exported.
    pub service_metrics: bool,
    /// How often all is compared; zero: never.
    pub verify_interval: Duration,
    /// What is logged.
    pub log: LogArgs,
    /// The configuration it was made of, for `/configz` and `--write-config-to`.
    pub configuration: KubeProxyConfiguration,
    /// Settings that do nothing, in words.
    pub notes: Vec<String>,
}

impl Effective {
    /// Validates a configuration whose defaults are filled in, and makes the best of it.
    ///
    /// # Errors
    /// All that is wrong with it, a line for each field.
    pub fn new(configuration: KubeProxyConfiguration) -> Result<Self, Failure> {
        let mut invalid = validate(&configuration);
        invalid.extend(own::invalid(&configuration.shunt));
        if !invalid.is_empty() {
            let lines: Vec<_> = invalid.iter().map(ToString::to_string).collect();
            return Err(Failure::usage(anyhow!("{}", lines.join("\n"))));
        }
        Self::of_valid(configuration).map_err(Failure::Usage)
    }

    fn of_valid(given: KubeProxyConfiguration) -> anyhow::Result<Self> {
        let kubeconfig = &given.client_connection.kubeconfig;
        let shunt = &given.shunt;
        let verify_interval = shunt.verify_interval.map(super::GoDuration::to_duration);
        Ok(Self {
            mode: given.mode(),
            settings: settings::of(&given)?,
            kubeconfig: (!kubeconfig.is_empty()).then(|| kubeconfig.into()),
            metrics: listen(&given.metrics_bind_address)?,
            healthz: listen(&given.healthz_bind_address)?,
            bind_hard_fail: given.bind_address_hard_fail,
            patience: given.periods().0.to_duration() * 2,
            oom_score_adj: given.oom_score_adj.unwrap_or_default(),
            conntrack: given.conntrack.clone(),
            table_owner: choice(shunt.table_owner.as_deref()),
            network_policy: choice(shunt.network_policy.as_deref()),
            policy_counters: shunt.policy_counters.unwrap_or_default(),
            policy_log: shunt.policy_log.unwrap_or(true),
            dns_servers: addresses(shunt.dns_servers.as_deref()).collect(),
            dns_grace: shunt.dns_grace.map_or(DNS_GRACE, super::GoDuration::to_duration),
            new_pods: choice(shunt.new_pods.as_deref()),
            nri_socket: Some(shunt.nri_socket.as_deref().unwrap_or(NRI_SOCKET))
                .filter(|path| !path.is_empty())
                .map(Into::into),
            live_connections: choice(shunt.live_connections.as_deref()),
            bridge_netfilter: choice(shunt.bridge_netfilter.as_deref()),
            masquerade_same_link: shunt.masquerade_same_link.unwrap_or(true),
            ipvs_fallback: choice(shunt.ipvs_fallback.as_deref()),
            counters: choice(shunt.counters.as_deref()),
            service_metrics: shunt.service_metrics.unwrap_or_default(),
            verify_interval: verify_interval.unwrap_or(VERIFY_INTERVAL),
            log: LogArgs {
                verbosity: given.logging.verbosity,
                log_level: shunt.log_level.clone(),
                logging_format: if given.logging.format == "json" {
                    Format::Json
                } else {
                    Format::Text
                },
            },
            notes: notes(&given),
            configuration: given,
        })
    }
}

fn listen(address: &str) -> anyhow::Result<Option<SocketAddr>> {
    if address.is_empty() { Ok(None) } else { Ok(Some(address.parse()?)) }
}
