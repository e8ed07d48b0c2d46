//! The API's objects as they come over the wire, reduced to the fields that shunt uses.
//!
//! Everything else is skipped while it is parsed. Numbers are wider than the API's own so that a
//! value out of range is reported by us, with its field, and does not make the parser give up on
//! the whole object. `null` means absent everywhere, as it does for the API server.

pub mod cluster;
pub mod policy;

use std::collections::BTreeMap;

use k8s_openapi::apimachinery::pkg::apis::meta::v1::{ObjectMeta, Time};
use kube::core::{ClusterResourceScope, NamespaceResourceScope};
use serde::de::{Deserialize, Deserializer};

/// `v1` Service.
#[derive(Clone, Debug, Default, serde::Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Service {
    /// `metadata`, reduced.
    #[serde(default, deserialize_with = "metadata")]
    pub metadata: ObjectMeta,
    /// `spec`.
    #[serde(default, deserialize_with = "nullable")]
    pub spec: ServiceSpec,
    /// `status`.
    #[serde(default, deserialize_with = "nullable")]
    pub status: ServiceStatus,
}

/// `spec` of a Service.
#[derive(Clone, Debug, Default, serde::Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct ServiceSpec {
    /// `type`.
    pub r#type: Option<String>,
    /// `clusterIP`, the first of `clusterIPs`.
    #[serde(rename = "clusterIP")]
    pub cluster_ip: Option<String>,
    /// `clusterIPs`.
    #[serde(rename = "clusterIPs", deserialize_with = "nullable")]
    pub cluster_ips: Vec<String>,
    /// `externalIPs`.
    #[serde(rename = "externalIPs", deserialize_with = "nullable")]
    pub external_ips: Vec<String>,
    /// `ports`.
    #[serde(deserialize_with = "nullable")]
    pub ports: Vec<ServicePort>,
    /// `externalTrafficPolicy`.
    pub external_traffic_policy: Option<String>,
    /// `internalTrafficPolicy`.
    pub internal_traffic_policy: Option<String>,
    /// `sessionAffinity`.
    pub session_affinity: Option<String>,
    /// `sessionAffinityConfig`.
    #[serde(deserialize_with = "nullable")]
    pub session_affinity_config: SessionAffinityConfig,
    /// `healthCheckNodePort`; 0 is none.
    pub health_check_node_port: Option<i64>,
    /// `loadBalancerSourceRanges`.
    #[serde(deserialize_with = "nullable")]
    pub load_balancer_source_ranges: Vec<String>,
}

/// One entry of a Service's `ports`.
#[derive(Clone, Debug, Default, serde::Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct ServicePort {
    /// `name`.
    pub name: Option<String>,
    /// `protocol`.
    pub protocol: Option<String>,
    /// `port`.
    pub port: Option<i64>,
    /// `nodePort`.
    pub node_port: Option<i64>,
}

/// `sessionAffinityConfig`.
#[derive(Clone, Debug, Default, serde::Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct SessionAffinityConfig {
    /// `clientIP`.
    #[serde(rename = "clientIP", deserialize_with = "nullable")]
    pub client_ip: ClientIpConfig,
}

/// `sessionAffinityConfig.clientIP`.
#[derive(Clone, Debug, Default, serde::Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct ClientIpConfig {
    /// `timeoutSeconds`.
    pub timeout_seconds: Option<i64>,
}

/// `status` of a Service.
#[derive(Clone, Debug, Default, serde::Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct ServiceStatus {
    /// `loadBalancer`.
    #[serde(deserialize_with = "nullable")]
    pub load_balancer: LoadBalancerStatus,
}

/// `status.loadBalancer`.
#[derive(Clone, Debug, Default, serde::Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct LoadBalancerStatus {
    /// `ingress`.
    #[serde(deserialize_with = "nullable")]
    pub ingress: Vec<LoadBalancerIngress>,
}

