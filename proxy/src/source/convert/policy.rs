//! Pods, Namespaces and NetworkPolicies, converted so that what cannot be read fails closed: a peer
//! or a port that is wrong matches nothing, and a policy whose own selector is wrong is for every
//! pod of its namespace.

use std::collections::BTreeSet;
use std::net::IpAddr;
use std::sync::Arc;

use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use serde_json::Value;
use shunt_model::problem::Kind;
use shunt_netpolicy::object::{
    Block, NAMESPACE_NAME, NamedPort, Namespace, NetworkPolicy, Peer, Pod, PortMatch, PortNumber,
    Rule, Uid,
};
use shunt_netpolicy::selector::{Labels, Operator, Requirement, Selector};
use shunt_netpolicy::snapshot::Object;

use super::balancing::{annotations, complain, unknown};
use super::fields::{Report, address, cidr, port, protocol, quoted};
use super::{Converted, Converter, Wire};
use crate::source::wire::policy as wire;

impl Wire for wire::Pod {
    type Object = Object;
    const KIND: Kind = Kind::Pod;

    fn convert(&self, converter: &mut Converter) -> Converted<Object> {
        converter.pod(self)
    }
}

impl Wire for wire::Namespace {
    type Object = Object;
    const KIND: Kind = Kind::Namespace;

    fn convert(&self, converter: &mut Converter) -> Converted<Object> {
        converter.namespace(self)
    }
}

impl Wire for wire::NetworkPolicy {
    type Object = Object;
    const KIND: Kind = Kind::NetworkPolicy;

    fn convert(&self, converter: &mut Converter) -> Converted<Object> {
        converter.network_policy(self)
    }
}

impl Converter {
    /// Converts a Pod.
    pub fn pod(&mut self, wire: &wire::Pod) -> Converted<Object> {
        let key = self.key(Kind::Pod, &wire.metadata);
        let mut report = Report::new(Kind::Pod, key.clone());
        let ended = matches!(wire.status.phase.as_deref(), Some("Succeeded" | "Failed"));
        let addresses = if ended { Vec::new() } else { pod_addresses(&wire.status, &mut report) };
        let created = wire.metadata.creation_timestamp.as_ref();
        let labels = wire.metadata.labels.iter().flatten();
        let labels: Labels =
            labels.map(|(key, value)| (self.names.shared(key), self.names.shared(value))).collect();
        let ports = self.named_ports(&wire.spec);
        let pod = Pod {
            key,
            uid: uid(&wire.metadata),
            created: created.map_or(0, |time| time.0.as_second()),
            node: wire.spec.node_name.as_deref().map(|node| self.names.shared(node)),
            addresses: addresses.into(),
            host_network: wire.spec.host_network.unwrap_or_default(),
            labels: self.labels.one(labels),
            ports: self.ports.one(ports),
        };
        report.converted(Some(Object::Pod(pod)))
    }

    fn named_ports(&mut self, spec: &wire::PodSpec) -> Vec<NamedPort> {
        let containers = spec.containers.iter().chain(&spec.init_containers);
        let named = containers.flat_map(|container| &container.ports).filter_map(|entry| {
            let name = entry.name.as_deref().filter(|name| !name.is_empty())?;
            let protocol = protocol(entry.protocol.as_deref()).ok()?;
            let port = port(entry.container_port?).ok()?;
            Some(NamedPort { name: self.names.shared(name), protocol, port })
        });
        named.collect()
    }

    /// Converts a Namespace.
    pub fn namespace(&mut self, wire: &wire::Namespace) -> Converted<Object> {
        let key = self.key(Kind::Namespace, &wire.metadata);
        let mut report = Report::new(Kind::Namespace, key.clone());
        let name = self.names.shared(&key.name);
        let labels = wire.metadata.labels.iter().flatten();
        let mut labels: Labels =
            labels.map(|(key, value)| (self.names.shared(key), self.names.shared(value))).collect();
        labels.insert(NAMESPACE_NAME.into(), Arc::clone(&name));
        let audit = audits(wire, &mut report);
        report.converted(Some(Object::Namespace(Namespace { name, labels, audit })))
    }

    /// Converts a NetworkPolicy.
    pub fn network_policy(&mut self, wire: &wire::NetworkPolicy) -> Converted<Object> {
        let key = self.key(Kind::NetworkPolicy, &wire.metadata);
        let mut report = Report::new(Kind::NetworkPolicy, key.clone());
        let spec = &wire.spec;
        let pods = selector(&spec.pod_selector, "spec.podSelector", &mut report);
        let pods = pods.unwrap_or_else(|| {
            let reason = "so the policy is for every pod of its namespace";
            report.add("spec.podSelector", reason);
            Selector::default()
        });
        let (ingress, egress) = directions(spec, &mut report);
        let ingress = ingress.then(|| {
            let rules = spec.ingress.iter().enumerate().map(|(index, rule)| {
                let field = format!("spec.ingress[{index}]");
                convert_rule(&rule.from, &rule.ports, (&field, "from"), &mut report)
            });
            rules.collect()
        });
        let egress = egress.then(|| {
            let rules = spec.egress.iter().enumerate().map(|(index, rule)| {
                let field = format!("spec.egress[{index}]");
                convert_rule(&rule.to, &rule.ports, (&field, "to"), &mut report)
            });
            rules.collect()
        });
        let policy = NetworkPolicy { key, pods, ingress, egress };
        report.converted(Some(Object::Policy(policy)))
    }
}

