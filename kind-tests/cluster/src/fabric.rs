//! The underlay, and who is connected to it and how: nodes, clients and control plane share one bridge, in a namespace of
//! its own that nobody else is in. How pods are connected to their nodes and nodes to one another is the subject of
//! `network`.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::path::Path;
use std::sync::Mutex;

use anyhow::{Context, Result, ensure};
use ipnet::IpNet;

use crate::cluster::ClusterSpec;
use crate::host::{DEVICE, Families, Family, Host, Role};
use crate::link::{Peer, everything};
use crate::netns::{Netns, lock, write_sysctl};
use crate::network::cni::Settings;
#[cfg(feature = "tun")]
use crate::network::udp::Forwarder;
use crate::network::{
    Between, Network, Pods, bgp, bridge, cni, geneve, ipip, macvlan, masquerade, ptp, routed,
    tunnel, vxlan, wireguard,
};
use crate::numbering;
use crate::process::Process;

/// The bridge that is the underlay.
const BRIDGE: &str = "underlay";

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
    network: Network,
    /// Of the underlay, in bytes.
    mtu: u32,
    outer_checksums: Option<bool>,
    netns: Netns,
    /// By the node's name: what the network's daemon has written down there.
    settings: BTreeMap<String, Settings>,
    /// By the node's name, and one without: the BGP daemons.
    speakers: Mutex<BTreeMap<String, Process>>,
    /// By the node's name.
    #[cfg(feature = "tun")]
    forwarders: Mutex<BTreeMap<String, Forwarder>>,
}

impl Fabric {
    pub(crate) fn new(spec: &ClusterSpec, mtu: u32) -> Result<Self> {
        let ClusterSpec { families, network, outer_checksums, .. } = *spec;
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
        let mut speakers = BTreeMap::new();
        if network.between() == Between::Bgp {
            speakers.insert(String::new(), bgp::reflect(&netns, families)?);
        }
        Ok(Self {
            families,
            network,
            mtu,
            outer_checksums,
            netns,
            settings: BTreeMap::new(),
            speakers: Mutex::new(speakers),
            #[cfg(feature = "tun")]
            forwarders: Mutex::default(),
        })
    }

    /// Connects a node, a client or the control plane to the underlay.
    pub(crate) fn connect(&self, host: &Host, number: u8) -> Result<()> {
        self.try_connect(host, number)
            .with_context(|| format!("connecting {} to the underlay", host.name))
    }

    fn try_connect(&self, host: &Host, number: u8) -> Result<()> {
        let port = &format!("port{number}");
        prepare(&host.netns, self.families)?;
        let is_node = matches!(host.role, Role::Node { .. });
        if is_node {
            self.network.outer().map_or(Ok(()), |outer| prepare(&host.netns, outer.into()))?;
            forward(&host.netns, self.families)?;
        }
        let peer = Peer { name: DEVICE, netns: host.netns.fd() };
        self.netns.links().add_veth(port, None, &peer)?;
        {
            let mut links = host.netns.links();
            links.set_mtu(DEVICE, self.mtu)?;
            for address in &host.addresses {
                links.add_address(DEVICE, numbering::in_underlay(*address))?;
            }
            let foreign = self.network.foreign(self.families, Some(number)).filter(|_| is_node);
            if let Some(address) = foreign {
                links.add_address(DEVICE, numbering::in_underlay(address))?;
            }
            links.set_up(DEVICE)?;
        }
        {
            // A port that is up when it joins the bridge forwards at once.
            let mut links = self.netns.links();
            links.set_mtu(port, self.mtu)?;
            links.set_up(port)?;
            links.set_master(port, BRIDGE)?;
        }
        if is_node {
            // Without it, a process on the node cannot even try to connect to a ClusterIP.
            for gateway in numbering::underlay(self.families, numbering::GATEWAY) {
                host.add_route(everything(gateway), gateway)?;
            }
        }
        self.prepare_node(host, number)
    }

    /// Gives a node the devices of its network.
    fn prepare_node(&self, host: &Host, number: u8) -> Result<()> {
        let Role::Node { pod_networks } = &host.role else { return Ok(()) };
        let numbered = |number: u8| -> Vec<_> {
            let of_node = |network: &IpNet| numbering::in_network(*network, number);
            pod_networks.iter().map(of_node).collect()
        };
        let gateways = numbered(numbering::GATEWAY);
        match self.network.pods() {
            Pods::Bridge { seen } => bridge::prepare(host, &gateways, seen)?,
            Pods::OnLink(kind) => macvlan::prepare(host, &gateways, kind)?,
            Pods::Plugin("bridge") | Pods::Configured => bridge::watch(host, true)?,
            Pods::Routed | Pods::Ptp | Pods::Plugin(_) => {}
        }
        let mtu = self.network.mtu(self.mtu);
        match self.network.between() {
            Between::Bgp => self.announce(host, number, pod_networks)?,
            Between::Ipip => ipip::prepare(host, &gateways, mtu)?,
            Between::Vxlan => {
                let own = numbered(numbering::VTEP);
                vxlan::prepare(host, &own, mtu, self.outer_checksums)?;
            }
            Between::Udp => self.start_forwarder(host, &numbered(numbering::VTEP), mtu)?,
            Between::Wireguard => wireguard::prepare(host, &gateways, mtu)?,
            Between::Routes
            | Between::Geneve
            | Between::Tunnel(_)
            | Between::Nothing
            | Between::Daemon => {}
        }
        if self.network.masquerades() && !self.network.takes_daemons() {
            masquerade::prepare(host, pod_networks)?;
        }
        Ok(())
    }

