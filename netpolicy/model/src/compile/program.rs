//! The rules that hold for a local pod in one direction.

use std::collections::BTreeSet;
use std::sync::Arc;

use ipnet::IpNet;
use shunt_model::address::{Family, Protocol};
use shunt_model::object::ObjectKey;

use super::feature::{Feature, Is, NamespaceMatch, Signature};
use crate::cluster::{Action, Tier};
use crate::deciders::{Deciders, Decision, Policies};
use crate::object::{Block, Direction, NetworkPolicy, Peer, Pod, PortMatch, PortNumber, Rule};
use crate::store::Store;
use crate::table::Row;

/// The rules of all policies that select a pod.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub(super) struct Program {
    /// Of ClusterNetworkPolicies before NetworkPolicy, in the order in which they are asked.
    admin: Vec<Step>,
    /// What NetworkPolicies allow; `None`: none isolates the pod.
    allowed: Option<BTreeSet<Match>>,
    /// Of ClusterNetworkPolicies after NetworkPolicy; none if that decides.
    baseline: Vec<Step>,
    /// The NetworkPolicies that isolate the pod, where connections are counted by policy.
    isolating: Option<Policies>,
}

/// One rule of a ClusterNetworkPolicy.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
struct Step {
    action: Action,
    on: Match,
}

/// What a rule matches, with all names resolved that are the pod's own.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(super) struct Match {
    /// A peer has one of these features; `None`: anyone.
    pub(super) peers: Option<Box<[Arc<Feature>]>>,
    /// `None`: everything.
    pub(super) ports: Option<Box<[(Protocol, Port)]>>,
    /// Whose rule it is, where connections are counted by policy.
    of: Option<Arc<str>>,
}

#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(super) enum Port {
    Range(u16, u16),
    /// By the name that the peer gives it.
    OfPeer(Arc<str>),
}

impl Program {
    /// The program of a pod's address; `None` if no policy speaks of it in this direction.
    pub(super) fn of(asked: &Question<'_>) -> Option<Self> {
        let allowed = asked.allowed();
        let admin = asked.steps(Tier::Admin);
        let baseline = match allowed {
            None => asked.steps(Tier::Baseline),
            Some(_) => Vec::new(),
        };
        let speaks = allowed.is_some() || !admin.is_empty() || !baseline.is_empty();
        let isolating = asked.counting.then(|| asked.isolating());
        speaks.then_some(Self { admin, allowed, baseline, isolating })
    }

    /// Whether ClusterNetworkPolicies have a say.
    pub(super) fn has_tiers(&self) -> bool {
        !self.admin.is_empty() || !self.baseline.is_empty()
    }

    /// Everything that is asked of peers.
    pub(super) fn matches(&self) -> impl Iterator<Item = &Match> {
        let steps = self.admin.iter().chain(&self.baseline).map(|step| &step.on);
        steps.chain(self.allowed.iter().flatten())
    }

    /// What is accepted of a peer with these features.
    pub(super) fn row(&self, signature: &Signature) -> Row {
        let mut accepted = Row::default();
        let left = ask(&self.admin, signature, Row::everything(), &mut accepted);
        let left = match &self.allowed {
            // NetworkPolicies never keep a pod from its own node.
            Some(_) if signature.is_own_node() => left,
            Some(rules) => left.within(&sum(rules, signature)),
            None => ask(&self.baseline, signature, left, &mut accepted),
        };
        accepted.extend(&left);
        accepted.by = self.isolating.as_ref().map(|by| Arc::new(self.deciders(by, signature)));
        accepted
    }

