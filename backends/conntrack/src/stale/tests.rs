use std::net::SocketAddr;

use proptest::prelude::*;
use shunt_model::object::ServiceType;
use shunt_model::plan::{FrontendKind, Masquerade};

use super::*;
use crate::filter::DESTINATION_TRANSLATED;

const CLIENT: &str = "10.244.0.9:4000";

fn at(text: &str) -> SocketAddr {
    text.parse().unwrap()
}

fn endpoint(text: &str) -> Endpoint {
    Endpoint { address: at(text).ip(), port: at(text).port() }
}

/// `10.96.0.1:53`, or `node:30053` for a NodePort of IPv4.
fn frontend(protocol: Protocol, text: &str) -> Frontend {
    match text.strip_prefix("node:") {
        Some(port) => {
            let address = FrontendAddress::Node(Family::V4);
            Frontend { address, protocol, port: port.parse().unwrap() }
        }
        None => {
            let (address, port) = (FrontendAddress::Ip(at(text).ip()), at(text).port());
            Frontend { address, protocol, port }
        }
    }
}

fn service(frontends: &[Frontend], pool: &[&str], lingering: &[&str]) -> Arc<ServicePlan> {
    let pool: Arc<[Endpoint]> = pool.iter().map(|text| endpoint(text)).collect();
    let action = if pool.is_empty() { Action::Reject } else { Action::Forward(pool) };
    let plan = |frontend: &Frontend| FrontendPlan {
        frontend: *frontend,
        kind: FrontendKind::ClusterIp,
        port_name: "".into(),
        sources: None,
        action: action.clone(),
        from_inside: None,
        masquerade: Masquerade::Outsiders,
    };
    let mut frontends: Vec<_> = frontends.iter().map(plan).collect();
    frontends.sort_unstable_by_key(|plan| plan.frontend);
    Arc::new(ServicePlan {
        service_type: ServiceType::ClusterIp,
        frontends,
        cluster_ips: Vec::new(),
        hairpins: Vec::new(),
        balancing: None,
        weights: Box::default(),
        lingering: lingering.iter().map(|text| (Protocol::Udp, endpoint(text))).collect(),
        health_check: None,
        problems: Vec::new(),
    })
}

fn change(name: &str, service: Option<Arc<ServicePlan>>) -> PlanDelta {
    let services = BTreeMap::from([(ObjectKey::new("default", name), service)]);
    PlanDelta { node: None, services }
}

fn node(addresses: &[&str]) -> PlanDelta {
    let node_port_addresses = addresses.iter().map(|ip| ip.parse().unwrap()).collect();
    let node = NodePlan { node_port_addresses, ..NodePlan::default() };
    PlanDelta { node: Some(Arc::new(node)), services: BTreeMap::new() }
}

/// A connection of a client to `destination` that `server` answers.
fn flow(protocol: Protocol, destination: &str, server: &str) -> Flow {
    Flow {
        protocol,
        client: at(CLIENT),
        destination: at(destination),
        server: at(server),
        peer: at(CLIENT),
        status: if server == destination { 0 } else { DESTINATION_TRANSLATED },
        id: None,
        zone: None,
        client_zone: None,
    }
}

/// As IPVS translates it.
fn of_ipvs(flow: Flow) -> Flow {
    Flow { status: 0, ..flow }
}

fn udp(destination: &str, server: &str) -> Flow {
    flow(Protocol::Udp, destination, server)
}

/// A record that knows the past, of the node 192.168.0.1 and these changes.
fn settled(tcp: bool, changes: impl IntoIterator<Item = PlanDelta>) -> Record {
    let mut record = Record::new(tcp);
    record.take(&node(&["192.168.0.1"]));
    changes.into_iter().for_each(|change| record.take(&change));
    record.settle();
    record
}

const DNS: &str = "10.96.0.1:53";
const ONE: &str = "10.244.0.1:5353";
const TWO: &str = "10.244.0.2:5353";

fn dns() -> Frontend {
    frontend(Protocol::Udp, DNS)
}

#[test]
fn a_flow_to_an_endpoint_that_is_gone_is_ended_and_others_are_not() {
    let mut record = settled(false, [change("dns", Some(service(&[dns()], &[ONE, TWO], &[])))]);
    assert!(record.is_settled() && record.filters().is_empty());
    record.take(&change("dns", Some(service(&[dns()], &[TWO], &[]))));
    assert!(record.condemns(&udp(DNS, ONE)));
    assert!(!record.condemns(&udp(DNS, TWO)), "it is there");
    assert!(!record.condemns(&udp(DNS, "10.244.0.7:5353")), "it never was ours");
    assert!(!record.condemns(&udp("10.96.0.2:53", ONE)), "through another frontend");
    assert!(!record.condemns(&udp(ONE, ONE)), "directly");
    assert!(!record.condemns(&flow(Protocol::Tcp, DNS, ONE)));
    let expected = Filter {
        destination: Some(at(DNS).ip()),
        destination_port: Some(53),
        server: Some(at(ONE).ip()),
        server_port: Some(5353),
        ..Filter::all(Family::V4, Protocol::Udp)
    };
    assert_eq!(record.filters(), [expected]);
}