/// One entry of `status.loadBalancer.ingress`.
#[derive(Clone, Debug, Default, serde::Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct LoadBalancerIngress {
    /// `ip`; absent if the entry has a host name.
    pub ip: Option<String>,
    /// `ipMode`.
    pub ip_mode: Option<String>,
}

/// `discovery.k8s.io/v1` EndpointSlice.
#[derive(Clone, Debug, Default, serde::Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct EndpointSlice {
    /// `metadata`, reduced.
    #[serde(default, deserialize_with = "metadata")]
    pub metadata: ObjectMeta,
    /// `addressType`.
    #[serde(default)]
    pub address_type: Option<String>,
    /// `endpoints`.
    #[serde(default, deserialize_with = "nullable")]
    pub endpoints: Vec<Endpoint>,
    /// `ports`.
    #[serde(default, deserialize_with = "nullable")]
    pub ports: Vec<EndpointPort>,
}

/// One entry of a slice's `endpoints`.
#[derive(Clone, Debug, Default, serde::Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct Endpoint {
    /// `addresses`.
    #[serde(deserialize_with = "nullable")]
    pub addresses: Vec<String>,
    /// `conditions`.
    #[serde(deserialize_with = "nullable")]
    pub conditions: EndpointConditions,
    /// `nodeName`.
    pub node_name: Option<String>,
    /// `hints`.
    #[serde(deserialize_with = "nullable")]
    pub hints: EndpointHints,
}

/// `hints` of an endpoint.
#[derive(Clone, Debug, Default, serde::Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct EndpointHints {
    /// `forNodes`.
    #[serde(deserialize_with = "nullable")]
    pub for_nodes: Vec<Hint>,
    /// `forZones`.
    #[serde(deserialize_with = "nullable")]
    pub for_zones: Vec<Hint>,
}

/// One entry of `forNodes` or `forZones`.
#[derive(Clone, Debug, Default, serde::Deserialize)]
#[serde(default)]
pub struct Hint {
    /// `name`.
    pub name: Option<String>,
}

/// `conditions` of an endpoint.
#[derive(Clone, Debug, Default, serde::Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct EndpointConditions {
    /// `ready`.
    pub ready: Option<bool>,
    /// `serving`.
    pub serving: Option<bool>,
    /// `terminating`.
    pub terminating: Option<bool>,
}

/// One entry of a slice's `ports`.
#[derive(Clone, Debug, Default, serde::Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct EndpointPort {
    /// `name`: empty is a name, absent is none.
    pub name: Option<String>,
    /// `protocol`.
    pub protocol: Option<String>,
    /// `port`.
    pub port: Option<i64>,
}

/// `v1` Node.
#[derive(Clone, Debug, Default, serde::Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Node {
    /// `metadata`, reduced.
    #[serde(default, deserialize_with = "metadata")]
    pub metadata: ObjectMeta,
    /// `spec`.
    #[serde(default, deserialize_with = "nullable")]
    pub spec: NodeSpec,
    /// `status`.
    #[serde(default, deserialize_with = "nullable")]
    pub status: NodeStatus,
}

/// `spec` of a Node.
#[derive(Clone, Debug, Default, serde::Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct NodeSpec {
    /// `podCIDR`, the first of `podCIDRs`.
    #[serde(rename = "podCIDR")]
    pub pod_cidr: Option<String>,
    /// `podCIDRs`.
    #[serde(rename = "podCIDRs", deserialize_with = "nullable")]
    pub pod_cidrs: Vec<String>,
    /// `taints`.
    #[serde(deserialize_with = "nullable")]
    pub taints: Vec<Taint>,
}

/// One entry of `spec.taints` of a Node.
#[derive(Clone, Debug, Default, serde::Deserialize)]
#[serde(default)]
pub struct Taint {
    /// `key`.
    pub key: Option<String>,
}

/// `status` of a Node.
#[derive(Clone, Debug, Default, serde::Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct NodeStatus {
    /// `addresses`.
    #[serde(deserialize_with = "nullable")]
    pub addresses: Vec<NodeAddress>,
}

