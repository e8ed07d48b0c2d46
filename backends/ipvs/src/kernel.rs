//! The executor: IPVS, the device, the nftables table beside them, and the record of what is
//! installed.

use std::collections::HashMap;
use std::os::fd::BorrowedFd;
use std::time::{Duration, Instant};

use ipvs_rs::{Errno, Ipvs, Request, ServiceKey, Timeouts};
use nix::time::{ClockId, clock_gettime};
use shunt_model::object::ObjectKey;
use shunt_model::plan::{Plan, PlanDelta};
use shunt_netlink::Pulse;
use shunt_nftables::forwarding::Forwarding;
use shunt_nftables::kernel::{Nftables, Options, Report};
use shunt_nftables::quarantine::Quarantine;

use crate::addresses::Addresses;
use crate::diff::{Steps, diff, drained};
use crate::error::Error;
use crate::installed::Installed;
use crate::lower::{Lowering, Wanted, all_keys, owner};
use crate::readback;
use crate::record::{Record, Refusal};
use crate::rounds::Rounds;
use crate::settings::Settings;
use crate::sysctl;

/// How often the kernel is read and compared anew in one sync because it refused something.
const ATTEMPTS: usize = 20;
/// How often real servers that drain are looked at.
const LOOK: Duration = Duration::from_secs(2);
/// Between two turns of a patrol: it takes no more than a tenth of the thread.
const PAUSE: Duration = Duration::from_millis(10);

/// What carries a plan out with IPVS.
#[derive(Debug)]
pub struct VirtualServers {
    record: Record,
    nftables: Nftables,
    addresses: Addresses,
    lowering: Lowering,
    plan: Plan,
    /// What the nftables table was not given yet.
    pending: PlanDelta,
    quarantine: Quarantine,
    complaints: Vec<String>,
    /// Of the virtual servers of which a real server drains.
    looks: Rounds,
    /// Of all of ours, whether they are as they were left.
    patrol: Rounds,
    /// Whether the patrol has found one that is not.
    meddled: bool,
    /// Whether the last foreign change was of the table.
    table_changed: bool,
}

impl VirtualServers {
    /// Opens the kernel's IPVS and nftables, sets the sysctls and timeouts, and makes the device.
    /// Nothing that serves is changed.
    ///
    /// # Errors
    /// If the kernel lacks something, or does not let us.
    pub fn open(settings: Settings) -> Result<Self, Error> {
        let mut ipvs = Ipvs::open().map_err(Error::Unavailable)?;
        let options = Options {
            owner: settings.owner,
            forwarding: Forwarding::VirtualServers,
            counting: settings.counting,
        };
        let nftables = Nftables::open(options)?;
        let pulse = nftables.pulse();
        let complaints = sysctl::set_all(settings.strict_arp)?;
        if settings.timeouts != Timeouts::default() {
            ipvs.submit(&[Request::SetTimeouts(settings.timeouts)])?;
        }
        let mut addresses = Addresses::open()?;
        addresses.make_device()?;
        addresses.listen()?;
        let patrol = Rounds::new(settings.patrol, PAUSE);
        Ok(Self {
            record: Record { ipvs, installed: None, pulse },
            nftables,
            addresses,
            lowering: Lowering::new(settings),
            plan: Plan::default(),
            pending: PlanDelta::default(),
            quarantine: Quarantine::default(),
            complaints,
            looks: Rounds::new(LOOK, Duration::ZERO),
            patrol,
            meddled: false,
            table_changed: false,
        })
    }

    /// Settings of the kernel that should be otherwise and could not be written.
    #[must_use]
    pub fn complaints(&self) -> &[String] {
        &self.complaints
    }

    /// Applies a delta to the plan and brings the kernel to it. Without a record of what is
    /// installed the kernel is read first, and only the difference is written.
    ///
    /// # Errors
    /// After an error the record is forgotten; the next sync, also of an empty delta, reads the
    /// kernel again. The delta is not lost.
    pub fn sync(&mut self, delta: PlanDelta) -> Result<Report, Error> {
        let mut report = Report::default();
        let started = Instant::now();
        let result = self.try_sync(delta, &mut report);
        report.commit = started.elapsed().saturating_sub(report.read + report.diff);
        if result.is_err() {
            self.record.installed = None;
        }
        self.plan_rounds();
        result.map(|()| {
            report.rejected = self.quarantine.reasons().collect();
            report.degraded = self.lowering.without_scheduler(&self.plan).collect();
            report
        })
    }

