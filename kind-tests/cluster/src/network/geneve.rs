//! Between nodes as Antrea or Cilium with GENEVE: a device for each other node and family, whose packets all go there.

use std::net::IpAddr;

use anyhow::Result;
use ipnet::IpNet;

use crate::host::Host;
use crate::link::{Hop, Route, alone};
use crate::numbering;

/// The virtual network identifier.
const VNI: u32 = 1;

/// Makes the device that leads to the pods of another node. Each has the address that the node has in the tunnel.
/// `checksums` is whether there are any outside; none: as the kernel has it.
pub(crate) fn introduce(
    node: &Host,
    own: &[IpNet],
    network: IpNet,
    via: IpAddr,
    mtu: u32,
    checksums: Option<bool>,
) -> Result<()> {
    let (family, number) = match network.network() {
        IpAddr::V4(address) => (4, address.octets()[2]),
        IpAddr::V6(address) => (6, address.octets()[7]),
    };
    let device = format!("geneve{number}.{family}");
    let other = numbering::in_network(network, numbering::VTEP);
    let mut links = node.netns.links();
    for own in own.iter().filter(|own| own.addr().is_ipv4() == via.is_ipv4()) {
        let own = numbering::in_network(*own, numbering::VTEP);
        links.add_geneve(&device, VNI, via, hardware(own), checksums)?;
        links.set_mtu(&device, mtu)?;
        links.add_address(&device, alone(own))?;
    }
    links.set_up(&device)?;
    links.set_neighbour(&device, other, hardware(other))?;
    links.set_route(&Route { destination: network, hop: Hop::OnLink { gateway: other, device } })
}

/// The hardware address of a node's end.
fn hardware(end: IpAddr) -> [u8; 6] {
    let (family, node) = match end {
        IpAddr::V4(address) => (4, address.octets()[2]),
        IpAddr::V6(address) => (6, address.octets()[7]),
    };
    [0x0a, 0x58, 0, 1, family, node]
}
