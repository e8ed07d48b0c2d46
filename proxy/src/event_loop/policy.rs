//! The part of the event loop that is about network policy.

use std::collections::BTreeSet;
use std::net::IpAddr;
use std::time::Instant;

use shunt_model::object::ObjectKey;
use shunt_model::problem::Kind;
use shunt_model::snapshot::Snapshot;
use shunt_netpolicy::snapshot::Change;
use shunt_netpolicy_nftables::kernel::Change as TableChange;
use tracing::{debug, info, warn};

use super::{EventLoop, texts};
use crate::drops::DropEvent;
use crate::kernel::{KernelEvent, Order, Reason, Synced};
use crate::ledger::Origin;
use crate::names::{Named, NamesEvent};
use crate::nri::{NriEvent, NriState, Outcome, Waited};

impl EventLoop {
    /// The order for the kernel thread of network policy, if there is one.
    pub(super) fn next_policy_order(&mut self, now: Instant) -> Option<Order<TableChange>> {
        let policy = self.policy.as_mut()?;
        let snapshot = self.planner.snapshot();
        if policy.is_closed() && snapshot.has_listed(Kind::Node) {
            let node = snapshot.node(&self.identity.node);
            let networks = node.map_or(&[][..], |node| &node.pod_cidrs);
            if policy.take_pod_networks(networks, now) {
                let text = "--new-pods=closed closes nothing: the Node has no spec.podCIDRs";
                let found = networks.is_empty().then(|| text.to_owned());
                self.found(Origin::NewPods, found.into_iter().collect());
            }
        }
        let policy = self.policy.as_mut()?;
        if policy.asks_for_names() {
            policy.take_servers(dns_servers(self.planner.snapshot()));
        }
        let order = policy.order(now)?;
        self.progress.policy().ordered(order.number, now);
        self.metrics.policy(&policy.status());
        Some(order)
    }

    /// Takes in a change of what network policy is made of.
    pub(super) fn policy_change(&mut self, change: Change, now: Instant) {
        let Some(mut policy) = self.policy.take() else { return };
        let mut listed = None;
        match &change {
            Change::Applied { object, problems } => {
                self.found(Origin::Object(object.kind(), object.key()), texts(problems));
            }
            Change::Deleted { kind, key } => {
                self.found(Origin::Object(*kind, key.clone()), BTreeSet::new());
            }
            Change::ListDone(kind) => listed = Some(*kind),
            Change::ListStarted(_)
            | Change::SandboxStarted(_)
            | Change::SandboxStopped(_)
            | Change::Sandboxes(_) => {}
        }
        policy.take(change, now);
        // After a list: objects that it did not name have no problems any more.
        if let Some(kind) = listed {
            for key in self.ledger.objects(kind) {
                if !policy.holds(kind, &key) {
                    self.found(Origin::Object(kind, key), BTreeSet::new());
                }
            }
        }
        self.policy = Some(policy);
    }

    /// Takes in what network policy has dropped.
    pub(super) fn policy_drops(&mut self, event: &DropEvent) {
        let Some(policy) = &mut self.policy else { return };
        match event {
            DropEvent::Counted(dropped) => {
                self.metrics.policy_dropped(policy.dropped(), dropped);
                policy.count_drops(*dropped);
            }
            DropEvent::Decided(counts) => {
                let before = policy.decided().clone();
                policy.count_decided(counts);
                self.metrics.policy_decided(&before, policy.decided());
            }
            DropEvent::Packet(packet) => {
                let record = policy.record_drop(packet);
                self.metrics.policy_logged(&record);
                let what = if record.audited { "would drop" } else { "drops" };
                info!(
                    denied = record.denied,
                    source = record.source,
                    destination = record.destination,
                    port = record.port,
                    answer = record.answer,
                    by = record.by,
                    "network policy {what} a packet"
                );
            }
        }
    }

    /// Takes in what the reader of DNS answers has to say.
    pub(super) fn policy_names(&mut self, event: NamesEvent, now: Instant) {
        match event {
            NamesEvent::Answer { held, found } => {
                if let Some(policy) = &mut self.policy {
                    for Named { address, name, seconds } in &found {
                        debug!(%address, %name, seconds, "DNS has given a name to an address");
                    }
                    policy.learn(held, found, now);
                }
            }
            NamesEvent::State(problem) => {
                self.found(Origin::DomainNames, problem.into_iter().collect());
            }
        }
    }

