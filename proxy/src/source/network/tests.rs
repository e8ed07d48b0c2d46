use ipnet::IpNet;
use shunt_cluster::{Netns, Peer};

use super::*;
use crate::addresses::SERVICE_DEVICE;

/// Longer than changes are gathered.
const QUIET: Duration = Duration::from_millis(500);
const PATIENCE: Duration = Duration::from_secs(20);

/// Whether events are told within a time; in a thread of the namespace.
fn told(runtime: &tokio::runtime::Runtime, events: &mut Events, within: Duration) -> bool {
    let next = async { tokio::time::timeout(within, Events::next(Some(events))).await.is_ok() };
    runtime.block_on(next)
}

fn add(netns: &Netns, device: &str, addresses: impl IntoIterator<Item = String>) {
    for address in addresses {
        let address: IpNet = address.parse().unwrap();
        netns.links().add_address(device, address).unwrap();
    }
}

#[test]
fn addresses_of_services_are_no_reason_to_look() {
    let netns = Netns::new("network").unwrap();
    let peer = Peer { name: "peer", netns: netns.fd() };
    netns.links().add_veth("d", None, &peer).unwrap();
    netns.links().add("bridge", SERVICE_DEVICE).unwrap();
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    let (mut events, runtime) = netns.run(move || {
        let events = runtime.block_on(async { Events::open().unwrap() });
        (events, runtime)
    });
    // What came before is not told.
    assert!(!told(&runtime, &mut events, QUIET));
    add(&netns, SERVICE_DEVICE, (1..=100).map(|last| format!("10.96.0.{last}/32")));
    let (seen, mut events, runtime) = netns.run(move || {
        let seen = told(&runtime, &mut events, QUIET);
        (seen, events, runtime)
    });
    assert!(!seen, "addresses of Services");
    add(&netns, "d", ["192.0.2.1/24".to_owned()]);
    let seen = netns.run(move || told(&runtime, &mut events, PATIENCE));
    assert!(seen, "an address of the node");
}
