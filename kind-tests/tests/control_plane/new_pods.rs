//! New pods of a real containerd, which asks us before it starts their containers (NRI): policies hold from the first
//! packet, whenever the API server tells of the pod, and nothing that is wrong with us keeps a pod from starting.

use std::net::SocketAddr;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use serde_json::{Value, json};
use shunt::status::{NewPodsStatus, PolicyStatus};
use shunt_cluster::{ClusterSpec, EchoServer, NodeSpec};
use shunt_kind_tests::container_runtime::{ContainerRuntime, Sandbox};
use shunt_kind_tests::control_plane::{Daemon, DaemonSpec, Id, Plane, PlaneSpec, PodPort};

use crate::health::holder_of_table;

const NODE: &str = "node-1";
const PORT: PodPort = PodPort { name: "http", protocol: "TCP", number: 8080 };
/// The time after which containerd goes on without a plugin (`plugin_request_timeout`).
const PATIENCE_OF_CONTAINERD: Duration = Duration::from_secs(2);

/// A node with containerd and the pods `web`, which `app: friend` may reach and nobody else, and `open`, which everybody
/// may; `app: captive` may reach nobody.
struct Node {
    daemon: Option<Daemon>,
    runtime: ContainerRuntime,
    _servers: Vec<EchoServer>,
    plane: Plane,
    flags: Vec<String>,
}

impl Node {
    fn start(nri: bool) -> Result<Self> {
        let nodes = vec![NodeSpec::new(NODE, &["web", "open"])];
        let cluster = ClusterSpec { nodes, ..ClusterSpec::default() };
        let plane = Plane::start(&PlaneSpec { cluster, flags: &[] })?;
        let mut servers = Vec::new();
        for name in ["web", "open"] {
            let host = plane.cluster().host(name)?;
            servers.push(EchoServer::start(host.netns(), name, &[PORT.number])?);
            plane.run_pod(host, name, &[PORT])?;
        }
        let runtime =
            ContainerRuntime::start(plane.cluster().host(NODE)?.netns(), plane.scratch())?;
        let friend = json!([{"podSelector": {"matchLabels": {"app": "friend"}}}]);
        for (name, app, spec) in [
            ("web", "web", json!({"ingress": [{"from": friend}]})),
            ("captive", "captive", json!({"policyTypes": ["Egress"]})),
        ] {
            let mut spec = spec;
            spec["podSelector"] = json!({"matchLabels": {"app": app}});
            plane.api().create(json!({
                "apiVersion": "networking.k8s.io/v1", "kind": "NetworkPolicy",
                "metadata": {"namespace": "default", "name": name}, "spec": spec,
            }))?;
        }
        let socket = if nri { runtime.nri_socket().display().to_string() } else { String::new() };
        let flags = vec![format!("--nri-socket={socket}"), "--table-owner=off".to_owned()];
        let mut node = Self { daemon: None, runtime, _servers: servers, plane, flags };
        node.start_daemon()?;
        if nri {
            node.wait_for("a connection", |policy| is(policy, |pods| pods.runtime.is_some()))?;
        }
        Ok(node)
    }

    fn start_daemon(&mut self) -> Result<()> {
        let spec = DaemonSpec { flags: self.flags.clone(), ..Default::default() };
        self.daemon = Some(Daemon::start(&self.plane, NODE, &spec)?);
        self.wait_for("the policies", |policy| policy.synced && policy.isolated > 0)?;
        Ok(())
    }

    fn daemon(&mut self) -> Result<&mut Daemon> {
        self.daemon.as_mut().context("no daemon runs")
    }

    fn wait_for(
        &mut self,
        what: &str,
        met: impl Fn(&PolicyStatus) -> bool,
    ) -> Result<PolicyStatus> {
        let is = |status: &shunt::status::Status| status.network_policy.as_ref().is_some_and(&met);
        let status = self.daemon()?.wait_for_status(what, is)?;
        status.network_policy.context("network policy")
    }

