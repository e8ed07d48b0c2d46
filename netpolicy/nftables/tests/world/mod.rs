//! Objects to try.

use std::sync::Arc;

use shunt_model::address::Protocol;
use shunt_model::object::ObjectKey;
use shunt_netpolicy::cluster::{Action, ActionRule, ClusterNetworkPolicy, Tier};
use shunt_netpolicy::object::{
    Block, NamedPort, NetworkPolicy, Peer, Pod, PortMatch, PortNumber, Rule, Uid,
};
use shunt_netpolicy::selector::{Operator, Requirement, Selector};

pub(crate) fn pod(
    namespace: &str,
    name: &str,
    node: &str,
    addresses: &[&str],
    labels: &[(&str, &str)],
) -> Pod {
    let http = |protocol| NamedPort { name: "http".into(), protocol, port: 8080 };
    Pod {
        key: ObjectKey::new(namespace, name),
        uid: Uid::default(),
        created: 0,
        node: Some(node.into()),
        addresses: addresses.iter().map(|text| text.parse().expect("an address")).collect(),
        host_network: false,
        labels: Arc::new(labels.iter().map(|(k, v)| ((*k).into(), (*v).into())).collect()),
        ports: [http(Protocol::Tcp), http(Protocol::Udp)].into(),
    }
}

pub(crate) fn selector(labels: &[(&str, &str)]) -> Selector {
    let requirement = |(key, value): &(&str, &str)| Requirement {
        key: (*key).into(),
        operator: Operator::In([Arc::from(*value)].into()),
    };
    labels.iter().map(requirement).collect()
}

pub(crate) fn policy(
    namespace: &str,
    name: &str,
    pods: &[(&str, &str)],
    ingress: Option<Vec<Rule>>,
    egress: Option<Vec<Rule>>,
) -> NetworkPolicy {
    NetworkPolicy { key: ObjectKey::new(namespace, name), pods: selector(pods), ingress, egress }
}

pub(crate) fn pods(labels: &[(&str, &str)], own_namespace: bool) -> Peer {
    let namespaces = (!own_namespace).then(Selector::default);
    Peer::Pods { namespaces, pods: selector(labels) }
}

pub(crate) fn block(cidr: &str, except: &[&str]) -> Peer {
    let parse = |text: &str| text.parse().expect("a network");
    Peer::Block(Block { cidr: parse(cidr), except: except.iter().map(|e| parse(e)).collect() })
}

pub(crate) fn port(protocol: Protocol, port: PortNumber) -> PortMatch {
    PortMatch { protocol, port }
}

/// A ClusterNetworkPolicy for the pods of all namespaces that have these labels.
pub(crate) fn cluster_policy(
    name: &str,
    (tier, priority): (Tier, u16),
    pods: &[(&str, &str)],
    ingress: Vec<(Action, Rule)>,
    egress: Vec<(Action, Rule)>,
) -> ClusterNetworkPolicy {
    let rules = |rules: Vec<(Action, Rule)>| {
        let rule = |(action, on)| ActionRule { name: "".into(), action, on };
        rules.into_iter().map(rule).collect()
    };
    ClusterNetworkPolicy {
        name: name.into(),
        tier,
        priority,
        namespaces: Selector::default(),
        pods: selector(pods),
        ingress: rules(ingress),
        egress: rules(egress),
    }
}
