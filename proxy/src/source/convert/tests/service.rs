use std::sync::Arc;

use shunt_model::address::Protocol;
use shunt_model::balancing::{Affinity, AffinityScope, Balancing};
use shunt_model::object::{Service, ServicePort, ServiceType, TrafficPolicy};

use super::*;

fn base() -> Value {
    json!({
        "metadata": {"name": "web", "namespace": "shop", "creationTimestamp": "1970-01-01T00:01:00Z"},
        "spec": {
            "type": "LoadBalancer",
            "clusterIP": "10.96.0.1",
            "clusterIPs": ["10.96.0.1", "fd00:96::1"],
            "externalIPs": ["198.51.100.1"],
            "ports": [
                {"name": "http", "protocol": "TCP", "port": 80, "nodePort": 30080, "targetPort": "web"},
                {"name": "dns", "protocol": "UDP", "port": 53},
            ],
            "sessionAffinity": "ClientIP",
            "externalTrafficPolicy": "Local",
            "internalTrafficPolicy": "Cluster",
            "loadBalancerSourceRanges": [" 203.0.113.0/24 ", "2001:db8::/32"],
        },
        "status": {"loadBalancer": {"ingress": [
            {"ip": "192.0.2.1", "ipMode": "VIP"},
            {"ip": "192.0.2.2"},
            {"ip": "192.0.2.3", "ipMode": "Proxy"},
            {"hostname": "lb.example.org"},
        ]}},
    })
}

fn service(value: Value) -> Service {
    match convert::<wire::Service>(value).object {
        Some(Object::Service(service)) => service,
        other => panic!("{other:?}"),
    }
}

/// The problems that one other value makes; the object is served.
fn complaints(path: &str, value: Value) -> Vec<String> {
    let converted = convert::<wire::Service>(with(base(), path, value));
    assert!(converted.object.is_some(), "{converted:?}");
    problems(&converted)
}

#[test]
fn a_whole_service() {
    let converted = convert::<wire::Service>(base());
    assert_eq!(converted.problems, []);
    let port = |name: &str, protocol, port, node_port| ServicePort {
        name: name.into(),
        protocol,
        port,
        node_port,
    };
    assert_eq!(
        converted.object,
        Some(Object::Service(Service {
            key: ObjectKey::new("shop", "web"),
            created: 60,
            service_type: ServiceType::LoadBalancer,
            cluster_ips: ips(&["10.96.0.1", "fd00:96::1"]),
            external_ips: ips(&["198.51.100.1"]),
            load_balancer_ips: ips(&["192.0.2.1", "192.0.2.2"]),
            ports: vec![
                port("http", Protocol::Tcp, 80, Some(30080)),
                port("dns", Protocol::Udp, 53, None),
            ],
            external_traffic_policy: TrafficPolicy::Local,
            internal_traffic_policy: TrafficPolicy::Cluster,
            balancing: Some(Arc::new(Balancing {
                affinity: Some(Affinity { seconds: 10_800, scope: AffinityScope::Port }),
                ..Balancing::default()
            })),
            health_check_node_port: None,
            load_balancer_source_ranges: cidrs(&["203.0.113.0/24", "2001:db8::/32"]),
        }))
    );
}

#[test]
fn the_least_of_a_service() {
    let least = json!({"metadata": {"name": "a"}, "spec": {"clusterIP": "10.0.0.1", "ports": [{"port": 1}]}});
    let service = service(least);
    assert_eq!(service.key, ObjectKey::new("default", "a"));
    assert_eq!((service.created, service.service_type), (0, ServiceType::ClusterIp));
    assert_eq!(service.cluster_ips, ips(&["10.0.0.1"]));
    assert_eq!((&*service.ports[0].name, service.ports[0].protocol), ("", Protocol::Tcp));
    assert_eq!(service.balancing, None);
}

#[test]
fn what_is_not_proxied_is_ignored() {
    let none_of_ours = [
        with(base(), "spec.type", json!("ExternalName")),
        with(with(base(), "spec.clusterIP", json!("None")), "spec.clusterIPs", json!(["None"])),
        with(with(base(), "spec.clusterIP", Value::Null), "spec.clusterIPs", json!(["None"])),
        with(with(base(), "spec.clusterIP", json!("")), "spec.clusterIPs", Value::Null),
        with(base(), "metadata.labels", json!({"service.kubernetes.io/service-proxy-name": ""})),
        with(base(), "spec", Value::Null),
    ];
    for value in none_of_ours {
        let converted = convert::<wire::Service>(value);
        assert_eq!((&converted.object, converted.problems.len()), (&None, 0), "{converted:?}");
    }
}

