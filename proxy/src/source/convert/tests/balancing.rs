use shunt_model::balancing::{Affinity, AffinityScope, Balancing, Method, Scheduler};

use super::*;

const CLIENT_IP: &str = "ClientIP";

/// A Service with this session affinity and these annotations.
fn annotated(affinity: &str, annotations: &Value) -> Value {
    json!({
        "metadata": {"name": "a", "annotations": annotations},
        "spec": {"clusterIP": "10.0.0.1", "ports": [{"port": 1}], "sessionAffinity": affinity},
    })
}

/// The balancing of a Service, which is served, and its problems.
fn read(value: Value) -> (Balancing, Vec<String>) {
    let converted = convert::<wire::Service>(value);
    let problems = problems(&converted);
    match converted.object {
        Some(Object::Service(service)) => {
            (service.balancing.as_deref().cloned().unwrap_or_default(), problems)
        }
        other => panic!("{other:?}"),
    }
}

#[test]
fn all_annotations_of_a_service() {
    let (balancing, problems) = read(annotated(
        CLIENT_IP,
        &json!({
            "shunt.dev/affinity-scope": "service",
            "shunt.dev/balancing": "hash-address",
            "shunt.dev/ipvs-scheduler": "wlc",
            "shunt.dev/drain-seconds": "30",
            "shunt.dev/node-weights": "worker-2 = 3, worker-1=100,",
            "example.org/balancing": "none of ours",
        }),
    ));
    assert_eq!(problems, [""; 0]);
    let expected = Balancing {
        affinity: Some(Affinity { seconds: 10_800, scope: AffinityScope::Service }),
        method: Method::HashAddress,
        scheduler: Some(Scheduler::Wlc),
        drain_seconds: Some(30),
        node_weights: vec![("worker-1".into(), 100), ("worker-2".into(), 3)],
    };
    assert_eq!(balancing, expected);
}

#[test]
fn the_default_said_aloud_costs_nothing() {
    let service = annotated("None", &json!({"shunt.dev/balancing": "random"}));
    match convert::<wire::Service>(service).object {
        Some(Object::Service(service)) => assert_eq!(service.balancing, None),
        other => panic!("{other:?}"),
    }
}

#[test]
fn what_is_wrong_with_an_annotation_is_told_and_the_default_served() {
    for (name, value, expected) in [
        (
            "balancing",
            "Hash",
            "\"Hash\" is not one of random, hash-address, hash-connection; random is used",
        ),
        ("affinity-scope", "all", "\"all\" is not one of port, service; port is used"),
        (
            "ipvs-scheduler",
            "magic",
            "\"magic\" is not one of rr, wrr, lc, wlc, lblc, lblcr, sh, dh, sed, nq, mh, fo, ovf; \
             the usual one is used",
        ),
        ("drain-seconds", "86401", "\"86401\" is not a number from 0 to 86400; skipped"),
        ("drain-seconds", "-1", "\"-1\" is not a number from 0 to 86400; skipped"),
        ("node-weights", "a=0", "\"0\" is not a number from 1 to 100; skipped"),
        ("node-weights", "a", "\"a\" is not node=weight; skipped"),
        ("weight", "3", "is no annotation for this kind of object; ignored"),
    ] {
        let name = format!("shunt.dev/{name}");
        let (balancing, problems) = read(annotated(CLIENT_IP, &json!({ &name: value })));
        assert_eq!(problems, [format!("metadata.annotations[{name}]: {expected}")]);
        let affinity = Some(Affinity { seconds: 10_800, scope: AffinityScope::Port });
        assert_eq!(balancing, Balancing { affinity, ..Balancing::default() });
    }
}

#[test]
fn of_two_weights_of_a_node_the_first_counts() {
    let (balancing, problems) =
        read(annotated("None", &json!({"shunt.dev/node-weights": "a=2,a=3,b=4"})));
    assert_eq!(balancing.node_weights, [("a".into(), 2), ("b".into(), 4)]);
    assert_eq!(
        problems,
        [
            "metadata.annotations[shunt.dev/node-weights]: \"a\" stands there twice; the first counts"
        ]
    );
}

#[test]
fn a_scope_without_affinity_is_told() {
    let (balancing, problems) =
        read(annotated("None", &json!({"shunt.dev/affinity-scope": "service"})));
    assert_eq!(balancing, Balancing::default());
    assert_eq!(
        problems,
        ["metadata.annotations[shunt.dev/affinity-scope]: without sessionAffinity ClientIP it \
          means nothing"]
    );
}

#[test]
fn affinity_has_a_timeout() {
    let config = |seconds: i64| {
        let config = json!({"clientIP": {"timeoutSeconds": seconds}});
        with(annotated(CLIENT_IP, &Value::Null), "spec.sessionAffinityConfig", config)
    };
    let seconds = |value| read(value).0.affinity.map(|affinity| affinity.seconds);
    assert_eq!(seconds(config(1)), Some(1));
    assert_eq!(seconds(config(86_400)), Some(86_400));
    for wrong in [0, -5, 86_401, i64::MAX] {
        assert_eq!(seconds(config(wrong)), Some(10_800));
        assert_eq!(
            read(config(wrong)).1,
            [format!(
                "spec.sessionAffinityConfig.clientIP.timeoutSeconds: {wrong} is not 1-86400; 10800 is used"
            )]
        );
    }
}
