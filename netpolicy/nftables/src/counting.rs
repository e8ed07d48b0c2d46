//! What each policy has accepted and denied.
//!
//! The elements of rows count, and rows are told apart by who decides, so each element is of some policies. What an
//! element has counted before it goes is read when nothing leads to it any more, and kept.

use std::collections::BTreeMap;
use std::ops::AddAssign;
use std::sync::Arc;
use std::sync::mpsc::Sender;
use std::time::{Duration, Instant};

use shunt_netpolicy::table::{Row, RowId};

use crate::element::Key;
use crate::name::SetId;
use crate::rows;

/// First packets of connections. One that is denied is sent again, and counts again.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Count {
    /// Accepted, by each of the policies that accept it.
    pub accepted: u64,
    /// Denied, by each of the policies that deny it or isolate the pod.
    pub denied: u64,
}

impl AddAssign for Count {
    fn add_assign(&mut self, other: Self) {
        self.accepted += other.accepted;
        self.denied += other.denied;
    }
}

/// What each policy has decided, by its name.
pub type PolicyCounts = BTreeMap<Arc<str>, Count>;

/// How often what was counted is told.
const TELL_EVERY: Duration = Duration::from_secs(10);

/// Tells somebody now and then.
#[derive(Debug)]
pub(crate) struct Teller {
    out: Sender<PolicyCounts>,
    pub(crate) at: Instant,
}

impl Teller {
    pub(crate) fn new(out: Sender<PolicyCounts>) -> Self {
        Self { out, at: Instant::now() + TELL_EVERY }
    }

    /// Tells it, and says when it does so again. Nobody may be listening any more.
    pub(crate) fn tell(&mut self, counts: Option<PolicyCounts>, now: Instant) {
        self.at = now + TELL_EVERY;
        counts.into_iter().for_each(|counts| drop(self.out.send(counts)));
    }
}

/// What is kept of elements that are gone, and the rows that may go.
#[derive(Clone, Debug, Default)]
pub(crate) struct Kept {
    counts: PolicyCounts,
    /// Rows that nothing in the plan leads to any more, while the kernel may still have them.
    leaving: BTreeMap<RowId, Arc<Row>>,
}

impl Kept {
    /// Rows are about to go.
    pub(crate) fn leave(&mut self, rows: impl IntoIterator<Item = (RowId, Arc<Row>)>) {
        self.leaving.extend(rows);
    }

    /// Those that are not among `rows` go; this is what their elements have counted.
    pub(crate) fn gone(
        &mut self,
        rows: &BTreeMap<RowId, Arc<Row>>,
        counted: &BTreeMap<(SetId, Key), u64>,
    ) {
        let mut leaving = std::mem::take(&mut self.leaving);
        leaving.retain(|id, _| !rows.contains_key(id));
        add(&mut self.counts, &leaving, counted);
    }

    /// All that was counted, given what is counted now.
    pub(crate) fn with(
        &self,
        rows: &BTreeMap<RowId, Arc<Row>>,
        counted: &BTreeMap<(SetId, Key), u64>,
    ) -> PolicyCounts {
        let mut all = self.counts.clone();
        add(&mut all, rows, counted);
        all
    }
}

fn add(
    counts: &mut PolicyCounts,
    rows: &BTreeMap<RowId, Arc<Row>>,
    counted: &BTreeMap<(SetId, Key), u64>,
) {
    for (id, row) in rows {
        for (place, decision) in rows::elements(*id, row) {
            let (Some(packets), Some(decision)) = (counted.get(&place), decision) else { continue };
            let count = match decision.accepts {
                true => Count { accepted: *packets, denied: 0 },
                false => Count { accepted: 0, denied: *packets },
            };
            for policy in decision.by.iter() {
                *counts.entry(Arc::clone(policy)).or_default() += count;
            }
        }
    }
}
