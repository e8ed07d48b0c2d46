//! The classes of addresses: those with the same features are one.

use std::collections::{BTreeSet, HashMap};
use std::net::IpAddr;
use std::sync::Arc;

use super::feature::{Peer, Signature};
use super::number::Numbers;
use super::{Compiler, network};
use crate::object::Pod;
use crate::store::Store;
use crate::table::{Atom, Delta, Range, network_atom};

/// The classes that somebody is in.
#[derive(Debug, Default)]
pub(super) struct Classes {
    signatures: Numbers<Signature>,
    /// How many addresses and networks are in each.
    members: HashMap<Atom, usize>,
    /// Since this was asked last.
    appeared: Vec<Atom>,
    emptied: BTreeSet<Atom>,
}

/// Classes that there are now and were not before, and the other way round.
#[derive(Debug, Default)]
pub(super) struct Turnover {
    pub(super) appeared: Vec<Atom>,
    pub(super) vanished: Vec<Atom>,
}

impl Turnover {
    pub(super) fn is_empty(&self) -> bool {
        self.appeared.is_empty() && self.vanished.is_empty()
    }
}

impl Classes {
    /// The class of those with these features.
    fn of(&mut self, signature: Signature) -> Atom {
        let atom = Atom(self.signatures.number(signature));
        self.members.entry(atom).or_insert_with(|| {
            self.appeared.push(atom);
            0
        });
        atom
    }

    pub(super) fn iter(&self) -> impl Iterator<Item = (Atom, &Signature)> {
        self.signatures.iter().map(|(number, signature)| (Atom(number), signature.as_ref()))
    }

    /// What those of a class have.
    pub(super) fn get(&self, atom: Atom) -> Option<&Arc<Signature>> {
        self.signatures.get(atom.0)
    }

    fn join(&mut self, atom: Atom) {
        *self.members.entry(atom).or_default() += 1;
    }

    fn leave(&mut self, atom: Atom) {
        if let Some(members) = self.members.get_mut(&atom) {
            *members = members.saturating_sub(1);
            if *members == 0 {
                self.emptied.insert(atom);
            }
        }
    }

    /// Forgets the classes that nobody is in any more.
    pub(super) fn settle(&mut self) -> Turnover {
        let is_empty = |atom: &Atom| self.members.get(atom).is_none_or(|members| *members == 0);
        let (unused, appeared): (Vec<_>, Vec<_>) =
            std::mem::take(&mut self.appeared).into_iter().partition(is_empty);
        let vanished = std::mem::take(&mut self.emptied);
        for atom in vanished.iter().chain(&unused) {
            self.signatures.forget(atom.0);
            self.members.remove(atom);
        }
        Turnover { appeared, vanished: vanished.into_iter().collect() }
    }
}

impl Compiler {
    /// Brings the ranges that blocks tell apart up to date.
    pub(super) fn divide(&mut self, delta: &mut Delta) {
        let pieces = network::networks(self.features.blocks.iter());
        let networks: Vec<(Range, Atom)> = pieces
            .into_iter()
            .map(|(range, signature)| (range, self.classes.of(signature)))
            .collect();
        delta.networks = (self.table.networks != networks).then_some(networks);
    }

    /// Looks at addresses again; their networks are known.
    pub(super) fn classify(&mut self, store: &Store, addresses: &[IpAddr], delta: &mut Delta) {
        // Pods of a namespace share their labels. Beside those only their named ports, and the
        // networks they are in, tell them apart.
        let mut alike = HashMap::new();
        let mut moved = Vec::new();
        for address in addresses {
            let network = self.network(*address, delta);
            let pod = store.pod_at(*address);
            let is_other = self.is_other(store, *address);
            let place = pod.filter(|_| !is_other).map(|pod| place(pod, network));
            let atom = match place.and_then(|place| alike.get(&place)) {
                Some(known) => *known,
                None => self.class(store, *address, network),
            };
            alike.extend(place.map(|place| (place, atom)));
            if self.table.peers.get(*address).copied() != atom {
                moved.push((*address, atom));
            }
        }
        delta.peers = moved.into_iter().collect();
    }

