//! Random changes to Services and EndpointSlices, written as a controller would write them.

use std::collections::BTreeMap;

use anyhow::Result;
use kube::Client;
use serde_json::{Value, json};
use shunt_kind_tests::control_plane::random::Random;
use shunt_kind_tests::control_plane::{Id, verbs};

use crate::site::NODES;

pub(crate) const NAMESPACE: &str = "default";
/// Writers at the same time, each with objects of its own.
pub(crate) const WRITERS: usize = 16;
/// Services of each writer.
const SERVICES: usize = 3;
/// EndpointSlices of each writer.
const SLICES: usize = 6;

/// Shared by all, so that Services claim what others have.
const EXTERNAL_IPS: [&str; 4] =
    ["203.0.113.1", "203.0.113.2", "2001:db8:113::1", "2001:db8:113::2"];
const BALANCER_IPS: [&str; 4] =
    ["203.0.113.2", "203.0.113.4", "2001:db8:113::2", "2001:db8:113::4"];
const RANGES: [&str; 4] = ["192.168.77.0/24", "10.0.0.0/8", "fd00::/8", "0.0.0.0/0"];
/// Name, protocol and number of ports that Services have; slices have the names.
const PORTS: [(&str, &str, u16); 5] = [
    ("http", "TCP", 80),
    ("https", "TCP", 443),
    ("dns", "UDP", 53),
    ("dns-tcp", "TCP", 53),
    ("sig", "SCTP", 9000),
];
const TARGETS: [u16; 4] = [8080, 8081, 5353, 80];

/// Which changes were made, and how often.
pub(crate) type Tally = BTreeMap<&'static str, usize>;

/// One writer. It waits for each of its changes, so what it does follows from its seed alone.
#[derive(Clone, Debug)]
pub(crate) struct Writer {
    index: usize,
    random: Random,
    /// The type of each of its Services, if that is there.
    services: [Option<&'static str>; SERVICES],
    /// The family of each of its slices, if that is there.
    slices: [Option<usize>; SLICES],
}

impl Writer {
    pub(crate) fn new(seed: u64, index: usize) -> Self {
        Self {
            index,
            random: Random::part(seed, index as u64),
            services: [None; SERVICES],
            slices: [None; SLICES],
        }
    }

    /// Makes so many changes, and tells which.
    pub(crate) async fn work(mut self, client: Client, changes: usize) -> Result<(Self, Tally)> {
        let mut tally = Tally::new();
        for _ in 0..changes {
            let change = self.change(&client).await?;
            *tally.entry(change).or_default() += 1;
        }
        Ok((self, tally))
    }

    async fn change(&mut self, client: &Client) -> Result<&'static str> {
        if self.random.chance(35) {
            let number = self.random.below(SERVICES);
            self.change_service(client, number).await
        } else {
            let number = self.random.below(SLICES);
            self.change_slice(client, number).await
        }
    }

