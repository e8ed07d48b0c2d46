//! Where a takeover is played: a cluster, its API server, and a Service that is used among many that are not.

use std::fs;
use std::net::{IpAddr, Ipv4Addr};
use std::path::PathBuf;
use std::time::Instant;

use anyhow::Result;
use serde_json::{Value, json};
use shunt_cluster::{Cluster, EchoServer, Family, Host};
use shunt_kind_tests::control_plane::{Daemon, DaemonSpec, KubeProxy, Place};
use shunt_kind_tests::kube_proxy::{Api, Objects};
use tempfile::TempDir;

use super::NODE;
use crate::site::{FAMILIES, Site, WEB_1, WEB_2, cluster, cluster_ips, node_port, web_ports};

/// How many Services one program makes: in the guest it needs a minute for them where others want the processor too.
const LOADED: u32 = 400;
/// The networks of Services, as the small API server tells them; the real one has the same.
const SERVICE_NETWORKS: [&str; 2] = ["10.96.0.0/12", "fd00:10:96::/112"];
/// Addresses and port of the Service that is used, where no API server gives it any.
const STEADY: [&str; 2] = ["10.96.255.250", "fd00:10:96::fffa"];
const NODE_PORT: u16 = 30080;

/// Whom both proxies follow.
#[derive(Clone, Copy, Debug)]
pub(super) enum ApiServer {
    /// kube-apiserver, with etcd and the controllers.
    Real,
    /// [`Api`], which lists and watches and nothing else.
    Small,
}

/// All that is there before the first proxy. Everything ends with it.
pub(super) struct Ground {
    kind: Kind,
    cluster_ips: Vec<IpAddr>,
    node_port: u16,
}

enum Kind {
    Real(Box<Site>),
    Small(Box<Small>),
}

struct Small {
    _servers: Vec<EchoServer>,
    // Before the cluster: it answers in a namespace of it.
    _api: Api,
    cluster: Cluster,
    kubeconfig: PathBuf,
    scratch: TempDir,
}

impl Ground {
    /// Builds it, with so many Services beside the one that is used.
    pub(super) fn build(api: ApiServer, services: u32) -> Result<Self> {
        let began = Instant::now();
        let ground = match api {
            ApiServer::Real => Self::real(services),
            ApiServer::Small => Self::small(services),
        }?;
        println!("{services} Services are there after {:.1?}", began.elapsed());
        Ok(ground)
    }

    fn real(services: u32) -> Result<Self> {
        let site = Site::without_shunt()?;
        let spec =
            json!({"type": "NodePort", "ipFamilyPolicy": "RequireDualStack", "ports": web_ports()});
        let service = site.create_service("steady", spec)?;
        let ips: Vec<_> =
            ["web-1", "web-2"].map(|pod| site.host(pod).addresses().to_vec()).concat();
        site.plane.wait_for_endpoints("steady", &ips, &[])?;
        for portion in 0..services.div_ceil(LOADED) {
            let start = portion * LOADED;
            let count = LOADED.min(services - start).to_string();
            let start = start.to_string();
            let load = ["load", "--start", &start, "--services", &count, "--endpoints", "1"];
            site.plane.server().command(&load)?;
        }
        let (cluster_ips, node_port) = (cluster_ips(&service)?, node_port(&service, 0)?);
        Ok(Self { kind: Kind::Real(Box::new(site)), cluster_ips, node_port })
    }

    fn small(services: u32) -> Result<Self> {
        let cluster = Cluster::build(&cluster())?;
        let mut servers = Vec::new();
        for (name, ports) in [("web-1", &WEB_1), ("web-2", &WEB_2)] {
            let numbers = ports.map(|port| port.number);
            servers.push(EchoServer::start(cluster.host(name)?.netns(), name, &numbers)?);
        }
        let mut api = Api::new(&objects(&cluster, services)?);
        api.serve(cluster.host(NODE)?.netns())?;
        let scratch = tempfile::tempdir()?;
        let kubeconfig = scratch.path().join("kubeconfig");
        fs::write(&kubeconfig, Api::kubeconfig())?;
        let cluster_ips = STEADY.map(str::parse).into_iter().collect::<Result<_, _>>()?;
        let small = Small { _servers: servers, _api: api, cluster, kubeconfig, scratch };
        Ok(Self { kind: Kind::Small(Box::new(small)), cluster_ips, node_port: NODE_PORT })
    }

