//! Network policy through a real API server: what is created there holds on a node, and can be seen.

use std::net::{IpAddr, SocketAddr};
use std::process::Command;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use serde_json::{Value, json};
use shunt::status::PolicyStatus;
use shunt_cluster::{ClusterSpec, EchoServer, NodeSpec, first_packet_arrives};
use shunt_kind_tests::control_plane::{
    Daemon, DaemonSpec, Id, Plane, PlaneSpec, PodPort, http_get, wait_for,
};
use shunt_kind_tests::scenario::shunt_binary;

use crate::health::holder_of_table;

const NODE: &str = "node-1";
const PORT: PodPort = PodPort { name: "http", protocol: "TCP", number: 8080 };
const PATIENCE: Duration = Duration::from_secs(30);

/// A node with the pods `web`, `shop` and `late`; the last one is unknown to the API.
struct Node {
    daemon: Daemon,
    _servers: Vec<EchoServer>,
    plane: Plane,
}

impl Node {
    /// With flags of shunt's and of the API server's.
    fn start(flags: &[&str], of_server: &[&str]) -> Result<Self> {
        let nodes = vec![NodeSpec::new(NODE, &["web", "shop", "late"])];
        let cluster = ClusterSpec { nodes, ..ClusterSpec::default() };
        let plane = Plane::start(&PlaneSpec { cluster, flags: of_server })?;
        let mut servers = Vec::new();
        for name in ["web", "shop", "late"] {
            let host = plane.cluster().host(name)?;
            servers.push(EchoServer::start(host.netns(), name, &[PORT.number])?);
            if name != "late" {
                plane.run_pod(host, name, &[PORT])?;
            }
        }
        let flags = flags.iter().map(ToString::to_string).collect();
        let mut daemon = Daemon::start(&plane, NODE, &DaemonSpec { flags, ..Default::default() })?;
        daemon.wait_until_synced()?;
        Ok(Self { daemon, _servers: servers, plane })
    }

    fn ip(&self, pod: &str) -> Result<IpAddr> {
        Ok(self.plane.cluster().host(pod)?.ip())
    }

    fn reaches(&self, from: &str, to: &str) -> Result<bool> {
        let to = SocketAddr::new(self.ip(to)?, PORT.number);
        first_packet_arrives(self.plane.cluster().host(from)?.netns(), to)
    }

    /// Waits until one reaches another, or does not.
    fn wait_until(&self, from: &str, to: &str, reached: bool) -> Result<()> {
        wait_for(&format!("{from} to {to}: {reached}"), PATIENCE, || {
            Ok(if self.reaches(from, to)? == reached { Ok(()) } else { Err("not yet".to_owned()) })
        })
    }

    /// Waits for a state of network policy.
    fn wait_for_policy(&mut self, what: &str, met: impl Fn(&PolicyStatus) -> bool) -> Result<()> {
        let is = |status: &shunt::status::Status| status.network_policy.as_ref().is_some_and(&met);
        self.daemon.wait_for_status(what, is).map(drop)
    }

    /// What `shunt policy` says with the rights of the manifests.
    fn asked(&self, words: &[&str]) -> Result<String> {
        let mut command = Command::new(shunt_binary()?);
        command.arg("policy").args(words).arg("--kubeconfig").arg(self.plane.kubeconfig());
        let netns = self.plane.cluster().host(NODE)?.netns();
        let output = netns.run(move || command.output())?;
        let errors = String::from_utf8_lossy(&output.stderr).into_owned();
        ensure!(output.status.success() && errors.is_empty(), "{errors}");
        Ok(String::from_utf8(output.stdout)?)
    }

    /// Fails unless the daemon says that policy would deny the shop the web, and why it passes.
    fn expect_told_as_audited(&self, why: &str) -> Result<()> {
        let asked = "/explain?from=default/shop&to=default/web&port=8080/tcp";
        let (_, told) = self.daemon.get("127.0.0.1:10249".parse()?, asked)?;
        let answers: Value = serde_json::from_str(&told).with_context(|| told.clone())?;
        let ingress = &answers[0]["ends"][0]["policy"]["ingress"];
        ensure!(ingress["allowed"] == false && ingress["audited"] == true, "{told}");
        let told = ingress["why"].as_str().unwrap_or_default();
        ensure!(told.contains("default/web") && told.ends_with(why), "{told}");
        Ok(())
    }

