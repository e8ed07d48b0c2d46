//! What plain sets and sets of intervals hold: of a Service, and of the node.

use std::collections::BTreeMap;
use std::net::IpAddr;

use ipnet::{IpNet, Ipv4Net, Ipv6Net};
use shunt_model::address::{Family, FrontendAddress};
use shunt_model::plan::{Action, BlindLink, FrontendPlan, Masquerade, NodePlan, ServicePlan};

use crate::element::{Key, masquerade_own_set, masquerade_set, virtual_set};
use crate::forwarding::Forwarding;
use crate::installed::family_of;
use crate::interfaces;
use crate::name::{SetId, SetKind};

/// The members of plain sets for a Service. One may stand there more than once.
pub(super) fn service_members(
    service: &ServicePlan,
    forwarding: Forwarding,
) -> impl Iterator<Item = (SetId, Key)> + '_ {
    let of_address = |kind| {
        move |address: &IpAddr| (SetId::new(kind, Family::of(*address)), Key::Address(*address))
    };
    let masqueraded = service.frontends.iter().filter_map(|plan| {
        let set = match plan.masquerade {
            Masquerade::Always => masquerade_set(&plan.frontend),
            Masquerade::Own => masquerade_own_set(&plan.frontend),
            Masquerade::Outsiders => return None,
        };
        Some((set, Key::Frontend(plan.frontend)))
    });
    let allowed = service.frontends.iter().flat_map(|plan| {
        let set = SetId::new(SetKind::AllowedSources, plan.frontend.family());
        let sources = plan.sources.as_deref().unwrap_or_default();
        sources.iter().map(move |network| (set, Key::Source(plan.frontend, *network)))
    });
    let cluster_ips = service.cluster_ips.iter().map(of_address(SetKind::ClusterIps));
    let hairpins = service.hairpins.iter().map(of_address(SetKind::Hairpins));
    let virtuals = service.frontends.iter().filter(move |_| forwarding.has_local_addresses());
    let virtuals = virtuals.flat_map(move |plan| virtual_members(plan, forwarding));
    masqueraded.chain(allowed).chain(cluster_ips).chain(hairpins).chain(virtuals)
}

/// What IPVS needs beside it for a frontend: its address guarded, and its connections known.
fn virtual_members(
    plan: &FrontendPlan,
    forwarding: Forwarding,
) -> impl Iterator<Item = (SetId, Key)> + use<> {
    let address = match plan.frontend.address {
        FrontendAddress::Ip(address) => {
            let set = SetId::new(SetKind::VirtualAddresses, Family::of(address));
            Some((set, Key::Address(address)))
        }
        FrontendAddress::Node(_) => None,
    };
    let forwarded = !forwarding.translates() && matches!(plan.action, Action::Forward(_));
    let server = forwarded.then(|| (virtual_set(&plan.frontend), Key::Frontend(plan.frontend)));
    address.into_iter().chain(server)
}

/// The same for the node.
pub(super) fn node_members(
    node: &NodePlan,
    forwarding: Forwarding,
) -> impl Iterator<Item = (SetId, Key)> + '_ {
    let member = |kind| {
        move |address: &IpAddr| (SetId::new(kind, Family::of(*address)), Key::Address(*address))
    };
    let of_link = |link: &BlindLink| {
        let (input, output) = (link.input, link.output);
        // The kernel takes no ranges that overlap.
        let clients = IpNet::aggregate(&link.clients.iter().copied().collect());
        clients.into_iter().map(move |network| {
            let set = SetId::new(SetKind::BlindLinks, family_of(&network));
            (set, Key::Way(input, output, network))
        })
    };
    let own = node.own_addresses.iter().filter(move |_| forwarding.has_local_addresses());
    let node_ports = node.node_port_addresses.iter().map(member(SetKind::NodeAddresses));
    let links = node.blind_links.iter().flat_map(of_link);
    node_ports.chain(own.map(member(SetKind::OwnAddresses))).chain(links)
}

/// The networks of all sets of intervals.
pub(super) fn networks(node: &NodePlan) -> BTreeMap<SetId, Vec<IpNet>> {
    let mut networks = BTreeMap::new();
    for family in Family::ALL {
        let of_family = node.local_sources.iter().filter(|network| family_of(network) == family);
        let mut pods = IpNet::aggregate(&of_family.map(IpNet::trunc).collect());
        pods.sort_unstable();
        let sources = local_sources(node, family, &pods);
        networks.insert(SetId::new(SetKind::LocalSources, family), sources);
        networks.insert(SetId::new(SetKind::LocalPods, family), pods);
        let interfaces = node.local_interfaces.iter().map(interfaces::network).collect();
        networks.insert(SetId::new(SetKind::LocalInterfaces, family), interfaces);
        let services = node.service_cidrs.iter().filter(|network| family_of(network) == family);
        networks.insert(SetId::new(SetKind::ServiceNetworks, family), services.copied().collect());
    }
    networks
}

/// The sources that need no masquerade, whatever interface they come in by. Everyone, where nothing is known about who is local;
/// no one, where all traffic is masqueraded: so the rule itself never changes.
fn local_sources(node: &NodePlan, family: Family, pods: &[IpNet]) -> Vec<IpNet> {
    if node.masquerade_all || node.local_interfaces.is_some() {
        return Vec::new();
    }
    if !pods.is_empty() {
        return pods.to_vec();
    }
    vec![match family {
        Family::V4 => Ipv4Net::default().into(),
        Family::V6 => Ipv6Net::default().into(),
    }]
}