    /// Makes the next sync read the kernel, compare and repair, and try again what the kernel
    /// rejected before.
    pub fn forget(&mut self) {
        self.record.installed = None;
        self.meddled = false;
        self.lowering.missing.clear();
        self.nftables.forget();
        self.pending.merge(self.quarantine.release(&mut self.plan));
    }

    /// When [`Self::tend`] has something to do.
    #[must_use]
    pub fn tend_at(&self) -> Option<Instant> {
        self.looks.at().into_iter().chain(self.patrol.at()).min()
    }

    /// Removes real servers that have drained, and compares some of our virtual servers with the record, as far as it is
    /// time for either, for a millisecond or so each; returns how many it has removed.
    ///
    /// # Errors
    /// If the kernel cannot be asked. Nothing is lost: it is tried again.
    pub fn tend(&mut self, now: Instant) -> Result<usize, Error> {
        let gone = self.look(now)?;
        self.inspect(now)?;
        Ok(gone)
    }

    fn look(&mut self, now: Instant) -> Result<usize, Error> {
        let Record { ipvs, installed, .. } = &mut self.record;
        let Some(installed) = installed else { return Ok(0) };
        let draining = installed.draining();
        let gone = self.looks.turn(
            now,
            || draining.iter().copied().collect(),
            |key| {
                // One may have come back since the round began.
                if !draining.contains(&key) {
                    return Ok(Vec::new());
                }
                Ok::<_, Error>(drained(key, &ipvs.destinations(&key)?, uptime()))
            },
        )?;
        match ipvs.submit(&gone) {
            Ok(()) => gone.iter().for_each(|request| installed.apply(request)),
            // Someone else has removed one: the next full read tells.
            Err(ipvs_rs::Error::Rejected(_)) => self.record.installed = None,
            Err(error) => return Err(error.into()),
        }
        self.plan_rounds();
        Ok(gone.len())
    }

    /// IPVS tells nobody of changes, so all of ours are asked for in turn. What others have there is theirs.
    fn inspect(&mut self, now: Instant) -> Result<(), Error> {
        let Record { ipvs, installed, .. } = &mut self.record;
        let Some(installed) = installed else { return Ok(()) };
        let ours = || {
            let ours = installed.virtuals.iter().filter(|(_, server)| server.ours());
            ours.map(|(key, _)| *key).collect()
        };
        let otherwise = self.patrol.turn(now, ours, |key| {
            let Some(left) = installed.virtuals.get(&key) else { return Ok(Vec::new()) };
            let found = readback::virtual_server(ipvs, &key)?;
            Ok::<_, Error>(if found.as_ref() == Some(left) { Vec::new() } else { vec![key] })
        })?;
        self.meddled |= !otherwise.is_empty();
        Ok(())
    }

    /// Whether another writer has changed our table since the last sync, or taken an address of ours away, or a patrol has
    /// found a virtual server of ours changed. Does not block.
    ///
    /// # Errors
    /// If the kernel cannot be asked.
    pub fn foreign_change(&mut self) -> Result<bool, Error> {
        self.table_changed = self.nftables.foreign_change()?;
        let nothing = HashMap::new();
        let held = self.record.installed.as_ref().map_or(&nothing, |held| &held.addresses);
        Ok(self.addresses.lost(held)? || self.table_changed || self.meddled)
    }

    /// The name of the process that made the last foreign change, if that was of our table and the
    /// kernel told.
    #[must_use]
    pub fn last_writer(&self) -> Option<&str> {
        self.nftables.last_writer().filter(|_| self.table_changed)
    }

