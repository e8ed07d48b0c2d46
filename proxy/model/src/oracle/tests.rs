//! Flows: from where, to where, what happens. A `*` stands behind endpoints that see the node.

use crate::address::Protocol;
use crate::compile::{LocalSources, Settings};
use crate::testing::{HERE, World, flow, ip, key, local_addresses, node, service, settings, slice};

use super::*;

const POD: &str = "10.244.0.9";
const OUTSIDER: &str = "198.51.100.1";

/// `ns/web` with all kinds of frontends, an endpoint here and one elsewhere; `ns/empty`.
fn fill(world: &mut World) {
    world.apply(node(HERE, &["192.168.0.1", "fd00::1"], &["10.244.0.0/24"]));
    let web = service("ns/web").cluster_ip("10.0.0.1").port("http", 80).node_port(30080);
    world.apply(web.external_ip("203.0.113.1").load_balancer_ip("203.0.113.2"));
    let web_1 = slice("ns/web-1").port("http", 8080);
    world.apply(web_1.endpoint("10.244.0.1", HERE).endpoint("10.244.1.1", "there"));
    let empty = service("ns/empty").cluster_ip("10.0.0.2").port("http", 80).node_port(30081);
    world.apply(empty);
}

fn world(settings: Settings) -> World {
    let mut world = World::empty(settings);
    fill(&mut world);
    world
}

#[test]
fn flows() {
    let world = world(settings());
    let (plain, hidden) = ("10.244.0.1:8080 10.244.1.1:8080", "10.244.0.1:8080* 10.244.1.1:8080*");
    let cases = [
        (POD, "10.0.0.1:80", plain),
        (OUTSIDER, "10.0.0.1:80", hidden),
        ("192.168.0.1", "10.0.0.1:80", hidden),
        (POD, "203.0.113.1:80", hidden),
        (OUTSIDER, "203.0.113.1:80", hidden),
        (OUTSIDER, "203.0.113.2:80", hidden),
        (OUTSIDER, "192.168.0.1:30080", hidden),
        // The endpoint here reaches itself: only then is its own address hidden from it.
        ("10.244.0.1", "10.0.0.1:80", "10.244.0.1:8080* 10.244.1.1:8080"),
        // No endpoint.
        (POD, "10.0.0.2:80", "reject"),
        (OUTSIDER, "192.168.0.1:30081", "reject"),
        // A ClusterIP has no other ports, not even those of the node.
        (POD, "10.0.0.1:81", "reject"),
        (POD, "10.0.0.1:30080", "reject"),
        // All else is not ours.
        (POD, "10.244.1.1:8080", "pass"),
        (POD, "203.0.113.1:81", "pass"),
        (POD, "192.168.0.1:80", "pass"),
        (OUTSIDER, "192.168.0.2:30080", "pass"),
        (OUTSIDER, "127.0.0.1:30080", "drop"),
        (POD, "10.0.0.3:80", "pass"),
        ("2001:db8::1", "[fd00::1]:30080", "pass"),
    ];
    for (source, destination, expected) in cases {
        assert_eq!(world.flow(source, destination), expected, "{source} > {destination}");
    }
    assert_eq!(flow(&world.plan, Protocol::Udp, POD, "10.0.0.1:80"), "reject");
    assert_eq!(flow(&world.plan, Protocol::Udp, POD, "203.0.113.1:80"), "pass");
    assert_eq!(flow(&world.plan, Protocol::Udp, OUTSIDER, "192.168.0.1:30080"), "pass");
}

#[test]
fn masquerade_to_cluster_ips_follows_the_settings() {
    let (plain, hidden) = ("10.244.0.1:8080 10.244.1.1:8080", "10.244.0.1:8080* 10.244.1.1:8080*");
    let unknown = world(Settings { local_sources: LocalSources::Unknown, ..settings() });
    assert_eq!(unknown.flow(OUTSIDER, "10.0.0.1:80"), plain, "no one is known to be an outsider");
    assert_eq!(unknown.flow(OUTSIDER, "203.0.113.1:80"), hidden);
    let all = world(Settings { masquerade_all: true, ..settings() });
    assert_eq!(all.flow(POD, "10.0.0.1:80"), hidden);
}

#[test]
fn local_sources_of_one_family_say_nothing_of_the_other() {
    let mut world = World::new();
    world.apply(node(HERE, &[], &["10.244.0.0/24"]));
    world.apply(service("ns/six").cluster_ip("fd02::1").port("http", 80));
    world.apply(slice("ns/six-1").port("http", 8080).endpoint("fd01::1", HERE));
    assert_eq!(world.flow("2001:db8::1", "[fd02::1]:80"), "[fd01::1]:8080");
}

#[test]
fn an_exact_frontend_comes_before_a_node_port_and_a_cluster_ip() {
    let mut world = world(settings());
    let other = service("ns/other").cluster_ip("10.0.0.4").external_ip("192.168.0.1");
    world.apply(other.external_ip("10.0.0.1").port("http", 30080));
    world.apply(slice("ns/other-1").port("http", 1).endpoint("10.244.1.4", "there"));
    assert_eq!(world.flow(OUTSIDER, "192.168.0.1:30080"), "10.244.1.4:1*");
    assert_eq!(world.flow(OUTSIDER, "10.0.0.1:30080"), "10.244.1.4:1*");
    assert_eq!(world.flow(OUTSIDER, "10.0.0.1:30081"), "reject");
}

#[test]
fn a_cluster_ip_that_is_an_address_of_the_node_serves_no_node_port() {
    let mut world = world(settings());
    world.apply(service("ns/odd").cluster_ip("192.168.0.1").port("http", 80));
    assert_eq!(world.flow(OUTSIDER, "192.168.0.1:30080"), "reject");
}

#[test]
fn find_tells_the_service_and_the_frontend() {
    let world = world(settings());
    let oracle = Oracle::new(&world.plan);
    let packet = |destination, port| Packet {
        source: ip(POD),
        destination: ip(destination),
        protocol: Protocol::Tcp,
        port,
        from_node: false,
        interface: None,
    };
    let found = oracle.find(&packet("192.168.0.1", 30080)).unwrap();
    assert_eq!(*found.key, key("ns/web"));
    assert_eq!(found.frontend.frontend.to_string(), "node(IPv4):30080/tcp");
    assert_eq!(oracle.find(&packet("10.0.0.1", 81)), None);
}

#[test]
fn node_ports_without_a_node_answer_on_the_machines_addresses() {
    let mut world = World::empty(settings());
    world.apply(local_addresses(&["127.0.0.1", "192.168.5.5"]));
    world.apply(service("ns/web").cluster_ip("10.0.0.1").port("http", 80).node_port(30080));
    assert_eq!(world.flow(OUTSIDER, "192.168.5.5:30080"), "reject");
    assert_eq!(world.flow(OUTSIDER, "127.0.0.1:30080"), "drop");
}
