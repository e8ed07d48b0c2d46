//! The thread itself: it wakes for orders and for foreign changes, and ends with its orderer.

use std::time::Duration;

use shunt_model::object::ServiceType;
use tokio::sync::mpsc::{UnboundedReceiver, unbounded_channel};

use super::fake::{Fake, services};
use super::*;

fn start() -> (Kernel, Fake, UnboundedReceiver<KernelEvent>) {
    let (reports, reported) = unbounded_channel();
    let fake = Fake::new();
    let kernel =
        Kernel::start("kernel", fake.clone(), None, Policy { verify_every: None }, reports)
            .unwrap();
    (kernel, fake, reported)
}

fn order(number: u64) -> Order {
    Order { number, delta: services(&["a"], ServiceType::ClusterIp), since: Instant::now() }
}

#[test]
fn the_thread_wakes_for_orders_and_for_foreign_changes() {
    let (kernel, fake, mut reported) = start();
    for number in 1..=100 {
        kernel.submit(order(number)).unwrap();
        let Some(KernelEvent::Synced(synced)) = reported.blocking_recv() else {
            panic!("order {number} was not carried out");
        };
        assert_eq!(synced.order, number);
    }
    fake.meddle();
    assert!(matches!(reported.blocking_recv(), Some(KernelEvent::ForeignChange { .. })));
    let Some(KernelEvent::Synced(repair)) = reported.blocking_recv() else {
        panic!("nothing was repaired");
    };
    assert_eq!(repair.reason, Reason::Repair);
}

#[test]
fn the_thread_ends_with_its_orderer_and_touches_nothing() {
    let (kernel, fake, mut reported) = start();
    drop(kernel);
    assert_eq!(reported.blocking_recv(), None);
    assert!(fake.memory().syncs.is_empty());
}

#[test]
fn waiting_is_rounded_up_to_whole_milliseconds() {
    let wake = EventFd::from_value_and_flags(0, EfdFlags::EFD_NONBLOCK).unwrap();
    let begun = Instant::now();
    wait_for(wake.as_fd(), Vec::new(), Duration::from_micros(1500));
    assert!(begun.elapsed() >= Duration::from_micros(1500));
}
