//! Flannel's own daemon on the nodes of a cluster, from the same API server as everything else, and its pods.

use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use ipnet::IpNet;
use serde_json::json;
use shunt_cluster::{ClusterSpec, Family, Network, NodeSpec, Process, Role, Settings};

use super::plane::{CLUSTER_CIDR, Plane, PlaneSpec};
use super::server::tail;
use super::wait::wait_for;

/// It starts in a second on an idle machine, and executes dozens of programs meanwhile.
const START: Duration = Duration::from_secs(90);

/// Whose rules it masquerades with.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Rules {
    /// Those of `iptables`, as by default.
    #[default]
    Iptables,
    /// Those of `nft` (`EnableNFTables`).
    Nftables,
}

/// `flanneld` with VXLAN on each node of a cluster. It must be dropped before its [`Plane`].
pub struct Flannel {
    daemons: Vec<Process>,
}

impl Flannel {
    /// Builds the cluster, starts the daemons on its nodes, and once those have written how, has the CNI plugins bridge
    /// and host-local connect its pods.
    pub fn start(cluster: &ClusterSpec, rules: Rules) -> Result<(Self, Plane)> {
        let mut bare = cluster.clone();
        bare.network = Network::Flanneld;
        let pods: Vec<_> =
            bare.nodes.iter_mut().map(|node| std::mem::take(&mut node.pods)).collect();
        let mut plane = Plane::start(&PlaneSpec { cluster: bare, ..PlaneSpec::default() })?;
        prepare(&plane, rules)?;
        let start = |node: &NodeSpec| start(&plane, &node.name);
        let mut flannel = Self { daemons: cluster.nodes.iter().map(start).collect::<Result<_>>()? };
        for (index, (node, pods)) in cluster.nodes.iter().zip(pods).enumerate() {
            let settings = wait(&plane, &mut flannel.daemons[index], &node.name)?;
            let cluster = plane.cluster_mut();
            cluster.configure(&node.name, settings);
            for pod in pods {
                cluster.add_pod(&node.name, &pod)?;
            }
        }
        Ok((flannel, plane))
    }
}

/// Its account and its configuration.
fn prepare(plane: &Plane, rules: Rules) -> Result<()> {
    let account = concat!(env!("CARGO_MANIFEST_DIR"), "/flannel/account.yaml");
    plane.server().command(&["apply", account])?;
    plane.account("kube-flannel", "flannel", &file(plane, "flannel.kubeconfig"))?;
    let has = |family| plane.cluster().families().each().contains(&family);
    let (v4, v6) = CLUSTER_CIDR.split_once(',').context("a network of each family")?;
    let configuration = json!({
        "EnableIPv4": has(Family::V4), "Network": v4,
        "EnableIPv6": has(Family::V6), "IPv6Network": v6,
        "EnableNFTables": rules == Rules::Nftables,
        "Backend": {"Type": "vxlan"},
    });
    Ok(fs::write(file(plane, "net-conf.json"), configuration.to_string())?)
}

fn start(plane: &Plane, node: &str) -> Result<Process> {
    let program = program();
    ensure!(program.is_file(), "{}: `make controlplane` builds it", program.display());
    let output = File::create(log(plane, node))?;
    let mut command = Command::new("setpriv");
    command.args(["--pdeathsig", "KILL", "--"]).arg(program);
    command.args(["--kube-subnet-mgr", "--ip-masq", "--iface=eth0"]);
    command.arg(format!("--kubeconfig-file={}", file(plane, "flannel.kubeconfig").display()));
    command.arg(format!("--net-config-path={}", file(plane, "net-conf.json").display()));
    command.arg(format!("--subnet-file={}", subnet_file(plane, node).display()));
    command.env("NODE_NAME", node).stdin(Stdio::null());
    command.stdout(output.try_clone()?).stderr(output);
    plane.cluster().host(node)?.netns().spawn(command)
}

/// Waits until a node's daemon has written how pods are connected, and knows the way to all other nodes.
fn wait(plane: &Plane, daemon: &mut Process, node: &str) -> Result<Settings> {
    wait_for(&format!("flanneld on {node}"), START, || {
        let runs = daemon.is_running();
        ensure!(runs, "it has ended:\n{}", tail(&log(plane, node)));
        let written = fs::read_to_string(subnet_file(plane, node)).unwrap_or_default();
        let unknown = unreached(plane, node)?;
        if !unknown.is_empty() || !written.contains("FLANNEL_IPMASQ") {
            let log = tail(&log(plane, node));
            return Ok(Err(format!("no way to {unknown:?}; written: {written}\n{log}")));
        }
        settings(plane, node, &written).with_context(|| written.clone()).map(Ok)
    })
}

/// The networks of other nodes' pods that a node does not reach yet: the daemon makes their routes last.
fn unreached(plane: &Plane, node: &str) -> Result<Vec<IpNet>> {
    let mut unknown = Vec::new();
    for other in plane.cluster().nodes().filter(|other| other.name() != node) {
        let Role::Node { pod_networks } = other.role() else { continue };
        for network in pod_networks {
            if !plane.cluster().host(node)?.has_route(*network)? {
                unknown.push(*network);
            }
        }
    }
    Ok(unknown)
}

/// What is in a node's `subnet.env`.
fn settings(plane: &Plane, node: &str, written: &str) -> Result<Settings> {
    let value = |key: &str| {
        let mut lines = written.lines().filter_map(|line| line.split_once('='));
        lines.find_map(|(name, value)| (name == key).then_some(value))
    };
    let networks = |keys: [&str; 2]| -> Result<Vec<IpNet>> {
        keys.iter().filter_map(|key| value(key)).map(|text| Ok(text.parse()?)).collect()
    };
    Ok(Settings {
        all: networks(["FLANNEL_NETWORK", "FLANNEL_IPV6_NETWORK"])?,
        own: networks(["FLANNEL_SUBNET", "FLANNEL_IPV6_SUBNET"])?,
        mtu: value("FLANNEL_MTU").context("no MTU")?.parse()?,
        masquerades: value("FLANNEL_IPMASQ").context("no masquerade")?.parse()?,
        notes: file(plane, &format!("{node}.cni")),
    })
}

fn subnet_file(plane: &Plane, node: &str) -> PathBuf {
    file(plane, &format!("{node}.subnet.env"))
}

fn log(plane: &Plane, node: &str) -> PathBuf {
    file(plane, &format!("flanneld-{node}.log"))
}

fn file(plane: &Plane, name: &str) -> PathBuf {
    plane.scratch().join(name)
}

fn program() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../target/controlplane/flanneld")
}
