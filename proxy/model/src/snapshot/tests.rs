use super::*;
use crate::testing::{
    HERE, applied, deleted, dirty, found, key, local_addresses, node, service, slice,
};

fn web() -> Change {
    service("ns/web").cluster_ip("10.0.0.1").port("http", 80).into()
}

fn web_1() -> Change {
    slice("ns/web-1").port("http", 8080).endpoint("10.244.0.1", HERE).into()
}

/// Applies each change and returns what each made dirty.
fn apply(snapshot: &mut Snapshot, changes: impl IntoIterator<Item = Change>) -> Vec<String> {
    changes.into_iter().flat_map(|change| dirty(&snapshot.apply(change))).collect()
}

#[test]
fn what_says_nothing_new_makes_nothing_dirty() {
    let mut snapshot = Snapshot::new();
    let all = || [web(), web_1(), node(HERE, &["192.168.0.1"], &[]), local_addresses(&["::1"])];
    assert_eq!(apply(&mut snapshot, all()), ["ns/web", "ns/web", "node", "node"]);
    assert!(apply(&mut snapshot, all()).is_empty());
    let unknown = [Kind::Service, Kind::EndpointSlice, Kind::Node].map(|kind| deleted(kind, "a/b"));
    assert!(apply(&mut snapshot, unknown).is_empty());
}

#[test]
fn a_deleted_object_makes_its_service_dirty() {
    let mut snapshot = Snapshot::new();
    apply(&mut snapshot, [web(), web_1(), node(HERE, &[], &[])]);
    assert_eq!(apply(&mut snapshot, [deleted(Kind::EndpointSlice, "ns/web-1")]), ["ns/web"]);
    assert!(snapshot.slices_of(&key("ns/web")).is_empty());
    assert!(snapshot.service(&key("ns/web")).is_some());
    assert_eq!(apply(&mut snapshot, [deleted(Kind::Service, "ns/web")]), ["ns/web"]);
    assert!(snapshot.service(&key("ns/web")).is_none());
    assert_eq!(apply(&mut snapshot, [deleted(Kind::Node, HERE)]), ["node"]);
    assert!(snapshot.node(HERE).is_none());
}

#[test]
fn a_change_of_the_nodes_addresses_or_networks_makes_the_node_dirty() {
    let mut snapshot = Snapshot::new();
    let steps = [
        node(HERE, &["192.168.0.1"], &["10.244.0.0/24"]),
        node(HERE, &["192.168.0.2"], &["10.244.0.0/24"]),
        node(HERE, &["192.168.0.2"], &["10.244.1.0/24"]),
        local_addresses(&["192.168.0.2"]),
    ];
    for step in steps {
        assert_eq!(apply(&mut snapshot, [step]), ["node"]);
    }
}

#[test]
fn a_slice_that_moves_makes_both_services_dirty() {
    let mut snapshot = Snapshot::new();
    apply(&mut snapshot, [web_1()]);
    let moved = slice("ns/web-1").of("ns/shop").port("http", 8080).endpoint("10.244.0.1", HERE);
    assert_eq!(apply(&mut snapshot, [moved.into()]), ["ns/shop", "ns/web"]);
    assert!(snapshot.slices_of(&key("ns/web")).is_empty());
    assert_eq!(snapshot.slices_of(&key("ns/shop")).len(), 1);
}

#[test]
fn a_service_and_its_slices_share_its_key() {
    let both_orders = [[web(), web_1()], [web_1(), web()]];
    for changes in both_orders {
        let mut snapshot = Snapshot::new();
        apply(&mut snapshot, changes);
        let again = service("ns/web").cluster_ip("10.0.0.2").port("http", 80);
        apply(&mut snapshot, [slice("ns/web-1").into(), again.into()]);
        let (service, slice) = (snapshot.services().next(), snapshot.slices().next());
        let (service, slice) = (service.unwrap(), slice.unwrap());
        assert!(service.key.is_same(&slice.service));
        assert!(snapshot.everything().services.iter().all(|key| key.is_same(&service.key)));
        assert!(snapshot.slice_services.keys().all(|key| key.is_same(&slice.key)));
    }
}

#[test]
fn slices_of_a_service_are_sorted_by_key() {
    let mut snapshot = Snapshot::new();
    let names = ["ns/web-2", "ns/web-3", "ns/web-1"];
    apply(&mut snapshot, names.map(|name| slice(name).into()));
    let held: Vec<_> = snapshot.slices_of(&key("ns/web")).iter().map(|s| s.key.clone()).collect();
    assert_eq!(held, [key("ns/web-1"), key("ns/web-2"), key("ns/web-3")]);
}

