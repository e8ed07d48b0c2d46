//! Network policy in the daemon: its objects, its decision table, and orders for a kernel thread of
//! its own. It shares the event loop with Services and nothing else, so neither waits for the other.

mod closed;
mod drops;
mod names;
mod sandboxes;
mod waiting;

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use ipnet::IpNet;
use shunt_model::object::ObjectKey;
use shunt_model::problem::Kind;
use shunt_netpolicy::compile::Compiler;
use shunt_netpolicy::snapshot::{Change, Snapshot};
use shunt_netpolicy::store::{Dirty, Store};
use shunt_netpolicy_nftables::drop_log::DroppedPacket;
use shunt_netpolicy_nftables::kernel::{self, Count, Dropped, PolicyCounts};
use shunt_netpolicy_nftables::layout::Switched;
use tokio::sync::{mpsc, watch};

use self::closed::Closed;
pub use self::drops::DropRecord;
use self::drops::Drops;
pub use self::names::NameOptions;
use self::names::Names;
use self::sandboxes::Sandboxes;
use crate::kernel::{Failed, Order, Synced};
use crate::names::{Named, NamesEvent};
use crate::nri::NriEvent;
use crate::source::Wanted;
use crate::status::{DroppedStatus, PolicyStatus};

/// How what policies need beside themselves is asked for.
#[derive(Debug)]
pub enum Demand {
    /// Everything is always told.
    Always,
    /// It is told while this says so.
    Told(watch::Sender<Wanted>),
}

/// Owns the objects of network policy and the table made of them.
#[derive(Debug)]
pub struct PolicyPlanner {
    node: Arc<str>,
    snapshot: Snapshot,
    compiler: Compiler,
    demand: Demand,
    /// The addresses of this machine, once they are known.
    own: Option<BTreeSet<IpAddr>>,
    own_is_new: bool,
    /// How what is switched on bridges is judged, once there are pods on such that hooks of IP do not see.
    switched: Option<Switched>,
    switched_is_new: bool,
    dirty: Dirty,
    /// When the oldest event that is not in the table yet was received.
    oldest: Option<Instant>,
    ordered: u64,
    /// There were policies when the last order was given.
    enforcing: bool,
    synced: u64,
    failure: Option<String>,
    last: Option<LastSync>,
    /// Nothing is dropped.
    audit: bool,
    /// In mode closed: which pods of this node are known.
    closed: Option<Closed>,
    drops: Drops,
    /// Domain names, if they can be learnt.
    names: Option<Names>,
    sandboxes: Sandboxes,
    /// All is known that an order needs.
    is_informed: bool,
}

#[derive(Clone, Copy, Debug)]
struct LastSync {
    operations: usize,
    took: Duration,
}

impl PolicyPlanner {
    /// A planner for the node of this name that knows nothing yet.
    #[must_use]
    pub fn new(node: &str, demand: Demand) -> Self {
        Self {
            node: node.into(),
            snapshot: Snapshot::new(),
            compiler: Compiler::new(node),
            demand,
            own: None,
            own_is_new: false,
            switched: None,
            switched_is_new: false,
            dirty: Dirty::default(),
            oldest: None,
            ordered: 0,
            enforcing: false,
            synced: 0,
            failure: None,
            last: None,
            audit: false,
            closed: None,
            drops: Drops::default(),
            names: None,
            sandboxes: Sandboxes::default(),
            is_informed: false,
        }
    }

    /// The same as an operator has chosen it: drop nothing; close addresses of pods that are not known.
    #[must_use]
    pub fn with_modes(self, audit: bool, closed: bool) -> Self {
        Self { audit, closed: closed.then(Closed::default), ..self }
    }

    /// The same, and it is counted what each policy decides.
    #[must_use]
    pub fn counting(self, counting: bool) -> Self {
        Self { compiler: self.compiler.counting(counting), ..self }
    }

    /// The same, and domain names are learnt from DNS answers; `out`: where they come from.
    #[must_use]
    pub fn with_names(self, options: NameOptions, out: mpsc::Sender<NamesEvent>) -> Self {
        Self { names: Some(Names::new(options, out)), ..self }
    }

    /// Whether policies ask for domain names, so that it matters who answers for them.
    #[must_use]
    pub fn asks_for_names(&self) -> bool {
        self.names.is_some() && !self.snapshot.store().domain_names().is_empty()
    }

    /// Takes in the addresses of the cluster's DNS servers.
    pub fn take_servers(&mut self, servers: BTreeSet<IpAddr>) {
        if let Some(names) = &mut self.names {
            names.take_servers(servers);
        }
    }

    /// Takes in what a DNS answer says; `held`: by what it is let go.
    pub fn learn(&mut self, held: Option<u32>, found: Vec<Named>, received: Instant) {
        let Some(names) = &mut self.names else { return };
        let dirty = names.learn(&mut self.snapshot, held, found, received);
        self.dirty.merge(dirty);
        if names.has_changes() {
            self.oldest.get_or_insert(received);
        }
    }

