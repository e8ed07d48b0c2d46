//! What a change costs in a large cluster, with ClusterNetworkPolicies: prints figures.
//!
//!     cargo test --release -p shunt-netpolicy --test price -- --ignored --nocapture

use std::collections::BTreeSet;
use std::net::{IpAddr, Ipv4Addr};
use std::sync::Arc;
use std::time::{Duration, Instant};

use shunt_model::address::Protocol;
use shunt_model::object::ObjectKey;
use shunt_netpolicy::cluster::{Action, ActionRule, ClusterNetworkPolicy, PeerNode, Tier};
use shunt_netpolicy::compile::Compiler;
use shunt_netpolicy::object::{
    Block, NAMESPACE_NAME, Namespace, NetworkPolicy, Peer, Pod, PortMatch, PortNumber, Rule, Uid,
};
use shunt_netpolicy::selector::{Labels, Operator, Requirement, Selector};
use shunt_netpolicy::store::{Dirty, Store};

const PODS: u32 = 100_000;
const PODS_OF_A_NODE: u32 = 110;
const NAMESPACES: u32 = 500;
const APPS: u32 = 40;
/// NetworkPolicies of a namespace; those of the first 110 select pods of our node.
const POLICIES_OF_A_NAMESPACE: u32 = 20;
const CLUSTER_POLICIES: u16 = 50;

fn is(key: &str, value: String) -> Selector {
    let operator = Operator::In([Arc::from(value)].into());
    [Requirement { key: key.into(), operator }].into_iter().collect()
}

fn address(number: u32) -> IpAddr {
    Ipv4Addr::from(0x0a00_0000 + number).into()
}

fn pods(namespaces: Selector, pods: Selector) -> Peer {
    Peer::Pods { namespaces: Some(namespaces), pods }
}

/// The cluster; labels are shared as the daemon shares them.
struct Scene {
    labels: Vec<Arc<Labels>>,
}

impl Scene {
    fn pod(&self, number: u32) -> Pod {
        Pod {
            key: ObjectKey::new(&format!("ns-{}", number % NAMESPACES), &format!("pod-{number}")),
            uid: Uid::default(),
            created: 0,
            node: Some(format!("node-{}", number / PODS_OF_A_NODE).into()),
            addresses: [address(number)].into(),
            host_network: false,
            labels: Arc::clone(&self.labels[(number / NAMESPACES % APPS) as usize]),
            ports: [].into(),
        }
    }

    fn store(&self) -> Store {
        let mut store = Store::new();
        for number in 0..NAMESPACES {
            let name: Arc<str> = format!("ns-{number}").into();
            let team = format!("team-{}", number % 10);
            let labels =
                [(NAMESPACE_NAME.into(), Arc::clone(&name)), ("team".into(), team.into())].into();
            drop(store.put_namespace(Namespace { name, labels, audit: false }));
            for of_namespace in 0..POLICIES_OF_A_NAMESPACE {
                let from = format!("app-{}", (number + of_namespace) % APPS);
                drop(store.put_policy(network_policy(number, of_namespace, from, 80)));
            }
        }
        for number in 0..PODS {
            drop(store.put_pod(self.pod(number)));
        }
        for number in 0..PODS / PODS_OF_A_NODE {
            let labels = [("zone".into(), format!("zone-{}", number % 3).into())].into();
            let addresses = vec![address(0x10_0000 + number)];
            drop(store.put_node(PeerNode {
                name: format!("node-{number}").into(),
                labels,
                addresses,
            }));
        }
        store.put_machine(&"node-0".into(), [address(0x10_0000)].into());
        for number in 0..CLUSTER_POLICIES {
            drop(store.put_cluster_policy(cluster_policy(number, 80)));
        }
        store
    }
}

/// One that lets in the pods of one kind from the teams' namespaces, for all pods of a namespace.
fn network_policy(namespace: u32, number: u32, from: String, port: u16) -> NetworkPolicy {
    let key = ObjectKey::new(&format!("ns-{namespace}"), &format!("policy-{number}"));
    let team = is("team", format!("team-{}", number % 10));
    let port = PortMatch { protocol: Protocol::Tcp, port: PortNumber::Range(port, port) };
    let rule = Rule { peers: Some(vec![pods(team, is("app", from))]), ports: Some(vec![port]) };
    NetworkPolicy { key, pods: Selector::default(), ingress: Some(vec![rule]), egress: None }
}

/// One of each kind of peer and action, for the namespaces of a team.
fn cluster_policy(number: u16, port: u16) -> ClusterNetworkPolicy {
    let team = |number: u16| is("team", format!("team-{}", number % 10));
    let app = is("app", format!("app-{}", u32::from(number) % APPS));
    let ports =
        Some(vec![PortMatch { protocol: Protocol::Tcp, port: PortNumber::Range(port, port) }]);
    let rule = |action, peers, ports| ActionRule {
        name: "".into(),
        action,
        on: Rule { peers: Some(peers), ports },
    };
    let cidr = format!("192.168.{number}.0/24").parse().expect("a network");
    let block = Peer::Block(Block { cidr, except: Vec::new() });
    let nodes = Peer::Nodes(is("zone", format!("zone-{}", number % 3)));
    ClusterNetworkPolicy {
        name: format!("policy-{number}").into(),
        tier: Tier::ALL[usize::from(number % 2)],
        priority: number,
        namespaces: team(number),
        pods: Selector::default(),
        ingress: vec![
            rule(Action::Accept, vec![pods(team(number + 1), app)], ports.clone()),
            rule(Action::Pass, vec![pods(team(number), Selector::default())], None),
            rule(Action::Deny, vec![pods(team(number + 2), Selector::default())], None),
        ],
        egress: vec![
            rule(Action::Accept, vec![block, nodes.clone()], ports),
            rule(Action::Deny, vec![nodes], None),
        ],
    }
}

