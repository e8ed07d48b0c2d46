//! One blocking rtnetlink socket and the few bytes of message building it needs.
//!
//! A request here is a fixed header followed by attributes, answered by one acknowledgement. That is little enough
//! to write down; the crates for it bring types for every attribute the kernel ever had.

use std::io;
use std::os::fd::{AsRawFd, OwnedFd};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use nix::errno::Errno;
use nix::libc;
use nix::sys::socket::{
    self, AddressFamily, MsgFlags, NetlinkAddr, SockFlag, SockProtocol, SockType, sockopt,
};
use nix::sys::time::TimeVal;

/// `struct nlmsghdr`.
const HEADER: usize = 16;
/// `NLA_F_NESTED`; the kernel's strict attribute checks want it for the nests it added after 5.2.
const NESTED: u16 = 1 << 15;
/// The kernel answers at once, or when others have let go of its one lock for devices and routes; this only keeps a thread
/// from hanging on a kernel that does not.
const PATIENCE: Duration = Duration::from_secs(60);

/// A netlink request under construction.
pub(crate) struct Message {
    bytes: Vec<u8>,
}

impl Message {
    /// A request of this `RTM_*` kind; `flags` are added to `NLM_F_REQUEST`.
    pub(crate) fn new(kind: u16, flags: i32) -> Self {
        let flags = u16::try_from(flags | libc::NLM_F_REQUEST).unwrap_or(0);
        let mut bytes = vec![0; HEADER];
        bytes[4..6].copy_from_slice(&kind.to_ne_bytes());
        bytes[6..8].copy_from_slice(&flags.to_ne_bytes());
        Self { bytes }
    }

    /// Appends raw bytes: the fixed header of the family (`ifinfomsg`, `ifaddrmsg`, `rtmsg`).
    pub(crate) fn raw(mut self, bytes: &[u8]) -> Self {
        self.bytes.extend_from_slice(bytes);
        self
    }

    /// Appends one attribute, padded to four bytes.
    pub(crate) fn attr(mut self, kind: u16, value: &[u8]) -> Self {
        let length = u16::try_from(value.len() + 4).unwrap_or(u16::MAX);
        self.bytes.extend_from_slice(&length.to_ne_bytes());
        self.bytes.extend_from_slice(&kind.to_ne_bytes());
        self.bytes.extend_from_slice(value);
        self.bytes.resize(self.bytes.len().next_multiple_of(4), 0);
        self
    }

    /// Appends a string attribute with its final zero byte.
    pub(crate) fn text(self, kind: u16, value: &str) -> Self {
        let mut bytes = value.as_bytes().to_vec();
        bytes.push(0);
        self.attr(kind, &bytes)
    }

    /// Appends a nest whose content `fill` writes.
    pub(crate) fn nest(mut self, kind: u16, fill: impl FnOnce(Self) -> Self) -> Self {
        let start = self.bytes.len();
        self.bytes.extend_from_slice(&[0; 4]);
        self = fill(self);
        let length = u16::try_from(self.bytes.len() - start).unwrap_or(u16::MAX);
        self.bytes[start..start + 2].copy_from_slice(&length.to_ne_bytes());
        self.bytes[start + 2..start + 4].copy_from_slice(&(kind | NESTED).to_ne_bytes());
        self
    }

    fn sealed(mut self, sequence: u32) -> Vec<u8> {
        let length = u32::try_from(self.bytes.len()).unwrap_or(u32::MAX);
        self.bytes[..4].copy_from_slice(&length.to_ne_bytes());
        self.bytes[8..12].copy_from_slice(&sequence.to_ne_bytes());
        self.bytes
    }
}

/// One answer that is not an acknowledgement: its kind and what follows the header.
pub(crate) struct Answer {
    pub(crate) kind: u16,
    pub(crate) body: Vec<u8>,
}

/// A blocking rtnetlink socket; it works in the namespace of the thread that opened it.
pub(crate) struct Socket {
    fd: OwnedFd,
    sequence: u32,
}

