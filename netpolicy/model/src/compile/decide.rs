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
        let concerned = self.concerned(turnover);
        let mut locals = BTreeMap::new();
        let mut used = HashMap::new();
        for (address, of) in &self.locals {
            let mut decide = |program: &Arc<Program>| {
                let place = Arc::as_ptr(program) as usize;
                let decisions = used.entry(place).or_insert_with(|| {
                    let (classes, rows) = (&self.classes, &mut self.rows);
                    let Some(former) = self.decided.get(&place) else {
                        let asks = |signature: &Signature| self.features.asks(place, signature);
                        return Arc::new(decisions(program, asks, classes, rows));
                    };
                    let appeared = concerned.get(&place).map_or(&[][..], Vec::as_slice);
                    again(former, program, (appeared, &turnover.vanished), classes, rows)
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

    /// The new classes about which programs may decide otherwise than about anyone, by the programs' addresses.
    fn concerned(&self, turnover: &Turnover) -> HashMap<usize, Vec<Atom>> {
        let mut concerned: HashMap<usize, Vec<Atom>> = HashMap::new();
        for atom in &turnover.appeared {
            let Some(signature) = self.classes.get(*atom) else { continue };
            for program in self.features.askers_of(signature) {
                concerned.entry(program).or_default().push(*atom);
            }
        }
        concerned
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

/// `asks`: whether the program may decide otherwise about those with such features than about anyone.
fn decisions(
    program: &Program,
    asks: impl Fn(&Signature) -> bool,
    classes: &Classes,
    rows: &mut Numbers<Row>,
) -> Decisions {
    let default = RowId(rows.number(program.row(&Signature::default())));
    let asked = classes.iter().filter(|(_, signature)| asks(signature));
    let of_atom = |(atom, signature): (Atom, &Signature)| {
        let row = RowId(rows.number(program.row(signature)));
        (row != default).then_some((atom, row))
    };
    Decisions { default, rows: asked.filter_map(of_atom).collect() }
}

/// The decisions of a program when some classes have appeared about which it may decide otherwise than about anyone, and
/// others have vanished.
fn again(
    former: &Arc<Decisions>,
    program: &Program,
    (appeared, vanished): (&[Atom], &[Atom]),
    classes: &Classes,
    rows: &mut Numbers<Row>,
) -> Arc<Decisions> {
    let default = former.default;
    let mut changes = Vec::new();
    for atom in vanished.iter().filter(|atom| former.rows.contains_key(atom)) {
        changes.push((*atom, None));
    }
    for atom in appeared {
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
