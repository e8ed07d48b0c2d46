//! What an operator chooses, on real packets: the log of drops, the audit, closed addresses, and
//! connections that are kept.

#[path = "../../../backends/nftables/tests/reader/mod.rs"]
mod reader;
#[expect(dead_code, reason = "what other tests need of it")]
mod world;

use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, SocketAddr};
use std::process::Command;
use std::thread::sleep;
use std::time::{Duration, Instant};

use nix::libc::NETLINK_NETFILTER;
use reader::{nft, open_when_free};
use shunt_cluster::{
    Cluster, ClusterSpec, Connection, EchoServer, Families, Network, NodeSpec, ProbeOptions,
    Protocol, probe,
};
use shunt_model::address;
use shunt_model::object::ObjectKey;
use shunt_netlink::Socket;
use shunt_netpolicy::compile::Compiler;
use shunt_netpolicy::object::{Direction, Namespace, PortNumber, Rule};
use shunt_netpolicy::selector::Labels;
use shunt_netpolicy::store::{Dirty, Store};
use shunt_netpolicy_nftables::drop_log::{DropLog, DroppedPacket};
use shunt_netpolicy_nftables::kernel::{
    Change, Count, Dropped, Options, PolicyTable, Report, dropped, switched,
};
use shunt_netpolicy_nftables::layout::{Denial, Switched, Variant};
use world::{block, pod, pods, policy, port};

/// How long is waited for an answer that is not expected. Nothing is sent again in that time.
const SILENCE: Duration = Duration::from_millis(900);
/// How long an answer may take where others have the CPU.
const PATIENCE: Duration = Duration::from_secs(30);
/// How long is waited for an answer on a connection that is not to go on.
const ENDED: Duration = Duration::from_secs(2);
const PORT: u16 = 8080;

/// One node with pods `a`, `b` and `c`; `b` may reach `a`, and `a` nobody.
struct World {
    cluster: Cluster,
    _servers: Vec<EchoServer>,
    store: Store,
    compiler: Compiler,
    table: PolicyTable,
}

impl World {
    fn new(options: Options) -> Self {
        Self::on(Network::Routed, options, None)
    }

    fn on(network: Network, options: Options, switched: Option<Switched>) -> Self {
        let cluster = Cluster::build(&ClusterSpec {
            families: Families::Dual,
            network,
            nodes: vec![NodeSpec::new("node-1", &["a", "b", "c"])],
            ..ClusterSpec::default()
        })
        .expect("a cluster: these tests need root");
        let serve = |host: &shunt_cluster::Host| {
            EchoServer::start(host.netns(), host.name(), &[PORT]).expect("a server")
        };
        let servers = cluster.pods().map(serve).collect();
        let netns = cluster.host("node-1").expect("a node").netns();
        let table = netns.run(|| open_when_free(|| PolicyTable::open(false))).with(options);
        let compiler = Compiler::new("node-1").counting(options.variant.counting);
        let mut world = Self { cluster, _servers: servers, store: Store::new(), compiler, table };
        let mut dirty = world.know("a");
        dirty.merge(world.know("b"));
        let peers = vec![pods(&[("app", "b")], true), block("192.0.2.0/24", &[])];
        let ports = [address::Protocol::Tcp, address::Protocol::Udp];
        let ports = ports.map(|protocol| port(protocol, PortNumber::Any)).into();
        let may = vec![Rule { peers: Some(peers), ports: Some(ports) }];
        let a = policy("x", "p", &[("app", "a")], Some(may), Some(Vec::new()));
        dirty.merge(world.store.put_policy(a));
        world.sync(&dirty, Change { switched, ..Change::default() });
        world
    }

    fn addresses(&self, host: &str) -> Vec<IpAddr> {
        self.cluster.host(host).expect("a host").addresses().to_vec()
    }

    /// A pod becomes known.
    fn know(&mut self, name: &str) -> Dirty {
        let addresses: Vec<_> = self.addresses(name).iter().map(ToString::to_string).collect();
        let addresses: Vec<_> = addresses.iter().map(String::as_str).collect();
        self.store.put_pod(pod("x", name, "node-1", &addresses, &[("app", name)]))
    }

