//! Whom a change may bring to another class.

use std::collections::{BTreeSet, HashSet};
use std::net::IpAddr;
use std::sync::Arc;

use super::asked::Asked;
use super::feature::{Feature, Is, Signature};
use super::selectors::Selectors;
use super::{Compiler, network};
use crate::store::{Dirty, Store};
use crate::table::{Range, range_with};

/// Addresses that are to be looked at again.
#[derive(Debug, Default)]
pub(super) struct Suspects {
    /// Some may be more than once.
    pub(super) addresses: Vec<IpAddr>,
    /// Of those with names by DNS.
    pub(super) named: BTreeSet<IpAddr>,
}

impl Compiler {
    /// All addresses there are or were.
    pub(super) fn everyone(&mut self, store: &Store) -> Suspects {
        self.features.forget_all();
        let mut addresses: Vec<_> = self.table.peers.iter().map(|(address, _)| address).collect();
        if self.features.ask_for_pods() {
            addresses.extend(store.addresses().map(|(address, _)| address));
        }
        addresses.extend(self.others(store));
        let named = self.table.named.keys().copied().chain(store.named_addresses());
        Suspects { named: named.collect(), addresses }
    }

    /// Whoever has changed, or has something that is asked for now or no more.
    pub(super) fn suspects(&mut self, store: &Store, dirty: &Dirty, asked: &Asked) -> Suspects {
        let mut addresses: Vec<_> = dirty.addresses.iter().copied().collect();
        let features: BTreeSet<_> = concerned(asked).collect();
        self.of_selectors(store, dirty, &features, &mut addresses);
        addresses.extend(of_nodes(store, &features));
        if asked.own_node {
            addresses.extend(store.machine(&self.node).into_iter().flatten());
        }
        let blocks = features.iter().filter(|feature| matches!(feature.is, Is::Block(_)));
        let ranges = network::networks(blocks.copied());
        // Those in them whose class is not that of their network alone.
        addresses.extend(ranges.iter().flat_map(|(range, _)| self.table.peers.within(range)));
        of_ports(store, asked, &ranges, &mut addresses);
        let named = self.of_names(store, dirty, (&features, &ranges), &addresses);
        Suspects { addresses, named }
    }

    /// The pods of selectors, and those of namespaces with other labels.
    fn of_selectors(
        &mut self,
        store: &Store,
        dirty: &Dirty,
        features: &BTreeSet<&Arc<Feature>>,
        addresses: &mut Vec<IpAddr>,
    ) {
        let mut selectors = Selectors::default();
        let of_pods = features.iter().filter(|feature| matches!(feature.is, Is::Pods(..)));
        of_pods.for_each(|feature| selectors.insert(feature));
        if selectors.is_empty() && dirty.relabelled.is_empty() {
            return;
        }
        // Nobody leads to those: what was found of them would be taken for true when they come again.
        self.features.forget_all_gone(store);
        for (namespace, labels, theirs) in store.alike() {
            let is_concerned = dirty.relabelled.contains(namespace)
                || selectors.matching(store, namespace, labels).next().is_some();
            if is_concerned {
                self.features.forget(namespace, labels);
                addresses.extend(theirs);
            }
        }
    }

    /// The addresses with names by DNS.
    fn of_names(
        &self,
        store: &Store,
        dirty: &Dirty,
        (features, ranges): (&BTreeSet<&Arc<Feature>>, &[(Range, Signature)]),
        addresses: &[IpAddr],
    ) -> BTreeSet<IpAddr> {
        let mut named: BTreeSet<_> = dirty.names.iter().copied().collect();
        if store.named_addresses().next().is_none() && self.table.named.is_empty() {
            return named;
        }
        let suspects: HashSet<_> = addresses.iter().collect();
        let is_asked = |address: &IpAddr| {
            features.iter().any(|feature| match &feature.is {
                Is::Domain(name) => store.names_of(*address).any(|held| held == name),
                _ => false,
            })
        };
        let is_concerned = |address: &IpAddr| {
            suspects.contains(address)
                || range_with(ranges, *address).is_some()
                || is_asked(address)
        };
        named.extend(store.named_addresses().filter(is_concerned));
        named
    }
}

/// The features that are asked for now or no more, or that peers have whose ports are.
fn concerned(asked: &Asked) -> impl Iterator<Item = &Arc<Feature>> {
    asked.features().chain(asked.ports.iter().filter_map(|(_, of)| of.as_ref()))
}

/// The addresses of the nodes that selectors match.
fn of_nodes(store: &Store, features: &BTreeSet<&Arc<Feature>>) -> Vec<IpAddr> {
    let selector = |feature: &&Arc<Feature>| match &feature.is {
        Is::Node(selector) => Some(selector.clone()),
        _ => None,
    };
    let selectors: Vec<_> = features.iter().filter_map(selector).collect();
    if selectors.is_empty() {
        return Vec::new();
    }
    let is_selected = |labels| selectors.iter().any(|selector| selector.selects(labels));
    let nodes = store.nodes().filter(|node| is_selected(&node.labels));
    nodes.flat_map(|node| &node.addresses).copied().collect()
}

/// The pods with a named port that is asked of everyone, or of those in some networks.
fn of_ports(
    store: &Store,
    asked: &Asked,
    ranges: &[(Range, Signature)],
    addresses: &mut Vec<IpAddr>,
) {
    let is_block = |of: &Option<Arc<Feature>>| {
        of.as_ref().is_none_or(|feature| matches!(feature.is, Is::Block(_)))
    };
    let names: BTreeSet<_> =
        asked.ports.iter().filter(|(_, of)| is_block(of)).map(|(name, _)| name).collect();
    if names.is_empty() {
        return;
    }
    let of_everyone = asked.ports.iter().any(|(_, of)| of.is_none());
    for (address, pod) in store.addresses() {
        let has = names.iter().any(|(name, protocol)| pod.port(name, *protocol).is_some());
        if has && (of_everyone || range_with(ranges, address).is_some()) {
            addresses.push(address);
        }
    }
}
