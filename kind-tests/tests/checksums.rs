//! Checksums of what is translated, masqueraded and wrapped by a tunnel in UDP, whoever computes them: the sockets'
//! kernel, as usual between namespaces never, or any device on the way that leaves it to software. With checksums
//! outside and without, on VXLAN and GENEVE, both families, both backends; needs root and ethtool.

#[path = "checksums/packet.rs"]
mod packet;

use std::collections::BTreeMap;
use std::fs;
use std::net::{IpAddr, SocketAddr};
use std::process::{Command, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use serde_json::Value;
use shunt_cluster::{
    Capture, Cluster, ClusterSpec, Connection, EchoServer, Families, Family, Host, Netns, Network,
    NodeSpec, Outcome, ProbeOptions, Protocol, Role, UdpFlow, has_sctp,
};
use shunt_kind_tests::guest::{self, Clock};
use shunt_kind_tests::scenario::daemon::Daemon;
use shunt_kind_tests::scenario::shunt_binary;

const IPVS: &str = "--proxy-mode=ipvs";
const NODE: &str = "node-1";
const FAR_NODE: &str = "node-2";
const POD: &str = "web";
const PATIENCE: Duration = Duration::from_secs(30);
const PORT: u16 = 80;
const NODE_PORT: u16 = 30080;
const CLUSTER_IPS: [&str; 2] = ["10.96.0.11", "fd00:10:96::11"];
/// More than a packet, and an odd number of bytes.
const LONG: usize = 20_001;
const DATAGRAM: usize = 1201;

/// The devices that compute no checksums, so that it is done before a packet gets to them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Without {
    /// All do.
    None,
    /// Those of pods and of the client.
    Ends,
    /// The tunnels' own.
    Tunnels,
    /// The nodes' others.
    Links,
    /// All: whatever is sent is whole.
    All,
}

impl Without {
    const EACH: [Self; 5] = [Self::None, Self::Ends, Self::Tunnels, Self::Links, Self::All];

    fn concerns(self, host: &Host, device: &str) -> bool {
        let is_end = !matches!(host.role(), Role::Node { .. });
        let is_tunnel = ["flannel", "geneve"].iter().any(|name| device.starts_with(name));
        match self {
            Self::None => false,
            Self::Ends => is_end,
            Self::Tunnels => is_tunnel,
            Self::Links => !is_end && !is_tunnel,
            Self::All => true,
        }
    }
}

struct Site {
    // In the order in which they must go.
    _daemon: Daemon,
    _files: tempfile::TempDir,
    _servers: Vec<EchoServer>,
    cluster: Cluster,
}

impl Site {
    fn build(network: Network, mode: &str, outer_checksums: bool) -> Result<Self> {
        let cluster = Cluster::build(&ClusterSpec {
            nodes: vec![NodeSpec::new(NODE, &["pod"]), NodeSpec::new(FAR_NODE, &[POD])],
            clients: vec!["client".to_owned()],
            families: Families::Dual,
            network,
            outer_checksums: Some(outer_checksums),
            ..ClusterSpec::default()
        })?;
        let web = cluster.host(POD)?;
        let mut servers = vec![EchoServer::start(web.netns(), POD, &[8080])?];
        if has_sctp() {
            servers.push(EchoServer::start_sctp(web.netns(), POD, &[8080])?);
        }
        let files = tempfile::Builder::new().prefix("shunt-checksums-").tempdir()?;
        let manifests = files.path().join("manifests");
        fs::create_dir(&manifests)?;
        fs::write(manifests.join("web.yaml"), manifest(web.addresses()))?;
        let manifests = manifests.display().to_string();
        let arguments = ["run", "--manifests", &manifests, "--node-name", NODE, mode];
        let arguments = arguments.map(str::to_owned);
        let log = files.path().join("log");
        let mut daemon =
            Daemon::start(&shunt_binary()?, &arguments, cluster.host(NODE)?.netns(), &log)?;
        let deadline = Instant::now() + PATIENCE;
        while !daemon.status()?.is_some_and(|status| status.synced && status.waiting_ms.is_none()) {
            ensure!(Instant::now() < deadline, "shunt is not there:\n{}", daemon.log_tail());
            thread::sleep(Duration::from_millis(20));
        }
        Ok(Self { _daemon: daemon, _files: files, _servers: servers, cluster })
    }

    /// Sets which devices compute checksums.
    fn set(&self, without: Without) -> Result<()> {
        for host in self.cluster.hosts() {
            for device in devices(host.netns())? {
                let state = if without.concerns(host, &device) { "off" } else { "on" };
                run(host.netns(), "ethtool", &["-K", &device, "tx", state])?;
            }
        }
        Ok(())
    }

