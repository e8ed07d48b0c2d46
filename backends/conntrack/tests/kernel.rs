//! Connections of a real kernel, read by stock `conntrack`. Needs root, nft and conntrack.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::process::Command;
use std::sync::Arc;
use std::time::Duration;

use shunt_cluster::{EchoServer, Netns, ProbeOptions, UdpFlow};
use shunt_conntrack::filter::Filter;
use shunt_conntrack::kernel::Conntrack;
use shunt_conntrack::stale::Record;
use shunt_model::address::{Endpoint, Family, Frontend, FrontendAddress, Protocol};
use shunt_model::object::{ObjectKey, ServiceType};
use shunt_model::plan::{Action, FrontendKind, FrontendPlan, Masquerade, PlanDelta, ServicePlan};

/// Answers come at once; on a crowded machine, a little later.
const TIMEOUT: Duration = Duration::from_secs(10);

/// A host whose addresses are all its own, with a ClusterIP of each family.
struct Host {
    netns: Netns,
    _server: EchoServer,
    flows: Vec<UdpFlow>,
}

const VIPS: [&str; 2] = ["10.96.0.1:53", "[fd00:96::1]:53"];
const PODS: [&str; 2] = ["10.244.0.1:5353", "[fd00:244::1]:5353"];
const OTHERS: [&str; 2] = ["10.96.0.2:53", "[fd00:96::2]:53"];

impl Host {
    fn new() -> Self {
        let netns = Netns::new("host").expect("a network namespace: these tests need root");
        for text in [VIPS, PODS, OTHERS].concat() {
            let address = at(text).ip().into();
            netns.links().add_address("lo", address).expect("an address");
        }
        run(&netns, "nft", &[RULES]);
        let server = EchoServer::start(&netns, "pod", &[53, 5353]).expect("an echo server");
        Self { netns, _server: server, flows: Vec::new() }
    }

    /// A client that talks from a port of its own.
    fn talk(&mut self, to: &str, from: u16) {
        let options = ProbeOptions::within(TIMEOUT).from_port(from);
        let flow = UdpFlow::open(&self.netns, at(to), &options).expect("a socket");
        assert!(flow.exchange("hello", TIMEOUT).is_answer(), "{to} does not answer");
        self.flows.push(flow);
    }

    /// The client ports of all UDP connections, as stock `conntrack` lists them.
    fn listed(&self) -> Vec<u16> {
        let mut ports = Vec::new();
        for family in ["ipv4", "ipv6"] {
            let text = run(&self.netns, "conntrack", &["-L", "-p", "udp", "-f", family]);
            let first =
                |line: &str| line.split("sport=").nth(1)?.split(' ').next()?.parse::<u16>().ok();
            ports.extend(text.lines().filter_map(first));
        }
        ports.sort_unstable();
        ports
    }

    fn open(&self) -> Conntrack {
        self.netns.run(Conntrack::open).expect("conntrack")
    }
}

const RULES: &str = "table inet t { chain c { type nat hook output priority -100; \
    ip daddr 10.96.0.1 udp dport 53 dnat to 10.244.0.1:5353; \
    ip6 daddr fd00:96::1 udp dport 53 dnat to [fd00:244::1]:5353; }; }";

fn at(text: &str) -> SocketAddr {
    text.parse().expect("an address")
}

fn run(netns: &Netns, program: &str, arguments: &[&str]) -> String {
    let mut command = Command::new(program);
    command.args(arguments);
    let output = netns.run(move || command.output()).expect("the program starts");
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    assert!(output.status.success(), "{program} {arguments:?}: {output:?}");
    text
}

/// The Service whose frontends are the VIPs, with or without its pods.
fn dns(served: bool) -> PlanDelta {
    let plan = |(vip, pod): (&str, &str)| {
        let pod = Endpoint { address: at(pod).ip(), port: at(pod).port() };
        FrontendPlan {
            frontend: Frontend {
                address: FrontendAddress::Ip(at(vip).ip()),
                protocol: Protocol::Udp,
                port: at(vip).port(),
            },
            kind: FrontendKind::ClusterIp,
            port_name: "dns".into(),
            sources: None,
            action: if served { Action::Forward([pod].into()) } else { Action::Reject },
            from_inside: None,
            masquerade: Masquerade::Outsiders,
        }
    };
    let service = ServicePlan {
        service_type: ServiceType::ClusterIp,
        frontends: VIPS.into_iter().zip(PODS).map(plan).collect(),
        cluster_ips: Vec::new(),
        hairpins: Vec::new(),
        balancing: None,
        weights: Box::default(),
        lingering: Box::default(),
        health_check: None,
        problems: Vec::new(),
    };
    let key = ObjectKey::new("default", "dns");
    PlanDelta { node: None, services: BTreeMap::from([(key, Some(Arc::new(service)))]) }
}

