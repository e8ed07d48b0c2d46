//! The kernel thread's decisions, with time as an argument.

use shunt_model::object::{ObjectKey, ServiceType};

use super::super::fake::{Fake, services};
use super::*;

const HOUR: Duration = Duration::from_secs(3600);
const MILLISECOND: Duration = Duration::from_millis(1);

/// A worker, its backend, and the time at which it was made.
fn worker(verify_every: Option<Duration>) -> (Worker<Fake>, Fake, Instant) {
    let fake = Fake::new();
    let now = Instant::now();
    (Worker::new(fake.clone(), None, Policy { verify_every }, now), fake, now)
}

fn order(number: u64, names: &[&str], since: Instant) -> Order {
    Order { number, delta: services(names, ServiceType::ClusterIp), since }
}

fn synced(event: Option<KernelEvent>) -> Synced {
    match event {
        Some(KernelEvent::Synced(synced)) => *synced,
        other => panic!("expected a sync, got {other:?}"),
    }
}

fn failed(event: Option<KernelEvent>) -> Failed {
    match event {
        Some(KernelEvent::Failed(failed)) => failed,
        other => panic!("expected a failure, got {other:?}"),
    }
}

fn keys(names: &[&str]) -> Vec<ObjectKey> {
    names.iter().map(|name| ObjectKey::new("default", name)).collect()
}

#[test]
fn nothing_is_done_before_the_first_order() {
    let (mut worker, fake, now) = worker(Some(HOUR));
    fake.meddle();
    assert_eq!(worker.look_for_foreign_changes(now), None);
    assert_eq!(worker.deadline(now), None);
    assert_eq!(worker.work(now + HOUR * 2), None);
    assert!(fake.memory().syncs.is_empty());
}

#[test]
fn waiting_orders_are_merged_and_the_latest_wins() {
    let (mut worker, fake, now) = worker(None);
    worker.take(order(1, &["a", "b"], now));
    worker.take(Order {
        number: 2,
        delta: services(&["b", "c"], ServiceType::NodePort),
        since: now + MILLISECOND,
    });
    let done = synced(worker.work(now + MILLISECOND * 5));
    assert_eq!((done.reason, done.order, done.services), (Reason::First, 2, 3));
    assert!(done.latency.unwrap() >= MILLISECOND * 5, "counted from the oldest event");
    let memory = fake.memory();
    assert_eq!(memory.syncs, [keys(&["a", "b", "c"])]);
    let b = &memory.plan.services[&ObjectKey::new("default", "b")];
    assert_eq!(b.service_type, ServiceType::NodePort);
}

#[test]
fn a_failed_sync_is_tried_again_and_no_delta_is_lost() {
    let (mut worker, fake, now) = worker(None);
    fake.memory().failing = 2;
    worker.take(order(1, &["a"], now));
    let first = failed(worker.work(now));
    assert_eq!((first.reason, first.attempts), (Reason::First, 1));
    assert_eq!(first.error, "the transaction failed: out of memory");

    worker.take(order(2, &["b"], now + MILLISECOND));
    assert_eq!(worker.work(now + MILLISECOND), None, "not before the back-off is over");
    let retry_at = worker.deadline(now).unwrap();
    assert!(retry_at >= now + MILLISECOND * 75);
    let second = failed(worker.work(retry_at));
    assert_eq!((second.reason, second.attempts), (Reason::Retry, 2));
    assert!(second.retry_in >= MILLISECOND * 150);

    let done = synced(worker.work(worker.deadline(now).unwrap()));
    assert_eq!((done.reason, done.order, done.services), (Reason::Retry, 2, 2));
    assert!(done.latency.unwrap() > MILLISECOND * 150, "counted from the first order's event");
    let held: Vec<_> = fake.memory().plan.services.keys().cloned().collect();
    assert_eq!(held, keys(&["a", "b"]));
    assert_eq!(worker.deadline(now), None);
}

#[test]
fn a_foreign_change_is_repaired_at_once() {
    let (mut worker, fake, now) = worker(None);
    worker.take(order(1, &["a"], now));
    synced(worker.work(now));
    fake.meddle();
    let noticed = worker.look_for_foreign_changes(now + MILLISECOND);
    assert_eq!(noticed, Some(KernelEvent::ForeignChange { writer: Some("nft".into()) }));
    let repair = synced(worker.work(now + MILLISECOND));
    assert_eq!((repair.reason, repair.latency), (Reason::Repair, None));
    assert_eq!(fake.memory().forgotten, 1);
    assert_eq!(worker.work(now + HOUR), None);
}

#[test]
fn a_fight_is_one_repair_a_second() {
    let (mut worker, fake, start) = worker(None);
    worker.take(order(1, &["a"], start));
    synced(worker.work(start));
    let mut repairs = 0;
    for millisecond in 0..3000 {
        let now = start + MILLISECOND * millisecond;
        fake.meddle();
        worker.look_for_foreign_changes(now);
        repairs += u32::from(worker.work(now).is_some());
    }
    assert_eq!(repairs, 3);
    let now = start + MILLISECOND * 3000;
    assert!(worker.watched(start + MILLISECOND * 2999).is_empty(), "or poll would spin");
    assert!(!worker.watched(now).is_empty());
}

#[test]
fn orders_do_not_wait_for_a_repair_that_is_held_back() {
    let (mut worker, fake, now) = worker(None);
    worker.take(order(1, &["a"], now));
    synced(worker.work(now));
    for at in [now, now + MILLISECOND] {
        fake.meddle();
        worker.look_for_foreign_changes(at);
        worker.work(at);
    }
    worker.take(order(2, &["b"], now));
    assert_eq!(synced(worker.work(now + MILLISECOND * 2)).reason, Reason::Change);
    let later = now + Duration::from_secs(1);
    assert_eq!(worker.deadline(now), Some(later));
    assert_eq!(synced(worker.work(later)).reason, Reason::Repair);
}

#[test]
fn everything_is_verified_now_and_then() {
    let (mut worker, fake, now) = worker(Some(HOUR));
    worker.take(order(1, &["a"], now));
    synced(worker.work(now));
    let due = worker.deadline(now).unwrap();
    assert!(due >= now + HOUR);
    assert_eq!(worker.work(now + HOUR / 2), None);
    assert_eq!(synced(worker.work(due)).reason, Reason::Verify);
    assert_eq!(fake.memory().forgotten, 1);
}

#[test]
fn back_off_doubles_up_to_its_end_and_strays_by_a_quarter() {
    let middle = |attempts| back_off(attempts, 128).as_millis();
    assert_eq!([1, 2, 3].map(middle), [100, 200, 400]);
    assert_eq!(middle(50), 10_000);
    assert_eq!(back_off(1, 0), Duration::from_millis(75));
    assert_eq!(back_off(1, 255), Duration::from_millis(125));
}
