//! kube-proxy's flags, all that kube-proxy 1.36 has.

use std::path::PathBuf;

use clap::{ArgAction, Args};

use super::GoDuration;
use super::kube_proxy::{
    API_VERSION, HEALTHZ_PORT, KIND, KubeProxyConfiguration, METRICS_PORT, Mode, PRIMARY, Text,
    VModule, with_port,
};
use super::spelling::{boolean, integer};
pub use crate::settings::PlanArgs;
use crate::settings::{bind, set};

/// kube-proxy's flags. With `--config` all are ignored but those of logging, `--master` and
/// `--hostname-override`, as kube-proxy does.
#[derive(Args, Clone, Debug, Default, PartialEq)]
pub struct KubeProxyArgs {
    /// What decides about the plan.
    #[command(flatten)]
    pub plan: PlanArgs,
    /// How to reach the API server [default: as a pod, by its service account]
    #[arg(long, value_name = "FILE")]
    pub kubeconfig: Option<PathBuf>,
    /// The API server's URL, in place of the kubeconfig's
    #[arg(long, value_name = "URL")]
    pub master: Option<String>,
    /// nftables, ipvs, or iptables (which our nftables backend does) [default: nftables]
    #[arg(long, value_name = "MODE")]
    pub proxy_mode: Option<String>,
    /// In place of the Node's first address; nothing is bound to it
    #[arg(long, value_name = "IP")]
    pub bind_address: Option<String>,
    /// Where /healthz and /livez are served; empty: nowhere [default: 0.0.0.0:10256]
    #[arg(long, value_name = "IP:PORT", value_parser = bind)]
    pub healthz_bind_address: Option<String>,
    /// Where /metrics, /status, /proxyMode are served; empty: nowhere [default: 127.0.0.1:10249]
    #[arg(long, value_name = "IP:PORT", value_parser = bind)]
    pub metrics_bind_address: Option<String>,
    /// End if one of these addresses cannot be had, in place of trying on
    #[arg(long, value_name = "BOOL", action = ArgAction::Set, num_args = 0..=1, require_equals = true, default_missing_value = "true", value_parser = boolean)]
    pub bind_address_hard_fail: Option<bool>,
    /// Our score for the out-of-memory killer [default: -999]
    #[arg(long, value_name = "N", allow_negative_numbers = true, value_parser = integer)]
    pub oom_score_adj: Option<i32>,
    /// The limits of connection tracking.
    #[command(flatten)]
    pub conntrack: ConntrackArgs,
    /// The IPVS mode.
    #[command(flatten)]
    pub ipvs: IpvsArgs,
    /// What is accepted for kube-proxy's sake.
    #[command(flatten)]
    pub others: OtherArgs,
    /// kube-proxy's logging.
    #[command(flatten)]
    pub log: KubeLogArgs,
}

/// The flags of connection tracking.
#[derive(Args, Clone, Debug, Default, PartialEq, Eq)]
#[allow(missing_docs, reason = "each has a help text")]
pub struct ConntrackArgs {
    /// Tracked connections for each core; 0: leave the limit [default: 32768]
    #[arg(long, value_name = "N", allow_negative_numbers = true, value_parser = integer)]
    pub conntrack_max_per_core: Option<i32>,
    /// Tracked connections at least [default: 131072]
    #[arg(long, value_name = "N", allow_negative_numbers = true, value_parser = integer)]
    pub conntrack_min: Option<i32>,
    /// Idle established TCP connections; 0: leave it [default: 24h0m0s]
    #[arg(long, value_name = "DURATION", allow_hyphen_values = true)]
    pub conntrack_tcp_timeout_established: Option<GoDuration>,
    /// TCP connections in CLOSE_WAIT; 0: leave it [default: 1h0m0s]
    #[arg(long, value_name = "DURATION", allow_hyphen_values = true)]
    pub conntrack_tcp_timeout_close_wait: Option<GoDuration>,
    /// Set nf_conntrack_tcp_be_liberal
    #[arg(long, value_name = "BOOL", action = ArgAction::Set, num_args = 0..=1, require_equals = true, default_missing_value = "true", value_parser = boolean)]
    pub conntrack_tcp_be_liberal: Option<bool>,
    /// UDP flows without a reply; 0: leave it [default: 0s]
    #[arg(long, value_name = "DURATION", allow_hyphen_values = true)]
    pub conntrack_udp_timeout: Option<GoDuration>,
    /// UDP flows with replies; 0: leave it [default: 0s]
    #[arg(long, value_name = "DURATION", allow_hyphen_values = true)]
    pub conntrack_udp_timeout_stream: Option<GoDuration>,
}

