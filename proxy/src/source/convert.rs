//! From the wire to the model, pure.
//!
//! What is wrong with a field is a [`Problem`]; the field is left out and the rest of the object
//! is served. The rules are kube-proxy's (which object is proxied, what absence means) and, where
//! the API server would have refused a value, the API server's: a directory of manifests has
//! nobody else to check it.

mod balancing;
mod cluster;
mod endpoints;
mod fields;
mod names;
mod policy;
mod service;

#[cfg(test)]
mod tests;

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::sync::Arc;

use ipnet::IpNet;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use kube::Resource;
use shunt_model::object::{Locality, Node, ObjectKey, ServiceCidr};
use shunt_model::problem::{Kind, Problem};
use shunt_model::snapshot::{Change, Object};
use shunt_netpolicy::object::NamedPort;
use shunt_netpolicy::selector::Labels;
use shunt_netpolicy::snapshot as of_policy;

use self::fields::{Report, address, cidr};
use self::names::{Names, Shared};
use crate::source::SourceEvent;
use crate::source::wire;

/// The label of a Service that another proxy serves, whatever its value.
const SERVICE_PROXY_NAME: &str = "service.kubernetes.io/service-proxy-name";
/// The label of the slices of a headless Service, whatever its value.
const HEADLESS: &str = "service.kubernetes.io/headless";
/// The label of a slice that names its Service.
const SERVICE_NAME: &str = "kubernetes.io/service-name";

/// What became of an object.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Converted<O = Object> {
    /// Its kind.
    pub kind: Kind,
    /// Its namespace and name.
    pub key: ObjectKey,
    /// The object, if it is to be served. If not and there is no problem, it is none of ours.
    pub object: Option<O>,
    /// What was left out.
    pub problems: Vec<Problem>,
}

impl Converted {
    /// What to tell the snapshot.
    #[must_use]
    pub fn into_change(self) -> Change {
        let Self { kind, key, object, problems } = self;
        match object {
            Some(object) => Change::Applied { object, problems },
            None if problems.is_empty() => Change::Deleted { kind, key },
            None => Change::Rejected { kind, key, problems },
        }
    }
}

impl From<Converted> for SourceEvent {
    fn from(converted: Converted) -> Self {
        converted.into_change().into()
    }
}

impl From<Converted<of_policy::Object>> for SourceEvent {
    fn from(converted: Converted<of_policy::Object>) -> Self {
        let Converted { kind, key, object, problems } = converted;
        Self::Policy(match object {
            Some(object) => of_policy::Change::Applied { object, problems },
            None => of_policy::Change::Deleted { kind, key },
        })
    }
}

/// A type of the wire that can be converted.
pub trait Wire: Resource<DynamicType = ()> {
    /// What it is converted to.
    type Object;
    /// Its kind.
    const KIND: Kind;

    /// The object as the model has it.
    fn convert(&self, converter: &mut Converter) -> Converted<Self::Object>;
}

impl Wire for wire::Service {
    type Object = Object;
    const KIND: Kind = Kind::Service;

    fn convert(&self, converter: &mut Converter) -> Converted {
        converter.service(self)
    }
}

impl Wire for wire::EndpointSlice {
    type Object = Object;
    const KIND: Kind = Kind::EndpointSlice;

    fn convert(&self, converter: &mut Converter) -> Converted {
        converter.endpoint_slice(self)
    }
}

impl Wire for wire::Node {
    type Object = Object;
    const KIND: Kind = Kind::Node;

    fn convert(&self, converter: &mut Converter) -> Converted {
        converter.node(self)
    }
}

impl Wire for wire::ServiceCidr {
    type Object = Object;
    const KIND: Kind = Kind::ServiceCidr;

    fn convert(&self, converter: &mut Converter) -> Converted {
        converter.service_cidr(self)
    }
}

/// Converts objects. Keeps nothing but what they share.
#[derive(Debug, Default)]
pub struct Converter {
    names: Names,
    localities: Shared<Locality>,
    labels: Shared<Labels>,
    ports: Shared<[NamedPort]>,
}

