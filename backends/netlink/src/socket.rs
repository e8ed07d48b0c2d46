//! One blocking netlink socket.

use std::os::fd::{AsFd, AsRawFd, BorrowedFd};

use netlink_sys::SocketAddr;
use nix::errno::Errno;
use nix::sys::socket::{MsgFlags, recv, setsockopt, sockopt};
use socket2::{SockFilter, SockRef};

use crate::attribute::attributes;
use crate::error::{Error, Result};
use crate::filter;
use crate::message::{HEADER, Message};

/// The largest message the kernel sends in one read of a dump is 32 KiB; acks of large batches
/// come in many reads.
const RECEIVE_BUFFER: usize = 64 * 1024;
/// Send and receive space. A batch is one send; unused space costs nothing.
const SOCKET_SPACE: usize = 256 * 1024 * 1024;
/// How often an interrupted dump is started again.
const DUMP_ATTEMPTS: u32 = 20;

pub(crate) const ERROR: u16 = 2;
const DONE: u16 = 3;
const DUMP: u16 = 0x300;
pub(crate) const ACK: u16 = 0x4;
const MULTI: u16 = 0x2;
const DUMP_INTERRUPTED: u16 = 0x10;
const ACK_CAPPED: u16 = 0x100;
const ACK_HAS_TLVS: u16 = 0x200;
const EXT_ACK_MESSAGE: u16 = 1;
const EXT_ACK_OFFSET: u16 = 2;

/// A netlink socket with extended acks, kept for as long as its owner lives: opening one costs
/// milliseconds when the kernel has to wait for readers of the old state.
#[derive(Debug)]
pub struct Socket {
    socket: netlink_sys::Socket,
    port: u32,
    sequence: u32,
    buffer: Vec<u8>,
}

/// One received message.
pub(crate) struct Received<'a> {
    pub(crate) kind: u16,
    pub(crate) flags: u16,
    pub(crate) sequence: u32,
    pub(crate) port: u32,
    pub(crate) payload: &'a [u8],
}

/// What `NLMSG_ERROR` says.
pub(crate) struct Verdict {
    pub(crate) errno: Option<Errno>,
    pub(crate) detail: String,
    /// Offset of the offending attribute from the start of the request.
    pub(crate) offset: Option<u32>,
}

impl Socket {
    /// Opens a socket of a protocol (`NETLINK_*`).
    ///
    /// # Errors
    /// If the kernel lacks the protocol or refuses the socket.
    pub fn open(protocol: i32) -> Result<Self> {
        let protocol = isize::try_from(protocol).unwrap_or_default();
        let mut socket =
            netlink_sys::Socket::new(protocol).map_err(|error| Error::socket("open", error))?;
        socket.bind_auto().map_err(|error| Error::socket("bind", error))?;
        let mut address = SocketAddr::new(0, 0);
        socket.get_address(&mut address).map_err(|error| Error::socket("name", error))?;
        // Absent on very old kernels; errors are merely less telling then.
        let _ = socket.set_ext_ack(true);
        let _ = socket.set_cap_ack(true);
        enlarge(socket.as_fd());
        Ok(Self {
            socket,
            port: address.port_number(),
            sequence: 0,
            buffer: vec![0; RECEIVE_BUFFER],
        })
    }

    /// Listens to a multicast group (`*NLGRP_*`), or no longer.
    ///
    /// # Errors
    /// If the kernel has no such group.
    pub fn listen(&mut self, group: u32, listen: bool) -> Result<()> {
        let result = if listen {
            self.socket.add_membership(group)
        } else {
            self.socket.drop_membership(group)
        };
        result.map_err(|error| Error::socket("subscribe", error))
    }

    /// Has the kernel keep from this socket what it tells of an interface and its addresses (rtnetlink), in place of the
    /// interface that was named before.
    ///
    /// # Errors
    /// If the kernel refuses.
    pub fn ignore_interface(&mut self, index: u32) -> Result<()> {
        self.filter(&filter::all_but_interface(index))
    }

    /// Has the kernel keep from this socket all messages but those of one type.
    ///
    /// # Errors
    /// If the kernel refuses.
    pub fn only(&mut self, kind: u16) -> Result<()> {
        self.filter(&filter::only(kind))
    }

    fn filter(&self, program: &[SockFilter]) -> Result<()> {
        let attached = SockRef::from(self).attach_filter(program);
        attached.map_err(|error| Error::socket("filter", error))
    }

    /// Has the kernel answer dumps with only what the request's header describes, where it can do so
    /// (rtnetlink from 4.20, `NETLINK_GET_STRICT_CHK`).
    pub fn filter_dumps(&mut self) {
        // An older kernel tells of more.
        let _ = self.socket.set_netlink_get_strict_chk(true);
    }

    /// The socket's port id, which the kernel names as the owner of what it made.
    #[must_use]
    pub fn port(&self) -> u32 {
        self.port
    }

