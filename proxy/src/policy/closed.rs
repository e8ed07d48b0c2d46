//! Mode `closed`: which addresses of this node's pods are known.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;

use ipnet::IpNet;
use shunt_netpolicy::store::{Dirty, Store};

/// What the kernel was told of this node's pods.
#[derive(Clone, Debug, Default)]
pub(super) struct Closed {
    /// The ranges that the node gives its pods addresses out of, once they are known.
    networks: Option<BTreeSet<IpNet>>,
    ordered: BTreeSet<IpNet>,
    known: BTreeSet<IpAddr>,
}

impl Closed {
    /// Takes in the node's ranges; whether they are new.
    pub(super) fn take(&mut self, networks: &[IpNet]) -> bool {
        let networks: BTreeSet<_> = networks.iter().copied().collect();
        let is_new = self.networks.as_ref() != Some(&networks);
        self.networks = Some(networks);
        is_new
    }

    /// Whether the ranges are known.
    pub(super) const fn is_ready(&self) -> bool {
        self.networks.is_some()
    }

    /// What is to be told now; nothing is closed while no policy is in force.
    pub(super) fn order(
        &mut self,
        store: &Store,
        node: &str,
        dirty: &Dirty,
        enforcing: bool,
    ) -> (Option<BTreeSet<IpNet>>, BTreeMap<IpAddr, bool>) {
        let wanted = match &self.networks {
            Some(networks) if enforcing => networks.clone(),
            _ => BTreeSet::new(),
        };
        let networks = (wanted != self.ordered).then(|| wanted.clone());
        self.ordered = wanted;
        let asked: BTreeSet<IpAddr> = if dirty.everything || !enforcing {
            let all = store.addresses().map(|(address, _)| address);
            all.chain(self.known.iter().copied()).collect()
        } else {
            dirty.addresses.clone()
        };
        let mut changed = BTreeMap::new();
        for address in asked {
            let here = |pod: &std::sync::Arc<shunt_netpolicy::object::Pod>| {
                pod.node.as_deref() == Some(node)
            };
            let is_known = enforcing && store.pod_at(address).is_some_and(here);
            let was_known = match is_known {
                true => !self.known.insert(address),
                false => self.known.remove(&address),
            };
            if is_known != was_known {
                changed.insert(address, is_known);
            }
        }
        (networks, changed)
    }
}
