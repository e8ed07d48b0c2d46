//! What must hold.

use anyhow::anyhow;

use crate::failure::Failure;

/// Ends the demo when something is not as it should be.
pub(super) fn expect(holds: bool, what: impl FnOnce() -> String) -> Result<(), Failure> {
    if holds {
        return Ok(());
    }
    Err(anyhow!("not as it should be: {}", what()).into())
}
