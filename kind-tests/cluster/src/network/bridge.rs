//! Pods as the CNI plugin bridge connects them: ports of the node's bridge `cni0`, whose address is their gateway.

use std::net::IpAddr;

use anyhow::{Context, Result};

use crate::host::{DEVICE, Host};
use crate::link::{Peer, everything};
use crate::numbering;

pub(super) const BRIDGE: &str = "cni0";

/// Gives a node its bridge. `seen` is whether netfilter sees what is switched on it.
pub(crate) fn prepare(node: &Host, gateways: &[IpAddr], seen: bool) -> Result<()> {
    let mut links = node.netns.links();
    links.add("bridge", BRIDGE)?;
    for gateway in gateways {
        links.add_address(BRIDGE, numbering::in_pod_network(*gateway))?;
    }
    links.set_up(BRIDGE)?;
    drop(links);
    watch(node, seen)
}

/// Sets whether netfilter sees what is switched on the node's bridges.
pub(crate) fn watch(node: &Host, seen: bool) -> Result<()> {
    for sysctl in ["bridge-nf-call-iptables", "bridge-nf-call-ip6tables"] {
        let path = format!("net.bridge.{sysctl}");
        let written = node.netns.sysctl(&path, if seen { "1" } else { "0" });
        if seen {
            written.context("bridged packets are not seen: modprobe br_netfilter")?;
        }
    }
    Ok(())
}

/// Makes a pod a port of the bridge. A port in hairpin mode also sends what came in through it: a pod that reaches
/// itself through a Service needs that where netfilter translates on the bridge.
pub(crate) fn connect(node: &Host, pod: &Host, device: &str) -> Result<()> {
    let peer = Peer { name: DEVICE, netns: pod.netns.fd() };
    {
        let mut links = node.netns.links();
        links.add_veth(device, None, &peer)?;
        links.set_up(device)?;
        links.set_master(device, BRIDGE)?;
        links.set_hairpin(device)?;
    }
    let mut links = pod.netns.links();
    for address in &pod.addresses {
        links.add_address(DEVICE, numbering::in_pod_network(*address))?;
    }
    links.set_up(DEVICE)?;
    drop(links);
    for address in &pod.addresses {
        pod.add_route(everything(*address), numbering::own_gateway(*address))?;
    }
    Ok(())
}
