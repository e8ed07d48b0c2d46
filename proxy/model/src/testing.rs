//! Builders of small objects, and a world that holds every step of a test to the invariants.

mod properties;
mod semantics;
mod strategies;

use std::collections::BTreeSet;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;

use ipnet::IpNet;

use crate::address::Protocol;
use crate::balancing::{Affinity, AffinityScope, Balancing, WEIGHT};
use crate::compile::{Compiler, LocalSources, NodePortAddresses, Settings, full};
use crate::object::{
    EndpointSlice, Hints, Locality, Node, ObjectKey, Service, ServicePort, ServiceType,
    SliceEndpoint, SlicePort, TrafficPolicy,
};
use crate::oracle::{Packet, Verdict, verdict};
use crate::plan::{Plan, PlanDelta, ServicePlan};
use crate::problem::{Kind, Problem};
use crate::snapshot::{Change, Dirty, Object, Snapshot};

/// The name of our node in all tests.
pub(crate) const HERE: &str = "here";

pub(crate) fn ip(text: &str) -> IpAddr {
    text.parse().unwrap()
}

pub(crate) fn nets(texts: &[&str]) -> Vec<IpNet> {
    texts.iter().map(|text| text.parse().unwrap()).collect()
}

/// `namespace/name`, or `name` for what is cluster-wide.
pub(crate) fn key(text: &str) -> ObjectKey {
    let (namespace, name) = text.split_once('/').unwrap_or(("", text));
    ObjectKey::new(namespace, name)
}

pub(crate) fn settings() -> Settings {
    Settings {
        node_name: HERE.into(),
        node_port_addresses: NodePortAddresses::Primary,
        local_sources: LocalSources::NodePodCidrs,
        masquerade_all: false,
        external_ips: true,
        reset_tcp: false,
        localhost_node_ports: false,
    }
}

/// A Service in the making.
#[derive(Clone)]
pub(crate) struct ServiceBuilder(Service);

/// A Service with an age of 1, no address and no port.
pub(crate) fn service(name: &str) -> ServiceBuilder {
    ServiceBuilder(Service {
        key: key(name),
        created: 1,
        service_type: ServiceType::ClusterIp,
        cluster_ips: Vec::new(),
        external_ips: Vec::new(),
        load_balancer_ips: Vec::new(),
        ports: Vec::new(),
        external_traffic_policy: TrafficPolicy::Cluster,
        internal_traffic_policy: TrafficPolicy::Cluster,
        balancing: None,
        health_check_node_port: None,
        load_balancer_source_ranges: Vec::new(),
    })
}

impl ServiceBuilder {
    pub(crate) fn created(mut self, created: i64) -> Self {
        self.0.created = created;
        self
    }

    pub(crate) fn cluster_ip(mut self, text: &str) -> Self {
        self.0.cluster_ips.push(ip(text));
        self
    }

    pub(crate) fn external_ip(mut self, text: &str) -> Self {
        self.0.external_ips.push(ip(text));
        self
    }

    pub(crate) fn load_balancer_ip(mut self, text: &str) -> Self {
        self.0.service_type = ServiceType::LoadBalancer;
        self.0.load_balancer_ips.push(ip(text));
        self
    }

    pub(crate) fn source_ranges(mut self, ranges: &[&str]) -> Self {
        self.0.load_balancer_source_ranges = nets(ranges);
        self
    }

    /// A TCP port.
    pub(crate) fn port(self, name: &str, port: u16) -> Self {
        self.port_of(name, Protocol::Tcp, port)
    }

    pub(crate) fn port_of(mut self, name: &str, protocol: Protocol, port: u16) -> Self {
        self.0.ports.push(ServicePort { name: name.into(), protocol, port, node_port: None });
        self
    }

    /// The NodePort of the last port; the type becomes NodePort.
    pub(crate) fn node_port(mut self, port: u16) -> Self {
        self.0.service_type = ServiceType::NodePort;
        self.0.ports.last_mut().unwrap().node_port = Some(port);
        self
    }

    pub(crate) fn of_type(mut self, service_type: ServiceType) -> Self {
        self.0.service_type = service_type;
        self
    }

    pub(crate) fn internal_local(mut self) -> Self {
        self.0.internal_traffic_policy = TrafficPolicy::Local;
        self
    }

    pub(crate) fn external_local(mut self) -> Self {
        self.0.external_traffic_policy = TrafficPolicy::Local;
        self
    }