    /// The next sequence number.
    pub(crate) fn next_sequence(&mut self) -> u32 {
        self.sequence = self.sequence.wrapping_add(1).max(1);
        self.sequence
    }

    pub(crate) fn send_bytes(&self, bytes: &[u8]) -> Result<()> {
        self.socket.send(bytes, 0).map_err(|error| Error::socket("send on", error)).map(|_| ())
    }

    /// Reads once and hands each message over. `false`: nothing was there (not waited for).
    pub(crate) fn receive(
        &mut self,
        wait: bool,
        mut each: impl FnMut(&Received<'_>),
    ) -> std::result::Result<bool, Errno> {
        let flags = if wait { MsgFlags::empty() } else { MsgFlags::MSG_DONTWAIT };
        let length = match recv(self.socket.as_raw_fd(), &mut self.buffer, flags) {
            Ok(length) => length,
            Err(Errno::EAGAIN) if !wait => return Ok(false),
            Err(Errno::EINTR) => return Ok(true),
            Err(errno) => return Err(errno),
        };
        for message in messages(&self.buffer[..length]) {
            each(&message);
        }
        Ok(true)
    }

    /// Sends one request and waits for its single answer or its ack. `answer` sees the payload
    /// of what came, if anything did.
    ///
    /// # Errors
    /// What the kernel says, with `what` as the subject.
    pub fn request(
        &mut self,
        what: &'static str,
        mut message: Message,
        mut answer: impl FnMut(&[u8]),
    ) -> Result<()> {
        let sequence = self.next_sequence();
        self.send_bytes(message.finish(sequence, ACK))?;
        let mut outcome = None;
        while outcome.is_none() {
            self.receive(true, |received| {
                if received.sequence != sequence {
                    return;
                }
                match received.kind {
                    ERROR => outcome = Some(verdict(received)),
                    DONE => {}
                    _ => answer(received.payload),
                }
            })
            .map_err(|errno| Error::socket("read from", errno))?;
        }
        outcome.map_or(Ok(()), |verdict| verdict.into_result(what))
    }

    /// Sends a request that nothing is waited for after. If the kernel refuses it, [`drain`](Self::drain) finds an error.
    ///
    /// # Errors
    /// If the socket fails.
    pub fn post(&mut self, mut message: Message) -> Result<()> {
        let sequence = self.next_sequence();
        self.send_bytes(message.finish(sequence, 0))
    }

    /// Sends many requests in few sends and reads what the kernel says of them after each. It
    /// carries them out in order, and goes on after one that it refuses: those are given back by
    /// their position, with the reason.
    ///
    /// # Errors
    /// If the socket fails.
    pub fn submit(&mut self, messages: Vec<Message>) -> Result<Vec<(usize, Errno)>> {
        const AT_ONCE: usize = 1000;
        let (mut refused, mut bytes) = (Vec::new(), Vec::new());
        let (mut position, mut messages) = (0, messages.into_iter().peekable());
        while messages.peek().is_some() {
            let mut count = 0;
            bytes.clear();
            let first = self.sequence.wrapping_add(1).max(1);
            while count < AT_ONCE
                && let Some(mut message) = messages.next()
            {
                count += 1;
                // The kernel tells of refused ones by itself; the last is asked for in any case.
                let last = count == AT_ONCE || messages.peek().is_none();
                let sequence = self.next_sequence();
                bytes.extend_from_slice(message.finish(sequence, if last { ACK } else { 0 }));
            }
            self.send_bytes(&bytes)?;
            let last = self.sequence;
            let mut finished = false;
            while !finished {
                let read = self.receive(true, |received| {
                    let at = received.sequence.wrapping_sub(first) as usize;
                    if received.kind != ERROR || at >= count {
                        return;
                    }
                    finished |= received.sequence == last;
                    refused.extend(verdict(received).errno.map(|errno| (position + at, errno)));
                });
                read.map_err(|errno| Error::socket("read from", errno))?;
            }
            position += count;
        }
        Ok(refused)
    }

    /// Sends a dump request and hands each answer's payload over. A dump that the kernel calls
    /// interrupted is started again after `restart`.
    ///
    /// # Errors
    /// What the kernel says, or [`Error::Interrupted`].
    pub fn dump<T: Default>(
        &mut self,
        what: &'static str,
        message: &Message,
        mut each: impl FnMut(&mut T, &[u8]),
    ) -> Result<T> {
        for _ in 0..DUMP_ATTEMPTS {
            let mut collected = T::default();
            if self.dump_once(what, message.clone(), |payload| {
                each(&mut collected, payload);
            })? {
                return Ok(collected);
            }
        }
        Err(Error::Interrupted { attempts: DUMP_ATTEMPTS })
    }

    /// `false`: interrupted by a change.
    fn dump_once(
        &mut self,
        what: &'static str,
        mut message: Message,
        mut each: impl FnMut(&[u8]),
    ) -> Result<bool> {
        let sequence = self.next_sequence();
        self.send_bytes(message.finish(sequence, DUMP))?;
        let (mut done, mut interrupted, mut refused) = (false, false, None);
        while !done {
            let read = self.receive(true, |received| {
                if received.sequence != sequence {
                    return;
                }
                interrupted |= received.flags & DUMP_INTERRUPTED != 0;
                match received.kind {
                    ERROR => {
                        refused = Some(verdict(received));
                        done = true;
                    }
                    DONE => {
                        done = true;
                        refused = done_error(received.payload);
                    }
                    _ => {
                        each(received.payload);
                        // A request that the kernel answers with one message is no dump.
                        done |= received.flags & MULTI == 0;
                    }
                }
            });
            read.map_err(|errno| Error::socket("read from", errno))?;
        }
        match refused {
            Some(Verdict { errno: Some(Errno::EINTR), .. }) => Ok(false),
            Some(verdict) => verdict.into_result(what).map(|()| !interrupted),
            None => Ok(!interrupted),
        }
    }

    /// Takes every message that is waiting, without blocking: its type, its payload and the port
    /// of the socket that caused it. `true`: the kernel had to leave
    /// some out (`ENOBUFS`).
    ///
    /// # Errors
    /// If the socket fails otherwise.
    pub fn drain(&mut self, mut each: impl FnMut(u16, &[u8], u32)) -> Result<bool> {
        let mut lost = false;
        loop {
            match self.receive(false, |received| {
                each(received.kind, received.payload, received.port);
            }) {
                Ok(true) => {}
                Ok(false) => return Ok(lost),
                Err(Errno::ENOBUFS) => lost = true,
                Err(errno) => return Err(Error::socket("read from", errno)),
            }
        }
    }
}

impl AsFd for Socket {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.socket.as_fd()
    }
}

