use std::thread;

use ipnet::IpNet;
use shunt_cluster::{Netns, Peer};
use tokio::sync::mpsc::{self, Receiver};

use super::*;
use crate::addresses::SERVICE_DEVICE;

/// Addresses told by a watch in a namespace of its own, with a device `d`. It is an end of a veth
/// pair, which unlike a dummy device every kernel has.
struct Live {
    netns: Netns,
    events: Receiver<SourceEvent>,
    watching: thread::JoinHandle<()>,
}

impl Live {
    fn start() -> Self {
        let netns = Netns::new("local").unwrap();
        let peer = Peer { name: "peer", netns: netns.fd() };
        netns.links().add_veth("d", None, &peer).unwrap();
        netns.links().set_up("d").unwrap();
        netns.links().set_up("peer").unwrap();
        let (out, events) = mpsc::channel(4);
        let watching = netns
            .thread("watch", move || {
                let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
                runtime.unwrap().block_on(watch(out));
            })
            .unwrap();
        Self { netns, events, watching }
    }

    fn add(&self, device: &str, address: &str) {
        let address: IpNet = address.parse().unwrap();
        self.netns.links().add_address(device, address).unwrap();
    }

    /// Waits until just these are told, apart from link-local addresses, which the kernel makes.
    fn tells(&mut self, expected: &[&str]) {
        let expected: BTreeSet<IpAddr> = expected.iter().map(|ip| ip.parse().unwrap()).collect();
        let runtime = tokio::runtime::Builder::new_current_thread().enable_time().build().unwrap();
        let mut last = None;
        runtime.block_on(async {
            loop {
                let next = tokio::time::timeout(Duration::from_secs(20), self.events.recv()).await;
                let Ok(Some(SourceEvent::Change(Change::LocalAddresses(told)))) = next else {
                    panic!("{next:?} after {last:?}; expected {expected:?}");
                };
                assert_ne!(last.as_ref(), Some(&told), "told twice");
                let of_the_kernel =
                    |ip: &IpAddr| matches!(ip, IpAddr::V6(ip) if ip.is_unicast_link_local());
                if told.iter().filter(|ip| !of_the_kernel(ip)).eq(&expected) {
                    return;
                }
                last = Some(told);
            }
        });
    }
}

#[test]
fn addresses_are_told_as_they_come_and_go() {
    let mut live = Live::start();
    live.tells(&["127.0.0.1", "::1"]);
    live.add("d", "192.0.2.1/24");
    live.tells(&["127.0.0.1", "192.0.2.1", "::1"]);
    // Told once it is no longer tentative.
    live.add("d", "2001:db8::1/64");
    live.tells(&["127.0.0.1", "192.0.2.1", "::1", "2001:db8::1"]);
    live.netns.links().remove_address("d", "192.0.2.1/24".parse().unwrap()).unwrap();
    live.tells(&["127.0.0.1", "::1", "2001:db8::1"]);
    live.netns.links().remove("d").unwrap();
    live.tells(&["127.0.0.1", "::1"]);
}

#[test]
fn addresses_of_services_are_not_the_nodes() {
    let mut live = Live::start();
    live.tells(&["127.0.0.1", "::1"]);
    live.netns.links().add("bridge", SERVICE_DEVICE).unwrap();
    for last in 1..=100 {
        live.add(SERVICE_DEVICE, &format!("10.96.0.{last}/32"));
    }
    live.add("d", "192.0.2.1/24");
    live.tells(&["127.0.0.1", "192.0.2.1", "::1"]);
}

#[test]
fn an_address_on_two_devices_stays_until_both_have_lost_it() {
    let mut live = Live::start();
    live.add("d", "192.0.2.1/32");
    live.add("lo", "192.0.2.1/32");
    live.tells(&["127.0.0.1", "192.0.2.1", "::1"]);
    live.netns.links().remove("d").unwrap();
    live.add("lo", "192.0.2.2/32");
    live.tells(&["127.0.0.1", "192.0.2.1", "192.0.2.2", "::1"]);
}

#[test]
fn it_ends_when_nobody_listens() {
    let mut live = Live::start();
    live.tells(&["127.0.0.1", "::1"]);
    drop(live.events);
    live.watching.join().unwrap();
}
