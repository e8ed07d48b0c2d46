//! A DNS server with a few names, and clients of it.

use std::collections::BTreeMap;
use std::io::{self, ErrorKind, Read, Write};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, TcpListener, TcpStream, UdpSocket};
use std::os::fd::{AsFd, AsRawFd};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::{self, JoinHandle};
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::eventfd::{EfdFlags, EventFd};
use nix::sys::socket::{self, SockType, SockaddrStorage, setsockopt, sockopt};

use crate::netns::Netns;
use crate::socket::open;

/// The longest message that is taken.
const LONGEST: usize = 4096;
const HEADER: usize = 12;
/// How long a client may take to ask over TCP, once it is connected.
const CONVERSATION: Duration = Duration::from_secs(30);
/// Enough for two segments not to become one.
const BETWEEN_SEGMENTS: Duration = Duration::from_millis(5);
/// `A`, `CNAME`, `AAAA`.
const A: u16 = 1;
const CNAME: u16 = 5;
const AAAA: u16 = 28;
/// Points to the name that was asked for.
const ASKED: [u8; 2] = [0xc0, 12];

/// What a name has.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Record {
    /// An address, and for how many seconds.
    Address(IpAddr, u32),
    /// Another name, whose addresses are in the same answer, and for how many seconds.
    Alias(String, u32),
}

type Zone = Arc<Mutex<BTreeMap<String, Vec<Record>>>>;

/// A running DNS server. Dropping it ends it.
pub struct DnsServer {
    stop: Arc<EventFd>,
    zone: Zone,
    handle: Option<JoinHandle<()>>,
}

impl DnsServer {
    /// Starts it on all addresses of a namespace, over UDP and TCP, port 53. It listens when this returns.
    pub fn start(netns: &Netns) -> Result<Self> {
        let sockets =
            netns.run(|| [bind(Ipv4Addr::UNSPECIFIED.into()), bind(Ipv6Addr::UNSPECIFIED.into())]);
        let sockets = sockets.into_iter().collect::<Result<Vec<_>>>()?;
        let any = [Ipv4Addr::UNSPECIFIED.into(), Ipv6Addr::UNSPECIFIED.into()];
        let listeners = netns.run(move || any.map(listen));
        let listeners = listeners.into_iter().collect::<Result<Vec<_>>>()?;
        let stop = Arc::new(EventFd::from_flags(EfdFlags::EFD_CLOEXEC)?);
        let zone = Zone::default();
        let (told, known) = (Arc::clone(&stop), Arc::clone(&zone));
        let handle = thread::Builder::new()
            .name("dns".into())
            .spawn(move || serve(&sockets, &listeners, &told, &known))?;
        Ok(Self { stop, zone, handle: Some(handle) })
    }

    /// Gives a name these records, in place of those it had.
    pub fn set(&self, name: &str, records: Vec<Record>) {
        self.zone.lock().unwrap_or_else(PoisonError::into_inner).insert(name.to_owned(), records);
    }
}

impl Drop for DnsServer {
    fn drop(&mut self) {
        let told = self.stop.write(1).is_ok();
        if let Some(handle) = self.handle.take().filter(|_| told) {
            let _ = handle.join();
        }
    }
}

fn bind(address: IpAddr) -> Result<UdpSocket> {
    let fd = open(address, SockType::Datagram)?;
    if address.is_ipv6() {
        setsockopt(&fd, sockopt::Ipv6V6Only, &true)?;
    }
    socket::bind(fd.as_raw_fd(), &SockaddrStorage::from(SocketAddr::new(address, 53)))?;
    Ok(fd.into())
}

fn listen(address: IpAddr) -> Result<TcpListener> {
    let fd = open(address, SockType::Stream)?;
    if address.is_ipv6() {
        setsockopt(&fd, sockopt::Ipv6V6Only, &true)?;
    }
    socket::bind(fd.as_raw_fd(), &SockaddrStorage::from(SocketAddr::new(address, 53)))?;
    socket::listen(&fd, socket::Backlog::new(16)?)?;
    Ok(fd.into())
}