/// The flags of the IPVS mode.
#[derive(Args, Clone, Debug, Default, PartialEq, Eq)]
#[allow(missing_docs, reason = "each has a help text")]
pub struct IpvsArgs {
    /// How virtual servers choose [default: rr]
    #[arg(long, value_name = "NAME")]
    pub ipvs_scheduler: Option<String>,
    /// Virtual servers in these networks are not ours
    #[arg(long, value_name = "CIDR,...", value_delimiter = ',')]
    pub ipvs_exclude_cidrs: Option<Vec<String>>,
    /// Set arp_ignore and arp_announce
    #[arg(long, value_name = "BOOL", action = ArgAction::Set, num_args = 0..=1, require_equals = true, default_missing_value = "true", value_parser = boolean)]
    pub ipvs_strict_arp: Option<bool>,
    /// Idle TCP connections; 0: leave it
    #[arg(long, value_name = "DURATION", allow_hyphen_values = true)]
    pub ipvs_tcp_timeout: Option<GoDuration>,
    /// TCP connections after a FIN; 0: leave it
    #[arg(long, value_name = "DURATION", allow_hyphen_values = true)]
    pub ipvs_tcpfin_timeout: Option<GoDuration>,
    /// UDP flows; 0: leave it
    #[arg(long, value_name = "DURATION", allow_hyphen_values = true)]
    pub ipvs_udp_timeout: Option<GoDuration>,
    #[arg(long, hide = true, allow_hyphen_values = true)]
    pub ipvs_sync_period: Option<GoDuration>,
    #[arg(long, hide = true, allow_hyphen_values = true)]
    pub ipvs_min_sync_period: Option<GoDuration>,
}

/// Flags that are accepted and do nothing here; the log says so.
#[derive(Args, Clone, Debug, Default, PartialEq)]
#[allow(missing_docs, reason = "they are kube-proxy's, documented there")]
pub struct OtherArgs {
    #[arg(long, hide = true)]
    pub kube_api_content_type: Option<String>,
    #[arg(long, hide = true)]
    pub kube_api_qps: Option<f64>,
    #[arg(long, hide = true, allow_negative_numbers = true, value_parser = integer)]
    pub kube_api_burst: Option<i32>,
    #[arg(long, hide = true, allow_hyphen_values = true)]
    pub config_sync_period: Option<GoDuration>,
    #[arg(long, hide = true, value_delimiter = ',', value_parser = gate)]
    pub feature_gates: Vec<(String, bool)>,
    #[arg(long, hide = true)]
    pub boot_id_file: Option<String>,
    #[arg(long, hide = true)]
    pub machine_id_file: Option<String>,
    #[arg(long, hide = true)]
    pub healthz_port: Option<u16>,
    #[arg(long, hide = true)]
    pub metrics_port: Option<u16>,
    #[arg(long, hide = true, action = ArgAction::Set, num_args = 0..=1, require_equals = true, default_missing_value = "true", value_parser = boolean)]
    pub profiling: Option<bool>,
    #[arg(long, hide = true)]
    pub show_hidden_metrics_for_version: Option<String>,
    #[arg(long, hide = true, allow_negative_numbers = true, value_parser = integer)]
    pub iptables_masquerade_bit: Option<i32>,
    #[arg(long, hide = true, action = ArgAction::Set, num_args = 0..=1, require_equals = true, default_missing_value = "true", value_parser = boolean)]
    pub iptables_localhost_nodeports: Option<bool>,
    #[arg(long, hide = true, allow_hyphen_values = true)]
    pub iptables_sync_period: Option<GoDuration>,
    #[arg(long, hide = true, allow_hyphen_values = true)]
    pub iptables_min_sync_period: Option<GoDuration>,
}

