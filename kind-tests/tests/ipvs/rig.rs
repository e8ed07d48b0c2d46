//! A node with two pods, another with one, a client outside, and a daemon that follows a directory of manifests.

use std::collections::BTreeMap;
use std::fs;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::process::Command;
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use shunt_cluster::{
    Cluster, ClusterSpec, Connection, EchoServer, Families, NodeSpec, ProbeOptions, Protocol,
    UdpFlow, probe,
};
use shunt_kind_tests::scenario::daemon::{self, Daemon};
use shunt_kind_tests::scenario::shunt_binary;
use tempfile::TempDir;

pub(crate) const NODE: &str = "node-1";
/// A pod that serves nobody.
pub(crate) const POD: &str = "dns-1";
pub(crate) const CLIENT: &str = "client";
/// The ClusterIP: port 80 over TCP and port 53 over UDP; NodePorts 30080 and 30053.
pub(crate) const VIP: &str = "10.96.0.11";
pub(crate) const WEB: &str = "TCP  10.96.0.11:80";
pub(crate) const DNS: &str = "UDP  10.96.0.11:53";
/// How long anything may take that takes no time; on an emulated kernel that loads modules, on a busy machine, half a
/// minute is not enough.
const PATIENCE: Duration = Duration::from_secs(120);
/// The same for an answer on a connection.
const HELD: Duration = Duration::from_secs(30);
/// How long an answer may take; what waits until there is one asks again.
const ANSWER: Duration = Duration::from_secs(5);

/// A real server as `ipvsadm` shows it: weight, active and inactive connections.
pub(crate) type Server = (u32, u32, u32);

pub(crate) struct Rig {
    binary: PathBuf,
    daemon: Option<Daemon>,
    files: TempDir,
    _servers: Vec<EchoServer>,
    pub(crate) cluster: Cluster,
}

impl Rig {
    /// Everything but the daemon, on IPv4.
    pub(crate) fn new() -> Result<Self> {
        Self::of(Families::V4)
    }

    /// The same; the Service is one of IPv4 in any case.
    pub(crate) fn of(families: Families) -> Result<Self> {
        let cluster = Cluster::build(&ClusterSpec {
            nodes: vec![NodeSpec::new(NODE, &["web-1", POD]), NodeSpec::new("node-2", &["web-2"])],
            clients: vec![CLIENT.to_owned()],
            families,
            ..ClusterSpec::default()
        })?;
        let servers = ["web-1", "web-2"].map(|pod| {
            let host = cluster.host(pod)?;
            EchoServer::start(host.netns(), pod, &[8080])
        });
        let files = tempfile::Builder::new().prefix("shunt-ipvs-").tempdir()?;
        fs::create_dir(files.path().join("manifests"))?;
        Ok(Self {
            binary: shunt_binary()?,
            daemon: None,
            files,
            _servers: servers.into_iter().collect::<Result<_>>()?,
            cluster,
        })
    }

    /// Starts the daemon and waits until it has done what there is to do.
    pub(crate) fn start(&mut self, flags: &[&str]) -> Result<()> {
        self.spawn(flags)?;
        let daemon = self.daemon.as_mut();
        let daemon = daemon.context("it was started")?;
        until(|| match daemon.status()? {
            Some(status) if status.synced && status.waiting_ms.is_none() => Ok(()),
            status => bail!("the daemon is at work: {status:?}"),
        })
    }

    /// Starts the daemon.
    pub(crate) fn spawn(&mut self, flags: &[&str]) -> Result<()> {
        let manifests = self.files.path().join("manifests").display().to_string();
        let fixed = ["run", "--manifests", &manifests, "--node-name", NODE];
        let arguments: Vec<_> = fixed.iter().chain(flags).map(|word| (*word).to_owned()).collect();
        let netns = self.cluster.host(NODE)?.netns();
        let log = self.files.path().join("log");
        self.daemon = Some(Daemon::start(&self.binary, &arguments, netns, &log)?);
        Ok(())
    }

    /// Kills the daemon as a crash would.
    pub(crate) fn kill(&mut self) -> Result<()> {
        self.daemon.take().context("no daemon runs")?.kill()
    }

