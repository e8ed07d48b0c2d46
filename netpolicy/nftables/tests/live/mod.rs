//! Live connections while policies change.

use std::net::{IpAddr, SocketAddr};
use std::thread;
use std::time::{Duration, Instant};

use shunt_cluster::{Connection, ProbeOptions};
use shunt_model::object::ObjectKey;
use shunt_netpolicy::cluster::{Action, Tier};
use shunt_netpolicy::object::{Peer, Rule};
use shunt_netpolicy::selector::Selector;
use shunt_netpolicy::store::Dirty;
use shunt_netpolicy_nftables::live::SETTLE;
use shunt_netpolicy_nftables::name::SetId;

use crate::two_nodes::{PODS, World};
use crate::world::{cluster_policy, pods, policy};

/// How long an answer may take on what is to go on, and how long is waited for one on what is not.
const ANSWER: Duration = Duration::from_secs(30);
const SILENCE: Duration = Duration::from_secs(2);
/// The longest pause between two looks at what is due.
const PAUSE: Duration = Duration::from_millis(400);

impl World {
    /// How many addresses of a node's pods the kernel watches.
    fn watched(&self, node: &str) -> usize {
        let installed = self.nodes[node].1.installed().expect("a table");
        installed.elements.keys().filter(|(set, _)| matches!(set, SetId::Watched(_))).count()
    }

    /// Lets a node do what is due for so long, or until it watches no pod.
    fn tend(&mut self, node: &str, longest: Duration) -> Duration {
        let began = Instant::now();
        while self.watched(node) > 0 && began.elapsed() < longest {
            let (_, table) = self.nodes.get_mut(node).expect("a node");
            let now = Instant::now();
            let at = table.tend_at().expect("something is to be done");
            thread::sleep(at.saturating_duration_since(now).min(PAUSE));
            table.tend(Instant::now()).expect("the kernel takes it");
        }
        began.elapsed()
    }
}

/// A world whose pods are in one namespace, each with its name as a label.
fn named_pods() -> (World, Dirty) {
    let mut world = World::new();
    let mut dirty = Dirty::default();
    for (node, pods) in PODS {
        for name in pods {
            dirty.merge(world.label(node, name, "x", &[("app", name)]));
        }
    }
    (world, dirty)
}

/// The rule that lets pods of these names in.
fn from(names: &[&str]) -> Option<Vec<Rule>> {
    let peers = names.iter().map(|name| pods(&[("app", name)], true)).collect();
    Some(vec![Rule { peers: Some(peers), ports: None }])
}

/// Whether nobody answers on a connection any more.
fn is_cut(connection: &mut Connection) -> bool {
    connection.wait(SILENCE);
    connection.exchange("after").is_err()
}

#[test]
fn live_connections_obey_a_changed_policy() {
    let (mut world, mut dirty) = named_pods();
    dirty.merge(world.store.put_policy(policy("x", "p", &[("app", "a")], from(&["b", "d"]), None)));
    world.sync(&dirty);
    let to = world.addresses("a");
    let open = |host: &str, to: IpAddr| {
        let netns = world.cluster.host(host).expect("a host").netns();
        let options = ProbeOptions::within(ANSWER);
        Connection::open(netns, SocketAddr::new(to, 8080), &options).expect("a connection")
    };
    let mut kept: Vec<_> = to.iter().map(|to| open("b", *to)).collect();
    let mut cut: Vec<_> = to.iter().map(|to| open("d", *to)).collect();
    let node = world.addresses("node-1");
    let mut to_node: Vec<_> = node.iter().map(|to| open("b", *to)).collect();
    for connection in kept.iter_mut().chain(&mut cut).chain(&mut to_node) {
        connection.exchange("before").expect("an answer");
    }
    let dirty = world.store.put_policy(policy("x", "p", &[("app", "a")], from(&["b"]), None));
    world.sync(&dirty);
    for connection in &mut kept {
        connection.exchange("after").expect("what is still allowed goes on");
    }
    for connection in &mut cut {
        assert!(is_cut(connection), "it is not allowed any more");
    }
    // To the node itself, which only a ClusterNetworkPolicy forbids.
    let nodes = Rule { peers: Some(vec![Peer::Nodes(Selector::default())]), ports: None };
    let deny = vec![(Action::Deny, nodes)];
    let deny = cluster_policy("no-nodes", (Tier::Baseline, 0), &[("app", "b")], vec![], deny);
    let dirty = world.store.put_cluster_policy(deny);
    world.sync(&dirty);
    for connection in &mut to_node {
        assert!(is_cut(connection), "it is not allowed any more");
    }
    for connection in &mut kept {
        connection.exchange("to a pod").expect("what nobody denies goes on");
    }
    // And when it is allowed again it goes on, as TCP sends again what was lost.
    let dirty = world.store.put_policy(policy("x", "p", &[("app", "a")], from(&["b", "d"]), None));
    world.sync(&dirty);
    for connection in &mut kept {
        connection.exchange("at last").expect("an answer");
    }
}