    fn sync(&mut self, dirty: &Dirty, more: Change) -> Report {
        let at_network = self.cluster.network().node_addresses(Families::Dual, 1);
        let own = self.addresses("node-1").into_iter().chain(at_network).collect();
        let table = self.compiler.update(&self.store, dirty);
        self.table.sync(Change { table, own: Some(own), ..more }).expect("a sync")
    }

    /// Whether one is answered by another, over UDP.
    fn reaches(&self, from: &str, to: &str) -> bool {
        self.is_answered(Protocol::Udp, from, to, PATIENCE)
    }

    /// Whether it is not.
    fn is_denied(&self, from: &str, to: &str) -> bool {
        !self.is_answered(Protocol::Udp, from, to, SILENCE)
    }

    fn is_answered(&self, protocol: Protocol, from: &str, to: &str, within: Duration) -> bool {
        let netns = self.cluster.host(from).expect("a host").netns();
        let ask = |to| probe(netns, protocol, (to, PORT).into(), &ProbeOptions::within(within));
        let answers: BTreeSet<bool> =
            self.addresses(to).into_iter().map(|to| ask(to).is_answer()).collect();
        assert_eq!(answers.len(), 1, "both families alike");
        answers.contains(&true)
    }

    /// Another run of the daemon comes, with the same wishes.
    fn restart(&mut self, options: Options, switched: Switched) -> Report {
        let netns = self.cluster.host("node-1").expect("a node").netns();
        self.table = netns.run(|| PolicyTable::open(false)).expect("nftables").with(options);
        self.compiler = Compiler::new("node-1");
        self.sync(&Dirty::everything(), Change { switched: Some(switched), ..Change::default() })
    }

    /// What stock nft prints of all tables.
    fn listed(&self) -> String {
        let mut list = Command::new("nft");
        list.args(["list", "ruleset"]);
        let netns = self.cluster.host("node-1").expect("a node").netns();
        let listed = netns.run(move || list.output()).expect("nft");
        assert!(listed.status.success(), "{}", String::from_utf8_lossy(&listed.stderr));
        String::from_utf8(listed.stdout).expect("text")
    }

    fn dropped(&self) -> Dropped {
        let netns = self.cluster.host("node-1").expect("a node").netns();
        netns
            .run(|| dropped(&mut Socket::open(NETLINK_NETFILTER).expect("a socket")))
            .expect("counters")
    }

    fn listen(&self) -> DropLog {
        let netns = self.cluster.host("node-1").expect("a node").netns();
        netns.run(DropLog::open).expect("this kernel has NFLOG")
    }
}

/// What is logged: at least so many packets, and those that come within a second.
fn logged(log: &mut DropLog, fewest: usize) -> Vec<DroppedPacket> {
    let (mut packets, began) = (Vec::new(), Instant::now());
    loop {
        // What came in time is read also by who comes late.
        let is_over = began.elapsed() > Duration::from_secs(1);
        log.read(|packet| packets.push(packet)).expect("a log");
        if is_over && (packets.len() >= fewest || began.elapsed() > PATIENCE) {
            return packets;
        }
        sleep(Duration::from_millis(50));
    }
}

fn options(variant: Variant) -> Options {
    Options { variant, ..Options::default() }
}

#[test]
fn drops_are_logged_and_counted_by_direction() {
    let world = World::new(options(Variant { log: true, ..Variant::default() }));
    let mut log = world.listen();
    let netns = world.cluster.host("node-1").expect("a node").netns();
    assert!(netns.run(DropLog::open).is_err(), "one listener");
    assert!(world.reaches("b", "a"));
    assert!(world.is_denied("c", "a") && world.is_denied("a", "c"));
    let packets = logged(&mut log, 4);
    let of = |denial| packets.iter().filter(move |packet| packet.denial == denial);
    let ingress: Vec<_> = of(Denial::Policy(Direction::Ingress)).collect();
    for (source, destination) in world.addresses("c").iter().zip(world.addresses("a")) {
        let expected = |packet: &&&DroppedPacket| {
            (packet.source, packet.destination, packet.protocol) == (*source, destination, 17)
                && packet.ports.is_some_and(|(_, to)| to == PORT)
        };
        assert!(ingress.iter().any(|packet| expected(&packet)), "{packets:?}");
    }
    assert_eq!(of(Denial::Policy(Direction::Egress)).count(), 2, "{packets:?}");
    assert_eq!(world.dropped(), Dropped { ingress: 2, egress: 2, unknown: 0 });
}

