//! ClusterNetworkPolicies and the Nodes they speak of. What cannot be read fails closed, as the API
//! asks: an Accept rule matches nothing then, and a Deny or Pass rule denies everything.

use std::sync::Arc;

use shunt_model::address::Protocol;
use shunt_model::problem::Kind;
use shunt_netpolicy::cluster::{Action, ActionRule, ClusterNetworkPolicy, PeerNode, Tier};
use shunt_netpolicy::domain::DomainName;
use shunt_netpolicy::object::{Block, Peer, PortMatch, PortNumber, Rule};
use shunt_netpolicy::selector::Selector;
use shunt_netpolicy::snapshot::Object;

use super::fields::{Report, address, cidr, port, quoted};
use super::policy::{is_port_name, selector};
use super::{Converted, Converter, Wire, push_new};
use crate::source::wire::cluster as wire;

impl Wire for wire::ClusterNetworkPolicy {
    type Object = Object;
    const KIND: Kind = Kind::ClusterNetworkPolicy;

    fn convert(&self, converter: &mut Converter) -> Converted<Object> {
        converter.cluster_network_policy(self)
    }
}

impl Wire for wire::PeerNode {
    type Object = Object;
    const KIND: Kind = Kind::PeerNode;

    fn convert(&self, converter: &mut Converter) -> Converted<Object> {
        converter.peer_node(self)
    }
}

/// The greatest priority there is.
const LAST: i64 = 1000;

impl Converter {
    /// Converts a ClusterNetworkPolicy.
    pub fn cluster_network_policy(
        &mut self,
        wire: &wire::ClusterNetworkPolicy,
    ) -> Converted<Object> {
        let key = self.key(Kind::ClusterNetworkPolicy, &wire.metadata);
        let mut report = Report::new(Kind::ClusterNetworkPolicy, key.clone());
        let place = place(&wire.spec, &mut report);
        let subject = subject(&wire.spec.subject, &mut report);
        let closed = place.is_none() || subject.is_none();
        let (tier, priority) = place.unwrap_or((Tier::Admin, 0));
        let (namespaces, pods) = subject.unwrap_or_default();
        let mut rules = Vec::new();
        for (index, rule) in wire.spec.ingress.iter().enumerate() {
            let field = format!("spec.ingress[{index}]");
            let peers = Peers { list: &rule.from, name: "from", egress: false };
            let on = matched(&peers, rule.protocols.as_deref(), &field, &mut report);
            let name = rule.name.as_deref();
            rules.extend(action_rule(name, rule.action.as_deref(), on, &field, &mut report));
        }
        let ingress = std::mem::take(&mut rules);
        for (index, rule) in wire.spec.egress.iter().enumerate() {
            let field = format!("spec.egress[{index}]");
            let peers = Peers { list: &rule.to, name: "to", egress: true };
            let on = matched(&peers, rule.protocols.as_deref(), &field, &mut report);
            let name = rule.name.as_deref();
            rules.extend(action_rule(name, rule.action.as_deref(), on, &field, &mut report));
        }
        let mut policy = ClusterNetworkPolicy {
            name: Arc::clone(&key.name),
            tier,
            priority,
            namespaces,
            pods,
            ingress,
            egress: rules,
        };
        if closed {
            close(&mut policy.ingress);
            close(&mut policy.egress);
        }
        report.converted(Some(Object::ClusterPolicy(policy)))
    }

    /// Converts a Node. What is wrong with it is told where Services read it.
    pub fn peer_node(&mut self, wire: &wire::PeerNode) -> Converted<Object> {
        let key = self.key(Kind::PeerNode, &wire.metadata);
        let mut addresses = Vec::new();
        for entry in &wire.status.addresses {
            let text = entry.address.as_deref().unwrap_or_default();
            push_new(&mut addresses, address(text).ok());
        }
        let labels = wire.metadata.labels.iter().flatten();
        let labels = labels.map(|(key, value)| (self.names.shared(key), self.names.shared(value)));
        let node = PeerNode { name: Arc::clone(&key.name), labels: labels.collect(), addresses };
        Report::new(Kind::PeerNode, key).converted(Some(Object::Node(node)))
    }
}

/// What is left of the rules of a policy of which it is not known whom it is for, or when it is
/// asked: nothing that could let anything pass.
fn close(rules: &mut Vec<ActionRule>) {
    rules.retain(|rule| rule.action != Action::Accept);
    rules.iter_mut().for_each(|rule| rule.action = Action::Deny);
}

const CLOSED: &str = "so the policy's Accept rules match nothing, and its Pass rules deny";

/// Tier and priority; `None` (and a problem) if they cannot be read.
fn place(spec: &wire::Spec, report: &mut Report) -> Option<(Tier, u16)> {
    let tier = match spec.tier.as_deref() {
        Some("Admin") => Some(Tier::Admin),
        Some("Baseline") => Some(Tier::Baseline),
        other => {
            let reason = format!("{} is not Admin or Baseline", quoted(other.unwrap_or_default()));
            report.add("spec.tier", format!("{reason}, {CLOSED}"));
            None
        }
    };
    let priority = spec.priority.filter(|priority| (0..=LAST).contains(priority));
    if priority.is_none() {
        let reason = spec.priority.map_or("there is none".to_owned(), |priority| {
            format!("{priority} is not a priority (0-{LAST})")
        });
        report.add("spec.priority", format!("{reason}, {CLOSED}"));
    }
    tier.zip(priority.and_then(|priority| u16::try_from(priority).ok()))
}

