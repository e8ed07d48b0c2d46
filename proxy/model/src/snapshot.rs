//! The snapshot: the newest of each object, and what must be compiled anew after a change.

#[cfg(test)]
mod tests;

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::sync::Arc;

use crate::object::{EndpointSlice, Node, ObjectKey, Service, ServiceCidr};
use crate::plan::BlindLink;
use crate::problem::{Kind, Problem};

/// One object of any kind.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Object {
    /// A Service.
    Service(Service),
    /// An EndpointSlice.
    EndpointSlice(EndpointSlice),
    /// A Node.
    Node(Node),
    /// A ServiceCIDR.
    ServiceCidr(ServiceCidr),
}

impl Object {
    /// The object's kind.
    #[must_use]
    pub const fn kind(&self) -> Kind {
        match self {
            Self::Service(_) => Kind::Service,
            Self::EndpointSlice(_) => Kind::EndpointSlice,
            Self::Node(_) => Kind::Node,
            Self::ServiceCidr(_) => Kind::ServiceCidr,
        }
    }

    /// The object's namespace and name.
    #[must_use]
    pub fn key(&self) -> ObjectKey {
        match self {
            Self::Service(service) => service.key.clone(),
            Self::EndpointSlice(slice) => slice.key.clone(),
            Self::Node(node) => cluster_wide(&node.name),
            Self::ServiceCidr(cidr) => cluster_wide(&cidr.name),
        }
    }
}

/// What a source of objects can say.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Change {
    /// A list of this kind begins, the first or another one: objects that are not named until
    /// [`Change::ListDone`] are gone. Until then everything stays. If it begins again before it is
    /// done, the list before was broken off and counts for nothing.
    ListStarted(Kind),
    /// The list is complete.
    ListDone(Kind),
    /// An object is new, has changed, or was listed.
    Applied {
        /// The object as it is now.
        object: Object,
        /// What was left out of it on conversion, and why.
        problems: Vec<Problem>,
    },
    /// An object exists of which nothing is usable: it is not served (any more).
    Rejected {
        /// The object's kind.
        kind: Kind,
        /// The object's namespace and name.
        key: ObjectKey,
        /// Why.
        problems: Vec<Problem>,
    },
    /// An object is gone.
    Deleted {
        /// The object's kind.
        kind: Kind,
        /// The object's namespace and name.
        key: ObjectKey,
    },
    /// The addresses on this machine's interfaces, all of them.
    LocalAddresses(BTreeSet<IpAddr>),
    /// The links whose hosts reach one another past this machine, all of them.
    BlindLinks(BTreeSet<BlindLink>),
}

/// What must be compiled anew.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Dirty {
    /// The node's part.
    pub node: bool,
    /// These Services (also those that are gone).
    pub services: BTreeSet<ObjectKey>,
}

impl Dirty {
    /// Whether nothing must be compiled.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        !self.node && self.services.is_empty()
    }

    /// Adds what another change made dirty.
    pub fn merge(&mut self, other: Self) {
        self.node |= other.node;
        self.services.extend(other.services);
    }

    fn node() -> Self {
        Self { node: true, ..Self::default() }
    }

    fn service(key: ObjectKey) -> Self {
        Self { services: BTreeSet::from([key]), ..Self::default() }
    }
}

/// The newest of each object.
#[derive(Clone, Debug, Default)]
pub struct Snapshot {
    /// Boxed: a map sets aside more places than it fills.
    services: BTreeMap<ObjectKey, Box<Service>>,
    /// By Service, then sorted by the slice's key. Nearly every Service has one slice, and a map
    /// in a map would set aside 2 KB for each of them.
    slices: BTreeMap<ObjectKey, Vec<EndpointSlice>>,
    /// The Service under which a slice stands in `slices`.
    slice_services: BTreeMap<ObjectKey, ObjectKey>,
    nodes: BTreeMap<ObjectKey, Node>,
    service_cidrs: BTreeMap<ObjectKey, ServiceCidr>,
    local_addresses: BTreeSet<IpAddr>,
    blind_links: BTreeSet<BlindLink>,
    /// What conversion found, for served and rejected objects alike.
    problems: BTreeMap<(Kind, ObjectKey), Box<[Problem]>>,
    /// For each kind whose list is under way: what was held before and has not been named yet.
    unlisted: BTreeMap<Kind, BTreeSet<ObjectKey>>,
    /// The kinds of which one list has been completed.
    listed: BTreeSet<Kind>,
}

