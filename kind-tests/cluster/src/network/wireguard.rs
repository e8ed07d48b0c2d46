//! Between nodes as Cilium with WireGuard: one `wg0` for all, whose peers are the other nodes, each with its pods' networks
//! and its own addresses as `allowed-ips`. It carries both families of pods, and is wrapped in the cluster's first.

use std::io::{Read, Write};
use std::net::{IpAddr, SocketAddr};
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::Duration;

use anyhow::{Context, Result, ensure};

use crate::host::{Host, Role};
use crate::link::{Hop, Route, alone};
use crate::numbering;

const DEVICE: &str = "wg0";
/// Where Debian has wireguard-tools, which set a device's keys and peers.
const PROGRAM: &str = "/usr/bin/wg";
/// That of WireGuard's own documentation.
const PORT: u16 = 51820;
/// It takes a millisecond.
const PATIENCE: Duration = Duration::from_secs(30);

/// Whether its tool is installed.
pub(crate) fn is_installed() -> bool {
    Path::new(PROGRAM).exists()
}

/// Gives a node its device, with an address of each family.
pub(crate) fn prepare(node: &Host, own: &[IpAddr], mtu: u32) -> Result<()> {
    {
        let mut links = node.netns.links();
        links.add("wireguard", DEVICE)?;
        links.set_mtu(DEVICE, mtu)?;
        for address in own {
            links.add_address(DEVICE, alone(*address))?;
        }
        links.set_up(DEVICE)?;
    }
    let port = PORT.to_string();
    let arguments = ["set", DEVICE, "listen-port", &port, "private-key", "/proc/self/fd/0"];
    wg(node, &arguments, &private_key(node.addresses[0])).map(drop)
}

/// Tells a node where another is, and whose packets may come from there: those of pods, and its own, which answer a pod
/// that has asked the node, or go to a pod through a Service.
pub(crate) fn introduce(node: &Host, other: &Host) -> Result<()> {
    let Role::Node { pod_networks } = &other.role else { return Ok(()) };
    let public = wg(node, &["pubkey"], &private_key(other.addresses[0]))?;
    let endpoint = SocketAddr::new(other.addresses[0], PORT).to_string();
    let allowed = pod_networks.iter().copied().chain(other.addresses.iter().copied().map(alone));
    let allowed = allowed.map(|network| network.to_string()).collect::<Vec<_>>().join(",");
    let peer = ["peer", public.trim_end(), "endpoint", &endpoint, "allowed-ips", &allowed];
    wg(node, &[&["set", DEVICE], &peer[..]].concat(), "")?;
    for network in pod_networks {
        let hop = Hop::Device(DEVICE.to_owned());
        node.netns.links().set_route(&Route { destination: *network, hop })?;
    }
    Ok(())
}

/// A node's private key, of which nothing is wanted but that it is another than its peers': 32 bytes in base64, with its
/// number where the curve fixes no bits.
fn private_key(node: IpAddr) -> String {
    format!("AA{:02}{}=", numbering::of_underlay(node), "A".repeat(39))
}

/// Runs the tool on a node, and returns what it prints.
fn wg(node: &Host, arguments: &[&str], input: &str) -> Result<String> {
    let mut command = Command::new(PROGRAM);
    command.args(arguments).stdin(Stdio::piped()).stdout(Stdio::piped());
    let mut running = node.netns.spawn(command).context("is wireguard-tools there?")?;
    let (to, from, _) = running.pipes();
    to.context("its input")?.write_all(input.as_bytes())?;
    let mut printed = String::new();
    from.context("its output")?.read_to_string(&mut printed)?;
    let status = running.wait_timeout(PATIENCE)?;
    ensure!(status.is_some_and(|status| status.success()), "wg {arguments:?}: {status:?}");
    Ok(printed)
}