/// One entry of `status.addresses` of a Node.
#[derive(Clone, Debug, Default, serde::Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct NodeAddress {
    /// `type`.
    pub r#type: Option<String>,
    /// `address`.
    pub address: Option<String>,
}

/// `networking.k8s.io/v1` ServiceCIDR.
#[derive(Clone, Debug, Default, serde::Deserialize)]
pub struct ServiceCidr {
    /// `metadata`, reduced.
    #[serde(default, deserialize_with = "metadata")]
    pub metadata: ObjectMeta,
    /// `spec`.
    #[serde(default, deserialize_with = "nullable")]
    pub spec: ServiceCidrSpec,
}

/// `spec` of a ServiceCIDR.
#[derive(Clone, Debug, Default, serde::Deserialize)]
#[serde(default)]
pub struct ServiceCidrSpec {
    /// `cidrs`.
    #[serde(deserialize_with = "nullable")]
    pub cidrs: Vec<String>,
}

/// What is kept of `metadata`.
#[derive(Default, serde::Deserialize)]
#[serde(rename_all = "camelCase", default)]
struct Metadata {
    name: Option<String>,
    namespace: Option<String>,
    uid: Option<String>,
    labels: Option<BTreeMap<String, String>>,
    annotations: Option<BTreeMap<String, String>>,
    resource_version: Option<String>,
    creation_timestamp: Option<Time>,
    deletion_timestamp: Option<Time>,
}

/// Reads `metadata`, skipping what is not kept: `managedFields` alone is half of an object.
fn metadata<'de, D: Deserializer<'de>>(deserializer: D) -> Result<ObjectMeta, D::Error> {
    let kept: Metadata = nullable(deserializer)?;
    Ok(ObjectMeta {
        name: kept.name,
        namespace: kept.namespace,
        uid: kept.uid,
        labels: kept.labels,
        annotations: kept.annotations,
        resource_version: kept.resource_version,
        creation_timestamp: kept.creation_timestamp,
        deletion_timestamp: kept.deletion_timestamp,
        ..ObjectMeta::default()
    })
}

/// Reads a value for which `null` means its default.
fn nullable<'de, D, T>(deserializer: D) -> Result<T, D::Error>
where
    D: Deserializer<'de>,
    T: Default + Deserialize<'de>,
{
    Ok(Option::deserialize(deserializer)?.unwrap_or_default())
}

/// What kube must know to ask for objects of a type.
macro_rules! resource {
    ($type:ident, $scope:ty, $group:literal, $plural:literal) => {
        resource!($type, stringify!($type), $scope, $group, $plural);
    };
    ($type:ident, $kind:expr, $scope:ty, $group:literal, $plural:literal) => {
        resource!($type, $kind, $scope, $group, $plural, "v1");
    };
    ($type:ident, $kind:expr, $scope:ty, $group:literal, $plural:literal, $version:literal) => {
        impl kube::Resource for $type {
            type DynamicType = ();
            type Scope = $scope;

            fn kind((): &()) -> std::borrow::Cow<'_, str> {
                $kind.into()
            }

            fn group((): &()) -> std::borrow::Cow<'_, str> {
                $group.into()
            }

            fn version((): &()) -> std::borrow::Cow<'_, str> {
                $version.into()
            }

            fn plural((): &()) -> std::borrow::Cow<'_, str> {
                $plural.into()
            }

            fn meta(&self) -> &ObjectMeta {
                &self.metadata
            }

            fn meta_mut(&mut self) -> &mut ObjectMeta {
                &mut self.metadata
            }
        }
    };
}

pub(super) use resource;

resource!(Service, NamespaceResourceScope, "", "services");
resource!(EndpointSlice, NamespaceResourceScope, "discovery.k8s.io", "endpointslices");
resource!(Node, ClusterResourceScope, "", "nodes");
resource!(ServiceCidr, "ServiceCIDR", ClusterResourceScope, "networking.k8s.io", "servicecidrs");