    /// Takes in what the container runtime says of this node's pods.
    pub(super) fn policy_nri(&mut self, event: NriEvent, now: Instant) {
        let Some(policy) = &mut self.policy else { return };
        match &event {
            NriEvent::State(state) => {
                self.metrics.nri_connected(matches!(state, NriState::Connected(_)));
                match state {
                    NriState::Connected(runtime) => {
                        info!(runtime, "the container runtime tells of new pods before they start");
                    }
                    NriState::Absent => info!("no container runtime tells of new pods (NRI)"),
                    NriState::Failed(_) => {}
                }
            }
            NriEvent::Waited(Waited { pod, outcome, took }) => {
                self.metrics.nri_waited(*outcome, *took);
                let took_ms = format_args!("{:.3}", took.as_secs_f64() * 1e3);
                match outcome {
                    Outcome::Overdue => warn!(
                        %pod, took_ms, "a new pod starts before its network policies are in the kernel"
                    ),
                    _ => debug!(%pod, took_ms, outcome = outcome.word(), "a new pod starts"),
                }
            }
            NriEvent::All(_) | NriEvent::Started(..) | NriEvent::Stopped(_) => {}
        }
        if let Some(problems) = policy.take_nri(event, now) {
            self.found(Origin::Nri, problems);
        }
    }

    /// Takes in what the kernel thread of network policy reports.
    pub(super) fn policy_kernel(&mut self, event: KernelEvent, now: Instant) {
        let Some(policy) = &mut self.policy else { return };
        match event {
            KernelEvent::Synced(synced) => {
                policy.synced(&synced);
                self.progress.policy().synced(&synced);
                let status = policy.status();
                self.metrics.policy(&status);
                self.metrics.policy_synced(&synced);
                self.found(Origin::Policy, BTreeSet::new());
                log(&synced);
            }
            KernelEvent::Failed(failed) => {
                policy.failed(&failed);
                self.progress.policy().failed(now);
                self.metrics.policy_failed();
                debug!(attempts = failed.attempts, retry_in = ?failed.retry_in, "policy sync failed");
                let text =
                    format!("network policy cannot be written to the kernel: {}", failed.error);
                self.found(Origin::Policy, BTreeSet::from([text]));
            }
            // Connections that were ended are of Services.
            KernelEvent::Swept(_) => {}
            KernelEvent::ForeignChange { writer } => {
                self.metrics.foreign_change();
                let writer = writer.as_deref().unwrap_or("unknown");
                warn!(writer, "another process has changed the table of network policy");
            }
        }
    }
}

/// The Services by which clusters have their DNS: of Kubernetes, of RKE2, and of OpenShift.
const DNS_SERVICES: [(&str, &str); 3] = [
    ("kube-system", "kube-dns"),
    ("kube-system", "rke2-coredns-rke2-coredns"),
    ("openshift-dns", "dns-default"),
];

/// The addresses of the cluster's DNS servers.
fn dns_servers(services: &Snapshot) -> BTreeSet<IpAddr> {
    let keys = DNS_SERVICES.map(|(namespace, name)| ObjectKey::new(namespace, name));
    let services = keys.iter().filter_map(|key| services.service(key));
    services.flat_map(|service| service.cluster_ips.iter().copied()).collect()
}

/// One line for each sync that did something.
fn log(synced: &Synced) {
    let report = &synced.report;
    if report.operations == 0 && report.rebuilt.is_none() {
        debug!(reason = synced.reason.word(), "network policy: nothing to write");
        return;
    }
    if matches!(synced.reason, Reason::Repair | Reason::Verify) {
        warn!("the kernel did not hold what network policy asks; it is put right");
    }
    info!(
        reason = synced.reason.word(),
        rebuilt = report.rebuilt,
        operations = report.operations,
        transactions = report.transactions,
        diff_ms = format_args!("{:.3}", report.diff.as_secs_f64() * 1e3),
        commit_ms = format_args!("{:.3}", report.commit.as_secs_f64() * 1e3),
        latency_ms = synced.latency.map(|latency| format!("{:.3}", latency.as_secs_f64() * 1e3)),
        "network policy synced"
    );
}
