//! Small worlds in which everything meets everything.

use std::collections::BTreeSet;
use std::net::IpAddr;
use std::ops::Range;
use std::sync::Arc;

use proptest::collection::{btree_map, btree_set, vec};
use proptest::option::weighted;
use proptest::prelude::*;
use proptest::sample::select;
use shunt_model::address::Protocol;
use shunt_model::object::ObjectKey;

use crate::cluster::{Action, ActionRule, ClusterNetworkPolicy, PeerNode, Tier};
use crate::domain::DomainName;
use crate::object::{
    Block, NAMESPACE_NAME, NamedPort, Namespace, NetworkPolicy, Peer, Pod, PortMatch, PortNumber,
    Rule, Uid,
};
use crate::selector::{Labels, Operator, Requirement, Selector};

pub(super) const NODES: [&str; 2] = ["n1", "n2"];
const NAMESPACES: &[&str] = &["x", "y", "z"];
const NAMES: &[&str] = &["a", "b", "c", "d"];
const KEYS: &[&str] = &["app", "tier", NAMESPACE_NAME];
const VALUES: &[&str] = &["a", "b", "x", "y"];
const PORT_NAMES: &[&str] = &["http", "dns"];
/// Few, so that pods fight for them.
pub(super) const ADDRESSES: &[&str] =
    &["10.0.0.1", "10.0.0.2", "10.0.0.3", "10.0.1.4", "10.0.1.5", "fd00::1", "fd00::2"];
pub(super) const STRANGERS: &[&str] = &["10.0.1.9", "192.0.2.1", "255.255.255.255", "fd00::9"];
/// Of nodes; each may be one's of several.
pub(super) const HOSTS: &[&str] = &["10.0.1.6", "10.0.1.7", "192.0.2.7", "fd00::7"];
const BLOCKS: &[&str] = &[
    "0.0.0.0/0",
    "10.0.0.0/8",
    "10.0.0.0/24",
    "10.0.1.4/30",
    "10.0.0.2/32",
    "192.0.0.0/3",
    "255.255.255.255/32",
    "::/0",
    "fd00::/16",
    "fd00::2/128",
];

/// A change of the world.
#[derive(Clone, Debug)]
pub(super) enum Edit {
    Pod(Pod),
    NoPod(ObjectKey),
    Namespace(Namespace),
    Policy(NetworkPolicy),
    NoPolicy(ObjectKey),
    ClusterPolicy(ClusterNetworkPolicy),
    NoClusterPolicy(Arc<str>),
    Node(PeerNode),
    NoNode(Arc<str>),
    Machine(Arc<str>, BTreeSet<IpAddr>),
    Names(IpAddr, BTreeSet<DomainName>),
    /// All policies go: the next that comes isolates the first pod.
    NoPolicies,
}

pub(super) fn edits(count: Range<usize>) -> impl Strategy<Value = Vec<Edit>> {
    let edit = prop_oneof![
        6 => pod().prop_map(Edit::Pod),
        1 => key().prop_map(Edit::NoPod),
        1 => namespace().prop_map(Edit::Namespace),
        4 => policy().prop_map(Edit::Policy),
        1 => key().prop_map(Edit::NoPolicy),
        4 => cluster_policy().prop_map(Edit::ClusterPolicy),
        1 => word(NAMES).prop_map(Edit::NoClusterPolicy),
        2 => node().prop_map(Edit::Node),
        1 => word(&NODES).prop_map(Edit::NoNode),
        1 => (word(&NODES), hosts()).prop_map(|(node, hosts)| Edit::Machine(node, hosts)),
        2 => names(),
        1 => Just(Edit::NoPolicies),
    ];
    vec(edit, count)
}

fn domain() -> impl Strategy<Value = DomainName> {
    let parse = |text| DomainName::parse(text).expect("a name");
    select(&["a.example.com", "*.example.com", "example.org"][..]).prop_map(parse)
}

/// What DNS says of anybody, and what it says no more.
fn names() -> impl Strategy<Value = Edit> {
    let anybody: Vec<&str> = [ADDRESSES, STRANGERS, HOSTS].concat();
    let address = select(anybody).prop_map(|text| text.parse().expect("an address"));
    (address, btree_set(domain(), 0..3)).prop_map(|(address, names)| Edit::Names(address, names))
}

fn word(words: &'static [&'static str]) -> impl Strategy<Value = Arc<str>> {
    select(words).prop_map(Arc::from)
}

fn key() -> impl Strategy<Value = ObjectKey> {
    (select(NAMESPACES), select(NAMES)).prop_map(|(ns, name)| ObjectKey::new(ns, name))
}

fn labels() -> impl Strategy<Value = Labels> {
    btree_map(word(&KEYS[..2]), word(VALUES), 0..3)
}

