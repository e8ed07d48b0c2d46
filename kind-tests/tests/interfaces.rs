//! A node with two interfaces, each in a network of its own, and one endpoint behind each: which addresses have
//! NodePorts, which way answers go, whose address a masquerade takes, and what becomes of a client that comes in by one
//! interface and is answered by the other. With both backends; needs root.

use std::collections::BTreeMap;
use std::fs;
use std::net::{IpAddr, SocketAddr};
use std::process::Command;
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use serde_json::Value;
use shunt_cluster::{
    Cluster, ClusterSpec, EchoServer, Families, Hop, Netns, NodeSpec, Outcome, Peer, ProbeOptions,
    Protocol, Route, probe,
};
use shunt_kind_tests::guest;
use shunt_kind_tests::scenario::daemon::Daemon;
use shunt_kind_tests::scenario::shunt_binary;

const NODE: &str = "node-1";
const PATIENCE: Duration = Duration::from_secs(30);
const NODE_PORT: u16 = 30080;
/// The node on its second interface, and the machine behind that.
const SECOND: [(&str, &str); 2] = [("10.50.0.1", "10.50.0.2"), ("fd00:50::1", "fd00:50::2")];
/// An address that the second interface gets while the daemon runs.
const LATE: [&str; 2] = ["10.50.0.9", "fd00:50::9"];

struct Site {
    // In the order in which they must go.
    daemon: Option<Daemon>,
    files: tempfile::TempDir,
    _servers: Vec<EchoServer>,
    other: Netns,
    cluster: Cluster,
}

impl Site {
    fn build() -> Result<Self> {
        let cluster = Cluster::build(&ClusterSpec {
            nodes: vec![NodeSpec::new(NODE, &["web"])],
            clients: vec!["client".to_owned()],
            families: Families::Dual,
            ..ClusterSpec::default()
        })?;
        let other = Netns::new("other")?;
        let node = cluster.host(NODE)?.netns();
        node.links().add_veth("eth1", None, &Peer { name: "eth0", netns: other.fd() })?;
        for (own, theirs) in SECOND {
            let length = if own.contains(':') { 64 } else { 24 };
            node.links().add_address("eth1", format!("{own}/{length}").parse()?)?;
            other.links().add_address("eth0", format!("{theirs}/{length}").parse()?)?;
        }
        node.links().set_up("eth1")?;
        other.links().set_up("eth0")?;
        for ((second, _), own) in SECOND.iter().zip(cluster.host(NODE)?.addresses()) {
            // By the first interface to the address of the second.
            let second = format!("{second}/{}", length(second)).parse()?;
            cluster.host("client")?.add_route(second, *own)?;
        }
        let servers = vec![
            EchoServer::start(cluster.host("web")?.netns(), "web", &[8080])?,
            EchoServer::start(&other, "far", &[8080])?,
        ];
        let files = tempfile::Builder::new().prefix("shunt-interfaces-").tempdir()?;
        fs::create_dir(files.path().join("manifests"))?;
        let manifest = manifest(cluster.host("web")?.addresses());
        fs::write(files.path().join("manifests/web.yaml"), manifest)?;
        Ok(Self { daemon: None, files, _servers: servers, other, cluster })
    }

    /// Starts a daemon with these flags in place of the one that runs.
    fn start(&mut self, flags: &[&str]) -> Result<()> {
        if let Some(daemon) = self.daemon.take() {
            daemon.stop()?;
        }
        let manifests = self.files.path().join("manifests").display().to_string();
        let fixed = ["run", "--manifests", &manifests, "--node-name", NODE];
        let arguments: Vec<_> = fixed.iter().chain(flags).map(|word| (*word).to_owned()).collect();
        let netns = self.cluster.host(NODE)?.netns();
        let log = self.files.path().join("log");
        let mut daemon = Daemon::start(&shunt_binary()?, &arguments, netns, &log)?;
        let deadline = Instant::now() + PATIENCE;
        while !daemon.status()?.is_some_and(|status| status.synced && status.waiting_ms.is_none()) {
            ensure!(Instant::now() < deadline, "shunt is not there:\n{}", daemon.log_tail());
            thread::sleep(Duration::from_millis(20));
        }
        self.daemon = Some(daemon);
        Ok(())
    }

    fn node(&self) -> Result<&Netns> {
        Ok(self.cluster.host(NODE)?.netns())
    }

