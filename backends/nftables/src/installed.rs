//! The record of what the kernel holds. Forgotten and read anew after any error.

mod slots;
mod sticky;

use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};
use std::sync::Arc;

use ipnet::IpNet;
use shunt_model::address::Family;

pub use self::slots::HeldSlots;
pub use self::sticky::InstalledSticky;
use crate::counting::Counting;
use crate::diff::{Operation, interval_elements};
use crate::element::{Element, Key, Place, Target, Value};
use crate::forwarding::Forwarding;
use crate::lower::Wanted;
use crate::name::{SetId, SetKind};
use crate::pool::PoolChain;

/// What the kernel holds for one frontend.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct InstalledFrontend {
    /// Its element in the verdict map, with the comment.
    pub verdict: Option<(Target, Arc<str>)>,
    /// Its slots in the endpoint map, by number. A crash between two transactions can leave
    /// more of them than the verdict uses.
    pub slots: HeldSlots,
    /// What it has for session affinity.
    pub sticky: Option<Box<InstalledSticky>>,
}

impl InstalledFrontend {
    fn is_empty(&self) -> bool {
        self.verdict.is_none() && self.slots.is_empty() && self.sticky.is_none()
    }

    /// Forgets what it has in one map.
    fn empty(&mut self, place: &Place, set: SetId) {
        if set == place.verdicts() {
            self.verdict = None;
        } else if set == place.endpoints() {
            self.slots = HeldSlots::default();
        } else if let Some(sticky) = &mut self.sticky {
            sticky.empty(place, set);
            if sticky.is_empty() {
                self.sticky = None;
            }
        }
    }

    /// Records one of the elements that belong to session affinity, or its end.
    fn set_sticky(&mut self, set: SetId, key: &Key, value: Option<&Value>) {
        let sticky = self.sticky.get_or_insert_default();
        sticky.set(set, key, value);
        if sticky.is_empty() {
            self.sticky = None;
        }
    }
}

/// The record of what the kernel holds.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Installed {
    /// Who forwards packets.
    pub forwarding: Forwarding,
    /// What its elements count.
    pub counting: Counting,
    /// Frontends and their pools.
    pub frontends: HashMap<Place, InstalledFrontend>,
    /// Members of the plain sets.
    pub members: HashMap<SetId, HashSet<Key>>,
    /// The networks in the sets of intervals, sorted and disjoint; none for an empty one.
    pub networks: BTreeMap<SetId, Vec<IpNet>>,
    /// Chains for pools.
    pub pools: BTreeSet<PoolChain>,
    /// How many elements each set has room for.
    pub capacity: HashMap<SetId, u32>,
    /// How many elements each set has.
    pub count: HashMap<SetId, u32>,
}

impl Installed {
    /// Records one operation that the kernel has committed.
    pub fn apply(&mut self, operation: &Operation) {
        match operation {
            Operation::AddPool(pool) => {
                self.pools.insert(*pool);
            }
            Operation::DeletePool(pool) => {
                self.pools.remove(pool);
            }
            Operation::Add(element) => self.add(element),
            Operation::Delete(set, key) => self.delete(*set, key),
            Operation::ReplaceNetworks(set, networks) => {
                self.count.insert(*set, interval_elements(networks.len()));
                self.set_networks(*set, networks.clone());
            }
        }
    }

    /// Records the networks of a set of intervals.
    pub(crate) fn set_networks(&mut self, set: SetId, networks: Vec<IpNet>) {
        if networks.is_empty() {
            self.networks.remove(&set);
        } else {
            self.networks.insert(set, networks);
        }
    }

    /// To be called when what was wanted is there: what both say is held once.
    pub fn share(&mut self, wanted: &Wanted) {
        for (place, target) in &wanted.frontends {
            if let Some(target) = target
                && let Some(installed) = self.frontends.get_mut(place)
            {
                installed.slots.share(&target.slots);
            }
        }
    }

    /// Records an element that is there.
    pub fn add(&mut self, element: &Element) {
        *self.count.entry(element.set).or_default() += 1;
        let Some(place) = Place::of(element.set, &element.key) else {
            self.members.entry(element.set).or_default().insert(element.key);
            return;
        };
        let installed = self.frontends.entry(place).or_default();
        match (&element.key, &element.value) {
            (Key::Slot(_, slot), Value::Endpoint(endpoint)) => {
                installed.slots.set(*slot, Some(*endpoint));
            }
            (_, Value::Target(target, comment)) => {
                installed.verdict = Some((*target, Arc::clone(comment)));
            }
            (key, value) => installed.set_sticky(element.set, key, Some(value)),
        }
    }

    /// Forgets the elements of one set or map; not networks.
    pub(crate) fn empty(&mut self, set: SetId) {
        if self.count.remove(&set).is_none() {
            return;
        }
        self.members.remove(&set);
        self.frontends.retain(|place, held| {
            held.empty(place, set);
            !held.is_empty()
        });
    }