fn sweep(conntrack: &mut Conntrack, record: &Record) -> usize {
    let ended = record.filters().into_iter().map(|filter| conntrack.sweep(record, &filter));
    ended.map(|ended| ended.expect("a sweep")).sum()
}

#[test]
fn flows_to_a_pod_that_is_gone_are_ended_and_no_others() {
    let mut host = Host::new();
    for (from, to) in [(1001, VIPS), (2001, PODS), (3001, OTHERS)] {
        host.talk(to[0], from);
        host.talk(to[1], from + 1);
    }
    let mut record = Record::new(false);
    record.take(&dns(true));
    let mut conntrack = host.open();
    assert_eq!(sweep(&mut conntrack, &record), 0, "a restart finds nothing wrong");
    record.settle();
    assert_eq!(host.listed(), [1001, 1002, 2001, 2002, 3001, 3002]);

    record.take(&dns(false));
    assert_eq!(sweep(&mut conntrack, &record), 2);
    assert_eq!(host.listed(), [2001, 2002, 3001, 3002]);
    assert_eq!(sweep(&mut conntrack, &record), 0);
}

#[test]
fn flows_older_than_their_service_are_ended() {
    let mut host = Host::new();
    // Some rule must ask for the state, or nothing is tracked.
    run(&host.netns, "nft", &["flush chain inet t c; add rule inet t c ct state new accept"]);
    for (from, to) in [(1001, VIPS), (3001, OTHERS)] {
        host.talk(to[0], from);
        host.talk(to[1], from + 1);
    }
    let mut record = Record::new(false);
    record.settle();
    record.take(&dns(true));
    assert_eq!(sweep(&mut host.open(), &record), 2);
    assert_eq!(host.listed(), [3001, 3002]);
}

/// Another program's rules may have the kernel look for connections in a zone, by the packets of both directions or of
/// one; each is ended there.
#[test]
fn flows_in_zones_are_ended_there() {
    for direction in ["", "original ", "reply "] {
        let mut host = Host::new();
        let rule = format!("udp sport {{ 1001, 1002 }} ct {direction}zone set 7");
        let hooks = "table inet z { chain o { type filter hook output priority raw; }; }";
        run(&host.netns, "nft", &[hooks]);
        run(&host.netns, "nft", &["add rule inet z o", &rule]);
        // Answers of the pod are in the same zone, unless only what the client sends is.
        if direction != "original " {
            let rule = format!("udp dport {{ 1001, 1002 }} ct {direction}zone set 7");
            run(&host.netns, "nft", &["add rule inet z o", &rule]);
        }
        for (from, to) in [(1001, VIPS), (3001, VIPS)] {
            host.talk(to[0], from);
            host.talk(to[1], from + 1);
        }
        let text = run(&host.netns, "conntrack", &["-L", "-p", "udp"]);
        assert!(text.contains("zone"), "{direction}: {text}");
        let mut record = Record::new(false);
        record.take(&dns(true));
        record.settle();
        let mut conntrack = host.open();
        record.take(&dns(false));
        assert_eq!(sweep(&mut conntrack, &record), 4, "{direction}zone");
        assert_eq!(host.listed(), [0; 0], "{direction}zone");
    }
}

/// What the kernel passes over by itself.
#[test]
fn the_kernel_understands_the_filters() {
    let mut host = Host::new();
    for (from, to) in [(1001, VIPS), (2001, PODS), (3001, OTHERS)] {
        host.talk(to[0], from);
        host.talk(to[1], from + 1);
    }
    let mut conntrack = host.open();
    let counted = run(&host.netns, "conntrack", &["-C"]);
    assert_eq!(conntrack.count().expect("a count").to_string(), counted.trim());
    let all = Filter::all(Family::V4, Protocol::Udp);
    let (vip, pod) = (at(VIPS[0]), at(PODS[0]));
    let cases = [
        (all, vec![1001, 2001, 3001]),
        (Filter::all(Family::V6, Protocol::Udp), vec![1002, 2002, 3002]),
        (Filter::all(Family::V4, Protocol::Sctp), vec![]),
        (Filter { destination: Some(vip.ip()), ..all }, vec![1001]),
        (Filter { destination_port: Some(53), ..all }, vec![1001, 3001]),
        (Filter { server: Some(pod.ip()), ..all }, vec![1001, 2001]),
        (Filter { server_port: Some(5353), destination_port: Some(53), ..all }, vec![1001]),
        (Filter { translated: true, ..all }, vec![1001]),
        (Filter { translated: true, ..Filter::all(Family::V6, Protocol::Udp) }, vec![1002]),
    ];
    for (filter, expected) in cases {
        let flows = conntrack.list(&filter, |_| true).expect("a list");
        let mut ports: Vec<_> = flows.iter().map(|flow| flow.client.port()).collect();
        ports.sort_unstable();
        assert_eq!(ports, expected, "{filter:?}");
    }
}
