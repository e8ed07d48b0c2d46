//! How far the kernel is: what was ordered, what is installed, and how long it took.

use std::collections::VecDeque;
use std::time::{Duration, Instant};

use jiff::Timestamp;

use crate::kernel::{Failed, Reason, Synced};
use crate::status::{Counters, FirstSync, LastSync, Latency};

/// How many of the newest latencies are kept for percentiles.
const LATENCIES: usize = 1024;
/// How long an order may wait, or syncs may fail, until we call ourselves unhealthy: twice
/// kube-proxy's `syncPeriod`, as there.
pub const PATIENCE: Duration = Duration::from_secs(60);

/// How a kernel thread gets on.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Pace {
    /// Since when something that should be installed is not.
    pub waiting_since: Option<Instant>,
    /// When the kernel was last seen to commit a portion, while it did not refuse others.
    pub committed: Option<Instant>,
}

impl Pace {
    /// Nothing has been waiting.
    pub const IDLE: Self = Self { waiting_since: None, committed: None };

    /// Since when there has been no progress, if something waits.
    fn stuck_since(&self) -> Option<Instant> {
        self.waiting_since.map(|since| self.committed.unwrap_or(since).max(since))
    }
}

/// What the health answers are made of.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Health {
    /// Whether the first sync is done.
    pub synced: bool,
    /// How Services get into the kernel.
    pub services: Pace,
    /// How network policy does.
    pub policy: Pace,
    /// When the kernel was last known to be as ordered.
    pub updated: Option<Timestamp>,
    /// How long that, or the event loop's silence, may last.
    pub patience: Duration,
    /// When the event loop was last seen to turn, which it does several times in that while.
    pub turned: Option<Instant>,
    /// Whether the Node may get traffic from load balancers: it is known and not about to go.
    pub node_eligible: bool,
}

impl Health {
    /// Before the first sync.
    pub const STARTING: Self = Self {
        synced: false,
        services: Pace::IDLE,
        policy: Pace::IDLE,
        updated: None,
        patience: PATIENCE,
        turned: None,
        node_eligible: true,
    };

    /// Whether clients can rely on us.
    #[must_use]
    pub fn is_healthy(&self, now: Instant) -> bool {
        self.synced && self.is_alive(now)
    }

    /// Whether we get on with what there is to do. A long programming does: the kernel commits a
    /// portion after the other. To wait for an API server is to be alive: a restart would not
    /// bring it back.
    #[must_use]
    pub fn is_alive(&self, now: Instant) -> bool {
        [self.services.stuck_since(), self.policy.stuck_since(), self.turned]
            .into_iter()
            .flatten()
            .all(|since| now.saturating_duration_since(since) <= self.patience)
    }
}

/// What one kernel thread was ordered, and how far it is.
#[derive(Clone, Copy, Debug, Default)]
pub struct Track {
    ordered: u64,
    /// The sync before has failed.
    failing: bool,
    /// How many portions the kernel had committed when the loop turned last.
    beats: u64,
    pace: Pace,
}

impl Track {
    /// An order was given.
    pub fn ordered(&mut self, number: u64, now: Instant) {
        self.ordered = number;
        self.pace.waiting_since.get_or_insert(now);
    }

    /// A sync has succeeded.
    pub fn synced(&mut self, synced: &Synced) {
        self.failing = false;
        // What this sync did not take was ordered after it began.
        self.pace.waiting_since = (synced.order < self.ordered).then_some(synced.began);
    }

    /// A sync has failed.
    pub fn failed(&mut self, now: Instant) {
        self.failing = true;
        self.pace.waiting_since.get_or_insert(now);
    }

    /// The event loop turns, and the kernel has committed so many portions by now. What it
    /// commits between refusals is no progress.
    pub const fn turned(&mut self, beats: u64, now: Instant) {
        if self.beats != beats && !self.failing {
            self.pace.committed = Some(now);
        }
        self.beats = beats;
    }
}

/// What orders have become of.
#[derive(Clone, Debug)]
pub struct Progress {
    started: Instant,
    services: Track,
    /// The kernel thread of network policy.
    policy: Track,
    listed: Option<Duration>,
    health: Health,
    first: Option<FirstSync>,
    last: Option<LastSync>,
    failure: Option<Failed>,
    latencies: Latencies,
    counters: Counters,
}

