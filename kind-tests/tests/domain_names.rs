//! domainNames of ClusterNetworkPolicies, with a real DNS server behind the cluster's DNS Service. Needs root.
//!
//! In the guest answers wait until their addresses are known to policy; a kernel without `nft_queue` gets copies.

use std::fs;
use std::net::{IpAddr, SocketAddr};
use std::path::PathBuf;
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use shunt::status::Status;
use shunt_cluster::{
    Cluster, ClusterSpec, Connection, DnsServer, EchoServer, Families, NodeSpec, ProbeOptions,
    Protocol, Record, TcpResolver, first_packet_arrives, probe, resolve,
};
use shunt_kind_tests::guest;
use shunt_kind_tests::scenario::daemon::Daemon;
use shunt_kind_tests::scenario::shunt_binary;
use tempfile::TempDir;

const NODE: &str = "node-1";
const DNS: [&str; 2] = ["10.96.0.10:53", "[fd00:10:96::a]:53"];
/// How long anything may take that takes no time.
const PATIENCE: Duration = Duration::from_secs(30);
/// Enough for an answer to what is sent again.
const ANSWER: Duration = Duration::from_secs(30);
/// After which a server that has no acknowledgement has sent again.
const SENT_AGAIN: Duration = Duration::from_secs(1);
/// Seconds that a name lasts which is to end.
const SHORT: u32 = 3;

/// By which packet a pod reaches somebody.
#[derive(Clone, Copy, Debug)]
enum Packet {
    /// The first one of a connection.
    First,
    /// That one, or one that was sent again.
    Any,
}

const MANIFESTS: &str = "
apiVersion: v1
kind: Namespace
metadata: {name: default}
---
apiVersion: v1
kind: Service
metadata: {name: kube-dns, namespace: kube-system}
spec: {clusterIPs: [10.96.0.10, 'fd00:10:96::a'], ipFamilies: [IPv4, IPv6], ports: [{name: dns, port: 53, protocol: UDP}, {name: dns-tcp, port: 53, protocol: TCP}]}
---
apiVersion: policy.networking.k8s.io/v1alpha2
kind: ClusterNetworkPolicy
metadata: {name: names}
spec:
  tier: Admin
  priority: 1
  subject: {pods: {podSelector: {matchLabels: {pod: asks}}}}
  egress:
  - action: Accept
    to: [{networks: ['0.0.0.0/0', '::/0']}]
    protocols: [{udp: {destinationPort: {number: 53}}}, {tcp: {destinationPort: {number: 53}}}]
  - {action: Accept, to: [{domainNames: ['*.example.com']}], protocols: [{tcp: {destinationPort: {number: 80}}}]}
  - {action: Deny, to: [{networks: ['0.0.0.0/0', '::/0']}]}
";

struct Rig {
    mode: &'static str,
    daemon: Option<Daemon>,
    binary: PathBuf,
    files: TempDir,
    _servers: Vec<EchoServer>,
    dns: DnsServer,
    /// Not the cluster's.
    rogue: DnsServer,
    cluster: Cluster,
}

