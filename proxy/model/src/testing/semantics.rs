//! The meaning of the objects, said a second time and as plainly as possible: packet by packet,
//! without a plan. What the compiler makes of them must lead to the same.

use std::collections::BTreeMap;
use std::sync::Arc;

use proptest::collection::vec;
use proptest::prelude::*;

use super::strategies::{change, packet, settings};
use super::{HERE, World};
use crate::address::{Endpoint, Family, Protocol};
use crate::compile::{LocalSources, Settings};
use crate::object::{Service, ServicePort, ServiceType, SliceEndpoint, TrafficPolicy};
use crate::oracle::{Oracle, Packet, Verdict, verdict};
use crate::plan::NodePlan;
use crate::snapshot::{Change, Object, Snapshot};

/// How a packet meets a Service; the lesser wins within one.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Way {
    ClusterIp,
    LoadBalancer,
    ExternalIp,
    NodePort,
}

/// What should happen to a packet, by the objects. Only the node's part is taken from the plan.
fn meaning(snapshot: &Snapshot, settings: &Settings, node: &NodePlan, packet: &Packet) -> Verdict {
    if packet.destination.is_loopback() && !packet.from_node {
        return Verdict::Drop;
    }
    let direct = [Way::ClusterIp, Way::LoadBalancer, Way::ExternalIp];
    let direct = if settings.external_ips { &direct[..] } else { &direct[..2] };
    if let Some((service, port, way)) = owner(snapshot, packet, direct) {
        return outcome(snapshot, settings, node, packet, (service, port, way));
    }
    if snapshot.services().any(|service| service.cluster_ips.contains(&packet.destination)) {
        return Verdict::Reject;
    }
    if node.node_port_addresses.contains(&packet.destination)
        && let Some(found) = owner(snapshot, packet, &[Way::NodePort])
    {
        return outcome(snapshot, settings, node, packet, found);
    }
    let mut networks = snapshot.service_cidrs().flat_map(|object| &object.cidrs);
    match networks.any(|net| net.contains(&packet.destination)) {
        true if !node.own_addresses.contains(&packet.destination) => Verdict::Drop,
        _ => Verdict::Pass,
    }
}

/// The Service that wants the packet: whose ClusterIP it goes to, else the oldest; and the first
/// way and port by which it does.
fn owner<'a>(
    snapshot: &'a Snapshot,
    packet: &Packet,
    ways: &[Way],
) -> Option<(&'a Service, &'a ServicePort, Way)> {
    let mut all = Vec::new();
    for service in snapshot.services() {
        for way in ways {
            let ports = service.ports.iter().enumerate();
            for (at, port) in ports.filter(|(_, port)| meets(service, port, *way, packet)) {
                let age = if service.created == 0 { i64::MAX } else { service.created };
                let asked = *way != Way::ClusterIp;
                all.push(((asked, age, &service.key, *way, at), (service, port, *way)));
            }
        }
    }
    all.into_iter().min_by_key(|(rank, _)| *rank).map(|(_, found)| found)
}

fn meets(service: &Service, port: &ServicePort, way: Way, packet: &Packet) -> bool {
    let family = Family::of(packet.destination);
    let number = match way {
        Way::NodePort if service.service_type == ServiceType::ClusterIp => None,
        Way::NodePort => port.node_port,
        Way::ClusterIp | Way::LoadBalancer | Way::ExternalIp => Some(port.port),
    };
    let address = match way {
        Way::NodePort => true,
        Way::ClusterIp => service.cluster_ips.contains(&packet.destination),
        Way::LoadBalancer => service.load_balancer_ips.contains(&packet.destination),
        Way::ExternalIp => service.external_ips.contains(&packet.destination),
    };
    let of_family = service.cluster_ips.iter().any(|ip| Family::of(*ip) == family);
    address && of_family && port.protocol == packet.protocol && number == Some(packet.port)
}

