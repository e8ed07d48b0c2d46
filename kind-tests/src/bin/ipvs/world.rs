//! The node, its API server and the objects.

use std::net::Ipv4Addr;

use anyhow::Result;
use serde_json::{Value, json};
use shunt_cluster::Netns;
use shunt_kind_tests::kube_proxy::{Api, Objects};

/// The node's name.
pub(crate) const NODE: &str = "node-1";
/// Endpoints of each Service.
pub(crate) const ENDPOINTS: usize = 5;

/// A namespace with a node's address and the API server.
pub(crate) fn node(name: &str, services: usize) -> Result<(Netns, Api)> {
    let netns = Netns::new(name)?;
    netns.links().add("dummy", "eth0")?;
    netns.links().set_up("eth0")?;
    netns.links().add_address("eth0", "192.168.77.11/24".parse()?)?;
    let mut objects = Objects::default();
    objects.add(node_object());
    for number in 0..services {
        objects.add(service(number));
        objects.add(slice(number, pod(number, 0)));
    }
    let mut api = Api::new(&objects);
    api.serve(&netns)?;
    Ok((netns, api))
}

/// The Node.
pub(crate) fn node_object() -> Value {
    json!({
        "apiVersion": "v1", "kind": "Node", "metadata": { "name": NODE },
        "status": { "addresses": [{ "type": "InternalIP", "address": "192.168.77.11" }] },
    })
}

/// The address of a Service.
pub(crate) fn cluster_ip(number: usize) -> Ipv4Addr {
    let number = u32::try_from(number + 1).unwrap_or(u32::MAX);
    Ipv4Addr::from(u32::from(Ipv4Addr::new(10, 96, 0, 0)) + number)
}

/// An endpoint's address.
pub(crate) fn pod(service: usize, endpoint: usize) -> Ipv4Addr {
    let number = u32::try_from(service * ENDPOINTS + endpoint).unwrap_or(u32::MAX);
    Ipv4Addr::from(u32::from(Ipv4Addr::new(10, 128, 0, 1)) + number)
}

/// A Service.
pub(crate) fn service(number: usize) -> Value {
    json!({
        "apiVersion": "v1", "kind": "Service",
        "metadata": { "name": format!("s{number}"), "namespace": "default" },
        "spec": {
            "clusterIP": cluster_ip(number), "clusterIPs": [cluster_ip(number)],
            "ports": [{ "name": "http", "port": 80, "protocol": "TCP", "targetPort": 8080 }],
        },
    })
}

/// The endpoints of a Service; the first one is given.
pub(crate) fn slice(number: usize, first: Ipv4Addr) -> Value {
    let others = (1..ENDPOINTS).map(|endpoint| pod(number, endpoint));
    let endpoints = [first].into_iter().chain(others);
    let endpoints = endpoints.map(|pod| json!({ "addresses": [pod], "nodeName": "elsewhere" }));
    json!({
        "apiVersion": "discovery.k8s.io/v1", "kind": "EndpointSlice", "addressType": "IPv4",
        "metadata": {
            "name": format!("s{number}-1"), "namespace": "default",
            "labels": { "kubernetes.io/service-name": format!("s{number}") },
        },
        "ports": [{ "name": "http", "port": 8080, "protocol": "TCP" }],
        "endpoints": endpoints.collect::<Vec<_>>(),
    })
}
