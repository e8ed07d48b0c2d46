use proptest::collection::vec;
use proptest::prelude::*;
use shunt_model::address::Protocol;
use shunt_model::problem::Kind;

use super::*;
use crate::object::{NamedPort, Uid};
use crate::snapshot::{Change, Object, Snapshot};

fn address(last: u8) -> IpAddr {
    IpAddr::from([10, 0, 0, last])
}

fn key() -> ObjectKey {
    ObjectKey::new("x", "a")
}

/// What the runtime knows of it.
fn sandbox(id: &str, uid: &str, last: u8) -> Sandbox {
    let pod = Pod {
        key: key(),
        uid: Uid::of(uid),
        created: 9,
        node: Some("n1".into()),
        addresses: [address(last)].into(),
        host_network: false,
        labels: Arc::new([("app".into(), "by-runtime".into())].into()),
        ports: Arc::default(),
    };
    Sandbox { id: id.into(), pod }
}

/// What the API server knows of it.
fn told(uid: &str, addresses: &[u8]) -> Pod {
    Pod {
        created: 5,
        addresses: addresses.iter().copied().map(address).collect(),
        labels: Arc::new([("app".into(), "by-api".into())].into()),
        ports: [NamedPort { name: "http".into(), protocol: Protocol::Tcp, port: 80 }].into(),
        ..sandbox("", uid, 0).pod
    }
}

fn applied(pod: Pod) -> Change {
    Change::Applied { object: Object::Pod(pod), problems: Vec::new() }
}

fn deleted() -> Change {
    Change::Deleted { kind: Kind::Pod, key: key() }
}

fn started(id: &str, uid: &str, last: u8) -> Change {
    Change::SandboxStarted(sandbox(id, uid, last))
}

fn listed() -> Snapshot {
    let mut snapshot = Snapshot::new();
    snapshot.apply(Change::ListStarted(Kind::Pod));
    snapshot.apply(Change::ListDone(Kind::Pod));
    snapshot
}

/// Addresses, the value of the label, and whether the port has its name.
fn shown(snapshot: &Snapshot) -> Option<(Vec<IpAddr>, String, bool)> {
    let pod = snapshot.store().pod(&key())?;
    Some((pod.addresses.to_vec(), pod.labels["app"].to_string(), !pod.ports.is_empty()))
}

fn is(addresses: &[u8], label: &str, named: bool) -> Option<(Vec<IpAddr>, String, bool)> {
    Some((addresses.iter().copied().map(address).collect(), label.to_owned(), named))
}

#[test]
fn the_api_server_adds_to_a_sandbox_what_it_knows_and_takes_its_place() {
    let mut snapshot = listed();
    assert!(!snapshot.apply(started("s", "1", 1)).is_empty());
    assert_eq!(shown(&snapshot), is(&[1], "by-runtime", false));
    snapshot.apply(applied(told("1", &[])));
    assert_eq!(shown(&snapshot), is(&[1], "by-api", true));
    snapshot.apply(applied(told("1", &[1])));
    assert_eq!(shown(&snapshot), is(&[1], "by-api", true));
    assert!(snapshot.apply(Change::SandboxStopped("s".into())).is_empty());
    snapshot.apply(deleted());
    assert_eq!(shown(&snapshot), None);
}

#[test]
fn an_earlier_pod_of_that_name_gives_a_sandbox_nothing() {
    let mut snapshot = listed();
    snapshot.apply(applied(told("1", &[1])));
    snapshot.apply(started("s", "2", 2));
    assert_eq!(shown(&snapshot), is(&[2], "by-runtime", false));
    snapshot.apply(deleted());
    assert_eq!(shown(&snapshot), is(&[2], "by-runtime", false));
    snapshot.apply(applied(told("2", &[2])));
    assert_eq!(shown(&snapshot), is(&[2], "by-api", true));
}

#[test]
fn a_pod_that_gets_another_sandbox_has_the_new_addresses() {
    let mut snapshot = listed();
    snapshot.apply(applied(told("1", &[1])));
    snapshot.apply(started("t", "1", 2));
    assert_eq!(shown(&snapshot), is(&[2], "by-api", true));
    snapshot.apply(Change::SandboxStopped("s".into()));
    assert_eq!(shown(&snapshot), is(&[2], "by-api", true), "that was the earlier one");
}