#[test]
fn a_pod_is_watched_for_as_long_as_it_has_connections_that_are_not_allowed() {
    let (mut world, mut dirty) = named_pods();
    let both = policy("x", "p", &[("app", "a")], from(&["b", "d"]), None);
    dirty.merge(world.store.put_policy(both.clone()));
    // It may have been there before us, so it counts as older than the policy.
    let to = world.addresses("a");
    let open = |host: &str, to: &IpAddr| {
        let netns = world.cluster.host(host).expect("a host").netns();
        let options = ProbeOptions::within(ANSWER);
        Connection::open(netns, SocketAddr::new(*to, 8080), &options).expect("a connection")
    };
    let mut kept: Vec<_> = to.iter().map(|to| open("b", to)).collect();
    let mut cut: Vec<_> = to.iter().map(|to| open("d", to)).collect();
    world.sync(&dirty);
    assert_eq!(world.watched("node-1"), 2, "at the first start nothing is known");
    let took = world.tend("node-1", ANSWER);
    assert!(took >= SETTLE - PAUSE && world.watched("node-1") == 0, "{took:?}");
    for connection in kept.iter_mut().chain(&mut cut) {
        connection.exchange("unwatched").expect("an answer");
    }

    let dirty = world.store.put_policy(policy("x", "p", &[("app", "a")], from(&["b"]), None));
    world.sync(&dirty);
    assert_eq!(world.watched("node-1"), 2);
    world.tend("node-1", SETTLE + PAUSE * 3);
    assert_eq!(world.watched("node-1"), 2, "they have connections that are not allowed");
    for connection in &mut cut {
        assert!(is_cut(connection));
    }
    for connection in &mut kept {
        connection.exchange("beside them").expect("what is still allowed goes on");
    }

    let dirty = world.store.put_policy(both);
    world.sync(&dirty);
    world.tend("node-1", ANSWER);
    assert_eq!(world.watched("node-1"), 0, "all is allowed again");
    for connection in &mut kept {
        connection.exchange("at last").expect("an answer");
    }
}

/// A client that was killed leaves its connection to the kernel; it is here itself, in the place of one that is another
/// pod's and has the same port.
#[test]
fn what_a_pod_that_has_gone_has_opened_is_not_for_the_next_with_its_address() {
    let (mut world, mut dirty) = named_pods();
    dirty.merge(world.store.put_policy(policy("x", "p", &[("app", "a")], from(&["b", "d"]), None)));
    // Of its kind there are others, so that nobody who is allowed is so no more when it goes.
    dirty.merge(world.label("node-2", "e", "x", &[("app", "d")]));
    world.sync(&dirty);
    world.tend("node-1", SETTLE * 3);
    assert_eq!(world.watched("node-1"), 0, "nobody has connections");
    let to = world.addresses("a");
    let open = |host: &str, to: &IpAddr, patience| {
        let netns = world.cluster.host(host).expect("a host").netns();
        let options = ProbeOptions::within(patience);
        Connection::open(netns, SocketAddr::new(*to, 8080), &options).expect("a connection")
    };
    let mut kept: Vec<_> = to.iter().map(|to| open("b", to, ANSWER)).collect();
    let mut cut: Vec<_> = to.iter().map(|to| open("d", to, SILENCE)).collect();
    for connection in kept.iter_mut().chain(&mut cut) {
        connection.exchange("before").expect("an answer");
    }
    let dirty = world.store.remove_pod(&ObjectKey::new("x", "d"));
    world.sync(&dirty);
    let dirty = world.label("node-2", "d", "x", &[("app", "another")]);
    world.sync(&dirty);
    assert_eq!(world.watched("node-1"), 0, "nothing is known of connections yet");
    let began = Instant::now();
    while world.watched("node-1") < to.len() && began.elapsed() < ANSWER * 6 {
        let (_, table) = world.nodes.get_mut("node-1").expect("a node");
        let Some(at) = table.tend_at() else { break };
        thread::sleep(at.saturating_duration_since(Instant::now()).min(PAUSE));
        table.tend(Instant::now()).expect("the kernel takes it");
    }
    for connection in &mut cut {
        assert!(connection.exchange("after").is_err(), "it is another pod's");
    }
    for connection in &mut kept {
        connection.exchange("after").expect("what is allowed goes on");
    }
}
