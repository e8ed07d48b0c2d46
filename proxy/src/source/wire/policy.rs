//! Pods, Namespaces and NetworkPolicies as they come over the wire, reduced to the fields that
//! shunt uses.

use std::collections::BTreeMap;

use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use kube::core::{ClusterResourceScope, NamespaceResourceScope};
use serde_json::Value;

use super::{metadata, nullable, resource};

/// `v1` Pod.
#[derive(Clone, Debug, Default, serde::Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Pod {
    /// `metadata`, reduced.
    #[serde(default, deserialize_with = "metadata")]
    pub metadata: ObjectMeta,
    /// `spec`.
    #[serde(default, deserialize_with = "nullable")]
    pub spec: PodSpec,
    /// `status`.
    #[serde(default, deserialize_with = "nullable")]
    pub status: PodStatus,
}

/// `spec` of a Pod.
#[derive(Clone, Debug, Default, serde::Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct PodSpec {
    /// `nodeName`.
    pub node_name: Option<String>,
    /// `hostNetwork`.
    pub host_network: Option<bool>,
    /// `containers`.
    #[serde(deserialize_with = "nullable")]
    pub containers: Vec<Container>,
    /// `initContainers`: those that go on running may have ports.
    #[serde(deserialize_with = "nullable")]
    pub init_containers: Vec<Container>,
}

/// A container of a Pod.
#[derive(Clone, Debug, Default, serde::Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct Container {
    /// `ports`.
    #[serde(deserialize_with = "nullable")]
    pub ports: Vec<ContainerPort>,
}

/// One entry of a container's `ports`.
#[derive(Clone, Debug, Default, serde::Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct ContainerPort {
    /// `name`.
    pub name: Option<String>,
    /// `protocol`.
    pub protocol: Option<String>,
    /// `containerPort`.
    pub container_port: Option<i64>,
}

/// `status` of a Pod.
#[derive(Clone, Debug, Default, serde::Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct PodStatus {
    /// `phase`.
    pub phase: Option<String>,
    /// `podIP`, the first of `podIPs`.
    #[serde(rename = "podIP")]
    pub pod_ip: Option<String>,
    /// `podIPs`.
    #[serde(rename = "podIPs", deserialize_with = "nullable")]
    pub pod_ips: Vec<PodIp>,
}

/// One entry of `status.podIPs`.
#[derive(Clone, Debug, Default, serde::Deserialize)]
#[serde(default)]
pub struct PodIp {
    /// `ip`.
    pub ip: Option<String>,
}

/// `v1` Namespace.
#[derive(Clone, Debug, Default, serde::Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Namespace {
    /// `metadata`, reduced.
    #[serde(default, deserialize_with = "metadata")]
    pub metadata: ObjectMeta,
}

/// `networking.k8s.io/v1` NetworkPolicy.
#[derive(Clone, Debug, Default, serde::Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct NetworkPolicy {
    /// `metadata`, reduced.
    #[serde(default, deserialize_with = "metadata")]
    pub metadata: ObjectMeta,
    /// `spec`.
    #[serde(default, deserialize_with = "nullable")]
    pub spec: NetworkPolicySpec,
}

/// `spec` of a NetworkPolicy.
#[derive(Clone, Debug, Default, serde::Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct NetworkPolicySpec {
    /// `podSelector`.
    #[serde(deserialize_with = "nullable")]
    pub pod_selector: LabelSelector,
    /// `policyTypes`.
    #[serde(deserialize_with = "nullable")]
    pub policy_types: Vec<String>,
    /// `ingress`.
    #[serde(deserialize_with = "nullable")]
    pub ingress: Vec<IngressRule>,
    /// `egress`.
    #[serde(deserialize_with = "nullable")]
    pub egress: Vec<EgressRule>,
}

/// One entry of `ingress`.
#[derive(Clone, Debug, Default, serde::Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct IngressRule {
    /// `from`.
    #[serde(deserialize_with = "nullable")]
    pub from: Vec<NetworkPolicyPeer>,
    /// `ports`.
    #[serde(deserialize_with = "nullable")]
    pub ports: Vec<NetworkPolicyPort>,
}

/// One entry of `egress`.
#[derive(Clone, Debug, Default, serde::Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct EgressRule {
    /// `to`.
    #[serde(deserialize_with = "nullable")]
    pub to: Vec<NetworkPolicyPeer>,
    /// `ports`.
    #[serde(deserialize_with = "nullable")]
    pub ports: Vec<NetworkPolicyPort>,
}

/// One entry of `from` or `to`.
#[derive(Clone, Debug, Default, serde::Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct NetworkPolicyPeer {
    /// `podSelector`.
    pub pod_selector: Option<LabelSelector>,
    /// `namespaceSelector`.
    pub namespace_selector: Option<LabelSelector>,
    /// `ipBlock`.
    pub ip_block: Option<IpBlock>,
    /// What newer releases of the API may add: it is not understood, so the peer matches nothing.
    #[serde(flatten)]
    pub unknown: BTreeMap<String, Value>,
}

/// `ipBlock`.
#[derive(Clone, Debug, Default, serde::Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct IpBlock {
    /// `cidr`.
    pub cidr: Option<String>,
    /// `except`.
    #[serde(deserialize_with = "nullable")]
    pub except: Vec<String>,
}

/// One entry of `ports`.
#[derive(Clone, Debug, Default, serde::Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct NetworkPolicyPort {
    /// `protocol`.
    pub protocol: Option<String>,
    /// `port`: a number or a name.
    pub port: Option<Value>,
    /// `endPort`.
    pub end_port: Option<i64>,
}

/// `metav1.LabelSelector`.
#[derive(Clone, Debug, Default, serde::Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct LabelSelector {
    /// `matchLabels`.
    #[serde(deserialize_with = "nullable")]
    pub match_labels: BTreeMap<String, String>,
    /// `matchExpressions`.
    #[serde(deserialize_with = "nullable")]
    pub match_expressions: Vec<LabelSelectorRequirement>,
}

/// One entry of `matchExpressions`.
#[derive(Clone, Debug, Default, serde::Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct LabelSelectorRequirement {
    /// `key`.
    pub key: String,
    /// `operator`.
    pub operator: String,
    /// `values`.
    #[serde(deserialize_with = "nullable")]
    pub values: Vec<String>,
}

resource!(Pod, NamespaceResourceScope, "", "pods");
resource!(Namespace, ClusterResourceScope, "", "namespaces");
resource!(NetworkPolicy, NamespaceResourceScope, "networking.k8s.io", "networkpolicies");
