use shunt_model::address::Protocol;
use shunt_netpolicy::object::{NetworkPolicy, Peer, Pod, PortNumber};
use shunt_netpolicy::snapshot::Object as PolicyObject;

use super::*;
use crate::source::wire::policy as wire;

fn policy(spec: Value) -> (NetworkPolicy, Vec<String>) {
    let object = json!({"metadata": {"name": "p", "namespace": "x"}, "spec": spec});
    let converted = convert::<wire::NetworkPolicy>(object);
    let told = |problem: &Problem| format!("{}: {}", problem.field, problem.reason);
    let problems = converted.problems.iter().map(told).collect();
    match converted.object {
        Some(PolicyObject::Policy(policy)) => (policy, problems),
        other => panic!("{other:?}"),
    }
}

fn pod(value: Value) -> Pod {
    match convert::<wire::Pod>(value).object {
        Some(PolicyObject::Pod(pod)) => pod,
        other => panic!("{other:?}"),
    }
}

#[test]
fn policy_types_are_defaulted_as_the_api_server_does() {
    let directions = |spec| {
        let (policy, problems) = policy(spec);
        assert_eq!(problems, Vec::<String>::new());
        (policy.ingress.is_some(), policy.egress.is_some())
    };
    assert_eq!(directions(json!({"podSelector": {}})), (true, false));
    assert_eq!(directions(json!({"podSelector": {}, "egress": [{}]})), (true, true));
    assert_eq!(directions(json!({"podSelector": {}, "policyTypes": ["Egress"]})), (false, true));
    let (odd, problems) = policy(json!({"podSelector": {}, "policyTypes": ["Sideways"]}));
    assert!(odd.ingress.is_some() && odd.egress.is_some());
    assert_eq!(problems.len(), 1);
}

#[test]
fn absent_means_everyone_and_wrong_means_nobody() {
    let (sound, _) =
        policy(json!({"podSelector": {}, "ingress": [{}, {"from": [], "ports": null}]}));
    for rule in sound.ingress.unwrap() {
        assert_eq!((rule.peers, rule.ports), (None, None));
    }
    let (wrong, problems) = policy(json!({"podSelector": {}, "ingress": [{
        "from": [
            {"ipBlock": {"cidr": "10.0.0.0/8", "except": ["192.168.0.0/16"]}},
            {"ipBlock": {"cidr": "10.0.0.0/8"}, "podSelector": {}},
            {"fqdns": ["example.org"]},
            {},
        ],
        "ports": [{"port": "no good name"}, {"endPort": 80}, {"port": 0}, {"protocol": "ICMP"}],
    }]}));
    let rule = wrong.ingress.unwrap().remove(0);
    assert_eq!((rule.peers, rule.ports), (Some(vec![]), Some(vec![])));
    assert_eq!(
        problems,
        [
            "spec.ingress[0].from[0].ipBlock.except[0]: 192.168.0.0/16 is not within 10.0.0.0/8; \
             this peer matches nothing",
            "spec.ingress[0].from[1]: ipBlock stands with a selector; this peer matches nothing",
            "spec.ingress[0].from[2].fqdns: is not known; this peer matches nothing",
            "spec.ingress[0].from[3]: there is no ipBlock and no selector; this peer matches nothing",
            "spec.ingress[0].ports[0].port: \"no good name\" is not the name of a port; this entry \
             matches nothing",
            "spec.ingress[0].ports[1].endPort: there is no number in port; this entry matches nothing",
            "spec.ingress[0].ports[2].port: 0 is not a port (1-65535); this entry matches nothing",
            "spec.ingress[0].ports[3].protocol: \"ICMP\" is not TCP, UDP or SCTP; this entry matches \
             nothing",
        ]
    );
}

#[test]
fn a_namespace_may_be_audited() {
    let namespace = |value: &str| {
        let annotations = json!({"shunt.dev/network-policy": value});
        let wire = json!({"metadata": {"name": "x", "annotations": annotations}});
        let converted = convert::<wire::Namespace>(wire);
        let told = |problem: &Problem| format!("{}: {}", problem.field, problem.reason);
        let problems: Vec<_> = converted.problems.iter().map(told).collect();
        match converted.object {
            Some(PolicyObject::Namespace(namespace)) => (namespace.audit, problems),
            other => panic!("{other:?}"),
        }
    };
    assert_eq!(namespace("audit"), (true, Vec::new()));
    assert_eq!(namespace("enforce"), (false, Vec::new()));
    let (audit, problems) = namespace("off");
    let said = "metadata.annotations[shunt.dev/network-policy]: \"off\" is not audit or enforce";
    assert!(!audit && problems.len() == 1 && problems[0].contains(said), "{problems:?}");
}

