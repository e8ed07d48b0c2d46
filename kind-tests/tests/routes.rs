//! Routes to pods that a real BGP daemon learns, loses and learns from another node: shunt has no part in them and is not
//! disturbed. Needs root and Debian's bird2.

use std::fs;
use std::net::{IpAddr, SocketAddr};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use ipnet::IpNet;
use shunt::status::Counters;
use shunt_cluster::{
    Cluster, ClusterSpec, Connection, EchoServer, Families, Hop, Host, Network, NodeSpec,
    ProbeOptions, Protocol, Role, Route, probe,
};
use shunt_kind_tests::scenario::daemon::Daemon;
use shunt_kind_tests::scenario::shunt_binary;
use tempfile::TempDir;

const NODE: &str = "node-1";
const PATIENCE: Duration = Duration::from_secs(60);
/// Addresses that move from a pod of node-2 to one of node-3, and the networks they are announced by.
const MOVING: [(&str, &str); 2] =
    [("10.77.50.9", "10.77.50.0/24"), ("fd00:10:77:50::9", "fd00:10:77:50::/64")];
/// The Services: name, the last part of their addresses, and the pod behind; none is the moving address.
const SERVICES: [(&str, u8, Option<&str>); 3] =
    [("near", 1, Some("near")), ("far", 2, Some("far")), ("moving", 3, None)];

struct Rig {
    // Before the cluster: it must be gone when its namespace is.
    daemon: Daemon,
    _servers: Vec<EchoServer>,
    cluster: Cluster,
    _files: TempDir,
}

impl Rig {
    /// A node with a client and a pod, two others with a pod each, Services for all, and shunt on the first.
    fn new() -> Result<Self> {
        let cluster = Cluster::build(&ClusterSpec {
            nodes: vec![
                NodeSpec::new(NODE, &["asks", "near"]),
                NodeSpec::new("node-2", &["far"]),
                NodeSpec::new("node-3", &["other"]),
            ],
            families: Families::Dual,
            network: Network::Bgp,
            ..ClusterSpec::default()
        })?;
        let servers = cluster.pods().map(|pod| EchoServer::start(pod.netns(), pod.name(), &[8080]));
        let servers = servers.collect::<Result<Vec<_>>>()?;
        let files = tempfile::Builder::new().prefix("shunt-routes-").tempdir()?;
        let manifests = files.path().join("manifests");
        fs::create_dir(&manifests)?;
        fs::write(manifests.join("all.yaml"), objects(&cluster)?)?;
        let arguments = ["run", "--node-name", NODE, "--manifests", &manifests.to_string_lossy()];
        let log = files.path().join("shunt.log");
        let netns = cluster.host(NODE)?.netns();
        let daemon = Daemon::start(&shunt_binary()?, &arguments.map(str::to_owned), netns, &log)?;
        let mut rig = Self { daemon, _servers: servers, cluster, _files: files };
        until("shunt is in sync", || Ok(rig.daemon.status()?.is_some_and(|status| status.synced)))?;
        Ok(rig)
    }

    fn host(&self, name: &str) -> Result<&Host> {
        self.cluster.host(name)
    }

    /// Which pod answers at a Service; the client must be seen.
    fn asked(&self, service: &str) -> Result<Vec<Option<String>>> {
        let asks = self.host("asks")?;
        let ask = |to: SocketAddr| {
            let within = ProbeOptions::within(Duration::from_secs(1));
            probe(asks.netns(), Protocol::Tcp, to, &within).by().map(str::to_owned)
        };
        Ok(frontends(service)?.into_iter().map(ask).collect())
    }

    /// Waits until the same pod, or nobody, answers at both addresses of a Service.
    fn wait_for(&self, service: &str, pod: Option<&str>) -> Result<()> {
        until(&format!("{service} is served by {pod:?}"), || {
            Ok(self.asked(service)?.iter().all(|by| by.as_deref() == pod))
        })
    }

    /// What the node announces, and until when node-1 has learnt it.
    fn announce(&self, node: &str, networks: &[IpNet], gone: &[IpNet]) -> Result<()> {
        self.cluster.announce(node, networks)?;
        let own = self.host(NODE)?;
        until(&format!("{NODE} knows what {node} announces"), || {
            let learnt = networks.iter().map(|network| own.has_route(*network));
            let lost = gone.iter().map(|network| Ok(!own.has_route(*network)?));
            Ok(learnt.chain(lost).collect::<Result<Vec<_>>>()?.iter().all(|done| *done))
        })
    }

