//! One Service's part of the plan.

use std::sync::Arc;

use super::claims::{Claimant, Claims, Strength};
use super::frontends::{problem, wanted};
use super::pools::Pools;
use crate::address::Family;
use crate::object::{EndpointSlice, Service, TrafficPolicy};
use crate::plan::{Action, FrontendKind, FrontendPlan, Masquerade, ServicePlan};
use crate::problem::Problem;

/// Compiles a Service's part. All claims must be up to date.
pub(super) fn plan(
    service: &Service,
    slices: &[EndpointSlice],
    node_name: &str,
    claims: &Claims,
) -> ServicePlan {
    let mut problems = Vec::new();
    problems.extend(affinity_unsupported(service));
    problems.extend(source_ranges_unsupported(service));
    let mut pools = Pools::new(&service.ports, slices, node_name);
    let mut frontends = Vec::new();
    for (frontend, wanted) in wanted(service, &mut problems) {
        if let Some(owner) = claims.owner(&frontend).filter(|owner| owner.key != service.key) {
            let by =
                format!("already used by Service {}, which {}", owner.key, why(owner, service));
            problems.push(problem(service, wanted.field, format!("{frontend} is {by}; skipped")));
            continue;
        }
        let kind = wanted.kind();
        let policy = policy(service, kind);
        let (action, from_inside) =
            if kind == FrontendKind::LoadBalancer && has_source_ranges(service) {
                (Action::Drop, None)
            } else {
                actions(&mut pools, wanted.port, frontend.family(), (kind, policy))
            };
        frontends.push(FrontendPlan {
            frontend,
            kind,
            port_name: Arc::clone(&service.ports[wanted.port].name),
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
        frontends,
        cluster_ips,
        hairpins: pools.hairpins(),
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

fn affinity_unsupported(service: &Service) -> Option<Problem> {
    service.affinity_seconds.map(|_| {
        let reason = "ClientIP is not supported yet; connections are spread";
        problem(service, "spec.sessionAffinity", reason)
    })
}

fn source_ranges_unsupported(service: &Service) -> Option<Problem> {
    has_source_ranges(service).then(|| {
        let reason = "source ranges are not supported yet; load-balancer traffic is dropped";
        problem(service, "spec.loadBalancerSourceRanges", reason)
    })
}

/// Whether only some clients may use the load balancer's addresses. To ignore that would let
/// everyone in.
const fn has_source_ranges(service: &Service) -> bool {
    !service.load_balancer_source_ranges.is_empty()
}