impl Verdict {
    pub(crate) fn into_result(self, what: &'static str) -> Result<()> {
        match self.errno {
            None => Ok(()),
            Some(errno) => Err(Error::Refused { what, errno, detail: self.detail }),
        }
    }
}

/// Sockets of the initial user namespace's root may pass the system's limit; others get what
/// the limit allows.
fn enlarge(socket: BorrowedFd<'_>) {
    let space = SOCKET_SPACE;
    if setsockopt(&socket, sockopt::SndBufForce, &space).is_err() {
        let _ = setsockopt(&socket, sockopt::SndBuf, &space);
    }
    if setsockopt(&socket, sockopt::RcvBufForce, &space).is_err() {
        let _ = setsockopt(&socket, sockopt::RcvBuf, &space);
    }
}

fn messages(mut rest: &[u8]) -> impl Iterator<Item = Received<'_>> {
    std::iter::from_fn(move || {
        let header = rest.get(..HEADER)?;
        let word = |at: usize| {
            u32::from_ne_bytes([header[at], header[at + 1], header[at + 2], header[at + 3]])
        };
        let half = |at: usize| u16::from_ne_bytes([header[at], header[at + 1]]);
        let length = usize::try_from(word(0)).ok()?;
        let payload = rest.get(HEADER..length)?;
        rest = rest.get(length.next_multiple_of(4)..).unwrap_or(&[]);
        Some(Received { kind: half(4), flags: half(6), sequence: word(8), port: word(12), payload })
    })
}

/// `struct nlmsgerr`: error, the request's header (and body unless capped), then TLVs.
pub(crate) fn verdict(received: &Received<'_>) -> Verdict {
    let mut verdict = done_error(received.payload).unwrap_or(Verdict {
        errno: None,
        detail: String::new(),
        offset: None,
    });
    if received.flags & ACK_HAS_TLVS == 0 {
        return verdict;
    }
    let request = received
        .payload
        .get(4..8)
        .map_or(0, |length| u32::from_ne_bytes([length[0], length[1], length[2], length[3]]));
    let body = if received.flags & ACK_CAPPED != 0 { HEADER } else { request as usize };
    for attribute in attributes(received.payload.get(4 + body.next_multiple_of(4)..).unwrap_or(&[]))
    {
        match attribute.kind {
            EXT_ACK_MESSAGE => verdict.detail = attribute.text().unwrap_or_default().to_owned(),
            EXT_ACK_OFFSET => {
                verdict.offset = attribute.payload.try_into().ok().map(u32::from_ne_bytes);
            }
            _ => {}
        }
    }
    verdict
}

/// The error number at the start of `NLMSG_ERROR` and `NLMSG_DONE`; zero is success.
fn done_error(payload: &[u8]) -> Option<Verdict> {
    let code = i32::from_ne_bytes(payload.get(..4)?.try_into().ok()?);
    (code != 0).then(|| Verdict {
        errno: Some(Errno::from_raw(code.wrapping_neg())),
        detail: String::new(),
        offset: None,
    })
}
