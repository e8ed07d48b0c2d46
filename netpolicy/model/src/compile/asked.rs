//! Who asks what, so that a policy that asks otherwise than before leads to the addresses concerned.

use std::collections::{BTreeSet, HashMap};
use std::hash::Hash;
use std::sync::Arc;

use super::LocalPrograms;
use super::feature::{Feature, Features, Is, NamedPort, Signature};
use super::program::{Port, Program};

/// A port that is asked for by its name, and of whom; `None`: of everyone.
type PortOf = (NamedPort, Option<Arc<Feature>>);

/// How many ask what.
#[derive(Debug, Default)]
pub(super) struct Askers {
    /// Of the local addresses: by the address of their programs.
    programs: HashMap<usize, usize>,
    /// Of the programs, by their addresses.
    features: Each<Arc<Feature>>,
    ports: Each<PortOf>,
    /// Of the local addresses.
    own_node: usize,
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

/// What is asked, with the programs that ask it.
#[derive(Debug)]
struct Each<T>(HashMap<T, BTreeSet<usize>>);

impl<T> Default for Each<T> {
    fn default() -> Self {
        Self(HashMap::new())
    }
}

impl<T: Hash + Eq> Each<T> {
    /// Whether it is the first.
    fn add(&mut self, what: T, program: usize) -> bool {
        let programs = self.0.entry(what).or_default();
        programs.insert(program);
        programs.len() == 1
    }

    /// Whether it was the last.
    fn remove(&mut self, what: &T, program: usize) -> bool {
        let Some(programs) = self.0.get_mut(what) else { return false };
        programs.remove(&program);
        let last = programs.is_empty();
        if last {
            self.0.remove(what);
        }
        last
    }

    fn of(&self, what: &T) -> Option<&BTreeSet<usize>> {
        self.0.get(what)
    }
}

/// One more; whether it is the first.
fn add(count: &mut usize) -> bool {
    *count += 1;
    *count == 1
}

/// One less; whether it was the last.
fn remove(count: &mut usize) -> bool {
    *count = count.saturating_sub(1);
    *count == 0
}

impl Askers {
    /// The programs to which a feature makes a difference by itself: ports that are asked of some do not.
    fn of(&self, feature: &Arc<Feature>) -> Option<&BTreeSet<usize>> {
        match &feature.is {
            Is::Port(name, protocol, _) => self.ports.of(&((Arc::clone(name), *protocol), None)),
            _ => self.features.of(feature),
        }
    }
}

impl Features {
    /// Adds what the programs of a local address ask. To be settled afterwards.
    pub(super) fn add(&mut self, programs: &LocalPrograms) {
        let askers = &mut self.askers;
        if programs.egress.is_some() && add(&mut askers.own_node) {
            (self.own_node, askers.asked.own_node) = (true, true);
        }
        for program in programs.iter() {
            let place = Arc::as_ptr(program) as usize;
            if !add(askers.programs.entry(place).or_default()) {
                continue;
            }
            for feature in features(program) {
                if askers.features.add(Arc::clone(feature), place) {
                    askers.asked.appeared.push(Arc::clone(feature));
                }
            }
            for port in ports(program) {
                if askers.ports.add(port.clone(), place) {
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
        if programs.egress.is_some() && remove(&mut askers.own_node) {
            (self.own_node, askers.asked.own_node) = (false, true);
        }
        for program in programs.iter() {
            let place = Arc::as_ptr(program) as usize;
            if !askers.programs.get_mut(&place).is_some_and(remove) {
                continue;
            }
            askers.programs.remove(&place);
            for feature in features(program) {
                if askers.features.remove(feature, place) {
                    askers.asked.vanished.push(Arc::clone(feature));
                }
            }
            for port in ports(program) {
                if askers.ports.remove(&port, place) {
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

    /// The programs, by their addresses, that may decide otherwise about those with these features than about anyone.
    pub(super) fn askers_of(&self, signature: &Signature) -> BTreeSet<usize> {
        if signature.is_own_node() {
            return self.askers.programs.keys().copied().collect();
        }
        signature.iter().filter_map(|feature| self.askers.of(feature)).flatten().copied().collect()
    }

    /// Whether the program with this address is one of them.
    pub(super) fn asks(&self, program: usize, signature: &Signature) -> bool {
        signature.iter().any(|feature| {
            feature.is == Is::OwnNode
                || self.askers.of(feature).is_some_and(|askers| askers.contains(&program))
        })
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
