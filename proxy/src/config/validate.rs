//! What kube-proxy's validation asks of a configuration, and nothing else.
//!
//! Source: kube-proxy's `apis/config/validation/validation.go`, release 1.36. All that is wrong
//! is told at once, by the path that the field has in a file.

use std::fmt;
use std::net::{IpAddr, SocketAddr};

use ipnet::IpNet;
use shunt_model::interface::InterfaceName;

use super::kube_proxy::{Conntrack, KubeProxyConfiguration, Mode, PRIMARY, VModule};
use super::{GoDuration, kube_proxy};

/// A field with a value it must not have.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Invalid {
    /// The field's path in a file, such as `conntrack.min`.
    pub path: String,
    /// Its value.
    pub value: String,
    /// What is allowed.
    pub allowed: String,
}

impl fmt::Display for Invalid {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {} is invalid: {}", self.path, self.value, self.allowed)
    }
}

const NOT_NEGATIVE: &str = "must be greater than or equal to 0";
const POSITIVE: &str = "must be greater than 0";
const NETWORK: &str = "must be a valid CIDR";

/// All that is wrong with a configuration whose defaults are filled in.
#[must_use]
pub fn validate(configuration: &KubeProxyConfiguration) -> Vec<Invalid> {
    let mut check = Check::default();
    check.general(configuration);
    check.mode(configuration);
    check.conntrack(&configuration.conntrack);
    check.local(configuration);
    check.logging(configuration);
    check.found
}

#[derive(Default)]
struct Check {
    found: Vec<Invalid>,
}

impl Check {
    fn deny(&mut self, path: impl Into<String>, value: impl fmt::Display, allowed: &str) {
        let (path, value, allowed) = (path.into(), value.to_string(), allowed.to_owned());
        self.found.push(Invalid { path, value, allowed });
    }

    fn not_negative(&mut self, path: &str, value: impl fmt::Display, number: i64) {
        if number < 0 {
            self.deny(path, value, NOT_NEGATIVE);
        }
    }

    fn duration(&mut self, path: &str, duration: GoDuration) {
        self.not_negative(path, duration, duration.0);
    }

    fn general(&mut self, given: &KubeProxyConfiguration) {
        if let Some(score) = given.oom_score_adj.filter(|score| !(-1000..=1000).contains(score)) {
            self.deny("oomScoreAdj", score, "must be within the range [-1000, 1000]");
        }
        let burst = given.client_connection.burst;
        self.not_negative("clientConnection.burst", burst, i64::from(burst));
        if given.config_sync_period.0 <= 0 {
            self.deny("configSyncPeriod", given.config_sync_period, POSITIVE);
        }
        if given.bind_address.parse::<IpAddr>().is_err() {
            let allowed = "not a valid textual representation of an IP address";
            self.deny("bindAddress", quoted(&given.bind_address), allowed);
        }
        self.address("healthzBindAddress", &given.healthz_bind_address);
        self.address("metricsBindAddress", &given.metrics_bind_address);
        self.node_ports(given.node_port_addresses.as_deref().unwrap_or_default());
    }

    /// `IP:port`, or nothing.
    fn address(&mut self, path: &str, address: &str) {
        if !address.is_empty()
            && !address.parse::<SocketAddr>().is_ok_and(|address| address.port() > 0)
        {
            self.deny(path, quoted(address), "must be IP:port");
        }
    }

    fn node_ports(&mut self, given: &[String]) {
        for (index, entry) in given.iter().enumerate() {
            let path = format!("nodePortAddresses[{index}]");
            if entry == PRIMARY {
                if given.len() != 1 {
                    self.deny(path, quoted(entry), "can't use both 'primary' and CIDRs");
                }
                break;
            }
            if entry.parse::<IpNet>().is_err() {
                self.deny(path, quoted(entry), NETWORK);
            }
        }
    }

    fn mode(&mut self, given: &KubeProxyConfiguration) {
        let Some(mode) = Mode::named(&given.mode) else {
            let allowed = "must be iptables, ipvs, nftables or blank";
            return self.deny("mode", quoted(&given.mode), allowed);
        };
        self.masquerade_bit("iptables", given.iptables.masquerade_bit);
        match mode {
            Mode::Iptables => {}
            Mode::Nftables => self.masquerade_bit("nftables", given.nftables.masquerade_bit),
            Mode::Ipvs => self.ipvs(&given.ipvs),
        }
        let (section, _) =
            Mode::ALL.into_iter().find(|(_, of)| *of == mode).unwrap_or(Mode::ALL[0]);
        let (period, least) = given.periods();
        if period.0 <= 0 {
            self.deny(format!("{section}.syncPeriod"), period, POSITIVE);
        }
        self.duration(&format!("{section}.minSyncPeriod"), least);
        if least > period {
            let allowed = format!("must be greater than or equal to {section}.minSyncPeriod");
            self.deny(format!("{section}.syncPeriod"), period, &allowed);
        }
    }

