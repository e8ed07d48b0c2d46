//! What a change of the objects makes dirty.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::sync::Arc;

use shunt_model::object::ObjectKey;

/// Whether an address is some pod's.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Presence {
    /// Now it is, and was no pod's before.
    Appeared,
    /// It is no pod's any more.
    Gone,
}

/// What has to be compiled anew.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Dirty {
    /// All there is: nothing is known of what has changed.
    pub everything: bool,
    /// ClusterNetworkPolicies have changed, and nothing else with them.
    pub policies: bool,
    /// Namespaces whose NetworkPolicies have, or that have themselves.
    pub namespaces: BTreeSet<Arc<str>>,
    /// Those of them that have themselves: other selectors may match their pods.
    pub relabelled: BTreeSet<Arc<str>>,
    /// Addresses whose pod has changed.
    pub addresses: BTreeSet<IpAddr>,
    /// Addresses whose names by DNS have changed. Connections that have begun do not depend on them.
    pub names: BTreeSet<IpAddr>,
    /// Addresses that have come or gone. Those that are gone have no live connections.
    pub presence: BTreeMap<IpAddr, Presence>,
    /// Addresses that a pod has left, whoever has them now.
    pub left: BTreeSet<IpAddr>,
}

impl Dirty {
    /// Everything.
    #[must_use]
    pub fn everything() -> Self {
        Self { everything: true, ..Self::default() }
    }

    /// What ClusterNetworkPolicies say.
    pub(super) fn policies() -> Self {
        Self { policies: true, ..Self::default() }
    }

    /// What the NetworkPolicies of a namespace say.
    pub(super) fn policies_of(key: &ObjectKey) -> Self {
        Self { namespaces: [Arc::clone(&key.namespace)].into(), ..Self::default() }
    }

    /// A namespace itself.
    pub(super) fn namespace(name: &Arc<str>) -> Self {
        let names = BTreeSet::from([Arc::clone(name)]);
        Self { namespaces: names.clone(), relabelled: names, ..Self::default() }
    }

    /// Whether nothing has.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        !self.everything
            && !self.policies
            && self.namespaces.is_empty()
            && self.addresses.is_empty()
            && self.names.is_empty()
    }

    /// Adds what another change made dirty.
    pub fn merge(&mut self, other: Self) {
        self.everything |= other.everything;
        self.policies |= other.policies;
        self.namespaces.extend(other.namespaces);
        self.relabelled.extend(other.relabelled);
        self.addresses.extend(other.addresses);
        self.names.extend(other.names);
        self.presence.extend(other.presence);
        self.left.extend(other.left);
    }
}
