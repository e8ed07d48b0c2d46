//! Services of each type over the slices of the real EndpointSlice controller.

use std::net::SocketAddr;

use anyhow::{Context, Result};
use serde_json::{Value, json};
use shunt_cluster::{Outcome, Protocol};

use crate::site::{FAMILIES, NODES, Site, cluster_ips, id, node_port, web_ports};

const BOTH: [&str; 2] = ["web-1", "web-2"];
/// The ports of [`web_ports`].
const PORTS: [(Protocol, u16); 2] = [(Protocol::Tcp, 80), (Protocol::Udp, 53)];
const EXTERNAL: [&str; 2] = ["203.0.113.10", "2001:db8:113::10"];
const BALANCED: [&str; 2] = ["203.0.113.20", "2001:db8:113::20"];

#[test]
fn services_of_each_type_over_real_slices() -> Result<()> {
    play(&mut Site::build()?)
}

/// Plays all of it on a site without Services.
pub(crate) fn play(site: &mut Site) -> Result<()> {
    for daemon in &mut site.daemons {
        daemon.wait_until_synced()?;
    }
    let site = &*site;
    lead_outsiders_to_external_addresses(site)?;
    let web = cluster_ip(site)?;
    node_ports(site)?;
    external_ips(site)?;
    load_balancer(site)?;
    single_family_and_number(site)?;
    readiness(site, &web)?;
    terminating_and_gone(site, &web)?;
    site.expect_clean_logs()
}

fn lead_outsiders_to_external_addresses(site: &Site) -> Result<()> {
    for (family, network) in FAMILIES.iter().zip(["203.0.113.0/24", "2001:db8:113::/64"]) {
        let via = site.host("node-1").address(*family).context("no address")?;
        site.host("outside").add_route(network.parse()?, via)?;
    }
    Ok(())
}

/// Both families and protocols, named ports with different numbers in the two pods, from pods and
/// nodes and from a server to itself; whoever is in the cluster is seen.
fn cluster_ip(site: &Site) -> Result<Value> {
    let spec = json!({"ipFamilyPolicy": "RequireDualStack", "ports": web_ports()});
    let web = site.create_service("web", spec)?;
    site.settle("web", &BOTH, &[])?;
    for ip in cluster_ips(&web)? {
        for (protocol, port) in PORTS {
            let to = SocketAddr::new(ip, port);
            for from in ["shop-1", "shop-2", "node-1", "node-2", "web-1"] {
                let answer = site.expect_reaches(from, protocol, to, &BOTH)?;
                if from.starts_with("shop") {
                    expect_seen(&answer, true)?;
                }
            }
        }
        // A port that the Service does not have.
        let closed = site.ask("shop-1", Protocol::Tcp, SocketAddr::new(ip, 81));
        assert_eq!(closed, Outcome::Refused, "{ip}");
    }
    Ok(web)
}

fn node_ports(site: &Site) -> Result<()> {
    let spec =
        json!({"type": "NodePort", "ipFamilyPolicy": "RequireDualStack", "ports": web_ports()});
    let service = site.create_service("ports", spec)?;
    site.settle("ports", &BOTH, &[])?;
    for node in NODES {
        for address in site.host(node).addresses() {
            for (index, (protocol, _)) in PORTS.into_iter().enumerate() {
                let to = SocketAddr::new(*address, node_port(&service, index)?);
                let answer = site.expect_reaches("outside", protocol, to, &BOTH)?;
                expect_seen(&answer, false)?;
                site.expect_reaches("shop-1", protocol, to, &BOTH)?;
                site.expect_reaches(node, protocol, to, &BOTH)?;
            }
        }
    }
    Ok(())
}

fn external_ips(site: &Site) -> Result<()> {
    let spec = json!({
        "ipFamilyPolicy": "RequireDualStack", "ports": web_ports(), "externalIPs": EXTERNAL,
    });
    site.create_service("external", spec)?;
    site.settle("external", &BOTH, &[])?;
    for address in EXTERNAL {
        for (protocol, port) in PORTS {
            let to = SocketAddr::new(address.parse()?, port);
            for from in ["outside", "shop-2", "node-2"] {
                site.expect_reaches(from, protocol, to, &BOTH)?;
            }
        }
    }
    Ok(())
}

