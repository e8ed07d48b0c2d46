//! The flags that decide what the plan looks like, and what is made of them.

use std::net::{IpAddr, SocketAddr};
use std::str::FromStr;
use std::time::Duration;

use anyhow::{Context, anyhow, bail};
use clap::{Args, ValueEnum};
use ipnet::IpNet;
use shunt_model::address::Family;
use shunt_model::compile::{LocalSources, NodePortAddresses, Settings};

use crate::failure::Failure;

/// The flags that decide what the plan looks like.
#[derive(Args, Clone, Debug, PartialEq, Eq)]
pub struct PlanArgs {
    /// The name of this machine's Node [default: $NODE_NAME, then the host name, in lower case]
    #[arg(long, value_name = "NAME", visible_alias = "hostname-override")]
    pub node_name: Option<String>,
    /// Where NodePorts are served: primary (the Node's own addresses), or networks
    #[arg(long, value_name = "primary|CIDR,...", value_delimiter = ',', default_value = "primary")]
    pub nodeport_addresses: Vec<String>,
    /// The pods' network, or one of each family; used by --detect-local-mode=ClusterCIDR
    #[arg(long, value_name = "CIDR,...", value_delimiter = ',')]
    pub cluster_cidr: Vec<IpNet>,
    /// What tells local pods from others, whose traffic to ClusterIPs is masqueraded
    #[arg(long, value_enum, value_name = "MODE", default_value_t = DetectLocal::ClusterCidr)]
    pub detect_local_mode: DetectLocal,
    /// Masquerade all traffic to ClusterIPs
    #[arg(long)]
    pub masquerade_all: bool,
}

/// What tells local pods from others.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum DetectLocal {
    /// Their source is in `--cluster-cidr`; without that flag nothing is known.
    #[value(name = "ClusterCIDR")]
    ClusterCidr,
    /// Their source is in the Node's `spec.podCIDRs`.
    #[value(name = "NodeCIDR")]
    NodeCidr,
    /// Nothing does: only hairpins, NodePorts and external traffic are masqueraded.
    #[value(name = "none")]
    None,
}

impl PlanArgs {
    /// The settings of the compiler.
    ///
    /// # Errors
    /// If a value is wrong, or the host name cannot be read.
    pub fn settings(&self) -> Result<Settings, Failure> {
        Ok(Settings {
            node_name: node_name(self.node_name.as_deref()).map_err(Failure::Usage)?.into(),
            node_port_addresses: self.node_ports().map_err(Failure::Usage)?,
            local_sources: self.local_sources().map_err(Failure::Usage)?,
            masquerade_all: self.masquerade_all,
        })
    }

    fn node_ports(&self) -> anyhow::Result<NodePortAddresses> {
        let given: Vec<_> = self.nodeport_addresses.iter().map(|value| value.trim()).collect();
        if given == ["primary"] {
            return Ok(NodePortAddresses::Primary);
        }
        if given.contains(&"primary") {
            bail!("--nodeport-addresses: primary stands alone, or there are networks");
        }
        let parse = |value: &&str| {
            let network = value.parse::<IpNet>();
            network.with_context(|| format!("--nodeport-addresses: {value} is not a network"))
        };
        Ok(NodePortAddresses::Within(given.iter().map(parse).collect::<Result<_, _>>()?))
    }

    fn local_sources(&self) -> anyhow::Result<LocalSources> {
        let families = self.cluster_cidr.iter().map(|network| Family::of(network.addr()));
        let families: Vec<_> = families.collect();
        if families.len() > 2 || (families.len() == 2 && families[0] == families[1]) {
            bail!("--cluster-cidr: one network, or one of each family");
        }
        Ok(match self.detect_local_mode {
            DetectLocal::ClusterCidr if self.cluster_cidr.is_empty() => LocalSources::Unknown,
            DetectLocal::ClusterCidr => LocalSources::Cidrs(self.cluster_cidr.clone()),
            DetectLocal::NodeCidr => LocalSources::NodePodCidrs,
            DetectLocal::None => LocalSources::Unknown,
        })
    }
}

/// The Node's name: as told, or from the environment of a DaemonSet, or the host's.
fn node_name(told: Option<&str>) -> anyhow::Result<String> {
    let from_environment = std::env::var("NODE_NAME").ok();
    let name = match told.map(ToOwned::to_owned).or(from_environment) {
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

/// An address to listen on; nothing (an empty flag) means not to listen.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Bind {
    /// Do not listen.
    Off,
    /// Listen here.
    At(SocketAddr),
}

/// An address to listen on, with a port of its own if it names none.
fn bind(text: &str, port: u16) -> Result<Bind, String> {
    if text.is_empty() {
        return Ok(Bind::Off);
    }
    SocketAddr::from_str(text)
        .or_else(|_| IpAddr::from_str(text).map(|ip| SocketAddr::new(ip, port)))
        .map(Bind::At)
        .map_err(|_| format!("not ADDRESS:PORT; the default port is {port}"))
}

/// The value of `--metrics-bind-address`.
///
/// # Errors
/// If it is no address.
pub fn metrics_bind(text: &str) -> Result<Bind, String> {
    bind(text, 10249)
}

/// The value of `--healthz-bind-address`.
///
/// # Errors
/// If it is no address.
pub fn healthz_bind(text: &str) -> Result<Bind, String> {
    bind(text, 10256)
}

/// A duration such as `15m`, `1h30m` or `0`.
///
/// # Errors
/// If it is none, or negative.
pub fn duration(text: &str) -> Result<Duration, String> {
    if text == "0" {
        return Ok(Duration::ZERO);
    }
    let parsed = jiff::SignedDuration::from_str(text).ok();
    let positive = parsed.and_then(|duration| Duration::try_from(duration).ok());
    positive.ok_or_else(|| "not a duration such as 15m, 1h30m or 0".to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations_are_gos() {
        assert_eq!(duration("15m"), Ok(Duration::from_secs(900)));
        assert_eq!(duration("1h30m"), Ok(Duration::from_secs(5400)));
        assert_eq!(duration("0"), Ok(Duration::ZERO));
        assert_eq!(duration("0s"), Ok(Duration::ZERO));
        assert!(duration("-1s").is_err());
        assert!(duration("soon").is_err());
    }

    #[test]
    fn bind_addresses_may_leave_out_the_port_or_be_off() {
        assert_eq!(metrics_bind(""), Ok(Bind::Off));
        assert_eq!(metrics_bind("0.0.0.0"), Ok(Bind::At("0.0.0.0:10249".parse().unwrap())));
        assert_eq!(healthz_bind("[::]:1"), Ok(Bind::At("[::]:1".parse().unwrap())));
        assert_eq!(healthz_bind("::"), Ok(Bind::At("[::]:10256".parse().unwrap())));
        assert!(healthz_bind("localhost:1").is_err());
    }

    #[test]
    fn node_names_are_in_lower_case() {
        assert_eq!(node_name(Some(" Worker-1 ")).unwrap(), "worker-1");
    }
}
