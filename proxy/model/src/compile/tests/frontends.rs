//! Which frontends a Service gets, and what is said of those that it does not get.

use crate::address::Protocol;
use crate::object::ServiceType;
use crate::plan::{FrontendKind, Masquerade};
use crate::testing::{HERE, World, node, service, slice};

#[test]
fn every_kind_of_frontend() {
    let web = service("ns/web")
        .cluster_ip("10.0.0.1")
        .external_ip("203.0.113.1")
        .load_balancer_ip("203.0.113.2")
        .port("http", 80)
        .node_port(30080)
        .of_type(ServiceType::LoadBalancer);
    let world = World::with([web.into()]);
    let plans = &world.service("ns/web").frontends;
    let seen: Vec<_> =
        plans.iter().map(|p| (p.frontend.to_string(), p.kind, p.masquerade)).collect();
    let expected = [
        ("10.0.0.1:80/tcp", FrontendKind::ClusterIp, Masquerade::Outsiders),
        ("203.0.113.1:80/tcp", FrontendKind::ExternalIp, Masquerade::Always),
        ("203.0.113.2:80/tcp", FrontendKind::LoadBalancer, Masquerade::Always),
        ("node(IPv4):30080/tcp", FrontendKind::NodePort, Masquerade::Always),
    ];
    assert_eq!(seen, expected.map(|(text, kind, masquerade)| (text.to_owned(), kind, masquerade)));
    assert!(plans.iter().all(|plan| &*plan.port_name == "http"));
    assert!(world.problems("ns/web").is_empty());
}

#[test]
fn both_families() {
    let web = service("ns/web").cluster_ip("fd02::1").cluster_ip("10.0.0.1");
    let web = web.port("http", 80).node_port(30080).port_of("dns", Protocol::Udp, 53);
    let world = World::with([web.into()]);
    let expected = [
        "10.0.0.1:80/tcp",
        "10.0.0.1:53/udp",
        "[fd02::1]:80/tcp",
        "[fd02::1]:53/udp",
        "node(IPv4):30080/tcp",
        "node(IPv6):30080/tcp",
    ];
    assert_eq!(world.frontends("ns/web"), expected);
}

#[test]
fn a_node_port_belongs_to_the_type() {
    let web = service("ns/web").cluster_ip("10.0.0.1").port("http", 80).node_port(30080);
    let mut world = World::with([web.clone().into()]);
    assert_eq!(world.frontends("ns/web"), ["10.0.0.1:80/tcp", "node(IPv4):30080/tcp"]);
    world.apply(web.clone().of_type(ServiceType::LoadBalancer));
    assert_eq!(world.frontends("ns/web"), ["10.0.0.1:80/tcp", "node(IPv4):30080/tcp"]);
    world.apply(web.of_type(ServiceType::ClusterIp));
    assert_eq!(world.frontends("ns/web"), ["10.0.0.1:80/tcp"]);
}

#[test]
fn an_address_of_a_family_that_the_service_does_not_have_is_skipped() {
    let web = service("ns/web").cluster_ip("10.0.0.1").port("http", 80);
    let web = web.external_ip("2001:db8::1").load_balancer_ip("2001:db8::2");
    let world = World::with([web.into()]);
    assert_eq!(world.frontends("ns/web"), ["10.0.0.1:80/tcp"]);
    let expected = [
        "spec.externalIPs[0]: 2001:db8::1 is IPv6, the Service has no such ClusterIP; skipped",
        "status.loadBalancer.ingress[0].ip: 2001:db8::2 is IPv6, the Service has no such ClusterIP; skipped",
    ];
    assert_eq!(world.problems("ns/web"), expected);
}

#[test]
fn an_address_that_stands_in_two_fields_is_served_once() {
    let web = || service("ns/web").cluster_ip("10.0.0.1").port("http", 80);
    let cases = [
        (web().external_ip("203.0.113.1").external_ip("203.0.113.1"), FrontendKind::ExternalIp),
        (
            web().external_ip("203.0.113.1").load_balancer_ip("203.0.113.1"),
            FrontendKind::LoadBalancer,
        ),
        (web().external_ip("10.0.0.1").load_balancer_ip("10.0.0.1"), FrontendKind::ClusterIp),
    ];
    for (web, kind) in cases {
        let world = World::with([web.into()]);
        assert_eq!(world.service("ns/web").frontends.last().unwrap().kind, kind);
        assert!(world.problems("ns/web").is_empty());
    }
}

#[test]
fn a_port_that_another_port_uses_is_skipped() {
    let web = service("ns/web").cluster_ip("10.0.0.1").cluster_ip("fd02::1");
    let web = web.port("one", 80).port("two", 80).port_of("three", Protocol::Udp, 80);
    let world = World::with([web.into()]);
    let names: Vec<_> = world.service("ns/web").frontends.iter().map(|p| &*p.port_name).collect();
    assert_eq!(names, ["one", "three", "one", "three"]);
    let expected = ["spec.ports[1].port: already used by spec.ports[0].port; skipped"];
    assert_eq!(world.problems("ns/web"), expected);
}

