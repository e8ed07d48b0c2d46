//! A network on which Services fail unless a flag is set says so wherever an operator may look: status, metrics, log, and
//! an event of the Node in a real API server. In the guest, which has ipvlan; a program of its own, as an API server there
//! starts in time if nobody else has the CPU.

use std::time::Duration;

use anyhow::{Result, ensure};
use shunt_cluster::{ClusterSpec, Network, NodeSpec};
use shunt_kind_tests::control_plane::{Daemon, DaemonSpec, Id, Plane, PlaneSpec, verbs, wait_for};
use shunt_kind_tests::guest;

const NODE: &str = "node-1";
const PATIENCE: Duration = Duration::from_mins(2);
/// Of Services, and of policy.
const REPLY: &str = "mode L3 or L3S: a pod that reaches another through a Service gets its reply \
                     past this node, from an address that it did not ask; to do: --masquerade-all";
const POLICY: &str = "network policy between them does not hold";
/// Where the daemon tells its metrics.
const METRICS: ([u8; 4], u16) = ([127, 0, 0, 1], 10249);

#[test]
#[ignore = "needs ipvlan; the test below runs it in the guest"]
fn a_node_beside_pods_that_send_as_the_node() -> Result<()> {
    let nodes = vec![NodeSpec::new(NODE, &["web"])];
    let cluster = ClusterSpec { nodes, network: Network::IpvlanL3, ..ClusterSpec::default() };
    is_told(&Plane::start(&PlaneSpec { cluster, ..PlaneSpec::default() })?)
}

#[test]
fn a_node_beside_pods_that_send_as_the_node_in_the_guest() -> Result<()> {
    guest::replay(&["a_node_beside_pods_that_send_as_the_node"])
}

fn is_told(plane: &Plane) -> Result<()> {
    let mut daemon = start(plane, &[])?;
    daemon.wait_for_status("both problems", |status| {
        let told = |text: &str| status.problems.iter().any(|problem| problem.contains(text));
        told(REPLY) && told(POLICY) && status.problems.len() == 2
    })?;
    counts(&daemon, 2)?;
    for text in [REPLY, POLICY] {
        daemon.wait_for_log(text)?;
        wait_for("the event", PATIENCE, || has_event(plane, text))?;
    }
    daemon.expect_permitted()?;
    daemon.stop()?;
    // Neither is told of a node where it is seen to.
    let seen_to = ["--masquerade-all", "--network-policy=off"].map(str::to_owned);
    let mut daemon = start(plane, &seen_to)?;
    daemon.wait_for_status("no problem", |status| status.synced && status.problems.is_empty())?;
    counts(&daemon, 0)
}

fn start(plane: &Plane, flags: &[String]) -> Result<Daemon> {
    let mut daemon =
        Daemon::start(plane, NODE, &DaemonSpec { flags: flags.to_vec(), ..DaemonSpec::default() })?;
    daemon.wait_until_synced()?;
    Ok(daemon)
}

/// The gauge of the machine's network.
fn counts(daemon: &Daemon, problems: usize) -> Result<()> {
    let line = format!("shunt_problems{{kind=\"network\"}} {problems}");
    wait_for(&line, PATIENCE, || {
        let (_, metrics) = daemon.get(METRICS.into(), "/metrics")?;
        let told = metrics.lines().filter(|line| line.starts_with("shunt_problems"));
        let told: Vec<_> = told.map(ToOwned::to_owned).collect();
        Ok(if told.contains(&line) { Ok(()) } else { Err(told.join("\n")) })
    })
}

/// Whether the Node has an event with this text.
fn has_event(plane: &Plane, text: &str) -> Result<Result<(), String>> {
    let like = Id::event("default", "");
    let all = plane.api().run(|client| async move { verbs::list(&client, &like, "").await })?;
    let of_node: Vec<_> = all.into_iter().filter(|event| event["reason"] == "PodsUnseen").collect();
    let found =
        of_node.iter().find(|event| event["note"].as_str().is_some_and(|note| note.contains(text)));
    let Some(event) = found else { return Ok(Err(format!("{of_node:?}"))) };
    ensure!(event["type"] == "Warning" && event["regarding"]["kind"] == "Node", "{event}");
    ensure!(event["regarding"]["name"] == NODE, "{event}");
    Ok(Ok(()))
}
