//! `KubeProxyConfiguration` v1alpha1: the types on the wire and their defaults.
//!
//! Source: `k8s.io/kube-proxy/config/v1alpha1/types.go` and kube-proxy's `v1alpha1/defaults.go`,
//! release 1.36. A `null` is the same as nothing, as in Go.

use std::collections::BTreeMap;
use std::fmt;

use serde::{Deserialize, Serialize};

use super::{GoDuration, own};

/// The API version that a file names.
pub const API_VERSION: &str = "kubeproxy.config.k8s.io/v1alpha1";
/// The kind that a file names.
pub const KIND: &str = "KubeProxyConfiguration";
/// The word in `nodePortAddresses` for the Node's own addresses.
pub const PRIMARY: &str = "primary";
/// The port of `/metrics`.
pub const METRICS_PORT: u16 = 10249;
/// The port of `/healthz`.
pub const HEALTHZ_PORT: u16 = 10256;

/// kube-proxy's configuration, and a section of our own.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default, rename_all = "camelCase")]
#[allow(missing_docs, reason = "the fields are kube-proxy's, documented there")]
pub struct KubeProxyConfiguration {
    pub api_version: String,
    pub kind: String,
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub feature_gates: BTreeMap<String, bool>,
    pub client_connection: ClientConnection,
    pub logging: Logging,
    pub hostname_override: String,
    pub bind_address: String,
    pub healthz_bind_address: String,
    pub metrics_bind_address: String,
    pub bind_address_hard_fail: bool,
    pub enable_profiling: bool,
    pub show_hidden_metrics_for_version: String,
    pub mode: String,
    pub iptables: Iptables,
    pub ipvs: Ipvs,
    pub nftables: Nftables,
    pub winkernel: Winkernel,
    pub detect_local_mode: String,
    pub detect_local: DetectLocal,
    #[serde(rename = "clusterCIDR")]
    pub cluster_cidr: String,
    pub node_port_addresses: Option<Vec<String>>,
    pub oom_score_adj: Option<i32>,
    pub conntrack: Conntrack,
    pub config_sync_period: GoDuration,
    pub port_range: String,
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    pub windows_run_as_service: bool,
    /// What only shunt knows. kube-proxy takes it for an unknown field and goes on without.
    #[serde(skip_serializing_if = "Shunt::is_empty")]
    pub shunt: Shunt,
}

/// The one gate that means something here.
pub(super) const EXTERNAL_IPS_GATE: &str = "AllowServiceExternalIPs";

/// Our own settings; a flag of ours outweighs its field.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default, rename_all = "camelCase")]
pub struct Shunt {
    /// `auto` or `off`, as `--table-owner`.
    #[serde(skip_serializing_if = "Option::is_none", deserialize_with = "own::word_or_off")]
    pub table_owner: Option<String>,
    /// `auto`, `audit` or `off`, as `--network-policy`.
    #[serde(skip_serializing_if = "Option::is_none", deserialize_with = "own::word_or_off")]
    pub network_policy: Option<String>,
    /// As `--policy-log`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub policy_log: Option<bool>,
    /// As `--policy-counters`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub policy_counters: Option<bool>,
    /// As `--dns-servers`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub dns_servers: Option<Vec<String>>,
    /// As `--dns-grace`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub dns_grace: Option<GoDuration>,
    /// `open` or `closed`, as `--new-pods`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub new_pods: Option<String>,
    /// As `--nri-socket`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub nri_socket: Option<String>,
    /// `cut` or `keep`, as `--live-connections`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub live_connections: Option<String>,
    /// `auto` or `off`, as `--bridge-netfilter`.
    #[serde(skip_serializing_if = "Option::is_none", deserialize_with = "own::word_or_off")]
    pub bridge_netfilter: Option<String>,
    /// As `--masquerade-same-link`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub masquerade_same_link: Option<bool>,
    /// `exit` or `nftables`, as `--ipvs-fallback`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub ipvs_fallback: Option<String>,
    /// As `--verify-interval`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub verify_interval: Option<GoDuration>,
    /// As `--external-ips`.
    #[serde(rename = "externalIPs", skip_serializing_if = "Option::is_none")]
    pub external_ips: Option<bool>,
    /// As `--reset-tcp`.
    #[serde(rename = "resetTCP", skip_serializing_if = "Option::is_none")]
    pub reset_tcp: Option<bool>,
    /// `off`, `frontends` or `endpoints`, as `--counters`.
    #[serde(skip_serializing_if = "Option::is_none", deserialize_with = "own::word_or_off")]
    pub counters: Option<String>,
    /// As `--service-metrics`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub service_metrics: Option<bool>,
    /// As `--log-level`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub log_level: Option<String>,
}

