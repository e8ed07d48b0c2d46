//! What goes wrong between shunt and the API server, and what shunt says to it; the account's
//! rights; the manifests.
//!
//! A kubeconfig that cannot be used is wrong usage: one sentence and exit code 2. A server that
//! does not answer, or refuses, may be put right at any time: shunt warns and tries again, tells
//! `/healthz` that it is not there yet, and leaves the kernel alone.

use std::fs;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::process::Command;

use anyhow::{Context, Result};
use serde_json::json;
use shunt_cluster::{ClusterSpec, NodeSpec};
use shunt_kind_tests::control_plane::{Api, Daemon, DaemonSpec, Plane, PlaneSpec, expect};
use shunt_model::plan::Plan;

use crate::manifests::{expect_valid, may};

const NODE: &str = "node-1";

#[test]
fn the_manifests_the_account_and_its_failures() -> Result<()> {
    let cluster = ClusterSpec { nodes: vec![NodeSpec::new(NODE, &[])], ..ClusterSpec::default() };
    let plane = Plane::start(&PlaneSpec { cluster, ..PlaneSpec::default() })?;
    expect_valid(&plane)?;
    the_account_may_read_what_is_watched(&plane)?;
    unusable_kubeconfigs_end_it(&plane)?;
    an_unreachable_server_is_waited_for(&plane)?;
    a_wrong_token_is_told(&plane)?;
    rights_that_come_later_are_enough(&plane)
}

fn the_account_may_read_what_is_watched(plane: &Plane) -> Result<()> {
    let host = plane.cluster().host(shunt_cluster::CONTROL_PLANE)?;
    let restricted = Api::new(host.netns(), plane.kubeconfig())?;
    let questions = [
        ("list", "", "services", true),
        ("watch", "", "services", true),
        ("watch", "discovery.k8s.io", "endpointslices", true),
        ("watch", "", "nodes", true),
        ("list", "networking.k8s.io", "servicecidrs", true),
        ("watch", "networking.k8s.io", "servicecidrs", true),
        ("update", "", "services", false),
        ("patch", "", "nodes", false),
        ("delete", "discovery.k8s.io", "endpointslices", false),
        ("list", "", "secrets", false),
        ("watch", "networking.k8s.io", "networkpolicies", true),
        ("watch", "", "pods", true),
        ("watch", "", "namespaces", true),
        ("delete", "", "pods", false),
        ("update", "networking.k8s.io", "networkpolicies", false),
        ("watch", "policy.networking.k8s.io", "clusternetworkpolicies", true),
        ("patch", "policy.networking.k8s.io", "clusternetworkpolicies/status", false),
        ("list", "apiextensions.k8s.io", "customresourcedefinitions", false),
        ("create", "events.k8s.io", "events", true),
        ("list", "events.k8s.io", "events", false),
    ];
    for (verb, group, resource, expected) in questions {
        let answer =
            restricted.run(|client| async move { may(&client, verb, group, resource).await })?;
        assert_eq!(answer, expected, "{verb} {resource}");
    }
    Ok(())
}

fn with_kubeconfig(plane: &Plane, text: &str) -> Result<DaemonSpec> {
    let file = plane.scratch().join("bad.kubeconfig");
    fs::write(&file, text)?;
    Ok(of(file))
}

fn of(kubeconfig: PathBuf) -> DaemonSpec {
    DaemonSpec { kubeconfig: Some(kubeconfig), ..DaemonSpec::default() }
}

fn unusable_kubeconfigs_end_it(plane: &Plane) -> Result<()> {
    let good = fs::read_to_string(plane.kubeconfig())?;
    let no_context = good.replace("current-context:", "former-context:");
    let no_certificate =
        good.replace("certificate-authority-data: ", "certificate-authority-data: AA");
    let cases = [
        (Some("\u{1} no: [YAML"), "not a kubeconfig in YAML"),
        (Some(no_context.as_str()), "there is no current-context"),
        (Some(no_certificate.as_str()), "certificate authority"),
        (None, "cannot be read"),
    ];
    for (text, sentence) in cases {
        let spec = match text {
            Some(text) => with_kubeconfig(plane, text)?,
            None => of(plane.scratch().join("missing")),
        };
        let (code, said) = Daemon::start(plane, NODE, &spec)?.wait_for_end()?;
        assert_eq!(code, Some(2), "{said}");
        assert!(said.contains(sentence), "{sentence:?} in {said}");
        assert_eq!(said.lines().count(), 1, "one line: {said}");
    }
    Ok(())
}

