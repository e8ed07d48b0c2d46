//! The difference between what the table shall hold and what it holds, in the order in which it
//! can be written while packets flow.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::Arc;

use ipnet::IpNet;
use shunt_model::balancing::Method;

use crate::affinity::Sticky;
use crate::counting::{Counting, keep_counts};
use crate::element::{Element, Key, Place, Value};
use crate::installed::{HeldSlots, Installed, InstalledFrontend, InstalledSticky};
use crate::lower::{FrontendTarget, Wanted};
use crate::name::{SetId, SetKind};
use crate::pool::{Draw, PoolChain};

/// One change of the table.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Operation {
    /// Make the chain for a size of pool.
    AddPool(PoolChain),
    /// Remove a chain that no verdict refers to.
    DeletePool(PoolChain),
    /// Add an element.
    Add(Element),
    /// Remove an element.
    Delete(SetId, Key),
    /// Replace all networks of a set of intervals. They are not edited one by one: halves of old
    /// and new ones would overlap.
    ReplaceNetworks(SetId, Vec<IpNet>),
}

/// The steps of a change. A packet can look up a frontend in one generation of the ruleset and
/// its slot in the next, so a slot exists before a verdict needs it and until none does.
/// Each step is consistent by itself: the daemon may die between any two transactions.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Steps {
    /// New chains, new slots, new members: nothing uses them yet.
    pub prepare: Vec<Operation>,
    /// Verdicts, and slots whose endpoint is exchanged.
    pub switch: Vec<Operation>,
    /// What nothing uses any more.
    pub retire: Vec<Operation>,
}

impl Steps {
    /// The number of operations.
    #[must_use]
    pub fn len(&self) -> usize {
        self.prepare.len() + self.switch.len() + self.retire.len()
    }

    /// Whether there is nothing to do.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// The steps in order.
    pub fn in_order(&self) -> impl Iterator<Item = &[Operation]> {
        [&self.prepare, &self.switch, &self.retire].into_iter().map(Vec::as_slice)
    }

    /// All operations, in order.
    pub(crate) fn into_operations(mut self) -> Vec<Operation> {
        self.prepare.append(&mut self.switch);
        self.prepare.append(&mut self.retire);
        self.prepare
    }

    /// How many elements the steps add to each set.
    #[must_use]
    pub fn added(&self) -> HashMap<SetId, u32> {
        let mut added = HashMap::new();
        for operation in self.in_order().flatten() {
            match operation {
                Operation::Add(element) => *added.entry(element.set).or_default() += 1,
                Operation::ReplaceNetworks(set, networks) => {
                    *added.entry(*set).or_default() += interval_elements(networks.len());
                }
                Operation::AddPool(_) | Operation::DeletePool(_) | Operation::Delete(..) => {}
            }
        }
        added
    }

    /// Whether each set has room for what is added before anything is taken away.
    #[must_use]
    pub fn fit(&self, installed: &Installed) -> bool {
        self.added().iter().all(|(set, added)| {
            let count = installed.count.get(set).copied().unwrap_or_default();
            let capacity = installed.capacity.get(set).copied().unwrap_or_default();
            count.saturating_add(*added) <= capacity
        })
    }
}

/// How many elements so many networks take in an interval set: a start and an end each, and the
/// end of what lies before the first.
pub(crate) fn interval_elements(networks: usize) -> u32 {
    u32::try_from(2 * networks + 1).unwrap_or(u32::MAX)
}

/// The steps from `installed` to `wanted`.
#[must_use]
pub fn diff(wanted: &Wanted, installed: &Installed) -> Steps {
    let mut steps = Steps::default();
    let mut pools = BTreeSet::new();
    let nothing = InstalledFrontend::default();
    for (place, target) in &wanted.frontends {
        let there = installed.frontends.get(place).unwrap_or(&nothing);
        diff_frontend(&mut steps, &mut pools, place, target.as_ref(), there);
    }
    let missing = pools.difference(&installed.pools).map(|pool| Operation::AddPool(*pool));
    steps.prepare.splice(..0, missing);
    diff_members(&mut steps, wanted, installed);
    for (set, networks) in &wanted.networks {
        if installed.networks.get(set).map_or(&[][..], Vec::as_slice) != networks {
            // What has no frontend there is dropped: its frontends come first.
            let services = set.kind == SetKind::ServiceNetworks;
            let step = if services { &mut steps.retire } else { &mut steps.prepare };
            step.push(Operation::ReplaceNetworks(*set, networks.clone()));
        }
    }
    if installed.counting == Counting::Endpoints {
        keep_counts(&mut steps, installed);
    }
    steps
}

