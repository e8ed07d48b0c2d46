mod balancing;
mod cluster;
mod endpoints;
mod node;
mod policy;
mod service;

use proptest::prelude::*;
use serde::de::DeserializeOwned;
use serde_json::{Value, json};

use super::*;

/// Converts JSON; panics if it does not parse.
fn convert<T: Wire + DeserializeOwned>(value: Value) -> Converted<T::Object> {
    serde_json::from_value::<T>(value).unwrap().convert(&mut Converter::new())
}

/// The object as given, with the value at a JSON pointer's place (made if need be) replaced.
fn with(mut object: Value, path: &str, value: Value) -> Value {
    let mut at = &mut object;
    for step in path.split('.') {
        at = match step.parse::<usize>() {
            Ok(index) => &mut at[index],
            Err(_) => &mut at[step],
        };
    }
    *at = value;
    object
}

fn problems(converted: &Converted) -> Vec<String> {
    let told = |problem: &Problem| format!("{}: {}", problem.field, problem.reason);
    converted.problems.iter().map(told).collect()
}

fn ips(texts: &[&str]) -> Vec<IpAddr> {
    texts.iter().map(|text| text.parse().unwrap()).collect()
}

fn cidrs(texts: &[&str]) -> Vec<ipnet::IpNet> {
    texts.iter().map(|text| text.parse().unwrap()).collect()
}

#[test]
fn what_becomes_of_an_object_decides_the_change() {
    let key = ObjectKey::new("ns", "name");
    let report = || Report::new(Kind::Node, key.clone());
    let node = || Some(Object::Node(Node::default()));
    let mut troubled = report();
    troubled.add("spec", "is odd");
    assert!(matches!(report().converted(node()).into_change(), Change::Applied { .. }));
    assert!(matches!(report().ignored().into_change(), Change::Deleted { .. }));
    assert!(matches!(troubled.converted(None).into_change(), Change::Rejected { .. }));
}

#[test]
fn networks_of_a_service_cidr_that_are_none_are_left_out() {
    let object: wire::ServiceCidr = serde_json::from_value(json!({
        "apiVersion": "networking.k8s.io/v1", "kind": "ServiceCIDR",
        "metadata": {"name": "more"},
        "spec": {"cidrs": ["10.97.0.0/16", "10.98.0.0/33", "10.97.0.0/16", "fd00::/112"]},
    }))
    .unwrap();
    let converted = object.convert(&mut Converter::new());
    let problems = problems(&converted);
    assert_eq!(problems.len(), 1, "{problems:?}");
    assert!(problems[0].starts_with("spec.cidrs[1]: "), "{problems:?}");
    let cidrs = cidrs(&["10.97.0.0/16", "fd00::/112"]);
    let expected = ServiceCidr { name: "more".into(), cidrs };
    assert_eq!(converted.object, Some(Object::ServiceCidr(expected)));
}

#[test]
fn metadata_is_reduced_while_it_is_read() {
    let service: wire::Service = serde_json::from_value(json!({
        "apiVersion": "v1", "kind": "Service",
        "metadata": {
            "name": "a", "namespace": "b", "resourceVersion": "7", "uid": "u", "generation": 3,
            "labels": {"l": "1"}, "annotations": {"a": "2"}, "finalizers": ["f"],
            "creationTimestamp": "2026-01-02T03:04:05Z",
            "managedFields": [{"manager": "m", "fieldsV1": {"f:spec": {}}}],
        },
        "spec": null, "status": null, "unheard-of": [1, 2, 3],
    }))
    .unwrap();
    let metadata = &service.metadata;
    assert_eq!(metadata.resource_version.as_deref(), Some("7"));
    assert_eq!(label(metadata, "l"), Some("1"));
    assert!(metadata.creation_timestamp.is_some() && metadata.annotations.is_some());
    assert_eq!(metadata.uid.as_deref(), Some("u"), "the container runtime knows pods by it");
    assert_eq!((&metadata.managed_fields, &metadata.finalizers), (&None, &None));
}

#[test]
fn the_urls_are_the_apis() {
    fn url<T: kube::Resource<DynamicType = ()>>() -> String {
        T::url_path(&(), None)
    }
    assert_eq!(url::<wire::Service>(), "/api/v1/services");
    assert_eq!(url::<wire::EndpointSlice>(), "/apis/discovery.k8s.io/v1/endpointslices");
    assert_eq!(url::<wire::Node>(), "/api/v1/nodes");
}

#[test]
fn only_so_many_problems_are_told_one_by_one() {
    let bad: Vec<_> = (0..1000).map(|_| json!({"addresses": ["x"]})).collect();
    let converted = convert::<wire::EndpointSlice>(json!({
        "metadata": {"name": "a", "labels": {"kubernetes.io/service-name": "a"}},
        "addressType": "IPv4", "endpoints": bad,
    }));
    let told = problems(&converted);
    assert_eq!(told.len(), 21);
    assert_eq!(told[20], "...: and 980 more problems");
}