/// Its addresses are in the status, as a controller of load balancers writes it. With the policy
/// Local, outsiders are seen and reach pods of the node they came to; for others nothing changes.
fn load_balancer(site: &Site) -> Result<()> {
    let spec = json!({
        "type": "LoadBalancer", "ipFamilyPolicy": "RequireDualStack", "ports": web_ports(),
        "externalTrafficPolicy": "Local",
    });
    site.create_service("balanced", spec)?;
    let ingress: Value = BALANCED.iter().map(|ip| json!({"ip": ip})).collect();
    let status = json!({"status": {"loadBalancer": {"ingress": ingress}}});
    site.plane.api().patch_status(&id("balanced"), status)?;
    site.settle("balanced", &BOTH, &[])?;
    for address in BALANCED {
        for (protocol, port) in PORTS {
            let to = SocketAddr::new(address.parse()?, port);
            // The way from outside leads through node-1.
            let answer = site.expect_reaches("outside", protocol, to, &["web-1"])?;
            expect_seen(&answer, true)?;
            for from in ["shop-2", "node-2"] {
                site.expect_reaches(from, protocol, to, &BOTH)?;
            }
        }
    }
    Ok(())
}

/// A Service of one family, whose port has no name and goes to a number.
fn single_family_and_number(site: &Site) -> Result<()> {
    for (name, family, index) in [("four", "IPv4", 0), ("six", "IPv6", 1)] {
        let spec = json!({
            "ipFamilyPolicy": "SingleStack", "ipFamilies": [family],
            "ports": [{"port": 8, "targetPort": 8080}],
        });
        let service = site.create_service(name, spec)?;
        let ips = BOTH.map(|pod| site.host(pod).addresses()[index]);
        site.plane.wait_for_endpoints(name, &ips, &[])?;
        shunt_kind_tests::control_plane::expect::settle(&site.plane, &NODES)?;
        // web-2 has nothing at that number: it refuses, as it would if asked itself.
        let to = SocketAddr::new(cluster_ips(&service)?[0], 8);
        let mut answered = false;
        for _ in 0..60 {
            match site.ask("shop-2", Protocol::Tcp, to) {
                Outcome::Refused => {}
                outcome => {
                    assert_eq!(outcome.by(), Some("web-1"), "{outcome}");
                    answered = true;
                }
            }
        }
        assert!(answered, "{name}");
    }
    Ok(())
}

fn readiness(site: &Site, web: &Value) -> Result<()> {
    for (ready, pods, others) in [(false, &["web-2"][..], &["web-1"][..]), (true, &BOTH, &[])] {
        site.plane.set_ready("web-1", ready)?;
        site.settle("web", pods, others)?;
        expect_all_reach(site, web, pods)?;
    }
    Ok(())
}

/// A pod that is told to end serves on until another is ready; without pods there is a refusal.
fn terminating_and_gone(site: &Site, web: &Value) -> Result<()> {
    let pod = |name| shunt_kind_tests::control_plane::Id::pod("default", name);
    let api = site.plane.api();
    api.delete(&pod("web-1"), 600)?;
    site.settle("web", &["web-2"], &["web-1"])?;
    expect_all_reach(site, web, &["web-2"])?;
    // Nobody is ready: whoever ends but still serves is asked.
    site.plane.set_ready("web-2", false)?;
    site.settle("web", &[], &["web-1", "web-2"])?;
    expect_all_reach(site, web, &["web-1"])?;
    site.plane.set_ready("web-2", true)?;
    site.settle("web", &["web-2"], &["web-1"])?;
    api.delete(&pod("web-1"), 0)?;
    api.delete(&pod("web-2"), 0)?;
    site.settle("web", &[], &[])?;
    for ip in cluster_ips(web)? {
        for from in ["shop-1", "node-2"] {
            let outcome = site.ask(from, Protocol::Tcp, SocketAddr::new(ip, 80));
            assert_eq!(outcome, Outcome::Refused, "{from} to {ip}");
        }
    }
    Ok(())
}

fn expect_all_reach(site: &Site, web: &Value, pods: &[&str]) -> Result<()> {
    for ip in cluster_ips(web)? {
        for (protocol, port) in PORTS {
            for from in ["shop-1", "node-2"] {
                site.expect_reaches(from, protocol, SocketAddr::new(ip, port), pods)?;
            }
        }
    }
    Ok(())
}

/// Whether the server saw the client's own address.
fn expect_seen(outcome: &Outcome, own: bool) -> Result<()> {
    let Outcome::Answer { seen_source, local, .. } = outcome else {
        anyhow::bail!("{outcome}");
    };
    anyhow::ensure!((seen_source.ip() == local.ip()) == own, "{outcome}, from {local}");
    Ok(())
}