    pub(crate) fn affinity(self, seconds: u32) -> Self {
        let affinity = Some(Affinity { seconds, scope: AffinityScope::Port });
        self.balancing(Balancing { affinity, ..Balancing::default() })
    }

    pub(crate) fn balancing(mut self, balancing: Balancing) -> Self {
        self.0.balancing = Some(Arc::new(balancing));
        self
    }
}

impl From<ServiceBuilder> for Change {
    fn from(builder: ServiceBuilder) -> Self {
        applied(Object::Service(builder.0))
    }
}

/// A slice in the making.
#[derive(Clone)]
pub(crate) struct SliceBuilder(EndpointSlice);

/// A slice of the Service that its name begins with: `ns/web-1` is one of `ns/web`.
pub(crate) fn slice(name: &str) -> SliceBuilder {
    let service = name.rsplit_once('-').map_or(name, |(service, _)| service);
    SliceBuilder(EndpointSlice {
        key: key(name),
        service: key(service),
        ports: Vec::new(),
        endpoints: Vec::new(),
    })
}

impl SliceBuilder {
    pub(crate) fn of(mut self, service: &str) -> Self {
        self.0.service = key(service);
        self
    }

    /// A TCP port.
    pub(crate) fn port(self, name: &str, port: u16) -> Self {
        self.port_of(name, Protocol::Tcp, port)
    }

    pub(crate) fn port_of(mut self, name: &str, protocol: Protocol, port: u16) -> Self {
        self.0.ports.push(SlicePort { name: name.into(), protocol, port });
        self
    }

    /// A ready endpoint; the node `?` is none.
    pub(crate) fn endpoint(mut self, address: &str, node: &str) -> Self {
        let node = (node != "?").then(|| node.into());
        self.0.endpoints.push(SliceEndpoint {
            address: ip(address),
            ready: true,
            serving: true,
            terminating: false,
            weight: WEIGHT,
            locality: Arc::new(Locality { node, hints: None }),
        });
        self
    }

    /// The last endpoint is meant for these nodes and zones.
    pub(crate) fn hints(mut self, nodes: &[&str], zones: &[&str]) -> Self {
        let names = |texts: &[&str]| texts.iter().map(|text| (*text).into()).collect();
        let hints = Hints { nodes: names(nodes), zones: names(zones) };
        let last = self.0.endpoints.last_mut().unwrap();
        Arc::make_mut(&mut last.locality).hints = Some(hints);
        self
    }

    /// The last endpoint does not serve.
    pub(crate) fn unready(mut self) -> Self {
        let endpoint = self.0.endpoints.last_mut().unwrap();
        (endpoint.ready, endpoint.serving) = (false, false);
        self
    }

    /// The last endpoint ends, and serves until then.
    pub(crate) fn ending(mut self) -> Self {
        let endpoint = self.0.endpoints.last_mut().unwrap();
        (endpoint.ready, endpoint.serving, endpoint.terminating) = (false, true, true);
        self
    }

    /// The weight of the last endpoint.
    pub(crate) fn weight(mut self, weight: u8) -> Self {
        self.0.endpoints.last_mut().unwrap().weight = weight;
        self
    }

    pub(crate) fn build(self) -> EndpointSlice {
        self.0
    }
}

impl From<SliceBuilder> for Change {
    fn from(builder: SliceBuilder) -> Self {
        applied(Object::EndpointSlice(builder.0))
    }
}

/// A Node.
pub(crate) fn node(name: &str, addresses: &[&str], pod_cidrs: &[&str]) -> Change {
    applied(Object::Node(Node {
        name: name.into(),
        addresses: addresses.iter().map(|text| ip(text)).collect(),
        pod_cidrs: nets(pod_cidrs),
        zone: None,
        leaving: false,
    }))
}

pub(crate) fn local_addresses(addresses: &[&str]) -> Change {
    Change::LocalAddresses(addresses.iter().map(|text| ip(text)).collect())
}

pub(crate) fn applied(object: Object) -> Change {
    Change::Applied { object, problems: Vec::new() }
}

pub(crate) fn deleted(kind: Kind, name: &str) -> Change {
    Change::Deleted { kind, key: key(name) }
}

/// A problem that a conversion could have found.
pub(crate) fn found(kind: Kind, name: &str, field: &str) -> Problem {
    Problem { kind, object: key(name), field: field.into(), reason: "is no good".into() }
}

