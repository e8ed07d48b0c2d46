//! The backend on a real kernel, read by stock nft.

mod common;
mod listing;
mod reader;
mod source_ranges;

use std::fs;
use std::io::{ErrorKind, Write as _};
use std::net::{TcpListener, TcpStream};
use std::process::{Command, Stdio};
use std::time::Duration;

use common::{balanced, delta, node, service};
use listing::assert_same;
use reader::{nft, open_when_free};
use shunt_cluster::{Cluster, ClusterSpec, Netns, NodeSpec};
use std::sync::Arc;

use shunt_model::address::Endpoint;
use shunt_model::balancing::{Affinity, AffinityScope, Balancing, Method};
use shunt_model::interface::InterfacePattern;
use shunt_model::object::ObjectKey;
use shunt_model::plan::{Action, NodePlan, Plan, PlanDelta, ServicePlan};
use shunt_nftables::counting::Counting;
use shunt_nftables::forwarding::Forwarding;
use shunt_nftables::installed::Installed;
use shunt_nftables::kernel::{Nftables, Options, Report, inventory};
use shunt_nftables::text;

const OWNER: Options =
    Options { owner: true, forwarding: Forwarding::Translate, counting: Counting::Nothing };
const NO_OWNER: Options = Options { owner: false, ..OWNER };

/// A plan of these Services.
fn plan_of(services: impl IntoIterator<Item = (ObjectKey, Arc<ServicePlan>)>) -> Plan {
    Plan {
        node: node(),
        services: services.into_iter().collect::<std::collections::BTreeMap<_, _>>(),
    }
}

/// A Service that is drawn from by a hash.
fn hashed(n: u16, method: Method) -> (ObjectKey, Arc<ServicePlan>) {
    balanced(service(n, &[1, 2, 3]), Balancing { method, ..Balancing::default() }, false)
}

/// A Service that remembers its clients.
fn sticky(
    n: u16,
    scope: AffinityScope,
    method: Method,
    seconds: u32,
) -> (ObjectKey, Arc<ServicePlan>) {
    let affinity = Some(Affinity { seconds, scope });
    let balancing = Balancing { affinity, method, ..Balancing::default() };
    balanced(service(n, &[1, 2, 3]), balancing, false)
}

struct Node {
    netns: Netns,
}

impl Node {
    fn new() -> Self {
        Self { netns: Netns::new("node").expect("a network namespace: these tests need root") }
    }

    fn open(&self, options: Options) -> Nftables {
        self.netns.run(move || open_when_free(|| Nftables::open(options)))
    }

    /// What our own reader finds.
    #[track_caller]
    fn assert_holds(&self, plan: &Plan) {
        let read = self.netns.run(inventory).expect("an inventory");
        assert!(read.table.expect("a table").fit);
        let mut held: Vec<_> = read.installed.elements().map(|e| (e.set, e.key)).collect();
        let expected = text::fresh_for(plan, read.installed.forwarding);
        let mut wanted: Vec<_> = expected.elements().map(|e| (e.set, e.key)).collect();
        held.sort_unstable();
        wanted.sort_unstable();
        assert_eq!(held, wanted);
        assert_eq!(read.installed.networks, expected.networks);
        for (place, target) in &expected.frontends {
            let held = &read.installed.frontends[place];
            assert_eq!(held.verdict, target.verdict, "{place:?}");
            assert_eq!(held.slots.sorted(), target.slots.sorted(), "{place:?}");
        }
    }
}

fn all(plan: &Plan) -> PlanDelta {
    let mut all = delta(&Plan::default(), plan);
    all.node = Some(Arc::clone(&plan.node));
    all
}

#[track_caller]
fn sync(nftables: &mut Nftables, delta: PlanDelta) -> Report {
    nftables.sync(delta).unwrap_or_else(|error| panic!("{error}: {error:?}"))
}

#[test]
fn the_kernel_holds_what_the_text_says_and_nft_reads_both_alike() {
    for forwarding in Forwarding::ALL {
        assert_listing_is_script(Options { forwarding, ..NO_OWNER });
    }
    for counting in [Counting::Frontends, Counting::Endpoints] {
        assert_listing_is_script(Options { counting, ..NO_OWNER });
    }
}