impl Socket {
    pub(crate) fn open() -> Result<Self> {
        let fd = socket::socket(
            AddressFamily::Netlink,
            SockType::Raw,
            SockFlag::SOCK_CLOEXEC,
            SockProtocol::NetlinkRoute,
        )
        .context("opening a route netlink socket")?;
        let patience = TimeVal::new(PATIENCE.as_secs().cast_signed(), 0);
        socket::setsockopt(&fd, sockopt::ReceiveTimeout, &patience)?;
        socket::bind(fd.as_raw_fd(), &NetlinkAddr::new(0, 0))?;
        Ok(Self { fd, sequence: 0 })
    }

    /// Sends a request, waits for its acknowledgement. The error is the kernel's.
    pub(crate) fn request(&mut self, message: Message) -> io::Result<()> {
        self.exchange(message).map(|_| ())
    }

    /// Sends a request and returns what came before its acknowledgement.
    pub(crate) fn exchange(&mut self, message: Message) -> io::Result<Vec<Answer>> {
        self.sequence = self.sequence.wrapping_add(1);
        let mut bytes = message.sealed(self.sequence);
        let flags = u16::from_ne_bytes([bytes[6], bytes[7]]) | 4; // NLM_F_ACK
        bytes[6..8].copy_from_slice(&flags.to_ne_bytes());
        socket::send(self.fd.as_raw_fd(), &bytes, MsgFlags::empty())?;

        let started = Instant::now();
        let mut answers = Vec::new();
        let mut buffer = vec![0_u8; 1 << 16];
        while started.elapsed() < PATIENCE {
            let length = match socket::recv(self.fd.as_raw_fd(), &mut buffer, MsgFlags::empty()) {
                Err(Errno::EINTR) => continue,
                other => other?,
            };
            if self.read(&buffer[..length], &mut answers)? {
                return Ok(answers);
            }
        }
        Err(io::Error::from(io::ErrorKind::TimedOut))
    }

    /// Reads one datagram; true when it held our acknowledgement.
    fn read(&self, mut bytes: &[u8], answers: &mut Vec<Answer>) -> io::Result<bool> {
        while let Some((kind, sequence, body, rest)) = split(bytes) {
            bytes = rest;
            if sequence != self.sequence {
                continue;
            }
            if i32::from(kind) != libc::NLMSG_ERROR {
                answers.push(Answer { kind, body: body.to_vec() });
                continue;
            }
            let code = body.first_chunk().map_or(0, |b| i32::from_ne_bytes(*b));
            return match code {
                0 => Ok(true),
                code => Err(io::Error::from_raw_os_error(-code)),
            };
        }
        Ok(false)
    }
}

/// Takes the first message off: kind, sequence, body, rest.
fn split(bytes: &[u8]) -> Option<(u16, u32, &[u8], &[u8])> {
    let header = bytes.first_chunk::<HEADER>()?;
    let length = u32::from_ne_bytes([header[0], header[1], header[2], header[3]]);
    let length = usize::try_from(length).ok().filter(|l| *l >= HEADER)?;
    let body = bytes.get(HEADER..length)?;
    let kind = u16::from_ne_bytes([header[4], header[5]]);
    let sequence = u32::from_ne_bytes([header[8], header[9], header[10], header[11]]);
    let rest = bytes.get(length.next_multiple_of(4)..).unwrap_or(&[]);
    Some((kind, sequence, body, rest))
}

/// The interface number out of a `RTM_NEWLINK` answer.
pub(crate) fn link_index(answers: &[Answer]) -> Result<u32> {
    for answer in answers.iter().filter(|a| a.kind == libc::RTM_NEWLINK) {
        if let Some(bytes) = answer.body.get(4..8).and_then(|b| b.first_chunk()) {
            return Ok(u32::from_ne_bytes(*bytes));
        }
    }
    bail!("the kernel named no interface")
}
