//! From objects to the decision table.
//!
//! Only what concerns this node is compiled. The policies that select its pods are *in force*; what
//! their peers ask of an address are *features* (a selector that matches its pod or node, a block
//! that holds it, the number of a named port). Peers with the same features are one atom, and what a local pod's
//! *program* (its policies' rules) accepts of an atom is a row. Programs are shared by all pods that
//! the same policies select.

mod feature;
mod number;
mod program;
mod tighten;

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::net::IpAddr;
use std::sync::Arc;

use shunt_model::address::Family;

use self::feature::{Features, Signature};
use self::number::Numbers;
use self::program::Program;
use self::tighten::tightened;
use crate::object::{Direction, Pod};
use crate::store::{Dirty, Store};
use crate::table::{Atom, Decisions, Delta, Local, Row, RowId, Table};

/// Compiles the table of a node, and what changes of it.
#[derive(Debug)]
pub struct Compiler {
    node: Arc<str>,
    table: Table,
    /// What the policies in force ask; maybe more, until everything is compiled anew.
    features: Features,
    atoms: Numbers<Signature>,
    rows: Numbers<Row>,
    programs: HashMap<Arc<Program>, Arc<Decisions>>,
    locals: BTreeMap<IpAddr, LocalPrograms>,
    /// Nothing has been compiled yet: what was accepted before is not known.
    fresh: bool,
}

/// The programs of a local address.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
struct LocalPrograms {
    ingress: Option<Arc<Program>>,
    egress: Option<Arc<Program>>,
}

/// The whole table of a node at once.
#[must_use]
pub fn full(node: &str, store: &Store) -> Table {
    let mut compiler = Compiler::new(node);
    compiler.update(store, &Dirty::everything());
    compiler.table
}

impl Compiler {
    /// A compiler for the node of this name, with an empty table.
    #[must_use]
    pub fn new(node: &str) -> Self {
        Self {
            node: node.into(),
            table: Table::default(),
            features: Features::default(),
            atoms: Numbers::default(),
            rows: Numbers::default(),
            programs: HashMap::new(),
            locals: BTreeMap::new(),
            fresh: true,
        }
    }

    /// The table.
    #[must_use]
    pub const fn table(&self) -> &Table {
        &self.table
    }

    /// Compiles what is dirty; returns what that changes of the table.
    pub fn update(&mut self, store: &Store, dirty: &Dirty) -> Delta {
        let delta = if dirty.everything { None } else { self.part(store, dirty) };
        let mut delta = delta.unwrap_or_else(|| self.whole(store));
        if !std::mem::take(&mut self.fresh) {
            delta.tightened = tightened(&self.table, &delta, &dirty.presence);
        }
        self.table.apply(&delta);
        delta
    }

    /// Some addresses. `None`: they ask what was not asked before, so that every address has to be
    /// looked at.
    fn part(&mut self, store: &Store, dirty: &Dirty) -> Option<Delta> {
        let mut delta = Delta::default();
        let mut locals = self.locals.clone();
        for address in &dirty.addresses {
            let pod = store.pod_at(*address);
            let programs = pod.map(|pod| self.programs_of(store, pod)).unwrap_or_default();
            if !self.features.cover(&programs) {
                return None;
            }
            if programs.is_empty() {
                locals.remove(address);
            } else {
                locals.insert(*address, programs);
            }
            let atom = self.peer(store, *address, pod);
            if self.table.peers.get(address) != atom.as_ref() {
                delta.peers.insert(*address, atom);
            }
        }
        self.locals = locals;
        self.decide(&mut delta);
        Some(delta)
    }

    fn whole(&mut self, store: &Store) -> Delta {
        self.locals.clear();
        let mut features = Features::default();
        for (address, pod) in store.addresses() {
            let programs = self.programs_of(store, pod);
            features.add(&programs);
            if !programs.is_empty() {
                self.locals.insert(address, programs);
            }
        }
        self.features = features;
        self.atoms = Numbers::default();
        self.programs.clear();
        let networks = Family::ALL.into_iter().flat_map(|family| self.features.networks(family));
        let networks: Vec<_> = networks.collect();
        let networks: Vec<_> = networks
            .into_iter()
            .map(|(range, signature)| (range, Atom(self.atoms.number(signature))))
            .collect();
        let mut peers = HashMap::new();
        if !self.locals.is_empty() {
            for (address, pod) in store.addresses() {
                peers.extend(self.peer(store, address, Some(pod)).map(|atom| (address, atom)));
            }
            for address in self.others(store) {
                let pod = store.pod_at(address);
                peers.extend(self.peer(store, address, pod).map(|atom| (address, atom)));
            }
        }
        let mut delta = Delta::default();
        for (address, atom) in &peers {
            if self.table.peers.get(address) != Some(atom) {
                delta.peers.insert(*address, Some(*atom));
            }
        }
        for address in self.table.peers.keys().filter(|address| !peers.contains_key(address)) {
            delta.peers.insert(*address, None);
        }
        delta.networks = (self.table.networks != networks).then_some(networks);
        self.decide(&mut delta);
        delta
    }

