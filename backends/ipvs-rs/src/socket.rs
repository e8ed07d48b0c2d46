//! The socket.

use std::os::fd::AsRawFd;

use netlink_sys::SocketAddr;
use nix::errno::Errno;
use nix::sys::socket::{MsgFlags, recv};

use crate::attribute::{Attribute, Attributes, Writer};
use crate::codec::{
    FAMILY_NAME, HEADER, Question, append_request, decode_daemon, decode_destination, decode_info,
    decode_service, decode_timeouts, encode_question,
};
use crate::daemon::Daemon;
use crate::error::{Error, Rejection};
use crate::request::Request;
use crate::service::{Destination, Info, Service, ServiceKey, Timeouts};

/// `NETLINK_GENERIC`.
const GENERIC: isize = 16;
/// `GENL_ID_CTRL`, the family that knows the others' numbers.
const CONTROLLER: u16 = 0x10;
/// `CTRL_CMD_GETFAMILY`, `CTRL_ATTR_FAMILY_ID`, `CTRL_ATTR_FAMILY_NAME`.
const GET_FAMILY: u8 = 3;
const FAMILY_ID: u16 = 1;
const FAMILY: u16 = 2;
/// `NLMSG_ERROR`, `NLMSG_DONE`.
const ERROR: u16 = 2;
const DONE: u16 = 3;
/// `NLM_F_REQUEST`, `NLM_F_ACK`, `NLM_F_DUMP`, `NLM_F_DUMP_INTR`.
const REQUEST: u16 = 0x1;
const ACK: u16 = 0x4;
const DUMP: u16 = 0x300;
const DUMP_INTERRUPTED: u16 = 0x10;
/// Bytes of `struct nlmsghdr`.
const MESSAGE_HEADER: usize = 16;
/// A dump's messages are at most 32 KiB.
const RECEIVE_BUFFER: usize = 64 * 1024;
/// Bytes in one send: well below the default send buffer (212,992 bytes, of which the kernel's own
/// bookkeeping takes a part), so that no privilege is needed to enlarge it.
const SEND_LIMIT: usize = 96 * 1024;
/// How often a dump that was interrupted by a change is started again.
const DUMP_ATTEMPTS: u32 = 20;

/// IPVS of a network namespace: the one of the thread that opens it.
#[derive(Debug)]
pub struct Ipvs {
    socket: netlink_sys::Socket,
    family: u16,
    sequence: u32,
    buffer: Vec<u8>,
    /// What is sent: kept, since many sends follow one another.
    outgoing: Vec<u8>,
}

/// One received message.
struct Received<'a> {
    kind: u16,
    flags: u16,
    sequence: u32,
    payload: &'a [u8],
}

impl Ipvs {
    /// Opens a socket and asks for the family's number. The kernel loads `ip_vs` for that where
    /// it can.
    ///
    /// # Errors
    /// [`Error::Unavailable`] if the kernel has no IPVS.
    pub fn open() -> Result<Self, Error> {
        let mut socket =
            netlink_sys::Socket::new(GENERIC).map_err(|error| Error::socket("open", error))?;
        socket.bind_auto().map_err(|error| Error::socket("bind", error))?;
        socket.connect(&SocketAddr::new(0, 0)).map_err(|error| Error::socket("connect", error))?;
        // Answers to refused requests are then short; absent on very old kernels.
        let _ = socket.set_cap_ack(true);
        let (buffer, outgoing) = (vec![0; RECEIVE_BUFFER], Vec::new());
        let mut ipvs = Self { socket, family: 0, sequence: 0, buffer, outgoing };
        ipvs.family = ipvs.resolve()?;
        Ok(ipvs)
    }

