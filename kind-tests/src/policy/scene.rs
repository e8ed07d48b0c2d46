//! The cluster that is measured: many pods, and policies that are all in force on one node.

use std::net::{IpAddr, Ipv4Addr};

use serde_json::{Value, json};

use crate::traffic::Node;

/// The node that is measured.
pub const NODE: &str = "node-1";
/// The pods of that node that do not exist, besides the three that do.
const LOCAL: usize = 110;
/// The most namespaces that policies are spread over.
pub const TEAMS: usize = 100;
/// How many classes of peers there are: each policy allows one of them.
pub const CLASSES: usize = 1000;
/// Where connections that count are made to.
pub const PORT: u16 = 9000;

/// The number of the pod that no policy selects.
pub const PLAIN: usize = 1;
/// The number of the pod that policies select.
pub const ISOLATED: usize = 2;
/// The number of the pod that asks.
pub const CLIENT: usize = 3;

/// How large it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Scene {
    /// Pods in the cluster, on all nodes.
    pub pods: usize,
    /// Policies. Each selects a pod of our node at least, and allows one class of peers on one port.
    pub policies: usize,
}

impl Scene {
    /// How many namespaces have policies.
    #[must_use]
    pub fn teams(&self) -> usize {
        self.policies.clamp(1, TEAMS)
    }

    /// All objects.
    #[must_use]
    pub fn objects(&self) -> Vec<Value> {
        let namespaces = (0..TEAMS).map(|team| named("Namespace", "", &team_name(team)));
        let own = [
            pod("plain", "plain", "plain", NODE, Node::pod(PLAIN)),
            pod(&team_name(0), "isolated", "server", NODE, Node::pod(ISOLATED)),
            pod("plain", "client", "client", NODE, Node::pod(CLIENT)),
        ];
        let local = (0..LOCAL).map(|n| {
            let team = team_name(n % self.teams());
            pod(&team, &format!("server-{n}"), "server", NODE, local_address(n))
        });
        let others = self.pods.saturating_sub(LOCAL + own.len());
        let remote = (0..others).map(|n| {
            let (team, node) = (team_name(n % TEAMS), format!("node-{}", 2 + n % 999));
            pod(&team, &format!("peer-{n}"), &class_name(n % CLASSES), &node, remote_address(n))
        });
        let policies = (0..self.policies).map(|number| self.policy(number));
        namespaces.chain(own).chain(local).chain(remote).chain(policies).collect()
    }

    /// One of the policies. The last one lets the asking pod in.
    #[must_use]
    pub fn policy(&self, number: usize) -> Value {
        let rule = self.rule(number);
        policy(&team_name(rule.team), &policy_name(number), &everywhere(&rule.class), rule.port)
    }

    /// What that policy says.
    #[must_use]
    pub fn rule(&self, number: usize) -> Rule {
        if number + 1 == self.policies {
            return Rule { team: 0, class: "client".into(), port: PORT };
        }
        let port = 8000 + u16::try_from(number % 50).unwrap_or(0);
        Rule { team: number % self.teams(), class: class_name(number % CLASSES), port }
    }

    /// The addresses of a team's pods on our node.
    #[must_use]
    pub fn locals(&self, team: usize) -> Vec<IpAddr> {
        let theirs = (0..LOCAL).filter(|n| n % self.teams() == team).map(local_address);
        let own = (team == 0).then(|| Node::pod(ISOLATED));
        own.into_iter().chain(theirs).collect()
    }

    /// The addresses of a class of peers.
    #[must_use]
    pub fn peers(&self, class: usize) -> Vec<IpAddr> {
        let others = self.pods.saturating_sub(LOCAL + 3);
        (class..others).step_by(CLASSES).map(remote_address).collect()
    }
}

/// What a policy says: who may reach the pods of a team, and where.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Rule {
    /// Whose pods it isolates.
    pub team: usize,
    /// The class of peers.
    pub class: String,
    /// The port of TCP.
    pub port: u16,
}

/// The name of a class of peers.
#[must_use]
pub fn class_name(class: usize) -> String {
    format!("class-{class}")
}

/// The name of a team's namespace.
#[must_use]
pub fn team_name(team: usize) -> String {
    format!("team-{team}")
}

/// The name of a policy.
#[must_use]
pub fn policy_name(number: usize) -> String {
    format!("policy-{number:05}")
}

/// The peers of a class, in all namespaces.
#[must_use]
pub fn everywhere(class: &str) -> Value {
    json!({ "namespaceSelector": {}, "podSelector": { "matchLabels": { "app": class } } })
}

/// The peers of a class in the one namespace that has some.
#[must_use]
pub fn at_home(class: usize) -> Value {
    let name = team_name(class % TEAMS);
    json!({
        "namespaceSelector": { "matchLabels": { "kubernetes.io/metadata.name": name } },
        "podSelector": { "matchLabels": { "app": class_name(class) } },
    })
}

/// A policy for a team's servers.
#[must_use]
pub fn policy(namespace: &str, name: &str, from: &Value, port: u16) -> Value {
    let mut policy = named("NetworkPolicy", namespace, name);
    policy["spec"] = json!({
        "podSelector": { "matchLabels": { "app": "server" } },
        "policyTypes": ["Ingress"],
        "ingress": [{
            "from": [from],
            "ports": [{ "protocol": "TCP", "port": port }],
        }],
    });
    policy
}

/// A running pod.
#[must_use]
pub fn pod(namespace: &str, name: &str, app: &str, node: &str, address: IpAddr) -> Value {
    let mut pod = named("Pod", namespace, name);
    pod["metadata"]["labels"] = json!({ "app": app });
    pod["spec"] = json!({
        "nodeName": node,
        "containers": [{ "ports": [{ "name": "http", "containerPort": PORT, "protocol": "TCP" }] }],
    });
    pod["status"] = json!({ "phase": "Running", "podIP": address, "podIPs": [{ "ip": address }] });
    pod
}

/// An object with nothing but a name.
pub(super) fn named(kind: &str, namespace: &str, name: &str) -> Value {
    let version = match kind {
        "NetworkPolicy" => "networking.k8s.io/v1",
        "ClusterNetworkPolicy" => "policy.networking.k8s.io/v1alpha2",
        _ => "v1",
    };
    let mut metadata = json!({ "name": name, "creationTimestamp": "2026-01-01T00:00:00Z" });
    if !namespace.is_empty() {
        metadata["namespace"] = json!(namespace);
    }
    json!({ "apiVersion": version, "kind": kind, "metadata": metadata })
}

/// The address of a pod of our node that does not exist.
#[must_use]
pub fn local_address(n: usize) -> IpAddr {
    Ipv4Addr::new(10, 77, 200, u8::try_from(n).unwrap_or(u8::MAX)).into()
}

/// The address of a pod elsewhere.
#[must_use]
pub fn remote_address(n: usize) -> IpAddr {
    let [_, high, middle, low] = u32::try_from(n).unwrap_or(u32::MAX).to_be_bytes();
    Ipv4Addr::new(10, 128 + high, middle, low).into()
}