#[test]
fn of_what_ipvs_translates_only_udp_is_ended() {
    let of = |protocol| [frontend(protocol, DNS)];
    for protocol in Protocol::ALL {
        let mut record =
            settled(true, [change("dns", Some(service(&of(protocol), &[ONE, TWO], &[])))]);
        let gone = of_ipvs(flow(protocol, DNS, ONE));
        record.take(&change("dns", Some(service(&of(protocol), &[TWO], &[]))));
        assert!(record.condemns(&flow(protocol, DNS, ONE)));
        assert_eq!(record.condemns(&gone), protocol == Protocol::Udp, "{protocol}");
        let mut restarted = Record::new(true);
        restarted.take(&change("dns", Some(service(&of(protocol), &[TWO], &[]))));
        assert_eq!(restarted.condemns(&gone), protocol == Protocol::Udp, "{protocol}");
    }
}

#[test]
fn what_lingers_of_one_family_is_not_asked_for_in_the_other() {
    let six = frontend(Protocol::Udp, "[fd00:10:96::1]:53");
    let both = [ONE, "[fd00:10:244::1]:5353"];
    let mut record = settled(false, [change("dns", Some(service(&[dns(), six], &[], &both)))]);
    record.take(&change("dns", Some(service(&[dns(), six], &[], &[]))));
    let filters = record.filters();
    assert_eq!(filters.len(), 2);
    for filter in filters {
        assert_eq!(filter.server.map(Family::of), Some(filter.family));
    }
}

#[test]
fn an_endpoint_that_lingers_keeps_its_flows_until_it_is_gone() {
    let mut record = settled(false, [change("dns", Some(service(&[dns()], &[ONE, TWO], &[])))]);
    record.take(&change("dns", Some(service(&[dns()], &[TWO], &[ONE]))));
    assert!(record.is_settled());
    record.take(&change("dns", Some(service(&[dns()], &[TWO], &[]))));
    assert!(record.condemns(&udp(DNS, ONE)));
}

#[test]
fn an_endpoint_that_is_back_before_anyone_looked_keeps_its_flows() {
    let mut record = settled(false, [change("dns", Some(service(&[dns()], &[ONE], &[])))]);
    record.take(&change("dns", Some(service(&[dns()], &[], &[]))));
    record.take(&change("dns", Some(service(&[dns()], &[ONE], &[]))));
    assert!(!record.condemns(&udp(DNS, ONE)));
}

#[test]
fn a_flow_older_than_its_service_is_ended() {
    let mut record = settled(false, []);
    record.take(&change("dns", Some(service(&[dns()], &[ONE], &[]))));
    assert!(record.condemns(&udp(DNS, DNS)));
    assert!(!record.condemns(&udp(DNS, ONE)));
    assert!(!record.condemns(&udp("10.96.0.2:53", "10.96.0.2:53")));
    let filter = &record.filters()[0];
    assert_eq!((filter.destination, filter.translated), (Some(at(DNS).ip()), false));
    record.settle();
    assert!(!record.condemns(&udp(DNS, DNS)), "it was looked at");
}

#[test]
fn node_ports_are_those_of_the_node_only() {
    let node_port = frontend(Protocol::Udp, "node:30053");
    let mut record = settled(false, []);
    record.take(&change("dns", Some(service(&[node_port], &[ONE], &[]))));
    assert!(record.condemns(&udp("192.168.0.1:30053", "192.168.0.1:30053")));
    let foreign = udp("192.0.2.7:30053", "192.0.2.7:30053");
    assert!(!record.condemns(&foreign), "the same number, on a host somewhere");
    record.settle();
    record.take(&change("dns", Some(service(&[node_port], &[TWO], &[]))));
    assert!(record.condemns(&udp("192.168.0.1:30053", ONE)));
    assert!(!record.condemns(&udp("192.0.2.7:30053", ONE)));
}

#[test]
fn an_address_that_is_new_on_the_node_ends_what_went_past_it() {
    let node_port = frontend(Protocol::Udp, "node:30053");
    let mut record = settled(false, [change("dns", Some(service(&[node_port], &[ONE], &[])))]);
    record.take(&node(&["192.168.0.1", "192.168.0.2"]));
    assert!(record.condemns(&udp("192.168.0.2:30053", "192.168.0.2:30053")));
}

#[test]
fn a_frontend_that_changes_hands_keeps_flows_that_are_right_for_the_new_owner() {
    let before = change("a", Some(service(&[dns()], &[ONE, TWO], &[])));
    let mut record = settled(false, [before]);
    let mut both = change("a", None);
    both.merge(change("b", Some(service(&[dns()], &[TWO], &[]))));
    record.take(&both);
    assert!(record.condemns(&udp(DNS, ONE)));
    assert!(!record.condemns(&udp(DNS, TWO)));
}

