//! Between nodes as Calico with IPIP: one `tunl0` for all, and routes through it whose gateway is the other node's
//! address on the underlay. IPv6 takes plain routes, as Calico's does.

use std::net::IpAddr;

use anyhow::Result;
use ipnet::IpNet;

use crate::host::{Family, Host};
use crate::link::{Hop, Route, alone};

const DEVICE: &str = "tunl0";

pub(crate) fn prepare(node: &Host, own: &[IpAddr], mtu: u32) -> Result<()> {
    let mut links = node.netns.links();
    if links.index(DEVICE).is_err() {
        links.add("ipip", DEVICE)?;
    }
    for address in own.iter().filter(|own| Family::of(**own) == Family::V4) {
        links.add_address(DEVICE, alone(*address))?;
    }
    links.set_mtu(DEVICE, mtu)?;
    links.set_up(DEVICE)
}

pub(crate) fn introduce(node: &Host, network: IpNet, via: IpAddr) -> Result<()> {
    match Family::of(via) {
        Family::V6 => node.add_route(network, via),
        Family::V4 => node.netns.links().set_route(&Route {
            destination: network,
            hop: Hop::OnLink { gateway: via, device: DEVICE.to_owned() },
        }),
    }
}
