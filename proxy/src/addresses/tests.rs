use shunt_cluster::{Netns, Peer};

use super::*;

/// A message of `RTM_NEWADDR`.
fn message(family: i32, flags: u32, attributes: &[(u16, &[u8])]) -> Vec<u8> {
    let family = u8::try_from(family).unwrap();
    let mut bytes = vec![family, 24, u8::try_from(flags & 0xff).unwrap(), 0, 7, 0, 0, 0];
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
    let (own, peer) = ([10, 0, 0, 1], [10, 0, 1, 2]);
    let two = [(libc::IFA_ADDRESS, &peer[..]), (libc::IFA_LOCAL, &own[..])];
    let expected = Address {
        interface: 7,
        own: own.into(),
        network: "10.0.1.2/24".parse().unwrap(),
        is_usable: true,
    };
    assert_eq!(decode(&message(libc::AF_INET, 0, &two)), Some(expected));
    let one = [(libc::IFA_ADDRESS, &peer[..])];
    let expected = Address { own: peer.into(), ..expected };
    assert_eq!(decode(&message(libc::AF_INET, 0, &one)), Some(expected));
    assert_eq!(decode(&message(libc::AF_INET6, 0, &one)), None, "an address of another length");
    assert_eq!(decode(&message(libc::AF_INET, 0, &[])), None);
}

#[test]
fn addresses_that_are_not_unique_cannot_be_used() {
    let ip = [0x20, 1, 0xd, 0xb8, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1];
    let is_usable = |flags, attributes: &[_]| {
        decode(&message(libc::AF_INET6, flags, attributes)).unwrap().is_usable
    };
    let with = |flags| is_usable(flags, &[(libc::IFA_ADDRESS, &ip[..])]);
    assert!(!with(libc::IFA_F_TENTATIVE));
    assert!(!with(libc::IFA_F_DADFAILED));
    assert!(with(libc::IFA_F_TENTATIVE | libc::IFA_F_OPTIMISTIC));
    assert!(with(libc::IFA_F_DEPRECATED | libc::IFA_F_PERMANENT));
    // The attribute has the last word.
    let flags = libc::IFA_F_TENTATIVE.to_ne_bytes();
    assert!(!is_usable(0, &[(libc::IFA_ADDRESS, &ip[..]), (libc::IFA_FLAGS, &flags[..])]));
}

#[test]
fn cut_messages_are_nothing() {
    let whole = message(libc::AF_INET, 0, &[(libc::IFA_LOCAL, &[10, 0, 0, 1])]);
    for length in 0..whole.len() {
        assert_eq!(decode(&whole[..length]), None);
    }
    assert!(decode(&whole).is_some());
}

/// How many events wait, of whatever device.
fn waiting(events: &mut Events) -> usize {
    let mut count = 0;
    assert!(!events.socket.drain(|_, _, _| count += 1).unwrap(), "some are lost");
    count
}

/// Adds the first addresses of a network to a device.
fn add(netns: &Netns, device: &str, network: &str, count: u8) {
    for last in 1..=count {
        let address = format!("{network}{last}/32").parse().unwrap();
        netns.links().add_address(device, address).unwrap();
    }
}

#[test]
fn the_kernel_does_not_tell_of_services() {
    let netns = Netns::new("events").unwrap();
    let peer = Peer { name: "peer", netns: netns.fd() };
    netns.links().add_veth("d", None, &peer).unwrap();
    let mut events = netns.run(|| Events::open(GROUPS)).unwrap();
    // A device that comes later is told of once.
    netns.links().add("bridge", SERVICE_DEVICE).unwrap();
    add(&netns, SERVICE_DEVICE, "10.96.0.", 3);
    let (concerned, mut events) = netns.run(move || (events.concern_us().unwrap(), events));
    assert!(!concerned && events.ignored.is_some());
    add(&netns, SERVICE_DEVICE, "10.96.1.", 100);
    add(&netns, "d", "192.0.2.", 2);
    assert_eq!(waiting(&mut events), 2);
    // One that is there is not told of at all, and what it is replaced by as above.
    let mut events = netns.run(|| Events::open(GROUPS)).unwrap();
    add(&netns, SERVICE_DEVICE, "10.96.2.", 100);
    assert_eq!(waiting(&mut events), 0);
    netns.links().remove(SERVICE_DEVICE).unwrap();
    netns.links().add("bridge", SERVICE_DEVICE).unwrap();
    add(&netns, SERVICE_DEVICE, "10.96.3.", 1);
    assert_eq!(waiting(&mut events), 1);
    let (concerned, mut events) = netns.run(move || (events.concern_us().unwrap(), events));
    add(&netns, SERVICE_DEVICE, "10.96.4.", 100);
    assert_eq!((concerned, waiting(&mut events)), (false, 0));
}