/// Whom the policy is for: of which namespaces which pods. `None` (and a problem) if that cannot be
/// read.
fn subject(wire: &wire::Subject, report: &mut Report) -> Option<(Selector, Selector)> {
    const FIELD: &str = "spec.subject";
    let known = match (&wire.namespaces, &wire.pods, wire.unknown.keys().next()) {
        (Some(namespaces), None, None) => selector(namespaces, "spec.subject.namespaces", report)
            .map(|n| (n, Selector::default())),
        (None, Some(pods), None) => namespaced_pod(pods, "spec.subject.pods", report),
        (_, _, Some(unknown)) => {
            report.add(format!("{FIELD}.{unknown}"), "is not known");
            None
        }
        _ => {
            report.add(FIELD, "there must be one of namespaces and pods");
            None
        }
    };
    if known.is_none() {
        report.add(FIELD, format!("the policy is for every pod, {CLOSED}"));
    }
    known
}

fn namespaced_pod(
    wire: &wire::NamespacedPod,
    field: &str,
    report: &mut Report,
) -> Option<(Selector, Selector)> {
    let namespaces =
        selector(&wire.namespace_selector, &format!("{field}.namespaceSelector"), report);
    let pods = selector(&wire.pod_selector, &format!("{field}.podSelector"), report);
    namespaces.zip(pods)
}

/// A rule; `on` is what it matches, if that can be read.
fn action_rule(
    name: Option<&str>,
    action: Option<&str>,
    on: Option<Rule>,
    field: &str,
    report: &mut Report,
) -> Option<ActionRule> {
    let action = match action {
        Some("Accept") => Action::Accept,
        Some("Deny") => Action::Deny,
        Some("Pass") => Action::Pass,
        other => {
            let reason = "is not Accept, Deny or Pass; this rule denies what it matches";
            let reason = format!("{} {reason}", quoted(other.unwrap_or_default()));
            report.add(format!("{field}.action"), reason);
            Action::Deny
        }
    };
    let name = name.unwrap_or_default().into();
    let names = |on: &Rule| on.peers.iter().flatten().any(|p| matches!(p, Peer::Domain(_)));
    let on = on.filter(|on| {
        // Not every address of a name is known: denied would be too few.
        let sound = action == Action::Accept || !names(on);
        if !sound {
            report.add(format!("{field}.to"), "domainNames are for Accept rules only");
        }
        sound
    });
    match (action, on) {
        (action, Some(on)) => Some(ActionRule { name, action, on }),
        (Action::Accept, None) => {
            report.add(field, "this Accept rule matches nothing");
            None
        }
        (Action::Deny | Action::Pass, None) => {
            report.add(field, "this rule denies everything");
            Some(ActionRule { name, action: Action::Deny, on: Rule::default() })
        }
    }
}

/// The peers of a rule.
struct Peers<'a> {
    list: &'a [wire::Peer],
    /// The field's name.
    name: &'static str,
    egress: bool,
}

/// What a rule matches; `None` (and a problem) if anything of it cannot be read.
fn matched(
    peers: &Peers<'_>,
    protocols: Option<&[wire::Protocol]>,
    field: &str,
    report: &mut Report,
) -> Option<Rule> {
    let mut rule = Rule { peers: Some(Vec::new()), ports: None };
    let mut sound = true;
    if peers.list.is_empty() {
        report.add(format!("{field}.{}", peers.name), "there must be at least one peer");
        sound = false;
    }
    for (index, peer) in peers.list.iter().enumerate() {
        let field = format!("{field}.{}[{index}]", peers.name);
        match convert_peer(peer, peers.egress, &field, report) {
            Some(all) => rule.peers.get_or_insert_default().extend(all),
            None => sound = false,
        }
    }
    if protocols.is_some_and(<[_]>::is_empty) {
        report.add(format!("{field}.protocols"), "there must be at least one");
        sound = false;
    }
    for (index, protocol) in protocols.into_iter().flatten().enumerate() {
        let field = format!("{field}.protocols[{index}]");
        let named = protocol.destination_named_port.is_some();
        let nameless = |peer: &wire::Peer| {
            peer.nodes.is_some() || peer.networks.is_some() || peer.domain_names.is_some()
        };
        let nameless = peers.list.iter().any(nameless);
        if named && nameless {
            let field = format!("{field}.destinationNamedPort");
            report.add(field, "nodes, networks and domains have no ports with names");
            sound = false;
        }
        match convert_protocol(protocol, &field, report) {
            Some(all) => rule.ports.get_or_insert_default().extend(all),
            None => sound = false,
        }
    }
    sound.then_some(rule)
}

