//! A server that says who it is and whom it sees, one thread for all its ports, connections and datagrams.
//!
//! - TCP: on accept it sends one line `name source_ip:port` (IPv6 in brackets), then answers every line it receives
//!   with `name line`, until the client closes.
//! - SCTP, with [`EchoServer::start_sctp`]: as with TCP, each line a message.
//! - UDP: it answers each datagram with the line `name source_ip:port` followed by the payload, from the address the
//!   datagram came to.

use std::collections::HashMap;
use std::io::{ErrorKind, Read, Write};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, TcpListener, TcpStream, UdpSocket};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::thread::{self, JoinHandle};
use std::time::Duration;

use anyhow::{Context, Result};
use nix::errno::Errno;
use nix::sys::epoll::{Epoll, EpollCreateFlags, EpollEvent, EpollFlags, EpollTimeout};
use nix::sys::eventfd::{EfdFlags, EventFd};
use nix::sys::socket::{self, Backlog, SockType, SockaddrStorage, sockopt};

use crate::datagram;
use crate::netns::Netns;
use crate::socket::{open, open_sctp};

/// A client that sends more than this without a line's end is cut off.
pub(crate) const LONGEST_LINE: usize = 64 << 10;
/// Accepted in one go before other sockets have their turn.
const BURST: usize = 256;
/// Bytes of datagrams that may wait.
const UDP_QUEUE: usize = 8 << 20;
/// The event that ends the server.
const STOP: u64 = 0;

/// A running echo server. Dropping it closes its sockets and connections.
pub struct EchoServer {
    stop: Arc<EventFd>,
    counters: Arc<Counters>,
    handle: Option<JoinHandle<()>>,
}

#[derive(Default)]
struct Counters {
    connections: AtomicU64,
    open: AtomicU64,
    datagrams: AtomicU64,
}

impl EchoServer {
    /// Starts it on all addresses of a namespace, TCP and UDP, IPv4 and IPv6. It listens when this returns.
    pub fn start(netns: &Netns, name: &str, ports: &[u16]) -> Result<Self> {
        Self::start_with(netns, name, ports, bind_both)
    }

    /// Starts it for SCTP only, which the kernel must have.
    pub fn start_sctp(netns: &Netns, name: &str, ports: &[u16]) -> Result<Self> {
        Self::start_with(netns, name, ports, bind_sctp)
    }

    fn start_with(netns: &Netns, name: &str, ports: &[u16], bind: Bind) -> Result<Self> {
        let ports = ports.to_vec();
        let sockets = netns
            .run(move || bind_all(&ports, bind))
            .with_context(|| format!("starting the echo server of {name}"))?;
        let stop = Arc::new(EventFd::from_flags(EfdFlags::EFD_CLOEXEC)?);
        let counters = Arc::new(Counters::default());
        let server = Server::new(name, sockets, stop.as_fd(), Arc::clone(&counters))?;
        let handle = thread::Builder::new()
            .name(format!("echo-{name}"))
            .stack_size(256 << 10)
            .spawn(move || server.serve())?;
        Ok(Self { stop, counters, handle: Some(handle) })
    }

    /// The connections accepted since the start.
    pub fn connections(&self) -> u64 {
        self.counters.connections.load(Ordering::Relaxed)
    }

    /// The connections open now.
    pub fn open_connections(&self) -> u64 {
        self.counters.open.load(Ordering::Relaxed)
    }

    /// The UDP datagrams answered since the start.
    pub fn datagrams(&self) -> u64 {
        self.counters.datagrams.load(Ordering::Relaxed)
    }
}

impl Drop for EchoServer {
    fn drop(&mut self) {
        let told = self.stop.write(1).is_ok();
        if let Some(handle) = self.handle.take().filter(|_| told) {
            // A panic of the server was printed when it happened.
            let _ = handle.join();
        }
    }
}

enum Listener {
    Tcp(TcpListener),
    Sctp(TcpListener),
    Udp(UdpSocket),
}

impl AsFd for Listener {
    fn as_fd(&self) -> BorrowedFd<'_> {
        match self {
            Self::Tcp(listener) | Self::Sctp(listener) => listener.as_fd(),
            Self::Udp(socket) => socket.as_fd(),
        }
    }
}

/// What listens on an address.
type Bind = fn(SocketAddr) -> nix::Result<Vec<Listener>>;

