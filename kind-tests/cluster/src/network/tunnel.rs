//! Between nodes through the kernel's tunnels of one other end each: GRE, SIT and their like. Each device carries both
//! families of pods, whatever family wraps them.

use std::net::IpAddr;

use anyhow::Result;

use crate::devices::Tunnel;
use crate::host::{Family, Host, Role};
use crate::link::{Hop, Route, alone};
use crate::numbering;

impl Tunnel {
    /// The name of the device that leads to this node.
    fn device(self, to: IpAddr) -> String {
        format!("{}-{}", self.kind(), numbering::of_underlay(to))
    }
}

/// Makes the device that leads to another node's pods. Each has the addresses that the node has in the tunnel.
pub(crate) fn introduce(node: &Host, other: &Host, tunnel: Tunnel, mtu: u32) -> Result<()> {
    let (Role::Node { pod_networks: own }, Role::Node { pod_networks }) = (&node.role, &other.role)
    else {
        return Ok(());
    };
    let (local, remote) = (outside(node, tunnel.outer()), outside(other, tunnel.outer()));
    let device = tunnel.device(remote);
    let mut links = node.netns.links();
    links.add_tunnel(&device, tunnel, local, remote)?;
    links.set_mtu(&device, mtu)?;
    for own in own {
        links.add_address(&device, alone(numbering::in_network(*own, numbering::GATEWAY)))?;
    }
    links.set_up(&device)?;
    for network in pod_networks {
        let hop = Hop::Device(device.clone());
        links.set_route(&Route { destination: *network, hop })?;
    }
    Ok(())
}

/// A node's address on the underlay in a family, which the cluster need not have.
fn outside(node: &Host, family: Family) -> IpAddr {
    numbering::in_family(node.addresses[0], family)
}