    fn put(&self, spec: Value) -> Result<Value> {
        self.plane.api().create(json!({
            "apiVersion": "networking.k8s.io/v1", "kind": "NetworkPolicy",
            "metadata": {"namespace": "default", "name": "web"},
            "spec": spec,
        }))
    }
}

fn from(app: &str) -> Value {
    json!([{"from": [{"podSelector": {"matchLabels": {"app": app}}}]}])
}

fn web() -> Value {
    json!({"matchLabels": {"app": "web"}})
}

#[test]
fn health_is_red_while_the_kernel_refuses_network_policy() -> Result<()> {
    // Health turns red after two of these.
    let flags = ["--iptables-sync-period=1s", "--iptables-min-sync-period=0s", "--table-owner=off"];
    let mut node = Node::start(&flags, &[])?;
    let healthz = |node: &Node, code: u16| {
        wait_for(&format!("/healthz to be {code}"), PATIENCE, || {
            let host = node.plane.cluster().host(NODE)?;
            let found = http_get(host.netns(), SocketAddr::new(host.ip(), 10256), "/healthz")?.0;
            Ok(if found == code { Ok(()) } else { Err(found.to_string()) })
        })
    };
    healthz(&node, 200)?;
    let holder = holder_of_table(node.plane.cluster().host(NODE)?.netns(), "shunt-policy")?;
    node.put(json!({"podSelector": web(), "ingress": from("nobody")}))?;
    node.wait_for_policy("a refused sync", |policy| policy.failure.is_some())?;
    healthz(&node, 503)?;
    drop(holder);
    healthz(&node, 200)?;
    node.wait_until("shop", "web", false)
}

#[test]
fn a_policy_holds_from_its_creation_to_its_deletion_and_drops_are_told_with_names() -> Result<()> {
    let mut node = Node::start(&["--policy-counters"], &[])?;
    node.wait_for_policy("no pods without a policy", |policy| policy.pods == 0)?;
    ensure!(node.reaches("shop", "web")?, "there is no policy");

    node.put(json!({"podSelector": web(), "ingress": from("nobody")}))?;
    node.wait_until("shop", "web", false)?;
    node.wait_for_policy("pods are watched", |policy| policy.pods == 2 && policy.isolated > 0)?;
    let (shop, web_ip) = (node.ip("shop")?, node.ip("web")?);
    node.daemon.wait_for_log("network policy drops a packet")?;
    let log = node.daemon.log()?;
    let line = log.lines().find(|line| line.contains("network policy drops a packet"));
    let line = line.unwrap_or_default();
    for part in [
        "denied=\"ingress\"",
        &format!("source=\"default/shop ({shop})\""),
        &format!("destination=\"default/web ({web_ip})\""),
        "port=\"8080/tcp\"",
        "by=\"denied: isolated by NetworkPolicy default/web, no rule allows it\"",
    ] {
        ensure!(line.contains(part), "{part} is not in {line}");
    }
    node.wait_for_policy("the counters", |policy| {
        policy.dropped.ingress > 0
            && policy.logged_by_policy.contains_key("default/web")
            && policy.decided_by_policy.get("default/web").is_some_and(|count| count.denied > 0)
    })?;
    let (_, metrics) = node.daemon.get("127.0.0.1:10249".parse()?, "/metrics")?;
    for metric in [
        "shunt_policy_dropped_packets_total{denied=\"ingress\"}",
        "shunt_policy_logged_drops_total{denied=\"ingress\",policy=\"default/web\"}",
        "shunt_policy_connections_total{policy=\"default/web\",verdict=\"denied\"}",
    ] {
        ensure!(metrics.contains(metric), "{metric} is not in {metrics}");
    }

    for value in ["audit", "enforce"] {
        let patch = json!({"metadata": {"annotations": {"shunt.dev/network-policy": value}}});
        node.plane.api().patch(&Id::namespace("default"), patch)?;
        node.wait_until("shop", "web", value == "audit")?;
        if value == "audit" {
            node.daemon.wait_for_log("network policy would drop a packet")?;
            let asked = node.asked(&["explain", "default/shop", "default/web", "8080"])?;
            ensure!(asked.contains("8080/tcp: would be denied, but passes: audited"), "{asked}");
            node.expect_told_as_audited("the Namespace default is audited")?;
        }
    }

    let asked = node.asked(&["explain", "default/shop", "default/web", "8080"])?;
    ensure!(asked.contains("denied: isolated by NetworkPolicy default/web, no rule"), "{asked}");
    let id = Id::network_policy("default", "web");
    node.plane.api().patch(&id, json!({"spec": {"ingress": from("shop")}}))?;
    node.wait_until("shop", "web", true)?;
    let asked = node.asked(&["explain", "default/shop", "default/web", "8080"])?;
    ensure!(asked.contains("allowed by NetworkPolicy default/web, spec.ingress[0]"), "{asked}");
    let matrix = node.asked(&["matrix", "-n", "default"])?;
    ensure!(matrix.contains("default/shop 1 + +\ndefault/web  2 + +\n"), "{matrix}");
    node.plane
        .api()
        .patch(&Id::pod("default", "shop"), json!({"metadata": {"labels": {"app": "x"}}}))?;
    node.wait_until("shop", "web", false)?;
    node.plane.api().delete(&id, 0)?;
    node.wait_until("shop", "web", true)?;
    node.wait_for_policy("pods are not watched any more", |policy| policy.pods == 0)?;
    node.daemon.expect_permitted()
}

