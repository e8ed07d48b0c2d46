//! The rules that hold for a local pod in one direction.

use std::collections::BTreeSet;
use std::sync::Arc;

use shunt_model::address::Protocol;

use super::feature::{Feature, NamespaceMatch, Signature};
use crate::object::{Direction, NetworkPolicy, Peer, Pod, PortNumber, Rule};
use crate::store::Store;
use crate::table::Row;

/// The rules of all policies that select a pod: it accepts what any of them allows.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub(super) struct Program {
    pub(super) rules: BTreeSet<Allow>,
}

/// One rule, with all names resolved that are the pod's own.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(super) struct Allow {
    /// A peer has one of these features; `None`: anyone.
    pub(super) peers: Option<BTreeSet<Arc<Feature>>>,
    /// `None`: everything.
    pub(super) ports: Option<BTreeSet<(Protocol, Port)>>,
}

#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(super) enum Port {
    Range(u16, u16),
    /// By the name that the peer gives it.
    OfPeer(Arc<str>),
}

impl Program {
    /// The program of a pod; `None` if no policy isolates it in this direction.
    pub(super) fn of(store: &Store, pod: &Pod, direction: Direction) -> Option<Self> {
        let mut isolated = false;
        let mut rules = BTreeSet::new();
        for policy in store.policies_of(&pod.key.namespace) {
            let Some(of_policy) = policy.rules(direction) else { continue };
            if policy.pods.selects(&pod.labels) {
                isolated = true;
                rules.extend(of_policy.iter().map(|rule| allow(policy, rule, pod, direction)));
            }
        }
        isolated.then_some(Self { rules })
    }

    /// What is accepted of a peer with these features.
    pub(super) fn row(&self, signature: &Signature) -> Row {
        let mut row = Row::default();
        for rule in &self.rules {
            let concerned = rule
                .peers
                .as_ref()
                .is_none_or(|peers| peers.iter().any(|feature| signature.contains(feature)));
            if !concerned {
                continue;
            }
            let Some(ports) = &rule.ports else { return Row::everything() };
            for (protocol, port) in ports {
                match port {
                    Port::Range(first, last) => row.ports_mut(*protocol).add(*first, *last),
                    Port::OfPeer(name) => {
                        for number in signature.ports(name, *protocol) {
                            row.ports_mut(*protocol).add(number, number);
                        }
                    }
                }
            }
        }
        row
    }
}

fn allow(policy: &NetworkPolicy, rule: &Rule, pod: &Pod, direction: Direction) -> Allow {
    let feature = |peer: &Peer| {
        Arc::new(match peer {
            Peer::Block(block) => Feature::Block(block.clone()),
            Peer::Pods { namespaces: None, pods } => {
                let own = NamespaceMatch::Named(Arc::clone(&policy.key.namespace));
                Feature::Pods(own, pods.clone())
            }
            Peer::Pods { namespaces: Some(selector), pods } => {
                Feature::Pods(NamespaceMatch::Selected(selector.clone()), pods.clone())
            }
        })
    };
    let peers = rule.peers.as_ref().map(|peers| peers.iter().map(feature).collect());
    let port = |port: &crate::object::PortMatch| {
        let resolved = match &port.port {
            PortNumber::Any => Port::Range(0, u16::MAX),
            PortNumber::Range(first, last) => Port::Range(*first, *last),
            PortNumber::Named(name) if direction == Direction::Egress => {
                Port::OfPeer(Arc::clone(name))
            }
            PortNumber::Named(name) => {
                let number = pod.port(name, port.protocol)?;
                Port::Range(number, number)
            }
        };
        Some((port.protocol, resolved))
    };
    let ports = rule.ports.as_ref().map(|ports| ports.iter().filter_map(port).collect());
    Allow { peers, ports }
}
