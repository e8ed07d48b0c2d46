//! One question to an echo server, and what became of it.

use std::fmt;
use std::io::{self, ErrorKind, Read};
use std::net::{IpAddr, SocketAddr, TcpStream, UdpSocket};
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use nix::errno::Errno;
use nix::libc;
use nix::sys::socket::{setsockopt, sockopt};

use crate::echo::LONGEST_LINE;
use crate::netns::Netns;
use crate::socket;

/// A transport protocol.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Protocol {
    /// TCP.
    Tcp,
    /// UDP.
    Udp,
    /// SCTP, where the kernel has it: see [`crate::has_sctp`].
    Sctp,
}

impl fmt::Display for Protocol {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Tcp => "TCP",
            Self::Udp => "UDP",
            Self::Sctp => "SCTP",
        })
    }
}

/// How to ask.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ProbeOptions {
    /// How long the whole question may take.
    pub timeout: Duration,
    /// Ask from this port, and end a TCP connection with a reset so that the port is free again at once.
    pub source_port: Option<u16>,
    /// Ask from this address of the host.
    pub source_address: Option<IpAddr>,
}

impl Default for ProbeOptions {
    /// One second, from any port.
    fn default() -> Self {
        Self { timeout: Duration::from_secs(1), source_port: None, source_address: None }
    }
}

impl ProbeOptions {
    /// From any port, with this timeout.
    pub fn within(timeout: Duration) -> Self {
        Self { timeout, ..Self::default() }
    }

    /// The same from this port.
    pub fn from_port(mut self, port: u16) -> Self {
        self.source_port = Some(port);
        self
    }

    fn source(&self, peer: IpAddr) -> Option<SocketAddr> {
        if self.source_port.is_none() && self.source_address.is_none() {
            return None;
        }
        let address = self.source_address.unwrap_or(socket::unspecified(peer));
        Some(SocketAddr::new(address, self.source_port.unwrap_or(0)))
    }
}

/// What became of a question.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// An echo server answered.
    Answer {
        /// Its name.
        by: String,
        /// The client as the server saw it.
        seen_source: SocketAddr,
        /// The client as it sees itself; another one than `seen_source` when it was masqueraded.
        local: SocketAddr,
    },
    /// A reset, or an ICMP message that the port is not open.
    Refused,
    /// An ICMP message or the own routing table say that there is no way, or the own firewall that it is barred;
    /// the text is the kernel's.
    Unreachable(String),
    /// Nothing came.
    TimedOut,
    /// Something else: connected, but closed before an answer; no answer of an echo server; no socket to be had.
    Failed(String),
}

impl Outcome {
    /// The name of who answered.
    pub fn by(&self) -> Option<&str> {
        match self {
            Self::Answer { by, .. } => Some(by),
            _ => None,
        }
    }

    /// The address of the client as the server saw it.
    pub fn seen_source(&self) -> Option<SocketAddr> {
        match self {
            Self::Answer { seen_source, .. } => Some(*seen_source),
            _ => None,
        }
    }

    /// True for an answer.
    pub fn is_answer(&self) -> bool {
        self.by().is_some()
    }

    pub(crate) fn of_error(error: &io::Error) -> Self {
        let text = match error.raw_os_error() {
            Some(code) => Errno::from_raw(code).desc().to_owned(),
            None => error.to_string(),
        };
        match error.kind() {
            ErrorKind::ConnectionRefused => Self::Refused,
            ErrorKind::TimedOut | ErrorKind::WouldBlock => Self::TimedOut,
            ErrorKind::HostUnreachable
            | ErrorKind::NetworkUnreachable
            | ErrorKind::NetworkDown
            | ErrorKind::PermissionDenied => Self::Unreachable(text),
            _ => Self::Failed(text),
        }
    }
}

impl fmt::Display for Outcome {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Answer { by, seen_source, .. } => {
                write!(f, "answered by {by}, who saw {seen_source}")
            }
            Self::Refused => f.write_str("refused"),
            Self::Unreachable(text) => write!(f, "unreachable: {text}"),
            Self::TimedOut => f.write_str("timed out"),
            Self::Failed(text) => write!(f, "failed: {text}"),
        }
    }
}

/// Asks an echo server, from within a namespace: over TCP and SCTP a connection of its own, over UDP one datagram.
pub fn probe(
    netns: &Netns,
    protocol: Protocol,
    destination: SocketAddr,
    options: &ProbeOptions,
) -> Outcome {
    let result = match protocol {
        Protocol::Tcp | Protocol::Sctp => probe_stream(netns, protocol, destination, options),
        Protocol::Udp => UdpFlow::open(netns, destination, options)
            .map(|flow| flow.exchange("probe", options.timeout)),
    };
    result.unwrap_or_else(|error| Outcome::of_error(&error))
}

fn probe_stream(
    netns: &Netns,
    protocol: Protocol,
    destination: SocketAddr,
    options: &ProbeOptions,
) -> io::Result<Outcome> {
    let deadline = Instant::now() + options.timeout;
    let mut stream = match protocol {
        Protocol::Sctp => dial_sctp(netns, destination, options)?,
        _ => dial(netns, destination, options)?,
    };
    if options.source_port.is_some() {
        let reset = libc::linger { l_onoff: 1, l_linger: 0 };
        setsockopt(&stream, sockopt::Linger, &reset)?;
    }
    let line = read_line(&mut stream, &mut Vec::new(), deadline)?;
    Ok(answer(&line, stream.local_addr()?))
}

