//! The kinds of networks that a cluster can have: how a pod is connected to its node, and how packets get to another.
//!
//! Each is made of the kernel's own devices, as the CNI it is named for makes them.

pub(crate) mod bgp;
pub(crate) mod bridge;
pub(crate) mod cni;
pub(crate) mod geneve;
pub(crate) mod ipip;
pub(crate) mod macvlan;
pub(crate) mod masquerade;
pub(crate) mod ptp;
pub(crate) mod routed;
pub(crate) mod tunnel;
#[cfg(feature = "tun")]
pub(crate) mod udp;
pub(crate) mod vxlan;
pub(crate) mod wireguard;

use std::net::IpAddr;
use std::path::Path;

use anyhow::Result;
use ipnet::IpNet;

use crate::devices::{Sharing, Tunnel};
use crate::host::{DEVICE, Families, Family};
use crate::link::Links;
use crate::netns::Netns;
use crate::numbering;

/// The data plane of a cluster.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Network {
    /// As Calico without an overlay: routed veth pairs, plain routes between nodes.
    #[default]
    Routed,
    /// As Calico with IPIP: the same, and IPv4 between nodes through `tunl0`.
    Ipip,
    /// As Calico with BGP: routed veth pairs, and routes between nodes that a BGP daemon learns.
    Bgp,
    /// As Docker: pods on a bridge; netfilter sees what is switched (`br_netfilter`).
    Bridge,
    /// The same, and netfilter does not see it.
    BridgeUnseen,
    /// As Flannel with host-gw: pods on `cni0`, plain routes between nodes, Flannel's masquerade rules.
    FlannelHostGw,
    /// As Flannel with VXLAN: pods on `cni0`, the vtep `flannel.1`, Flannel's masquerade rules.
    FlannelVxlan,
    /// As Flannel with UDP: pods on `cni0`, the TUN device `flannel0` with a forwarder behind, Flannel's rules.
    FlannelUdp,
    /// As the CNI plugin ptp: a veth pair whose node's end has the gateway's address, plain routes between nodes.
    Ptp,
    /// The stock CNI plugin bridge, from Debian, with `br_netfilter`; plain routes between nodes.
    CniBridge,
    /// The stock CNI plugin ptp; plain routes between nodes.
    CniPtp,
    /// Pods are macvlan devices on the underlay, and so is the node's `shim0`, their gateway.
    Macvlan,
    /// The same with ipvlan in mode L2.
    Ipvlan,
    /// The same in mode L3: what pods send is routed in their node's namespace, what comes for them is not.
    IpvlanL3,
    /// The same in mode L3S: what comes for pods passes their node's prerouting and input.
    IpvlanL3s,
    /// As Antrea or Cilium with GENEVE: routed veth pairs, a tunnel to each other node.
    Geneve,
    /// Routed veth pairs, and a GRE tunnel over IPv4 to each other node, for both families.
    Gre,
    /// The same over IPv6.
    Ip6Gre,
    /// The same without GRE: packets in packets of IPv4.
    Sit,
    /// Packets in packets of IPv6.
    Ip6Tnl,
    /// As Calico or Cilium with WireGuard: routed veth pairs, and `wg0` to all other nodes.
    Wireguard,
    /// Whatever Flannel's own daemon makes of it, on an API server; the stock CNI plugins bridge and host-local do what
    /// it leaves for them ([`crate::Cluster::configure`]).
    Flanneld,
}

/// A way in and out of a node by one link.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Way {
    /// The device that packets come in by.
    pub input: &'static str,
    /// The one they leave by.
    pub output: &'static str,
    /// The networks of the pods on that link.
    pub clients: Vec<IpNet>,
    /// The networks that `output` leads to.
    pub endpoints: Vec<IpNet>,
}

/// How a pod is connected to its node.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Pods {
    Routed,
    Bridge {
        seen: bool,
    },
    Ptp,
    /// What a stock CNI plugin makes.
    Plugin(&'static str),
    /// Devices that share the node's own.
    OnLink(Sharing),
    /// What the stock CNI plugin bridge makes of what its network's daemon has written down.
    Configured,
}

/// How packets get from node to node.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Between {
    Routes,
    Ipip,
    Bgp,
    Vxlan,
    Geneve,
    Tunnel(Tunnel),
    Wireguard,
    Udp,
    /// The pods are on one link.
    Nothing,
    /// A daemon sees to it.
    Daemon,
}

