//! What policy says of a packet, answered from the objects and the words of the API alone. It shares
//! no code with the compiler, and tests hold the two against each other; people get it as
//! `shunt policy explain`.

use std::net::IpAddr;
use std::sync::Arc;

use shunt_model::address::Protocol;
use shunt_model::object::ObjectKey;

use crate::cluster::{Action, ClusterNetworkPolicy, Tier};
use crate::object::{Direction, NetworkPolicy, Peer, Pod, PortMatch, PortNumber, Rule};
use crate::store::Store;
use crate::table::{Packet, Verdict};

/// What the policies of one direction say of a connection.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Ruling {
    /// The address is no pod's that policy knows: a node, a pod on the host's network, a stranger.
    NoPod,
    /// No policy decides; without any, all pods reach each other.
    NotIsolated,
    /// A pod reaches itself.
    Itself,
    /// It comes from the node that the pod runs on, or goes to it.
    OwnNode,
    /// A rule of a ClusterNetworkPolicy decides.
    Decided {
        /// Its tier.
        tier: Tier,
        /// The policy's name.
        policy: Arc<str>,
        /// Which of its rules for this direction, from 0.
        rule: usize,
        /// Whether it accepts or denies.
        accepts: bool,
    },
    /// A rule of a NetworkPolicy allows it.
    Allowed {
        /// The policy.
        policy: ObjectKey,
        /// Which of its rules for this direction, from 0.
        rule: usize,
    },
    /// These policies isolate the pod, and none allows it.
    Denied {
        /// The policies.
        policies: Vec<ObjectKey>,
    },
}

impl Ruling {
    /// Whether the connection passes.
    #[must_use]
    pub const fn accepts(&self) -> bool {
        !matches!(self, Self::Denied { .. } | Self::Decided { accepts: false, .. })
    }
}

/// What policy says of a packet wherever its pods run: of whom it leaves, then of whom it reaches.
#[must_use]
pub fn explain(store: &Store, packet: &Packet) -> [(Direction, Ruling); 2] {
    let Packet { source, destination, .. } = *packet;
    let egress = match packet.from_node {
        true => Ruling::NoPod,
        false => ruling(store, Direction::Egress, (source, destination), packet),
    };
    let ingress = match packet.from_node {
        true => Ruling::OwnNode,
        false => ruling(store, Direction::Ingress, (destination, source), packet),
    };
    [(Direction::Egress, egress), (Direction::Ingress, ingress)]
}

/// What the node of that name does with a packet that it forwards; nothing is dropped by policies of a pod whose namespace
/// is audited.
#[must_use]
pub fn verdict(store: &Store, node: &str, packet: &Packet) -> Verdict {
    let decides = |address| {
        store
            .pod_at(address)
            .is_some_and(|pod| pod.is_on(node) && !store.audits(&pod.key.namespace))
    };
    for (direction, ruling) in explain(store, packet) {
        let subject = match direction {
            Direction::Egress => packet.source,
            Direction::Ingress => packet.destination,
        };
        if decides(subject) && !ruling.accepts() {
            return Verdict::Drop(direction);
        }
    }
    Verdict::Accept
}

fn ruling(
    store: &Store,
    direction: Direction,
    (subject, peer): (IpAddr, IpAddr),
    packet: &Packet,
) -> Ruling {
    let Some(pod) = store.pod_at(subject) else { return Ruling::NoPod };
    if subject == peer {
        return Ruling::Itself;
    }
    let question = Question { store, direction, pod, peer, packet };
    question
        .tier(Tier::Admin)
        .or_else(|| question.network_policies())
        .or_else(|| question.tier(Tier::Baseline))
        .unwrap_or(Ruling::NotIsolated)
}

/// A connection of a pod in one direction.
struct Question<'a> {
    store: &'a Store,
    direction: Direction,
    /// Whom policies select.
    pod: &'a Pod,
    /// The other end.
    peer: IpAddr,
    packet: &'a Packet,
}

