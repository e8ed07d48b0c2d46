//! Clusters of namespaces, with traffic in them. To be run as root.

use std::collections::BTreeMap;
use std::net::{IpAddr, SocketAddr};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use shunt_cluster::{
    CONTROL_PLANE, Cluster, ClusterSpec, Connection, ControlPlane, EchoServer, Families, Family,
    Host, Load, LoadSpec, NodeSpec, Outcome, ProbeOptions, Protocol, Role, UdpFlow, probe,
};

const PORT: u16 = 8080;
const CLOSED: u16 = 8081;
const PROTOCOLS: [Protocol; 2] = [Protocol::Tcp, Protocol::Udp];

fn spec(families: Families) -> ClusterSpec {
    ClusterSpec {
        nodes: vec![NodeSpec::new("node-1", &["a1", "a2"]), NodeSpec::new("node-2", &["b1", "b2"])],
        clients: vec!["client".to_owned()],
        families,
        control_plane: ControlPlane::Present,
        ..ClusterSpec::default()
    }
}

fn build(families: Families) -> Result<(Cluster, Vec<EchoServer>)> {
    let cluster = Cluster::build(&spec(families))?;
    let servers = cluster.hosts().map(|host| EchoServer::start(host.netns(), host.name(), &[PORT]));
    let servers = servers.collect::<Result<_>>()?;
    Ok((cluster, servers))
}

fn patiently() -> ProbeOptions {
    ProbeOptions::within(Duration::from_secs(10))
}

fn quickly() -> ProbeOptions {
    ProbeOptions::within(Duration::from_millis(300))
}

fn ask(from: &Host, protocol: Protocol, to: IpAddr, port: u16) -> Outcome {
    probe(from.netns(), protocol, SocketAddr::new(to, port), &patiently())
}

/// Asks every address of `to`, expects its answer, and that it sees the client's own address.
fn expect_answers(from: &Host, to: &Host) -> Result<usize> {
    let mut asked = 0;
    for protocol in PROTOCOLS {
        for address in to.addresses() {
            let outcome = ask(from, protocol, *address, PORT);
            let context = format!("{} to {} ({address}) over {protocol}", from.name(), to.name());
            let Outcome::Answer { by, seen_source, local } = outcome else {
                anyhow::bail!("{context}: {outcome}");
            };
            ensure!(by == to.name(), "{context}: {by} answered");
            ensure!(seen_source == local, "{context}: {local} is {seen_source}");
            let family = Family::of(*address);
            ensure!(
                from.name() == to.name() || from.address(family) == Some(local.ip()),
                "{context}: asked from {local}"
            );
            asked += 1;
        }
    }
    Ok(asked)
}

#[test]
fn everyone_reaches_everyone_without_translation() -> Result<()> {
    let started = Instant::now();
    let (cluster, servers) = build(Families::Dual)?;
    println!("dual stack, {} hosts, built in {:?}", servers.len(), started.elapsed());

    let client = cluster.host("client")?;
    for node in cluster.nodes() {
        let Role::Node { pod_networks } = node.role() else {
            anyhow::bail!("{} is no node", node.name());
        };
        for (network, via) in pod_networks.iter().zip(node.addresses()) {
            client.add_route(*network, *via)?;
        }
    }
    let mut asked = 0;
    let outside = |host: &&Host| host.name() != CONTROL_PLANE;
    for from in cluster.hosts().filter(outside) {
        for to in cluster.hosts().filter(outside) {
            asked += expect_answers(from, to)?;
        }
    }
    for node in cluster.nodes() {
        asked += expect_answers(node, cluster.host(CONTROL_PLANE)?)?;
        asked += expect_answers(cluster.host(CONTROL_PLANE)?, node)?;
    }
    // 7 hosts ask each of 7, the nodes and the control plane one another: 2 protocols, 2 families.
    assert_eq!(asked, (7 * 7 + 4) * 4);
    let served: u64 = servers.iter().map(|s| s.connections() + s.datagrams()).sum();
    assert_eq!(served, asked as u64);
    println!("{asked} questions, all in all {:?}", started.elapsed());
    Ok(())
}

