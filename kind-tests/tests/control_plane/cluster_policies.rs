//! ClusterNetworkPolicies on a real API server: it does not have them, gets them from the manifests,
//! has them changed under live daemons, loses them and gets them again.

use std::io::ErrorKind;
use std::path::Path;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use serde_json::{Value, json};
use shunt_cluster::{EchoServer, ProbeOptions, Protocol, probe};
use shunt_kind_tests::control_plane::{Daemon, Id, Plane, wait_for};

use crate::site::{NODES, Site};

const DEFINITION: &str = "clusternetworkpolicies.policy.networking.k8s.io";
const PATIENCE: Duration = Duration::from_secs(60);
/// How long an answer may take; a first packet that was dropped is sent again in that time.
const ANSWER: Duration = Duration::from_secs(5);
/// How long is waited for a connection that is not expected: the kernel makes it, whether or not the server runs.
const SILENCE: Duration = Duration::from_millis(500);
/// Where the web servers and the nodes listen.
const WEB: [(&str, u16); 2] = [("web-1", 8080), ("web-2", 9090)];
const ON_NODE: u16 = 7777;

#[test]
fn policies_of_the_cluster_come_with_their_definition_and_go_with_it() -> Result<()> {
    let mut site = Site::build()?;
    let serve = |node: &&str| EchoServer::start(site.host(node).netns(), node, &[ON_NODE]);
    let _servers: Vec<_> = NODES.iter().map(serve).collect::<Result<_>>()?;
    for shop in ["shop-1", "shop-2"] {
        site.plane.run_pod(site.host(shop), "shop", &[])?;
    }
    for daemon in &mut site.daemons {
        daemon.wait_until_synced()?;
    }
    network_policies_need_no_definition(&site)?;
    install(&site)?;
    the_server_refuses_what_the_definition_does(&site)?;
    policies_are_obeyed_as_they_change(&site)?;
    nodes_are_peers(&site)?;
    without_the_definition_there_are_no_policies(&site)?;
    install(&site)?;
    site.plane.api().create(deny_shops("once-more"))?;
    expect_web(&site, false)?;
    site.daemons.iter().try_for_each(Daemon::expect_permitted)
}

/// Whether the shops reach the web servers; all of them must, or none.
fn expect_web(site: &Site, expected: bool) -> Result<()> {
    for (from, (web, port)) in ["shop-1", "shop-2"].into_iter().flat_map(|s| WEB.map(|w| (s, w))) {
        expect(site, from, web, port, expected)?;
    }
    Ok(())
}

fn expect(site: &Site, from: &str, to: &str, port: u16, expected: bool) -> Result<()> {
    for address in site.host(to).addresses() {
        let what = format!("{from} to reach {to}:{port} or not: {expected}");
        wait_for(&what, PATIENCE, || {
            let (netns, to) = (site.host(from).netns(), (*address, port).into());
            if expected {
                let outcome = probe(netns, Protocol::Tcp, to, &ProbeOptions::within(ANSWER));
                return Ok(if outcome.is_answer() { Ok(()) } else { Err(outcome.to_string()) });
            }
            Ok(match netns.tcp_connect(to, SILENCE) {
                Err(error) if error.kind() == ErrorKind::TimedOut => Ok(()),
                other => Err(format!("{other:?}")),
            })
        })?;
    }
    Ok(())
}

fn network_policies_need_no_definition(site: &Site) -> Result<()> {
    expect_web(site, true)?;
    let metadata = json!({"name": "nobody", "namespace": "default"});
    let spec = json!({"podSelector": {"matchLabels": {"app": "web"}}});
    site.plane.api().create(json!({
        "apiVersion": "networking.k8s.io/v1", "kind": "NetworkPolicy",
        "metadata": metadata, "spec": spec,
    }))?;
    expect_web(site, false)?;
    site.plane.api().delete(&Id::network_policy("default", "nobody"), 0)?;
    expect_web(site, true)
}

/// The definition of the manifests.
pub(crate) fn definition() -> Result<Value> {
    let home = Path::new(env!("CARGO_MANIFEST_DIR")).join("../manifests/components");
    let text = std::fs::read_to_string(home.join("cluster-network-policy/crd.yaml"))?;
    Ok(serde_saphyr::from_str(&text)?)
}

fn install(site: &Site) -> Result<()> {
    install_as(&site.plane, definition()?)
}

/// Installs a definition, and waits until objects of it are taken.
pub(crate) fn install_as(plane: &Plane, definition: Value) -> Result<()> {
    plane.api().create(definition)?;
    wait_for("the definition to be served", PATIENCE, || {
        let definition = plane.api().get(&Id::definition(DEFINITION))?;
        let conditions = definition["status"]["conditions"].as_array().cloned().unwrap_or_default();
        let established =
            conditions.iter().any(|c| c["type"] == "Established" && c["status"] == "True");
        Ok(if established { Ok(()) } else { Err(definition["status"].to_string()) })
    })
}

pub(crate) fn policy(name: &str, spec: Value) -> Value {
    json!({
        "apiVersion": "policy.networking.k8s.io/v1alpha2", "kind": "ClusterNetworkPolicy",
        "metadata": {"name": name}, "spec": spec,
    })
}

