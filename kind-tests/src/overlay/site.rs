//! Two pods on two nodes, and the ways from one to the other.

use std::fs;
use std::io::Write;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, TcpListener};
use std::path::Path;
use std::process::{Command, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use ipnet::IpNet;
use serde_json::json;
use shunt_cluster::{Cluster, ClusterSpec, Families, Family, Host, Netns, NodeSpec};

use super::lane::Lane;
use super::{Backend, Setting, Way};
use crate::scenario::daemon::Daemon;

const NODE: &str = "node-1";
const CLIENT: &str = "client-pod";
/// A pod to whom and from whom all goes through its node.
const ROUTED: &str = "routed-pod";
const SERVER: &str = "server-pod";
const PORT: u16 = 8080;
const SERVICE_PORT: u16 = 80;
const PATIENCE: Duration = Duration::from_secs(30);

/// All of it; it goes when it is dropped.
pub(super) struct Site {
    // In the order in which they must go.
    _daemon: Daemon,
    _files: tempfile::TempDir,
    cluster: Cluster,
    family: Family,
}

impl Site {
    /// Builds it, with a daemon that serves on the client's node.
    pub(super) fn build(setting: &Setting<'_>) -> Result<Self> {
        let Setting { network, family, .. } = *setting;
        let families = family.into();
        let nodes =
            vec![NodeSpec::new(NODE, &[CLIENT, ROUTED]), NodeSpec::new("node-2", &[SERVER])];
        let cluster =
            Cluster::build(&ClusterSpec { nodes, network, families, ..ClusterSpec::default() })?;
        // Another one, BBR for example, paces a connection by what it has seen of the path, and sends it in smaller
        // pieces for as long as it lasts if that was little: two connections of the same way may cost 1 and 1.5 then.
        for pod in [CLIENT, ROUTED] {
            cluster.host(pod)?.netns().sysctl("net.ipv4.tcp_congestion_control", "reno")?;
        }
        if network.is_on_link() {
            lead_through_node(&cluster, families)?;
        }
        let files = tempfile::Builder::new().prefix("shunt-overlay-").tempdir()?;
        translate(&cluster, family)?;
        let daemon = start(setting, &cluster, files.path())?;
        Ok(Self { _daemon: daemon, _files: files, cluster, family })
    }

    /// The ways that there are.
    pub(super) fn ways(&self) -> &'static [Way] {
        Way::on(self.cluster.network())
    }

    /// A connection for each of these places among the ways, opened in this order and returned in that.
    pub(super) fn lanes(&self, order: &[usize]) -> Result<Vec<Lane>> {
        let server = self.cluster.host(SERVER)?;
        let here = SocketAddr::new(server.ip(), PORT);
        let listener = server.netns().run(move || TcpListener::bind(here))?;
        listener.set_nonblocking(true)?;
        let mut lanes = Vec::new();
        for way in order {
            let (from, to) = match self.ways()[*way] {
                Way::Straight | Way::Control => (CLIENT, here),
                Way::ThroughNode => (ROUTED, here),
                Way::BareRule => (CLIENT, SocketAddr::new(bare(self.family), SERVICE_PORT)),
                Way::ClusterIp => (CLIENT, SocketAddr::new(cluster_ip(self.family), SERVICE_PORT)),
            };
            let from = self.cluster.host(from)?.netns();
            lanes.push((way, Lane::open(from, to, &listener)?));
        }
        lanes.sort_by_key(|(way, _)| **way);
        Ok(lanes.into_iter().map(|(_, lane)| lane).collect())
    }
}

fn cluster_ip(family: Family) -> IpAddr {
    match family {
        Family::V4 => Ipv4Addr::new(10, 96, 0, 11).into(),
        Family::V6 => Ipv6Addr::new(0xfd00, 0x10, 0x96, 0, 0, 0, 0, 0x11).into(),
    }
}

/// The address that the bare rule translates.
fn bare(family: Family) -> IpAddr {
    match family {
        Family::V4 => Ipv4Addr::new(198, 51, 100, 1).into(),
        Family::V6 => Ipv6Addr::new(0x2001, 0xdb8, 0x100, 0, 0, 0, 0, 1).into(),
    }
}

