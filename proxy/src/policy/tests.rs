use std::sync::Arc;

use shunt_netpolicy::object::{NetworkPolicy, Pod};
use shunt_netpolicy::selector::Selector;
use shunt_netpolicy::snapshot::Object;

use super::*;

fn applied(object: Object) -> Change {
    Change::Applied { object, problems: Vec::new() }
}

fn policy() -> Change {
    let key = ObjectKey::new("x", "deny");
    let (pods, ingress, egress) = (Selector::default(), Some(Vec::new()), None);
    applied(Object::Policy(NetworkPolicy { key, pods, ingress, egress }))
}

fn pod(last: u8) -> Change {
    applied(Object::Pod(Pod {
        key: ObjectKey::new("x", &format!("pod-{last}")),
        created: 0,
        node: Some("here".into()),
        addresses: vec![[10, 0, 0, last].into()],
        host_network: false,
        labels: Arc::default(),
        ports: Vec::new(),
    }))
}

fn list(planner: &mut PolicyPlanner, kind: Kind, changes: Vec<Change>) {
    let all = [Change::ListStarted(kind)].into_iter().chain(changes);
    all.chain([Change::ListDone(kind)]).for_each(|change| planner.take(change, Instant::now()));
}

#[test]
fn pods_are_asked_for_while_there_is_a_policy() {
    let (wanted, seen) = watch::channel(false);
    let mut planner = PolicyPlanner::new("here", Pods::OnDemand(wanted));
    let now = Instant::now();
    assert!(planner.order(now).is_none(), "policies are not listed yet");
    list(&mut planner, Kind::NetworkPolicy, Vec::new());
    let first = planner.order(now).expect("an order, to remove what was left");
    assert!(first.delta.table.is_empty() && !*seen.borrow());

    planner.take(policy(), now);
    assert!(planner.order(now).is_none(), "pods are not known");
    assert!(*seen.borrow());
    list(&mut planner, Kind::Namespace, Vec::new());
    list(&mut planner, Kind::Pod, vec![pod(1), pod(2)]);
    assert!(planner.order(now).is_none(), "the machine's addresses are not known");
    planner.take_addresses(&BTreeSet::from([[192, 168, 0, 1].into()]), now);
    let order = planner.order(now).expect("an order");
    assert_eq!(order.delta.table.locals.len(), 2);
    assert_eq!(order.delta.table.tightened.len(), 2, "they were there before the policy");
    assert!(planner.order(now).is_none());

    planner.take(pod(3), now);
    let order = planner.order(now).expect("an order");
    assert_eq!((order.delta.table.locals.len(), order.delta.table.tightened.len()), (1, 0));

    let key = ObjectKey::new("x", "deny");
    planner.take(Change::Deleted { kind: Kind::NetworkPolicy, key }, now);
    let order = planner.order(now).expect("an order");
    assert!(order.delta.table.locals.values().all(Option::is_none));
    assert!(!*seen.borrow());
    assert_eq!(planner.status().pods, 0);
}