impl Converter {
    /// A converter that knows no names yet.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// Namespace and name of an object; objects of a namespace without one are in `default`.
    pub fn key(&mut self, kind: Kind, metadata: &ObjectMeta) -> ObjectKey {
        let namespace = match kind {
            Kind::Node
            | Kind::ServiceCidr
            | Kind::PeerNode
            | Kind::Namespace
            | Kind::ClusterNetworkPolicy => "",
            Kind::Service | Kind::EndpointSlice | Kind::Pod | Kind::NetworkPolicy => {
                metadata.namespace.as_deref().filter(|name| !name.is_empty()).unwrap_or("default")
            }
        };
        let name = metadata.name.as_deref().unwrap_or_default();
        ObjectKey::of(self.names.shared(namespace), name.into())
    }

    /// Converts a ServiceCIDR.
    pub fn service_cidr(&mut self, wire: &wire::ServiceCidr) -> Converted {
        let key = self.key(Kind::ServiceCidr, &wire.metadata);
        let mut report = Report::new(Kind::ServiceCidr, key.clone());
        let cidrs = cidrs(&wire.spec.cidrs, "spec.cidrs", &mut report);
        let object = ServiceCidr { name: Arc::clone(&key.name), cidrs };
        report.converted(Some(Object::ServiceCidr(object)))
    }

    /// Converts a Node.
    pub fn node(&mut self, wire: &wire::Node) -> Converted {
        let key = self.key(Kind::Node, &wire.metadata);
        let mut report = Report::new(Kind::Node, key.clone());
        let mut addresses = Vec::new();
        for wanted in ["InternalIP", "ExternalIP"] {
            for (index, entry) in wire.status.addresses.iter().enumerate() {
                if entry.r#type.as_deref() == Some(wanted) {
                    let field = || format!("status.addresses[{index}].address");
                    let text = entry.address.as_deref().unwrap_or_default();
                    push_new(&mut addresses, node_address(text, field, &mut report));
                }
            }
        }
        let node = Node {
            name: Arc::clone(&key.name),
            addresses,
            pod_cidrs: pod_cidrs(&wire.spec, &mut report),
            zone: label(&wire.metadata, ZONE)
                .filter(|zone| !zone.is_empty())
                .map(|zone| self.names.shared(zone)),
            leaving: wire.metadata.deletion_timestamp.is_some()
                || wire.spec.taints.iter().any(|taint| taint.key.as_deref() == Some(LEAVING)),
        };
        report.converted(Some(Object::Node(node)))
    }
}

/// The label of a Node that names its zone.
const ZONE: &str = "topology.kubernetes.io/zone";
/// The taint by which the cluster's autoscaler announces that it deletes a Node (KEP-3836).
const LEAVING: &str = "ToBeDeletedByClusterAutoscaler";

fn node_address(text: &str, field: impl FnOnce() -> String, report: &mut Report) -> Option<IpAddr> {
    address(text)
        .map_err(|reason| report.add(field(), format!("{reason}; this address is skipped")))
        .ok()
}

fn pod_cidrs(spec: &wire::NodeSpec, report: &mut Report) -> Vec<IpNet> {
    let mut pod_cidrs = cidrs(&spec.pod_cidrs, "spec.podCIDRs", report);
    let single = spec.pod_cidr.as_deref().filter(|text| !text.is_empty());
    if let Some(text) = single.filter(|_| spec.pod_cidrs.is_empty()) {
        pod_cidrs.extend(usable_cidr(text, || "spec.podCIDR".to_owned(), report));
    }
    pod_cidrs
}

/// The networks of a list, each once.
fn cidrs(texts: &[String], field: &str, report: &mut Report) -> Vec<IpNet> {
    let mut cidrs = Vec::new();
    for (index, text) in texts.iter().enumerate() {
        push_new(&mut cidrs, usable_cidr(text, || format!("{field}[{index}]"), report));
    }
    cidrs
}

fn usable_cidr(text: &str, field: impl FnOnce() -> String, report: &mut Report) -> Option<IpNet> {
    cidr(text)
        .map_err(|reason| report.add(field(), format!("{reason}; this range is skipped")))
        .ok()
}

/// Adds a value unless it is there already.
fn push_new<T: PartialEq>(list: &mut Vec<T>, value: Option<T>) {
    if let Some(value) = value.filter(|value| !list.contains(value)) {
        list.push(value);
    }
}

fn label<'a>(metadata: &'a ObjectMeta, name: &str) -> Option<&'a str> {
    metadata
        .labels
        .as_ref()
        .and_then(|labels: &BTreeMap<_, _>| labels.get(name))
        .map(String::as_str)
}
