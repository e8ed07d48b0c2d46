//! Random Services and their endpoints, and how they change.

use std::collections::BTreeSet;

use serde_json::{Value, json};
use shunt_cluster::Protocol;

use crate::control_plane::random::Random;
use crate::scenario::setup::Setup;

/// How many Services there can be. Each has two addresses of `ext-1` to `ext-9`.
const SERVICES: usize = 4;
/// Ports of Services, and those of their pods.
const PORTS: [u16; 3] = [53, 80, 443];
const TARGETS: [u16; 3] = [5353, 8080, 8081];
/// Node ports of the first Service.
const FIRST_NODE_PORT: usize = 30_000;
/// Who may be an endpoint: pods, and processes of nodes.
const HOSTS: [&str; 7] = ["web-1", "web-2", "dns-1", "web-3", "web-4", "dns-2", "node-2"];
/// The most endpoints of a Service.
const MOST: usize = 4;
/// For addresses of balancers: the client; the first node's pods; everyone.
const RANGES: [&[&str]; 3] = [
    &["192.168.77.101/32", "fd00:77::101/128"],
    &["10.77.1.0/24", "fd00:10:77:1::/64"],
    &["0.0.0.0/0", "::/0"],
];

/// All Services; those that are not there are holes.
pub(super) struct World {
    services: Vec<Option<Service>>,
}

struct Service {
    kind: &'static str,
    families: &'static [&'static str],
    outside_local: bool,
    inside_local: bool,
    sticky: bool,
    external: bool,
    ranges: Option<&'static [&'static str]>,
    ports: Vec<Port>,
    endpoints: Vec<Endpoint>,
}

struct Port {
    protocol: Protocol,
    number: u16,
    target: u16,
}

struct Endpoint {
    host: &'static str,
    ready: bool,
    serving: bool,
    terminating: bool,
}

/// Something to ask: a destination, by its name.
#[derive(Clone, Debug)]
pub(super) struct Target {
    /// `vip-1/v4`.
    pub(super) name: String,
    pub(super) protocol: Protocol,
    pub(super) port: u16,
    /// A NodePort with `externalTrafficPolicy: Local`: pods of other nodes get their answers past its NAT.
    pub(super) own_node_only: bool,
    /// Of a Service whose clients keep their endpoint.
    pub(super) sticky: bool,
}

impl World {
    pub(super) fn new(random: &mut Random) -> Self {
        let service = |_| random.chance(80).then(|| Service::new(random));
        Self { services: (0..SERVICES).map(service).collect() }
    }

    /// Some Services come, go, change, or have other endpoints.
    pub(super) fn change(&mut self, random: &mut Random) {
        for place in &mut self.services {
            match (random.below(10), place.as_mut()) {
                (0 | 1, _) | (2..=5, None) => *place = Some(Service::new(random)),
                (2, Some(_)) => *place = None,
                (3..=6, Some(service)) => service.endpoints = endpoints(random),
                _ => {}
            }
        }
    }

    /// All objects, the Nodes too.
    pub(super) fn objects(&self, setup: &Setup) -> Vec<Value> {
        let nodes = setup.cluster.nodes.iter().map(|node| {
            let address = |ip| json!({ "type": "InternalIP", "address": ip });
            let addresses = setup.names.resolve(&node.name).unwrap_or_default();
            json!({
                "apiVersion": "v1", "kind": "Node", "metadata": { "name": node.name },
                "status": { "addresses": addresses.into_iter().map(address).collect::<Vec<_>>() },
            })
        });
        let services =
            (1..).zip(&self.services).filter_map(|(slot, place)| Some((slot, place.as_ref()?)));
        let of_services = services.flat_map(|(slot, service)| service.objects(slot, setup));
        nodes.chain(of_services).collect()
    }

    /// What can be asked for, also where there is nothing.
    pub(super) fn targets(&self) -> Vec<Target> {
        let places = (1..).zip(&self.services);
        places.flat_map(|(slot, place)| targets(slot, place.as_ref())).collect()
    }
}

impl Service {
    fn new(random: &mut Random) -> Self {
        let kind = random.one_of(&["ClusterIP", "NodePort", "LoadBalancer"]);
        let external = random.chance(30);
        let outside = kind != "ClusterIP";
        let mut taken = BTreeSet::new();
        let mut ports = Vec::new();
        for _ in 0..=random.below(3) {
            let protocol = random.one_of(&[Protocol::Tcp, Protocol::Udp]);
            let number = random.one_of(&PORTS);
            if taken.insert((protocol, number)) {
                ports.push(Port { protocol, number, target: random.one_of(&TARGETS) });
            }
        }
        Self {
            kind,
            families: random.one_of::<&[&str]>(&[&["v4", "v6"], &["v4", "v6"], &["v4"], &["v6"]]),
            outside_local: outside && random.chance(40),
            inside_local: random.chance(25),
            sticky: random.chance(25),
            external,
            ranges: (kind == "LoadBalancer" && random.chance(40)).then(|| random.one_of(&RANGES)),
            ports,
            endpoints: endpoints(random),
        }
    }

