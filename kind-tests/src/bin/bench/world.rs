//! Where everything happens: one API server, and for each size a node for each proxy.

use std::env;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use serde_json::{Value, json};
use shunt_cluster::{ClusterSpec, EchoServer, Host, Netns, NodeSpec};
use shunt_kind_tests::control_plane::{CLUSTER_CIDR, Plane, PlaneSpec};

use crate::proxy::{Kind, Program};

/// The namespace that `controlplane load` fills.
pub(crate) const NAMESPACE: &str = "load";
/// Where the endpoints are, beside the nodes that are measured: as in a cluster of 100 nodes, most
/// of them are elsewhere.
const NODES: usize = 100;
/// A load of 10,000 Services takes some 30 to 90 seconds.
const LOAD: Duration = Duration::from_secs(600);
/// The port of the Service with pods behind it, and that of its pods.
const PORT: u16 = 80;
const POD_PORT: u16 = 8080;

/// A size: Services and endpoints of each.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Size {
    pub(crate) services: u32,
    pub(crate) endpoints: u32,
}

impl std::str::FromStr for Size {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let parse = |part: &str| part.parse().ok().filter(|number| *number > 0);
        let both = text.split_once('x').and_then(|(services, endpoints)| {
            Some(Self { services: parse(services)?, endpoints: parse(endpoints)? })
        });
        // An endpoint is removed and another replaced, and something has to be left.
        both.filter(|size| size.endpoints > 2 && size.services >= 20)
            .ok_or_else(|| "not SERVICESxENDPOINTS, at least 20x3".to_owned())
    }
}

/// The whole.
pub(crate) struct World {
    pub(crate) plane: Plane,
    shunt: PathBuf,
    kube_proxy: PathBuf,
    logs: PathBuf,
    /// How many Services there are so far.
    loaded: u32,
    _servers: Vec<EchoServer>,
}

impl World {
    /// Builds the namespaces and starts the API server. Each size gets nodes of its own, so that
    /// nothing is measured on what another measurement has left.
    pub(crate) fn build(
        sizes: usize,
        shunt: &Path,
        kube_proxy: &Path,
        logs: &Path,
    ) -> Result<Self> {
        let mut nodes = Vec::new();
        for index in 0..sizes {
            let (client, pod) = (format!("client-{index}"), format!("pod-{index}"));
            nodes.push(NodeSpec::new(&node_name(Kind::Shunt, index), &[&client, &pod]));
            nodes.push(NodeSpec::new(&node_name(Kind::KubeProxy, index), &[]));
        }
        let cluster = ClusterSpec { nodes, ..ClusterSpec::default() };
        let plane = Plane::start(&PlaneSpec { cluster, flags: &[] })?;
        let mut servers = Vec::new();
        for index in 0..sizes {
            let pod = plane.cluster().host(&format!("pod-{index}"))?;
            servers.push(EchoServer::start(pod.netns(), pod.name(), &[POD_PORT])?);
        }
        let world = Self {
            plane,
            shunt: shunt.to_owned(),
            kube_proxy: kube_proxy.to_owned(),
            logs: logs.to_owned(),
            loaded: 0,
            _servers: servers,
        };
        world.create_live_services(sizes)?;
        Ok(world)
    }

    /// The namespace of a size's node.
    pub(crate) fn node(&self, kind: Kind, index: usize) -> Result<Netns> {
        Ok(self.plane.cluster().host(&node_name(kind, index))?.netns().clone())
    }

    /// The pod that asks through a size's Service with pods behind it, and that Service.
    pub(crate) fn client(&self, index: usize) -> Result<(&Host, SocketAddr)> {
        let client = self.plane.cluster().host(&format!("client-{index}"))?;
        Ok((client, SocketAddr::new(live_address(index), PORT)))
    }

    /// How to start a proxy on a size's node. All have the same credentials: an administrator's.
    pub(crate) fn program(&self, kind: Kind, index: usize) -> Program {
        let node = node_name(kind, index);
        let log = self.logs.join(format!("{node}.log"));
        let kubeconfig = self.kubeconfig();
        match kind {
            Kind::Shunt => {
                Program::shunt(self.shunt.clone(), &kubeconfig, &node, CLUSTER_CIDR, log)
            }
            Kind::KubeProxy => {
                Program::kube_proxy(self.kube_proxy.clone(), &kubeconfig, &node, CLUSTER_CIDR, log)
            }
        }
    }

