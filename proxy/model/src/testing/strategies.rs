//! Random objects from few keys, addresses and ports, so that they collide often.

use std::net::IpAddr;
use std::sync::Arc;

use proptest::collection::{btree_set, vec};
use proptest::option;
use proptest::prelude::*;
use proptest::sample::{select, subsequence};

use super::{HERE, found, ip, key, nets};
use crate::address::{Family, Protocol};
use crate::balancing::{Affinity, AffinityScope, Balancing, Method};
use crate::compile::{LocalSources, NodePortAddresses, Settings};
use crate::interface::{InterfaceName, InterfacePattern};
use crate::object::{
    EndpointSlice, Hints, Locality, Node, Service, ServiceCidr, ServicePort, ServiceType,
    SliceEndpoint, SlicePort, TrafficPolicy,
};
use crate::oracle::Packet;
use crate::problem::Kind;
use crate::snapshot::{Change, Object};

const SERVICES: [&str; 4] = ["a/a", "a/b", "b/a", "c/c"];
const SLICES: [&str; 5] = ["a/a-1", "a/a-2", "a/b-1", "b/a-1", "c/c-1"];
const NODES: [&str; 2] = [HERE, "there"];
const SERVICE_CIDRS: [&str; 4] = ["10.0.0.0/30", "10.0.0.0/24", "fd02::/64", "192.168.0.0/24"];
const ZONES: [&str; 2] = ["a", "b"];
const CLUSTER_IPS: [&str; 4] = ["10.0.0.1", "10.0.0.2", "fd02::1", "fd02::2"];
const EXTERNAL_IPS: [&str; 5] =
    ["203.0.113.1", "10.0.0.1", "192.168.0.1", "2001:db8::1", "fd02::1"];
const NODE_IPS: [&str; 5] = ["192.168.0.1", "127.0.0.1", "169.254.0.1", "fd00::1", "fe80::1"];
const PODS: [&str; 5] = ["10.244.0.1", "10.244.0.2", "10.244.1.1", "fd01::1", "fd01::2"];
const CIDRS: [&str; 4] = ["10.244.0.0/24", "10.244.0.0/16", "fd01::/64", "192.168.0.0/16"];

fn ips(texts: &'static [&'static str], most: usize) -> impl Strategy<Value = Vec<IpAddr>> {
    subsequence(texts, 0..=most)
        .prop_shuffle()
        .prop_map(|texts| texts.into_iter().map(ip).collect())
}

fn protocol() -> impl Strategy<Value = Protocol> {
    prop_oneof![3 => Just(Protocol::Tcp), 1 => Just(Protocol::Udp)]
}

fn name() -> impl Strategy<Value = &'static str> {
    select(&["", "one", "two"])
}

fn policy() -> impl Strategy<Value = TrafficPolicy> {
    prop_oneof![Just(TrafficPolicy::Cluster), Just(TrafficPolicy::Local)]
}

prop_compose! {
    fn balancing()(
        affinity in option::of((1_u32..3, select(&[AffinityScope::Port, AffinityScope::Service]))),
        method in select(&[Method::Random, Method::HashAddress, Method::HashConnection]),
        here in option::of(2_u8..4),
    ) -> Balancing {
        Balancing {
            affinity: affinity.map(|(seconds, scope)| Affinity { seconds, scope }),
            method,
            node_weights: here.map(|weight| (HERE.into(), weight)).into_iter().collect(),
            ..Balancing::default()
        }
    }
}

prop_compose! {
    fn service_port()(
        name in name(),
        protocol in protocol(),
        port in select(&[80_u16, 81, 30080]),
        node_port in option::of(select(&[30080_u16, 30081])),
    ) -> ServicePort {
        ServicePort { name: name.into(), protocol, port, node_port }
    }
}