/// A daemon on the client's node, once it serves.
fn start(setting: &Setting<'_>, cluster: &Cluster, files: &Path) -> Result<Daemon> {
    let manifests = files.join("manifests");
    fs::create_dir(&manifests)?;
    let endpoint = cluster.host(SERVER)?.ip();
    let address = cluster_ip(setting.family);
    let kind = match setting.family {
        Family::V4 => "IPv4",
        Family::V6 => "IPv6",
    };
    let objects = json!({ "apiVersion": "v1", "kind": "List", "items": [
        { "apiVersion": "v1", "kind": "Service",
          "metadata": { "name": "sink", "namespace": "default" },
          "spec": { "clusterIP": address, "clusterIPs": [address], "ipFamilies": [kind],
                    "ports": [{ "name": "sink", "port": SERVICE_PORT, "protocol": "TCP", "targetPort": PORT }] } },
        { "apiVersion": "discovery.k8s.io/v1", "kind": "EndpointSlice", "addressType": kind,
          "metadata": { "name": "sink-1", "namespace": "default",
                        "labels": { "kubernetes.io/service-name": "sink" } },
          "ports": [{ "name": "sink", "port": PORT, "protocol": "TCP" }],
          "endpoints": [{ "addresses": [endpoint] }] },
    ]});
    fs::write(manifests.join("sink.yaml"), objects.to_string())?;
    let manifests = manifests.display().to_string();
    let mut arguments = vec!["run", "--manifests", &manifests, "--node-name", NODE];
    if setting.backend == Backend::Ipvs {
        arguments.push("--proxy-mode=ipvs");
    }
    if cluster.network().sends_as_node() {
        arguments.push("--masquerade-all");
    }
    let arguments: Vec<_> = arguments.into_iter().map(str::to_owned).collect();
    let netns = cluster.host(NODE)?.netns();
    let mut daemon = Daemon::start(setting.shunt, &arguments, netns, &files.join("shunt.log"))?;
    let deadline = Instant::now() + PATIENCE;
    while !daemon.status()?.is_some_and(|status| status.synced && status.endpoints == 1) {
        ensure!(Instant::now() < deadline, "shunt is not there:\n{}", daemon.log_tail());
        thread::sleep(Duration::from_millis(20));
    }
    Ok(daemon)
}

/// Has all between the routed pod and the server go through the former's node, both ways.
fn lead_through_node(cluster: &Cluster, families: Families) -> Result<()> {
    let (routed, server) = (cluster.host(ROUTED)?, cluster.host(SERVER)?);
    let gateways = cluster.network().node_addresses(families, 1);
    let gateway = *gateways.first().context("pods on a link have a gateway")?;
    let lead = |from: &Host, to: &Host| from.add_route(IpNet::from(to.ip()), gateway);
    lead(routed, server)?;
    lead(server, routed)
}

/// The bare rule, beside shunt's table; where answers would not come back by themselves, with one that masquerades.
fn translate(cluster: &Cluster, family: Family) -> Result<()> {
    let ip = match family {
        Family::V4 => "ip",
        Family::V6 => "ip6",
    };
    let to = SocketAddr::new(cluster.host(SERVER)?.ip(), PORT);
    let address = bare(family);
    let goes_past = cluster.network().is_on_link() || cluster.network().sends_as_node();
    let masquerade = if goes_past { "masquerade" } else { "accept" };
    let rule = format!("{ip} daddr {address} tcp dport {SERVICE_PORT} dnat to {to};");
    let script = format!(
        "table {ip} bare {{
          chain to {{ type nat hook prerouting priority dstnat; {rule} }}
          chain own {{ type nat hook output priority -100; {rule} }}
          chain from {{ type nat hook postrouting priority srcnat; ct original {ip} daddr {address} {masquerade}; }}
        }}\n"
    );
    nft(cluster.host(NODE)?.netns(), &script)
}

/// Has stock `nft` read a script.
fn nft(netns: &Netns, script: &str) -> Result<()> {
    let mut command = Command::new("nft");
    command.args(["-f", "-"]).stdin(Stdio::piped());
    let mut nft = netns.spawn(command).context("the bare rule takes nft")?;
    let (input, _, _) = nft.pipes();
    input.context("its input")?.write_all(script.as_bytes())?;
    let status = nft.wait_timeout(PATIENCE)?;
    ensure!(status.is_some_and(|status| status.success()), "nft: {status:?}");
    Ok(())
}