/// kube-proxy's flags of logging.
#[derive(Args, Clone, Debug, Default, PartialEq, Eq)]
#[allow(missing_docs, reason = "they are kube-proxy's, documented there")]
pub struct KubeLogArgs {
    /// Verbosity as kube-proxy counts it: 0-3 info, 4-5 debug, 6 and more trace [default: 0]
    #[arg(short = 'v', long = "v", value_name = "N")]
    pub verbosity: Option<u32>,
    /// How lines are written: text or json [default: text]
    #[arg(long, value_name = "FORMAT")]
    pub logging_format: Option<String>,
    #[arg(long, hide = true, value_delimiter = ',', value_parser = pattern)]
    pub vmodule: Vec<VModule>,
    #[arg(long, hide = true, allow_hyphen_values = true)]
    pub log_flush_frequency: Option<GoDuration>,
    #[arg(long, hide = true)]
    pub log_json_info_buffer_size: Option<String>,
    #[arg(long, hide = true)]
    pub log_text_info_buffer_size: Option<String>,
    #[arg(long, hide = true, action = ArgAction::Set, num_args = 0..=1, require_equals = true, default_missing_value = "true", value_parser = boolean)]
    pub log_json_split_stream: Option<bool>,
    #[arg(long, hide = true, action = ArgAction::Set, num_args = 0..=1, require_equals = true, default_missing_value = "true", value_parser = boolean)]
    pub log_text_split_stream: Option<bool>,
}

fn gate(text: &str) -> Result<(String, bool), String> {
    let (name, value) = text.split_once('=').ok_or("must be NAME=true or NAME=false")?;
    let value = boolean(value.trim()).map_err(|_| "must be NAME=true or NAME=false")?;
    Ok((name.trim().to_owned(), value))
}

fn pattern(text: &str) -> Result<VModule, String> {
    let (file_pattern, verbosity) = text.split_once('=').ok_or("must be PATTERN=N")?;
    let verbosity = verbosity.parse().map_err(|_| "must be PATTERN=N")?;
    Ok(VModule { file_pattern: file_pattern.to_owned(), verbosity })
}

impl KubeProxyArgs {
    /// The configuration that these flags make up, with its defaults.
    #[must_use]
    pub fn configuration(&self) -> KubeProxyConfiguration {
        let mut made = KubeProxyConfiguration {
            api_version: API_VERSION.into(),
            kind: KIND.into(),
            // A file without a mode is kube-proxy's and means iptables; who gives us no flag
            // gets what we do best.
            mode: self.proxy_mode.clone().unwrap_or_else(|| "nftables".into()),
            ..Default::default()
        };
        self.plan.apply(&mut made);
        let kubeconfig = self.kubeconfig.as_ref().map(|path| path.display().to_string());
        set(&mut made.client_connection.kubeconfig, kubeconfig.as_ref());
        set(&mut made.bind_address, self.bind_address.as_ref());
        set(&mut made.healthz_bind_address, self.healthz_bind_address.as_ref());
        set(&mut made.metrics_bind_address, self.metrics_bind_address.as_ref());
        made.bind_address_hard_fail = self.bind_address_hard_fail.unwrap_or_default();
        made.oom_score_adj = self.oom_score_adj;
        self.conntrack.apply(&mut made);
        self.ipvs.apply(&mut made);
        self.others.apply(&mut made);
        self.log.apply(&mut made);
        made.set_defaults();
        // What was given and means zero is not replaced by a default on the command line.
        self.apply_zeros(&mut made);
        let iptables = matches!(self.proxy_mode.as_deref(), Some("iptables" | ""));
        if made.node_port_addresses.is_none() && !iptables {
            made.node_port_addresses = Some(vec![PRIMARY.into()]);
        }
        made
    }

    /// Applies, to what a file says, the few flags that count beside it.
    pub fn apply_beside_file(&self, to: &mut KubeProxyConfiguration) {
        self.plan.apply_name(to);
        self.log.apply(to);
    }

    /// Whether a flag was given that a file makes meaningless.
    #[must_use]
    pub fn has_ignored(&self) -> bool {
        let mut rest = self.clone();
        rest.log = KubeLogArgs::default();
        rest.master = None;
        rest.plan.node_name = None;
        rest != Self::default()
    }

