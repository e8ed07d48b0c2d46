//! One node: pods that serve, a pod that asks, and a proxy.

use std::fmt;
use std::net::{IpAddr, Ipv4Addr, TcpListener};
use std::path::PathBuf;
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use serde_json::{Value, json};
use shunt::status::Status;
use shunt_cluster::{Cluster, ClusterSpec, EchoServer, Families, Netns, NodeSpec};

use crate::kube_proxy::{Api, KubeProxy, Mode, Objects, mark};
use crate::scenario::daemon::Daemon;

/// The names.
const NODE: &str = "node-1";
const CLIENT: &str = "client-pod";
/// Where pods serve.
pub(super) const POD_PORT: u16 = 8080;
/// How often it is asked whether a proxy has come so far.
const INTERVAL: Duration = Duration::from_millis(50);
/// The mark of the first state; no other one is marked.
const MARK: u16 = 1;

/// Which proxy.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Proxy {
    /// This program.
    Shunt(PathBuf),
    /// The same with flags.
    ShuntWith(PathBuf, Vec<String>),
    /// The real kube-proxy.
    KubeProxy(Mode),
    /// None at all: for rules of other makes.
    None,
}

impl fmt::Display for Proxy {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Shunt(_) => f.write_str("shunt"),
            Self::ShuntWith(_, flags) => write!(f, "shunt {}", flags.join(" ")),
            Self::KubeProxy(mode) => mode.fmt(f),
            Self::None => f.write_str("no proxy"),
        }
    }
}

/// A node with a proxy. Everything ends when it is dropped.
pub struct Node {
    // In the order in which they must go.
    running: Running,
    api: Api,
    _servers: Vec<EchoServer>,
    cluster: Cluster,
    _files: tempfile::TempDir,
}

enum Running {
    Shunt(Daemon),
    KubeProxy(KubeProxy),
    None,
}

impl Node {
    /// Builds it with so many serving pods, `pod-1` and so on, and waits until the proxy has all objects.
    ///
    /// # Errors
    /// If that takes longer than `patience`.
    pub fn start(
        proxy: &Proxy,
        pods: usize,
        objects: &[Value],
        patience: Duration,
    ) -> Result<Self> {
        let names: Vec<_> = (1..=pods).map(|number| format!("pod-{number}")).collect();
        let all: Vec<_> = names.iter().map(String::as_str).chain([CLIENT]).collect();
        let spec = ClusterSpec { nodes: vec![NodeSpec::new(NODE, &all)], ..ClusterSpec::default() };
        let cluster = Cluster::build(&spec)?;
        let node = cluster.host(NODE)?.netns().clone();
        let mut servers = Vec::new();
        for name in &names {
            servers.push(EchoServer::start(cluster.host(name)?.netns(), name, &[POD_PORT])?);
        }
        let mut api = Api::new(&complete(objects, cluster.host(NODE)?.ip()));
        api.serve(&node)?;
        let files = tempfile::Builder::new().prefix("shunt-traffic-").tempdir()?;
        let log = files.path().join("proxy.log");
        let cidr = "--cluster-cidr=10.77.0.0/16".to_owned();
        let running = match proxy {
            Proxy::None => Running::None,
            Proxy::KubeProxy(mode) => {
                Running::KubeProxy(KubeProxy::start(*mode, NODE, &[cidr], &node, &log)?)
            }
            Proxy::Shunt(binary) | Proxy::ShuntWith(binary, _) => {
                let kubeconfig = files.path().join("kubeconfig");
                std::fs::write(&kubeconfig, Api::kubeconfig())?;
                let run =
                    ["run", "--node-name", NODE, "--kubeconfig", &kubeconfig.to_string_lossy()];
                let mut arguments: Vec<_> = run.map(str::to_owned).into_iter().collect();
                arguments.push(cidr);
                if let Proxy::ShuntWith(_, flags) = proxy {
                    arguments.extend_from_slice(flags);
                }
                Running::Shunt(Daemon::start(binary, &arguments, &node, &log)?)
            }
        };
        let mut started = Self { running, api, _servers: servers, cluster, _files: files };
        started.wait(proxy, &node, patience)?;
        Ok(started)
    }

