//! Random clusters and random policies on real kernels: what packets do is what the oracle and the
//! compiled table say. And live connections.

mod world;

use std::collections::BTreeMap;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::thread;
use std::time::{Duration, Instant};

use ipnet::IpNet;
use shunt_cluster::{
    Cluster, ClusterSpec, Connection, EchoServer, Families, NodeSpec, Outcome, ProbeOptions,
    Protocol, probe,
};
use shunt_model::address;
use shunt_model::object::ObjectKey;
use shunt_netpolicy::cluster::{Action, ClusterNetworkPolicy, PeerNode, Tier};
use shunt_netpolicy::compile::Compiler;
use shunt_netpolicy::object::{Direction, NetworkPolicy, Peer, PortNumber, Rule};
use shunt_netpolicy::oracle;
use shunt_netpolicy::selector::Selector;
use shunt_netpolicy::store::{Dirty, Store};
use shunt_netpolicy::table::{Packet, Verdict};
use shunt_netpolicy_nftables::kernel::{Change, Count, Options, PolicyCounts, PolicyTable};
use shunt_netpolicy_nftables::layout::Variant;
use shunt_netpolicy_nftables::live::SETTLE;
use shunt_netpolicy_nftables::name::SetId;
use world::{block, cluster_policy, pod, pods, policy, port, selector};

const NODES: [&str; 2] = ["node-1", "node-2"];
const PODS: [(&str, &[&str]); 2] = [("node-1", &["a", "b", "c"]), ("node-2", &["d", "e"])];
const PORTS: [u16; 2] = [8080, 8081];
/// How long silence lasts that counts as silence.
const SILENCE: Duration = Duration::from_millis(400);

struct World {
    cluster: Cluster,
    _servers: Vec<EchoServer>,
    store: Store,
    nodes: BTreeMap<&'static str, (Compiler, PolicyTable)>,
}

impl World {
    fn new() -> Self {
        Self::with(Options::default())
    }