impl Progress {
    /// Nothing was ordered yet. Times are counted from the start of the program.
    #[must_use]
    pub fn new(started: Instant, patience: Duration) -> Self {
        Self {
            started,
            services: Track::default(),
            policy: Track::default(),
            listed: None,
            health: Health { patience, ..Health::STARTING },
            first: None,
            last: None,
            failure: None,
            latencies: Latencies::default(),
            counters: Counters::default(),
        }
    }

    /// An order was given.
    pub fn ordered(&mut self, number: u64, now: Instant) {
        self.listed.get_or_insert(now.saturating_duration_since(self.started));
        self.services.ordered(number, now);
    }

    /// The kernel thread of network policy.
    pub const fn policy(&mut self) -> &mut Track {
        &mut self.policy
    }

    /// A sync has succeeded.
    pub fn synced(&mut self, synced: &Synced, now: Instant, time: Timestamp) {
        self.failure = None;
        self.health.synced = true;
        self.health.updated = Some(time);
        self.services.synced(synced);
        self.count(synced);
        // The first one counts from the first list, and says nothing about changes.
        if let (Some(_), Some(latency)) = (&self.first, synced.latency) {
            self.latencies.add(latency);
        }
        let report = &synced.report;
        if synced.latency.is_some() || report.operations > 0 {
            self.last = Some(LastSync {
                at: time.to_string(),
                reason: synced.reason.word().into(),
                services: synced.services,
                operations: report.operations,
                transactions: report.transactions,
                read_ms: milliseconds(report.read),
                diff_ms: milliseconds(report.diff),
                commit_ms: milliseconds(report.commit),
            });
        }
        self.first.get_or_insert_with(|| FirstSync {
            listed_ms: milliseconds(self.listed.unwrap_or_default()),
            read_ms: milliseconds(report.read),
            diff_ms: milliseconds(report.diff),
            commit_ms: milliseconds(report.commit),
            synced_ms: milliseconds(now.saturating_duration_since(self.started)),
        });
    }

    /// Connections were ended.
    pub const fn swept(&mut self, ended: usize) {
        self.counters.flows_ended += ended as u64;
    }

    /// A sync has failed. Returns whether this is another failure than the one before.
    pub fn failed(&mut self, failed: Failed, now: Instant) -> bool {
        self.counters.failures += 1;
        self.services.failed(now);
        let before = self.failure.as_ref().map(|former| former.error.as_str());
        let new = before != Some(failed.error.as_str());
        self.failure = Some(failed);
        new
    }

    /// Whether the sync before has failed.
    #[must_use]
    pub const fn failure(&self) -> Option<&Failed> {
        self.failure.as_ref()
    }

    /// The event loop turns, and the kernel has committed so many portions of Services by now.
    pub const fn turned(&mut self, beats: u64, now: Instant) {
        self.health.turned = Some(now);
        self.services.turned(beats, now);
    }

    /// Whether the Node may get traffic from load balancers.
    pub const fn node_is_eligible(&mut self, eligible: bool) {
        self.health.node_eligible = eligible;
    }

    /// What the health answers are made of.
    #[must_use]
    pub const fn health(&self) -> Health {
        Health { services: self.services.pace, policy: self.policy.pace, ..self.health }
    }

    /// The first sync, when it is done.
    #[must_use]
    pub const fn first(&self) -> Option<&FirstSync> {
        self.first.as_ref()
    }

    /// The newest sync that did something.
    #[must_use]
    pub const fn last(&self) -> Option<&LastSync> {
        self.last.as_ref()
    }

    /// The percentiles of the newest latencies.
    #[must_use]
    pub fn latency(&self) -> Latency {
        self.latencies.percentiles()
    }

    /// What was counted since the start.
    #[must_use]
    pub const fn counters(&self) -> &Counters {
        &self.counters
    }

    fn count(&mut self, synced: &Synced) {
        let counters = &mut self.counters;
        counters.syncs += 1;
        counters.operations += synced.report.operations as u64;
        counters.transactions += synced.report.transactions as u64;
        if synced.report.operations > 0 {
            match synced.reason {
                Reason::Repair => counters.repairs += 1,
                Reason::Verify => counters.drifts += 1,
                Reason::First | Reason::Change | Reason::Retry => {}
            }
        }
    }
}

/// The newest latencies, in microseconds.
#[derive(Clone, Debug, Default)]
struct Latencies {
    newest: VecDeque<u32>,
}

impl Latencies {
    fn add(&mut self, latency: Duration) {
        if self.newest.len() == LATENCIES {
            self.newest.pop_front();
        }
        self.newest.push_back(u32::try_from(latency.as_micros()).unwrap_or(u32::MAX));
    }

