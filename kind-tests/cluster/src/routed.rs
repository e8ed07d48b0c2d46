//! The data plane: plain routes, as Calico without an overlay lays them.
//!
//! A pod has one address of full length and a default route to a gateway that its node answers for: 169.254.1.1 by
//! proxy ARP, fe80::1 as an address of the node's end of the veth pair. A node has one route per pod, and one per
//! other node for that node's pods. Nodes, clients and control plane share one bridge, the underlay, in a namespace of
//! its own that nobody else is in.

use std::path::Path;

use anyhow::{Context, Result, ensure};

use crate::host::{DEVICE, Families, Family, Host, Role};
use crate::link::{Hop, Peer, Route, alone, everything};
use crate::netns::{Netns, write_sysctl};
use crate::numbering;

/// The bridge that is the underlay.
const BRIDGE: &str = "underlay";
/// The hardware address of the node's end of every pod's veth pair, as Calico has it.
const NODE_END: [u8; 6] = [0xee; 6];

type Sysctls = &'static [(&'static str, &'static str)];

/// For every namespace: nothing inherited from the machine, no filter on the return path, and no limits that make a
/// test's outcome depend on how many probes went before it.
const BASE_V4: Sysctls = &[
    ("net.ipv4.ip_forward", "0"),
    ("net.ipv4.conf.all.rp_filter", "0"),
    ("net.ipv4.conf.default.rp_filter", "0"),
    ("net.ipv4.conf.all.accept_redirects", "0"),
    ("net.ipv4.conf.default.accept_redirects", "0"),
    ("net.ipv4.conf.all.send_redirects", "0"),
    ("net.ipv4.conf.default.send_redirects", "0"),
    // Every refusal is told, not only the first ones: no type of message is limited.
    ("net.ipv4.icmp_ratemask", "0"),
    // A load of short connections does not run out of ports.
    ("net.ipv4.tcp_tw_reuse", "1"),
];

/// The same for IPv6; addresses work at once, without duplicate detection.
const BASE_V6: Sysctls = &[
    ("net.ipv6.conf.all.disable_ipv6", "0"),
    ("net.ipv6.conf.default.disable_ipv6", "0"),
    ("net.ipv6.conf.all.forwarding", "0"),
    ("net.ipv6.conf.all.accept_dad", "0"),
    ("net.ipv6.conf.default.accept_dad", "0"),
    ("net.ipv6.conf.default.accept_ra", "0"),
    ("net.ipv6.conf.default.router_solicitations", "0"),
    ("net.ipv6.conf.all.accept_redirects", "0"),
    ("net.ipv6.conf.default.accept_redirects", "0"),
    // This one is a list of types: 0, which does not exist, is the only one limited.
    ("net.ipv6.icmp.ratemask", "0"),
];

const FORWARD_V4: Sysctls = &[("net.ipv4.ip_forward", "1")];
const FORWARD_V6: Sysctls = &[("net.ipv6.conf.all.forwarding", "1")];

/// The underlay, and the knowledge of how to connect hosts to it and pods to their node.
pub(crate) struct Fabric {
    families: Families,
    netns: Netns,
}

impl Fabric {
    pub(crate) fn new(families: Families) -> Result<Self> {
        let v6 = families.each().contains(&Family::V6);
        ensure!(
            !v6 || Path::new("/proc/sys/net/ipv6").exists(),
            "this kernel runs without IPv6 (started with ipv6.disable=1?): take IPv4 only"
        );
        let netns = Netns::new("fabric")?;
        prepare(&netns, families)?;
        {
            let mut links = netns.links();
            links.add("bridge", BRIDGE)?;
            for address in numbering::underlay(families, numbering::GATEWAY) {
                links.add_address(BRIDGE, numbering::in_underlay(address))?;
            }
            links.set_up(BRIDGE)?;
        }
        Ok(Self { families, netns })
    }

    /// Connects a node, a client or the control plane to the underlay.
    pub(crate) fn connect(&self, host: &Host, number: u8) -> Result<()> {
        self.try_connect(host, &format!("port{number}"))
            .with_context(|| format!("connecting {} to the underlay", host.name))
    }

