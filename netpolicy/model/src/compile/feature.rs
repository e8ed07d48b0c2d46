//! What policies in force ask of an address.

use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::sync::Arc;

use shunt_model::address::{Family, Protocol};

use super::program::{Port, Program};
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
    /// Which selectors match, for each namespace and set of labels that was looked at. Pods share
    /// their labels, and the set is held here, so its address stands for it.
    matches: BTreeMap<(Arc<str>, usize), Matching>,
}

/// A set of labels and the selectors that match it.
#[derive(Debug)]
struct Matching {
    _labels: Arc<Labels>,
    features: Arc<[Arc<Feature>]>,
}

impl Features {
    /// Adds what a program asks.
    pub(super) fn add(&mut self, program: &Program) {
        for rule in &program.rules {
            self.asked.extend(rule.peers.iter().flatten().cloned());
            self.ports.extend(named(rule.ports.as_ref()));
        }
    }

    /// Whether all that a program asks was asked before.
    pub(super) fn cover(&self, program: &Program) -> bool {
        program.rules.iter().all(|rule| {
            let peers = rule.peers.iter().flatten().all(|feature| self.asked.contains(feature));
            peers && named(rule.ports.as_ref()).all(|port| self.ports.contains(&port))
        })
    }

    /// The features of a pod's address; `None` if it has none but those of its network.
    pub(super) fn of_pod(
        &mut self,
        store: &Store,
        address: IpAddr,
        pod: &Arc<Pod>,
    ) -> Option<Signature> {
        let mut features: BTreeSet<_> = self.matching(store, pod).iter().cloned().collect();
        for (name, protocol) in &self.ports {
            if let Some(number) = pod.port(name, *protocol) {
                features.insert(Arc::new(Feature::Port(Arc::clone(name), *protocol, number)));
            }
        }
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
            Feature::Block(_) | Feature::Port(..) => false,
        };
        let features: Arc<[_]> = self.asked.iter().filter(matches).cloned().collect();
        let found = Matching { _labels: Arc::clone(&pod.labels), features: Arc::clone(&features) };
        self.matches.insert(place, found);
        features
    }

    fn blocks(&self) -> impl Iterator<Item = (&Arc<Feature>, &Block)> {
        self.asked.iter().filter_map(|feature| match feature.as_ref() {
            Feature::Block(block) => Some((feature, block)),
            Feature::Pods(..) | Feature::Port(..) => None,
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