impl Rig {
    fn new(mode: &'static str) -> Result<Self> {
        let cluster = Cluster::build(&ClusterSpec {
            nodes: vec![NodeSpec::new(NODE, &["asks", "rogue"]), NodeSpec::new("node-2", &["dns"])],
            clients: vec!["outside".to_owned()],
            families: Families::Dual,
            ..ClusterSpec::default()
        })?;
        let outside = cluster.host("outside")?;
        for via in cluster.host(NODE)?.addresses() {
            let pods = if via.is_ipv4() { "10.77.1.0/24" } else { "fd00:10:77:1::/64" };
            outside.add_route(pods.parse()?, *via)?;
        }
        let servers = vec![EchoServer::start(outside.netns(), "outside", &[80, 81])?];
        let files = tempfile::Builder::new().prefix("shunt-names-").tempdir()?;
        fs::create_dir(files.path().join("manifests"))?;
        let mut text = MANIFESTS.to_owned();
        for (node, pod) in [(NODE, "asks"), (NODE, "rogue"), ("node-2", "dns")] {
            let ips: Vec<_> =
                cluster.host(pod)?.addresses().iter().map(|ip| format!("{{ip: '{ip}'}}")).collect();
            text.push_str(&format!(
                "---\napiVersion: v1\nkind: Pod\nmetadata: {{name: {pod}, namespace: default, labels: {{pod: {pod}}}}}\n\
                 spec: {{nodeName: {node}, containers: [{{name: main}}]}}\n\
                 status: {{phase: Running, podIPs: [{}]}}\n",
                ips.join(", ")
            ));
        }
        for (family, ip) in ["IPv4", "IPv6"].iter().zip(cluster.host("dns")?.addresses()) {
            let name = family.to_lowercase();
            text.push_str(&format!(
                "---\napiVersion: discovery.k8s.io/v1\nkind: EndpointSlice\nmetadata: {{name: dns-{name}, namespace: \
                 kube-system, labels: {{kubernetes.io/service-name: kube-dns}}}}\naddressType: {family}\n\
                 ports: [{{name: dns, port: 53, protocol: UDP}}, {{name: dns-tcp, port: 53, protocol: TCP}}]\n\
                 endpoints: [{{addresses: ['{ip}']}}]\n"
            ));
        }
        fs::write(files.path().join("manifests/all.yaml"), text)?;
        Ok(Self {
            mode,
            daemon: None,
            binary: shunt_binary()?,
            files,
            _servers: servers,
            dns: DnsServer::start(cluster.host("dns")?.netns())?,
            rogue: DnsServer::start(cluster.host("rogue")?.netns())?,
            cluster,
        })
    }

    fn start(&mut self) -> Result<()> {
        let manifests = self.files.path().join("manifests").display().to_string();
        let words = ["run", "--manifests", &manifests, "--node-name", NODE, "--dns-grace", "0s"];
        let mode = ["--proxy-mode", self.mode];
        let words: Vec<_> = words.into_iter().chain(mode).map(str::to_owned).collect();
        let netns = self.cluster.host(NODE)?.netns();
        let log = self.files.path().join("log");
        self.daemon = Some(Daemon::start(&self.binary, &words, netns, &log)?);
        let deadline = Instant::now() + PATIENCE;
        loop {
            let status = self.daemon.as_mut().context("it was started")?.status()?;
            let policy = status.as_ref().and_then(|status| status.network_policy.as_ref());
            let services = status.as_ref().is_some_and(|s| s.synced && s.waiting_ms.is_none());
            let synced = services && policy.is_some_and(|p| p.synced && p.isolated > 0);
            if synced && self.nft(&["list", "tables"])?.contains("shunt-names") {
                return Ok(());
            }
            ensure!(Instant::now() < deadline, "{status:?}\n{}", self.log());
            thread::sleep(Duration::from_millis(20));
        }
    }

    fn status(&mut self) -> Result<Status> {
        let status = self.daemon.as_mut().context("no daemon runs")?.status()?;
        status.context("the daemon does not answer")
    }

    fn log(&self) -> String {
        self.daemon.as_ref().map(Daemon::log_tail).unwrap_or_default()
    }

    fn nft(&self, words: &[&str]) -> Result<String> {
        let mut command = std::process::Command::new("nft");
        command.args(words);
        let output = self.cluster.host(NODE)?.netns().run(move || command.output())?;
        ensure!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        Ok(String::from_utf8_lossy(&output.stdout).into_owned())
    }

    /// Asks the cluster's DNS.
    fn resolve(&self, name: &str, server: &str) -> Result<Vec<IpAddr>> {
        resolve(self.cluster.host("asks")?.netns(), server.parse()?, name, ANSWER)
    }

