//! domainNames of a ClusterNetworkPolicy on a real API server, with a DNS server behind the Service `kube-dns`.

use std::net::{IpAddr, SocketAddr};
use std::process::Command;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use serde_json::{Value, json};
use shunt_cluster::{
    ClusterSpec, DnsServer, EchoServer, NodeSpec, ProbeOptions, Protocol, Record,
    first_packet_arrives, probe, resolve,
};
use shunt_kind_tests::control_plane::{Daemon, DaemonSpec, Id, Plane, PlaneSpec, wait_for};

use crate::cluster_policies::{definition, install_as, policy};

const NODE: &str = "node-1";
const PATIENCE: Duration = Duration::from_secs(60);
/// Enough for a SYN that is sent again.
const SENT_AGAIN: Duration = Duration::from_secs(30);
const HTTP: u16 = 80;
const OTHER_PORT: u16 = 81;
/// The time to live of what is to stay, and of what is to end, in seconds.
const LONG: u32 = 300;
const SHORT: u32 = 3;

/// A pod that asks, one that is not spoken of, a DNS server, and machines outside.
struct Site {
    daemon: Option<Daemon>,
    dns: DnsServer,
    service: SocketAddr,
    _outside: EchoServer,
    plane: Plane,
}

impl Site {
    fn build() -> Result<Self> {
        let cluster = ClusterSpec {
            nodes: vec![NodeSpec::new(NODE, &["asks", "other"]), NodeSpec::new("node-2", &["dns"])],
            clients: vec!["outside".to_owned()],
            ..ClusterSpec::default()
        };
        let plane = Plane::start(&PlaneSpec { cluster, ..PlaneSpec::default() })?;
        let outside = plane.cluster().host("outside")?;
        outside.add_route("10.77.1.0/24".parse()?, plane.cluster().host(NODE)?.ip())?;
        let server = EchoServer::start(outside.netns(), "outside", &[HTTP, OTHER_PORT])?;
        for pod in ["asks", "other", "dns"] {
            plane.run_pod(plane.cluster().host(pod)?, pod, &[])?;
        }
        let dns = DnsServer::start(plane.cluster().host("dns")?.netns())?;
        let service = cluster_dns(&plane)?;
        install_as(&plane, definition()?)?;
        Ok(Self { daemon: None, dns, service, _outside: server, plane })
    }

    fn start_daemon(&mut self) -> Result<()> {
        let flags = ["--dns-grace", "0s"].map(str::to_owned).to_vec();
        let spec = DaemonSpec { flags, ..DaemonSpec::default() };
        let mut daemon = Daemon::start(&self.plane, NODE, &spec)?;
        daemon.wait_until_synced()?;
        self.daemon = Some(daemon);
        Ok(())
    }

    fn daemon(&mut self) -> Result<&mut Daemon> {
        self.daemon.as_mut().context("no daemon runs")
    }

    /// Gives the machine outside one more address, and a name to it.
    fn name(&self, name: &str, number: u8, seconds: u32) -> Result<IpAddr> {
        let address = format!("192.168.77.{number}").parse()?;
        self.plane.cluster().host("outside")?.add_address(address)?;
        self.dns.set(name, vec![Record::Address(address, seconds)]);
        Ok(address)
    }

    /// Has the pod ask the cluster's DNS.
    fn ask(&self, name: &str, expected: IpAddr) -> Result<()> {
        let netns = self.plane.cluster().host("asks")?.netns();
        let found = resolve(netns, self.service, name, SENT_AGAIN)?;
        ensure!(found == [expected], "{name} is {found:?}, not {expected}");
        Ok(())
    }

    /// Whether the first packet of a pod arrives.
    fn reaches(&self, from: &str, to: IpAddr, port: u16) -> Result<bool> {
        let netns = self.plane.cluster().host(from)?.netns();
        first_packet_arrives(netns, SocketAddr::new(to, port))
    }

