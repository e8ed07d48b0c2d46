//! The newest of each object.

mod dirty;

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::net::IpAddr;
use std::sync::Arc;

use shunt_model::object::ObjectKey;

pub use self::dirty::{Dirty, Presence};
use crate::address_map::AddressMap;
use crate::cluster::{ClusterNetworkPolicy, PeerNode, Tier};
use crate::domain::DomainName;
use crate::object::{Direction, NAMESPACE_NAME, Namespace, NetworkPolicy, Peer, Pod};
use crate::selector::{Labels, Selector};

/// What pods of a namespace that share their labels have in common.
#[derive(Clone, Debug)]
struct Alike {
    labels: Arc<Labels>,
    /// That they claim.
    addresses: Vec<IpAddr>,
}

/// The newest of each object.
#[derive(Clone, Debug, Default)]
pub struct Store {
    pods: BTreeMap<ObjectKey, Arc<Pod>>,
    /// Who has an address.
    owners: AddressMap<Arc<Pod>>,
    /// Who claims one beside its owner, while it goes from pod to pod.
    rivals: BTreeMap<IpAddr, Vec<Arc<Pod>>>,
    /// Pods of a namespace that share their labels, by where those are.
    alike: HashMap<(Arc<str>, usize), Alike>,
    namespaces: BTreeMap<Arc<str>, Namespace>,
    policies: BTreeMap<ObjectKey, Arc<NetworkPolicy>>,
    /// In the order in which they are asked.
    cluster_policies: Vec<Arc<ClusterNetworkPolicy>>,
    nodes: BTreeMap<Arc<str>, Arc<PeerNode>>,
    /// Whose an address of a node is; nearly always one's.
    node_addresses: BTreeMap<IpAddr, Vec<Arc<PeerNode>>>,
    /// All addresses of a node's interfaces, of those nodes where they are known: the table's own.
    machines: BTreeMap<Arc<str>, BTreeSet<IpAddr>>,
    /// The names that DNS has given to addresses, as policies write them, until they are taken back.
    names: BTreeMap<IpAddr, BTreeSet<DomainName>>,
}

impl Store {
    /// An empty store.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// Adds a pod or replaces it.
    pub fn put_pod(&mut self, pod: Pod) -> Dirty {
        if self.pods.get(&pod.key).is_some_and(|held| **held == pod) {
            return Dirty::default();
        }
        let mut dirty = self.remove_pod(&pod.key);
        let pod = Arc::new(pod);
        for address in pod.policy_addresses() {
            let is_new = self.claim(*address, Arc::clone(&pod));
            // An address that this very pod had before is none of either.
            let was_its = dirty.left.remove(address) && dirty.presence.remove(address).is_some();
            if is_new && !was_its {
                dirty.presence.insert(*address, Presence::Appeared);
            }
            let alike = self.alike.entry(place(&pod.key.namespace, &pod.labels));
            let new = || Alike { labels: Arc::clone(&pod.labels), addresses: Vec::new() };
            alike.or_insert_with(new).addresses.push(*address);
            dirty.addresses.insert(*address);
        }
        self.pods.insert(pod.key.clone(), pod);
        dirty
    }

    /// Removes a pod.
    pub fn remove_pod(&mut self, key: &ObjectKey) -> Dirty {
        let mut dirty = Dirty::default();
        let Some(pod) = self.pods.remove(key) else { return dirty };
        for address in pod.policy_addresses() {
            self.leave_alike(&pod, *address);
            if self.disclaim(*address, key) {
                dirty.presence.insert(*address, Presence::Gone);
                dirty.left.insert(*address);
            }
            dirty.addresses.insert(*address);
        }
        dirty
    }

    /// A pod claims an address; whether nobody did before.
    fn claim(&mut self, address: IpAddr, pod: Arc<Pod>) -> bool {
        let Some(owner) = self.owners.get_mut(address) else {
            self.owners.insert(address, pod);
            return true;
        };
        let is_first = (pod.created, &owner.key) > (owner.created, &pod.key);
        let other = if is_first { std::mem::replace(owner, pod) } else { pod };
        self.rivals.entry(address).or_default().push(other);
        false
    }