    /// Takes away what is ours, when the daemon has ended.
    pub(crate) fn cleanup(&self) -> Result<String> {
        self.on_node(&[&self.binary.to_string_lossy(), "cleanup"])
    }

    /// What the daemon has said, lately.
    pub(crate) fn log(&self) -> String {
        self.daemon.as_ref().map(Daemon::log_tail).unwrap_or_default()
    }

    /// The problems that the daemon reports.
    pub(crate) fn problems(&mut self) -> Result<Vec<String>> {
        let status = self.daemon.as_mut().context("no daemon runs")?.status()?;
        Ok(status.context("the daemon does not answer")?.problems)
    }

    /// What the daemon answers.
    pub(crate) fn get(&self, path: &str) -> Result<String> {
        daemon::get(self.cluster.host(NODE)?.netns(), path)
    }

    /// The Service, with annotations (`a: b, c: d`) and the pods that serve it.
    pub(crate) fn write(&self, annotations: &str, pods: &[&str]) -> Result<()> {
        self.write_sticky("None", annotations, pods)
    }

    /// The same with a session affinity.
    pub(crate) fn write_sticky(
        &self,
        affinity: &str,
        annotations: &str,
        pods: &[&str],
    ) -> Result<()> {
        let mut addresses = Vec::new();
        for pod in pods {
            let ip = self.cluster.host(pod)?.ip();
            addresses.push(format!("{{addresses: [{ip}]}}"));
        }
        let text = format!(
            "apiVersion: v1
kind: Service
metadata: {{name: web, namespace: default, annotations: {{{annotations}}}}}
spec:
  type: NodePort
  sessionAffinity: {affinity}
  clusterIPs: [{VIP}]
  ports:
  - {{name: web, port: 80, targetPort: 8080, nodePort: 30080}}
  - {{name: dns, port: 53, protocol: UDP, targetPort: 8080, nodePort: 30053}}
---
apiVersion: discovery.k8s.io/v1
kind: EndpointSlice
metadata: {{name: web-v4, namespace: default, labels: {{kubernetes.io/service-name: web}}}}
addressType: IPv4
ports: [{{name: web, port: 8080}}, {{name: dns, port: 8080, protocol: UDP}}]
endpoints: [{}]
",
            addresses.join(", ")
        );
        self.write_text(&text)
    }

    /// Has both pods that serve answer SCTP for as long as this lives.
    pub(crate) fn serve_sctp(&self) -> Result<Vec<EchoServer>> {
        let serve = |pod| EchoServer::start_sctp(self.cluster.host(pod)?.netns(), pod, &[8080]);
        ["web-1", "web-2"].into_iter().map(serve).collect()
    }

    /// A Service of SCTP at port 3868 of the ClusterIP, with annotations and the pod that serves it.
    pub(crate) fn write_sctp(&self, annotations: &str, pod: &str) -> Result<()> {
        let address = self.cluster.host(pod)?.ip();
        self.write_text(&format!(
            "apiVersion: v1
kind: Service
metadata: {{name: signals, namespace: default, annotations: {{{annotations}}}}}
spec:
  clusterIPs: [{VIP}]
  ports: [{{name: sctp, port: 3868, protocol: SCTP, targetPort: 8080}}]
---
apiVersion: discovery.k8s.io/v1
kind: EndpointSlice
metadata: {{name: signals-v4, namespace: default, labels: {{kubernetes.io/service-name: signals}}}}
addressType: IPv4
ports: [{{name: sctp, port: 8080, protocol: SCTP}}]
endpoints: [{{addresses: [{address}]}}]
"
        ))
    }

    /// Replaces the manifests at once.
    pub(crate) fn write_text(&self, text: &str) -> Result<()> {
        let aside = self.files.path().join("aside");
        fs::write(&aside, text)?;
        Ok(fs::rename(aside, self.files.path().join("manifests/all.yaml"))?)
    }

    /// What a program prints that is run on the node.
    pub(crate) fn on_node(&self, words: &[&str]) -> Result<String> {
        let mut command = Command::new(words[0]);
        command.args(&words[1..]);
        let output = self.cluster.host(NODE)?.netns().run(move || command.output())?;
        let error = String::from_utf8_lossy(&output.stderr);
        ensure!(output.status.success(), "{words:?}: {error}");
        Ok(String::from_utf8_lossy(&output.stdout).into_owned())
    }

