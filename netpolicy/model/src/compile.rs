//! From objects to the decision table.
//!
//! Only what concerns this node is compiled. The policies that select its pods are *in force*; what
//! their peers ask of an address are *features* (a selector that matches its pod or node, a block
//! that holds it, the number of a named port). Peers with the same features are one atom, and what a local pod's
//! *program* (its policies' rules) accepts of an atom is a row. Programs are shared by all pods that
//! the same policies select.

mod asked;
mod classes;
mod decide;
mod feature;
mod network;
mod number;
mod program;
mod selectors;
mod suspects;
mod tighten;

use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};
use std::net::IpAddr;
use std::sync::Arc;

use shunt_model::address::Family;

use self::asked::Asked;
use self::classes::Classes;
use self::feature::Features;
use self::number::Numbers;
use self::program::{Program, Question};
use self::tighten::tightened;
use crate::object::{Direction, Pod};
use crate::store::{Dirty, Store};
use crate::table::{Decisions, Delta, Row, Table};

/// Compiles the table of a node, and what changes of it.
#[derive(Debug)]
pub struct Compiler {
    node: Arc<str>,
    table: Table,
    /// What the policies in force ask.
    features: Features,
    classes: Classes,
    rows: Numbers<Row>,
    /// Each program once, so that its address stands for it: programs are long, and pods are many.
    programs: HashSet<Arc<Program>>,
    /// What they decide of the classes, by their addresses.
    decided: HashMap<usize, Arc<Decisions>>,
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
            classes: Classes::default(),
            rows: Numbers::default(),
            programs: HashSet::new(),
            decided: HashMap::new(),
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
        let changed = self.changed(store, dirty);
        let asked = self.take(&changed);
        let suspects = match dirty.everything {
            true => self.everyone(store),
            false => self.suspects(store, dirty, &asked),
        };
        let mut delta = Delta::default();
        if dirty.everything || asked.is_of_blocks() {
            self.divide(&mut delta);
        }
        self.classify(store, &suspects.addresses, &mut delta);
        self.classify_named(store, &suspects.named, &mut delta);
        let turnover = self.count(&delta);
        if !changed.is_empty() || !turnover.is_empty() {
            self.decide(&turnover, &mut delta);
        }
        self.features.forget_gone(store);
        if !std::mem::take(&mut self.fresh) {
            delta.tightened = tightened(&self.table, &delta, dirty);
        }
        self.table.apply(&delta);
        if !self.locals.is_empty() {
            delta.left.clone_from(&dirty.left);
        }
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

    /// The local addresses whose programs are others than before.
    fn changed(&mut self, store: &Store, dirty: &Dirty) -> BTreeMap<IpAddr, LocalPrograms> {
        let mut concerned = dirty.addresses.clone();
        let speak_of = |pod: &Pod| {
            dirty.everything || dirty.policies || dirty.namespaces.contains(&pod.key.namespace)
        };
        let locals = self.pods_here(store).filter(|(_, pod)| speak_of(pod));
        concerned.extend(locals.map(|(address, _)| address));
        if dirty.everything {
            concerned.extend(self.locals.keys());
        }
        let nothing = LocalPrograms::default();
        let mut changed = BTreeMap::new();
        for address in concerned {
            let pod = store.pod_at(address);
            let programs = pod.map(|pod| self.programs_of(store, address, pod)).unwrap_or_default();
            if *self.locals.get(&address).unwrap_or(&nothing) != programs {
                changed.insert(address, programs);
            }
        }
        changed
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

    fn programs_of(&mut self, store: &Store, address: IpAddr, pod: &Pod) -> LocalPrograms {
        if !pod.is_on(&self.node) {
            return LocalPrograms::default();
        }
        let mut program = |direction| {
            let (family, counting) = (Family::of(address), self.counting);
            let program = Program::of(&Question { store, pod, family, direction, counting })?;
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
}

impl LocalPrograms {
    fn is_empty(&self) -> bool {
        self.ingress.is_none() && self.egress.is_none()
    }

    fn iter(&self) -> impl Iterator<Item = &Arc<Program>> {
        self.ingress.iter().chain(&self.egress)
    }
}

#[cfg(test)]
mod tests {
    use shunt_model::object::ObjectKey;

    use super::*;
    use crate::object::{NetworkPolicy, Peer, Rule, Uid};
    use crate::selector::{Labels, Operator, Requirement, Selector};

    /// Every Job's pods have labels that no others have.
    fn pod(number: u8) -> Pod {
        Pod {
            key: ObjectKey::new("x", "job"),
            uid: Uid::default(),
            created: 0,
            node: Some("node".into()),
            addresses: [IpAddr::from([10, 0, 0, 1])].into(),
            host_network: false,
            labels: Arc::new([("job".into(), number.to_string().into())].into()),
            ports: [].into(),
        }
    }

    /// Allows pods with this label to reach all others of the namespace.
    fn allowing(key: &str, value: &str) -> NetworkPolicy {
        let of = Requirement { key: key.into(), operator: Operator::In([value.into()].into()) };
        let peers = vec![Peer::Pods { namespaces: None, pods: [of].into_iter().collect() }];
        let rule = Rule { peers: Some(peers), ports: None };
        NetworkPolicy {
            key: ObjectKey::new("x", "policy"),
            pods: Selector::default(),
            ingress: Some(vec![rule]),
            egress: None,
        }
    }

    /// The converter keeps equal labels once, so that a pod that comes again has the very labels of the one that has gone.
    #[test]
    fn a_pod_that_comes_again_is_judged_by_what_was_asked_meanwhile() {
        let mut store = Store::new();
        let mut compiler = Compiler::new("node");
        compiler.update(&store, &Dirty::everything());
        let labels: Labels = [("app".into(), "web".into()), ("tier".into(), "x".into())].into();
        let (one, mut other) = (Pod { labels: Arc::new(labels), ..pod(1) }, pod(2));
        other.key = ObjectKey::new("x", "other");
        other.addresses = [IpAddr::from([10, 0, 0, 2])].into();
        let mut took = |store: &mut Store, dirty: &Dirty| {
            compiler.update(store, dirty);
            assert_eq!(*compiler.table(), full("node", store));
        };
        for policy in [allowing("app", "web"), allowing("tier", "x"), allowing("app", "db")] {
            let dirty = store.put_policy(policy);
            took(&mut store, &dirty);
            for pod in [&other, &one] {
                let dirty = store.put_pod(Pod::clone(pod));
                took(&mut store, &dirty);
            }
            let dirty = store.remove_pod(&one.key);
            took(&mut store, &dirty);
        }
    }

    #[test]
    fn what_was_found_of_labels_that_are_gone_is_forgotten() {
        let mut store = Store::new();
        let (key, pods) = (ObjectKey::new("x", "all"), Selector::default());
        let peers = Some(vec![Peer::Pods { namespaces: None, pods: pods.clone() }]);
        let ingress = Some(vec![Rule { peers, ports: None }]);
        drop(store.put_policy(NetworkPolicy { key, pods, ingress, egress: None }));
        let mut compiler = Compiler::new("node");
        compiler.update(&store, &Dirty::everything());
        for number in 0..100 {
            let dirty = store.put_pod(pod(number));
            compiler.update(&store, &dirty);
            assert_eq!(compiler.table().peers.len(), 1);
            assert!(compiler.features.found() <= 2);
        }
    }
}