    /// Who decides about a peer with these features; `isolating`: who isolates the pod.
    fn deciders(&self, isolating: &Policies, signature: &Signature) -> Deciders {
        let steps = |steps: &[Step]| -> Vec<Told> {
            let told = |step: &Step| Told::of(&step.on, Some(step.action), signature);
            steps.iter().filter_map(told).collect()
        };
        let (admin, baseline) = (steps(&self.admin), steps(&self.baseline));
        let allowed = self.allowed.as_ref().filter(|_| !signature.is_own_node()).map(|rules| {
            let told = |rule: &Match| Told::of(rule, None, signature);
            rules.iter().filter_map(told).collect::<Vec<_>>()
        });
        let starts = |protocol| {
            let all = admin.iter().chain(&baseline).chain(allowed.iter().flatten());
            let ranges = all.flat_map(|told| told.row.ports(protocol).ranges().iter());
            let mut starts = BTreeSet::from([0]);
            for (first, last) in ranges {
                starts.insert(*first);
                starts.extend(last.checked_add(1));
            }
            starts.into_iter().collect()
        };
        Deciders::new(starts, |port| {
            first(&admin, port)
                .or_else(|| allowed.as_ref().map(|rules| any(rules, isolating, port)))
                .or_else(|| first(&baseline, port))
                .unwrap_or_else(|| Decision { accepts: true, by: Policies::default() })
        })
    }
}

/// A rule that matches something of a peer.
struct Told {
    row: Row,
    /// Of a ClusterNetworkPolicy.
    action: Option<Action>,
    of: Option<Arc<str>>,
}

impl Told {
    fn of(on: &Match, action: Option<Action>, signature: &Signature) -> Option<Self> {
        Some(Self { row: on.row(signature)?, action, of: on.of.clone() })
    }

    fn matches(&self, port: Option<(Protocol, u16)>) -> bool {
        port.map_or(self.row.others, |(protocol, port)| self.row.ports(protocol).contains(port))
    }
}

/// What a tier decides about a port; `None`: nothing.
fn first(tier: &[Told], port: Option<(Protocol, u16)>) -> Option<Decision> {
    let told = tier.iter().find(|told| told.matches(port))?;
    let accepts = match told.action? {
        Action::Pass => return None,
        Action::Accept => true,
        Action::Deny => false,
    };
    Some(Decision { accepts, by: told.of.iter().cloned().collect() })
}

/// What NetworkPolicies decide about a port.
fn any(rules: &[Told], isolating: &Policies, port: Option<(Protocol, u16)>) -> Decision {
    let matching = rules.iter().filter(|told| told.matches(port));
    let by: BTreeSet<_> = matching.filter_map(|told| told.of.clone()).collect();
    match by.is_empty() {
        true => Decision { accepts: false, by: Arc::clone(isolating) },
        false => Decision { accepts: true, by: by.into_iter().collect() },
    }
}

/// Takes out what a tier decides, and adds what it accepts; returns what it leaves to the next.
fn ask(steps: &[Step], signature: &Signature, mut open: Row, accepted: &mut Row) -> Row {
    let mut passed = Row::default();
    for step in steps {
        let Some(matched) = step.on.row(signature) else { continue };
        let taken = open.within(&matched);
        open = open.without(&matched);
        match step.action {
            Action::Accept => accepted.extend(&taken),
            Action::Deny => {}
            Action::Pass => passed.extend(&taken),
        }
    }
    passed.extend(&open);
    passed
}

fn sum(rules: &BTreeSet<Match>, signature: &Signature) -> Row {
    let mut row = Row::default();
    for matched in rules.iter().filter_map(|rule| rule.row(signature)) {
        row.extend(&matched);
    }
    row
}

impl Match {
    /// What it matches of a peer with these features; `None`: nothing.
    fn row(&self, signature: &Signature) -> Option<Row> {
        if !self.peers.as_ref().is_none_or(|peers| signature.meets(peers)) {
            return None;
        }
        let Some(ports) = &self.ports else { return Some(Row::everything()) };
        let mut row = Row::default();
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
        Some(row)
    }
}

/// What a program is made for.
#[derive(Clone, Copy, Debug)]
pub(super) struct Question<'a> {
    pub(super) store: &'a Store,
    pub(super) pod: &'a Pod,
    /// Of the pod's address: who has one of the other never meets it.
    pub(super) family: Family,
    pub(super) direction: Direction,
    /// Rows say who decides.
    pub(super) counting: bool,
}

impl<'a> Question<'a> {
    /// The NetworkPolicies that isolate the pod, with their rules.
    fn policies(&self) -> impl Iterator<Item = (&'a Arc<NetworkPolicy>, &'a [Rule])> {
        let Self { store, pod, direction, .. } = *self;
        let policies = store.policies_of(&pod.key.namespace);
        policies
            .filter_map(move |policy| Some((policy, policy.rules(direction)?)))
            .filter(|(policy, _)| policy.pods.selects(&pod.labels))
    }

