//! Goldens of the stages, made of the smallest directory of manifests that shows them all.

use expect_test::expect;
use shunt_model::compile::Settings;

use super::{plan, snapshot};
use crate::settings::{DetectLocal, PlanArgs};
use shunt_model::compile::full;
use shunt_model::snapshot::Snapshot;

const MANIFESTS: &str = "
apiVersion: v1
kind: Node
metadata: {name: worker-1}
spec: {podCIDRs: [10.244.1.0/24]}
status: {addresses: [{type: InternalIP, address: 192.0.2.11}]}
---
apiVersion: v1
kind: Service
metadata: {name: web, namespace: default}
spec:
  type: NodePort
  clusterIP: 10.96.0.10
  clusterIPs: [10.96.0.10, 'fd00:96::a']
  ports: [{name: http, port: 80, nodePort: 30080}]
---
apiVersion: v1
kind: Service
metadata: {name: empty, namespace: default}
spec:
  clusterIP: 10.96.0.11
  clusterIPs: [10.96.0.11]
  ports: [{port: 53, protocol: UDP}]
---
apiVersion: discovery.k8s.io/v1
kind: EndpointSlice
metadata:
  name: web-1
  namespace: default
  labels: {kubernetes.io/service-name: web}
addressType: IPv4
ports: [{name: http, port: 8080}]
endpoints:
- {addresses: [10.244.1.5], nodeName: worker-1}
- {addresses: [10.244.2.6], nodeName: worker-2, conditions: {ready: false}}
";

fn settings() -> Settings {
    let args = PlanArgs {
        node_name: Some("worker-1".into()),
        nodeport_addresses: vec!["primary".into()],
        cluster_cidr: Vec::new(),
        detect_local_mode: DetectLocal::NodeCidr,
        masquerade_all: false,
    };
    args.settings().unwrap()
}

fn load() -> Snapshot {
    let directory = tempfile::tempdir().unwrap();
    std::fs::write(directory.path().join("all.yaml"), MANIFESTS).unwrap();
    let (snapshot, problems) = super::load(directory.path()).unwrap();
    assert_eq!(problems, []);
    snapshot
}

#[test]
fn snapshot_as_text() {
    expect![[r#""#]].assert_eq(&snapshot::print(&load()));
}

#[test]
fn plan_as_text() {
    expect![[r#""#]].assert_eq(&plan::print(&full(&settings(), &load())));
}

#[test]
fn nft_as_text() {
    let script = shunt_nftables::text::render(&full(&settings(), &load()));
    assert!(script.starts_with("table inet shunt {\n"), "{script}");
    assert!(script.contains("10.244.1.5 . 8080"), "{script}");
}
