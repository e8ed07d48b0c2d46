//! What runs all the time while one proxy follows another.

use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

use anyhow::Result;
use shunt_cluster::{Connection, Load, LoadSpec, ProbeOptions, Protocol};

use super::NODE;
use crate::site::Site;

/// Connections held open, from a pod and the node, in both families.
pub(super) fn hold(site: &Site, ips: &[IpAddr]) -> Result<Vec<Connection>> {
    let from_to =
        ["shop-1", NODE].into_iter().flat_map(|from| ips.iter().map(move |ip| (from, ip)));
    let hold = |(from, ip): (&str, &IpAddr)| {
        let options = ProbeOptions::within(Duration::from_secs(10));
        Connection::open(site.host(from).netns(), SocketAddr::new(*ip, 80), &options)
    };
    from_to.map(hold).collect()
}

/// Constant load of so many new connections a second on a Service, from a pod, the node and outside.
pub(super) fn loads(
    site: &Site,
    ips: &[IpAddr],
    node_port: u16,
    per_second: u32,
) -> Result<Vec<Load>> {
    let flows = [
        ("shop-1", SocketAddr::new(ips[0], 80)),
        ("shop-1", SocketAddr::new(ips[1], 80)),
        (NODE, SocketAddr::new(ips[0], 80)),
        ("outside", SocketAddr::new(site.host(NODE).ip(), node_port)),
    ];
    let per_second = per_second / u32::try_from(flows.len())?;
    let start = |(from, destination): (&str, _)| {
        let spec = LoadSpec {
            protocol: Protocol::Tcp,
            destination,
            per_second,
            duration: Duration::from_secs(3600),
            timeout: Duration::from_secs(10),
        };
        Load::start(site.host(from).netns(), &spec)
    };
    flows.into_iter().map(start).collect()
}
