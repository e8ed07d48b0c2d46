//! From objects to the decision table.
//!
//! Only what concerns this node is compiled. The policies that select its pods are *in force*; what
//! their peers ask of an address are *features* (a selector that matches its pod or node, a block
//! that holds it, the number of a named port). Peers with the same features are one atom, and what a local pod's
//! *program* (its policies' rules) accepts of an atom is a row. Programs are shared by all pods that
//! the same policies select.

mod asked;
mod feature;
mod number;
mod program;
mod tighten;

use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};
use std::net::IpAddr;
use std::sync::Arc;

use shunt_model::address::Family;

use self::asked::Asked;
use self::feature::{Features, Signature};
use self::number::Numbers;
use self::program::Program;
use self::tighten::tightened;
use crate::address_map::AddressMap;
use crate::object::{Direction, Pod};
use crate::store::{Dirty, Store};
use crate::table::{Atom, Decisions, Delta, Local, Range, Row, RowId, Table, network_atom};

/// Compiles the table of a node, and what changes of it.
#[derive(Debug)]
pub struct Compiler {
    node: Arc<str>,
    table: Table,
    /// What the policies in force ask.
    features: Features,
    atoms: Numbers<Signature>,
    rows: Numbers<Row>,
    /// Each program once, so that its address stands for it: programs are long, and pods are many.
    programs: HashSet<Arc<Program>>,
    /// What they decide of the atoms below, by their addresses.
    decided: HashMap<usize, Arc<Decisions>>,
    decided_of: BTreeSet<u32>,
    /// The addresses of pods on this node.
    here: BTreeSet<IpAddr>,
    locals: BTreeMap<IpAddr, LocalPrograms>,
    /// Nothing has been compiled yet: what was accepted before is not known.
    fresh: bool,
    /// Rows say which policies decide.
    counting: bool,
}

