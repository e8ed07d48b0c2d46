//! What `GET /status` and `GET /status/services` answer: the types on the wire.
//!
//! Fields are added, never renamed: `shunt status` and benchmarks of other releases read them.

mod beside;
pub(crate) mod client;
mod in_kernel;
pub mod show;
mod table;

pub(crate) use self::beside::Kernel;
use serde::{Deserialize, Serialize};
use shunt_model::address::Frontend;
use shunt_model::object::ObjectKey;
use shunt_model::plan::{Action, FrontendKind, FrontendPlan, Masquerade, ServicePlan};
use std::collections::BTreeMap;

/// The state of a running daemon.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Status {
    /// Its release.
    pub version: String,
    /// Its process.
    pub pid: u32,
    /// When it was started.
    pub started: String,
    /// The name of its Node.
    pub node: String,
    /// Where its objects are from.
    pub source: String,
    /// The first sync is done.
    pub synced: bool,
    /// Clients can rely on it: nothing has waited for longer than a minute.
    pub healthy: bool,
    /// What the first sync waits for.
    pub awaiting: Vec<String>,
    /// For how long something that should be installed is not, in milliseconds.
    pub waiting_ms: Option<u64>,
    /// The last sync has failed, and this is why.
    pub failure: Option<String>,
    /// The first sync.
    pub first_sync: Option<FirstSync>,
    /// The newest sync that did something.
    pub last_sync: Option<LastSync>,
    /// The newest latencies, from the receipt of an event to the end of its last transaction.
    pub event_to_commit_us: Latency,
    /// What was counted since the start.
    pub counters: Counters,
    /// Services in the plan.
    pub services: usize,
    /// Frontends in the plan.
    pub frontends: usize,
    /// Endpoints in the plan.
    pub endpoints: usize,
    /// Network policy, if it is enforced.
    #[serde(default)]
    pub network_policy: Option<PolicyStatus>,
    /// Resident memory in bytes.
    pub resident_bytes: u64,
    /// What is wrong with objects and manifests.
    pub problems: Vec<String>,
}

/// The state of network policy on the node.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct PolicyStatus {
    /// The kernel holds all that is known.
    pub synced: bool,
    /// NetworkPolicies.
    pub policies: usize,
    /// Pods of the cluster that are known; none while there is no policy.
    pub pods: usize,
    /// Addresses of pods on this node that some policy isolates.
    pub isolated: usize,
    /// Addresses that a selector in force here matches.
    pub peers: usize,
    /// Ranges of addresses that blocks in force here tell apart.
    pub networks: usize,
    /// Different decisions.
    pub rows: usize,
    /// Pairs of an address and a domain name that DNS answers have told.
    #[serde(default)]
    pub names: usize,
    /// What the container runtime tells of new pods; nothing if it is not asked.
    #[serde(default)]
    pub new_pods: Option<NewPodsStatus>,
    /// Orders given to its kernel thread.
    pub orders: u64,
    /// Its last sync has failed, and this is why.
    pub failure: Option<String>,
    /// Additions and removals that the newest sync wrote.
    pub last_operations: usize,
    /// How long that took, in milliseconds.
    pub last_ms: f64,
    /// Nothing is dropped, only counted and logged.
    #[serde(default)]
    pub audit: bool,
    /// Addresses of pods that are not known are closed.
    #[serde(default)]
    pub closed: bool,
    /// Packets dropped since the table was made; in an audit, that would have been.
    #[serde(default)]
    pub dropped: DroppedStatus,
    /// Logged drops by policy; at most 200 are named.
    #[serde(default)]
    pub logged_by_policy: BTreeMap<String, u64>,
    /// What each policy has decided, with `--policy-counters`; at most 200 are named.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub decided_by_policy: BTreeMap<String, DecidedStatus>,
}

/// First packets of connections.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct DecidedStatus {
    /// That a policy accepts.
    pub accepted: u64,
    /// That it denies.
    pub denied: u64,
}

/// New pods whose policies are in the kernel before their containers start.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct NewPodsStatus {
    /// The container runtime that tells of them, if it does.
    pub runtime: Option<String>,
    /// Why it does not, if it should.
    pub failure: Option<String>,
    /// Pods whose policies were there in time.
    pub programmed: u64,
    /// Pods that started before.
    pub overdue: u64,
    /// Pods that the runtime told no addresses of: those on the host's network, too.
    pub no_address: u64,
}

/// Packets that network policy dropped.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct DroppedStatus {
    /// By ingress policies.
    pub ingress: u64,
    /// By egress policies.
    pub egress: u64,
    /// As the pod was not known.
    pub unknown: u64,
}

/// The first sync: what a start costs, in milliseconds.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct FirstSync {
    /// From the start of the process until the lists were complete; compiling them comes after it.
    pub listed_ms: f64,
    /// Reading the kernel.
    pub read_ms: f64,
    /// Finding the difference.
    pub diff_ms: f64,
    /// Writing it.
    pub commit_ms: f64,
    /// From the start of the process until everything was installed.
    pub synced_ms: f64,
}

