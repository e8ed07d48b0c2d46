//! Filling an empty table: what the kernel is to hold is worked out while it takes the portion
//! before.

use std::panic::resume_unwind;
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use std::thread;
use std::time::Instant;

use shunt_model::plan::Plan;

use super::{Error, Report};
use crate::diff::{Operation, Steps, diff};
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

/// Nobody takes transactions any more.
struct Ended;

/// Makes the transactions, one portion of the plan after the other, until nobody takes them.
fn prepare(
    plan: &Plan,
    references: &References,
    installed: &mut Installed,
    transactions: &SyncSender<Counted>,
    report: &mut Report,
) {
    let mut verdicts = Verdicts { transactions, waiting: Vec::new(), sent: 0 };
    for delta in portions(plan, PORTION) {
        let started = Instant::now();
        let wanted = Wanted::portion(&delta, references);
        let steps = diff(&wanted, installed);
        report.diff += started.elapsed();
        // Ahead of the kernel: who comes later finds what is on its way.
        steps.in_order().flatten().for_each(|operation| installed.apply(operation));
        installed.share(&wanted);
        if verdicts.take(steps).is_err() {
            return;
        }
    }
    // Who takes no more of them has the reason.
    let _ = verdicts.send_all();
}

/// Puts off verdicts until there are as many as the kernel has: it validates all of them again in
/// each transaction with new ones, so they come in few, each twice as large as the one before. What
/// they lead to goes ahead of them.
struct Verdicts<'a> {
    transactions: &'a SyncSender<Counted>,
    waiting: Vec<Operation>,
    sent: usize,
}

impl Verdicts<'_> {
    fn take(&mut self, steps: Steps) -> Result<(), Ended> {
        send(self.transactions, &steps.prepare)?;
        self.waiting.extend(steps.switch);
        if self.waiting.len() >= self.sent || !steps.retire.is_empty() {
            self.send_all()?;
        }
        send(self.transactions, &steps.retire)
    }

    fn send_all(&mut self) -> Result<(), Ended> {
        send(self.transactions, &self.waiting)?;
        self.sent += self.waiting.len();
        self.waiting.clear();
        Ok(())
    }
}

fn send(transactions: &SyncSender<Counted>, operations: &[Operation]) -> Result<(), Ended> {
    for operations in chunks(operations) {
        let transaction = (operations.len(), Transaction::of(operations));
        transactions.send(transaction).map_err(|_| Ended)?;
    }
    Ok(())
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

#[cfg(test)]
mod tests {
    use std::sync::mpsc::sync_channel;

    use ipnet::IpNet;
    use shunt_model::address::{Family, Frontend, FrontendAddress, Protocol};

    use super::*;
    use crate::element::{Element, Key, Value};
    use crate::name::{SetId, SetKind};

    /// So many additions to a set of a kind.
    fn additions(kind: SetKind, count: u16) -> Vec<Operation> {
        let address = FrontendAddress::Ip([10, 0, 0, 1].into());
        let key = |port| Key::Frontend(Frontend { address, protocol: Protocol::Tcp, port });
        let set = SetId::new(kind, Family::V4);
        let add = |port| Operation::Add(Element { set, key: key(port), value: Value::Member });
        (0..count).map(add).collect()
    }

    fn portion() -> Steps {
        Steps {
            prepare: additions(SetKind::Masquerade, 7),
            switch: additions(SetKind::MasqueradeOwn, 2),
            retire: Vec::new(),
        }
    }

    /// How many operations each transaction has.
    fn sent(fill: impl FnOnce(&mut Verdicts<'_>) -> Result<(), Ended>) -> Vec<usize> {
        let (transactions, sent) = sync_channel(64);
        let mut verdicts = Verdicts { transactions: &transactions, waiting: Vec::new(), sent: 0 };
        assert!(fill(&mut verdicts).is_ok(), "all were taken");
        drop(transactions);
        sent.into_iter().map(|(operations, _)| operations).collect()
    }

    #[test]
    fn verdicts_come_behind_what_they_lead_to_and_twice_as_many_each_time() {
        let found = sent(|verdicts| {
            (0..8).try_for_each(|_| verdicts.take(portion()))?;
            verdicts.send_all()
        });
        assert_eq!(found, [7, 2, 7, 2, 7, 7, 4, 7, 7, 7, 7, 8]);
    }

    #[test]
    fn what_refuses_the_rest_comes_behind_all_verdicts() {
        let services = SetId::new(SetKind::ServiceNetworks, Family::V4);
        let networks = vec!["10.96.0.0/12".parse::<IpNet>().expect("a network")];
        let last = Steps {
            retire: vec![Operation::ReplaceNetworks(services, networks)],
            ..Steps::default()
        };
        let found = sent(|verdicts| {
            (0..3).try_for_each(|_| verdicts.take(portion()))?;
            verdicts.take(last)?;
            verdicts.send_all()
        });
        assert_eq!(found, [7, 2, 7, 2, 7, 2, 1]);
    }
}
