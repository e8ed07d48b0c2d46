//! The executor: one table, the record of what is installed, and transactions.

mod questions;
mod tend;

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::os::fd::BorrowedFd;
use std::sync::Arc;
use std::sync::mpsc::Sender;
use std::time::Instant;

use ipnet::IpNet;
use shunt_netlink::Pulse;
use shunt_netpolicy::table::{Delta, Table};
pub use shunt_nftables::codec::{Error, Report};
use shunt_nftables::codec::{Session, Table as NftTable, rejected};

pub use self::questions::{Dropped, Learnt, dropped, inventory, learnt, switched};
use self::tend::{concerned, held_watched, takes_a_class};
pub use crate::counting::{Count, PolicyCounts};
use crate::counting::{Kept, Teller};
use crate::installed::{Counts, Installed, Steps};
use crate::layout::{Switched, Variant};
use crate::live::{Walker, Watch};
use crate::lower::{Beside, Operation, Wanted};
use crate::planned::Planned;
use crate::readback::{self, Found, ReadBack};
use crate::text::fresh;
use crate::transaction::{self, OURS};

/// A change of what is to be enforced.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Change {
    /// Of the decision table.
    pub table: Delta,
    /// The addresses of this machine, if they have changed.
    pub own: Option<BTreeSet<IpAddr>>,
    /// The ranges that this node gives its pods addresses out of, if they have changed; only where
    /// addresses of unknown pods are closed.
    pub pod_networks: Option<BTreeSet<IpNet>>,
    /// Addresses in them whose pods have become known (`true`), or are gone.
    pub known: BTreeMap<IpAddr, bool>,
    /// Domain names that DNS has given to addresses, by their numbers, and until when; `None`: not any more.
    pub learnt: BTreeMap<(IpAddr, u32), Option<Instant>>,
    /// There are pods on bridges that IP's hooks do not see, and how they are judged. It stays so for this run.
    pub switched: Option<Switched>,
}

/// What an operator chooses.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Options {
    /// Of the rules.
    pub variant: Variant,
    /// Connections that have begun go on when policy changes.
    pub keep_connections: bool,
}

impl Change {
    /// Adds a later change.
    pub fn merge(&mut self, later: Self) {
        self.table.merge(later.table);
        self.own = later.own.or(self.own.take());
        self.pod_networks = later.pod_networks.or(self.pod_networks.take());
        self.known.extend(later.known);
        self.learnt.extend(later.learnt);
        self.switched = later.switched.or(self.switched);
    }
}

/// The policy table of this network namespace. There is none while no pod is isolated, so that no
/// packet meets a rule then.
#[derive(Debug)]
pub struct PolicyTable {
    session: Session,
    owner: bool,
    options: Options,
    /// What is wanted.
    table: Table,
    beside: Beside,
    /// For how long pods are watched.
    watch: Watch,
    walker: Walker,
    kept: Kept,
    teller: Option<Teller>,
    /// The kernel is known to hold what is wanted: in a table with so many elements, or in none. After any error it
    /// is not, until it was read.
    installed: Option<Option<Counts>>,
}

impl PolicyTable {
    /// Opens the kernel's nftables. Nothing is changed. `owner`: claim the table where the kernel
    /// can (6.9 and later), so that no other process can change it.
    ///
    /// # Errors
    /// If the kernel has none, or does not let us.
    pub fn open(owner: bool) -> Result<Self, Error> {
        Ok(Self {
            session: Session::open(OURS)?,
            owner,
            options: Options::default(),
            table: Table::default(),
            beside: Beside::default(),
            watch: Watch::default(),
            walker: Walker::open(),
            kept: Kept::default(),
            teller: None,
            installed: None,
        })
    }

    /// The same as an operator has chosen it. Before the first sync.
    #[must_use]
    pub const fn with(mut self, options: Options) -> Self {
        self.options = options;
        self
    }

