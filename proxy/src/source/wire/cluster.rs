//! ClusterNetworkPolicies, the definition that an API server has of them, and Nodes as their peers,
//! as they come over the wire, reduced to the fields that shunt uses.

use std::collections::BTreeMap;

use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use kube::core::ClusterResourceScope;
use serde_json::Value;

use super::policy::LabelSelector;
use super::{NodeStatus, metadata, nullable, resource};

/// What newer releases of the API may add beside what is known.
pub type Unknown = BTreeMap<String, Value>;

/// `policy.networking.k8s.io/v1alpha2` ClusterNetworkPolicy.
#[derive(Clone, Debug, Default, serde::Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct ClusterNetworkPolicy {
    /// `metadata`, reduced.
    #[serde(default, deserialize_with = "metadata")]
    pub metadata: ObjectMeta,
    /// `spec`.
    #[serde(default, deserialize_with = "nullable")]
    pub spec: Spec,
}

/// `spec`.
#[derive(Clone, Debug, Default, serde::Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct Spec {
    /// `tier`.
    pub tier: Option<String>,
    /// `priority`.
    pub priority: Option<i64>,
    /// `subject`.
    #[serde(deserialize_with = "nullable")]
    pub subject: Subject,
    /// `ingress`.
    #[serde(deserialize_with = "nullable")]
    pub ingress: Vec<IngressRule>,
    /// `egress`.
    #[serde(deserialize_with = "nullable")]
    pub egress: Vec<EgressRule>,
}

/// `spec.subject`.
#[derive(Clone, Debug, Default, serde::Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct Subject {
    /// `namespaces`.
    pub namespaces: Option<LabelSelector>,
    /// `pods`.
    pub pods: Option<NamespacedPod>,
    /// Others, which are not known.
    #[serde(flatten)]
    pub unknown: Unknown,
}

/// Pods by their namespaces' labels and their own.
#[derive(Clone, Debug, Default, serde::Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct NamespacedPod {
    /// `namespaceSelector`.
    #[serde(deserialize_with = "nullable")]
    pub namespace_selector: LabelSelector,
    /// `podSelector`.
    #[serde(deserialize_with = "nullable")]
    pub pod_selector: LabelSelector,
}

/// One entry of `ingress`.
#[derive(Clone, Debug, Default, serde::Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct IngressRule {
    /// `name`.
    pub name: Option<String>,
    /// `action`.
    pub action: Option<String>,
    /// `from`.
    #[serde(deserialize_with = "nullable")]
    pub from: Vec<Peer>,
    /// `protocols`.
    pub protocols: Option<Vec<Protocol>>,
}

/// One entry of `egress`.
#[derive(Clone, Debug, Default, serde::Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct EgressRule {
    /// `name`.
    pub name: Option<String>,
    /// `action`.
    pub action: Option<String>,
    /// `to`.
    #[serde(deserialize_with = "nullable")]
    pub to: Vec<Peer>,
    /// `protocols`.
    pub protocols: Option<Vec<Protocol>>,
}

/// One entry of `from` or `to`; one of its fields is set.
#[derive(Clone, Debug, Default, serde::Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct Peer {
    /// `namespaces`.
    pub namespaces: Option<LabelSelector>,
    /// `pods`.
    pub pods: Option<NamespacedPod>,
    /// `nodes`, in egress.
    pub nodes: Option<LabelSelector>,
    /// `networks`, in egress.
    pub networks: Option<Vec<String>>,
    /// `domainNames`, in egress.
    pub domain_names: Option<Vec<String>>,
    /// Others, which are not known.
    #[serde(flatten)]
    pub unknown: Unknown,
}

/// One entry of `protocols`; one of its fields is set.
#[derive(Clone, Debug, Default, serde::Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct Protocol {
    /// `tcp`.
    pub tcp: Option<Ports>,
    /// `udp`.
    pub udp: Option<Ports>,
    /// `sctp`.
    pub sctp: Option<Ports>,
    /// `destinationNamedPort`.
    pub destination_named_port: Option<String>,
    /// Others, which are not known.
    #[serde(flatten)]
    pub unknown: Unknown,
}

/// What is asked of a protocol.
#[derive(Clone, Debug, Default, serde::Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct Ports {
    /// `destinationPort`.
    pub destination_port: Option<Port>,
    /// Others, which are not known.
    #[serde(flatten)]
    pub unknown: Unknown,
}

/// `destinationPort`; one of its fields is set.
#[derive(Clone, Debug, Default, serde::Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct Port {
    /// `number`.
    pub number: Option<i64>,
    /// `range`.
    pub range: Option<PortRange>,
    /// Others, which are not known.
    #[serde(flatten)]
    pub unknown: Unknown,
}

/// `range`, both ends included.
#[derive(Clone, Debug, Default, serde::Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct PortRange {
    /// `start`.
    pub start: Option<i64>,
    /// `end`.
    pub end: Option<i64>,
}

/// `v1` Node as network policy sees it.
#[derive(Clone, Debug, Default, serde::Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct PeerNode {
    /// `metadata`, reduced.
    #[serde(default, deserialize_with = "metadata")]
    pub metadata: ObjectMeta,
    /// `status`.
    #[serde(default, deserialize_with = "nullable")]
    pub status: NodeStatus,
}

/// `apiextensions.k8s.io/v1` CustomResourceDefinition, as far as it tells whether it is served.
#[derive(Clone, Debug, Default, serde::Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct CustomResourceDefinition {
    /// `metadata`, reduced.
    #[serde(default, deserialize_with = "metadata")]
    pub metadata: ObjectMeta,
    /// `status`.
    #[serde(default, deserialize_with = "nullable")]
    pub status: DefinitionStatus,
}

/// `status` of a CustomResourceDefinition.
#[derive(Clone, Debug, Default, serde::Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct DefinitionStatus {
    /// `conditions`.
    #[serde(deserialize_with = "nullable")]
    pub conditions: Vec<Condition>,
}

/// A condition.
#[derive(Clone, Debug, Default, serde::Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct Condition {
    /// `type`.
    pub r#type: String,
    /// `status`.
    pub status: String,
}

resource!(
    ClusterNetworkPolicy,
    "ClusterNetworkPolicy",
    ClusterResourceScope,
    "policy.networking.k8s.io",
    "clusternetworkpolicies",
    "v1alpha2"
);
resource!(PeerNode, "Node", ClusterResourceScope, "", "nodes");
resource!(
    CustomResourceDefinition,
    ClusterResourceScope,
    "apiextensions.k8s.io",
    "customresourcedefinitions"
);
