//! The node's part of the plan.

use std::collections::BTreeSet;
use std::net::{IpAddr, Ipv4Addr};

use ipnet::IpNet;

use super::{LocalSources, NodePortAddresses, Settings};
use crate::address::Family;
use crate::plan::NodePlan;
use crate::snapshot::Snapshot;

/// Compiles the node's part.
pub(super) fn plan(settings: &Settings, snapshot: &Snapshot) -> NodePlan {
    let mut node_port_addresses = match &settings.node_port_addresses {
        NodePortAddresses::Primary => primary(settings, snapshot),
        NodePortAddresses::Within(networks) => within(networks, snapshot),
    };
    if settings.localhost_node_ports {
        // Of IPv6 the kernel lets no packet with a loopback address leave.
        node_port_addresses.insert(Ipv4Addr::LOCALHOST.into());
    }
    NodePlan {
        node_port_addresses,
        own_addresses: own(settings, snapshot),
        local_sources: match &settings.local_sources {
            LocalSources::Unknown | LocalSources::Interfaces(_) => BTreeSet::new(),
            LocalSources::Cidrs(networks) => disjoint(networks),
            LocalSources::NodePodCidrs => snapshot
                .node(&settings.node_name)
                .map_or_else(BTreeSet::new, |node| disjoint(&node.pod_cidrs)),
        },
        local_interfaces: match &settings.local_sources {
            LocalSources::Interfaces(pattern) => Some(*pattern),
            _ => None,
        },
        blind_links: snapshot.blind_links().clone(),
        service_cidrs: disjoint(snapshot.service_cidrs().flat_map(|object| &object.cidrs)),
        masquerade_all: settings.masquerade_all,
    }
}

/// The Node's first address of each family. Without any, NodePorts must still be reachable.
fn primary(settings: &Settings, snapshot: &Snapshot) -> BTreeSet<IpAddr> {
    let node = snapshot.node(&settings.node_name);
    let own = node.map_or(&[][..], |node| &node.addresses);
    let first = |family| {
        let mut usable = own.iter().filter(|ip| Family::of(**ip) == family && !ip.is_loopback());
        usable.next().copied()
    };
    let first: BTreeSet<IpAddr> = Family::ALL.into_iter().filter_map(first).collect();
    if !first.is_empty() {
        return first;
    }
    let usable = |ip: &&IpAddr| !ip.is_loopback() && !is_link_local(**ip);
    snapshot.local_addresses().iter().filter(usable).copied().collect()
}

/// The addresses on the machine's interfaces. As long as those are not known, what its Node says:
/// an address that a cloud translates to one of the machine's stands there too, and is on none.
/// Every link has a link-local address of IPv6, those of pods among them: no Service and no endpoint
/// can have one, and the plan shall not change with each pod.
fn own(settings: &Settings, snapshot: &Snapshot) -> BTreeSet<IpAddr> {
    let own = snapshot.local_addresses();
    if own.is_empty() {
        let said = snapshot.node(&settings.node_name).map_or(&[][..], |node| &node.addresses);
        return said.iter().copied().collect();
    }
    own.iter().filter(|ip| !is_of_link(**ip)).copied().collect()
}

/// The machine's addresses in these networks; a family that is not mentioned matches wholly. From a
/// link-local address of IPv6 the kernel forwards nothing to a pod, so there are no NodePorts.
fn within(networks: &[IpNet], snapshot: &Snapshot) -> BTreeSet<IpAddr> {
    let matches = |ip: &IpAddr| {
        let family = Family::of(*ip);
        let mut mentioned = networks.iter().filter(|net| Family::of(net.addr()) == family);
        mentioned.clone().next().is_none() || mentioned.any(|net| net.contains(ip))
    };
    let usable = |ip: &&IpAddr| !ip.is_loopback() && !is_of_link(**ip) && matches(ip);
    snapshot.local_addresses().iter().filter(usable).copied().collect()
}

/// Whether the kernel gives an address to each link.
const fn is_of_link(ip: IpAddr) -> bool {
    ip.is_ipv6() && is_link_local(ip)
}

const fn is_link_local(ip: IpAddr) -> bool {
    match ip {
        IpAddr::V4(ip) => ip.is_link_local(),
        IpAddr::V6(ip) => ip.is_unicast_link_local(),
    }
}

/// The same addresses as networks that do not overlap: an nftables set of intervals refuses
/// others, and two ways to write one set must not make two plans.
fn disjoint<'a>(networks: impl IntoIterator<Item = &'a IpNet>) -> BTreeSet<IpNet> {
    let networks: Vec<_> = networks.into_iter().map(IpNet::trunc).collect();
    IpNet::aggregate(&networks).into_iter().collect()
}