    /// Addresses beside those of pods that may be told apart: of nodes, and the machine's own.
    fn others(&self, store: &Store) -> BTreeSet<IpAddr> {
        let mut others = BTreeSet::new();
        if self.features.ask_for_nodes() {
            others.extend(store.node_addresses());
        }
        if self.features.ask_for_own_node() {
            others.extend(store.machine(&self.node).into_iter().flatten());
        }
        others
    }

    /// The class of an address, unless its network tells it.
    fn peer(&mut self, store: &Store, address: IpAddr, pod: Option<&Arc<Pod>>) -> Option<Atom> {
        let own = store.machine(&self.node).is_some_and(|machine| machine.contains(&address));
        let signature = self.features.of(store, address, pod, own)?;
        Some(Atom(self.atoms.number(signature)))
    }

    fn programs_of(&self, store: &Store, pod: &Pod) -> LocalPrograms {
        if pod.node.as_ref() != Some(&self.node) {
            return LocalPrograms::default();
        }
        let program = |direction| Program::of(store, pod, direction).map(Arc::new);
        LocalPrograms { ingress: program(Direction::Ingress), egress: program(Direction::Egress) }
    }

    /// Brings the decisions for local addresses up to date.
    fn decide(&mut self, delta: &mut Delta) {
        if self.atoms.take_news() {
            self.programs.clear();
        }
        let mut locals = BTreeMap::new();
        let mut programs = HashMap::new();
        for (address, of) in &self.locals {
            let mut decide = |program: &Arc<Program>| {
                let decisions = match self.programs.get(program).or_else(|| programs.get(program)) {
                    Some(decided) => Arc::clone(decided),
                    None => Arc::new(decisions(program, &self.atoms, &mut self.rows)),
                };
                programs.insert(Arc::clone(program), Arc::clone(&decisions));
                decisions
            };
            let ingress = of.ingress.as_ref().map(&mut decide);
            let egress = of.egress.as_ref().map(&mut decide);
            let to_node = of.egress.as_ref().is_some_and(|program| program.has_tiers());
            locals.insert(*address, Local { ingress, egress, to_node });
        }
        self.programs = programs;
        let mut rows = BTreeMap::new();
        for decisions in self.programs.values() {
            for id in decisions.rows.values().chain([&decisions.default]) {
                if !rows.contains_key(id) {
                    rows.extend(self.rows.get(id.0).map(|row| (*id, Arc::clone(row))));
                }
            }
        }
        self.rows.retain(|id| rows.contains_key(&RowId(id)));
        let (old, new) = (&self.table.locals, &locals);
        delta.locals = changes(old, new);
        delta.rows = changes(&self.table.rows, &rows);
    }
}

impl LocalPrograms {
    fn is_empty(&self) -> bool {
        self.ingress.is_none() && self.egress.is_none()
    }

    fn iter(&self) -> impl Iterator<Item = &Program> {
        self.ingress.iter().chain(&self.egress).map(AsRef::as_ref)
    }
}

fn decisions(program: &Program, atoms: &Numbers<Signature>, rows: &mut Numbers<Row>) -> Decisions {
    let default = RowId(rows.number(program.row(&Signature::default())));
    let of_atom = |(atom, signature): (u32, &Arc<Signature>)| {
        let row = RowId(rows.number(program.row(signature)));
        (row != default).then_some((Atom(atom), row))
    };
    Decisions { default, rows: atoms.iter().filter_map(of_atom).collect() }
}

/// What is new, different or gone.
fn changes<K: Ord + Clone, V: PartialEq + Clone>(
    old: &BTreeMap<K, V>,
    new: &BTreeMap<K, V>,
) -> BTreeMap<K, Option<V>> {
    let mut changes = BTreeMap::new();
    for (key, value) in new.iter().filter(|(key, value)| old.get(key) != Some(value)) {
        changes.insert(key.clone(), Some(value.clone()));
    }
    for key in old.keys().filter(|key| !new.contains_key(key)) {
        changes.insert(key.clone(), None);
    }
    changes
}
