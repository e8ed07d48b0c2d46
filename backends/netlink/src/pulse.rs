//! A sign of life of a thread that writes to the kernel.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

/// Counts the portions that the kernel has committed. Clones count together: the writer keeps one,
/// whoever watches it another.
#[derive(Clone, Debug, Default)]
pub struct Pulse(Arc<AtomicU64>);

impl Pulse {
    /// A portion is committed.
    pub fn beat(&self) {
        // It orders nothing else: what was committed is told in other ways.
        self.0.fetch_add(1, Ordering::Relaxed);
    }

    /// How many portions were committed since the start.
    #[must_use]
    pub fn beats(&self) -> u64 {
        self.0.load(Ordering::Relaxed)
    }
}