fn diff_frontend(
    steps: &mut Steps,
    pools: &mut BTreeSet<PoolChain>,
    place: &Place,
    target: Option<&FrontendTarget>,
    there: &InstalledFrontend,
) {
    let draw = target.map(|target| target.draw).unwrap_or_default();
    let slots = target.map_or(&[][..], |target| &target.slots);
    let changes = SlotChanges { place, set: place.endpoints(), draw, value: Value::Endpoint };
    changes.write(steps, slots, &there.slots, there);
    diff_sticky(steps, place, target, there);
    let verdict = target.map(|target| (target.target, Arc::clone(&target.comment)));
    if verdict == there.verdict {
        return;
    }
    let (set, key) = (place.verdicts(), Key::Frontend(place.frontend));
    if there.verdict.is_some() {
        steps.switch.push(Operation::Delete(set, key));
    }
    let Some((target, comment)) = verdict else {
        return;
    };
    pools.extend(target.pool_chain(place).into_iter().flat_map(PoolChain::with_remember));
    let value = Value::Target(target, comment);
    steps.switch.push(Operation::Add(Element { set, key, value }));
}

/// What the slots of a place shall hold, in one of the maps that it has for them.
struct SlotChanges<'a, T> {
    place: &'a Place,
    set: SetId,
    draw: Draw,
    value: fn(T) -> Value,
}

impl<T: Copy + Ord> SlotChanges<'_, T> {
    fn write(
        &self,
        steps: &mut Steps,
        wanted: &[T],
        held: &HeldSlots<T>,
        there: &InstalledFrontend,
    ) {
        let drawn =
            there.verdict.as_ref().and_then(|(target, _)| target.draw()).unwrap_or_default();
        let slots = match self.draw.method {
            Method::Random => assign_slots(held, wanted),
            Method::HashAddress | Method::HashConnection => wanted.to_vec(),
        };
        // The chain stays: it bears empty slots, and all can change at once.
        let stays = !wanted.is_empty() && self.draw == drawn;
        let key = |slot| Key::Slot(self.place.frontend, slot);
        for (slot, new) in (0u32..).zip(&slots) {
            let old = held.get(slot);
            if old == Some(*new) {
                continue;
            }
            let in_use = slot < drawn.slots && old.is_some();
            let step = if stays || in_use { &mut steps.switch } else { &mut steps.prepare };
            if old.is_some() {
                step.push(Operation::Delete(self.set, key(slot)));
            }
            let (set, key, value) = (self.set, key(slot), (self.value)(*new));
            step.push(Operation::Add(Element { set, key, value }));
        }
        let step = if stays { &mut steps.switch } else { &mut steps.retire };
        for (slot, old) in (0u32..).zip(held.iter()).skip(slots.len()) {
            if old.is_some() {
                step.push(Operation::Delete(self.set, key(slot)));
            }
        }
    }
}

/// Groups and endpoints are there before a slot has an id of them, and until none has.
fn diff_sticky(
    steps: &mut Steps,
    place: &Place,
    target: Option<&FrontendTarget>,
    there: &InstalledFrontend,
) {
    let wanted = target.and_then(|target| target.sticky.as_deref());
    let group = target.and_then(|target| target.group);
    if wanted.is_none() && group.is_none() && there.sticky.is_none() {
        return;
    }
    let (nothing, none) = (Sticky::default(), InstalledSticky::default());
    let wanted = wanted.unwrap_or(&nothing);
    let held = there.sticky.as_deref().unwrap_or(&none);
    let mut exchange = |set, key, old: Option<Value>, new: Option<Value>| {
        let step = match (&old, &new) {
            (None, _) => &mut steps.prepare,
            (Some(_), Some(_)) => &mut steps.switch,
            (Some(_), None) => &mut steps.retire,
        };
        if old == new {
            return;
        }
        if old.is_some() {
            step.push(Operation::Delete(set, key));
        }
        step.extend(new.map(|value| Operation::Add(Element { set, key, value })));
    };
    let key = Key::Frontend(place.frontend);
    exchange(place.groups(), key, held.group.map(Value::Id), group.map(Value::Id));
    let ids: BTreeSet<_> = held.endpoints.keys().chain(wanted.endpoints.keys()).collect();
    for id in ids {
        let endpoint = |of: &BTreeMap<_, _>| of.get(id).copied().map(Value::Endpoint);
        let (old, new) = (endpoint(&held.endpoints), endpoint(&wanted.endpoints));
        exchange(place.sticky_endpoints(), Key::Id(place.frontend, *id), old, new);
    }
    let draw = target.map(|target| target.draw).unwrap_or_default();
    let changes = SlotChanges { place, set: place.sticky_slots(), draw, value: Value::Id };
    changes.write(steps, &wanted.slots, &held.slots, there);
}