    fn with(options: Options) -> Self {
        let cluster = Cluster::build(&ClusterSpec {
            families: Families::Dual,
            nodes: PODS.iter().map(|(node, pods)| NodeSpec::new(node, pods)).collect(),
            clients: vec!["client".to_owned()],
            ..ClusterSpec::default()
        })
        .expect("a cluster: these tests need root");
        let client = cluster.host("client").expect("the client");
        for (node, network) in [
            ("node-1", "10.77.1.0/24"),
            ("node-2", "10.77.2.0/24"),
            ("node-1", "fd00:10:77:1::/64"),
            ("node-2", "fd00:10:77:2::/64"),
        ] {
            let network: IpNet = network.parse().expect("a network");
            let via = cluster.host(node).expect("a node").addresses().iter();
            let via = via.copied().find(|via| via.is_ipv4() == network.addr().is_ipv4());
            client.add_route(network, via.expect("an address")).expect("a route");
        }
        let serve = |host: &shunt_cluster::Host| {
            EchoServer::start(host.netns(), host.name(), &PORTS).expect("a server")
        };
        let nodes = NODES.iter().map(|node| cluster.host(node).expect("a node"));
        let servers = cluster.pods().chain(nodes).map(serve).collect();
        let open = |node: &'static str| {
            let netns = cluster.host(node).expect("a node").netns();
            let table = netns.run(|| PolicyTable::open(true)).expect("nftables").with(options);
            (node, (Compiler::new(node).counting(options.variant.counting), table))
        };
        let nodes = NODES.map(open).into();
        let mut store = Store::new();
        for node in NODES {
            let own = cluster.host(node).expect("a node").addresses().to_vec();
            store.put_machine(&node.into(), own.iter().copied().collect());
            let labels = [("node".into(), node.into())].into();
            store.put_node(PeerNode { name: node.into(), labels, addresses: own });
        }
        Self { cluster, _servers: servers, store, nodes }
    }

    fn addresses(&self, host: &str) -> Vec<IpAddr> {
        self.cluster.host(host).expect("a host").addresses().to_vec()
    }

    /// Gives a pod its labels.
    fn label(&mut self, node: &str, name: &str, namespace: &str, labels: &[(&str, &str)]) -> Dirty {
        let addresses: Vec<_> = self.addresses(name).iter().map(ToString::to_string).collect();
        let addresses: Vec<_> = addresses.iter().map(String::as_str).collect();
        let old = self.store.pods().find(|pod| *pod.key.name == *name).map(|pod| pod.key.clone());
        let mut dirty = Dirty::default();
        if let Some(key) = old.filter(|key| *key.namespace != *namespace) {
            dirty.merge(self.store.remove_pod(&key));
        }
        dirty.merge(self.store.put_pod(pod(namespace, name, node, &addresses, labels)));
        dirty
    }

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
            thread::sleep(at.saturating_duration_since(now).min(SILENCE));
            table.tend(Instant::now()).expect("the kernel takes it");
        }
        began.elapsed()
    }

    fn sync(&mut self, dirty: &Dirty) {
        for (node, (compiler, table)) in &mut self.nodes {
            let own = self.cluster.host(node).expect("a node").addresses().iter().copied();
            let change = Change {
                table: compiler.update(&self.store, dirty),
                own: Some(own.collect()),
                ..Change::default()
            };
            table.sync(change).unwrap_or_else(|error| panic!("{node}: {error}: {error:?}"));
        }
    }

    /// What every node on the way says: the oracle and the table, which must agree.
    fn expected(&self, packet: &Packet) -> bool {
        self.nodes.iter().all(|(node, (compiler, _))| {
            let said = oracle::verdict(&self.store, node, packet);
            assert_eq!(compiler.table().verdict(packet), said, "{node}: {packet:?}");
            said == Verdict::Accept
        })
    }

    /// What each node counts for each policy when these packets are sent.
    fn decided<'a>(
        &self,
        packets: impl Iterator<Item = &'a Packet>,
    ) -> BTreeMap<&'static str, PolicyCounts> {
        let mut counts: BTreeMap<&str, PolicyCounts> =
            NODES.map(|node| (node, PolicyCounts::new())).into();
        for packet in packets.filter(|packet| packet.source != packet.destination) {
            for direction in [Direction::Egress, Direction::Ingress] {
                let of = |(node, (compiler, _)): (&&'static str, &(Compiler, PolicyTable))| {
                    let own = self.store.machine(node).expect("a machine");
                    let table = compiler.table();
                    let to_node = own.contains(&packet.destination)
                        && !table.locals.get(&packet.source).is_some_and(|local| local.to_node);
                    let decision = table.decision(direction, packet).filter(|_| !to_node)?;
                    Some((*node, decision.clone()))
                };
                let Some((node, decision)) = self.nodes.iter().find_map(of) else { continue };
                for policy in decision.by.iter() {
                    let count = match decision.accepts {
                        true => Count { accepted: 1, denied: 0 },
                        false => Count { accepted: 0, denied: 1 },
                    };
                    let of_node = counts.get_mut(node).expect("a node");
                    *of_node.entry(Arc::clone(policy)).or_default() += count;
                }
                if !decision.accepts {
                    break;
                }
            }
        }
        counts
    }

    /// Tries every pair of hosts, protocol and port; returns how many passed and how many did not.
    fn check(&self) -> (usize, usize) {
        let (mut passed, mut dropped) = (0, 0);
        for (packet, outcome) in self.probed() {
            let expected = self.expected(&packet);
            let fits = match &outcome {
                Outcome::Answer { .. } => expected,
                Outcome::TimedOut => !expected,
                _ => false,
            };
            assert!(fits, "{packet:?}: {outcome}, expected to pass: {expected}\n{:#?}", self.store);
            if expected { passed += 1 } else { dropped += 1 }
        }
        (passed, dropped)
    }

    fn probed(&self) -> Vec<(Packet, Outcome)> {
        let pods = || PODS.iter().flat_map(|(_, pods)| pods.iter().copied());
        let mut probes = Vec::new();
        for (from, to) in pods()
            .flat_map(|from| pods().chain(NODES).map(move |to| (from, to)))
            .chain(pods().map(|to| ("client", to)))
        {
            for (source, destination) in self.addresses(from).into_iter().zip(self.addresses(to)) {
                for (protocol, port) in
                    [Protocol::Tcp, Protocol::Udp].into_iter().flat_map(|p| PORTS.map(|n| (p, n)))
                {
                    probes.push((from, source, destination, protocol, port));
                }
            }
        }
        thread::scope(|scope| {
            let ask = |(from, source, destination, protocol, port)| {
                scope.spawn(move || {
                    let netns = self.cluster.host(from).expect("a host").netns();
                    let to = SocketAddr::new(destination, port);
                    let outcome = probe(netns, protocol, to, &ProbeOptions::within(SILENCE));
                    let number = match protocol {
                        Protocol::Tcp => address::Protocol::Tcp,
                        Protocol::Udp => address::Protocol::Udp,
                        Protocol::Sctp => address::Protocol::Sctp,
                    };
                    let packet = Packet {
                        source,
                        destination,
                        protocol: number.number(),
                        port,
                        from_node: false,
                    };
                    (packet, outcome)
                })
            };
            let threads: Vec<_> = probes.into_iter().map(ask).collect();
            threads.into_iter().map(|thread| thread.join().expect("a probe")).collect()
        })
    }
}

