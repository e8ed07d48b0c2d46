use shunt_model::address::Protocol;
use shunt_netpolicy::cluster::{Action, ClusterNetworkPolicy, PeerNode, Tier};
use shunt_netpolicy::object::{Peer, PortNumber, Rule};
use shunt_netpolicy::snapshot::Object as PolicyObject;

use super::*;
use crate::source::wire::cluster as wire;

fn policy(spec: Value) -> (ClusterNetworkPolicy, Vec<String>) {
    let object = json!({"metadata": {"name": "p"}, "spec": spec});
    let converted = convert::<wire::ClusterNetworkPolicy>(object);
    let told = |problem: &Problem| format!("{}: {}", problem.field, problem.reason);
    let problems = converted.problems.iter().map(told).collect();
    match converted.object {
        Some(PolicyObject::ClusterPolicy(policy)) => (policy, problems),
        other => panic!("{other:?}"),
    }
}

/// A policy with these rules for egress; what became of them, and what is told.
fn egress(rules: Value) -> (Vec<(Action, Rule)>, Vec<String>) {
    let spec =
        json!({"tier": "Admin", "priority": 1, "subject": {"namespaces": {}}, "egress": rules});
    let (policy, problems) = policy(spec);
    (policy.egress.into_iter().map(|rule| (rule.action, rule.on)).collect(), problems)
}

#[test]
fn every_field_is_read() {
    let (policy, problems) = policy(json!({
        "tier": "Baseline", "priority": 1000,
        "subject": {"pods": {"namespaceSelector": {"matchLabels": {"team": "a"}}, "podSelector": {}}},
        "ingress": [{"name": "in", "action": "Pass", "from": [{"namespaces": {}}]}],
        "egress": [{"action": "Accept", "to": [
            {"pods": {"podSelector": {"matchLabels": {"app": "web"}}}}, {"nodes": {}},
            {"networks": ["10.0.0.0/8", "fd00::/8"]}, {"domainNames": ["*.Example.com."]},
        ], "protocols": [
            {"tcp": {"destinationPort": {"number": 80}}},
            {"udp": {"destinationPort": {"range": {"start": 5, "end": 9}}}}, {"sctp": {}},
        ]}, {"action": "Deny", "to": [{"namespaces": {}}],
             "protocols": [{"destinationNamedPort": "http"}]}],
    }));
    assert_eq!(problems, Vec::<String>::new());
    assert_eq!((policy.tier, policy.priority), (Tier::Baseline, 1000));
    assert_eq!(
        (policy.namespaces.to_string(), policy.pods.to_string()),
        ("team=a".into(), "*".into())
    );
    assert_eq!((policy.ingress[0].name.as_ref(), policy.ingress[0].action), ("in", Action::Pass));
    let on = &policy.egress[0].on;
    assert!(matches!(
        on.peers.as_deref(),
        Some([
            Peer::Pods { namespaces: Some(_), .. },
            Peer::Nodes(_),
            Peer::Block(_),
            Peer::Block(_),
            Peer::Domain(_)
        ])
    ));
    let ports: Vec<_> = on.ports.iter().flatten().map(|p| (p.protocol, p.port.clone())).collect();
    assert_eq!(
        ports,
        [
            (Protocol::Tcp, PortNumber::Range(80, 80)),
            (Protocol::Udp, PortNumber::Range(5, 9)),
            (Protocol::Sctp, PortNumber::Any),
        ]
    );
    assert_eq!(
        policy.egress[1].on.ports.as_ref().map(Vec::len),
        Some(3),
        "a name is of any protocol"
    );
}

