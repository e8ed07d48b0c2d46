//! `shunt policy` as people and pipelines start it.

use std::path::Path;
use std::process::{Command, Output};

use expect_test::{Expect, expect};
use serde_json::Value;

/// Five namespaces with their policies, and a Service.
const SHOP: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/policy");

fn policy(arguments: &[&str]) -> Output {
    policy_of(Path::new(SHOP), arguments)
}

fn policy_of(manifests: &Path, arguments: &[&str]) -> Output {
    let mut command = Command::new(env!("CARGO_BIN_EXE_shunt"));
    command.arg("policy").args(arguments).arg("--manifests").arg(manifests);
    command.output().unwrap()
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8(bytes.to_vec()).unwrap().replace(&format!("{SHOP}/"), "")
}

/// What is printed, with the exit code.
fn check(arguments: &[&str], code: i32, expected: &Expect) {
    let output = policy(arguments);
    assert_eq!(output.status.code(), Some(code), "{output:?}");
    expected.assert_eq(&(text(&output.stdout) + &text(&output.stderr)));
}

#[test]
fn explain_names_policy_and_rule_of_each_direction() {
    check(
        &["explain", "shop/cart-*", "billing/invoice-*", "8080"],
        0,
        &expect![[r#"
        shop/cart-* -> billing/invoice-* 8080/tcp: allowed
          shop/cart-84ca0 -> billing/invoice-f0c66 8080/tcp (IPv4, IPv6): allowed
            egress of shop/cart-84ca0: allowed: no policy selects it
            ingress of billing/invoice-f0c66: allowed by NetworkPolicy billing/invoice, spec.ingress[0]
          shop/cart-84ca0 -> billing/invoice-f3e49 8080/tcp (IPv4, IPv6): allowed
            egress of shop/cart-84ca0: allowed: no policy selects it
            ingress of billing/invoice-f3e49: allowed by NetworkPolicy billing/invoice, spec.ingress[0]
          shop/cart-f03f3 -> billing/invoice-f0c66 8080/tcp (IPv4, IPv6): allowed
            egress of shop/cart-f03f3: allowed: no policy selects it
            ingress of billing/invoice-f0c66: allowed by NetworkPolicy billing/invoice, spec.ingress[0]
          shop/cart-f03f3 -> billing/invoice-f3e49 8080/tcp (IPv4, IPv6): allowed
            egress of shop/cart-f03f3: allowed: no policy selects it
            ingress of billing/invoice-f3e49: allowed by NetworkPolicy billing/invoice, spec.ingress[0]
    "#]],
    );
    check(
        &["explain", "192.0.2.1", "shop/db-0", "5432"],
        0,
        &expect![[r#"
        192.0.2.1 -> shop/db-0 5432/tcp: denied
          egress of 192.0.2.1: no policy is for it: it is no pod of the cluster's network
          ingress of shop/db-0: denied: isolated by NetworkPolicies shop/data, shop/default-deny, shop/metrics, no rule allows it
    "#]],
    );
    // Through a Service its endpoint is asked about, at its own port.
    check(
        &["explain", "batch/report-*", "service:shop/db", "5000"],
        0,
        &expect![[r#"
        batch/report-* -> service:shop/db 5000/tcp: denied
          batch/report-4d1d9 -> 10.244.0.19 (shop/db-0) 5432/tcp (IPv4): denied
            egress of batch/report-4d1d9: allowed: no policy selects it
            ingress of 10.244.0.19 (shop/db-0): denied: isolated by NetworkPolicies shop/data, shop/default-deny, shop/metrics, no rule allows it
          batch/report-76be7 -> 10.244.0.19 (shop/db-0) 5432/tcp (IPv4): denied
            egress of batch/report-76be7: allowed: no policy selects it
            ingress of 10.244.0.19 (shop/db-0): denied: isolated by NetworkPolicies shop/data, shop/default-deny, shop/metrics, no rule allows it
          batch/report-cb553 -> 10.244.0.19 (shop/db-0) 5432/tcp (IPv4): denied
            egress of batch/report-cb553: allowed: no policy selects it
            ingress of 10.244.0.19 (shop/db-0): denied: isolated by NetworkPolicies shop/data, shop/default-deny, shop/metrics, no rule allows it
    "#]],
    );
    check(
        &["explain", "shop/db-0", "10.96.0.7", "5000"],
        0,
        &expect![[r#"
        shop/db-0 -> 10.96.0.7 5000/tcp: allowed
          shop/db-0 -> 10.244.0.19 (shop/db-0) 5432/tcp (IPv4): allowed
            egress of shop/db-0: allowed: a pod reaches itself
            ingress of 10.244.0.19 (shop/db-0): allowed: a pod reaches itself
    "#]],
    );
    let output = policy(&["explain", "shop/db-0", "198.51.100.7", "53/udp", "-o", "json"]);
    let answer: Value = serde_json::from_slice(&output.stdout).unwrap();
    assert_eq!(
        (answer["verdict"].as_str(), answer["protocol"].as_str()),
        (Some("allowed"), Some("udp"))
    );
    assert_eq!(
        answer["connections"][0]["egress"],
        "allowed by NetworkPolicy shop/data, spec.egress[0]"
    );
}

#[test]
fn what_passes_in_an_audit_is_told() {
    check(
        &["explain", "192.0.2.1", "shop/db-0", "5432", "--audit"],
        0,
        &expect![[r#"
        192.0.2.1 -> shop/db-0 5432/tcp: would be denied, but passes: audited
          egress of 192.0.2.1: no policy is for it: it is no pod of the cluster's network
          ingress of shop/db-0: denied: isolated by NetworkPolicies shop/data, shop/default-deny, shop/metrics, no rule allows it; it passes all the same: all nodes audit
    "#]],
    );
    let allowed = policy(&["explain", "shop/db-0", "10.96.0.7", "5000", "--audit"]);
    assert!(text(&allowed.stdout).contains(" 5000/tcp: allowed\n"), "{allowed:?}");

    let shop = std::fs::read_to_string(Path::new(SHOP).join("shop.yaml")).unwrap();
    let annotated = "{name: shop, annotations: {shunt.dev/network-policy: audit}, ";
    let directory = tempfile::tempdir().unwrap();
    let audited = shop.replace(
        "{name: shop, labels: {team: shop}}",
        &format!("{annotated}labels: {{team: shop}}}}"),
    );
    std::fs::write(directory.path().join("shop.yaml"), audited).unwrap();
    let ask = |from, to, more: &[&str]| {
        let asked = [&["explain", from, to, "5432"], more].concat();
        policy_of(directory.path(), &asked).stdout
    };
    expect![[r#"
        batch/report-4d1d9 -> shop/db-0 5432/tcp: would be denied, but passes: audited
          egress of batch/report-4d1d9: allowed: no policy selects it
          ingress of shop/db-0: denied: isolated by NetworkPolicies shop/data, shop/default-deny, shop/metrics, no rule allows it; it passes all the same: the Namespace shop is audited
    "#]].assert_eq(&text(&ask("batch/report-4d1d9", "shop/db-0", &[])));
    let answer: Value =
        serde_json::from_slice(&ask("192.0.2.1", "shop/db-0", &["-o", "json"])).unwrap();
    assert_eq!(answer["verdict"], "audited");
    let connection = &answer["connections"][0];
    assert_eq!((&connection["allowed"], &connection["audited"]), (&false.into(), &true.into()));
    // Pods of other namespaces have their own policies.
    expect![[r#"
        192.0.2.1 -> billing/invoice-f0c66 5432/tcp: denied
          egress of 192.0.2.1: no policy is for it: it is no pod of the cluster's network
          ingress of billing/invoice-f0c66: denied: isolated by NetworkPolicies billing/default-deny, billing/invoice, billing/metrics, no rule allows it
    "#]].assert_eq(&text(&ask("192.0.2.1", "billing/invoice-f0c66", &[])));
}

#[test]
fn what_is_asked_wrongly_is_told() {
    check(
        &["explain", "shop/nobody", "shop/db-0", "80"],
        2,
        &expect![[r#"
        shunt: who connects: there is no pod shop/nobody
    "#]],
    );
    check(
        &["explain", "shop/db-0", "service:shop/db", "81"],
        2,
        &expect![[r#"
        shunt: to whom: the Service shop/db has no port 81/tcp
    "#]],
    );
    check(
        &["explain", "fd00::1", "192.0.2.1", "80"],
        2,
        &expect![[r#"
        shunt: fd00::1 and 192.0.2.1 have no address family in common
    "#]],
    );
    let output = policy(&["explain", "a", "b", "80/http"]);
    assert_eq!(output.status.code(), Some(2));
    let told = text(&output.stderr);
    assert!(told.contains("\"80/http\" is no port such as 80, 53/udp or 9000/sctp"), "{told}");
}

#[test]
fn the_matrix_has_all_forms() {
    let of = |form| {
        let beside = ["--address", "192.0.2.1", "-n", "shop", "-n", "ingress"];
        let output = policy(&[&["matrix", "-o", form], &beside[..]].concat());
        assert!(output.status.success(), "{output:?}");
        text(&output.stdout)
    };
    expect![[r#"
        who may connect to whom on any port: + allowed, ~ some ports, . denied; columns are numbered as rows
                            1 2 3 4 5 6
        ingress/gateway-* 1 + . . . ~ +
        shop/cache-*      2 ~ . . . . ~
        shop/cart-*       3 + ~ . ~ . +
        shop/db-0         4 ~ . . + . ~
        shop/web-*        5 + ~ ~ ~ . +
        192.0.2.1         6 + . . . . +
        ~ ingress/gateway-* -> shop/web-*: tcp 8080
        ~ shop/cache-* -> ingress/gateway-*: tcp 53; udp 53
        ~ shop/cache-* -> 192.0.2.1: tcp 53; udp 53
        ~ shop/cart-* -> shop/cache-*: tcp 5432,6379
        ~ shop/cart-* -> shop/db-0: tcp 5432,6379
        ~ shop/db-0 -> ingress/gateway-*: tcp 53; udp 53
        ~ shop/db-0 -> 192.0.2.1: tcp 53; udp 53
        ~ shop/web-* -> shop/cache-*: tcp 5432,6379
        ~ shop/web-* -> shop/cart-*: tcp 8080
        ~ shop/web-* -> shop/db-0: tcp 5432,6379
    "#]].assert_eq(&of("text"));
    let json: Value = serde_json::from_str(&of("json")).unwrap();
    let connections = json["connections"].as_array().unwrap();
    assert_eq!(connections.len(), 36);
    let of_pair = |from: &str, to: &str| {
        let pair = |one: &&Value| one["from"] == from && one["to"] == to;
        connections.iter().find(pair).unwrap()
    };
    assert_eq!(of_pair("192.0.2.1", "shop/db-0")["verdict"], "denied");
    let web = of_pair("ingress/gateway-*", "shop/web-*");
    assert_eq!((&web["verdict"], &web["parts"][0]["what"]), (&"some".into(), &"tcp 8080".into()));
    let page = of("html");
    let data = page.split_once("id=\"data\">").unwrap().1.split_once("</script>").unwrap().0;
    let data: Value = serde_json::from_str(data).unwrap();
    let rows = data["rows"].as_array().unwrap();
    let names: Vec<_> = data["ends"].as_array().unwrap().iter().map(|end| &end["name"]).collect();
    assert_eq!(names, ["gateway-*", "cache-*", "cart-*", "db-0", "web-*", "192.0.2.1"]);
    let kind = &data["kinds"][usize::try_from(rows[0][4].as_u64().unwrap()).unwrap()];
    assert_eq!(kind["verdict"], "some");
    assert!(!page.contains("src=\"") && !page.contains("href=\"http"), "needs nothing else");
}

#[test]
fn the_matrix_of_one_port() {
    let port = ["matrix", "--port", "5432", "-n", "shop"];
    check(
        &port,
        0,
        &expect![[r#"
        who may connect to whom on 5432/tcp: + allowed, ~ some ports, . denied; columns are numbered as rows
                       1 2 3 4
        shop/cache-* 1 . . . .
        shop/cart-*  2 + . + .
        shop/db-0    3 . . + .
        shop/web-*   4 + . + .
    "#]],
    );
}

#[test]
fn expectations_are_checked() {
    let file = Path::new(SHOP).join("expectations/shop.yaml");
    check(
        &["test", file.to_str().unwrap()],
        0,
        &expect![[r#"
        11 of 11 expectations hold
    "#]],
    );
}

/// A file of expectations, and what becomes of it.
fn tested(content: &str, code: i32, expected: &Expect) {
    let directory = tempfile::tempdir().unwrap();
    let file = directory.path().join("expected.yaml");
    std::fs::write(&file, content).unwrap();
    let output = policy(&["test", file.to_str().unwrap()]);
    assert_eq!(output.status.code(), Some(code), "{output:?}");
    let told = text(&output.stdout) + &text(&output.stderr);
    expected.assert_eq(&told.replace(&format!("{}/", directory.path().display()), ""));
}

#[test]
fn an_expectation_that_does_not_hold_fails_and_tells_why() {
    let content = "expect:\n- {from: 192.0.2.1, to: shop/db-0, port: [5432, 53/udp], verdict: allow}\n\
                   - from: shop/cart-*\n  to: shop/db-0\n  port: 5432\n  verdict: deny\n";
    tested(
        content,
        1,
        &expect![[r#"
        expected.yaml:2: 192.0.2.1 -> shop/db-0 5432/tcp: allow is expected, but:
            egress of 192.0.2.1: no policy is for it: it is no pod of the cluster's network
            ingress of shop/db-0: denied: isolated by NetworkPolicies shop/data, shop/default-deny, shop/metrics, no rule allows it
        expected.yaml:2: 192.0.2.1 -> shop/db-0 53/udp: allow is expected, but:
            egress of 192.0.2.1: no policy is for it: it is no pod of the cluster's network
            ingress of shop/db-0: denied: isolated by NetworkPolicies shop/data, shop/default-deny, shop/metrics, no rule allows it
        expected.yaml:3: shop/cart-* -> shop/db-0 5432/tcp: deny is expected, but:
            egress of shop/cart-84ca0: allowed: no policy selects it
            ingress of shop/db-0: allowed by NetworkPolicy shop/data, spec.ingress[0]
            egress of shop/cart-f03f3: allowed: no policy selects it
            ingress of shop/db-0: allowed by NetworkPolicy shop/data, spec.ingress[0]
        0 of 3 expectations hold
        shunt: 3 of 3 expectations do not hold
    "#]],
    );
}

#[test]
fn a_file_that_is_wrong_is_told_with_line_and_field() {
    let wrong = [
        "expect:\n- {from: shop/db-0, to: shop/nobody, port: 80, verdict: deny}\n",
        "expect:\n- {from: shop/db-0, to: shop/db-0, port: 80/icmp, verdict: deny}\n",
        "expect:\n- from: shop/db-0\n  to: shop/db-0\n  port: 80\n  verdict: refuse\n",
        "expect:\n- {from: shop/db-0, to: shop/db-0, prot: 80, verdict: deny}\n",
        "pods:\n- {name: db-0, namespace: shop}\nexpect: []\n",
        "expect: []\n",
        "expect:\n- from: [\n",
    ];
    let directory = tempfile::tempdir().unwrap();
    let mut told = String::new();
    for (number, content) in wrong.into_iter().enumerate() {
        let file = directory.path().join(format!("{number}.yaml"));
        std::fs::write(&file, content).unwrap();
        let output = policy(&["test", file.to_str().unwrap()]);
        assert_eq!(output.status.code(), Some(2), "{content}: {output:?}");
        told += &text(&output.stderr).replace(&format!("{}/", directory.path().display()), "");
    }
    expect![[r#"
        shunt: 0.yaml:2: expect[0]: to: there is no pod shop/nobody
        shunt: 1.yaml:2: expect[0]: port: "80/icmp" is no port such as 80, 53/udp or 9000/sctp
        shunt: 2.yaml:5: expect[0].verdict: unknown variant `refuse`, expected one of allow, deny
        shunt: 3.yaml:2: expect[0].prot: unknown field `prot`, expected one of from, to, port, verdict
        shunt: 4.yaml:2: pods[0]: there is a pod shop/db-0 already
        shunt: 5.yaml: expect: nothing is expected
        shunt: 6.yaml:2: expect[0].from: unclosed bracket '['
    "#]].assert_eq(&told);
}
