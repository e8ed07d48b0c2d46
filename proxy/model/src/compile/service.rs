//! One Service's part of the plan.

use std::collections::BTreeSet;
use std::net::IpAddr;
use std::sync::Arc;

use ipnet::IpNet;

use super::Settings;
use super::claims::{Claimant, Claims, Strength};
use super::frontends::{problem, wanted};
use super::pools::{Here, Pools};
use super::weights::weights;
use crate::address::Family;
use crate::object::{EndpointSlice, Service, SlicePort, TrafficPolicy};
use crate::plan::{Action, FrontendKind, FrontendPlan, HealthCheck, Masquerade, ServicePlan};

/// Compiles a Service's part. All claims must be up to date.
pub(super) fn plan(
    service: &Service,
    slices: &[EndpointSlice],
    (settings, zone): (&Settings, Option<&str>),
    claims: &Claims,
) -> ServicePlan {
    let mut problems = Vec::new();
    let mut pools = Pools::new(&service.ports, slices, Here { node: &settings.node_name, zone });
    let wanted = wanted(service, settings, &mut problems);
    // Exactly: there are many plans, and most have one frontend.
    let mut frontends = Vec::with_capacity(wanted.len());
    for (frontend, wanted) in wanted {
        if let Some(owner) = claims.owner(&frontend).filter(|owner| owner.key != service.key) {
            let by =
                format!("already used by Service {}, which {}", owner.key, why(owner, service));
            problems.push(problem(service, wanted.field, format!("{frontend} is {by}; skipped")));
            continue;
        }
        let kind = wanted.kind();
        let policy = policy(service, kind);
        let (action, from_inside) =
            actions(&mut pools, wanted.port, frontend.family(), (kind, policy));
        frontends.push(FrontendPlan {
            frontend,
            kind,
            port_name: Arc::clone(&service.ports[wanted.port].name),
            sources: sources(service, kind, frontend.family()),
            action,
            from_inside,
            masquerade: masquerade(kind, policy),
        });
    }
    problems.sort_unstable();
    problems.dedup();
    let mut cluster_ips = service.cluster_ips.clone();
    cluster_ips.sort_unstable();
    cluster_ips.dedup();
    ServicePlan {
        service_type: service.service_type,
        weights: weights(service.balancing.as_deref(), slices, &frontends),
        frontends,
        cluster_ips,
        hairpins: pools.hairpins(),
        balancing: service.balancing.clone(),
        health_check: health_check(service, slices, &settings.node_name),
        lingering: pools.lingering(settings.reset_tcp),
        problems,
    }
}

/// How many of a Service's addresses are ready on this node, where a load balancer may ask.
fn health_check(
    service: &Service,
    slices: &[EndpointSlice],
    node_name: &str,
) -> Option<HealthCheck> {
    let port = service.health_check_node_port?;
    let ports = || service.ports.iter();
    let matches = |slice: &&EndpointSlice| {
        let names = |p: &SlicePort| ports().any(|q| q.name == p.name && q.protocol == p.protocol);
        slice.ports.iter().any(names)
    };
    let endpoints = slices.iter().filter(matches).flat_map(|slice| &slice.endpoints);
    let ready = endpoints.filter(|e| e.ready && e.node() == Some(node_name));
    let ready: BTreeSet<IpAddr> = ready.map(|endpoint| endpoint.address).collect();
    let of = |family| ready.iter().filter(|ip| Family::of(**ip) == family).count();
    let local = Family::ALL.map(|family| u32::try_from(of(family)).unwrap_or(u32::MAX));
    Some(HealthCheck { port, local })
}

/// Why another owns a frontend that this Service also asks for.
fn why(owner: &Claimant, service: &Service) -> &'static str {
    let own = Claimant::new(owner.strength, service.created, service.key.clone());
    match owner.strength {
        Strength::Allocated => "has it as ClusterIP",
        Strength::Asked if owner.created < own.created => "is older",
        Strength::Asked => "comes first by name",
    }
}

/// What happens to new connections, and to those from inside if that differs. The external policy
/// Local is there to keep the client's address and to spare a hop; for a client inside neither is
/// at stake, and it shall not find a Service dead that has endpoints.
fn actions(
    pools: &mut Pools<'_>,
    port: usize,
    family: Family,
    (kind, policy): (FrontendKind, TrafficPolicy),
) -> (Action, Option<Action>) {
    let action = pools.action(port, family, policy);
    if kind == FrontendKind::ClusterIp || policy == TrafficPolicy::Cluster {
        return (action, None);
    }
    let everywhere = pools.action(port, family, TrafficPolicy::Cluster);
    let from_inside = Some(everywhere).filter(|everywhere| *everywhere != action);
    (action, from_inside)
}

/// The traffic policy that governs a frontend.
const fn policy(service: &Service, kind: FrontendKind) -> TrafficPolicy {
    match kind {
        FrontendKind::ClusterIp => service.internal_traffic_policy,
        FrontendKind::NodePort | FrontendKind::ExternalIp | FrontendKind::LoadBalancer => {
            service.external_traffic_policy
        }
    }
}

/// Whose source is hidden: a client outside the cluster must get its answer through this node,
/// which is no question where all its endpoints are here.
const fn masquerade(kind: FrontendKind, policy: TrafficPolicy) -> Masquerade {
    match (kind, policy) {
        (FrontendKind::ClusterIp, _) => Masquerade::Outsiders,
        (_, TrafficPolicy::Cluster) => Masquerade::Always,
        (_, TrafficPolicy::Local) => Masquerade::Own,
    }
}

/// Who may use a frontend: `loadBalancerSourceRanges` are for the load balancer's addresses only.
/// With ranges of the other family alone no one may: who restricts a Service does not expect one
/// family to stay open. A range of everyone is no restriction.
fn sources(service: &Service, kind: FrontendKind, family: Family) -> Option<Arc<[IpNet]>> {
    let ranges = &service.load_balancer_source_ranges;
    if kind != FrontendKind::LoadBalancer || ranges.is_empty() {
        return None;
    }
    let of_family = ranges.iter().filter(|net| Family::of(net.addr()) == family);
    let mut allowed = IpNet::aggregate(&of_family.map(IpNet::trunc).collect());
    allowed.sort_unstable();
    let everyone = allowed.iter().any(|net| net.prefix_len() == 0);
    (!everyone).then(|| allowed.into())
}
