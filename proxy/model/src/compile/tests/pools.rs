//! Which endpoints a frontend gets.

use std::sync::Arc;

use crate::address::Protocol;
use crate::compile::Settings;
use crate::plan::Action;
use crate::problem::Kind;
use crate::snapshot::{Change, Object};
use crate::testing::{
    HERE, ServiceBuilder, SliceBuilder, World, applied, changed, deleted, flow, ip, node, service,
    settings, slice,
};

fn web() -> ServiceBuilder {
    service("ns/web").cluster_ip("10.0.0.1").port("http", 80)
}

fn web_slice(number: u8) -> SliceBuilder {
    slice(&format!("ns/web-{number}")).port("http", 8080)
}

/// Where a local pod gets on the ClusterIP of `web`, with these slices.
fn endpoints(web: ServiceBuilder, slices: impl IntoIterator<Item = SliceBuilder>) -> String {
    let slices = slices.into_iter().map(Into::into);
    let world = World::with([web.into()].into_iter().chain(slices));
    world.flow("10.244.0.99", "10.0.0.1:80")
}

#[test]
fn ready_ones_then_those_that_end_then_none() {
    let pod = |n: u8| format!("10.244.1.{n}");
    let ready = web_slice(1).endpoint(&pod(1), "there");
    let ending = web_slice(2).endpoint(&pod(2), "there").ending();
    let unready = web_slice(3).endpoint(&pod(3), "there").unready();
    let all = [ready, ending.clone(), unready.clone()];
    assert_eq!(endpoints(web(), all), "10.244.1.1:8080");
    assert_eq!(endpoints(web(), [ending, unready.clone()]), "10.244.1.2:8080");
    assert_eq!(endpoints(web(), [unready]), "reject");
    assert_eq!(endpoints(web(), []), "reject");
}

#[test]
fn all_slices_count_and_the_pool_is_sorted() {
    let slices = [
        web_slice(1).endpoint("10.244.1.9", "there").endpoint("10.244.1.1", "there"),
        web_slice(2).endpoint("10.244.1.5", "there").endpoint("10.244.1.1", "there"),
    ];
    assert_eq!(endpoints(web(), slices), "10.244.1.1:8080 10.244.1.5:8080 10.244.1.9:8080");
}

#[test]
fn a_duplicate_counts_by_its_better_state() {
    let pod = |number| web_slice(number).endpoint("10.244.1.1", "there");
    let other = || web_slice(9).endpoint("10.244.1.2", "there").ending();
    for [first, second] in [[1, 2], [2, 1]] {
        // Not terminating beats terminating: the other slice is out of date.
        let states = [pod(first), pod(second).ending()];
        assert_eq!(endpoints(web(), states), "10.244.1.1:8080");
        let states = [pod(first).unready(), pod(second).ending(), other()];
        assert_eq!(endpoints(web(), states), "10.244.1.2:8080");
        // Then ready beats not ready.
        let states = [pod(first).unready(), pod(second), other()];
        assert_eq!(endpoints(web(), states), "10.244.1.1:8080");
    }
}

#[test]
fn ports_match_by_name_and_protocol() {
    let slices = [
        slice("ns/web-1").port("http", 8080).endpoint("10.244.1.1", "there"),
        slice("ns/web-2").port("http", 9090).endpoint("10.244.1.2", "there"),
        slice("ns/web-3").port("other", 8080).endpoint("10.244.1.3", "there"),
        slice("ns/web-4").port_of("http", Protocol::Udp, 8080).endpoint("10.244.1.4", "there"),
        slice("ns/web-5").port("", 8080).endpoint("10.244.1.5", "there"),
    ];
    assert_eq!(endpoints(web(), slices.clone()), "10.244.1.1:8080 10.244.1.2:9090");
    let unnamed = service("ns/web").cluster_ip("10.0.0.1").port("", 80);
    assert_eq!(endpoints(unnamed, slices), "10.244.1.5:8080");
}

#[test]
fn each_family_has_its_own_endpoints() {
    let web = web().cluster_ip("fd02::1").node_port(30080);
    let four = web_slice(1).endpoint("10.244.1.1", "there");
    let six = web_slice(2).endpoint("fd01:1::1", "there");
    let world = World::with([web.into(), four.into(), six.into()]);
    assert_eq!(world.flow("10.244.0.9", "10.0.0.1:80"), "10.244.1.1:8080");
    assert_eq!(world.flow("fd01::9", "[fd02::1]:80"), "[fd01:1::1]:8080");
    assert_eq!(world.flow("198.51.100.1", "192.168.0.1:30080"), "10.244.1.1:8080*");
    assert_eq!(world.flow("2001:db8::1", "[fd00::1]:30080"), "[fd01:1::1]:8080*");
}