    /// Makes a pod of this name and app, of which the API server knows nothing.
    fn pod(&self, name: &str) -> Result<Sandbox> {
        let app = name.split('-').next().unwrap_or_default();
        let made = self.runtime.pod(name, &format!("uid-of-{name}"), &format!("app={app}"));
        made.with_context(|| self.runtime.log_tail())
    }

    /// Whether the first packet of a pod's container reaches another one.
    fn reaches(&self, pod: &Sandbox, to: &str) -> Result<bool> {
        let to = SocketAddr::new(self.plane.cluster().host(to)?.ip(), PORT.number);
        self.runtime.connects(pod, &to.to_string())
    }

    /// Has the API server know a pod; with its address, or not yet.
    fn tell(&self, name: &str, pod: Option<&Sandbox>) -> Result<Value> {
        let id = Id::pod("default", name);
        let app = name.split('-').next().unwrap_or_default();
        if let Some(pod) = pod {
            let ip = pod.ip.to_string();
            let status =
                json!({"status": {"phase": "Running", "podIP": ip, "podIPs": [{"ip": ip}]}});
            return self.plane.api().patch_status(&id, status);
        }
        self.plane.api().create(json!({
            "apiVersion": "v1", "kind": "Pod",
            "metadata": {"namespace": "default", "name": name, "labels": {"app": app}},
            "spec": {"nodeName": NODE, "containers": [{"name": "main", "image": "main"}]},
        }))
    }
}

fn is(policy: &PolicyStatus, met: impl Fn(&NewPodsStatus) -> bool) -> bool {
    policy.new_pods.as_ref().is_some_and(met)
}

#[test]
fn policies_hold_from_the_first_packet_although_the_api_server_tells_later() -> Result<()> {
    let mut node = Node::start(true)?;
    let known = node.wait_for("web and open", |policy| policy.pods == 2)?.isolated;
    let (friend, captive) = (node.pod("friend-1")?, node.pod("captive-1")?);
    ensure!(node.reaches(&friend, "web")?, "the first packet of a friend is lost");
    ensure!(!node.reaches(&captive, "open")?, "the first packet of a captive goes through");
    let policy = node.wait_for("two pods", |policy| is(policy, |pods| pods.programmed == 2))?;
    ensure!(policy.pods == 4 && policy.isolated == known + 1, "{policy:?}");
    // The kubelet tells the API server a second later.
    std::thread::sleep(Duration::from_secs(1));
    for (name, pod) in [("friend-1", &friend), ("captive-1", &captive)] {
        node.tell(name, None)?;
        node.tell(name, Some(pod))?;
    }
    node.wait_for("nothing new", |policy| policy.pods == 4 && policy.isolated == known + 1)?;
    ensure!(
        node.reaches(&friend, "web")? && !node.reaches(&captive, "open")?,
        "the API server has told of them"
    );
    node.runtime.end(&captive)?;
    node.plane.api().delete(&Id::pod("default", "captive-1"), 0)?;
    node.wait_for("one less", |policy| policy.pods == 3 && policy.isolated == known)?;
    // One that the API server will never give an address: it ends before.
    let brief = node.pod("captive-2")?;
    ensure!(!node.reaches(&brief, "open")?, "the first packet of a captive goes through");
    node.wait_for("its address", |policy| policy.isolated == known + 1)?;
    node.runtime.end(&brief)?;
    node.wait_for("it is gone", |policy| policy.pods == 3 && policy.isolated == known)?;
    let (_, metrics) = node.daemon()?.get("127.0.0.1:10249".parse()?, "/metrics")?;
    let line = metrics.lines().find(|line| line.starts_with("shunt_nri_wait_seconds_sum"));
    println!("three pods waited in all: {line:?}");
    for metric in ["shunt_nri_connected 1", "shunt_nri_sandboxes_total{outcome=\"programmed\"} 3"] {
        ensure!(metrics.contains(metric), "{metric} is not in {metrics}");
    }
    node.daemon()?.expect_no_errors()
}

