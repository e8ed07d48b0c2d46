//! Compiling: a snapshot in, a complete plan out.

mod claims;
mod frontends;
mod node;
mod pools;
mod service;
#[cfg(test)]
mod tests;
mod weights;

use std::sync::Arc;

use ipnet::IpNet;

use self::claims::Claims;
use crate::interface::InterfacePattern;
use crate::plan::{Plan, PlanDelta};
use crate::snapshot::{Dirty, Snapshot};

/// What the operator has set, as far as the plan depends on it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Settings {
    /// The name of our Node; endpoints with exactly this `nodeName` are local.
    pub node_name: Arc<str>,
    /// The addresses on which NodePorts are served.
    pub node_port_addresses: NodePortAddresses,
    /// The sources that count as local pods.
    pub local_sources: LocalSources,
    /// Masquerade all traffic to ClusterIPs.
    pub masquerade_all: bool,
    /// `spec.externalIPs` are served (off: CVE-2020-8554 is no question, KEP-5707).
    pub external_ips: bool,
    /// TCP connections to endpoints that are gone are ended too.
    pub reset_tcp: bool,
    /// The machine itself reaches NodePorts on 127.0.0.1, too.
    pub localhost_node_ports: bool,
}

/// The addresses on which NodePorts are served.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum NodePortAddresses {
    /// The Node's own addresses, the first of each family (kube-proxy's `primary`). Without a
    /// Node, or as long as it has no address: all of the machine's addresses that are neither
    /// loopback nor link-local.
    Primary,
    /// Every non-loopback address of the machine in these networks; a family with no network in
    /// the list matches all of that family.
    Within(Vec<IpNet>),
}

/// The sources that count as local pods.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum LocalSources {
    /// Nothing is known.
    Unknown,
    /// These networks.
    Cidrs(Vec<IpNet>),
    /// Our Node's `spec.podCIDRs`.
    NodePodCidrs,
    /// Whatever comes in by these interfaces.
    Interfaces(InterfacePattern),
}

/// Compiles what is dirty. It remembers who claims which frontend, and nothing else.
#[derive(Clone, Debug)]
pub struct Compiler {
    settings: Settings,
    claims: Claims,
}

impl Compiler {
    /// A compiler that has compiled nothing yet.
    #[must_use]
    pub fn new(settings: Settings) -> Self {
        Self { settings, claims: Claims::default() }
    }

    /// Compiles what is dirty, and whoever gains or loses a frontend by it. Returns what differs
    /// from `plan`, which must be the plan that the former updates have led to.
    #[must_use]
    pub fn update(&mut self, snapshot: &Snapshot, dirty: &Dirty, plan: &Plan) -> PlanDelta {
        let mut delta = PlanDelta::default();
        if dirty.node {
            let node = node::plan(&self.settings, snapshot);
            delta.node = (node != *plan.node).then(|| Arc::new(node));
        }
        // All claims must be up to date before the first plan asks who owns what.
        let mut stale = dirty.services.clone();
        for key in &dirty.services {
            let claim = snapshot.service(key).map(|s| frontends::claim(s, &self.settings));
            let affected = self.claims.replace(key, claim);
            // Nearly always it is this one alone, which is there.
            stale.extend(affected.into_iter().filter(|other| other != key));
        }
        let zone = snapshot.node(&self.settings.node_name);
        let zone = zone.and_then(|node| node.zone.as_deref());
        let changed = stale.into_iter().filter_map(|key| {
            let new = snapshot.service(&key).map(|service| {
                let slices = snapshot.slices_of(&key);
                service::plan(service, slices, (&self.settings, zone), &self.claims)
            });
            let differs = new.as_ref() != plan.services.get(&key).map(AsRef::as_ref);
            differs.then(|| (key, new.map(Arc::new)))
        });
        // In order, so the map is made at once and not by a search for each.
        delta.services = changed.collect();
        delta
    }

    /// Whether no Service claims anything.
    #[cfg(test)]
    pub(crate) fn holds_no_claims(&self) -> bool {
        self.claims.is_empty()
    }
}

/// The plan from nothing, which always equals the one that updates have led to.
#[must_use]
pub fn full(settings: &Settings, snapshot: &Snapshot) -> Plan {
    let mut plan = Plan::default();
    let delta = Compiler::new(settings.clone()).update(snapshot, &snapshot.everything(), &plan);
    plan.apply(delta);
    plan
}