#[test]
fn a_service_that_is_gone_takes_its_flows_along() {
    let mut record = settled(false, [change("dns", Some(service(&[dns()], &[ONE], &[])))]);
    record.take(&change("dns", None));
    assert!(record.condemns(&udp(DNS, ONE)));
    assert!(!record.condemns(&udp(DNS, DNS)));
}

#[test]
fn a_restart_compares_everything_once() {
    let mut record = Record::new(false);
    assert!(record.is_settled(), "nothing is ours yet");
    record.take(&change("dns", Some(service(&[dns()], &[ONE], &[]))));
    assert_eq!(record.filters(), [Filter::all(Family::V4, Protocol::Udp)]);
    for stale in [udp(DNS, TWO), udp(DNS, DNS)] {
        assert!(record.condemns(&stale));
    }
    assert!(!record.condemns(&udp(DNS, ONE)));
    assert!(!record.condemns(&udp("10.96.0.2:53", TWO)));
    record.settle();
    assert!(record.is_settled());
}

#[test]
fn tcp_is_left_alone_unless_asked_for() {
    let tcp = |text| frontend(Protocol::Tcp, text);
    let [before, after] = [&[ONE, TWO][..], &[TWO]].map(|pool| service(&[tcp(DNS)], pool, &[]));
    for asked in [false, true] {
        let mut record = settled(asked, [change("web", Some(Arc::clone(&before)))]);
        record.take(&change("web", Some(Arc::clone(&after))));
        assert_eq!(record.condemns(&flow(Protocol::Tcp, DNS, ONE)), asked);
        assert_eq!(record.is_settled(), !asked);
    }
    let mut record = settled(true, []);
    record.take(&change("web", Some(before)));
    assert!(record.is_settled(), "no TCP connection is older than its Service");
}

fn any_service() -> impl Strategy<Value = Option<Arc<ServicePlan>>> {
    let frontends = prop::sample::subsequence(
        vec![
            dns(),
            frontend(Protocol::Udp, "10.96.0.1:54"),
            frontend(Protocol::Sctp, "10.96.0.2:53"),
            frontend(Protocol::Udp, "node:30053"),
            frontend(Protocol::Tcp, DNS),
        ],
        1..=3,
    );
    let pool = prop::sample::subsequence(vec![ONE, TWO, "10.244.0.3:53"], 0..=3);
    let made = (frontends, pool).prop_map(|(frontends, pool)| service(&frontends, &pool, &[]));
    prop::option::weighted(0.8, made)
}

fn any_flow() -> impl Strategy<Value = Flow> {
    let places = vec![DNS, "10.96.0.1:54", "10.96.0.2:53", "192.168.0.1:30053", ONE, TWO];
    let protocol = prop::sample::select(&Protocol::ALL[..]);
    let servers = places.clone();
    (protocol, prop::sample::select(places), prop::sample::select(servers), any::<bool>()).prop_map(
        |(protocol, destination, server, by_ipvs)| {
            let flow = flow(protocol, destination, server);
            if by_ipvs { of_ipvs(flow) } else { flow }
        },
    )
}

/// Whether the kernel would show a connection.
fn lets_through(filter: &Filter, flow: &Flow) -> bool {
    let same =
        |asked: Option<std::net::IpAddr>, has: SocketAddr| asked.is_none_or(|ip| ip == has.ip());
    filter.protocol == flow.protocol
        && same(filter.destination, flow.destination)
        && filter.destination_port.is_none_or(|port| port == flow.destination.port())
        && same(filter.server, flow.server)
        && filter.server_port.is_none_or(|port| port == flow.server.port())
        && (!filter.translated || flow.is_destination_translated())
}

proptest! {
    /// Whatever changes: what is condemned is shown by just one filter, and is not served.
    #[test]
    fn the_filters_let_through_all_that_is_condemned(
        tcp in any::<bool>(),
        restarted in any::<bool>(),
        before in any_service(),
        changes in prop::collection::vec(any_service(), 1..4),
        flows in prop::collection::vec(any_flow(), 30),
    ) {
        let mut record = settled(tcp, [change("a", before)]);
        if restarted {
            record.suspects = Suspects::All;
        }
        let mut last = None;
        for each in changes {
            record.take(&change("a", each.clone()));
            last = each;
        }
        for flow in flows.iter().filter(|flow| record.condemns(flow)) {
            let shown = record.filters().iter().filter(|f| lets_through(f, flow)).count();
            prop_assert_eq!(shown, 1, "{:?}", flow);
            let endpoint = Endpoint { address: flow.server.ip(), port: flow.server.port() };
            let served = last.iter().flat_map(|service| &service.frontends).any(|plan| {
                Some(plan.frontend) == record.frontend_of(flow)
                    && pools(plan).any(|pool| pool.contains(&endpoint))
            });
            prop_assert!(!served, "{:?}", flow);
        }
    }
}
