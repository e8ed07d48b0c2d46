//! Builds a cluster and changes it while it runs. How packets travel in it is the subject of `network`.

use std::collections::BTreeMap;

use anyhow::{Context, Result, anyhow, bail, ensure};
use ipnet::IpNet;
use nix::sys::resource::{Resource, getrlimit, setrlimit};

use crate::fabric::Fabric;
use crate::host::{DEVICE, Families, Family, Host, Role};
use crate::netns::Netns;
use crate::network::Network;
use crate::network::cni::Settings;
use crate::numbering;

/// The name of the API server's machine.
pub const CONTROL_PLANE: &str = "control-plane";

/// Ethernet's.
const MTU: u32 = 1500;
/// Files this process may want at once: each held connection of each echo server is one.
const FILES: u64 = 65_536;

/// A node and its pods, as they are to be built.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct NodeSpec {
    /// The node's name.
    pub name: String,
    /// The names of its pods.
    pub pods: Vec<String>,
}

impl NodeSpec {
    /// A node with these pods.
    pub fn new(name: &str, pods: &[&str]) -> Self {
        Self { name: name.to_owned(), pods: pods.iter().map(|p| (*p).to_owned()).collect() }
    }
}

/// Whether the cluster has a machine for an API server.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum ControlPlane {
    /// It has none.
    #[default]
    Absent,
    /// It has one, named [`CONTROL_PLANE`].
    Present,
}

/// What to build. The order of nodes, pods and clients decides their addresses: see the crate's documentation.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ClusterSpec {
    /// The nodes, with their pods.
    pub nodes: Vec<NodeSpec>,
    /// The names of machines outside the cluster.
    pub clients: Vec<String>,
    /// The IP versions in use.
    pub families: Families,
    /// A machine for an API server.
    pub control_plane: ControlPlane,
    /// How packets travel.
    pub network: Network,
    /// The longest packet that the underlay takes, in bytes; none: 1500.
    pub mtu: Option<u32>,
    /// Whether tunnels in UDP (VXLAN and GENEVE) have a checksum outside; none: as the kernel makes them by itself, which
    /// is without over IPv4 and with one over IPv6 (RFC 6935).
    pub outer_checksums: Option<bool>,
}

/// A running cluster. Dropping it ends its namespaces and with them all that is in them.
pub struct Cluster {
    families: Families,
    network: Network,
    fabric: Fabric,
    hosts: BTreeMap<String, Host>,
    /// In the order they were built, which is their numbering.
    nodes: Vec<NodeState>,
    clients: Vec<String>,
}

struct NodeState {
    name: String,
    number: u8,
    /// The index of the last pod built; an index comes up again only when all others had their turn.
    last_pod: usize,
}

impl Cluster {
    /// Builds it. Takes the right to make network namespaces: root, or [`crate::enter_user_namespace`] before.
    pub fn build(spec: &ClusterSpec) -> Result<Self> {
        allow_files()?;
        let mut cluster = Self {
            families: spec.families,
            network: spec.network,
            fabric: Fabric::new(spec, spec.mtu.unwrap_or(MTU))?,
            hosts: BTreeMap::new(),
            nodes: Vec::new(),
            clients: Vec::new(),
        };
        for node in &spec.nodes {
            cluster.add_node(&node.name)?;
            for pod in &node.pods {
                cluster.add_pod(&node.name, pod)?;
            }
        }
        for client in &spec.clients {
            cluster.add_client(client)?;
        }
        match spec.control_plane {
            ControlPlane::Absent => {}
            ControlPlane::Present => {
                let number = numbering::CONTROL_PLANE;
                cluster.attach(CONTROL_PLANE, number, Role::ControlPlane)?;
            }
        }
        Ok(cluster)
    }

    /// The IP versions in use.
    pub fn families(&self) -> Families {
        self.families
    }

    /// How packets travel.
    pub fn network(&self) -> Network {
        self.network
    }

    /// The host of this name.
    pub fn host(&self, name: &str) -> Result<&Host> {
        let host = self.hosts.get(name);
        host.with_context(|| format!("the cluster has no host named {name}"))
    }

    /// All hosts, by name.
    pub fn hosts(&self) -> impl Iterator<Item = &Host> {
        self.hosts.values()
    }

    /// The nodes, in the order of their numbers.
    pub fn nodes(&self) -> impl Iterator<Item = &Host> {
        self.nodes.iter().filter_map(|n| self.hosts.get(&n.name))
    }

    /// The clients, in the order of their numbers.
    pub fn clients(&self) -> impl Iterator<Item = &Host> {
        self.clients.iter().filter_map(|c| self.hosts.get(c))
    }

    /// All pods, by name.
    pub fn pods(&self) -> impl Iterator<Item = &Host> {
        let is_pod = |host: &&Host| matches!(host.role, Role::Pod { .. });
        self.hosts().filter(is_pod)
    }

    /// The pods of a node, by name.
    pub fn pods_of<'a>(&'a self, node: &'a str) -> impl Iterator<Item = &'a Host> {
        let is_there =
            move |host: &&Host| matches!(&host.role, Role::Pod { node: n, .. } if n == node);
        self.hosts().filter(is_there)
    }

