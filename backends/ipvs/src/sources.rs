//! From which address the node itself reaches an address on the device, before that address goes.
//!
//! The node reaches a local address from that very address (`ip_route_output_key_hash_rcu`), so a
//! connection of its own loses its source when the address goes, whoever forwards it. Routes of ours
//! name the source that connections to other machines have, so that only fewer use the address; it
//! goes when no socket does.

use std::collections::HashSet;
use std::fs;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, UdpSocket};

use nix::errno::Errno;
use nix::libc;
use shunt_netlink::{Message, Socket, attributes};

use crate::error::Error;

/// The mark of a route of ours: its protocol (`rtm_protocol`), a number that nobody has claimed
/// (`include/uapi/linux/rtnetlink.h`).
pub(crate) const OURS: u8 = 115;
/// `NLM_F_CREATE`: before what is there for the same address, not in its place.
const BEFORE: u16 = 0x400;
/// `LOOPBACK_IFINDEX`. A route by way of the device, which is down, is refused for IPv6.
const LOOPBACK: u32 = 1;
/// `struct rtmsg`.
const ROUTE_HEADER: usize = 12;
/// `RT_SCOPE_HOST`.
const SCOPE_HOST: u8 = 254;
/// Addresses of other machines (RFC 5737, RFC 3849). Nothing is sent to them.
const ELSEWHERE: [IpAddr; 2] = [
    IpAddr::V4(Ipv4Addr::new(203, 0, 113, 1)),
    IpAddr::V6(Ipv6Addr::new(0x2001, 0xdb8, 0, 0, 0, 0, 0, 1)),
];

/// Has new connections of the node to local addresses begin at the node's own address. Without one
/// of a family nothing is changed for it.
pub(crate) fn steer(socket: &mut Socket, addresses: &[IpAddr]) -> Result<(), Error> {
    // Of IPv4 an older one of ours may name another source.
    release(socket, addresses.iter().copied().filter(IpAddr::is_ipv4))?;
    let mut messages = Vec::new();
    for elsewhere in ELSEWHERE {
        let Some(source) = source_towards(elsewhere) else { continue };
        for address in addresses.iter().filter(|each| each.is_ipv4() == elsewhere.is_ipv4()) {
            messages.push(request(libc::RTM_NEWROUTE, BEFORE, *address, OURS, Some(source)));
            if address.is_ipv6() {
                // The kernel's own comes first, whenever ours was added.
                let own = libc::RTPROT_KERNEL;
                messages.push(request(libc::RTM_DELROUTE, 0, *address, own, None));
            }
        }
    }
    submit(socket, "name the source of connections to", messages)
}

/// The addresses to which the node has a local route of this protocol (`RTPROT_*`).
pub(crate) fn routes(protocol: u8) -> Result<HashSet<IpAddr>, Error> {
    let mut socket = Socket::open(libc::NETLINK_ROUTE)?;
    socket.filter_dumps();
    let mut found = HashSet::new();
    for family in [libc::AF_INET, libc::AF_INET6] {
        let family = u8::try_from(family).unwrap_or_default();
        let mut message = Message::new(libc::RTM_GETROUTE, 0);
        message.raw(&[family, 0, 0, 0, libc::RT_TABLE_LOCAL, protocol, 0, 0, 0, 0, 0, 0]);
        let each = |found: &mut Vec<IpAddr>, payload: &[u8]| {
            found.extend(route(family, protocol, payload));
        };
        match socket.dump("list local routes", &message, each) {
            Ok(addresses) => found.extend(addresses),
            // The table comes with the first address of the family.
            Err(error) if error.errno() == Some(Errno::ENOENT) => {}
            Err(error) => return Err(error.into()),
        }
    }
    Ok(found)
}

/// Where a route leads to, if it is a local one of this family and protocol to one address.
fn route(family: u8, protocol: u8, payload: &[u8]) -> Option<IpAddr> {
    let header = payload.first_chunk::<ROUTE_HEADER>()?;
    let wanted = [family, protocol, libc::RT_TABLE_LOCAL, libc::RTN_LOCAL];
    if [header[0], header[5], header[4], header[7]] != wanted {
        return None;
    }
    let mut attributes = attributes(&payload[ROUTE_HEADER..]);
    let to = attributes.find(|attribute| attribute.kind == libc::RTA_DST)?.payload;
    match (header[1], <[u8; 4]>::try_from(to), <[u8; 16]>::try_from(to)) {
        (32, Ok(octets), _) => Some(octets.into()),
        (128, _, Ok(octets)) => Some(octets.into()),
        _ => None,
    }
}

/// Takes back [`steer`]. An address of IPv6 that stays needs its own route again.
pub(crate) fn release(
    socket: &mut Socket,
    addresses: impl IntoIterator<Item = IpAddr>,
) -> Result<(), Error> {
    let message = |address| request(libc::RTM_DELROUTE, 0, address, OURS, None);
    submit(socket, "remove our route to", addresses.into_iter().map(message).collect())
}

/// The source of what the node sends to another machine; `None` if it has no route there. No packet
/// is sent for it.
fn source_towards(elsewhere: IpAddr) -> Option<IpAddr> {
    let any: IpAddr = match elsewhere {
        IpAddr::V4(_) => Ipv4Addr::UNSPECIFIED.into(),
        IpAddr::V6(_) => Ipv6Addr::UNSPECIFIED.into(),
    };
    let socket = UdpSocket::bind((any, 0)).ok()?;
    socket.connect((elsewhere, 9)).ok()?;
    let source = socket.local_addr().ok()?.ip();
    (source != elsewhere && !source.is_loopback()).then_some(source)
}