    fn reaches(&self, address: IpAddr, port: u16, by: Packet) -> Result<bool> {
        let netns = self.cluster.host("asks")?.netns();
        let to = SocketAddr::new(address, port);
        match by {
            Packet::First => first_packet_arrives(netns, to),
            Packet::Any => {
                let options = ProbeOptions::within(ANSWER);
                Ok(probe(netns, Protocol::Tcp, to, &options).is_answer())
            }
        }
    }

    /// Gives the machine outside one more address.
    fn add_address(&self, number: u8) -> Result<IpAddr> {
        let address = format!("192.168.77.{number}").parse()?;
        self.cluster.host("outside")?.add_address(address)?;
        Ok(address)
    }

    /// Waits until an address is not reached any more; how long that took.
    fn until_denied(&self, address: IpAddr) -> Result<Duration> {
        let began = Instant::now();
        while self.reaches(address, 80, Packet::First)? {
            ensure!(began.elapsed() < PATIENCE, "{address} is reached for ever");
            thread::sleep(Duration::from_millis(50));
        }
        Ok(began.elapsed())
    }
}

#[test]
fn copies_where_the_kernel_has_no_queue() -> Result<()> {
    play("nftables", Packet::Any)
}

#[test]
fn in_the_guest() -> Result<()> {
    guest::replay(&["answers_wait_until_they_are_known"])
}

#[test]
fn in_the_guest_in_ipvs_mode() -> Result<()> {
    guest::replay(&["answers_wait_in_ipvs_mode_too"])
}

#[test]
#[ignore = "needs nft_queue; in_the_guest runs it there"]
fn answers_wait_until_they_are_known() -> Result<()> {
    play("nftables", Packet::First)
}

#[test]
#[ignore = "needs nft_queue and IPVS; in_the_guest_in_ipvs_mode runs it there"]
fn answers_wait_in_ipvs_mode_too() -> Result<()> {
    play("ipvs", Packet::First)
}

/// `by`: which packet of a connection must arrive once its name was asked for.
fn play(mode: &'static str, by: Packet) -> Result<()> {
    let mut rig = Rig::new(mode)?;
    rig.start()?;
    if let Err(error) = allowed_once_asked(&rig, by) {
        bail!("{error:#}\n{}\n{:?}\n{}", rig.log(), rig.status()?, rig.nft(&["list", "ruleset"])?);
    }
    over_tcp(&mut rig, by)?;
    from_an_untracked_cache(&rig, by)?;
    only_what_is_asked(&rig)?;
    expires(&rig, by)?;
    if let Err(error) = outlives_the_daemon(&mut rig, by) {
        bail!("{error:#}\n{}", rig.log());
    }
    Ok(())
}

/// No connection is faster than the answer that names its address.
fn allowed_once_asked(rig: &Rig, by: Packet) -> Result<()> {
    for number in 100..120 {
        let address = rig.add_address(number)?;
        let (name, alias) = (format!("host-{number}.example.com"), format!("edge-{number}.net"));
        rig.dns.set(&name, vec![Record::Alias(alias.clone(), 300)]);
        rig.dns.set(&alias, vec![Record::Address(address, 300)]);
        if number == 100 {
            ensure!(!rig.reaches(address, 80, Packet::First)?, "reached before it was asked for");
        }
        ensure!(rig.resolve(&name, DNS[0])? == [address], "{name}");
        ensure!(rig.reaches(address, 80, by)?, "{name} is not reached\n{}", rig.log());
    }
    ensure!(!rig.reaches("192.168.77.100".parse()?, 81, Packet::First)?, "by another port");
    let outside = rig.cluster.host("outside")?.addresses().to_vec();
    let v6 = *outside.iter().find(|ip| ip.is_ipv6()).context("an IPv6 address")?;
    rig.dns.set("six.example.com", vec![Record::Address(v6, 300)]);
    ensure!(!rig.reaches(v6, 80, Packet::First)?, "reached before it was asked for");
    ensure!(rig.resolve("six.example.com", DNS[1])? == [v6], "six.example.com");
    ensure!(rig.reaches(v6, 80, by)?, "six.example.com is not reached\n{}", rig.log());
    Ok(())
}