#[test]
fn the_log_is_limited_in_the_kernel_and_the_counter_is_not() {
    let world = World::new(options(Variant { log: true, ..Variant::default() }));
    let mut log = world.listen();
    let sent = 500;
    let (to, from) = (world.addresses("a")[0], world.addresses("c")[0]);
    let began = Instant::now();
    world.cluster.host("c").expect("a pod").netns().run(move || {
        let socket = std::net::UdpSocket::bind((from, 0)).expect("a socket");
        (0..sent).for_each(|_| drop(socket.send_to(b"x", (to, PORT))));
    });
    // Ten a second, however long it took to send them.
    let most = 60 + 10 * began.elapsed().as_secs();
    let packets = logged(&mut log, 20).len();
    assert!((20..most).contains(&(packets as u64)), "{packets} of {sent} packets are logged");
    assert_eq!(world.dropped().ingress, sent);
}

#[test]
fn what_policies_decide_is_counted_and_kept_when_they_change_and_nft_reads_it() {
    let counting = Variant { counting: true, ..Variant::default() };
    let mut world = World::new(Options { keep_connections: true, ..options(counting) });
    assert!(world.reaches("b", "a"));
    assert!(world.is_denied("c", "a") && world.is_denied("a", "c"));
    let of = |world: &mut World| {
        let counted = world.table.counted().expect("counters");
        counted.iter().map(|(policy, count)| (policy.to_string(), *count)).collect::<Vec<_>>()
    };
    // Of both families: in from `b`; in from `c`, and out to it.
    let first = Count { accepted: 2, denied: 4 };
    assert_eq!(of(&mut world), [("x/p".to_owned(), first)]);
    let netns = world.cluster.host("node-1").expect("a node").netns();
    let held = nft(netns, &["list", "set", "inet", "shunt-policy", "denied_protocols"]);
    // Both directions deny the same by the same policy, so they share a row.
    assert!(held.contains("udp counter packets 4 bytes"), "{held}");

    // What it has decided stays counted when it decides otherwise, and with another policy beside it.
    let from_c = Rule { peers: Some(vec![pods(&[("app", "c")], true)]), ports: None };
    let q = policy("x", "q", &[("app", "a")], Some(vec![from_c]), None);
    let mut dirty = world.store.put_policy(q);
    dirty.merge(world.know("c"));
    world.sync(&dirty, Change::default());
    assert_eq!(of(&mut world), [("x/p".to_owned(), first)]);
    assert!(world.reaches("c", "a") && world.reaches("b", "a"));
    let more = Count { accepted: 4, denied: 4 };
    let other = Count { accepted: 2, denied: 0 };
    assert_eq!(of(&mut world), [("x/p".to_owned(), more), ("x/q".to_owned(), other)]);
    for name in ["p", "q"] {
        let dirty = world.store.remove_policy(&ObjectKey::new("x", name));
        world.sync(&dirty, Change::default());
    }
    // There is no table any more.
    assert_eq!(of(&mut world), [("x/p".to_owned(), more), ("x/q".to_owned(), other)]);
}

