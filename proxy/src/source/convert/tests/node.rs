use super::*;

fn node(value: Value) -> (Node, Vec<String>) {
    let converted = convert::<wire::Node>(value);
    match &converted.object {
        Some(Object::Node(node)) => (node.clone(), problems(&converted)),
        other => panic!("{other:?}"),
    }
}

#[test]
fn internal_addresses_come_first() {
    let (node, problems) = node(json!({
        "metadata": {"name": "n1", "namespace": "ignored"},
        "spec": {"podCIDR": "10.1.0.0/24", "podCIDRs": ["10.1.0.0/24", "fd00:1::/64"]},
        "status": {"addresses": [
            {"type": "Hostname", "address": "n1"},
            {"type": "ExternalIP", "address": "192.0.2.1"},
            {"type": "InternalIP", "address": "10.0.0.1"},
            {"type": "InternalIP", "address": "fd00::1"},
            {"type": "ExternalIP", "address": "10.0.0.1"},
        ]},
    }));
    assert_eq!((&*node.name, problems.len()), ("n1", 0));
    assert_eq!(node.addresses, ips(&["10.0.0.1", "fd00::1", "192.0.2.1"]));
    assert_eq!(node.pod_cidrs, cidrs(&["10.1.0.0/24", "fd00:1::/64"]));
}

#[test]
fn an_empty_node_is_a_node() {
    let (node, problems) = node(json!({"metadata": {"name": "n1"}}));
    assert_eq!((node.addresses.len(), node.pod_cidrs.len(), problems.len()), (0, 0, 0));
}

#[test]
fn a_node_that_is_to_go_is_told() {
    let taint = |key: &str| json!({"metadata": {"name": "n1"}, "spec": {"taints": [{"key": key}]}});
    assert!(node(taint("ToBeDeletedByClusterAutoscaler")).0.leaving);
    assert!(!node(taint("node.kubernetes.io/not-ready")).0.leaving);
    let deleted = json!({"metadata": {"name": "n1", "deletionTimestamp": "2026-01-01T00:00:00Z"}});
    assert!(node(deleted).0.leaving);
}

#[test]
fn what_is_wrong_is_skipped() {
    let (node, problems) = node(json!({
        "metadata": {"name": "n1"},
        "spec": {"podCIDR": "10.1.0.0"},
        "status": {"addresses": [{"type": "InternalIP", "address": "n1.example.org"}]},
    }));
    assert_eq!((node.addresses.len(), node.pod_cidrs.len()), (0, 0));
    assert_eq!(
        problems,
        [
            "status.addresses[0].address: \"n1.example.org\" is not an address; this address is skipped",
            "spec.podCIDR: \"10.1.0.0\" is not a range of addresses (address/length); this range is skipped",
        ]
    );
}