impl Network {
    /// All.
    pub const ALL: [Self; 22] = [
        Self::Routed,
        Self::Ipip,
        Self::Bgp,
        Self::Bridge,
        Self::BridgeUnseen,
        Self::FlannelHostGw,
        Self::FlannelVxlan,
        Self::FlannelUdp,
        Self::Ptp,
        Self::CniBridge,
        Self::CniPtp,
        Self::Macvlan,
        Self::Ipvlan,
        Self::IpvlanL3,
        Self::IpvlanL3s,
        Self::Geneve,
        Self::Gre,
        Self::Ip6Gre,
        Self::Sit,
        Self::Ip6Tnl,
        Self::Wireguard,
        Self::Flanneld,
    ];

    /// Its name, for people and for tests.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Routed => "routed",
            Self::Ipip => "ipip",
            Self::Bgp => "bgp",
            Self::Bridge => "bridge",
            Self::BridgeUnseen => "bridge-unseen",
            Self::FlannelHostGw => "flannel-host-gw",
            Self::FlannelVxlan => "flannel-vxlan",
            Self::FlannelUdp => "flannel-udp",
            Self::Ptp => "ptp",
            Self::CniBridge => "cni-bridge",
            Self::CniPtp => "cni-ptp",
            Self::Macvlan => "macvlan",
            Self::Ipvlan => "ipvlan",
            Self::IpvlanL3 => "ipvlan-l3",
            Self::IpvlanL3s => "ipvlan-l3s",
            Self::Geneve => "geneve",
            Self::Gre => "gre",
            Self::Ip6Gre => "ip6gre",
            Self::Sit => "sit",
            Self::Ip6Tnl => "ip6tnl",
            Self::Wireguard => "wireguard",
            Self::Flanneld => "flanneld",
        }
    }

    /// The one of this name.
    #[must_use]
    pub fn named(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|network| network.name() == name)
    }

    /// Whether this kernel has the devices, and this machine the plugins.
    #[must_use]
    pub fn is_possible_here(self) -> bool {
        let netfilter_sees = || Path::new("/proc/sys/net/bridge").exists();
        let has = |add: &dyn Fn(&mut Links, &Netns) -> Result<()>| {
            Netns::new("devices").is_ok_and(|netns| add(&mut netns.links(), &netns).is_ok())
        };
        let has_devices = match (self.pods(), self.between()) {
            (_, Between::Ipip) => has(&|links, _| links.add("ipip", "probe")),
            (_, Between::Geneve) => {
                let remote = numbering::POD_GATEWAY_V4.into();
                has(&|links, _| links.add_geneve("probe", 1, remote, [2, 0, 0, 0, 0, 1], None))
            }
            (_, Between::Tunnel(kind)) => {
                let end = |number| numbering::underlay(kind.outer().into(), number)[0];
                has(&|links, _| links.add_tunnel("probe", kind, end(1), end(2)))
            }
            (_, Between::Wireguard) => {
                wireguard::is_installed() && has(&|links, _| links.add("wireguard", "probe"))
            }
            (Pods::OnLink(kind), _) => has(&|links, netns| {
                links.add("bridge", "lower")?;
                links.add_sharing(kind, "probe", "lower", netns.fd())
            }),
            _ => true,
        };
        let sees = matches!(
            self.pods(),
            Pods::Bridge { seen: true } | Pods::Plugin("bridge") | Pods::Configured
        );
        (!sees || netfilter_sees())
            && (!matches!(self.pods(), Pods::Plugin(_) | Pods::Configured) || cni::is_installed())
            && has_devices
            && (self.between() != Between::Bgp || bgp::is_installed())
    }

    pub(crate) const fn pods(self) -> Pods {
        match self {
            Self::Routed
            | Self::Ipip
            | Self::Bgp
            | Self::Geneve
            | Self::Gre
            | Self::Ip6Gre
            | Self::Sit
            | Self::Ip6Tnl
            | Self::Wireguard => Pods::Routed,
            Self::BridgeUnseen => Pods::Bridge { seen: false },
            Self::Bridge | Self::FlannelHostGw | Self::FlannelVxlan | Self::FlannelUdp => {
                Pods::Bridge { seen: true }
            }
            Self::Ptp => Pods::Ptp,
            Self::CniBridge => Pods::Plugin("bridge"),
            Self::CniPtp => Pods::Plugin("ptp"),
            Self::Macvlan => Pods::OnLink(Sharing::Macvlan),
            Self::Ipvlan => Pods::OnLink(Sharing::Ipvlan),
            Self::IpvlanL3 => Pods::OnLink(Sharing::IpvlanL3),
            Self::IpvlanL3s => Pods::OnLink(Sharing::IpvlanL3s),
            Self::Flanneld => Pods::Configured,
        }
    }

    pub(crate) const fn between(self) -> Between {
        match self {
            Self::Routed
            | Self::Bridge
            | Self::BridgeUnseen
            | Self::FlannelHostGw
            | Self::Ptp
            | Self::CniBridge
            | Self::CniPtp
            | Self::IpvlanL3
            | Self::IpvlanL3s => Between::Routes,
            Self::Ipip => Between::Ipip,
            Self::Bgp => Between::Bgp,
            Self::FlannelVxlan => Between::Vxlan,
            Self::FlannelUdp => Between::Udp,
            Self::Macvlan | Self::Ipvlan => Between::Nothing,
            Self::Geneve => Between::Geneve,
            Self::Gre => Between::Tunnel(Tunnel::Gre),
            Self::Ip6Gre => Between::Tunnel(Tunnel::Ip6Gre),
            Self::Sit => Between::Tunnel(Tunnel::Sit),
            Self::Ip6Tnl => Between::Tunnel(Tunnel::Ip6Tnl),
            Self::Wireguard => Between::Wireguard,
            Self::Flanneld => Between::Daemon,
        }
    }

    /// Whether a daemon makes it, which takes an API server: a cluster cannot have it by itself.
    #[must_use]
    pub const fn takes_daemons(self) -> bool {
        matches!(self.between(), Between::Daemon)
    }

    /// Whether the network itself gives packets of pods to anyone but pods their node's address.
    #[must_use]
    pub const fn masquerades(self) -> bool {
        matches!(self, Self::FlannelHostGw | Self::FlannelVxlan | Self::FlannelUdp | Self::Flanneld)
    }

    /// Whether packets between two pods that are on one link pass no netfilter hook of their nodes.
    #[must_use]
    pub const fn is_blind(self) -> bool {
        matches!(self.pods(), Pods::Bridge { seen: false } | Pods::OnLink(_))
    }

    /// Whether pods are on the nodes' own link: what they say to one another passes no node at all.
    #[must_use]
    pub const fn is_on_link(self) -> bool {
        matches!(self.pods(), Pods::OnLink(sharing) if !sharing.routes())
    }

    /// Whether what a pod sends is to its node as if one of its own processes had sent it, by no interface.
    #[must_use]
    pub const fn sends_as_node(self) -> bool {
        matches!(self.pods(), Pods::OnLink(sharing) if sharing.routes())
    }

    /// The device of a node by which the packets of all its pods come in, if there is one.
    #[must_use]
    pub const fn input(self) -> Option<&'static str> {
        match self.pods() {
            Pods::Bridge { .. } | Pods::Configured => Some(bridge::BRIDGE),
            Pods::Plugin(plugin) if matches!(plugin.as_bytes(), b"bridge") => Some(bridge::BRIDGE),
            Pods::OnLink(Sharing::Macvlan) => Some(macvlan::SHIM),
            // They have the hardware address of their node.
            Pods::OnLink(Sharing::Ipvlan) => Some(DEVICE),
            _ => None,
        }
    }

    /// The ways in and out of node `index` (from 1) by a link whose packets pass no netfilter hook of it.
    #[must_use]
    pub fn blind_ways(self, families: Families, index: u8) -> Vec<Way> {
        let gateways = numbering::pod(families, index, numbering::GATEWAY);
        let networks = |of: &[IpAddr], length: fn(IpAddr) -> IpNet| -> Vec<_> {
            of.iter().map(|ip| length(*ip).trunc()).collect()
        };
        let way = |input, output, clients: &[IpNet], endpoints: &[IpNet]| Way {
            input,
            output,
            clients: clients.to_vec(),
            endpoints: endpoints.to_vec(),
        };
        match self.pods() {
            Pods::Bridge { seen: false } => {
                let own = networks(&gateways, numbering::in_pod_network);
                vec![way(bridge::BRIDGE, bridge::BRIDGE, &own, &own)]
            }
            Pods::OnLink(kind) if !kind.routes() => {
                let pods = networks(&gateways, numbering::in_all_pods);
                let underlay = numbering::underlay(families, numbering::GATEWAY);
                let hosts = networks(&underlay, numbering::in_underlay);
                let inputs = [macvlan::SHIM, DEVICE].into_iter();
                inputs
                    .flat_map(|input| {
                        let to_pods = way(input, macvlan::SHIM, &pods, &pods);
                        [to_pods, way(input, DEVICE, &pods, &hosts)]
                    })
                    .collect()
            }
            _ => Vec::new(),
        }
    }

    /// The family that packets between nodes are wrapped in whatever the cluster's families are, if there is one.
    pub(crate) const fn outer(self) -> Option<Family> {
        match self.between() {
            Between::Tunnel(tunnel) => Some(tunnel.outer()),
            _ => None,
        }
    }

    /// The addresses that node `index` (from 1) has in this network besides those on the underlay.
    #[must_use]
    pub fn node_addresses(self, families: Families, index: u8) -> Vec<IpAddr> {
        let mut addresses = Vec::new();
        if self.pods() != Pods::Routed {
            addresses.extend(numbering::pod(families, index, numbering::GATEWAY));
        }
        match self.between() {
            Between::Ipip => {
                let own = numbering::pod(families, index, numbering::GATEWAY).into_iter();
                addresses.extend(own.filter(|own| Family::of(*own) == Family::V4));
            }
            // Not the network's first: it is an anycast address, too, to which no router tells what it has dropped.
            Between::Tunnel(_) | Between::Wireguard => {
                addresses.extend(numbering::pod(families, index, numbering::GATEWAY));
            }
            Between::Vxlan | Between::Geneve | Between::Udp | Between::Daemon => {
                addresses.extend(numbering::pod(families, index, numbering::VTEP));
            }
            Between::Routes | Between::Bgp | Between::Nothing => {}
        }
        addresses.extend(self.foreign(families, numbering::node_number(index.into())));
        addresses
    }

    /// The address on the underlay that a node needs besides those of the cluster's families, as packets are wrapped in
    /// another.
    pub(crate) fn foreign(self, families: Families, number: Option<u8>) -> Option<IpAddr> {
        let outer = self.outer().filter(|outer| !families.each().contains(outer))?;
        let own = numbering::underlay(families, number?);
        Some(numbering::in_family(own[0], outer))
    }

    /// The longest packet, in bytes, that a pod sends in one piece: what that of the underlay leaves after the tunnel's
    /// headers.
    #[must_use]
    pub const fn mtu(self, underlay: u32) -> u32 {
        match self.between() {
            Between::Routes | Between::Bgp | Between::Nothing => underlay,
            // An IPv4 header.
            Between::Ipip => underlay - 20,
            // IPv6, UDP, VXLAN or GENEVE, and Ethernet headers.
            Between::Vxlan | Between::Geneve | Between::Daemon => underlay - 70,
            Between::Tunnel(tunnel) => underlay - tunnel.overhead(),
            // IPv6, UDP, and WireGuard's own: what its device has by default.
            Between::Wireguard => underlay - 80,
            // IPv6 and UDP headers.
            Between::Udp => underlay - 48,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_read_back() {
        for network in Network::ALL {
            assert_eq!(Network::named(network.name()), Some(network));
        }
        assert_eq!(Network::named("none"), None);
    }

    #[test]
    fn a_node_has_an_address_at_each_of_its_devices() {
        let text = |network: Network| {
            let addresses = network.node_addresses(Families::Dual, 2).into_iter();
            addresses.map(|address| address.to_string()).collect::<Vec<_>>().join(" ")
        };
        assert_eq!(text(Network::Routed), "");
        assert_eq!(text(Network::Ipip), "10.77.2.1");
        assert_eq!(text(Network::Sit), "10.77.2.1 fd00:10:77:2::1");
        let foreign = |network: Network, families| network.foreign(families, Some(12));
        assert_eq!(foreign(Network::Sit, Families::Dual), None);
        assert_eq!(foreign(Network::Sit, Families::V6), "192.168.77.12".parse().ok());
        assert_eq!(foreign(Network::Ip6Gre, Families::V4), "fd00:77::12".parse().ok());
        assert_eq!(text(Network::Ptp), "10.77.2.1 fd00:10:77:2::1");
        assert_eq!(
            text(Network::FlannelVxlan),
            "10.77.2.1 fd00:10:77:2::1 10.77.2.0 fd00:10:77:2::"
        );
    }
}