/// A peer; networks are one for each.
fn convert_peer(
    wire: &wire::Peer,
    egress: bool,
    field: &str,
    report: &mut Report,
) -> Option<Vec<Peer>> {
    if let Some(unknown) = wire.unknown.keys().next() {
        report.add(format!("{field}.{unknown}"), "is not known");
        return None;
    }
    let of_egress = [
        ("nodes", wire.nodes.is_some()),
        ("networks", wire.networks.is_some()),
        ("domainNames", wire.domain_names.is_some()),
    ];
    if let Some(name) =
        of_egress.into_iter().find_map(|(name, set)| (set && !egress).then_some(name))
    {
        report.add(format!("{field}.{name}"), "is not known in ingress");
        return None;
    }
    match (&wire.namespaces, &wire.pods, &wire.nodes, &wire.networks, &wire.domain_names) {
        (Some(namespaces), None, None, None, None) => {
            let namespaces = selector(namespaces, &format!("{field}.namespaces"), report)?;
            Some(vec![Peer::Pods { namespaces: Some(namespaces), pods: Selector::default() }])
        }
        (None, Some(pods), None, None, None) => {
            let (namespaces, pods) = namespaced_pod(pods, &format!("{field}.pods"), report)?;
            Some(vec![Peer::Pods { namespaces: Some(namespaces), pods }])
        }
        (None, None, Some(nodes), None, None) => {
            Some(vec![Peer::Nodes(selector(nodes, &format!("{field}.nodes"), report)?)])
        }
        (None, None, None, Some(networks), None) if !networks.is_empty() => {
            let network = |(index, text): (usize, &String)| {
                let read = cidr(text).map_err(|reason| {
                    report.add(format!("{field}.networks[{index}]"), reason);
                });
                read.ok().map(|cidr| Peer::Block(Block { cidr, except: Vec::new() }))
            };
            networks.iter().enumerate().map(network).collect()
        }
        (None, None, None, None, Some(names)) if !names.is_empty() => {
            let name = |(index, text): (usize, &String)| {
                let read = DomainName::parse(text).map(Peer::Domain);
                if read.is_none() {
                    let reason = format!("{} is not the name of a domain", quoted(text));
                    report.add(format!("{field}.domainNames[{index}]"), reason);
                }
                read
            };
            names.iter().enumerate().map(name).collect()
        }
        _ => {
            report.add(
                field,
                "there must be one of namespaces, pods, nodes, networks and domainNames",
            );
            None
        }
    }
}

/// Ports of a protocol; a name is one of each protocol.
fn convert_protocol(
    wire: &wire::Protocol,
    field: &str,
    report: &mut Report,
) -> Option<Vec<PortMatch>> {
    if let Some(unknown) = wire.unknown.keys().next() {
        report.add(format!("{field}.{unknown}"), "is not known");
        return None;
    }
    let (protocol, ports, name) =
        match (&wire.tcp, &wire.udp, &wire.sctp, &wire.destination_named_port) {
            (Some(ports), None, None, None) => (Protocol::Tcp, ports, "tcp"),
            (None, Some(ports), None, None) => (Protocol::Udp, ports, "udp"),
            (None, None, Some(ports), None) => (Protocol::Sctp, ports, "sctp"),
            (None, None, None, Some(name)) if is_port_name(name) => {
                let port = PortNumber::Named(name.as_str().into());
                let of = |protocol| PortMatch { protocol, port: port.clone() };
                return Some(Protocol::ALL.map(of).into());
            }
            (None, None, None, Some(name)) => {
                let reason = format!("{} is not the name of a port", quoted(name));
                report.add(format!("{field}.destinationNamedPort"), reason);
                return None;
            }
            _ => {
                report.add(field, "there must be one of tcp, udp, sctp and destinationNamedPort");
                return None;
            }
        };
    let port = convert_ports(ports, &format!("{field}.{name}"), report)?;
    Some(vec![PortMatch { protocol, port }])
}

fn convert_ports(wire: &wire::Ports, field: &str, report: &mut Report) -> Option<PortNumber> {
    if let Some(unknown) = wire.unknown.keys().next() {
        report.add(format!("{field}.{unknown}"), "is not known");
        return None;
    }
    let Some(asked) = &wire.destination_port else { return Some(PortNumber::Any) };
    let field = format!("{field}.destinationPort");
    let range = match (asked.number, &asked.range, asked.unknown.keys().next()) {
        (Some(number), None, None) => port(number).map(|port| (port, port)),
        (None, Some(range), None) => {
            let end = |number: Option<i64>| port(number.unwrap_or_default());
            end(range.start).and_then(|start| Ok((start, end(range.end)?))).and_then(
                |(start, end)| {
                    let right = start <= end;
                    if right {
                        Ok((start, end))
                    } else {
                        Err(format!("{end} is less than {start}"))
                    }
                },
            )
        }
        (_, _, Some(unknown)) => Err(format!("{unknown} is not known")),
        _ => Err("there must be one of number and range".to_owned()),
    };
    range
        .map(|(first, last)| PortNumber::Range(first, last))
        .map_err(|reason| report.add(field, reason))
        .ok()
}