    pub(crate) fn kubeconfig(&self) -> String {
        self.plane.server().kubeconfig().to_string_lossy().into_owned()
    }

    /// Brings the API server to a size; returns how many seconds the creation took.
    pub(crate) fn load(&mut self, size: Size, sizes: usize) -> Result<f64> {
        ensure!(size.services > self.loaded, "sizes must grow");
        let measured =
            (0..sizes).flat_map(|i| [Kind::Shunt, Kind::KubeProxy].map(|k| node_name(k, i)));
        let elsewhere = (0..).map(|number| format!("elsewhere-{number}"));
        let names: Vec<_> = measured.chain(elsewhere).take(NODES).collect();
        let mut command = Command::new("setpriv");
        command.args(["--pdeathsig", "KILL", "--"]).arg(controlplane()?).arg("load");
        command.args(["--kubeconfig", &self.kubeconfig(), "--namespace", NAMESPACE]);
        command.args(["--start", &self.loaded.to_string()]);
        command.args(["--services", &(size.services - self.loaded).to_string()]);
        command.args(["--endpoints", &size.endpoints.to_string()]);
        command.args(["--node-names", &names.join(",")]);
        let output = self.plane.scratch().join("load.json");
        command.stdin(Stdio::null()).stdout(std::fs::File::create(&output)?);
        let host = self.plane.cluster().host(shunt_cluster::CONTROL_PLANE)?;
        let mut process = host.netns().spawn(command)?;
        let status = process.wait_timeout(LOAD)?.context("the load does not end")?;
        ensure!(status.success(), "controlplane load: {status}");
        self.loaded = size.services;
        let told: Value = serde_json::from_str(&std::fs::read_to_string(&output)?)?;
        told["seconds"].as_f64().context("the load tells no seconds")
    }

    fn create_live_services(&self, sizes: usize) -> Result<()> {
        for index in 0..sizes {
            let name = format!("live-{index}");
            self.plane.api().create(json!({
                "apiVersion": "v1", "kind": "Service",
                "metadata": { "name": name, "namespace": "default" },
                "spec": {
                    "clusterIP": live_address(index).to_string(),
                    "ports": [{ "name": "http", "port": PORT, "protocol": "TCP" }],
                },
            }))?;
            let pod = self.plane.cluster().host(&format!("pod-{index}"))?.ip();
            self.plane.api().create(json!({
                "apiVersion": "discovery.k8s.io/v1", "kind": "EndpointSlice",
                "metadata": {
                    "name": format!("{name}-0"), "namespace": "default",
                    "labels": { "kubernetes.io/service-name": name },
                },
                "addressType": "IPv4",
                "ports": [{ "name": "http", "port": POD_PORT, "protocol": "TCP" }],
                "endpoints": [{
                    "addresses": [pod.to_string()], "conditions": { "ready": true },
                    "nodeName": node_name(Kind::Shunt, index),
                }],
            }))?;
        }
        Ok(())
    }
}

pub(crate) fn node_name(kind: Kind, index: usize) -> String {
    format!("{}-{index}", kind.name())
}

/// A fixed ClusterIP, taken before the load takes free ones.
fn live_address(index: usize) -> IpAddr {
    let last = u8::try_from(index).unwrap_or(u8::MAX).saturating_add(1);
    Ipv4Addr::new(10, 96, 200, last).into()
}

/// A program that `make controlplane` builds.
pub(crate) fn built(name: &str) -> Result<PathBuf> {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../target/controlplane").join(name);
    ensure!(path.is_file(), "{} is missing: make controlplane", path.display());
    Ok(path)
}

fn controlplane() -> Result<PathBuf> {
    built("controlplane")
}

/// The release binary: the static one of `make build`, or what cargo makes without a Makefile.
pub(crate) fn shunt_binary() -> Result<PathBuf> {
    let target = Path::new(env!("CARGO_MANIFEST_DIR")).join("../target");
    let host = format!("{}-unknown-linux-gnu", env::consts::ARCH);
    let candidates = [target.join(host).join("release/shunt"), target.join("release/shunt")];
    let found = candidates.into_iter().find(|path| path.is_file());
    found.context("there is no release build of shunt: make build")
}
