//! The floor under a first load: what the kernel itself takes for the same elements.
//!
//! A yardstick for benchmarks. The messages are those of the executor, but all of them are made
//! beforehand, and nothing is recorded, guarded or read.

use std::time::{Duration, Instant};

use nix::libc::NETLINK_NETFILTER;
use shunt_model::plan::Plan;
use shunt_netlink::{Batch, BatchOutcome, Socket};

use super::{Error, rejected};
use crate::declaration::capacities;
use crate::diff::{Operation, diff};
use crate::forwarding::Forwarding;
use crate::installed::Installed;
use crate::lower::{References, Wanted};
use crate::message::SUBSYSTEM;
use crate::transaction::{Kept, Transaction, chunks};

/// What a bare load took.
#[derive(Clone, Debug, Default)]
pub struct BareLoad {
    /// Additions written.
    pub operations: usize,
    /// Transactions, the making of the table included.
    pub transactions: usize,
    /// Bytes sent.
    pub bytes: usize,
    /// Making the messages.
    pub encode: Duration,
    /// In the kernel: from the first send to the last answer, nothing else.
    pub send: Duration,
}

/// How the elements are spread over transactions.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Spread {
    /// All in the one that makes the table.
    One,
    /// In transactions of the executor's size.
    Bounded,
}

/// Loads a plan into the table of this network namespace, which must not have one, and leaves
/// it there without an owner. `forwarding` says whether the table translates, or IPVS.
///
/// # Errors
/// If the kernel refuses.
pub fn bare_load(plan: &Plan, forwarding: Forwarding, spread: Spread) -> Result<BareLoad, Error> {
    let mut installed = Installed { forwarding, ..Installed::default() };
    let references = References::new(forwarding).taking(plan, &installed);
    let wanted = Wanted::full(plan, &references, &installed);
    let steps = diff(&wanted, &installed);
    installed.capacity = capacities(&steps.added());
    let started = Instant::now();
    let transactions = match spread {
        Spread::One => {
            let all: Vec<Operation> = steps.in_order().flatten().cloned().collect();
            vec![Transaction::table(&installed, false, false, &all, &Kept::default())]
        }
        Spread::Bounded => {
            let table = Transaction::table(&installed, false, false, &[], &Kept::default());
            let loads = steps.in_order().flat_map(chunks).map(Transaction::of);
            std::iter::once(table).chain(loads).collect()
        }
    };
    let encode = started.elapsed();
    let mut load = BareLoad { operations: steps.len(), encode, ..BareLoad::default() };
    let mut socket = Socket::open(NETLINK_NETFILTER)?;
    for transaction in transactions {
        send(&mut socket, transaction, &mut load)?;
    }
    Ok(load)
}

fn send(socket: &mut Socket, transaction: Transaction, load: &mut BareLoad) -> Result<(), Error> {
    let started = Instant::now();
    let mut batch = Batch::new(socket, SUBSYSTEM, None);
    for message in &transaction.messages {
        batch.push(socket, message);
    }
    load.encode += started.elapsed();
    load.bytes += batch.len();
    load.transactions += 1;
    let started = Instant::now();
    let outcome = batch.send(socket, SUBSYSTEM)?;
    load.send += started.elapsed();
    match outcome {
        BatchOutcome::Committed => Ok(()),
        BatchOutcome::Rejected(rejections) => Err(rejected(&rejections)),
        BatchOutcome::Unknown => Err(Error::Lost),
    }
}