#[test]
fn ports_are_numbers_ranges_and_names() {
    let (policy, problems) = policy(json!({"podSelector": {}, "ingress": [{"ports": [
        {"port": 80}, {"port": 80, "endPort": 90}, {"port": "http"}, {"protocol": "UDP"},
    ]}]}));
    assert_eq!(problems, Vec::<String>::new());
    let rule = policy.ingress.unwrap().remove(0);
    let ports: Vec<_> = rule.ports.unwrap().into_iter().map(|p| (p.protocol, p.port)).collect();
    let expected = [
        (Protocol::Tcp, PortNumber::Range(80, 80)),
        (Protocol::Tcp, PortNumber::Range(80, 90)),
        (Protocol::Tcp, PortNumber::Named("http".into())),
        (Protocol::Udp, PortNumber::Any),
    ];
    assert_eq!(ports, expected);
}

#[test]
fn selectors_keep_all_their_forms() {
    let (policy, _) = policy(json!({
        "podSelector": {"matchLabels": {"a": "1"}, "matchExpressions": [
            {"key": "b", "operator": "NotIn", "values": ["2", "3"]},
            {"key": "c", "operator": "Exists"},
        ]},
        "ingress": [{"from": [{"namespaceSelector": {}}, {"podSelector": {"matchLabels": {"d": "4"}}}]}],
    }));
    assert_eq!(policy.pods.to_string(), "a=1,b notin (2,3),c");
    let peers = policy.ingress.unwrap().remove(0).peers.unwrap();
    let own = |peer: &Peer| matches!(peer, Peer::Pods { namespaces: None, .. });
    assert_eq!(peers.iter().map(own).collect::<Vec<_>>(), [false, true]);
}

#[test]
fn pods_have_the_addresses_that_are_theirs() {
    let with_status = |status: Value| {
        pod(json!({"metadata": {"name": "a"}, "spec": {"nodeName": "n"}, "status": status}))
    };
    let running = with_status(json!({"podIP": "10.0.0.1",
        "podIPs": [{"ip": "10.0.0.1"}, {"ip": "fd00::1"}, {"ip": "10.0.0.1"}]}));
    assert_eq!(running.addresses[..], ips(&["10.0.0.1", "fd00::1"]));
    assert_eq!(with_status(json!({"podIP": "10.0.0.1"})).addresses[..], ips(&["10.0.0.1"]));
    let ended = with_status(json!({"podIP": "10.0.0.1", "phase": "Failed"}));
    assert_eq!(ended.addresses[..], ips(&[]));
    let host = pod(json!({"metadata": {"name": "a"}, "spec": {"hostNetwork": true},
        "status": {"podIP": "192.0.2.1"}}));
    assert_eq!(host.policy_addresses(), ips(&[]));
    let named = pod(json!({"metadata": {"name": "a"}, "spec": {"containers": [
        {"ports": [{"name": "http", "containerPort": 8080}, {"containerPort": 9090}]},
        {"ports": [{"name": "dns", "containerPort": 53, "protocol": "UDP"}]},
    ]}}));
    assert_eq!(named.port("http", Protocol::Tcp), Some(8080));
    assert_eq!(
        (named.port("dns", Protocol::Udp), named.port("dns", Protocol::Tcp)),
        (Some(53), None)
    );
}

#[test]
fn replicas_share_their_labels() {
    let mut converter = Converter::new();
    let labels = |converter: &mut Converter, name: &str| {
        let value = json!({"metadata": {"name": name, "labels": {"app": "web"}}});
        let wire: wire::Pod = serde_json::from_value(value).unwrap();
        match wire.convert(converter).object {
            Some(PolicyObject::Pod(pod)) => pod.labels,
            other => panic!("{other:?}"),
        }
    };
    let (a, b) = (labels(&mut converter, "a"), labels(&mut converter, "b"));
    assert!(std::sync::Arc::ptr_eq(&a, &b));
}