#[test]
fn a_pod_that_ends_before_the_api_server_tells_its_address_keeps_it_until_its_sandbox_ends() {
    let mut snapshot = listed();
    snapshot.apply(applied(told("1", &[])));
    snapshot.apply(started("s", "1", 1));
    snapshot.apply(deleted());
    assert_eq!(shown(&snapshot), is(&[1], "by-runtime", false));
    let dirty = snapshot.apply(Change::SandboxStopped("s".into()));
    assert!(dirty.addresses.contains(&address(1)));
    assert_eq!(shown(&snapshot), None);
}

#[test]
fn sandboxes_wait_for_a_list_and_outlive_one() {
    let mut snapshot = Snapshot::new();
    assert!(snapshot.apply(started("s", "1", 1)).is_empty());
    assert_eq!(shown(&snapshot), None, "nobody asks for pods");
    for _ in 0..2 {
        snapshot.apply(Change::ListStarted(Kind::Pod));
        snapshot.apply(Change::ListDone(Kind::Pod));
        assert_eq!(shown(&snapshot), is(&[1], "by-runtime", false));
    }
    snapshot.forget_pods();
    assert_eq!(shown(&snapshot), None);
    snapshot.apply(Change::ListStarted(Kind::Pod));
    snapshot.apply(applied(told("1", &[1])));
    snapshot.apply(Change::ListDone(Kind::Pod));
    assert_eq!(shown(&snapshot), is(&[1], "by-api", true));
}

#[test]
fn a_new_list_of_sandboxes_takes_the_place_of_all() {
    let mut snapshot = listed();
    snapshot.apply(started("s", "1", 1));
    snapshot.apply(Change::Sandboxes(vec![sandbox("t", "1", 2)]));
    assert_eq!(shown(&snapshot), is(&[2], "by-runtime", false));
    snapshot.apply(Change::Sandboxes(Vec::new()));
    assert_eq!(shown(&snapshot), None);
}

#[test]
fn the_machines_addresses_are_no_pods() {
    let mut snapshot = listed();
    snapshot.put_machine(&"n1".into(), [address(1)].into());
    snapshot.apply(started("s", "1", 1));
    assert_eq!(shown(&snapshot), is(&[], "by-runtime", false));
}

fn step() -> impl Strategy<Value = Change> {
    let uid = || prop::sample::select(&["1", "2"][..]);
    prop_oneof![
        (uid(), vec(1u8..4, 0..3)).prop_map(|(uid, last)| applied(told(uid, &last))),
        Just(deleted()),
        Just(Change::ListStarted(Kind::Pod)),
        Just(Change::ListDone(Kind::Pod)),
        (uid(), 1u8..4).prop_map(|(uid, last)| started(uid, uid, last)),
        uid().prop_map(|id| Change::SandboxStopped(id.into())),
        uid().prop_map(|id| Change::Sandboxes(vec![sandbox(id, id, 1)])),
    ]
}

proptest! {
    /// Whatever came before: when the sandboxes have ended, only what the API server says counts; and while there is one
    /// that it has not told of, its address counts.
    #[test]
    fn in_the_end_the_api_server_is_right(steps in vec(step(), 0..12), last in 1u8..4) {
        let mut both = listed();
        let mut alone = listed();
        for step in steps {
            let of_runtime = matches!(
                step,
                Change::SandboxStarted(_) | Change::SandboxStopped(_) | Change::Sandboxes(_)
            );
            if !of_runtime {
                alone.apply(step.clone());
            }
            both.apply(step);
        }
        both.apply(started("last", "1", last));
        let shown = both.store().pod(&key()).expect("a pod");
        prop_assert!(shown.addresses.contains(&address(last)));
        both.apply(Change::Sandboxes(Vec::new()));
        prop_assert_eq!(both.store().pod(&key()), alone.store().pod(&key()));
    }
}
