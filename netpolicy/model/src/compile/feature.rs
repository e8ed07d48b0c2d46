//! What policies in force ask of an address.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::hash::{Hash, Hasher};
use std::net::IpAddr;
use std::sync::Arc;

use shunt_model::address::Protocol;

use super::asked::Askers;
use super::number;
use super::selectors::Selectors;
use crate::domain::DomainName;
use crate::object::{Block, Pod};
use crate::selector::{Labels, Selector};
use crate::store::Store;

/// Something that a peer may have. Features are compared, sorted and looked up far more often than made, so their hash is
/// made with them.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Feature {
    hash: u64,
    pub(super) is: Is,
}

/// What it is.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(super) enum Is {
    /// It is a pod that this selects.
    Pods(NamespaceMatch, Selector),
    /// Its address is in this block.
    Block(Block),
    /// It is the address of a node that this selects.
    Node(Selector),
    /// It is an address of the node that the table is for.
    OwnNode,
    /// DNS has given this name to it.
    Domain(DomainName),
    /// It is a pod with this port under this name.
    Port(Arc<str>, Protocol, u16),
}

impl From<Is> for Feature {
    fn from(is: Is) -> Self {
        Self { hash: number::hash(&is), is }
    }
}

impl Hash for Feature {
    fn hash<H: Hasher>(&self, state: &mut H) {
        state.write_u64(self.hash);
    }
}

impl Feature {
    /// Whether it selects pods of a namespace with these labels.
    pub(super) fn selects(&self, store: &Store, namespace: &Arc<str>, labels: &Labels) -> bool {
        let Is::Pods(namespaces, pods) = &self.is else { return false };
        pods.selects(labels)
            && match namespaces {
                NamespaceMatch::Named(name) => name == namespace,
                NamespaceMatch::Selected(selector) => store.selects_namespace(selector, namespace),
            }
    }
}

/// Which namespaces.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(super) enum NamespaceMatch {
    Named(Arc<str>),
    Selected(Selector),
}

/// The features that a peer has, sorted, each once.
#[derive(Clone, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(super) struct Signature(Box<[Arc<Feature>]>);

impl FromIterator<Arc<Feature>> for Signature {
    fn from_iter<T: IntoIterator<Item = Arc<Feature>>>(features: T) -> Self {
        let mut features: Vec<_> = features.into_iter().collect();
        features.sort_unstable();
        features.dedup();
        Self(features.into())
    }
}

impl Signature {
    /// Whether it has one of these features, which are sorted. A rule may ask for thousands of blocks of which each address
    /// is in few: the shorter list is looked up in the longer one.
    pub(super) fn meets(&self, features: &[Arc<Feature>]) -> bool {
        let (few, many) =
            if self.0.len() < features.len() { (&*self.0, features) } else { (features, &*self.0) };
        few.iter().any(|feature| many.binary_search(feature).is_ok())
    }

    pub(super) fn iter(&self) -> impl Iterator<Item = &Arc<Feature>> {
        self.0.iter()
    }

    /// Whether the peer is the node that the table is for.
    pub(super) fn is_own_node(&self) -> bool {
        self.0.iter().any(|feature| feature.is == Is::OwnNode)
    }

    /// The numbers that the peer has for a named port.
    pub(super) fn ports<'a>(
        &'a self,
        name: &'a str,
        protocol: Protocol,
    ) -> impl Iterator<Item = u16> + 'a {
        self.0.iter().filter_map(move |feature| match &feature.is {
            Is::Port(of, p, number) if of.as_ref() == name && *p == protocol => Some(*number),
            _ => None,
        })
    }
}

/// Everything that is asked.
#[derive(Debug, Default)]
pub(super) struct Features {
    pub(super) askers: Askers,
    /// Selectors of pods.
    pub(super) pods: Selectors,
    pub(super) blocks: BTreeSet<Arc<Feature>>,
    /// Selectors of nodes.
    pub(super) nodes: BTreeSet<Arc<Feature>>,
    pub(super) domains: BTreeSet<Arc<Feature>>,
    /// Ports that are asked for by their names, and of whom; `None`: of everyone.
    pub(super) ports: BTreeMap<NamedPort, BTreeSet<Option<Arc<Feature>>>>,
    /// It is asked whether the peer is the node itself.
    pub(super) own_node: bool,
    /// Which selectors match, for each namespace and set of labels that was looked at. Pods share
    /// their labels, and the set is held here, so its address stands for it.
    matches: HashMap<(Arc<str>, usize), Matching>,
}

/// The name of a port.
pub(super) type NamedPort = (Arc<str>, Protocol);

/// A set of labels and the selectors that match it.
#[derive(Debug)]
struct Matching {
    /// Held so that nothing else comes to their place.
    labels: Arc<Labels>,
    features: Arc<[Arc<Feature>]>,
}

/// An address as it is asked about.
#[derive(Clone, Copy, Debug)]
pub(super) struct Peer<'a> {
    pub(super) address: IpAddr,
    /// Who has it.
    pub(super) pod: Option<&'a Arc<Pod>>,
    /// It is one of the node that the table is for.
    pub(super) own: bool,
    /// The blocks that hold it, if any do.
    pub(super) blocks: Option<&'a Signature>,
}