    /// Sends many requests at once and reads the answers after. The kernel carries them out in
    /// order, and goes on after one that it refuses.
    ///
    /// # Errors
    /// [`Error::Rejected`] names the requests that the kernel refused; all others were carried
    /// out. After any other error it is unknown which were.
    pub fn submit(&mut self, requests: &[Request]) -> Result<(), Error> {
        let (mut rejections, mut done) = (Vec::new(), 0);
        while done < requests.len() {
            done += self.submit_some(&requests[done..], done, &mut rejections)?;
        }
        if rejections.is_empty() { Ok(()) } else { Err(Error::Rejected(rejections)) }
    }

    /// One send; returns how many requests were in it.
    fn submit_some(
        &mut self,
        requests: &[Request],
        offset: usize,
        rejections: &mut Vec<Rejection>,
    ) -> Result<usize, Error> {
        let first = self.sequence.wrapping_add(1);
        let mut bytes = std::mem::take(&mut self.outgoing);
        bytes.clear();
        let (mut count, mut last_at) = (0, 0);
        for request in requests {
            let start = bytes.len();
            self.begin(&mut bytes, REQUEST, self.family);
            append_request(&mut bytes, request);
            if count > 0 && bytes.len() > SEND_LIMIT {
                bytes.truncate(start);
                self.sequence = self.sequence.wrapping_sub(1);
                break;
            }
            finish(&mut bytes, start);
            last_at = start;
            count += 1;
        }
        // The kernel tells of refused requests by itself; the last is asked for in any case, and
        // when its answer is there all have been carried out.
        let flags = (REQUEST | ACK).to_ne_bytes();
        bytes[last_at + 6..last_at + 8].copy_from_slice(&flags);
        let sent = self.send(&bytes);
        self.outgoing = bytes;
        sent?;
        let last = self.sequence;
        let mut finished = false;
        while !finished {
            self.receive(|received| {
                let position = received.sequence.wrapping_sub(first) as usize;
                if received.kind != ERROR || position >= count {
                    return;
                }
                finished |= received.sequence == last;
                if let Some(errno) = error_number(received.payload) {
                    rejections.push(Rejection { index: offset + position, errno });
                }
            })?;
        }
        Ok(count)
    }

    /// All services, with their counters.
    ///
    /// # Errors
    /// If the kernel refuses.
    pub fn services(&mut self) -> Result<Vec<Service>, Error> {
        self.list("list the services", Question::Services(None), decode_service)
    }

    /// One service; `None` if there is no such service.
    ///
    /// # Errors
    /// If the kernel refuses.
    pub fn service(&mut self, key: &ServiceKey) -> Result<Option<Service>, Error> {
        let question = Question::Services(Some(*key));
        match self.ask("tell of a service", question, decode_service) {
            Err(Error::Refused { errno: Errno::ESRCH, .. }) => Ok(None),
            other => other,
        }
    }

    /// The destinations of a service, with their counters; empty also if there is no such service.
    ///
    /// # Errors
    /// If the kernel refuses.
    pub fn destinations(&mut self, service: &ServiceKey) -> Result<Vec<Destination>, Error> {
        let family = service.family();
        let decode = |payload: &[u8]| decode_destination(family, payload);
        self.list("list the destinations", Question::Destinations(*service), decode)
    }

    /// The timeouts.
    ///
    /// # Errors
    /// If the kernel refuses.
    pub fn timeouts(&mut self) -> Result<Timeouts, Error> {
        let answer = self.ask("tell its timeouts", Question::Timeouts, decode_timeouts)?;
        Ok(answer.unwrap_or_default())
    }

    /// The kernel's version of IPVS and the size of its table.
    ///
    /// # Errors
    /// If the kernel refuses.
    pub fn info(&mut self) -> Result<Info, Error> {
        Ok(self.ask("tell its version", Question::Info, decode_info)?.unwrap_or_default())
    }

    /// The sync daemons that run.
    ///
    /// # Errors
    /// If the kernel refuses.
    pub fn daemons(&mut self) -> Result<Vec<Daemon>, Error> {
        self.list("list the daemons", Question::Daemons, decode_daemon)
    }