/// The median of several runs, and the least: others may keep the machine busy.
fn measure(what: &str, times: usize, mut change: impl FnMut(usize) -> Duration) {
    let mut all: Vec<_> = (0..times).map(&mut change).collect();
    all.sort();
    println!("{what}: {:?}, at the least {:?}", all[times / 2], all[0]);
}

#[test]
#[ignore = "prints figures; of a release build they mean something"]
fn what_a_change_costs() {
    let labels =
        (0..APPS).map(|app| Arc::new([("app".into(), format!("app-{app}").into())].into()));
    let scene = Scene { labels: labels.collect() };
    let mut store = scene.store();
    let mut compiler = Compiler::new("node-0");
    let timed = |compiler: &mut Compiler, store: &Store, dirty: &Dirty| {
        let started = Instant::now();
        let delta = compiler.update(store, dirty);
        (started.elapsed(), delta)
    };
    let (first, _) = timed(&mut compiler, &store, &Dirty::everything());
    let table = compiler.table();
    println!(
        "{PODS} pods, {} NetworkPolicies, {CLUSTER_POLICIES} ClusterNetworkPolicies: {} local pods, {} peers, {} rows",
        NAMESPACES * POLICIES_OF_A_NAMESPACE,
        table.locals.len(),
        table.peers.len(),
        table.rows.len(),
    );
    println!("everything, the first time: {first:?}");
    assert_eq!(table.locals.len(), PODS_OF_A_NODE as usize);
    let atoms: BTreeSet<_> = table.peers.values().collect();
    println!("classes of peers: {}", atoms.len());

    measure("a new pod elsewhere, of a known class", 50, |run| {
        let number = PODS + u32::try_from(run).expect("a small number");
        let dirty = store.put_pod(scene.pod(number));
        let (took, delta) = timed(&mut compiler, &store, &dirty);
        assert_eq!(delta.peers.len(), 1);
        took
    });
    measure("a new pod here", 20, |run| {
        let number = PODS + 1000 + u32::try_from(run).expect("a small number");
        let dirty = store.put_pod(Pod { node: Some("node-0".into()), ..scene.pod(number) });
        let (took, delta) = timed(&mut compiler, &store, &dirty);
        assert!(!delta.locals.is_empty());
        took
    });
    measure("a NetworkPolicy: another port", 20, |run| {
        let port = 8000 + u16::try_from(run).expect("a small number");
        let dirty = store.put_policy(network_policy(7, 7, "app-14".into(), port));
        let (took, delta) = timed(&mut compiler, &store, &dirty);
        assert!(!delta.locals.is_empty());
        took
    });
    measure("a NetworkPolicy: peers that nobody asked for, and that nobody is", 20, |run| {
        let dirty = store.put_policy(network_policy(7, 7, format!("other-{run}"), 80));
        let (took, delta) = timed(&mut compiler, &store, &dirty);
        assert_eq!(delta.locals.is_empty(), run > 0);
        took
    });
    measure("a NetworkPolicy: other peers of 250 pods that nobody asked for", 20, |run| {
        let mut policy = network_policy(7, 7, format!("app-{}", run % 40), 80);
        let namespaces = is(NAMESPACE_NAME, format!("ns-{}", 100 + run));
        let Some([rule]) = policy.ingress.as_deref_mut() else { panic!("one rule") };
        rule.peers = Some(vec![pods(namespaces, is("app", format!("app-{}", run % 40)))]);
        let dirty = store.put_policy(policy);
        let (took, delta) = timed(&mut compiler, &store, &dirty);
        assert!(!delta.locals.is_empty());
        took
    });
    measure("a changed ClusterNetworkPolicy", 9, |run| {
        let port = 8000 + u16::try_from(run).expect("a small number");
        let dirty = store.put_cluster_policy(cluster_policy(0, port));
        let (took, delta) = timed(&mut compiler, &store, &dirty);
        assert!(!delta.locals.is_empty() || !delta.rows.is_empty());
        took
    });
    measure("a Namespace of another team", 20, |run| {
        let name: Arc<str> = format!("ns-{}", 150 + run).into();
        let labels = [
            (NAMESPACE_NAME.into(), Arc::clone(&name)),
            ("team".into(), format!("team-{}", (run + 1) % 10).into()),
        ];
        let namespace = Namespace { name, labels: labels.into(), audit: false };
        let dirty = store.put_namespace(namespace);
        let (took, delta) = timed(&mut compiler, &store, &dirty);
        assert!(!delta.peers.is_empty());
        took
    });
    measure("a NetworkPolicy: another ipBlock", 9, |run| {
        let mut policy = network_policy(7, 7, "app-14".into(), 80);
        let cidr = format!("198.51.{run}.0/24").parse().expect("a network");
        let block = Peer::Block(Block { cidr, except: Vec::new() });
        policy.ingress.iter_mut().flatten().for_each(|rule| rule.peers = Some(vec![block.clone()]));
        let dirty = store.put_policy(policy);
        let (took, delta) = timed(&mut compiler, &store, &dirty);
        assert!(delta.networks.is_some());
        took
    });
    measure("a new Node", 20, |run| {
        let name = format!("more-{run}");
        let number = 0x11_0000 + u32::try_from(run).expect("a small number");
        let labels = [("zone".into(), "zone-1".into())].into();
        let addresses = vec![address(number)];
        let dirty = store.put_node(PeerNode { name: name.into(), labels, addresses });
        timed(&mut compiler, &store, &dirty).0
    });
}