#[test]
fn in_an_audited_namespace_what_would_be_dropped_is_told_and_in_others_it_is() {
    let mut world = World::new(options(Variant { log: true, ..Variant::default() }));
    // `c` is in another namespace, and may reach and be reached by nobody.
    let addresses: Vec<_> = world.addresses("c").iter().map(ToString::to_string).collect();
    let addresses: Vec<_> = addresses.iter().map(String::as_str).collect();
    let mut dirty = world.store.put_pod(pod("y", "c", "node-1", &addresses, &[("app", "c")]));
    let closed = policy("y", "p", &[], Some(Vec::new()), None);
    dirty.merge(world.store.put_policy(closed));
    let audit = |world: &mut World, audit: bool, more: Dirty| {
        let (name, labels) = ("x".into(), Labels::default());
        let mut dirty = world.store.put_namespace(Namespace { name, labels, audit });
        dirty.merge(more);
        world.sync(&dirty, Change::default());
    };
    audit(&mut world, true, dirty);
    let mut log = world.listen();
    assert!(world.reaches("b", "a") && world.reaches("c", "a"), "in");
    assert!(world.reaches("a", "b"), "out");
    assert!(world.is_denied("b", "c") && world.is_denied("a", "c"), "not audited");
    let by = |packet: &DroppedPacket| (packet.denial, packet.audited);
    let denials: BTreeSet<_> = logged(&mut log, 10).iter().map(by).collect();
    let [ingress, egress] = [Direction::Ingress, Direction::Egress].map(Denial::Policy);
    assert_eq!(denials, [(ingress, true), (egress, true), (ingress, false)].into());
    // What is let through was not dropped.
    assert_eq!(world.dropped(), Dropped { ingress: 4, egress: 0, unknown: 0 });
    let netns = world.cluster.host("node-1").expect("a node").netns();
    let held = nft(netns, &["list", "set", "inet", "shunt-policy", "audited_v4"]);
    assert!(held.contains("10.77.1.11") && !held.contains("10.77.1.13"), "{held}");
    audit(&mut world, false, Dirty::default());
    assert!(world.reaches("b", "a") && world.is_denied("c", "a") && world.is_denied("a", "b"));
}

#[test]
fn an_audit_drops_nothing_and_tells_what_it_would() {
    let world = World::new(options(Variant { log: true, audit: true, ..Variant::default() }));
    let mut log = world.listen();
    assert!(world.reaches("b", "a") && world.reaches("c", "a") && world.reaches("a", "c"));
    let packets = logged(&mut log, 4);
    let denials: BTreeSet<_> = packets.iter().map(|packet| packet.denial).collect();
    assert_eq!(denials, Direction::ALL.map(Denial::Policy).into());
    assert!(packets.iter().all(|packet| packet.audited), "{packets:?}");
    let Dropped { ingress, egress, .. } = world.dropped();
    assert_eq!((ingress, egress), (2, 2));
}

#[test]
fn the_address_of_an_unknown_pod_is_closed_until_it_is_known() {
    let closed = Variant { log: true, closed: true, ..Variant::default() };
    let mut open = World::new(Options::default());
    assert!(open.reaches("b", "c") && open.reaches("c", "b"), "in mode open");
    let dirty = open.know("c");
    open.sync(&dirty, Change::default());

    let mut world = World::new(options(closed));
    let networks = ["10.77.1.0/24", "fd00:10:77:1::/64"];
    let networks = networks.map(|net| net.parse().expect("a network")).into();
    let known = |world: &World, names: &[&str]| -> BTreeMap<_, _> {
        let of = |name: &&str| world.addresses(name);
        names.iter().flat_map(of).map(|address| (address, true)).collect()
    };
    let (a_and_b, c) = (known(&world, &["a", "b"]), known(&world, &["c"]));
    let more = Change { pod_networks: Some(networks), known: a_and_b, ..Change::default() };
    world.sync(&Dirty::default(), more);
    let mut log = world.listen();
    assert!(world.is_denied("b", "c") && world.is_denied("c", "b"), "it is not known");
    assert!(world.reaches("b", "a"), "both are known");
    assert!(world.reaches("node-1", "c"), "its own node may");
    assert!(logged(&mut log, 4).iter().all(|packet| packet.denial == Denial::Unknown));
    assert_eq!(world.dropped().unknown, 4);
    let dirty = world.know("c");
    world.sync(&dirty, Change { known: c.clone(), ..Change::default() });
    assert!(world.reaches("b", "c") && world.reaches("c", "b"), "now it is known");
    // Gone, its address is closed again.
    let gone = c.into_keys().map(|address| (address, false)).collect();
    world.sync(&Dirty::default(), Change { known: gone, ..Change::default() });
    assert!(world.is_denied("b", "c"));
}

