//! Pods that are on the underlay themselves, as macvlan or ipvlan devices on their node's `eth0`. A node cannot talk with
//! those through `eth0`, so it has such a device, too: `shim0`, which is the pods' gateway; with ipvlan in mode L3 they
//! need none, and each node has the route to its own.

use std::net::IpAddr;

use anyhow::Result;

use crate::devices::Sharing;
use crate::host::{DEVICE, Host};
use crate::link::{Hop, Route, alone, everything};
use crate::numbering;

pub(super) const SHIM: &str = "shim0";

pub(crate) fn prepare(node: &Host, gateways: &[IpAddr], kind: Sharing) -> Result<()> {
    let mut links = node.netns.links();
    links.add_sharing(kind, SHIM, DEVICE, node.netns.fd())?;
    let network = if kind.routes() { numbering::in_pod_network } else { numbering::in_all_pods };
    for gateway in gateways {
        links.add_address(SHIM, network(*gateway))?;
    }
    links.set_up(SHIM)?;
    drop(links);
    if kind == Sharing::Ipvlan && gateways.iter().any(IpAddr::is_ipv4) {
        // Were it to ask who has a pod's address in the name of `eth0`, `eth0` would get the answer.
        node.netns.sysctl(&format!("net.ipv4.conf.{SHIM}.arp_announce"), "2")?;
    }
    Ok(())
}

pub(crate) fn connect(node: &Host, pod: &Host, kind: Sharing) -> Result<()> {
    node.netns.links().add_sharing(kind, DEVICE, DEVICE, pod.netns.fd())?;
    let mut links = pod.netns.links();
    let network = if kind.routes() { alone } else { numbering::in_all_pods };
    for address in &pod.addresses {
        links.add_address(DEVICE, network(*address))?;
    }
    links.set_up(DEVICE)?;
    if kind.routes() {
        let hop = || Hop::Device(DEVICE.to_owned());
        let routes =
            pod.addresses.iter().map(|to| Route { destination: everything(*to), hop: hop() });
        return routes.into_iter().try_for_each(|route| links.set_route(&route));
    }
    drop(links);
    for address in &pod.addresses {
        pod.add_route(everything(*address), numbering::own_gateway(*address))?;
    }
    Ok(())
}
