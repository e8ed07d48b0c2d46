//! What Services make of a connection, and why.

use std::net::IpAddr;

use shunt_model::address::{Endpoint, Family};
use shunt_model::balancing::{AffinityScope, Method};
use shunt_model::object::{SliceEndpoint, SlicePort, TrafficPolicy};
use shunt_model::oracle::{Match, Packet, Verdict};
use shunt_model::plan::{FrontendKind, Plan, ServicePlan};
use shunt_model::snapshot::Snapshot;

use super::answer::Unused;
use super::lack;

/// Why a verdict is what it is, in one clause.
pub(super) fn reason(
    (plan, services): (&Plan, &Snapshot),
    packet: &Packet,
    found: Option<&Match<'_>>,
    verdict: &Verdict,
) -> String {
    match (found, verdict) {
        (None, Verdict::Pass) => "no Service has this address and port".to_owned(),
        (None, Verdict::Reject) => {
            let mut services = plan.services.iter();
            let has = |service: &ServicePlan| service.cluster_ips.contains(&packet.destination);
            let owner = services.find(|(_, service)| has(service));
            let owner = owner.map_or_else(String::new, |(key, _)| format!(" {key}"));
            format!("it is the ClusterIP of Service{owner}, which has no such port")
        }
        (None, _) if packet.destination.is_loopback() => {
            "addresses of the loopback device are for the node itself".to_owned()
        }
        (None, _) => "the address is out of a ServiceCIDR, and no Service has it".to_owned(),
        (Some(found), Verdict::Forward(pool)) => {
            let endpoints = if pool.len() == 1 { "endpoint" } else { "endpoints" };
            format!("Service {} has {} {endpoints} for it", found.key, pool.len())
        }
        (Some(found), _) if !is_let_in(found, packet) => {
            format!("loadBalancerSourceRanges of Service {} do not hold the client", found.key)
        }
        (Some(found), Verdict::Reject) => {
            let why = lack::of_endpoints(services, found);
            let why = why.map_or_else(String::new, |why| format!(": {why}"));
            format!("Service {} has no endpoint{why}", found.key)
        }
        (Some(found), _) => {
            format!(
                "Service {} has no endpoint on this node, and its {} is Local",
                found.key,
                policy_of(found.frontend.kind)
            )
        }
    }
}

/// Whether source ranges let the client in.
fn is_let_in(found: &Match<'_>, packet: &Packet) -> bool {
    let sources = found.frontend.sources.as_ref();
    sources.is_none_or(|nets| nets.iter().any(|net| net.contains(&packet.source)))
}

const fn policy_of(kind: FrontendKind) -> &'static str {
    match kind {
        FrontendKind::ClusterIp => "internalTrafficPolicy",
        FrontendKind::NodePort | FrontendKind::ExternalIp | FrontendKind::LoadBalancer => {
            "externalTrafficPolicy"
        }
    }
}

/// How an endpoint is picked.
pub(super) fn spread(service: &ServicePlan) -> String {
    let mut spread = match service.method() {
        Method::Random => "at random",
        Method::HashAddress => "by a hash of the client's address",
        Method::HashConnection => "by a hash of the client's address and port",
    }
    .to_owned();
    if !service.weights.is_empty() {
        spread.push_str(", by weight");
    }
    if let Some(affinity) = service.affinity() {
        let within = match affinity.scope {
            AffinityScope::Port => "",
            AffinityScope::Service => ", on all ports of the Service",
        };
        spread.push_str(&format!(
            "; a client keeps its endpoint for {} s after its last connection{within}",
            affinity.seconds
        ));
    }
    spread
}

/// The part of the connections that an endpoint gets, in per cent.
pub(super) fn share(
    service: &ServicePlan,
    pool: &[(Endpoint, bool)],
    endpoint: &Endpoint,
) -> String {
    let all: u32 = pool.iter().map(|(each, _)| u32::from(service.weight(each))).sum();
    let own = f64::from(service.weight(endpoint));
    format!("{:.1}", 100.0 * own / f64::from(all.max(1)))
}

/// The endpoints of the ServicePort that are not in the pool, and why; `inside`: the client meets
/// what the frontend has for those inside of the cluster.
pub(super) fn unused(
    services: &Snapshot,
    here: &str,
    (found, inside): (&Match<'_>, bool),
    pool: &[(Endpoint, bool)],
) -> Vec<Unused> {
    let Some(service) = services.service(found.key) else { return Vec::new() };
    let (frontend, family) = (found.frontend, found.frontend.frontend.family());
    let policy = match frontend.kind {
        _ if inside => TrafficPolicy::Cluster,
        FrontendKind::ClusterIp => service.internal_traffic_policy,
        FrontendKind::NodePort | FrontendKind::ExternalIp | FrontendKind::LoadBalancer => {
            service.external_traffic_policy
        }
    };
    let is_it = |port: &&SlicePort| {
        port.name == frontend.port_name && port.protocol == frontend.frontend.protocol
    };
    let mut unused = Vec::new();
    for slice in services.slices_of(found.key) {
        for port in slice.ports.iter().filter(is_it) {
            for each in slice.endpoints.iter().filter(|each| Family::of(each.address) == family) {
                let endpoint = Endpoint { address: each.address, port: port.port };
                if !pool.iter().any(|(used, _)| *used == endpoint) {
                    let reason = why_not(each, here, policy);
                    unused.push(Unused { endpoint: endpoint.to_string(), reason });
                }
            }
        }
    }
    unused
}

fn why_not(endpoint: &SliceEndpoint, here: &str, policy: TrafficPolicy) -> String {
    let elsewhere = endpoint.node().filter(|node| *node != here);
    match endpoint {
        SliceEndpoint { terminating: true, serving: true, ready: false, .. } => {
            "it ends; it serves on only where no other is ready".to_owned()
        }
        SliceEndpoint { terminating: true, ready: false, .. } => "it ends".to_owned(),
        SliceEndpoint { ready: false, .. } => "it is not ready".to_owned(),
        _ if policy == TrafficPolicy::Local => match elsewhere {
            Some(node) => format!("it is on {node}, and the traffic policy is Local"),
            None => "its node is unknown, and the traffic policy is Local".to_owned(),
        },
        _ => "others are nearer, by the hints of the EndpointSlices".to_owned(),
    }
}

/// The first address of a node, of a family.
pub(super) fn address_of(
    plan: &Plan,
    services: &Snapshot,
    node: &str,
    family: Family,
) -> Option<IpAddr> {
    let of_family = |address: &&IpAddr| Family::of(**address) == family && !address.is_loopback();
    let told = services.node(node).and_then(|node| node.addresses.iter().find(of_family));
    told.or_else(|| plan.node.own_addresses.iter().find(of_family)).copied()
}
