//! Sandboxes: what the container runtime of this node tells of its pods, before the API server does.
//!
//! The kubelet reports a pod's addresses when its containers have been started; the runtime knows them earlier. Until the
//! API server's Pod says the same, the pod is what both say together: of one `uid` the API server's labels and ports
//! with the runtime's addresses; otherwise (the API server's Pod is not here yet, or is an earlier one of that name) what
//! the runtime says alone.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::sync::Arc;

use shunt_model::object::ObjectKey;

use crate::object::Pod;

/// A pod's sandbox.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Sandbox {
    /// The runtime's name for it.
    pub id: Arc<str>,
    /// The pod as the runtime knows it: on this node, with its labels, `created` when the sandbox was; its ports have no
    /// names.
    pub pod: Pod,
}

impl Sandbox {
    /// Whether the API server's Pod says all that the sandbox does.
    fn is_told_by(&self, told: &Pod) -> bool {
        let mut addresses = self.pod.addresses.iter();
        told.uid == self.pod.uid && addresses.all(|address| told.addresses.contains(address))
    }
}

/// A sandbox whose addresses the API server has not told yet.
#[derive(Clone, Debug)]
struct Held {
    sandbox: Sandbox,
    /// The API server's Pod of that name.
    told: Option<Pod>,
}

/// The sandboxes of this node that the API server has not told of yet, the newest of each pod.
#[derive(Clone, Debug, Default)]
pub(crate) struct Sandboxes(BTreeMap<ObjectKey, Held>);

impl Sandboxes {
    /// Takes a sandbox in; `told`: the API server's Pod of that name, if no sandbox is known. Returns the API server's
    /// Pod if nothing is to be added to it.
    pub(crate) fn put(&mut self, sandbox: Sandbox, told: Option<Pod>) -> Option<Pod> {
        let key = sandbox.pod.key.clone();
        let told = self.0.remove(&key).map_or(told, |held| held.told);
        match told {
            Some(told) if sandbox.is_told_by(&told) => Some(told),
            told => {
                self.0.insert(key, Held { sandbox, told });
                None
            }
        }
    }

    /// Takes the API server's Pod in; returns it if nothing is to be added to it.
    pub(crate) fn tell(&mut self, told: Pod) -> Option<Pod> {
        match self.0.get_mut(&told.key) {
            Some(held) if !held.sandbox.is_told_by(&told) => {
                held.told = Some(told);
                None
            }
            _ => {
                self.0.remove(&told.key);
                Some(told)
            }
        }
    }

    /// The API server has no Pod of that name (any more); whether there is a sandbox.
    pub(crate) fn untell(&mut self, key: &ObjectKey) -> bool {
        let held = self.0.get_mut(key);
        held.map(|held| held.told = None).is_some()
    }

    /// The API server has no Pods.
    pub(crate) fn untell_all(&mut self) {
        self.0.values_mut().for_each(|held| held.told = None);
    }

    /// The pods whose sandboxes are not among these.
    pub(crate) fn without(&self, ids: &BTreeSet<&str>) -> Vec<ObjectKey> {
        let gone = self.0.iter().filter(|(_, held)| !ids.contains(&*held.sandbox.id));
        gone.map(|(key, _)| key.clone()).collect()
    }

    /// The pod of this sandbox.
    pub(crate) fn pod_of(&self, id: &str) -> Option<ObjectKey> {
        let mut all = self.0.iter();
        all.find(|(_, held)| *held.sandbox.id == *id).map(|(key, _)| key.clone())
    }

    /// Forgets a pod's sandbox; returns the API server's Pod.
    pub(crate) fn remove(&mut self, key: &ObjectKey) -> Option<Pod> {
        self.0.remove(key)?.told
    }

    /// Their pods.
    pub(crate) fn keys(&self) -> Vec<ObjectKey> {
        self.0.keys().cloned().collect()
    }

    /// The node of a pod.
    pub(crate) fn node(&self, key: &ObjectKey) -> Option<Arc<str>> {
        self.0.get(key)?.sandbox.pod.node.clone()
    }

    /// A pod, as the runtime and the API server say together. Some runtimes give pods on the host's network the
    /// `machine`'s addresses.
    pub(crate) fn pod(&self, key: &ObjectKey, machine: Option<&BTreeSet<IpAddr>>) -> Option<Pod> {
        let Held { sandbox: Sandbox { pod, .. }, told } = self.0.get(key)?;
        let pod = match told {
            Some(told) if told.uid == pod.uid => Pod {
                addresses: pod.addresses.clone(),
                created: told.created.max(pod.created),
                ..told.clone()
            },
            _ => pod.clone(),
        };
        let is_ours = |address: &IpAddr| machine.is_some_and(|machine| machine.contains(address));
        let addresses = pod.addresses.iter().copied().filter(|address| !is_ours(address)).collect();
        Some(Pod { addresses, ..pod })
    }
}

#[cfg(test)]
mod tests;
