//! Plans to try.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::sync::Arc;

use ipnet::IpNet;
use shunt_model::address::{Endpoint, Family, Frontend, FrontendAddress, Protocol};
use shunt_model::balancing::Balancing;
use shunt_model::object::{ObjectKey, ServiceType};
use shunt_model::plan::{
    Action, FrontendKind, FrontendPlan, Masquerade, NodePlan, Plan, PlanDelta, ServicePlan,
};

/// A Service number `n` with these endpoints, of both families, with a NodePort. Each fifth has the
/// external traffic policy Local and an address of a load balancer; even endpoints are local. Each
/// tenth also has source ranges.
pub(crate) fn service(n: u16, endpoints: &[u16]) -> (ObjectKey, Arc<ServicePlan>) {
    let [high, low] = n.to_be_bytes();
    let ips: [IpAddr; 2] = [[10, 96, high, low].into(), [0xfd00, 0x96, 0, 0, 0, 0, 0, n].into()];
    let mut frontends = Vec::new();
    for ip in ips {
        let family = Family::of(ip);
        let action = forward(family, n, endpoints);
        let cluster_ip =
            Frontend { address: FrontendAddress::Ip(ip), protocol: Protocol::Tcp, port: 80 };
        let node_port = Frontend {
            address: FrontendAddress::Node(family),
            protocol: Protocol::Tcp,
            port: 30_000 + n % 2000,
        };
        frontends.push(plan(cluster_ip, FrontendKind::ClusterIp, &action, Masquerade::Outsiders));
        if n % 5 == 4 {
            let external = [203, 0, 113, low].into();
            let external = if family == Family::V4 {
                external
            } else {
                IpAddr::from([0xfd02, 0, 0, 0, 0, 0, 0, n])
            };
            let external = Frontend { address: FrontendAddress::Ip(external), ..cluster_ip };
            let mut external = local(external, FrontendKind::LoadBalancer, n, endpoints);
            // One range for each endpoint, so that they come and go.
            let ranges = endpoints.iter().map(|e| source_range(family, *e));
            external.sources = n.is_multiple_of(2).then(|| ranges.collect());
            frontends.push(external);
            frontends.push(local(node_port, FrontendKind::NodePort, n, endpoints));
        } else if n < 2000 {
            frontends.push(plan(node_port, FrontendKind::NodePort, &action, Masquerade::Always));
        }
    }
    frontends.sort_unstable_by_key(|plan| plan.frontend);
    let service = ServicePlan {
        service_type: ServiceType::NodePort,
        frontends,
        cluster_ips: ips.to_vec(),
        hairpins: endpoints.iter().take(2).map(|e| endpoint(Family::V4, n, *e).address).collect(),
        balancing: None,
        weights: Box::default(),
        lingering: Box::default(),
        health_check: None,
        problems: Vec::new(),
    };
    (ObjectKey::new("default", &format!("web-{n}")), Arc::new(service))
}

/// A Service whose connections are spread so; the first endpoint of each family weighs more.
pub(crate) fn balanced(
    (key, service): (ObjectKey, Arc<ServicePlan>),
    balancing: Balancing,
    weighted: bool,
) -> (ObjectKey, Arc<ServicePlan>) {
    let mut service = (*service).clone();
    let first = |plan: &FrontendPlan| match &plan.action {
        Action::Forward(pool) => Some((pool[0], 3)),
        Action::Reject | Action::Drop => None,
    };
    let heavy: BTreeMap<_, _> = service.frontends.iter().filter_map(first).collect();
    service.weights = heavy.into_iter().filter(|_| weighted).collect();
    service.balancing = Some(Arc::new(balancing));
    (key, Arc::new(service))
}

fn plan(
    frontend: Frontend,
    kind: FrontendKind,
    action: &Action,
    masquerade: Masquerade,
) -> FrontendPlan {
    let (action, from_inside) = (action.clone(), None);
    let (port_name, sources) = ("http".into(), None);
    FrontendPlan { frontend, kind, port_name, sources, action, from_inside, masquerade }
}

fn source_range(family: Family, n: u16) -> IpNet {
    let [_, low] = n.to_be_bytes();
    match family {
        Family::V4 if low % 2 == 0 => format!("198.51.{low}.0/24").parse().unwrap(),
        Family::V4 => format!("198.51.{low}.7/32").parse().unwrap(),
        Family::V6 => format!("2001:db8:{low:x}::/48").parse().unwrap(),
    }
}

fn local(frontend: Frontend, kind: FrontendKind, n: u16, endpoints: &[u16]) -> FrontendPlan {
    let everywhere = forward(frontend.family(), n, endpoints);
    let here: Vec<u16> = endpoints.iter().copied().filter(|e| e % 2 == 0).collect();
    let action = match forward(frontend.family(), n, &here) {
        Action::Reject if !endpoints.is_empty() => Action::Drop,
        action => action,
    };
    let from_inside = Some(everywhere).filter(|everywhere| *everywhere != action);
    FrontendPlan { from_inside, ..plan(frontend, kind, &action, Masquerade::Own) }
}

fn forward(family: Family, n: u16, endpoints: &[u16]) -> Action {
    if endpoints.is_empty() {
        return Action::Reject;
    }
    let mut pool: Vec<_> = endpoints.iter().map(|e| endpoint(family, n, *e)).collect();
    pool.sort_unstable();
    Action::Forward(pool.into())
}

fn endpoint(family: Family, service: u16, n: u16) -> Endpoint {
    let ([a, b], [c, d]) = (service.to_be_bytes(), n.to_be_bytes());
    let address = match family {
        Family::V4 => [10, 128 + (a & 0x3f), b, d].into(),
        Family::V6 => [0xfd01, 0, 0, 0, 0, 0, service, n].into(),
    };
    Endpoint { address, port: 8080 + u16::from(c) }
}

/// A node with addresses and pod networks.
pub(crate) fn node() -> Arc<NodePlan> {
    let addresses: BTreeSet<IpAddr> =
        [[192, 168, 77, 11].into(), "fd00:77::11".parse().unwrap()].into();
    let local_sources =
        ["10.77.1.0/24", "fd00:10:77:1::/64"].map(|net| net.parse().unwrap()).into();
    let service_cidrs = ["10.96.0.0/16", "fd00:10:96::/112"].map(|net| net.parse().unwrap()).into();
    Arc::new(NodePlan {
        node_port_addresses: addresses,
        local_sources,
        service_cidrs,
        ..NodePlan::default()
    })
}

/// The delta from one plan to another.
pub(crate) fn delta(old: &Plan, new: &Plan) -> PlanDelta {
    let mut delta = PlanDelta::default();
    if old.node != new.node {
        delta.node = Some(Arc::clone(&new.node));
    }
    for key in old.services.keys().chain(new.services.keys()) {
        let (before, after) = (old.services.get(key), new.services.get(key));
        if before != after {
            delta.services.insert(key.clone(), after.cloned());
        }
    }
    delta
}