    /// When [`order`](Self::order) must be asked although nothing has come.
    #[must_use]
    pub fn wake_at(&self) -> Option<Instant> {
        self.names.as_ref().and_then(Names::wake_at)
    }

    /// Lets DNS answers and sandboxes go on whose addresses the kernel holds; to be called after each order, and each
    /// sync.
    pub fn release(&mut self) {
        if let Some(names) = &mut self.names {
            names.release(self.ordered, self.synced);
        }
        if self.is_informed {
            self.sandboxes.release(self.ordered, self.synced);
        }
    }

    /// Takes in what the container runtime says. Returns what is wrong with it now, if that was said.
    pub fn take_nri(&mut self, event: NriEvent, received: Instant) -> Option<BTreeSet<String>> {
        match event {
            NriEvent::State(state) => return Some(self.sandboxes.set_state(state)),
            NriEvent::All(all) => self.take(Change::Sandboxes(all), received),
            NriEvent::Started(sandbox, done) => {
                self.sandboxes.hold(done);
                self.take(Change::SandboxStarted(sandbox), received);
            }
            NriEvent::Stopped(id) => self.take(Change::SandboxStopped(id), received),
            NriEvent::Waited(waited) => self.sandboxes.count(waited.outcome),
        }
        None
    }

    /// The objects.
    #[must_use]
    pub const fn store(&self) -> &Store {
        self.snapshot.store()
    }

    /// Whether nothing is dropped.
    #[must_use]
    pub const fn is_audit(&self) -> bool {
        self.audit
    }

    /// Whether addresses of pods that are not known are closed.
    #[must_use]
    pub const fn is_closed(&self) -> bool {
        self.closed.is_some()
    }

    /// Takes in the ranges that the node gives its pods addresses out of; whether they are new.
    pub fn take_pod_networks(&mut self, networks: &[IpNet], received: Instant) -> bool {
        let is_new = self.closed.as_mut().is_some_and(|closed| closed.take(networks));
        if is_new {
            self.oldest.get_or_insert(received);
            self.own_is_new = self.own.is_some();
        }
        is_new
    }

    /// What the kernel has counted.
    #[must_use]
    pub const fn dropped(&self) -> &Dropped {
        &self.drops.counted
    }

    /// Takes in what the kernel has counted.
    pub const fn count_drops(&mut self, counted: Dropped) {
        self.drops.counted = counted;
    }

    /// What each policy has decided, if that is counted.
    #[must_use]
    pub const fn decided(&self) -> &BTreeMap<String, Count> {
        &self.drops.decided
    }

    /// Takes in what each policy has decided.
    pub fn count_decided(&mut self, counts: &PolicyCounts) {
        self.drops.decide(counts);
    }

    /// Finds out who and why a packet was dropped, and counts it.
    pub fn record_drop(&mut self, packet: &DroppedPacket) -> DropRecord {
        let mut record = drops::describe(self.snapshot.store(), packet);
        self.drops.record(&mut record);
        record
    }

    /// The objects.
    #[must_use]
    pub const fn snapshot(&self) -> &Snapshot {
        &self.snapshot
    }

    /// Takes a change in.
    pub fn take(&mut self, change: Change, received: Instant) {
        let dirty = self.snapshot.apply(change);
        if !dirty.is_empty() {
            self.dirty.merge(dirty);
            self.oldest.get_or_insert(received);
        }
    }

    /// Takes the addresses of this machine in.
    pub fn take_addresses(&mut self, addresses: &BTreeSet<IpAddr>, received: Instant) {
        if self.own.as_ref() != Some(addresses) {
            self.own = Some(addresses.clone());
            self.own_is_new = true;
            self.dirty.merge(self.snapshot.put_machine(&self.node, addresses.clone()));
            self.oldest.get_or_insert(received);
        }
    }

    /// Takes in that there are pods on bridges that hooks of IP do not see, and how what is switched there is judged.
    pub fn take_switched(&mut self, switched: Switched, received: Instant) {
        if self.switched != Some(switched) {
            self.switched = Some(switched);
            self.switched_is_new = true;
            self.oldest.get_or_insert(received);
        }
    }

    /// The keys of a kind that the store holds.
    #[must_use]
    pub fn holds(&self, kind: Kind, key: &ObjectKey) -> bool {
        let store = self.snapshot.store();
        match kind {
            Kind::Pod => store.pod(key).is_some(),
            Kind::NetworkPolicy => store.policies().any(|policy| policy.key == *key),
            Kind::PeerNode => store.nodes().any(|node| node.name == key.name),
            Kind::ClusterNetworkPolicy => store.cluster_policies().any(|p| p.name == key.name),
            _ => store.namespaces().any(|namespace| namespace.name == key.name),
        }
    }

