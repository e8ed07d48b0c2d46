//! The executor: IPVS, the device, the nftables table beside them, and the record of what is
//! installed.

use std::collections::BTreeMap;
use std::os::fd::BorrowedFd;
use std::sync::Arc;
use std::time::{Duration, Instant};

use ipvs_rs::{Errno, Ipvs, Rejection, Request, ServiceKey, Timeouts};
use nix::time::{ClockId, clock_gettime};
use shunt_model::object::ObjectKey;
use shunt_model::plan::{Plan, PlanDelta, ServicePlan};
use shunt_netlink::Pulse;
use shunt_nftables::forwarding::Forwarding;
use shunt_nftables::kernel::{Nftables, Options, Report};

use crate::addresses::Addresses;
use crate::diff::{Steps, diff, drained};
use crate::error::Error;
use crate::installed::Installed;
use crate::lower::{Lowering, Wanted};
use crate::readback;
use crate::settings::Settings;
use crate::sysctl;

/// How often the kernel is read and compared anew in one sync because it refused something.
const ATTEMPTS: usize = 20;
/// How many requests are submitted at once: after them it can be told how far it got.
const PORTION: usize = 2000;
/// How often real servers that drain are looked at.
const DRAIN_INTERVAL: Duration = Duration::from_secs(2);

/// What carries a plan out with IPVS.
#[derive(Debug)]
pub struct VirtualServers {
    ipvs: Ipvs,
    nftables: Nftables,
    addresses: Addresses,
    lowering: Lowering,
    plan: Plan,
    /// What the nftables table was not given yet.
    pending: PlanDelta,
    installed: Option<Installed>,
    quarantine: BTreeMap<ObjectKey, (Arc<ServicePlan>, String)>,
    complaints: Vec<String>,
    look_at: Option<Instant>,
    pulse: Pulse,
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
        Ok(Self {
            ipvs,
            nftables,
            addresses,
            lowering: Lowering::new(settings),
            plan: Plan::default(),
            pending: PlanDelta::default(),
            installed: None,
            quarantine: BTreeMap::new(),
            complaints,
            look_at: None,
            pulse,
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
        let result = self.try_sync(delta, &mut report);
        if result.is_err() {
            self.installed = None;
        }
        self.plan_look();
        result.map(|()| {
            let named = self.quarantine.iter().map(|(key, (_, why))| (key.clone(), why.clone()));
            report.rejected.extend(named);
            report.degraded = self.lowering.without_scheduler(&self.plan).collect();
            report
        })
    }

    /// Makes the next sync read the kernel, compare and repair, and try again what the kernel
    /// rejected before.
    pub fn forget(&mut self) {
        self.installed = None;
        self.lowering.missing.clear();
        self.nftables.forget();
        for (key, (service, _)) in std::mem::take(&mut self.quarantine) {
            self.pending.services.insert(key.clone(), Some(Arc::clone(&service)));
            self.plan.services.insert(key, service);
        }
    }

    /// When real servers that drain are to be looked at.
    #[must_use]
    pub fn look_at(&self) -> Option<Instant> {
        self.look_at
    }

    /// Removes the real servers that have drained, if it is time; returns how many.
    ///
    /// # Errors
    /// If the kernel cannot be asked. Nothing is lost: it is tried again.
    pub fn look(&mut self, now: Instant) -> Result<usize, Error> {
        if self.look_at.is_none_or(|at| at > now) {
            return Ok(0);
        }
        self.look_at = Some(now + DRAIN_INTERVAL);
        let Some(installed) = &mut self.installed else { return Ok(0) };
        let mut gone = Vec::new();
        for key in installed.draining() {
            gone.extend(drained(*key, &self.ipvs.destinations(key)?, uptime()));
        }
        match self.ipvs.submit(&gone) {
            Ok(()) => gone.iter().for_each(|request| installed.apply(request)),
            // Someone else has removed one: the next full read tells.
            Err(ipvs_rs::Error::Rejected(_)) => self.installed = None,
            Err(error) => return Err(error.into()),
        }
        self.plan_look();
        Ok(gone.len())
    }

    /// Whether another writer has changed our table since the last sync. IPVS itself tells nobody
    /// of changes. Does not block.
    ///
    /// # Errors
    /// If the kernel cannot be asked.
    pub fn foreign_change(&mut self) -> Result<bool, Error> {
        Ok(self.nftables.foreign_change()?)
    }

    /// The name of the process that last changed our table, if the kernel told.
    #[must_use]
    pub fn last_writer(&self) -> Option<&str> {
        self.nftables.last_writer()
    }

    /// Readable when there may be a foreign change; `None` if there can be none.
    #[must_use]
    pub fn events(&self) -> Option<BorrowedFd<'_>> {
        self.nftables.events()
    }

