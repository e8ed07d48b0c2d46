//! The oracle: what a plan does with a packet.
//!
//! It is written from the meaning of the plan, not from how a backend carries it out. Tests hold
//! it against real kernels; people ask it where a packet goes.

#[cfg(test)]
mod tests;

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;

use ipnet::IpNet;

use crate::address::{Endpoint, Family, Frontend, FrontendAddress, Protocol};
use crate::interface::InterfaceName;
use crate::object::ObjectKey;
use crate::plan::{Action, FrontendPlan, Masquerade, NodePlan, Plan, ServicePlan};

/// The first packet of a connection, as it arrives or as a process of the node sends it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Packet {
    /// The source address.
    pub source: IpAddr,
    /// The destination address.
    pub destination: IpAddr,
    /// The transport protocol.
    pub protocol: Protocol,
    /// The destination port.
    pub port: u16,
    /// Whether the node itself sends it, not a pod or anyone outside.
    pub from_node: bool,
    /// The interface it came in by, as far as it is known; the node's own came in by none.
    pub interface: Option<InterfaceName>,
}

/// What happens to a packet.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// No Service is concerned: it goes on as it is.
    Pass,
    /// It goes to one of these, by [`ServicePlan::weight`]. The flag says whether that endpoint
    /// sees the node's address in place of the client's.
    Forward(Vec<(Endpoint, bool)>),
    /// It is refused.
    Reject,
    /// It is dropped.
    Drop,
}

/// What the plan does with one packet; for many packets make an [`Oracle`] once.
#[must_use]
pub fn verdict(plan: &Plan, packet: &Packet) -> Verdict {
    Oracle::new(plan).verdict(packet)
}

/// A plan, indexed for questions.
#[derive(Clone, Debug)]
pub struct Oracle<'a> {
    node: &'a NodePlan,
    frontends: BTreeMap<Frontend, Match<'a>>,
    cluster_ips: BTreeSet<IpAddr>,
}

/// The frontend that a packet meets.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Match<'a> {
    /// The key of its Service.
    pub key: &'a ObjectKey,
    /// Its Service's part of the plan.
    pub service: &'a ServicePlan,
    /// The frontend itself.
    pub frontend: &'a FrontendPlan,
}

/// Whether an address never leaves the machine that uses it (RFC 1122, 3.2.1.3). The kernel drops
/// what comes from elsewhere, unless it was told to route such addresses.
fn is_loopback(address: IpAddr) -> bool {
    address.is_ipv4() && address.is_loopback()
}

impl<'a> Oracle<'a> {
    /// Indexes a plan.
    #[must_use]
    pub fn new(plan: &'a Plan) -> Self {
        let mut frontends = BTreeMap::new();
        let mut cluster_ips = BTreeSet::new();
        for (key, service) in &plan.services {
            cluster_ips.extend(&service.cluster_ips);
            for frontend in &service.frontends {
                frontends.insert(frontend.frontend, Match { key, service, frontend });
            }
        }
        Self { node: &plan.node, frontends, cluster_ips }
    }

