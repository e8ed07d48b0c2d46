//! What the daemon holds of each Service and its endpoints, counted by the allocator: no matter
//! which machine, how many threads, or how a C library keeps what was freed.

use std::time::Instant;

use serde_json::{Value, json};
use shunt::planner::Planner;
use shunt::source::convert::{Converter, Wire};
use shunt::source::wire;
use shunt_cluster::Netns;
use shunt_model::compile::{LocalSources, NodePortAddresses, Settings};
use shunt_model::problem::Kind;
use shunt_model::snapshot::Change;
use shunt_nftables::counting::Counting;
use shunt_nftables::forwarding::Forwarding;
use shunt_nftables::kernel::{Nftables, Options};

#[global_allocator]
static HEAP: dhat::Alloc = dhat::Alloc;

const SERVICES: u16 = 2000;
const ENDPOINTS: u16 = 10;
/// For a Service with its slice of ten endpoints: snapshot, claims, plan, and the record of what is
/// in the kernel. 10,000 of them are the goal of 40 MB resident at 100,000 endpoints, with the
/// program's own 11 MB and what an allocator adds. Whoever needs more here takes it from there.
const MOST: usize = 2150;

fn settings() -> Settings {
    Settings {
        node_name: "node-1".into(),
        node_port_addresses: NodePortAddresses::Primary,
        local_sources: LocalSources::Unknown,
        masquerade_all: false,
        external_ips: true,
        reset_tcp: false,
        localhost_node_ports: false,
    }
}

/// A Service; every tenth has a node port.
fn service(n: u16) -> Value {
    let node_port = n.is_multiple_of(10).then(|| 30000 + n);
    let [high, low] = n.to_be_bytes();
    json!({
        "metadata": {
            "name": format!("svc-{n}"), "namespace": "load",
            "creationTimestamp": "2026-01-01T00:00:00Z",
        },
        "spec": {
            "type": if node_port.is_some() { "NodePort" } else { "ClusterIP" },
            "clusterIPs": [format!("10.96.{high}.{low}")],
            "ports": [{ "name": "http", "port": 80, "protocol": "TCP", "nodePort": node_port }],
        },
    })
}

/// Its slice. A hundredth of the endpoints are on our node.
fn slice(n: u16) -> Value {
    let endpoint = |at: u16| {
        let ordinal = u32::from(n * ENDPOINTS + at);
        let [_, _, high, low] = ordinal.to_be_bytes();
        json!({
            "addresses": [format!("10.244.{high}.{low}")],
            "conditions": { "ready": true, "serving": true, "terminating": false },
            "nodeName": format!("node-{}", ordinal % 100),
        })
    };
    json!({
        "metadata": {
            "name": format!("svc-{n}-0"), "namespace": "load",
            "labels": { "kubernetes.io/service-name": format!("svc-{n}") },
        },
        "addressType": "IPv4",
        "ports": [{ "name": "http", "port": 8080, "protocol": "TCP" }],
        "endpoints": (0..ENDPOINTS).map(endpoint).collect::<Vec<_>>(),
    })
}

/// An object as it comes from the API server.
fn change<W: Wire<Object = shunt_model::snapshot::Object> + serde::de::DeserializeOwned>(
    converter: &mut Converter,
    json: Value,
) -> Change {
    let wire: W = serde_json::from_value(json).expect("an object of the API");
    wire.convert(converter).into_change()
}

#[test]
fn a_service_with_ten_endpoints_takes_two_kilobytes() {
    let _profiler = dhat::Profiler::builder().testing().build();
    let netns = Netns::new("memory").expect("a network namespace: this test needs root");
    let options =
        Options { owner: false, forwarding: Forwarding::Translate, counting: Counting::Nothing };
    let mut nftables = netns.run(move || Nftables::open(options)).expect("nftables");
    let (mut planner, mut converter) = (Planner::new(settings()), Converter::new());
    let before = dhat::HeapStats::get().curr_bytes;

    let now = Instant::now();
    let kinds = [Kind::Service, Kind::EndpointSlice, Kind::Node, Kind::ServiceCidr];
    planner.take(Change::LocalAddresses(["192.168.0.1".parse().unwrap()].into()), now);
    for kind in kinds {
        planner.take(Change::ListStarted(kind), now);
    }
    for n in 0..SERVICES {
        planner.take(change::<wire::Service>(&mut converter, service(n)), now);
        planner.take(change::<wire::EndpointSlice>(&mut converter, slice(n)), now);
    }
    for kind in kinds {
        planner.take(Change::ListDone(kind), now);
    }
    let order = planner.order(now).expect("the first order");
    nftables.sync(order.delta).expect("a sync");

    let bytes = dhat::HeapStats::get().curr_bytes - before;
    let totals = planner.totals();
    assert_eq!((totals.services, totals.endpoints), (2000, 20_000), "all is in the plan");
    let held = nftables.installed().expect("a record").elements().count();
    assert!(held > 22_000, "{held} elements: all is in the kernel");
    let each = bytes / usize::from(SERVICES);
    println!("{each} bytes for each Service");
    assert!(each <= MOST, "{each} bytes for each Service");
}