    /// Beats with each portion that is committed.
    #[must_use]
    pub fn pulse(&self) -> Pulse {
        self.pulse.clone()
    }

    /// The record of what is installed, unless it was forgotten.
    #[must_use]
    pub fn installed(&self) -> Option<&Installed> {
        self.installed.as_ref()
    }

    fn plan_look(&mut self) {
        let drains = self.installed.as_ref().is_some_and(|there| !there.draining().is_empty());
        let at = || Instant::now() + DRAIN_INTERVAL;
        self.look_at = drains.then(|| self.look_at.unwrap_or_else(at));
    }

    fn try_sync(&mut self, delta: PlanDelta, report: &mut Report) -> Result<(), Error> {
        let started = Instant::now();
        for key in delta.services.keys() {
            if self.quarantine.remove(key).is_some() {
                // The plan does not tell what of it the kernel holds.
                self.installed = None;
            }
        }
        let mut wanted = None;
        if self.installed.is_some() {
            wanted = Some(self.lowering.change(&self.plan, &delta));
        }
        self.pending.merge(delta.clone());
        self.plan.apply(delta);
        for _ in 0..ATTEMPTS {
            let wanted = match wanted.take() {
                Some(wanted) => wanted,
                None => self.read(report)?,
            };
            let Some(installed) = &self.installed else { continue };
            let steps = diff(&wanted, installed, self.lowering.settings(), uptime());
            report.diff += started.elapsed();
            let Some((request, errno)) = self.carry_out(&steps, report)? else { return Ok(()) };
            self.installed = None;
            self.heed(&request, errno)?;
        }
        let reason = "it is refused again and again".to_owned();
        Err(Error::Refused { request: "do what was asked".to_owned(), reason })
    }

    /// Reads the kernel; gives back what the whole plan asks for.
    fn read(&mut self, report: &mut Report) -> Result<Wanted, Error> {
        let started = Instant::now();
        report.read_back = true;
        self.addresses.make_device()?;
        let wanted = self.lowering.full(&self.plan, &Installed::default());
        let concern = |key: &ServiceKey| wanted.virtuals.contains_key(key);
        let installed = readback::read(&mut self.ipvs, &mut self.addresses, concern)?;
        report.read += started.elapsed();
        let wanted = self.lowering.full(&self.plan, &installed);
        self.installed = Some(installed);
        Ok(wanted)
    }