fn serve(sockets: &[UdpSocket], listeners: &[TcpListener], stop: &EventFd, zone: &Zone) {
    let mut buffer = [0; LONGEST];
    loop {
        let mut fds = vec![PollFd::new(stop.as_fd(), PollFlags::POLLIN)];
        fds.extend(sockets.iter().map(|socket| PollFd::new(socket.as_fd(), PollFlags::POLLIN)));
        fds.extend(listeners.iter().map(|socket| PollFd::new(socket.as_fd(), PollFlags::POLLIN)));
        if poll(&mut fds, PollTimeout::NONE).is_err() {
            continue;
        }
        let ready: Vec<bool> = fds.iter().map(|fd| fd.any().unwrap_or_default()).collect();
        if ready.first() == Some(&true) {
            return;
        }
        for (socket, _) in sockets.iter().zip(&ready[1..]).filter(|(_, ready)| **ready) {
            let Ok((length, from)) = socket.recv_from(&mut buffer) else { continue };
            if let Some(answer) = answer(&buffer[..length], zone) {
                // Whoever asked may have gone.
                let _ = socket.send_to(&answer, from);
            }
        }
        let of_tcp = ready.iter().skip(1 + sockets.len());
        for (listener, _) in listeners.iter().zip(of_tcp).filter(|(_, ready)| **ready) {
            let _ = listener.accept().and_then(|(stream, _)| converse(stream, zone));
        }
    }
}

/// Answers what a client asks at once over TCP (RFC 7766), in two segments that end anywhere.
fn converse(mut stream: TcpStream, zone: &Zone) -> io::Result<()> {
    stream.set_nonblocking(false)?;
    stream.set_nodelay(true)?;
    stream.set_read_timeout(Some(CONVERSATION))?;
    let mut answers = Vec::new();
    while let Ok(question) = framed(&mut stream) {
        let Some(answer) = answer(&question, zone) else { break };
        answers.extend_from_slice(&[&length_of(&answer)[..], &answer].concat());
        stream.set_read_timeout(Some(BETWEEN_SEGMENTS))?;
    }
    let (first, last) = answers.split_at(answers.len() / 2);
    stream.write_all(first)?;
    thread::sleep(BETWEEN_SEGMENTS);
    stream.write_all(last)
}

/// A message and its length before it.
fn framed(stream: &mut TcpStream) -> io::Result<Vec<u8>> {
    let mut length = [0; 2];
    stream.read_exact(&mut length)?;
    let mut message = vec![0; u16::from_be_bytes(length).into()];
    stream.read_exact(&mut message)?;
    Ok(message)
}

fn length_of(message: &[u8]) -> [u8; 2] {
    u16::try_from(message.len()).unwrap_or_default().to_be_bytes()
}

fn answer(question: &[u8], zone: &Zone) -> Option<Vec<u8>> {
    let (name, end) = read_name(question, HEADER)?;
    let kind = u16::from_be_bytes(question.get(end..end + 2)?.try_into().ok()?);
    let asked = question.get(HEADER..end + 4)?;
    let zone = zone.lock().unwrap_or_else(PoisonError::into_inner);
    let mut records = Vec::new();
    let mut name = Some(name);
    let mut owner = ASKED.to_vec();
    while let Some(current) = name.take() {
        for record in zone.get(&current).into_iter().flatten() {
            match record {
                Record::Address(IpAddr::V4(address), seconds) if kind == A => {
                    records.push(encode(&owner, A, *seconds, &address.octets()));
                }
                Record::Address(IpAddr::V6(address), seconds) if kind == AAAA => {
                    records.push(encode(&owner, AAAA, *seconds, &address.octets()));
                }
                Record::Address(..) => {}
                Record::Alias(target, seconds) => {
                    let encoded = write_name(target);
                    records.push(encode(&owner, CNAME, *seconds, &encoded));
                    owner = encoded;
                    name = Some(target.clone());
                }
            }
        }
    }
    let count = u16::try_from(records.len()).ok()?.to_be_bytes();
    let head = [question[0], question[1], 0x81, 0x80, 0, 1, count[0], count[1], 0, 0, 0, 0];
    Some([&head[..], asked, &records.concat()].concat())
}

fn encode(owner: &[u8], kind: u16, seconds: u32, data: &[u8]) -> Vec<u8> {
    let length = u16::try_from(data.len()).unwrap_or_default().to_be_bytes();
    [owner, &kind.to_be_bytes(), &[0, 1], &seconds.to_be_bytes(), &length, data].concat()
}

