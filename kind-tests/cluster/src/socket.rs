//! Sockets made in the namespace of the calling thread; once made, any thread may use them.

use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, TcpStream, UdpSocket};
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::time::{Duration, Instant};

use nix::errno::Errno;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::socket::{
    self, AddressFamily, SockFlag, SockProtocol, SockType, SockaddrStorage, sockopt,
};

/// How often an SCTP socket that connects is asked for errors.
const ASK_AGAIN: Duration = Duration::from_millis(10);

/// A TCP socket that does not block, bound to `source` if there is one, for a peer in the family of `peer`.
pub(crate) fn tcp(peer: IpAddr, source: Option<SocketAddr>) -> io::Result<OwnedFd> {
    let fd = open(peer, SockType::Stream)?;
    if let Some(source) = source {
        // The same source port again and again is what tests of affinity ask for.
        socket::setsockopt(&fd, sockopt::ReuseAddr, &true)?;
        socket::bind(fd.as_raw_fd(), &SockaddrStorage::from(source))?;
    }
    Ok(fd)
}

/// A UDP socket that blocks, bound to `source` or to a free port.
pub(crate) fn udp(peer: IpAddr, source: Option<SocketAddr>) -> io::Result<UdpSocket> {
    let fd = open(peer, SockType::Datagram)?;
    let source = source.unwrap_or_else(|| SocketAddr::new(unspecified(peer), 0));
    socket::bind(fd.as_raw_fd(), &SockaddrStorage::from(source))?;
    let udp = UdpSocket::from(fd);
    udp.set_nonblocking(false)?;
    Ok(udp)
}

/// Whether this kernel has SCTP. Where it is a module, asking may load it.
pub fn has_sctp() -> bool {
    open_sctp(Ipv4Addr::UNSPECIFIED.into()).is_ok()
}

/// An SCTP socket for one association ("one-to-one style", RFC 6458 section 4) that does not block, bound to `source`
/// or to the address that routing takes to `peer`.
pub(crate) fn sctp(peer: SocketAddr, source: Option<SocketAddr>) -> io::Result<OwnedFd> {
    let fd = open_sctp(peer.ip())?;
    // Both ends of an association tell each other all addresses of their sockets. NAT does not know these lists: this
    // end has one address, and then there is no list.
    let (address, port) = source.map_or((unspecified(peer.ip()), 0), |s| (s.ip(), s.port()));
    let address = if address.is_unspecified() { route_source(peer)? } else { address };
    socket::bind(fd.as_raw_fd(), &SockaddrStorage::from(SocketAddr::new(address, port)))?;
    Ok(fd)
}

/// The own address that routing takes to a peer.
fn route_source(peer: SocketAddr) -> io::Result<IpAddr> {
    let socket = udp(peer.ip(), None)?;
    socket.connect(peer)?;
    Ok(socket.local_addr()?.ip())
}

/// An SCTP socket like that of [`open`].
pub(crate) fn open_sctp(address: IpAddr) -> nix::Result<OwnedFd> {
    open_as(address, SockType::Stream, Some(SockProtocol::Sctp))
}

/// Starts to connect a socket of [`tcp`] or [`sctp`]; true when it is connected already.
pub(crate) fn start_connect(fd: &OwnedFd, address: SocketAddr) -> io::Result<bool> {
    match socket::connect(fd.as_raw_fd(), &SockaddrStorage::from(address)) {
        Ok(()) => Ok(true),
        Err(Errno::EINPROGRESS | Errno::EINTR) => Ok(false),
        Err(errno) => Err(errno.into()),
    }
}

/// Connects a socket of [`tcp`] and makes it a blocking stream.
pub(crate) fn connect(
    fd: OwnedFd,
    address: SocketAddr,
    timeout: Duration,
) -> io::Result<TcpStream> {
    if !start_connect(&fd, address)? {
        await_writable(&fd, timeout)?;
        pending_error(&fd)?;
    }
    let stream = TcpStream::from(fd);
    stream.set_nonblocking(false)?;
    stream.set_nodelay(true)?;
    Ok(stream)
}

/// Connects a socket of [`sctp`] and makes it blocking. What it becomes reads and writes like a TCP connection; only
/// options of TCP does it not have.
pub(crate) fn connect_sctp(
    fd: OwnedFd,
    address: SocketAddr,
    timeout: Duration,
) -> io::Result<TcpStream> {
    let deadline = Instant::now() + timeout;
    let mut connected = start_connect(&fd, address)?;
    while !connected {
        // An ICMP refusal wakes nobody, and is told to who asks.
        match await_writable(&fd, ASK_AGAIN) {
            Err(error) if error.kind() == io::ErrorKind::TimedOut && Instant::now() < deadline => {}
            Err(error) => return Err(error),
            Ok(()) => connected = true,
        }
        pending_error(&fd)?;
    }
    let stream = TcpStream::from(fd);
    stream.set_nonblocking(false)?;
    Ok(stream)
}

/// The error the kernel keeps for this socket, as after a connect that did not block.
pub(crate) fn pending_error(fd: &impl AsFd) -> io::Result<()> {
    match socket::getsockopt(&fd.as_fd(), sockopt::SocketError)? {
        0 => Ok(()),
        code => Err(io::Error::from_raw_os_error(code)),
    }
}

/// The unspecified address in the family of this one.
pub(crate) fn unspecified(like: IpAddr) -> IpAddr {
    match like {
        IpAddr::V4(_) => Ipv4Addr::UNSPECIFIED.into(),
        IpAddr::V6(_) => Ipv6Addr::UNSPECIFIED.into(),
    }
}

/// A socket of the family of `address` that does not block and is not inherited by children.
pub(crate) fn open(address: IpAddr, kind: SockType) -> nix::Result<OwnedFd> {
    open_as(address, kind, None)
}

fn open_as(
    address: IpAddr,
    kind: SockType,
    protocol: Option<SockProtocol>,
) -> nix::Result<OwnedFd> {
    let family = match address {
        IpAddr::V4(_) => AddressFamily::Inet,
        IpAddr::V6(_) => AddressFamily::Inet6,
    };
    let flags = SockFlag::SOCK_CLOEXEC | SockFlag::SOCK_NONBLOCK;
    socket::socket(family, kind, flags, protocol)
}

fn await_writable(fd: &OwnedFd, timeout: Duration) -> io::Result<()> {
    let deadline = Instant::now() + timeout;
    loop {
        let left = deadline.saturating_duration_since(Instant::now());
        let wait = PollTimeout::try_from(left).unwrap_or(PollTimeout::MAX);
        match poll(&mut [PollFd::new(fd.as_fd(), PollFlags::POLLOUT)], wait) {
            Ok(0) if left.is_zero() => return Err(io::ErrorKind::TimedOut.into()),
            Ok(0) | Err(Errno::EINTR) => {}
            Ok(_) => return Ok(()),
            Err(errno) => return Err(errno.into()),
        }
    }
}