/// The programs of a local address.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
struct LocalPrograms {
    ingress: Option<Arc<Program>>,
    egress: Option<Arc<Program>>,
    /// They drop nothing.
    audit: bool,
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
            programs: HashSet::new(),
            decided: HashMap::new(),
            decided_of: BTreeSet::new(),
            here: BTreeSet::new(),
            locals: BTreeMap::new(),
            fresh: true,
            counting: false,
        }
    }

    /// The same, with rows that say which policies decide, so that connections can be counted by policy.
    #[must_use]
    pub fn counting(self, counting: bool) -> Self {
        Self { counting, ..self }
    }

    /// The table.
    #[must_use]
    pub const fn table(&self) -> &Table {
        &self.table
    }

    /// Compiles what is dirty; returns what that changes of the table.
    pub fn update(&mut self, store: &Store, dirty: &Dirty) -> Delta {
        self.locate(store, dirty);
        let delta = if dirty.everything { None } else { self.part(store, dirty) };
        let mut delta = delta.unwrap_or_else(|| self.whole(store));
        if !std::mem::take(&mut self.fresh) {
            delta.tightened = tightened(&self.table, &delta, dirty);
        }
        self.table.apply(&delta);
        delta
    }

    /// Takes in which addresses are of pods on this node.
    fn locate(&mut self, store: &Store, dirty: &Dirty) {
        if dirty.everything {
            let here = store.addresses().filter(|(_, pod)| pod.is_on(&self.node));
            self.here = here.map(|(address, _)| address).collect();
            return;
        }
        for address in &dirty.addresses {
            match store.pod_at(*address).is_some_and(|pod| pod.is_on(&self.node)) {
                true => self.here.insert(*address),
                false => self.here.remove(address),
            };
        }
    }

    /// The same, with the pods.
    fn pods_here<'a>(&self, store: &'a Store) -> impl Iterator<Item = (IpAddr, &'a Arc<Pod>)> {
        self.here.iter().filter_map(|address| Some((*address, store.pod_at(*address)?)))
    }

    /// Some addresses, or what policies say of our pods. `None`: what is asked changes in a way in
    /// which every address has to be looked at.
    fn part(&mut self, store: &Store, dirty: &Dirty) -> Option<Delta> {
        let mut concerned = dirty.addresses.clone();
        if dirty.policies || !dirty.namespaces.is_empty() {
            let speak_of =
                |pod: &Pod| dirty.policies || dirty.namespaces.contains(&pod.key.namespace);
            let locals = self.pods_here(store).filter(|(_, pod)| speak_of(pod));
            concerned.extend(locals.map(|(address, _)| address));
        }
        let mut changed = BTreeMap::new();
        let nothing = LocalPrograms::default();
        for address in concerned {
            let pod = store.pod_at(address);
            let programs = pod.map(|pod| self.programs_of(store, pod)).unwrap_or_default();
            if *self.locals.get(&address).unwrap_or(&nothing) != programs {
                changed.insert(address, programs);
            }
        }
        if self.locals.is_empty() && changed.values().any(|programs| !programs.is_empty()) {
            // As yet nobody has been looked at.
            return None;
        }
        let asked = self.take(&changed);
        if !asked.is_of_pods {
            return None;
        }
        let mut delta = Delta::default();
        for address in &dirty.addresses {
            let atom = self.peer(store, *address, store.pod_at(*address));
            self.moves(*address, atom, &mut delta);
        }
        self.ask_again(store, &asked, &dirty.relabelled, &mut delta);
        // Whoever asks for other pods asks that of pods with names, too.
        let named: BTreeSet<IpAddr> = match asked.is_empty() && dirty.relabelled.is_empty() {
            true => dirty.addresses.union(&dirty.names).copied().collect(),
            false => store.named_addresses().chain(dirty.names.iter().copied()).collect(),
        };
        for address in named.union(&dirty.addresses) {
            let atom = self.named(store, *address);
            if self.table.named.get(address) != atom.as_ref() {
                delta.named.insert(*address, atom);
            }
        }
        if self.atoms.take_news() || !changed.is_empty() {
            self.decide(&mut delta);
        }
        Some(delta)
    }

    /// Takes in that local addresses have other programs; returns what is asked otherwise.
    fn take(&mut self, changed: &BTreeMap<IpAddr, LocalPrograms>) -> Asked {
        // First what is new: what is asked before and after is never asked by nobody.
        for programs in changed.values() {
            self.features.add(programs);
        }
        for (address, programs) in changed {
            let former = match programs.is_empty() {
                true => self.locals.remove(address),
                false => self.locals.insert(*address, programs.clone()),
            };
            if let Some(former) = former {
                self.features.remove(&former);
            }
        }
        self.features.settle()
    }

    /// Looks again at the pods that selectors match which are asked for now, or no more, and at those of namespaces with
    /// other labels.
    fn ask_again(
        &mut self,
        store: &Store,
        asked: &Asked,
        relabelled: &BTreeSet<Arc<str>>,
        delta: &mut Delta,
    ) {
        if asked.is_empty() && relabelled.is_empty() {
            return;
        }
        let addresses = self.features.forget_matching(store, asked, relabelled);
        let pods = addresses.iter().filter_map(|at| Some((*at, store.pod_at(*at)?)));
        let networks = std::mem::take(&mut self.table.networks);
        let found = self.peers(store, &networks, pods);
        self.table.networks = networks;
        let mut left = BTreeSet::new();
        for address in addresses {
            self.moves(address, found.get(address).copied(), delta);
            left.extend(self.table.peers.get(address).map(|atom| atom.0));
        }
        self.forget_atoms(left, delta);
    }

    /// Forgets those of some classes that nobody is in any more.
    fn forget_atoms(&mut self, mut left: BTreeSet<u32>, delta: &Delta) {
        let arrived = delta.peers.values().flatten();
        let of_networks = self.table.networks.iter().map(|(_, atom)| atom);
        let of_names = self.table.named.values().chain(delta.named.values().flatten());
        for atom in arrived.chain(of_networks).chain(of_names) {
            left.remove(&atom.0);
        }
        for (address, atom) in self.table.peers.iter() {
            if left.is_empty() {
                return;
            }
            if left.contains(&atom.0) && !delta.peers.contains_key(&address) {
                left.remove(&atom.0);
            }
        }
        self.atoms.retain(|number| !left.contains(&number));
    }

    /// Notes the class of an address, if it is another one than before.
    fn moves(&self, address: IpAddr, atom: Option<Atom>, delta: &mut Delta) {
        if self.table.peers.get(address) != atom.as_ref() {
            delta.peers.insert(address, atom);
        }
    }

    fn whole(&mut self, store: &Store) -> Delta {
        self.locals.clear();
        self.features = Features::default();
        let mut programs = BTreeMap::new();
        for address in self.here.clone() {
            let pod = store.pod_at(address);
            programs.extend(pod.map(|pod| (address, self.programs_of(store, pod))));
        }
        self.take(&programs);
        let networks = Family::ALL.into_iter().flat_map(|family| self.features.networks(family));
        let networks: Vec<_> = networks.collect();
        let networks: Vec<_> = networks
            .into_iter()
            .map(|(range, signature)| (range, Atom(self.atoms.number(signature))))
            .collect();
        let peers = match self.locals.is_empty() {
            true => AddressMap::default(),
            false => self.everyone(store, &networks),
        };
        let named: BTreeMap<_, _> = store
            .named_addresses()
            .filter_map(|address| Some((address, self.named(store, address)?)))
            .collect();
        let mut used: HashSet<u32> =
            peers.values().chain(named.values()).map(|atom| atom.0).collect();
        used.extend(networks.iter().map(|(_, atom)| atom.0));
        self.atoms.retain(|number| used.contains(&number));
        self.atoms.take_news();
        let mut delta = Delta::default();
        for (address, atom) in peers.iter() {
            if self.table.peers.get(address) != Some(atom) {
                delta.peers.insert(address, Some(*atom));
            }
        }
        let gone = self.table.peers.iter().filter(|(address, _)| peers.get(*address).is_none());
        delta.peers.extend(gone.map(|(address, _)| (address, None)));
        delta.named = changes(&self.table.named, &named);
        delta.networks = (self.table.networks != networks).then_some(networks);
        self.decide(&mut delta);
        delta
    }

    /// The classes of all addresses whose network does not tell them.
    fn everyone(&mut self, store: &Store, networks: &[(Range, Atom)]) -> AddressMap<Atom> {
        let mut peers = self.peers(store, networks, store.addresses());
        for address in self.others(store) {
            let pod = store.pod_at(address);
            peers.extend(self.peer(store, address, pod).map(|atom| (address, atom)));
        }
        peers
    }

    /// The classes of some pods, as far as their network does not tell them.
    fn peers<'a>(
        &mut self,
        store: &Store,
        networks: &[(Range, Atom)],
        pods: impl Iterator<Item = (IpAddr, &'a Arc<Pod>)>,
    ) -> AddressMap<Atom> {
        let mut peers = AddressMap::default();
        // Pods of a namespace share their labels. Beside those only their named ports, and the
        // networks they are in, tell them apart.
        let mut alike = HashMap::new();
        let others = self.others(store);
        for (address, pod) in pods {
            if others.contains(&address) {
                let atom = self.peer(store, address, Some(pod));
                peers.extend(atom.map(|atom| (address, atom)));
                continue;
            }
            let labels = (Arc::as_ptr(&pod.key.namespace), Arc::as_ptr(&pod.labels));
            let place = (labels, self.features.ports_of(pod), network_atom(networks, address));
            let atom = match alike.get(&place) {
                Some(known) => *known,
                None => *alike.entry(place).or_insert(self.peer(store, address, Some(pod))),
            };
            peers.extend(atom.map(|atom| (address, atom)));
        }
        peers
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

    /// The class of an address that DNS has given names to, if somebody asks for them.
    fn named(&mut self, store: &Store, address: IpAddr) -> Option<Atom> {
        let own = store.machine(&self.node).is_some_and(|machine| machine.contains(&address));
        let signature = self.features.of_named(store, address, store.pod_at(address), own)?;
        Some(Atom(self.atoms.number(signature)))
    }

    fn programs_of(&mut self, store: &Store, pod: &Pod) -> LocalPrograms {
        if !pod.is_on(&self.node) {
            return LocalPrograms::default();
        }
        let mut program = |direction| {
            let program = Program::of(store, pod, direction, self.counting)?;
            if let Some(held) = self.programs.get(&program) {
                return Some(Arc::clone(held));
            }
            let program = Arc::new(program);
            self.programs.insert(Arc::clone(&program));
            Some(program)
        };
        let (ingress, egress) = (program(Direction::Ingress), program(Direction::Egress));
        let speaks = ingress.is_some() || egress.is_some();
        LocalPrograms { ingress, egress, audit: speaks && store.audits(&pod.key.namespace) }
    }

    /// Brings the decisions for local addresses up to date.
    fn decide(&mut self, delta: &mut Delta) {
        let atoms: BTreeSet<u32> = self.atoms.iter().map(|(number, _)| number).collect();
        let gone: Vec<u32> = self.decided_of.difference(&atoms).copied().collect();
        let new: Vec<u32> = atoms.difference(&self.decided_of).copied().collect();
        let mut locals = BTreeMap::new();
        let mut used = HashMap::new();
        for (address, of) in &self.locals {
            let mut decide = |program: &Arc<Program>| {
                let place = Arc::as_ptr(program) as usize;
                let decisions = used.entry(place).or_insert_with(|| {
                    let former = self.decided.get(&place);
                    let (atoms, rows) = (&self.atoms, &mut self.rows);
                    match former {
                        Some(former) if gone.is_empty() && new.is_empty() => Arc::clone(former),
                        Some(former) => again(former, program, (&gone, &new), atoms, rows),
                        None => Arc::new(decisions(program, atoms, rows)),
                    }
                });
                Arc::clone(decisions)
            };
            let ingress = of.ingress.as_ref().map(&mut decide);
            let egress = of.egress.as_ref().map(&mut decide);
            let to_node = of.egress.as_ref().is_some_and(|program| program.has_tiers());
            locals.insert(*address, Local { ingress, egress, to_node, audit: of.audit });
        }
        delta.locals = changes(&self.table.locals, &locals);
        let is_former = |(place, decisions): (&usize, &Arc<Decisions>)| {
            self.decided.get(place).is_some_and(|former| Arc::ptr_eq(former, decisions))
        };
        let same = used.len() == self.decided.len() && used.iter().all(is_former);
        self.programs.retain(|program| used.contains_key(&(Arc::as_ptr(program) as usize)));
        (self.decided, self.decided_of) = (used, atoms);
        if !same {
            self.keep_rows(delta);
        }
    }

    /// Finds the rows that are decided on, and forgets the others.
    fn keep_rows(&mut self, delta: &mut Delta) {
        let mut ids = BTreeSet::new();
        for decisions in self.decided.values() {
            ids.extend(decisions.rows.values().copied().chain([decisions.default]));
        }
        let row = |id: RowId| Some((id, Arc::clone(self.rows.get(id.0)?)));
        let rows: BTreeMap<_, _> = ids.into_iter().filter_map(row).collect();
        self.rows.retain(|id| rows.contains_key(&RowId(id)));
        delta.rows = changes(&self.table.rows, &rows);
    }
}

