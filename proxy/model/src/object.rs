//! The objects of the API, reduced to what shunt uses.
//!
//! Whoever converts from the wire has checked each value: addresses parse, ports are 1-65535.
//! What did not pass is left out here and stands in a [`Problem`](crate::problem::Problem).

use std::cmp::Ordering;
use std::fmt;
use std::net::IpAddr;
use std::ops::Deref;
use std::sync::Arc;

use ipnet::IpNet;

use crate::address::{Family, Protocol};
use crate::balancing::Balancing;

/// Namespace and name, in one word and shared: a dozen maps and objects hold the key of each
/// Service.
#[derive(Clone, PartialEq, Eq, Hash)]
pub struct ObjectKey(Arc<ObjectName>);

/// What an [`ObjectKey`] stands for. The namespace is empty for cluster-wide objects.
#[derive(Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ObjectName {
    /// The namespace.
    pub namespace: Arc<str>,
    /// The name.
    pub name: Arc<str>,
}

impl ObjectKey {
    /// A key from its two parts.
    #[must_use]
    pub fn new(namespace: &str, name: &str) -> Self {
        Self::of(namespace.into(), name.into())
    }

    /// A key from two parts that others may share.
    #[must_use]
    pub fn of(namespace: Arc<str>, name: Arc<str>) -> Self {
        Self(Arc::new(ObjectName { namespace, name }))
    }

    /// Whether both share one piece of memory.
    #[cfg(test)]
    pub(crate) fn is_same(&self, other: &Self) -> bool {
        Arc::ptr_eq(&self.0, &other.0)
    }
}

/// As that of [`ObjectName`]. What two keys share is not read: a search in a map compares a key with a
/// dozen others, nearly all of one namespace, and each name is a place of its own in memory.
impl Ord for ObjectKey {
    fn cmp(&self, other: &Self) -> Ordering {
        if Arc::ptr_eq(&self.0, &other.0) {
            return Ordering::Equal;
        }
        let of_namespace = if Arc::ptr_eq(&self.namespace, &other.namespace) {
            Ordering::Equal
        } else {
            self.namespace.cmp(&other.namespace)
        };
        of_namespace.then_with(|| self.name.cmp(&other.name))
    }
}

impl PartialOrd for ObjectKey {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

impl Deref for ObjectKey {
    type Target = ObjectName;

    fn deref(&self) -> &ObjectName {
        &self.0
    }
}

impl fmt::Debug for ObjectKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:?}", self.to_string())
    }
}

impl fmt::Display for ObjectKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.namespace.is_empty() {
            f.write_str(&self.name)
        } else {
            write!(f, "{}/{}", self.namespace, self.name)
        }
    }
}

/// `spec.type` of a Service that is proxied (ExternalName and headless Services never get here).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum ServiceType {
    /// Reachable on its ClusterIPs (and its externalIPs).
    #[default]
    ClusterIp,
    /// Also on a port of every node.
    NodePort,
    /// Also on the addresses in `status.loadBalancer`.
    LoadBalancer,
}

impl fmt::Display for ServiceType {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::ClusterIp => "ClusterIP",
            Self::NodePort => "NodePort",
            Self::LoadBalancer => "LoadBalancer",
        })
    }
}

/// `externalTrafficPolicy` or `internalTrafficPolicy`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum TrafficPolicy {
    /// All endpoints.
    #[default]
    Cluster,
    /// Only endpoints on this node.
    Local,
}

/// A Service.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Service {
    /// Namespace and name.
    pub key: ObjectKey,
    /// `metadata.creationTimestamp` in seconds since the epoch; 0 if unknown. When two Services
    /// claim one frontend, the older wins, then the lesser key.
    pub created: i64,
    /// `spec.type`.
    pub service_type: ServiceType,
    /// `spec.clusterIPs`: one address, or one of each family.
    pub cluster_ips: Vec<IpAddr>,
    /// `spec.externalIPs`.
    pub external_ips: Vec<IpAddr>,
    /// `status.loadBalancer.ingress[].ip` where `ipMode` is absent or VIP.
    pub load_balancer_ips: Vec<IpAddr>,
    /// `spec.ports`.
    pub ports: Vec<ServicePort>,
    /// `spec.externalTrafficPolicy`.
    pub external_traffic_policy: TrafficPolicy,
    /// `spec.internalTrafficPolicy`.
    pub internal_traffic_policy: TrafficPolicy,
    /// `spec.sessionAffinity` and what annotations say of balancing; `None`: the default.
    pub balancing: Option<Arc<Balancing>>,
    /// `spec.healthCheckNodePort`, of a load balancer whose external traffic policy is Local.
    pub health_check_node_port: Option<u16>,
    /// `spec.loadBalancerSourceRanges`; empty means everyone.
    pub load_balancer_source_ranges: Vec<IpNet>,
}