impl Shunt {
    fn is_empty(&self) -> bool {
        *self == Self::default()
    }
}

/// How to talk to the API server.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default, rename_all = "camelCase")]
#[allow(missing_docs, reason = "the fields are kube-proxy's, documented there")]
pub struct ClientConnection {
    pub kubeconfig: String,
    pub accept_content_types: String,
    pub content_type: String,
    pub qps: f64,
    pub burst: i32,
}

/// What is logged.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default, rename_all = "camelCase")]
#[allow(missing_docs, reason = "the fields are kube-proxy's, documented there")]
pub struct Logging {
    pub format: String,
    pub flush_frequency: Option<Text>,
    pub verbosity: u32,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub vmodule: Vec<VModule>,
    pub options: LogOptions,
}

/// The verbosity of one source file.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, rename_all = "camelCase")]
#[allow(missing_docs, reason = "the fields are kube-proxy's, documented there")]
pub struct VModule {
    pub file_pattern: String,
    pub verbosity: u32,
}

/// Options of the formats.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
#[allow(missing_docs, reason = "the fields are kube-proxy's, documented there")]
pub struct LogOptions {
    pub text: LogOutput,
    pub json: LogOutput,
}

/// Where a format's lines go.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default, rename_all = "camelCase")]
#[allow(missing_docs, reason = "the fields are kube-proxy's, documented there")]
pub struct LogOutput {
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    pub split_stream: bool,
    pub info_buffer_size: Text,
}

/// What may be written as a text or as a number: quantities, durations in nanoseconds.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(untagged)]
pub enum Text {
    /// A text.
    Text(String),
    /// A number.
    Number(i64),
}

impl Text {
    /// As a duration; `None` if it is none.
    #[must_use]
    pub fn nanoseconds(&self) -> Option<i64> {
        match self {
            Self::Text(text) => text.parse().ok().map(|GoDuration(nanoseconds)| nanoseconds),
            Self::Number(nanoseconds) => Some(*nanoseconds),
        }
    }
}

impl fmt::Display for Text {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Text(text) => write!(f, "{text:?}"),
            Self::Number(number) => write!(f, "{number}"),
        }
    }
}

impl Default for Text {
    fn default() -> Self {
        Self::Text("0".into())
    }
}

/// The section of the iptables mode.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default, rename_all = "camelCase")]
#[allow(missing_docs, reason = "the fields are kube-proxy's, documented there")]
pub struct Iptables {
    pub masquerade_bit: Option<i32>,
    pub masquerade_all: bool,
    pub localhost_node_ports: Option<bool>,
    pub sync_period: GoDuration,
    pub min_sync_period: GoDuration,
}

/// The section of the IPVS mode.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default, rename_all = "camelCase")]
#[allow(missing_docs, reason = "the fields are kube-proxy's, documented there")]
pub struct Ipvs {
    pub sync_period: GoDuration,
    pub min_sync_period: GoDuration,
    pub scheduler: String,
    #[serde(rename = "excludeCIDRs")]
    pub exclude_cidrs: Option<Vec<String>>,
    #[serde(rename = "strictARP")]
    pub strict_arp: bool,
    pub tcp_timeout: GoDuration,
    pub tcp_fin_timeout: GoDuration,
    pub udp_timeout: GoDuration,
}

