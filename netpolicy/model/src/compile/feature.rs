//! What policies in force ask of an address.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::sync::Arc;

use shunt_model::address::{Family, Protocol};

use super::LocalPrograms;
use super::program::{Port, Program};
use crate::object::{Block, Pod};
use crate::selector::{Labels, Operator, Selector};
use crate::store::Store;
use crate::table::Range;

/// Something that a peer may have.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(super) enum Feature {
    /// It is a pod that this selects.
    Pods(NamespaceMatch, Selector),
    /// Its address is in this block.
    Block(Block),
    /// It is the address of a node that this selects.
    Node(Selector),
    /// It is an address of the node that the table is for.
    OwnNode,
    /// It is a pod with this port under this name.
    Port(Arc<str>, Protocol, u16),
}

/// Which namespaces.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(super) enum NamespaceMatch {
    Named(Arc<str>),
    Selected(Selector),
}

/// The features that a peer has.
#[derive(Clone, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(super) struct Signature(BTreeSet<Arc<Feature>>);

impl Signature {
    pub(super) fn contains(&self, feature: &Arc<Feature>) -> bool {
        self.0.contains(feature)
    }

    /// Whether the peer is the node that the table is for.
    pub(super) fn is_own_node(&self) -> bool {
        self.0.iter().any(|feature| **feature == Feature::OwnNode)
    }

    /// The numbers that the peer has for a named port.
    pub(super) fn ports<'a>(
        &'a self,
        name: &'a str,
        protocol: Protocol,
    ) -> impl Iterator<Item = u16> + 'a {
        self.0.iter().filter_map(move |feature| match feature.as_ref() {
            Feature::Port(of, p, number) if of.as_ref() == name && *p == protocol => Some(*number),
            _ => None,
        })
    }
}

/// Everything that is asked.
#[derive(Debug, Default)]
pub(super) struct Features {
    asked: BTreeSet<Arc<Feature>>,
    /// Ports that are asked for by their names.
    ports: BTreeSet<(Arc<str>, Protocol)>,
    /// Selectors of nodes.
    nodes: BTreeSet<Arc<Feature>>,
    /// It is asked whether the peer is the node itself.
    own_node: bool,
    /// Selectors of pods that ask for a label with one of some values, by that label and each of
    /// the values: of a thousand selectors a pod is asked about a few.
    by_label: HashMap<Label, Vec<Arc<Feature>>>,
    /// All other selectors of pods.
    by_no_label: Vec<Arc<Feature>>,
    /// Which selectors match, for each namespace and set of labels that was looked at. Pods share
    /// their labels, and the set is held here, so its address stands for it.
    matches: BTreeMap<(Arc<str>, usize), Matching>,
}

/// A label and its value.
type Label = (Arc<str>, Arc<str>);

/// A set of labels and the selectors that match it.
#[derive(Debug)]
struct Matching {
    _labels: Arc<Labels>,
    features: Arc<[Arc<Feature>]>,
}

impl Features {
    /// Adds what the programs of an address ask.
    pub(super) fn add(&mut self, programs: &LocalPrograms) {
        self.own_node |= programs.egress.is_some();
        for asked in programs.iter().flat_map(Program::matches) {
            let features = asked.peers.iter().flatten();
            let nodes = features.clone().filter(|f| matches!(f.as_ref(), Feature::Node(_)));
            self.nodes.extend(nodes.cloned());
            self.asked.extend(features.cloned());
            self.ports.extend(named(asked.ports.as_ref()));
        }
    }

    /// To be called when all is added.
    pub(super) fn index(&mut self) {
        for feature in &self.asked {
            let Feature::Pods(_, pods) = feature.as_ref() else { continue };
            let values = pods.requirements().find_map(|requirement| match &requirement.operator {
                Operator::In(values) => Some((&requirement.key, values)),
                _ => None,
            });
            let Some((key, values)) = values else {
                self.by_no_label.push(Arc::clone(feature));
                continue;
            };
            for value in values {
                let place = (Arc::clone(key), Arc::clone(value));
                self.by_label.entry(place).or_default().push(Arc::clone(feature));
            }
        }
    }

    /// Whether these are the same questions.
    pub(super) fn ask_the_same(&self, others: &Self) -> bool {
        (&self.asked, &self.ports, self.own_node) == (&others.asked, &others.ports, others.own_node)
    }

    /// Whether all that the programs of an address ask was asked before.
    pub(super) fn cover(&self, programs: &LocalPrograms) -> bool {
        let asks_of_node = programs.egress.is_some();
        (self.own_node || !asks_of_node)
            && programs.iter().flat_map(Program::matches).all(|asked| {
                let peers = asked.peers.iter().flatten().all(|f| self.asked.contains(f));
                peers && named(asked.ports.as_ref()).all(|port| self.ports.contains(&port))
            })
    }

    /// The numbers that a pod has for each port that is asked for by its name.
    pub(super) fn ports_of(&self, pod: &Pod) -> Vec<Option<u16>> {
        if pod.ports.is_empty() {
            return Vec::new();
        }
        self.ports.iter().map(|(name, protocol)| pod.port(name, *protocol)).collect()
    }

    /// Whether it is asked which nodes a peer is the address of.
    pub(super) fn ask_for_nodes(&self) -> bool {
        !self.nodes.is_empty()
    }