/// Binds all ports in the calling thread's namespace.
fn bind_all(ports: &[u16], bind: Bind) -> Result<Vec<Listener>> {
    let mut listeners = Vec::new();
    for port in ports {
        let addresses: [IpAddr; 2] = [Ipv4Addr::UNSPECIFIED.into(), Ipv6Addr::UNSPECIFIED.into()];
        for address in addresses.map(|ip| SocketAddr::new(ip, *port)) {
            match bind(address) {
                Ok(bound) => listeners.extend(bound),
                // A kernel without IPv6.
                Err(Errno::EAFNOSUPPORT) if address.is_ipv6() => {}
                Err(errno) => return Err(errno).with_context(|| format!("listening on {address}")),
            }
        }
    }
    Ok(listeners)
}

fn bind_both(address: SocketAddr) -> nix::Result<Vec<Listener>> {
    let tcp = bound(address, open(address.ip(), SockType::Stream)?, |fd| {
        // Connections of an earlier server may linger. For UDP it would let two servers have the same port.
        socket::setsockopt(fd, sockopt::ReuseAddr, &true)
    })?;
    socket::listen(&tcp, Backlog::MAXALLOWABLE)?;
    let udp = bound(address, open(address.ip(), SockType::Datagram)?, |fd| {
        // Room for a burst: a datagram lost in our own queue would look like one lost on the way. Where it is not
        // allowed, the default stays.
        let _ = socket::setsockopt(fd, sockopt::RcvBufForce, &UDP_QUEUE);
        datagram::tell_destination(fd, address)
    })?;
    Ok(vec![Listener::Tcp(tcp.into()), Listener::Udp(udp.into())])
}

fn bind_sctp(address: SocketAddr) -> nix::Result<Vec<Listener>> {
    let sctp = bound(address, open_sctp(address.ip())?, |_| Ok(()))?;
    socket::listen(&sctp, Backlog::MAXALLOWABLE)?;
    Ok(vec![Listener::Sctp(sctp.into())])
}

fn bound(
    address: SocketAddr,
    fd: OwnedFd,
    prepare: impl FnOnce(&OwnedFd) -> nix::Result<()>,
) -> nix::Result<OwnedFd> {
    prepare(&fd)?;
    if address.is_ipv6() {
        socket::setsockopt(&fd, sockopt::Ipv6V6Only, &true)?;
    }
    socket::bind(fd.as_raw_fd(), &SockaddrStorage::from(address))?;
    Ok(fd)
}

struct Server {
    name: String,
    epoll: Epoll,
    /// Listener i has event i + 1.
    listeners: Vec<Listener>,
    connections: HashMap<u64, Conversation>,
    next: u64,
    /// For one datagram at a time.
    buffer: Vec<u8>,
    counters: Arc<Counters>,
}

impl Server {
    fn new(
        name: &str,
        listeners: Vec<Listener>,
        stop: BorrowedFd<'_>,
        counters: Arc<Counters>,
    ) -> Result<Self> {
        let epoll = Epoll::new(EpollCreateFlags::EPOLL_CLOEXEC)?;
        epoll.add(stop, EpollEvent::new(EpollFlags::EPOLLIN, STOP))?;
        let mut next = STOP + 1;
        for listener in &listeners {
            epoll.add(listener, EpollEvent::new(EpollFlags::EPOLLIN, next))?;
            next += 1;
        }
        Ok(Self {
            name: name.to_owned(),
            epoll,
            listeners,
            connections: HashMap::new(),
            next,
            buffer: vec![0; datagram::LONGEST],
            counters,
        })
    }

    fn serve(mut self) {
        let mut events = [EpollEvent::empty(); 128];
        loop {
            let count = match self.epoll.wait(&mut events, EpollTimeout::NONE) {
                Ok(count) => count,
                Err(Errno::EINTR) => continue,
                Err(_) => return,
            };
            for event in &events[..count] {
                if event.data() == STOP {
                    return;
                }
                self.handle(event.data());
            }
        }
    }

    fn handle(&mut self, event: u64) {
        let listener = usize::try_from(event - 1).unwrap_or(usize::MAX);
        match self.listeners.get(listener) {
            Some(Listener::Tcp(_) | Listener::Sctp(_)) => self.accept(listener),
            Some(Listener::Udp(socket)) => {
                let count = &self.counters.datagrams;
                datagram::answer_all(socket, &self.name, &mut self.buffer, count);
            }
            None => self.talk(event),
        }
    }