prop_compose! {
    fn service()(
        name in select(&SERVICES),
        created in 0_i64..4,
        service_type in
            select(&[ServiceType::ClusterIp, ServiceType::NodePort, ServiceType::LoadBalancer]),
        cluster_ips in ips(&CLUSTER_IPS, 2),
        external_ips in ips(&EXTERNAL_IPS, 2),
        load_balancer_ips in ips(&EXTERNAL_IPS, 2),
        ports in vec(service_port(), 0..4),
        policies in (policy(), policy()),
        balancing in option::weighted(0.2, balancing()),
        filtered in prop::bool::weighted(0.2),
    ) -> Service {
        Service {
            key: key(name),
            created,
            service_type,
            cluster_ips,
            external_ips,
            load_balancer_ips,
            ports,
            external_traffic_policy: policies.0,
            internal_traffic_policy: policies.1,
            balancing: balancing.map(Arc::new),
            health_check_node_port: None,
            load_balancer_source_ranges: nets(if filtered { &CIDRS[..1] } else { &[] }),
        }
    }
}

prop_compose! {
    fn slice_port()(
        name in name(),
        protocol in protocol(),
        port in select(&[8080_u16, 8081]),
    ) -> SlicePort {
        SlicePort { name: name.into(), protocol, port }
    }
}

prop_compose! {
    fn hints()(
        nodes in subsequence(&NODES, 0..=2),
        zones in subsequence(&ZONES, 0..=2),
    ) -> Hints {
        let names = |texts: Vec<&'static str>| texts.into_iter().map(Into::into).collect();
        Hints { nodes: names(nodes), zones: names(zones) }
    }
}

prop_compose! {
    fn slice_endpoint()(
        address in select(&PODS),
        (ready, serving, terminating) in any::<(bool, bool, bool)>(),
        weight in prop_oneof![3 => Just(1_u8), 1 => 2_u8..4],
        node in option::of(select(&NODES)),
        hints in option::weighted(0.8, hints()),
    ) -> SliceEndpoint {
        let locality = Arc::new(Locality { node: node.map(Into::into), hints });
        SliceEndpoint { address: ip(address), ready, serving, terminating, weight, locality }
    }
}

prop_compose! {
    fn slice()(
        name in select(&SLICES),
        service in select(&SERVICES),
        ports in vec(slice_port(), 0..4),
        endpoints in vec(slice_endpoint(), 0..5),
    ) -> EndpointSlice {
        EndpointSlice { key: key(name), service: key(service), ports, endpoints }
    }
}

prop_compose! {
    fn node()(
        name in select(&NODES),
        addresses in ips(&NODE_IPS, 3),
        cidrs in subsequence(&CIDRS, 0..=2),
        zone in option::of(select(&ZONES)),
    ) -> Node {
        let zone = zone.map(Into::into);
        Node { name: name.into(), addresses, pod_cidrs: nets(&cidrs), zone, leaving: false }
    }
}

prop_compose! {
    fn service_cidr()(
        name in select(&NODES),
        cidrs in subsequence(&SERVICE_CIDRS, 0..=2),
    ) -> ServiceCidr {
        ServiceCidr { name: name.into(), cidrs: nets(&cidrs) }
    }
}

pub(super) fn object() -> impl Strategy<Value = Object> {
    prop_oneof![
        5 => service().prop_map(Object::Service),
        5 => slice().prop_map(Object::EndpointSlice),
        1 => node().prop_map(Object::Node),
        1 => service_cidr().prop_map(Object::ServiceCidr),
    ]
}

fn kind() -> impl Strategy<Value = Kind> {
    select(&[Kind::Service, Kind::EndpointSlice, Kind::Node, Kind::ServiceCidr])
}

fn names(kind: Kind) -> &'static [&'static str] {
    match kind {
        Kind::Service => &SERVICES,
        Kind::EndpointSlice => &SLICES,
        Kind::Node
        | Kind::ServiceCidr
        | Kind::Pod
        | Kind::Namespace
        | Kind::NetworkPolicy
        | Kind::ClusterNetworkPolicy
        | Kind::PeerNode => &NODES,
    }
}

