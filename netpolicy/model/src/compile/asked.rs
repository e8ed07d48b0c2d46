//! Who asks what, so that a policy that asks otherwise than before leads to the pods concerned.

use std::collections::{BTreeSet, HashMap};
use std::hash::Hash;
use std::net::IpAddr;
use std::sync::Arc;

use shunt_model::address::Protocol;

use super::LocalPrograms;
use super::feature::{Feature, Features, Label, Matching};
use super::program::{Port, Program};
use crate::selector::Operator;
use crate::store::Store;

/// How many ask what.
#[derive(Debug, Default)]
pub(super) struct Askers {
    /// Of the local addresses: by the address of their programs.
    programs: Counts<usize>,
    features: Counts<Arc<Feature>>,
    ports: Counts<(Arc<str>, Protocol)>,
    own_node: Counts<()>,
    /// Since this was asked last.
    asked: Asked,
}

/// What is asked otherwise than before.
#[derive(Debug)]
pub(super) struct Asked {
    /// Selectors of pods that are asked for now and were not before, and the other way round.
    appeared: Vec<Arc<Feature>>,
    vanished: Vec<Arc<Feature>>,
    /// Nothing else has changed than those.
    pub(super) is_of_pods: bool,
}

impl Default for Asked {
    fn default() -> Self {
        Self { appeared: Vec::new(), vanished: Vec::new(), is_of_pods: true }
    }
}

impl Asked {
    pub(super) fn is_empty(&self) -> bool {
        self.appeared.is_empty() && self.vanished.is_empty()
    }

    fn features(&self) -> impl Iterator<Item = &Arc<Feature>> {
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
            (self.own_node, askers.asked.is_of_pods) = (true, false);
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
                    self.ports.insert(port);
                    askers.asked.is_of_pods = false;
                }
            }
        }
    }

    /// Takes away what the former programs of a local address asked. To be settled afterwards.
    pub(super) fn remove(&mut self, programs: &LocalPrograms) {
        let askers = &mut self.askers;
        if programs.egress.is_some() && askers.own_node.remove(&()) {
            (self.own_node, askers.asked.is_of_pods) = (false, false);
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
                    self.ports.remove(&port);
                    askers.asked.is_of_pods = false;
                }
            }
        }
    }

    /// Brings the index up to date with what was added and taken away; returns what that was.
    pub(super) fn settle(&mut self) -> Asked {
        let mut asked = std::mem::take(&mut self.askers.asked);
        for feature in &asked.vanished {
            self.asked.remove(feature);
            self.nodes.remove(feature);
            match labels(feature) {
                None => self.by_no_label.retain(|held| held != feature),
                Some(labels) => labels.for_each(|label| {
                    if let Some(held) = self.by_label.get_mut(&label) {
                        held.retain(|held| held != feature);
                    }
                }),
            }
        }
        for feature in &asked.appeared {
            self.asked.insert(Arc::clone(feature));
            match (feature.as_ref(), labels(feature)) {
                (Feature::Node(_), _) => drop(self.nodes.insert(Arc::clone(feature))),
                (Feature::Pods(..), None) => self.by_no_label.push(Arc::clone(feature)),
                (_, labels) => labels.into_iter().flatten().for_each(|label| {
                    self.by_label.entry(label).or_default().push(Arc::clone(feature));
                }),
            }
        }
        let of_pods = |feature: &Arc<Feature>| matches!(feature.as_ref(), Feature::Pods(..));
        let all_of_pods = asked.features().all(of_pods);
        asked.is_of_pods &= all_of_pods;
        asked
    }

    /// Forgets what was found of pods that selectors match which are asked for now, or no more, and of pods of some
    /// namespaces; returns their addresses.
    pub(super) fn forget_matching(
        &mut self,
        store: &Store,
        asked: &Asked,
        relabelled: &BTreeSet<Arc<str>>,
    ) -> Vec<IpAddr> {
        let mut addresses = Vec::new();
        self.matches.retain(|(namespace, _), Matching { labels, .. }| {
            let is_concerned = relabelled.contains(namespace)
                || asked.features().any(|feature| feature.selects(store, namespace, labels));
            if is_concerned {
                addresses.extend(store.addresses_alike(namespace, labels));
            }
            !is_concerned
        });
        addresses
    }
}

/// The label by which a selector of pods is found, with each of its values.
fn labels(feature: &Feature) -> Option<impl Iterator<Item = Label>> {
    let Feature::Pods(_, pods) = feature else { return None };
    let (key, values) =
        pods.requirements().find_map(|requirement| match &requirement.operator {
            Operator::In(values) => Some((&requirement.key, values)),
            _ => None,
        })?;
    Some(values.iter().map(|value| (Arc::clone(key), Arc::clone(value))))
}

/// Each once.
fn features(program: &Program) -> BTreeSet<&Arc<Feature>> {
    program.matches().flat_map(|asked| asked.peers.iter().flatten()).collect()
}

/// The ports that peers have by names, each once.
fn ports(program: &Program) -> BTreeSet<(Arc<str>, Protocol)> {
    let ports = program.matches().flat_map(|asked| asked.ports.iter().flatten());
    let named = ports.filter_map(|(protocol, port)| match port {
        Port::OfPeer(name) => Some((Arc::clone(name), *protocol)),
        Port::Range(..) => None,
    });
    named.collect()
}
