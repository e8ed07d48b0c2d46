//! The objects of the API, reduced to what policy needs.
//!
//! Whoever converts from the wire fails closed: a peer or port that cannot be read is left out of its
//! list, and an empty list matches nothing; a policy whose pod selector cannot be read selects every
//! pod of its namespace.

use std::hash::{DefaultHasher, Hash, Hasher};
use std::net::IpAddr;
use std::sync::Arc;

use ipnet::IpNet;
use shunt_model::address::Protocol;
use shunt_model::object::ObjectKey;

use crate::domain::DomainName;
use crate::selector::{Labels, Selector};

/// A hash of an object's `metadata.uid`, by which objects of one name are told apart.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Uid(u64);

impl Uid {
    /// Of this one.
    #[must_use]
    pub fn of(text: &str) -> Self {
        let mut hasher = DefaultHasher::new();
        text.hash(&mut hasher);
        Self(hasher.finish())
    }
}

/// A Pod.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Pod {
    /// Namespace and name.
    pub key: ObjectKey,
    /// `metadata.uid`; of a mirror pod that of the static pod, which the container runtime knows.
    pub uid: Uid,
    /// `metadata.creationTimestamp` in seconds since the epoch. Of two pods that claim one address
    /// the newer has it, then the lesser key.
    pub created: i64,
    /// `spec.nodeName`.
    pub node: Option<Arc<str>>,
    /// `status.podIPs`; none if the pod has ended, as its addresses are others' then.
    pub addresses: Box<[IpAddr]>,
    /// `spec.hostNetwork`: its addresses are the node's, and no selector matches it.
    pub host_network: bool,
    /// `metadata.labels`, shared by pods that have the same.
    pub labels: Arc<Labels>,
    /// Named ports of its containers, shared by pods that have the same.
    pub ports: Arc<[NamedPort]>,
}

impl Pod {
    /// The addresses by which policy knows it: none for a pod on the host's network.
    #[must_use]
    pub fn policy_addresses(&self) -> &[IpAddr] {
        if self.host_network { &[] } else { &self.addresses }
    }

    /// Whether it runs on the node of this name.
    #[must_use]
    pub fn is_on(&self, node: &str) -> bool {
        self.node.as_deref() == Some(node)
    }

    /// The number of a named port, if the pod has it.
    #[must_use]
    pub fn port(&self, name: &str, protocol: Protocol) -> Option<u16> {
        let mut ports = self.ports.iter();
        let named = ports.find(|port| port.protocol == protocol && port.name.as_ref() == name);
        named.map(|port| port.port)
    }
}

/// A named port of a container.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct NamedPort {
    /// `name`.
    pub name: Arc<str>,
    /// `protocol`.
    pub protocol: Protocol,
    /// `containerPort`.
    pub port: u16,
}

/// A Namespace.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Namespace {
    /// `metadata.name`.
    pub name: Arc<str>,
    /// `metadata.labels`, with `kubernetes.io/metadata.name`, which the API server always sets.
    pub labels: Labels,
    /// Nothing is dropped by the policies of its pods, only logged (`shunt.dev/network-policy: audit`).
    pub audit: bool,
}

/// The label that every namespace has.
pub const NAMESPACE_NAME: &str = "kubernetes.io/metadata.name";

/// A NetworkPolicy (`networking.k8s.io/v1`).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NetworkPolicy {
    /// Namespace and name.
    pub key: ObjectKey,
    /// `spec.podSelector`: the pods it is for.
    pub pods: Selector,
    /// `spec.ingress`, if it is for that direction: then pods are isolated but for these.
    pub ingress: Option<Vec<Rule>>,
    /// `spec.egress`, if it is for that direction.
    pub egress: Option<Vec<Rule>>,
}

/// The direction of a connection, as the pod that is asked about sees it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Direction {
    /// To it.
    Ingress,
    /// From it.
    Egress,
}

impl Direction {
    /// Both.
    pub const ALL: [Self; 2] = [Self::Ingress, Self::Egress];

    /// In one word.
    #[must_use]
    pub const fn word(self) -> &'static str {
        match self {
            Self::Ingress => "ingress",
            Self::Egress => "egress",
        }
    }
}

impl NetworkPolicy {
    /// The rules of a direction; `None` if it does not isolate in it.
    #[must_use]
    pub fn rules(&self, direction: Direction) -> Option<&[Rule]> {
        match direction {
            Direction::Ingress => self.ingress.as_deref(),
            Direction::Egress => self.egress.as_deref(),
        }
    }
}

/// One rule: who, and on which ports.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Rule {
    /// `from` or `to`; `None` (absent or empty): everyone. An empty list matches nobody.
    pub peers: Option<Vec<Peer>>,
    /// `ports`; `None` (absent or empty): everything, of any protocol. An empty list: nothing.
    pub ports: Option<Vec<PortMatch>>,
}

/// Who.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Peer {
    /// Pods of some namespaces.
    Pods {
        /// Of which namespaces; `None`: of the policy's own.
        namespaces: Option<Selector>,
        /// Which of their pods.
        pods: Selector,
    },
    /// Addresses.
    Block(Block),
    /// Nodes, by their labels; only ClusterNetworkPolicies have it.
    Nodes(Selector),
    /// Addresses that DNS has given to such names; only rules of ClusterNetworkPolicies that accept egress have it.
    Domain(DomainName),
}

/// A range of addresses with holes.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Block {
    /// `cidr`.
    pub cidr: IpNet,
    /// `except`, each within `cidr`.
    pub except: Vec<IpNet>,
}

impl Block {
    /// Whether an address is in it.
    #[must_use]
    pub fn contains(&self, address: IpAddr) -> bool {
        self.cidr.contains(&address) && !self.except.iter().any(|hole| hole.contains(&address))
    }
}

/// On which ports.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PortMatch {
    /// `protocol`.
    pub protocol: Protocol,
    /// `port` and `endPort`.
    pub port: PortNumber,
}

/// Which ports of a protocol.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum PortNumber {
    /// All.
    Any,
    /// From one to another, both included.
    Range(u16, u16),
    /// The one that the pod connected to has under this name.
    Named(Arc<str>),
}
