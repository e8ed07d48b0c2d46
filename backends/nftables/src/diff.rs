//! The difference between what the table shall hold and what it holds, in the order in which it
//! can be written while packets flow.

use std::collections::{BTreeSet, HashMap};
use std::sync::Arc;

use ipnet::IpNet;
use shunt_model::address::Endpoint;
use shunt_model::balancing::Method;

use crate::element::{Element, Key, Place, Value};
use crate::installed::{HeldSlots, Installed, InstalledFrontend};
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
    #[must_use]
    pub fn into_operations(mut self) -> Vec<Operation> {
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
#[must_use]
pub fn interval_elements(networks: usize) -> u32 {
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
            steps.prepare.push(Operation::ReplaceNetworks(*set, networks.clone()));
        }
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
    let (draw, slots) =
        target.map_or_else(Default::default, |target| (target.draw, &*target.slots));
    diff_slots(steps, place, (draw, slots), there);
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
    pools.extend(target.pool_chain(place));
    let value = Value::Target(target, comment);
    steps.switch.push(Operation::Add(Element { set, key, value }));
}

fn diff_slots(
    steps: &mut Steps,
    place: &Place,
    (draw, wanted): (Draw, &[Endpoint]),
    there: &InstalledFrontend,
) {
    let drawn = there.verdict.as_ref().and_then(|(target, _)| target.draw()).unwrap_or_default();
    let set = place.endpoints();
    let slots = match draw.method {
        Method::Random => assign_slots(&there.slots, wanted),
        Method::HashAddress | Method::HashConnection => wanted.to_vec(),
    };
    // The chain stays: it bears empty slots, and all can change at once.
    let stays = !wanted.is_empty() && draw == drawn;
    let key = |slot| Key::Slot(place.frontend, slot);
    for (slot, endpoint) in (0u32..).zip(&slots) {
        let old = there.slots.get(slot);
        if old == Some(*endpoint) {
            continue;
        }
        let in_use = slot < drawn.slots && old.is_some();
        let step = if stays || in_use { &mut steps.switch } else { &mut steps.prepare };
        if old.is_some() {
            step.push(Operation::Delete(set, key(slot)));
        }
        let value = Value::Endpoint(*endpoint);
        step.push(Operation::Add(Element { set, key: key(slot), value }));
    }
    let step = if stays { &mut steps.switch } else { &mut steps.retire };
    for (slot, old) in (0u32..).zip(there.slots.iter()).skip(slots.len()) {
        if old.is_some() {
            step.push(Operation::Delete(set, key(slot)));
        }
    }
}

/// Which slot each endpoint of a pool gets (each of its places, if it has several by its weight):
/// who has one keeps it, if the pool is still so long;
/// the others fill the holes in order. So a removed endpoint's slot goes to the last one's
/// endpoint, and a change costs what changes.
#[must_use]
pub fn assign_slots(there: &HeldSlots, pool: &[Endpoint]) -> Vec<Endpoint> {
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
    for ((set, key), wanted) in &wanted.members {
        let there = installed.members.get(set).is_some_and(|members| members.contains(key));
        let add = || Operation::Add(Element { set: *set, key: *key, value: Value::Member });
        match (wanted, there) {
            // A ClusterIP refuses what is no frontend: it comes with its frontends, in one step.
            (true, false) if set.kind == SetKind::ClusterIps => steps.switch.push(add()),
            (true, false) => steps.prepare.push(add()),
            (false, true) => steps.retire.push(Operation::Delete(*set, *key)),
            (true, true) | (false, false) => {}
        }
    }
}

#[cfg(test)]
mod tests {
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
        assert_eq!(assign_slots(&slots(&[1]), &[]), []);
        let (there, weighted) = (slots(&[2, 1, 1, 1]), endpoints(&[1, 1, 2, 2]));
        assert_eq!(assign_slots(&there, &weighted), endpoints(&[2, 1, 1, 2]));
    }
}
