//! `shunt explain` of an API server's objects: what the daemon of the node says of the same question.

use std::net::SocketAddr;
use std::process::Command;

use anyhow::{Result, ensure};
use serde_json::{Value, json};
use shunt_cluster::{Outcome, Protocol};
use shunt_kind_tests::scenario::shunt_binary;

use crate::site::{Site, cluster_ips, node_port, web_ports};

/// The answer to a question, asked on a node. What only a daemon can tell is left out.
fn explain(site: &Site, node: &str, words: &[&str]) -> Result<Value> {
    let mut command = Command::new(shunt_binary()?);
    command.arg("explain").args(words).args(["-o", "json"]).env_remove("NODE_NAME");
    let output = site.host(node).netns().run(move || command.output())?;
    let errors = String::from_utf8_lossy(&output.stderr).into_owned();
    ensure!(output.status.success() && errors.is_empty(), "{words:?}: {errors}");
    let mut answers: Vec<Value> = serde_json::from_slice(&output.stdout)?;
    for answer in answers.iter_mut().filter_map(Value::as_object_mut) {
        answer.remove("kernel");
    }
    Ok(answers.into())
}

#[test]
fn of_the_api_server_alone_and_of_the_daemon_are_one() -> Result<()> {
    let mut site = Site::build()?;
    for daemon in &mut site.daemons {
        daemon.wait_until_synced()?;
    }
    let spec =
        json!({"type": "NodePort", "ipFamilyPolicy": "RequireDualStack", "ports": web_ports()});
    let web = site.create_service("web", spec)?;
    site.settle("web", &["web-1", "web-2"], &[])?;
    site.plane.api().create(json!({
        "apiVersion": "networking.k8s.io/v1", "kind": "NetworkPolicy",
        "metadata": {"namespace": "default", "name": "web"},
        "spec": {"podSelector": {"matchLabels": {"app": "web"}}, "ingress": []},
    }))?;
    let to = SocketAddr::new(cluster_ips(&web)?[0], 80);
    for daemon in &mut site.daemons {
        daemon.wait_for_status("policy", |status| {
            status.network_policy.as_ref().is_some_and(|policy| policy.isolated > 0)
        })?;
    }

    let (outside, node) = (site.host("outside").ip().to_string(), site.host("node-1").ip());
    let (node, port) = (node.to_string(), node_port(&web, 0)?.to_string());
    let web_1 = site.host("web-1").ip().to_string();
    let file = site.plane.kubeconfig().display().to_string();
    for words in [
        // The pod is on node-1, whose daemon is asked.
        vec!["web-1", "service:default/web", "80"],
        vec![&web_1, &to.ip().to_string(), "80"],
        vec![&outside, &node, &port, "--node-name", "node-1"],
    ] {
        let of_daemon = &words[..3];
        let said = explain(&site, "node-1", of_daemon)?;
        let from_api = [&words[..], &["--kubeconfig", &file]].concat();
        assert_eq!(explain(&site, "node-2", &from_api)?, said, "{words:?}");
        ensure!(said.to_string().contains("isolated by NetworkPolicy default/web"), "{said}");
    }
    assert_eq!(site.ask("shop-1", Protocol::Tcp, to), Outcome::TimedOut);
    Ok(())
}
