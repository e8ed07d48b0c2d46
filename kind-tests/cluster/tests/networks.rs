//! The network model of Kubernetes holds on every kind of network: pods reach pods without translation, nodes reach
//! pods, and what is as long as it may be gets through. To be run as root.

use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use shunt_cluster::{
    Cluster, ClusterSpec, Connection, EchoServer, Families, Host, Network, NodeSpec, Outcome,
    ProbeOptions, Protocol, probe,
};

const PORT: u16 = 8080;

fn patiently() -> ProbeOptions {
    ProbeOptions::within(Duration::from_secs(10))
}

/// Asks every address of `to`; pods must be seen as who they are.
fn expect_answers(from: &Host, to: &Host, is_pod: bool) -> Result<()> {
    for address in to.addresses() {
        for protocol in [Protocol::Tcp, Protocol::Udp] {
            let outcome =
                probe(from.netns(), protocol, SocketAddr::new(*address, PORT), &patiently());
            let context = format!("{} to {} ({address}) over {protocol}", from.name(), to.name());
            let Outcome::Answer { by, seen_source, .. } = outcome else {
                anyhow::bail!("{context}: {outcome}");
            };
            ensure!(by == to.name(), "{context}: {by} answered");
            let known = !is_pod || from.addresses().contains(&seen_source.ip());
            ensure!(known, "{context}: seen as {seen_source}");
        }
    }
    Ok(())
}

fn try_out(network: Network) -> Result<()> {
    let mut cluster = Cluster::build(&ClusterSpec {
        nodes: vec![
            NodeSpec::new("node-1", &["a1", "a2"]),
            NodeSpec::new("node-2", &["b1"]),
            NodeSpec::new("node-3", &["c1"]),
        ],
        families: Families::Dual,
        network,
        ..ClusterSpec::default()
    })?;
    cluster.remove_pod("a2")?;
    cluster.add_pod("node-1", "a3")?;
    let servers = cluster.pods().map(|pod| EchoServer::start(pod.netns(), pod.name(), &[PORT]));
    let _servers = servers.collect::<Result<Vec<_>>>()?;
    for to in cluster.pods() {
        for from in cluster.pods() {
            expect_answers(from, to, true)?;
            // Segments of full length, both ways.
            let to = SocketAddr::new(to.ip(), PORT);
            let mut long = Connection::open(from.netns(), to, &patiently())?;
            long.exchange(&"x".repeat(60_000)).context("a long message")?;
        }
        for node in cluster.nodes() {
            expect_answers(node, to, false)?;
        }
    }
    let own = cluster.host("node-2")?;
    // Flannel gives its IPv6 tunnel an address that is the subnet's anycast address, too: nobody can connect to it.
    let anycast = |address: &IpAddr| address.to_string().ends_with("::");
    for address in network.node_addresses(Families::Dual, 2).into_iter().filter(|a| !anycast(a)) {
        let _server = EchoServer::start(own.netns(), own.name(), &[PORT])?;
        let outcome = probe(
            cluster.host("b1")?.netns(),
            Protocol::Tcp,
            SocketAddr::new(address, PORT),
            &patiently(),
        );
        ensure!(outcome.by() == Some("node-2"), "node-2 has no {address}: {outcome}");
    }
    Ok(())
}

#[test]
fn pods_reach_pods_on_every_network_of_this_kernel() -> Result<()> {
    let mut tried = 0;
    let by_itself = |network: &Network| !network.takes_daemons() && network.is_possible_here();
    for network in Network::ALL.into_iter().filter(by_itself) {
        try_out(network).with_context(|| network.name())?;
        tried += 1;
    }
    // The devices of all but IPIP are everywhere that clusters of namespaces are; br_netfilter may not be.
    ensure!(tried >= 4, "{tried} networks");
    Ok(())
}