impl Service {
    /// The families that the Service has a ClusterIP of.
    pub fn families(&self) -> impl Iterator<Item = Family> + '_ {
        Family::ALL
            .into_iter()
            .filter(|family| self.cluster_ips.iter().any(|ip| Family::of(*ip) == *family))
    }
}

/// One entry of `spec.ports`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ServicePort {
    /// `name`; empty if the Service has one unnamed port. Endpoint ports are matched by it.
    pub name: Arc<str>,
    /// `protocol`.
    pub protocol: Protocol,
    /// `port`.
    pub port: u16,
    /// `nodePort`.
    pub node_port: Option<u16>,
}

/// An EndpointSlice.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct EndpointSlice {
    /// Namespace and name of the slice.
    pub key: ObjectKey,
    /// The Service, from the label `kubernetes.io/service-name` (same namespace).
    pub service: ObjectKey,
    /// `ports`, without those that have no name or no number.
    pub ports: Vec<SlicePort>,
    /// `endpoints`, each with its first address.
    pub endpoints: Vec<SliceEndpoint>,
}

/// One entry of a slice's `ports`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SlicePort {
    /// `name`; matches [`ServicePort::name`].
    pub name: Arc<str>,
    /// `protocol`.
    pub protocol: Protocol,
    /// `port`.
    pub port: u16,
}

/// One entry of a slice's `endpoints`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SliceEndpoint {
    /// The first of `addresses`.
    pub address: IpAddr,
    /// `conditions.ready`; absent means ready.
    pub ready: bool,
    /// `conditions.serving`; absent means serving, as kube-proxy takes it.
    pub serving: bool,
    /// `conditions.terminating`; absent means no.
    pub terminating: bool,
    /// The annotation `shunt.dev/weight` of its slice (1-100); absent means 1.
    pub weight: u8,
    /// Where it is and whom it is for, shared by all endpoints that have the same: there are many
    /// endpoints, and one word for both keeps them small.
    pub locality: Arc<Locality>,
}

impl SliceEndpoint {
    /// The name of the node that it is on, if that is known.
    #[must_use]
    pub fn node(&self) -> Option<&str> {
        self.locality.node.as_deref()
    }

    /// Who it is meant for, if there are hints.
    #[must_use]
    pub fn hints(&self) -> Option<&Hints> {
        self.locality.hints.as_ref()
    }
}

/// Where an endpoint is and whom it is for.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub struct Locality {
    /// `nodeName`.
    pub node: Option<Arc<str>>,
    /// `hints`.
    pub hints: Option<Hints>,
}

/// Who an endpoint is meant for, so that traffic stays near (`trafficDistribution`, KEP-2433 and
/// KEP-3015).
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub struct Hints {
    /// `forNodes[].name`.
    pub nodes: Vec<Arc<str>>,
    /// `forZones[].name`.
    pub zones: Vec<Arc<str>>,
}

/// The Node that shunt runs on.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Node {
    /// `metadata.name`.
    pub name: Arc<str>,
    /// `status.addresses`, InternalIP before ExternalIP, in the API's order.
    pub addresses: Vec<IpAddr>,
    /// `spec.podCIDRs`.
    pub pod_cidrs: Vec<IpNet>,
    /// The label `topology.kubernetes.io/zone`.
    pub zone: Option<Arc<str>>,
    /// It is being deleted, or the cluster's autoscaler has marked it to be: load balancers shall
    /// send nothing new.
    pub leaving: bool,
}

/// A ServiceCIDR: networks that ClusterIPs are taken from (KEP-1880).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ServiceCidr {
    /// `metadata.name`.
    pub name: Arc<str>,
    /// `spec.cidrs`.
    pub cidrs: Vec<IpNet>,
}