    fn accept(&mut self, index: usize) {
        for _ in 0..BURST {
            let accepted = match self.listeners.get(index) {
                Some(Listener::Tcp(listener)) => listener.accept().inspect(|(stream, _)| {
                    // Fails only on a connection that is dead already.
                    let _ = stream.set_nodelay(true);
                }),
                Some(Listener::Sctp(listener)) => listener.accept(),
                _ => return,
            };
            match accepted {
                Ok((stream, source)) => self.greet(stream, source),
                Err(error) if error.kind() == ErrorKind::WouldBlock => return,
                Err(error) if is_about_the_connection(&error) => {}
                Err(_) => {
                    // Out of files: the socket stays ready, so give the others time to close some.
                    thread::sleep(Duration::from_millis(10));
                    return;
                }
            }
        }
    }

    fn greet(&mut self, stream: TcpStream, source: SocketAddr) {
        // First counted: who has an answer finds it in the count.
        self.counters.connections.fetch_add(1, Ordering::Relaxed);
        self.counters.open.fetch_add(1, Ordering::Relaxed);
        let mut talk = Conversation {
            stream,
            input: Vec::new(),
            output: format!("{} {source}\n", self.name).into_bytes(),
            interest: EpollFlags::EPOLLIN,
            ended: false,
        };
        if talk.begin() == Next::Close {
            self.counters.open.fetch_sub(1, Ordering::Relaxed);
            return;
        }
        talk.interest = talk.wanted();
        let event = EpollEvent::new(talk.interest, self.next);
        if self.epoll.add(&talk.stream, event).is_ok() {
            self.connections.insert(self.next, talk);
        } else {
            self.counters.open.fetch_sub(1, Ordering::Relaxed);
        }
        self.next += 1;
    }

    fn talk(&mut self, event: u64) {
        let Some(talk) = self.connections.get_mut(&event) else {
            return;
        };
        let mut next = talk.step(&self.name);
        let wanted = talk.wanted();
        if next == Next::Wait && wanted != talk.interest {
            talk.interest = wanted;
            let mut changed = EpollEvent::new(wanted, event);
            if self.epoll.modify(&talk.stream, &mut changed).is_err() {
                next = Next::Close;
            }
        }
        if next == Next::Close {
            self.counters.open.fetch_sub(1, Ordering::Relaxed);
            self.connections.remove(&event);
        }
    }
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Next {
    Wait,
    Close,
}

/// One connection.
struct Conversation {
    stream: TcpStream,
    input: Vec<u8>,
    output: Vec<u8>,
    interest: EpollFlags,
    ended: bool,
}

impl Conversation {
    /// A client that does not read is not read from.
    fn wanted(&self) -> EpollFlags {
        if self.output.is_empty() { EpollFlags::EPOLLIN } else { EpollFlags::EPOLLOUT }
    }

    fn begin(&mut self) -> Next {
        match self.stream.set_nonblocking(true) {
            Ok(()) => self.write(),
            Err(_) => Next::Close,
        }
    }

    fn step(&mut self, name: &str) -> Next {
        if self.output.is_empty() && self.read(name) == Next::Close {
            return Next::Close;
        }
        self.write()
    }

    fn read(&mut self, name: &str) -> Next {
        let mut buffer = [0; 4096];
        match self.stream.read(&mut buffer) {
            Ok(0) => self.ended = true,
            Ok(length) => self.input.extend_from_slice(&buffer[..length]),
            Err(error) if is_passing(&error) => {}
            Err(_) => return Next::Close,
        }
        let complete = self.input.iter().rposition(|b| *b == b'\n');
        let lines: Vec<u8> = self.input.drain(..complete.map_or(0, |p| p + 1)).collect();
        for line in lines.split_inclusive(|b| *b == b'\n') {
            self.output.extend_from_slice(name.as_bytes());
            self.output.push(b' ');
            self.output.extend_from_slice(line);
        }
        if self.input.len() > LONGEST_LINE {
            return Next::Close;
        }
        Next::Wait
    }

    fn write(&mut self) -> Next {
        while !self.output.is_empty() {
            match self.stream.write(&self.output) {
                Ok(length) => drop(self.output.drain(..length)),
                Err(error) if is_passing(&error) => return Next::Wait,
                Err(_) => return Next::Close,
            }
        }
        if self.ended { Next::Close } else { Next::Wait }
    }
}

fn is_passing(error: &std::io::Error) -> bool {
    matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::Interrupted)
}

/// The client was gone before it was accepted; the next one in the queue is another matter.
fn is_about_the_connection(error: &std::io::Error) -> bool {
    matches!(error.kind(), ErrorKind::ConnectionAborted | ErrorKind::Interrupted)
}
