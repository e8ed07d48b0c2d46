//! The part of the event loop that is about Services.

use std::collections::BTreeSet;
use std::time::{Duration, Instant};

use jiff::Timestamp;
use shunt_model::object::ObjectKey;
use shunt_model::plan::PlanDelta;
use shunt_model::problem::Kind;
use shunt_model::snapshot::Change;
use tracing::{debug, error, info, warn};

use super::{EventLoop, texts};
use crate::heap;
use crate::kernel::{Failed, KernelEvent, Order, Reason, Synced};
use crate::ledger::Origin;

/// How often, at most, a fight over what is ours is warned of.
const REPAIRS_TOLD: Duration = Duration::from_secs(60);

impl EventLoop {
    /// The order for the kernel thread that all events so far amount to, if there is one.
    pub fn next_order(&mut self, now: Instant) -> Option<Order> {
        let order = self.planner.order(now)?;
        let first = order.number == 1;
        self.compiled(&order.delta);
        self.in_step.ordered(order.number, &order.delta);
        self.progress.ordered(order.number, now);
        let totals = self.planner.totals();
        self.metrics.ordered(order.number, totals);
        self.publish_health();
        if first {
            info!(
                services = totals.services,
                endpoints = totals.endpoints,
                "the first lists are complete"
            );
            let missing = self.planner.missing();
            if !missing.is_empty() {
                warn!("going on without {}: NodePorts may be incomplete", missing.join(" and "));
            }
        }
        Some(order)
    }

    /// Takes in a change of what Services are made of.
    pub(super) fn change(&mut self, change: Change, now: Instant) {
        match &change {
            Change::Applied { object, .. } => self.metrics.changed(object.kind()),
            Change::Deleted { kind, .. } => self.metrics.changed(*kind),
            _ => {}
        }
        let listed = match &change {
            Change::Applied { object, problems } => {
                self.found(Origin::Object(object.kind(), object.key()), texts(problems));
                None
            }
            Change::Rejected { kind, key, problems } => {
                self.found(Origin::Object(*kind, key.clone()), texts(problems));
                None
            }
            Change::Deleted { kind, key } => {
                self.found(Origin::Object(*kind, key.clone()), BTreeSet::new());
                None
            }
            Change::ListDone(kind) => Some(*kind),
            Change::ListStarted(_) | Change::LocalAddresses(_) | Change::BlindLinks(_) => None,
        };
        if let (Change::LocalAddresses(addresses), Some(policy)) = (&change, &mut self.policy) {
            policy.take_addresses(addresses, now);
        }
        let of_node = is_of_node(&change);
        self.planner.take(change, now);
        if let Some(kind) = listed {
            self.forget_unlisted(kind);
        }
        if of_node {
            self.publish_health();
        }
    }

    /// After a list: objects that it did not name have no problems any more.
    fn forget_unlisted(&mut self, kind: Kind) {
        let held = self.planner.snapshot().problems();
        let held: BTreeSet<ObjectKey> = held
            .filter(|problem| problem.kind == kind)
            .map(|problem| problem.object.clone())
            .collect();
        for key in self.ledger.objects(kind) {
            if !held.contains(&key) {
                self.found(Origin::Object(kind, key), BTreeSet::new());
            }
        }
    }

    /// Notes what compiling has found wrong.
    fn compiled(&mut self, delta: &PlanDelta) {
        for (key, service) in &delta.services {
            let found = service.as_ref().map(|service| texts(&service.problems));
            self.found(Origin::Plan(key.clone()), found.unwrap_or_default());
        }
    }

    /// Takes in what the kernel thread reports.
    pub(super) fn kernel(&mut self, event: KernelEvent, now: Instant) {
        match event {
            KernelEvent::Synced(synced) => self.synced(&synced, now),
            KernelEvent::Failed(failed) => self.failed(failed, now),
            KernelEvent::ForeignChange { writer } => {
                self.metrics.foreign_change();
                self.writer = writer;
            }
            KernelEvent::Swept(swept) => {
                self.metrics.swept(&swept);
                self.progress.swept(swept.ended);
            }
        }
    }

    fn synced(&mut self, synced: &Synced, now: Instant) {
        if let Some(failed) = self.progress.failure() {
            info!(attempts = failed.attempts, "syncing works again");
        }
        self.metrics.synced(synced);
        let rejected = synced.report.rejected.iter().map(|(key, _)| key);
        self.in_step.installed(synced.order, rejected);
        if self.progress.first().is_none() {
            heap::give_back();
        }
        self.progress.synced(synced, now, Timestamp::now());
        self.publish_health();
        let rejected = synced.report.rejected.iter().map(|(key, reason)| {
            format!("Service {key}: the kernel rejects it, so it is not served: {reason}")
        });
        let degraded = synced.report.degraded.iter();
        let degraded = degraded.map(|(key, how)| format!("Service {key}: {how}"));
        self.found(Origin::Kernel, rejected.chain(degraded).collect());
        self.tell_of_repair(synced, now);
        log_sync(synced);
    }

    /// Warns when something had to be put right that we have not broken.
    fn tell_of_repair(&mut self, synced: &Synced, now: Instant) {
        if synced.report.operations == 0 && synced.report.rebuilt.is_none() {
            return;
        }
        match synced.reason {
            Reason::Repair => {
                let told = self.repair_told.map(|told| now.saturating_duration_since(told));
                if told.is_none_or(|told| told >= REPAIRS_TOLD) {
                    self.repair_told = Some(now);
                    let writer = self.writer.as_deref().unwrap_or("unknown");
                    warn!(writer, "another process has changed what is ours; it is put right");
                }
            }
            Reason::Verify => warn!("the kernel did not hold what it should; it is put right"),
            Reason::First | Reason::Change | Reason::Retry => {}
        }
    }

    fn failed(&mut self, failed: Failed, now: Instant) {
        self.metrics.failed();
        let (attempts, retry_in) = (failed.attempts, failed.retry_in);
        let reason = failed.reason.word();
        let text = failed.error.clone();
        if self.progress.failed(failed, now) {
            error!(reason, ?retry_in, "sync failed: {text}");
        } else {
            debug!(reason, attempts, ?retry_in, "sync failed again: {text}");
        }
        self.publish_health();
    }
}

/// One line for each sync that did something.
fn log_sync(synced: &Synced) {
    let report = &synced.report;
    if report.operations == 0 && report.rebuilt.is_none() && synced.reason != Reason::First {
        debug!(reason = synced.reason.word(), read_back = report.read_back, "nothing to write");
        return;
    }
    let milliseconds = |duration: Duration| duration.as_secs_f64() * 1e3;
    info!(
        reason = synced.reason.word(),
        rebuilt = report.rebuilt,
        services = synced.services,
        operations = report.operations,
        transactions = report.transactions,
        read_ms = format_args!("{:.3}", milliseconds(report.read)),
        diff_ms = format_args!("{:.3}", milliseconds(report.diff)),
        commit_ms = format_args!("{:.3}", milliseconds(report.commit)),
        latency_ms = synced.latency.map(|latency| format!("{:.3}", milliseconds(latency))),
        "synced"
    );
}

/// Whether a change may be one of our Node.
const fn is_of_node(change: &Change) -> bool {
    match change {
        Change::Applied { object, .. } => matches!(object.kind(), Kind::Node),
        Change::ListDone(kind) | Change::Rejected { kind, .. } | Change::Deleted { kind, .. } => {
            matches!(kind, Kind::Node)
        }
        Change::ListStarted(_) | Change::LocalAddresses(_) | Change::BlindLinks(_) => false,
    }
}
