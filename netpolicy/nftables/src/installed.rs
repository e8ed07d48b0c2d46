//! What the kernel was found to hold, and the steps from what it holds to what is wanted.

use std::collections::{BTreeMap, HashMap};

use shunt_netpolicy::table::{Atom, Range};

use crate::element::{Key, Value};
use crate::lower::{Operation, Wanted};
use crate::name::SetId;

/// All that a kernel holds. Of the one that we write to only [`Counts`] are kept: it holds the plan, or is read anew.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Installed {
    /// The elements, but for the ranges of addresses.
    pub elements: HashMap<(SetId, Key), Value>,
    /// The ranges of addresses with their atoms.
    pub networks: BTreeMap<SetId, Vec<(Range, Atom)>>,
}

impl Installed {
    /// Records one operation that the kernel has committed.
    pub fn apply(&mut self, operation: &Operation) {
        match operation {
            Operation::Add(set, key, value) | Operation::AddUntil(set, key, value, _) => {
                self.elements.insert((*set, *key), *value);
            }
            Operation::Delete(set, key) => {
                self.elements.remove(&(*set, *key));
            }
            Operation::ReplaceNetworks(set, networks) => {
                self.networks.insert(*set, networks.clone());
            }
        }
    }
}

/// What the kernel holds, as far as it is asked.
pub trait Held {
    /// The value of an element; `None`: it is not there.
    fn value(&self, set: SetId, key: &Key) -> Option<Value>;

    /// All ranges of addresses of a set.
    fn networks(&self, set: SetId) -> Vec<(Range, Atom)>;
}

impl Held for Installed {
    fn value(&self, set: SetId, key: &Key) -> Option<Value> {
        self.elements.get(&(set, *key)).copied()
    }

    fn networks(&self, set: SetId) -> Vec<(Range, Atom)> {
        self.networks.get(&set).cloned().unwrap_or_default()
    }
}

/// How many elements each set has.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Counts(BTreeMap<SetId, usize>);

impl Counts {
    pub(crate) fn of(installed: &Installed) -> Self {
        let mut counts = Self::default();
        installed.elements.keys().for_each(|(set, _)| *counts.0.entry(*set).or_default() += 1);
        counts
    }

    /// How many a set has.
    pub(crate) fn count(&self, set: SetId) -> usize {
        self.0.get(&set).copied().unwrap_or_default()
    }

    /// Takes in an operation that the kernel has committed.
    pub(crate) fn apply(&mut self, operation: &Operation) {
        match operation {
            Operation::Add(set, ..) | Operation::AddUntil(set, ..) => {
                *self.0.entry(*set).or_default() += 1;
            }
            Operation::Delete(set, _) => {
                let count = self.0.entry(*set).or_default();
                *count = count.saturating_sub(1);
            }
            Operation::ReplaceNetworks(..) => {}
        }
    }
}

impl Steps {
    /// What it takes to hold what is wanted.
    #[must_use]
    pub fn between(held: &impl Held, wanted: &Wanted) -> Self {
        let mut steps = Self::default();
        for ((set, key), value) in &wanted.elements {
            let there = held.value(*set, key);
            if there == *value && !wanted.renewed.contains(&(*set, *key)) {
                continue;
            }
            let content = set.is_of_rows();
            if there.is_some() {
                let step = if content { &mut steps.retire } else { &mut steps.switch };
                step.push(Operation::Delete(*set, *key));
            }
            if let Some(value) = value {
                steps.switch.push(match wanted.until.get(&(*set, *key)) {
                    Some(until) => Operation::AddUntil(*set, *key, *value, *until),
                    None => Operation::Add(*set, *key, *value),
                });
            }
        }
        for (set, networks) in &wanted.networks {
            if held.networks(*set) != *networks {
                steps.switch.push(Operation::ReplaceNetworks(*set, networks.clone()));
            }
        }
        steps
    }
}

/// The steps of a change, each one transaction. A packet can find its row in one generation of the
/// ruleset and what the row accepts in the next, so rows go in a step of their own, last. A row
/// never changes: its number is made of its content.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Steps {
    /// All but this:
    pub switch: Vec<Operation>,
    /// What rows accept that nothing leads to any more.
    pub retire: Vec<Operation>,
}

impl Steps {
    /// The steps in order, without those in which there is nothing to do.
    pub fn in_order(&self) -> impl Iterator<Item = &[Operation]> {
        [&self.switch, &self.retire].into_iter().map(Vec::as_slice).filter(|step| !step.is_empty())
    }
}
