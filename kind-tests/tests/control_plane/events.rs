//! Events in the API: with the rights of the manifests, on a real server.

use std::time::Duration;

use anyhow::Result;
use serde_json::{Value, json};
use shunt_cluster::{ClusterSpec, NodeSpec};
use shunt_kind_tests::control_plane::{Daemon, DaemonSpec, Id, Plane, PlaneSpec, verbs, wait_for};

const NODES: [&str; 2] = ["node-1", "node-2"];

/// All events of shunt's in the namespace `default`.
fn events(plane: &Plane) -> Result<Vec<Value>> {
    let like = Id::event("default", "");
    let all = plane.api().run(|client| async move { verbs::list(&client, &like, "").await })?;
    let ours = |event: &Value| event["reportingController"] == "shunt.dev/shunt";
    Ok(all.into_iter().filter(ours).collect())
}

fn service(name: &str) -> Value {
    json!({
        "apiVersion": "v1", "kind": "Service",
        "metadata": {"namespace": "default", "name": name},
        "spec": {"ports": [{"port": 80}], "externalIPs": ["192.0.2.7"]},
    })
}

#[test]
fn problems_are_events_of_their_objects() -> Result<()> {
    let nodes = NODES.map(|node| NodeSpec::new(node, &[])).to_vec();
    let cluster = ClusterSpec { nodes, ..Default::default() };
    let plane = Plane::start(&PlaneSpec { cluster, ..PlaneSpec::default() })?;
    let mut daemons = Vec::new();
    // Someone listens where one of them wants to answer for its health.
    let netns = plane.cluster().host(NODES[1])?.netns();
    let _taken = netns.run(|| std::net::TcpListener::bind("0.0.0.0:10256"))?;
    for node in NODES {
        let mut daemon = Daemon::start(&plane, node, &DaemonSpec::default())?;
        daemon.wait_until_synced()?;
        daemons.push(daemon);
    }
    // Two Services claim one external IP: the younger one has a problem, on both nodes.
    plane.api().create(service("older"))?;
    std::thread::sleep(Duration::from_millis(1100));
    plane.api().create(service("younger"))?;
    let found = wait_for("the events", Duration::from_secs(30), || {
        let found = events(&plane)?;
        let warned = found.iter().any(|event| event["regarding"]["name"] == "younger");
        let started = found.iter().filter(|event| event["reason"] == "Starting").count();
        let failed = found.iter().any(|event| event["reason"] == "FailedToStartProxierHealthcheck");
        Ok(if warned && failed && started == NODES.len() {
            Ok(found)
        } else {
            Err(format!("{found:?}"))
        })
    })?;
    let warnings: Vec<_> = found
        .iter()
        .filter(|event| event["type"] == "Warning" && event["regarding"]["kind"] != "Node")
        .collect();
    assert_eq!(warnings.len(), 1, "one for both nodes: {warnings:#?}");
    let warning = warnings[0];
    assert_eq!(warning["regarding"]["kind"], "Service");
    assert!(warning["note"].as_str().unwrap_or_default().contains("192.0.2.7"), "{warning:#?}");
    let starts = found.iter().filter(|event| event["reason"] == "Starting");
    let mut of: Vec<_> = starts.filter_map(|event| event["regarding"]["name"].as_str()).collect();
    of.sort_unstable();
    assert_eq!(of, NODES);
    daemons.iter().try_for_each(Daemon::expect_permitted)
}
