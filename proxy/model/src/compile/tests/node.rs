//! The node's part of the plan.

use crate::address::Protocol;
use crate::compile::{LocalSources, NodePortAddresses, Settings};
use crate::object::ServiceCidr;
use crate::oracle::{Packet, Verdict, verdict};
use crate::problem::Kind;
use crate::snapshot::Object;
use crate::testing::{
    HERE, World, applied, deleted, ip, local_addresses, nets, node, service, settings,
};

fn node_port_addresses(world: &World) -> Vec<String> {
    world.plan.node.node_port_addresses.iter().map(ToString::to_string).collect()
}

fn local_sources(world: &World) -> Vec<String> {
    world.plan.node.local_sources.iter().map(ToString::to_string).collect()
}

#[test]
fn primary_is_the_first_address_of_each_family() {
    let mut world = World::empty(settings());
    let addresses = ["192.168.0.2", "192.168.0.1", "fd00::2", "fd00::1"];
    assert!(world.apply(node(HERE, &addresses, &[])).node.is_some());
    assert_eq!(node_port_addresses(&world), ["192.168.0.2", "fd00::2"]);
    world.apply(local_addresses(&["192.168.7.7"]));
    assert_eq!(node_port_addresses(&world), ["192.168.0.2", "fd00::2"]);
    assert!(world.apply(node("another", &["192.168.7.7"], &[])).is_empty());
    assert!(world.apply(node("Here", &["192.168.7.7"], &[])).is_empty(), "names are exact");
    world.apply(node(HERE, &addresses[1..2], &[]));
    assert_eq!(node_port_addresses(&world), ["192.168.0.1"]);
}

#[test]
fn primary_without_a_node_is_what_the_machine_has() {
    let mut world = World::empty(settings());
    let local =
        ["127.0.0.1", "169.254.1.1", "192.168.0.1", "10.0.0.1", "::1", "fe80::1", "fd00::1"];
    world.apply(local_addresses(&local));
    let all = ["10.0.0.1", "192.168.0.1", "fd00::1"];
    assert_eq!(node_port_addresses(&world), all);
    world.apply(node(HERE, &[], &[]));
    assert_eq!(node_port_addresses(&world), all, "a Node that has no address yet");
    world.apply(node(HERE, &["192.168.0.1"], &[]));
    assert_eq!(node_port_addresses(&world), ["192.168.0.1"]);
    world.apply(deleted(Kind::Node, HERE));
    assert_eq!(node_port_addresses(&world), all);
}

#[test]
fn within_networks() {
    let within = |networks: &[&str]| {
        let node_port_addresses = NodePortAddresses::Within(nets(networks));
        let mut world = World::empty(Settings { node_port_addresses, ..settings() });
        world.apply(node(HERE, &["203.0.113.1"], &[]));
        world.apply(local_addresses(&["127.0.0.1", "192.168.0.1", "10.0.0.1", "::1", "fd00::1"]));
        node_port_addresses_of(&world)
    };
    assert_eq!(within(&[]), "10.0.0.1 192.168.0.1 fd00::1");
    assert_eq!(within(&["192.168.0.0/16"]), "192.168.0.1 fd00::1");
    assert_eq!(within(&["2001:db8::/32"]), "10.0.0.1 192.168.0.1");
    assert_eq!(within(&["127.0.0.0/8", "::/0"]), "fd00::1");
    assert_eq!(within(&["0.0.0.0/0", "::1/128"]), "10.0.0.1 192.168.0.1");
}

#[test]
fn the_links_of_pods_do_not_change_the_plan() {
    let node_port_addresses = NodePortAddresses::Within(Vec::new());
    let mut world = World::empty(Settings { node_port_addresses, ..settings() });
    let own = ["10.0.0.1", "fd00::1", "169.254.0.1"];
    world.apply(local_addresses(&own));
    assert_eq!(node_port_addresses_of(&world), "10.0.0.1 169.254.0.1 fd00::1");
    let with_a_pod = [&own[..], &["fe80::ecee:eeff:feee:eeee"]].concat();
    assert!(world.apply(local_addresses(&with_a_pod)).is_empty());
}

#[test]
fn an_address_that_is_the_nodes_by_name_alone_is_not_the_machines() {
    let own = |world: &World| -> Vec<_> {
        world.plan.node.own_addresses.iter().map(ToString::to_string).collect()
    };
    let mut world = World::empty(settings());
    // A cloud translates 203.0.113.1 to 10.0.0.1.
    world.apply(node(HERE, &["10.0.0.1", "203.0.113.1"], &[]));
    assert_eq!(own(&world), ["10.0.0.1", "203.0.113.1"], "nothing else is known yet");
    world.apply(local_addresses(&["10.0.0.1", "127.0.0.1"]));
    assert_eq!(own(&world), ["10.0.0.1", "127.0.0.1"]);
}