#[test]
fn what_is_not_understood_fails_closed() {
    let all = || json!([{"namespaces": {}}]);
    let cases = [
        (json!([{"moon": {}}]), json!(null), "spec.egress[0].to[0].moon: is not known"),
        (json!([]), json!(null), "spec.egress[0].to: there must be at least one peer"),
        (json!([{}]), json!(null), "spec.egress[0].to[0]: there must be one of"),
        (
            json!([{"networks": ["10.0.0.0/8", "ten"]}]),
            json!(null),
            "spec.egress[0].to[0].networks[1]:",
        ),
        (all(), json!([]), "spec.egress[0].protocols: there must be at least one"),
        (all(), json!([{"icmp": {}}]), "spec.egress[0].protocols[0].icmp: is not known"),
        (
            all(),
            json!([{"tcp": {"destinationPort": {"number": 0}}}]),
            "spec.egress[0].protocols[0].tcp.destinationPort: 0 is not a port",
        ),
        (
            all(),
            json!([{"tcp": {"destinationPort": {"range": {"start": 9, "end": 5}}}}]),
            "spec.egress[0].protocols[0].tcp.destinationPort: 5 is less than 9",
        ),
        (
            json!([{"nodes": {}}]),
            json!([{"destinationNamedPort": "http"}]),
            "spec.egress[0].protocols[0].destinationNamedPort: nodes, networks and domains",
        ),
    ];
    for (to, protocols, problem) in cases {
        for action in ["Accept", "Deny", "Pass"] {
            let (rules, problems) =
                egress(json!([{"action": action, "to": to, "protocols": protocols}]));
            assert!(problems[0].starts_with(problem), "{problems:?}, not {problem}");
            // Accept matches nothing, Deny and Pass deny everything.
            let expected = match action {
                "Accept" => vec![],
                _ => vec![(Action::Deny, Rule::default())],
            };
            assert_eq!(rules, expected, "{action}: {problem}");
        }
    }
    // Some of a name's addresses may not be known: denied would be too few.
    let to = json!([{"domainNames": ["example.com"]}]);
    let (rules, problems) = egress(json!([{"action": "Deny", "to": to}]));
    assert_eq!(rules, [(Action::Deny, Rule::default())]);
    assert_eq!(problems[0], "spec.egress[0].to: domainNames are for Accept rules only");
    let to = json!([{"domainNames": ["*.Example.com.", "*.com"]}]);
    let (rules, problems) = egress(json!([{"action": "Accept", "to": to}]));
    assert_eq!(rules, []);
    assert!(problems[0].starts_with("spec.egress[0].to[0].domainNames[1]: "), "{problems:?}");
    let (rules, problems) = egress(json!([{"action": "Ponder", "to": all()}]));
    assert_eq!((rules[0].0, problems.len()), (Action::Deny, 1));
}

#[test]
fn a_policy_for_nobody_knows_whom_lets_nothing_pass() {
    let rules = json!([
        {"action": "Accept", "to": [{"namespaces": {}}]},
        {"action": "Pass", "to": [{"networks": ["10.0.0.0/8"]}]},
    ]);
    for spec in [
        json!({"tier": "Admin", "priority": 5, "subject": {}, "egress": rules}),
        json!({"tier": "Admin", "priority": 5, "subject": {"moons": {}}, "egress": rules}),
        json!({"tier": "Top", "priority": 5, "subject": {"namespaces": {}}, "egress": rules}),
        json!({"tier": "Admin", "priority": 1001, "subject": {"namespaces": {}}, "egress": rules}),
        json!({"tier": "Admin", "subject": {"namespaces": {}}, "egress": rules}),
    ] {
        let (policy, problems) = policy(spec);
        assert!(!problems.is_empty());
        assert!(policy.namespaces.is_everything() && policy.pods.is_everything());
        let actions: Vec<_> = policy.egress.iter().map(|rule| rule.action).collect();
        assert_eq!(actions, [Action::Deny]);
    }
}

#[test]
fn a_node_has_all_its_addresses() {
    let node = convert::<wire::PeerNode>(json!({
        "metadata": {"name": "n", "labels": {"zone": "a"}},
        "status": {"addresses": [
            {"type": "Hostname", "address": "n"}, {"type": "InternalIP", "address": "10.0.0.1"},
            {"type": "ExternalIP", "address": "fd00::1"},
        ]},
    }));
    let Some(PolicyObject::Node(PeerNode { labels, addresses, .. })) = node.object else {
        panic!("{node:?}")
    };
    assert_eq!((labels.len(), addresses.len()), (1, 2));
}
