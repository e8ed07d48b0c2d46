//! Label selectors (`metav1.LabelSelector`).

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::sync::Arc;

/// The labels of an object.
pub type Labels = BTreeMap<Arc<str>, Arc<str>>;

/// What one requirement demands of a label.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Operator {
    /// It is there, with one of these values.
    In(Box<[Arc<str>]>),
    /// It is absent, or has none of these values.
    NotIn(Box<[Arc<str>]>),
    /// It is there.
    Exists,
    /// It is absent.
    DoesNotExist,
}

/// One requirement of a selector.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Requirement {
    /// The label's key.
    pub key: Arc<str>,
    /// What is demanded of it.
    pub operator: Operator,
}

/// A selector: all of its requirements hold. Without any it selects everything. Policies and what is compiled of them
/// share it.
#[derive(Clone, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Selector(Arc<[Requirement]>);

impl Requirement {
    fn holds(&self, labels: &Labels) -> bool {
        let value = labels.get(&self.key);
        match &self.operator {
            Operator::In(values) => value.is_some_and(|value| values.contains(value)),
            Operator::NotIn(values) => value.is_none_or(|value| !values.contains(value)),
            Operator::Exists => value.is_some(),
            Operator::DoesNotExist => value.is_none(),
        }
    }
}

impl Selector {
    /// Whether it selects everything.
    #[must_use]
    pub fn is_everything(&self) -> bool {
        self.0.is_empty()
    }

    /// Whether it selects what has these labels.
    #[must_use]
    pub fn selects(&self, labels: &Labels) -> bool {
        self.0.iter().all(|requirement| requirement.holds(labels))
    }

    /// Its requirements, sorted.
    pub fn requirements(&self) -> impl Iterator<Item = &Requirement> {
        self.0.iter()
    }
}

impl FromIterator<Requirement> for Selector {
    fn from_iter<T: IntoIterator<Item = Requirement>>(requirements: T) -> Self {
        // Sorted, so that two that say the same are equal.
        let sorted: BTreeSet<_> = requirements.into_iter().collect();
        Self(sorted.into_iter().collect())
    }
}

impl fmt::Display for Requirement {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let key = &self.key;
        let list =
            |values: &[Arc<str>]| values.iter().map(AsRef::as_ref).collect::<Vec<&str>>().join(",");
        match &self.operator {
            Operator::In(values) if values.len() == 1 => write!(f, "{key}={}", list(values)),
            Operator::In(values) => write!(f, "{key} in ({})", list(values)),
            Operator::NotIn(values) => write!(f, "{key} notin ({})", list(values)),
            Operator::Exists => write!(f, "{key}"),
            Operator::DoesNotExist => write!(f, "!{key}"),
        }
    }
}

/// As `kubectl get -l` takes it; `*` for everything.
impl fmt::Display for Selector {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.is_everything() {
            return f.write_str("*");
        }
        let each: Vec<_> = self.0.iter().map(ToString::to_string).collect();
        f.write_str(&each.join(","))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn labels(pairs: &[(&str, &str)]) -> Labels {
        pairs.iter().map(|(key, value)| ((*key).into(), (*value).into())).collect()
    }

    fn selector(operator: Operator) -> Selector {
        [Requirement { key: "app".into(), operator }].into_iter().collect()
    }

    #[test]
    fn operators_mean_what_the_api_says() {
        let (web, db, none) = (labels(&[("app", "web")]), labels(&[("app", "db")]), labels(&[]));
        let values: Box<[Arc<str>]> = ["web".into()].into();
        let table = [
            (Operator::In(values.clone()), [true, false, false]),
            (Operator::NotIn(values), [false, true, true]),
            (Operator::Exists, [true, true, false]),
            (Operator::DoesNotExist, [false, false, true]),
            (Operator::In(Box::default()), [false, false, false]),
        ];
        for (operator, expected) in table {
            let selector = selector(operator);
            let found = [&web, &db, &none].map(|labels| selector.selects(labels));
            assert_eq!(found, expected, "{selector}");
        }
        assert!(Selector::default().selects(&none));
    }
}
