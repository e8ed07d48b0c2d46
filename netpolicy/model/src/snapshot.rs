//! Changes as a source tells them, and the objects they amount to.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::sync::Arc;

use shunt_model::object::ObjectKey;
use shunt_model::problem::{Kind, Problem};

use crate::cluster::{ClusterNetworkPolicy, PeerNode};
use crate::domain::DomainName;
use crate::object::{Namespace, NetworkPolicy, Pod};
use crate::sandbox::{Sandbox, Sandboxes};
use crate::store::{Dirty, Store};

/// One object of any kind.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Object {
    /// A Pod.
    Pod(Pod),
    /// A Namespace.
    Namespace(Namespace),
    /// A NetworkPolicy.
    Policy(NetworkPolicy),
    /// A ClusterNetworkPolicy.
    ClusterPolicy(ClusterNetworkPolicy),
    /// A Node.
    Node(PeerNode),
}

impl Object {
    /// The object's kind.
    #[must_use]
    pub const fn kind(&self) -> Kind {
        match self {
            Self::Pod(_) => Kind::Pod,
            Self::Namespace(_) => Kind::Namespace,
            Self::Policy(_) => Kind::NetworkPolicy,
            Self::ClusterPolicy(_) => Kind::ClusterNetworkPolicy,
            Self::Node(_) => Kind::PeerNode,
        }
    }

    /// The object's namespace and name.
    #[must_use]
    pub fn key(&self) -> ObjectKey {
        match self {
            Self::Pod(pod) => pod.key.clone(),
            Self::Namespace(namespace) => ObjectKey::new("", &namespace.name),
            Self::Policy(policy) => policy.key.clone(),
            Self::ClusterPolicy(policy) => ObjectKey::new("", &policy.name),
            Self::Node(node) => ObjectKey::new("", &node.name),
        }
    }
}

/// What a source of objects can say; lists mean what they mean for Services
/// ([`shunt_model::snapshot::Change`]).
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Change {
    /// A list of this kind begins: objects that are not named until it is done are gone.
    ListStarted(Kind),
    /// The list is complete.
    ListDone(Kind),
    /// An object is new, has changed, or was listed.
    Applied {
        /// The object as it is now.
        object: Object,
        /// What is wrong with it; it fails closed.
        problems: Vec<Problem>,
    },
    /// An object is gone.
    Deleted {
        /// The object's kind.
        kind: Kind,
        /// The object's namespace and name.
        key: ObjectKey,
    },
    /// The container runtime has made a pod's sandbox.
    SandboxStarted(Sandbox),
    /// The sandbox with this id ends.
    SandboxStopped(Arc<str>),
    /// All sandboxes that the container runtime has.
    Sandboxes(Vec<Sandbox>),
}

/// The newest of each object, and which lists are complete.
#[derive(Clone, Debug, Default)]
pub struct Snapshot {
    store: Store,
    /// For each kind whose list is under way: what was held before and has not been named yet.
    unlisted: BTreeMap<Kind, BTreeSet<ObjectKey>>,
    listed: BTreeSet<Kind>,
    sandboxes: Sandboxes,
}

impl Snapshot {
    /// An empty snapshot.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// The objects.
    #[must_use]
    pub const fn store(&self) -> &Store {
        &self.store
    }

    /// Whether a list of this kind has been completed.
    #[must_use]
    pub fn has_listed(&self, kind: Kind) -> bool {
        self.listed.contains(&kind)
    }

    /// Takes a change in.
    pub fn apply(&mut self, change: Change) -> Dirty {
        match change {
            Change::ListStarted(kind) => {
                let held = self.keys(kind);
                self.unlisted.insert(kind, held);
                Dirty::default()
            }
            Change::ListDone(kind) => {
                self.listed.insert(kind);
                let mut dirty = Dirty::default();
                for key in self.unlisted.remove(&kind).unwrap_or_default() {
                    dirty.merge(self.remove(kind, &key));
                }
                if kind == Kind::Pod {
                    for key in self.sandboxes.keys() {
                        dirty.merge(self.show(&key));
                    }
                }
                dirty
            }
            Change::Applied { object, .. } => {
                if let Some(unlisted) = self.unlisted.get_mut(&object.kind()) {
                    unlisted.remove(&object.key());
                }
                match object {
                    Object::Pod(pod) => self.put_pod(pod),
                    Object::Namespace(namespace) => self.store.put_namespace(namespace),
                    Object::Policy(policy) => self.store.put_policy(policy),
                    Object::ClusterPolicy(policy) => self.store.put_cluster_policy(policy),
                    Object::Node(node) => self.store.put_node(node),
                }
            }
            Change::Deleted { kind, key } => {
                if let Some(unlisted) = self.unlisted.get_mut(&kind) {
                    unlisted.remove(&key);
                }
                self.remove(kind, &key)
            }
            Change::SandboxStarted(sandbox) => self.put_sandbox(sandbox),
            Change::SandboxStopped(id) => {
                self.sandboxes.pod_of(&id).map_or_else(Dirty::default, |key| self.end_sandbox(&key))
            }
            Change::Sandboxes(all) => {
                let ids = all.iter().map(|sandbox| &*sandbox.id).collect();
                let mut dirty = Dirty::default();
                for key in self.sandboxes.without(&ids) {
                    dirty.merge(self.end_sandbox(&key));
                }
                for sandbox in all {
                    dirty.merge(self.put_sandbox(sandbox));
                }
                dirty
            }
        }
    }

