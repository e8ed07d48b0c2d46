//! Random clusters, random policies, random packets: the compiled table against the oracle.

mod strategies;

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::sync::Arc;

use proptest::prelude::*;
use shunt_model::object::ObjectKey;

use self::strategies::{ADDRESSES, Edit, HOSTS, NODES, STRANGERS, edits, narrow_edits};
use crate::compile::{Compiler, full};
use crate::object::{Direction, NamedPort, Pod};
use crate::oracle::{self, Ruling};
use crate::selector::Labels;
use crate::store::{Dirty, Store};
use crate::table::{Packet, Table, Verdict};

const PROTOCOLS: [u8; 4] = [6, 17, 132, 1];
const PORTS: [u16; 6] = [0, 80, 81, 443, 8080, 9000];

/// What can come to a node.
fn packets_at(store: &Store, node: &str) -> impl Iterator<Item = Packet> {
    packets().filter(move |packet| can_come(store, node, packet))
}

/// Nothing from elsewhere has an address of the node.
fn can_come(store: &Store, node: &str, packet: &Packet) -> bool {
    packet.from_node || !store.machine(node).is_some_and(|own| own.contains(&packet.source))
}

fn packets() -> impl Iterator<Item = Packet> {
    let address = |text: &&str| text.parse::<IpAddr>().expect("an address");
    let all: Vec<IpAddr> = ADDRESSES.iter().chain(STRANGERS).chain(HOSTS).map(address).collect();
    let pairs: Vec<_> = all
        .iter()
        .flat_map(|source| all.iter().map(move |destination| (*source, *destination)))
        .filter(|(source, destination)| source.is_ipv4() == destination.is_ipv4())
        .collect();
    pairs.into_iter().flat_map(|(source, destination)| {
        PROTOCOLS.into_iter().flat_map(move |protocol| {
            PORTS.into_iter().flat_map(move |port| {
                [false, true].map(|from_node| Packet {
                    source,
                    destination,
                    protocol,
                    port,
                    from_node,
                })
            })
        })
    })
}

fn check(store: &Store, node: &str, table: &Table) -> Result<(), TestCaseError> {
    for packet in packets_at(store, node) {
        let expected = oracle::verdict(store, node, &packet);
        prop_assert_eq!(table.verdict(&packet), expected, "on {}: {:?}", node, packet);
    }
    Ok(())
}

fn apply(store: &mut Store, edit: Edit) -> Dirty {
    match edit {
        Edit::Pod(pod) => store.put_pod(pod),
        Edit::NoPod(key) => store.remove_pod(&key),
        Edit::Namespace(namespace) => store.put_namespace(namespace),
        Edit::Policy(policy) => store.put_policy(policy),
        Edit::NoPolicy(key) => store.remove_policy(&key),
        Edit::ClusterPolicy(policy) => store.put_cluster_policy(policy),
        Edit::NoClusterPolicy(name) => store.remove_cluster_policy(&name),
        Edit::Node(node) => store.put_node(node),
        Edit::NoNode(name) => store.remove_node(&name),
        Edit::Machine(node, addresses) => store.put_machine(&node, addresses),
        Edit::Names(address, names) => store.put_names(address, names),
        Edit::NoPolicies => {
            let keys: Vec<_> = store.policies().map(|policy| policy.key.clone()).collect();
            let names = store.cluster_policies().map(|policy| Arc::clone(&policy.name));
            let names: Vec<_> = names.collect();
            let mut dirty = Dirty::default();
            keys.iter().for_each(|key| dirty.merge(store.remove_policy(key)));
            names.iter().for_each(|name| dirty.merge(store.remove_cluster_policy(name)));
            dirty
        }
    }
}

/// Each NetworkPolicy with nothing but the ClusterNetworkPolicies beside it.
fn alone(store: &Store) -> Vec<(ObjectKey, Store)> {
    let keys: Vec<_> = store.policies().map(|policy| policy.key.clone()).collect();
    let others = |key: &ObjectKey| {
        let mut alone = store.clone();
        keys.iter()
            .filter(|other| *other != key)
            .for_each(|other| drop(alone.remove_policy(other)));
        (key.clone(), alone)
    };
    keys.iter().map(others).collect()
}

