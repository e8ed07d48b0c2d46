//! What policies in force ask of an address.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::sync::Arc;

use shunt_model::address::{Family, Protocol};

use super::asked::Askers;
use crate::domain::DomainName;
use crate::object::{Block, Pod};
use crate::selector::{Labels, Selector};
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
    /// DNS has given this name to it.
    Domain(DomainName),
    /// It is a pod with this port under this name.
    Port(Arc<str>, Protocol, u16),
}

impl Feature {
    /// Whether it selects pods of a namespace with these labels.
    pub(super) fn selects(&self, store: &Store, namespace: &Arc<str>, labels: &Labels) -> bool {
        let Self::Pods(namespaces, pods) = self else { return false };
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
    pub(super) askers: Askers,
    pub(super) asked: BTreeSet<Arc<Feature>>,
    /// Ports that are asked for by their names.
    pub(super) ports: BTreeSet<(Arc<str>, Protocol)>,
    /// Selectors of nodes.
    pub(super) nodes: BTreeSet<Arc<Feature>>,
    /// It is asked whether the peer is the node itself.
    pub(super) own_node: bool,
    /// Selectors of pods that ask for a label with one of some values, by that label and each of
    /// the values: of a thousand selectors a pod is asked about a few.
    pub(super) by_label: HashMap<Label, Vec<Arc<Feature>>>,
    /// All other selectors of pods.
    pub(super) by_no_label: Vec<Arc<Feature>>,
    /// Which selectors match, for each namespace and set of labels that was looked at. Pods share
    /// their labels, and the set is held here, so its address stands for it.
    pub(super) matches: BTreeMap<(Arc<str>, usize), Matching>,
}

/// A label and its value.
pub(super) type Label = (Arc<str>, Arc<str>);

/// A set of labels and the selectors that match it.
#[derive(Debug)]
pub(super) struct Matching {
    pub(super) labels: Arc<Labels>,
    features: Arc<[Arc<Feature>]>,
}

impl Features {
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

    /// The features of an address that DNS has given names to, with those that it has otherwise; `None` if nobody asks
    /// for its names.
    pub(super) fn of_named(
        &mut self,
        store: &Store,
        address: IpAddr,
        pod: Option<&Arc<Pod>>,
        own: bool,
    ) -> Option<Signature> {
        let names = store.names_of(address).map(|name| Feature::Domain(name.clone()));
        let asked = names.filter_map(|name| self.asked.get(&name).cloned());
        let names: BTreeSet<_> = asked.collect();
        if names.is_empty() {
            return None;
        }
        let by_network = Signature(self.blocks_with(address).cloned().collect());
        let mut signature = self.of(store, address, pod, own).unwrap_or(by_network);
        signature.0.extend(names);
        Some(signature)
    }

    /// The selectors that match a pod.
    fn matching(&mut self, store: &Store, pod: &Pod) -> Arc<[Arc<Feature>]> {
        let place = (Arc::clone(&pod.key.namespace), Arc::as_ptr(&pod.labels) as usize);
        if let Some(found) = self.matches.get(&place) {
            return Arc::clone(&found.features);
        }
        let matches =
            |feature: &&Arc<Feature>| feature.selects(store, &pod.key.namespace, &pod.labels);
        let of_label = |(key, value): (&Arc<str>, &Arc<str>)| {
            self.by_label.get(&(Arc::clone(key), Arc::clone(value)))
        };
        let likely = pod.labels.iter().filter_map(of_label).flatten().chain(&self.by_no_label);
        let features: Arc<[_]> = likely.filter(matches).cloned().collect();
        let found = Matching { labels: Arc::clone(&pod.labels), features: Arc::clone(&features) };
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