    /// Adds a node, with the next number.
    pub fn add_node(&mut self, name: &str) -> Result<&Host> {
        let index = self.nodes.len() + 1;
        let number = numbering::node_number(index).context("a cluster has at most 89 nodes")?;
        let index = u8::try_from(index)?;
        let pod_networks = numbering::pod_networks(self.families, index);
        let role = Role::Node { pod_networks };
        self.attach(name, number, role)?;
        let new = self.host(name)?;
        for other in self.nodes() {
            self.fabric.introduce(new, other)?;
            self.fabric.introduce(other, new)?;
        }
        self.nodes.push(NodeState { name: name.to_owned(), number: index, last_pod: 0 });
        self.host(name)
    }

    /// Adds a machine outside the cluster, with the next number.
    pub fn add_client(&mut self, name: &str) -> Result<&Host> {
        let number = numbering::client_number(self.clients.len() + 1);
        let number = number.context("a cluster has at most 99 clients")?;
        self.attach(name, number, Role::Client)?;
        self.clients.push(name.to_owned());
        self.host(name)
    }

    /// Tells how a node's pods are connected, where the network's daemon decides that ([`Network::takes_daemons`]).
    pub fn configure(&mut self, node: &str, settings: Settings) {
        self.fabric.configure(node, settings);
    }

    /// On the network [`Network::Bgp`]: has a node announce these networks in place of those it does. What becomes of that
    /// at other nodes, [`Host::has_route`] tells.
    pub fn announce(&self, node: &str, networks: &[IpNet]) -> Result<()> {
        ensure!(self.network == Network::Bgp, "{} has no BGP daemons", self.network.name());
        let index = self.nodes.iter().position(|n| n.name == node).map(|index| index + 1);
        let number = index.and_then(numbering::node_number);
        let number = number.with_context(|| format!("the cluster has no node named {node}"))?;
        self.fabric.announce(self.host(node)?, number, networks)
    }

    /// Starts a pod on a node, with the node's next free address.
    pub fn add_pod(&mut self, node: &str, name: &str) -> Result<&Host> {
        self.check_free(name)?;
        let families = self.families;
        let position = self.nodes.iter().position(|n| n.name == node);
        let position = position.with_context(|| format!("the cluster has no node named {node}"))?;
        let index = self.free_pod_index(position)?;
        let state = &mut self.nodes[position];
        let number = numbering::pod_number(index).context("no such pod number")?;
        let addresses = numbering::pod(families, state.number, number);
        state.last_pod = index;
        let pod = Host {
            name: name.to_owned(),
            role: Role::Pod { node: node.to_owned(), device: format!("veth{number}") },
            addresses,
            netns: Netns::new(name)?,
        };
        self.fabric.connect_pod(self.host(node)?, &pod)?;
        Ok(self.hosts.entry(pod.name.clone()).or_insert(pod))
    }

    /// Ends a pod: its device and route are gone from the node when this returns. Its namespace lives on as long as
    /// the returned host, its processes and its sockets do.
    pub fn remove_pod(&mut self, name: &str) -> Result<Host> {
        let host = self.host(name)?;
        let Role::Pod { node, .. } = &host.role else {
            bail!("{name} is not a pod");
        };
        self.fabric.disconnect_pod(self.host(node)?, host)?;
        let pod = self.hosts.remove(name);
        pod.ok_or_else(|| anyhow!("the cluster has no host named {name}"))
    }

    /// Makes the link between a pod and its node one for shorter packets, in bytes. Whoever sends the pod longer ones is
    /// told so by the node: by ICMP.
    pub fn narrow(&self, pod: &str, mtu: u32) -> Result<()> {
        let pod = self.host(pod)?;
        let Role::Pod { node, .. } = &pod.role else { bail!("{} is not a pod", pod.name) };
        let node = self.host(node)?;
        let device = node.device_to(pod.address(Family::V4).context("a pod without IPv4")?)?;
        node.netns.links().set_mtu(&device, mtu)?;
        pod.netns.links().set_mtu(DEVICE, mtu)
    }

    fn free_pod_index(&self, node: usize) -> Result<usize> {
        let state = &self.nodes[node];
        let taken = |index: usize| {
            let number = numbering::pod_number(index).unwrap_or(0);
            let first = numbering::pod(self.families, state.number, number)[0];
            self.pods().any(|pod| pod.addresses[0] == first)
        };
        let candidates = (0..244).map(|step| (state.last_pod + step) % 244 + 1);
        let mut free = candidates.filter(|index| !taken(*index));
        free.next().context("a node has at most 244 pods")
    }

    fn attach(&mut self, name: &str, number: u8, role: Role) -> Result<()> {
        self.check_free(name)?;
        let host = Host {
            name: name.to_owned(),
            role,
            addresses: numbering::underlay(self.families, number),
            netns: Netns::new(name)?,
        };
        self.fabric.connect(&host, number)?;
        self.hosts.insert(name.to_owned(), host);
        Ok(())
    }

    fn check_free(&self, name: &str) -> Result<()> {
        ensure!(!self.hosts.contains_key(name), "the cluster has a host named {name} already");
        Ok(())
    }
}

/// Raises the number of files this process may have open, as far as it may do so itself. A guest's
/// first process has a hard limit of 4096, which root may raise.
fn allow_files() -> Result<()> {
    let (soft, hard) = getrlimit(Resource::RLIMIT_NOFILE)?;
    if soft < FILES && setrlimit(Resource::RLIMIT_NOFILE, FILES, hard.max(FILES)).is_err() {
        setrlimit(Resource::RLIMIT_NOFILE, hard, hard)?;
    }
    Ok(())
}
