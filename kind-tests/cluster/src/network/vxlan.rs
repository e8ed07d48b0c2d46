//! Between nodes as Flannel with VXLAN: a vtep for each family, `flannel.1` and `flannel-v6.1`, that learns nothing.
//! Whom a packet goes to stands in routes, neighbours and the forwarding database, one of each for each other node.

use std::net::IpAddr;

use anyhow::Result;
use ipnet::IpNet;

use crate::devices::Vtep;
use crate::host::{Family, Host};
use crate::link::{Hop, Route, alone};

/// Flannel's VXLAN network identifier.
const VNI: u32 = 1;
/// And its port, which is the kernel's own default too.
const PORT: u16 = 8472;

/// `checksums` is whether there are any outside; none: as the kernel has it.
pub(crate) fn prepare(
    node: &Host,
    own: &[IpAddr],
    mtu: u32,
    checksums: Option<bool>,
) -> Result<()> {
    let mut links = node.netns.links();
    for (underlay, own) in node.addresses.iter().zip(own) {
        let device = device(*own);
        let hardware = hardware(*own);
        let vtep = Vtep { id: VNI, port: PORT, local: *underlay, hardware, checksums };
        links.add_vxlan(device, &vtep)?;
        links.set_mtu(device, mtu)?;
        links.add_address(device, alone(*own))?;
        links.set_up(device)?;
    }
    Ok(())
}

pub(crate) fn introduce(node: &Host, network: IpNet, via: IpAddr) -> Result<()> {
    let mut links = node.netns.links();
    // The other's vtep has the first address of its network.
    let vtep = network.network();
    let device = device(vtep);
    links.set_neighbour(device, vtep, hardware(vtep))?;
    links.set_forwarding(device, hardware(vtep), via)?;
    links.set_route(&Route {
        destination: network,
        hop: Hop::OnLink { gateway: vtep, device: device.to_owned() },
    })
}

fn device(own: IpAddr) -> &'static str {
    match Family::of(own) {
        Family::V4 => "flannel.1",
        Family::V6 => "flannel-v6.1",
    }
}

/// The hardware address of a vtep.
fn hardware(vtep: IpAddr) -> [u8; 6] {
    let (family, node) = match vtep {
        IpAddr::V4(address) => (4, address.octets()[2]),
        IpAddr::V6(address) => (6, address.octets()[7]),
    };
    [0x0a, 0x58, 0, 0, family, node]
}