    /// Asks until both endpoints have answered; whom each has seen.
    fn both_answer(&self, from: &Netns, to: IpAddr) -> Result<BTreeMap<String, IpAddr>> {
        let mut seen = BTreeMap::new();
        for _ in 0..60 {
            match ask(from, to) {
                Outcome::Answer { by, seen_source, .. } => {
                    seen.insert(by, seen_source.ip());
                }
                other => anyhow::bail!("{} to {to}: {other}", from.name()),
            }
            if seen.len() == 2 {
                return Ok(seen);
            }
        }
        anyhow::bail!("{} to {to}: only {seen:?} answered", from.name())
    }

    /// All that holds whatever the filter on the return path says: each address of the node serves both sides, and the
    /// machine behind the second interface sees the address of that.
    fn every_address_serves(&self) -> Result<()> {
        let client = self.cluster.host("client")?.netns();
        let first = self.cluster.host(NODE)?.addresses();
        for (own, (second, _)) in first.iter().zip(SECOND) {
            let second: IpAddr = second.parse()?;
            for (from, to) in [(client, *own), (client, second), (&self.other, second)] {
                let seen = self.both_answer(from, to)?;
                ensure!(seen["far"] == second, "{} to {to}: seen {seen:?}", from.name());
            }
        }
        Ok(())
    }
}

fn ask(from: &Netns, to: IpAddr) -> Outcome {
    let to = SocketAddr::new(to, NODE_PORT);
    probe(from, Protocol::Tcp, to, &ProbeOptions::within(Duration::from_secs(10)))
}

fn manifest(pod: &[IpAddr]) -> String {
    let mut text = "apiVersion: v1
kind: Service
metadata: {name: web, namespace: default}
spec:
  type: NodePort
  clusterIPs: [10.96.0.11, 'fd00:10:96::11']
  ports: [{name: web, port: 80, targetPort: 8080, nodePort: 30080}]
"
    .to_owned();
    for ((kind, pod), (_, far)) in ["IPv4", "IPv6"].into_iter().zip(pod).zip(SECOND) {
        text += &format!(
            "---
apiVersion: discovery.k8s.io/v1
kind: EndpointSlice
metadata: {{name: web-{}, namespace: default, labels: {{kubernetes.io/service-name: web}}}}
addressType: {kind}
ports: [{{name: web, port: 8080}}]
endpoints: [{{addresses: ['{pod}']}}, {{addresses: ['{far}']}}]
",
            kind.to_lowercase()
        );
    }
    text
}

fn play(mode: &str) -> Result<()> {
    let mut site = Site::build()?;
    site.start(&[mode])?;
    for filter in ["0", "2", "1"] {
        for device in ["all", "default", "eth0", "eth1"] {
            site.node()?.sysctl(&format!("net.ipv4.conf.{device}.rp_filter"), filter)?;
        }
        site.every_address_serves().with_context(|| format!("with rp_filter={filter}"))?;
    }
    for late in LATE {
        let alone = format!("{late}/{}", length(late)).parse()?;
        site.node()?.links().add_address("eth1", alone)?;
        let deadline = Instant::now() + PATIENCE;
        while !ask(&site.other, late.parse()?).is_answer() {
            ensure!(Instant::now() < deadline, "no NodePort on {late}");
            thread::sleep(Duration::from_millis(50));
        }
    }
    site.start(&[mode, "--nodeport-addresses=10.50.0.0/24,fd00:50::/64"])?;
    for (own, (second, _)) in site.cluster.host(NODE)?.addresses().iter().zip(SECOND) {
        site.both_answer(&site.other, second.parse()?)?;
        let outcome = ask(site.cluster.host("client")?.netns(), *own);
        ensure!(outcome == Outcome::Refused, "{own} is not listed: {outcome}");
    }
    Ok(())
}

/// Who comes in by the third interface of the node, and is answered by the first one, through the client.
const AROUND: &str = "198.51.100.2";
const THIRD: &str = "10.60.0.1";

/// What stands between a client and its answer: the machine's own settings, and what the doctor says of them.
struct Around {
    site: Site,
    away: Netns,
}