fn protocol() -> impl Strategy<Value = Protocol> {
    select(&Protocol::ALL[..])
}

fn number() -> impl Strategy<Value = u16> {
    select(&[80u16, 81, 443, 8080][..])
}

fn pod() -> impl Strategy<Value = Pod> {
    let port = (word(PORT_NAMES), protocol(), number())
        .prop_map(|(name, protocol, port)| NamedPort { name, protocol, port });
    let addresses = btree_set(select(ADDRESSES), 0..3);
    let rest = (0i64..3, prop::bool::weighted(0.1), labels(), vec(port, 0..3));
    (key(), weighted(0.9, select(&NODES[..])), addresses, rest).prop_map(
        |(key, node, addresses, (created, host_network, labels, ports))| Pod {
            key,
            uid: Uid::default(),
            created,
            node: node.map(Arc::from),
            addresses: addresses.iter().map(|text| text.parse().expect("an address")).collect(),
            host_network,
            labels: Arc::new(labels),
            ports: ports.into(),
        },
    )
}

fn namespace() -> impl Strategy<Value = Namespace> {
    let audit = prop::bool::weighted(0.2);
    (word(NAMESPACES), labels(), audit).prop_map(|(name, mut labels, audit)| {
        labels.insert(NAMESPACE_NAME.into(), Arc::clone(&name));
        Namespace { name, labels, audit }
    })
}

fn selector() -> impl Strategy<Value = Selector> {
    let values = || btree_set(word(VALUES), 1..3);
    let operator = prop_oneof![
        4 => values().prop_map(|values| Operator::In(values.into_iter().collect())),
        1 => values().prop_map(|values| Operator::NotIn(values.into_iter().collect())),
        1 => Just(Operator::Exists),
        1 => Just(Operator::DoesNotExist),
    ];
    let requirement =
        (word(KEYS), operator).prop_map(|(key, operator)| Requirement { key, operator });
    let several = vec(requirement, 0..3).prop_map(|all| all.into_iter().collect());
    prop_oneof![2 => Just(Selector::default()), 3 => several]
}

fn block() -> impl Strategy<Value = Block> {
    (select(BLOCKS), btree_set(select(BLOCKS), 0..3)).prop_map(|(cidr, except)| {
        let cidr: ipnet::IpNet = cidr.parse().expect("a network");
        let except: BTreeSet<ipnet::IpNet> =
            except.iter().map(|net| net.parse().expect("a network")).collect();
        let within = |net: &ipnet::IpNet| cidr.contains(net) && *net != cidr;
        Block { cidr: cidr.trunc(), except: except.into_iter().filter(within).collect() }
    })
}

fn peer() -> impl Strategy<Value = Peer> {
    let pods = (weighted(0.6, selector()), selector())
        .prop_map(|(namespaces, pods)| Peer::Pods { namespaces, pods });
    prop_oneof![2 => pods, 1 => block().prop_map(Peer::Block)]
}

fn port() -> impl Strategy<Value = PortMatch> {
    let number = prop_oneof![
        1 => Just(PortNumber::Any),
        3 => (number(), 0u16..2000).prop_map(|(port, more)| PortNumber::Range(port, port + more)),
        3 => number().prop_map(|port| PortNumber::Range(port, port)),
        2 => word(PORT_NAMES).prop_map(PortNumber::Named),
    ];
    (protocol(), number).prop_map(|(protocol, port)| PortMatch { protocol, port })
}

fn rule() -> impl Strategy<Value = Rule> {
    (weighted(0.8, vec(peer(), 0..3)), weighted(0.7, vec(port(), 0..3)))
        .prop_map(|(peers, ports)| Rule { peers, ports })
}

fn policy() -> impl Strategy<Value = NetworkPolicy> {
    let rules = || weighted(0.7, vec(rule(), 0..3));
    (key(), selector(), rules(), rules()).prop_map(|(key, pods, ingress, egress)| NetworkPolicy {
        key,
        pods,
        ingress,
        egress,
    })
}

/// Few policies with one peer and one port, so that what is asked often changes in one thing alone.
pub(super) fn narrow_edits(count: Range<usize>) -> impl Strategy<Value = Vec<Edit>> {
    let edit = prop_oneof![
        4 => pod().prop_map(Edit::Pod),
        1 => namespace().prop_map(Edit::Namespace),
        6 => narrow_policy().prop_map(Edit::Policy),
        4 => narrow_cluster_policy().prop_map(Edit::ClusterPolicy),
        1 => node().prop_map(Edit::Node),
        1 => (word(&NODES), hosts()).prop_map(|(node, hosts)| Edit::Machine(node, hosts)),
        1 => names(),
        1 => Just(Edit::NoPolicies),
    ];
    vec(edit, count)
}

