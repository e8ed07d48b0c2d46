//! What is counted and measured, under kube-proxy's names where they mean the same.

mod kube_proxy;
mod policy;
mod process;
mod requests;
pub mod services;
mod slis;

use std::time::{Duration, SystemTime};

use prometheus_client::encoding::text;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::metrics::histogram::{Histogram, exponential_buckets};
use prometheus_client::registry::{Registry, Unit};
use shunt_model::problem::Kind;

use self::kube_proxy::KubeProxy;
use self::process::Process;
pub use self::process::resident_bytes;
pub use self::requests::Requests;
pub use self::slis::Check;
use self::slis::Slis;
use crate::kernel::{Reason, Swept, Synced};
use crate::ledger::{Ledger, Origin};
use crate::planner::Totals;

/// One label and its value.
type Label = [(&'static str, &'static str); 1];

/// The metrics. Copies count into the same registry.
#[derive(Clone, Debug, Default)]
pub struct Metrics {
    events: Family<Label, Counter>,
    syncs: Family<Label, Counter>,
    operations: Counter,
    transactions: Counter,
    failures: Counter,
    repairs: Counter,
    drifts: Counter,
    foreign_changes: Counter,
    problems: Family<Label, Gauge>,
    services: Gauge,
    frontends: Gauge,
    endpoints: Gauge,
    latency: Seconds<50>,
    kube_proxy: KubeProxy,
    of_policy: policy::OfPolicy,
    requests: Requests,
    slis: Slis,
}

/// A histogram whose 15 buckets begin at so many microseconds and double: from 50 us to 0.8 s.
#[derive(Clone, Debug)]
struct Seconds<const FROM: u32>(Histogram);

impl<const FROM: u32> Default for Seconds<FROM> {
    fn default() -> Self {
        Self(Histogram::new(exponential_buckets(f64::from(FROM) / 1e6, 2.0, 15)))
    }
}

impl Metrics {
    /// The metrics, and the registry that prints them.
    #[must_use]
    pub fn new() -> (Self, Registry) {
        let metrics = Self::default();
        let mut registry = Registry::default();
        // They exist from the start: a rate of what is not there is no zero.
        for reason in Reason::ALL {
            drop(metrics.syncs.get_or_create(&[("reason", reason.word())]));
        }
        metrics.problems(&Ledger::default());
        metrics.register_own(&mut registry);
        metrics.kube_proxy.register(&mut registry);
        metrics.requests.register(&mut registry);
        registry.register_collector(Box::new(Process));
        (metrics, registry)
    }

    fn register_own(&self, registry: &mut Registry) {
        let own = registry.sub_registry_with_prefix("shunt");
        own.register("events", "Events that the loop has handled", self.events.clone());
        own.register("syncs", "Syncs that succeeded, by reason", self.syncs.clone());
        let help = "Additions and removals written to the kernel";
        own.register("sync_operations", help, self.operations.clone());
        own.register("sync_transactions", "Transactions committed", self.transactions.clone());
        own.register("sync_failures", "Syncs that failed", self.failures.clone());
        let help = "Changes by other writers that were put right";
        own.register("repairs", help, self.repairs.clone());
        let help = "Periodic verifications that found a difference";
        own.register("drifts", help, self.drifts.clone());
        let help = "Changes by other writers that were noticed";
        own.register("foreign_changes", help, self.foreign_changes.clone());
        own.register("problems", "Problems at present, by kind", self.problems.clone());
        own.register("services", "Services in the plan", self.services.clone());
        own.register("frontends", "Frontends in the plan", self.frontends.clone());
        own.register("endpoints", "Endpoints in the plan", self.endpoints.clone());
        self.of_policy.register(own);
        let help = "From the receipt of an event to the end of its last transaction";
        own.register_with_unit("event_to_commit", help, Unit::Seconds, self.latency.0.clone());
    }

    /// What counts requests to the API server.
    #[must_use]
    pub fn requests(&self) -> Requests {
        self.requests.clone()
    }

    /// The loop has handled an event.
    pub fn event(&self, kind: &'static str) {
        self.events.get_or_create(&[("kind", kind)]).inc();
    }

    /// An order was given.
    pub fn ordered(&self, number: u64, totals: Totals) {
        self.kube_proxy.ordered(number, totals);
        let count = |number: usize| i64::try_from(number).unwrap_or(i64::MAX);
        self.services.set(count(totals.services));
        self.frontends.set(count(totals.frontends));
        self.endpoints.set(count(totals.endpoints));
    }

    /// A sync has succeeded.
    pub fn synced(&self, synced: &Synced) {
        let report = &synced.report;
        self.kube_proxy.synced(synced);
        self.syncs.get_or_create(&[("reason", synced.reason.word())]).inc();
        self.operations.inc_by(report.operations as u64);
        self.transactions.inc_by(report.transactions as u64);
        if let (Some(latency), true) = (synced.latency, synced.reason != Reason::First) {
            self.latency.0.observe(latency.as_secs_f64());
        }
        if report.operations == 0 {
            return;
        }
        match synced.reason {
            Reason::Repair => self.repairs.inc(),
            Reason::Verify => self.drifts.inc(),
            Reason::First | Reason::Change | Reason::Retry => 0,
        };
    }

    /// A sync has failed.
    pub fn failed(&self) {
        self.failures.inc();
        self.kube_proxy.failed();
    }

    /// An object has changed.
    pub fn changed(&self, kind: Kind) {
        self.kube_proxy.changed(kind);
    }

    /// Endpoints were changed at this time, says the API; the next order has them.
    pub fn triggered(&self, next_order: u64, at: jiff::Timestamp) {
        self.kube_proxy.triggered(next_order, at);
    }

    /// Someone else has written to what is ours.
    pub fn foreign_change(&self) {
        self.foreign_changes.inc();
    }

    /// The table of connections was walked.
    pub fn swept(&self, swept: &Swept) {
        self.kube_proxy.swept(swept);
    }

    /// The problems may have changed.
    pub fn problems(&self, ledger: &Ledger) {
        for kind in Origin::KINDS {
            let count = i64::try_from(ledger.count(kind)).unwrap_or(i64::MAX);
            self.problems.get_or_create(&[("kind", kind)]).set(count);
        }
    }

    /// `/healthz` or `/livez` was answered.
    pub fn health_answered(&self, check: Check, probe: Probe, healthy: bool) {
        self.kube_proxy.answered(probe, healthy);
        self.slis.answered(check, probe, healthy);
    }

    /// What health checks have answered, as OpenMetrics text.
    #[must_use]
    pub fn print_slis(&self) -> String {
        print(&self.slis.registry())
    }
}

/// Which health question was asked.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Probe {
    /// `/healthz`: whether load balancers may send traffic here.
    Healthz,
    /// `/livez`: whether we work.
    Livez,
}

/// The registry as OpenMetrics text.
#[must_use]
pub fn print(registry: &Registry) -> String {
    let mut out = String::new();
    // Writing to a string cannot fail.
    let _ = text::encode(&mut out, registry);
    out
}

fn unix_seconds() -> f64 {
    let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH);
    now.unwrap_or(Duration::ZERO).as_secs_f64()
}
