use std::thread;

use ipnet::IpNet;
use shunt_cluster::{Netns, Peer};
use tokio::sync::mpsc::{self, Receiver};

use super::*;

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

/// A message of `RTM_NEWADDR`.
fn message(family: i32, flags: u32, attributes: &[(u16, &[u8])]) -> Vec<u8> {
    let family = u8::try_from(family).unwrap();
    let mut bytes = vec![family, 64, u8::try_from(flags & 0xff).unwrap(), 0, 7, 0, 0, 0];
    for (kind, payload) in attributes {
        bytes.extend(u16::try_from(payload.len() + 4).unwrap().to_ne_bytes());
        bytes.extend(kind.to_ne_bytes());
        bytes.extend(*payload);
        bytes.resize(bytes.len().next_multiple_of(4), 0);
    }
    bytes
}

#[test]
fn an_address_is_our_end_of_a_link() {
    let (own, peer) = ([10, 0, 0, 1], [10, 0, 0, 2]);
    let two = [(libc::IFA_ADDRESS, &peer[..]), (libc::IFA_LOCAL, &own[..])];
    assert_eq!(address(&message(libc::AF_INET, 0, &two)), Some(IpAddr::from(own)));
    let one = [(libc::IFA_ADDRESS, &peer[..])];
    assert_eq!(address(&message(libc::AF_INET, 0, &one)), Some(IpAddr::from(peer)));
    assert_eq!(address(&message(libc::AF_INET6, 0, &one)), None, "an address of another length");
    assert_eq!(address(&message(libc::AF_INET, 0, &[])), None);
}

#[test]
fn addresses_that_are_not_unique_do_not_count() {
    let ip = [0x20, 1, 0xd, 0xb8, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1];
    let with = |flags| address(&message(libc::AF_INET6, flags, &[(libc::IFA_ADDRESS, &ip[..])]));
    assert_eq!(with(libc::IFA_F_TENTATIVE), None);
    assert_eq!(with(libc::IFA_F_DADFAILED), None);
    assert_eq!(with(libc::IFA_F_TENTATIVE | libc::IFA_F_OPTIMISTIC), Some(ip.into()));
    assert_eq!(with(libc::IFA_F_DEPRECATED | libc::IFA_F_PERMANENT), Some(ip.into()));
    // The attribute has the last word.
    let flags = libc::IFA_F_TENTATIVE.to_ne_bytes();
    let attributes = [(libc::IFA_ADDRESS, &ip[..]), (libc::IFA_FLAGS, &flags[..])];
    assert_eq!(address(&message(libc::AF_INET6, 0, &attributes)), None);
}

#[test]
fn cut_messages_are_nothing() {
    let whole = message(libc::AF_INET, 0, &[(libc::IFA_LOCAL, &[10, 0, 0, 1])]);
    for length in 0..whole.len() {
        assert_eq!(address(&whole[..length]), None);
    }
    assert!(address(&whole).is_some());
}