/// Answers over TCP are learnt as well: in several segments, several at once, and sent again while they wait.
fn over_tcp(rig: &mut Rig, by: Packet) -> Result<()> {
    for (numbers, is_frozen) in [(160..161, false), (161..164, false), (164..166, true)] {
        let mut named = Vec::new();
        for number in numbers {
            let (name, address) = (format!("tcp-{number}.example.com"), rig.add_address(number)?);
            rig.dns.set(&name, vec![Record::Address(address, 300)]);
            named.push((name, address));
        }
        let names: Vec<&str> = named.iter().map(|(name, _)| name.as_str()).collect();
        let netns = rig.cluster.host("asks")?.netns().clone();
        let mut resolver = TcpResolver::connect(&netns, DNS[0].parse()?, ANSWER)?;
        let daemon = rig.daemon.as_mut().context("no daemon runs")?;
        daemon.freeze(is_frozen)?;
        resolver.ask(&names)?;
        if is_frozen {
            thread::sleep(SENT_AGAIN);
            daemon.freeze(false)?;
        }
        for (name, address) in &named {
            ensure!(resolver.answer()? == [*address], "{name}");
            ensure!(rig.reaches(*address, 80, by)?, "{name} is not reached\n{}", rig.log());
        }
    }
    Ok(())
}

/// A cache on the node, whose connections are not tracked (as NodeLocal DNSCache has it), is believed.
fn from_an_untracked_cache(rig: &Rig, by: Packet) -> Result<()> {
    let node = rig.cluster.host(NODE)?;
    let (cache, ip) = (DnsServer::start(node.netns())?, node.ip());
    let rules = format!(
        "add table ip cache; add chain ip cache in {{ type filter hook prerouting priority -300; }}; \
         add rule ip cache in ip daddr {ip} meta l4proto {{ tcp, udp }} th dport 53 notrack; \
         add chain ip cache out {{ type filter hook output priority -300; }}; \
         add rule ip cache out ip saddr {ip} udp sport 53 counter notrack; \
         add rule ip cache out ip saddr {ip} tcp sport 53 notrack"
    );
    rig.nft(&[&rules])?;
    let address = rig.add_address(170)?;
    cache.set("cached.example.com", vec![Record::Address(address, 300)]);
    let server = SocketAddr::new(ip, 53).to_string();
    ensure!(rig.resolve("cached.example.com", &server)? == [address], "cached.example.com");
    ensure!(rig.reaches(address, 80, by)?, "it is not reached\n{}", rig.log());
    let counted = rig.nft(&["list", "table", "ip", "cache"])?;
    ensure!(counted.contains("packets 1 "), "the answer is tracked: {counted}");
    let address = rig.add_address(171)?;
    cache.set("tcp.example.com", vec![Record::Address(address, 300)]);
    let netns = rig.cluster.host("asks")?.netns();
    let mut resolver = TcpResolver::connect(netns, server.parse()?, ANSWER)?;
    resolver.ask(&["tcp.example.com"])?;
    ensure!(resolver.answer()? == [address], "tcp.example.com");
    ensure!(rig.reaches(address, 80, by)?, "it is not reached\n{}", rig.log());
    rig.nft(&["delete", "table", "ip", "cache"]).map(drop)
}