    /// Whether it is asked if a peer is the node itself.
    pub(super) const fn ask_for_own_node(&self) -> bool {
        self.own_node
    }

    /// The features of an address; `None` if it has none but those of its network. `own`: it is one
    /// of the node that the table is for.
    pub(super) fn of(
        &mut self,
        store: &Store,
        address: IpAddr,
        pod: Option<&Arc<Pod>>,
        own: bool,
    ) -> Option<Signature> {
        let mut features = BTreeSet::new();
        if let Some(pod) = pod {
            features.extend(self.matching(store, pod).iter().cloned());
            for (name, protocol) in &self.ports {
                if let Some(number) = pod.port(name, *protocol) {
                    features.insert(Arc::new(Feature::Port(Arc::clone(name), *protocol, number)));
                }
            }
        }
        if own && self.own_node {
            features.insert(Arc::new(Feature::OwnNode));
        }
        let selects = |feature: &&Arc<Feature>| match feature.as_ref() {
            Feature::Node(selector) => {
                store.nodes_at(address).any(|node| selector.selects(&node.labels))
            }
            _ => false,
        };
        features.extend(self.nodes.iter().filter(selects).cloned());
        if features.is_empty() {
            return None;
        }
        features.extend(self.blocks_with(address).cloned());
        Some(Signature(features))
    }

    /// The selectors that match a pod.
    fn matching(&mut self, store: &Store, pod: &Pod) -> Arc<[Arc<Feature>]> {
        let place = (Arc::clone(&pod.key.namespace), Arc::as_ptr(&pod.labels) as usize);
        if let Some(found) = self.matches.get(&place) {
            return Arc::clone(&found.features);
        }
        let labels = store.namespace_labels(&pod.key.namespace);
        let matches = |feature: &&Arc<Feature>| match feature.as_ref() {
            Feature::Pods(namespaces, pods) => {
                let namespace = match namespaces {
                    NamespaceMatch::Named(name) => *name == pod.key.namespace,
                    NamespaceMatch::Selected(selector) => selector.selects(&labels),
                };
                namespace && pods.selects(&pod.labels)
            }
            _ => false,
        };
        let of_label = |(key, value): (&Arc<str>, &Arc<str>)| {
            self.by_label.get(&(Arc::clone(key), Arc::clone(value)))
        };
        let likely = pod.labels.iter().filter_map(of_label).flatten().chain(&self.by_no_label);
        let features: Arc<[_]> = likely.filter(matches).cloned().collect();
        let found = Matching { _labels: Arc::clone(&pod.labels), features: Arc::clone(&features) };
        self.matches.insert(place, found);
        features
    }

    fn blocks(&self) -> impl Iterator<Item = (&Arc<Feature>, &Block)> {
        self.asked.iter().filter_map(|feature| match feature.as_ref() {
            Feature::Block(block) => Some((feature, block)),
            _ => None,
        })
    }

    fn blocks_with(&self, address: IpAddr) -> impl Iterator<Item = &Arc<Feature>> {
        self.blocks().filter(move |(_, block)| block.contains(address)).map(|(feature, _)| feature)
    }

    /// The ranges of a family that blocks tell apart, sorted; those without any are left out, and
    /// neighbours that are alike are one.
    pub(super) fn networks(&self, family: Family) -> Vec<(Range, Signature)> {
        let mut starts = BTreeSet::new();
        let of_family = |net: &&ipnet::IpNet| Family::of(net.addr()) == family;
        for (_, block) in self.blocks() {
            for net in [&block.cidr].into_iter().chain(&block.except).filter(of_family) {
                starts.insert(number(net.network()));
                starts.extend(number(net.broadcast()).checked_add(1));
            }
        }
        let greatest = match family {
            Family::V4 => u128::from(u32::MAX),
            Family::V6 => u128::MAX,
        };
        let starts: Vec<_> = starts.into_iter().filter(|start| *start <= greatest).collect();
        let mut pieces: Vec<(Range, Signature)> = Vec::new();
        for (position, start) in starts.iter().enumerate() {
            let last = starts.get(position + 1).map_or(greatest, |next| next - 1);
            let (first, last) = (address(family, *start), address(family, last));
            let signature = Signature(self.blocks_with(first).cloned().collect());
            match pieces.last_mut() {
                Some((before, same)) if *same == signature && number(before.last) + 1 == *start => {
                    before.last = last;
                }
                _ if signature == Signature::default() => {}
                _ => pieces.push((Range { first, last }, signature)),
            }
        }
        pieces
    }
}

/// The ports of a rule that the peer names.
fn named(ports: Option<&BTreeSet<(Protocol, Port)>>) -> impl Iterator<Item = (Arc<str>, Protocol)> {
    ports.into_iter().flatten().filter_map(|(protocol, port)| match port {
        Port::OfPeer(name) => Some((Arc::clone(name), *protocol)),
        Port::Range(..) => None,
    })
}

fn number(address: IpAddr) -> u128 {
    match address {
        IpAddr::V4(address) => u32::from(address).into(),
        IpAddr::V6(address) => address.into(),
    }
}

fn address(family: Family, number: u128) -> IpAddr {
    match family {
        Family::V4 => Ipv4Addr::from(u32::try_from(number).unwrap_or(u32::MAX)).into(),
        Family::V6 => Ipv6Addr::from(number).into(),
    }
}