    /// A pod claims an address no more; whether nobody does now.
    fn disclaim(&mut self, address: IpAddr, key: &ObjectKey) -> bool {
        let mut rivals = self.rivals.remove(&address).unwrap_or_default();
        rivals.retain(|rival| rival.key != *key);
        let is_owner = self.owners.get(address).is_some_and(|owner| owner.key == *key);
        if is_owner {
            self.owners.remove(address);
        }
        for rival in rivals {
            self.claim(address, rival);
        }
        is_owner && self.owners.get(address).is_none()
    }

    fn leave_alike(&mut self, pod: &Pod, address: IpAddr) {
        let place = place(&pod.key.namespace, &pod.labels);
        let Some(Alike { addresses, .. }) = self.alike.get_mut(&place) else { return };
        if let Some(at) = addresses.iter().position(|held| *held == address) {
            addresses.swap_remove(at);
        }
        if addresses.is_empty() {
            self.alike.remove(&place);
        }
    }

    /// Adds a namespace or replaces it.
    pub fn put_namespace(&mut self, namespace: Namespace) -> Dirty {
        if self.namespaces.get(&namespace.name) == Some(&namespace) {
            return Dirty::default();
        }
        let dirty = Dirty::namespace(&namespace.name);
        self.namespaces.insert(Arc::clone(&namespace.name), namespace);
        dirty
    }

    /// Removes a namespace.
    pub fn remove_namespace(&mut self, name: &str) -> Dirty {
        match self.namespaces.remove_entry(name) {
            Some((name, _)) => Dirty::namespace(&name),
            None => Dirty::default(),
        }
    }

    /// Adds a policy or replaces it.
    pub fn put_policy(&mut self, policy: NetworkPolicy) -> Dirty {
        if self.policies.get(&policy.key).is_some_and(|held| **held == policy) {
            return Dirty::default();
        }
        let dirty = Dirty::policies_of(&policy.key);
        self.policies.insert(policy.key.clone(), Arc::new(policy));
        dirty
    }

    /// Removes a policy.
    pub fn remove_policy(&mut self, key: &ObjectKey) -> Dirty {
        match self.policies.remove(key) {
            Some(_) => Dirty::policies_of(key),
            None => Dirty::default(),
        }
    }

    /// Adds a ClusterNetworkPolicy or replaces it.
    pub fn put_cluster_policy(&mut self, policy: ClusterNetworkPolicy) -> Dirty {
        if self.cluster_policies.iter().any(|held| **held == policy) {
            return Dirty::default();
        }
        self.cluster_policies.retain(|held| held.name != policy.name);
        self.cluster_policies.push(Arc::new(policy));
        self.cluster_policies
            .sort_by(|a, b| (a.tier, a.priority, &a.name).cmp(&(b.tier, b.priority, &b.name)));
        Dirty::policies()
    }

    /// Removes a ClusterNetworkPolicy.
    pub fn remove_cluster_policy(&mut self, name: &str) -> Dirty {
        let before = self.cluster_policies.len();
        self.cluster_policies.retain(|held| *held.name != *name);
        if self.cluster_policies.len() == before { Dirty::default() } else { Dirty::policies() }
    }

    /// Adds a Node or replaces it.
    pub fn put_node(&mut self, node: PeerNode) -> Dirty {
        if self.nodes.get(&node.name).is_some_and(|held| **held == node) {
            return Dirty::default();
        }
        let mut dirty = self.remove_node(&node.name);
        let node = Arc::new(node);
        for address in &node.addresses {
            self.node_addresses.entry(*address).or_default().push(Arc::clone(&node));
            dirty.addresses.insert(*address);
        }
        self.nodes.insert(Arc::clone(&node.name), node);
        dirty
    }

    /// Removes a Node.
    pub fn remove_node(&mut self, name: &str) -> Dirty {
        let mut dirty = Dirty::default();
        let Some(node) = self.nodes.remove(name) else { return dirty };
        for address in &node.addresses {
            if let Some(nodes) = self.node_addresses.get_mut(address) {
                nodes.retain(|held| held.name != node.name);
                if nodes.is_empty() {
                    self.node_addresses.remove(address);
                }
            }
            dirty.addresses.insert(*address);
        }
        dirty
    }

