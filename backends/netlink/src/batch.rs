//! nfnetlink batches: many messages, one transaction, one send.

use nix::errno::Errno;
use nix::libc;

use crate::error::{Error, Result};
use crate::message::{self, Message, nfnetlink};
use crate::socket::{ACK, ERROR, Socket, verdict};

/// `NFNL_MSG_BATCH_BEGIN` and `NFNL_MSG_BATCH_END`.
const BEGIN: u16 = 0x10;
const END: u16 = 0x11;
/// `NFNL_BATCH_GENID`: the generation that the batch was computed from; the kernel answers
/// `ERESTART` if another writer came between.
const GENERATION: u16 = 1;

/// A transaction being written.
#[derive(Debug)]
pub struct Batch {
    bytes: Vec<u8>,
    first: u32,
    count: u32,
    /// Where the last message begins: the ack is asked for on it alone.
    last: Option<usize>,
}

/// What the kernel said of one message of a batch.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Rejection {
    /// Which message, counted from 0; `None` for the batch as a whole.
    pub message: Option<usize>,
    /// Why.
    pub errno: Errno,
    /// The kernel's extended ack; may be empty.
    pub detail: String,
    /// Where in that message, in bytes from its start, if the kernel says.
    pub offset: Option<usize>,
}

/// What became of a batch.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum BatchOutcome {
    /// The kernel acknowledged the last message and rejected none.
    Committed,
    /// Nothing was changed. In the kernel's order.
    Rejected(Vec<Rejection>),
    /// The answers were lost (`ENOBUFS`): ask the generation.
    Unknown,
}

impl Batch {
    /// A batch for a subsystem (`NFNL_SUBSYS_*`), guarded by the generation it was computed from.
    #[must_use]
    pub fn new(socket: &mut Socket, subsystem: u16, generation: Option<u32>) -> Self {
        let mut begin = Message::new(BEGIN, 0);
        begin.raw(&nfnetlink(0, subsystem));
        if let Some(generation) = generation {
            begin.u32(GENERATION, generation);
        }
        let first = socket.next_sequence();
        let mut bytes = Vec::new();
        begin.write(&mut bytes, first);
        Self { bytes, first, count: 0, last: None }
    }

    /// Adds a message and returns its number, counted from 0.
    pub fn push(&mut self, socket: &mut Socket, message: &Message) -> usize {
        let number = self.count as usize;
        self.last = Some(self.bytes.len());
        message.write(&mut self.bytes, socket.next_sequence());
        self.count += 1;
        number
    }

    /// The size so far, in bytes.
    #[must_use]
    pub fn len(&self) -> usize {
        self.bytes.len()
    }

    /// Whether no message was added.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.count == 0
    }

    /// Sends the batch and reads what the kernel says of it. The kernel has done its work when
    /// the send returns, so answers are read without waiting.
    ///
    /// # Errors
    /// If the socket itself fails. What the kernel rejects is an outcome, not an error.
    pub fn send(mut self, socket: &mut Socket, subsystem: u16) -> Result<BatchOutcome> {
        if let Some(last) = self.last {
            message::add_flags(&mut self.bytes[last..], ACK);
        }
        let mut end = Message::new(END, 0);
        end.raw(&nfnetlink(0, subsystem));
        let last = self.first.wrapping_add(self.count);
        end.write(&mut self.bytes, socket.next_sequence());
        // Answers to an earlier batch that was given up.
        let _ = socket.drain(|_, _, _| {})?;
        socket.send_bytes(&self.bytes)?;
        self.outcome(socket, last)
    }

    fn outcome(&self, socket: &mut Socket, last: u32) -> Result<BatchOutcome> {
        let (first, mut rejections, mut acknowledged) = (self.first, Vec::new(), false);
        loop {
            let read = socket.receive(false, |received| {
                if received.kind != ERROR {
                    return;
                }
                let verdict = verdict(received);
                match verdict.errno {
                    None => acknowledged |= received.sequence == last,
                    Some(errno) => rejections.push(Rejection {
                        message: received
                            .sequence
                            .wrapping_sub(first)
                            .checked_sub(1)
                            .map(|n| n as usize),
                        errno,
                        detail: verdict.detail,
                        offset: verdict.offset.map(|offset| offset as usize),
                    }),
                }
            });
            match read {
                Ok(true) => {}
                Ok(false) if !rejections.is_empty() => {
                    return Ok(BatchOutcome::Rejected(rejections));
                }
                Ok(false) if acknowledged => return Ok(BatchOutcome::Committed),
                Ok(false) | Err(Errno::ENOBUFS) => return Ok(BatchOutcome::Unknown),
                Err(errno) => return Err(Error::socket("read from", errno)),
            }
        }
    }
}

const _: () = assert!(libc::NLM_F_ACK == ACK as i32);