    /// The same, and what each policy has decided is told now and then, if it is counted.
    #[must_use]
    pub fn telling(self, out: Sender<PolicyCounts>) -> Self {
        let teller = self.options.variant.counting.then(|| Teller::new(out));
        Self { teller, ..self }
    }

    /// Whether drops are logged: not, if the kernel has refused it.
    #[must_use]
    pub const fn logs(&self) -> bool {
        self.options.variant.log
    }

    /// Takes a change in and brings the kernel to what is wanted now. Without a record of what is
    /// installed the kernel is read first, and only the difference is written.
    ///
    /// # Errors
    /// After an error the record is forgotten; the next sync, also of an empty change, reads the
    /// kernel again. The change is not lost.
    pub fn sync(&mut self, change: Change) -> Result<Report, Error> {
        let mut report = Report::default();
        let result = self.try_sync(change, &mut report);
        match &result {
            Ok(()) => self.watch.committed(&self.beside.watched, Instant::now()),
            Err(_) => self.installed = None,
        }
        result.map(|()| report)
    }

    /// What each policy has accepted and denied since this was opened, and before that what the table already had
    /// counted; nothing, if that is not counted.
    ///
    /// # Errors
    /// If nftables cannot be read.
    pub fn counted(&mut self) -> Result<PolicyCounts, Error> {
        if !self.options.variant.counting || self.counts().is_none() {
            return Ok(self.kept.with(&BTreeMap::new(), &BTreeMap::new()));
        }
        let counted = readback::counted(&mut self.session.socket, self.options.variant)?;
        Ok(self.kept.with(&self.table.rows, &counted))
    }

    /// Makes the next sync read the kernel, compare and repair.
    pub fn forget(&mut self) {
        self.installed = None;
    }