    /// Whether a pod is answered, if not its first packet then the next.
    fn reaches_at_last(&self, from: &str, to: IpAddr) -> Result<bool> {
        let netns = self.plane.cluster().host(from)?.netns();
        let options = ProbeOptions::within(SENT_AGAIN);
        Ok(probe(netns, Protocol::Tcp, SocketAddr::new(to, HTTP), &options).is_answer())
    }

    /// Has it ask, and fails unless it reaches what it is told, and by no other port.
    fn expect_opened(&self, name: &str, address: IpAddr) -> Result<()> {
        self.ask(name, address)?;
        ensure!(self.reaches_at_last("asks", address)?, "{name} is not reached");
        ensure!(!self.reaches("asks", address, OTHER_PORT)?, "{name} by another port");
        Ok(())
    }

    /// The same for a name that ends: until it is reached within its time. Returns when it was asked for.
    fn expect_opened_for_a_while(&self, name: &str, address: IpAddr) -> Result<Instant> {
        let began = Instant::now();
        loop {
            let asked = Instant::now();
            self.ask(name, address)?;
            if self.reaches_at_last("asks", address)? {
                return Ok(asked);
            }
            let has_ended = asked.elapsed() >= Duration::from_secs(SHORT.into());
            ensure!(has_ended && began.elapsed() < PATIENCE, "{name} is not reached");
        }
    }

    fn expect_closed(&self, what: &str, address: IpAddr) -> Result<()> {
        ensure!(!self.reaches("asks", address, HTTP)?, "{what} is reached");
        Ok(())
    }

    /// Waits until an address is reached, or not; how long that took.
    fn wait_until(&self, address: IpAddr, reached: bool) -> Result<Duration> {
        let began = Instant::now();
        wait_for(&format!("{address} to be reached: {reached}"), PATIENCE, || {
            let is = self.reaches("asks", address, HTTP)?;
            Ok(if is == reached { Ok(()) } else { Err("not yet".to_owned()) })
        })?;
        Ok(began.elapsed())
    }

    /// Waits until the node's table of DNS answers is there, or not.
    fn wait_for_table(&self, there: bool) -> Result<()> {
        wait_for(&format!("the table of DNS answers: {there}"), PATIENCE, || {
            let mut command = Command::new("nft");
            command.args(["list", "tables"]);
            let output = self.plane.cluster().host(NODE)?.netns().run(move || command.output())?;
            let tables = String::from_utf8_lossy(&output.stdout).into_owned();
            Ok(if tables.contains("shunt-names") == there { Ok(()) } else { Err(tables) })
        })
    }
}

/// Creates the Service of the cluster's DNS, as its manifests have it, with the pod `dns` behind it; returns where it is.
fn cluster_dns(plane: &Plane) -> Result<SocketAddr> {
    let ports = json!([{"name": "dns", "protocol": "UDP", "port": 53}]);
    let created = plane.api().create(json!({
        "apiVersion": "v1", "kind": "Service",
        "metadata": {"namespace": "kube-system", "name": "kube-dns"},
        "spec": {"ports": ports},
    }))?;
    let ip = created["spec"]["clusterIP"].as_str().context("no clusterIP")?.parse()?;
    plane.api().create(json!({
        "apiVersion": "discovery.k8s.io/v1", "kind": "EndpointSlice",
        "metadata": {"namespace": "kube-system", "name": "kube-dns",
                     "labels": {"kubernetes.io/service-name": "kube-dns"}},
        "addressType": "IPv4", "ports": ports,
        "endpoints": [{"addresses": [plane.cluster().host("dns")?.ip()]}],
    }))?;
    Ok(SocketAddr::new(ip, 53))
}

/// DNS is allowed, web servers of a name are, and nothing else.
fn egress(name: &str) -> Value {
    let everyone = json!([{"networks": ["0.0.0.0/0"]}]);
    json!([
        {"action": "Accept", "to": everyone, "protocols": [{"udp": {"destinationPort": {"number": 53}}}]},
        {"action": "Accept", "to": [{"domainNames": [name]}],
         "protocols": [{"tcp": {"destinationPort": {"number": HTTP}}}]},
        {"action": "Deny", "to": everyone},
    ])
}

