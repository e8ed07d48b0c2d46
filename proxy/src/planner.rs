//! Snapshot, compiler and plan in one hand: changes in, orders for the kernel thread out.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::{Duration, Instant};

use shunt_model::address::Family;
use shunt_model::compile::{Compiler, Settings};
use shunt_model::plan::{Action, FrontendKind, FrontendPlan, Plan, PlanDelta, ServicePlan};
use shunt_model::problem::Kind;
use shunt_model::snapshot::{Change, Dirty, Snapshot};

use crate::kernel::Order;

/// How long the first order waits for what only NodePorts need: our Node and the addresses of
/// this machine. An API server that never shows us our Node must not keep Services from clients.
const NODE_GRACE: Duration = Duration::from_secs(10);

/// How much there is in the plan.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Totals {
    /// Services.
    pub services: usize,
    /// Frontends of all Services.
    pub frontends: usize,
    /// Endpoints of all Services, each counted once for each Service.
    pub endpoints: usize,
    /// ServicePorts whose traffic policy is Local and leaves them no endpoint: by the internal
    /// policy, by the external one; each for IPv4 and IPv6.
    pub without_local: [[usize; 2]; 2],
}

/// Owns the snapshot and the plan made of it.
#[derive(Debug)]
pub struct Planner {
    snapshot: Snapshot,
    compiler: Compiler,
    plan: Plan,
    totals: Totals,
    dirty: Dirty,
    /// When the oldest event that is not in the plan yet was received.
    oldest: Option<Instant>,
    ordered: u64,
    machine_known: bool,
    /// Since when the Services could be served if it were not for the Node.
    served_from: Option<Instant>,
}

impl Planner {
    /// A planner that knows nothing yet.
    #[must_use]
    pub fn new(settings: Settings) -> Self {
        Self {
            snapshot: Snapshot::new(),
            compiler: Compiler::new(settings),
            plan: Plan::default(),
            totals: Totals::default(),
            dirty: Dirty::default(),
            oldest: None,
            ordered: 0,
            machine_known: false,
            served_from: None,
        }
    }

    /// Takes a change in.
    pub fn take(&mut self, change: Change, received: Instant) {
        self.machine_known |= matches!(change, Change::LocalAddresses(_));
        let dirty = self.snapshot.apply(change);
        if self.snapshot.is_complete() {
            self.served_from.get_or_insert(received);
        }
        // The first order is everything, so nothing need be remembered until then.
        if self.ordered > 0 && !dirty.is_empty() {
            self.dirty.merge(dirty);
            self.oldest.get_or_insert(received);
        }
    }

    /// The order that brings the kernel to the newest plan, if that differs from the one ordered
    /// last. The first one comes when the lists are complete, also if there is nothing in it:
    /// what an earlier run has left must go.
    pub fn order(&mut self, now: Instant) -> Option<Order> {
        let first = self.ordered == 0;
        if first {
            if !self.is_ready(now) {
                return None;
            }
            self.dirty = self.snapshot.everything();
        } else if self.dirty.is_empty() {
            return None;
        }
        let since = self.oldest.take().or(self.served_from).unwrap_or(now);
        let dirty = std::mem::take(&mut self.dirty);
        let delta = self.compiler.update(&self.snapshot, &dirty, &self.plan);
        if delta.is_empty() && !first {
            return None;
        }
        self.count(&delta);
        self.plan.apply(delta.clone());
        self.ordered += 1;
        Some(Order { number: self.ordered, delta, since })
    }

    /// When [`order`](Self::order) must be asked although nothing has come.
    #[must_use]
    pub fn wake_at(&self) -> Option<Instant> {
        let waits = self.ordered == 0;
        self.served_from.filter(|_| waits).map(|from| from + NODE_GRACE)
    }

    /// What the first order waits for; empty once it was given.
    #[must_use]
    pub fn awaited(&self) -> Vec<&'static str> {
        if self.ordered > 0 { Vec::new() } else { self.missing() }
    }

    /// What a complete plan is made of and is not known yet.
    #[must_use]
    pub fn missing(&self) -> Vec<&'static str> {
        let parts = [
            (self.snapshot.has_listed(Kind::Service), "Services"),
            (self.snapshot.has_listed(Kind::EndpointSlice), "EndpointSlices"),
            (self.snapshot.has_listed(Kind::Node), "the Node"),
            (self.snapshot.has_listed(Kind::ServiceCidr), "the ServiceCIDRs"),
            (self.machine_known, "the local addresses"),
        ];
        parts.into_iter().filter(|(known, _)| !known).map(|(_, what)| what).collect()
    }

    /// How many orders were given.
    #[must_use]
    pub const fn ordered(&self) -> u64 {
        self.ordered
    }

    /// How much there is in the plan.
    #[must_use]
    pub const fn totals(&self) -> Totals {
        self.totals
    }

    /// The plan as it was ordered last.
    #[must_use]
    pub const fn plan(&self) -> &Plan {
        &self.plan
    }

    /// The objects that the plan is made of.
    #[must_use]
    pub const fn snapshot(&self) -> &Snapshot {
        &self.snapshot
    }

    fn is_ready(&self, now: Instant) -> bool {
        let Some(from) = self.served_from else {
            return false;
        };
        self.missing().is_empty() || now >= from + NODE_GRACE
    }

    fn count(&mut self, delta: &PlanDelta) {
        for (key, new) in &delta.services {
            if let Some(old) = self.plan.services.get(key) {
                self.totals.services -= 1;
                self.totals.frontends -= old.frontends.len();
                self.totals.endpoints -= endpoints(old);
                without_local(old, |count| *count -= 1, &mut self.totals.without_local);
            }
            if let Some(new) = new {
                self.totals.services += 1;
                self.totals.frontends += new.frontends.len();
                self.totals.endpoints += endpoints(new);
                without_local(new, |count| *count += 1, &mut self.totals.without_local);
            }
        }
    }
}

fn is_v6(frontend: &FrontendPlan) -> bool {
    frontend.frontend.address.family() == Family::V6
}

/// Counts the ServicePorts that drop traffic for want of an endpoint on this node.
fn without_local(service: &ServicePlan, step: impl Fn(&mut usize), counts: &mut [[usize; 2]; 2]) {
    let dropping = service.frontends.iter().filter(|frontend| frontend.action == Action::Drop);
    let port = |frontend: &FrontendPlan| {
        let external = frontend.kind != FrontendKind::ClusterIp;
        (usize::from(external), usize::from(is_v6(frontend)), Arc::clone(&frontend.port_name))
    };
    let ports: BTreeSet<_> = dropping.map(port).collect();
    for (policy, family, _) in ports {
        step(&mut counts[policy][family]);
    }
}

/// How many endpoints a Service has; pools of several frontends overlap.
fn endpoints(service: &ServicePlan) -> usize {
    let mut pools = service.frontends.iter().filter_map(|frontend| match &frontend.action {
        Action::Forward(pool) => Some(pool),
        Action::Reject | Action::Drop => None,
    });
    let Some(first) = pools.next() else {
        return 0;
    };
    // Most Services have one pool, and it holds each endpoint once.
    let mut others = pools.filter(|pool| !std::sync::Arc::ptr_eq(pool, first)).peekable();
    if others.peek().is_none() {
        return first.len();
    }
    let all: BTreeSet<_> = others.chain([first]).flat_map(|pool| pool.iter()).collect();
    all.len()
}