#[test]
fn a_list_removes_what_it_does_not_name_and_only_at_its_end() {
    let mut snapshot = Snapshot::new();
    let shop = || Change::from(service("ns/shop"));
    apply(&mut snapshot, [web(), shop(), web_1()]);
    assert!(apply(&mut snapshot, [Change::ListStarted(Kind::Service), shop()]).is_empty());
    assert!(snapshot.service(&key("ns/web")).is_some());
    assert_eq!(apply(&mut snapshot, [Change::ListDone(Kind::Service)]), ["ns/web"]);
    assert!(snapshot.service(&key("ns/web")).is_none());
    assert!(snapshot.service(&key("ns/shop")).is_some());
    assert_eq!(snapshot.slices().count(), 1, "other kinds are not concerned");
}

#[test]
fn a_list_that_was_broken_off_counts_for_nothing() {
    let mut snapshot = Snapshot::new();
    let shop = || Change::from(service("ns/shop"));
    apply(&mut snapshot, [web(), shop()]);
    apply(&mut snapshot, [Change::ListStarted(Kind::Service), shop()]);
    // Only the second list is whole: what the first one named counts as not seen.
    apply(&mut snapshot, [Change::ListStarted(Kind::Service), web()]);
    assert_eq!(apply(&mut snapshot, [Change::ListDone(Kind::Service)]), ["ns/shop"]);
    assert!(snapshot.service(&key("ns/web")).is_some());
}

#[test]
fn a_list_removes_rejected_objects_too() {
    let mut snapshot = Snapshot::new();
    let problems = vec![found(Kind::Service, "ns/web", "spec")];
    let rejected = Change::Rejected { kind: Kind::Service, key: key("ns/web"), problems };
    let list = |changes: Vec<Change>| {
        let done = Change::ListDone(Kind::Service);
        [Change::ListStarted(Kind::Service)].into_iter().chain(changes).chain([done])
    };
    apply(&mut snapshot, list(vec![rejected.clone()]));
    apply(&mut snapshot, list(vec![rejected]));
    assert_eq!(snapshot.problems().count(), 1);
    apply(&mut snapshot, list(Vec::new()));
    assert_eq!(snapshot.problems().count(), 0);
}

#[test]
fn a_rejected_object_is_no_longer_served_and_its_problems_are_kept() {
    let mut snapshot = Snapshot::new();
    apply(&mut snapshot, [web()]);
    let problem = found(Kind::Service, "ns/web", "spec");
    let rejected = || Change::Rejected {
        kind: Kind::Service,
        key: key("ns/web"),
        problems: vec![problem.clone()],
    };
    assert_eq!(apply(&mut snapshot, [rejected()]), ["ns/web"]);
    assert!(apply(&mut snapshot, [rejected()]).is_empty());
    assert!(snapshot.service(&key("ns/web")).is_none());
    assert_eq!(snapshot.problems().collect::<Vec<_>>(), [&problem]);
    assert_eq!(apply(&mut snapshot, [web()]), ["ns/web"]);
    assert_eq!(snapshot.problems().count(), 0);
}

#[test]
fn problems_of_a_served_object_come_and_go_with_it() {
    let mut snapshot = Snapshot::new();
    let object = Object::EndpointSlice(slice("ns/web-1").build());
    let problems = vec![found(Kind::EndpointSlice, "ns/web-1", "endpoints[0]")];
    let change = Change::Applied { object: object.clone(), problems };
    assert_eq!(apply(&mut snapshot, [change]), ["ns/web"]);
    assert_eq!(snapshot.problems().count(), 1);
    assert!(apply(&mut snapshot, [applied(object)]).is_empty(), "only a problem is gone");
    assert_eq!(snapshot.problems().count(), 0);
}

#[test]
fn complete_when_services_and_slices_have_been_listed() {
    let mut snapshot = Snapshot::new();
    for kind in [Kind::Service, Kind::EndpointSlice] {
        assert!(!snapshot.is_complete());
        apply(&mut snapshot, [Change::ListStarted(kind)]);
        assert!(!snapshot.has_listed(kind));
        apply(&mut snapshot, [Change::ListDone(kind)]);
        assert!(snapshot.has_listed(kind));
    }
    assert!(snapshot.is_complete());
    assert!(!snapshot.has_listed(Kind::Node));
    apply(&mut snapshot, [Change::ListStarted(Kind::Service)]);
    assert!(snapshot.is_complete(), "another list does not make it incomplete");
}