    fn delete(&mut self, set: SetId, key: &Key) {
        if let Some(count) = self.count.get_mut(&set) {
            *count = count.saturating_sub(1);
        }
        let Some(place) = Place::of(set, key) else {
            self.members.entry(set).or_default().remove(key);
            return;
        };
        let Some(installed) = self.frontends.get_mut(&place) else { return };
        match key {
            _ if set == place.verdicts() => installed.verdict = None,
            Key::Slot(_, slot) if set == place.endpoints() => installed.slots.set(*slot, None),
            key => installed.set_sticky(set, key, None),
        }
        if installed.is_empty() {
            self.frontends.remove(&place);
        }
    }

    /// The pool chains that verdicts refer to.
    pub(crate) fn pools_in_use(&self) -> BTreeSet<PoolChain> {
        let pools = |(place, installed): (&Place, &InstalledFrontend)| {
            let target = installed.verdict.as_ref().map(|(target, _)| *target);
            let chain = target.and_then(|target| target.pool_chain(place));
            chain.into_iter().flat_map(PoolChain::with_remember)
        };
        self.frontends.iter().flat_map(pools).collect()
    }

    /// Every element, for listings; in no order.
    pub fn elements(&self) -> impl Iterator<Item = Element> + '_ {
        let of_frontends = self.frontends.iter().flat_map(|(place, installed)| {
            let verdict = installed.verdict.iter().map(|(target, comment)| Element {
                set: place.verdicts(),
                key: Key::Frontend(place.frontend),
                value: Value::Target(*target, Arc::clone(comment)),
            });
            let slots = (0u32..).zip(installed.slots.iter()).filter_map(|(slot, endpoint)| {
                Some(Element {
                    set: place.endpoints(),
                    key: Key::Slot(place.frontend, slot),
                    value: Value::Endpoint(endpoint?),
                })
            });
            let sticky = installed.sticky.iter().flat_map(|sticky| sticky.elements(place));
            verdict.chain(slots).chain(sticky)
        });
        let members = self.members.iter().flat_map(|(set, keys)| {
            keys.iter().map(|key| Element { set: *set, key: *key, value: Value::Member })
        });
        of_frontends.chain(members)
    }

    /// How many elements a set has.
    #[must_use]
    pub fn count(&self, kind: SetKind, family: Family) -> u32 {
        self.count.get(&SetId::new(kind, family)).copied().unwrap_or_default()
    }
}

/// The family of a network.
pub(crate) const fn family_of(network: &IpNet) -> Family {
    match network {
        IpNet::V4(_) => Family::V4,
        IpNet::V6(_) => Family::V6,
    }
}

#[cfg(test)]
mod tests {
    use shunt_model::address::{Endpoint, Frontend, FrontendAddress, Protocol};

    use super::*;
    use crate::affinity::Id;

    fn elements() -> Vec<Element> {
        let ip = |n| [10, 0, 0, n].into();
        let frontend =
            |n| Frontend { address: FrontendAddress::Ip(ip(n)), protocol: Protocol::Tcp, port: 80 };
        let (plain, sticky) = (Place::everyone(frontend(1)), Place::everyone(frontend(2)));
        let endpoint = Value::Endpoint(Endpoint { address: ip(9), port: 8080 });
        let id: Id = 0x1_0002;
        let verdict = || Value::Target(Target::Refuse, "ns/web".into());
        let cluster_ips = SetId::new(SetKind::ClusterIps, Family::V4);
        [
            (plain.verdicts(), Key::Frontend(plain.frontend), verdict()),
            (plain.endpoints(), Key::Slot(plain.frontend, 0), endpoint.clone()),
            (sticky.verdicts(), Key::Frontend(sticky.frontend), verdict()),
            (sticky.groups(), Key::Frontend(sticky.frontend), Value::Id(id)),
            (sticky.sticky_slots(), Key::Slot(sticky.frontend, 0), Value::Id(id)),
            (sticky.sticky_endpoints(), Key::Id(sticky.frontend, id), endpoint),
            (cluster_ips, Key::Address(ip(1)), Value::Member),
        ]
        .map(|(set, key, value)| Element { set, key, value })
        .into()
    }

    #[test]
    fn what_is_forgotten_of_one_set_is_as_if_it_had_never_been_read() {
        let record = |elements: &mut dyn Iterator<Item = &Element>| {
            let mut installed = Installed::default();
            elements.for_each(|element| installed.add(element));
            installed
        };
        let elements = elements();
        for element in &elements {
            let mut installed = record(&mut elements.iter());
            installed.empty(element.set);
            assert_eq!(installed, record(&mut elements.iter().filter(|e| e.set != element.set)));
        }
    }
}