fn kind_and_name() -> impl Strategy<Value = (Kind, &'static str)> {
    kind().prop_flat_map(|kind| (Just(kind), select(names(kind))))
}

pub(super) fn local_addresses() -> impl Strategy<Value = Change> {
    btree_set(select(&NODE_IPS), 0..5)
        .prop_map(|texts| Change::LocalAddresses(texts.into_iter().map(ip).collect()))
}

fn applied() -> impl Strategy<Value = Change> {
    (object(), prop::bool::weighted(0.2)).prop_map(|(object, flawed)| {
        let problem = found(object.kind(), &object.key().to_string(), "spec");
        Change::Applied { object, problems: if flawed { vec![problem] } else { Vec::new() } }
    })
}

fn rejected() -> impl Strategy<Value = Change> {
    kind_and_name().prop_map(|(kind, name)| Change::Rejected {
        kind,
        key: key(name),
        problems: vec![found(kind, name, "spec")],
    })
}

pub(super) fn change() -> impl Strategy<Value = Change> {
    prop_oneof![
        20 => applied(),
        4 => kind_and_name().prop_map(|(kind, name)| Change::Deleted { kind, key: key(name) }),
        2 => rejected(),
        2 => kind().prop_map(Change::ListStarted),
        2 => kind().prop_map(Change::ListDone),
        1 => local_addresses(),
    ]
}

pub(super) fn settings() -> impl Strategy<Value = Settings> {
    let cidrs = || subsequence(&CIDRS, 0..=3).prop_map(|texts| nets(&texts));
    let node_port_addresses =
        prop_oneof![Just(NodePortAddresses::Primary), cidrs().prop_map(NodePortAddresses::Within),];
    let local_sources = prop_oneof![
        Just(LocalSources::Unknown),
        Just(LocalSources::NodePodCidrs),
        cidrs().prop_map(LocalSources::Cidrs),
        interface().prop_map(|name| LocalSources::Interfaces(InterfacePattern::Prefix(name))),
    ];
    let rare = || prop::bool::weighted(0.2);
    let booleans = (rare(), any::<bool>(), rare(), any::<bool>());
    (node_port_addresses, local_sources, booleans).prop_map(
        |(node_port_addresses, local_sources, (masquerade_all, reset_tcp, without, localhost))| {
            Settings {
                node_name: HERE.into(),
                node_port_addresses,
                local_sources,
                masquerade_all,
                external_ips: !without,
                reset_tcp,
                localhost_node_ports: localhost,
            }
        },
    )
}

fn interface() -> impl Strategy<Value = InterfaceName> {
    select(&["veth", "veth1", "eth0"]).prop_map(|name| name.parse().unwrap())
}

/// Packets whose two addresses are of one family.
pub(super) fn packet() -> impl Strategy<Value = Packet> {
    let of = |family: Family, texts: &[&[&str]]| -> Vec<IpAddr> {
        let all = texts.concat().into_iter().map(ip);
        all.filter(|address| Family::of(*address) == family).collect()
    };
    let addresses = move |family| {
        let sources = of(family, &[&PODS, &NODE_IPS, &["198.51.100.1", "2001:db8:1::1"]]);
        let destinations = of(family, &[&CLUSTER_IPS, &EXTERNAL_IPS, &NODE_IPS, &PODS]);
        (select(sources), select(destinations))
    };
    let port = select(&[80_u16, 81, 30080, 30081, 9]);
    let addresses = select(&Family::ALL[..]).prop_flat_map(addresses);
    (addresses, protocol(), port, option::of(interface())).prop_map(
        |((source, destination), protocol, port, interface)| {
            let from_node = NODE_IPS.map(ip).contains(&source);
            let interface = interface.filter(|_| !from_node);
            Packet { source, destination, protocol, port, from_node, interface }
        },
    )
}