#[track_caller]
fn assert_listing_is_script(options: Options) {
    let mut plan = plan_of([
        service(1, &[1, 2, 3]),
        service(2, &[]),
        service(3, &[9]),
        service(4, &[2, 7]),
        service(9, &[]),
        service(2001, &[4, 5]),
        balanced(service(4, &[2, 3, 4]), Balancing::default(), true),
        hashed(5, Method::HashAddress),
        hashed(6, Method::HashConnection),
        sticky(9, AffinityScope::Port, Method::Random, 10_800),
        sticky(14, AffinityScope::Service, Method::HashAddress, 90_061),
    ]);
    let interfaces = Some(InterfacePattern::Prefix("cali".parse().expect("a name")));
    plan.node = Arc::new(NodePlan { local_interfaces: interfaces, ..(*plan.node).clone() });
    let node = Node::new();
    let mut nftables = node.open(options);
    sync(&mut nftables, all(&plan));
    let ours = nft(&node.netns, &["list", "ruleset"]);

    let other = Node::new();
    let fresh = text::fresh_for(&plan, options.forwarding);
    let script = text::render_installed(&Installed { counting: options.counting, ..fresh });
    let fed = script.clone();
    other.netns.run(move || {
        let mut nft =
            Command::new("nft").args(["-f", "-"]).stdin(Stdio::piped()).spawn().expect("nft");
        nft.stdin.take().expect("stdin").write_all(fed.as_bytes()).expect("a script");
        assert!(nft.wait().expect("an end").success(), "{fed}");
    });
    assert_same(&ours, &nft(&other.netns, &["list", "ruleset"]));
    // The script says of a set that it counts, the kernel of each element.
    let plain = |listing: &str| listing.replace(" counter packets 0 bytes 0", "");
    assert_same(&plain(&ours), &plain(&script));
    node.assert_holds(&plan);
}

#[test]
fn an_owned_table_outlives_us_is_adopted_and_nothing_is_written() {
    let plan = plan_of((1..200).map(|n| service(n, &[1, 2, 3])));
    let node = Node::new();
    let mut first = node.open(OWNER);
    sync(&mut first, all(&plan));
    let table = node.netns.run(inventory).expect("an inventory").table.expect("a table");
    assert!(table.owned && table.owner != 0, "kernel 6.9 and later: {table:?}");
    // `nft flush ruleset` passes over what has an owner.
    nft(&node.netns, &["flush", "ruleset"]);
    node.assert_holds(&plan);
    assert!(node.netns.run(|| Nftables::open(OWNER)).is_err(), "a second owner is refused");
    drop(first);
    let before = nft(&node.netns, &["list", "ruleset"]);
    assert!(before.contains("192.168.77.11"), "{before}");
    let mut second = node.open(OWNER);
    let report = sync(&mut second, all(&plan));
    assert!(report.read_back && report.rebuilt.is_none());
    assert_eq!(report.operations, 0);
    let table = node.netns.run(inventory).expect("an inventory").table.expect("a table");
    assert!(table.owned && table.owner != 0, "claimed again: {table:?}");
    nft(&node.netns, &["flush", "ruleset"]);
    node.assert_holds(&plan);
}

#[test]
fn changes_write_only_what_changes() {
    let mut plan = plan_of((1..50).map(|n| service(n, &[1, 2, 3])));
    let node = Node::new();
    let mut nftables = node.open(OWNER);
    sync(&mut nftables, all(&plan));
    let mut step = |services: Vec<(u16, Option<&[u16]>)>, expected: usize| {
        let old = plan.clone();
        for (n, endpoints) in services {
            let (key, new) = service(n, endpoints.unwrap_or_default());
            match endpoints {
                Some(_) => plan.services.insert(key, new),
                None => plan.services.remove(&key),
            };
        }
        let report = sync(&mut nftables, delta(&old, &plan));
        assert!(!report.read_back);
        assert_eq!(report.operations, expected);
        node.assert_holds(&plan);
    };
    // One endpoint replaced: an exchange (two operations) in each of four frontends; the set of
    // hairpins has its first two, and is not concerned.
    step(vec![(7, Some(&[1, 2, 4]))], 8);
    // One more, and the chain has room for it: a slot in each.
    step(vec![(7, Some(&[1, 2, 4, 5]))], 4);
    // One more, and it has not: also an exchanged verdict for each, and four new chains.
    step(vec![(7, Some(&[1, 2, 4, 5, 6]))], 4 * 3 + 4);
    // Two fewer, the first among them: its slot goes to the last (2), verdict (2), two slots (2);
    // one hairpin goes, one comes.
    step(vec![(7, Some(&[2, 4, 5]))], 4 * 6 + 2);
    // None left: refused. Three slots go, the verdict is exchanged; both hairpins go.
    step(vec![(7, Some(&[]))], 4 * 5 + 2);
    step(vec![(8, None)], 4 * 4 + 2 + 2 + 2);
    step(vec![(8, Some(&[1, 2, 3]))], 4 * 4 + 2 + 2 + 2);
    step(vec![], 0);
}

#[test]
fn each_transaction_is_a_beat() {
    let node = Node::new();
    let mut nftables = node.open(OWNER);
    let pulse = nftables.pulse();
    // More than one transaction takes.
    let plan = plan_of((0..8000).map(|n| service(n, &[1, 2, 3])));
    let report = sync(&mut nftables, all(&plan));
    assert!(report.transactions > 3, "{report:?}");
    assert_eq!(pulse.beats(), report.transactions as u64);
}