impl Around {
    fn build(mode: &str) -> Result<Self> {
        let mut site = Site::build()?;
        let (node, client) = (site.node()?, site.cluster.host("client")?);
        let away = Netns::new("away")?;
        for sysctl in ["all", "default"] {
            away.sysctl(&format!("net.ipv4.conf.{sysctl}.rp_filter"), "0")?;
        }
        node.links().add_veth("eth2", None, &Peer { name: "eth0", netns: away.fd() })?;
        client.netns().links().add_veth("eth1", None, &Peer { name: "eth1", netns: away.fd() })?;
        client.netns().sysctl("net.ipv4.ip_forward", "1")?;
        node.links().add_address("eth2", format!("{THIRD}/24").parse()?)?;
        away.links().add_address("eth0", format!("{AROUND}/32").parse()?)?;
        for (netns, device) in
            [(node, "eth2"), (client.netns(), "eth1"), (&away, "eth0"), (&away, "eth1")]
        {
            netns.links().set_up(device)?;
        }
        let route = |netns: &Netns, to: &str, hop| {
            netns.links().set_route(&Route { destination: format!("{to}/32").parse()?, hop })
        };
        route(&away, THIRD, Hop::Device("eth0".to_owned()))?;
        route(node, AROUND, Hop::Gateway(client.ip()))?;
        route(client.netns(), AROUND, Hop::Device("eth1".to_owned()))?;
        site.start(&[mode])?;
        Ok(Self { site, away })
    }

    fn ask(&self, patience: Duration) -> Result<Outcome> {
        let to = SocketAddr::new(THIRD.parse()?, NODE_PORT);
        Ok(probe(&self.away, Protocol::Tcp, to, &ProbeOptions::within(patience)))
    }

    /// What the doctor says of the filter, if it does.
    fn doctor(&self) -> Result<Option<Value>> {
        let mut command = Command::new(shunt_binary()?);
        command.args(["doctor", "-o", "json"]);
        let output = self.site.node()?.run(move || command.output())?;
        let found: Vec<Value> = serde_json::from_slice(&output.stdout)?;
        let says =
            |one: &Value| one["what"].as_str().is_some_and(|what| what.contains("rp_filter"));
        Ok(found.into_iter().find(says))
    }
}

fn come_around(mode: &str) -> Result<()> {
    let around = Around::build(mode)?;
    let node = around.site.node()?;
    let outcome = around.ask(PATIENCE)?;
    ensure!(outcome.is_answer(), "without the filter: {outcome}");
    ensure!(around.doctor()?.is_none(), "the doctor sees a filter: {:?}", around.doctor()?);

    node.sysctl("net.ipv4.conf.eth2.rp_filter", "1")?;
    let field = |found: &Value, name: &str| found[name].as_str().unwrap_or_default().to_owned();
    let found = around.doctor()?.context("the doctor sees no filter")?;
    ensure!(field(&found, "what") == "rp_filter is strict (1) on eth2", "{found}");
    ensure!(field(&found, "severity") == "note", "{found}");
    let outcome = around.ask(Duration::from_secs(3))?;
    ensure!(outcome == Outcome::TimedOut, "through the strict filter: {outcome}");
    around.site.every_address_serves().context("those that come and go one way")?;
    let found = around.doctor()?.context("the doctor sees no filter any more")?;
    ensure!(field(&found, "severity") == "warning", "{found}");

    let remedy = field(&found, "remedy");
    let (command, _) = remedy.split_once(',').with_context(|| remedy.clone())?;
    ensure!(command == "sysctl -w net.ipv4.conf.eth2.rp_filter=2", "{remedy}");
    let mut words = command.split(' ');
    let mut command = Command::new(words.next().context("a command")?);
    command.arg("-q").args(words);
    ensure!(node.run(move || command.status())?.success(), "{remedy}");
    let outcome = around.ask(PATIENCE)?;
    ensure!(outcome.is_answer(), "through the loose filter: {outcome}");
    ensure!(around.doctor()?.is_none(), "the doctor is not content: {:?}", around.doctor()?);
    Ok(())
}

fn length(address: &str) -> u8 {
    if address.contains(':') { 128 } else { 32 }
}

#[test]
fn nftables() -> Result<()> {
    play("--proxy-mode=nftables")
}

#[test]
fn around_nftables() -> Result<()> {
    come_around("--proxy-mode=nftables")
}

#[test]
#[ignore = "needs IPVS; the test below runs it in the guest"]
fn ipvs() -> Result<()> {
    play("--proxy-mode=ipvs")
}

#[test]
#[ignore = "needs IPVS; the test below runs it in the guest"]
fn around_ipvs() -> Result<()> {
    come_around("--proxy-mode=ipvs")
}

#[test]
fn ipvs_in_the_guest() -> Result<()> {
    guest::replay(&["ipvs", "around_ipvs"])
}