/// One sync.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct LastSync {
    /// When it ended.
    pub at: String,
    /// Why it was done.
    pub reason: String,
    /// How many Services its orders named.
    pub services: usize,
    /// How many additions and removals were written.
    pub operations: usize,
    /// In how many transactions.
    pub transactions: usize,
    /// Reading the kernel, in milliseconds.
    pub read_ms: f64,
    /// Finding the difference, in milliseconds.
    pub diff_ms: f64,
    /// Writing it, in milliseconds.
    pub commit_ms: f64,
}

/// Percentiles of latencies, in microseconds.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Latency {
    /// Of how many.
    pub count: usize,
    /// Half are no longer.
    pub p50: u32,
    /// 99 of 100 are no longer.
    pub p99: u32,
    /// None is longer.
    pub max: u32,
}

/// What was counted since the start.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Counters {
    /// Events that the loop has handled.
    pub events: u64,
    /// Orders given to the kernel thread.
    pub orders: u64,
    /// Syncs that succeeded.
    pub syncs: u64,
    /// Syncs that failed.
    pub failures: u64,
    /// Additions and removals written.
    pub operations: u64,
    /// Transactions written.
    pub transactions: u64,
    /// Changes by others that were put right.
    pub repairs: u64,
    /// Verifications that found a difference.
    pub drifts: u64,
    /// Connections ended because a change made them wrong.
    #[serde(default)]
    pub flows_ended: u64,
}

/// One frontend and how it is served.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct FrontendRow {
    /// The Service's namespace.
    pub namespace: String,
    /// The Service's name.
    pub name: String,
    /// The name of the ServicePort; may be empty.
    pub port: String,
    /// What the frontend is: ClusterIP, NodePort, ExternalIP, LoadBalancer.
    #[serde(rename = "type")]
    pub kind: String,
    /// Address, port and protocol; `from inside` behind it where clients in the cluster (local pods
    /// and the node) meet something else than others.
    pub frontend: String,
    /// What happens to new connections: forward, reject, drop.
    pub action: String,
    /// Whose source is hidden: always, outsiders, own (the node's).
    pub masquerade: String,
    /// Where new connections go.
    pub endpoints: Vec<String>,
    /// How many new connections there were to it, if the kernel counts them.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub connections: Option<u64>,
    /// How many of them each endpoint got, if the kernel counts that.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub endpoint_connections: BTreeMap<String, u64>,
}

/// The rows of one Service.
pub fn rows<'a>(
    key: &'a ObjectKey,
    service: &'a ServicePlan,
) -> impl Iterator<Item = FrontendRow> + 'a {
    service.frontends.iter().flat_map(|frontend| {
        let inside = frontend.from_inside.as_ref().map(|action| (action, true));
        let met = [(&frontend.action, false)].into_iter().chain(inside);
        met.map(|(action, inside)| row(key, frontend, action, inside))
    })
}

/// One frontend, as everyone meets it, or clients inside of the cluster.
pub(crate) fn row(
    key: &ObjectKey,
    frontend: &FrontendPlan,
    action: &Action,
    inside: bool,
) -> FrontendRow {
    let endpoints = match action {
        Action::Forward(pool) => pool.iter().map(ToString::to_string).collect(),
        Action::Reject | Action::Drop => Vec::new(),
    };
    FrontendRow {
        namespace: key.namespace.to_string(),
        name: key.name.to_string(),
        port: frontend.port_name.to_string(),
        kind: kind(frontend.kind).into(),
        frontend: met_by(&frontend.frontend, inside),
        action: self::action(action).into(),
        masquerade: masquerade(frontend.masquerade).into(),
        endpoints,
        ..FrontendRow::default()
    }
}

/// A frontend as everyone meets it, or as clients inside of the cluster do where that differs.
pub(crate) fn met_by(frontend: &Frontend, inside: bool) -> String {
    if inside { format!("{frontend} from inside") } else { frontend.to_string() }
}

/// The name of a kind of frontend.
#[must_use]
pub const fn kind(kind: FrontendKind) -> &'static str {
    match kind {
        FrontendKind::ClusterIp => "ClusterIP",
        FrontendKind::NodePort => "NodePort",
        FrontendKind::ExternalIp => "ExternalIP",
        FrontendKind::LoadBalancer => "LoadBalancer",
    }
}

/// The name of an action.
#[must_use]
pub const fn action(action: &Action) -> &'static str {
    match action {
        Action::Forward(_) => "forward",
        Action::Reject => "reject",
        Action::Drop => "drop",
    }
}

/// The name of a masquerade class.
#[must_use]
pub const fn masquerade(masquerade: Masquerade) -> &'static str {
    match masquerade {
        Masquerade::Always => "always",
        Masquerade::Outsiders => "outsiders",
        Masquerade::Own => "own",
    }
}