#[test]
fn values_are_not_repeated_at_any_length() {
    let reason = address(&"\u{1b}[31m\u{e4}".repeat(1000)).unwrap_err();
    assert!(reason.len() < 600 && !reason.contains('\u{1b}'), "{reason}");
}

/// JSON that often has the names and values that matter.
fn anything() -> impl Strategy<Value = Value> {
    let number = prop_oneof![
        any::<i64>().prop_map(Value::from),
        any::<f64>().prop_map(Value::from),
        (-2..70_000_i64).prop_map(Value::from),
    ];
    let text = prop_oneof![
        Just("10.0.0.1"),
        Just("fd00::1"),
        Just("::ffff:1.2.3.4"),
        Just("10.0.0.0/8"),
        Just("/"),
        Just("None"),
        Just(""),
        Just("TCP"),
        Just("Local"),
        Just("ClientIP"),
        Just("IPv4"),
        Just("InternalIP"),
        Just("LoadBalancer"),
        Just("NodePort"),
        Just("2026-01-02T03:04:05Z"),
    ];
    let leaf = prop_oneof![
        Just(Value::Null),
        any::<bool>().prop_map(Value::from),
        number,
        text.prop_map(Value::from),
        ".*".prop_map(Value::from),
    ];
    leaf.prop_recursive(4, 64, 6, |inner| {
        prop_oneof![
            prop::collection::vec(inner.clone(), 0..5).prop_map(Value::from),
            prop::collection::hash_map(field_name(), inner, 0..8)
                .prop_map(|fields| fields.into_iter().collect::<serde_json::Map<_, _>>().into()),
        ]
    })
}

fn field_name() -> impl Strategy<Value = String> {
    prop_oneof![
        prop::sample::select(vec![
            "metadata",
            "name",
            "namespace",
            "labels",
            "creationTimestamp",
            "spec",
            "status",
            "type",
            "clusterIP",
            "clusterIPs",
            "externalIPs",
            "ports",
            "port",
            "nodePort",
            "protocol",
            "sessionAffinity",
            "sessionAffinityConfig",
            "clientIP",
            "timeoutSeconds",
            "loadBalancer",
            "ingress",
            "ip",
            "ipMode",
            "addressType",
            "endpoints",
            "addresses",
            "conditions",
            "ready",
            "nodeName",
            "podCIDRs",
            "address",
            "podCIDR",
            "externalTrafficPolicy",
            "loadBalancerSourceRanges",
            "kubernetes.io/service-name",
        ])
        .prop_map(str::to_owned),
        "[a-zA-Z]{0,8}",
    ]
}

fn parsed_and_converted<T: Wire + DeserializeOwned>(value: &Value) -> Option<Converted<T::Object>> {
    let object: T = serde_json::from_value(value.clone()).ok()?;
    Some(object.convert(&mut Converter::new()))
}

/// A valid object in which one value is something else.
fn nearly_valid() -> impl Strategy<Value = Value> {
    let places = [
        "spec.type",
        "spec.clusterIP",
        "spec.clusterIPs",
        "spec.clusterIPs.0",
        "spec.ports.0.port",
        "spec.ports.0.nodePort",
        "spec.ports.0.protocol",
        "spec.ports.0.name",
        "spec.ports.0",
        "spec.sessionAffinity",
        "spec.sessionAffinityConfig",
        "spec.loadBalancerSourceRanges",
        "spec.externalIPs",
        "status.loadBalancer.ingress",
        "metadata.labels",
        "metadata.name",
        "addressType",
        "endpoints",
        "endpoints.0.addresses",
        "endpoints.0.conditions",
        "endpoints.0.nodeName",
        "ports",
        "ports.0.port",
        "status.addresses",
        "spec.podCIDRs",
    ];
    (prop::sample::select(places.to_vec()), anything()).prop_map(|(place, value)| {
        let object = json!({
            "metadata": {"name": "a", "labels": {"kubernetes.io/service-name": "a"}},
            "spec": {
                "type": "LoadBalancer", "clusterIP": "10.0.0.1", "clusterIPs": ["10.0.0.1", "fd00::1"],
                "ports": [{"port": 80, "nodePort": 30080}], "sessionAffinity": "ClientIP",
            },
            "addressType": "IPv4", "endpoints": [{"addresses": ["10.0.0.2"]}],
            "ports": [{"name": "", "port": 80}],
            "status": {"loadBalancer": {"ingress": [{"ip": "192.0.2.1"}]}},
        });
        with(object, place, value)
    })
}

proptest! {
    #[test]
    fn nothing_makes_it_panic(value in prop_oneof![anything(), nearly_valid()]) {
        let all = [
            parsed_and_converted::<wire::Service>(&value),
            parsed_and_converted::<wire::EndpointSlice>(&value),
            parsed_and_converted::<wire::Node>(&value),
        ];
        for converted in all.into_iter().flatten() {
            prop_assert!(converted.problems.iter().all(|problem| problem.object == converted.key));
            if let Some(object) = &converted.object {
                prop_assert_eq!(object.key(), converted.key.clone());
                prop_assert_eq!(object.kind(), converted.kind);
            }
            drop(converted.into_change());
        }
    }
}