    async fn change_service(&mut self, client: &Client, number: usize) -> Result<&'static str> {
        let name = service_name(self.index, number);
        let id = Id::service(NAMESPACE, &name);
        let Some(former) = self.services[number] else {
            let (kind, spec) = self.service_spec(true);
            self.services[number] = Some(kind);
            let metadata = json!({"namespace": NAMESPACE, "name": name});
            let object =
                json!({"apiVersion": "v1", "kind": "Service", "metadata": metadata, "spec": spec});
            verbs::create(client, object).await?;
            return Ok("Service created");
        };
        match self.random.below(100) {
            0..15 => {
                self.services[number] = None;
                verbs::delete(client, &id, 0).await?;
                Ok("Service deleted")
            }
            15..25 => {
                let label = if self.random.chance(50) { json!("another") } else { Value::Null };
                let labels = json!({"service.kubernetes.io/service-proxy-name": label});
                verbs::patch(client, &id, json!({"metadata": {"labels": labels}})).await?;
                Ok("Service given to another proxy, or back")
            }
            25..50 if former == "LoadBalancer" => {
                let ingress = self.ingress();
                let status = json!({"status": {"loadBalancer": {"ingress": ingress}}});
                verbs::patch_status(client, &id, status).await?;
                Ok("load balancer's addresses")
            }
            _ => {
                let (kind, spec) = self.service_spec(false);
                self.services[number] = Some(kind);
                verbs::patch(client, &id, json!({"spec": spec})).await?;
                Ok(if kind == former { "Service changed" } else { "Service's type changed" })
            }
        }
    }

    /// All that a Service can ask of a proxy; null where a former answer must go.
    fn service_spec(&mut self, new: bool) -> (&'static str, Value) {
        let random = &mut self.random;
        let kind = random.one_of(&["ClusterIP", "ClusterIP", "NodePort", "LoadBalancer"]);
        let balancer = kind == "LoadBalancer";
        let external =
            if random.chance(30) { random.some_of(&EXTERNAL_IPS, 2) } else { Vec::new() };
        let affinity = random.chance(20).then(|| random.one_of(&[60, 10_800]));
        let policies = ["Cluster", "Local"];
        let outside =
            (kind != "ClusterIP" || !external.is_empty()).then(|| random.one_of(&policies));
        let ranges = random.some_of(&RANGES, 2);
        let mut spec = json!({
            "type": kind,
            "ports": service_ports(random),
            "externalIPs": external,
            "externalTrafficPolicy": outside,
            "internalTrafficPolicy": random.one_of(&policies),
            "sessionAffinity": if affinity.is_some() { "ClientIP" } else { "None" },
            "sessionAffinityConfig": affinity.map(|s| json!({"clientIP": {"timeoutSeconds": s}})),
            "ipFamilyPolicy": random.one_of(&["SingleStack", "PreferDualStack"]),
            "loadBalancerSourceRanges": (balancer && !ranges.is_empty()).then_some(ranges),
            "allocateLoadBalancerNodePorts": balancer.then(|| random.chance(70)),
        });
        if new {
            // The first family stays for life.
            spec["ipFamilies"] = json!([random.one_of(&["IPv4", "IPv4", "IPv6"])]);
        }
        (kind, spec)
    }

    fn ingress(&mut self) -> Value {
        let addresses = self.random.some_of(&BALANCER_IPS, 3);
        let mut ingress: Vec<_> = addresses
            .into_iter()
            .map(|ip| json!({"ip": ip, "ipMode": self.random.one_of(&["VIP", "VIP", "Proxy"])}))
            .collect();
        if self.random.chance(20) {
            ingress.push(json!({"hostname": "balancer.example"}));
        }
        ingress.into()
    }

    async fn change_slice(&mut self, client: &Client, number: usize) -> Result<&'static str> {
        let name = format!("slice-{}-{number}", self.index);
        let id = Id::slice(NAMESPACE, &name);
        let Some(family) = self.slices[number] else {
            let family = self.random.below(2);
            self.slices[number] = Some(family);
            let labels = json!({
                "kubernetes.io/service-name": self.any_service(),
                "endpointslice.kubernetes.io/managed-by": "random-changes",
            });
            let object = json!({
                "apiVersion": "discovery.k8s.io/v1", "kind": "EndpointSlice",
                "metadata": {"namespace": NAMESPACE, "name": name, "labels": labels},
                "addressType": (["IPv4", "IPv6"][family]),
                "ports": slice_ports(&mut self.random),
                "endpoints": endpoints(&mut self.random, family),
            });
            verbs::create(client, object).await?;
            return Ok("slice created");
        };
        let labels = |labels: Value| json!({"metadata": {"labels": labels}});
        let (patch, change) = match self.random.below(100) {
            0..8 => {
                self.slices[number] = None;
                verbs::delete(client, &id, 0).await?;
                return Ok("slice deleted");
            }
            8..16 => {
                let service = self.any_service();
                (
                    labels(json!({"kubernetes.io/service-name": service})),
                    "slice moved to another Service",
                )
            }
            16..20 => {
                let headless = if self.random.chance(40) { json!("") } else { Value::Null };
                (
                    labels(json!({"service.kubernetes.io/headless": headless})),
                    "slice of a headless Service, or not",
                )
            }
            20..32 => (json!({"ports": slice_ports(&mut self.random)}), "endpoints' ports"),
            _ => (
                json!({"endpoints": endpoints(&mut self.random, family)}),
                "endpoints and their readiness",
            ),
        };
        verbs::patch(client, &id, patch).await?;
        Ok(change)
    }

    /// Any writer's Service, also one that is not there.
    fn any_service(&mut self) -> String {
        let writer = self.random.below(WRITERS);
        service_name(writer, self.random.below(SERVICES))
    }
}

fn service_name(writer: usize, number: usize) -> String {
    format!("service-{writer}-{number}")
}

fn service_ports(random: &mut Random) -> Value {
    if random.chance(15) {
        return json!([{"port": random.one_of(&[80, 443]), "targetPort": 8080}]);
    }
    let mut chosen = random.some_of(&PORTS, 3);
    if chosen.is_empty() {
        chosen.push(PORTS[0]);
    }
    let port = |(name, protocol, port)| json!({"name": name, "protocol": protocol, "port": port});
    chosen.into_iter().map(port).collect()
}

fn slice_ports(random: &mut Random) -> Value {
    let mut ports = Vec::new();
    for (name, protocol, _) in [("", "TCP", 0)].iter().chain(&PORTS) {
        if random.chance(80) {
            ports
                .push(json!({"name": name, "protocol": protocol, "port": random.one_of(&TARGETS)}));
        }
    }
    ports.into()
}

fn endpoints(random: &mut Random, family: usize) -> Value {
    let count = if random.chance(3) { 60 } else { random.below(9) };
    let first = random.below(200);
    let endpoint = |index: usize| {
        // 7 and 200 have no common divisor, so each comes once.
        let host = (first + index * 7) % 200 + 20;
        let node = random.below(NODES.len());
        let address = match family {
            0 => format!("10.77.{}.{host}", node + 1),
            _ => format!("fd00:10:77:{}::{host}", node + 1),
        };
        let ready = random.one_of(&[Some(true), Some(true), Some(true), None, Some(false)]);
        let terminating = random.chance(10);
        let conditions = if terminating {
            json!({"ready": false, "serving": random.chance(50), "terminating": true})
        } else {
            json!({"ready": ready})
        };
        let node_name = (!random.chance(10)).then_some(NODES[node]);
        json!({"addresses": [address], "conditions": conditions, "nodeName": node_name})
    };
    (0..count).map(endpoint).collect()
}
