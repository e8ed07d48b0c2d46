//! Names that many objects share, each kept once.

use std::collections::HashSet;
use std::sync::Arc;

/// How many names there may be before the unused ones are looked for.
const SMALL: usize = 1024;

/// Names in use: of namespaces, nodes and ports.
#[derive(Debug)]
pub(super) struct Names {
    names: HashSet<Arc<str>>,
    /// Prune when there are more than this.
    limit: usize,
}

impl Default for Names {
    fn default() -> Self {
        Self { names: HashSet::new(), limit: SMALL }
    }
}

impl Names {
    /// The shared copy of a name.
    pub(super) fn shared(&mut self, name: &str) -> Arc<str> {
        if let Some(known) = self.names.get(name) {
            return Arc::clone(known);
        }
        if self.names.len() >= self.limit {
            self.prune();
        }
        let name: Arc<str> = name.into();
        self.names.insert(Arc::clone(&name));
        name
    }

    /// Forgets the names that nobody else holds. The limit grows with what is in use, so that the
    /// cost of pruning is spread over as many new names.
    fn prune(&mut self) {
        self.names.retain(|name| Arc::strong_count(name) > 1);
        self.limit = SMALL.max(self.names.len() * 2);
        self.names.shrink_to(self.limit);
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
        assert!(names.names.len() <= SMALL, "{}", names.names.len());
        for name in &held {
            assert!(Arc::ptr_eq(name, &names.shared(name)));
        }
    }
}