impl Features {
    /// Whether pods are told apart.
    pub(super) fn ask_for_pods(&self) -> bool {
        !self.pods.is_empty() || !self.ports.is_empty()
    }

    /// The features of an address; `None` if it has none but those of its network.
    pub(super) fn of(&mut self, store: &Store, peer: Peer<'_>) -> Option<Signature> {
        let features = self.beside_ports(store, peer);
        self.with_ports(features, peer)
    }

    /// The features of an address that DNS has given names to, with those that it has otherwise; `None` if nobody asks
    /// for its names.
    pub(super) fn of_named(&mut self, store: &Store, peer: Peer<'_>) -> Option<Signature> {
        let names = store.names_of(peer.address).map(|name| Is::Domain(name.clone()).into());
        let asked = names.filter_map(|name: Feature| self.domains.get(&name).cloned());
        let names: Vec<_> = asked.collect();
        if names.is_empty() {
            return None;
        }
        let mut features = self.beside_ports(store, peer);
        features.extend(names);
        self.with_ports(features, peer)
    }

    /// The features of an address beside its blocks and named ports.
    fn beside_ports(&mut self, store: &Store, peer: Peer<'_>) -> Vec<Arc<Feature>> {
        let mut features = Vec::new();
        if let Some(pod) = peer.pod.filter(|_| !self.pods.is_empty()) {
            features.extend(self.matching(store, pod).iter().cloned());
        }
        if peer.own && self.own_node {
            features.push(Arc::new(Is::OwnNode.into()));
        }
        let selects = |feature: &&Arc<Feature>| match &feature.is {
            Is::Node(selector) => {
                store.nodes_at(peer.address).any(|node| selector.selects(&node.labels))
            }
            _ => false,
        };
        features.extend(self.nodes.iter().filter(selects).cloned());
        features
    }

    /// Adds the blocks, and the numbers of the named ports that are asked of whoever has such features.
    fn with_ports(&self, mut features: Vec<Arc<Feature>>, peer: Peer<'_>) -> Option<Signature> {
        let beside_blocks = features.len();
        features.extend(peer.blocks.into_iter().flat_map(Signature::iter).cloned());
        let mut ports: Vec<Arc<Feature>> = Vec::new();
        for pod in peer.pod.into_iter().filter(|pod| !pod.ports.is_empty()) {
            for ((name, protocol), of) in &self.ports {
                let Some(number) = pod.port(name, *protocol) else { continue };
                if of.contains(&None) || of.iter().flatten().any(|one| features.contains(one)) {
                    let port = Is::Port(Arc::clone(name), *protocol, number);
                    ports.push(Arc::new(port.into()));
                }
            }
        }
        let has_more = beside_blocks > 0 || !ports.is_empty();
        has_more.then(|| features.into_iter().chain(ports).collect())
    }

    /// The selectors that match a pod.
    fn matching(&mut self, store: &Store, pod: &Pod) -> Arc<[Arc<Feature>]> {
        let place = (Arc::clone(&pod.key.namespace), Arc::as_ptr(&pod.labels) as usize);
        if let Some(found) = self.matches.get(&place) {
            return Arc::clone(&found.features);
        }
        let found = self.pods.matching(store, &pod.key.namespace, &pod.labels).cloned();
        let features: Arc<[_]> = found.collect();
        let found = Matching { labels: Arc::clone(&pod.labels), features: Arc::clone(&features) };
        self.matches.insert(place, found);
        features
    }

    /// Forgets what was found of pods of a namespace with these labels.
    pub(super) fn forget(&mut self, namespace: &Arc<str>, labels: &Arc<Labels>) {
        self.matches.remove(&(Arc::clone(namespace), Arc::as_ptr(labels) as usize));
    }

    /// Forgets all that was found of pods.
    pub(super) fn forget_all(&mut self) {
        self.matches.clear();
    }

    /// Of how many kinds of pods it was found which selectors match.
    #[cfg(test)]
    pub(super) fn found(&self) -> usize {
        self.matches.len()
    }

    /// Forgets what was found of pods that are not there any more, once that is more than half.
    pub(super) fn forget_gone(&mut self, store: &Store) {
        if self.matches.len() > 2 * store.alike().len() {
            self.forget_all_gone(store);
        }
    }

    /// The same at once.
    pub(super) fn forget_all_gone(&mut self, store: &Store) {
        self.matches.retain(|(namespace, _), found| store.has_alike(namespace, &found.labels));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_signature_meets_whoever_asks_for_something_of_it() {
        let name = |number: u8| Is::Port(number.to_string().into(), Protocol::Tcp, 80);
        let all: Vec<_> = (0..8).map(|number| Arc::new(Feature::from(name(number)))).collect();
        let some = |bits: u16| -> Signature {
            let chosen = all.iter().enumerate().filter(|(number, _)| bits & 1 << number != 0);
            chosen.map(|(_, feature)| Arc::clone(feature)).collect()
        };
        for (one, other) in (0..256).flat_map(|one| (0..256).map(move |other| (one, other))) {
            assert_eq!(some(one).meets(&some(other).0), one & other != 0, "{one:b} {other:b}");
        }
    }
}