    /// All virtual servers with their real servers, by stock `ipvsadm`.
    pub(crate) fn virtual_servers(&self) -> Result<BTreeMap<String, BTreeMap<String, Server>>> {
        let mut found: BTreeMap<String, BTreeMap<String, Server>> = BTreeMap::new();
        let mut last = String::new();
        for line in self.on_node(&["ipvsadm", "-L", "-n"])?.lines().skip(3) {
            let words: Vec<_> = line.split_whitespace().collect();
            if words[0] != "->" {
                last = format!("{}  {}", words[0], words[1]);
                found.entry(last.clone()).or_default();
                continue;
            }
            let numbers: Vec<u32> =
                words[3..].iter().map(|word| word.parse()).collect::<Result<_, _>>()?;
            let server = (numbers[0], numbers[1], numbers[2]);
            found.entry(last.clone()).or_default().insert(words[1].to_owned(), server);
        }
        Ok(found)
    }

    /// The weights of a virtual server's real servers, by the pods' names.
    pub(crate) fn weights(&self, server: &str) -> Result<BTreeMap<String, u32>> {
        let all = self.virtual_servers()?;
        let found = all.get(server).with_context(|| format!("no {server} in {all:?}"))?;
        let pods = self.cluster.pods().map(|pod| (format!("{}:8080", pod.ip()), pod.name()));
        let name = |(address, pod): (String, &str)| Some((pod.to_owned(), found.get(&address)?.0));
        Ok(pods.filter_map(name).collect())
    }

    /// Waits until a virtual server has just these weights.
    pub(crate) fn expect(&self, server: &str, weights: &[(&str, u32)]) -> Result<()> {
        let wanted: BTreeMap<_, _> =
            weights.iter().map(|(pod, weight)| ((*pod).to_owned(), *weight)).collect();
        until(|| {
            let held = self.weights(server)?;
            ensure!(held == wanted, "{server} has {held:?}, not {wanted:?}\n{}", self.log());
            Ok(())
        })
    }

    /// A TCP connection that stays.
    pub(crate) fn connect(&self, from: &str, to: &str) -> Result<Connection> {
        let netns = self.cluster.host(from)?.netns();
        Connection::open(netns, to.parse()?, &ProbeOptions::within(HELD))
    }

    /// An SCTP association that stays.
    pub(crate) fn associate(&self, from: &str, to: &str) -> Result<Connection> {
        let netns = self.cluster.host(from)?.netns();
        Connection::open_sctp(netns, to.parse()?, &ProbeOptions::within(HELD))
    }

    /// A UDP socket whose datagrams are one flow.
    pub(crate) fn flow(&self, from: &str, to: &str) -> Result<UdpFlow> {
        let netns = self.cluster.host(from)?.netns();
        Ok(UdpFlow::open(netns, to.parse()?, &ProbeOptions::within(HELD))?)
    }

    /// Who answers a new connection.
    pub(crate) fn asks(&self, from: &str, to: &str) -> Result<String> {
        let to: SocketAddr = to.parse()?;
        let netns = self.cluster.host(from)?.netns();
        let outcome = probe(netns, Protocol::Tcp, to, &ProbeOptions::within(ANSWER));
        outcome.by().map(str::to_owned).with_context(|| format!("{from} to {to}: {outcome}"))
    }
}

/// Who answers a datagram of a flow.
pub(crate) fn by(flow: &UdpFlow) -> Result<String> {
    // Nobody repeats a datagram: the time is for a busy machine.
    let outcome = flow.exchange("?", HELD);
    outcome.by().map(str::to_owned).with_context(|| outcome.to_string())
}

/// Waits until it succeeds.
pub(crate) fn until(mut is_so: impl FnMut() -> Result<()>) -> Result<()> {
    let deadline = Instant::now() + PATIENCE;
    loop {
        match is_so() {
            Err(error) if Instant::now() > deadline => return Err(error),
            Err(_) => thread::sleep(Duration::from_millis(50)),
            Ok(()) => return Ok(()),
        }
    }
}