/// Names that no policy speaks of, and servers that are not the cluster's, open nothing.
fn only_what_is_asked(rig: &Rig) -> Result<()> {
    let (other, wrong) = (rig.add_address(130)?, rig.add_address(131)?);
    rig.dns.set("example.com", vec![Record::Address(other, 300)]);
    ensure!(rig.resolve("example.com", DNS[0])? == [other], "it is answered all the same");
    ensure!(!rig.reaches(other, 80, Packet::First)?, "example.com is not below example.com");
    rig.rogue.set("www.example.com", vec![Record::Address(wrong, 300)]);
    let rogue = SocketAddr::new(rig.cluster.host("rogue")?.ip(), 53).to_string();
    ensure!(rig.resolve("www.example.com", &rogue)? == [wrong], "it is answered all the same");
    ensure!(!rig.reaches(wrong, 80, Packet::First)?, "a server that is nobody's was believed");
    Ok(())
}

/// With its time a name ends; connections that have begun go on.
fn expires(rig: &Rig, by: Packet) -> Result<()> {
    // Policy is new to the pod: until it is seen that all its connections are allowed each of their packets is judged.
    let began = Instant::now();
    while rig.nft(&["list", "set", "inet", "shunt-policy", "watched_v4"])?.contains("elements") {
        ensure!(began.elapsed() < PATIENCE, "the pod is watched for ever");
        thread::sleep(Duration::from_millis(200));
    }
    let address = rig.add_address(140)?;
    rig.dns.set("short.example.com", vec![Record::Address(address, SHORT)]);
    let (asked, mut held) = within_its_time(rig, address, by)?;
    rig.until_denied(address)?;
    let lasted = asked.elapsed();
    ensure!(lasted >= Duration::from_secs(SHORT.into()), "it has ended after {lasted:?}");
    held.exchange("still here").context("a connection that has begun")?;
    // Asked for again it is there again.
    within_its_time(rig, address, by).context("asked for again").map(drop)
}

/// Asks for the name with a short time, until there was the time to connect: when it was asked, and what was connected to
/// its address then.
fn within_its_time(rig: &Rig, address: IpAddr, by: Packet) -> Result<(Instant, Connection)> {
    let netns = rig.cluster.host("asks")?.netns();
    let (began, to) = (Instant::now(), SocketAddr::new(address, 80));
    loop {
        let asked = Instant::now();
        ensure!(rig.resolve("short.example.com", DNS[0])? == [address], "short.example.com");
        let is_reached = rig.reaches(address, 80, by)?;
        match Connection::open(netns, to, &ProbeOptions::within(ANSWER)) {
            Ok(held) if is_reached => return Ok((asked, held)),
            // Others had the CPU while it ended.
            _ if asked.elapsed() >= Duration::from_secs(SHORT.into()) => {}
            held => bail!("it is reached: {is_reached}; {:?}\n{}", held.err(), rig.log()),
        }
        ensure!(began.elapsed() < PATIENCE, "there is never the time to connect\n{}", rig.log());
    }
}

/// What was learnt stays when the daemon dies, and is known to the next one. Meanwhile DNS works.
fn outlives_the_daemon(rig: &mut Rig, by: Packet) -> Result<()> {
    let known: IpAddr = "192.168.77.100".parse()?;
    let before = rig.status()?.network_policy.context("policy")?.names;
    ensure!(before >= 29, "{before} names are known");
    rig.daemon.take().context("no daemon runs")?.kill()?;
    ensure!(rig.reaches(known, 80, Packet::First)?, "it is forgotten with the daemon");
    let late = rig.add_address(150)?;
    rig.dns.set("late.example.com", vec![Record::Address(late, 300)]);
    ensure!(rig.resolve("late.example.com", DNS[0])? == [late], "DNS must not need the daemon");
    ensure!(!rig.reaches(late, 80, Packet::First)?, "nobody has learnt it");
    rig.start()?;
    let after = rig.status()?.network_policy.context("policy")?.names;
    ensure!(after >= 29, "{after} names are known after a restart, {before} before");
    ensure!(rig.reaches(known, 80, Packet::First)?, "it is forgotten by the next daemon");
    ensure!(rig.resolve("late.example.com", DNS[0])? == [late], "late.example.com");
    ensure!(rig.reaches(late, 80, by)?, "it is not reached");
    Ok(())
}
