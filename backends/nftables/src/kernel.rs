//! The executor: one socket, the record of what is installed, and transactions.

mod fill;
pub mod floor;

use std::collections::BTreeSet;
use std::os::fd::BorrowedFd;
use std::time::Instant;

use nix::errno::Errno;
use shunt_model::plan::{Plan, PlanDelta, ServicePlan};
use shunt_netlink::{Pulse, Rejection};

use self::fill::fill;
use crate::counting::{self, Carried, Counting};
use crate::declaration::capacities;
use crate::diff::{Operation, Steps, diff};
use crate::element::Key;
pub use crate::error::Error;
use crate::forwarding::Forwarding;
use crate::installed::Installed;
pub use crate::inventory::{Inventory, TableState, counts as counted, inventory};
use crate::lower::{References, Wanted, counts};
use crate::message::OURS;
use crate::pool::PoolChain;
use crate::quarantine::Quarantine;
use crate::readback::{self, ReadBack};
pub use crate::report::Report;
use crate::session::{Session, rejected};
use crate::transaction::{Kept, Transaction, chunks};

/// What is told of a Service that asks for session affinity when all numbers are given out.
const WITHOUT_AFFINITY: &str = "spec.sessionAffinity: not all of its clients keep their endpoint: there are 32,767 ServicePorts \
     with session affinity, or 65,535 endpoints of one, and no number is left";

/// How to use the kernel.
#[derive(Clone, Copy, Debug)]
pub struct Options {
    /// Who forwards packets to endpoints.
    pub forwarding: Forwarding,
    /// Claim the table where the kernel can (6.9 and later: flags owner and persist): no other
    /// process, `nft flush ruleset` included, can change it then, and it outlives ours.
    pub owner: bool,
    /// What elements count. A table that counts something else is replaced.
    pub counting: Counting,
}

/// The nftables of this network namespace, as far as they are ours.
#[derive(Debug)]
pub struct Nftables {
    session: Session,
    options: Options,
    plan: Plan,
    references: References,
    installed: Option<Installed>,
    quarantine: Quarantine,
}

impl Nftables {
    /// Opens the kernel's nftables. Nothing is changed.
    ///
    /// # Errors
    /// If the kernel has none, or does not let us.
    pub fn open(options: Options) -> Result<Self, Error> {
        Ok(Self {
            session: Session::open(OURS)?,
            options,
            plan: Plan::default(),
            references: References::new(options.forwarding),
            installed: None,
            quarantine: Quarantine::default(),
        })
    }

    /// Applies a delta to the plan and brings the kernel to it. Without a record of what is
    /// installed the kernel is read first, and only the difference is written.
    ///
    /// # Errors
    /// After an error the record is forgotten; the next sync, also of an empty delta, reads the
    /// kernel again. The delta is not lost.
    pub fn sync(&mut self, delta: PlanDelta) -> Result<Report, Error> {
        let mut report = Report::default();
        let result = self.try_sync(delta, &mut report);
        if result.is_err() {
            self.installed = None;
        }
        result.map(|()| {
            report.rejected = self.quarantine.reasons().collect();
            let forgetful = self.references.without_affinity();
            report.degraded =
                forgetful.map(|key| (key.clone(), WITHOUT_AFFINITY.to_owned())).collect();
            report
        })
    }

    /// From the next sync on another one forwards packets: the table is replaced, in one
    /// transaction.
    pub fn set_forwarding(&mut self, forwarding: Forwarding) {
        if self.options.forwarding != forwarding {
            self.options.forwarding = forwarding;
            self.references = References::new(forwarding);
            self.installed = None;
        }
    }

    /// Who forwards packets by the table that the kernel holds; `None` where there is none of this
    /// release's layout.
    ///
    /// # Errors
    /// If the kernel cannot be asked.
    pub fn forwarding_in_kernel(&mut self) -> Result<Option<Forwarding>, Error> {
        let table = readback::table(&mut self.session.socket, OURS)?;
        Ok(table.as_ref().and_then(readback::forwarding))
    }

