//! kube-proxy's metrics: its names, types, labels and buckets (release 1.36, `pkg/proxy/metrics`).
//!
//! Both families are written by one sync, so most values are the same for both, where kube-proxy
//! has a sync for each.

use std::collections::VecDeque;
use std::sync::atomic::AtomicU64;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use jiff::Timestamp;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::metrics::histogram::{Histogram, exponential_buckets};
use prometheus_client::registry::{Registry, Unit};
use shunt_model::problem::Kind;

use super::{Label, Probe, unix_seconds};
use crate::kernel::{Swept, Synced};
use crate::planner::Totals;

/// kube-proxy's names for the families.
const FAMILIES: [&str; 2] = ["IPv4", "IPv6"];
/// How many trigger times may wait for a sync; more are not observed.
const TRIGGERS: usize = 10_000;

type ByFamily<T> = Family<Label, T, fn() -> T>;
type Timestamps = Family<Label, Gauge<f64, AtomicU64>>;

/// kube-proxy's metrics.
#[derive(Clone, Debug)]
pub(super) struct KubeProxy {
    duration: ByFamily<Histogram>,
    full_duration: ByFamily<Histogram>,
    partial_duration: ByFamily<Histogram>,
    programming: ByFamily<Histogram>,
    last_sync: Timestamps,
    last_order: Timestamps,
    failures: Family<Label, Counter>,
    cleanup_failures: Family<Label, Counter>,
    no_local_endpoints: Family<[(&'static str, &'static str); 2], Gauge>,
    services: Changes,
    endpoints: Changes,
    triggers: Arc<Mutex<VecDeque<(u64, Timestamp)>>>,
    sweeps: ByFamily<Histogram>,
    swept: Family<Label, Counter>,
    healthz: Family<Label, Counter>,
    livez: Family<Label, Counter>,
}

/// Changes to objects of one kind.
#[derive(Clone, Debug, Default)]
struct Changes {
    total: Counter,
    pending: Gauge,
    /// How many there were when an order was given, of those that are not installed.
    at_order: Arc<Mutex<VecDeque<(u64, u64)>>>,
}

impl Changes {
    fn register(&self, registry: &mut Registry, kind: &str, what: &str) {
        let name = format!("sync_proxy_rules_{kind}_changes");
        registry.register(name, format!("Cumulative {what} changes"), self.total.clone());
        let name = format!("sync_proxy_rules_{kind}_changes_pending");
        registry.register(name, format!("Pending {what} changes"), self.pending.clone());
    }

    fn changed(&self) {
        self.total.inc();
        self.pending.inc();
    }

    fn ordered(&self, number: u64) {
        self.orders().push_back((number, self.total.get()));
    }

    fn installed(&self, number: u64) {
        let mut orders = self.orders();
        while let Some((order, total)) = orders.front().copied() {
            if order > number {
                break;
            }
            orders.pop_front();
            self.pending.set(i64::try_from(self.total.get() - total).unwrap_or(i64::MAX));
        }
    }

    fn orders(&self) -> std::sync::MutexGuard<'_, VecDeque<(u64, u64)>> {
        self.at_order.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// 1 ms, doubled to 16 s.
fn sync_buckets() -> Histogram {
    Histogram::new(exponential_buckets(0.001, 2.0, 15))
}

/// Those of the network programming latency SLI.
fn programming_buckets() -> Histogram {
    let steps = |from: u32, step: u32, count: u32| (0..count).map(move |n| from + n * step);
    let seconds = steps(1, 1, 59).chain(steps(60, 5, 12)).chain(steps(120, 30, 7));
    Histogram::new([0.25, 0.5].into_iter().chain(seconds.map(f64::from)))
}

impl Default for KubeProxy {
    fn default() -> Self {
        let syncs = || Family::new_with_constructor(sync_buckets as fn() -> Histogram);
        let made = Self {
            duration: syncs(),
            full_duration: syncs(),
            partial_duration: syncs(),
            programming: Family::new_with_constructor(programming_buckets as fn() -> Histogram),
            last_sync: Family::default(),
            last_order: Family::default(),
            failures: Family::default(),
            cleanup_failures: Family::default(),
            no_local_endpoints: Family::default(),
            services: Changes::default(),
            endpoints: Changes::default(),
            triggers: Arc::default(),
            sweeps: syncs(),
            swept: Family::default(),
            healthz: Family::default(),
            livez: Family::default(),
        };
        made.count_without_local([[0; 2]; 2]);
        for code in ["200", "503"] {
            drop(made.healthz.get_or_create(&[("code", code)]));
            drop(made.livez.get_or_create(&[("code", code)]));
        }
        // They exist from the start, as kube-proxy's do: a rate of what is not there is no zero.
        for family in FAMILIES.map(by_family) {
            let syncs = [&made.duration, &made.full_duration, &made.partial_duration];
            for histogram in syncs.into_iter().chain([&made.sweeps]) {
                drop(histogram.get_or_create(&family));
            }
            drop(made.swept.get_or_create(&family));
            drop(made.programming.get_or_create(&family));
            drop(made.last_sync.get_or_create(&family));
            drop(made.last_order.get_or_create(&family));
            drop(made.failures.get_or_create(&family));
            drop(made.cleanup_failures.get_or_create(&family));
        }
        made
    }
}

const fn by_family(family: &'static str) -> Label {
    [("ip_family", family)]
}

impl KubeProxy {
    pub(super) fn register(&self, registry: &mut Registry) {
        let theirs = registry.sub_registry_with_prefix("kubeproxy");
        let mut seconds = |name: &str, help: &str, metric: &ByFamily<Histogram>| {
            theirs.register_with_unit(name, help, Unit::Seconds, metric.clone());
        };
        let help = "Duration of a sync that did something";
        seconds("sync_proxy_rules_duration", help, &self.duration);
        let help = "Duration of a sync that read the kernel first";
        seconds("sync_full_proxy_rules_duration", help, &self.full_duration);
        let help = "Duration of a sync that wrote a difference";
        seconds("sync_partial_proxy_rules_duration", help, &self.partial_duration);
        let help = "From the change of a pod or Service to its rules";
        seconds("network_programming_duration", help, &self.programming);
        let help = "Duration of a walk through the table of connections";
        seconds("conntrack_reconciler_sync_duration", help, &self.sweeps);
        let mut timestamp = |name: &str, help: &str, metric: &Timestamps| {
            theirs.register_with_unit(name, help, Unit::Seconds, metric.clone());
        };
        let help = "When the last sync succeeded";
        timestamp("sync_proxy_rules_last_timestamp", help, &self.last_sync);
        let help = "When the last sync was queued";
        timestamp("sync_proxy_rules_last_queued_timestamp", help, &self.last_order);
        let name = "sync_proxy_rules_nftables_sync_failures";
        theirs.register(name, "Syncs that failed", self.failures.clone());
        let name = "sync_proxy_rules_nftables_cleanup_failures";
        let help = "Always 0: what is stale goes in the same transaction";
        theirs.register(name, help, self.cleanup_failures.clone());
        let name = "sync_proxy_rules_no_local_endpoints_total";
        let help = "ServicePorts with a Local traffic policy and no endpoint on this node";
        theirs.register(name, help, self.no_local_endpoints.clone());
        self.services.register(theirs, "service", "Service");
        self.endpoints.register(theirs, "endpoint", "EndpointSlice");
        let help = "Connections ended because a change made them wrong";
        theirs.register("conntrack_reconciler_deleted_entries", help, self.swept.clone());
        theirs.register("proxy_healthz", "Answers of /healthz, by code", self.healthz.clone());
        theirs.register("proxy_livez", "Answers of /livez, by code", self.livez.clone());
    }

