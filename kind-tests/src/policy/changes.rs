//! The changes that are measured.

use std::net::IpAddr;

use serde_json::{Value, json};

use super::scene::{
    NODE, PORT, Scene, at_home, class_name, everywhere, local_address, named, pod, policy,
    policy_name, team_name,
};

/// How many Nodes there are.
const NODES: usize = 999;

/// Blocks with all pods of the cluster, and others.
const ALL: [&str; 5] = ["10.0.0.0/8", "10.0.0.0/7", "8.0.0.0/6", "8.0.0.0/5", "0.0.0.0/4"];

/// A kind of change, that is made some times.
pub struct Kind {
    /// Of what.
    pub what: &'static str,
    /// The goal of the median, in milliseconds.
    pub limit: f64,
    /// How often.
    pub times: usize,
    /// The object that has changed, for each time.
    pub object: Box<dyn Fn(usize) -> Value>,
}

/// All kinds, in the order in which they are made; `changes`: how often a pod comes. Other objects change a tenth as often.
pub fn all(scene: &Scene, changes: usize) -> Vec<Kind> {
    let few = changes.div_ceil(10);
    // All teams but the last have a policy.
    let teams = scene.teams().saturating_sub(1).max(1);
    let local = move |n: usize| {
        let name = format!("late-server-{n}");
        pod(&team_name(n % teams), &name, "server", NODE, local_address(110 + n))
    };
    let pods = [
        kind("pod elsewhere, of a known class", 1.0, changes, |n| remote_pod(n, "node-2")),
        kind("pod of this node", 1.0, changes.min(100), local),
    ];
    let policies = [
        kind("policy: another port", 50.0, few, |n| {
            let port = PORT + 1 + u16::try_from(n).unwrap_or(0);
            changed(&everywhere(&class_name(0)), port)
        }),
        kind("policy: new peers", 50.0, few, |n| changed(&at_home(n), PORT)),
        kind("policy: block of strangers", 50.0, few, |n| {
            changed(&block(&format!("198.51.{n}.0/24")), PORT)
        }),
        kind("policy: block of one pod", 50.0, few, |n| {
            changed(&block(&format!("10.128.1.{n}/32")), PORT)
        }),
        kind("policy: block of 256 pods", 50.0, few, |n| {
            changed(&block(&format!("10.128.{n}.0/24")), PORT)
        }),
        kind("policy: everyone but some (`0.0.0.0/0` with `except`)", 50.0, few, |n| {
            changed(&internet(n), PORT)
        }),
        kind("policy: block of all pods", 50.0, few.min(ALL.len()), |n| {
            changed(&block(ALL[n % ALL.len()]), PORT)
        }),
        kind("policy: named port of 100 pods, in egress", 50.0, few, named_port),
    ];
    let nodes = kind("ClusterNetworkPolicy: other nodes", 50.0, few, of_nodes);
    pods.into_iter().chain(policies).chain([nodes]).collect()
}

fn kind(
    what: &'static str,
    limit: f64,
    times: usize,
    object: impl Fn(usize) -> Value + 'static,
) -> Kind {
    Kind { what, limit, times, object: Box::new(object) }
}

/// The Nodes of the cluster, of three zones.
pub fn nodes() -> impl Iterator<Item = Value> {
    (1..=NODES).map(|n| {
        let [.., high, low] = u32::try_from(n).unwrap_or(u32::MAX).to_be_bytes();
        let mut node = named("Node", "", &format!("node-{n}"));
        node["metadata"]["labels"] = json!({ "zone": zone(n) });
        let address = IpAddr::from([192, 168, high, low]);
        node["status"] = json!({ "addresses": [{ "type": "InternalIP", "address": address }] });
        node
    })
}

fn zone(n: usize) -> String {
    format!("zone-{}", n % 3)
}

/// A pod that comes late, on another node.
fn remote_pod(n: usize, node: &str) -> Value {
    let [.., high, low] = u32::try_from(n).unwrap_or(u32::MAX).to_be_bytes();
    let address = IpAddr::from([10, 250, high, low]);
    pod(&team_name(n % 7), &format!("late-{n}"), &class_name(n % 7), node, address)
}

/// The policy that is changed.
fn changed(from: &Value, port: u16) -> Value {
    policy(&team_name(0), &policy_name(0), from, port)
}

fn block(cidr: &str) -> Value {
    json!({ "ipBlock": { "cidr": cidr } })
}

/// What most write who mean everybody outside the cluster.
fn internet(n: usize) -> Value {
    let except = ["10.0.0.0/8".to_owned(), "192.168.0.0/16".to_owned(), format!("198.51.{n}.0/24")];
    json!({ "ipBlock": { "cidr": "0.0.0.0/0", "except": except } })
}

fn named_port(n: usize) -> Value {
    let mut policy = changed(&Value::Null, PORT);
    policy["spec"] = json!({
        "podSelector": { "matchLabels": { "app": "server" } },
        "policyTypes": ["Egress"],
        "egress": [{
            "to": [everywhere(&class_name(n))],
            "ports": [{ "protocol": "TCP", "port": "http" }],
        }],
    });
    policy
}

fn of_nodes(n: usize) -> Value {
    let mut policy = named("ClusterNetworkPolicy", "", "nodes");
    policy["spec"] = json!({
        "tier": "Admin",
        "priority": 0,
        "subject": { "namespaces": {} },
        "egress": [{
            "action": "Accept",
            "to": [{ "nodes": { "matchLabels": { "zone": zone(n) } } }],
        }],
    });
    policy
}