impl Question<'_> {
    /// What a tier of ClusterNetworkPolicies decides, if it does.
    fn tier(&self, tier: Tier) -> Option<Ruling> {
        let namespace = self.store.namespace_labels(&self.pod.key.namespace);
        let concerned = |policy: &&Arc<ClusterNetworkPolicy>| {
            policy.tier == tier
                && policy.namespaces.selects(&namespace)
                && policy.pods.selects(&self.pod.labels)
        };
        let mut policies: Vec<_> = self.store.cluster_policies().filter(concerned).collect();
        policies.sort_by_key(|policy| (policy.priority, Arc::clone(&policy.name)));
        for policy in policies {
            for (rule, of_policy) in policy.rules(self.direction).iter().enumerate() {
                if !self.matches(&of_policy.on, "") {
                    continue;
                }
                let accepts = match of_policy.action {
                    Action::Pass => return None,
                    Action::Accept => true,
                    Action::Deny => false,
                };
                let policy = Arc::clone(&policy.name);
                return Some(Ruling::Decided { tier, policy, rule, accepts });
            }
        }
        None
    }

    /// What NetworkPolicies decide, if any isolates the pod in this direction.
    fn network_policies(&self) -> Option<Ruling> {
        let concerned: Vec<&Arc<NetworkPolicy>> = self
            .store
            .policies()
            .filter(|policy| policy.key.namespace == self.pod.key.namespace)
            .filter(|policy| policy.pods.selects(&self.pod.labels))
            .filter(|policy| policy.rules(self.direction).is_some())
            .collect();
        if concerned.is_empty() {
            return None;
        }
        let node = self.pod.node.as_deref().and_then(|node| self.store.machine(node));
        if node.is_some_and(|node| node.contains(&self.peer)) {
            return Some(Ruling::OwnNode);
        }
        for policy in &concerned {
            for (index, rule) in policy.rules(self.direction).unwrap_or_default().iter().enumerate()
            {
                if self.matches(rule, &policy.key.namespace) {
                    return Some(Ruling::Allowed { policy: policy.key.clone(), rule: index });
                }
            }
        }
        let policies = concerned.iter().map(|policy| policy.key.clone()).collect();
        Some(Ruling::Denied { policies })
    }

    /// Whether a rule of a policy in this namespace matches.
    fn matches(&self, rule: &Rule, namespace: &str) -> bool {
        let peer = match &rule.peers {
            None => true,
            Some(peers) => peers.iter().any(|peer| self.is_peer(peer, namespace)),
        };
        let port = match &rule.ports {
            None => true,
            Some(ports) => ports.iter().any(|port| self.is_port(port)),
        };
        peer && port
    }

    fn is_peer(&self, peer: &Peer, own_namespace: &str) -> bool {
        match peer {
            Peer::Nodes(selector) => {
                let mut nodes = self.store.nodes_at(self.peer);
                nodes.any(|node| selector.selects(&node.labels))
            }
            Peer::Block(block) => block.contains(self.peer),
            Peer::Domain(name) => self.store.names_of(self.peer).any(|of| of == name),
            Peer::Pods { namespaces, pods } => {
                let Some(other) = self.store.pod_at(self.peer) else { return false };
                let namespace = match namespaces {
                    None => *other.key.namespace == *own_namespace,
                    Some(selector) => {
                        selector.selects(&self.store.namespace_labels(&other.key.namespace))
                    }
                };
                namespace && pods.selects(&other.labels)
            }
        }
    }

    fn is_port(&self, port: &PortMatch) -> bool {
        if Protocol::from_number(self.packet.protocol) != Some(port.protocol) {
            return false;
        }
        match &port.port {
            PortNumber::Any => true,
            PortNumber::Range(first, last) => (*first..=*last).contains(&self.packet.port),
            PortNumber::Named(name) => {
                // A name is one of the pod that is connected to.
                let reached = match self.direction {
                    Direction::Ingress => Some(self.pod),
                    Direction::Egress => self.store.pod_at(self.peer).map(AsRef::as_ref),
                };
                let number = reached.and_then(|pod| pod.port(name, port.protocol));
                number == Some(self.packet.port)
            }
        }
    }
}
