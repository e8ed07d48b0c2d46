//! The record of what the kernel holds. Forgotten and read anew after any error.

use std::collections::{BTreeMap, HashMap};

use shunt_netpolicy::table::{Atom, Range};

use crate::element::{Key, Value};
use crate::lower::{Operation, Wanted};
use crate::name::SetId;

/// The record of what the kernel holds.
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

    /// How many elements each set has.
    #[must_use]
    pub fn counts(&self) -> HashMap<SetId, usize> {
        let mut counts = HashMap::new();
        for (set, _) in self.elements.keys() {
            *counts.entry(*set).or_default() += 1;
        }
        counts
    }

    /// What it takes to hold what is wanted.
    #[must_use]
    pub fn diff(&self, wanted: &Wanted) -> Steps {
        let mut steps = Steps::default();
        for ((set, key), value) in &wanted.elements {
            let there = self.elements.get(&(*set, *key));
            if there == value.as_ref() && !wanted.renewed.contains(&(*set, *key)) {
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
            if self.networks.get(set).map_or(&[][..], Vec::as_slice) != networks {
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
