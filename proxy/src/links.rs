//! The network interfaces of this machine, and which of their packets netfilter sees.
//!
//! What is switched between two ports of a bridge is not routed. `br_netfilter` shows it to netfilter's hooks of IP if the
//! sysctl of the network namespace says so (`net.bridge.bridge-nf-call-iptables`), or the bridge itself
//! (`br_nf_pre_routing`, `net/bridge/br_netfilter_hooks.c`).

use std::collections::BTreeSet;
use std::fs;
use std::net::IpAddr;
use std::path::Path;

use ipnet::IpNet;
use shunt_model::address::Family;
use shunt_model::plan::BlindLink;
use shunt_netlink::{Message, Socket, attributes};

use crate::addresses::{self, Address};

/// `NETLINK_ROUTE`, `RTM_NEWLINK`, `RTM_GETLINK`, `IFLA_*`, `IFLA_INFO_*`, `IFLA_BRPORT_MODE`, `IFLA_BR_NF_CALL_*`
/// (`include/uapi/linux/rtnetlink.h`, `if_link.h`).
const ROUTE: i32 = 0;
const NEWLINK: u16 = 16;
const GETLINK: u16 = 18;
const NAME: u16 = 3;
const MTU: u16 = 4;
const LOWER: u16 = 5;
const MASTER: u16 = 10;
const INFO: u16 = 18;
const LOWER_NETNS: u16 = 37;
const INFO_KIND: u16 = 1;
const INFO_DATA: u16 = 2;
const INFO_SLAVE_DATA: u16 = 5;
const BRPORT_MODE: u16 = 4;
const BR_NF_CALL_IPTABLES: u16 = 36;
const BR_NF_CALL_IP6TABLES: u16 = 37;
/// `IFLA_IPVLAN_MODE`, `IPVLAN_MODE_L2`: switched; L3 and L3S are routed.
const IPVLAN_MODE: u16 = 1;
const IPVLAN_SWITCHED: [u8; 2] = [0; 2];
/// The length of `struct ifinfomsg`.
const HEADER: usize = 16;
/// `IFF_UP` (`include/uapi/linux/if.h`).
const IFF_UP: u32 = 1;
/// Where `br_netfilter` has its sysctls; not there: it is not there.
const SYSCTLS: &str = "proc/sys/net/bridge";

/// An interface.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Link {
    pub(crate) index: u32,
    pub(crate) name: String,
    /// The kind as `ip -d link` prints it; empty for hardware.
    pub(crate) kind: String,
    pub(crate) mtu: u32,
    /// Whether it is up: a tunnel's module brings a device that is not, until someone uses it.
    pub(crate) is_up: bool,
    /// The index of the bridge that it is a port of, or of what else it belongs to.
    pub(crate) master: Option<u32>,
    /// The index of the interface that it sits on, of this network namespace.
    pub(crate) lower: Option<u32>,
    /// Of a bridge's port: whether it sends what it has received.
    pub(crate) hairpin: Option<bool>,
    /// Of a bridge: whether it shows what it switches to netfilter, whatever the sysctls say; for IPv4 and IPv6.
    pub(crate) shows: [bool; 2],
    /// Of an ipvlan device: what a pod sends is routed as if a process of the node had sent it (modes L3 and L3S).
    pub(crate) routes: bool,
}

/// All interfaces; `None` if they cannot be read.
pub(crate) fn read() -> Option<Vec<Link>> {
    let mut socket = Socket::open(ROUTE).ok()?;
    let mut request = Message::new(GETLINK, 0);
    request.raw(&[0; HEADER]);
    socket
        .dump("list the interfaces", &request, |links: &mut Vec<_>, payload| {
            links.extend(link(payload));
        })
        .ok()
}