impl Snapshot {
    /// An empty snapshot.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// Takes a change in; returns what it made dirty, which is nothing if it said nothing new.
    pub fn apply(&mut self, change: Change) -> Dirty {
        match change {
            Change::ListStarted(kind) => {
                self.unlisted.insert(kind, self.keys(kind));
                Dirty::default()
            }
            Change::ListDone(kind) => self.finish_list(kind),
            Change::Applied { object, problems } => {
                self.note(object.kind(), &object.key(), problems);
                match object {
                    Object::Service(service) => self.put_service(service),
                    Object::EndpointSlice(slice) => self.put_slice(slice),
                    Object::Node(node) => self.put_node(node),
                    Object::ServiceCidr(cidr) => self.put_service_cidr(cidr),
                }
            }
            Change::Rejected { kind, key, problems } => {
                self.note(kind, &key, problems);
                self.remove(kind, &key)
            }
            Change::Deleted { kind, key } => {
                self.note(kind, &key, Vec::new());
                self.remove(kind, &key)
            }
            Change::LocalAddresses(addresses) => {
                if self.local_addresses == addresses {
                    return Dirty::default();
                }
                self.local_addresses = addresses;
                Dirty::node()
            }
            Change::BlindLinks(links) => {
                if self.blind_links == links {
                    return Dirty::default();
                }
                self.blind_links = links;
                Dirty::node()
            }
        }
    }

    /// Whether all that Services are served from has been listed once. Before, a plan is not
    /// worth installing: it would take away what is only not known yet.
    #[must_use]
    pub fn is_complete(&self) -> bool {
        self.has_listed(Kind::Service) && self.has_listed(Kind::EndpointSlice)
    }

    /// Whether a list of this kind has been completed once.
    #[must_use]
    pub fn has_listed(&self, kind: Kind) -> bool {
        self.listed.contains(&kind)
    }

    /// Everything as dirty: for the first plan.
    #[must_use]
    pub fn everything(&self) -> Dirty {
        Dirty { node: true, services: self.services.keys().cloned().collect() }
    }

    /// The Service with this key.
    #[must_use]
    pub fn service(&self, key: &ObjectKey) -> Option<&Service> {
        self.services.get(key).map(AsRef::as_ref)
    }

    /// All Services, sorted by key.
    pub fn services(&self) -> impl Iterator<Item = &Service> {
        self.services.values().map(AsRef::as_ref)
    }

    /// The slices of a Service, sorted by key.
    #[must_use]
    pub fn slices_of(&self, service: &ObjectKey) -> &[EndpointSlice] {
        self.slices.get(service).map_or(&[], Vec::as_slice)
    }

    /// All slices, sorted by their Service, then by key.
    pub fn slices(&self) -> impl Iterator<Item = &EndpointSlice> {
        self.slices.values().flatten()
    }

    /// The Node with exactly this name.
    #[must_use]
    pub fn node(&self, name: &str) -> Option<&Node> {
        self.nodes.get(&ObjectKey::new("", name))
    }

    /// All Nodes, sorted by name. The API server is asked for our own only.
    pub fn nodes(&self) -> impl Iterator<Item = &Node> {
        self.nodes.values()
    }

    /// All ServiceCIDRs, sorted by name.
    pub fn service_cidrs(&self) -> impl Iterator<Item = &ServiceCidr> {
        self.service_cidrs.values()
    }

    /// The addresses on this machine's interfaces.
    #[must_use]
    pub const fn local_addresses(&self) -> &BTreeSet<IpAddr> {
        &self.local_addresses
    }

    /// The links whose hosts reach one another past this machine.
    #[must_use]
    pub const fn blind_links(&self) -> &BTreeSet<BlindLink> {
        &self.blind_links
    }

    /// What conversion found wrong with the objects, sorted by kind and key.
    pub fn problems(&self) -> impl Iterator<Item = &Problem> {
        self.problems.values().flatten()
    }

    /// Every key of a kind, also of those that are rejected.
    fn keys(&self, kind: Kind) -> BTreeSet<ObjectKey> {
        let mut keys: BTreeSet<_> = match kind {
            Kind::Service => self.services.keys().cloned().collect(),
            Kind::EndpointSlice => self.slice_services.keys().cloned().collect(),
            Kind::Node => self.nodes.keys().cloned().collect(),
            Kind::ServiceCidr => self.service_cidrs.keys().cloned().collect(),
            Kind::Pod
            | Kind::Namespace
            | Kind::NetworkPolicy
            | Kind::ClusterNetworkPolicy
            | Kind::PeerNode => BTreeSet::new(),
        };
        let troubled = self.problems.keys().filter(|(of, _)| *of == kind);
        keys.extend(troubled.map(|(_, key)| key.clone()));
        keys
    }

    /// Removes what the list that ends did not name.
    fn finish_list(&mut self, kind: Kind) -> Dirty {
        self.listed.insert(kind);
        let mut dirty = Dirty::default();
        for key in self.unlisted.remove(&kind).unwrap_or_default() {
            self.note(kind, &key, Vec::new());
            dirty.merge(self.remove(kind, &key));
        }
        dirty
    }