    /// Gives a pod the moving addresses; its node then has a route to each.
    fn settle(&self, pod: &str) -> Result<()> {
        let host = self.host(pod)?;
        let Role::Pod { node, device } = host.role() else { bail!("{pod} is no pod") };
        for (address, _) in MOVING {
            let address: IpAddr = address.parse()?;
            host.add_address(address)?;
            let hop = Hop::Device(device.clone());
            let route = Route { destination: address.into(), hop };
            self.host(node)?.netns().links().set_route(&route)?;
        }
        Ok(())
    }

    fn counters(&mut self) -> Result<Counters> {
        Ok(self.daemon.status()?.context("shunt does not answer")?.counters)
    }
}

fn until(what: &str, mut is: impl FnMut() -> Result<bool>) -> Result<()> {
    let deadline = Instant::now() + PATIENCE;
    while !is()? {
        ensure!(Instant::now() < deadline, "{what}: not within {PATIENCE:?}");
        thread::sleep(Duration::from_millis(20));
    }
    Ok(())
}

/// The addresses of a Service.
fn frontends(service: &str) -> Result<Vec<SocketAddr>> {
    let found = SERVICES.iter().find(|(name, ..)| *name == service);
    let (_, last, _) = found.with_context(|| format!("no Service is named {service}"))?;
    Ok(vec![format!("10.96.0.{last}:80").parse()?, format!("[fd00:10:96::{last}]:80").parse()?])
}

/// The Services and their slices.
fn objects(cluster: &Cluster) -> Result<String> {
    let mut text = String::new();
    for (name, last, pod) in SERVICES {
        text += &format!(
            "---\napiVersion: v1\nkind: Service\nmetadata: {{name: {name}, namespace: default}}\n\
             spec: {{clusterIPs: [10.96.0.{last}, 'fd00:10:96::{last}'], ipFamilies: [IPv4, IPv6], \
             ports: [{{name: http, port: 80, targetPort: 8080}}]}}\n"
        );
        let endpoints: Vec<IpAddr> = match pod {
            Some(pod) => cluster.host(pod)?.addresses().to_vec(),
            None => MOVING.iter().map(|(address, _)| address.parse()).collect::<Result<_, _>>()?,
        };
        for (family, ip) in ["IPv4", "IPv6"].iter().zip(endpoints) {
            let slice = format!("{name}-{}", family.to_lowercase());
            text += &format!(
                "---\napiVersion: discovery.k8s.io/v1\nkind: EndpointSlice\nmetadata: {{name: {slice}, namespace: \
                 default, labels: {{kubernetes.io/service-name: {name}}}}}\naddressType: {family}\n\
                 ports: [{{name: http, port: 8080, protocol: TCP}}]\nendpoints: [{{addresses: ['{ip}']}}]\n"
            );
        }
    }
    Ok(text)
}

fn pod_networks(host: &Host) -> Vec<IpNet> {
    match host.role() {
        Role::Node { pod_networks } => pod_networks.clone(),
        _ => Vec::new(),
    }
}

#[test]
fn routes_that_come_and_go_do_not_disturb_services() -> Result<()> {
    let mut rig = Rig::new()?;
    for service in ["near", "far"] {
        rig.wait_for(service, Some(service))?;
    }
    let before = rig.counters()?;
    let asks = rig.host("asks")?;
    let mut held = Vec::new();
    for to in frontends("far")? {
        let connection = Connection::open(asks.netns(), to, &ProbeOptions::within(PATIENCE))?;
        ensure!(asks.addresses().contains(&connection.seen_source().ip()), "the client is hidden");
        held.push(connection);
    }

    // Withdrawn: nobody is reached there, whoever is elsewhere is.
    let own = pod_networks(rig.host("node-2")?);
    rig.announce("node-2", &[], &own)?;
    rig.wait_for("far", None)?;
    rig.wait_for("near", Some("near"))?;

    // There again: also connections that lived meanwhile.
    rig.announce("node-2", &own, &[])?;
    rig.wait_for("far", Some("far"))?;
    for connection in &mut held {
        connection.exchange("and so on").context("a connection from before")?;
    }

    // An address that is on one node, then on another.
    let moving = MOVING.map(|(_, network)| network.parse());
    let moving = moving.into_iter().collect::<Result<Vec<IpNet>, _>>()?;
    rig.settle("far")?;
    rig.announce("node-2", &[own.clone(), moving.clone()].concat(), &[])?;
    rig.wait_for("moving", Some("far"))?;
    rig.settle("other")?;
    let others = pod_networks(rig.host("node-3")?);
    rig.announce("node-2", &own, &moving)?;
    rig.announce("node-3", &[others, moving].concat(), &[])?;
    rig.wait_for("moving", Some("other"))?;

    let after = rig.counters()?;
    ensure!(
        (after.transactions, after.failures, after.drifts)
            == (before.transactions, before.failures, before.drifts),
        "shunt was disturbed: {before:?}, then {after:?}"
    );
    Ok(())
}
