use std::sync::Arc;

use shunt_netpolicy::cluster::{Action, ActionRule, ClusterNetworkPolicy, PeerNode, Tier};
use shunt_netpolicy::object::{NetworkPolicy, Peer, Pod, Rule, Uid};
use shunt_netpolicy::sandbox::Sandbox;
use shunt_netpolicy::selector::{Labels, Selector};
use shunt_netpolicy::snapshot::Object;

use tokio::sync::oneshot;

use super::*;
use crate::backend::SyncReport;
use crate::kernel::{Reason, Synced};

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
        uid: Uid::default(),
        created: 0,
        node: Some("here".into()),
        addresses: [[10, 0, 0, last].into()].into(),
        host_network: false,
        labels: Arc::default(),
        ports: [].into(),
    }))
}

fn list(planner: &mut PolicyPlanner, kind: Kind, changes: Vec<Change>) {
    let all = [Change::ListStarted(kind)].into_iter().chain(changes);
    all.chain([Change::ListDone(kind)]).for_each(|change| planner.take(change, Instant::now()));
}

#[test]
fn pods_are_asked_for_while_there_is_a_policy() {
    let (wanted, seen) = watch::channel(Wanted::default());
    let mut planner = PolicyPlanner::new("here", Demand::Told(wanted));
    let now = Instant::now();
    list(&mut planner, Kind::NetworkPolicy, Vec::new());
    assert!(planner.order(now).is_none(), "policies of the cluster are not listed yet");
    list(&mut planner, Kind::ClusterNetworkPolicy, Vec::new());
    let first = planner.order(now).expect("an order, to remove what was left");
    assert!(first.delta.table.is_empty() && !seen.borrow().pods);

    planner.take(policy(), now);
    assert!(planner.order(now).is_none(), "pods are not known");
    assert!(seen.borrow().pods);
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
    let [locals, tightened] = [order.delta.table.locals.len(), order.delta.table.tightened.len()];
    assert_eq!((locals, tightened), (1, 1), "its address may have been another pod's");

    let key = ObjectKey::new("x", "deny");
    planner.take(Change::Deleted { kind: Kind::NetworkPolicy, key }, now);
    let order = planner.order(now).expect("an order");
    assert!(order.delta.table.locals.values().all(Option::is_none));
    assert!(!seen.borrow().pods);
    assert_eq!(planner.status().pods, 0);
}

#[test]
fn nodes_are_asked_for_while_a_policy_speaks_of_them() {
    let (wanted, seen) = watch::channel(Wanted::default());
    let mut planner = PolicyPlanner::new("here", Demand::Told(wanted));
    let now = Instant::now();
    planner.take_addresses(&BTreeSet::from([[192, 168, 0, 1].into()]), now);
    list(&mut planner, Kind::NetworkPolicy, Vec::new());
    let on = Rule { peers: Some(vec![Peer::Nodes(Selector::default())]), ports: None };
    let deny = ActionRule { name: "".into(), action: Action::Deny, on };
    let policy = applied(Object::ClusterPolicy(ClusterNetworkPolicy {
        name: "no-nodes".into(),
        tier: Tier::Admin,
        priority: 0,
        namespaces: Selector::default(),
        pods: Selector::default(),
        ingress: Vec::new(),
        egress: vec![deny],
    }));
    list(&mut planner, Kind::ClusterNetworkPolicy, vec![policy]);
    assert!(planner.order(now).is_none());
    assert_eq!(*seen.borrow(), Wanted { pods: true, nodes: true });
    list(&mut planner, Kind::Namespace, Vec::new());
    list(&mut planner, Kind::Pod, vec![pod(1)]);
    assert!(planner.order(now).is_none(), "nodes are not known");
    let node = |name: &str, last| {
        let addresses = vec![[192, 168, 0, last].into()];
        applied(Object::Node(PeerNode { name: name.into(), labels: Labels::default(), addresses }))
    };
    list(&mut planner, Kind::PeerNode, vec![node("here", 1), node("there", 2)]);
    let order = planner.order(now).expect("an order");
    assert_eq!((order.delta.table.locals.len(), order.delta.table.peers.len()), (1, 2));
    planner.take(node("elsewhere", 3), now);
    let order = planner.order(now).expect("an order");
    assert_eq!((order.delta.table.peers.len(), order.delta.table.rows.len()), (1, 0));

    let (kind, key) = (Kind::ClusterNetworkPolicy, ObjectKey::new("", "no-nodes"));
    planner.take(Change::Deleted { kind, key }, now);
    let order = planner.order(now).expect("an order");
    assert!(order.delta.table.peers.values().all(Option::is_none));
    assert_eq!(*seen.borrow(), Wanted::default());
}

#[test]
fn a_new_pod_waits_until_the_kernel_holds_what_was_ordered_for_it() {
    let (wanted, _seen) = watch::channel(Wanted::default());
    let mut planner = PolicyPlanner::new("here", Demand::Told(wanted));
    let now = Instant::now();
    let start = |planner: &mut PolicyPlanner, last: u8| {
        let Change::Applied { object: Object::Pod(pod), .. } = pod(last) else { panic!("a pod") };
        let (done, waits) = oneshot::channel();
        let sandbox = Sandbox { id: last.to_string().into(), pod };
        assert_eq!(planner.take_nri(NriEvent::Started(sandbox, done), now), None);
        waits
    };
    let synced = |order| Synced {
        reason: Reason::Change,
        order,
        services: 0,
        began: now,
        latency: None,
        report: SyncReport::default(),
    };
    planner.take_addresses(&BTreeSet::from([[192, 168, 0, 1].into()]), now);
    let mut early = start(&mut planner, 1);
    assert!(planner.order(now).is_none());
    planner.release();
    assert!(early.try_recv().is_err(), "policies are not known yet");

    list(&mut planner, Kind::NetworkPolicy, vec![policy()]);
    list(&mut planner, Kind::ClusterNetworkPolicy, Vec::new());
    list(&mut planner, Kind::Namespace, Vec::new());
    assert!(planner.order(now).is_none(), "pods are not known yet");
    planner.release();
    assert!(early.try_recv().is_err());
    list(&mut planner, Kind::Pod, Vec::new());
    let first = planner.order(now).expect("an order");
    assert_eq!(first.delta.table.locals.len(), 1, "the API server does not know it yet");
    planner.release();
    assert!(early.try_recv().is_err(), "the kernel does not hold it yet");
    planner.synced(&synced(first.number));
    planner.release();
    assert_eq!(early.try_recv(), Ok(()));

    let mut next = start(&mut planner, 2);
    let order = planner.order(now).expect("an order");
    planner.release();
    assert!(next.try_recv().is_err());
    planner.synced(&synced(order.number));
    planner.release();
    assert_eq!(next.try_recv(), Ok(()));
    // What the API server says of it then is nothing new.
    planner.take(pod(2), now);
    assert!(planner.order(now).is_none());

    let key = ObjectKey::new("x", "deny");
    planner.take(Change::Deleted { kind: Kind::NetworkPolicy, key }, now);
    let last = planner.order(now).expect("an order");
    planner.synced(&synced(last.number));
    let mut free = start(&mut planner, 3);
    assert!(planner.order(now).is_none(), "there is no policy");
    planner.release();
    assert_eq!(free.try_recv(), Ok(()));
}
