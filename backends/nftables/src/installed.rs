//! The record of what the kernel holds. Forgotten and read anew after any error.

use std::collections::{BTreeSet, HashMap, HashSet};
use std::sync::Arc;

use ipnet::IpNet;
use shunt_model::address::{Endpoint, Family, Frontend};

use crate::diff::{Operation, interval_elements};
use crate::element::{Element, Key, Target, Value, endpoint_map, verdict_map};
use crate::name::{PoolChain, SetId, SetKind};

/// What the kernel holds for one frontend.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct InstalledFrontend {
    /// Its element in the verdict map, with the comment.
    pub verdict: Option<(Target, Arc<str>)>,
    /// Its slots in the endpoint map, by number. A crash between two transactions can leave
    /// more of them than the verdict uses.
    pub slots: Vec<Option<Endpoint>>,
}

impl InstalledFrontend {
    fn is_empty(&self) -> bool {
        self.verdict.is_none() && self.slots.is_empty()
    }

    fn set_slot(&mut self, slot: u32, endpoint: Option<Endpoint>) {
        let slot = slot as usize;
        if endpoint.is_some() && slot >= self.slots.len() {
            self.slots.resize(slot + 1, None);
        }
        if let Some(place) = self.slots.get_mut(slot) {
            *place = endpoint;
        }
        while self.slots.last() == Some(&None) {
            self.slots.pop();
        }
    }
}

/// The record of what the kernel holds.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Installed {
    /// Frontends and their pools.
    pub frontends: HashMap<Frontend, InstalledFrontend>,
    /// Members of the plain sets.
    pub members: HashMap<SetId, HashSet<Key>>,
    /// The networks in `local_sources`, both families, canonical.
    pub local_sources: Vec<IpNet>,
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
            Operation::ReplaceLocalSources(family, networks) => {
                self.local_sources.retain(|network| family_of(network) != *family);
                self.local_sources.extend(networks);
                self.local_sources.sort_unstable();
                let set = SetId::new(SetKind::LocalSources, *family);
                self.count.insert(set, interval_elements(networks.len()));
            }
        }
    }

    /// Records an element that is there.
    pub fn add(&mut self, element: &Element) {
        *self.count.entry(element.set).or_default() += 1;
        match (&element.key, &element.value) {
            (Key::Slot(frontend, slot), Value::Endpoint(endpoint)) => {
                self.frontends.entry(*frontend).or_default().set_slot(*slot, Some(*endpoint));
            }
            (Key::Frontend(frontend), Value::Target(target, comment)) => {
                self.frontends.entry(*frontend).or_default().verdict =
                    Some((*target, Arc::clone(comment)));
            }
            (key, _) => {
                self.members.entry(element.set).or_default().insert(*key);
            }
        }
    }

    fn delete(&mut self, set: SetId, key: &Key) {
        if let Some(count) = self.count.get_mut(&set) {
            *count = count.saturating_sub(1);
        }
        let frontend = match key {
            Key::Slot(frontend, _) => frontend,
            Key::Frontend(frontend) if set == verdict_map(frontend) => frontend,
            Key::Frontend(_) | Key::Address(_) => {
                self.members.entry(set).or_default().remove(key);
                return;
            }
        };
        let Some(installed) = self.frontends.get_mut(frontend) else {
            return;
        };
        match key {
            Key::Slot(_, slot) => installed.set_slot(*slot, None),
            _ => installed.verdict = None,
        }
        if installed.is_empty() {
            self.frontends.remove(frontend);
        }
    }

    /// The pool chains that verdicts refer to.
    #[must_use]
    pub fn pools_in_use(&self) -> BTreeSet<PoolChain> {
        let pool = |(frontend, installed): (&Frontend, &InstalledFrontend)| match installed
            .verdict
            .as_ref()?
            .0
        {
            Target::Pool(slots) => Some(PoolChain::of(frontend, slots)),
            Target::Refuse | Target::Drop => None,
        };
        self.frontends.iter().filter_map(pool).collect()
    }

    /// Every element, for listings; in no order.
    pub fn elements(&self) -> impl Iterator<Item = Element> + '_ {
        let of_frontends = self.frontends.iter().flat_map(|(frontend, installed)| {
            let verdict = installed.verdict.iter().map(|(target, comment)| Element {
                set: verdict_map(frontend),
                key: Key::Frontend(*frontend),
                value: Value::Target(*target, Arc::clone(comment)),
            });
            let slots = (0u32..).zip(&installed.slots).filter_map(|(slot, endpoint)| {
                Some(Element {
                    set: endpoint_map(frontend),
                    key: Key::Slot(*frontend, slot),
                    value: Value::Endpoint((*endpoint)?),
                })
            });
            verdict.chain(slots)
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
#[must_use]
pub const fn family_of(network: &IpNet) -> Family {
    match network {
        IpNet::V4(_) => Family::V4,
        IpNet::V6(_) => Family::V6,
    }
}
