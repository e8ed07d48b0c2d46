//! The record of what the kernel holds.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::net::IpAddr;

use ipvs_rs::{Destination, DestinationKey, Flags, Persistence, Request, Service, ServiceKey};

use crate::settings::OURS;

/// A virtual server in the kernel.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct InstalledVirtual {
    /// Its scheduler.
    pub scheduler: String,
    /// Its flags, with our mark if it is ours.
    pub flags: Flags,
    /// Its persistence.
    pub persistence: Option<Persistence>,
    /// Its real servers.
    pub destinations: BTreeMap<DestinationKey, InstalledDestination>,
}

/// A real server in the kernel.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct InstalledDestination {
    /// Its weight; 0: it gets no more connections.
    pub weight: u32,
    /// Where it drains: when it must be gone, in seconds since the machine started; 0: when its
    /// connections have ended. The kernel keeps it as the upper threshold of connections, which
    /// means nothing without a weight.
    pub deadline: u32,
}

impl InstalledVirtual {
    /// Whether we made it, or took it over.
    #[must_use]
    pub const fn ours(&self) -> bool {
        self.flags.contains(OURS)
    }

    /// What is known of a service, without its destinations.
    #[must_use]
    pub fn of(service: &Service) -> Self {
        Self {
            scheduler: service.scheduler.clone(),
            flags: service.flags,
            persistence: service.persistence,
            destinations: BTreeMap::new(),
        }
    }

    fn drains(&self) -> bool {
        self.ours() && self.destinations.values().any(|each| each.weight == 0)
    }
}

impl InstalledDestination {
    /// What is known of a destination.
    #[must_use]
    pub const fn of(destination: &Destination) -> Self {
        Self { weight: destination.weight, deadline: destination.upper_threshold }
    }
}

/// The record of what the kernel holds.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Installed {
    /// Virtual servers, also those of others.
    pub virtuals: HashMap<ServiceKey, InstalledVirtual>,
    /// Addresses on the device, and whether they are ours.
    pub addresses: HashMap<IpAddr, bool>,
    draining: BTreeSet<ServiceKey>,
}

impl Installed {
    /// The virtual servers of ours of which a real server drains.
    #[must_use]
    pub const fn draining(&self) -> &BTreeSet<ServiceKey> {
        &self.draining
    }

    /// Records a virtual server with all its real servers.
    pub fn insert(&mut self, key: ServiceKey, server: InstalledVirtual) {
        self.virtuals.insert(key, server);
        self.review(key);
    }

    /// Records a request that the kernel has carried out.
    pub fn apply(&mut self, request: &Request) {
        let key = match request {
            Request::AddService(service) | Request::SetService(service) => {
                let destinations = self.virtuals.remove(&service.key).map(|old| old.destinations);
                let destinations = destinations.unwrap_or_default();
                let made = InstalledVirtual { destinations, ..InstalledVirtual::of(service) };
                self.virtuals.insert(service.key, made);
                service.key
            }
            Request::DeleteService(key) => {
                self.virtuals.remove(key);
                *key
            }
            Request::AddDestination(key, destination)
            | Request::SetDestination(key, destination) => {
                if let Some(server) = self.virtuals.get_mut(key) {
                    let made = InstalledDestination::of(destination);
                    server.destinations.insert(destination.key(), made);
                }
                *key
            }
            Request::DeleteDestination(key, destination) => {
                if let Some(server) = self.virtuals.get_mut(key) {
                    server.destinations.remove(destination);
                }
                *key
            }
            _ => return,
        };
        self.review(key);
    }

    fn review(&mut self, key: ServiceKey) {
        if self.virtuals.get(&key).is_some_and(InstalledVirtual::drains) {
            self.draining.insert(key);
        } else {
            self.draining.remove(&key);
        }
    }
}
