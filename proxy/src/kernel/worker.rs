//! What the kernel thread does when: orders, retries, repairs, verification.
//!
//! Time is an argument, and waiting is left to the caller, so that tests need neither.

use std::error::Error;
use std::hash::{BuildHasher, Hasher};
use std::os::fd::BorrowedFd;
use std::time::{Duration, Instant};

use tracing::debug;

use super::{Failed, Flows, KernelEvent, Order, Reason, Synced};
use crate::backend::{Backend, BackendError, Delta as _};

const FIRST_RETRY: Duration = Duration::from_millis(100);
const LAST_RETRY: Duration = Duration::from_secs(10);
/// A repair reads everything back. While someone else keeps writing, this is the pace.
const BETWEEN_REPAIRS: Duration = Duration::from_secs(1);

/// What the operator has set for the kernel thread.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Policy {
    /// How often all that is installed is compared with the plan; `None`: never.
    pub verify_every: Option<Duration>,
}

impl Policy {
    /// All is compared that often; zero: never.
    #[must_use]
    pub fn verified(every: Duration) -> Self {
        Self { verify_every: Some(every).filter(|every| !every.is_zero()) }
    }
}

/// What has been ordered and is not installed yet. It outlives failed syncs.
struct Waiting {
    number: u64,
    since: Instant,
    /// How many Services failed syncs were given.
    tried: usize,
}

/// Syncs fail at present.
struct Failing {
    attempts: u32,
    retry_at: Instant,
}

/// The state of the kernel thread.
pub(super) struct Worker<B: Backend> {
    backend: B,
    flows: Option<Flows<B::Delta>>,
    policy: Policy,
    /// The merged orders that the backend has not been given yet. It keeps what it is given,
    /// also when a sync fails.
    delta: B::Delta,
    /// What the backend was given since the last sync that succeeded, for `flows`.
    given: B::Delta,
    waiting: Option<Waiting>,
    /// The newest order that is installed; 0 before the first.
    installed: u64,
    failing: Option<Failing>,
    /// Another writer has committed something since the last full read.
    foreign: bool,
    repair_from: Instant,
    verify_at: Option<Instant>,
}

impl<B: Backend> Worker<B> {
    pub(super) fn new(
        backend: B,
        flows: Option<Flows<B::Delta>>,
        policy: Policy,
        now: Instant,
    ) -> Self {
        Self {
            backend,
            flows,
            policy,
            delta: B::Delta::default(),
            given: B::Delta::default(),
            waiting: None,
            installed: 0,
            failing: None,
            foreign: false,
            repair_from: now,
            verify_at: None,
        }
    }

    /// Takes an order in, on top of those that wait.
    pub(super) fn take(&mut self, order: Order<B::Delta>) {
        self.delta.merge(order.delta);
        match &mut self.waiting {
            Some(waiting) => {
                waiting.number = order.number;
                waiting.since = waiting.since.min(order.since);
            }
            None => {
                self.waiting = Some(Waiting { number: order.number, since: order.since, tried: 0 });
            }
        }
    }

    /// When there is something to do although nothing has come.
    pub(super) fn deadline(&self, now: Instant) -> Option<Instant> {
        if let Some(failing) = &self.failing {
            return Some(failing.retry_at);
        }
        if self.waiting.is_some() {
            return Some(now);
        }
        let repair_at = self.foreign.then_some(self.repair_from);
        self.verify_at.into_iter().chain(repair_at).chain(self.backend.tend_at()).min()
    }

