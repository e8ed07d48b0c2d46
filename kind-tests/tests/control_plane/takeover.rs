//! A running node is taken over from kube-proxy, and left: no connection is refused or reset.

use std::net::SocketAddr;
use std::process::Command;
use std::thread;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use serde_json::{Value, json};
use shunt_cluster::{Load, LoadSpec, Netns, Protocol};
use shunt_kind_tests::control_plane::{Daemon, DaemonSpec, KubeProxy};
use shunt_kind_tests::scenario::shunt_binary;

use crate::site::{Site, cluster_ips, node_port, web_ports};

const NODE: &str = "node-1";
/// New connections a second, of all loads.
const RATE: u32 = 500;

#[test]
fn from_iptables_mode() -> Result<()> {
    take_over("iptables")
}

#[test]
fn from_nftables_mode() -> Result<()> {
    take_over("nftables")
}

fn nft(netns: &Netns, arguments: &'static [&str]) -> Result<String> {
    let output = netns.run(move || Command::new("nft").args(arguments).output())?;
    ensure!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    Ok(String::from_utf8_lossy(&output.stdout).into_owned())
}

/// Constant load of new connections on a Service, from a pod, the node itself and outside.
fn loads(site: &Site, service: &Value) -> Result<Vec<Load>> {
    let ips = cluster_ips(service)?;
    let flows = [
        ("shop-1", SocketAddr::new(ips[0], 80)),
        ("shop-1", SocketAddr::new(ips[1], 80)),
        (NODE, SocketAddr::new(ips[0], 80)),
        ("outside", SocketAddr::new(site.host(NODE).ip(), node_port(service, 0)?)),
    ];
    let per_second = RATE / u32::try_from(flows.len())?;
    let start = |(from, destination): (&str, _)| {
        let spec = LoadSpec {
            protocol: Protocol::Tcp,
            destination,
            per_second,
            duration: Duration::from_secs(600),
            timeout: Duration::from_secs(10),
        };
        Load::start(site.host(from).netns(), &spec)
    };
    flows.into_iter().map(start).collect()
}

fn take_over(mode: &str) -> Result<()> {
    let site = Site::without_shunt()?;
    let spec =
        json!({"type": "NodePort", "ipFamilyPolicy": "RequireDualStack", "ports": web_ports()});
    let service = site.create_service("steady", spec)?;
    let ips: Vec<_> = ["web-1", "web-2"].map(|pod| site.host(pod).addresses().to_vec()).concat();
    site.plane.wait_for_endpoints("steady", &ips, &[])?;
    let netns = site.host(NODE).netns();
    // What is the kubelet's stays.
    nft(netns, &["add", "table", "ip", "mangle"])?;
    nft(netns, &["add", "chain", "ip", "mangle", "KUBE-KUBELET-CANARY"])?;
    let kube_proxy = KubeProxy::start(&site.plane, NODE, mode)?;
    kube_proxy.wait_until_synced()?;
    let running = loads(&site, &service)?;
    thread::sleep(Duration::from_secs(1));

    // While the other one runs nothing is written.
    let mut daemon = Daemon::start(&site.plane, NODE, &DaemonSpec::default())?;
    daemon.wait_for_log("a Service must have one proxy")?;
    let ruleset = nft(netns, &["list", "tables"])?;
    ensure!(!ruleset.contains("inet shunt"), "{ruleset}");
    kube_proxy.stop()?;
    let status = daemon.wait_until_synced()?;
    daemon.wait_for_log("shunt has taken over")?;
    let ruleset = nft(netns, &["list", "ruleset"])?;
    for theirs in
        ["KUBE-SVC", "KUBE-SERVICES", "KUBE-SEP", "KUBE-POSTROUTING", "table ip kube-proxy"]
    {
        ensure!(!ruleset.contains(theirs), "{theirs} is still there:\n{ruleset}");
    }
    ensure!(ruleset.contains("KUBE-KUBELET-CANARY"), "{ruleset}");
    thread::sleep(Duration::from_secs(1));
    println!("taken over from {mode} mode; first sync after {:?} ms", status.first_sync);

    // And back.
    daemon.stop()?;
    let kube_proxy = KubeProxy::start(&site.plane, NODE, mode)?;
    kube_proxy.wait_until_synced()?;
    cleanup(netns)?;
    let ruleset = nft(netns, &["list", "ruleset"])?;
    ensure!(!ruleset.contains("inet shunt"), "{ruleset}");
    thread::sleep(Duration::from_secs(1));
    for load in running {
        let report = load.stop()?;
        println!("{report}");
        assert!(report.sent > 500, "{report}");
        assert_eq!(report.losses(), 0, "{report}");
    }
    Ok(())
}

