//! The policy table on a real kernel, read by stock nft.

#[path = "../../../backends/nftables/tests/listing/mod.rs"]
mod listing;
#[path = "../../../backends/nftables/tests/reader/mod.rs"]
mod reader;
mod world;

use std::collections::{BTreeMap, BTreeSet};
use std::io::Write as _;
use std::net::IpAddr;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use ipnet::IpNet;
use listing::assert_same;
use reader::{nft, open_when_free};
use shunt_cluster::Netns;
use shunt_model::address::Protocol;
use shunt_model::object::ObjectKey;
use shunt_netpolicy::cluster::{Action, PeerNode, Tier};
use shunt_netpolicy::compile::Compiler;
use shunt_netpolicy::domain::DomainName;
use shunt_netpolicy::object::{Peer, PortNumber, Rule};
use shunt_netpolicy::selector::{Labels, Selector};
use shunt_netpolicy::store::{Dirty, Store};
use shunt_netpolicy_nftables::kernel::{Change, Options, PolicyTable, Report, inventory, learnt};
use shunt_netpolicy_nftables::layout::Variant;
use shunt_netpolicy_nftables::lower::Beside;
use shunt_netpolicy_nftables::text::{fresh, render, render_variant};
use world::{block, cluster_policy, pod, pods, policy, port};

const NAME: &str = "*.example.com";

/// Two addresses have the name that a policy allows, one of a stranger and one of a pod.
fn learn(store: &mut Store) {
    let name = DomainName::parse(NAME).expect("a name");
    for address in ["192.0.2.9", "fd00:10:77:1::13"] {
        let address = address.parse().expect("an address");
        store.put_names(address, BTreeSet::from([name.clone()]));
    }
}

/// When both are to be forgotten.
fn learnt_until(seconds: u64) -> BTreeMap<(IpAddr, u32), Option<Instant>> {
    let number = DomainName::parse(NAME).expect("a name").number();
    let until = Instant::now() + Duration::from_secs(seconds);
    ["192.0.2.9", "fd00:10:77:1::13"]
        .map(|address| ((address.parse().expect("an address"), number), Some(until)))
        .into()
}

/// One of each kind of element, of both families.
fn busy_store() -> Store {
    let mut store = Store::new();
    let both = |n: u8| [format!("10.77.1.{n}"), format!("fd00:10:77:1::{n}")];
    for (n, app) in [(11, "web"), (12, "db"), (13, "web")] {
        let addresses = both(n);
        let addresses: Vec<_> = addresses.iter().map(String::as_str).collect();
        store.put_pod(pod("x", &format!("pod-{n}"), "node-1", &addresses, &[("app", app)]));
    }
    store.put_pod(pod("y", "far", "node-2", &["10.77.2.11"], &[("app", "web")]));
    let range = |first, last| PortNumber::Range(first, last);
    let web = Rule {
        peers: Some(vec![
            pods(&[("app", "web")], false),
            block("10.0.0.0/8", &["10.1.0.0/16", "10.77.0.0/16"]),
            block("fd00::/16", &[]),
            block("255.0.0.0/8", &[]),
        ]),
        ports: Some(vec![
            port(Protocol::Tcp, range(443, 443)),
            port(Protocol::Udp, range(1000, 60000)),
            port(Protocol::Sctp, PortNumber::Any),
            port(Protocol::Tcp, PortNumber::Named("http".into())),
        ]),
    };
    let db = Rule { peers: Some(vec![pods(&[("app", "db")], true)]), ports: None };
    let dns = Rule { peers: None, ports: Some(vec![port(Protocol::Udp, range(53, 53))]) };
    store.put_policy(policy("x", "web", &[("app", "web")], Some(vec![web, db]), Some(vec![dns])));
    let nobody = Rule { peers: Some(vec![Peer::Nodes(Selector::default())]), ports: None };
    let name = DomainName::parse(NAME).expect("a name");
    let names = Rule { peers: Some(vec![Peer::Domain(name)]), ports: None };
    let deny = vec![(Action::Accept, names), (Action::Deny, nobody)];
    let place = (Tier::Admin, 7);
    store.put_cluster_policy(cluster_policy("far", place, &[("app", "db")], Vec::new(), deny));
    store.put_machine(&"node-1".into(), own());
    let (name, labels) = ("node-1".into(), Labels::default());
    store.put_node(PeerNode { name, labels, addresses: own().into_iter().collect() });
    store
}

fn netns() -> Netns {
    Netns::new("node").expect("a network namespace: these tests need root")
}

fn open(netns: &Netns, owner: bool) -> PolicyTable {
    netns.run(move || open_when_free(|| PolicyTable::open(owner)))
}

fn own() -> BTreeSet<IpAddr> {
    ["192.168.77.11", "fd00:77::11"].map(|text| text.parse().expect("an address")).into()
}