    /// Keeps the problems of an object that a change has named, in place of the former ones.
    fn note(&mut self, kind: Kind, key: &ObjectKey, problems: Vec<Problem>) {
        if let Some(unlisted) = self.unlisted.get_mut(&kind) {
            unlisted.remove(key);
        }
        let place = (kind, key.clone());
        if problems.is_empty() {
            self.problems.remove(&place);
        } else {
            self.problems.insert(place, problems.into());
        }
    }

    fn put_service(&mut self, mut service: Service) -> Dirty {
        if self.service(&service.key) == Some(&service) {
            return Dirty::default();
        }
        shrink_service(&mut service);
        service.key = self.shared(service.key);
        let key = service.key.clone();
        self.services.insert(key.clone(), service.into());
        Dirty::service(key)
    }

    fn put_slice(&mut self, mut slice: EndpointSlice) -> Dirty {
        let mut dirty = Dirty::default();
        if self.slice_services.get(&slice.key).is_some_and(|former| *former != slice.service) {
            dirty = self.remove_slice(&slice.key);
        }
        slice.ports.shrink_to_fit();
        slice.endpoints.shrink_to_fit();
        slice.service = self.shared(slice.service);
        let service = slice.service.clone();
        let slices = self.slices.entry(service.clone()).or_default();
        match slices.binary_search_by(|held| held.key.cmp(&slice.key)) {
            Ok(at) if slices[at] == slice => return dirty,
            Ok(at) => {
                slice.key = slices[at].key.clone();
                slices[at] = slice;
            }
            Err(at) => {
                self.slice_services.insert(slice.key.clone(), service.clone());
                slices.reserve_exact(1);
                slices.insert(at, slice);
            }
        }
        dirty.services.insert(service);
        dirty
    }

    /// The key of a Service as it is held already, so that all who name it share one.
    fn shared(&self, key: ObjectKey) -> ObjectKey {
        let of_service = self.services.get_key_value(&key).map(|(held, _)| held);
        let of_slices = || self.slices.get_key_value(&key).map(|(held, _)| held);
        of_service.or_else(of_slices).cloned().unwrap_or(key)
    }

    fn put_node(&mut self, node: Node) -> Dirty {
        let key = cluster_wide(&node.name);
        if self.nodes.get(&key) == Some(&node) {
            return Dirty::default();
        }
        let zone = node.zone.clone();
        let former = self.nodes.insert(key, node).and_then(|node| node.zone);
        self.moved(former != zone)
    }

    /// What is dirty after a change of a Node. Where it is decides for Services with hints alone.
    fn moved(&self, zone_changed: bool) -> Dirty {
        let hinted = |slices: &[EndpointSlice]| {
            slices.iter().any(|slice| slice.endpoints.iter().any(|e| e.hints().is_some()))
        };
        let services = self.slices.iter().filter(|(_, slices)| zone_changed && hinted(slices));
        Dirty { node: true, services: services.map(|(service, _)| service.clone()).collect() }
    }

    fn put_service_cidr(&mut self, cidr: ServiceCidr) -> Dirty {
        let key = cluster_wide(&cidr.name);
        if self.service_cidrs.get(&key) == Some(&cidr) {
            return Dirty::default();
        }
        self.service_cidrs.insert(key, cidr);
        Dirty::node()
    }

    fn remove(&mut self, kind: Kind, key: &ObjectKey) -> Dirty {
        match kind {
            Kind::Service => match self.services.remove(key) {
                Some(service) => Dirty::service(service.key),
                None => Dirty::default(),
            },
            Kind::EndpointSlice => self.remove_slice(key),
            Kind::Node => match self.nodes.remove(key) {
                Some(node) => self.moved(node.zone.is_some()),
                None => Dirty::default(),
            },
            Kind::ServiceCidr => match self.service_cidrs.remove(key) {
                Some(_) => Dirty::node(),
                None => Dirty::default(),
            },
            Kind::Pod
            | Kind::Namespace
            | Kind::NetworkPolicy
            | Kind::ClusterNetworkPolicy
            | Kind::PeerNode => Dirty::default(),
        }
    }

    fn remove_slice(&mut self, key: &ObjectKey) -> Dirty {
        let Some(service) = self.slice_services.remove(key) else {
            return Dirty::default();
        };
        if let Some(slices) = self.slices.get_mut(&service) {
            slices.retain(|slice| slice.key != *key);
            if slices.is_empty() {
                self.slices.remove(&service);
            }
        }
        Dirty::service(service)
    }
}

/// The key of an object that is in no namespace.
fn cluster_wide(name: &Arc<str>) -> ObjectKey {
    ObjectKey::of("".into(), Arc::clone(name))
}

/// Gives back what the lists of a Service have set aside in vain; it is held for long.
fn shrink_service(service: &mut Service) {
    service.cluster_ips.shrink_to_fit();
    service.external_ips.shrink_to_fit();
    service.load_balancer_ips.shrink_to_fit();
    service.ports.shrink_to_fit();
    service.load_balancer_source_ranges.shrink_to_fit();
}
