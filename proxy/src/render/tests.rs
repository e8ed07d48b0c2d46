//! Goldens of the stages, made of the smallest directory of manifests that shows them all.

use expect_test::expect;
use shunt_model::compile::Settings;

use super::{plan, snapshot};
use crate::settings::PlanArgs;
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
- {addresses: [10.244.2.6], nodeName: worker-2, conditions: {ready: false, serving: false}}
";

fn settings() -> Settings {
    let args = PlanArgs {
        node_name: Some("worker-1".into()),
        detect_local_mode: Some("NodeCIDR".into()),
        ..PlanArgs::default()
    };
    args.settings().unwrap()
}

fn load() -> Snapshot {
    let directory = tempfile::tempdir().unwrap();
    std::fs::write(directory.path().join("all.yaml"), MANIFESTS).unwrap();
    let loaded = super::load(directory.path()).unwrap();
    let (snapshot, problems) = (loaded.snapshot, loaded.file_problems);
    assert_eq!(problems, []);
    snapshot
}

#[test]
fn snapshot_as_text() {
    expect![[r#"
        nodes:
        - node: worker-1
          addresses: [192.0.2.11]
          podCIDRs: [10.244.1.0/24]
        services:
        - service: default/empty
          type: ClusterIP
          clusterIPs: [10.96.0.11]
          externalTrafficPolicy: Cluster
          internalTrafficPolicy: Cluster
          ports:
          - port: 53/udp
        - service: default/web
          type: NodePort
          clusterIPs: [10.96.0.10, fd00:96::a]
          externalTrafficPolicy: Cluster
          internalTrafficPolicy: Cluster
          ports:
          - port: 80/tcp
            name: http
            nodePort: 30080
        endpointSlices:
        - endpointSlice: default/web-1
          service: default/web
          ports:
          - port: 8080/tcp
            name: http
          endpoints:
          - address: 10.244.1.5
            node: worker-1
            conditions: [ready, serving]
          - address: 10.244.2.6
            node: worker-2
    "#]]
    .assert_eq(&snapshot::print(&load()));
}

#[test]
fn plan_as_text() {
    expect![[r#"
        node:
          nodePortAddresses: [192.0.2.11]
          localSources: [10.244.1.0/24]
          masqueradeAll: false
        services:
        - service: default/empty
          type: ClusterIP
          clusterIPs: [10.96.0.11]
          frontends:
          - frontend: 10.96.0.11:53/udp
            kind: ClusterIP
            masquerade: outsiders
            action: reject
        - service: default/web
          type: NodePort
          clusterIPs: [10.96.0.10, fd00:96::a]
          hairpins: [10.244.1.5]
          frontends:
          - frontend: 10.96.0.10:80/tcp
            kind: ClusterIP
            port: http
            masquerade: outsiders
            action: forward
            endpoints: [10.244.1.5:8080]
          - frontend: "[fd00:96::a]:80/tcp"
            kind: ClusterIP
            port: http
            masquerade: outsiders
            action: reject
          - frontend: node(IPv4):30080/tcp
            kind: NodePort
            port: http
            masquerade: always
            action: forward
            endpoints: [10.244.1.5:8080]
          - frontend: node(IPv6):30080/tcp
            kind: NodePort
            port: http
            masquerade: always
            action: reject
    "#]]
    .assert_eq(&plan::print(&full(&settings(), &load())));
}

#[test]
fn nft_as_text() {
    let script = shunt_nftables::text::render(&full(&settings(), &load()));
    assert!(script.starts_with("table inet shunt {\n"), "{script}");
    assert!(script.contains("10.244.1.5 . 8080"), "{script}");
}