fn link(payload: &[u8]) -> Option<Link> {
    let all: Vec<_> = attributes(payload.get(HEADER..)?).collect();
    let find = |kind| all.iter().find(|attribute| attribute.kind == kind);
    let number = |kind| find(kind)?.payload.try_into().ok().map(u32::from_ne_bytes);
    let kind = find(INFO).and_then(|info| info.find(INFO_KIND));
    let port = find(INFO).and_then(|info| info.find(INFO_SLAVE_DATA)?.find(BRPORT_MODE));
    let kind = kind.and_then(|kind| kind.text().map(ToOwned::to_owned)).unwrap_or_default();
    let data = |attribute| find(INFO).and_then(|info| info.find(INFO_DATA)?.find(attribute));
    let mode = data(IPVLAN_MODE).filter(|_| kind == "ipvlan");
    let shows = |attribute| {
        let data = data(attribute);
        kind == "bridge" && data.is_some_and(|data| data.payload.first().is_some_and(|on| *on != 0))
    };
    Some(Link {
        name: find(NAME)?.text()?.to_owned(),
        mtu: number(MTU)?,
        index: u32::from_ne_bytes(payload.get(4..8)?.try_into().ok()?),
        is_up: u32::from_ne_bytes(payload.get(8..12)?.try_into().ok()?) & IFF_UP != 0,
        master: number(MASTER),
        lower: number(LOWER).filter(|lower| *lower != 0 && find(LOWER_NETNS).is_none()),
        hairpin: port.and_then(|mode| mode.payload.first().map(|mode| *mode != 0)),
        shows: [shows(BR_NF_CALL_IPTABLES), shows(BR_NF_CALL_IP6TABLES)],
        routes: mode.is_some_and(|mode| mode.payload != IPVLAN_SWITCHED),
        kind,
    })
}

/// The bridges that may have pods on them, with their ports that are ends of veth pairs.
pub(crate) fn bridges(links: &[Link]) -> impl Iterator<Item = (&Link, Vec<&Link>)> {
    links.iter().filter(|link| link.kind == "bridge").filter_map(|bridge| {
        let is_port = |link: &&Link| link.master == Some(bridge.index) && link.kind == "veth";
        let ports: Vec<_> = links.iter().filter(is_port).collect();
        (!ports.is_empty()).then_some((bridge, ports))
    })
}

/// What `br_netfilter` shows of all bridges of a network namespace.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct BridgeNetfilter {
    /// By the sysctls, for IPv4 and IPv6; `None`: there is no `br_netfilter`.
    shows: Option<[bool; 2]>,
}

impl BridgeNetfilter {
    /// As the files below `root` have it.
    pub(crate) fn read(root: &Path) -> Self {
        let is_set = |family: Family| {
            let held = fs::read_to_string(root.join(SYSCTLS).join(sysctl(family)));
            held.is_ok_and(|held| held.trim() == "1")
        };
        let there = root.join(SYSCTLS).exists();
        Self { shows: there.then(|| Family::ALL.map(is_set)) }
    }

    pub(crate) const fn is_there(self) -> bool {
        self.shows.is_some()
    }

    /// Whether netfilter sees the packets of a family between two ports of a bridge.
    pub(crate) fn sees(self, bridge: &Link, family: Family) -> bool {
        let of = position(family);
        self.shows.is_some_and(|shows| shows[of] || bridge.shows[of])
    }

    /// The families whose packets it does not see.
    pub(crate) fn unseen(self, bridge: &Link) -> impl Iterator<Item = Family> {
        Family::ALL.into_iter().filter(move |family| !self.sees(bridge, *family))
    }
}

/// Whether there is a bridge with pods whose packets netfilter does not see.
pub(crate) fn any_unseen(links: &[Link], netfilter: BridgeNetfilter) -> bool {
    bridges(links).any(|(bridge, _)| netfilter.unseen(bridge).next().is_some())
}

/// The name of the sysctl of a family.
pub(crate) const fn sysctl(family: Family) -> &'static str {
    match family {
        Family::V4 => "bridge-nf-call-iptables",
        Family::V6 => "bridge-nf-call-ip6tables",
    }
}

const fn position(family: Family) -> usize {
    match family {
        Family::V4 => 0,
        Family::V6 => 1,
    }
}

/// Has a bridge show to netfilter what it switches, where `br_netfilter` is there. Other bridges are as they were, which a
/// sysctl could not do, and it needs no `/proc/sys` that can be written.
///
/// # Errors
/// If the kernel refuses.
pub(crate) fn show(bridge: &Link) -> shunt_netlink::Result<()> {
    let mut header = [0; HEADER];
    header[4..8].copy_from_slice(&bridge.index.to_ne_bytes());
    let mut change = Message::new(NEWLINK, 0);
    change.raw(&header);
    change.nest(INFO, |info| {
        info.text(INFO_KIND, "bridge");
        info.nest(INFO_DATA, |data| {
            data.bytes(BR_NF_CALL_IPTABLES, &[1]);
            data.bytes(BR_NF_CALL_IP6TABLES, &[1]);
        });
    });
    Socket::open(ROUTE)?.request("have a bridge show its packets", change, |_| {})
}