    fn try_connect(&self, host: &Host, port: &str) -> Result<()> {
        prepare(&host.netns, self.families)?;
        let is_node = matches!(host.role, Role::Node { .. });
        if is_node {
            forward(&host.netns, self.families)?;
        }
        let peer = Peer { name: DEVICE, netns: host.netns.fd() };
        self.netns.links().add_veth(port, None, &peer)?;
        {
            let mut links = host.netns.links();
            for address in &host.addresses {
                links.add_address(DEVICE, numbering::in_underlay(*address))?;
            }
            links.set_up(DEVICE)?;
        }
        {
            // A port that is up when it joins the bridge forwards at once.
            let mut links = self.netns.links();
            links.set_up(port)?;
            links.set_master(port, BRIDGE)?;
        }
        if is_node {
            // Without it, a process on the node cannot even try to connect to a ClusterIP.
            for gateway in numbering::underlay(self.families, numbering::GATEWAY) {
                host.add_route(everything(gateway), gateway)?;
            }
        }
        Ok(())
    }

    /// Gives `node` the routes to the pods of `other`.
    pub(crate) fn introduce(&self, node: &Host, other: &Host) -> Result<()> {
        let Role::Node { pod_networks } = &other.role else {
            return Ok(());
        };
        for (network, via) in pod_networks.iter().zip(&other.addresses) {
            node.add_route(*network, *via)?;
        }
        Ok(())
    }

    /// Connects a pod to its node.
    pub(crate) fn connect_pod(&self, node: &Host, pod: &Host) -> Result<()> {
        self.try_connect_pod(node, pod)
            .with_context(|| format!("connecting the pod {} to {}", pod.name, node.name))
    }

    fn try_connect_pod(&self, node: &Host, pod: &Host) -> Result<()> {
        let Role::Pod { device, .. } = &pod.role else {
            return Ok(());
        };
        prepare(&pod.netns, self.families)?;
        let peer = Peer { name: DEVICE, netns: pod.netns.fd() };
        node.netns.links().add_veth(device, Some(NODE_END), &peer)?;
        self.answer_as_gateway(node, device)?;
        self.node_end(node, pod, device)?;

        let mut links = pod.netns.links();
        for address in &pod.addresses {
            links.add_address(DEVICE, alone(*address))?;
        }
        links.set_up(DEVICE)?;
        for address in &pod.addresses {
            links.set_route(&Route {
                destination: everything(*address),
                hop: Hop::OnLink {
                    gateway: numbering::pod_gateway(*address),
                    device: DEVICE.to_owned(),
                },
            })?;
        }
        Ok(())
    }

    /// The node's end of the veth pair: up, with the route to the pod.
    fn node_end(&self, node: &Host, pod: &Host, device: &str) -> Result<()> {
        let mut links = node.netns.links();
        if self.families.each().contains(&Family::V6) {
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
    fn answer_as_gateway(&self, node: &Host, device: &str) -> Result<()> {
        if !self.families.each().contains(&Family::V4) {
            return Ok(());
        }
        let proxy_arp = format!("net/ipv4/conf/{device}/proxy_arp");
        let no_delay = format!("net/ipv4/neigh/{device}/proxy_delay");
        node.netns.run(move || {
            write_sysctl(&proxy_arp, "1")?;
            write_sysctl(&no_delay, "0")
        })
    }
}

fn prepare(netns: &Netns, families: Families) -> Result<()> {
    apply(netns, families, BASE_V4, BASE_V6)
}

fn forward(netns: &Netns, families: Families) -> Result<()> {
    apply(netns, families, FORWARD_V4, FORWARD_V6)
}

fn apply(netns: &Netns, families: Families, v4: Sysctls, v6: Sysctls) -> Result<()> {
    let lists = families.each().iter().map(|family| match family {
        Family::V4 => v4,
        Family::V6 => v6,
    });
    let sysctls: Vec<_> = lists.flatten().copied().collect();
    netns.run(move || {
        let mut all = sysctls.iter();
        all.try_for_each(|(path, value)| write_sysctl(path, value))
    })
}