    /// Writes the steps, recording what was carried out. A request that the kernel refused is
    /// given back with the reason, and nothing after it is done.
    fn carry_out(
        &mut self,
        steps: &Steps,
        report: &mut Report,
    ) -> Result<Option<(Request, Errno)>, Error> {
        let started = Instant::now();
        if let Some(refused) = self.submit(&steps.prepare, report)? {
            return Ok(Some(refused));
        }
        self.addresses.remove(&steps.withdraw)?;
        // A table that translates by itself does so until IPVS has all that it needs.
        let held =
            self.nftables.installed().is_none().then(|| self.nftables.forwarding_in_kernel());
        if held.transpose()?.flatten().is_some_and(Forwarding::translates) {
            self.nftables.set_forwarding(Forwarding::BesideVirtualServers);
            add(report, self.nftables.sync(std::mem::take(&mut self.pending))?);
            self.addresses.add(&steps.announce)?;
            self.nftables.set_forwarding(Forwarding::VirtualServers);
        }
        let table = self.nftables.sync(std::mem::take(&mut self.pending))?;
        self.addresses.add(&steps.announce)?;
        report.operations += steps.withdraw.len() + steps.announce.len();
        if let Some(installed) = &mut self.installed {
            for address in &steps.withdraw {
                installed.addresses.remove(address);
            }
            installed.addresses.extend(steps.announce.iter().map(|address| (*address, true)));
        }
        let refused = self.submit(&steps.retire, report)?;
        report.commit += started.elapsed();
        add(report, table);
        Ok(refused)
    }

    fn submit(
        &mut self,
        requests: &[Request],
        report: &mut Report,
    ) -> Result<Option<(Request, Errno)>, Error> {
        for portion in requests.chunks(PORTION) {
            if let Some(refused) = self.submit_portion(portion, report)? {
                return Ok(Some(refused));
            }
        }
        Ok(None)
    }

    fn submit_portion(
        &mut self,
        requests: &[Request],
        report: &mut Report,
    ) -> Result<Option<(Request, Errno)>, Error> {
        let rejections = match self.ipvs.submit(requests) {
            Ok(()) => Vec::new(),
            Err(ipvs_rs::Error::Rejected(rejections)) => rejections,
            Err(error) => return Err(error.into()),
        };
        report.transactions += 1;
        report.operations += requests.len() - rejections.len();
        let Some(Rejection { index, errno }) = rejections.first() else {
            self.pulse.beat();
            if let Some(installed) = &mut self.installed {
                requests.iter().for_each(|request| installed.apply(request));
            }
            return Ok(None);
        };
        Ok(Some((requests[*index].clone(), *errno)))
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
            _ => self.set_aside(request, errno),
        }
    }

    /// Takes the Service that a request belongs to out of the plan, so that the others are served.
    fn set_aside(&mut self, request: &Request, errno: Errno) -> Result<(), Error> {
        let key = match request {
            Request::AddService(service) | Request::SetService(service) => Some(service.key),
            Request::AddDestination(key, _)
            | Request::SetDestination(key, _)
            | Request::DeleteDestination(key, _) => Some(*key),
            _ => None,
        };
        let owner = key.filter(|_| errno != Errno::EPERM).and_then(|key| self.owner(&key));
        let reason = errno.desc().to_owned();
        let Some(owner) = owner else {
            return Err(Error::Refused { request: describe(request), reason });
        };
        if let Some(service) = self.plan.services.remove(&owner) {
            self.pending.services.insert(owner.clone(), None);
            self.quarantine.insert(owner, (service, reason));
        }
        Ok(())
    }

    fn owner(&self, key: &ServiceKey) -> Option<ObjectKey> {
        let mut alone = Lowering::new(self.lowering.settings().clone());
        let mut serves = |(name, service): (&ObjectKey, &Arc<ServicePlan>)| {
            let services = BTreeMap::from([(name.clone(), Arc::clone(service))]);
            let plan = Plan { node: Arc::clone(&self.plan.node), services };
            alone.full(&plan, &Installed::default()).virtuals.contains_key(key)
        };
        let found = self.plan.services.iter().find(|each| serves(*each));
        found.map(|(name, _)| name.clone())
    }
}

/// Adds what the table's own sync did.
fn add(report: &mut Report, table: Report) {
    report.read_back |= table.read_back;
    report.rebuilt = report.rebuilt.or(table.rebuilt);
    report.operations += table.operations;
    report.transactions += table.transactions;
    report.bytes += table.bytes;
    report.read += table.read;
    report.diff += table.diff;
    report.rejected.extend(table.rejected);
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