fn outcome(
    snapshot: &Snapshot,
    settings: &Settings,
    node: &NodePlan,
    packet: &Packet,
    (service, port, way): (&Service, &ServicePort, Way),
) -> Verdict {
    let ranges = &service.load_balancer_source_ranges;
    let allowed = ranges.is_empty() || ranges.iter().any(|net| net.contains(&packet.source));
    if way == Way::LoadBalancer && !allowed {
        return Verdict::Drop;
    }
    let family = Family::of(packet.destination);
    let all = endpoints(snapshot, service, &port.name, port.protocol, family);
    let is_local = |e: &SliceEndpoint| e.node() == Some(HERE);
    let policy = match way {
        Way::ClusterIp => service.internal_traffic_policy,
        _ => service.external_traffic_policy,
    };
    let known = node.local_sources.iter().filter(|net| Family::of(net.addr()) == family);
    let (from_pod, known) = match &settings.local_sources {
        LocalSources::Interfaces(pattern) => {
            (packet.interface.is_some_and(|name| pattern.matches(&name)), true)
        }
        _ => (known.clone().any(|net| net.contains(&packet.source)), known.count() > 0),
    };
    let inside = packet.from_node || from_pod;
    let external = way != Way::ClusterIp;
    let local = policy == TrafficPolicy::Local && !(external && inside);
    let chosen = match (best(&all, |_| true), local) {
        (everywhere, _) if everywhere.is_empty() => return Verdict::Reject,
        (everywhere, false) => near(snapshot, everywhere),
        (_, true) => best(&all, is_local),
    };
    if chosen.is_empty() {
        return Verdict::Drop;
    }
    let masquerade = match (external, policy) {
        (true, TrafficPolicy::Cluster) => true,
        (true, TrafficPolicy::Local) => packet.from_node,
        (false, _) => settings.masquerade_all || (known && !from_pod),
    };
    let pool = chosen.into_iter().map(|(endpoint, state)| {
        let here = is_local(state) || state.node().is_none();
        let leaves = packet.from_node || !node.own_addresses.contains(&endpoint.address);
        (endpoint, leaves && (masquerade || (here && packet.source == endpoint.address)))
    });
    Verdict::Forward(pool.collect())
}

/// Each endpoint once, with the best of its states.
fn endpoints<'a>(
    snapshot: &'a Snapshot,
    service: &Service,
    name: &str,
    protocol: Protocol,
    family: Family,
) -> BTreeMap<Endpoint, &'a SliceEndpoint> {
    let rank = |e: &SliceEndpoint| (!e.terminating, e.ready, e.serving);
    let mut endpoints = BTreeMap::new();
    for slice in snapshot.slices().filter(|slice| slice.service == service.key) {
        for port in slice.ports.iter().filter(|p| *p.name == *name && p.protocol == protocol) {
            for state in slice.endpoints.iter().filter(|e| Family::of(e.address) == family) {
                let endpoint = Endpoint { address: state.address, port: port.port };
                let held = endpoints.entry(endpoint).or_insert(state);
                if rank(state) > rank(held) {
                    *held = state;
                }
            }
        }
    }
    endpoints
}

fn best<'a>(
    endpoints: &BTreeMap<Endpoint, &'a SliceEndpoint>,
    allowed: impl Fn(&SliceEndpoint) -> bool,
) -> Vec<(Endpoint, &'a SliceEndpoint)> {
    let allowed = endpoints.iter().filter(|(_, e)| allowed(e)).map(|(at, e)| (*at, *e));
    let (ready, others): (Vec<_>, Vec<_>) = allowed.partition(|(_, e)| e.ready);
    if !ready.is_empty() {
        return ready;
    }
    others.into_iter().filter(|(_, e)| e.serving && e.terminating).collect()
}