/// The `uid` that the container runtime knows. A mirror pod stands in the API for a pod that the kubelet has from a file, and
/// names that one's in an annotation.
fn uid(metadata: &ObjectMeta) -> Uid {
    let mirror = metadata.annotations.iter().flatten();
    let mirror =
        mirror.filter(|(key, _)| *key == "kubernetes.io/config.mirror").map(|(_, uid)| uid);
    mirror.chain(&metadata.uid).next().map_or_else(Uid::default, |uid| Uid::of(uid))
}

/// Whether a namespace is audited. What is not understood is enforced.
fn audits(wire: &wire::Namespace, report: &mut Report) -> bool {
    let mut audits = false;
    for (name, text) in annotations(&wire.metadata) {
        match (name, text) {
            ("network-policy", "audit") => audits = true,
            ("network-policy", "enforce") => {}
            ("network-policy", other) => {
                let reason = format!("{} is not audit or enforce; it is enforced", quoted(other));
                complain(report, name, &reason);
            }
            _ => unknown(name, report),
        }
    }
    audits
}

fn pod_addresses(status: &wire::PodStatus, report: &mut Report) -> Vec<IpAddr> {
    let all = status.pod_ips.iter().filter_map(|entry| entry.ip.as_deref());
    let mut texts: Vec<_> = all.filter(|text| !text.is_empty()).collect();
    if texts.is_empty() {
        texts.extend(status.pod_ip.as_deref().filter(|text| !text.is_empty()));
    }
    let mut addresses = Vec::new();
    for (index, text) in texts.into_iter().enumerate() {
        match address(text) {
            Ok(address) => super::push_new(&mut addresses, Some(address)),
            Err(reason) => {
                let field = format!("status.podIPs[{index}].ip");
                report.add(field, format!("{reason}; this address is skipped"));
            }
        }
    }
    addresses
}

/// Which directions a policy is for: `policyTypes`, or else ingress, and egress if it has rules.
fn directions(spec: &wire::NetworkPolicySpec, report: &mut Report) -> (bool, bool) {
    if spec.policy_types.is_empty() {
        return (true, !spec.egress.is_empty());
    }
    for (index, text) in spec.policy_types.iter().enumerate() {
        if !matches!(text.as_str(), "Ingress" | "Egress") {
            let reason = "is not Ingress or Egress; the policy is for both directions";
            report.add(format!("spec.policyTypes[{index}]"), format!("{} {reason}", quoted(text)));
            return (true, true);
        }
    }
    let has = |wanted: &str| spec.policy_types.iter().any(|text| text == wanted);
    (has("Ingress"), has("Egress"))
}

fn convert_rule(
    peers: &[wire::NetworkPolicyPeer],
    ports: &[wire::NetworkPolicyPort],
    (field, whom): (&str, &str),
    report: &mut Report,
) -> Rule {
    let peer = |(index, peer): (usize, &wire::NetworkPolicyPeer)| {
        convert_peer(peer, &format!("{field}.{whom}[{index}]"), report)
    };
    let converted =
        (!peers.is_empty()).then(|| peers.iter().enumerate().filter_map(peer).collect());
    let port = |(index, port): (usize, &wire::NetworkPolicyPort)| {
        convert_port(port, &format!("{field}.ports[{index}]"), report)
    };
    let ports = (!ports.is_empty()).then(|| ports.iter().enumerate().filter_map(port).collect());
    let mut rule = Rule { peers: converted, ports };
    // They are held for long, and are seldom as many as a list has room for.
    rule.peers.iter_mut().for_each(Vec::shrink_to_fit);
    rule.ports.iter_mut().for_each(Vec::shrink_to_fit);
    rule
}

/// A peer; `None` (and a problem) if it cannot be read.
fn convert_peer(wire: &wire::NetworkPolicyPeer, field: &str, report: &mut Report) -> Option<Peer> {
    const NOTHING: &str = "this peer matches nothing";
    if let Some(unknown) = wire.unknown.keys().next() {
        report.add(format!("{field}.{unknown}"), format!("is not known; {NOTHING}"));
        return None;
    }
    match (&wire.ip_block, &wire.namespace_selector, &wire.pod_selector) {
        (Some(block), None, None) => {
            convert_block(block, &format!("{field}.ipBlock"), report).map(Peer::Block)
        }
        (Some(_), _, _) => {
            report.add(field, format!("ipBlock stands with a selector; {NOTHING}"));
            None
        }
        (None, None, None) => {
            report.add(field, format!("there is no ipBlock and no selector; {NOTHING}"));
            None
        }
        (None, namespaces, pods) => {
            let mut read = |wire: &Option<wire::LabelSelector>, name: &str| match wire {
                Some(wire) => {
                    let field = format!("{field}.{name}");
                    let read = selector(wire, &field, report);
                    if read.is_none() {
                        report.add(field, NOTHING);
                    }
                    read.map(Some)
                }
                None => Some(None),
            };
            let namespaces = read(namespaces, "namespaceSelector")?;
            let pods = read(pods, "podSelector")?.unwrap_or_default();
            Some(Peer::Pods { namespaces, pods })
        }
    }
}

