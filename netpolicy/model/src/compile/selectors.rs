//! Selectors of pods, found by the labels they ask for.

use std::collections::HashMap;
use std::sync::Arc;

use super::feature::{Feature, Is};
use crate::selector::{Labels, Operator};
use crate::store::Store;

/// Selectors of pods: of a thousand a pod is asked about a few.
#[derive(Debug, Default)]
pub(super) struct Selectors {
    /// Those that ask for a label with one of some values, by that label and each of the values.
    by_label: HashMap<Label, Vec<Arc<Feature>>>,
    /// All others.
    by_no_label: Vec<Arc<Feature>>,
}

/// A label and its value.
type Label = (Arc<str>, Arc<str>);

impl Selectors {
    /// Whether there are none.
    pub(super) fn is_empty(&self) -> bool {
        self.by_label.is_empty() && self.by_no_label.is_empty()
    }

    /// Adds one that is not there yet.
    pub(super) fn insert(&mut self, feature: &Arc<Feature>) {
        match labels(feature) {
            None => self.by_no_label.push(Arc::clone(feature)),
            Some(labels) => labels.for_each(|label| {
                self.by_label.entry(label).or_default().push(Arc::clone(feature));
            }),
        }
    }

    /// Removes one.
    pub(super) fn remove(&mut self, feature: &Arc<Feature>) {
        match labels(feature) {
            None => self.by_no_label.retain(|held| held != feature),
            Some(labels) => labels.for_each(|label| {
                let Some(held) = self.by_label.get_mut(&label) else { return };
                held.retain(|held| held != feature);
                if held.is_empty() {
                    self.by_label.remove(&label);
                }
            }),
        }
    }

    /// Those that match pods of a namespace with these labels.
    pub(super) fn matching<'a>(
        &'a self,
        store: &'a Store,
        namespace: &'a Arc<str>,
        labels: &'a Labels,
    ) -> impl Iterator<Item = &'a Arc<Feature>> {
        // A label of which nobody asks is not worth looking up.
        let asked = labels.iter().filter(|_| !self.by_label.is_empty());
        let of_label = |(key, value): (&Arc<str>, &Arc<str>)| {
            self.by_label.get(&(Arc::clone(key), Arc::clone(value)))
        };
        let likely = asked.filter_map(of_label).flatten().chain(&self.by_no_label);
        likely.filter(|feature| feature.selects(store, namespace, labels))
    }
}

/// The label by which a selector of pods is found, with each of its values.
fn labels(feature: &Feature) -> Option<impl Iterator<Item = Label>> {
    let Is::Pods(_, pods) = &feature.is else { return None };
    let (key, values) =
        pods.requirements().find_map(|requirement| match &requirement.operator {
            Operator::In(values) => Some((&requirement.key, values)),
            _ => None,
        })?;
    Some(values.iter().map(|value| (Arc::clone(key), Arc::clone(value))))
}
