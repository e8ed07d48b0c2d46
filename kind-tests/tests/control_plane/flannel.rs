//! Flannel's own daemon on every node, from the API server that shunt has its objects from.

use std::net::SocketAddr;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use serde_json::{Value, json};
use shunt_cluster::{EchoServer, Family, Outcome, Protocol, first_packet_arrives};
use shunt_kind_tests::control_plane::{Id, Rules, wait_for};

use crate::services;
use crate::site::{Site, cluster_ips, web_ports};

const PATIENCE: Duration = Duration::from_secs(30);

#[test]
fn services_and_policies_beside_flanneld_with_iptables() -> Result<()> {
    beside(Rules::Iptables)
}

#[test]
fn services_and_policies_beside_flanneld_with_nftables() -> Result<()> {
    beside(Rules::Nftables)
}

fn beside(rules: Rules) -> Result<()> {
    let mut site = Site::on_flannel(rules)?;
    for daemon in &mut site.daemons {
        daemon.wait_until_synced()?;
    }
    who_is_seen(&site)?;
    policies(&site)?;
    services::play(&mut site)?;
    for daemon in &mut site.daemons {
        // Flannel writes its rules anew now and then; ours are still there, and nothing had to be repaired.
        daemon.wait_for_status("a daemon that nobody disturbs", |status| {
            let counters = &status.counters;
            (counters.failures, counters.repairs, counters.drifts) == (0, 0, 0)
                && status.problems.is_empty()
        })?;
    }
    Ok(())
}

/// Who masquerades whom: Flannel the pods that leave the cluster, nobody a pod on its way to another, and shunt, or
/// Flannel where that comes first, a node on its way to a pod of another.
fn who_is_seen(site: &Site) -> Result<()> {
    let spec = json!({"ipFamilyPolicy": "RequireDualStack", "ports": web_ports()});
    let service = site.create_service("seen", spec)?;
    site.settle("seen", &["web-1", "web-2"], &[])?;
    let outside = site.host("outside");
    let _server = EchoServer::start(outside.netns(), "outside", &[8080])?;
    for ip in cluster_ips(&service)? {
        let family = Family::of(ip);
        let own = |host: &str| site.host(host).address(family).context("no address");
        let seen = site.ask("shop-1", Protocol::Tcp, SocketAddr::new(own("outside")?, 8080));
        ensure!(source(&seen) == Some(own("node-1")?), "a pod is seen outside as {seen}");
        let seen = until_by(site, "shop-1", SocketAddr::new(ip, 80), "web-2")?;
        ensure!(source(&seen) == Some(own("shop-1")?), "a pod is seen as {seen}");
        let seen = until_by(site, "node-1", SocketAddr::new(ip, 80), "web-2")?;
        let through_tunnel = match family {
            Family::V4 => "10.77.1.0",
            Family::V6 => "fd00:10:77:1::",
        };
        let expected = Some(through_tunnel.parse()?);
        ensure!(source(&seen) == expected, "a node is seen as {seen}, not as {through_tunnel}");
    }
    site.plane.api().delete(&Id::service("default", "seen"), 0)
}

/// Asks until this pod is the one that answers.
fn until_by(site: &Site, from: &str, to: SocketAddr, pod: &str) -> Result<Outcome> {
    wait_for(&format!("{pod} to answer {from} at {to}"), PATIENCE, || {
        let outcome = site.ask(from, Protocol::Tcp, to);
        Ok(if outcome.by() == Some(pod) { Ok(outcome) } else { Err(outcome.to_string()) })
    })
}

fn source(outcome: &Outcome) -> Option<std::net::IpAddr> {
    match outcome {
        Outcome::Answer { seen_source, .. } => Some(seen_source.ip()),
        _ => None,
    }
}

/// Who may ask the web servers by policy: nobody, the shops, others, everybody; on the bridge of one node and through the
/// tunnel.
fn policies(site: &Site) -> Result<()> {
    let mut asked = Vec::new();
    for shop in ["shop-1", "shop-2"] {
        site.plane.run_pod(site.host(shop), "shop", &[])?;
        for (web, port) in [("web-1", 8080), ("web-2", 9090)] {
            let addresses = site.host(web).addresses().iter();
            asked.extend(addresses.map(|address| (shop, SocketAddr::new(*address, port))));
        }
    }
    let id = Id::network_policy("default", "web");
    for (who, ingress, let_in) in [
        ("nobody", json!([]), false),
        ("shops", from("shop"), true),
        ("others", from("else"), false),
    ] {
        site.plane.api().create(json!({
            "apiVersion": "networking.k8s.io/v1", "kind": "NetworkPolicy",
            "metadata": {"namespace": "default", "name": "web"},
            "spec": {
                "podSelector": {"matchLabels": {"app": "web"}},
                "policyTypes": ["Ingress"], "ingress": ingress,
            },
        }))?;
        expect_let_in(site, &asked, who, let_in)?;
        site.plane.api().delete(&id, 0)?;
        expect_let_in(site, &asked, "no policy", true)?;
    }
    Ok(())
}

fn from(app: &str) -> Value {
    json!([{"from": [{"podSelector": {"matchLabels": {"app": app}}}]}])
}

/// Waits until each is answered, or each is not.
fn expect_let_in(site: &Site, asked: &[(&str, SocketAddr)], who: &str, let_in: bool) -> Result<()> {
    for (shop, to) in asked {
        wait_for(&format!("{shop} to {to} where policy lets in {who}"), PATIENCE, || {
            let arrives = first_packet_arrives(site.host(shop).netns(), *to)?;
            Ok(if arrives == let_in { Ok(()) } else { Err(format!("it is: {arrives}")) })
        })?;
    }
    Ok(())
}