#[test]
fn addresses_follow_from_the_order() -> Result<()> {
    let cluster = Cluster::build(&spec(Families::Dual))?;
    let of = |name: &str| -> Result<Vec<String>> {
        let host = cluster.host(name)?;
        Ok(host.addresses().iter().map(ToString::to_string).collect())
    };
    assert_eq!(of("node-1")?, ["192.168.77.11", "fd00:77::11"]);
    assert_eq!(of("node-2")?, ["192.168.77.12", "fd00:77::12"]);
    assert_eq!(of("a2")?, ["10.77.1.12", "fd00:10:77:1::12"]);
    assert_eq!(of("b1")?, ["10.77.2.11", "fd00:10:77:2::11"]);
    assert_eq!(of("client")?, ["192.168.77.101", "fd00:77::101"]);
    assert_eq!(of(CONTROL_PLANE)?, ["192.168.77.200", "fd00:77::200"]);
    let names: Vec<_> = cluster.pods_of("node-2").map(Host::name).collect();
    assert_eq!(names, ["b1", "b2"]);
    Ok(())
}

#[test]
fn one_family_is_enough() -> Result<()> {
    for families in [Families::V4, Families::V6] {
        let (cluster, _servers) = build(families)?;
        for from in ["a1", "node-1"] {
            for to in ["a2", "b1", "node-2"] {
                let asked = expect_answers(cluster.host(from)?, cluster.host(to)?)?;
                assert_eq!(asked, 2, "{families:?}");
            }
        }
    }
    Ok(())
}

#[test]
fn refusals_silence_and_missing_routes_are_told_apart() -> Result<()> {
    let (cluster, _servers) = build(Families::Dual)?;
    let [pod, node, client] = ["a1", "node-1", "client"].map(|name| cluster.host(name));
    let (pod, node, client) = (pod?, node?, client?);
    for protocol in PROTOCOLS {
        for address in cluster.host("b1")?.addresses() {
            // More often than the kernel's limit for ICMP errors would allow.
            for _ in 0..20 {
                let outcome = ask(pod, protocol, *address, CLOSED);
                assert_eq!(outcome, Outcome::Refused, "{protocol} {address}");
            }
            let outcome = ask(client, protocol, *address, PORT);
            assert!(matches!(outcome, Outcome::Unreachable(_)), "{protocol} {address}: {outcome}");
        }
        // Nobody's address on the underlay, and addresses beyond the gateway, as a ClusterIP is to a node.
        for nobody in ["192.168.77.250", "10.96.0.1", "fd00:77::250", "fd00:10:96::1"] {
            let to = SocketAddr::new(nobody.parse()?, PORT);
            let outcome = probe(node.netns(), protocol, to, &quickly());
            assert_eq!(outcome, Outcome::TimedOut, "{protocol} {nobody}");
        }
    }
    Ok(())
}

#[test]
fn a_source_port_can_be_used_again_at_once() -> Result<()> {
    let (cluster, _servers) = build(Families::V4)?;
    let client = cluster.host("client")?;
    let to = SocketAddr::new(cluster.host("node-1")?.ip(), PORT);
    for protocol in PROTOCOLS {
        for _ in 0..5 {
            let options = patiently().from_port(4000);
            let outcome = probe(client.netns(), protocol, to, &options);
            let source = outcome.seen_source().with_context(|| format!("{outcome}"))?;
            assert_eq!(source, SocketAddr::new(client.ip(), 4000));
        }
    }
    Ok(())
}

