use std::sync::Arc;

use shunt_model::address::Protocol;
use shunt_model::object::{EndpointSlice, Locality, SliceEndpoint, SlicePort};

use super::*;

fn base() -> Value {
    json!({
        "metadata": {
            "name": "web-abc", "namespace": "shop",
            "labels": {"kubernetes.io/service-name": "web"},
        },
        "addressType": "IPv4",
        "ports": [{"name": "http", "protocol": "TCP", "port": 8080}, {"name": "", "port": 1}],
        "endpoints": [
            {"addresses": ["10.0.0.1", "10.0.0.99"], "nodeName": "n1", "conditions": {}},
            {
                "addresses": ["10.0.0.2"], "nodeName": "n1", "zone": "z",
                "conditions": {"ready": false, "serving": true, "terminating": true},
            },
        ],
    })
}

fn slice(value: Value) -> EndpointSlice {
    match convert::<wire::EndpointSlice>(value).object {
        Some(Object::EndpointSlice(slice)) => slice,
        other => panic!("{other:?}"),
    }
}

#[test]
fn a_whole_slice() {
    let converted = convert::<wire::EndpointSlice>(base());
    assert_eq!(converted.problems, []);
    let port = |name: &str, port| SlicePort { name: name.into(), protocol: Protocol::Tcp, port };
    let locality = Arc::new(Locality { node: Some("n1".into()), hints: None });
    assert_eq!(
        converted.object,
        Some(Object::EndpointSlice(EndpointSlice {
            key: ObjectKey::new("shop", "web-abc"),
            service: ObjectKey::new("shop", "web"),
            ports: vec![port("http", 8080), port("", 1)],
            endpoints: vec![
                SliceEndpoint {
                    address: ips(&["10.0.0.1"])[0],
                    ready: true,
                    serving: true,
                    terminating: false,
                    weight: 1,
                    locality: Arc::clone(&locality),
                },
                SliceEndpoint {
                    address: ips(&["10.0.0.2"])[0],
                    ready: false,
                    serving: true,
                    terminating: true,
                    weight: 1,
                    locality,
                },
            ],
        }))
    );
}

#[test]
fn absent_conditions_mean_what_they_mean_for_kube_proxy() {
    for (conditions, expected) in [
        (json!(null), (true, true, false)),
        (json!({"ready": false}), (false, true, false)),
        (json!({"ready": null, "serving": false}), (true, false, false)),
        (json!({"terminating": true}), (true, true, true)),
    ] {
        let endpoint =
            slice(with(base(), "endpoints.0.conditions", conditions)).endpoints.remove(0);
        assert_eq!((endpoint.ready, endpoint.serving, endpoint.terminating), expected);
    }
}

#[test]
fn names_are_shared() {
    let mut converter = Converter::new();
    let mut read = || {
        let wire: wire::EndpointSlice = serde_json::from_value(base()).unwrap();
        match wire.convert(&mut converter).object {
            Some(Object::EndpointSlice(slice)) => slice,
            other => panic!("{other:?}"),
        }
    };
    let (one, two) = (read(), read());
    assert!(Arc::ptr_eq(&one.endpoints[0].locality, &two.endpoints[1].locality));
    assert!(Arc::ptr_eq(&one.ports[0].name, &two.ports[0].name));
    assert!(Arc::ptr_eq(&one.key.namespace, &two.service.namespace));
}

#[test]
fn what_is_not_proxied_is_ignored() {
    let none_of_ours = [
        with(base(), "metadata.labels", Value::Null),
        with(base(), "metadata.labels", json!({"kubernetes.io/service-name": ""})),
        with(
            base(),
            "metadata.labels",
            json!({
                "kubernetes.io/service-name": "web", "service.kubernetes.io/headless": "",
            }),
        ),
        with(base(), "addressType", json!("FQDN")),
    ];
    for value in none_of_ours {
        let converted = convert::<wire::EndpointSlice>(value);
        assert_eq!((&converted.object, converted.problems.len()), (&None, 0), "{converted:?}");
    }
}

