//! What is counted and measured of network policy.

use std::collections::BTreeMap;

use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::registry::{Registry, Unit};

use shunt_netpolicy_nftables::kernel::{Count, Dropped};

use std::time::Duration;

use super::{Label, Metrics, Seconds};
use crate::kernel::{Reason, Synced};
use crate::nri::Outcome;
use crate::policy::DropRecord;
use crate::status::PolicyStatus;

/// The metrics of network policy.
#[derive(Clone, Debug, Default)]
pub(super) struct OfPolicy {
    counts: Family<Label, Gauge>,
    operations: Counter,
    failures: Counter,
    latency: Seconds<50>,
    dropped: Family<Label, Counter>,
    logged: Family<Vec<(&'static str, String)>, Counter>,
    nri_connected: Gauge,
    nri_sandboxes: Family<Label, Counter>,
    nri_wait: Seconds<200>,
    decided: Family<Vec<(&'static str, String)>, Counter>,
}

impl OfPolicy {
    pub(super) fn register(&self, own: &mut Registry) {
        let help = "What network policy comes to on this node, by what";
        own.register("policy", help, self.counts.clone());
        let help = "Additions and removals written for network policy";
        own.register("policy_sync_operations", help, self.operations.clone());
        let help = "Syncs of network policy that failed";
        own.register("policy_sync_failures", help, self.failures.clone());
        let help = "New connections by the policy that decides and what it does; with --policy-counters, and at most \
                    200 policies are named";
        own.register("policy_connections", help, self.decided.clone());
        let help =
            "Packets that network policy dropped (in an audit: would have), by what denied them";
        own.register("policy_dropped_packets", help, self.dropped.clone());
        let help = "Logged drops, by what denied them and policy; at most 200 policies are named";
        own.register("policy_logged_drops", help, self.logged.clone());
        let help = "Whether the container runtime tells of new pods before they start";
        own.register("nri_connected", help, self.nri_connected.clone());
        for outcome in Outcome::ALL {
            drop(self.nri_sandboxes.get_or_create(&[("outcome", outcome.word())]));
        }
        let help = "New pods that the container runtime has told of, by why they went on";
        own.register("nri_sandboxes", help, self.nri_sandboxes.clone());
        let help = "How long new pods waited until the kernel held their policies";
        own.register_with_unit("nri_wait", help, Unit::Seconds, self.nri_wait.0.clone());
        let help = "From the receipt of an event to the end of network policy's transaction";
        let latency = self.latency.0.clone();
        own.register_with_unit("policy_event_to_commit", help, Unit::Seconds, latency);
    }
}

impl Metrics {
    /// What network policy comes to.
    pub fn policy(&self, status: &PolicyStatus) {
        let counts = [
            ("policies", status.policies),
            ("pods", status.pods),
            ("isolated", status.isolated),
            ("peers", status.peers),
            ("networks", status.networks),
            ("rows", status.rows),
            ("names", status.names),
        ];
        for (what, count) in counts {
            let count = i64::try_from(count).unwrap_or(i64::MAX);
            self.of_policy.counts.get_or_create(&[("what", what)]).set(count);
        }
    }

    /// A sync of network policy has succeeded.
    pub fn policy_synced(&self, synced: &Synced) {
        self.of_policy.operations.inc_by(synced.report.operations as u64);
        if let (Some(latency), true) = (synced.latency, synced.reason != Reason::First) {
            self.of_policy.latency.0.observe(latency.as_secs_f64());
        }
    }

    /// The kernel has counted drops; a table that was made anew begins at 0.
    pub fn policy_dropped(&self, before: &Dropped, now: &Dropped) {
        let counts = [
            ("ingress", before.ingress, now.ingress),
            ("egress", before.egress, now.egress),
            ("unknown", before.unknown, now.unknown),
        ];
        for (denied, before, now) in counts {
            let more = if now < before { now } else { now - before };
            self.of_policy.dropped.get_or_create(&[("denied", denied)]).inc_by(more);
        }
    }

    /// What each policy has decided.
    pub fn policy_decided(&self, before: &BTreeMap<String, Count>, now: &BTreeMap<String, Count>) {
        for (policy, count) in now {
            let before = before.get(policy).copied().unwrap_or_default();
            let verdicts = [
                ("accepted", before.accepted, count.accepted),
                ("denied", before.denied, count.denied),
            ];
            for (verdict, before, now) in verdicts {
                let labels = vec![("policy", policy.clone()), ("verdict", verdict.to_owned())];
                let counter = self.of_policy.decided.get_or_create(&labels);
                counter.inc_by(now.saturating_sub(before));
            }
        }
    }

    /// A drop was logged.
    pub fn policy_logged(&self, record: &DropRecord) {
        for policy in &record.policies {
            let labels = vec![("denied", record.denied.to_owned()), ("policy", policy.clone())];
            self.of_policy.logged.get_or_create(&labels).inc();
        }
    }

    /// The container runtime tells of new pods, or does not.
    pub fn nri_connected(&self, connected: bool) {
        self.of_policy.nri_connected.set(connected.into());
    }

    /// A new pod has waited.
    pub fn nri_waited(&self, outcome: Outcome, took: Duration) {
        self.of_policy.nri_sandboxes.get_or_create(&[("outcome", outcome.word())]).inc();
        if outcome != Outcome::NoAddress {
            self.of_policy.nri_wait.0.observe(took.as_secs_f64());
        }
    }

    /// A sync of network policy has failed.
    pub fn policy_failed(&self) {
        self.of_policy.failures.inc();
    }
}
