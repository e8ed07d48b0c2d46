//! The difference between what IPVS and the device shall hold and what they hold, in the order in
//! which it can be written while packets flow.

use std::net::IpAddr;

use ipvs_rs::{Destination, DestinationKey, Protocol, Request, ServiceKey};

use crate::installed::{Installed, InstalledDestination, InstalledVirtual};
use crate::lower::{Virtual, Wanted};
use crate::settings::Settings;

/// The steps of a change. Requests are no transaction: what is new comes before what is changed
/// before what goes, so at every instant, also after a crash, there is someone to answer.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Steps {
    /// New virtual servers and real servers; then changed ones, those that begin to drain among
    /// them.
    pub prepare: Vec<Request>,
    /// Addresses that no frontend has any more.
    pub withdraw: Vec<IpAddr>,
    /// After the nftables table is as it shall be, which guards them: new addresses.
    pub announce: Vec<IpAddr>,
    /// What nothing uses any more.
    pub retire: Vec<Request>,
}

impl Steps {
    /// The number of changes.
    #[must_use]
    pub fn len(&self) -> usize {
        self.prepare.len() + self.withdraw.len() + self.announce.len() + self.retire.len()
    }

    /// Adds the steps of another part of the plan.
    pub(crate) fn extend(&mut self, other: Self) {
        self.prepare.extend(other.prepare);
        self.withdraw.extend(other.withdraw);
        self.announce.extend(other.announce);
        self.retire.extend(other.retire);
    }

    /// Whether there is nothing to do.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }
}

/// The steps from `installed` to `wanted`. `now` is in seconds since the machine started.
#[must_use]
pub fn diff(wanted: &Wanted, installed: &Installed, settings: &Settings, now: u32) -> Steps {
    let mut steps = Steps::default();
    let mut changes = Vec::new();
    for (key, target) in &wanted.virtuals {
        let there = installed.virtuals.get(key);
        match (target, there) {
            (Some(target), None) => make(&mut steps, target),
            (Some(target), Some(there)) => change(&mut steps, &mut changes, target, there, now),
            (None, Some(there)) if there.ours() && !excluded(settings, key) => {
                steps.retire.push(Request::DeleteService(*key));
            }
            (None, _) => {}
        }
    }
    steps.prepare.extend(changes);
    for (address, wanted) in &wanted.addresses {
        match (wanted, installed.addresses.get(address)) {
            // As a virtual server: one of someone else's at the very address is taken over.
            (true, None | Some(false)) => steps.announce.push(*address),
            (false, Some(true)) => steps.withdraw.push(*address),
            (true, Some(true)) | (false, Some(false) | None) => {}
        }
    }
    steps
}

/// Whether a virtual server is in a network that the operator keeps for himself.
pub(crate) fn excluded(settings: &Settings, key: &ServiceKey) -> bool {
    match key {
        ServiceKey::Address { address, .. } => {
            settings.exclude.iter().any(|network| network.contains(address))
        }
        ServiceKey::Mark { .. } => false,
    }
}

fn make(steps: &mut Steps, target: &Virtual) {
    let key = target.service.key;
    steps.prepare.push(Request::AddService(target.service.clone()));
    for (each, weight) in &target.weights {
        steps.prepare.push(Request::AddDestination(key, real_server(each, *weight, 0)));
    }
}

fn change(
    steps: &mut Steps,
    changes: &mut Vec<Request>,
    target: &Virtual,
    there: &InstalledVirtual,
    now: u32,
) {
    let key = target.service.key;
    let wanted = InstalledVirtual::of(&target.service);
    let differs = wanted.scheduler != there.scheduler
        || wanted.flags != there.flags
        || wanted.persistence != there.persistence;
    if differs {
        changes.push(Request::SetService(target.service.clone()));
    }
    for (each, weight) in &target.weights {
        let wanted = InstalledDestination { weight: *weight, deadline: 0 };
        match there.destinations.get(each) {
            None => steps.prepare.push(Request::AddDestination(key, real_server(each, *weight, 0))),
            // One that drains and comes back keeps its connections.
            Some(there) if *there != wanted => {
                changes.push(Request::SetDestination(key, real_server(each, *weight, 0)));
            }
            Some(_) => {}
        }
    }
    for (each, there) in &there.destinations {
        if target.weights.contains_key(each) {
            continue;
        }
        if !drains(&key, target, each) {
            steps.retire.push(Request::DeleteDestination(key, *each));
            continue;
        }
        let deadline = target.drain.map_or(0, |seconds| now.saturating_add(seconds).max(1));
        // Of one that drains already the deadline can come nearer: by an annotation of meanwhile.
        let nearer = deadline != 0 && (there.deadline == 0 || deadline < there.deadline);
        if there.weight != 0 || nearer {
            changes.push(Request::SetDestination(key, real_server(each, 0, deadline)));
        }
    }
}

/// Whether a real server that leaves may keep its connections. A client of UDP that goes on
/// sending to one that serves no more would never be heard again, so it is sent to another at once,
/// unless the Service asks for time.
fn drains(key: &ServiceKey, target: &Virtual, leaving: &DestinationKey) -> bool {
    let udp = matches!(key, ServiceKey::Address { protocol: Protocol::UDP, .. });
    match target.drain {
        Some(seconds) => seconds > 0,
        None => !udp || target.lingering.contains(leaving),
    }
}

fn real_server(key: &DestinationKey, weight: u32, deadline: u32) -> Destination {
    Destination { weight, upper_threshold: deadline, ..Destination::new(key.address, key.port) }
}

/// Which of a virtual server's real servers, as the kernel tells of them now, have drained.
#[must_use]
pub fn drained(key: ServiceKey, destinations: &[Destination], now: u32) -> Vec<Request> {
    let gone = |each: &&Destination| {
        let idle = each.active_connections == 0 && each.inactive_connections == 0;
        let late = each.upper_threshold != 0 && each.upper_threshold <= now;
        each.weight == 0 && (idle || late)
    };
    let gone = destinations.iter().filter(gone);
    gone.map(|each| Request::DeleteDestination(key, each.key())).collect()
}