/// The section of the nftables mode.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default, rename_all = "camelCase")]
#[allow(missing_docs, reason = "the fields are kube-proxy's, documented there")]
pub struct Nftables {
    pub masquerade_bit: Option<i32>,
    pub masquerade_all: bool,
    pub sync_period: GoDuration,
    pub min_sync_period: GoDuration,
}

/// The section of Windows.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default, rename_all = "camelCase")]
#[allow(missing_docs, reason = "the fields are kube-proxy's, documented there")]
pub struct Winkernel {
    pub network_name: String,
    pub source_vip: String,
    #[serde(rename = "enableDSR")]
    pub enable_dsr: bool,
    pub root_hns_endpoint_name: String,
    pub forward_health_check_vip: bool,
}

/// What tells local pods from others by their interface.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default, rename_all = "camelCase")]
#[allow(missing_docs, reason = "the fields are kube-proxy's, documented there")]
pub struct DetectLocal {
    pub bridge_interface: String,
    pub interface_name_prefix: String,
}

/// The limits of connection tracking.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, rename_all = "camelCase")]
#[allow(missing_docs, reason = "the fields are kube-proxy's, documented there")]
pub struct Conntrack {
    pub max_per_core: Option<i32>,
    pub min: Option<i32>,
    pub tcp_established_timeout: Option<GoDuration>,
    pub tcp_close_wait_timeout: Option<GoDuration>,
    pub tcp_be_liberal: bool,
    pub udp_timeout: GoDuration,
    pub udp_stream_timeout: GoDuration,
}

/// kube-proxy's modes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Mode {
    /// What its rules mean, our nftables backend does.
    Iptables,
    /// Virtual servers of the kernel.
    Ipvs,
    /// Rules of nf_tables.
    Nftables,
}

impl Mode {
    /// All of them, with kube-proxy's names.
    pub const ALL: [(&'static str, Self); 3] =
        [("iptables", Self::Iptables), ("ipvs", Self::Ipvs), ("nftables", Self::Nftables)];

    /// The mode of this name.
    #[must_use]
    pub fn named(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|(known, _)| *known == name).map(|(_, mode)| mode)
    }
}

impl KubeProxyConfiguration {
    /// The mode; that of no valid name is validated before.
    #[must_use]
    pub fn mode(&self) -> Mode {
        Mode::named(&self.mode).unwrap_or(Mode::Iptables)
    }

    /// Fills in what is not set, with kube-proxy's values: those of the file's fields first, then
    /// those that depend on the platform.
    pub fn set_defaults(&mut self) {
        self.set_addresses();
        fill(&mut self.config_sync_period, GoDuration::seconds(900));
        self.oom_score_adj.get_or_insert(-999);
        self.iptables.masquerade_bit.get_or_insert(14);
        self.nftables.masquerade_bit.get_or_insert(14);
        self.iptables.localhost_node_ports.get_or_insert(true);
        for period in [
            &mut self.iptables.sync_period,
            &mut self.ipvs.sync_period,
            &mut self.nftables.sync_period,
        ] {
            fill(period, GoDuration::seconds(30));
        }
        fill(&mut self.iptables.min_sync_period, GoDuration::seconds(1));
        fill(&mut self.nftables.min_sync_period, GoDuration::seconds(1));
        self.conntrack.max_per_core.get_or_insert(32 * 1024);
        self.conntrack.min.get_or_insert(128 * 1024);
        self.conntrack.tcp_established_timeout.get_or_insert(GoDuration::seconds(24 * 3600));
        self.conntrack.tcp_close_wait_timeout.get_or_insert(GoDuration::seconds(3600));
        fill_text(&mut self.client_connection.content_type, "application/vnd.kubernetes.protobuf");
        if self.client_connection.qps == 0.0 {
            self.client_connection.qps = 5.0;
        }
        if self.client_connection.burst == 0 {
            self.client_connection.burst = 10;
        }
        fill_text(&mut self.logging.format, "text");
        if self.logging.flush_frequency.as_ref().is_none_or(|text| text.nanoseconds() == Some(0)) {
            self.logging.flush_frequency = Some(Text::Text("5s".into()));
        }
        // What depends on the platform.
        fill_text(&mut self.mode, "iptables");
        fill_text(&mut self.detect_local_mode, "ClusterCIDR");
        let addresses = self.node_port_addresses.get_or_insert_default();
        if self.mode == "nftables" && addresses.is_empty() {
            addresses.push(PRIMARY.into());
        }
        if addresses.is_empty() {
            self.node_port_addresses = None;
        }
    }