    /// Forgets all Nodes: nothing needs them while no policy speaks of nodes.
    pub fn forget_nodes(&mut self) -> Dirty {
        self.nodes.clear();
        let addresses = std::mem::take(&mut self.node_addresses).into_keys().collect();
        Dirty { addresses, ..Dirty::default() }
    }

    /// Takes in the addresses of a node's interfaces.
    pub fn put_machine(&mut self, node: &Arc<str>, addresses: BTreeSet<IpAddr>) -> Dirty {
        let before = self.machines.insert(Arc::clone(node), addresses.clone()).unwrap_or_default();
        let addresses = before.symmetric_difference(&addresses).copied().collect();
        Dirty { addresses, ..Dirty::default() }
    }

    /// Takes in the names that an address has by DNS: all that policies speak of and that hold now.
    pub fn put_names(&mut self, address: IpAddr, names: BTreeSet<DomainName>) -> Dirty {
        let before = match names.is_empty() {
            true => self.names.remove(&address),
            false => self.names.insert(address, names.clone()),
        };
        if before.unwrap_or_default() == names {
            return Dirty::default();
        }
        Dirty { names: BTreeSet::from([address]), ..Dirty::default() }
    }

    /// The names that an address has by DNS.
    pub fn names_of(&self, address: IpAddr) -> impl Iterator<Item = &DomainName> {
        self.names.get(&address).into_iter().flatten()
    }

    /// All addresses that have names by DNS.
    pub(crate) fn named_addresses(&self) -> impl Iterator<Item = IpAddr> {
        self.names.keys().copied()
    }

    /// The names that policies speak of.
    #[must_use]
    pub fn domain_names(&self) -> BTreeSet<&DomainName> {
        let rules = self.cluster_policies.iter().flat_map(|policy| &policy.egress);
        let peers = rules.flat_map(|rule| rule.on.peers.iter().flatten());
        let mut names = BTreeSet::new();
        for peer in peers {
            if let Peer::Domain(name) = peer {
                names.insert(name);
            }
        }
        names
    }

    /// Whether a policy that speaks of domain names is for a pod.
    #[must_use]
    pub fn asks_for_names(&self, pod: &Pod) -> bool {
        let names = |peer: &Peer| matches!(peer, Peer::Domain(_));
        let speaks = |policy: &&Arc<ClusterNetworkPolicy>| {
            policy.egress.iter().any(|rule| rule.on.peers.iter().flatten().any(names))
        };
        let mut policies = self.cluster_policies.iter().filter(speaks);
        let labels = self.namespace_labels(&pod.key.namespace);
        policies.any(|policy| policy.selects(&labels, pod))
    }

    /// Forgets all pods and namespaces: nothing needs them while there is no policy.
    pub fn forget_pods(&mut self) -> Dirty {
        self.pods.clear();
        self.owners.clear();
        self.rivals.clear();
        self.alike.clear();
        self.namespaces.clear();
        Dirty::everything()
    }

    /// The pod that has an address.
    #[must_use]
    pub fn pod_at(&self, address: IpAddr) -> Option<&Arc<Pod>> {
        self.owners.get(address)
    }

    /// The pod with this key.
    #[must_use]
    pub fn pod(&self, key: &ObjectKey) -> Option<&Arc<Pod>> {
        self.pods.get(key)
    }

    /// All pods, sorted by key.
    pub fn pods(&self) -> impl ExactSizeIterator<Item = &Arc<Pod>> {
        self.pods.values()
    }

    /// All addresses that policy knows, with who has them, sorted.
    pub fn addresses(&self) -> impl Iterator<Item = (IpAddr, &Arc<Pod>)> {
        self.owners.iter()
    }

    /// Pods that share their namespace and labels (not others that are equal), with the addresses that they claim.
    pub fn alike(&self) -> impl ExactSizeIterator<Item = (&Arc<str>, &Arc<Labels>, &[IpAddr])> {
        self.alike
            .iter()
            .map(|((namespace, _), alike)| (namespace, &alike.labels, alike.addresses.as_slice()))
    }