fn node_port_addresses_of(world: &World) -> String {
    node_port_addresses(world).join(" ")
}

#[test]
fn local_sources_are_what_the_settings_say() {
    let of = |local_sources: LocalSources| {
        let mut world = World::empty(Settings { local_sources, ..settings() });
        world.apply(node(HERE, &[], &["10.244.0.0/24", "fd01::/64"]));
        self::local_sources(&world)
    };
    assert_eq!(of(LocalSources::NodePodCidrs), ["10.244.0.0/24", "fd01::/64"]);
    assert_eq!(of(LocalSources::Cidrs(nets(&["10.244.0.0/16"]))), ["10.244.0.0/16"]);
    assert!(of(LocalSources::Unknown).is_empty());
}

#[test]
fn local_sources_do_not_overlap() {
    let cidrs = nets(&["10.244.7.7/16", "10.244.3.0/24", "fd01::1/48", "10.244.0.0/16"]);
    let local_sources = LocalSources::Cidrs(cidrs);
    let world = World::empty(Settings { local_sources, ..settings() });
    assert_eq!(self::local_sources(&world), ["10.244.0.0/16", "fd01::/48"]);
}

#[test]
fn a_change_of_the_pod_networks_reaches_the_plan() {
    let mut world = World::new();
    let delta = world.apply(node(HERE, &["192.168.0.1", "fd00::1"], &["10.244.9.0/24"]));
    assert!(delta.node.is_some() && delta.services.is_empty());
    assert_eq!(local_sources(&world), ["10.244.9.0/24"]);
    assert!(world.apply(deleted(Kind::Node, HERE)).node.is_some());
    assert!(local_sources(&world).is_empty());
}

#[test]
fn what_no_service_has_in_a_service_cidr_is_dropped() {
    let cidr = |name: &str, cidrs: &[&str]| {
        applied(Object::ServiceCidr(ServiceCidr { name: name.into(), cidrs: nets(cidrs) }))
    };
    let mut world = World::new();
    world.apply(service("ns/web").cluster_ip("10.0.0.1").port("http", 80));
    assert_eq!(world.flow("10.244.0.1", "10.0.0.2:80"), "pass");
    world.apply(cidr("kubernetes", &["10.0.0.0/24", "fd02::/64"]));
    world.apply(cidr("more", &["10.0.1.0/24"]));
    assert_eq!(world.flow("10.244.0.1", "10.0.0.2:80"), "drop");
    assert_eq!(world.flow("10.244.0.1", "10.0.1.2:80"), "drop");
    assert_eq!(world.flow("fd01::1", "[fd02::9]:80"), "drop");
    assert_eq!(world.flow("10.244.0.1", "10.0.0.1:80"), "reject", "it is a Service's");
    world.apply(deleted(Kind::ServiceCidr, "kubernetes"));
    assert_eq!(world.flow("10.244.0.1", "10.0.0.2:80"), "pass");
    world.apply(cidr("more", &["192.168.0.0/24"]));
    world.apply(local_addresses(&["192.168.0.1"]));
    assert_eq!(world.flow("10.244.0.1", "192.168.0.1:22"), "pass", "the machine has it");
    assert_eq!(world.flow("10.244.0.1", "192.168.0.2:22"), "drop");
}

#[test]
fn localhost_has_node_ports_where_it_is_asked_for_and_for_the_node_alone() {
    for (localhost_node_ports, expected) in [(false, "pass"), (true, "reject")] {
        let mut world = World::empty(Settings { localhost_node_ports, ..settings() });
        world.apply(local_addresses(&["127.0.0.1", "192.168.0.1"]));
        world.apply(service("ns/web").cluster_ip("10.0.0.1").port("http", 80).node_port(30080));
        let mut packet = Packet {
            source: ip("127.0.0.1"),
            destination: ip("127.0.0.1"),
            protocol: Protocol::Tcp,
            port: 30080,
            from_node: true,
            interface: None,
        };
        assert_eq!(verdict(&world.plan, &packet) == Verdict::Reject, expected == "reject");
        packet.from_node = false;
        assert_eq!(verdict(&world.plan, &packet), Verdict::Drop, "it came over the wire");
    }
}