#[test]
fn a_node_port_that_another_port_uses_is_skipped() {
    let web = service("ns/web").cluster_ip("10.0.0.1");
    let web = web.port("one", 80).node_port(30080).port("two", 81).node_port(30080);
    let world = World::with([web.into()]);
    let expected = ["10.0.0.1:80/tcp", "10.0.0.1:81/tcp", "node(IPv4):30080/tcp"];
    assert_eq!(world.frontends("ns/web"), expected);
    let expected = ["spec.ports[1].nodePort: already used by spec.ports[0].nodePort; skipped"];
    assert_eq!(world.problems("ns/web"), expected);
}

#[test]
fn the_plan_has_the_services_balancing() {
    let web = service("ns/web").cluster_ip("10.0.0.1").port("http", 80);
    let mut world = World::with([web.clone().affinity(10).into()]);
    assert_eq!(world.service("ns/web").affinity().map(|affinity| affinity.seconds), Some(10));
    assert_eq!(world.problems("ns/web"), [""; 0]);
    world.apply(web);
    assert_eq!(world.service("ns/web").balancing, None);
}

/// One endpoint here, one elsewhere; the pods of this node are 10.244.0.0/24.
#[test]
fn the_external_policy_local_is_for_clients_outside() {
    let web = service("ns/web").cluster_ip("10.0.0.1").port("http", 80).node_port(30080);
    let web = web.external_ip("203.0.113.1").external_local();
    let both = slice("ns/web-1").port("http", 8080).endpoint("10.244.0.1", HERE);
    let both = both.endpoint("10.244.1.1", "there");
    let pods = node(HERE, &["192.168.0.1"], &["10.244.0.0/24"]);
    let mut world = World::with([web.into(), both.into(), pods]);
    for to in ["192.168.0.1:30080", "203.0.113.1:80"] {
        assert_eq!(world.flow("198.51.100.1", to), "10.244.0.1:8080", "its address is kept");
        assert_eq!(world.flow("10.244.0.9", to), "10.244.0.1:8080 10.244.1.1:8080", "a pod");
        assert_eq!(world.flow("192.168.0.1", to), "10.244.0.1:8080* 10.244.1.1:8080*", "the node");
    }
    assert_eq!(world.flow("198.51.100.1", "10.0.0.1:80"), "10.244.0.1:8080* 10.244.1.1:8080*");
    world.apply(slice("ns/web-1").port("http", 8080).endpoint("10.244.1.1", "there"));
    for to in ["192.168.0.1:30080", "203.0.113.1:80"] {
        assert_eq!(world.flow("198.51.100.1", to), "drop");
        assert_eq!(world.flow("10.244.0.9", to), "10.244.1.1:8080");
    }
    world.apply(slice("ns/web-1").port("http", 8080));
    assert_eq!(world.flow("198.51.100.1", "203.0.113.1:80"), "reject");
    assert_eq!(world.flow("10.244.0.9", "203.0.113.1:80"), "reject");
}

#[test]
fn source_ranges_are_for_the_addresses_of_the_load_balancer() {
    let web = service("ns/web").cluster_ip("10.0.0.1").cluster_ip("fd00::1").port("http", 80);
    let web = web.node_port(30080).external_ip("203.0.113.1");
    let web = web.load_balancer_ip("203.0.113.2").load_balancer_ip("2001:db8::2");
    let web_1 = slice("ns/web-1").port("http", 8080).endpoint("10.244.0.1", HERE);
    let web_2 = slice("ns/web-2").port("http", 8080).endpoint("fd01::1", HERE);
    let ranges = ["198.51.100.0/25", "198.51.100.64/26", "192.0.2.1/32"];
    let mut world =
        World::with([web.clone().source_ranges(&ranges).into(), web_1.into(), web_2.into()]);
    assert_eq!(world.flow("198.51.100.1", "203.0.113.2:80"), "10.244.0.1:8080*");
    assert_eq!(world.flow("198.51.100.128", "203.0.113.2:80"), "drop");
    assert_eq!(world.flow("198.51.100.128", "203.0.113.1:80"), "10.244.0.1:8080*");
    assert_eq!(world.flow("198.51.100.128", "192.168.0.1:30080"), "10.244.0.1:8080*");
    assert_eq!(world.flow("2001:db8:1::1", "[2001:db8::2]:80"), "drop", "no range of this family");
    assert!(world.problems("ns/web").is_empty());
    world.apply(web.source_ranges(&["0.0.0.0/0", "10.0.0.0/8"]));
    assert_eq!(world.flow("198.51.100.128", "203.0.113.2:80"), "10.244.0.1:8080*");
}