    fn wait(&mut self, proxy: &Proxy, node: &Netns, patience: Duration) -> Result<()> {
        let deadline = Instant::now() + patience;
        loop {
            let there = match (&mut self.running, proxy) {
                (Running::KubeProxy(running), Proxy::KubeProxy(mode)) => {
                    running.check_running()?;
                    mark::shows(node, *mode, Families::V4, MARK)?
                }
                (Running::Shunt(daemon), _) => daemon.status()?.is_some_and(|status| {
                    let policy = status.network_policy.as_ref();
                    status.synced && policy.is_none_or(|policy| policy.synced)
                }),
                (Running::None, _) => true,
                (Running::KubeProxy(_), _) => false,
            };
            if there {
                return Ok(());
            }
            let log = || match &self.running {
                Running::KubeProxy(running) => running.log_tail(),
                Running::Shunt(daemon) => daemon.log_tail(),
                Running::None => String::new(),
            };
            ensure!(
                Instant::now() < deadline,
                "{proxy} is not there after {patience:?}:\n{}",
                log()
            );
            thread::sleep(INTERVAL);
        }
    }

    /// Replaces all objects.
    ///
    /// # Errors
    /// If the node is not there.
    pub fn replace(&self, objects: &[Value]) -> Result<()> {
        self.api.replace(&complete(objects, self.cluster.host(NODE)?.ip()));
        Ok(())
    }

    /// The namespace of the pod that asks.
    ///
    /// # Errors
    /// If it is not there.
    pub fn client(&self) -> Result<&Netns> {
        Ok(self.cluster.host(CLIENT).context("the asking pod")?.netns())
    }

    /// The node's own namespace.
    ///
    /// # Errors
    /// If it is not there.
    pub fn netns(&self) -> Result<&Netns> {
        Ok(self.cluster.host(NODE)?.netns())
    }

    /// What shunt says of itself; nothing of another proxy.
    ///
    /// # Errors
    /// If it does not answer.
    pub fn status(&mut self) -> Result<Option<Status>> {
        match &mut self.running {
            Running::Shunt(daemon) => daemon.status(),
            Running::KubeProxy(_) | Running::None => Ok(None),
        }
    }

    /// Listens on a port of a serving pod; nobody waits there.
    ///
    /// # Errors
    /// If the pod is not there, or the port is taken.
    pub fn listen(&self, pod: usize, port: u16) -> Result<TcpListener> {
        let netns = self.cluster.host(&format!("pod-{pod}"))?.netns();
        let listener = netns.run(move || TcpListener::bind((Ipv4Addr::UNSPECIFIED, port)))?;
        listener.set_nonblocking(true)?;
        Ok(listener)
    }

    /// The address of a serving pod, from 1.
    #[must_use]
    pub fn pod(number: usize) -> IpAddr {
        let last = u8::try_from(10 + number).unwrap_or(u8::MAX);
        Ipv4Addr::new(10, 77, 1, last).into()
    }
}

/// The Node and the mark belong to all.
fn complete(objects: &[Value], node: IpAddr) -> Objects {
    let mut all = Objects::default();
    for object in objects {
        all.add(object.clone());
    }
    all.add(json!({
        "apiVersion": "v1", "kind": "Node", "metadata": { "name": NODE },
        "status": { "addresses": [{ "type": "InternalIP", "address": node }] },
    }));
    mark::add(&mut all, Families::V4, MARK);
    all
}

/// An EndpointSlice of these pods, with a port of theirs, for a Service in namespace `default`.
pub(super) fn slice(service: &str, pods: impl IntoIterator<Item = usize>, port: u16) -> Value {
    let endpoint = |pod| json!({ "addresses": [Node::pod(pod)], "nodeName": NODE });
    json!({
        "apiVersion": "discovery.k8s.io/v1", "kind": "EndpointSlice", "addressType": "IPv4",
        "metadata": {
            "name": format!("{service}-1"), "namespace": "default",
            "labels": { "kubernetes.io/service-name": service },
        },
        "ports": [{ "name": "http", "port": port, "protocol": "TCP" }],
        "endpoints": pods.into_iter().map(endpoint).collect::<Vec<_>>(),
    })
}

/// A Service in namespace `default` with port 80; `spec` is merged into its own.
pub(super) fn service(name: &str, address: IpAddr, spec: &Value) -> Value {
    let mut service = json!({
        "apiVersion": "v1", "kind": "Service", "metadata": { "name": name, "namespace": "default" },
        "spec": {
            "clusterIP": address, "clusterIPs": [address],
            "ports": [{ "name": "http", "port": 80, "protocol": "TCP", "targetPort": POD_PORT }],
        },
    });
    for (field, value) in spec.as_object().into_iter().flatten() {
        service["spec"][field] = value.clone();
    }
    service
}
