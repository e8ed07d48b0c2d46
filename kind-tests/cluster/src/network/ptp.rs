//! Pods as the CNI plugin ptp connects them: a veth pair, whose end on the node has the gateway's address.

use anyhow::Result;

use crate::host::{DEVICE, Host};
use crate::link::{Hop, Peer, Route, alone, everything};
use crate::numbering;

pub(crate) fn connect(node: &Host, pod: &Host, device: &str) -> Result<()> {
    let peer = Peer { name: DEVICE, netns: pod.netns.fd() };
    {
        let mut links = node.netns.links();
        links.add_veth(device, None, &peer)?;
        for address in &pod.addresses {
            links.add_address(device, alone(numbering::own_gateway(*address)))?;
        }
        links.set_up(device)?;
        for address in &pod.addresses {
            let hop = Hop::Device(device.to_owned());
            links.set_route(&Route { destination: alone(*address), hop })?;
        }
    }
    let mut links = pod.netns.links();
    for address in &pod.addresses {
        links.add_address(DEVICE, alone(*address))?;
    }
    links.set_up(DEVICE)?;
    for address in &pod.addresses {
        let gateway = numbering::own_gateway(*address);
        let hop = Hop::OnLink { gateway, device: DEVICE.to_owned() };
        links.set_route(&Route { destination: everything(*address), hop })?;
    }
    Ok(())
}
