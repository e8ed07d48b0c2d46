//! What a sync did.

use std::time::Duration;

use shunt_model::object::ObjectKey;

/// What a sync did, of this table or of another backend's.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Report {
    /// The kernel was read, because there was no record.
    pub read_back: bool,
    /// The table was made, or replaced, and why.
    pub rebuilt: Option<&'static str>,
    /// Additions and removals committed; chains that are tidied away are none.
    pub operations: usize,
    /// Transactions committed.
    pub transactions: usize,
    /// Bytes sent to nftables.
    pub bytes: usize,
    /// All Services that are left out because the kernel refuses them, and its reason.
    pub rejected: Vec<(ObjectKey, String)>,
    /// Services that are served otherwise than they ask, and how.
    pub degraded: Vec<(ObjectKey, String)>,
    /// Time spent reading the kernel.
    pub read: Duration,
    /// Time spent on lowering and comparing.
    pub diff: Duration,
    /// Time spent writing.
    pub commit: Duration,
}