    /// Whether there are pods of a namespace that share these labels.
    pub(crate) fn has_alike(&self, namespace: &Arc<str>, labels: &Arc<Labels>) -> bool {
        self.alike.contains_key(&place(namespace, labels))
    }

    /// Whether a selector matches a namespace.
    pub(crate) fn selects_namespace(&self, selector: &Selector, name: &Arc<str>) -> bool {
        match self.namespaces.get(name) {
            Some(namespace) => selector.selects(&namespace.labels),
            None => selector.selects(&self.namespace_labels(name)),
        }
    }

    /// All namespaces, sorted by name.
    pub fn namespaces(&self) -> impl Iterator<Item = &Namespace> {
        self.namespaces.values()
    }

    /// The labels of a namespace. One that is not known (yet) has its name as label, as all have.
    pub(crate) fn namespace_labels(&self, name: &Arc<str>) -> Labels {
        self.namespaces.get(name).map_or_else(
            || Labels::from([(NAMESPACE_NAME.into(), Arc::clone(name))]),
            |namespace| namespace.labels.clone(),
        )
    }

    /// Whether nothing is dropped by the policies of a namespace's pods.
    #[must_use]
    pub fn audits(&self, namespace: &str) -> bool {
        self.namespaces.get(namespace).is_some_and(|namespace| namespace.audit)
    }

    /// All policies, sorted by key.
    pub fn policies(&self) -> impl ExactSizeIterator<Item = &Arc<NetworkPolicy>> {
        self.policies.values()
    }

    /// All ClusterNetworkPolicies, in the order in which they are asked.
    pub fn cluster_policies(&self) -> impl ExactSizeIterator<Item = &Arc<ClusterNetworkPolicy>> {
        self.cluster_policies.iter()
    }

    /// Whether any policy speaks of nodes.
    #[must_use]
    pub fn speaks_of_nodes(&self) -> bool {
        let is_of_nodes = |peer: &Peer| matches!(peer, Peer::Nodes(_));
        self.cluster_policies.iter().any(|policy| {
            let rules = Direction::ALL.into_iter().flat_map(|direction| policy.rules(direction));
            rules.flat_map(|rule| rule.on.peers.iter().flatten()).any(is_of_nodes)
        })
    }

    /// Those of a tier, in the order in which they are asked.
    pub(crate) fn cluster_policies_of(
        &self,
        tier: Tier,
    ) -> impl Iterator<Item = &Arc<ClusterNetworkPolicy>> {
        self.cluster_policies.iter().filter(move |policy| policy.tier == tier)
    }

    /// All Nodes, sorted by name.
    pub fn nodes(&self) -> impl Iterator<Item = &Arc<PeerNode>> {
        self.nodes.values()
    }

    /// The Nodes that have an address.
    pub(crate) fn nodes_at(&self, address: IpAddr) -> impl Iterator<Item = &Arc<PeerNode>> {
        self.node_addresses.get(&address).into_iter().flatten()
    }

    /// All addresses of Nodes.
    pub fn node_addresses(&self) -> impl Iterator<Item = IpAddr> {
        self.node_addresses.keys().copied()
    }

    /// The addresses of a node's interfaces, if they are known.
    #[must_use]
    pub fn machine(&self, node: &str) -> Option<&BTreeSet<IpAddr>> {
        self.machines.get(node)
    }

    /// The policies of a namespace, sorted by name.
    pub fn policies_of(&self, namespace: &str) -> impl Iterator<Item = &Arc<NetworkPolicy>> {
        let from = ObjectKey::new(namespace, "");
        self.policies
            .range(from..)
            .take_while(move |(key, _)| *key.namespace == *namespace)
            .map(|(_, policy)| policy)
    }
}

/// Pods that share their labels have one place; it is held with them, so nobody else comes there.
fn place(namespace: &Arc<str>, labels: &Arc<Labels>) -> (Arc<str>, usize) {
    (Arc::clone(namespace), Arc::as_ptr(labels) as usize)
}