#[test]
fn what_has_nothing_to_serve_is_rejected() {
    for (path, value, expected) in [
        ("spec.ports", json!([]), "spec.ports: there is no port; not served"),
        (
            "spec.ports",
            json!([{"port": 0}]),
            "spec.ports[0].port: 0 is not a port (1-65535); this port is skipped",
        ),
        (
            "spec.clusterIPs",
            json!(["10.96.0.256"]),
            "spec.clusterIPs[0]: \"10.96.0.256\" is not an address; this address is not served",
        ),
    ] {
        let converted = convert::<wire::Service>(with(base(), path, value));
        assert_eq!(converted.object, None);
        assert_eq!(problems(&converted), [expected]);
    }
}

#[test]
fn ports_that_are_wrong_are_skipped() {
    for (path, value, expected) in [
        (
            "spec.ports.1.port",
            json!(70000),
            "spec.ports[1].port: 70000 is not a port (1-65535); this port is skipped",
        ),
        (
            "spec.ports.1.port",
            json!(-1),
            "spec.ports[1].port: -1 is not a port (1-65535); this port is skipped",
        ),
        (
            "spec.ports.1.port",
            Value::Null,
            "spec.ports[1].port: there is no number; this port is skipped",
        ),
        (
            "spec.ports.1.protocol",
            json!("tcp"),
            "spec.ports[1].protocol: \"tcp\" is not TCP, UDP or SCTP; this port is skipped",
        ),
        (
            "spec.ports.1",
            json!({"name": "again", "port": 80}),
            "spec.ports[1].port: 80/tcp is used by a port before; this port is skipped",
        ),
        (
            "spec.ports.1",
            json!({"name": "http", "port": 81}),
            "spec.ports[1].name: \"http\" is the name of a port before; this port is skipped",
        ),
    ] {
        let value = with(base(), path, value);
        assert_eq!(problems(&convert::<wire::Service>(value.clone())), [expected]);
        assert_eq!(service(value).ports.len(), 1);
    }
}

#[test]
fn ports_may_share_a_number_or_a_name_in_different_protocols() {
    let ports = json!([{"port": 53, "protocol": "UDP"}, {"port": 53, "protocol": "TCP"}]);
    assert_eq!(service(with(base(), "spec.ports", ports)).ports.len(), 2);
}

#[test]
fn a_node_port_that_is_wrong_is_left_out() {
    let place = "spec.ports.0.nodePort";
    assert_eq!(
        complaints(place, json!(99_999)),
        ["spec.ports[0].nodePort: 99999 is not a port (1-65535); not served on nodes"]
    );
    assert_eq!(complaints(place, json!(0)), [""; 0]);
    assert_eq!(
        complaints("spec.type", json!("ClusterIP")),
        ["spec.ports[0].nodePort: a ClusterIP Service has no node ports; not served on nodes"]
    );
    let without = service(with(base(), place, json!(99_999)));
    assert_eq!((without.ports.len(), without.ports[0].node_port), (2, None));
}

#[test]
fn addresses_that_are_wrong_are_left_out() {
    for (path, text, expected) in [
        (
            "spec.clusterIPs.1",
            "10.96.0.2",
            "spec.clusterIPs[1]: 10.96.0.2 is a second IPv4 address after 10.96.0.1; this address is not served",
        ),
        (
            "spec.clusterIPs.1",
            "::",
            "spec.clusterIPs[1]: :: is unspecified; this address is not served",
        ),
        (
            "spec.externalIPs.0",
            "192.0.2.0x1",
            "spec.externalIPs[0]: \"192.0.2.0x1\" is not an address; this address is not served",
        ),
        (
            "spec.externalIPs.0",
            "127.0.0.1",
            "spec.externalIPs[0]: 127.0.0.1 is a loopback address; this address is not served",
        ),
        (
            "spec.externalIPs.0",
            "224.0.0.1",
            "spec.externalIPs[0]: 224.0.0.1 is a multicast address; this address is not served",
        ),
        (
            "spec.externalIPs.0",
            "255.255.255.255",
            "spec.externalIPs[0]: 255.255.255.255 is the broadcast address; this address is not served",
        ),
        (
            "status.loadBalancer.ingress.0.ip",
            "fe80::1%eth0",
            "status.loadBalancer.ingress[0].ip: \"fe80::1%eth0\" is not an address; this address is not served",
        ),
    ] {
        assert_eq!(complaints(path, json!(text)), [expected]);
    }
}

