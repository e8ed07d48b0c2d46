//! UDP answers that leave from the address the question came to, on a socket bound to all addresses.

use std::io::{IoSlice, IoSliceMut};
use std::net::{Ipv6Addr, SocketAddr, SocketAddrV4, SocketAddrV6, UdpSocket};
use std::os::fd::{AsRawFd, OwnedFd};
use std::sync::atomic::{AtomicU64, Ordering};

use nix::libc::{in_pktinfo, in6_pktinfo};
use nix::sys::socket::{
    ControlMessage, ControlMessageOwned, MsgFlags, SockaddrStorage, recvmsg, sendmsg, setsockopt,
    sockopt,
};

/// Answered in one go before other sockets have their turn.
const BURST: usize = 256;
/// The longest datagram there is.
pub(crate) const LONGEST: usize = 1 << 16;

/// Makes the socket say to which address each datagram was sent.
pub(crate) fn tell_destination(fd: &OwnedFd, bound: SocketAddr) -> nix::Result<()> {
    if bound.is_ipv4() {
        setsockopt(fd, sockopt::Ipv4PacketInfo, &true)
    } else {
        setsockopt(fd, sockopt::Ipv6RecvPacketInfo, &true)
    }
}

/// Answers what waits on the socket and counts it. `buffer` holds [`LONGEST`] bytes.
pub(crate) fn answer_all(socket: &UdpSocket, name: &str, buffer: &mut [u8], count: &AtomicU64) {
    for _ in 0..BURST {
        if answer(socket, name, buffer, count).is_none() {
            return;
        }
    }
}

/// The address a datagram was sent to.
enum Destination {
    V4(in_pktinfo),
    V6(in6_pktinfo),
}

/// Answers one datagram; none when there is none.
fn answer(socket: &UdpSocket, name: &str, buffer: &mut [u8], count: &AtomicU64) -> Option<()> {
    let mut control = nix::cmsg_space!(in_pktinfo, in6_pktinfo);
    let mut space = [IoSliceMut::new(buffer)];
    let received = recvmsg::<SockaddrStorage>(
        socket.as_raw_fd(),
        &mut space,
        Some(&mut control),
        MsgFlags::empty(),
    )
    .ok()?;
    let length = received.bytes;
    let storage = received.address?;
    let destination = received.cmsgs().ok()?.find_map(|message| match message {
        ControlMessageOwned::Ipv4PacketInfo(info) => Some(Destination::V4(info)),
        ControlMessageOwned::Ipv6PacketInfo(info) => Some(Destination::V6(info)),
        _ => None,
    })?;
    let head = format!("{name} {}\n", address(&storage)?);
    let parts = [IoSlice::new(head.as_bytes()), IoSlice::new(&buffer[..length])];
    // First counted: who has an answer finds it in the count.
    count.fetch_add(1, Ordering::Relaxed);
    // A client that cannot be answered will find out by itself.
    let _ = match destination {
        Destination::V4(info) => {
            let info =
                in_pktinfo { ipi_ifindex: 0, ipi_spec_dst: info.ipi_addr, ipi_addr: info.ipi_addr };
            let from = [ControlMessage::Ipv4PacketInfo(&info)];
            sendmsg(socket.as_raw_fd(), &parts, &from, MsgFlags::empty(), Some(&storage))
        }
        Destination::V6(mut info) => {
            // Routing decides, unless the address means something on one link only.
            if !Ipv6Addr::from(info.ipi6_addr.s6_addr).is_unicast_link_local() {
                info.ipi6_ifindex = 0;
            }
            let from = [ControlMessage::Ipv6PacketInfo(&info)];
            sendmsg(socket.as_raw_fd(), &parts, &from, MsgFlags::empty(), Some(&storage))
        }
    };
    Some(())
}

pub(crate) fn address(storage: &SockaddrStorage) -> Option<SocketAddr> {
    let v4 = storage.as_sockaddr_in().map(|a| SocketAddrV4::from(*a));
    let v6 = storage.as_sockaddr_in6().map(|a| SocketAddrV6::from(*a));
    v4.map(SocketAddr::V4).or(v6.map(SocketAddr::V6))
}