    /// Readable when there may be a foreign change.
    #[must_use]
    pub fn events(&self) -> Vec<BorrowedFd<'_>> {
        [self.addresses.events()].into_iter().chain(self.nftables.events()).collect()
    }

    /// Beats with each portion that is committed.
    #[must_use]
    pub fn pulse(&self) -> Pulse {
        self.record.pulse.clone()
    }

    /// The record of what is installed, unless it was forgotten.
    #[must_use]
    pub fn installed(&self) -> Option<&Installed> {
        self.record.installed.as_ref()
    }

    fn plan_rounds(&mut self) {
        let installed = self.record.installed.as_ref();
        self.looks.plan(installed.is_some_and(|it| !it.draining().is_empty()));
        self.patrol.plan(installed.is_some_and(|it| !it.virtuals.is_empty()));
    }

    fn try_sync(&mut self, delta: PlanDelta, report: &mut Report) -> Result<(), Error> {
        let started = Instant::now();
        if self.quarantine.supersede(&delta) {
            self.record.installed = None;
        }
        let mut wanted = None;
        if self.record.installed.is_some() {
            wanted = Some(self.lowering.change(&self.plan, &delta));
        }
        self.pending.merge(delta.clone());
        self.plan.apply(delta);
        report.diff += started.elapsed();
        for _ in 0..ATTEMPTS {
            let refusal = match wanted.take() {
                Some(wanted) => self.write_change(&wanted, report)?,
                None => self.write_all(report)?,
            };
            let Some(refusal) = refusal else { return Ok(()) };
            self.record.installed = None;
            match refusal {
                Refusal::Request(request, errno) => self.heed(&request, errno)?,
                Refusal::Table(services) => {
                    services.into_iter().for_each(|(key, why)| self.set_aside(key, why));
                }
            }
        }
        let reason = "it is refused again and again".to_owned();
        Err(Error::Refused { request: "do what was asked".to_owned(), reason })
    }

    /// Writes what differs in a part of the plan. What the kernel refuses is given back, and nothing
    /// after it is done.
    fn write_change(
        &mut self,
        wanted: &Wanted,
        report: &mut Report,
    ) -> Result<Option<Refusal>, Error> {
        let started = Instant::now();
        let Some(installed) = &self.record.installed else { return Ok(None) };
        let steps = diff(wanted, installed, self.lowering.settings(), uptime());
        report.diff += started.elapsed();
        if let Some(refusal) = self.record.submit(&steps.prepare, report)? {
            return Ok(Some(refusal));
        }
        self.conclude(&steps, report)
    }

    /// Reads the kernel and writes what differs from the whole plan, real servers by portions of
    /// Services: memory that is needed once is memory that the process keeps.
    fn write_all(&mut self, report: &mut Report) -> Result<Option<Refusal>, Error> {
        self.read(report)?;
        let (settings, now) = (self.lowering.settings().clone(), uptime());
        let mut started = Instant::now();
        let mut later = Steps::default();
        let Some(installed) = &self.record.installed else { return Ok(None) };
        for wanted in self.lowering.portions(&self.plan, installed) {
            let Some(installed) = &self.record.installed else { return Ok(None) };
            let mut steps = diff(&wanted, installed, &settings, now);
            let prepare = std::mem::take(&mut steps.prepare);
            later.extend(steps);
            report.diff += started.elapsed();
            if let Some(refusal) = self.record.submit(&prepare, report)? {
                return Ok(Some(refusal));
            }
            started = Instant::now();
        }
        // Services of two portions may share an address.
        later.announce.sort_unstable();
        later.announce.dedup();
        self.conclude(&later, report)
    }

    /// Reads what is there.
    fn read(&mut self, report: &mut Report) -> Result<(), Error> {
        let started = Instant::now();
        report.read_back = true;
        self.addresses.make_device()?;
        // As a rule nobody else has virtual servers, and those of the plan need not be listed.
        let mut ours = None;
        let concern =
            |key: &ServiceKey| ours.get_or_insert_with(|| all_keys(&self.plan)).contains(key);
        let installed = readback::read(&mut self.record.ipvs, &mut self.addresses, concern)?;
        self.record.installed = Some(installed);
        report.read += started.elapsed();
        Ok(())
    }

    /// Carries out what comes after new and changed real servers.
    fn conclude(&mut self, steps: &Steps, report: &mut Report) -> Result<Option<Refusal>, Error> {
        self.addresses.remove(&steps.withdraw)?;
        // A table that translates by itself does so until IPVS has all that it needs.
        let held =
            self.nftables.installed().is_none().then(|| self.nftables.forwarding_in_kernel());
        if held.transpose()?.flatten().is_some_and(Forwarding::translates) {
            self.nftables.set_forwarding(Forwarding::BesideVirtualServers);
            if let Some(refusal) = self.write_table(report)? {
                return Ok(Some(refusal));
            }
            self.addresses.add(&steps.announce)?;
            self.nftables.set_forwarding(Forwarding::VirtualServers);
        }
        if let Some(refusal) = self.write_table(report)? {
            return Ok(Some(refusal));
        }
        self.addresses.add(&steps.announce)?;
        report.operations += steps.withdraw.len() + steps.announce.len();
        if let Some(installed) = &mut self.record.installed {
            for address in &steps.withdraw {
                installed.addresses.remove(address);
            }
            installed.addresses.extend(steps.announce.iter().map(|address| (*address, true)));
        }
        self.record.submit(&steps.retire, report)
    }

    /// Brings the table to the plan. A Service that it refuses must not be served without what the
    /// table says of it, who may use it above all.
    fn write_table(&mut self, report: &mut Report) -> Result<Option<Refusal>, Error> {
        let table = self.nftables.sync(std::mem::take(&mut self.pending))?;
        add(report, &table);
        Ok((!table.rejected.is_empty()).then_some(Refusal::Table(table.rejected)))
    }

    /// Draws the conclusion from a refusal: another scheduler, without the Service, or merely
    /// reading what is there.
    fn heed(&mut self, request: &Request, errno: Errno) -> Result<(), Error> {
        let service = match request {
            Request::AddService(service) | Request::SetService(service) => Some(service),
            _ => None,
        };
        match (service, errno) {
            // The kernel has no such scheduler, and could not load its module.
            (Some(service), Errno::ENOENT)
                if self.lowering.missing.insert(service.scheduler.clone()) =>
            {
                Ok(())
            }
            // Someone else was faster, either way.
            (None, Errno::ESRCH | Errno::ENOENT | Errno::EEXIST)
            | (Some(_), Errno::ESRCH | Errno::EEXIST) => Ok(()),
            _ => self.blame(request, errno),
        }
    }

    /// Sets the Service aside that a request belongs to.
    fn blame(&mut self, request: &Request, errno: Errno) -> Result<(), Error> {
        let key = match request {
            Request::AddService(service) | Request::SetService(service) => Some(service.key),
            Request::AddDestination(key, _)
            | Request::SetDestination(key, _)
            | Request::DeleteDestination(key, _) => Some(*key),
            _ => None,
        };
        let owner = key.filter(|_| errno != Errno::EPERM).and_then(|key| owner(&self.plan, &key));
        let reason = errno.desc().to_owned();
        let Some(owner) = owner else {
            return Err(Error::Refused { request: describe(request), reason });
        };
        self.set_aside(owner, reason);
        Ok(())
    }

    /// Takes a Service out of the plan, so that the others are served.
    fn set_aside(&mut self, service: ObjectKey, reason: String) {
        self.pending.services.insert(service.clone(), None);
        self.quarantine.set_aside(&mut self.plan, service, reason);
    }
}

/// Adds what the table's own sync did.
fn add(report: &mut Report, table: &Report) {
    report.read_back |= table.read_back;
    report.rebuilt = report.rebuilt.or(table.rebuilt);
    report.operations += table.operations;
    report.transactions += table.transactions;
    report.bytes += table.bytes;
    report.read += table.read;
    report.diff += table.diff;
}

fn describe(request: &Request) -> String {
    match request {
        Request::AddService(service) => format!("add the virtual server {}", service.key),
        Request::SetService(service) => format!("change the virtual server {}", service.key),
        Request::DeleteService(key) => format!("remove the virtual server {key}"),
        Request::AddDestination(key, each) => format!("add {} to {key}", each.address),
        Request::SetDestination(key, each) => format!("change {} of {key}", each.address),
        Request::DeleteDestination(key, each) => format!("remove {} from {key}", each.address),
        other => format!("{other:?}"),
    }
}

/// Seconds since the machine started, sleep included: the only clock that a deadline in the kernel
/// shares with the next daemon.
pub(crate) fn uptime() -> u32 {
    let now = clock_gettime(ClockId::CLOCK_BOOTTIME).map(|time| time.tv_sec()).unwrap_or_default();
    u32::try_from(now).unwrap_or(u32::MAX)
}