/// Numbers that are the same in every run.
struct Dice(u64);

impl Dice {
    fn roll(&mut self, sides: usize) -> usize {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        usize::try_from(self.0 % sides as u64).unwrap_or(0)
    }

    fn pick<T: Copy>(&mut self, from: &[T]) -> T {
        from[self.roll(from.len())]
    }

    fn labels(&mut self) -> Vec<(&'static str, &'static str)> {
        const LABELS: [(&str, &str); 4] = [("app", "web"), ("app", "db"), ("tier", "x"), ("", "")];
        let one = self.pick(&LABELS);
        if one.0.is_empty() { Vec::new() } else { vec![one] }
    }

    fn peer(&mut self) -> Peer {
        const BLOCKS: [(&str, &[&str]); 6] = [
            ("10.77.0.0/16", &["10.77.1.12/31"]),
            ("10.77.2.11/32", &[]),
            ("192.168.77.0/24", &[]),
            ("0.0.0.0/0", &["10.77.1.0/24"]),
            ("fd00:10:77:1::/64", &["fd00:10:77:1::11/128"]),
            ("::/0", &["fd00:77::/64"]),
        ];
        match self.roll(3) {
            0 => pods(&self.labels(), true),
            1 => pods(&self.labels(), false),
            _ => {
                let (cidr, except) = self.pick(&BLOCKS);
                block(cidr, except)
            }
        }
    }

    fn rule(&mut self) -> Rule {
        let peers =
            (self.roll(5) > 0).then(|| (0..1 + self.roll(2)).map(|_| self.peer()).collect());
        let ports = (self.roll(3) > 0).then(|| {
            let protocol = self.pick(&[
                address::Protocol::Tcp,
                address::Protocol::Udp,
                address::Protocol::Sctp,
            ]);
            let number = match self.roll(4) {
                0 => PortNumber::Any,
                1 => PortNumber::Range(8000, 8080),
                2 => PortNumber::Range(8081, 8081),
                _ => PortNumber::Named("http".into()),
            };
            vec![port(protocol, number)]
        });
        Rule { peers, ports }
    }

    fn cluster_rules(&mut self) -> Vec<(Action, Rule)> {
        let mut rules = Vec::new();
        for _ in 0..self.roll(4) {
            let mut rule = self.rule();
            let node = self.roll(4) == 0;
            for peer in rule.peers.iter_mut().flatten() {
                match peer {
                    Peer::Pods { namespaces, .. } => *namespaces = Some(Selector::default()),
                    Peer::Block(_) if node => {
                        *peer = Peer::Nodes(selector(&[("node", self.pick(&NODES))]));
                    }
                    Peer::Block(_) | Peer::Nodes(_) | Peer::Domain(_) => {}
                }
            }
            rules.push((self.pick(&[Action::Accept, Action::Deny, Action::Pass]), rule));
        }
        rules
    }

    fn cluster_policy(&mut self) -> ClusterNetworkPolicy {
        let (name, labels) = (self.pick(&["p", "q", "r"]), self.labels());
        let place = (self.pick(&Tier::ALL), self.pick(&[1, 2]));
        let (ingress, egress) = (self.cluster_rules(), self.cluster_rules());
        cluster_policy(name, place, &labels, ingress, egress)
    }

    fn rules(&mut self) -> Option<Vec<Rule>> {
        (self.roll(3) > 0).then(|| (0..self.roll(3)).map(|_| self.rule()).collect())
    }

    fn policy(&mut self) -> NetworkPolicy {
        let (namespace, name) = (self.pick(&["x", "y"]), self.pick(&["p", "q", "r"]));
        let (labels, ingress, egress) = (self.labels(), self.rules(), self.rules());
        policy(namespace, name, &labels, ingress, egress)
    }
}

/// Changes something of everything.
fn change(world: &mut World, dice: &mut Dice, first: bool) {
    let mut dirty = Dirty::default();
    for (node, pods) in PODS {
        for name in pods {
            if first || dice.roll(3) == 0 {
                let (namespace, labels) = (dice.pick(&["x", "y"]), dice.labels());
                dirty.merge(world.label(node, name, namespace, &labels));
            }
        }
    }
    for _ in 0..2 {
        dirty.merge(world.store.put_policy(dice.policy()));
    }
    let key = ObjectKey::new(dice.pick(&["x", "y"]), dice.pick(&["p", "q", "r"]));
    dirty.merge(world.store.remove_policy(&key));
    dirty.merge(world.store.put_cluster_policy(dice.cluster_policy()));
    if dice.roll(3) == 0 {
        dirty.merge(world.store.remove_cluster_policy(dice.pick(&["p", "q", "r"])));
    }
    world.sync(&dirty);
}