    /// A pod asks the ClusterIP and is seen as who it is; the client asks a NodePort and is seen as the node.
    fn ask(&self, protocols: &[Protocol]) -> Result<()> {
        let node = self.cluster.host(NODE)?;
        let own = self.cluster.network().node_addresses(Families::Dual, 1);
        let is_node = |seen: IpAddr| own.contains(&seen) || node.addresses().contains(&seen);
        for (family, cluster_ip) in [Family::V4, Family::V6].into_iter().zip(CLUSTER_IPS) {
            let (pod, client) = (self.cluster.host("pod")?, self.cluster.host("client")?);
            let node_port = SocketAddr::new(address(node, family)?, NODE_PORT);
            for (from, to) in
                [(pod, SocketAddr::new(cluster_ip.parse()?, PORT)), (client, node_port)]
            {
                for protocol in protocols.iter().copied() {
                    let what = || format!("{} to {to} over {protocol}", from.name());
                    let seen = exchange(from.netns(), to, protocol).with_context(what)?;
                    let itself = seen == address(from, family)?;
                    let expected = if from.name() == "pod" { itself } else { is_node(seen) };
                    ensure!(expected, "{}: seen as {seen}", what());
                }
            }
        }
        Ok(())
    }

    /// The same where nothing is left to devices: every packet that the other node and its pod receive is right.
    fn ask_watched(&self, outer_checksums: bool) -> Result<()> {
        self.set(Without::All)?;
        let watched = [FAR_NODE, POD].map(|name| {
            let host = self.cluster.host(name)?;
            anyhow::Ok((name, Capture::start(host.netns())?))
        });
        self.ask(&protocols())?;
        for watched in watched {
            let (name, capture) = watched?;
            let mut right: BTreeMap<_, usize> = BTreeMap::new();
            for bytes in capture.take()? {
                let read = packet::read(&bytes).with_context(|| format!("received by {name}"))?;
                let Some(packet) = read else { continue };
                let Some(inner) = packet.inner else {
                    *right.entry((packet.protocol, packet.source.is_ipv4())).or_default() += 1;
                    continue;
                };
                ensure!(packet.has_checksum == outer_checksums, "{name}: outside, {inner:?}");
                let node = self.cluster.host(NODE)?;
                ensure!(node.addresses().contains(&packet.source), "from {}", packet.source);
            }
            let each = protocols().len() * 2;
            let enough = right.len() == each && right.values().all(|number| *number >= 2);
            ensure!(enough, "{name} received {right:?}");
        }
        Ok(())
    }
}

/// What the doctor of a node says of checksums, if it does.
fn doctor(node: &Netns) -> Result<Option<Value>> {
    let mut command = Command::new(shunt_binary()?);
    command.args(["doctor", "-o", "json"]);
    let output = node.run(move || command.output())?;
    let found: Vec<Value> = serde_json::from_slice(&output.stdout)?;
    let says = |one: &Value| one["what"].as_str().is_some_and(|what| what.contains("checksum"));
    Ok(found.into_iter().find(says))
}

fn protocols() -> Vec<Protocol> {
    let mut protocols = vec![Protocol::Tcp, Protocol::Udp];
    protocols.extend(has_sctp().then_some(Protocol::Sctp));
    protocols
}

fn address(host: &Host, family: Family) -> Result<IpAddr> {
    host.address(family).with_context(|| format!("{} has no {family:?}", host.name()))
}

/// Says something long, and whom the server has seen.
fn exchange(from: &Netns, to: SocketAddr, protocol: Protocol) -> Result<IpAddr> {
    let options = ProbeOptions::within(Duration::from_secs(10));
    let mut connection = match protocol {
        Protocol::Udp => {
            let flow = UdpFlow::open(from, to, &options)?;
            let outcome = flow.exchange(&"x".repeat(DATAGRAM), options.timeout);
            let seen = match &outcome {
                Outcome::Answer { seen_source, .. } => Some(seen_source.ip()),
                _ => None,
            };
            return seen.with_context(|| outcome.to_string());
        }
        Protocol::Tcp => Connection::open(from, to, &options)?,
        Protocol::Sctp => Connection::open_sctp(from, to, &options)?,
    };
    let length = if protocol == Protocol::Tcp { LONG } else { DATAGRAM };
    connection.exchange(&"x".repeat(length))?;
    let seen = connection.seen_source().ip();
    connection.close()?;
    Ok(seen)
}

/// The names of a namespace's devices, without `lo`.
fn devices(netns: &Netns) -> Result<Vec<String>> {
    let text = netns.run(|| fs::read_to_string("/proc/thread-self/net/dev"))?;
    let names = text.lines().filter_map(|line| line.split_once(':')).map(|(name, _)| name.trim());
    // Those that come with a module are down.
    let unused = [
        "lo", "tunl0", "sit0", "ip6tnl0", "gre0", "gretap0", "erspan0", "ip6gre0", "ip_vti0",
        "ip6_vti0",
    ];
    Ok(names
        .filter(|name| !unused.contains(name) && *name != "kube-ipvs0")
        .map(str::to_owned)
        .collect())
}

fn run(netns: &Netns, program: &str, arguments: &[&str]) -> Result<()> {
    let mut command = Command::new(program);
    command.args(arguments).stdin(Stdio::null());
    let output = netns.run(move || command.output()).with_context(|| program.to_owned())?;
    let said = String::from_utf8_lossy(&output.stderr);
    ensure!(output.status.success(), "{program} {}: {said}", arguments.join(" "));
    Ok(())
}