/// The policies behind a ruling: all that allow it, not the first alone.
fn deciding(
    alone: &[(ObjectKey, Store)],
    packet: &Packet,
    direction: Direction,
    ruling: &Ruling,
) -> BTreeSet<String> {
    match ruling {
        Ruling::Decided { policy, .. } => BTreeSet::from([policy.to_string()]),
        Ruling::Denied { policies } => policies.iter().map(ToString::to_string).collect(),
        Ruling::Allowed { .. } => {
            let allows = |(key, store): &&(ObjectKey, Store)| {
                oracle::explain(store, packet).iter().any(|(of, ruling)| {
                    let by = matches!(ruling, Ruling::Allowed { policy, .. } if policy == key);
                    *of == direction && by
                })
            };
            alone.iter().filter(allows).map(|(key, _)| key.to_string()).collect()
        }
        _ => BTreeSet::new(),
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(192))]

    #[test]
    fn the_table_says_what_the_oracle_says(edits in edits(6..40)) {
        let mut store = Store::new();
        for edit in edits {
            apply(&mut store, edit);
        }
        for node in NODES {
            check(&store, node, &full(node, &store))?;
        }
    }

    /// Whoever loses a connection that was allowed is named, also if it was one of the pod that had the address before;
    /// unless the peer is new.
    #[test]
    fn who_loses_a_live_connection_is_named(edits in edits(6..25)) {
        let (mut store, node) = (Store::new(), NODES[0]);
        let mut compiler = Compiler::new(node);
        compiler.update(&store, &Dirty::everything());
        for edit in edits {
            let before = store.clone();
            let by_name = matches!(edit, Edit::Names(..));
            let dirty = apply(&mut store, edit);
            let delta = compiler.update(&store, &dirty);
            for packet in packets_at(&store, node) {
                let Verdict::Drop(direction) = oracle::verdict(&store, node, &packet) else {
                    continue;
                };
                let (local, peer) = match direction {
                    Direction::Egress => (packet.source, packet.destination),
                    Direction::Ingress => (packet.destination, packet.source),
                };
                let newcomer = dirty.presence.contains_key(&peer);
                let was_allowed = can_come(&before, node, &packet)
                    && oracle::verdict(&before, node, &packet) == Verdict::Accept;
                if by_name {
                    prop_assert!(delta.tightened.is_empty(), "{:?}", packet);
                } else if !newcomer && was_allowed {
                    prop_assert!(delta.tightened.contains(&local), "{:?}", packet);
                }
            }
        }
    }

    /// Counted by policy, a packet is of those that decide.
    #[test]
    fn who_decides_is_who_the_oracle_names(edits in edits(6..30)) {
        let (mut store, node) = (Store::new(), NODES[0]);
        let (mut compiler, mut plain) = (Compiler::new(node).counting(true), Compiler::new(node));
        for edit in edits {
            let dirty = apply(&mut store, edit);
            compiler.update(&store, &dirty);
            plain.update(&store, &dirty);
        }
        let table = compiler.table();
        prop_assert_eq!(table.peers.len(), plain.table().peers.len());
        let alone = alone(&store);
        for packet in packets_at(&store, node).filter(|packet| !packet.from_node) {
            prop_assert_eq!(table.verdict(&packet), plain.table().verdict(&packet));
            for (direction, ruling) in oracle::explain(&store, &packet) {
                let Some(decision) = table.decision(direction, &packet) else { continue };
                if matches!(ruling, Ruling::Itself | Ruling::NoPod) {
                    continue;
                }
                let expected = deciding(&alone, &packet, direction, &ruling);
                let found: BTreeSet<String> = decision.by.iter().map(ToString::to_string).collect();
                prop_assert_eq!(decision.accepts, ruling.accepts(), "{:?}", packet);
                prop_assert_eq!(found, expected, "{:?} {:?}", packet, ruling);
            }
        }
    }

    #[test]
    fn each_change_alone_comes_to_the_same(edits in edits(6..40)) {
        let (store, compiler) = one_by_one(edits)?;
        check(&store, NODES[0], compiler.table())?;
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(768))]

    /// What is asked changes in a block, a selector, a port by its name alone; and the first pod is isolated.
    #[test]
    fn each_narrow_change_alone_comes_to_the_same(edits in narrow_edits(10..50)) {
        one_by_one(edits)?;
    }
}

/// What pods have alike is one, as the daemon's converter makes it, also when its last pod has gone and another comes.
#[derive(Default)]
struct Sharing {
    labels: BTreeMap<Labels, Arc<Labels>>,
    ports: BTreeMap<Box<[NamedPort]>, Arc<[NamedPort]>>,
}

impl Sharing {
    fn share(&mut self, edit: Edit) -> Edit {
        let Edit::Pod(mut pod) = edit else { return edit };
        let Pod { labels, ports, .. } = &mut pod;
        let one = self.labels.entry(Labels::clone(labels));
        *labels = Arc::clone(one.or_insert_with(|| Arc::clone(labels)));
        let one = self.ports.entry(Box::from(&**ports));
        *ports = Arc::clone(one.or_insert_with(|| Arc::clone(ports)));
        Edit::Pod(pod)
    }
}

/// Compiles each change alone; that comes to what compiling from nothing does.
fn one_by_one(edits: Vec<Edit>) -> Result<(Store, Compiler), TestCaseError> {
    let mut store = Store::new();
    let mut compiler = Compiler::new(NODES[0]);
    // What one gets who is only told of the changes.
    let mut followed = Table::default();
    let mut sharing = Sharing::default();
    for edit in edits.into_iter().map(|edit| sharing.share(edit)) {
        let dirty = apply(&mut store, edit);
        let delta = compiler.update(&store, &dirty);
        prop_assert!(!dirty.is_empty() || delta.is_empty());
        followed.apply(&delta);
        prop_assert_eq!(&followed, compiler.table());
        prop_assert_eq!(compiler.table(), &full(NODES[0], &store));
    }
    for dirty in [Dirty::default(), Dirty::everything()] {
        prop_assert!(compiler.update(&store, &dirty).is_empty());
    }
    Ok((store, compiler))
}