#[test]
fn sets_grow_in_one_transaction() {
    let plan = plan_of([service(1, &[1, 2])]);
    let node = Node::new();
    let mut nftables = node.open(OWNER);
    sync(&mut nftables, all(&plan));
    let large = plan_of((1..900).map(|n| service(n, &[1, 2])));
    let report = sync(&mut nftables, delta(&plan, &large));
    assert_eq!(report.rebuilt, Some("a set had to grow"));
    assert_eq!(report.transactions, 1);
    node.assert_holds(&large);
    let report = sync(&mut nftables, delta(&large, &plan));
    assert!(report.rebuilt.is_none());
    node.assert_holds(&plan);
    nftables.forget();
    let report = sync(&mut nftables, PlanDelta::default());
    assert_eq!((report.read_back, report.operations), (true, 0));
}

#[test]
fn drift_is_seen_and_repaired() {
    let plan = plan_of((1..20).map(|n| service(n, &[1, 2, 3])));
    let node = Node::new();
    let mut nftables = node.open(NO_OWNER);
    sync(&mut nftables, all(&plan));
    assert!(!nftables.foreign_change().expect("an answer"), "our own writes are not foreign");
    // Others write elsewhere: nothing to do, and the next change goes through.
    nft(&node.netns, &["add", "table", "inet", "theirs"]);
    assert!(!nftables.foreign_change().expect("an answer"));
    nft(&node.netns, &["add", "chain", "inet", "theirs", "x"]);
    let changed = plan_of((1..20).map(|n| service(n, if n == 4 { &[1] } else { &[1, 2, 3] })));
    let report = sync(&mut nftables, delta(&plan, &changed));
    assert!(!report.read_back);
    node.assert_holds(&changed);
    for damage in [
        &["flush", "ruleset"][..],
        &["flush", "chain", "inet", "shunt", "services_v4"],
        &["add", "rule", "inet", "shunt", "services_v4", "drop"],
        &["add", "chain", "inet", "shunt", "extra"],
    ] {
        nft(&node.netns, damage);
        assert!(nftables.foreign_change().expect("an answer"), "{damage:?}");
        nftables.forget();
        let report = sync(&mut nftables, PlanDelta::default());
        assert!(report.rebuilt.is_some(), "{damage:?}");
        node.assert_holds(&changed);
    }
    // Elements are counted on kernels that tell (this one does), and compared at each verification.
    let damage: [&[&str]; 3] = [
        &["delete", "element", "inet", "shunt", "frontends_v4", "{ 10.96.0.5 . tcp . 80 }"],
        &["add", "element", "inet", "shunt", "cluster_ips_v4", "{ 1.2.3.4 }"],
        &["add", "element", "inet", "shunt", "frontends_v4", "{ 1.2.3.4 . tcp . 9 : accept }"],
    ];
    for damage in damage {
        nft(&node.netns, damage);
        assert!(nftables.foreign_change().expect("an answer"), "{damage:?}");
        nftables.forget();
        let report = sync(&mut nftables, PlanDelta::default());
        assert_eq!((report.rebuilt, report.operations), (None, 1), "{damage:?}");
        node.assert_holds(&changed);
    }
}

#[test]
fn a_table_of_another_layout_is_replaced() {
    let plan = plan_of([service(1, &[1, 2, 3])]);
    let node = Node::new();
    nft(&node.netns, &["add", "table", "inet", "shunt"]);
    nft(&node.netns, &["add", "chain", "inet", "shunt", "old"]);
    let mut nftables = node.open(OWNER);
    let report = sync(&mut nftables, all(&plan));
    assert_eq!(report.rebuilt, Some("it has another layout"));
    node.assert_holds(&plan);
}

#[test]
fn a_table_of_the_other_backend_is_replaced_in_one_transaction() {
    let plan = plan_of((1..20).map(|n| service(n, &[1, 2, 3])));
    let node = Node::new();
    let mut first = node.open(OWNER);
    sync(&mut first, all(&plan));
    drop(first);
    for forwarding in [Forwarding::VirtualServers, Forwarding::Translate] {
        let mut nftables = node.open(Options { forwarding, ..OWNER });
        let report = sync(&mut nftables, all(&plan));
        assert_eq!(report.rebuilt, Some("another backend forwards packets now"));
        assert_eq!(report.transactions, 1);
        node.assert_holds(&plan);
        assert!(sync(&mut nftables, PlanDelta::default()).rebuilt.is_none());
    }
}

