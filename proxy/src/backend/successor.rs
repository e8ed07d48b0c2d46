//! The nftables backend on a node where IPVS mode was before.

use std::os::fd::BorrowedFd;
use std::time::{Duration, Instant};

use shunt_ipvs::Former;
use shunt_model::plan::PlanDelta;
use shunt_netlink::Pulse;
use shunt_nftables::forwarding::Forwarding;
use shunt_nftables::kernel::Nftables;
use tracing::info;

use super::{Backend, BackendError, SyncReport};

/// How often it is asked which connections of IPVS have ended. The first time is as long after the
/// first sync: a connection that was on its way then is counted by now.
const INTERVAL: Duration = Duration::from_secs(5);

/// nftables, which serves new connections, and IPVS, which has some left.
pub(super) struct Successor {
    nftables: Nftables,
    former: Option<Former>,
    tend_at: Option<Instant>,
}

impl Successor {
    /// Nothing is changed before the first sync.
    pub(super) const fn new(nftables: Nftables, former: Former) -> Self {
        Self { nftables, former: Some(former), tend_at: None }
    }
}

impl Backend for Successor {
    type Delta = PlanDelta;

    fn sync(&mut self, delta: PlanDelta) -> Result<SyncReport, BackendError> {
        let report = Backend::sync(&mut self.nftables, delta)?;
        if let (Some(former), None) = (&mut self.former, self.tend_at) {
            former.steer()?;
            self.tend_at = Some(Instant::now() + INTERVAL);
        }
        Ok(report)
    }

    fn forget(&mut self) {
        self.nftables.forget();
    }

    fn foreign_change(&mut self) -> Result<bool, BackendError> {
        Backend::foreign_change(&mut self.nftables)
    }

    fn last_writer(&self) -> Option<String> {
        Backend::last_writer(&self.nftables)
    }

    fn pulse(&self) -> Pulse {
        self.nftables.pulse()
    }

    fn events(&self) -> Vec<BorrowedFd<'_>> {
        Backend::events(&self.nftables)
    }

    fn tend_at(&self) -> Option<Instant> {
        self.tend_at
    }

    fn tend(&mut self, now: Instant) -> Result<usize, BackendError> {
        let Some(former) = &mut self.former else { return Ok(0) };
        self.tend_at = Some(now + INTERVAL);
        let (removed, done) = former.tend()?;
        if done {
            self.nftables.set_forwarding(Forwarding::Translate);
            self.nftables.sync(PlanDelta::default())?;
            (self.former, self.tend_at) = (None, None);
            info!("IPVS has no connection of ours left, and nothing else: nftables is alone now");
        }
        Ok(removed)
    }
}
