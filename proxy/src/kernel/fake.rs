//! A backend that only remembers.

use std::os::fd::{AsFd, BorrowedFd};
use std::sync::{Arc, Mutex, MutexGuard};

use nix::sys::eventfd::{EfdFlags, EventFd};
use shunt_model::object::{ObjectKey, ServiceType};
use shunt_model::plan::{Plan, PlanDelta, ServicePlan};
use shunt_netlink::Pulse;

use crate::backend::{Backend, BackendError, SyncReport};

/// What the backend remembers, and how it shall behave.
#[derive(Debug, Default)]
pub(super) struct Memory {
    /// All deltas so far.
    pub(super) plan: Plan,
    /// The Services that each sync was given.
    pub(super) syncs: Vec<Vec<ObjectKey>>,
    /// How often it was told to forget.
    pub(super) forgotten: usize,
    /// How many of the next syncs fail.
    pub(super) failing: usize,
    /// Someone else has written.
    pub(super) foreign: bool,
}

/// A backend that only remembers.
#[derive(Clone, Debug)]
pub(super) struct Fake {
    memory: Arc<Mutex<Memory>>,
    events: Arc<EventFd>,
}

impl Fake {
    pub(super) fn new() -> Self {
        let events = EventFd::from_value_and_flags(0, EfdFlags::EFD_NONBLOCK).unwrap();
        Self { memory: Arc::default(), events: Arc::new(events) }
    }

    pub(super) fn memory(&self) -> MutexGuard<'_, Memory> {
        self.memory.lock().unwrap()
    }

    /// Someone else writes.
    pub(super) fn meddle(&self) {
        self.memory().foreign = true;
        self.events.write(1).unwrap();
    }
}

impl Backend for Fake {
    type Delta = PlanDelta;

    fn sync(&mut self, delta: PlanDelta) -> Result<SyncReport, BackendError> {
        let mut memory = self.memory();
        memory.syncs.push(delta.services.keys().cloned().collect());
        let operations = delta.services.len();
        memory.plan.apply(delta);
        if memory.failing > 0 {
            memory.failing -= 1;
            let cause = std::io::Error::from(std::io::ErrorKind::OutOfMemory);
            return Err(anyhow::Error::new(cause).context("the transaction failed").into());
        }
        Ok(SyncReport { operations, transactions: 1, ..SyncReport::default() })
    }

    fn forget(&mut self) {
        self.memory().forgotten += 1;
    }

    fn foreign_change(&mut self) -> Result<bool, BackendError> {
        let _ = self.events.read();
        Ok(std::mem::take(&mut self.memory().foreign))
    }

    fn pulse(&self) -> Pulse {
        Pulse::default()
    }

    fn last_writer(&self) -> Option<String> {
        Some("nft".into())
    }

    fn events(&self) -> Vec<BorrowedFd<'_>> {
        vec![self.events.as_fd()]
    }
}

/// A delta that makes these Services known.
pub(super) fn services(names: &[&str], service_type: ServiceType) -> PlanDelta {
    let service = Arc::new(ServicePlan {
        service_type,
        frontends: Vec::new(),
        cluster_ips: Vec::new(),
        hairpins: Vec::new(),
        balancing: None,
        weights: Box::default(),
        lingering: Box::default(),
        health_check: None,
        problems: Vec::new(),
    });
    let named =
        names.iter().map(|name| (ObjectKey::new("default", name), Some(Arc::clone(&service))));
    PlanDelta { node: None, services: named.collect() }
}
