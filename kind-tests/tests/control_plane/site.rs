//! Two nodes with a web server and a client pod each, a machine outside, and shunt on both nodes.

use std::collections::BTreeSet;
use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};
use serde_json::{Value, json};
use shunt_cluster::{
    ClusterSpec, EchoServer, Families, Family, Host, NodeSpec, Outcome, ProbeOptions, Protocol,
    probe,
};
use shunt_kind_tests::control_plane::{
    Daemon, DaemonSpec, Flannel, Id, Plane, PlaneSpec, PodPort, Rules, expect,
};

pub(crate) const NODES: [&str; 2] = ["node-1", "node-2"];
pub(crate) const FAMILIES: [Family; 2] = [Family::V4, Family::V6];
/// Asked before each of two servers must have answered: both do, but for one run in 2^60.
const PROBES: usize = 60;
/// How long an answer may take where others have the CPU.
const ANSWER: Duration = Duration::from_secs(30);

/// What the web servers listen on. A Service names the ports, and each pod has its own numbers.
pub(crate) const WEB_1: [PodPort; 2] = [
    PodPort { name: "http", protocol: "TCP", number: 8080 },
    PodPort { name: "dns", protocol: "UDP", number: 5353 },
];
pub(crate) const WEB_2: [PodPort; 2] = [
    PodPort { name: "http", protocol: "TCP", number: 9090 },
    PodPort { name: "dns", protocol: "UDP", number: 5353 },
];

/// The whole site. Everything ends with it.
pub(crate) struct Site {
    pub(crate) daemons: Vec<Daemon>,
    _servers: Vec<EchoServer>,
    _network: Option<Flannel>,
    pub(crate) plane: Plane,
}

/// Its cluster.
pub(crate) fn cluster() -> ClusterSpec {
    ClusterSpec {
        nodes: vec![
            NodeSpec::new("node-1", &["web-1", "shop-1"]),
            NodeSpec::new("node-2", &["web-2", "shop-2"]),
        ],
        clients: vec!["outside".to_owned()],
        families: Families::Dual,
        ..ClusterSpec::default()
    }
}

impl Site {
    /// Builds it; no Service is there yet.
    pub(crate) fn build() -> Result<Self> {
        Self::without_shunt()?.with_shunt()
    }

    /// The same on a network that Flannel's own daemon makes.
    pub(crate) fn on_flannel(rules: Rules) -> Result<Self> {
        let (flannel, plane) = Flannel::start(&cluster(), rules)?;
        Self::with_servers(Some(flannel), plane)?.with_shunt()
    }

    fn with_shunt(self) -> Result<Self> {
        let mut site = self;
        let start = |node: &&str| Daemon::start(&site.plane, node, &DaemonSpec::default());
        site.daemons = NODES.iter().map(start).collect::<Result<_>>()?;
        Ok(site)
    }

    /// Builds it without a service proxy.
    pub(crate) fn without_shunt() -> Result<Self> {
        let plane = Plane::start(&PlaneSpec { cluster: cluster(), ..PlaneSpec::default() })?;
        Self::with_servers(None, plane)
    }

    fn with_servers(network: Option<Flannel>, plane: Plane) -> Result<Self> {
        let mut servers = Vec::new();
        for (name, ports) in [("web-1", &WEB_1), ("web-2", &WEB_2)] {
            let host = plane.cluster().host(name)?;
            let numbers = ports.map(|port| port.number);
            servers.push(EchoServer::start(host.netns(), name, &numbers)?);
            plane.run_pod(host, "web", ports)?;
        }
        Ok(Self { daemons: Vec::new(), _servers: servers, _network: network, plane })
    }

    /// The host of this name.
    pub(crate) fn host(&self, name: &str) -> &Host {
        self.plane.cluster().host(name).unwrap_or_else(|error| panic!("{error:#}"))
    }

    /// Creates a Service for the web servers; returns it as the server has it.
    pub(crate) fn create_service(&self, name: &str, spec: Value) -> Result<Value> {
        self.plane.api().create(service(name, spec))
    }

    /// Has all nodes hold a dual-stack Service whose endpoints are these pods: the ones ready, the
    /// others not.
    pub(crate) fn settle(&self, service: &str, ready: &[&str], others: &[&str]) -> Result<()> {
        let ips = |pods: &[&str]| -> Vec<IpAddr> {
            pods.iter().flat_map(|pod| self.host(pod).addresses()).copied().collect()
        };
        self.plane.wait_for_endpoints(service, &ips(ready), &ips(others))?;
        expect::settle(&self.plane, &NODES).map(drop)
    }

    /// Fails unless a client reaches exactly these pods; returns the last answer.
    pub(crate) fn expect_reaches(
        &self,
        from: &str,
        protocol: Protocol,
        to: SocketAddr,
        pods: &[&str],
    ) -> Result<Outcome> {
        let wanted: BTreeSet<_> = pods.iter().map(|pod| (*pod).to_owned()).collect();
        let mut met = BTreeSet::new();
        for _ in 0..PROBES {
            let outcome = self.ask_within(ANSWER, from, protocol, to);
            let by =
                outcome.by().with_context(|| format!("{from} to {protocol} {to}: {outcome}"))?;
            ensure!(wanted.contains(by), "{from} to {protocol} {to}: {outcome}, not by {wanted:?}");
            met.insert(by.to_owned());
            if met == wanted {
                return Ok(outcome);
            }
        }
        bail!("{from} to {protocol} {to} meets {met:?}, not {wanted:?}")
    }

    /// One question.
    pub(crate) fn ask(&self, from: &str, protocol: Protocol, to: SocketAddr) -> Outcome {
        self.ask_within(Duration::from_secs(5), from, protocol, to)
    }

    fn ask_within(
        &self,
        within: Duration,
        from: &str,
        protocol: Protocol,
        to: SocketAddr,
    ) -> Outcome {
        probe(self.host(from).netns(), protocol, to, &ProbeOptions::within(within))
    }

    /// Fails if a daemon has logged an error or was refused something.
    pub(crate) fn expect_clean_logs(&self) -> Result<()> {
        self.daemons.iter().try_for_each(Daemon::expect_permitted)?;
        self.daemons.iter().try_for_each(Daemon::expect_no_errors)
    }
}

/// A Service for the web servers.
pub(crate) fn service(name: &str, mut spec: Value) -> Value {
    spec["selector"] = json!({"app": "web"});
    let metadata = json!({"namespace": "default", "name": name});
    json!({"apiVersion": "v1", "kind": "Service", "metadata": metadata, "spec": spec})
}

/// The ports that most Services here have.
pub(crate) fn web_ports() -> Value {
    json!([
        {"name": "http", "port": 80, "targetPort": "http"},
        {"name": "dns", "protocol": "UDP", "port": 53, "targetPort": "dns"},
    ])
}

/// A Service of the namespace the pods are in.
pub(crate) fn id(name: &str) -> Id {
    Id::service("default", name)
}

/// A Service's ClusterIPs.
pub(crate) fn cluster_ips(service: &Value) -> Result<Vec<IpAddr>> {
    let texts = service["spec"]["clusterIPs"].as_array().context("no clusterIPs")?;
    texts.iter().map(|text| Ok(text.as_str().context("no text")?.parse()?)).collect()
}

/// The node port of a Service's port.
pub(crate) fn node_port(service: &Value, index: usize) -> Result<u16> {
    let port = service["spec"]["ports"][index]["nodePort"].as_u64();
    Ok(u16::try_from(port.context("no node port")?)?)
}
