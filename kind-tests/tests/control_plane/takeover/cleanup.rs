//! `shunt cleanup` takes away what is ours and nothing else.

use std::process::Command;
use std::time::Duration;

use anyhow::{Result, ensure};
use shunt_kind_tests::scenario::shunt_binary;

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