fn write_name(name: &str) -> Vec<u8> {
    let mut bytes = Vec::new();
    for label in name.split('.') {
        bytes.push(u8::try_from(label.len()).unwrap_or_default());
        bytes.extend_from_slice(label.as_bytes());
    }
    bytes.push(0);
    bytes
}

/// A name that is written out, and where it ends.
fn read_name(message: &[u8], mut at: usize) -> Option<(String, usize)> {
    let mut labels = Vec::new();
    loop {
        let length = usize::from(*message.get(at)?);
        at += 1;
        if length == 0 {
            return Some((labels.join("."), at));
        }
        let label = message.get(at..at + length)?;
        labels.push(String::from_utf8_lossy(label).to_lowercase());
        at += length;
    }
}

/// Asks a server once for the addresses of a name, of the server's own family. None, if it knows none.
///
/// # Errors
/// If there is no answer in time.
pub fn resolve(
    netns: &Netns,
    server: SocketAddr,
    name: &str,
    within: Duration,
) -> Result<Vec<IpAddr>> {
    let question = question(name, server);
    let socket = netns.udp_socket(server.ip())?;
    socket.connect(server)?;
    socket.set_nonblocking(false)?;
    socket.set_read_timeout(Some(within))?;
    socket.send(&question)?;
    let mut buffer = [0; LONGEST];
    let length = loop {
        match socket.recv(&mut buffer) {
            Ok(length) => break length,
            Err(error) if error.kind() == ErrorKind::Interrupted => {}
            Err(error) => return Err(error).with_context(|| format!("asking {server} for {name}")),
        }
    };
    read_answer(&buffer[..length], name, server)
}

/// A connection to a DNS server, over TCP.
pub struct TcpResolver {
    server: SocketAddr,
    stream: TcpStream,
}

impl TcpResolver {
    /// Connects; no answer may take longer than that.
    ///
    /// # Errors
    /// If the server does not accept it in time.
    pub fn connect(netns: &Netns, server: SocketAddr, within: Duration) -> Result<Self> {
        let stream = netns.tcp_connect(server, within)?;
        stream.set_nonblocking(false)?;
        stream.set_read_timeout(Some(within))?;
        Ok(Self { server, stream })
    }

    /// Asks for the addresses of names, all at once, once.
    ///
    /// # Errors
    /// If the connection has ended.
    pub fn ask(&mut self, names: &[&str]) -> Result<()> {
        let framed = |name: &&str| {
            let question = question(name, self.server);
            [&length_of(&question)[..], &question].concat()
        };
        let questions: Vec<_> = names.iter().flat_map(framed).collect();
        Ok(self.stream.write_all(&questions)?)
    }

    /// The addresses of the next name that was asked for.
    ///
    /// # Errors
    /// If there is no answer in time.
    pub fn answer(&mut self) -> Result<Vec<IpAddr>> {
        let server = self.server;
        let answer = framed(&mut self.stream).with_context(|| format!("an answer of {server}"))?;
        read_answer(&answer, "a name", server)
    }
}

fn question(name: &str, server: SocketAddr) -> Vec<u8> {
    let kind = if server.is_ipv4() { A } else { AAAA };
    let head = [7, 7, 1, 0, 0, 1, 0, 0, 0, 0, 0, 0];
    [&head[..], &write_name(name), &kind.to_be_bytes(), &[0, 1]].concat()
}

fn read_answer(answer: &[u8], name: &str, server: SocketAddr) -> Result<Vec<IpAddr>> {
    ensure!(answer.starts_with(&[7, 7, 0x81, 0x80]), "{server} says of {name}: {answer:?}");
    let count = u16::from_be_bytes([answer[6], answer[7]]);
    let (_, mut at) = read_name(answer, HEADER).context("a question")?;
    at += 4;
    let mut addresses = Vec::new();
    for _ in 0..count {
        at = if answer[at] >= 0xc0 { at + 2 } else { read_name(answer, at).context("a name")?.1 };
        let data = at + 10..at + 10 + usize::from(answer[at + 9]);
        let bytes = answer.get(data.clone()).context("an answer that is cut off")?;
        match u16::from_be_bytes([answer[at], answer[at + 1]]) {
            A => addresses.extend(<[u8; 4]>::try_from(bytes).map(IpAddr::from)),
            AAAA => addresses.extend(<[u8; 16]>::try_from(bytes).map(IpAddr::from)),
            _ => {}
        }
        at = data.end;
    }
    Ok(addresses)
}
