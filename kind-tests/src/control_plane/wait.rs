//! Waiting for a state, never for an event.

use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};

const PAUSE: Duration = Duration::from_millis(20);

/// Asks until there is an answer. The last obstacle is part of the error when time is over.
pub fn wait_for<T>(
    what: &str,
    patience: Duration,
    mut ask: impl FnMut() -> Result<Result<T, String>>,
) -> Result<T> {
    let deadline = Instant::now() + patience;
    loop {
        let obstacle = match ask().with_context(|| format!("waiting for {what}"))? {
            Ok(answer) => return Ok(answer),
            Err(obstacle) => obstacle,
        };
        if Instant::now() >= deadline {
            bail!("waited {patience:?} for {what}: {obstacle}");
        }
        thread::sleep(PAUSE);
    }
}
