//! What policy cannot tell apart: pods that are alike, and ports between which nothing begins.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::sync::Arc;

use shunt_model::address::Protocol;
use shunt_netpolicy::object::{Block, Direction, NetworkPolicy, Peer, Pod, PortNumber, Rule};
use shunt_netpolicy::selector::Selector;
use shunt_netpolicy::store::Store;

use super::ends::End;
use super::world::World;

/// Labels that tell the pods of one workload apart, or its versions. They count only where a policy
/// asks for them.
const OF_ONE_POD: [&str; 4] = [
    "apps.kubernetes.io/pod-index",
    "controller-revision-hash",
    "pod-template-hash",
    "statefulset.kubernetes.io/pod-name",
];

/// Pods that policy cannot tell apart, or an address.
#[derive(Clone, Debug)]
pub(super) struct Class {
    /// The pod's name, or what the names begin with, and `*`; an address.
    pub(super) name: String,
    /// Empty for an address.
    pub(super) namespace: String,
    /// All of them.
    pub(super) members: Vec<End>,
}

impl Class {
    /// Namespace and name.
    pub(super) fn full_name(&self) -> String {
        match self.namespace.as_str() {
            "" => self.name.clone(),
            namespace => format!("{namespace}/{}", self.name),
        }
    }
}

/// The classes of the pods of some namespaces (none: of all), and addresses beside them.
pub(super) fn classes(world: &World, namespaces: &[String], beside: &[IpAddr]) -> Vec<Class> {
    let asked = asked_labels(&world.store);
    let blocks = blocks(&world.store);
    let mut alike: BTreeMap<_, Vec<&Arc<Pod>>> = BTreeMap::new();
    for pod in world.store.pods().filter(|pod| !pod.policy_addresses().is_empty()) {
        let namespace = pod.key.namespace.as_ref();
        if !namespaces.is_empty() && !namespaces.iter().any(|name| name == namespace) {
            continue;
        }
        let counts =
            |key: &&Arc<str>| !OF_ONE_POD.contains(&key.as_ref()) || asked.contains(key.as_ref());
        let labels: Vec<_> = pod.labels.iter().filter(|(key, _)| counts(key)).collect();
        let within: Vec<_> = pod
            .addresses
            .iter()
            .map(|at| blocks.iter().map(|b| b.contains(*at)).collect())
            .collect();
        let within: Vec<Vec<bool>> = within;
        let key = (namespace.to_owned(), labels, Arc::clone(&pod.ports), within);
        alike.entry(key).or_default().push(pod);
    }
    let mut classes: Vec<_> = alike
        .into_iter()
        .map(|((namespace, ..), pods)| Class {
            name: common_name(&pods),
            namespace,
            members: pods.iter().map(|pod| End::of_pod(pod)).collect(),
        })
        .collect();
    classes.sort_by(|a, b| (&a.namespace, &a.name).cmp(&(&b.namespace, &b.name)));
    classes.extend(beside.iter().map(|address| {
        let end = world.at(*address);
        Class { name: end.name.clone(), namespace: String::new(), members: vec![end] }
    }));
    classes
}

/// `web-7d4b9-*` of `web-7d4b9-x2x` and `web-7d4b9-q8z`.
fn common_name(pods: &[&Arc<Pod>]) -> String {
    let first = pods[0].key.name.as_ref();
    if pods.len() == 1 {
        return first.to_owned();
    }
    let common = pods.iter().fold(first.len(), |common, pod| {
        let same = first.bytes().zip(pod.key.name.bytes()).take_while(|(a, b)| a == b);
        common.min(same.count())
    });
    let end = first[..common].rfind('-').map_or(0, |dash| dash + 1);
    match &first[..end] {
        "" => format!("{first} and {} more", pods.len() - 1),
        start => format!("{start}*"),
    }
}

fn rules(policy: &NetworkPolicy) -> impl Iterator<Item = &Rule> {
    Direction::ALL.into_iter().flat_map(|direction| policy.rules(direction).unwrap_or_default())
}

fn cluster_rules(store: &Store) -> impl Iterator<Item = &Rule> {
    let of_direction = |direction| {
        let policies = store.cluster_policies();
        policies.flat_map(move |policy| policy.rules(direction)).map(|rule| &rule.on)
    };
    Direction::ALL.into_iter().flat_map(of_direction)
}

fn peers(store: &Store) -> impl Iterator<Item = &Peer> {
    let rules = store.policies().flat_map(|policy| rules(policy)).chain(cluster_rules(store));
    rules.flat_map(|rule| rule.peers.as_deref().unwrap_or_default())
}

/// The keys of labels of pods that policies ask for.
fn asked_labels(store: &Store) -> BTreeSet<&str> {
    let of_peers = peers(store).filter_map(|peer| match peer {
        Peer::Pods { pods, .. } => Some(pods),
        Peer::Block(_) | Peer::Nodes(_) | Peer::Domain(_) => None,
    });
    let subjects = store.policies().map(|policy| &policy.pods);
    let of_cluster = store.cluster_policies().map(|policy| &policy.pods);
    let selectors = of_peers.chain(subjects).chain(of_cluster);
    let keys = selectors.flat_map(Selector::requirements);
    keys.map(|requirement| requirement.key.as_ref()).collect()
}

fn blocks(store: &Store) -> BTreeSet<&Block> {
    peers(store)
        .filter_map(|peer| if let Peer::Block(block) = peer { Some(block) } else { None })
        .collect()
}

/// Some ports of a protocol that no policy tells apart, or what is no protocol with ports.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Segment {
    /// From one to another.
    Ports(Protocol, u16, u16),
    /// ICMP and all others.
    Others,
}

/// The ports that the policies of two namespaces tell apart.
pub(super) fn segments(store: &Store, namespaces: [&str; 2]) -> Vec<Segment> {
    let mut starts: BTreeMap<Protocol, BTreeSet<u16>> =
        Protocol::ALL.map(|protocol| (protocol, BTreeSet::from([0]))).into();
    let mut begin = |protocol, first: u16, last: u16| {
        if let Some(starts) = starts.get_mut(&protocol) {
            starts.insert(first);
            starts.extend(last.checked_add(1));
        }
    };
    let policies = namespaces.into_iter().flat_map(|namespace| store.policies_of(namespace));
    let asked = policies.flat_map(|policy| rules(policy)).chain(cluster_rules(store));
    let asked = asked.flat_map(|rule| rule.ports.iter().flatten());
    for asked in asked {
        match &asked.port {
            PortNumber::Any => {}
            PortNumber::Range(first, last) => begin(asked.protocol, *first, *last),
            PortNumber::Named(name) => {
                let numbers = store.pods().filter_map(|pod| pod.port(name, asked.protocol));
                numbers.for_each(|number| begin(asked.protocol, number, number));
            }
        }
    }
    let mut segments = Vec::new();
    for (protocol, starts) in starts {
        let ends = starts.iter().skip(1).map(|start| start - 1).chain([u16::MAX]);
        segments
            .extend(starts.iter().zip(ends).map(|(from, to)| Segment::Ports(protocol, *from, to)));
    }
    segments.push(Segment::Others);
    segments
}