fn pods(app: &str) -> Value {
    json!({"namespaceSelector": {}, "podSelector": {"matchLabels": {"app": app}}})
}

/// Nobody but the web servers themselves reaches the web servers.
fn deny_shops(name: &str) -> Value {
    policy(
        name,
        json!({
            "tier": "Admin", "priority": 10, "subject": {"pods": pods("web")},
            "ingress": [{"name": "others", "action": "Deny", "from": [{"pods": {
                "podSelector": {"matchExpressions": [
                    {"key": "app", "operator": "NotIn", "values": ["web"]},
                ]},
            }}]}],
        }),
    )
}

fn the_server_refuses_what_the_definition_does(site: &Site) -> Result<()> {
    let everyone = json!({"namespaces": {}});
    let rule = |action: &str, to: Value, protocols: Value| {
        json!({"tier": "Admin", "priority": 1, "subject": everyone,
               "egress": [{"action": action, "to": [to], "protocols": protocols}]})
    };
    let tcp = json!([{"tcp": {"destinationPort": {"number": 80}}}]);
    let wrong = [
        rule("Ponder", everyone.clone(), tcp.clone()),
        rule("Deny", json!({}), tcp.clone()),
        rule("Deny", json!({"networks": ["ten"]}), tcp.clone()),
        rule("Deny", json!({"nodes": {}}), json!([{"destinationNamedPort": "http"}])),
        rule("Deny", json!({"domainNames": ["example.org"]}), tcp.clone()),
        rule(
            "Deny",
            everyone.clone(),
            json!([{"tcp": {"destinationPort": {"range": {"start": 9, "end": 5}}}}]),
        ),
        json!({"tier": "Admin", "priority": 1001, "subject": everyone}),
        json!({"tier": "Admin", "priority": 1, "subject": {}}),
    ];
    for (index, spec) in wrong.into_iter().enumerate() {
        let told = spec.to_string();
        let refused = site.plane.api().create(policy(&format!("wrong-{index}"), spec)).is_err();
        ensure!(refused, "the server has taken {told}");
    }
    site.plane.api().create(policy("right", rule("Accept", everyone.clone(), tcp)))?;
    site.plane.api().delete(&Id::cluster_policy("right"), 0)
}

fn policies_are_obeyed_as_they_change(site: &Site) -> Result<()> {
    let api = site.plane.api();
    api.create(deny_shops("deny"))?;
    expect_web(site, false)?;
    // One that is asked first.
    api.create(policy("accept", json!({
        "tier": "Admin", "priority": 5, "subject": {"namespaces": {}},
        "ingress": [{"action": "Accept", "from": [{"namespaces": {}}],
                     "protocols": [{"tcp": {"destinationPort": {"range": {"start": 8000, "end": 8999}}}}]}],
    })))?;
    expect(site, "shop-2", "web-1", 8080, true)?;
    expect(site, "shop-1", "web-2", 9090, false)?;
    api.patch(&Id::cluster_policy("accept"), json!({"spec": {"priority": 11}}))?;
    expect_web(site, false)?;
    api.patch(&Id::cluster_policy("deny"), json!({"spec": {"tier": "Baseline"}}))?;
    expect(site, "shop-1", "web-1", 8080, true)?;
    expect(site, "shop-1", "web-2", 9090, false)?;
    api.delete(&Id::cluster_policy("deny"), 0)?;
    api.delete(&Id::cluster_policy("accept"), 0)?;
    expect_web(site, true)
}

fn nodes_are_peers(site: &Site) -> Result<()> {
    let api = site.plane.api();
    api.patch(&Id::node("node-2"), json!({"metadata": {"labels": {"guarded": "yes"}}}))?;
    api.create(policy(
        "nodes",
        json!({
            "tier": "Baseline", "priority": 0, "subject": {"namespaces": {}},
            "egress": [{"action": "Deny", "to": [{"nodes": {"matchLabels": {"guarded": "yes"}}}]}],
        }),
    ))?;
    // The same for the node that it runs on and for another one.
    expect(site, "web-1", "node-2", ON_NODE, false)?;
    expect(site, "web-2", "node-2", ON_NODE, false)?;
    expect(site, "web-2", "node-1", ON_NODE, true)?;
    api.patch(&Id::node("node-1"), json!({"metadata": {"labels": {"guarded": "yes"}}}))?;
    expect(site, "web-2", "node-1", ON_NODE, false)?;
    expect(site, "web-1", "node-1", ON_NODE, false)?;
    expect_web(site, true)?;
    api.delete(&Id::cluster_policy("nodes"), 0)?;
    expect(site, "web-1", "node-1", ON_NODE, true)
}

fn without_the_definition_there_are_no_policies(site: &Site) -> Result<()> {
    let api = site.plane.api();
    api.create(deny_shops("deny"))?;
    expect_web(site, false)?;
    api.delete(&Id::definition(DEFINITION), 0)?;
    expect_web(site, true)?;
    wait_for("the definition to be gone", PATIENCE, || {
        let held = api.get(&Id::definition(DEFINITION));
        Ok(held.err().map(drop).context("it is there").map_err(|error| error.to_string()))
    })
}
