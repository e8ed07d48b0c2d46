//! What was planned beside what the kernel holds.

use super::table::{Difference, Held};
use super::{FrontendRow, in_kernel};
use crate::failure::Failure;

/// What the kernel holds, or why that is not known.
#[derive(Clone, Debug)]
pub(crate) struct Kernel(pub(super) Result<Held, String>);

impl Kernel {
    /// Reads it.
    pub(crate) fn read() -> Self {
        let read = in_kernel::read().map_err(|error| Failure::machine(error).to_string());
        Self(read.map(Held::from))
    }

    /// Whether it does with a frontend what was planned; what it has counted is taken over.
    pub(crate) fn beside(&self, row: &mut FrontendRow) -> String {
        let held = match &self.0 {
            Ok(held) => held,
            Err(error) => return format!("cannot be read: {error}"),
        };
        held.count(row);
        match held.difference(row) {
            None => "holds it".to_owned(),
            Some(Difference::Missing) => "does not hold it".to_owned(),
            Some(Difference::Other(other)) => {
                format!("holds something else: {} {}", other.action, other.endpoints.join(", "))
            }
        }
    }
}
