//! What decides what the plan looks like: flags, and the compiler's settings made of them.

use std::net::{Ipv4Addr, SocketAddr};

use anyhow::{Context, anyhow, bail};
use clap::{ArgAction, Args};
use ipnet::Ipv4Net;
use shunt_model::compile::{LocalSources, NodePortAddresses, Settings};
use shunt_model::interface::InterfacePattern;

use crate::config::kube_proxy::{Mode, PRIMARY};
use crate::config::validate::NOBODY;
use crate::config::{Effective, KubeProxyConfiguration, boolean};
use crate::failure::Failure;

/// The flags that decide what the plan looks like. All but the first are kube-proxy's.
#[derive(Args, Clone, Debug, Default, PartialEq, Eq)]
pub struct PlanArgs {
    /// The name of this machine's Node [default: $NODE_NAME, then the host name, in lower case]
    #[arg(long, value_name = "NAME", visible_alias = "hostname-override")]
    pub node_name: Option<String>,
    /// Where NodePorts are served: primary (the Node's own addresses), or networks
    /// [default: primary; with --proxy-mode=iptables all addresses]
    #[arg(long, value_name = "primary|CIDR,...", value_delimiter = ',')]
    pub nodeport_addresses: Option<Vec<String>>,
    /// The pods' network, or one of each family; used by --detect-local-mode=ClusterCIDR
    #[arg(long, value_name = "CIDR,...")]
    pub cluster_cidr: Option<String>,
    /// What tells local pods from others, whose traffic to ClusterIPs is masqueraded: ClusterCIDR,
    /// NodeCIDR (the Node's podCIDRs), BridgeInterface, InterfaceNamePrefix or none
    /// [default: ClusterCIDR]
    #[arg(long, value_name = "MODE")]
    pub detect_local_mode: Option<String>,
    /// The pods' bridge; used by --detect-local-mode=BridgeInterface
    #[arg(long, value_name = "NAME")]
    pub pod_bridge_interface: Option<String>,
    /// How the names of pods' interfaces begin; used by --detect-local-mode=InterfaceNamePrefix
    #[arg(long, value_name = "PREFIX")]
    pub pod_interface_name_prefix: Option<String>,
    /// Masquerade all traffic to ClusterIPs
    #[arg(long, value_name = "BOOL", action = ArgAction::Set, num_args = 0..=1, require_equals = true, default_missing_value = "true", value_parser = boolean)]
    pub masquerade_all: Option<bool>,
}

impl PlanArgs {
    /// Sets what was given in a configuration whose mode is set already.
    pub fn apply(&self, to: &mut KubeProxyConfiguration) {
        self.apply_name(to);
        to.node_port_addresses.clone_from(&self.nodeport_addresses);
        set(&mut to.cluster_cidr, self.cluster_cidr.as_ref());
        set(&mut to.detect_local_mode, self.detect_local_mode.as_ref());
        set(&mut to.detect_local.bridge_interface, self.pod_bridge_interface.as_ref());
        let prefix = &mut to.detect_local.interface_name_prefix;
        set(prefix, self.pod_interface_name_prefix.as_ref());
        let all = self.masquerade_all.unwrap_or_default();
        match to.mode.as_str() {
            "nftables" => to.nftables.masquerade_all = all,
            _ => to.iptables.masquerade_all = all,
        }
    }

    /// Sets the Node's name, which counts beside a file too.
    pub fn apply_name(&self, to: &mut KubeProxyConfiguration) {
        if let Some(name) = &self.node_name {
            to.hostname_override = name.trim().to_lowercase();
        }
    }

    /// The settings of the compiler, from these flags alone.
    ///
    /// # Errors
    /// If a value is wrong, or the host name cannot be read.
    pub fn settings(&self) -> Result<Settings, Failure> {
        let flags = crate::config::KubeProxyArgs { plan: self.clone(), ..Default::default() };
        Ok(Effective::new(flags.configuration())?.settings)
    }
}

/// Puts a value in place of another, if there is one.
pub fn set<T: Clone>(target: &mut T, value: Option<&T>) {
    if let Some(value) = value {
        target.clone_from(value);
    }
}

/// The settings of the compiler.
///
/// # Errors
/// If a value that validation lets pass cannot be had here, or the host name cannot be read.
pub fn of(given: &KubeProxyConfiguration) -> anyhow::Result<Settings> {
    Ok(Settings {
        node_name: node_name(&given.hostname_override)?.into(),
        node_port_addresses: node_ports(given)?,
        local_sources: local_sources(given)?,
        masquerade_all: given.masquerade_all(),
        external_ips: given.external_ips(),
        reset_tcp: given.shunt.reset_tcp.unwrap_or_default(),
        localhost_node_ports: localhost_node_ports(given),
    })
}