    /// Looks again at addresses that DNS has given names to.
    pub(super) fn classify_named(
        &mut self,
        store: &Store,
        addresses: &BTreeSet<IpAddr>,
        delta: &mut Delta,
    ) {
        for address in addresses {
            let blocks = self.classes.get(self.network(*address, delta)).map(Arc::clone);
            let peer = peer(store, &self.node, *address, blocks.as_deref());
            let signature = self.features.of_named(store, peer);
            let atom = signature.map(|signature| self.classes.of(signature));
            if self.table.named.get(address).copied() != atom {
                delta.named.insert(*address, atom);
            }
        }
    }

    /// Counts who has come to which class and who has left. First who has come: no class is empty in between.
    pub(super) fn count(&mut self, delta: &Delta) -> Turnover {
        let Self { table, classes, .. } = self;
        let networks = delta.networks.iter().flatten().map(|(_, atom)| atom);
        let joined = delta.peers.values().chain(delta.named.values()).flatten().chain(networks);
        joined.for_each(|atom| classes.join(*atom));
        let former = delta.peers.keys().filter_map(|address| table.peers.get(*address));
        former.for_each(|atom| classes.leave(*atom));
        let former = delta.named.keys().filter_map(|address| table.named.get(address));
        former.for_each(|atom| classes.leave(*atom));
        if delta.networks.is_some() {
            table.networks.iter().for_each(|(_, atom)| classes.leave(*atom));
        }
        classes.settle()
    }

    /// Addresses beside those of pods that may be told apart: of nodes, and the machine's own.
    pub(super) fn others(&self, store: &Store) -> BTreeSet<IpAddr> {
        let mut others = BTreeSet::new();
        if !self.features.nodes.is_empty() {
            others.extend(store.node_addresses());
        }
        if self.features.own_node {
            others.extend(store.machine(&self.node).into_iter().flatten());
        }
        others
    }

    /// Whether an address may be one of them.
    fn is_other(&self, store: &Store, address: IpAddr) -> bool {
        let is_own = || store.machine(&self.node).is_some_and(|own| own.contains(&address));
        let is_of_node = || store.nodes_at(address).next().is_some();
        (self.features.own_node && is_own()) || (!self.features.nodes.is_empty() && is_of_node())
    }

    /// The class of an address by its network alone.
    fn network(&self, address: IpAddr, delta: &Delta) -> Atom {
        network_atom(delta.networks.as_ref().unwrap_or(&self.table.networks), address)
    }

    /// The class of an address, unless its network tells it.
    fn class(&mut self, store: &Store, address: IpAddr, network: Atom) -> Option<Atom> {
        let blocks = self.classes.get(network).map(Arc::clone);
        let peer = peer(store, &self.node, address, blocks.as_deref());
        let signature = self.features.of(store, peer)?;
        Some(self.classes.of(signature))
    }
}

/// `blocks`: those that hold it; `None`: none.
fn peer<'a>(
    store: &'a Store,
    node: &str,
    address: IpAddr,
    blocks: Option<&'a Signature>,
) -> Peer<'a> {
    let own = store.machine(node).is_some_and(|machine| machine.contains(&address));
    Peer { address, pod: store.pod_at(address), own, blocks }
}

/// Pods of one place are of one class: it is where their namespace, labels and ports are, as far as they share those.
fn place(pod: &Pod, network: Atom) -> (usize, usize, usize, Atom) {
    let ports = match pod.ports.is_empty() {
        true => 0,
        false => Arc::as_ptr(&pod.ports).cast::<()>() as usize,
    };
    let namespace = Arc::as_ptr(&pod.key.namespace).cast::<()>() as usize;
    (namespace, Arc::as_ptr(&pod.labels) as usize, ports, network)
}