/// A local route to one address: `struct rtmsg`, then `RTA_*`.
fn request(
    kind: u16,
    flags: u16,
    address: IpAddr,
    protocol: u8,
    source: Option<IpAddr>,
) -> Message {
    let (family, bits, octets) = octets(address);
    let table = libc::RT_TABLE_LOCAL;
    let scope = if address.is_ipv4() { SCOPE_HOST } else { 0 };
    let mut message = Message::new(kind, flags);
    message.raw(&[family, bits, 0, 0, table, protocol, scope, libc::RTN_LOCAL, 0, 0, 0, 0]);
    message.bytes(libc::RTA_DST, &octets);
    if let Some(source) = source {
        message.bytes(libc::RTA_OIF, &LOOPBACK.to_ne_bytes());
        message.bytes(libc::RTA_PREFSRC, &self::octets(source).2);
    }
    message
}

fn octets(address: IpAddr) -> (u8, u8, Vec<u8>) {
    // `AF_INET` and `AF_INET6`.
    match address {
        IpAddr::V4(address) => (2, 32, address.octets().to_vec()),
        IpAddr::V6(address) => (10, 128, address.octets().to_vec()),
    }
}

/// What is there already, or is not there, is no error.
fn submit(socket: &mut Socket, what: &'static str, messages: Vec<Message>) -> Result<(), Error> {
    if messages.is_empty() {
        return Ok(());
    }
    let harmless = [Errno::EEXIST, Errno::ESRCH];
    let refused = socket.submit(messages)?;
    match refused.into_iter().find(|(_, errno)| !harmless.contains(errno)) {
        None => Ok(()),
        Some((_, errno)) => {
            let detail = "an address of a Service".to_owned();
            Err(shunt_netlink::Error::Refused { what, errno, detail }.into())
        }
    }
}

/// The addresses that sockets of this network namespace send from: `/proc/net/tcp` and the like
/// (`net/ipv4/tcp_ipv4.c`). A table that cannot be read has none.
pub(crate) fn in_use() -> HashSet<IpAddr> {
    let mut used = HashSet::new();
    for table in ["tcp", "tcp6", "udp", "udp6"] {
        let text = fs::read_to_string(format!("/proc/thread-self/net/{table}"));
        used.extend(text.unwrap_or_default().lines().filter_map(local));
    }
    used
}

/// The local address of a line, if its socket has a peer and more to say.
fn local(line: &str) -> Option<IpAddr> {
    /// `TCP_TIME_WAIT`, `TCP_CLOSE` (of UDP: without a peer), `TCP_LISTEN`.
    const OVER: [&str; 3] = ["06", "07", "0A"];
    let mut fields = line.split_whitespace().skip(1);
    let (local, _, state) = (fields.next()?, fields.next()?, fields.next()?);
    if OVER.contains(&state) {
        return None;
    }
    let (address, _port) = local.split_once(':')?;
    let word = |at: usize| u32::from_str_radix(address.get(at..at + 8)?, 16).ok();
    // Words of network byte order, printed as numbers of this machine.
    if address.len() == 8 {
        return Some(Ipv4Addr::from(word(0)?.to_ne_bytes()).into());
    }
    let words = [word(0)?, word(8)?, word(16)?, word(24)?].map(u32::to_ne_bytes);
    let octets: [u8; 16] = words.concat().try_into().ok()?;
    Some(Ipv6Addr::from(octets).to_canonical())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn local_addresses_of_live_sockets_are_read() {
        let of = |address: &str, state: &str| {
            local(&format!("   0: {address} 0A00000A:0050 {state} 00000000:00000000 00:0 0 0 0"))
        };
        let ip = |text: &str| text.parse::<IpAddr>().ok();
        assert_eq!(of("0100007F:1F90", "01"), ip("127.0.0.1"));
        assert_eq!(of("0100007F:1F90", "06"), None);
        assert_eq!(of("0100007F:1F90", "0A"), None);
        assert_eq!(of("960000FD000000000000000009000000:1F90", "01"), ip("fd00:96::9"));
        assert_eq!(of("0000000000000000FFFF00000100007F:1F90", "02"), ip("127.0.0.1"));
        assert_eq!(local("  sl  local_address rem_address   st tx_queue"), None);
    }

    #[test]
    fn local_routes_are_read() {
        let of = |protocol: u8, kind: u8| {
            let mut message = vec![2, 32, 0, 0, libc::RT_TABLE_LOCAL, protocol, 254, kind];
            message.extend([0; 4]);
            message.extend([8, 0, 15, 0, 255, 0, 0, 0, 8, 0, 1, 0, 10, 96, 0, 1]);
            route(2, OURS, &message)
        };
        assert_eq!(of(OURS, libc::RTN_LOCAL), Some([10, 96, 0, 1].into()));
        assert_eq!(of(libc::RTPROT_KERNEL, libc::RTN_LOCAL), None);
        assert_eq!(of(OURS, libc::RTN_BROADCAST), None);
        // This machine's own.
        let loopback = IpAddr::from([127, 0, 0, 1]);
        assert!(routes(libc::RTPROT_KERNEL).unwrap().contains(&loopback));
        assert!(!routes(OURS).unwrap().contains(&loopback));
    }

    #[test]
    fn a_socket_of_ours_is_found() {
        let address: IpAddr = [127, 115, 104, 117].into();
        let listener = std::net::TcpListener::bind((address, 0)).unwrap();
        assert!(!in_use().contains(&address), "it sends nothing");
        let to = listener.local_addr().unwrap();
        let _stream = std::net::TcpStream::connect(to).unwrap();
        assert!(in_use().contains(&address));
    }
}
