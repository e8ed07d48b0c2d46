//! Values that many objects share, each kept once: names, labels, localities.

use std::borrow::Borrow;
use std::collections::HashSet;
use std::hash::Hash;
use std::sync::Arc;

/// How many values there may be before the unused ones are looked for.
const SMALL: usize = 1024;

/// Names in use: of namespaces, nodes and ports.
pub(super) type Names = Shared<str>;

/// Values in use.
#[derive(Debug)]
pub(super) struct Shared<T: ?Sized> {
    values: HashSet<Arc<T>>,
    /// Prune when there are more than this.
    limit: usize,
}

impl<T: ?Sized> Default for Shared<T> {
    fn default() -> Self {
        Self { values: HashSet::new(), limit: SMALL }
    }
}

impl<T: Eq + Hash + ?Sized> Shared<T> {
    /// The one copy of a value.
    pub(super) fn one(&mut self, value: impl Borrow<T> + Into<Arc<T>>) -> Arc<T> {
        if let Some(known) = self.values.get(value.borrow()) {
            return Arc::clone(known);
        }
        if self.values.len() >= self.limit {
            self.prune();
        }
        let value = value.into();
        self.values.insert(Arc::clone(&value));
        value
    }

    /// Forgets the values that nobody else holds. The limit grows with what is in use, so that the
    /// cost of pruning is spread over as many new ones.
    fn prune(&mut self) {
        self.values.retain(|value| Arc::strong_count(value) > 1);
        self.limit = SMALL.max(self.values.len() * 2);
        self.values.shrink_to(self.limit);
    }
}

impl Names {
    /// The shared copy of a name.
    pub(super) fn shared(&mut self, name: &str) -> Arc<str> {
        self.one(name)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_is_kept_once() {
        let mut names = Names::default();
        assert!(Arc::ptr_eq(&names.shared("a"), &names.shared("a")));
    }

    #[test]
    fn names_out_of_use_are_forgotten() {
        let mut names = Names::default();
        let held: Vec<_> = (0..10).map(|i| names.shared(&format!("held-{i}"))).collect();
        for i in 0..10 * SMALL {
            names.shared(&format!("name-{i}"));
        }
        assert!(names.values.len() <= SMALL, "{}", names.values.len());
        for name in &held {
            assert!(Arc::ptr_eq(name, &names.shared(name)));
        }
    }
}