/// Where NodePorts are served. No list at all is every address, as in kube-proxy.
fn node_ports(given: &KubeProxyConfiguration) -> anyhow::Result<NodePortAddresses> {
    let given = given.node_port_addresses.as_deref().unwrap_or_default();
    if given == [PRIMARY] {
        return Ok(NodePortAddresses::Primary);
    }
    let networks = given.iter().map(|network| network.parse());
    Ok(NodePortAddresses::Within(networks.collect::<Result<_, _>>()?))
}

/// Whether NodePorts are served on 127.0.0.1: as in kube-proxy's iptables mode if its addresses
/// are among those that NodePorts are served on. In nftables mode, where kube-proxy never does,
/// only if they are listed by themselves. IPVS cannot.
fn localhost_node_ports(given: &KubeProxyConfiguration) -> bool {
    let loopback = Ipv4Net::new_assert(Ipv4Addr::new(127, 0, 0, 0), 8);
    let listed = given.node_port_addresses.as_deref().unwrap_or_default();
    let mut of_v4 = listed.iter().filter_map(|network| network.parse::<Ipv4Net>().ok()).peekable();
    let meant = match given.mode() {
        Mode::Iptables if listed == [PRIMARY] => false,
        Mode::Iptables if of_v4.peek().is_none() => true,
        Mode::Iptables => {
            of_v4.any(|network| network.contains(&loopback.addr()) || loopback.contains(&network))
        }
        Mode::Nftables => of_v4.any(|network| loopback.contains(&network)),
        Mode::Ipvs => false,
    };
    meant && given.iptables.localhost_node_ports.unwrap_or(true)
}

fn local_sources(given: &KubeProxyConfiguration) -> anyhow::Result<LocalSources> {
    Ok(match given.detect_local_mode.as_str() {
        "ClusterCIDR" if given.cluster_cidr.is_empty() => LocalSources::Unknown,
        "ClusterCIDR" => {
            let networks = given.cluster_cidr.split(',').map(str::parse);
            LocalSources::Cidrs(networks.collect::<Result<_, _>>()?)
        }
        "NodeCIDR" => LocalSources::NodePodCidrs,
        "BridgeInterface" => {
            let name = given.detect_local.bridge_interface.parse();
            LocalSources::Interfaces(InterfacePattern::Exact(name?))
        }
        "InterfaceNamePrefix" => {
            let prefix = given.detect_local.interface_name_prefix.parse();
            LocalSources::Interfaces(InterfacePattern::Prefix(prefix?))
        }
        NOBODY => LocalSources::Unknown,
        other => bail!("detectLocalMode: {other} is no mode"),
    })
}

/// The Node's name: as told, or from the environment of a DaemonSet, or the host's.
fn node_name(told: &str) -> anyhow::Result<String> {
    let from_environment = || std::env::var("NODE_NAME").ok();
    let told = Some(told.to_owned()).filter(|name| !name.is_empty());
    let name = match told.or_else(from_environment) {
        Some(name) if !name.trim().is_empty() => name,
        _ => {
            let host = nix::unistd::gethostname().context("the host name cannot be read")?;
            host.into_string().map_err(|_| anyhow!("the host name is not text; use --node-name"))?
        }
    };
    let name = name.trim().to_lowercase();
    if name.is_empty() {
        bail!("this host has no name; use --node-name");
    }
    Ok(name)
}

/// The value of a flag that says where to listen: an address, with a port or without; empty:
/// nowhere.
///
/// # Errors
/// If it is none.
pub fn bind(text: &str) -> Result<String, String> {
    let known = text.is_empty()
        || text.parse::<SocketAddr>().is_ok()
        || text.parse::<std::net::IpAddr>().is_ok();
    if known { Ok(text.to_owned()) } else { Err("not ADDRESS or ADDRESS:PORT".to_owned()) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn node_names_are_in_lower_case() {
        assert_eq!(node_name(" Worker-1 ").unwrap(), "worker-1");
    }

    #[test]
    fn bind_addresses_may_leave_out_the_port_or_be_off() {
        for good in ["", "0.0.0.0", "[::]:1", "::", "127.0.0.1:10249"] {
            assert_eq!(bind(good).as_deref(), Ok(good));
        }
        assert!(bind("localhost:1").is_err());
    }
}
