//! New pods that wait in the container runtime until the kernel holds their policies.

use std::collections::BTreeSet;

use tokio::sync::oneshot;

use super::waiting::WaitingList;
use crate::nri::{NriState, Outcome};
use crate::status::NewPodsStatus;

/// Who waits, and how it stands with the runtime.
#[derive(Debug, Default)]
pub(super) struct Sandboxes {
    /// Nothing before the runtime was looked for.
    state: Option<NriState>,
    waiting: WaitingList<oneshot::Sender<()>>,
    programmed: u64,
    overdue: u64,
    no_address: u64,
}

impl Sandboxes {
    /// Takes in how it stands with the runtime; returns what is wrong.
    pub(super) fn set_state(&mut self, state: NriState) -> BTreeSet<String> {
        let failure = match &state {
            NriState::Failed(error) => Some(format!(
                "the container runtime does not tell of new pods, so they start before their network policies are in \
                 force: {error}"
            )),
            NriState::Absent | NriState::Connected(_) => None,
        };
        self.state = Some(state);
        failure.into_iter().collect()
    }

    /// One more waits.
    pub(super) fn hold(&mut self, done: oneshot::Sender<()>) {
        self.waiting.extend([done]);
    }

    /// Lets those go on whose addresses the kernel holds.
    pub(super) fn release(&mut self, ordered: u64, synced: u64) {
        for done in self.waiting.release(ordered, synced) {
            // It may have waited for too long.
            let _ = done.send(());
        }
    }

    /// One has gone on.
    pub(super) const fn count(&mut self, outcome: Outcome) {
        let count = match outcome {
            Outcome::Programmed => &mut self.programmed,
            Outcome::Overdue => &mut self.overdue,
            Outcome::NoAddress => &mut self.no_address,
        };
        *count += 1;
    }

    /// For people.
    pub(super) fn status(&self) -> Option<NewPodsStatus> {
        let (runtime, failure) = match self.state.clone()? {
            NriState::Absent => (None, None),
            NriState::Connected(runtime) => (Some(runtime), None),
            NriState::Failed(failure) => (None, Some(failure)),
        };
        let Self { programmed, overdue, no_address, .. } = *self;
        Some(NewPodsStatus { runtime, failure, programmed, overdue, no_address })
    }
}