    fn objects(&self, slot: usize, setup: &Setup) -> Vec<Value> {
        let name = format!("service-{slot}");
        let resolve = |name: &str| -> Vec<String> {
            let each = self
                .families
                .iter()
                .flat_map(|family| setup.names.resolve(&format!("{name}/{family}")));
            each.flatten().map(|ip| ip.to_string()).collect()
        };
        let policy = |local: bool| if local { "Local" } else { "Cluster" };
        let ports = (0..).zip(&self.ports).map(|(index, port): (usize, &Port)| {
            let mut port = json!({
                "name": port.name(), "port": port.number, "targetPort": port.target,
                "protocol": port.protocol.to_string(),
            });
            if self.kind != "ClusterIP" {
                port["nodePort"] = json!(node_port(slot, index));
            }
            port
        });
        let mut spec = json!({
            "type": self.kind,
            "clusterIPs": resolve(&format!("vip-{slot}")),
            "internalTrafficPolicy": policy(self.inside_local),
            "ports": ports.collect::<Vec<_>>(),
        });
        if self.sticky {
            spec["sessionAffinity"] = json!("ClientIP");
        }
        let mut status = json!({});
        if self.external {
            spec["externalIPs"] = json!(resolve(&external(slot)));
        }
        if self.kind != "ClusterIP" {
            spec["externalTrafficPolicy"] = json!(policy(self.outside_local));
        }
        if self.kind == "LoadBalancer" {
            let ingress = resolve(&balancer(slot)).into_iter().map(|ip| json!({ "ip": ip }));
            status = json!({ "loadBalancer": { "ingress": ingress.collect::<Vec<_>>() } });
            if let Some(ranges) = self.ranges {
                spec["loadBalancerSourceRanges"] = json!(ranges);
            }
        }
        let service = json!({
            "apiVersion": "v1", "kind": "Service", "spec": spec, "status": status,
            "metadata": { "name": name, "namespace": "default" },
        });
        let slices = self.families.iter().map(|family| self.slice(&name, family, setup));
        std::iter::once(service).chain(slices).collect()
    }

    fn slice(&self, service: &str, family: &str, setup: &Setup) -> Value {
        let endpoint = |endpoint: &Endpoint| {
            let address =
                setup.names.resolve(&format!("{}/{family}", endpoint.host)).unwrap_or_default();
            json!({
                "addresses": address, "nodeName": setup.node_of(endpoint.host),
                "conditions": {
                    "ready": endpoint.ready, "serving": endpoint.serving, "terminating": endpoint.terminating,
                },
            })
        };
        let port = |port: &Port| json!({ "name": port.name(), "port": port.target, "protocol": port.protocol.to_string() });
        json!({
            "apiVersion": "discovery.k8s.io/v1", "kind": "EndpointSlice",
            "metadata": {
                "name": format!("{service}-{family}"), "namespace": "default",
                "labels": { "kubernetes.io/service-name": service },
            },
            "addressType": if family == "v4" { "IPv4" } else { "IPv6" },
            "ports": self.ports.iter().map(port).collect::<Vec<_>>(),
            "endpoints": self.endpoints.iter().map(endpoint).collect::<Vec<_>>(),
        })
    }
}

impl Port {
    fn name(&self) -> String {
        format!("{}-{}", self.protocol.to_string().to_lowercase(), self.number)
    }
}

fn endpoints(random: &mut Random) -> Vec<Endpoint> {
    let hosts = random.some_of(&HOSTS, MOST);
    let endpoint = |host| {
        // Ready; ending, and serving or not; serving, but never said to be ready.
        let (ready, serving, terminating) = match random.below(10) {
            0..=6 => (true, true, false),
            7 => (false, true, true),
            8 => (false, false, true),
            _ => (false, true, false),
        };
        Endpoint { host, ready, serving, terminating }
    };
    hosts.into_iter().map(endpoint).collect()
}

fn node_port(slot: usize, index: usize) -> u16 {
    u16::try_from(FIRST_NODE_PORT + 10 * slot + index).unwrap_or(u16::MAX)
}

/// The balancer's address of a Service and its external IP are different ones.
fn balancer(slot: usize) -> String {
    format!("ext-{slot}")
}

fn external(slot: usize) -> String {
    format!("ext-{}", slot + SERVICES)
}

fn targets(slot: usize, service: Option<&Service>) -> Vec<Target> {
    let sticky = service.is_some_and(|service| service.sticky);
    let mut targets = Vec::new();
    let mut add = |name: &str, protocol, port, own_node_only| {
        for family in ["v4", "v6"] {
            let name = format!("{name}/{family}");
            targets.push(Target { name, protocol, port, own_node_only, sticky });
        }
    };
    let ports = service.map_or(&[][..], |service| &service.ports);
    for (index, port) in ports.iter().enumerate() {
        add(&format!("vip-{slot}"), port.protocol, port.number, false);
        add(&balancer(slot), port.protocol, port.number, false);
        add(&external(slot), port.protocol, port.number, false);
        let local = service.is_some_and(|service| service.outside_local);
        for node in ["node-1", "node-2"] {
            add(node, port.protocol, node_port(slot, index), local);
        }
    }
    // Nobody's port, unless by chance.
    add(&format!("vip-{slot}"), Protocol::Udp, 443, false);
    add("node-1", Protocol::Tcp, node_port(slot, 5), false);
    targets
}