#[test]
fn numbers_with_leading_zeros_are_what_older_servers_took_them_for() -> Result<()> {
    let node = Node::start(&[], &["--feature-gates=StrictIPCIDRValidation=false"])?;
    let block = json!({"cidr": "010.0.0.0/8", "except": ["010.077.0.0/16"]});
    node.put(json!({"podSelector": web(), "ingress": [{"from": [{"ipBlock": block}]}]}))?;
    node.wait_until("shop", "web", false)?;
    let block = json!({"cidr": "010.077.0.0/16"});
    let rules = json!({"spec": {"ingress": [{"from": [{"ipBlock": block}]}]}});
    node.plane.api().patch(&Id::network_policy("default", "web"), rules)?;
    node.wait_until("shop", "web", true)?;
    node.daemon.expect_permitted()
}

#[test]
fn a_pod_is_closed_until_the_api_knows_it() -> Result<()> {
    let mut node = Node::start(&["--new-pods=closed"], &[])?;
    ensure!(node.reaches("shop", "late")?, "nothing is closed without a policy");
    node.put(json!({"podSelector": web(), "ingress": from("late")}))?;
    node.wait_until("shop", "late", false)?;
    ensure!(!node.reaches("late", "web")? && node.reaches("web", "shop")?, "two are known");
    let late = node.plane.cluster().host("late")?;
    node.plane.run_pod(late, "late", &[PORT])?;
    node.wait_until("late", "web", true)?;
    ensure!(node.reaches("shop", "late")? && !node.reaches("shop", "web")?);
    node.wait_for_policy("the counter", |policy| policy.closed && policy.dropped.unknown > 0)?;
    node.daemon.expect_permitted()
}

#[test]
fn an_audit_drops_nothing() -> Result<()> {
    let mut node = Node::start(&["--network-policy=audit"], &[])?;
    node.put(json!({"podSelector": web(), "policyTypes": ["Ingress"]}))?;
    node.wait_for_policy("the policy", |policy| policy.audit && policy.isolated > 0)?;
    wait_for("a line in the log", PATIENCE, || {
        ensure!(node.reaches("shop", "web")?, "an audit drops nothing");
        let told = node.daemon.log()?.contains("network policy would drop a packet");
        Ok(if told { Ok(()) } else { Err("none yet".to_owned()) })
    })?;
    node.expect_told_as_audited("node-1 audits")?;
    node.wait_for_policy("the counter", |policy| policy.dropped.ingress > 0)
}