fn manifest(pod: &[IpAddr]) -> String {
    let ports = protocols().into_iter().enumerate().map(|(at, protocol)| {
        let name = format!("name: p{at}, protocol: {protocol}");
        (
            format!("{{{name}, port: {PORT}, targetPort: 8080, nodePort: {NODE_PORT}}}"),
            format!("{{{name}, port: 8080}}"),
        )
    });
    let (ports, slices): (Vec<_>, Vec<_>) = ports.unzip();
    let mut text = format!(
        "{{apiVersion: v1, kind: Service, metadata: {{name: web, namespace: default}}, \
         spec: {{type: NodePort, clusterIPs: ['{}', '{}'], ports: [{}]}}}}\n",
        CLUSTER_IPS[0],
        CLUSTER_IPS[1],
        ports.join(", ")
    );
    for (kind, pod) in ["IPv4", "IPv6"].into_iter().zip(pod) {
        text += &format!(
            "---\n{{apiVersion: discovery.k8s.io/v1, kind: EndpointSlice, addressType: {kind}, \
             metadata: {{name: web-{}, namespace: default, labels: {{kubernetes.io/service-name: web}}}}, \
             ports: [{}], endpoints: [{{addresses: ['{pod}']}}]}}\n",
            kind.to_lowercase(),
            slices.join(", ")
        );
    }
    text
}

fn play(mode: &str) -> Result<()> {
    let networks = [Network::FlannelVxlan, Network::Geneve];
    let mut played = 0;
    for network in networks.into_iter().filter(|network| network.is_possible_here()) {
        for outer_checksums in [false, true] {
            let what = || format!("{}, checksums outside: {outer_checksums}", network.name());
            let site = Site::build(network, mode, outer_checksums).with_context(what)?;
            for without in Without::EACH {
                site.set(without)?;
                let mut protocols = protocols();
                if mode == IPVS && outer_checksums && without == Without::Links {
                    // IPVS computes SCTP's checksum itself and leaves the packet's note that a device will have to
                    // (`csum_not_inet`, which `sctp_nat_csum` does not clear): the kernel then takes the checksum outside
                    // for SCTP's, and writes a CRC there.
                    protocols.retain(|protocol| *protocol != Protocol::Sctp);
                }
                let asked = site.ask(&protocols);
                asked.with_context(|| format!("{}, not done by: {without:?}", what()))?;
            }
            site.ask_watched(outer_checksums).with_context(what)?;
        }
        played += 1;
    }
    ensure!(played > 0, "this kernel has neither");
    Ok(())
}

/// A device that gets it wrong is played by a rule, on the node that receives.
#[test]
fn what_a_tunnel_has_wrong_is_found() -> Result<()> {
    if !Network::FlannelVxlan.is_possible_here() {
        return Ok(());
    }
    let site = Site::build(Network::FlannelVxlan, "--proxy-mode=nftables", true)?;
    let node = site.cluster.host(FAR_NODE)?.netns();
    site.set(Without::All)?;
    site.ask(&protocols())?;
    let found = doctor(node)?;
    ensure!(found.is_none(), "all is well, and the doctor says {found:?}");

    let spoil = "table inet spoil { chain in { type filter hook prerouting priority raw; \
                 udp dport 8472 udp checksum set 0x0101; }; }";
    run(node, "nft", &[spoil])?;
    let capture = Capture::start(site.cluster.host(POD)?.netns())?;
    let pod = site.cluster.host("pod")?;
    let to = SocketAddr::new(CLUSTER_IPS[0].parse()?, PORT);
    let options = ProbeOptions::within(Duration::from_secs(2));
    let outcome = UdpFlow::open(pod.netns(), to, &options)?.exchange("x", options.timeout);
    ensure!(outcome == Outcome::TimedOut, "{outcome}");
    let received = capture.take()?;
    let from_pod = received.iter().filter_map(|bytes| packet::read(bytes).ok().flatten());
    ensure!(!from_pod.into_iter().any(|packet| packet.source == pod.ip()), "the pod received it");
    let found = doctor(node)?.context("the doctor sees nothing")?;
    let remedy = found["remedy"].as_str().unwrap_or_default();
    ensure!(remedy.contains("ethtool -K flannel.1 tx-checksum-ip-generic off"), "{found}");
    Ok(())
}

#[test]
fn nftables() -> Result<()> {
    play("--proxy-mode=nftables")
}

#[test]
#[ignore = "needs IPVS; the test below runs it in the guest"]
fn ipvs() -> Result<()> {
    play(IPVS)
}

#[test]
fn in_the_guest() -> Result<()> {
    if Clock::of_this_guest().is_some() {
        return Ok(());
    }
    let tests = ["--include-ignored", "--exact", "nftables", "ipvs"];
    let printed = guest::run_tests(Clock::Running, &tests)?;
    ensure!(printed.contains("2 passed"), "{printed}");
    Ok(())
}
