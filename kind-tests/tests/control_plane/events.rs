//! Events in the API: with the rights of the manifests, on a real server.

use std::time::Duration;

use anyhow::Result;
use serde_json::{Value, json};
use shunt_cluster::{ClusterSpec, EchoServer, NodeSpec, first_packet_arrives};
use shunt_kind_tests::control_plane::{Daemon, DaemonSpec, Id, Plane, PlaneSpec, verbs, wait_for};

use crate::cluster_policies::{definition, install_as, policy};

const NODES: [&str; 2] = ["node-1", "node-2"];

/// All events of shunt's in the namespace `default`.
pub(crate) fn events(plane: &Plane) -> Result<Vec<Value>> {
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
    // And where it is to answer for a Service's endpoints.
    let _also_taken = netns.run(|| std::net::TcpListener::bind("0.0.0.0:32100"))?;
    plane.api().create(json!({
        "apiVersion": "v1", "kind": "Service",
        "metadata": {"namespace": "default", "name": "checked"},
        "spec": {
            "type": "LoadBalancer", "externalTrafficPolicy": "Local", "healthCheckNodePort": 32100,
            "ports": [{"port": 80}],
        },
    }))?;
    // Two Services claim one external IP: the younger one has a problem, on both nodes.
    plane.api().create(service("older"))?;
    std::thread::sleep(Duration::from_millis(1100));
    plane.api().create(service("younger"))?;
    let found = wait_for("the events", Duration::from_secs(30), || {
        let found = events(&plane)?;
        let warned = found.iter().any(|event| event["regarding"]["name"] == "younger");
        let started = found.iter().filter(|event| event["reason"] == "Starting").count();
        let failed = found.iter().any(|event| event["reason"] == "FailedToStartProxierHealthcheck");
        let unanswered =
            found.iter().any(|event| event["reason"] == "FailedToStartServiceHealthcheck");
        Ok(if warned && failed && unanswered && started == NODES.len() {
            Ok(found)
        } else {
            Err(format!("{found:?}"))
        })
    })?;
    let warnings: Vec<_> = found
        .iter()
        .filter(|event| event["type"] == "Warning" && event["regarding"]["kind"] != "Node")
        .collect();
    let (health, warnings): (Vec<&Value>, Vec<_>) = warnings
        .into_iter()
        .partition(|event| event["reason"] == "FailedToStartServiceHealthcheck");
    assert_eq!(health.len(), 1, "of the one node where it is taken: {health:#?}");
    assert_eq!(health[0]["regarding"]["name"], "checked");
    assert_eq!(health[0]["type"], "Warning");
    let note = health[0]["note"].as_str().unwrap_or_default();
    assert!(note.contains(":32100"), "{note}");
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

#[test]
fn what_is_not_understood_of_a_policy_is_an_event_of_the_policy() -> Result<()> {
    let cluster =
        ClusterSpec { nodes: vec![NodeSpec::new(NODES[0], &[])], ..ClusterSpec::default() };
    let plane = Plane::start(&PlaneSpec { cluster, ..PlaneSpec::default() })?;
    let mut daemon = Daemon::start(&plane, NODES[0], &DaemonSpec::default())?;
    daemon.wait_until_synced()?;
    // A definition of a later release, which knows peers that we do not.
    let mut later = definition()?;
    let schema = &mut later["spec"]["versions"][0]["schema"]["openAPIV3Schema"];
    *schema = json!({"type": "object", "x-kubernetes-preserve-unknown-fields": true});
    install_as(&plane, later)?;
    let spec = json!({
        "tier": "Admin", "priority": 1, "subject": {"namespaces": {}},
        "egress": [{"name": "moon", "action": "Accept", "to": [{"planets": ["moon"]}]}],
    });
    plane.api().create(policy("to-the-moon", spec))?;
    let warning = wait_for("the event", Duration::from_secs(30), || {
        let found = events(&plane)?;
        let of_policy = |event: &&Value| event["regarding"]["name"] == "to-the-moon";
        let warning = found.iter().find(of_policy).cloned();
        Ok(warning.ok_or_else(|| format!("{found:?}")))
    })?;
    assert_eq!(warning["type"], "Warning", "{warning:#?}");
    assert_eq!(warning["reason"], "ClusterNetworkPolicyProblem", "{warning:#?}");
    assert_eq!(warning["regarding"]["kind"], "ClusterNetworkPolicy", "{warning:#?}");
    let note = warning["note"].as_str().unwrap_or_default();
    assert!(note.contains("spec.egress[0].to[0]"), "{note}");
    daemon.expect_permitted()
}

#[test]
fn a_network_policy_that_cannot_be_read_is_an_event_of_it_and_fails_closed() -> Result<()> {
    let cluster = ClusterSpec {
        nodes: vec![NodeSpec::new(NODES[0], &["web", "shop"])],
        ..ClusterSpec::default()
    };
    let plane = Plane::start(&PlaneSpec { cluster, ..PlaneSpec::default() })?;
    let (web, shop) = (plane.cluster().host("web")?, plane.cluster().host("shop")?);
    let _server = EchoServer::start(web.netns(), "web", &[8080])?;
    for pod in [web, shop] {
        plane.run_pod(pod, pod.name(), &[])?;
    }
    let mut daemon = Daemon::start(&plane, NODES[0], &DaemonSpec::default())?;
    daemon.wait_until_synced()?;
    let blocks = ["10.77.0.0/16", "192.0.2.0/24"].map(|cidr| json!({"ipBlock": {"cidr": cidr}}));
    plane.api().create(json!({
        "apiVersion": "networking.k8s.io/v1", "kind": "NetworkPolicy",
        "metadata": {"namespace": "default", "name": "web"},
        "spec": {"podSelector": {"matchLabels": {"app": "web"}}, "ingress": [{"from": blocks}]},
    }))?;
    let expect = |reached: bool| {
        wait_for(&format!("shop to reach web: {reached}"), Duration::from_secs(30), || {
            let arrives = first_packet_arrives(shop.netns(), (web.ip(), 8080).into())?;
            Ok(if arrives == reached { Ok(()) } else { Err(format!("it is: {arrives}")) })
        })
    };
    daemon.wait_for_status("the policy", |status| {
        status.network_policy.as_ref().is_some_and(|policy| policy.isolated > 0)
    })?;
    expect(true)?;
    // The API server takes no such thing; one that a release without today's checks has taken is served for ever.
    let words = ["replace", "--key", "/registry/networkpolicies/default/web"];
    let change = ["--old", "10.77.0.0/16", "--new", "10.77.0.0/x6"];
    plane.server().command(&[&words[..], &change[..]].concat())?;
    let warning = wait_for("the event", Duration::from_secs(30), || {
        let found = events(&plane)?;
        let of_policy = |event: &&Value| event["regarding"]["kind"] == "NetworkPolicy";
        let warning = found.iter().find(of_policy).cloned();
        Ok(warning.ok_or_else(|| format!("{found:?}")))
    })?;
    assert_eq!(warning["type"], "Warning", "{warning:#?}");
    assert_eq!(warning["reason"], "NetworkPolicyProblem", "{warning:#?}");
    assert_eq!(warning["regarding"]["name"], "web", "{warning:#?}");
    let note = warning["note"].as_str().unwrap_or_default();
    assert!(note.contains("spec.ingress[0].from[0].ipBlock.cidr") && note.contains("10.77.0.0/x6"));
    expect(false)?;
    daemon.expect_permitted()
}