#[test]
fn an_unknown_address_type_is_rejected() {
    let converted = convert::<wire::EndpointSlice>(with(base(), "addressType", json!("IPX")));
    assert_eq!(converted.object, None);
    assert_eq!(
        problems(&converted),
        ["addressType: \"IPX\" is not IPv4, IPv6 or FQDN; not served"]
    );
}

#[test]
fn ports_without_name_or_number_are_ignored() {
    let ports =
        json!([{"port": 1}, {"name": null, "port": 2}, {"name": "a"}, {"name": "b", "port": 0}]);
    let converted = convert::<wire::EndpointSlice>(with(base(), "ports", ports.clone()));
    assert_eq!(converted.problems, []);
    assert_eq!(slice(with(base(), "ports", ports)).ports, []);
}

#[test]
fn ports_that_are_wrong_are_skipped() {
    for (path, value, expected) in [
        (
            "ports.0.port",
            json!(65_536),
            "ports[0].port: 65536 is not a port (1-65535); this port is skipped",
        ),
        (
            "ports.0.protocol",
            json!("ICMP"),
            "ports[0].protocol: \"ICMP\" is not TCP, UDP or SCTP; this port is skipped",
        ),
    ] {
        let value = with(base(), path, value);
        assert_eq!(problems(&convert::<wire::EndpointSlice>(value.clone())), [expected]);
        assert_eq!(slice(value).ports.len(), 1);
    }
}

#[test]
fn endpoints_that_are_wrong_are_skipped() {
    for (addresses, expected) in [
        (json!([]), "there is no address"),
        (json!(["fd00::1"]), "fd00::1 is not an IPv4 address, which addressType says"),
        (json!(["10.0.0"]), "\"10.0.0\" is not an address"),
        (json!(["0x10.0.0.1"]), "\"0x10.0.0.1\" is not an address"),
        (json!(["0.0.0.0"]), "0.0.0.0 is unspecified"),
        (json!(["127.1.2.3"]), "127.1.2.3 is a loopback address"),
        (json!(["239.0.0.1"]), "239.0.0.1 is a multicast address"),
    ] {
        let value = with(base(), "endpoints.1.addresses", addresses);
        assert_eq!(
            problems(&convert::<wire::EndpointSlice>(value.clone())),
            [format!("endpoints[1].addresses[0]: {expected}; this endpoint is skipped")]
        );
        assert_eq!(slice(value).endpoints.len(), 1);
    }
}

#[test]
fn a_slice_gives_its_weight_to_its_endpoints() {
    let weighted =
        |text: &str| with(base(), "metadata.annotations", json!({"shunt.dev/weight": text}));
    assert!(slice(weighted("7")).endpoints.iter().all(|endpoint| endpoint.weight == 7));
    for wrong in ["0", "101", "heavy", "-1", ""] {
        assert!(slice(weighted(wrong)).endpoints.iter().all(|endpoint| endpoint.weight == 1));
        assert_eq!(
            problems(&convert::<wire::EndpointSlice>(weighted(wrong))),
            [format!(
                "metadata.annotations[shunt.dev/weight]: {wrong:?} is not a number from 1 to 100; skipped"
            )]
        );
    }
}

#[test]
fn hints_are_read_and_shared() {
    let zoned = json!({"forZones": [{"name": "a"}, {"name": "b"}], "forNodes": [{"name": "n1"}]});
    let slice = slice(json!({
        "metadata": {"name": "web-abc", "labels": {"kubernetes.io/service-name": "web"}},
        "addressType": "IPv4",
        "endpoints": [
            {"addresses": ["10.0.0.1"], "hints": zoned},
            {"addresses": ["10.0.0.2"], "hints": zoned},
            {"addresses": ["10.0.0.3"], "hints": {}},
            {"addresses": ["10.0.0.4"], "hints": null},
        ],
    }));
    let [first, second, empty, none] = &slice.endpoints[..] else { panic!("four endpoints") };
    let hints = first.hints().unwrap();
    assert_eq!(hints.zones, ["a".into(), "b".into()]);
    assert_eq!(hints.nodes, ["n1".into()]);
    assert!(Arc::ptr_eq(&first.locality, &second.locality));
    assert_eq!((empty.hints(), none.hints()), (None, None));
    assert!(Arc::ptr_eq(&empty.locality, &none.locality));
}