    /// The order that brings the kernel to what is wanted now, if that differs from what was ordered
    /// last. The first one comes when the lists are complete, also if there is nothing in it: what an
    /// earlier run has left must go.
    pub fn order(&mut self, now: Instant) -> Option<Order<kernel::Change>> {
        self.is_informed = false;
        let policies = [Kind::NetworkPolicy, Kind::ClusterNetworkPolicy];
        if !policies.iter().all(|kind| self.snapshot.has_listed(*kind)) {
            return None;
        }
        let wanted = self.wanted();
        self.want(wanted);
        let needed = [
            (Kind::Pod, wanted.pods),
            (Kind::Namespace, wanted.pods),
            (Kind::PeerNode, wanted.nodes),
        ];
        let ready = self.closed.as_ref().is_none_or(Closed::is_ready);
        let lacks = |(kind, needed): &(Kind, bool)| *needed && !self.snapshot.has_listed(*kind);
        let known = self.own.is_some() && !needed.iter().any(lacks);
        if wanted.pods && !(known && ready) {
            return None;
        }
        self.is_informed = true;
        let first = self.ordered == 0;
        if first || wanted.pods != self.enforcing {
            // Pods that are told because of the first policy were there before it.
            self.dirty = Dirty::everything();
            self.enforcing = wanted.pods;
        }
        if let Some(names) = &mut self.names {
            self.dirty.merge(names.remember(&mut self.snapshot, now));
            self.dirty.merge(names.expire(&mut self.snapshot, now));
        }
        let learnt_is_new = self.names.as_ref().is_some_and(Names::has_changes);
        let switched_is_new = std::mem::take(&mut self.switched_is_new);
        if self.dirty.is_empty() && !self.own_is_new && !learnt_is_new && !switched_is_new {
            return None;
        }
        let dirty = std::mem::take(&mut self.dirty);
        let store = self.snapshot.store();
        let mut table = self.compiler.update(store, &dirty);
        if let Some(names) = &mut self.names {
            let dirty = names.ask(&mut self.snapshot, &self.compiler);
            if !dirty.is_empty() {
                table.merge(self.compiler.update(self.snapshot.store(), &dirty));
            }
        }
        let learnt = self.names.as_mut().map(Names::take_changes).unwrap_or_default();
        let store = self.snapshot.store();
        let (pod_networks, known) = match &mut self.closed {
            Some(closed) => closed.order(store, &self.node, &dirty, wanted.pods),
            None => (None, BTreeMap::new()),
        };
        let own = std::mem::take(&mut self.own_is_new).then(|| self.own.clone()).flatten();
        let since = self.oldest.take().unwrap_or(now);
        let nothing =
            table.is_empty() && pod_networks.is_none() && known.is_empty() && learnt.is_empty();
        if nothing && own.is_none() && !switched_is_new && !first {
            return None;
        }
        self.ordered += 1;
        Some(Order {
            number: self.ordered,
            delta: kernel::Change {
                table,
                own,
                pod_networks,
                known,
                learnt,
                switched: self.switched,
            },
            since,
        })
    }

    /// What the policies need.
    fn wanted(&self) -> Wanted {
        let store = self.snapshot.store();
        let mut policies = store.policies().map(drop).chain(store.cluster_policies().map(drop));
        Wanted { pods: policies.next().is_some(), nodes: store.speaks_of_nodes() }
    }

    /// Asks for it, and forgets what is needed no more.
    fn want(&mut self, wanted: Wanted) {
        let Demand::Told(sender) = &self.demand else { return };
        let before = sender.send_replace(wanted);
        if before.pods && !wanted.pods {
            self.dirty.merge(self.snapshot.forget_pods());
        }
        if before.nodes && !wanted.nodes {
            self.dirty.merge(self.snapshot.forget_nodes());
        }
    }

    /// The kernel holds what was ordered.
    pub fn synced(&mut self, synced: &Synced) {
        let report = &synced.report;
        self.synced = synced.order;
        self.failure = None;
        if report.operations > 0 {
            let took = report.read + report.diff + report.commit;
            self.last = Some(LastSync { operations: report.operations, took });
        }
    }

    /// The kernel does not.
    pub fn failed(&mut self, failed: &Failed) {
        self.failure = Some(failed.error.clone());
    }

    /// The state, for people and metrics.
    #[must_use]
    pub fn status(&self) -> PolicyStatus {
        let store = self.snapshot.store();
        let table = self.compiler.table();
        let Dropped { ingress, egress, unknown } = self.drops.counted;
        PolicyStatus {
            audit: self.audit,
            closed: self.closed.is_some(),
            dropped: DroppedStatus { ingress, egress, unknown },
            logged_by_policy: self.drops.by_policy.clone(),
            decided_by_policy: self.drops.decided_status(),
            synced: self.ordered > 0 && self.synced == self.ordered,
            policies: store.policies().len() + store.cluster_policies().len(),
            pods: store.pods().len(),
            isolated: table.locals.len(),
            peers: table.peers.len(),
            networks: table.networks.len(),
            rows: table.rows.len(),
            names: self.names.as_ref().map_or(0, Names::count),
            new_pods: self.sandboxes.status(),
            orders: self.ordered,
            failure: self.failure.clone(),
            last_operations: self.last.map_or(0, |last| last.operations),
            last_ms: self.last.map_or(0.0, |last| last.took.as_secs_f64() * 1e3),
        }
    }
}

#[cfg(test)]
mod tests;
