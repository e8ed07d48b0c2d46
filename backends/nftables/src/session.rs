//! One table of ours in the kernel: its sockets, its owner's flags, and transactions on it.

use std::os::fd::{AsFd, BorrowedFd};

use nix::errno::Errno;
use nix::libc::NETLINK_NETFILTER;
use shunt_netlink::{Batch, BatchOutcome, Message, Pulse, Rejection, Socket};

use crate::answer::{self, TableInfo};
use crate::error::Error;
use crate::message::{PERSIST, SUBSYSTEM, Table, get_generation, kind};
use crate::readback;

/// How often a write is tried again because others wrote at the same time.
const ATTEMPTS: u32 = 10;
/// `NFNLGRP_NFTABLES`.
const EVENT_GROUP: u32 = 7;

/// A table of ours, and how it is written.
#[derive(Debug)]
pub struct Session {
    /// Which table.
    pub table: Table,
    /// What it is written and read by.
    pub socket: Socket,
    /// Beats with each transaction that is committed.
    pub pulse: Pulse,
    /// Listens only while the table has no owner: a subscription costs the kernel a message for
    /// each element written, and what is owned cannot be changed by others.
    events: Socket,
    listening: bool,
    generation: u32,
    owned: bool,
    last_writer: Option<String>,
}

impl Session {
    /// Opens the kernel's nftables. Nothing is changed.
    ///
    /// # Errors
    /// If the kernel has none, or does not let us; or if the table has an owner that lives.
    pub fn open(table: Table) -> Result<Self, Error> {
        let mut session = Self {
            table,
            socket: Socket::open(NETLINK_NETFILTER)?,
            pulse: Pulse::default(),
            events: Socket::open(NETLINK_NETFILTER)?,
            listening: false,
            generation: 0,
            owned: false,
            last_writer: None,
        };
        session.generation = session.read_generation()?;
        match readback::table(&mut session.socket, table)? {
            Some(TableInfo { owner, .. }) if owner != 0 => {
                Err(Error::Owned { table: table.name, port: owner })
            }
            _ => Ok(session),
        }
    }

    /// Takes over a table that has lost its owner; where there is none, listens for others.
    ///
    /// # Errors
    /// If another process that lives has it, or the kernel refuses.
    pub fn adopt(&mut self, table: &TableInfo) -> Result<(), Error> {
        self.adopt_all(&[(self.table, table)])
    }

    /// The same of several tables that are written together.
    ///
    /// # Errors
    /// As for one.
    pub fn adopt_all(&mut self, tables: &[(Table, &TableInfo)]) -> Result<(), Error> {
        let mut all_owned = true;
        for (ours, table) in tables {
            if table.owner != 0 && table.owner != self.socket.port() {
                return Err(Error::Owned { table: ours.name, port: table.owner });
            }
            // The kernel takes the owner's flag away when the owner ends, and leaves the other.
            let owned = table.flags & PERSIST != 0;
            if owned && table.owner == 0 {
                let adopt = [ours.adopt()];
                self.commit(&adopt, |_| Ok(true))?.map_err(|rejections| rejected(&rejections))?;
            }
            all_owned &= owned;
        }
        self.set_owned(all_owned)
    }

    /// Makes the table by what `transaction` says for one that is owned or not: owned, if that
    /// is wished and the kernel can (6.9 and later).
    ///
    /// # Errors
    /// If the kernel refuses.
    pub fn make(
        &mut self,
        mut owned: bool,
        mut transaction: impl FnMut(bool) -> Vec<Message>,
    ) -> Result<usize, Error> {
        loop {
            match self.commit(&transaction(owned), |_| Ok(true))? {
                Ok(bytes) => {
                    self.set_owned(owned)?;
                    return Ok(bytes);
                }
                // Kernels before 6.9 know no persistent owner.
                Err(rejections) if owned && unknown_flags(&rejections) => owned = false,
                Err(rejections) => return Err(rejected(&rejections)),
            }
        }
    }

    fn set_owned(&mut self, owned: bool) -> Result<(), Error> {
        self.owned = owned;
        if self.listening == owned {
            self.events.listen(EVENT_GROUP, !owned)?;
            self.listening = !owned;
        }
        Ok(())
    }