    /// Takes in what the API server says of a pod.
    fn put_pod(&mut self, pod: Pod) -> Dirty {
        let key = pod.key.clone();
        match self.sandboxes.tell(pod) {
            Some(pod) => self.store.put_pod(pod),
            None => self.show(&key),
        }
    }

    fn put_sandbox(&mut self, sandbox: Sandbox) -> Dirty {
        let key = sandbox.pod.key.clone();
        let held = self.store.pod(&key).map(|pod| Pod::clone(pod));
        match self.sandboxes.put(sandbox, held) {
            Some(pod) => self.store.put_pod(pod),
            None => self.show(&key),
        }
    }

    fn end_sandbox(&mut self, key: &ObjectKey) -> Dirty {
        match self.sandboxes.remove(key) {
            Some(pod) => self.store.put_pod(pod),
            None => self.store.remove_pod(key),
        }
    }

    /// Shows a pod as its sandbox and the API server say together. Before the API server's Pods are listed nobody asks
    /// for any.
    fn show(&mut self, key: &ObjectKey) -> Dirty {
        if !self.has_listed(Kind::Pod) {
            return Dirty::default();
        }
        let node = self.sandboxes.node(key);
        let machine = node.and_then(|node| self.store.machine(&node));
        match self.sandboxes.pod(key, machine) {
            Some(pod) => self.store.put_pod(pod),
            None => Dirty::default(),
        }
    }

    /// Forgets pods and namespaces and that they were listed: nothing needs them while there is no
    /// policy.
    pub fn forget_pods(&mut self) -> Dirty {
        for kind in [Kind::Pod, Kind::Namespace] {
            self.listed.remove(&kind);
            self.unlisted.remove(&kind);
        }
        self.sandboxes.untell_all();
        self.store.forget_pods()
    }

    /// Forgets Nodes and that they were listed: nothing needs them while no policy speaks of nodes.
    pub fn forget_nodes(&mut self) -> Dirty {
        self.listed.remove(&Kind::PeerNode);
        self.unlisted.remove(&Kind::PeerNode);
        self.store.forget_nodes()
    }

    /// Takes in the addresses of a node's interfaces.
    pub fn put_machine(&mut self, node: &Arc<str>, addresses: BTreeSet<IpAddr>) -> Dirty {
        self.store.put_machine(node, addresses)
    }

    /// Takes in the names that an address has by DNS.
    pub fn put_names(&mut self, address: IpAddr, names: BTreeSet<DomainName>) -> Dirty {
        self.store.put_names(address, names)
    }

    fn keys(&self, kind: Kind) -> BTreeSet<ObjectKey> {
        match kind {
            Kind::Pod => self.store.pods().map(|pod| pod.key.clone()).collect(),
            Kind::Namespace => {
                let names = self.store.namespaces().map(|namespace| &namespace.name);
                names.map(|name| ObjectKey::new("", name)).collect()
            }
            Kind::NetworkPolicy => self.store.policies().map(|policy| policy.key.clone()).collect(),
            Kind::ClusterNetworkPolicy => {
                let names = self.store.cluster_policies().map(|policy| &policy.name);
                names.map(|name| ObjectKey::new("", name)).collect()
            }
            Kind::PeerNode => {
                let names = self.store.nodes().map(|node| &node.name);
                names.map(|name| ObjectKey::new("", name)).collect()
            }
            Kind::Service | Kind::EndpointSlice | Kind::Node | Kind::ServiceCidr => BTreeSet::new(),
        }
    }

    fn remove(&mut self, kind: Kind, key: &ObjectKey) -> Dirty {
        match kind {
            Kind::Pod if self.sandboxes.untell(key) => self.show(key),
            Kind::Pod => self.store.remove_pod(key),
            Kind::Namespace => self.store.remove_namespace(&key.name),
            Kind::NetworkPolicy => self.store.remove_policy(key),
            Kind::ClusterNetworkPolicy => self.store.remove_cluster_policy(&key.name),
            Kind::PeerNode => self.store.remove_node(&key.name),
            Kind::Service | Kind::EndpointSlice | Kind::Node | Kind::ServiceCidr => {
                Dirty::default()
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::selector::Selector;

    fn policy(name: &str) -> Change {
        let key = ObjectKey::new("x", name);
        let (pods, ingress, egress) = (Selector::default(), Some(Vec::new()), None);
        let object = Object::Policy(NetworkPolicy { key, pods, ingress, egress });
        Change::Applied { object, problems: Vec::new() }
    }

    #[test]
    fn what_a_list_does_not_name_is_gone_when_it_is_done_and_not_before() {
        let kind = Kind::NetworkPolicy;
        let mut snapshot = Snapshot::new();
        assert!(!snapshot.apply(policy("a")).namespaces.is_empty());
        assert!(!snapshot.apply(policy("b")).namespaces.is_empty());
        assert!(snapshot.apply(Change::ListStarted(kind)).is_empty());
        assert!(snapshot.apply(policy("b")).is_empty());
        assert_eq!(snapshot.store().policies().count(), 2);
        assert!(!snapshot.has_listed(kind));
        assert!(!snapshot.apply(Change::ListDone(kind)).namespaces.is_empty());
        assert!(snapshot.has_listed(kind));
        let left: Vec<_> = snapshot.store().policies().map(|p| p.key.name.to_string()).collect();
        assert_eq!(left, ["b"]);
    }
}