pub(crate) fn dial(
    netns: &Netns,
    destination: SocketAddr,
    options: &ProbeOptions,
) -> io::Result<TcpStream> {
    let source = options.source(destination.ip());
    let socket = netns.run(move || socket::tcp(destination.ip(), source))?;
    socket::connect(socket, destination, options.timeout)
}

pub(crate) fn dial_sctp(
    netns: &Netns,
    destination: SocketAddr,
    options: &ProbeOptions,
) -> io::Result<TcpStream> {
    let source = options.source(destination.ip());
    let socket = netns.run(move || socket::sctp(destination, source))?;
    socket::connect_sctp(socket, destination, options.timeout)
}

/// A UDP socket with a peer: its datagrams are one flow for as long as it lives.
pub struct UdpFlow {
    socket: UdpSocket,
}

impl UdpFlow {
    /// Makes the socket in the namespace. Nothing is sent yet.
    pub fn open(
        netns: &Netns,
        destination: SocketAddr,
        options: &ProbeOptions,
    ) -> io::Result<Self> {
        let source = options.source(destination.ip());
        let socket = netns.run(move || socket::udp(destination.ip(), source))?;
        socket.connect(destination)?;
        Ok(Self { socket })
    }

    /// Sends a datagram and waits for the answer to it; answers to earlier ones are passed over.
    pub fn exchange(&self, text: &str, timeout: Duration) -> Outcome {
        self.ask(text, timeout).unwrap_or_else(|error| Outcome::of_error(&error))
    }

    fn ask(&self, text: &str, timeout: Duration) -> io::Result<Outcome> {
        static ASKED: AtomicU64 = AtomicU64::new(0);
        let number = ASKED.fetch_add(1, Ordering::Relaxed);
        let question = format!("{text} #{number}");
        let deadline = Instant::now() + timeout;
        self.socket.send(question.as_bytes())?;
        let mut buffer = vec![0; 1 << 16];
        loop {
            self.socket.set_read_timeout(Some(left(deadline)?))?;
            let length = match self.socket.recv(&mut buffer) {
                Err(error) if error.kind() == ErrorKind::Interrupted => continue,
                other => other?,
            };
            let text = String::from_utf8_lossy(&buffer[..length]);
            match text.split_once('\n') {
                Some((line, payload)) if payload == question => {
                    return Ok(answer(line, self.socket.local_addr()?));
                }
                Some(_) => {}
                None => return Ok(Outcome::Failed(format!("no echo server: {text:?}"))),
            }
        }
    }
}

/// Reads the first line of an echo server: its name and whom it sees.
pub(crate) fn answer(line: &str, local: SocketAddr) -> Outcome {
    match parse(line) {
        Some((by, seen_source)) => Outcome::Answer { by, seen_source, local },
        None => Outcome::Failed(format!("no echo server: {line:?}")),
    }
}

fn parse(line: &str) -> Option<(String, SocketAddr)> {
    let (name, source) = line.rsplit_once(' ')?;
    Some((name.to_owned(), source.parse().ok()?))
}

/// Reads up to a line's end; what came after it stays in `rest`.
pub(crate) fn read_line(
    stream: &mut TcpStream,
    rest: &mut Vec<u8>,
    deadline: Instant,
) -> io::Result<String> {
    let mut buffer = [0; 1024];
    loop {
        if let Some(end) = rest.iter().position(|b| *b == b'\n') {
            let line: Vec<u8> = rest.drain(..=end).take(end).collect();
            return Ok(String::from_utf8_lossy(&line).into_owned());
        }
        if rest.len() > 2 * LONGEST_LINE {
            return Err(io::Error::other("a line without end"));
        }
        stream.set_read_timeout(Some(left(deadline)?))?;
        match stream.read(&mut buffer) {
            Ok(0) => return Err(closed_early()),
            Ok(length) => rest.extend_from_slice(&buffer[..length]),
            Err(error) if error.kind() == ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
}

pub(crate) fn closed_early() -> io::Error {
    io::Error::new(ErrorKind::UnexpectedEof, "closed by the server")
}

/// The time left; a timeout error when there is none, as sockets take zero for forever.
fn left(deadline: Instant) -> io::Result<Duration> {
    let left = deadline.saturating_duration_since(Instant::now());
    if left.is_zero() {
        return Err(ErrorKind::TimedOut.into());
    }
    Ok(left.max(Duration::from_millis(1)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn first_lines_are_read_in_both_families() {
        let local = "10.0.0.1:1".parse().unwrap();
        let v6 = answer("web-1 [fd00::1]:80", local);
        assert_eq!(v6.by(), Some("web-1"));
        assert_eq!(v6.seen_source(), "[fd00::1]:80".parse().ok());
        assert!(matches!(answer("HTTP/1.1 400", local), Outcome::Failed(_)));
    }
}
