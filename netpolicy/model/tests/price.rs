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
    Block, NAMESPACE_NAME, NamedPort, Namespace, NetworkPolicy, Peer, Pod, PortMatch, PortNumber,
    Rule, Uid,
};
use shunt_netpolicy::selector::{Labels, Operator, Requirement, Selector};
use shunt_netpolicy::store::{Dirty, Store};
use shunt_netpolicy::table::Delta;

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

/// The cluster; labels and the names of namespaces are shared as the daemon shares them.
struct Scene {
    labels: Vec<Arc<Labels>>,
    namespaces: Vec<Arc<str>>,
    ports: [Arc<[NamedPort]>; 3],
}

impl Scene {
    fn pod(&self, number: u32) -> Pod {
        Pod {
            key: ObjectKey::of(
                Arc::clone(&self.namespaces[(number % NAMESPACES) as usize]),
                format!("pod-{number}").into(),
            ),
            uid: Uid::default(),
            created: 0,
            node: Some(format!("node-{}", number / PODS_OF_A_NODE).into()),
            addresses: [address(number)].into(),
            host_network: false,
            labels: Arc::clone(&self.labels[(number / NAMESPACES % APPS) as usize]),
            ports: Arc::clone(&self.ports[(number / NAMESPACES % 3) as usize]),
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

/// The cluster, and what is compiled of it.
struct Rig {
    scene: Scene,
    store: Store,
    compiler: Compiler,
}

impl Rig {
    fn new() -> Self {
        let labels =
            (0..APPS).map(|app| Arc::new([("app".into(), format!("app-{app}").into())].into()));
        let namespaces = (0..NAMESPACES).map(|number| format!("ns-{number}").into());
        let ports = [8080, 8081, 9090].map(|port| {
            let named = |name: &str| NamedPort { name: name.into(), protocol: Protocol::Tcp, port };
            Arc::from([named("port-0"), named("port-1")])
        });
        let scene = Scene { labels: labels.collect(), namespaces: namespaces.collect(), ports };
        Self { store: scene.store(), scene, compiler: Compiler::new("node-0") }
    }

    fn everything(&mut self) {
        let started = Instant::now();
        self.compiler.update(&self.store, &Dirty::everything());
        let took = started.elapsed();
        let table = self.compiler.table();
        println!(
            "{PODS} pods, {} NetworkPolicies, {CLUSTER_POLICIES} ClusterNetworkPolicies: {} local pods, {} peers, {} rows",
            NAMESPACES * POLICIES_OF_A_NAMESPACE,
            table.locals.len(),
            table.peers.len(),
            table.rows.len(),
        );
        println!("everything, the first time: {took:?}");
        assert_eq!(table.locals.len(), PODS_OF_A_NODE as usize);
        let atoms: BTreeSet<_> = table.peers.values().collect();
        println!("classes of peers: {}", atoms.len());
    }

    /// The median of several runs, and the least: others may keep the machine busy.
    fn measure(
        &mut self,
        what: &str,
        times: u16,
        change: impl Fn(&Scene, &mut Store, u16) -> Dirty,
        holds: impl Fn(&Delta, u16) -> bool,
    ) {
        let mut all = Vec::new();
        for run in 0..times {
            let dirty = change(&self.scene, &mut self.store, run);
            let started = Instant::now();
            let delta = self.compiler.update(&self.store, &dirty);
            all.push(started.elapsed());
            assert!(holds(&delta, run), "{what}: {} peers", delta.peers.len());
        }
        print(what, all);
    }
}

fn print(what: &str, mut all: Vec<Duration>) {
    all.sort();
    println!("{what}: {:?}, at the least {:?}", all[all.len() / 2], all[0]);
}

#[test]
#[ignore = "prints figures; of a release build they mean something"]
fn what_a_change_costs() {
    let mut rig = Rig::new();
    rig.everything();
    pods_and_labels(&mut rig);
    other_peers(&mut rig);
    other_blocks(&mut rig);
    other_nodes_and_ports(&mut rig);
    the_first_isolated_pod(&rig);
}

fn pods_and_labels(rig: &mut Rig) {
    let elsewhere =
        |scene: &Scene, store: &mut Store, run| store.put_pod(scene.pod(PODS + u32::from(run)));
    rig.measure("a new pod elsewhere, of a known class", 50, elsewhere, |delta, _| {
        delta.peers.len() == 1
    });
    let here = |scene: &Scene, store: &mut Store, run| {
        let pod = scene.pod(PODS + 1000 + u32::from(run));
        store.put_pod(Pod { node: Some("node-0".into()), ..pod })
    };
    rig.measure("a new pod here", 20, here, |delta, _| !delta.locals.is_empty());
    let relabelled = |_: &Scene, store: &mut Store, run| {
        let name: Arc<str> = format!("ns-{}", 150 + run).into();
        let labels = [
            (NAMESPACE_NAME.into(), Arc::clone(&name)),
            ("team".into(), format!("team-{}", (run + 1) % 10).into()),
        ];
        store.put_namespace(Namespace { name, labels: labels.into(), audit: false })
    };
    rig.measure("a Namespace of another team", 20, relabelled, |delta, _| !delta.peers.is_empty());
}

fn other_peers(rig: &mut Rig) {
    let port = |_: &Scene, store: &mut Store, run| {
        store.put_policy(network_policy(7, 7, "app-14".into(), 8000 + run))
    };
    rig.measure("a NetworkPolicy: another port", 20, port, |delta, _| !delta.locals.is_empty());
    let nobody = |_: &Scene, store: &mut Store, run| {
        store.put_policy(network_policy(7, 7, format!("other-{run}"), 80))
    };
    rig.measure(
        "a NetworkPolicy: peers that nobody asked for, and that nobody is",
        20,
        nobody,
        |delta, run| delta.locals.is_empty() == (run > 0),
    );
    let app = |_: &Scene, store: &mut Store, run| {
        let namespaces = is(NAMESPACE_NAME, format!("ns-{}", 100 + run));
        let peer = pods(namespaces, is("app", format!("app-{}", run % 40)));
        store.put_policy(with_peer(peer))
    };
    rig.measure("a NetworkPolicy: other peers, that nobody asked for", 20, app, |delta, _| {
        !delta.locals.is_empty()
    });
    let cluster =
        |_: &Scene, store: &mut Store, run| store.put_cluster_policy(cluster_policy(0, 8000 + run));
    rig.measure("a changed ClusterNetworkPolicy", 9, cluster, |delta, _| {
        !delta.locals.is_empty() || !delta.rows.is_empty()
    });
}

fn other_blocks(rig: &mut Rig) {
    // `#` is another number each time.
    let blocks = [
        ("of strangers", "198.51.#.0/24"),
        ("of one pod", "10.0.#.17/32"),
        ("of 256 pods", "10.0.#.0/24"),
        ("of all pods", "10.#.0.0/8"),
    ];
    for (what, cidr) in blocks {
        let change = |_: &Scene, store: &mut Store, run: u16| {
            let cidr = cidr.replace('#', &run.to_string()).parse().expect("a network");
            store.put_policy(with_peer(Peer::Block(Block { cidr, except: Vec::new() })))
        };
        rig.measure(&format!("a NetworkPolicy: another ipBlock, {what}"), 9, change, |delta, _| {
            delta.networks.is_some()
        });
    }
    let one_of_many = |_: &Scene, store: &mut Store, run: u16| {
        let block = |number: u16| {
            let [high, low] = (number + run % 2).to_be_bytes();
            let cidr = format!("172.{high}.{low}.0/24").parse().expect("a network");
            Peer::Block(Block { cidr, except: Vec::new() })
        };
        let mut policy = with_peer(block(0));
        for rule in policy.ingress.iter_mut().flatten() {
            rule.peers = Some((0..5000).map(|number| block(2 * number)).collect());
        }
        store.put_policy(policy)
    };
    rig.measure("a NetworkPolicy: 5,000 other ipBlocks", 5, one_of_many, |delta, _| {
        delta.networks.is_some()
    });
    let beside = |_: &Scene, store: &mut Store, run: u16| {
        let cidr = format!("198.51.{run}.0/24").parse().expect("a network");
        let mut policy = with_peer(Peer::Block(Block { cidr, except: Vec::new() }));
        policy.key = ObjectKey::new("ns-7", "policy-8");
        store.put_policy(policy)
    };
    rig.measure("a NetworkPolicy: another ipBlock, beside 5,000", 9, beside, |delta, _| {
        delta.networks.is_some()
    });
}

fn other_nodes_and_ports(rig: &mut Rig) {
    let nodes = |_: &Scene, store: &mut Store, run| {
        let mut policy = cluster_policy(0, 80);
        let nodes = Peer::Nodes(is("zone", format!("zone-{}", run % 3)));
        policy.egress.push(ActionRule {
            name: "".into(),
            action: Action::Accept,
            on: Rule { peers: Some(vec![nodes]), ports: None },
        });
        store.put_cluster_policy(policy)
    };
    rig.measure("a ClusterNetworkPolicy: another selector of nodes", 9, nodes, |_, _| true);
    let named = |_: &Scene, store: &mut Store, run| {
        let mut policy = network_policy(7, 7, format!("app-{}", 10 + run), 80);
        let name = PortNumber::Named(format!("port-{}", run % 2).into());
        policy.egress = policy.ingress.take();
        for rule in policy.egress.iter_mut().flatten() {
            rule.ports = Some(vec![PortMatch { protocol: Protocol::Tcp, port: name.clone() }]);
        }
        store.put_policy(policy)
    };
    rig.measure("a NetworkPolicy: a named port in egress, of 250 pods", 9, named, |delta, _| {
        delta.peers.len() >= 250
    });
    let node = |_: &Scene, store: &mut Store, run| {
        let name = format!("more-{run}").into();
        let labels = [("zone".into(), "zone-1".into())].into();
        let addresses = vec![address(0x11_0000 + u32::from(run))];
        store.put_node(PeerNode { name, labels, addresses })
    };
    rig.measure("a new Node", 20, node, |_, _| true);
}

fn the_first_isolated_pod(rig: &Rig) {
    let mut store = rig.store.clone();
    let keys: Vec<_> = store.policies().map(|policy| policy.key.clone()).collect();
    keys.iter().for_each(|key| drop(store.remove_policy(key)));
    let names: Vec<_> = store.cluster_policies().map(|policy| Arc::clone(&policy.name)).collect();
    names.iter().for_each(|name| drop(store.remove_cluster_policy(name)));
    let mut all = Vec::new();
    for _ in 0..9 {
        let (mut store, mut compiler) = (store.clone(), Compiler::new("node-0"));
        assert!(compiler.update(&store, &Dirty::everything()).is_empty());
        let dirty = store.put_policy(network_policy(7, 7, "app-14".into(), 80));
        let started = Instant::now();
        let delta = compiler.update(&store, &dirty);
        all.push(started.elapsed());
        assert!(!delta.locals.is_empty() && delta.peers.len() == 250);
    }
    print("the first isolated pod", all);
}

/// The policy that is changed, with another peer.
fn with_peer(peer: Peer) -> NetworkPolicy {
    let mut policy = network_policy(7, 7, "app-14".into(), 80);
    policy.ingress.iter_mut().flatten().for_each(|rule| rule.peers = Some(vec![peer.clone()]));
    policy
}