    /// Tells `node` the way to the pods of `other`.
    pub(crate) fn introduce(&self, node: &Host, other: &Host) -> Result<()> {
        let Role::Node { pod_networks } = &other.role else {
            return Ok(());
        };
        // One device for both families.
        match self.network.between() {
            Between::Tunnel(kind) => {
                return tunnel::introduce(node, other, kind, self.network.mtu(self.mtu));
            }
            Between::Wireguard => return wireguard::introduce(node, other),
            _ => {}
        }
        for (network, via) in pod_networks.iter().zip(&other.addresses) {
            match self.network.between() {
                Between::Routes => node.add_route(*network, *via)?,
                Between::Bgp => bgp::wait_for(node, *network)?,
                Between::Ipip => ipip::introduce(node, *network, *via)?,
                Between::Vxlan => vxlan::introduce(node, *network, *via)?,
                Between::Geneve => {
                    let Role::Node { pod_networks: own } = &node.role else { continue };
                    let mtu = self.network.mtu(self.mtu);
                    geneve::introduce(node, own, *network, *via, mtu, self.outer_checksums)?;
                }
                Between::Udp => self.introduce_forwarder(node, *network, *via)?,
                Between::Tunnel(_) | Between::Wireguard | Between::Nothing | Between::Daemon => {}
            }
        }
        Ok(())
    }

    /// Has a node's BGP daemon announce these networks and no others, by starting another one.
    pub(crate) fn announce(&self, node: &Host, number: u8, networks: &[IpNet]) -> Result<()> {
        // Its predecessor must be gone: there is one port.
        lock(&self.speakers).remove(&node.name);
        let speaker = bgp::speak(node, number, networks)?;
        lock(&self.speakers).insert(node.name.clone(), speaker);
        Ok(())
    }

    /// Takes down what the network's daemon has written on a node.
    pub(crate) fn configure(&mut self, node: &str, settings: Settings) {
        self.settings.insert(node.to_owned(), settings);
    }

    fn settings(&self, node: &Host) -> Result<&Settings> {
        let settings = self.settings.get(&node.name);
        settings
            .with_context(|| format!("the network's daemon has written nothing on {}", node.name))
    }

    /// Connects a pod to its node.
    pub(crate) fn connect_pod(&self, node: &Host, pod: &Host) -> Result<()> {
        let Role::Pod { device, .. } = &pod.role else {
            return Ok(());
        };
        let connected = prepare(&pod.netns, self.families).and_then(|()| {
            match self.network.pods() {
                Pods::Routed => routed::connect(node, pod, device, self.families)?,
                Pods::Bridge { .. } => bridge::connect(node, pod, device)?,
                Pods::Ptp => ptp::connect(node, pod, device)?,
                Pods::Plugin(plugin) => {
                    return cni::add(node, pod, plugin, self.network.mtu(self.mtu));
                }
                Pods::OnLink(kind) => macvlan::connect(node, pod, kind)?,
                Pods::Configured => return cni::add_configured(node, pod, self.settings(node)?),
            }
            let mtu = self.network.mtu(self.mtu);
            pod.netns.links().set_mtu(DEVICE, mtu)?;
            match self.network.pods() {
                Pods::OnLink(_) => Ok(()),
                _ => node.netns.links().set_mtu(device, mtu),
            }
        });
        connected.with_context(|| format!("connecting the pod {} to {}", pod.name, node.name))
    }

    /// Takes a pod's device away, and with it its routes.
    pub(crate) fn disconnect_pod(&self, node: &Host, pod: &Host) -> Result<()> {
        let Role::Pod { device, .. } = &pod.role else {
            return Ok(());
        };
        match self.network.pods() {
            Pods::OnLink(_) => pod.netns.links().remove(DEVICE),
            Pods::Plugin(plugin) => cni::delete(node, pod, plugin, self.network.mtu(self.mtu)),
            Pods::Configured => cni::delete_configured(node, pod, self.settings(node)?),
            _ => node.netns.links().remove(device),
        }
    }

    #[cfg(feature = "tun")]
    fn start_forwarder(&self, node: &Host, own: &[IpAddr], mtu: u32) -> Result<()> {
        let forwarder = Forwarder::start(node, own, mtu)?;
        lock(&self.forwarders).insert(node.name.clone(), forwarder);
        Ok(())
    }

    #[cfg(feature = "tun")]
    fn introduce_forwarder(&self, node: &Host, network: IpNet, via: IpAddr) -> Result<()> {
        let forwarders = lock(&self.forwarders);
        let forwarder = forwarders.get(&node.name).context("a node has a forwarder")?;
        forwarder.introduce(node, network, via)
    }

    #[cfg(not(feature = "tun"))]
    fn start_forwarder(&self, _: &Host, _: &[IpAddr], _: u32) -> Result<()> {
        anyhow::bail!("{} takes the feature `tun`", self.network.name())
    }

    #[cfg(not(feature = "tun"))]
    fn introduce_forwarder(&self, node: &Host, _: IpNet, _: IpAddr) -> Result<()> {
        anyhow::bail!("{} has no forwarder", node.name)
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
