//! What the kernel thread needs of a backend, and the backends there are.

use std::os::fd::BorrowedFd;
use std::time::Duration;

use shunt_model::object::ObjectKey;
use shunt_model::plan::PlanDelta;
use shunt_nftables::kernel::Nftables;

/// What went wrong in a backend.
pub type BackendError = Box<dyn std::error::Error + Send + Sync>;

/// What carries a plan out in the kernel.
pub trait Backend {
    /// Brings the kernel to the plan that all deltas so far make up.
    ///
    /// The delta is taken in also when this fails. After a failure the record of what is
    /// installed is forgotten: the next sync, also one with an empty delta, reads the kernel and
    /// writes the difference.
    ///
    /// # Errors
    /// If the kernel refuses, for a reason that is not one Service's fault.
    fn sync(&mut self, delta: PlanDelta) -> Result<SyncReport, BackendError>;

    /// Forgets the record of what is installed; the next sync reads the kernel.
    fn forget(&mut self);

    /// Whether someone else has written to what is ours since the last sync. Does not block.
    ///
    /// # Errors
    /// If that cannot be told, for instance because notifications were lost.
    fn foreign_change(&mut self) -> Result<bool, BackendError>;

    /// The process that made the last foreign change, if the kernel told.
    fn last_writer(&self) -> Option<String>;

    /// Readable when [`foreign_change`](Self::foreign_change) may have something to say; `None`
    /// as long as no one else can write.
    fn events(&self) -> Option<BorrowedFd<'_>>;
}

/// What a sync did.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct SyncReport {
    /// The kernel was read.
    pub read_back: bool,
    /// Why everything was written anew, if it was, in place of the difference.
    pub rebuilt: Option<&'static str>,
    /// How many additions and removals were written.
    pub operations: usize,
    /// In how many transactions.
    pub transactions: usize,
    /// All Services that are left out because the kernel refuses them, and why it does.
    pub rejected: Vec<(ObjectKey, String)>,
    /// Time spent reading the kernel.
    pub read: Duration,
    /// Time spent finding the difference.
    pub diff: Duration,
    /// Time spent writing.
    pub commit: Duration,
}

impl Backend for Nftables {
    fn sync(&mut self, delta: PlanDelta) -> Result<SyncReport, BackendError> {
        let report = Self::sync(self, delta)?;
        Ok(SyncReport {
            read_back: report.read_back,
            rebuilt: report.rebuilt,
            operations: report.operations,
            transactions: report.transactions,
            rejected: report.rejected,
            read: report.read,
            diff: report.diff,
            commit: report.commit,
        })
    }

    fn forget(&mut self) {
        Self::forget(self);
    }

    fn foreign_change(&mut self) -> Result<bool, BackendError> {
        Ok(Self::foreign_change(self)?)
    }

    fn last_writer(&self) -> Option<String> {
        Self::last_writer(self).map(ToOwned::to_owned)
    }

    fn events(&self) -> Option<BorrowedFd<'_>> {
        Self::events(self)
    }
}
