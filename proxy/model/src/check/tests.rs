use std::sync::Arc;

use super::*;
use crate::address::Endpoint;
use crate::problem::Kind;
use crate::testing::{HERE, World, found, ip, key, nets, service, slice};

/// The findings after a change to a sound plan of one Service, `ns/web`.
fn findings(spoil: impl FnOnce(&mut ServicePlan)) -> Vec<String> {
    let web = service("ns/web").cluster_ip("10.0.0.1").external_ip("203.0.113.1");
    let web_1 = slice("ns/web-1").port("http", 8080).endpoint("10.244.0.1", HERE);
    let mut plan = World::with([web.port("http", 80).into(), web_1.into()]).plan;
    assert!(plan.check().is_empty());
    spoil(Arc::make_mut(plan.services.get_mut(&key("ns/web")).unwrap()));
    plan.check()
}

fn forward(endpoints: &[(&str, u16)]) -> Action {
    let endpoints =
        endpoints.iter().map(|(address, port)| Endpoint { address: ip(address), port: *port });
    Action::Forward(endpoints.collect())
}

#[test]
fn a_service_that_is_not_sound() {
    type Spoil = fn(&mut ServicePlan);
    let cases: [(Spoil, &str); 10] = [
        (|s| s.frontends.reverse(), "frontends are not sorted, each once"),
        (|s| s.cluster_ips.push(ip("10.0.0.1")), "ClusterIPs are not sorted, each once"),
        (|s| s.hairpins.push(ip("10.244.0.1")), "hairpins are not sorted, each once"),
        (|s| s.hairpins = vec![ip("10.244.9.9")], "hairpin 10.244.9.9 is in no pool"),
        (
            |s| s.problems.push(found(Kind::Service, "a/b", "spec")),
            "holds another's problem: Service a/b: spec: is no good",
        ),
        (
            |s| s.frontends[1].kind = FrontendKind::ClusterIp,
            "203.0.113.1:80/tcp cannot be a ClusterIp",
        ),
        (
            |s| s.frontends[1].kind = FrontendKind::NodePort,
            "203.0.113.1:80/tcp cannot be a NodePort",
        ),
        (|s| s.frontends[1].action = forward(&[]), "203.0.113.1:80/tcp forwards to no one"),
        (
            |s| s.frontends[1].action = forward(&[("10.0.0.2", 1), ("10.0.0.1", 1)]),
            "203.0.113.1:80/tcp: endpoints are not sorted, each once",
        ),
        (
            |s| s.frontends[1].action = forward(&[("fd01::1", 1)]),
            "203.0.113.1:80/tcp: [fd01::1]:1 is of the other family",
        ),
    ];
    for (spoil, expected) in cases {
        assert_eq!(findings(spoil), [format!("ns/web: {expected}")]);
    }
}

#[test]
fn a_frontend_in_two_services() {
    let mut plan = World::with([service("ns/web").cluster_ip("10.0.0.1").port("", 80).into()]).plan;
    let web = Arc::clone(&plan.services[&key("ns/web")]);
    plan.services.insert(key("ns/zoo"), web);
    assert_eq!(plan.check(), ["ns/zoo: 10.0.0.1:80/tcp is also in ns/web"]);
}

#[test]
fn a_node_that_is_not_sound() {
    let mut plan = World::new().plan;
    assert!(plan.check().is_empty());
    let node = Arc::make_mut(&mut plan.node);
    node.node_port_addresses.insert(ip("127.0.0.2"));
    node.local_sources =
        nets(&["10.0.0.0/8", "10.244.0.0/24", "192.168.7.7/16"]).into_iter().collect();
    let expected = [
        "node: NodePorts on the loopback address 127.0.0.2",
        "node: local source 10.244.0.0/24 overlaps another",
        "node: 192.168.7.7/16 has host bits",
    ];
    assert_eq!(plan.check(), expected);
}
