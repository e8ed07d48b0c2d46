//! Filling an empty table: what the kernel is to hold is worked out while it takes the portion
//! before.

use std::panic::resume_unwind;
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use std::thread;
use std::time::Instant;

use shunt_model::plan::Plan;

use super::{Error, Report};
use crate::diff::diff;
use crate::installed::Installed;
use crate::lower::{References, Wanted, portions};
use crate::session::Session;
use crate::transaction::{Transaction, chunks};

/// Frontends and endpoints in a portion: enough for the fixed cost of a transaction not to be felt.
const PORTION: usize = 5000;
/// Transactions that may wait for the kernel. Each is some 200 KB.
const WAITING: usize = 2;

/// Writes a whole plan, whose references these are, into an empty table, and records it. `false`:
/// not all of it was written, and the record is wrong.
///
/// # Errors
/// If the socket fails.
pub(super) fn fill(
    session: &mut Session,
    plan: &Plan,
    references: &References,
    installed: &mut Installed,
    report: &mut Report,
) -> Result<bool, Error> {
    thread::scope(|scope| {
        let (transactions, waiting) = sync_channel(WAITING);
        let committing = scope.spawn(move || commit_all(session, &waiting));
        prepare(plan, references, installed, &transactions, report);
        drop(transactions);
        let joined = committing.join();
        let (done, outcome) = joined.unwrap_or_else(|panic| resume_unwind(panic));
        report.operations += done.operations;
        report.transactions += done.transactions;
        report.bytes += done.bytes;
        report.commit += done.commit;
        outcome
    })
}

/// A transaction with the number of its operations.
type Counted = (usize, Transaction);

/// Makes the transactions, one portion of the plan after the other, until nobody takes them.
fn prepare(
    plan: &Plan,
    references: &References,
    installed: &mut Installed,
    transactions: &SyncSender<Counted>,
    report: &mut Report,
) {
    for delta in portions(plan, PORTION) {
        let started = Instant::now();
        let wanted = Wanted::portion(&delta, references);
        let steps = diff(&wanted, installed);
        report.diff += started.elapsed();
        for operations in steps.in_order().flat_map(chunks) {
            if transactions.send((operations.len(), Transaction::of(operations))).is_err() {
                return;
            }
            operations.iter().for_each(|operation| installed.apply(operation));
        }
        installed.share(&wanted);
    }
}

/// Commits what comes, until one is rejected or others have written.
fn commit_all(session: &mut Session, waiting: &Receiver<Counted>) -> (Report, Result<bool, Error>) {
    let mut done = Report::default();
    for (operations, transaction) in waiting {
        let started = Instant::now();
        // The record is ahead of the kernel, so it cannot tell whether others' writes matter.
        match session.commit(&transaction.messages, |_| Ok(false)) {
            Ok(Ok(bytes)) => done.bytes += bytes,
            Ok(Err(_)) | Err(Error::Changed) => return (done, Ok(false)),
            Err(error) => return (done, Err(error)),
        }
        done.operations += operations;
        done.transactions += 1;
        done.commit += started.elapsed();
    }
    (done, Ok(true))
}