    /// An object has changed.
    pub(super) fn changed(&self, kind: Kind) {
        match kind {
            Kind::Service => self.services.changed(),
            Kind::EndpointSlice => self.endpoints.changed(),
            _ => {}
        }
    }

    /// Endpoints were changed at this time, says the API; the next order has them.
    pub(super) fn triggered(&self, next_order: u64, at: Timestamp) {
        let mut triggers = self.triggers.lock().unwrap_or_else(PoisonError::into_inner);
        if triggers.len() < TRIGGERS {
            triggers.push_back((next_order, at));
        }
    }

    /// An order was given.
    pub(super) fn ordered(&self, number: u64, totals: Totals) {
        self.services.ordered(number);
        self.endpoints.ordered(number);
        for family in FAMILIES.map(by_family) {
            self.last_order.get_or_create(&family).set(unix_seconds());
        }
        self.count_without_local(totals.without_local);
    }

    /// By the internal policy and by the external one, each for IPv4 and IPv6.
    fn count_without_local(&self, counts: [[usize; 2]; 2]) {
        for (policy, counts) in ["internal", "external"].into_iter().zip(counts) {
            for (family, count) in FAMILIES.into_iter().zip(counts) {
                let labels = [("traffic_policy", policy), ("ip_family", family)];
                let count = i64::try_from(count).unwrap_or(i64::MAX);
                self.no_local_endpoints.get_or_create(&labels).set(count);
            }
        }
    }

    /// A sync has succeeded.
    pub(super) fn synced(&self, synced: &Synced) {
        self.services.installed(synced.order);
        self.endpoints.installed(synced.order);
        let report = &synced.report;
        let took = (report.read + report.diff + report.commit).as_secs_f64();
        let part = if report.read_back { &self.full_duration } else { &self.partial_duration };
        let programmed = self.programmed(synced.order);
        for family in FAMILIES.map(by_family) {
            self.last_sync.get_or_create(&family).set(unix_seconds());
            if report.operations > 0 {
                self.duration.get_or_create(&family).observe(took);
                part.get_or_create(&family).observe(took);
            }
            let programming = self.programming.get_or_create(&family);
            programmed.iter().for_each(|took| programming.observe(took.as_secs_f64()));
        }
    }

    /// How long ago what this order has installed was changed.
    fn programmed(&self, order: u64) -> Vec<Duration> {
        let mut triggers = self.triggers.lock().unwrap_or_else(PoisonError::into_inner);
        let installed = triggers.iter().take_while(|(number, _)| *number <= order).count();
        let now = Timestamp::now();
        let ago = |(_, at): (u64, Timestamp)| Duration::try_from(now.duration_since(at));
        // A clock that is ahead of ours makes no time at all.
        triggers.drain(..installed).map(|trigger| ago(trigger).unwrap_or_default()).collect()
    }

    /// The table of connections was walked.
    pub(super) fn swept(&self, swept: &Swept) {
        let family = by_family(match swept.family {
            shunt_model::address::Family::V4 => FAMILIES[0],
            shunt_model::address::Family::V6 => FAMILIES[1],
        });
        self.sweeps.get_or_create(&family).observe(swept.took.as_secs_f64());
        self.swept.get_or_create(&family).inc_by(swept.ended as u64);
    }

    /// A sync has failed.
    pub(super) fn failed(&self) {
        for family in FAMILIES.map(by_family) {
            self.failures.get_or_create(&family).inc();
        }
    }

    /// `/healthz` or `/livez` was answered.
    pub(super) fn answered(&self, probe: Probe, healthy: bool) {
        let family = match probe {
            Probe::Healthz => &self.healthz,
            Probe::Livez => &self.livez,
        };
        family.get_or_create(&[("code", if healthy { "200" } else { "503" })]).inc();
    }
}