    fn masquerade_bit(&mut self, section: &str, bit: Option<i32>) {
        if let Some(bit) = bit.filter(|bit| !(0..=31).contains(bit)) {
            let path = format!("{section}.masqueradeBit");
            self.deny(path, bit, "must be within the range [0, 31]");
        }
    }

    fn ipvs(&mut self, given: &kube_proxy::Ipvs) {
        self.duration("ipvs.tcpTimeout", given.tcp_timeout);
        self.duration("ipvs.tcpFinTimeout", given.tcp_fin_timeout);
        self.duration("ipvs.udpTimeout", given.udp_timeout);
        for (index, network) in given.exclude_cidrs.iter().flatten().enumerate() {
            if network.parse::<IpNet>().is_err() {
                self.deny(format!("ipvs.excludeCIDRs[{index}]"), quoted(network), NETWORK);
            }
        }
    }

    fn conntrack(&mut self, given: &Conntrack) {
        for (path, number) in
            [("conntrack.maxPerCore", given.max_per_core), ("conntrack.min", given.min)]
        {
            let number = number.unwrap_or_default();
            self.not_negative(path, number, i64::from(number));
        }
        for (path, duration) in [
            ("conntrack.tcpEstablishedTimeout", given.tcp_established_timeout),
            ("conntrack.tcpCloseWaitTimeout", given.tcp_close_wait_timeout),
            ("conntrack.udpTimeout", Some(given.udp_timeout)),
            ("conntrack.udpStreamTimeout", Some(given.udp_stream_timeout)),
        ] {
            self.duration(path, duration.unwrap_or_default());
        }
    }

    fn local(&mut self, given: &KubeProxyConfiguration) {
        match given.detect_local_mode.as_str() {
            "ClusterCIDR" => self.cluster_cidr(&given.cluster_cidr),
            "BridgeInterface" => {
                let name = &given.detect_local.bridge_interface;
                self.interface("detectLocal.bridgeInterface", name);
            }
            "InterfaceNamePrefix" => {
                let name = &given.detect_local.interface_name_prefix;
                self.interface("detectLocal.interfaceNamePrefix", name);
            }
            "NodeCIDR" | NOBODY => {}
            other => {
                let allowed = "supported values: \"ClusterCIDR\", \"NodeCIDR\", \
                               \"BridgeInterface\", \"InterfaceNamePrefix\"";
                self.deny("detectLocalMode", quoted(other), allowed);
            }
        }
    }

    fn interface(&mut self, field: &str, name: &str) {
        if name.is_empty() {
            self.deny(field, quoted(""), "must not be empty");
        } else if let Err(reason) = name.parse::<InterfaceName>() {
            self.deny(field, quoted(name), &reason.to_string());
        }
    }

    fn cluster_cidr(&mut self, given: &str) {
        let networks: Vec<_> = given.split(',').filter(|_| !given.is_empty()).collect();
        let parsed: Vec<_> = networks.iter().map(|network| network.parse::<IpNet>()).collect();
        for (network, parsed) in networks.iter().zip(&parsed) {
            if parsed.is_err() {
                let allowed = "must be a valid CIDR block (e.g. 10.100.0.0/16 or \
                               fde4:8dba:82e1::/48)";
                self.deny("clusterCIDR", quoted(network), allowed);
            }
        }
        let of_one_family = match parsed.as_slice() {
            [Ok(first), Ok(second)] => first.addr().is_ipv4() == second.addr().is_ipv4(),
            _ => parsed.len() > 2,
        };
        if of_one_family {
            let allowed = "must be a either a single CIDR or dual-stack pair of CIDRs";
            self.deny("clusterCIDR", quoted(given), allowed);
        }
    }

    fn logging(&mut self, given: &KubeProxyConfiguration) {
        if !["text", "json"].contains(&given.logging.format.as_str()) {
            let format = quoted(&given.logging.format);
            self.deny("logging.format", format, "must be text or json");
        }
        let frequency = given.logging.flush_frequency.clone().unwrap_or_default();
        if frequency.nanoseconds().is_none_or(i64::is_negative) {
            self.deny("logging.flushFrequency", frequency, "must be a duration greater than 0");
        }
        for (index, VModule { file_pattern, .. }) in given.logging.vmodule.iter().enumerate() {
            if file_pattern.is_empty() || file_pattern.contains(['=', ',']) {
                let path = format!("logging.vmodule[{index}].filePattern");
                let allowed = "must not be empty, nor contain an equal sign or comma";
                self.deny(path, quoted(file_pattern), allowed);
            }
        }
    }
}

/// Our own detect-local mode: nobody counts as a local pod.
pub const NOBODY: &str = "none";

fn quoted(text: &str) -> String {
    format!("{text:?}")
}