#[test]
fn held_connections_and_flows_keep_their_server() -> Result<()> {
    let (cluster, servers) = build(Families::Dual)?;
    let pod = cluster.host("a1")?;
    for address in cluster.host("b2")?.addresses() {
        let to = SocketAddr::new(*address, PORT);
        let mut held = Connection::open(pod.netns(), to, &patiently())?;
        assert_eq!(held.by(), "b2");
        assert_eq!(held.seen_source(), held.local());
        for round in 0..100 {
            held.exchange(&format!("round {round}"))?;
        }
        // More than a socket buffer takes in one go, and less than the longest line.
        held.exchange(&"x".repeat(60_000))?;
        let open: u64 = servers.iter().map(EchoServer::open_connections).sum();
        assert_eq!(open, 1);
        held.close()?;

        let flow = UdpFlow::open(pod.netns(), to, &patiently())?;
        let first = flow.exchange("one", Duration::from_secs(10));
        let second = flow.exchange("two", Duration::from_secs(10));
        assert_eq!(first.by(), Some("b2"));
        assert_eq!(first, second, "one flow has one source port");
    }
    Ok(())
}

#[test]
fn a_connection_whose_server_ends_says_so() -> Result<()> {
    let (cluster, servers) = build(Families::V4)?;
    let to = SocketAddr::new(cluster.host("b1")?.ip(), PORT);
    let mut held = Connection::open(cluster.host("a1")?.netns(), to, &patiently())?;
    held.exchange("before")?;
    drop(servers);
    let error = held.exchange("after").unwrap_err();
    assert!(format!("{error:#}").contains("b1"), "{error:#}");
    let outcome = ask(cluster.host("a1")?, Protocol::Tcp, to.ip(), PORT);
    assert_eq!(outcome, Outcome::Refused);
    Ok(())
}

#[test]
fn answers_come_from_the_address_that_was_asked() -> Result<()> {
    let (cluster, _servers) = build(Families::Dual)?;
    let (client, node) = (cluster.host("client")?, cluster.host("node-1")?);
    // A connected UDP socket takes an answer from nowhere else.
    for external in ["203.0.113.7", "2001:db8::7"] {
        let external: IpAddr = external.parse()?;
        node.add_address(external)?;
        let via = node.address(Family::of(external)).context("no address")?;
        client.add_route(external.into(), via)?;
        for protocol in PROTOCOLS {
            let outcome = ask(client, protocol, external, PORT);
            assert_eq!(outcome.by(), Some("node-1"), "{external}: {outcome}");
        }
        node.remove_address(external)?;
        let to = SocketAddr::new(external, PORT);
        let outcome = probe(client.netns(), Protocol::Udp, to, &quickly());
        assert!(!outcome.is_answer(), "{outcome}");
        client.remove_route(external.into(), via)?;
    }
    Ok(())
}

#[test]
fn two_servers_cannot_have_the_same_port() -> Result<()> {
    let (cluster, servers) = build(Families::V4)?;
    let host = cluster.host("a1")?;
    let error = EchoServer::start(host.netns(), "second", &[PORT]).err();
    let error = error.context("a second server took the port")?;
    assert!(format!("{error:#}").contains("8080"), "{error:#}");
    drop(servers);
    EchoServer::start(host.netns(), "second", &[PORT])?;
    Ok(())
}

#[test]
fn pods_come_and_go() -> Result<()> {
    let mut cluster = Cluster::build(&spec(Families::Dual))?;
    let added = cluster.add_pod("node-1", "a3")?.clone();
    assert_eq!(added.ip().to_string(), "10.77.1.13");
    let server = EchoServer::start(added.netns(), "a3", &[PORT])?;
    expect_answers(cluster.host("b1")?, &added)?;

    let removed = cluster.remove_pod("a3")?;
    let to = SocketAddr::new(removed.ip(), PORT);
    let from = cluster.host("b1")?;
    let outcome = probe(from.netns(), Protocol::Tcp, to, &quickly());
    assert!(!outcome.is_answer(), "{outcome}");
    drop(server);

    // The next pod does not get the address of the one just ended.
    let next = cluster.add_pod("node-1", "a3")?;
    assert_eq!(next.ip().to_string(), "10.77.1.14");
    assert!(cluster.add_pod("node-1", "a3").is_err(), "the name is taken");
    assert!(cluster.add_pod("node-9", "x").is_err(), "no such node");
    assert!(cluster.remove_pod("node-1").is_err(), "a node is no pod");

    cluster.add_node("node-3")?;
    cluster.add_pod("node-3", "c1")?;
    let c1 = cluster.host("c1")?;
    let _server = EchoServer::start(c1.netns(), "c1", &[PORT])?;
    expect_answers(cluster.host("a1")?, c1)?;
    Ok(())
}