/// By hints, if all endpoints have some and one is for this node or its zone; only ready ones count.
fn near<'a>(
    snapshot: &Snapshot,
    endpoints: Vec<(Endpoint, &'a SliceEndpoint)>,
) -> Vec<(Endpoint, &'a SliceEndpoint)> {
    let zone = snapshot.node(HERE).and_then(|node| node.zone.clone());
    let names = |e: &SliceEndpoint, by_node: bool| {
        let hints = e.hints().filter(|_| e.ready).cloned().unwrap_or_default();
        if by_node { hints.nodes } else { hints.zones }
    };
    for (by_node, ours) in [(true, Some(HERE.into())), (false, zone)] {
        let hinted = endpoints.iter().all(|(_, e)| !names(e, by_node).is_empty());
        let meant = |e: &SliceEndpoint| names(e, by_node).iter().any(|n| Some(n) == ours.as_ref());
        let near: Vec<_> = endpoints.iter().filter(|(_, e)| meant(e)).copied().collect();
        if hinted && !near.is_empty() {
            return near;
        }
    }
    endpoints
}

/// An endpoint's weight in a Service, by the objects: the least that is said of it.
fn weight(snapshot: &Snapshot, service: &Service, endpoint: &Endpoint) -> u8 {
    let mut said = Vec::new();
    for slice in snapshot.slices().filter(|slice| slice.service == service.key) {
        let has_port = slice.ports.iter().any(|port| port.port == endpoint.port);
        for each in slice.endpoints.iter().filter(|e| has_port && e.address == endpoint.address) {
            let balancing = service.balancing.as_deref();
            let nodes = balancing.map_or(&[][..], |balancing| &balancing.node_weights);
            let by_node = nodes.iter().find(|(node, _)| each.node() == Some(&**node));
            said.push(by_node.map_or(each.weight, |(_, weight)| *weight));
        }
    }
    said.into_iter().min().unwrap()
}

/// Gives each endpoint the node that belongs to its address. Where slices disagree on it, whether
/// an endpoint can meet itself has no one answer to compare with.
fn agree_on_nodes(mut change: Change) -> Change {
    if let Change::Applied { object: Object::EndpointSlice(slice), .. } = &mut change {
        for endpoint in &mut slice.endpoints {
            let node = match endpoint.address.to_string().as_str() {
                "10.244.0.1" | "fd01::1" => Some(HERE.into()),
                "10.244.0.2" => None,
                _ => Some("there".into()),
            };
            Arc::make_mut(&mut endpoint.locality).node = node;
        }
    }
    change
}

proptest! {
    #[test]
    fn the_plan_means_what_the_objects_say(
        settings in settings(),
        changes in vec(change(), 0..30),
        packets in vec(packet(), 40),
    ) {
        let mut world = World::empty(settings);
        changes.into_iter().map(agree_on_nodes).for_each(|change| drop(world.apply(change)));
        for packet in packets {
            let expected = meaning(&world.snapshot, &world.settings, &world.plan.node, &packet);
            prop_assert_eq!(verdict(&world.plan, &packet), expected, "{:?}", packet);
        }
    }

    /// Each endpoint that a packet may meet has the weight that the objects say, and its Service
    /// their balancing.
    #[test]
    fn the_plan_balances_as_the_objects_say(
        settings in settings(),
        changes in vec(change(), 0..30),
        packets in vec(packet(), 40),
    ) {
        let mut world = World::empty(settings);
        changes.into_iter().for_each(|change| drop(world.apply(change)));
        let oracle = Oracle::new(&world.plan);
        for packet in packets {
            let Verdict::Forward(pool) = oracle.verdict(&packet) else { continue };
            let found = oracle.find(&packet).unwrap();
            let service = world.snapshot.service(found.key).unwrap();
            prop_assert_eq!(&found.service.balancing, &service.balancing);
            for (endpoint, _) in pool {
                let expected = weight(&world.snapshot, service, &endpoint);
                prop_assert_eq!(found.service.weight(&endpoint), expected, "{:?}", packet);
            }
        }
    }
}
