//! The plan: what a node does with packets, with nothing left to decide.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::net::IpAddr;
use std::sync::Arc;

use ipnet::IpNet;

use crate::address::{Endpoint, Family, Frontend, Protocol};
use crate::balancing::{Affinity, Balancing, Method, WEIGHT};
use crate::interface::{InterfaceName, InterfacePattern};
use crate::object::{ObjectKey, ServiceType};
use crate::problem::Problem;

/// The whole plan of a node.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Plan {
    /// What concerns the node as a whole.
    pub node: Arc<NodePlan>,
    /// Each Service's part. No frontend stands in two of them.
    pub services: BTreeMap<ObjectKey, Arc<ServicePlan>>,
}

/// What concerns the node as a whole.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct NodePlan {
    /// The node's addresses on which NodePorts are served. 127.0.0.1 can be one of them: it is for
    /// the node itself, and a backend must keep others from it.
    pub node_port_addresses: BTreeSet<IpAddr>,
    /// All addresses of the machine, but IPv6's link-local ones. What comes in for them leaves no
    /// more, so its source is never hidden. nftables asks the kernel for them; IPVS takes no other
    /// address for the machine's.
    pub own_addresses: BTreeSet<IpAddr>,
    /// Sources that count as local pods; traffic to a ClusterIP from elsewhere is masqueraded, and
    /// an external traffic policy is not for them.
    /// Empty, and no `local_interfaces`: no such rule (nothing is known about who is local).
    pub local_sources: BTreeSet<IpNet>,
    /// The interfaces by which local pods' packets come in. The node's own come in by none.
    pub local_interfaces: Option<InterfacePattern>,
    /// Links whose hosts reach one another past this machine: what one of them sends to another through here is
    /// masqueraded, or the reply would not come back here.
    pub blind_links: BTreeSet<BlindLink>,
    /// Networks that ClusterIPs are taken from, disjoint: what goes to an address there that no
    /// Service has is dropped, unless the machine itself has it.
    pub service_cidrs: BTreeSet<IpNet>,
    /// Masquerade all traffic to ClusterIPs.
    pub masquerade_all: bool,
}

/// A way in and out of this machine by a link whose hosts reach one another past its hooks of IP: a bridge whose packets
/// netfilter does not see, or what macvlan and ipvlan pods are on.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct BlindLink {
    /// The interface that a request comes in by.
    pub input: InterfaceName,
    /// The one that leads to its endpoint.
    pub output: InterfaceName,
    /// The networks of the pods there: of the machine's addresses at its device among them, of the families that it is so
    /// for.
    pub clients: BTreeSet<IpNet>,
    /// The networks that `output` leads to.
    pub endpoints: BTreeSet<IpNet>,
}

impl fmt::Display for BlindLink {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.input.as_str())?;
        if self.input != self.output {
            write!(f, ":{}", self.output.as_str())?;
        }
        Ok(())
    }
}

/// One Service's part of the plan.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ServicePlan {
    /// `spec.type`, for people.
    pub service_type: ServiceType,
    /// The frontends, sorted by frontend, each once.
    pub frontends: Vec<FrontendPlan>,
    /// The ClusterIPs, sorted: ports of theirs that are no frontend are rejected.
    pub cluster_ips: Vec<IpAddr>,
    /// Addresses of endpoints that may reach themselves through the Service, sorted: those on
    /// this node, and those whose node is unknown.
    pub hairpins: Vec<IpAddr>,
    /// How connections are spread, as the Service says; `None`: the default.
    pub balancing: Option<Arc<Balancing>>,
    /// The endpoints with another weight than 1, sorted.
    pub weights: Box<[(Endpoint, u8)]>,
    /// Endpoints that get no new connections through the Service but may go on with those that
    /// they have, sorted: those that serve and are in none of its pools (UDP, SCTP), or that
    /// exist at all (TCP; only with [`Settings::reset_tcp`](crate::compile::Settings)).
    pub lingering: Box<[(Protocol, Endpoint)]>,
    /// What load balancers are told of this node.
    pub health_check: Option<HealthCheck>,
    /// What is wrong with the Service.
    pub problems: Vec<Problem>,
}

impl ServicePlan {
    /// Whether a client comes back to the same endpoint.
    #[must_use]
    pub fn affinity(&self) -> Option<Affinity> {
        self.balancing.as_ref()?.affinity
    }

    /// How an endpoint is picked.
    #[must_use]
    pub fn method(&self) -> Method {
        self.balancing.as_ref().map_or_else(Method::default, |balancing| balancing.method)
    }

    /// An endpoint's weight: its share of the connections, beside the other endpoints' weights.
    #[must_use]
    pub fn weight(&self, endpoint: &Endpoint) -> u8 {
        let at = self.weights.binary_search_by_key(endpoint, |(endpoint, _)| *endpoint);
        at.map_or(WEIGHT, |at| self.weights[at].1)
    }
}