#[test]
fn a_conflict_with_another_writer_is_read_and_resolved() {
    let plan = plan_of([service(1, &[1, 2])]);
    let node = Node::new();
    let mut nftables = node.open(NO_OWNER);
    sync(&mut nftables, all(&plan));
    let theirs = "{ 10.96.0.77 . tcp . 80 : accept }";
    nft(&node.netns, &["add", "element", "inet", "shunt", "frontends_v4", theirs]);
    let more = plan_of([service(1, &[1, 2]), service(77, &[1])]);
    let report = sync(&mut nftables, delta(&plan, &more));
    assert!(report.read_back && report.rejected.is_empty());
    node.assert_holds(&more);
}

#[test]
fn what_the_kernel_refuses_is_set_aside_and_all_else_is_served() {
    let (key, bad) = service(2, &[1, 2]);
    let mut bad = (*bad).clone();
    // An IPv6 endpoint behind an IPv4 frontend: its value is too long for the map.
    let wrong = Endpoint { address: "fd01::1".parse().expect("an address"), port: 1 };
    bad.frontends[0].action = Action::Forward([wrong].into());
    let good = plan_of([service(1, &[1, 2]), service(3, &[])]);
    let mut plan = good.clone();
    plan.services.insert(key.clone(), Arc::new(bad));

    let node = Node::new();
    let mut nftables = node.open(OWNER);
    let report = sync(&mut nftables, all(&plan));
    assert_eq!(report.rejected.len(), 1);
    assert_eq!(report.rejected[0].0, key);
    node.assert_holds(&good);
    // Later changes of others go through, and the Service is back as soon as it is mended.
    let grown = plan_of([service(1, &[1, 2, 3]), service(3, &[])]);
    sync(&mut nftables, delta(&good, &grown));
    node.assert_holds(&grown);
    let mended = plan_of([service(1, &[1, 2, 3]), service(2, &[1]), service(3, &[])]);
    let report = sync(&mut nftables, delta(&grown, &mended));
    assert!(report.rejected.is_empty());
    node.assert_holds(&mended);
}

/// NodePorts on 127.0.0.1 need the kernel to route loopback addresses: without our table anyone on
/// the network reaches what listens there (CVE-2020-8558).
#[test]
fn nobody_else_reaches_loopback_addresses() {
    const AT: &str = "127.0.0.1:9999";
    let spec = ClusterSpec {
        nodes: vec![NodeSpec::new("node-1", &[])],
        clients: vec!["client".to_owned()],
        ..ClusterSpec::default()
    };
    let cluster = Cluster::build(&spec).expect("a cluster");
    let netns = |name| cluster.host(name).expect("a host").netns();
    let (node, client) = (netns("node-1"), netns("client"));
    for host in [node, client] {
        let open = move || fs::write("/proc/sys/net/ipv4/conf/all/route_localnet", "1");
        host.run(open).expect("a setting");
    }
    let via = cluster.host("node-1").expect("a host").ip().to_string();
    for arguments in ["address del 127.0.0.1/8 dev lo", &format!("route add 127.0.0.1 via {via}")] {
        let mut command = Command::new("ip");
        command.args(arguments.split(' '));
        let status = client.run(move || command.status());
        assert!(status.expect("ip").success(), "{arguments}");
    }
    let listener = node.run(|| TcpListener::bind(AT)).expect("a listener");
    let connect = || {
        client.run(|| {
            let address = AT.parse().expect("an address");
            TcpStream::connect_timeout(&address, Duration::from_secs(2))
        })
    };
    connect().expect("the kernel alone lets it in");
    let mut nftables = node.run(|| open_when_free(|| Nftables::open(NO_OWNER)));
    sync(&mut nftables, all(&plan_of([service(1, &[1])])));
    assert_eq!(connect().expect_err("our table").kind(), ErrorKind::TimedOut);
    let own = node.run(|| TcpStream::connect(AT));
    own.expect("the node itself");
    drop(listener);
}

/// Networks that touch and are not one: each begins where the one before has ended.
#[test]
fn networks_that_touch_and_names_are_written_and_read_back() {
    let networks = ["10.77.1.0/24", "10.77.2.0/24", "fd00:10:77:1::/64", "fd00:10:77:2::/64"];
    let mut plan = plan_of([service(1, &[1])]);
    let mut changed = (*node()).clone();
    changed.local_sources = networks.map(|net| net.parse().expect("a network")).into();
    let name = "cni0".parse().expect("a name");
    changed.local_interfaces = Some(InterfacePattern::Exact(name));
    plan.node = Arc::new(changed);
    let node = Node::new();
    sync(&mut node.open(NO_OWNER), all(&plan));
    node.assert_holds(&plan);
    let report = sync(&mut node.open(NO_OWNER), all(&plan));
    assert_eq!((report.operations, report.rebuilt), (0, None));
}