impl LocalPrograms {
    fn is_empty(&self) -> bool {
        self.ingress.is_none() && self.egress.is_none()
    }

    fn iter(&self) -> impl Iterator<Item = &Arc<Program>> {
        self.ingress.iter().chain(&self.egress)
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

/// The decisions of a program when some atoms are gone and others new.
fn again(
    former: &Arc<Decisions>,
    program: &Program,
    (gone, new): (&[u32], &[u32]),
    atoms: &Numbers<Signature>,
    rows: &mut Numbers<Row>,
) -> Arc<Decisions> {
    let default = former.default;
    let mut changes = Vec::new();
    for atom in gone.iter().filter(|atom| former.rows.contains_key(&Atom(**atom))) {
        changes.push((Atom(*atom), None));
    }
    for atom in new {
        let Some(signature) = atoms.get(*atom) else { continue };
        let row = RowId(rows.number(program.row(signature)));
        if row != default {
            changes.push((Atom(*atom), Some(row)));
        }
    }
    if changes.is_empty() {
        return Arc::clone(former);
    }
    let mut decisions = Decisions::clone(former);
    for (atom, row) in changes {
        match row {
            Some(row) => decisions.rows.insert(atom, row),
            None => decisions.rows.remove(&atom),
        };
    }
    Arc::new(decisions)
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