    /// The descriptors that tell of foreign changes; none while one is known that cannot be
    /// repaired yet: more of them would only keep us awake.
    pub(super) fn watched(&self, now: Instant) -> Vec<BorrowedFd<'_>> {
        let held_back = self.foreign && (now < self.repair_from || self.failing.is_some());
        if held_back { Vec::new() } else { self.backend.events() }
    }

    /// Asks the backend whether someone else has written; reports it once until it is repaired.
    pub(super) fn look_for_foreign_changes(&mut self, now: Instant) -> Option<KernelEvent> {
        if self.watched(now).is_empty() {
            return None;
        }
        let changed = self.backend.foreign_change().unwrap_or_else(|error| {
            // Lost notifications come as an error. What was missed is found by reading back.
            debug!(error = %chain(&error), "the notifications of foreign changes were interrupted");
            true
        });
        // Before the first order nothing is ours to repair: the first sync reads everything.
        if !changed || self.foreign || self.is_idle() {
            return None;
        }
        self.foreign = true;
        Some(KernelEvent::ForeignChange { writer: self.backend.last_writer() })
    }

    /// Lets the backend do what is due without an order.
    pub(super) fn tend(&mut self, now: Instant) {
        if self.failing.is_some() || self.backend.tend_at().is_none_or(|at| at > now) {
            return;
        }
        match self.backend.tend(now) {
            Ok(0) => {}
            Ok(operations) => debug!(operations, "what is needed no more is removed"),
            Err(error) => {
                debug!(error = %chain(&error), "what is needed no more cannot be removed");
                self.foreign = true;
            }
        }
    }

    /// Does what is due.
    pub(super) fn work(&mut self, now: Instant) -> Option<KernelEvent> {
        let reason = self.due(now)?;
        if matches!(reason, Reason::Repair | Reason::Verify) {
            self.backend.forget();
        }
        if matches!(reason, Reason::Repair | Reason::Verify | Reason::Retry) {
            // This sync reads everything, so it is a repair too, whatever calls for it.
            self.repair_from = now + BETWEEN_REPAIRS;
            self.foreign = false;
        }
        let given = self.delta.objects();
        let delta = std::mem::take(&mut self.delta);
        if self.flows.is_some() {
            self.given.merge(delta.clone());
        }
        let began = Instant::now();
        let result = self.backend.sync(delta);
        let ended = now + began.elapsed();
        Some(match result {
            Ok(report) => {
                // Every full read says what a verification would.
                if report.read_back || self.verify_at.is_none() {
                    self.verify_at = self.policy.verify_every.map(|every| ended + every);
                }
                self.failing = None;
                if let Some(flows) = &self.flows {
                    flows.installed(std::mem::take(&mut self.given));
                }
                let waiting = self.waiting.take();
                self.installed = waiting.as_ref().map_or(self.installed, |done| done.number);
                KernelEvent::Synced(Box::new(Synced {
                    reason,
                    order: self.installed,
                    services: given + waiting.as_ref().map_or(0, |done| done.tried),
                    began: now,
                    latency: waiting.map(|done| ended.saturating_duration_since(done.since)),
                    report,
                }))
            }
            Err(error) => {
                if let Some(waiting) = &mut self.waiting {
                    waiting.tried += given;
                }
                KernelEvent::Failed(self.fail(reason, &error, ended))
            }
        })
    }

    /// Why a sync must be done now, if one must.
    fn due(&self, now: Instant) -> Option<Reason> {
        if let Some(failing) = &self.failing {
            return (failing.retry_at <= now).then_some(Reason::Retry);
        }
        if self.is_idle() {
            return None;
        }
        if self.foreign && self.repair_from <= now {
            return Some(Reason::Repair);
        }
        if self.waiting.is_some() {
            return Some(if self.installed == 0 { Reason::First } else { Reason::Change });
        }
        self.verify_at.is_some_and(|at| at <= now).then_some(Reason::Verify)
    }

    /// Whether nothing has been ordered yet.
    fn is_idle(&self) -> bool {
        self.installed == 0 && self.waiting.is_none()
    }

    fn fail(&mut self, reason: Reason, error: &BackendError, ended: Instant) -> Failed {
        let attempts = self.failing.as_ref().map_or(0, |failing| failing.attempts) + 1;
        let retry_in = back_off(attempts, noise());
        self.failing = Some(Failing { attempts, retry_at: ended + retry_in });
        Failed { reason, attempts, error: chain(error), retry_in }
    }
}

/// How long to wait after so many failures in a row: doubled each time, and up to a quarter more
/// or less, so that the nodes of a cluster do not act in step.
fn back_off(attempts: u32, noise: u8) -> Duration {
    let doubled = FIRST_RETRY.saturating_mul(1 << attempts.saturating_sub(1).min(16));
    let percent = 75 + u32::from(noise) * 50 / 255;
    doubled.min(LAST_RETRY) * percent / 100
}

/// Randomness enough to keep nodes out of step: the standard library's own seed for hash tables.
fn noise() -> u8 {
    let hash = std::hash::RandomState::new().build_hasher().finish();
    hash.to_le_bytes()[0]
}

/// An error and what caused it, in one line.
fn chain(error: &BackendError) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(error) = cause {
        let inner = error.to_string();
        // Some errors already say what their source says.
        if !text.ends_with(&inner) {
            text = format!("{text}: {inner}");
        }
        cause = Error::source(error);
    }
    text
}

#[cfg(test)]
mod tests;