#[test]
fn without_it_a_new_pod_is_not_known_at_first() -> Result<()> {
    let mut node = Node::start(false)?;
    let (friend, captive) = (node.pod("friend-1")?, node.pod("captive-1")?);
    ensure!(
        !node.reaches(&friend, "web")? && node.reaches(&captive, "open")?,
        "this is what NRI is for"
    );
    node.wait_for("it is not asked", |policy| policy.new_pods.is_none()).map(drop)
}

#[test]
fn nothing_that_is_wrong_with_us_keeps_a_pod_from_starting() -> Result<()> {
    let mut node = Node::start(true)?;
    // The kernel refuses what we write.
    let holder = holder_of_table(node.plane.cluster().host(NODE)?.netns(), "shunt-policy")?;
    let late = node.pod("captive-1")?;
    node.wait_for("it was too late, and we are still asked", |policy| {
        is(policy, |pods| pods.overdue == 1 && pods.runtime.is_some())
    })?;
    node.daemon()?
        .wait_for_log("a new pod starts before its network policies are in the kernel")?;
    drop(holder);
    node.wait_for("it is known", |policy| policy.synced && policy.failure.is_none())?;
    ensure!(!node.reaches(&late, "open")?, "it is isolated by now");

    // We do not answer: containerd drops us, and asks us again when we are back.
    node.daemon()?.freeze()?;
    let first = node.pod("friend-1")?.took;
    ensure!(first >= PATIENCE_OF_CONTAINERD, "containerd waits for us, but not for {first:?}");
    let mut second = node.pod("friend-2")?;
    // Once more where others had the CPU.
    for again in 0..5 {
        if second.took >= first {
            node.runtime.end(&second)?;
            second = node.pod(&format!("friend-2-{again}"))?;
        }
    }
    let second = second.took;
    ensure!(second < first, "we were dropped, and yet it took {second:?} after {first:?}");
    node.daemon()?.thaw()?;
    let known = |policy: &PolicyStatus| policy.pods == 5;
    node.wait_for("a connection, with all pods", |policy| {
        known(policy) && is(policy, |pods| pods.runtime.is_some())
    })?;
    let captive = node.pod("captive-2")?;
    ensure!(!node.reaches(&captive, "open")?, "the first packet of a captive goes through");

    // We are dead.
    node.daemon.take().context("no daemon runs")?.kill()?;
    let unknown = node.pod("captive-3")?;
    ensure!(
        node.reaches(&unknown, "open")? && !node.reaches(&captive, "open")?,
        "only what was known is isolated"
    );
    node.start_daemon()?;
    node.wait_for("all that there is", |policy| policy.pods == 7)?;
    ensure!(!node.reaches(&unknown, "open")?, "the next one has been told of it");
    Ok(())
}

#[test]
fn containerd_may_be_started_again() -> Result<()> {
    let mut node = Node::start(true)?;
    let captive = node.pod("captive-1")?;
    node.runtime.kill()?;
    node.wait_for("no connection", |policy| is(policy, |pods| pods.failure.is_some()))?;
    let problems =
        node.daemon()?.wait_for_status("a problem", |status| !status.problems.is_empty())?;
    ensure!(problems.problems[0].contains("does not tell of new pods"), "{problems:?}");
    node.wait_for("it is known", |policy| policy.pods == 3)?;
    node.runtime.resume()?;
    node.wait_for("a connection", |policy| is(policy, |pods| pods.runtime.is_some()))?;
    ensure!(!node.reaches(&captive, "open")?, "what was isolated is so still");
    let friend = node.pod("friend-1")?;
    ensure!(node.reaches(&friend, "web")?, "the first packet of a friend is lost");
    Ok(())
}
