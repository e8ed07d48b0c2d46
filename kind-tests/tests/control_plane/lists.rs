//! How shunt lists: streaming where the server can, in pages where it cannot.

use std::collections::BTreeSet;

use anyhow::Result;
use serde_json::json;
use shunt_cluster::{ClusterSpec, NodeSpec};
use shunt_kind_tests::control_plane::{Daemon, DaemonSpec, Id, Plane, PlaneSpec, Request, expect};

const NODE: &str = "node-1";
/// More than a page has room for.
const SERVICES: usize = 600;

/// Runs shunt against a server with these flags and some hundreds of Services, and changes
/// some; returns all that shunt has asked of the server but for the definition of
/// ClusterNetworkPolicy.
fn requests_with(flags: &[&str], log: Option<&str>) -> Result<Vec<Request>> {
    let cluster = ClusterSpec { nodes: vec![NodeSpec::new(NODE, &[])], ..ClusterSpec::default() };
    let plane = Plane::start(&PlaneSpec { cluster, flags })?;
    let services = SERVICES.to_string();
    plane.server().command(&["load", "--services", &services, "--endpoints", "2"])?;
    let mut daemon = Daemon::start(&plane, NODE, &DaemonSpec::default())?;
    let status = daemon.wait_until_synced()?;
    println!("first sync: {:?}", status.first_sync);
    // The API server's own Service is one more.
    assert_eq!(status.services, SERVICES + 1);
    expect::settle(&plane, &[NODE])?;

    let changed = Id::service("load", "svc-0");
    plane.api().patch(&changed, json!({"spec": {"ports": [{"name": "http", "port": 81}]}}))?;
    plane.api().delete(&Id::service("load", "svc-1"), 0)?;
    expect::settle(&plane, &[NODE])?;
    daemon.expect_permitted()?;
    daemon.expect_no_errors()?;
    match log {
        Some(text) => assert!(daemon.log()?.contains(text), "{text:?} in {}", daemon.log()?),
        None => assert!(!daemon.log()?.contains("listing in pages"), "{}", daemon.log()?),
    }
    let requests = plane.server().requests()?;
    let (definition, others): (Vec<_>, Vec<_>) =
        requests.into_iter().partition(|request| request.uri.starts_with(DEFINITION));
    let one = "fieldSelector=metadata.name%3Dclusternetworkpolicies.policy.networking.k8s.io";
    assert!(!definition.is_empty());
    assert!(definition.iter().all(|request| request.uri.contains(one)), "{definition:#?}");
    Ok(others)
}

fn paths(requests: &[Request], verb: &str) -> BTreeSet<String> {
    let of_verb = requests.iter().filter(|request| request.verb == verb);
    of_verb.map(|request| request.uri.split('?').next().unwrap_or_default().to_owned()).collect()
}

/// The definition of ClusterNetworkPolicy: at most one object, so listed and watched.
const DEFINITION: &str = "/apis/apiextensions.k8s.io/v1/customresourcedefinitions";

/// Pods and Namespaces are not among them: there is no policy.
const ALL: [&str; 5] = [
    "/api/v1/nodes",
    "/api/v1/services",
    "/apis/discovery.k8s.io/v1/endpointslices",
    "/apis/networking.k8s.io/v1/networkpolicies",
    "/apis/networking.k8s.io/v1/servicecidrs",
];

#[test]
fn lists_are_streamed_and_nothing_else_is_asked() -> Result<()> {
    let requests = requests_with(&[], None)?;
    assert!(requests.iter().all(|request| request.verb == "watch"), "{requests:#?}");
    assert_eq!(paths(&requests, "watch"), ALL.map(str::to_owned).into());
    for request in &requests {
        assert!(request.status == 200 || request.status == 0, "{request:?}");
        assert!(request.uri.contains("sendInitialEvents=true"), "{request:?}");
    }
    let asks = |path: &str, selector: &str| {
        let asked = requests.iter().any(|r| r.uri.contains(path) && r.uri.contains(selector));
        assert!(asked, "{path} with {selector}: {requests:#?}");
    };
    asks("services", "labelSelector=%21service.kubernetes.io%2Fservice-proxy-name");
    asks("services", "fieldSelector=spec.clusterIP%21%3DNone");
    asks("endpointslices", "labelSelector=%21service.kubernetes.io%2Fheadless");
    asks("nodes", "fieldSelector=metadata.name%3Dnode-1");
    Ok(())
}

#[test]
fn a_server_without_streaming_lists_is_read_in_pages() -> Result<()> {
    let flags = ["--feature-gates=WatchList=false"];
    let requests =
        requests_with(&flags, Some("the API server has no streaming lists; listing in pages"))?;
    assert_eq!(paths(&requests, "list"), ALL.map(str::to_owned).into());
    for resource in ["services", "endpointslices"] {
        let pages = requests.iter().filter(|request| {
            request.verb == "list"
                && request.uri.contains(resource)
                && request.uri.contains("limit=500")
        });
        assert_eq!(pages.count(), 2, "{resource}: {requests:#?}");
    }
    // Asked for a streaming list once for each kind, and never again.
    let refused = requests.iter().filter(|request| request.uri.contains("sendInitialEvents=true"));
    assert_eq!(refused.count(), ALL.len(), "{requests:#?}");
    Ok(())
}