/// The node's macvlan and ipvlan devices beside those of pods, and what they sit on: another interface of the machine,
/// through which it cannot reach those pods.
pub(crate) fn beside_pods(links: &[Link]) -> impl Iterator<Item = (&Link, &Link)> {
    let is_one = |link: &&Link| ["macvlan", "ipvlan"].contains(&link.kind.as_str());
    links.iter().filter(is_one).filter_map(|link| {
        let lower = links.iter().find(|lower| Some(lower.index) == link.lower)?;
        Some((link, lower))
    })
}

/// Bridges with pods that netfilter does not see, and what macvlan and ipvlan pods are on: those send by the node's device
/// beside theirs or by what that sits on, and are reached by the one, hosts of the link by the other. Where an ipvlan
/// device routes, pods send by no interface.
pub(crate) fn blind(
    links: &[Link],
    netfilter: BridgeNetfilter,
    networks: &[(u32, IpNet)],
) -> BTreeSet<BlindLink> {
    let networks = |of: &Link, families: &[Family]| -> BTreeSet<IpNet> {
        let here = |(index, network): &&(u32, IpNet)| {
            *index == of.index && families.contains(&Family::of(network.addr()))
        };
        networks.iter().filter(here).map(|(_, network)| network.trunc()).collect()
    };
    let way = |input: &Link, output: &Link, pods: &Link, families: &[Family]| {
        let (clients, endpoints) = (networks(pods, families), networks(output, families));
        // A name that the kernel has and we do not take has blanks or quotes.
        let (input, output) = (input.name.parse().ok()?, output.name.parse().ok()?);
        let link = BlindLink { input, output, clients, endpoints };
        (!link.clients.is_empty()).then_some(link)
    };
    let bridges = bridges(links).filter_map(|(bridge, _)| {
        way(bridge, bridge, bridge, &netfilter.unseen(bridge).collect::<Vec<_>>())
    });
    let switched = beside_pods(links).filter(|(shim, _)| !shim.routes);
    let shared = switched.flat_map(|(shim, lower)| {
        let ways = [(shim, shim), (shim, lower), (lower, shim), (lower, lower)];
        ways.into_iter().filter_map(move |(input, output)| way(input, output, shim, &Family::ALL))
    });
    bridges.chain(shared).collect()
}

/// The networks that the machine has addresses in, by the index of the interface; `None` if they cannot be read. Without
/// those that every link has for itself.
pub(crate) fn networks() -> Option<Vec<(u32, IpNet)>> {
    let network = |address: Address| {
        let network = address.network;
        let is_everywhere = matches!(network.addr(), IpAddr::V6(ip) if ip.is_unicast_link_local());
        (!is_everywhere).then_some((address.interface, network))
    };
    addresses::read(&mut Socket::open(ROUTE).ok()?, network).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pods_beside_a_macvlan_device_send_and_are_reached_by_two_devices() {
        let link = |index, name: &str, kind: &str, lower| Link {
            index,
            name: name.into(),
            kind: kind.into(),
            lower,
            ..Link::default()
        };
        let netfilter = BridgeNetfilter::read(Path::new("/nowhere"));
        let networks = [(2, "192.168.77.11/24"), (3, "10.77.1.1/16")];
        let networks = networks.map(|(index, text)| (index, text.parse().expect("a network")));
        let shim = link(3, "shim0", "macvlan", Some(2));
        let found = blind(&[link(2, "eth0", "", None), shim.clone()], netfilter, &networks);
        let text = |link: &BlindLink| {
            format!("{link} {:?} {:?}", link.clients.first(), link.endpoints.first())
        };
        let (pods, hosts) = ("Some(10.77.0.0/16)", "Some(192.168.77.0/24)");
        assert!(found.iter().map(text).eq([
            format!("eth0 {pods} {hosts}"),
            format!("eth0:shim0 {pods} {pods}"),
            format!("shim0:eth0 {pods} {hosts}"),
            format!("shim0 {pods} {pods}"),
        ]));
        // The device of another machine's.
        assert!(blind(&[link(3, "eth0", "macvlan", None)], netfilter, &networks).is_empty());
        assert!(blind(std::slice::from_ref(&shim), netfilter, &networks).is_empty());
        let routed = Link { routes: true, ..shim };
        assert!(blind(&[link(2, "eth0", "", None), routed], netfilter, &networks).is_empty());
    }
}
