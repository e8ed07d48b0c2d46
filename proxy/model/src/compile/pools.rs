//! The pools of a Service: which endpoints a frontend may use.

use std::collections::BTreeMap;
use std::net::IpAddr;

use crate::address::{Endpoint, Family, Protocol};
use crate::object::{EndpointSlice, Hints, ServicePort, SliceEndpoint, TrafficPolicy};
use crate::plan::Action;

/// A pool, and the action that leads to it.
struct Pool {
    action: Action,
    /// The addresses of its endpoints that may be on this node.
    hairpins: Vec<IpAddr>,
}

/// An endpoint of a ServicePort, with its conditions.
type Candidate<'a> = (Endpoint, &'a SliceEndpoint);

/// Where this machine is.
#[derive(Clone, Copy, Debug)]
pub(super) struct Here<'a> {
    /// The name of our Node.
    pub(super) node: &'a str,
    /// Its zone, if it has one.
    pub(super) zone: Option<&'a str>,
}

impl Here<'_> {
    fn has(&self, endpoint: &SliceEndpoint) -> bool {
        endpoint.node() == Some(self.node)
    }
}

/// The pools of one Service, each made once, so that frontends share them.
pub(super) struct Pools<'a> {
    ports: &'a [ServicePort],
    slices: &'a [EndpointSlice],
    here: Here<'a>,
    pools: BTreeMap<(usize, Family, TrafficPolicy), Pool>,
}

impl<'a> Pools<'a> {
    /// The pools of a Service with these ports and slices.
    pub(super) const fn new(
        ports: &'a [ServicePort],
        slices: &'a [EndpointSlice],
        here: Here<'a>,
    ) -> Self {
        Self { ports, slices, here, pools: BTreeMap::new() }
    }

    /// What happens to a new connection to a frontend of this ServicePort (by index).
    pub(super) fn action(&mut self, port: usize, family: Family, policy: TrafficPolicy) -> Action {
        let (ports, slices, here) = (self.ports, self.slices, self.here);
        let make = || {
            let candidates = candidates(slices, &ports[port], family);
            pool(&candidates, policy, here)
        };
        self.pools.entry((port, family, policy)).or_insert_with(make).action.clone()
    }

    /// The addresses of endpoints, in any of the pools asked for, that may reach themselves.
    pub(super) fn hairpins(&self) -> Vec<IpAddr> {
        let mut hairpins: Vec<IpAddr> =
            self.pools.values().flat_map(|pool| pool.hairpins.iter().copied()).collect();
        hairpins.sort_unstable();
        hairpins.dedup();
        hairpins
    }

    /// The endpoints in none of the pools asked for that may go on with the connections that they
    /// have; of TCP only where those are to be reset in the end.
    pub(super) fn lingering(&self, tcp: bool) -> Box<[(Protocol, Endpoint)]> {
        let mut lingering = Vec::new();
        let mut asked: Vec<_> =
            self.pools.keys().map(|(port, family, _)| (*port, *family)).collect();
        asked.dedup();
        for (at, family) in asked {
            let port = &self.ports[at];
            let goes_on: fn(&SliceEndpoint) -> bool = match port.protocol {
                Protocol::Tcp if tcp => |_| true,
                Protocol::Tcp => continue,
                Protocol::Udp | Protocol::Sctp => |e| e.ready || e.serving,
            };
            let pools = [TrafficPolicy::Cluster, TrafficPolicy::Local]
                .map(|policy| self.pools.get(&(at, family, policy)));
            let in_pool = |endpoint: &Endpoint| {
                pools.iter().flatten().any(|pool| match &pool.action {
                    Action::Forward(pool) => pool.binary_search(endpoint).is_ok(),
                    Action::Reject | Action::Drop => false,
                })
            };
            let candidates = candidates(self.slices, port, family).into_iter();
            let left = candidates.filter(|(endpoint, e)| goes_on(e) && !in_pool(endpoint));
            lingering.extend(left.map(|(endpoint, _)| (port.protocol, endpoint)));
        }
        lingering.sort_unstable();
        lingering.dedup();
        lingering.into()
    }
}

