//! Who asks what, so that a policy that asks otherwise than before leads to the addresses concerned.

use std::collections::{BTreeSet, HashMap};
use std::hash::Hash;
use std::sync::Arc;

use super::LocalPrograms;
use super::feature::{Feature, Features, Is, NamedPort};
use super::program::{Port, Program};

/// A port that is asked for by its name, and of whom; `None`: of everyone.
type PortOf = (NamedPort, Option<Arc<Feature>>);

/// How many ask what.
#[derive(Debug, Default)]
pub(super) struct Askers {
    /// Of the local addresses: by the address of their programs.
    programs: Counts<usize>,
    features: Counts<Arc<Feature>>,
    ports: Counts<PortOf>,
    own_node: Counts<()>,
    /// Since this was asked last.
    asked: Asked,
}

/// What is asked otherwise than before.
#[derive(Debug, Default)]
pub(super) struct Asked {
    /// What is asked for now and was not before.
    appeared: Vec<Arc<Feature>>,
    /// The other way round.
    vanished: Vec<Arc<Feature>>,
    /// Of either kind.
    pub(super) ports: Vec<PortOf>,
    /// Whether the peer is the node itself is, or is no more.
    pub(super) own_node: bool,
}

impl Asked {
    /// Whether blocks are among it.
    pub(super) fn is_of_blocks(&self) -> bool {
        self.features().any(|feature| matches!(feature.is, Is::Block(_)))
    }

    /// What is asked for now, or no more.
    pub(super) fn features(&self) -> impl Iterator<Item = &Arc<Feature>> {
        self.appeared.iter().chain(&self.vanished)
    }
}

#[derive(Debug)]
struct Counts<T>(HashMap<T, usize>);

impl<T> Default for Counts<T> {
    fn default() -> Self {
        Self(HashMap::new())
    }
}

impl<T: Hash + Eq> Counts<T> {
    /// Whether it is the first.
    fn add(&mut self, what: T) -> bool {
        let count = self.0.entry(what).or_default();
        *count += 1;
        *count == 1
    }

    /// Whether it was the last.
    fn remove(&mut self, what: &T) -> bool {
        let Some(count) = self.0.get_mut(what) else { return false };
        *count -= 1;
        let last = *count == 0;
        if last {
            self.0.remove(what);
        }
        last
    }
}

impl Features {
    /// Adds what the programs of a local address ask. To be settled afterwards.
    pub(super) fn add(&mut self, programs: &LocalPrograms) {
        let askers = &mut self.askers;
        if programs.egress.is_some() && askers.own_node.add(()) {
            (self.own_node, askers.asked.own_node) = (true, true);
        }
        for program in programs.iter() {
            if !askers.programs.add(Arc::as_ptr(program) as usize) {
                continue;
            }
            for feature in features(program) {
                if askers.features.add(Arc::clone(feature)) {
                    askers.asked.appeared.push(Arc::clone(feature));
                }
            }
            for port in ports(program) {
                if askers.ports.add(port.clone()) {
                    let (name, of) = port.clone();
                    self.ports.entry(name).or_default().insert(of);
                    askers.asked.ports.push(port);
                }
            }
        }
    }

    /// Takes away what the former programs of a local address asked. To be settled afterwards.
    pub(super) fn remove(&mut self, programs: &LocalPrograms) {
        let askers = &mut self.askers;
        if programs.egress.is_some() && askers.own_node.remove(&()) {
            (self.own_node, askers.asked.own_node) = (false, true);
        }
        for program in programs.iter() {
            if !askers.programs.remove(&(Arc::as_ptr(program) as usize)) {
                continue;
            }
            for feature in features(program) {
                if askers.features.remove(feature) {
                    askers.asked.vanished.push(Arc::clone(feature));
                }
            }
            for port in ports(program) {
                if askers.ports.remove(&port) {
                    let (name, of) = &port;
                    if let Some(askers) = self.ports.get_mut(name) {
                        askers.remove(of);
                    }
                    self.ports.retain(|_, of| !of.is_empty());
                    askers.asked.ports.push(port);
                }
            }
        }
    }

    /// Brings the index up to date with what was added and taken away; returns what that was.
    pub(super) fn settle(&mut self) -> Asked {
        let asked = std::mem::take(&mut self.askers.asked);
        for feature in &asked.vanished {
            match self.kind(feature) {
                Some(kind) => drop(kind.remove(feature)),
                None => self.pods.remove(feature),
            }
        }
        for feature in &asked.appeared {
            match self.kind(feature) {
                Some(kind) => drop(kind.insert(Arc::clone(feature))),
                None => self.pods.insert(feature),
            }
        }
        asked
    }

    /// All features of its kind; `None`: it is a selector of pods.
    fn kind(&mut self, feature: &Feature) -> Option<&mut BTreeSet<Arc<Feature>>> {
        match feature.is {
            Is::Block(_) => Some(&mut self.blocks),
            Is::Node(_) => Some(&mut self.nodes),
            Is::Domain(_) => Some(&mut self.domains),
            // Programs ask for neither of the last two as such.
            Is::Pods(..) | Is::OwnNode | Is::Port(..) => None,
        }
    }
}

/// Each once.
fn features(program: &Program) -> BTreeSet<&Arc<Feature>> {
    program.matches().flat_map(|asked| asked.peers.iter().flatten()).collect()
}

/// The ports that peers have by names, each once.
fn ports(program: &Program) -> BTreeSet<PortOf> {
    let mut all = BTreeSet::new();
    for asked in program.matches() {
        for (protocol, port) in asked.ports.iter().flatten() {
            let Port::OfPeer(name) = port else { continue };
            let name = (Arc::clone(name), *protocol);
            match &asked.peers {
                None => drop(all.insert((name, None))),
                Some(peers) => {
                    all.extend(peers.iter().map(|of| (name.clone(), Some(Arc::clone(of)))));
                }
            }
        }
    }
    all
}