    fn resolve(&mut self) -> Result<u16, Error> {
        let mut payload = vec![GET_FAMILY, 1, 0, 0];
        Writer(&mut payload).text(FAMILY, FAMILY_NAME);
        let decode = |payload: &[u8]| {
            Attributes(payload.get(HEADER..)?).find(FAMILY_ID).and_then(Attribute::u16)
        };
        match self.request("name the family", CONTROLLER, &payload, decode) {
            Ok(Some(family)) => Ok(family),
            Ok(None) | Err(Error::Refused { errno: Errno::ENOENT, .. }) => Err(Error::Unavailable),
            Err(error) => Err(error),
        }
    }

    fn ask<T>(
        &mut self,
        what: &'static str,
        question: Question,
        decode: impl Fn(&[u8]) -> Option<T>,
    ) -> Result<Option<T>, Error> {
        self.request(what, self.family, &encode_question(&question), decode)
    }

    fn request<T>(
        &mut self,
        what: &'static str,
        family: u16,
        payload: &[u8],
        decode: impl Fn(&[u8]) -> Option<T>,
    ) -> Result<Option<T>, Error> {
        let mut bytes = Vec::new();
        self.message(&mut bytes, REQUEST | ACK, family, payload);
        self.send(&bytes)?;
        let sequence = self.sequence;
        let (mut answer, mut outcome) = (None, None);
        while outcome.is_none() {
            self.receive(|received| match received {
                Received { sequence: other, .. } if *other != sequence => {}
                Received { kind: ERROR, payload, .. } => outcome = Some(error_number(payload)),
                Received { payload, .. } => answer = decode(payload),
            })?;
        }
        match outcome.flatten() {
            Some(errno) => Err(Error::Refused { what, errno }),
            None => Ok(answer),
        }
    }

    fn list<T>(
        &mut self,
        what: &'static str,
        question: Question,
        decode: impl Fn(&[u8]) -> Option<T>,
    ) -> Result<Vec<T>, Error> {
        let payload = encode_question(&question);
        for _ in 0..DUMP_ATTEMPTS {
            let mut bytes = Vec::new();
            self.message(&mut bytes, REQUEST | DUMP, self.family, &payload);
            self.send(&bytes)?;
            let sequence = self.sequence;
            let (mut found, mut outcome, mut interrupted) = (Vec::new(), None, false);
            while outcome.is_none() {
                self.receive(|received| {
                    if received.sequence != sequence {
                        return;
                    }
                    interrupted |= received.flags & DUMP_INTERRUPTED != 0;
                    match received.kind {
                        ERROR | DONE => outcome = Some(error_number(received.payload)),
                        _ => found.extend(decode(received.payload)),
                    }
                })?;
            }
            match outcome.flatten() {
                // A service that is not there has no destinations.
                Some(Errno::ESRCH) => return Ok(Vec::new()),
                Some(errno) => return Err(Error::Refused { what, errno }),
                None if interrupted => {}
                None => return Ok(found),
            }
        }
        Err(Error::Interrupted { attempts: DUMP_ATTEMPTS })
    }

    /// Appends a message with the next sequence number.
    fn message(&mut self, bytes: &mut Vec<u8>, flags: u16, kind: u16, payload: &[u8]) {
        let start = bytes.len();
        self.begin(bytes, flags, kind);
        bytes.extend_from_slice(payload);
        finish(bytes, start);
    }

    /// Appends the header of a message with the next sequence number; [`finish`] sets its length.
    fn begin(&mut self, bytes: &mut Vec<u8>, flags: u16, kind: u16) {
        self.sequence = self.sequence.wrapping_add(1);
        bytes.extend_from_slice(&[0; 4]);
        bytes.extend_from_slice(&kind.to_ne_bytes());
        bytes.extend_from_slice(&flags.to_ne_bytes());
        bytes.extend_from_slice(&self.sequence.to_ne_bytes());
        bytes.extend_from_slice(&0u32.to_ne_bytes());
    }