fn convert_block(wire: &wire::IpBlock, field: &str, report: &mut Report) -> Option<Block> {
    let text = wire.cidr.as_deref().unwrap_or_default();
    let block = match cidr(text) {
        Ok(block) => block,
        Err(reason) => {
            report.add(format!("{field}.cidr"), format!("{reason}; this peer matches nothing"));
            return None;
        }
    };
    let mut except = Vec::new();
    for (index, text) in wire.except.iter().enumerate() {
        let reason = match cidr(text) {
            Ok(hole) if block.contains(&hole) && hole != block => {
                except.push(hole);
                continue;
            }
            Ok(hole) => format!("{hole} is not within {block}"),
            Err(reason) => reason,
        };
        let field = format!("{field}.except[{index}]");
        report.add(field, format!("{reason}; this peer matches nothing"));
        return None;
    }
    Some(Block { cidr: block, except })
}

/// A port; `None` (and a problem) if it cannot be read.
fn convert_port(
    wire: &wire::NetworkPolicyPort,
    field: &str,
    report: &mut Report,
) -> Option<PortMatch> {
    let mut wrong = |name: &str, reason: String| {
        report.add(format!("{field}.{name}"), format!("{reason}; this entry matches nothing"));
    };
    let protocol =
        protocol(wire.protocol.as_deref()).map_err(|reason| wrong("protocol", reason)).ok()?;
    let first = match &wire.port {
        None | Some(Value::Null) if wire.end_port.is_none() => {
            return Some(PortMatch { protocol, port: PortNumber::Any });
        }
        Some(Value::String(name)) if wire.end_port.is_none() && is_port_name(name) => {
            let port = PortNumber::Named(name.as_str().into());
            return Some(PortMatch { protocol, port });
        }
        Some(Value::Number(number)) => match port(number.as_i64().unwrap_or(-1)) {
            Ok(first) => first,
            Err(reason) => {
                wrong("port", reason);
                return None;
            }
        },
        Some(Value::String(name)) if wire.end_port.is_none() => {
            wrong("port", format!("{} is not the name of a port", quoted(name)));
            return None;
        }
        _ => {
            wrong("endPort", "there is no number in port".to_owned());
            return None;
        }
    };
    let last = match wire.end_port.map(port) {
        None => first,
        Some(Ok(last)) if last >= first => last,
        Some(Ok(last)) => {
            wrong("endPort", format!("{last} is less than {first}"));
            return None;
        }
        Some(Err(reason)) => {
            wrong("endPort", reason);
            return None;
        }
    };
    Some(PortMatch { protocol, port: PortNumber::Range(first, last) })
}

/// `IANA_SVC_NAME`, as the API server checks it.
pub(super) fn is_port_name(name: &str) -> bool {
    (1..=15).contains(&name.len())
        && name.bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-')
        && name.bytes().any(|b| b.is_ascii_lowercase())
        && !name.starts_with('-')
        && !name.ends_with('-')
        && !name.contains("--")
}

/// A selector; `None` (and a problem) if it cannot be read.
pub(super) fn selector(
    wire: &wire::LabelSelector,
    field: &str,
    report: &mut Report,
) -> Option<Selector> {
    let mut requirements = BTreeSet::new();
    for (key, value) in &wire.match_labels {
        let operator = Operator::In([value.as_str().into()].into());
        requirements.insert(Requirement { key: key.as_str().into(), operator });
    }
    let mut sound = true;
    for (index, entry) in wire.match_expressions.iter().enumerate() {
        let values: BTreeSet<Arc<str>> =
            entry.values.iter().map(|value| value.as_str().into()).collect();
        let values: Box<[_]> = values.into_iter().collect();
        let field = |name| format!("{field}.matchExpressions[{index}].{name}");
        let operator = match (entry.operator.as_str(), values.is_empty()) {
            ("In", false) => Operator::In(values),
            ("NotIn", false) => Operator::NotIn(values),
            ("Exists", true) => Operator::Exists,
            ("DoesNotExist", true) => Operator::DoesNotExist,
            ("In" | "NotIn", true) => {
                report.add(field("values"), "In and NotIn need values");
                sound = false;
                continue;
            }
            ("Exists" | "DoesNotExist", false) => {
                report.add(field("values"), "Exists and DoesNotExist have no values");
                sound = false;
                continue;
            }
            (other, _) => {
                let reason = format!("{} is no operator of selectors", quoted(other));
                report.add(field("operator"), reason);
                sound = false;
                continue;
            }
        };
        if entry.key.is_empty() {
            report.add(field("key"), "there is no key");
            sound = false;
        }
        requirements.insert(Requirement { key: entry.key.as_str().into(), operator });
    }
    sound.then(|| requirements.into_iter().collect())
}