/// Each probe is one connection. Worlds of their own, as in one of them a port may be that of an earlier connection.
#[test]
fn the_kernel_counts_for_each_policy_what_the_oracle_says_it_decides() {
    let mut dice = Dice(0x5eed_4321);
    let (mut accepted, mut denied) = (0, 0);
    for _ in 0..6 {
        let variant = Variant { counting: true, ..Variant::default() };
        let mut world = World::with(Options { variant, keep_connections: true });
        for first in [true, false] {
            change(&mut world, &mut dice, first);
        }
        let probed = world.probed();
        let expected = world.decided(probed.iter().map(|(packet, _)| packet));
        for (node, (_, table)) in &mut world.nodes {
            let mut counted = table.counted().expect("counters");
            counted.retain(|_, count| *count != Count::default());
            assert_eq!(Some(&counted), expected.get(node), "{node}: {:#?}", world.store);
            accepted += counted.values().map(|count| count.accepted).sum::<u64>();
            denied += counted.values().map(|count| count.denied).sum::<u64>();
        }
    }
    println!("{accepted} accepted, {denied} denied, as expected");
    assert!(accepted > 50 && denied > 100, "{accepted} accepted, {denied} denied");
}

#[test]
fn random_policies_do_to_packets_what_the_oracle_says() {
    let mut world = World::new();
    let mut dice = Dice(0x5eed_1234);
    let (mut passed, mut dropped) = (0, 0);
    for round in 0..12 {
        change(&mut world, &mut dice, round == 0);
        let found = world.check();
        passed += found.0;
        dropped += found.1;
    }
    println!("{passed} probes passed, {dropped} were dropped, all as expected");
    assert!(passed > 100 && dropped > 100, "{passed} passed, {dropped} dropped");
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

#[test]
fn live_connections_obey_a_changed_policy() {
    let (mut world, mut dirty) = named_pods();
    dirty.merge(world.store.put_policy(policy("x", "p", &[("app", "a")], from(&["b", "d"]), None)));
    world.sync(&dirty);
    let to = world.addresses("a");
    let open = |host: &str, to: IpAddr| {
        let netns = world.cluster.host(host).expect("a host").netns();
        let options = ProbeOptions::within(Duration::from_secs(2));
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
        assert!(connection.exchange("after").is_err(), "it is not allowed any more");
    }
    // To the node itself, which only a ClusterNetworkPolicy forbids.
    let nodes = Rule { peers: Some(vec![Peer::Nodes(Selector::default())]), ports: None };
    let deny = vec![(Action::Deny, nodes)];
    let deny = cluster_policy("no-nodes", (Tier::Baseline, 0), &[("app", "b")], vec![], deny);
    let dirty = world.store.put_cluster_policy(deny);
    world.sync(&dirty);
    for connection in &mut to_node {
        assert!(connection.exchange("after").is_err(), "it is not allowed any more");
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
        let options = ProbeOptions::within(Duration::from_secs(2));
        Connection::open(netns, SocketAddr::new(*to, 8080), &options).expect("a connection")
    };
    let mut kept: Vec<_> = to.iter().map(|to| open("b", to)).collect();
    let mut cut: Vec<_> = to.iter().map(|to| open("d", to)).collect();
    world.sync(&dirty);
    assert_eq!(world.watched("node-1"), 2, "at the first start nothing is known");
    let took = world.tend("node-1", SETTLE * 2);
    assert!(took >= SETTLE - SILENCE && world.watched("node-1") == 0, "{took:?}");
    for connection in kept.iter_mut().chain(&mut cut) {
        connection.exchange("unwatched").expect("an answer");
    }

    let dirty = world.store.put_policy(policy("x", "p", &[("app", "a")], from(&["b"]), None));
    world.sync(&dirty);
    assert_eq!(world.watched("node-1"), 2);
    world.tend("node-1", SETTLE + SILENCE * 3);
    assert_eq!(world.watched("node-1"), 2, "they have connections that are not allowed");
    for connection in &mut cut {
        assert!(connection.exchange("not any more").is_err());
    }
    for connection in &mut kept {
        connection.exchange("beside them").expect("what is still allowed goes on");
    }

    let dirty = world.store.put_policy(both);
    world.sync(&dirty);
    world.tend("node-1", SETTLE * 3);
    assert_eq!(world.watched("node-1"), 0, "all is allowed again");
    for connection in &mut kept {
        connection.exchange("at last").expect("an answer");
    }
}
