//! `shunt explain` as people start it, on a directory of manifests.

use std::path::Path;
use std::process::{Command, Output};

use expect_test::{Expect, expect};
use serde_json::Value;

/// Two nodes, a Service of each fate, and a policy.
const CLUSTER: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/explain");

fn explain(arguments: &[&str]) -> Output {
    let mut command = Command::new(env!("CARGO_BIN_EXE_shunt"));
    command.arg("explain").args(arguments).env_remove("NODE_NAME");
    command.output().unwrap()
}

/// What is printed, with the exit code.
fn check(arguments: &[&str], code: i32, expected: &Expect) {
    let output = explain(&[arguments, &["--manifests", CLUSTER]].concat());
    assert_eq!(output.status.code(), Some(code), "{output:?}");
    let text = |bytes: Vec<u8>| String::from_utf8(bytes).unwrap();
    expected.assert_eq(&(text(output.stdout) + &text(output.stderr)));
}

#[test]
fn a_pod_asks_through_a_service() {
    check(
        &["shop/web-0", "service:shop/db", "5432"],
        0,
        &expect![[r#"
        shop/web-0 (10.244.1.10) -> 10.96.0.20:5432/tcp, on n1: goes to an endpoint
          why        Service shop/db has 2 endpoints for it
          frontend   10.96.0.20:5432/tcp, ClusterIP of shop/db, port sql
          spread     at random, by weight; a client keeps its endpoint for 10800 s after its last connection
          to         10.244.1.20:5432 shop/db-0 on n1, 75.0 % of the connections; seen as 10.244.1.10; policy allows it
                       egress: allowed: no policy selects it
                       ingress: allowed by NetworkPolicy shop/db, spec.ingress[0]
          to         10.244.2.20:5432 shop/db-1 on n2, 25.0 % of the connections; seen as 10.244.1.10; policy allows it
                       egress: allowed: no policy selects it
                       ingress: allowed by NetworkPolicy shop/db, spec.ingress[0]
          not used   10.244.2.21:5432: it is not ready
          not used   10.244.1.22:5432: it ends; it serves on only where no other is ready
    "#]],
    );
}

#[test]
fn weights_and_policy_local_are_told() {
    check(
        &["198.51.100.7", "192.0.2.2", "30432", "--node-name", "n2"],
        0,
        &expect![[r#"
        198.51.100.7 -> node n2 (192.0.2.2:30432/tcp), on n2: goes to an endpoint
          why        Service shop/db has 1 endpoint for it
          frontend   node(IPv4):30432/tcp, NodePort of shop/db, port sql
          to         10.244.2.20:5432 shop/db-1 on n2, 100.0 % of the connections; seen as 198.51.100.7; policy denies it
                       egress: no policy is for it: it is no pod of the cluster's network
                       ingress: denied: isolated by NetworkPolicy shop/db, no rule allows it
          not used   10.244.1.20:5432: it is on n1, and the traffic policy is Local
          not used   10.244.2.21:5432: it is not ready
          not used   10.244.1.22:5432: it ends; it serves on only where no other is ready
    "#]],
    );
}

#[test]
fn policy_of_another_node_sees_our_address() {
    let asked = ["198.51.100.7", "10.96.0.20", "5432", "--node-name", "n1"];
    check(
        &[&asked[..], &["--detect-local-mode", "NodeCIDR"]].concat(),
        0,
        &expect![[r#"
        198.51.100.7 -> 10.96.0.20:5432/tcp, on n1: goes to an endpoint
          why        Service shop/db has 2 endpoints for it
          frontend   10.96.0.20:5432/tcp, ClusterIP of shop/db, port sql
          spread     at random, by weight; a client keeps its endpoint for 10800 s after its last connection
          to         10.244.1.20:5432 shop/db-0 on n1, 75.0 % of the connections; seen as 192.0.2.1, the node's; policy denies it
                       egress: no policy is for it: it is no pod of the cluster's network
                       ingress: denied: isolated by NetworkPolicy shop/db, no rule allows it
          to         10.244.2.20:5432 shop/db-1 on n2, 25.0 % of the connections; seen as 192.0.2.1, the node's; policy denies it
                       egress: no policy is for it: it is no pod of the cluster's network
                       ingress: denied: isolated by NetworkPolicy shop/db, no rule allows it
          not used   10.244.2.21:5432: it is not ready
          not used   10.244.1.22:5432: it ends; it serves on only where no other is ready
    "#]],
    );
}

#[test]
fn what_is_refused_or_dropped_has_a_reason() {
    check(
        &["shop/web-0", "10.96.0.20", "80"],
        0,
        &expect![[r#"
        shop/web-0 (10.244.1.10) -> 10.96.0.20:80/tcp, on n1: is refused
          why        it is the ClusterIP of Service shop/db, which has no such port
    "#]],
    );
    check(
        &["198.51.100.7", "203.0.113.30", "80", "--node-name", "n1"],
        0,
        &expect![[r#"
        198.51.100.7 -> 203.0.113.30:80/tcp, on n1: is refused
          why        Service shop/idle has no endpoint: no EndpointSlice names it
          frontend   203.0.113.30:80/tcp, LoadBalancer of shop/idle
    "#]],
    );
    check(
        &["192.0.2.200", "203.0.113.30", "80", "--node-name", "n1"],
        0,
        &expect![[r#"
        192.0.2.200 -> 203.0.113.30:80/tcp, on n1: is dropped
          why        loadBalancerSourceRanges of Service shop/idle do not hold the client
          frontend   203.0.113.30:80/tcp, LoadBalancer of shop/idle
    "#]],
    );
}

#[test]
fn what_keeps_a_service_from_answering_is_told() {
    check(
        &["shop/web-0", "service:shop/mistaken", "81"],
        0,
        &expect![[r#"
        shop/web-0 (10.244.1.10) -> 10.96.0.40:81/tcp, on n1: is refused
          why        Service shop/mistaken has no endpoint: its EndpointSlices have no port named "web" (tcp), which the Service's port is; they have: "http" (tcp)
          frontend   10.96.0.40:81/tcp, ClusterIP of shop/mistaken, port web
          remark     Service shop/mistaken: spec.externalIPs[0]: 2001:db8::40 is IPv6, the Service has no such ClusterIP; skipped
    "#]],
    );
    check(
        &["198.51.100.7", "203.0.113.1", "30081", "--node-name", "n1"],
        0,
        &expect![[r#"
        198.51.100.7 -> node n1 (203.0.113.1:30081/tcp), on n1: goes on as it is
          why        no Service has this address and port
          to         203.0.113.1:30081 node n1; seen as 198.51.100.7; policy allows it
                       egress: no policy is for it: it is no pod of the cluster's network
                       ingress: no policy is for it: it is no pod of the cluster's network
          remark     Service shop/mistaken: spec.externalIPs[0]: 2001:db8::40 is IPv6, the Service has no such ClusterIP; skipped
          remark     30081 is a node port of Service shop/mistaken; nodePortAddresses has it served on 192.0.2.1 alone
    "#]],
    );
    check(
        &["2001:db8::7", "2001:db8::40", "81", "--node-name", "n1"],
        0,
        &expect![[r#"
        2001:db8::7 -> [2001:db8::40]:81/tcp, on n1: goes on as it is
          why        no Service has this address and port
          to         [2001:db8::40]:81; seen as 2001:db8::7; policy allows it
                       egress: no policy is for it: it is no pod of the cluster's network
                       ingress: no policy is for it: it is no pod of the cluster's network
          remark     Service shop/mistaken: spec.externalIPs[0]: 2001:db8::40 is IPv6, the Service has no such ClusterIP; skipped
    "#]],
    );
}

#[test]
fn the_node_and_pods_without_a_service() {
    check(
        &["node", "10.96.0.30", "80", "--node-name", "n2"],
        0,
        &expect![[r#"
        node n2 (192.0.2.2) -> 10.96.0.30:80/tcp, on n2: is refused
          why        Service shop/idle has no endpoint: no EndpointSlice names it
          frontend   10.96.0.30:80/tcp, ClusterIP of shop/idle
    "#]],
    );
    check(
        &["shop/web-0", "shop/db-1", "80"],
        0,
        &expect![[r#"
        shop/web-0 (10.244.1.10) -> shop/db-1 (10.244.2.20:80/tcp), on n1: goes on as it is
          why        no Service has this address and port
          to         10.244.2.20:80 shop/db-1 on n2; seen as 10.244.1.10; policy denies it
                       egress: allowed: no policy selects it
                       ingress: denied: isolated by NetworkPolicy shop/db, no rule allows it
    "#]],
    );
    check(
        &["shop/web-0", "shop/db-1", "80", "--node-name", "n2"],
        0,
        &expect![[r#"
        shop/web-0 (10.244.1.10) -> shop/db-1 (10.244.2.20:80/tcp), on n2: goes on as it is
          why        no Service has this address and port
          to         10.244.2.20:80 shop/db-1 on n2; seen as 10.244.1.10; policy denies it
                       egress: allowed: no policy selects it
                       ingress: denied: isolated by NetworkPolicy shop/db, no rule allows it
          remark     the client is on n1, where its packets meet Services first; this is what n2 makes of those that reach it unchanged
    "#]],
    );
}

#[test]
fn what_passes_in_an_audit_is_told() {
    check(
        &["shop/web-0", "shop/db-1", "80", "--audit"],
        0,
        &expect![[r#"
        shop/web-0 (10.244.1.10) -> shop/db-1 (10.244.2.20:80/tcp), on n1: goes on as it is
          why        no Service has this address and port
          to         10.244.2.20:80 shop/db-1 on n2; seen as 10.244.1.10; policy would deny it, but it passes: audited
                       egress: allowed: no policy selects it
                       ingress: denied: isolated by NetworkPolicy shop/db, no rule allows it; it passes all the same: all nodes audit
    "#]],
    );
    let cluster = std::fs::read_to_string(Path::new(CLUSTER).join("cluster.yaml")).unwrap();
    let annotated = "{name: shop, annotations: {shunt.dev/network-policy: audit}}";
    let directory = tempfile::tempdir().unwrap();
    let file = directory.path().join("cluster.yaml");
    std::fs::write(file, cluster.replace("{name: shop}", annotated)).unwrap();
    let manifests = directory.path().to_str().unwrap();
    let output = explain(&["shop/web-0", "shop/db-1", "80", "--manifests", manifests]);
    let said = String::from_utf8(output.stdout).unwrap();
    let audited = "policy would deny it, but it passes: audited\n";
    assert!(said.contains(audited) && said.contains("the Namespace shop is audited"), "{said}");
}

#[test]
fn what_stands_for_nothing_is_named() {
    check(
        &["shop/nobody", "10.96.0.20", "80"],
        2,
        &expect![[r#"
        shunt: FROM: there is no pod shop/nobody
    "#]],
    );
    check(
        &["shop/web-0", "service:shop/nothing", "80"],
        2,
        &expect![[r#"
        shunt: TO: no Service shop/nothing is served: there is none, it is headless or an ExternalName, or it is another proxy's
    "#]],
    );
    check(
        &["shop/web-0", "fd00::1", "80"],
        2,
        &expect![[r#"
        shunt: shop/web-0 and fd00::1 have no address family in common
    "#]],
    );
    check(
        &["node", "10.96.0.20", "80", "--node-name", "n3"],
        2,
        &expect![[r#"
        shunt: FROM: the node n3 has no address that is known
    "#]],
    );
}

#[test]
fn programs_get_json() {
    let asked = ["shop/web-0", "10.96.0.20", "5432", "-o", "json", "--manifests", CLUSTER];
    let output = explain(&asked);
    let answers: Value = serde_json::from_slice(&output.stdout).unwrap();
    assert_eq!(answers[0]["fate"], "forward");
    assert_eq!(answers[0]["frontend"]["name"], "db");
    assert_eq!(answers[0]["ends"][0]["policy"]["ingress"]["allowed"], true);
}

#[test]
fn without_a_daemon_nobody_answers() {
    let output = explain(&["10.0.0.1", "10.96.0.20", "80", "--address", "127.0.0.1:1"]);
    assert_eq!(output.status.code(), Some(1), "{output:?}");
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(said.contains("no running daemon was found: 127.0.0.1:1"), "{said}");
}