    /// The frontend that the packet meets, if any.
    #[must_use]
    pub fn find(&self, packet: &Packet) -> Option<Match<'a>> {
        let exact = self.lookup(packet, FrontendAddress::Ip(packet.destination));
        if exact.is_some() || self.cluster_ips.contains(&packet.destination) {
            return exact;
        }
        if !self.node.node_port_addresses.contains(&packet.destination) {
            return None;
        }
        self.lookup(packet, FrontendAddress::Node(Family::of(packet.destination)))
    }

    /// What happens to the packet.
    #[must_use]
    pub fn verdict(&self, packet: &Packet) -> Verdict {
        if is_loopback(packet.destination) && !packet.from_node {
            return Verdict::Drop;
        }
        let Some(found) = self.find(packet) else {
            return self.without_frontend(packet.destination);
        };
        if let Some(sources) = &found.frontend.sources
            && !sources.iter().any(|net| net.contains(&packet.source))
        {
            return Verdict::Drop;
        }
        match self.action(found, packet) {
            Action::Reject => Verdict::Reject,
            Action::Drop => Verdict::Drop,
            Action::Forward(pool) => {
                let masqueraded = |endpoint: &Endpoint| self.masqueraded(found, packet, endpoint);
                Verdict::Forward(pool.iter().map(|each| (*each, masqueraded(each))).collect())
            }
        }
    }

    /// What happens where no frontend is: ClusterIPs have no other ports, and what could be one
    /// belongs to no one else. An address that the machine has remains the machine's.
    fn without_frontend(&self, destination: IpAddr) -> Verdict {
        let networks = &self.node.service_cidrs;
        if self.cluster_ips.contains(&destination) {
            Verdict::Reject
        } else if networks.iter().any(|net| net.contains(&destination))
            && !self.node.own_addresses.contains(&destination)
        {
            Verdict::Drop
        } else {
            Verdict::Pass
        }
    }

    /// What is meant for this client: an external traffic policy is for others than the node and
    /// its pods.
    fn action(&self, found: Match<'a>, packet: &Packet) -> &'a Action {
        let frontend = found.frontend;
        let inside = frontend.from_inside.as_ref().filter(|_| self.is_from_inside(packet));
        inside.unwrap_or(&frontend.action)
    }

    /// Whether the node or one of its pods sends it.
    #[must_use]
    pub fn is_from_inside(&self, packet: &Packet) -> bool {
        packet.from_node || self.is_of_local_pod(packet)
    }

    fn lookup(&self, packet: &Packet, address: FrontendAddress) -> Option<Match<'a>> {
        let frontend = Frontend { address, protocol: packet.protocol, port: packet.port };
        self.frontends.get(&frontend).copied()
    }

    fn masqueraded(&self, found: Match<'a>, packet: &Packet, endpoint: &Endpoint) -> bool {
        // Sources are hidden where packets leave. What others send to the node itself does not.
        if self.node.own_addresses.contains(&endpoint.address) && !packet.from_node {
            return false;
        }
        // An endpoint that gets a packet of its own address back would answer itself directly,
        // past the connection that it believes to have.
        let hairpin =
            packet.source == endpoint.address && found.service.hairpins.contains(&endpoint.address);
        hairpin
            || self.goes_back(packet, endpoint)
            || match found.frontend.masquerade {
                Masquerade::Always => true,
                Masquerade::Own => packet.from_node,
                Masquerade::Outsiders => self.node.masquerade_all || self.is_outsider(packet),
            }
    }

    /// Whether it is a pod's and leaves by the link that it came in by, so that the reply would not come back here.
    fn goes_back(&self, packet: &Packet, endpoint: &Endpoint) -> bool {
        let mut links = self.node.blind_links.iter();
        let is_in = |networks: &BTreeSet<IpNet>, ip: &IpAddr| {
            networks.iter().any(|network| network.contains(ip))
        };
        links.any(|link| {
            Some(link.input) == packet.interface
                && is_in(&link.clients, &packet.source)
                && is_in(&link.endpoints, &endpoint.address)
        })
    }

    /// Whether it is known who is local in this family, and the source is not.
    fn is_outsider(&self, packet: &Packet) -> bool {
        let known =
            self.node.local_interfaces.is_some() || self.local_sources(packet).next().is_some();
        known && !self.is_of_local_pod(packet)
    }

    /// Whether a local pod is known to have sent it.
    fn is_of_local_pod(&self, packet: &Packet) -> bool {
        let by_interface = self.node.local_interfaces.zip(packet.interface);
        by_interface.is_some_and(|(pattern, name)| pattern.matches(&name))
            || self.local_sources(packet).any(|net| net.contains(&packet.source))
    }

    /// The networks of local pods in the packet's family.
    fn local_sources(&self, packet: &Packet) -> impl Iterator<Item = &'a IpNet> + use<'a> {
        let family = Family::of(packet.source);
        self.node.local_sources.iter().filter(move |net| Family::of(net.addr()) == family)
    }
}