#[test]
fn a_pod_reaches_what_dns_has_told_it_and_nothing_else() -> Result<()> {
    let mut site = Site::build()?;
    site.start_daemon()?;
    let known = site.name("www.example.com", 100, LONG)?;
    site.wait_until(known, true).context("there is no policy")?;
    site.wait_for_table(false)?;
    let subject =
        json!({"pods": {"namespaceSelector": {}, "podSelector": {"matchLabels": {"app": "asks"}}}});
    site.plane.api().create(policy(
        "names",
        json!({"tier": "Admin", "priority": 1, "subject": subject, "egress": egress("*.example.com")}),
    ))?;
    site.wait_until(known, false)?;
    site.wait_for_table(true)?;

    only_what_is_named_is_opened(&site, known)?;
    it_ends_with_its_time_to_live(&site)?;
    it_outlives_the_daemon(&mut site, known)?;
    another_name_in_the_policy_is_another_answer(&site, known)?;
    site.plane.api().delete(&Id::cluster_policy("names"), 0)?;
    site.wait_for_table(false)?;
    site.wait_until(known, true)?;
    site.daemon()?.expect_permitted()
}

fn only_what_is_named_is_opened(site: &Site, known: IpAddr) -> Result<()> {
    site.expect_opened("www.example.com", known)?;
    let (neighbour, other) =
        (site.name("b.example.com", 101, LONG)?, site.name("example.org", 102, LONG)?);
    site.expect_closed("a name that nobody has asked for", neighbour)?;
    site.ask("example.org", other)?;
    site.expect_closed("a name that no policy speaks of", other)?;
    ensure!(site.reaches_at_last("other", other)?, "the policy is for another pod");
    site.expect_opened("b.example.com", neighbour)
}

fn it_ends_with_its_time_to_live(site: &Site) -> Result<()> {
    let address = site.name("short.example.com", 110, SHORT)?;
    let asked = site.expect_opened_for_a_while("short.example.com", address)?;
    site.wait_until(address, false)?;
    let lasted = asked.elapsed();
    ensure!(lasted >= Duration::from_secs(SHORT.into()), "it has ended after {lasted:?}");
    site.expect_opened_for_a_while("short.example.com", address)
        .context("asked for again")
        .map(drop)
}

fn it_outlives_the_daemon(site: &mut Site, known: IpAddr) -> Result<()> {
    site.daemon()?.wait_for_status("the names", |status| {
        status.network_policy.as_ref().is_some_and(|policy| policy.names >= 2)
    })?;
    site.daemon.take().context("no daemon runs")?.kill()?;
    ensure!(site.reaches("asks", known, HTTP)?, "it is forgotten with the daemon");
    let late = site.name("late.example.com", 120, LONG)?;
    site.ask("late.example.com", late).context("DNS must not need the daemon")?;
    site.expect_closed("what nobody has learnt", late)?;
    site.start_daemon()?;
    site.daemon()?.wait_for_status("policy and the names", |status| {
        status.network_policy.as_ref().is_some_and(|policy| policy.synced && policy.names >= 2)
    })?;
    ensure!(site.reaches("asks", known, HTTP)?, "it is forgotten by the next daemon");
    site.expect_opened("late.example.com", late)
}

fn another_name_in_the_policy_is_another_answer(site: &Site, known: IpAddr) -> Result<()> {
    let other: IpAddr = "192.168.77.102".parse()?;
    let spec = json!({"spec": {"egress": egress("example.org")}});
    site.plane.api().patch(&Id::cluster_policy("names"), spec)?;
    site.wait_until(known, false)?;
    site.expect_closed("what was answered before a policy spoke of it", other)?;
    site.expect_opened("example.org", other)
}