#[test]
fn internal_local_takes_endpoints_of_this_node_only() {
    let local = || web().internal_local();
    let here = || web_slice(1).endpoint("10.244.0.1", HERE);
    let there = || web_slice(2).endpoint("10.244.1.1", "there");
    let nowhere = || web_slice(3).endpoint("10.244.2.1", "?");
    let case = || web_slice(4).endpoint("10.244.3.1", "Here");
    assert_eq!(endpoints(local(), [here(), there(), nowhere(), case()]), "10.244.0.1:8080");
    assert_eq!(endpoints(local(), [there(), nowhere(), case()]), "drop");
    assert_eq!(endpoints(local(), [here().ending(), there()]), "10.244.0.1:8080");
    assert_eq!(endpoints(local(), [here().unready(), there()]), "drop");
    assert_eq!(endpoints(local(), [here().unready()]), "reject");
    assert_eq!(endpoints(local(), []), "reject");
}

#[test]
fn internal_local_governs_cluster_ips_only() {
    let web = web().internal_local().external_ip("203.0.113.1").node_port(30080);
    let there = web_slice(2).endpoint("10.244.1.1", "there");
    let world = World::with([web.into(), there.into()]);
    assert_eq!(world.flow("10.244.0.9", "10.0.0.1:80"), "drop");
    assert_eq!(world.flow("10.244.0.9", "203.0.113.1:80"), "10.244.1.1:8080*");
    assert_eq!(world.flow("10.244.0.9", "192.168.0.1:30080"), "10.244.1.1:8080*");
}

#[test]
fn frontends_of_a_port_share_one_pool() {
    let web = web().external_ip("203.0.113.1").node_port(30080);
    let there = web_slice(1).endpoint("10.244.1.1", "there");
    let world = World::with([web.into(), there.into()]);
    let pools: Vec<_> = world.service("ns/web").frontends.iter().map(|plan| &plan.action).collect();
    let [Action::Forward(one), Action::Forward(two), Action::Forward(three)] = pools[..] else {
        panic!("{pools:?}")
    };
    assert!(Arc::ptr_eq(one, two) && Arc::ptr_eq(two, three));
}

#[test]
fn hairpins_are_endpoints_in_use_that_may_be_here() {
    let slices = [
        web_slice(1).endpoint("10.244.0.1", HERE).endpoint("10.244.0.2", HERE).unready(),
        web_slice(2).endpoint("10.244.1.1", "there").endpoint("10.244.2.1", "?"),
        web_slice(3).endpoint("10.244.0.3", HERE).ending(),
    ];
    let world = World::with([web().into()].into_iter().chain(slices.map(Into::into)));
    assert_eq!(world.service("ns/web").hairpins, [ip("10.244.0.1"), ip("10.244.2.1")]);
}

#[test]
fn a_slice_of_another_service_does_not_count() {
    let other = slice("ns/other-1").port("http", 8080).endpoint("10.244.1.1", "there");
    assert_eq!(endpoints(web(), [other]), "reject");
}

#[test]
fn slices_may_come_first_go_and_move() {
    let there = || web_slice(1).endpoint("10.244.1.1", "there");
    let other = service("ns/other").cluster_ip("10.0.0.2").port("http", 80);
    let mut world = World::new();
    assert!(world.apply(there()).is_empty(), "there is no Service yet");
    world.apply(web());
    world.apply(other);
    assert_eq!(world.flow("10.244.0.9", "10.0.0.1:80"), "10.244.1.1:8080");
    let delta = world.apply(there().of("ns/other"));
    assert_eq!(changed(&delta), ["ns/other", "ns/web"]);
    assert_eq!(world.flow("10.244.0.9", "10.0.0.1:80"), "reject");
    assert_eq!(world.flow("10.244.0.9", "10.0.0.2:80"), "10.244.1.1:8080");
    let delta = world.apply(deleted(Kind::EndpointSlice, "ns/web-1"));
    assert_eq!(changed(&delta), ["ns/other"]);
    world.apply(deleted(Kind::Service, "ns/web"));
    assert_eq!(world.flow("10.244.0.9", "10.0.0.1:80"), "pass");
}

#[test]
fn a_change_that_does_not_reach_the_plan_is_not_in_the_delta() {
    let there = || web_slice(1).endpoint("10.244.1.1", "there");
    let mut world = World::with([web().into(), there().into()]);
    let before = Arc::clone(world.service("ns/web"));
    assert!(world.apply(there().endpoint("10.244.1.2", "there").unready()).is_empty());
    assert!(world.apply(there().port("unused", 1)).is_empty());
    assert!(Arc::ptr_eq(&before, world.service("ns/web")));
}

#[test]
fn the_same_number_for_two_protocols_leads_to_two_pools() {
    let dns = service("ns/dns").cluster_ip("10.0.0.10");
    let dns = dns.port("dns-tcp", 53).port_of("dns", Protocol::Udp, 53);
    let dns_1 = slice("ns/dns-1").port("dns-tcp", 5300).port_of("dns", Protocol::Udp, 5301);
    let world = World::with([dns.into(), dns_1.endpoint("10.244.1.1", "there").into()]);
    let ask = |protocol| flow(&world.plan, protocol, "10.244.0.9", "10.0.0.10:53");
    assert_eq!(ask(Protocol::Tcp), "10.244.1.1:5300");
    assert_eq!(ask(Protocol::Udp), "10.244.1.1:5301");
    assert_eq!(ask(Protocol::Sctp), "reject");
}