#[test]
fn connections_are_kept_where_that_is_chosen() {
    for keep_connections in [true, false] {
        let mut world = World::new(Options { keep_connections, ..Options::default() });
        let to = SocketAddr::new(world.addresses("a")[0], PORT);
        let netns = world.cluster.host("b").expect("a pod").netns();
        let patience = ProbeOptions::within(PATIENCE);
        let mut connection = Connection::open(netns, to, &patience).expect("a connection");
        connection.exchange("before").expect("an answer");
        let nobody = policy("x", "p", &[("app", "a")], Some(Vec::new()), Some(Vec::new()));
        let dirty = world.store.put_policy(nobody);
        world.sync(&dirty, Change::default());
        connection.wait(if keep_connections { PATIENCE } else { ENDED });
        assert_eq!(connection.exchange("after").is_ok(), keep_connections);
        assert!(world.is_denied("b", "a"), "a new one is not allowed");
    }
}

/// Pods on one bridge, where no hook of IP sees what they say to one another. What this kernel can is tried, and what every
/// kernel can that has the family `bridge`.
#[test]
fn what_is_switched_is_judged_on_the_bridge() {
    let possible = switched().expect("nftables");
    let ways: BTreeSet<_> = possible.into_iter().chain([Switched::FirstOfTcp]).collect();
    for way in ways {
        let options = options(Variant { log: true, ..Variant::default() });
        let mut world = World::on(Network::BridgeUnseen, options, Some(way));
        let mut log = world.listen();
        let tcp = |world: &World, from, to| world.is_answered(Protocol::Tcp, from, to, PATIENCE);
        let no_tcp = |world: &World, from, to| !world.is_answered(Protocol::Tcp, from, to, SILENCE);
        assert!(
            tcp(&world, "b", "a") && tcp(&world, "b", "c") && tcp(&world, "c", "b"),
            "{way:?}: it is allowed"
        );
        assert!(
            no_tcp(&world, "c", "a") && no_tcp(&world, "a", "b"),
            "{way:?}: a new connection is not"
        );
        assert!(tcp(&world, "node-1", "a"), "{way:?}: from its own node, which is routed");
        assert!(world.reaches("b", "a"));
        // Where connections are not tracked an answer looks like a question.
        let tracked = way == Switched::Tracked;
        assert!(if tracked { world.is_denied("c", "a") } else { world.reaches("c", "a") });
        let denials: BTreeSet<_> = logged(&mut log, 4).iter().map(|packet| packet.denial).collect();
        assert_eq!(denials, Direction::ALL.map(Denial::Policy).into());
        assert!(world.dropped().ingress >= 2 && world.dropped().egress >= 2);

        let listed = world.listed();
        assert!(listed.contains("table bridge shunt-policy"), "{listed}");
        let report = world.restart(options, way);
        assert_eq!(
            (report.transactions, report.rebuilt),
            (0, None),
            "{way:?}: a restart writes nothing"
        );
        assert_eq!(world.listed(), listed);
        let nobody = policy("x", "p", &[("app", "a")], Some(Vec::new()), Some(Vec::new()));
        let to = SocketAddr::new(world.addresses("a")[0], PORT);
        let netns = world.cluster.host("b").expect("a pod").netns();
        let patience = ProbeOptions::within(PATIENCE);
        let mut live = Connection::open(netns, to, &patience).expect("a connection");
        live.exchange("before").expect("an answer");
        let dirty = world.store.put_policy(nobody);
        let report = world.sync(&dirty, Change::default());
        assert_eq!(report.rebuilt, None, "{way:?}: a change is a few elements in both tables");
        assert!(no_tcp(&world, "b", "a"), "{way:?}: not any more");
        live.wait(if tracked { ENDED } else { PATIENCE });
        assert_eq!(live.exchange("after").is_err(), tracked, "{way:?}: what has begun");

        let dirty = world.store.remove_policy(&ObjectKey::new("x", "p"));
        world.sync(&dirty, Change::default());
        assert!(!world.listed().contains("shunt-policy"), "nobody is isolated: no table is left");
        assert!(tcp(&world, "c", "a"));
    }
}