fn narrow_rule(peer: impl Strategy<Value = Peer>) -> impl Strategy<Value = Rule> {
    let port = prop_oneof![
        1 => Just(PortNumber::Range(80, 80)),
        2 => word(PORT_NAMES).prop_map(PortNumber::Named),
    ];
    let port = (protocol(), port).prop_map(|(protocol, port)| PortMatch { protocol, port });
    (weighted(0.8, peer), weighted(0.8, port)).prop_map(|(peer, port)| Rule {
        peers: peer.map(|peer| vec![peer]),
        ports: port.map(|port| vec![port]),
    })
}

/// Blocks or some of two selectors, for all pods of a namespace.
fn narrow_policy() -> impl Strategy<Value = NetworkPolicy> {
    let one = Requirement { key: KEYS[0].into(), operator: Operator::In(["a".into()].into()) };
    let some = prop_oneof![Just(Selector::default()), Just([one].into_iter().collect())];
    let pods = some.prop_map(|pods| Peer::Pods { namespaces: Some(Selector::default()), pods });
    let peer = prop_oneof![1 => block().prop_map(Peer::Block), 1 => pods];
    let key = select(NAMESPACES).prop_map(|namespace| ObjectKey::new(namespace, NAMES[0]));
    (key, narrow_rule(peer), weighted(0.3, Just(()))).prop_map(|(key, rule, ingress)| {
        let (pods, rules) = (Selector::default(), Some(vec![rule]));
        match ingress {
            Some(()) => NetworkPolicy { key, pods, ingress: rules, egress: None },
            None => NetworkPolicy { key, pods, ingress: None, egress: rules },
        }
    })
}

/// Egress to nodes, blocks or names, of all pods.
fn narrow_cluster_policy() -> impl Strategy<Value = ClusterNetworkPolicy> {
    let peer = prop_oneof![
        2 => selector().prop_map(Peer::Nodes),
        1 => block().prop_map(Peer::Block),
        1 => domain().prop_map(Peer::Domain),
    ];
    (word(&NAMES[..2]), narrow_rule(peer)).prop_map(|(name, on)| ClusterNetworkPolicy {
        name,
        tier: Tier::Admin,
        priority: 0,
        namespaces: Selector::default(),
        pods: Selector::default(),
        ingress: Vec::new(),
        egress: vec![ActionRule { name: "".into(), action: Action::Accept, on }],
    })
}

fn hosts() -> impl Strategy<Value = BTreeSet<IpAddr>> {
    let parse = |text: &str| text.parse().expect("an address");
    btree_set(select(HOSTS).prop_map(parse), 0..3)
}

fn node() -> impl Strategy<Value = PeerNode> {
    (word(&NODES), labels(), hosts()).prop_map(|(name, labels, addresses)| PeerNode {
        name,
        labels,
        addresses: addresses.into_iter().collect(),
    })
}

/// What a ClusterNetworkPolicy may have beside what a NetworkPolicy may.
fn cluster_peer() -> impl Strategy<Value = Peer> {
    let own = |peer| match peer {
        Peer::Pods { namespaces, pods } => {
            Peer::Pods { namespaces: Some(namespaces.unwrap_or_default()), pods }
        }
        other => other,
    };
    prop_oneof![3 => peer().prop_map(own), 1 => selector().prop_map(Peer::Nodes)]
}

fn action_rule(egress: bool) -> impl Strategy<Value = ActionRule> {
    let action = select(&[Action::Accept, Action::Deny, Action::Pass][..]);
    // Without peers: what is not understood is everybody.
    let peers = weighted(0.9, vec(cluster_peer(), 1..3));
    let ports = weighted(0.6, vec(port(), 1..3));
    let names = vec(domain().prop_map(Peer::Domain), 0..2);
    (action, peers, names, ports).prop_map(move |(action, mut peers, names, ports)| {
        if egress && action == Action::Accept {
            peers.iter_mut().for_each(|peers| peers.extend(names.iter().cloned()));
        }
        ActionRule { name: "".into(), action, on: Rule { peers, ports } }
    })
}

fn cluster_policy() -> impl Strategy<Value = ClusterNetworkPolicy> {
    let subject = (selector(), selector());
    let rules = |egress| vec(action_rule(egress), 0..4);
    // Few priorities, so that some are equal.
    let place = (select(&Tier::ALL[..]), 0u16..3);
    (word(NAMES), place, subject, rules(false), rules(true)).prop_map(
        |(name, (tier, priority), (namespaces, pods), ingress, egress)| ClusterNetworkPolicy {
            name,
            tier,
            priority,
            namespaces,
            pods,
            ingress,
            egress,
        },
    )
}