/// The endpoints of a ServicePort, sorted, each once.
fn candidates<'a>(
    slices: &'a [EndpointSlice],
    port: &ServicePort,
    family: Family,
) -> Vec<Candidate<'a>> {
    let mut candidates: Vec<Candidate<'a>> = Vec::new();
    for slice in slices {
        let matching = slice.ports.iter();
        let matching = matching.filter(|p| p.name == port.name && p.protocol == port.protocol);
        for number in matching.map(|matching| matching.port) {
            let of_family = slice.endpoints.iter().filter(|e| Family::of(e.address) == family);
            candidates.extend(
                of_family.map(|endpoint| {
                    (Endpoint { address: endpoint.address, port: number }, endpoint)
                }),
            );
        }
    }
    // A pod that moves between slices stands in both for a while, and one of them is out of date:
    // that is the one that says less good of it. The sort is stable, so a tie is decided by the
    // order of the slices.
    candidates.sort_by_key(|(endpoint, e)| (*endpoint, e.terminating, !e.ready, !e.serving));
    candidates.dedup_by_key(|(endpoint, _)| *endpoint);
    candidates
}

fn pool(candidates: &[Candidate<'_>], policy: TrafficPolicy, here: Here<'_>) -> Pool {
    let everywhere = usable(candidates, |_| true);
    let none = |action| Pool { action, hairpins: Vec::new() };
    if everywhere.is_empty() {
        return none(Action::Reject);
    }
    let chosen = match policy {
        TrafficPolicy::Cluster => near(everywhere, here),
        TrafficPolicy::Local => usable(candidates, |e| here.has(e)),
    };
    if chosen.is_empty() {
        return none(Action::Drop);
    }
    let may_be_here = |e: &SliceEndpoint| e.node().is_none() || here.has(e);
    let hairpins = chosen.iter().filter(|(_, e)| may_be_here(e));
    Pool {
        hairpins: hairpins.map(|(endpoint, _)| endpoint.address).collect(),
        action: Action::Forward(chosen.iter().map(|(endpoint, _)| *endpoint).collect()),
    }
}

/// Those of the ready endpoints that are meant for this node, else for its zone, else all: hints
/// count only if every ready endpoint has some, and one of them is for us (KEP-2433, KEP-3015).
fn near<'a>(endpoints: Vec<Candidate<'a>>, here: Here<'_>) -> Vec<Candidate<'a>> {
    let for_node = |hints: &Hints| hints.nodes.iter().any(|node| **node == *here.node);
    let for_zone = |hints: &Hints| here.zone.is_some_and(|z| hints.zones.iter().any(|h| **h == *z));
    let of = |e: &'a SliceEndpoint| e.hints().filter(|_| e.ready);
    let all = |given: fn(&Hints) -> bool| endpoints.iter().all(|(_, e)| of(e).is_some_and(given));
    let some = |ours: &dyn Fn(&Hints) -> bool| -> Vec<_> {
        endpoints.iter().filter(|(_, e)| of(e).is_some_and(ours)).copied().collect()
    };
    let same_node = if all(|hints| !hints.nodes.is_empty()) { some(&for_node) } else { Vec::new() };
    if !same_node.is_empty() {
        return same_node;
    }
    let same_zone = if all(|hints| !hints.zones.is_empty()) { some(&for_zone) } else { Vec::new() };
    if same_zone.is_empty() { endpoints } else { same_zone }
}

/// The ready ones; if there are none, those that end but still serve (KEP-1669).
fn usable<'a>(
    candidates: &[Candidate<'a>],
    allowed: impl Fn(&SliceEndpoint) -> bool,
) -> Vec<Candidate<'a>> {
    let those = |wanted: fn(&SliceEndpoint) -> bool| -> Vec<Candidate<'a>> {
        candidates.iter().filter(|(_, e)| wanted(e) && allowed(e)).copied().collect()
    };
    let ready = those(|e| e.ready);
    if ready.is_empty() { those(|e| e.serving && e.terminating) } else { ready }
}