    fn allowed(&self) -> Option<BTreeSet<Match>> {
        let mut rules = None;
        for (policy, of_policy) in self.policies() {
            let rules = rules.get_or_insert_with(BTreeSet::new);
            let of = self.name(&policy.key);
            rules.extend(of_policy.iter().map(|rule| self.resolve(rule, of.clone())));
        }
        rules
    }

    fn isolating(&self) -> Policies {
        self.policies().filter_map(|(policy, _)| self.name(&policy.key)).collect()
    }

    fn name(&self, key: &ObjectKey) -> Option<Arc<str>> {
        self.counting.then(|| key.to_string().into())
    }

    fn steps(&self, tier: Tier) -> Vec<Step> {
        let Self { store, pod, direction, counting, .. } = *self;
        let mut steps = Vec::new();
        let mut policies = store.cluster_policies_of(tier).peekable();
        if policies.peek().is_none() {
            return steps;
        }
        let labels = store.namespace_labels(&pod.key.namespace);
        for policy in policies.filter(|policy| policy.selects(&labels, pod)) {
            let of = counting.then(|| Arc::clone(&policy.name));
            steps.extend(
                policy.rules(direction).iter().map(|rule| Step {
                    action: rule.action,
                    on: self.resolve(&rule.on, of.clone()),
                }),
            );
        }
        steps
    }

    /// `of`: whose rule it is.
    fn resolve(&self, rule: &Rule, of: Option<Arc<str>>) -> Match {
        let peers = rule.peers.as_ref().filter(|peers| !peers.iter().any(|peer| self.is_all(peer)));
        let peers = peers.map(|peers| sorted(peers.iter().filter_map(|peer| self.feature(peer))));
        let ports = rule.ports.as_ref();
        let ports = ports.map(|ports| sorted(ports.iter().filter_map(|port| self.port(port))));
        Match { peers, ports, of }
    }

    /// Whether a peer is everyone whom the pod can meet.
    fn is_all(&self, peer: &Peer) -> bool {
        match peer {
            Peer::Block(Block { cidr, except }) => {
                cidr.prefix_len() == 0 && self.is_of_family(cidr) && except.is_empty()
            }
            _ => false,
        }
    }

    fn is_of_family(&self, net: &IpNet) -> bool {
        Family::of(net.addr()) == self.family
    }

    /// What a peer is asked for; `None`: the pod can meet nobody who has it.
    fn feature(&self, peer: &Peer) -> Option<Arc<Feature>> {
        let is = match peer {
            Peer::Block(block) if !self.is_of_family(&block.cidr) => return None,
            Peer::Block(block) => Is::Block(block.clone()),
            Peer::Nodes(selector) => Is::Node(selector.clone()),
            Peer::Domain(name) => Is::Domain(name.clone()),
            Peer::Pods { namespaces: None, pods } => {
                // A policy is for pods of its own namespace.
                let own = Arc::clone(&self.pod.key.namespace);
                Is::Pods(NamespaceMatch::Named(own), pods.clone())
            }
            Peer::Pods { namespaces: Some(selector), pods } => {
                Is::Pods(NamespaceMatch::Selected(selector.clone()), pods.clone())
            }
        };
        Some(Arc::new(is.into()))
    }

    fn port(&self, port: &PortMatch) -> Option<(Protocol, Port)> {
        let resolved = match &port.port {
            PortNumber::Any => Port::Range(0, u16::MAX),
            PortNumber::Range(first, last) => Port::Range(*first, *last),
            PortNumber::Named(name) if self.direction == Direction::Egress => {
                Port::OfPeer(Arc::clone(name))
            }
            PortNumber::Named(name) => {
                let number = self.pod.port(name, port.protocol)?;
                Port::Range(number, number)
            }
        };
        Some((port.protocol, resolved))
    }
}

/// Each once and in order, so that two rules that say the same are equal.
fn sorted<T: Ord>(items: impl Iterator<Item = T>) -> Box<[T]> {
    let set: BTreeSet<T> = items.collect();
    set.into_iter().collect()
}
