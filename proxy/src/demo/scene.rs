//! The cluster, its pods and its daemons.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use anyhow::{Context, anyhow};
use shunt_cluster::{
    Cluster, ClusterSpec, EchoServer, Families, Family, Host, NodeSpec, Privilege, Protocol,
};
use shunt_nftables::installed::Installed;
use shunt_nftables::kernel::inventory;

use super::daemon::{Answer, Daemon};
use super::ending::{Directory, Ending};
use super::manifests::{self, target_port};
use super::traffic::Way;
use crate::failure::Failure;

/// The pod that asks.
pub(super) const SHOPPER: &str = "shopper";
/// The machine outside that asks.
pub(super) const LAPTOP: &str = "laptop";
/// Frontends of the Service: ClusterIP and NodePort, two families, two protocols.
pub(super) const FRONTENDS: usize = 8;

/// The cluster, its pods and its daemons. Dropped in this order.
pub(super) struct Scene {
    pub(super) daemons: Vec<Daemon>,
    servers: BTreeMap<String, EchoServer>,
    pub(super) cluster: Cluster,
    directory: Directory,
    pub(super) ending: Ending,
    pub(super) privilege: Privilege,
    pub(super) built_in: Duration,
}

impl Scene {
    /// Builds the cluster. Nothing runs in it yet.
    pub(super) fn build(
        directory: Directory,
        ending: Ending,
        privilege: Privilege,
    ) -> Result<Self, Failure> {
        let started = Instant::now();
        if !Path::new("/proc/net/if_inet6").exists() {
            return Err(Failure::machine(anyhow!("this machine's kernel has IPv6 switched off")));
        }
        let cluster = Cluster::build(&ClusterSpec {
            nodes: vec![
                NodeSpec::new("node-1", &[SHOPPER, "web-1", "web-2"]),
                NodeSpec::new("node-2", &["web-3"]),
            ],
            clients: vec![LAPTOP.to_owned()],
            families: Families::Dual,
            ..ClusterSpec::default()
        })
        .context("this machine does not let us build a cluster of network namespaces")
        .map_err(Failure::Machine)?;
        Ok(Self {
            daemons: Vec::new(),
            servers: BTreeMap::new(),
            cluster,
            directory,
            ending,
            privilege,
            built_in: started.elapsed(),
        })
    }

    /// The host of this name.
    pub(super) fn host(&self, name: &str) -> Result<&Host, Failure> {
        Ok(self.cluster.host(name)?)
    }

    /// Starts the servers of all pods that have none.
    pub(super) fn start_servers(&mut self) -> Result<(), Failure> {
        let ports = [Protocol::Tcp, Protocol::Udp].map(target_port);
        for pod in self.cluster.pods().filter(|pod| pod.name().starts_with("web-")) {
            if !self.servers.contains_key(pod.name()) {
                let server = EchoServer::start(pod.netns(), pod.name(), &ports)?;
                self.servers.insert(pod.name().to_owned(), server);
            }
        }
        Ok(())
    }

    /// Adds a pod with its server.
    pub(super) fn add_pod(&mut self, node: &str, name: &str) -> Result<(), Failure> {
        self.cluster.add_pod(node, name)?;
        self.start_servers()
    }

    /// The names of the pods that serve.
    pub(super) fn servers(&self) -> impl Iterator<Item = &str> {
        self.servers.keys().map(String::as_str)
    }

    /// Starts a daemon on each node.
    pub(super) fn start_daemons(&mut self) -> Result<(), Failure> {
        for node in self.cluster.nodes() {
            let daemon = Daemon::start(node, self.directory.path())?;
            self.daemons.push(daemon);
        }
        Ok(())
    }

    /// Writes the manifests that do not change.
    pub(super) fn write_service(&self) -> Result<(), Failure> {
        let nodes = manifests::nodes(self.cluster.nodes());
        self.directory.replace("nodes.yaml", &nodes)?;
        self.directory.replace("service.yaml", &manifests::service())?;
        Ok(())
    }

    /// Replaces the EndpointSlices by ones with these pods.
    pub(super) fn write_endpoints(&self, pods: &[String]) -> Result<(), Failure> {
        let pods: Result<Vec<_>, _> = pods.iter().map(|pod| self.cluster.host(pod)).collect();
        let endpoints = manifests::endpoints(&pods?);
        Ok(self.directory.replace("endpoints.yaml", &endpoints)?)
    }

    /// Waits until each node's kernel has so many endpoints behind every frontend.
    pub(super) fn wait_for(&mut self, endpoints: usize) -> Result<Vec<Answer>, Failure> {
        let ending = self.ending.clone();
        let daemons = self.daemons.iter_mut();
        let serves = |answer: &Answer| answer.serves(FRONTENDS, endpoints);
        daemons.map(|daemon| daemon.wait(&ending, serves)).collect::<Result<_, _>>()
    }

    /// Asks the daemons.
    pub(super) fn ask_daemons(&self) -> Result<Vec<Answer>, Failure> {
        let answers: Result<_, _> = self.daemons.iter().map(Daemon::ask).collect();
        Ok(answers?)
    }

    /// What the nodes' kernels hold, read without their daemons.
    pub(super) fn in_kernel(&self) -> Result<Vec<Installed>, Failure> {
        let read = |node: &Host| node.netns().run(inventory).map(|found| found.installed);
        let all: Result<_, _> = self.cluster.nodes().map(read).collect();
        Ok(all?)
    }

    /// All ways to the Service: from the pod to its ClusterIPs, from outside to NodePorts. The
    /// NodePort is asked at both nodes, one for each family.
    pub(super) fn ways(&self) -> Result<Vec<Way>, Failure> {
        let (shopper, laptop) = (self.host(SHOPPER)?, self.host(LAPTOP)?);
        let nodes: Vec<_> = self.cluster.nodes().collect();
        let families = || [Family::V4, Family::V6].into_iter();
        let protocols = [Protocol::Tcp, Protocol::Udp];
        let mut ways = Vec::new();
        for protocol in protocols {
            ways.extend(families().map(|family| Way::cluster_ip(shopper, protocol, family)));
        }
        for protocol in protocols {
            let to_nodes = families().zip(&nodes);
            ways.extend(
                to_nodes
                    .filter_map(|(family, node)| Way::node_port(laptop, node, protocol, family)),
            );
        }
        Ok(ways)
    }

    /// Whose address this is.
    pub(super) fn owner(&self, address: IpAddr) -> Option<&str> {
        let mut hosts = self.cluster.hosts();
        let owner = hosts.find(|host| host.addresses().contains(&address));
        owner.map(Host::name)
    }

    /// The last lines of the daemons' logs.
    pub(super) fn last_words(&self) -> Vec<(String, String)> {
        let daemons = self.daemons.iter();
        daemons.map(|daemon| (daemon.node().to_owned(), daemon.last_words())).collect()
    }

    /// The directory of manifests.
    pub(super) fn directory(&self) -> &Path {
        self.directory.path()
    }

    /// Ends everything; returns the directory that is gone now.
    pub(super) fn end(mut self) -> Result<PathBuf, Failure> {
        for daemon in std::mem::take(&mut self.daemons) {
            daemon.stop()?;
        }
        let directory = self.directory.path().to_owned();
        drop(self);
        Ok(directory)
    }
}