    fn send(&self, bytes: &[u8]) -> Result<(), Error> {
        self.socket.send(bytes, 0).map_err(|error| Error::socket("send on", error))?;
        Ok(())
    }

    fn receive(&mut self, mut each: impl FnMut(&Received<'_>)) -> Result<(), Error> {
        let length = loop {
            match recv(self.socket.as_raw_fd(), &mut self.buffer, MsgFlags::empty()) {
                Ok(length) => break length,
                Err(Errno::EINTR) => {}
                Err(errno) => return Err(Error::socket("read from", errno)),
            }
        };
        let mut rest = &self.buffer[..length];
        while let Some((received, after)) = split(rest) {
            each(&received);
            rest = after;
        }
        Ok(())
    }
}

/// Ends the message that began at `start`.
fn finish(bytes: &mut Vec<u8>, start: usize) {
    let length = u32::try_from(bytes.len() - start).unwrap_or(u32::MAX);
    bytes[start..start + 4].copy_from_slice(&length.to_ne_bytes());
    bytes.resize(bytes.len().next_multiple_of(4), 0);
}

/// Splits the first message off.
fn split(bytes: &[u8]) -> Option<(Received<'_>, &[u8])> {
    let header = bytes.first_chunk::<MESSAGE_HEADER>()?;
    let word = |at: usize| {
        u32::from_ne_bytes([header[at], header[at + 1], header[at + 2], header[at + 3]])
    };
    let half = |at: usize| u16::from_ne_bytes([header[at], header[at + 1]]);
    let length = word(0) as usize;
    let payload = bytes.get(MESSAGE_HEADER..length)?;
    let rest = bytes.get(length.next_multiple_of(4)..).unwrap_or(&[]);
    Some((Received { kind: half(4), flags: half(6), sequence: word(8), payload }, rest))
}

/// The error at the start of `NLMSG_ERROR` and `NLMSG_DONE`; zero is success.
fn error_number(payload: &[u8]) -> Option<Errno> {
    let code = i32::from_ne_bytes(*payload.first_chunk::<4>()?);
    (code != 0).then(|| Errno::from_raw(code.wrapping_neg()))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        /// Lengths in headers are as random as the rest.
        #[test]
        fn whatever_is_received_is_split_to_its_end(bytes in proptest::collection::vec(prop_oneof![0..40u8, any::<u8>()], 0..300)) {
            let mut rest = bytes.as_slice();
            while let Some((received, after)) = split(rest) {
                let whole = MESSAGE_HEADER + received.payload.len();
                prop_assert!(after.len() <= rest.len() - whole);
                let _ = error_number(received.payload);
                rest = after;
            }
        }
    }

    #[test]
    fn messages_come_one_after_the_other() {
        let message = |length: u32, kind: u16, sequence: u32, payload: &[u8]| {
            let mut bytes = length.to_ne_bytes().to_vec();
            bytes.extend(kind.to_ne_bytes().into_iter().chain([0; 2]));
            bytes.extend(sequence.to_ne_bytes().into_iter().chain([0; 4]));
            bytes.extend(payload);
            bytes
        };
        // The first one's length is without its padding.
        let bytes = [
            message(21, 7, 1, &[1, 2, 3, 4, 5, 0, 0, 0]),
            message(20, ERROR, 2, &[0xfe, 0xff, 0xff, 0xff]),
        ]
        .concat();
        let (first, rest) = split(&bytes).unwrap();
        assert_eq!((first.kind, first.sequence, first.payload), (7, 1, &[1, 2, 3, 4, 5][..]));
        let (second, rest) = split(rest).unwrap();
        assert_eq!((second.kind, error_number(second.payload)), (ERROR, Some(Errno::ENOENT)));
        assert!(rest.is_empty());
        // A length that is shorter than a header, or longer than what came.
        assert!(
            split(&message(15, 7, 1, &[])).is_none() && split(&message(17, 7, 1, &[])).is_none()
        );
    }
}