#[track_caller]
fn sync(policy: &mut PolicyTable, compiler: &mut Compiler, store: &Store, dirty: &Dirty) -> Report {
    let change =
        Change { table: compiler.update(store, dirty), own: Some(own()), ..Change::default() };
    policy.sync(change).unwrap_or_else(|error| panic!("{error}: {error:?}"))
}

#[test]
fn the_kernel_holds_what_the_text_says_and_nft_reads_both_alike() {
    let store = busy_store();
    let mut compiler = Compiler::new("node-1");
    let node = netns();
    let mut policy = open(&node, false);
    sync(&mut policy, &mut compiler, &store, &Dirty::everything());
    let ours = nft(&node, &["list", "ruleset"]);
    assert!(nft(&node, &["-j", "list", "ruleset"]).starts_with('{'));

    let watched = compiler.table().locals.keys().copied().collect();
    let beside = Beside { own: own(), watched, ..Beside::default() };
    let wanted = fresh(compiler.table(), &beside);
    assert_eq!(policy.installed().as_ref(), Some(&wanted));
    let held = node.run(inventory).expect("a read-back").expect("a table");
    assert_eq!(held.elements, wanted.elements);
    let script = render(&wanted);
    let other = netns();
    other.run(move || {
        let mut nft =
            Command::new("nft").args(["-f", "-"]).stdin(Stdio::piped()).spawn().expect("nft");
        nft.stdin.take().expect("stdin").write_all(script.as_bytes()).expect("a script");
        assert!(nft.wait().expect("an end").success(), "{script}");
    });
    assert_same(&ours, &nft(&other, &["list", "ruleset"]));
}

#[test]
fn every_choice_of_an_operator_is_printed_by_nft_as_we_do() {
    let networks: BTreeSet<IpNet> =
        ["10.77.1.0/24", "fd00:10:77:1::/64"].map(|net| net.parse().expect("a network")).into();
    for (log, audit) in [(true, false), (true, true)] {
        let variant = Variant { log, audit, closed: true, counting: audit, ..Variant::default() };
        let store = busy_store();
        let mut compiler = Compiler::new("node-1");
        let node = netns();
        let options = Options { variant, ..Options::default() };
        let mut policy = open(&node, false).with(options);
        let change = Change {
            table: compiler.update(&store, &Dirty::everything()),
            own: Some(own()),
            pod_networks: Some(networks.clone()),
            known: own().into_iter().map(|address| (address, true)).collect(),
            ..Change::default()
        };
        policy.sync(change).unwrap_or_else(|error| panic!("{error}: {error:?}"));
        assert!(policy.logs(), "this kernel has NFLOG");
        let script = render_variant(&policy.installed().expect("a table"), variant);
        let other = netns();
        other.run(move || {
            let mut nft =
                Command::new("nft").args(["-f", "-"]).stdin(Stdio::piped()).spawn().expect("nft");
            nft.stdin.take().expect("stdin").write_all(script.as_bytes()).expect("a script");
            assert!(nft.wait().expect("an end").success(), "{script}");
        });
        assert_same(&nft(&node, &["list", "ruleset"]), &nft(&other, &["list", "ruleset"]));
        // And read back it is the same.
        policy.forget();
        let report = policy.sync(Change::default()).expect("nothing to do");
        assert_eq!((report.read_back, report.operations, report.rebuilt), (true, 0, None));
    }
}

#[test]
fn a_table_outlives_us_and_is_adopted_and_nothing_is_written() {
    let store = busy_store();
    let node = netns();
    let mut first = open(&node, true);
    sync(&mut first, &mut Compiler::new("node-1"), &store, &Dirty::everything());
    nft(&node, &["flush", "ruleset"]);
    let held = nft(&node, &["list", "ruleset"]);
    assert!(held.contains("table inet shunt-policy"), "{held}");
    assert!(node.run(|| PolicyTable::open(true)).is_err(), "a second owner is refused");
    drop(first);
    let mut second = open(&node, true);
    let mut compiler = Compiler::new("node-1");
    let report = sync(&mut second, &mut compiler, &store, &Dirty::everything());
    assert!(report.read_back && report.rebuilt.is_none(), "{report:?}");
    assert_eq!((report.operations, report.transactions), (0, 0));
    assert_same(&held, &nft(&node, &["list", "ruleset"]));
    // With the last policy the table goes.
    let mut store = store;
    let keys: Vec<_> = store.policies().map(|policy| policy.key.clone()).collect();
    let mut dirty = Dirty::default();
    keys.iter().for_each(|key| dirty.merge(store.remove_policy(key)));
    dirty.merge(store.remove_cluster_policy("far"));
    sync(&mut second, &mut compiler, &store, &dirty);
    assert_eq!(nft(&node, &["list", "ruleset"]), "");
}