    /// Makes the next sync read the kernel, compare and repair, and try again what the kernel
    /// rejected before.
    pub fn forget(&mut self) {
        self.installed = None;
        self.quarantine.release(&mut self.plan);
    }

    /// Whether another writer has changed our table since the last sync. Does not block.
    ///
    /// # Errors
    /// If the kernel cannot be asked.
    pub fn foreign_change(&mut self) -> Result<bool, Error> {
        let installed = self.installed.as_ref();
        self.session.foreign_change(|socket| match installed {
            Some(installed) => readback::still_holds(socket, installed),
            None => Ok(false),
        })
    }

    /// The name of the process that last changed our table, if the kernel told.
    #[must_use]
    pub fn last_writer(&self) -> Option<&str> {
        self.session.last_writer()
    }

    /// Readable when there may be a foreign change; `None` if there can be none.
    #[must_use]
    pub fn events(&self) -> Option<BorrowedFd<'_>> {
        self.session.events()
    }

    /// Beats with each transaction that is committed.
    #[must_use]
    pub fn pulse(&self) -> Pulse {
        self.session.pulse.clone()
    }

    /// The record of what is installed, unless it was forgotten.
    #[must_use]
    pub fn installed(&self) -> Option<&Installed> {
        self.installed.as_ref()
    }

    /// A record of an empty table.
    fn nothing(&self) -> Installed {
        let Options { forwarding, counting, .. } = self.options;
        Installed { forwarding, counting, ..Installed::default() }
    }

    fn references_of_plan(&self, installed: &Installed) -> References {
        References::new(self.options.forwarding).taking(&self.plan, installed)
    }

    fn try_sync(&mut self, delta: PlanDelta, report: &mut Report) -> Result<(), Error> {
        let started = Instant::now();
        if self.quarantine.supersede(&delta) {
            self.installed = None;
        }
        let mut wanted = None;
        if self.installed.is_some() {
            wanted = Some(Wanted::change(&self.plan, &delta, &mut self.references));
        }
        self.plan.apply(delta);
        if let (Some(wanted), Some(installed)) = (wanted, &self.installed) {
            let steps = diff(&wanted, installed);
            report.diff = started.elapsed();
            if steps.fit(installed) {
                match self.commit_steps(&wanted, &steps, report) {
                    Ok(None) => return Ok(()),
                    // What the record says is not so (any more): the kernel is asked.
                    Ok(Some(_)) | Err(Error::Changed) => self.installed = None,
                    Err(error) => return Err(error),
                }
            } else {
                let held = self.installed.take();
                return self.rebuild("a set had to grow", held, report);
            }
        }
        self.full_sync(report)
    }

    /// Reads, compares, writes. What the kernel rejects is set aside with its Service, and the
    /// rest is tried again.
    fn full_sync(&mut self, report: &mut Report) -> Result<(), Error> {
        loop {
            let started = Instant::now();
            report.read_back = true;
            let found = readback::read(&mut self.session.socket)?;
            report.read += started.elapsed();
            let (installed, strangers, table) = match found {
                ReadBack::Nothing => {
                    let started = Instant::now();
                    self.references = self.references_of_plan(&Installed::default());
                    report.diff += started.elapsed();
                    return self.create(report);
                }
                ReadBack::Unfit(reason, table) => {
                    self.session.adopt(&table)?;
                    return self.rebuild(reason, None, report);
                }
                ReadBack::Ours(installed, strangers, table) => (installed, strangers, table),
            };
            self.session.adopt(&table)?;
            if installed.forwarding != self.options.forwarding {
                let reason = "another backend forwards packets now";
                return self.rebuild(reason, Some(*installed), report);
            }
            if installed.counting != self.options.counting {
                return self.rebuild("something else is counted now", Some(*installed), report);
            }
            let started = Instant::now();
            self.references = self.references_of_plan(&installed);
            let wanted = Wanted::full(&self.plan, &self.references, &installed);
            let mut steps = diff(&wanted, &installed);
            let unused =
                installed.pools.difference(&installed.pools_in_use()).copied().collect::<Vec<_>>();
            let needed = pools_needed(&wanted);
            let unused = unused.into_iter().filter(|pool| !needed.contains(pool));
            steps.retire.extend(unused.map(Operation::DeletePool));
            report.diff += started.elapsed();
            if !steps.fit(&installed) {
                return self.rebuild("a set had to grow", Some(*installed), report);
            }
            self.installed = Some(*installed);
            if !strangers.is_empty() {
                let mut transaction = Transaction::default();
                transaction.remove_strangers(&strangers);
                report.operations += strangers.len();
                self.commit_or_fail(&transaction, report)?;
            }
            match self.commit_steps(&wanted, &steps, report)? {
                None => return Ok(()),
                Some((operation, reason)) => self.set_aside(&operation, reason)?,
            }
        }
    }

    /// Makes the table where there is none: the empty table first, then a portion of the Services
    /// after the other, in transactions of bounded size.
    fn create(&mut self, report: &mut Report) -> Result<(), Error> {
        let started = Instant::now();
        report.rebuilt = Some("there was no table");
        let counts = counts(&self.plan, &self.references);
        let mut installed = Installed { capacity: capacities(&counts), ..self.nothing() };
        report.diff += started.elapsed();
        self.make_table(&installed, false, &[], &Kept::default(), report)?;
        let filled = fill(&mut self.session, &self.plan, &self.references, &mut installed, report)?;
        if filled {
            self.installed = Some(installed);
            return Ok(());
        }
        // Something was rejected, or others wrote: what there is now has to be read.
        self.full_sync(report)
    }

    /// Replaces the table by what the plan asks for, in one transaction: packets see the old
    /// one or the new one. What the old one has counted and remembers goes over to the new one,
    /// if it is known what it holds.
    fn rebuild(
        &mut self,
        reason: &'static str,
        held: Option<Installed>,
        report: &mut Report,
    ) -> Result<(), Error> {
        let started = Instant::now();
        report.rebuilt = Some(reason);
        let mut installed = self.nothing();
        self.references = self.references_of_plan(held.as_ref().unwrap_or(&installed));
        let wanted = Wanted::full(&self.plan, &self.references, &installed);
        let steps = diff(&wanted, &installed);
        installed.capacity = capacities(&steps.added());
        report.diff += started.elapsed();
        let operations = steps.into_operations();
        let kept = held.map(|held| self.kept(&held, &operations)).unwrap_or_default();
        self.make_table(&installed, true, &operations, &kept, report)?;
        for operation in &operations {
            installed.apply(operation);
        }
        installed.share(&wanted);
        self.installed = Some(installed);
        Ok(())
    }

    /// What only the kernel knows of the table that these operations are to replace. It is worth
    /// less than serving: where it cannot be read it is lost.
    fn kept(&mut self, held: &Installed, operations: &[Operation]) -> Kept {
        let socket = &mut self.session.socket;
        let counting = self.options.counting;
        let mut kept = Kept::default();
        if held.counting != Counting::Nothing && counting != Counting::Nothing {
            let counts = readback::counts(socket, held.counting).unwrap_or_default();
            kept.counts = counts.hand_on(operations.iter(), counting);
        }
        if self.options.forwarding.translates() {
            kept.clients = readback::clients(socket).unwrap_or_default();
        }
        kept
    }

    /// What the elements that the steps add shall count on from.
    fn carried(&mut self, steps: &Steps) -> Carried {
        let Some(Installed { counting, .. }) = self.installed else { return Carried::new() };
        if counting == Counting::Nothing {
            return Carried::new();
        }
        let removed = counting::removed(steps, counting);
        // Where one is not there the transaction tells.
        let counts = readback::counts_of(&mut self.session.socket, removed).unwrap_or_default();
        counts.hand_on(steps.in_order().flatten(), counting)
    }

    fn make_table(
        &mut self,
        installed: &Installed,
        replace: bool,
        operations: &[Operation],
        kept: &Kept,
        report: &mut Report,
    ) -> Result<(), Error> {
        let started = Instant::now();
        report.bytes += self.session.make(self.options.owner, |owned| {
            Transaction::table(installed, replace, owned, operations, kept).messages
        })?;
        report.operations += operations.len();
        report.transactions += 1;
        report.commit += started.elapsed();
        Ok(())
    }

    /// Writes the steps to what is wanted, recording each transaction that was committed. An
    /// operation that the kernel rejects is given back with its reason.
    fn commit_steps(
        &mut self,
        wanted: &Wanted,
        steps: &Steps,
        report: &mut Report,
    ) -> Result<Option<(Operation, String)>, Error> {
        let carried = self.carried(steps);
        for step in steps.in_order() {
            for operations in chunks(step) {
                let transaction = Transaction::carrying(operations, &carried);
                if let Err(rejections) = self.commit(&transaction, report)? {
                    let blamed = rejections.iter().find_map(|rejection| {
                        Some((
                            operations[transaction.blame(rejection)?].clone(),
                            describe(rejection),
                        ))
                    });
                    return blamed
                        .map_or_else(|| Err(rejected(&rejections)), |blamed| Ok(Some(blamed)));
                }
                let tidied = |operation: &&Operation| matches!(operation, Operation::DeletePool(_));
                report.operations += operations.len() - operations.iter().filter(tidied).count();
                if let Some(installed) = &mut self.installed {
                    operations.iter().for_each(|operation| installed.apply(operation));
                }
            }
        }
        if let Some(installed) = &mut self.installed {
            installed.share(wanted);
        }
        Ok(None)
    }

    fn commit_or_fail(
        &mut self,
        transaction: &Transaction,
        report: &mut Report,
    ) -> Result<(), Error> {
        self.commit(transaction, report)?.map_err(|rejections| rejected(&rejections))
    }

    fn commit(
        &mut self,
        transaction: &Transaction,
        report: &mut Report,
    ) -> Result<Result<(), Vec<Rejection>>, Error> {
        let started = Instant::now();
        let installed = self.installed.as_ref();
        let outcome = self.session.commit(&transaction.messages, |socket| {
            installed.map_or(Ok(true), |installed| readback::still_holds(socket, installed))
        })?;
        Ok(outcome.map(|bytes| {
            report.bytes += bytes;
            report.transactions += 1;
            report.commit += started.elapsed();
        }))
    }

    /// Takes the Service that an operation belongs to out of the plan, so that the others are
    /// served.
    fn set_aside(&mut self, operation: &Operation, reason: String) -> Result<(), Error> {
        let frontend = match operation {
            Operation::Add(element) => match element.key {
                Key::Frontend(frontend) | Key::Slot(frontend, _) | Key::Id(frontend, _) => {
                    Some(frontend)
                }
                Key::Source(frontend, _) => Some(frontend),
                Key::Address(_) | Key::Way(..) => None,
            },
            _ => None,
        };
        let owner = frontend.and_then(|frontend| {
            let serves = |service: &ServicePlan| {
                service.frontends.iter().any(|plan| plan.frontend == frontend)
            };
            self.plan
                .services
                .iter()
                .find(|(_, service)| serves(service))
                .map(|(key, _)| key.clone())
        });
        let Some(key) = owner else {
            return Err(Error::Rejected { errno: Errno::EINVAL, detail: reason });
        };
        self.quarantine.set_aside(&mut self.plan, key, reason);
        Ok(())
    }
}

/// The pool chains that the wanted verdicts need.
fn pools_needed(wanted: &Wanted) -> BTreeSet<PoolChain> {
    let needed = wanted
        .frontends
        .iter()
        .filter_map(|(place, target)| target.as_ref()?.target.pool_chain(place));
    needed.flat_map(PoolChain::with_remember).collect()
}

fn describe(rejection: &Rejection) -> String {
    if rejection.detail.is_empty() {
        rejection.errno.desc().to_owned()
    } else {
        format!("{} ({})", rejection.errno.desc(), rejection.detail)
    }
}