    /// Where to listen, by the family of `bindAddress`.
    fn set_addresses(&mut self) {
        fill_text(&mut self.bind_address, "0.0.0.0");
        let bound = self.bind_address.parse().map(|ip: std::net::IpAddr| ip.to_canonical());
        let v6 = bound.is_ok_and(|ip| ip.is_ipv6());
        let (any, own) = if v6 { ("[::]", "[::1]") } else { ("0.0.0.0", "127.0.0.1") };
        for (address, host, port) in [
            (&mut self.healthz_bind_address, any, HEALTHZ_PORT),
            (&mut self.metrics_bind_address, own, METRICS_PORT),
        ] {
            if address.is_empty() {
                *address = format!("{host}:{port}");
            } else {
                *address = with_port(address, port);
            }
        }
    }

    /// The two periods of the mode: `syncPeriod`, `minSyncPeriod`.
    #[must_use]
    pub fn periods(&self) -> (GoDuration, GoDuration) {
        match self.mode() {
            Mode::Iptables => (self.iptables.sync_period, self.iptables.min_sync_period),
            Mode::Ipvs => (self.ipvs.sync_period, self.ipvs.min_sync_period),
            Mode::Nftables => (self.nftables.sync_period, self.nftables.min_sync_period),
        }
    }

    /// Whether all traffic to ClusterIPs is masqueraded, by the mode.
    #[must_use]
    pub fn masquerade_all(&self) -> bool {
        match self.mode() {
            Mode::Iptables | Mode::Ipvs => self.iptables.masquerade_all,
            Mode::Nftables => self.nftables.masquerade_all,
        }
    }

    /// Whether external IPs are served: as our own setting says, else as the gate (KEP-5707).
    #[must_use]
    pub fn external_ips(&self) -> bool {
        let gate = self.feature_gates.get(EXTERNAL_IPS_GATE).copied();
        self.shunt.external_ips.or(gate).unwrap_or(true)
    }

    /// The same without what the mode does not use: what kube-proxy's `--write-config-to` writes.
    #[must_use]
    pub fn of_its_mode(mut self) -> Self {
        let mode = self.mode();
        self.port_range.clear();
        if mode != Mode::Iptables {
            (self.iptables.sync_period, self.iptables.min_sync_period) = Default::default();
        }
        if mode != Mode::Ipvs {
            (self.ipvs.sync_period, self.ipvs.min_sync_period) = Default::default();
        }
        if mode == Mode::Nftables {
            self.iptables.masquerade_all = false;
        } else {
            (self.nftables.sync_period, self.nftables.min_sync_period) = Default::default();
            self.nftables.masquerade_all = false;
        }
        self
    }
}

/// An address with a port: its own, or this one.
#[must_use]
pub fn with_port(address: &str, port: u16) -> String {
    match address.parse::<std::net::IpAddr>() {
        Ok(ip) => std::net::SocketAddr::new(ip, port).to_string(),
        Err(_) => address.to_owned(),
    }
}

fn fill(duration: &mut GoDuration, default: GoDuration) {
    if *duration == GoDuration::default() {
        *duration = default;
    }
}

fn fill_text(text: &mut String, default: &str) {
    if text.is_empty() {
        default.clone_into(text);
    }
}
