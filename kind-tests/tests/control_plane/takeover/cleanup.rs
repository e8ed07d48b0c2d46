//! `shunt cleanup` takes away what is ours and nothing else.

use std::fs;
use std::process::Command;
use std::time::Duration;

use anyhow::{Result, ensure};
use shunt_cluster::Netns;
use shunt_kind_tests::scenario::shunt_binary;

use crate::once::{shell, start};

/// IPVS is not in every kernel: this is played in the guest's. What is someone else's stays.
#[test]
fn cleanup_of_virtual_servers() -> Result<()> {
    let directory = tempfile::tempdir()?;
    let manifests = directory.path().join("all.yaml");
    fs::write(&manifests, MANIFESTS)?;
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

/// All tables that a daemon may have: Services', policy's on both families, that of domain names. Others' stay, even if
/// they are called alike.
#[test]
fn cleanup_of_all_tables() -> Result<()> {
    let (netns, scratch) = (Netns::new("tables")?, tempfile::tempdir()?);
    let manifests = scratch.path().join("manifests");
    fs::create_dir(&manifests)?;
    fs::write(manifests.join("all.yaml"), format!("{MANIFESTS}---\n{POLICY}"))?;
    // A bridge with a pod's port, which is not to be shown to netfilter.
    let (code, told) = shell(
        &netns,
        "set -e
        ip link add cni0 type bridge; ip address add 10.77.1.1/24 dev cni0; ip link set cni0 up
        ip link add v0 type veth peer name v1; ip link set v0 master cni0 up
        for family in ip ip6; do echo 0 >/proc/sys/net/bridge/bridge-nf-call-${family}tables || true; done
        nft add table bridge shunt-policies; nft add table inet shunts; nft add table ip shunt",
    )?;
    ensure!(code == Some(0), "{told}");
    let flags = ["--manifests", &manifests.to_string_lossy(), "--bridge-netfilter=off"];
    let has_all = |_: &str| {
        let tables = shell(&netns, "nft list tables")?.1;
        Ok(OURS.iter().all(|ours| tables.lines().any(|line| line == *ours)))
    };
    drop(start(&netns, scratch.path(), &flags, has_all)?);
    let (code, told) = shell(&netns, "shunt cleanup")?;
    ensure!(code == Some(0) && OURS.iter().all(|ours| told.contains(ours)), "{code:?}: {told}");
    let mut left: Vec<_> = shell(&netns, "nft list tables")?.1.lines().map(str::to_owned).collect();
    left.sort();
    assert_eq!(left, ["table bridge shunt-policies", "table inet shunts", "table ip shunt"]);
    Ok(())
}

pub(super) const MANIFESTS: &str = "\
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

const OURS: [&str; 4] = [
    "table inet shunt",
    "table inet shunt-policy",
    "table bridge shunt-policy",
    "table inet shunt-names",
];

const POLICY: &str = "\
apiVersion: v1
kind: Namespace
metadata: {name: default}
---
apiVersion: v1
kind: Node
metadata: {name: n}
status: {addresses: [{type: InternalIP, address: 10.77.1.1}]}
---
apiVersion: v1
kind: Pod
metadata: {name: a, namespace: default, labels: {app: a}}
spec: {nodeName: n, containers: [{name: a}]}
status: {phase: Running, podIP: 10.77.1.11, podIPs: [{ip: 10.77.1.11}]}
---
apiVersion: policy.networking.k8s.io/v1alpha2
kind: ClusterNetworkPolicy
metadata: {name: names}
spec:
  tier: Admin
  priority: 1
  subject: {pods: {podSelector: {matchLabels: {app: a}}}}
  egress:
  - {action: Accept, to: [{domainNames: ['*.example.com']}]}
  - {action: Deny, to: [{networks: ['0.0.0.0/0']}]}
";