/// What a load balancer is told that asks a Service's health-check node port.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct HealthCheck {
    /// `spec.healthCheckNodePort`.
    pub port: u16,
    /// How many addresses on this node are ready, of IPv4 and of IPv6.
    pub local: [u32; 2],
}

impl HealthCheck {
    /// A port behind which there is nothing.
    #[must_use]
    pub const fn none(port: u16) -> Self {
        Self { port, local: [0, 0] }
    }

    /// How many addresses of a family are ready.
    #[must_use]
    pub const fn local_endpoints(&self, family: Family) -> u32 {
        match family {
            Family::V4 => self.local[0],
            Family::V6 => self.local[1],
        }
    }

    /// What both say.
    #[must_use]
    pub fn least(&self, other: &Self) -> Self {
        let local = std::array::from_fn(|at| self.local[at].min(other.local[at]));
        Self { local, ..*self }
    }
}

/// What a frontend is to its users.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum FrontendKind {
    /// A ClusterIP.
    ClusterIp,
    /// A port on the node's addresses.
    NodePort,
    /// One of `spec.externalIPs`.
    ExternalIp,
    /// One of `status.loadBalancer.ingress`.
    LoadBalancer,
}

/// One frontend and what happens to a new connection that it gets.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FrontendPlan {
    /// Address, protocol and port.
    pub frontend: Frontend,
    /// What the frontend is.
    pub kind: FrontendKind,
    /// The name of the ServicePort; may be empty.
    pub port_name: Arc<str>,
    /// Whose connections are not dropped at once; `None`: everyone's. Disjoint, sorted, of the
    /// frontend's family.
    pub sources: Option<Arc<[IpNet]>>,
    /// What happens to a new connection.
    pub action: Action,
    /// What happens to one from this node or one of its pods, where that differs: an external
    /// traffic policy is for clients outside of the cluster.
    pub from_inside: Option<Action>,
    /// Whose source address is hidden from the endpoint.
    pub masquerade: Masquerade,
}

impl FrontendPlan {
    /// Everything that can happen to a new connection.
    pub fn actions(&self) -> impl Iterator<Item = &Action> {
        [&self.action].into_iter().chain(&self.from_inside)
    }

    /// Whether an endpoint is in one of the pools.
    #[must_use]
    pub fn uses(&self, endpoint: &Endpoint) -> bool {
        self.actions().any(|action| match action {
            Action::Forward(pool) => pool.binary_search(endpoint).is_ok(),
            Action::Reject | Action::Drop => false,
        })
    }
}

/// What happens to a new connection.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Action {
    /// It goes to one of these endpoints, by [`ServicePlan::weight`]. Sorted, never empty, each
    /// once, of the frontend's family. Shared between frontends of one ServicePort.
    Forward(Arc<[Endpoint]>),
    /// It is refused: TCP reset or ICMP port unreachable. There is no endpoint at all.
    Reject,
    /// It is dropped: there are endpoints, but none that the traffic policy allows here.
    Drop,
}

/// Whose source address is hidden from the endpoint (hairpins always are).
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Masquerade {
    /// Everyone's: the answer must come back through this node.
    Always,
    /// Only of those who are no local pods ([`NodePlan::local_sources`],
    /// [`NodePlan::local_interfaces`]), or everyone's with [`NodePlan::masquerade_all`]: the rule
    /// for ClusterIPs.
    Outsiders,
    /// Only the node's own: the rule of the external traffic policy Local, which keeps the address
    /// of clients and lets the node itself reach endpoints elsewhere.
    Own,
}

/// What changed from one plan to the next.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct PlanDelta {
    /// The node's part, if it changed.
    pub node: Option<Arc<NodePlan>>,
    /// The Services that changed; `None` if gone.
    pub services: BTreeMap<ObjectKey, Option<Arc<ServicePlan>>>,
}

impl PlanDelta {
    /// Whether nothing changed.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.node.is_none() && self.services.is_empty()
    }

    /// Adds a later delta to this one; the later value of each part stays.
    pub fn merge(&mut self, later: Self) {
        if later.node.is_some() {
            self.node = later.node;
        }
        if self.services.is_empty() {
            self.services = later.services;
        } else {
            self.services.extend(later.services);
        }
    }
}

impl Plan {
    /// Applies a delta.
    pub fn apply(&mut self, delta: PlanDelta) {
        if let Some(node) = delta.node {
            self.node = node;
        }
        if self.services.is_empty() {
            // Made of a sorted sequence a map's nodes are full; filled one by one, half empty.
            let services = delta.services.into_iter();
            self.services = services.filter_map(|(key, service)| Some((key, service?))).collect();
            return;
        }
        for (key, service) in delta.services {
            match service {
                Some(service) => self.services.insert(key, service),
                None => self.services.remove(&key),
            };
        }
    }
}