#[test]
fn endpoints_that_serve_but_are_in_no_pool_linger() {
    let lingering = |protocol, reset_tcp| {
        let mut world = World::empty(Settings { reset_tcp, ..settings() });
        world.apply(service("ns/a").cluster_ip("10.0.0.1").port_of("", protocol, 53));
        let ready = slice("ns/a-1").port_of("", protocol, 53).endpoint("10.244.0.1", HERE);
        let ending = ready.endpoint("10.244.1.2", "there").ending();
        world.apply(ending.endpoint("10.244.1.3", "there").unready());
        let lingering = world.service("ns/a").lingering.iter();
        lingering.map(|(protocol, at)| format!("{at}/{protocol}")).collect::<Vec<_>>()
    };
    assert_eq!(lingering(Protocol::Udp, false), ["10.244.1.2:53/udp"]);
    assert_eq!(lingering(Protocol::Sctp, false), ["10.244.1.2:53/sctp"]);
    assert_eq!(lingering(Protocol::Tcp, false), <[&str; 0]>::default());
    assert_eq!(lingering(Protocol::Tcp, true), ["10.244.1.2:53/tcp", "10.244.1.3:53/tcp"]);
}

#[test]
fn endpoints_elsewhere_linger_under_a_local_policy() {
    let mut world = World::new();
    let dns = service("ns/a").cluster_ip("10.0.0.1").port_of("", Protocol::Udp, 53);
    world.apply(dns.internal_local());
    let slice = slice("ns/a-1").port_of("", Protocol::Udp, 53);
    world.apply(slice.endpoint("10.244.0.1", HERE).endpoint("10.244.1.2", "there"));
    assert_eq!(world.service("ns/a").lingering.len(), 1);
}

/// Where a local pod gets with these endpoints and hints, on a Node in this zone.
fn near(zone: Option<&str>, endpoints: SliceBuilder) -> String {
    let mut world = World::new();
    let Change::Applied { object: Object::Node(mut here), .. } = node(HERE, &["192.168.0.1"], &[])
    else {
        unreachable!("a Node");
    };
    here.zone = zone.map(Into::into);
    world.apply(web());
    world.apply(endpoints);
    world.apply(applied(Object::Node(here)));
    world.flow("10.244.0.99", "10.0.0.1:80")
}

#[test]
fn hints_keep_traffic_on_the_node_or_in_the_zone() {
    let one = web_slice(1).endpoint("10.244.0.1", HERE);
    let zones = one.clone().hints(&[], &["a"]).endpoint("10.244.1.2", "there").hints(&[], &["b"]);
    assert_eq!(near(Some("a"), zones.clone()), "10.244.0.1:8080");
    assert_eq!(near(Some("b"), zones.clone()), "10.244.1.2:8080");
    let both = "10.244.0.1:8080 10.244.1.2:8080";
    assert_eq!(near(Some("c"), zones.clone()), both, "there is none for this zone");
    assert_eq!(near(None, zones.clone()), both, "the zone is not known");
    let partly = zones.clone().endpoint("10.244.1.3", "there");
    assert_eq!(near(Some("a"), partly), format!("{both} 10.244.1.3:8080"), "one has no hint");
    let ended = zones.endpoint("10.244.1.3", "there").ending();
    assert_eq!(near(Some("a"), ended), "10.244.0.1:8080", "who ends is not asked");

    let nodes =
        one.hints(&[HERE], &["b"]).endpoint("10.244.1.2", "there").hints(&["there"], &["a"]);
    assert_eq!(near(Some("a"), nodes), "10.244.0.1:8080", "the node outranks the zone");
}

#[test]
fn external_ips_can_be_switched_off() {
    let mut world = World::empty(Settings { external_ips: false, ..settings() });
    world.apply(web().external_ip("203.0.113.1"));
    world.apply(web_slice(1).endpoint("10.244.0.1", HERE));
    assert_eq!(world.frontends("ns/web"), ["10.0.0.1:80/tcp"]);
    let problem = "spec.externalIPs[0]: external IPs are switched off; skipped";
    assert_eq!(world.problems("ns/web"), [problem]);
    assert_eq!(world.flow("10.244.0.99", "203.0.113.1:80"), "pass");
}

#[test]
fn a_health_check_counts_ready_addresses_of_this_node() {
    let Change::Applied { object: Object::Service(mut service), .. } =
        Change::from(web().load_balancer_ip("203.0.113.1").external_local())
    else {
        unreachable!("a Service");
    };
    service.health_check_node_port = Some(32000);
    let mut world = World::new();
    world.apply(applied(Object::Service(service)));
    let local = |world: &World| world.service("ns/web").health_check.unwrap().local;
    assert_eq!(local(&world), [0, 0]);
    let here = web_slice(1).endpoint("10.244.0.1", HERE).endpoint("10.244.0.2", HERE);
    let others = here.endpoint("10.244.0.3", HERE).ending().endpoint("10.244.1.1", "there");
    world.apply(others);
    world.apply(web_slice(2).endpoint("10.244.0.1", HERE));
    world.apply(web_slice(3).endpoint("fd01::1", HERE));
    assert_eq!(local(&world), [2, 1]);
}