/// A snapshot with the plan that belongs to it.
pub(crate) struct World {
    pub(crate) settings: Settings,
    pub(crate) snapshot: Snapshot,
    pub(crate) plan: Plan,
    compiler: Compiler,
}

impl World {
    /// A world on a Node with 192.168.0.1 and fd00::1, and pods in 10.244.0.0/24 and fd01::/64.
    pub(crate) fn new() -> Self {
        let mut world = Self::empty(settings());
        world.apply(node(HERE, &["192.168.0.1", "fd00::1"], &["10.244.0.0/24", "fd01::/64"]));
        world
    }

    /// A world with nothing in it.
    pub(crate) fn empty(settings: Settings) -> Self {
        let mut world = Self {
            compiler: Compiler::new(settings.clone()),
            settings,
            snapshot: Snapshot::new(),
            plan: Plan::default(),
        };
        world.update(&world.snapshot.everything());
        world
    }

    /// A [`World::new`] to which this has been applied.
    pub(crate) fn with(changes: impl IntoIterator<Item = Change>) -> Self {
        let mut world = Self::new();
        for change in changes {
            world.apply(change);
        }
        world
    }

    pub(crate) fn apply(&mut self, change: impl Into<Change>) -> PlanDelta {
        let dirty = self.snapshot.apply(change.into());
        self.update(&dirty)
    }

    /// Compiles, and holds the outcome to what must always be true of it.
    pub(crate) fn update(&mut self, dirty: &Dirty) -> PlanDelta {
        let delta = self.compiler.update(&self.snapshot, dirty, &self.plan);
        assert!(delta.node.as_ref().is_none_or(|node| *node != self.plan.node));
        for (key, service) in &delta.services {
            assert_ne!(service.as_ref(), self.plan.services.get(key), "{key} has not changed");
        }
        self.plan.apply(delta.clone());
        assert_eq!(self.plan, full(&self.settings, &self.snapshot));
        assert_eq!(self.plan.check(), Vec::<String>::new());
        delta
    }

    pub(crate) fn service(&self, name: &str) -> &Arc<ServicePlan> {
        &self.plan.services[&key(name)]
    }

    /// A Service's frontends, as text, sorted.
    pub(crate) fn frontends(&self, name: &str) -> Vec<String> {
        self.service(name).frontends.iter().map(|plan| plan.frontend.to_string()).collect()
    }

    /// A Service's problems, as `field: reason`.
    pub(crate) fn problems(&self, name: &str) -> Vec<String> {
        let problems = &self.service(name).problems;
        problems.iter().map(|problem| format!("{}: {}", problem.field, problem.reason)).collect()
    }

    /// What happens to a packet from `source` to a TCP `destination`; see [`flow`].
    pub(crate) fn flow(&self, source: &str, destination: &str) -> String {
        flow(&self.plan, Protocol::Tcp, source, destination)
    }
}

/// What happens to a packet from `source` to `destination` (an address with a port), as text:
/// `pass`, `reject`, `drop`, or the endpoints; a `*` stands behind those that see the node.
pub(crate) fn flow(plan: &Plan, protocol: Protocol, source: &str, destination: &str) -> String {
    let destination: SocketAddr = destination.parse().unwrap();
    let packet = Packet {
        source: ip(source),
        destination: destination.ip(),
        protocol,
        port: destination.port(),
        from_node: plan.node.node_port_addresses.contains(&ip(source)),
        interface: None,
    };
    match verdict(plan, &packet) {
        Verdict::Pass => "pass".into(),
        Verdict::Reject => "reject".into(),
        Verdict::Drop => "drop".into(),
        Verdict::Forward(endpoints) => {
            let star = |masqueraded| if masqueraded { "*" } else { "" };
            let texts = endpoints.iter().map(|(endpoint, m)| format!("{endpoint}{}", star(*m)));
            texts.collect::<Vec<_>>().join(" ")
        }
    }
}

/// The keys of what a delta changes.
pub(crate) fn changed(delta: &PlanDelta) -> Vec<String> {
    delta.services.keys().map(ToString::to_string).collect()
}

/// The keys of what is dirty.
pub(crate) fn dirty(dirty: &Dirty) -> Vec<String> {
    let node = dirty.node.then(|| "node".to_owned());
    node.into_iter().chain(names(&dirty.services)).collect()
}

fn names(keys: &BTreeSet<ObjectKey>) -> Vec<String> {
    keys.iter().map(ToString::to_string).collect()
}