    /// The host of this name.
    pub(super) fn host(&self, name: &str) -> &Host {
        match &self.kind {
            Kind::Real(site) => site.host(name),
            Kind::Small(small) => {
                small.cluster.host(name).unwrap_or_else(|error| panic!("{error:#}"))
            }
        }
    }

    /// The ClusterIPs of the Service that is used, IPv4 first.
    pub(super) fn cluster_ips(&self) -> &[IpAddr] {
        &self.cluster_ips
    }

    /// Its node port.
    pub(super) const fn node_port(&self) -> u16 {
        self.node_port
    }

    /// Starts shunt on the node.
    pub(super) fn shunt(&self, flags: Vec<String>) -> Result<Daemon> {
        match &self.kind {
            Kind::Real(site) => {
                let spec = DaemonSpec { flags, ..DaemonSpec::default() };
                Daemon::start(&site.plane, NODE, &spec)
            }
            Kind::Small(small) => Daemon::start_at(&small.place()?, &flags),
        }
    }

    /// Starts kube-proxy on the node.
    pub(super) fn kube_proxy(&self, mode: &str, flags: &[&str]) -> Result<KubeProxy> {
        match &self.kind {
            Kind::Real(site) => KubeProxy::start_with(&site.plane, NODE, mode, flags),
            Kind::Small(small) => KubeProxy::start_at(&small.place()?, mode, flags),
        }
    }
}

impl Small {
    fn place(&self) -> Result<Place<'_>> {
        let netns = self.cluster.host(NODE)?.netns();
        Ok(Place { node: NODE, netns, kubeconfig: &self.kubeconfig, scratch: self.scratch.path() })
    }
}

/// What the real API server would have: the nodes, the networks of Services, the Service that is used, and the others.
fn objects(cluster: &Cluster, services: u32) -> Result<Objects> {
    let mut objects = Objects::default();
    for node in cluster.nodes() {
        let addresses: Value = node
            .addresses()
            .iter()
            .map(|ip| json!({"type": "InternalIP", "address": ip}))
            .collect();
        let metadata = json!({"name": node.name()});
        objects
            .add(json!({"kind": "Node", "metadata": metadata, "status": {"addresses": addresses}}));
    }
    let spec = json!({"cidrs": SERVICE_NETWORKS});
    objects.add(json!({"kind": "ServiceCIDR", "metadata": {"name": "kubernetes"}, "spec": spec}));
    let port = json!({"name": "http", "port": 80, "nodePort": NODE_PORT, "targetPort": "http"});
    let spec = json!({"type": "NodePort", "clusterIPs": STEADY, "ports": [port]});
    objects.add(json!({"kind": "Service", "metadata": {"name": "steady"}, "spec": spec}));
    for (pod, node, ports) in [("web-1", "node-1", WEB_1), ("web-2", "node-2", WEB_2)] {
        for family in FAMILIES {
            let address = cluster.host(pod)?.address(family);
            let endpoint = json!({"addresses": [address], "nodeName": node});
            let name = format!("{pod}-{family:?}").to_lowercase();
            objects.add(slice("steady", &name, family, ports[0].number, endpoint));
        }
    }
    for number in 0..services {
        let name = format!("load-{number}");
        let at = |network: [u8; 4]| Ipv4Addr::from(u32::from(Ipv4Addr::from(network)) + number);
        let spec =
            json!({"clusterIPs": [at([10, 96, 1, 0])], "ports": [{"name": "http", "port": 80}]});
        objects.add(json!({"kind": "Service", "metadata": {"name": name}, "spec": spec}));
        let endpoint = json!({"addresses": [at([10, 128, 0, 1])]});
        objects.add(slice(&name, &name, Family::V4, 8080, endpoint));
    }
    Ok(objects)
}

/// An EndpointSlice of one endpoint.
fn slice(service: &str, name: &str, family: Family, port: u16, endpoint: Value) -> Value {
    let labels = json!({"kubernetes.io/service-name": service});
    let address_type = match family {
        Family::V4 => "IPv4",
        Family::V6 => "IPv6",
    };
    json!({
        "kind": "EndpointSlice", "metadata": {"name": name, "labels": labels},
        "addressType": address_type, "ports": [{"name": "http", "port": port}],
        "endpoints": [endpoint],
    })
}
