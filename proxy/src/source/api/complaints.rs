//! Patience and reticence: when to try again, and when to say so.

use std::error::Error;
use std::hash::{BuildHasher, RandomState};
use std::time::Duration;

use kube::core::Status;
use kube::runtime::watcher;
use tokio::time::Instant;

const SHORTEST: Duration = Duration::from_millis(100);
const LONGEST: Duration = Duration::from_secs(5);
/// How often a failure that lasts is logged.
const INTERVAL: Duration = Duration::from_secs(60);

/// Delays that double up to a limit, each somewhere between half and all of it so that nodes do
/// not come back in step.
#[derive(Debug)]
pub(super) struct Backoff {
    current: Duration,
}

impl Default for Backoff {
    fn default() -> Self {
        Self { current: SHORTEST }
    }
}

impl Backoff {
    pub(super) fn next(&mut self) -> Duration {
        let delay = self.current;
        self.current = (delay * 2).min(LONGEST);
        // The standard library's only source of randomness, and good enough.
        let random = RandomState::new().hash_one(0_u8) % 1024;
        let random = u32::try_from(random).unwrap_or_default();
        delay / 2 + delay / 2 * random / 1024
    }

    pub(super) fn reset(&mut self) {
        *self = Self::default();
    }
}

/// A run of failures that is over.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Outage {
    pub(super) failures: u32,
}

/// Decides which failures are logged: the first, then one a minute.
#[derive(Debug, Default)]
pub(super) struct Complaints {
    failures: u32,
    last: Option<Instant>,
    /// Whether one of the failures has been logged.
    told: bool,
}

impl Complaints {
    /// Counts a failure. The number of failures so far if it is time to log it.
    pub(super) fn due(&mut self, now: Instant) -> Option<u32> {
        self.failures = self.failures.saturating_add(1);
        if self.last.is_some_and(|last| now < last + INTERVAL) {
            return None;
        }
        self.last = Some(now);
        self.told = true;
        Some(self.failures)
    }

    /// Notes that it works. The outage, if this ends one that has been logged.
    pub(super) fn recovered(&mut self) -> Option<Outage> {
        let failures = std::mem::take(&mut self.failures);
        // `last` stays: what fails and recovers all the time is logged once a minute, too.
        std::mem::take(&mut self.told).then_some(Outage { failures })
    }
}

/// What a watcher's error says, in one line.
pub(super) fn reason(error: &watcher::Error) -> String {
    match error {
        watcher::Error::InitialListFailed(error) => format!("cannot list: {}", cause(error)),
        watcher::Error::WatchStartFailed(error) => format!("cannot watch: {}", cause(error)),
        watcher::Error::WatchFailed(error) => format!("the watch broke off: {}", cause(error)),
        watcher::Error::WatchError(status) => format!("the watch was ended: {}", told(status)),
        watcher::Error::NoResourceVersion => error.to_string(),
    }
}

/// An error of kube. Its own text for what the server says is the whole object.
fn cause(error: &kube::Error) -> String {
    match error {
        kube::Error::Api(status) => told(status),
        other => chain(other),
    }
}

fn told(status: &Status) -> String {
    format!("{} ({} {})", status.message, status.code, status.reason)
}

/// An error with those behind it that its own text does not repeat.
fn chain(error: &dyn Error) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(error) = source {
        let more = error.to_string();
        if !text.contains(&more) {
            text.push_str(": ");
            text.push_str(&more);
        }
        source = error.source();
    }
    text
}
