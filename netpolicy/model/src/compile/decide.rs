//! What local pods decide about the classes of peers.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::Arc;

use super::Compiler;
use super::classes::{Classes, Turnover};
use super::feature::Signature;
use super::number::Numbers;
use super::program::Program;
use crate::table::{Atom, Decisions, Delta, Local, Row, RowId};

impl Compiler {
    /// Brings the decisions for local addresses up to date.
    pub(super) fn decide(&mut self, turnover: &Turnover, delta: &mut Delta) {
        let mut locals = BTreeMap::new();
        let mut used = HashMap::new();
        for (address, of) in &self.locals {
            let mut decide = |program: &Arc<Program>| {
                let place = Arc::as_ptr(program) as usize;
                let decisions = used.entry(place).or_insert_with(|| {
                    let (classes, rows) = (&self.classes, &mut self.rows);
                    match self.decided.get(&place) {
                        Some(former) => again(former, program, turnover, classes, rows),
                        None => Arc::new(decisions(program, classes, rows)),
                    }
                });
                Arc::clone(decisions)
            };
            let ingress = of.ingress.as_ref().map(&mut decide);
            let egress = of.egress.as_ref().map(&mut decide);
            let to_node = of.egress.as_ref().is_some_and(|program| program.has_tiers());
            locals.insert(*address, Local { ingress, egress, to_node, audit: of.audit });
        }
        delta.locals = changes(&self.table.locals, &locals);
        let is_former = |(place, decisions): (&usize, &Arc<Decisions>)| {
            self.decided.get(place).is_some_and(|former| Arc::ptr_eq(former, decisions))
        };
        let same = used.len() == self.decided.len() && used.iter().all(is_former);
        self.programs.retain(|program| used.contains_key(&(Arc::as_ptr(program) as usize)));
        self.decided = used;
        if !same {
            self.keep_rows(delta);
        }
    }

    /// Finds the rows that are decided on, and forgets the others.
    fn keep_rows(&mut self, delta: &mut Delta) {
        let mut ids = BTreeSet::new();
        for decisions in self.decided.values() {
            ids.extend(decisions.rows.values().copied().chain([decisions.default]));
        }
        let row = |id: RowId| Some((id, Arc::clone(self.rows.get(id.0)?)));
        let rows: BTreeMap<_, _> = ids.into_iter().filter_map(row).collect();
        self.rows.retain(|id| rows.contains_key(&RowId(id)));
        delta.rows = changes(&self.table.rows, &rows);
    }
}

fn decisions(program: &Program, classes: &Classes, rows: &mut Numbers<Row>) -> Decisions {
    let default = RowId(rows.number(program.row(&Signature::default())));
    let of_atom = |(atom, signature): (Atom, &Signature)| {
        let row = RowId(rows.number(program.row(signature)));
        (row != default).then_some((atom, row))
    };
    Decisions { default, rows: classes.iter().filter_map(of_atom).collect() }
}

/// The decisions of a program when there are other classes.
fn again(
    former: &Arc<Decisions>,
    program: &Program,
    turnover: &Turnover,
    classes: &Classes,
    rows: &mut Numbers<Row>,
) -> Arc<Decisions> {
    let default = former.default;
    let mut changes = Vec::new();
    for atom in turnover.vanished.iter().filter(|atom| former.rows.contains_key(atom)) {
        changes.push((*atom, None));
    }
    for atom in &turnover.appeared {
        let Some(signature) = classes.get(*atom) else { continue };
        let row = RowId(rows.number(program.row(signature)));
        if row != default {
            changes.push((*atom, Some(row)));
        }
    }
    if changes.is_empty() {
        return Arc::clone(former);
    }
    let mut decisions = Decisions::clone(former);
    for (atom, row) in changes {
        match row {
            Some(row) => decisions.rows.insert(atom, row),
            None => decisions.rows.remove(&atom),
        };
    }
    Arc::new(decisions)
}

/// What is new, different or gone.
fn changes<K: Ord + Clone, V: PartialEq + Clone>(
    old: &BTreeMap<K, V>,
    new: &BTreeMap<K, V>,
) -> BTreeMap<K, Option<V>> {
    let mut changes = BTreeMap::new();
    for (key, value) in new.iter().filter(|(key, value)| old.get(key) != Some(value)) {
        changes.insert(key.clone(), Some(value.clone()));
    }
    for key in old.keys().filter(|key| !new.contains_key(key)) {
        changes.insert(key.clone(), None);
    }
    changes
}
