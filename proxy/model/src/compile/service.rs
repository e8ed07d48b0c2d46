//! One Service's part of the plan.

use std::sync::Arc;

use ipnet::IpNet;

use super::Settings;
use super::claims::{Claimant, Claims, Strength};
use super::frontends::{problem, wanted};
use super::pools::Pools;
use super::weights::weights;
use crate::address::Family;
use crate::object::{EndpointSlice, Service, TrafficPolicy};
use crate::plan::{Action, FrontendKind, FrontendPlan, Masquerade, ServicePlan};

/// Compiles a Service's part. All claims must be up to date.
pub(super) fn plan(
    service: &Service,
    slices: &[EndpointSlice],
    settings: &Settings,
    claims: &Claims,
) -> ServicePlan {
    let mut problems = Vec::new();
    let mut pools = Pools::new(&service.ports, slices, &settings.node_name);
    let wanted = wanted(service, &mut problems);
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
        lingering: pools.lingering(settings.reset_tcp),
        problems,
    }
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