    fn apply_zeros(&self, made: &mut KubeProxyConfiguration) {
        let off = |flag: Option<&str>, port: Option<u16>| flag == Some("") || port == Some(0);
        let addresses = [
            (&mut made.healthz_bind_address, &self.healthz_bind_address, self.others.healthz_port),
            (&mut made.metrics_bind_address, &self.metrics_bind_address, self.others.metrics_port),
        ];
        for (address, flag, port) in addresses {
            if off(flag.as_deref(), port) {
                address.clear();
            }
        }
        let others = &self.others;
        let client = &mut made.client_connection;
        set(&mut client.qps, others.kube_api_qps.as_ref());
        set(&mut client.burst, others.kube_api_burst.as_ref());
        set(&mut made.config_sync_period, others.config_sync_period.as_ref());
        let given = match made.mode() {
            // kube-proxy's flags have one default for all modes, its files one for each.
            Mode::Ipvs => (
                self.ipvs.ipvs_sync_period,
                self.ipvs.ipvs_min_sync_period.or(Some(GoDuration::seconds(1))),
            ),
            _ => (others.iptables_sync_period, others.iptables_min_sync_period),
        };
        let (period, least) = match made.mode() {
            Mode::Iptables => (&mut made.iptables.sync_period, &mut made.iptables.min_sync_period),
            Mode::Ipvs => (&mut made.ipvs.sync_period, &mut made.ipvs.min_sync_period),
            Mode::Nftables => (&mut made.nftables.sync_period, &mut made.nftables.min_sync_period),
        };
        set(period, given.0.as_ref());
        set(least, given.1.as_ref());
    }
}

impl ConntrackArgs {
    fn apply(&self, to: &mut KubeProxyConfiguration) {
        let to = &mut to.conntrack;
        to.max_per_core = self.conntrack_max_per_core;
        to.min = self.conntrack_min;
        to.tcp_established_timeout = self.conntrack_tcp_timeout_established;
        to.tcp_close_wait_timeout = self.conntrack_tcp_timeout_close_wait;
        to.tcp_be_liberal = self.conntrack_tcp_be_liberal.unwrap_or_default();
        to.udp_timeout = self.conntrack_udp_timeout.unwrap_or_default();
        to.udp_stream_timeout = self.conntrack_udp_timeout_stream.unwrap_or_default();
    }
}

impl IpvsArgs {
    fn apply(&self, to: &mut KubeProxyConfiguration) {
        let to = &mut to.ipvs;
        set(&mut to.scheduler, self.ipvs_scheduler.as_ref());
        to.exclude_cidrs.clone_from(&self.ipvs_exclude_cidrs);
        to.strict_arp = self.ipvs_strict_arp.unwrap_or_default();
        to.tcp_timeout = self.ipvs_tcp_timeout.unwrap_or_default();
        to.tcp_fin_timeout = self.ipvs_tcpfin_timeout.unwrap_or_default();
        to.udp_timeout = self.ipvs_udp_timeout.unwrap_or_default();
    }
}

impl OtherArgs {
    fn apply(&self, to: &mut KubeProxyConfiguration) {
        set(&mut to.client_connection.content_type, self.kube_api_content_type.as_ref());
        to.feature_gates.extend(self.feature_gates.iter().cloned());
        to.enable_profiling = self.profiling.unwrap_or_default();
        set(&mut to.show_hidden_metrics_for_version, self.show_hidden_metrics_for_version.as_ref());
        to.iptables.masquerade_bit = self.iptables_masquerade_bit;
        to.iptables.localhost_node_ports = self.iptables_localhost_nodeports;
        for (address, host, port, usual) in [
            (&mut to.healthz_bind_address, "0.0.0.0", self.healthz_port, HEALTHZ_PORT),
            (&mut to.metrics_bind_address, "127.0.0.1", self.metrics_port, METRICS_PORT),
        ] {
            if let Some(port) = port.filter(|port| *port != usual) {
                let host = if address.is_empty() { host } else { address.as_str() };
                *address = with_port(host, port);
            }
        }
    }
}

impl KubeLogArgs {
    fn apply(&self, to: &mut KubeProxyConfiguration) {
        let to = &mut to.logging;
        set(&mut to.verbosity, self.verbosity.as_ref());
        set(&mut to.format, self.logging_format.as_ref());
        to.vmodule.splice(0..0, self.vmodule.iter().cloned());
        if let Some(frequency) = self.log_flush_frequency {
            to.flush_frequency = Some(Text::Text(frequency.to_string()));
        }
        for (output, size, split) in [
            (&mut to.options.json, &self.log_json_info_buffer_size, self.log_json_split_stream),
            (&mut to.options.text, &self.log_text_info_buffer_size, self.log_text_split_stream),
        ] {
            if let Some(size) = size {
                output.info_buffer_size = Text::Text(size.clone());
            }
            set(&mut output.split_stream, split.as_ref());
        }
    }
}
