//! Objects as an API server holds them: from manifests, with the defaults filled in.

use std::collections::BTreeMap;

use anyhow::{Context, Result};
use serde_json::{Map, Value, json};

/// What kube-proxy lists, and what network policy is made of.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Resource {
    /// `v1` `Node`.
    Node,
    /// `networking.k8s.io/v1` `ServiceCIDR`.
    ServiceCidr,
    /// `discovery.k8s.io/v1` `EndpointSlice`.
    EndpointSlice,
    /// `v1` `Service`.
    Service,
    /// `v1` `Namespace`.
    Namespace,
    /// `v1` `Pod`.
    Pod,
    /// `networking.k8s.io/v1` `NetworkPolicy`.
    NetworkPolicy,
}

impl Resource {
    const ALL: [Self; 7] = [
        Self::Node,
        Self::ServiceCidr,
        Self::EndpointSlice,
        Self::Service,
        Self::Namespace,
        Self::Pod,
        Self::NetworkPolicy,
    ];

    /// The kind of an object.
    pub(super) const fn kind(self) -> &'static str {
        match self {
            Self::Node => "Node",
            Self::ServiceCidr => "ServiceCIDR",
            Self::EndpointSlice => "EndpointSlice",
            Self::Service => "Service",
            Self::Namespace => "Namespace",
            Self::Pod => "Pod",
            Self::NetworkPolicy => "NetworkPolicy",
        }
    }

    /// Group and version.
    pub(super) const fn api_version(self) -> &'static str {
        match self {
            Self::Node | Self::Service | Self::Namespace | Self::Pod => "v1",
            Self::ServiceCidr | Self::NetworkPolicy => "networking.k8s.io/v1",
            Self::EndpointSlice => "discovery.k8s.io/v1",
        }
    }

    /// The path of the list of all.
    const fn path(self) -> &'static str {
        match self {
            Self::Node => "/api/v1/nodes",
            Self::ServiceCidr => "/apis/networking.k8s.io/v1/servicecidrs",
            Self::EndpointSlice => "/apis/discovery.k8s.io/v1/endpointslices",
            Self::Service => "/api/v1/services",
            Self::Namespace => "/api/v1/namespaces",
            Self::Pod => "/api/v1/pods",
            Self::NetworkPolicy => "/apis/networking.k8s.io/v1/networkpolicies",
        }
    }

    /// The resource whose list has this path.
    pub(super) fn of_path(path: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|resource| resource.path() == path)
    }
}

/// What names an object: resource, namespace and name.
pub type Key = (Resource, String, String);

/// Objects by what names them.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Objects(pub(super) BTreeMap<Key, Value>);

impl Objects {
    /// Reads manifests. Of two objects with one name the first counts; other kinds are left out.
    ///
    /// # Errors
    /// If a text is no YAML.
    pub fn read<'a>(texts: impl IntoIterator<Item = &'a str>) -> Result<Self> {
        let mut objects = Self::default();
        for text in texts {
            let documents: Vec<Value> =
                serde_saphyr::from_str_multiple(text).context("manifests for kube-proxy")?;
            for document in documents {
                match document["items"].as_array() {
                    Some(items) => items.iter().for_each(|item| objects.add(item.clone())),
                    None => objects.add(document),
                }
            }
        }
        Ok(objects)
    }

    /// Adds an object, unless there is one of its name.
    pub fn add(&mut self, mut object: Value) {
        let kind = object["kind"].as_str().unwrap_or_default();
        let Some(resource) = Resource::ALL.into_iter().find(|resource| resource.kind() == kind)
        else {
            return;
        };
        let namespaced =
            !matches!(resource, Resource::Node | Resource::ServiceCidr | Resource::Namespace);
        let metadata = member(&mut object, "metadata");
        if namespaced {
            default(metadata, "namespace", "default");
        }
        let text = |field: &str| metadata[field].as_str().unwrap_or_default().to_owned();
        let namespace = if namespaced { text("namespace") } else { String::new() };
        let name = text("name");
        default(metadata, "uid", format!("{kind}-{namespace}-{name}", kind = resource.kind()));
        match resource {
            Resource::Service => complete_service(&mut object),
            Resource::EndpointSlice => complete_slice(&mut object),
            Resource::Node
            | Resource::ServiceCidr
            | Resource::Namespace
            | Resource::Pod
            | Resource::NetworkPolicy => {}
        }
        self.0.entry((resource, namespace, name)).or_insert(object);
    }

    /// Makes `other` have these objects of some resources, and says whether it had others.
    pub fn hand_over(&self, other: &mut Self, resources: &[Resource]) -> bool {
        let of_these = |key: &Key| resources.contains(&key.0);
        let mine = self.0.iter().filter(|(key, _)| of_these(key));
        let mut after = other.clone();
        after.0.retain(|key, _| !of_these(key));
        after.0.extend(mine.map(|(key, object)| (key.clone(), object.clone())));
        let changed = after != *other;
        *other = after;
        changed
    }
}