/// Which slot each endpoint of a pool gets (each of its places, if it has several by its weight):
/// who has one keeps it, if the pool is still so long;
/// the others fill the holes in order. So a removed endpoint's slot goes to the last one's
/// endpoint, and a change costs what changes.
pub(crate) fn assign_slots<T: Copy + Ord>(there: &HeldSlots<T>, pool: &[T]) -> Vec<T> {
    // `pool` is sorted: looking an endpoint up needs no table of its own.
    let mut placed = vec![false; pool.len()];
    let mut slots = vec![None; pool.len()];
    for (slot, old) in slots.iter_mut().zip(there.iter()) {
        let Some(endpoint) = old else { continue };
        let first = pool.partition_point(|other| *other < endpoint);
        let mut same = (first..pool.len()).take_while(|at| pool[*at] == endpoint);
        if let Some(at) = same.find(|at| !placed[*at]) {
            placed[at] = true;
            *slot = Some(endpoint);
        }
    }
    let mut waiting = pool.iter().zip(&placed).filter(|(_, placed)| !**placed).map(|(e, _)| *e);
    slots.into_iter().filter_map(|slot| slot.or_else(|| waiting.next())).collect()
}

fn diff_members(steps: &mut Steps, wanted: &Wanted, installed: &Installed) {
    let is_there = |set: &SetId, key: &Key| {
        installed.members.get(set).is_some_and(|members| members.contains(key))
    };
    let members = wanted.members.iter();
    let coming = members.filter(|((set, key), wanted)| **wanted && !is_there(set, key));
    let coming: BTreeSet<_> =
        coming.filter_map(|((set, key), _)| Some((*set, key.without_range()?))).collect();
    for ((set, key), wanted) in &wanted.members {
        let add = || Operation::Add(Element { set: *set, key: *key, value: Value::Member });
        match (wanted, is_there(set, key)) {
            // Such an address refuses what is no frontend: it comes with its frontends, in one step.
            (true, false)
                if matches!(set.kind, SetKind::ClusterIps | SetKind::VirtualAddresses) =>
            {
                steps.switch.push(add());
            }
            (true, false) => steps.prepare.push(add()),
            // The kernel takes no ranges that overlap: in one transaction with those that come,
            // beside which it stands here as members are sorted.
            (false, true)
                if key.without_range().is_some_and(|key| coming.contains(&(*set, key))) =>
            {
                steps.prepare.push(Operation::Delete(*set, *key));
            }
            (false, true) => steps.retire.push(Operation::Delete(*set, *key)),
            (true, true) | (false, false) => {}
        }
    }
}

#[cfg(test)]
mod tests {
    use shunt_model::address::Endpoint;

    use super::*;

    fn endpoints(last: &[u8]) -> Vec<Endpoint> {
        last.iter().map(|n| Endpoint { address: [10, 0, 0, *n].into(), port: 80 }).collect()
    }

    fn slots(last: &[u8]) -> HeldSlots {
        endpoints(last).into_iter().map(Some).collect()
    }

    #[test]
    fn who_has_a_slot_keeps_it_and_the_last_fills_the_hole() {
        assert_eq!(assign_slots(&slots(&[3, 1, 2]), &endpoints(&[1, 2])), endpoints(&[2, 1]));
        assert_eq!(assign_slots(&slots(&[3, 1]), &endpoints(&[1, 2, 3])), endpoints(&[3, 1, 2]));
        assert_eq!(assign_slots(&slots(&[1, 1]), &endpoints(&[1, 2])), endpoints(&[1, 2]));
        assert_eq!(assign_slots(&slots(&[]), &endpoints(&[7])), endpoints(&[7]));
        assert_eq!(assign_slots(&slots(&[1]), &[]), [] as [Endpoint; 0]);
        let (there, weighted) = (slots(&[2, 1, 1, 1]), endpoints(&[1, 1, 2, 2]));
        assert_eq!(assign_slots(&there, &weighted), endpoints(&[2, 1, 1, 2]));
    }
}
