//! The snapshot as text.

use shunt_model::balancing::{Balancing, Method, WEIGHT};
use shunt_model::object::{
    EndpointSlice, Node, Service, ServicePort, SliceEndpoint, SlicePort, TrafficPolicy,
};
use shunt_model::snapshot::Snapshot;

use super::yaml::Yaml;

/// Prints the snapshot.
pub(super) fn print(snapshot: &Snapshot) -> String {
    let mut yaml = Yaml::default();
    yaml.list("nodes", snapshot.nodes(), print_node);
    yaml.list("serviceCIDRs", snapshot.service_cidrs(), |yaml, object| {
        yaml.field("serviceCIDR", &object.name);
        yaml.words("cidrs", &object.cidrs);
    });
    yaml.words("localAddresses", snapshot.local_addresses());
    yaml.list("services", snapshot.services(), print_service);
    yaml.list("endpointSlices", snapshot.slices(), print_slice);
    yaml.words("problems", snapshot.problems());
    yaml.finish()
}

fn print_node(yaml: &mut Yaml, node: &Node) {
    yaml.field("node", &node.name);
    yaml.words("addresses", &node.addresses);
    yaml.words("podCIDRs", &node.pod_cidrs);
    if let Some(zone) = &node.zone {
        yaml.field("zone", zone);
    }
}

fn print_service(yaml: &mut Yaml, service: &Service) {
    yaml.field("service", &service.key);
    yaml.field("type", service.service_type);
    yaml.words("clusterIPs", &service.cluster_ips);
    yaml.words("externalIPs", &service.external_ips);
    yaml.words("loadBalancerIPs", &service.load_balancer_ips);
    yaml.words("loadBalancerSourceRanges", &service.load_balancer_source_ranges);
    yaml.field("externalTrafficPolicy", policy(service.external_traffic_policy));
    yaml.field("internalTrafficPolicy", policy(service.internal_traffic_policy));
    if let Some(balancing) = &service.balancing {
        print_balancing(yaml, balancing);
        yaml.words("nodeWeights", balancing.node_weights.iter().map(weight));
    }
    yaml.list("ports", &service.ports, |yaml, port: &ServicePort| {
        yaml.field("port", format_args!("{}/{}", port.port, port.protocol));
        yaml.field("name", &port.name);
        if let Some(node_port) = port.node_port {
            yaml.field("nodePort", node_port);
        }
    });
}

fn print_slice(yaml: &mut Yaml, slice: &EndpointSlice) {
    yaml.field("endpointSlice", &slice.key);
    yaml.field("service", &slice.service);
    yaml.list("ports", &slice.ports, |yaml, port: &SlicePort| {
        yaml.field("port", format_args!("{}/{}", port.port, port.protocol));
        yaml.field("name", &port.name);
    });
    yaml.list("endpoints", &slice.endpoints, print_endpoint);
}

fn print_endpoint(yaml: &mut Yaml, endpoint: &SliceEndpoint) {
    yaml.field("address", endpoint.address);
    if let Some(node) = endpoint.node() {
        yaml.field("node", node);
    }
    if let Some(hints) = endpoint.hints() {
        yaml.words("forNodes", &hints.nodes);
        yaml.words("forZones", &hints.zones);
    }
    if endpoint.weight != WEIGHT {
        yaml.field("weight", endpoint.weight);
    }
    let conditions = [
        ("ready", endpoint.ready),
        ("serving", endpoint.serving),
        ("terminating", endpoint.terminating),
    ];
    yaml.words("conditions", conditions.iter().filter(|(_, holds)| *holds).map(|(name, _)| name));
}

/// Prints what is not the default.
pub(super) fn print_balancing(yaml: &mut Yaml, balancing: &Balancing) {
    if let Some(affinity) = balancing.affinity {
        yaml.field("affinitySeconds", affinity.seconds);
        yaml.field("affinityScope", affinity.scope);
    }
    if balancing.method != Method::Random {
        yaml.field("balancing", balancing.method);
    }
    if let Some(scheduler) = balancing.scheduler {
        yaml.field("ipvsScheduler", scheduler);
    }
    if let Some(seconds) = balancing.drain_seconds {
        yaml.field("drainSeconds", seconds);
    }
}

/// A weight, as an annotation has it.
pub(super) fn weight<T: std::fmt::Display>((whose, weight): &(T, u8)) -> String {
    format!("{whose}={weight}")
}

const fn policy(policy: TrafficPolicy) -> &'static str {
    match policy {
        TrafficPolicy::Cluster => "Cluster",
        TrafficPolicy::Local => "Local",
    }
}
