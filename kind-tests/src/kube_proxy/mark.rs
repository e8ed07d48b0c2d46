//! A Service that tells how far kube-proxy has come.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::process::Command;

use anyhow::{Context, Result, ensure};
use serde_json::json;
use shunt_cluster::{Families, Family, Netns};

use super::{Mode, Objects};

/// A namespace behind all others: what is in it is told last.
const NAMESPACE: &str = "zzz-mark";
const NAME: &str = "mark";
/// Port of the first mark; each next one has the next.
const FIRST_PORT: u16 = 20_000;

/// Adds the mark of a number, below 10,000, to objects.
pub fn add(objects: &mut Objects, families: Families, number: u16) {
    let addresses: Vec<_> = families.each().iter().map(|family| cluster_ip(*family)).collect();
    let port = FIRST_PORT + number;
    objects.add(json!({
        "kind": "Service",
        "metadata": { "name": NAME, "namespace": NAMESPACE },
        "spec": { "clusterIPs": addresses, "ports": [{ "name": "mark", "port": port, "targetPort": port }] },
    }));
    for family in families.each() {
        objects.add(json!({
            "kind": "EndpointSlice",
            "metadata": {
                "name": format!("{NAME}-{family:?}").to_lowercase(), "namespace": NAMESPACE,
                "labels": { "kubernetes.io/service-name": NAME },
            },
            "addressType": if *family == Family::V4 { "IPv4" } else { "IPv6" },
            "ports": [{ "name": "mark", "port": port }],
            "endpoints": [{ "addresses": [endpoint(*family)] }],
        }));
    }
}

/// Whether the ruleset of a namespace shows the mark of this number, in every family.
///
/// # Errors
/// If the ruleset cannot be read.
pub fn shows(netns: &Netns, mode: Mode, families: Families, number: u16) -> Result<bool> {
    for family in families.each() {
        let text = ruleset(netns, mode, *family)?;
        let port = FIRST_PORT + number;
        let (address, target) = (cluster_ip(*family), endpoint(*family));
        let (service, endpoint) = match mode {
            Mode::Nftables => {
                (format!("{address} . tcp . {port} "), format!(" : {target} . {port} "))
            }
            Mode::Iptables => (
                format!("--dport {port} "),
                format!("--to-destination {}", SocketAddr::new(target, port)),
            ),
        };
        if !(text.contains(&service) && text.contains(&endpoint)) {
            return Ok(false);
        }
    }
    Ok(true)
}

/// kube-proxy's rules, as its own tools print them; nothing where there is no table of it.
///
/// # Errors
/// If the tools are missing.
pub fn ruleset(netns: &Netns, mode: Mode, family: Family) -> Result<String> {
    let (program, arguments): (_, &[&str]) = match (mode, family) {
        (Mode::Nftables, Family::V4) => ("nft", &["list", "table", "ip", "kube-proxy"]),
        (Mode::Nftables, Family::V6) => ("nft", &["list", "table", "ip6", "kube-proxy"]),
        (Mode::Iptables, Family::V4) => ("iptables-save", &[]),
        (Mode::Iptables, Family::V6) => ("ip6tables-save", &[]),
    };
    let mut command = Command::new(program);
    command.args(arguments);
    let output = netns.run(move || command.output());
    let output =
        output.with_context(|| format!("starting {program}: kind-tests/install-tools.sh"))?;
    // nft fails where there is no table yet; the other prints nothing.
    ensure!(mode == Mode::Nftables || output.status.success(), "{program}: {}", output.status);
    Ok(String::from_utf8_lossy(&output.stdout).into_owned())
}

fn cluster_ip(family: Family) -> IpAddr {
    match family {
        Family::V4 => Ipv4Addr::new(10, 96, 255, 254).into(),
        Family::V6 => Ipv6Addr::new(0xfd00, 0x10, 0x96, 0, 0, 0, 0, 0xfffe).into(),
    }
}

/// Nobody's address.
fn endpoint(family: Family) -> IpAddr {
    match family {
        Family::V4 => Ipv4Addr::new(192, 0, 2, 254).into(),
        Family::V6 => Ipv6Addr::new(0x2001, 0xdb8, 0xffff, 0, 0, 0, 0, 0xfffe).into(),
    }
}