    /// Whether another writer has changed our table since the last sync. Does not block.
    ///
    /// # Errors
    /// If the kernel cannot be asked.
    pub fn foreign_change(&mut self) -> Result<bool, Error> {
        let counts = self.installed.as_ref().and_then(Option::as_ref);
        let variant = self.options.variant;
        self.session.foreign_change(|socket| match counts {
            Some(counts) => readback::still_holds(socket, variant, counts),
            None => Ok(true),
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
        let there = self.installed.as_ref().is_some_and(Option::is_some);
        self.session.events().filter(|_| there)
    }

    /// Beats with each transaction that is committed.
    #[must_use]
    pub fn pulse(&self) -> Pulse {
        self.session.pulse.clone()
    }

    /// What is installed; `None` if there is no table, or that is not known.
    #[must_use]
    pub fn installed(&self) -> Option<Installed> {
        self.counts().map(|_| fresh(&self.table, &self.beside))
    }

    fn counts(&self) -> Option<&Counts> {
        self.installed.as_ref()?.as_ref()
    }

    fn try_sync(&mut self, change: Change, report: &mut Report) -> Result<(), Error> {
        let started = Instant::now();
        let before = self.beside.clone();
        let Change { table, own, pod_networks, known, learnt, switched } = change;
        if switched.is_some() && switched != self.options.variant.switched {
            self.options.variant.switched = switched;
            // Other tables are needed, but where none are.
            self.installed.take_if(|installed| installed.is_some());
        }
        self.watch(table.tightened.iter().copied());
        self.leave(&table.left);
        self.take_beside(own, pod_networks, known, learnt);
        self.beside.watched.retain(|address| table.keeps_local(&self.table, *address));
        let steps = self.counts().is_some().then(|| {
            let mut wanted = Wanted::change(&self.table, &table);
            wanted.beside(&before, &self.beside);
            wanted.learnt(&before, &self.beside, |address| table.name_atom(&self.table, address));
            Steps::between(&Planned { table: &self.table, beside: &before }, &wanted)
        });
        if self.options.variant.counting {
            let gone = table.rows.iter().filter(|(_, row)| row.is_none());
            let rows = gone.filter_map(|(id, _)| Some((*id, Arc::clone(self.table.rows.get(id)?))));
            self.kept.leave(rows);
        }
        self.table.apply(&table);
        let needed = self.is_needed();
        report.diff += started.elapsed();
        match steps {
            None if self.installed.is_some() && !needed => Ok(()),
            Some(steps) if needed => match self.commit_steps(&steps, report) {
                // What was taken for installed is not so (any more): the kernel is asked.
                Err(Error::Changed | Error::Rejected { .. }) => self.full_sync(report),
                result => result,
            },
            Some(_) | None => self.full_sync(report),
        }
    }

    fn take_beside(
        &mut self,
        own: Option<BTreeSet<IpAddr>>,
        pod_networks: Option<BTreeSet<IpNet>>,
        known: BTreeMap<IpAddr, bool>,
        learnt: BTreeMap<(IpAddr, u32), Option<Instant>>,
    ) {
        let beside = &mut self.beside;
        own.into_iter().for_each(|own| beside.own = own);
        pod_networks.into_iter().for_each(|networks| beside.pod_networks = networks);
        for (address, is_known) in known {
            match is_known {
                true => beside.known.insert(address),
                false => beside.known.remove(&address),
            };
        }
        for (name, until) in learnt {
            match until {
                Some(until) => beside.learnt.insert(name, until),
                None => beside.learnt.remove(&name),
            };
        }
    }

    /// Reads, compares, writes.
    fn full_sync(&mut self, report: &mut Report) -> Result<(), Error> {
        let needed = self.is_needed();
        let nothing_there = matches!(self.installed, Some(None));
        self.installed = None;
        let started = Instant::now();
        report.read_back = !nothing_there;
        let found = match nothing_there {
            true => ReadBack::Nothing,
            false => readback::read(&mut self.session.socket, self.options.variant)?,
        };
        report.read += started.elapsed();
        match found {
            ReadBack::Nothing if !needed => {
                self.installed = Some(None);
                Ok(())
            }
            ReadBack::Nothing => self.create(None, !nothing_there, report),
            ReadBack::Unfit(_, found) | ReadBack::Ours(_, found) if !needed => {
                let tables = self.adopt(&found)?;
                self.remove(&tables, report)
            }
            ReadBack::Unfit(reason, found) => {
                let tables = self.adopt(&found)?;
                self.create(Some((reason, tables)), true, report)
            }
            ReadBack::Ours(installed, found) => {
                self.adopt(&found)?;
                self.repair(*installed, report)
            }
        }
    }

    /// Takes over the tables that are there; returns which.
    fn adopt(&mut self, found: &Found) -> Result<Vec<NftTable>, Error> {
        let tables: Vec<_> = found.iter().map(|(table, info)| (*table, info)).collect();
        self.session.adopt_all(&tables)?;
        Ok(tables.into_iter().map(|(table, _)| table).collect())
    }

    /// Makes the table, or replaces one of another layout. Whether connections were allowed before
    /// is not known then, unless nothing was isolated before and each change since was told.
    fn create(
        &mut self,
        replaced: Option<(&'static str, Vec<NftTable>)>,
        unknown_before: bool,
        report: &mut Report,
    ) -> Result<(), Error> {
        let started = Instant::now();
        let (reason, replaced) = replaced.unwrap_or(("there was no table", Vec::new()));
        report.rebuilt = Some(reason);
        if unknown_before {
            self.watch(self.table.locals.keys().copied().collect::<Vec<_>>());
        }
        let nothing = Installed::default();
        let wanted = Wanted::full(&self.table, &self.beside, &nothing);
        let steps = Steps::between(&nothing, &wanted);
        drop(wanted);
        report.diff += started.elapsed();
        let started = Instant::now();
        let made = self.make(&replaced, &steps);
        if made.is_err() && self.options.variant.log {
            // Policy holds also where the kernel has no log.
            self.options.variant.log = false;
            report.rebuilt = Some("the kernel refuses the log of drops: it is made without");
            self.make(&replaced, &steps)?;
        } else {
            made?;
        }
        report.commit += started.elapsed();
        report.transactions += 1;
        report.operations += steps.switch.len();
        let mut counts = Counts::default();
        steps.switch.iter().for_each(|operation| counts.apply(operation));
        self.installed = Some(Some(counts));
        Ok(())
    }

    /// Brings a table of ours to what is wanted. Whose decisions differ from what was enforced until
    /// now is watched from now on.
    fn repair(&mut self, installed: Installed, report: &mut Report) -> Result<(), Error> {
        let started = Instant::now();
        let steps = self.steps_from(&installed);
        let concerned = concerned(&steps);
        let everyone = steps.in_order().flatten().any(takes_a_class);
        let held = held_watched(&installed);
        let locals = &self.table.locals;
        let watch =
            locals.keys().filter(|at| everyone || concerned.contains(*at) || held.contains(*at));
        self.watch(watch.copied().collect::<Vec<_>>());
        let steps = self.steps_from(&installed);
        report.diff += started.elapsed();
        self.installed = Some(Some(Counts::of(&installed)));
        drop(installed);
        self.commit_steps(&steps, report)
    }

    /// What it takes to hold all that is wanted.
    fn steps_from(&self, installed: &Installed) -> Steps {
        Steps::between(installed, &Wanted::full(&self.table, &self.beside, installed))
    }

    fn make(&mut self, replaced: &[NftTable], steps: &Steps) -> Result<(), Error> {
        let variant = self.options.variant;
        self.session.make(self.owner, |owned| {
            transaction::create(variant, replaced, owned, &steps.switch)
        })?;
        Ok(())
    }

    /// Whether there has to be a table.
    fn is_needed(&self) -> bool {
        !self.table.locals.is_empty() || !self.beside.pod_networks.is_empty()
    }

    fn remove(&mut self, tables: &[NftTable], report: &mut Report) -> Result<(), Error> {
        let started = Instant::now();
        if self.options.variant.counting {
            let counted = readback::counted(&mut self.session.socket, self.options.variant)
                .unwrap_or_default();
            self.kept.gone(&self.table.rows, &counted);
        }
        let delete: Vec<_> = tables.iter().map(|table| table.delete()).collect();
        self.session.commit(&delete, |_| Ok(true))?.map_err(|rejections| rejected(&rejections))?;
        report.commit += started.elapsed();
        report.transactions += 1;
        report.operations += 1;
        self.beside.watched.clear();
        self.watch.forget_left();
        self.installed = Some(None);
        Ok(())
    }

    /// Rows go last, when nothing leads there any more: what they have counted by then is all.
    fn keep_counts(&mut self, operations: &[Operation]) -> Result<(), Error> {
        let goes = |operation: &Operation| match operation {
            Operation::Delete(set, _) => set.is_of_rows(),
            _ => false,
        };
        if self.options.variant.counting && operations.iter().any(goes) {
            let counted = readback::counted(&mut self.session.socket, self.options.variant)?;
            self.kept.gone(&self.table.rows, &counted);
        }
        Ok(())
    }

    fn commit_steps(&mut self, steps: &Steps, report: &mut Report) -> Result<(), Error> {
        let started = Instant::now();
        let variant = self.options.variant;
        for operations in steps.in_order() {
            self.keep_counts(operations)?;
            let counts = self.installed.as_ref().and_then(Option::as_ref);
            self.session
                .commit(&transaction::change(variant, operations), |socket| {
                    counts.map_or(Ok(true), |counts| readback::still_holds(socket, variant, counts))
                })?
                .map_err(|rejections| rejected(&rejections))?;
            report.transactions += 1;
            report.operations += operations.len();
            if let Some(Some(counts)) = &mut self.installed {
                operations.iter().for_each(|operation| counts.apply(operation));
            }
        }
        report.commit += started.elapsed();
        Ok(())
    }
}