fn load(from: &Host, spec: &LoadSpec) -> Result<shunt_cluster::Report> {
    let report = Load::start(from.netns(), spec)?.finish()?;
    println!("{report}");
    assert_eq!(report.sent, report.answers() + report.losses());
    Ok(report)
}

fn load_spec(protocol: Protocol, to: IpAddr) -> LoadSpec {
    LoadSpec {
        protocol,
        destination: SocketAddr::new(to, PORT),
        per_second: 500,
        duration: Duration::from_secs(1),
        timeout: Duration::from_secs(10),
    }
}

#[test]
fn the_figures_of_a_load_add_up() -> Result<()> {
    let (cluster, servers) = build(Families::Dual)?;
    let (pod, to) = (cluster.host("a1")?, cluster.host("b1")?);
    for protocol in PROTOCOLS {
        for address in to.addresses() {
            let report = load(pod, &load_spec(protocol, *address))?;
            assert_eq!(report.answered, BTreeMap::from([("b1".to_owned(), 500)]));
            assert_eq!(report.sent, 500);
        }
    }
    let served = |count: fn(&EchoServer) -> u64| -> u64 { servers.iter().map(count).sum() };
    assert_eq!(served(EchoServer::connections), 1000);
    assert_eq!(served(EchoServer::datagrams), 1000);
    Ok(())
}

#[test]
fn a_load_counts_silence_and_stops_when_told() -> Result<()> {
    let (cluster, _servers) = build(Families::V4)?;
    let node = cluster.host("node-1")?;
    let mut silent = load_spec(Protocol::Tcp, "10.96.0.1".parse()?);
    silent.timeout = Duration::from_millis(200);
    silent.duration = Duration::from_millis(400);
    let report = load(node, &silent)?;
    assert_eq!((report.sent, report.timed_out), (200, 200));
    assert_eq!(report.errors.len(), 20, "only the first ones are kept");

    let mut long = load_spec(Protocol::Tcp, cluster.host("b1")?.ip());
    long.duration = Duration::from_secs(600);
    let running = Load::start(node.netns(), &long)?;
    while running.so_far().answers() < 20 {
        std::thread::sleep(Duration::from_millis(5));
    }
    let report = running.stop()?;
    assert_eq!(report.sent, report.answers());
    assert!(report.sent >= 20);

    let dropped = Instant::now();
    drop(Load::start(node.netns(), &long)?);
    assert!(dropped.elapsed() < Duration::from_secs(60), "a drop waits for nothing");
    Ok(())
}

#[test]
fn every_one_of_many_refusals_is_told() -> Result<()> {
    let (cluster, _servers) = build(Families::Dual)?;
    for address in cluster.host("b1")?.addresses() {
        let mut refused = load_spec(Protocol::Udp, *address);
        refused.destination.set_port(CLOSED);
        refused.per_second = 3000;
        let report = load(cluster.host("a1")?, &refused)?;
        assert_eq!(report.refused, 3000, "{address}");
    }
    Ok(())
}

#[test]
fn thousands_of_short_connections_a_second() -> Result<()> {
    let (cluster, _servers) = build(Families::V4)?;
    let mut busy = load_spec(Protocol::Tcp, cluster.host("b1")?.ip());
    busy.per_second = 3000;
    busy.timeout = Duration::from_secs(10);
    let report = load(
        cluster.host("client")?,
        &LoadSpec { destination: SocketAddr::new(cluster.host("node-1")?.ip(), PORT), ..busy },
    )?;
    assert_eq!(report.answers(), 3000);
    let report = load(cluster.host("a1")?, &busy)?;
    assert_eq!(report.answers(), 3000);
    Ok(())
}