    fn percentiles(&self) -> Latency {
        let mut sorted: Vec<_> = self.newest.iter().copied().collect();
        sorted.sort_unstable();
        let at = |percent: usize| {
            // The nearest rank: the smallest value that so many percent do not exceed.
            let rank = (sorted.len() * percent).div_ceil(100).max(1);
            sorted.get(rank - 1).copied().unwrap_or_default()
        };
        Latency { count: sorted.len(), p50: at(50), p99: at(99), max: at(100) }
    }
}

/// A duration in milliseconds, to the microsecond.
fn milliseconds(duration: Duration) -> f64 {
    let microseconds = u32::try_from(duration.as_micros()).unwrap_or(u32::MAX);
    f64::from(microseconds) / 1000.0
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn percentiles_are_of_the_newest() {
        let mut latencies = Latencies::default();
        assert_eq!(latencies.percentiles(), Latency::default());
        for microseconds in 0..=1100 {
            latencies.add(Duration::from_micros(microseconds));
        }
        let expected = Latency { count: 1024, p50: 588, p99: 1090, max: 1100 };
        assert_eq!(latencies.percentiles(), expected);
    }

    #[test]
    fn waiting_for_a_minute_is_unhealthy() {
        let start = Instant::now();
        let mut progress = Progress::new(start, PATIENCE);
        assert!(!progress.health().is_healthy(start), "nothing is installed yet");
        progress.ordered(1, start);
        let synced = Synced {
            reason: Reason::First,
            order: 1,
            services: 0,
            began: start,
            latency: None,
            report: crate::backend::SyncReport::default(),
        };
        progress.synced(&synced, start, Timestamp::UNIX_EPOCH);
        let later = start + PATIENCE * 2;
        assert!(progress.health().is_healthy(later));
        progress.turned(0, later);
        progress.ordered(2, later);
        assert!(progress.health().is_healthy(later + PATIENCE));
        assert!(!progress.health().is_healthy(later + PATIENCE + Duration::from_millis(1)));
    }

    #[test]
    fn a_long_programming_is_healthy_while_portions_are_committed() {
        let start = Instant::now();
        let mut progress = Progress::new(start, PATIENCE);
        progress.ordered(1, start);
        for minute in 1..=5 {
            let now = start + PATIENCE * minute;
            progress.turned(minute.into(), now);
            assert!(progress.health().is_alive(now), "after {minute} minutes");
        }
        let stuck = start + PATIENCE * 5 + Duration::from_millis(1);
        progress.turned(5, stuck);
        assert!(progress.health().is_alive(stuck));
        progress.turned(5, stuck + PATIENCE);
        assert!(!progress.health().is_alive(stuck + PATIENCE), "nothing is committed any more");
    }

    #[test]
    fn what_is_committed_between_refusals_is_no_progress() {
        let start = Instant::now();
        let mut progress = Progress::new(start, PATIENCE);
        progress.ordered(1, start);
        let (error, retry_in) = ("busy".to_owned(), Duration::ZERO);
        progress.failed(Failed { reason: Reason::First, attempts: 1, error, retry_in }, start);
        let later = start + PATIENCE + Duration::from_millis(1);
        progress.turned(7, later);
        assert!(!progress.health().is_alive(later));
    }

    #[test]
    fn network_policy_that_is_refused_is_unhealthy_too() {
        let start = Instant::now();
        let mut progress = Progress::new(start, PATIENCE);
        progress.policy().ordered(1, start);
        progress.policy().failed(start);
        let later = start + PATIENCE + Duration::from_millis(1);
        progress.policy().turned(7, later);
        progress.turned(7, later);
        assert!(progress.health().is_alive(start + PATIENCE));
        assert!(!progress.health().is_alive(later));
        let synced = Synced {
            reason: Reason::Retry,
            order: 1,
            services: 0,
            began: later,
            latency: None,
            report: crate::backend::SyncReport::default(),
        };
        progress.policy().synced(&synced);
        assert!(progress.health().is_alive(later));
    }

    #[test]
    fn a_loop_that_stands_still_is_not_alive() {
        let start = Instant::now();
        let health = Health { synced: true, turned: Some(start), ..Health::STARTING };
        assert!(health.is_alive(start + PATIENCE));
        assert!(!health.is_alive(start + PATIENCE + Duration::from_millis(1)));
    }
}