/// Alive, not ready, and nothing in the kernel.
fn expect_waiting(daemon: &mut Daemon, plane: &Plane) -> Result<()> {
    let status = daemon.wait_for_status("an answer", |_| true)?;
    assert!(!status.synced && !status.healthy, "{status:?}");
    assert_eq!(status.awaiting[..2], ["Services", "EndpointSlices"], "{status:?}");
    let healthz = SocketAddr::new(plane.cluster().host(NODE)?.ip(), 10256);
    assert_eq!(daemon.get(healthz, "/healthz")?.0, 503);
    let netns = plane.cluster().host(NODE)?.netns();
    assert!(netns.run(shunt_nftables::kernel::inventory)?.table.is_none());
    Ok(())
}

fn an_unreachable_server_is_waited_for(plane: &Plane) -> Result<()> {
    let elsewhere = fs::read_to_string(plane.kubeconfig())?.replace(":6443", ":6444");
    let mut daemon = Daemon::start(plane, NODE, &with_kubeconfig(plane, &elsewhere)?)?;
    daemon.wait_for_log("the watch fails; trying again")?;
    let log = daemon.log()?;
    let line = log.lines().find(|line| line.contains("the watch fails")).context("a line")?;
    assert!(line.contains("WARN") && line.contains("refused"), "{line}");
    expect_waiting(&mut daemon, plane)?;
    let warnings = daemon.log()?.matches("WARN").count();
    assert!(warnings <= 6, "{warnings} warnings: once a minute for each kind is enough");
    assert!(daemon.stop()?.success(), "SIGTERM is no failure");
    Ok(())
}

fn a_wrong_token_is_told(plane: &Plane) -> Result<()> {
    let good = fs::read_to_string(plane.kubeconfig())?;
    let (head, rest) = good.split_once("token: ").context("a token")?;
    let rest = rest.split_once('\n').map_or("", |(_, rest)| rest);
    let wrong = format!("{head}token: nobody's\n{rest}");
    let mut daemon = Daemon::start(plane, NODE, &with_kubeconfig(plane, &wrong)?)?;
    daemon.wait_for_log("Unauthorized")?;
    expect_waiting(&mut daemon, plane)
}

fn rights_that_come_later_are_enough(plane: &Plane) -> Result<()> {
    plane.api().create(json!({
        "apiVersion": "v1", "kind": "ServiceAccount",
        "metadata": {"namespace": "default", "name": "nobody"},
    }))?;
    let file = plane.scratch().join("nobody.kubeconfig");
    plane.account("default", "nobody", &file)?;
    let mut daemon = Daemon::start(plane, NODE, &of(file))?;
    daemon.wait_for_log("is forbidden")?;
    expect_waiting(&mut daemon, plane)?;
    let log = daemon.log()?;
    for kind in ["services", "endpointslices", "nodes"] {
        let told = log.lines().any(|line| line.contains("WARN") && line.contains(kind));
        assert!(told, "it says that it may not read {kind}: {log}");
    }
    plane.api().create(json!({
        "apiVersion": "rbac.authorization.k8s.io/v1", "kind": "ClusterRoleBinding",
        "metadata": {"name": "nobody"},
        "roleRef": {"apiGroup": "rbac.authorization.k8s.io", "kind": "ClusterRole", "name": "shunt"},
        "subjects": [{"kind": "ServiceAccount", "name": "nobody", "namespace": "default"}],
    }))?;
    let status = daemon.wait_until_synced()?;
    assert!(status.healthy, "{status:?}");
    daemon.wait_for_log("the watch works again")?;
    let plan = expect::settle(plane, &[NODE])?;
    daemon.stop()?;
    the_comparison_sees_one_element(plane, &plan)
}

/// What all these tests end with must fail when it should.
fn the_comparison_sees_one_element(plane: &Plane, plan: &Plan) -> Result<()> {
    let netns = plane.cluster().host(NODE)?.netns();
    assert_eq!(expect::compare(netns, plan)?, Ok(()));
    for (verb, told) in [("delete", "missing"), ("add", "too much")] {
        let address = if verb == "add" { "192.0.2.1" } else { "10.96.0.1" };
        let command = format!("{verb} element inet shunt cluster_ips_v4 {{ {address} }}");
        let status = netns.run(move || Command::new("nft").arg(command).status())?;
        assert!(status.success());
        let differences = expect::compare(netns, plan)?.unwrap_err();
        assert!(differences.contains(told) && differences.contains(address), "{differences}");
    }
    Ok(())
}