/// What the API server says where a Service says nothing.
fn complete_service(service: &mut Value) {
    if let Some(balancer) = service.pointer_mut("/status/loadBalancer/ingress") {
        for ingress in
            balancer.as_array_mut().into_iter().flatten().filter_map(Value::as_object_mut)
        {
            default(ingress, "ipMode", "VIP");
        }
    }
    let spec = member(service, "spec");
    default(spec, "type", "ClusterIP");
    default(spec, "sessionAffinity", "None");
    if spec["sessionAffinity"] == "ClientIP" {
        default(spec, "sessionAffinityConfig", json!({ "clientIP": { "timeoutSeconds": 10_800 } }));
    }
    default(spec, "internalTrafficPolicy", "Cluster");
    if spec["type"] == "NodePort" || spec["type"] == "LoadBalancer" {
        default(spec, "externalTrafficPolicy", "Cluster");
    }
    if !spec.contains_key("clusterIPs")
        && let Some(address) = spec.get("clusterIP").cloned()
    {
        default(spec, "clusterIPs", json!([address]));
    }
    let addresses = spec.get("clusterIPs").and_then(Value::as_array).cloned().unwrap_or_default();
    if let Some(first) = addresses.first() {
        default(spec, "clusterIP", first.clone());
    }
    let family = |address: &Value| match address.as_str() {
        Some(text) if text.contains(':') => "IPv6",
        _ => "IPv4",
    };
    default(spec, "ipFamilies", addresses.iter().map(family).collect::<Vec<_>>());
    for port in spec.get_mut("ports").and_then(Value::as_array_mut).into_iter().flatten() {
        if let Some(port) = port.as_object_mut() {
            default(port, "protocol", "TCP");
        }
    }
}

/// What the API server says where an EndpointSlice says nothing.
fn complete_slice(slice: &mut Value) {
    for port in slice.get_mut("ports").and_then(Value::as_array_mut).into_iter().flatten() {
        if let Some(port) = port.as_object_mut() {
            default(port, "name", "");
            default(port, "protocol", "TCP");
        }
    }
}

/// A member that is an object, made if it is missing.
fn member<'a>(object: &'a mut Value, name: &str) -> &'a mut Map<String, Value> {
    if !object[name].is_object() {
        object[name] = json!({});
    }
    object[name].as_object_mut().expect("it was made an object")
}

fn default(object: &mut Map<String, Value>, name: &str, value: impl Into<Value>) {
    object.entry(name).or_insert_with(|| value.into());
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_not_said_is_as_an_api_server_fills_it_in() {
        let text = "kind: Service\nmetadata: {name: a}\nspec: {clusterIPs: [10.0.0.1, 'fd00::1'], ports: [{port: 1}]}\n\
                    ---\nkind: Service\nmetadata: {name: a}\nspec: {}\n---\nkind: Secret\nmetadata: {name: b}\n";
        let objects = Objects::read([text]).unwrap();
        assert_eq!(objects.0.len(), 1);
        let (key, service) = objects.0.first_key_value().unwrap();
        assert_eq!(*key, (Resource::Service, "default".to_owned(), "a".to_owned()));
        assert_eq!(service["spec"]["clusterIP"], "10.0.0.1");
        assert_eq!(service["spec"]["ipFamilies"], json!(["IPv4", "IPv6"]));
        assert_eq!(service["spec"]["ports"][0]["protocol"], "TCP");
    }
}
