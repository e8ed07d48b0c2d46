//! What is missing where a client expects a Service and finds none, or none that answers.

use std::collections::BTreeSet;

use shunt_model::address::{Family, FrontendAddress};
use shunt_model::object::{ObjectKey, Service};
use shunt_model::oracle::{Match, Packet};
use shunt_model::plan::Plan;
use shunt_model::snapshot::Snapshot;

/// Why a frontend has no endpoint at all, where that is not a matter of each endpoint's conditions.
pub(super) fn of_endpoints(services: &Snapshot, found: &Match<'_>) -> Option<String> {
    let frontend = found.frontend.frontend;
    let (family, protocol) = (frontend.family(), frontend.protocol);
    let slices = services.slices_of(found.key);
    if slices.is_empty() {
        return Some("no EndpointSlice names it".to_owned());
    }
    let has_endpoint = |family| {
        let mut endpoints = slices.iter().flat_map(|slice| &slice.endpoints);
        endpoints.any(|each| Family::of(each.address) == family)
    };
    if !has_endpoint(family) {
        let other = Family::ALL.into_iter().any(has_endpoint);
        let of = if other { format!("an {family} address") } else { "an address".to_owned() };
        return Some(format!("none of its EndpointSlices has {of}"));
    }
    let port = &found.frontend.port_name;
    let ports = || slices.iter().flat_map(|slice| &slice.ports);
    if ports().any(|each| each.name == *port && each.protocol == protocol) {
        return None;
    }
    let there: BTreeSet<_> =
        ports().map(|each| format!("{:?} ({})", each.name, each.protocol)).collect();
    let there = Vec::from_iter(there).join(", ");
    let there = if there.is_empty() { "none".to_owned() } else { there };
    Some(format!(
        "its EndpointSlices have no port named {port:?} ({protocol}), which the Service's port is; they have: {there}"
    ))
}

/// Services that name the address and port of a packet, and what keeps them from serving it there.
pub(super) fn of_frontend(
    plan: &Plan,
    services: &Snapshot,
    packet: &Packet,
    found: Option<&ObjectKey>,
) -> Vec<String> {
    let mut remarks = Vec::new();
    let is_own = plan.node.own_addresses.contains(&packet.destination);
    for service in services.services().filter(|service| found != Some(&service.key)) {
        let of_plan = plan.services.get(&service.key);
        let problems = of_plan.map_or(&[][..], |of_plan| &of_plan.problems);
        if names(service, packet, is_own) {
            remarks.extend(problems.iter().map(ToString::to_string));
        }
        let serves = |frontend: FrontendAddress| {
            let mut frontends = of_plan.iter().flat_map(|of_plan| &of_plan.frontends);
            frontends.any(|each| {
                let each = each.frontend;
                (each.address, each.protocol, each.port) == (frontend, packet.protocol, packet.port)
            })
        };
        let family = Family::of(packet.destination);
        if found.is_none() && is_own && serves(FrontendAddress::Node(family)) {
            let on = plan.node.node_port_addresses.iter().filter(|ip| Family::of(**ip) == family);
            let on: Vec<_> = on.map(ToString::to_string).collect();
            let on = if on.is_empty() { "no address".to_owned() } else { on.join(", ") };
            let (key, port) = (&service.key, packet.port);
            remarks.push(format!(
                "{port} is a node port of Service {key}; nodePortAddresses has it served on {on} alone"
            ));
        }
    }
    remarks
}

/// Whether a Service asks for a frontend at the packet's address, or, where that is the node's own, for its port there.
fn names(service: &Service, packet: &Packet, is_own: bool) -> bool {
    let mut outside = service.external_ips.iter().chain(&service.load_balancer_ips);
    let at_address = outside.any(|ip| *ip == packet.destination);
    service.ports.iter().filter(|port| port.protocol == packet.protocol).any(|port| {
        at_address && port.port == packet.port || is_own && port.node_port == Some(packet.port)
    })
}