    /// Sends one transaction; returns its size in bytes. A table without owner is guarded by the
    /// generation that our record belongs to: if others wrote in between, `still_holds` tells
    /// whether the record is right before it is sent again.
    ///
    /// # Errors
    /// If the record is not right any more, others keep writing, or the socket fails.
    pub fn commit(
        &mut self,
        messages: &[Message],
        mut still_holds: impl FnMut(&mut Socket) -> Result<bool, Error>,
    ) -> Result<Result<usize, Vec<Rejection>>, Error> {
        for _ in 0..ATTEMPTS {
            let guard = (!self.owned).then_some(self.generation);
            let mut batch = Batch::new(&mut self.socket, SUBSYSTEM, guard);
            for message in messages {
                batch.push(&mut self.socket, message);
            }
            let bytes = batch.len();
            match batch.send(&mut self.socket, SUBSYSTEM)? {
                BatchOutcome::Committed => {
                    self.pulse.beat();
                    self.generation = self.read_generation()?;
                    return Ok(Ok(bytes));
                }
                BatchOutcome::Rejected(rejections) if outdated(&rejections) => {
                    self.generation = self.read_generation()?;
                    if !still_holds(&mut self.socket)? {
                        return Err(Error::Changed);
                    }
                }
                BatchOutcome::Rejected(rejections) => return Ok(Err(rejections)),
                BatchOutcome::Unknown => return Err(Error::Lost),
            }
        }
        Err(Error::Contended { attempts: ATTEMPTS })
    }

    /// Whether another writer has committed something since this was asked last, and what is
    /// held is not right any more. Does not block.
    ///
    /// # Errors
    /// If the kernel cannot be asked.
    pub fn foreign_change(
        &mut self,
        still_holds: impl FnOnce(&mut Socket) -> Result<bool, Error>,
    ) -> Result<bool, Error> {
        let mut seen = false;
        let ours = self.socket.port();
        let mut writer = None;
        let lost = self.events.drain(|message, payload, port| {
            if message == SUBSYSTEM << 8 | kind::NEWGEN && port != ours {
                seen = true;
                writer = answer::read_generation(payload).1;
            }
        })?;
        if !(seen || lost) {
            return Ok(false);
        }
        self.generation = self.read_generation()?;
        let changed = !still_holds(&mut self.socket)?;
        if changed {
            self.last_writer = writer;
        }
        Ok(changed)
    }

    /// The name of the process that last changed our table, if the kernel told.
    #[must_use]
    pub fn last_writer(&self) -> Option<&str> {
        self.last_writer.as_deref()
    }

    /// Readable when there may be a foreign change; `None` if there can be none.
    #[must_use]
    pub fn events(&self) -> Option<BorrowedFd<'_>> {
        self.listening.then(|| self.events.as_fd())
    }

    fn read_generation(&mut self) -> Result<u32, Error> {
        let mut generation = 0;
        self.socket.request("tell its generation", get_generation(), |payload| {
            generation = answer::read_generation(payload).0;
        })?;
        Ok(generation)
    }
}

fn outdated(rejections: &[Rejection]) -> bool {
    rejections
        .iter()
        .any(|rejection| rejection.message.is_none() && rejection.errno == Errno::ERESTART)
}

/// Kernels before 5.13 say EINVAL to flags of a table that they do not know (`nf_tables_newtable`).
fn unknown_flags(rejections: &[Rejection]) -> bool {
    rejections.iter().any(|rejection| matches!(rejection.errno, Errno::EOPNOTSUPP | Errno::EINVAL))
}

/// A transaction that was rejected, as an error.
#[must_use]
pub fn rejected(rejections: &[Rejection]) -> Error {
    match rejections.first() {
        Some(Rejection { errno: Errno::EPERM, message: None, .. }) => Error::Permission,
        Some(first) => Error::Rejected { errno: first.errno, detail: first.detail.clone() },
        None => Error::Lost,
    }
}

/// Whether the kernel would make all of this: it is asked in a transaction that ends with something it must refuse, so
/// nothing is changed.
///
/// # Errors
/// If the kernel's nftables cannot be written to.
pub fn accepts(table: Table, messages: Vec<Message>) -> Result<bool, Error> {
    let mut socket = Socket::open(NETLINK_NETFILTER)?;
    let mut batch = Batch::new(&mut socket, SUBSYSTEM, None);
    for message in &messages {
        batch.push(&mut socket, message);
    }
    // There is no such chain.
    let refused = batch.push(&mut socket, &table.delete_chain("probe-of-nothing"));
    match batch.send(&mut socket, SUBSYSTEM)? {
        BatchOutcome::Rejected(rejections) => {
            if rejections.iter().any(|rejection| rejection.message.is_none()) {
                return Err(rejected(&rejections));
            }
            Ok(rejections.iter().all(|rejection| rejection.message.is_some_and(|n| n >= refused)))
        }
        BatchOutcome::Committed | BatchOutcome::Unknown => Err(Error::Lost),
    }
}