#[test]
fn a_foreign_change_is_noticed_and_put_right() {
    let store = busy_store();
    let node = netns();
    let mut policy = open(&node, false);
    let mut compiler = Compiler::new("node-1");
    sync(&mut policy, &mut compiler, &store, &Dirty::everything());
    let before = nft(&node, &["list", "ruleset"]);
    for damage in [
        &["flush", "ruleset"][..],
        &["flush", "chain", "inet", "shunt-policy", "denied_ingress"],
        &["flush", "set", "inet", "shunt-policy", "ports"],
        &["delete", "chain", "inet", "shunt-policy", "postrouting"],
        &["add", "element", "inet", "shunt-policy", "own_v4", "{ 1.2.3.4 }"],
    ] {
        nft(&node, damage);
        assert!(policy.foreign_change().expect("an answer"), "{damage:?}");
        policy.forget();
        policy.sync(Change::default()).expect("a repair");
        assert_same(&before, &nft(&node, &["list", "ruleset"]));
        assert!(!policy.foreign_change().expect("an answer"));
    }
}

#[test]
fn a_new_pod_of_a_known_class_is_a_few_elements() {
    let mut store = busy_store();
    let node = netns();
    let mut policy_table = open(&node, true);
    let mut compiler = Compiler::new("node-1");
    sync(&mut policy_table, &mut compiler, &store, &Dirty::everything());
    let newcomer = pod("x", "new", "node-2", &["10.9.9.9"], &[("app", "web")]);
    let dirty = store.put_pod(newcomer);
    let report = sync(&mut policy_table, &mut compiler, &store, &dirty);
    // Its class is new here (no web pod is in this network), so two local pods get a row for it.
    assert_eq!((report.operations, report.transactions, report.read_back), (5, 1, false));
    let dirty = store.put_pod(pod("x", "next", "node-2", &["10.9.9.8"], &[("app", "web")]));
    let report = sync(&mut policy_table, &mut compiler, &store, &dirty);
    assert_eq!((report.operations, report.transactions), (1, 1));
    let dirty = store.remove_pod(&ObjectKey::new("x", "next"));
    let report = sync(&mut policy_table, &mut compiler, &store, &dirty);
    assert_eq!((report.operations, report.transactions), (1, 1));
}

#[test]
fn what_dns_says_is_held_by_the_kernel_for_a_time_and_found_after_a_restart() {
    let mut store = busy_store();
    let node = netns();
    let mut policy = open(&node, true);
    let mut compiler = Compiler::new("node-1");
    sync(&mut policy, &mut compiler, &store, &Dirty::everything());
    learn(&mut store);
    let names = ["192.0.2.9", "fd00:10:77:1::13"].map(|text| text.parse().expect("an address"));
    let dirty = Dirty { names: names.into(), ..Dirty::default() };
    let change = Change {
        table: compiler.update(&store, &dirty),
        learnt: learnt_until(100),
        ..Change::default()
    };
    let report = policy.sync(change).expect("two names");
    // Name and class of two addresses, and the rows of two classes.
    assert!(report.operations >= 4 && !report.read_back, "{report:?}");
    let held = nft(&node, &["list", "map", "inet", "shunt-policy", "named_v4"]);
    assert!(held.contains("192.0.2.9 timeout 2m") && held.contains("expires 2m"), "{held}");
    // They hold for longer.
    let change = Change { learnt: learnt_until(1000), ..Change::default() };
    let report = policy.sync(change).expect("a longer time");
    assert_eq!((report.operations, report.transactions), (8, 1));
    let known = node.run(learnt).expect("what is held");
    assert_eq!(known.len(), 2, "{known:?}");
    let long = Duration::from_secs(950)..=Duration::from_secs(1000);
    assert!(known.iter().all(|learnt| long.contains(&learnt.holds)), "{known:?}");

    drop(policy);
    let mut policy = open(&node, true);
    let mut compiler = Compiler::new("node-1");
    let change = Change {
        table: compiler.update(&store, &Dirty::everything()),
        own: Some(own()),
        learnt: known
            .iter()
            .map(|l| ((l.address, l.name), Some(Instant::now() + l.holds)))
            .collect(),
        ..Change::default()
    };
    let report = policy.sync(change).expect("the same");
    assert_eq!((report.operations, report.rebuilt), (0, None), "{report:?}");

    let gone = learnt_until(0).into_keys().map(|name| (name, None)).collect();
    for address in names {
        store.put_names(address, BTreeSet::new());
    }
    let change =
        Change { table: compiler.update(&store, &dirty), learnt: gone, ..Change::default() };
    policy.sync(change).expect("two names less");
    assert_eq!(node.run(learnt).expect("what is held"), []);
    let held = nft(&node, &["list", "map", "inet", "shunt-policy", "named_v6"]);
    assert!(!held.contains("expires"), "{held}");
}