#[test]
fn an_ipv4_address_in_ipv6_form_is_ipv4() {
    let service =
        service(with(base(), "spec.externalIPs", json!(["::ffff:192.0.2.9", "192.0.2.9"])));
    assert_eq!(service.external_ips, ips(&["192.0.2.9"]));
}

#[test]
fn words_that_are_wrong_mean_the_default() {
    for (path, value, expected) in [
        (
            "spec.sessionAffinity",
            json!("Cookie"),
            "spec.sessionAffinity: \"Cookie\" is not None or ClientIP; None is used",
        ),
        (
            "spec.externalTrafficPolicy",
            json!("local"),
            "spec.externalTrafficPolicy: \"local\" is not Cluster or Local; Cluster is used",
        ),
        (
            "spec.internalTrafficPolicy",
            json!("Node"),
            "spec.internalTrafficPolicy: \"Node\" is not Cluster or Local; Cluster is used",
        ),
        (
            "status.loadBalancer.ingress.0.ipMode",
            json!("NAT"),
            "status.loadBalancer.ingress[0].ipMode: \"NAT\" is not VIP or Proxy; VIP is meant",
        ),
    ] {
        assert_eq!(complaints(path, value), [expected]);
    }
    let unknown =
        with(with(base(), "spec.type", json!("Magic")), "spec.ports.0.nodePort", Value::Null);
    let converted = convert::<wire::Service>(unknown);
    assert_eq!(
        problems(&converted),
        ["spec.type: \"Magic\" is not a type of Service; served as ClusterIP"]
    );
}

#[test]
fn source_ranges_never_open_what_they_should_close() {
    let path = "spec.loadBalancerSourceRanges";
    let one_left = with(base(), path, json!(["10.0.0.0/33", "10.1.2.3/8"]));
    assert_eq!(
        problems(&convert::<wire::Service>(one_left.clone())),
        ["spec.loadBalancerSourceRanges[0]: \"10.0.0.0/33\" is not a range of addresses \
          (address/length); this range is skipped"]
    );
    assert_eq!(service(one_left).load_balancer_source_ranges, cidrs(&["10.0.0.0/8"]));

    let none_left = with(base(), path, json!(["10.0.0.1"]));
    let told = problems(&convert::<wire::Service>(none_left.clone()));
    assert_eq!(
        told[1],
        "spec.loadBalancerSourceRanges: no range is left; the load balancer's addresses are not served"
    );
    let none_left = service(none_left);
    assert_eq!((none_left.load_balancer_ips.len(), none_left.external_ips.len()), (0, 1));
}

#[test]
fn health_check_node_ports_are_of_load_balancers_with_policy_local() {
    let port = |kind: &str, policy: &str, number: i64| {
        let mut value = base();
        value["spec"]["type"] = kind.into();
        value["spec"]["externalTrafficPolicy"] = policy.into();
        value["spec"]["healthCheckNodePort"] = number.into();
        let converted = convert::<wire::Service>(value);
        let problems = converted.problems.iter().map(|problem| problem.field.clone());
        let problems = problems.filter(|field| field.contains("health")).count();
        match converted.object {
            Some(Object::Service(service)) => (service.health_check_node_port, problems),
            other => panic!("{other:?}"),
        }
    };
    assert_eq!(port("LoadBalancer", "Local", 32000), (Some(32000), 0));
    assert_eq!(port("LoadBalancer", "Cluster", 32000), (None, 0));
    assert_eq!(port("NodePort", "Local", 32000), (None, 0));
    assert_eq!(port("LoadBalancer", "Local", 0), (None, 0));
    assert_eq!(port("LoadBalancer", "Local", 70000), (None, 1));
}