fn cleanup(netns: &Netns) -> Result<()> {
    let binary = shunt_binary()?;
    let output = netns.run(move || Command::new(binary).arg("cleanup").output())?;
    let told = String::from_utf8_lossy(&output.stdout).into_owned();
    ensure!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    told.contains("table inet shunt").then_some(()).context(told)
}

/// IPVS is not in every kernel: this is played in the guest's. What is someone else's stays.
#[test]
fn cleanup_of_virtual_servers() -> Result<()> {
    let directory = tempfile::tempdir()?;
    let manifests = directory.path().join("all.yaml");
    std::fs::write(&manifests, MANIFESTS)?;
    let script = format!(
        "set -e
        ip link set lo up
        ipvsadm -A -t 192.0.2.1:80 -s rr
        {shunt} run --manifests {manifests} --node-name n --proxy-mode ipvs >/dev/null 2>&1 &
        pid=$!
        for i in $(seq 100); do ipvsadm -Ln | grep -q 10.96.0.9:80 && break; sleep 0.1; done
        ipvsadm -Ln; ip -4 address show dev kube-ipvs0
        echo ---; {shunt} cleanup 2>&1 || echo refused
        kill -9 $pid; wait $pid || true
        {shunt} cleanup; {shunt} cleanup
        echo ---; ipvsadm -Ln; ip link; nft list tables",
        shunt = shunt_binary()?.display(),
        manifests = directory.path().display(),
    );
    let guest = shunt_guest::Guest::builder().memory(512).timeout(Duration::from_secs(120));
    let outcome = guest.run(Command::new("sh").args(["-c", &script]))?;
    let told = &outcome.stdout;
    ensure!(outcome.code == 0, "{told}\n{}", outcome.stderr);
    let parts: Vec<_> = told.split("---\n").collect();
    let [before, cleanups, after] = parts.as_slice() else { anyhow::bail!("{told}") };
    ensure!(before.contains("10.96.0.9:80 ") && before.contains("inet 10.96.0.9/32"), "{told}");
    ensure!(cleanups.starts_with("shunt: table inet shunt belongs to a running shunt"), "{told}");
    ensure!(cleanups.contains("1 virtual servers, 1 addresses with its device"), "{told}");
    ensure!(cleanups.ends_with("nothing of shunt's is there\n"), "{told}");
    ensure!(after.contains("192.0.2.1:80") && !after.contains("10.96.0.9"), "{told}");
    ensure!(!after.contains("kube-ipvs0") && !after.contains("inet shunt"), "{told}");
    Ok(())
}

const MANIFESTS: &str = "\
apiVersion: v1
kind: Service
metadata: {name: web, namespace: default}
spec: {clusterIP: 10.96.0.9, ports: [{port: 80}]}
---
apiVersion: discovery.k8s.io/v1
kind: EndpointSlice
metadata: {name: web-1, namespace: default, labels: {kubernetes.io/service-name: web}}
addressType: IPv4
ports: [{name: \"\", port: 80}]
endpoints: [{addresses: [10.0.0.7]}]
";
