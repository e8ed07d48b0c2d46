//! Pods as Calico connects them: an address of full length, and a default route to a gateway that the node answers for:
//! 169.254.1.1 by proxy ARP, fe80::1 as an address of the node's end of the veth pair. The node has a route per pod.

use anyhow::Result;

use crate::host::{DEVICE, Families, Family, Host};
use crate::link::{Hop, Peer, Route, alone, everything};
use crate::netns::write_sysctl;
use crate::numbering;

/// The hardware address of the node's end of every pod's veth pair, as Calico has it.
const NODE_END: [u8; 6] = [0xee; 6];

pub(crate) fn connect(node: &Host, pod: &Host, device: &str, families: Families) -> Result<()> {
    let peer = Peer { name: DEVICE, netns: pod.netns.fd() };
    node.netns.links().add_veth(device, Some(NODE_END), &peer)?;
    answer_as_gateway(node, device, families)?;
    node_end(node, pod, device, families)?;

    let mut links = pod.netns.links();
    for address in &pod.addresses {
        links.add_address(DEVICE, alone(*address))?;
    }
    links.set_up(DEVICE)?;
    for address in &pod.addresses {
        let gateway = numbering::pod_gateway(*address);
        links.set_route(&Route {
            destination: everything(*address),
            hop: Hop::OnLink { gateway, device: DEVICE.to_owned() },
        })?;
    }
    Ok(())
}

/// The node's end of the veth pair: up, with the route to the pod.
fn node_end(node: &Host, pod: &Host, device: &str, families: Families) -> Result<()> {
    let mut links = node.netns.links();
    if families.each().contains(&Family::V6) {
        let gateway = numbering::POD_GATEWAY_V6.into();
        links.add_address(device, numbering::in_underlay(gateway))?;
    }
    links.set_up(device)?;
    for address in &pod.addresses {
        links.set_route(&Route {
            destination: alone(*address),
            hop: Hop::Device(device.to_owned()),
        })?;
    }
    Ok(())
}

/// Lets the node answer ARP for 169.254.1.1 on this device, without the pause that proxies make by default.
fn answer_as_gateway(node: &Host, device: &str, families: Families) -> Result<()> {
    if !families.each().contains(&Family::V4) {
        return Ok(());
    }
    let proxy_arp = format!("net/ipv4/conf/{device}/proxy_arp");
    let no_delay = format!("net/ipv4/neigh/{device}/proxy_delay");
    node.netns.run(move || {
        write_sysctl(&proxy_arp, "1")?;
        write_sysctl(&no_delay, "0")
    })
}
