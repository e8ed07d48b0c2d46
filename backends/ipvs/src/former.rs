//! What the IPVS mode has left where the nftables backend serves now.

use std::collections::HashSet;
use std::net::IpAddr;

use ipvs_rs::{Destination, Ipvs, Request, Service, ServiceKey};

use crate::addresses::Addresses;
use crate::cleanup::remove_addresses;
use crate::diff::{drained, excluded};
use crate::error::Error;
use crate::kernel::uptime;
use crate::settings::{OURS, Settings};
use crate::sources;

/// Virtual servers and addresses of ours that IPVS mode has left. New connections do not come to
/// them any more; those that they have go on to their end.
#[derive(Debug)]
pub struct Former {
    ipvs: Ipvs,
    addresses: Addresses,
    settings: Settings,
}

impl Former {
    /// Looks for them. Where IPVS is not loaded nothing is asked, so that nothing loads it.
    ///
    /// # Errors
    /// If IPVS or rtnetlink cannot be read.
    pub fn find(settings: Settings) -> Result<Option<Self>, Error> {
        if !is_loaded() {
            return Ok(None);
        }
        let ipvs = Ipvs::open().map_err(Error::Unavailable)?;
        let mut former = Self { ipvs, addresses: Addresses::open()?, settings };
        let nothing = former.services()?.is_empty() && former.own_addresses()?.is_empty();
        Ok((!nothing).then_some(former))
    }

    /// Has new connections of the node itself to these addresses begin at another one, which stays.
    ///
    /// # Errors
    /// If the kernel refuses; it may be tried again.
    pub fn steer(&mut self) -> Result<(), Error> {
        let own = self.own_addresses()?;
        self.addresses.steer(&own)
    }

    /// Takes away what has no connections: real servers, virtual servers, addresses, and at last
    /// the device. An address that a socket of the node uses stays, too. Returns how many things went, and whether nothing is left.
    ///
    /// # Errors
    /// If the kernel refuses; it may be tried again.
    pub fn tend(&mut self) -> Result<(usize, bool), Error> {
        let mut requests = Vec::new();
        let mut busy = HashSet::new();
        for service in self.services()? {
            let key = service.key;
            let servers = self.ipvs.destinations(&key)?;
            let steps = steps(key, &servers, uptime());
            if !steps.contains(&Request::DeleteService(key)) {
                busy.insert(key);
            }
            requests.extend(steps);
        }
        self.ipvs.submit(&requests)?;
        let held: HashSet<IpAddr> = busy.iter().filter_map(address).collect();
        let mut idle = self.own_addresses()?;
        let all = idle.len();
        let used = sources::in_use();
        idle.retain(|address| !held.contains(address) && !used.contains(address));
        let done = busy.is_empty() && idle.len() == all;
        remove_addresses(&mut self.addresses, &idle)?;
        Ok((requests.len() + idle.len(), done))
    }

    /// The virtual servers that are ours to remove.
    fn services(&mut self) -> Result<Vec<Service>, Error> {
        let mut services = self.ipvs.services()?;
        let ours = |service: &Service| service.flags.contains(OURS);
        services.retain(|service| ours(service) && !excluded(&self.settings, &service.key));
        Ok(services)
    }

    fn own_addresses(&mut self) -> Result<Vec<IpAddr>, Error> {
        let held = self.addresses.read()?;
        Ok(held.into_iter().filter_map(|(address, ours)| ours.then_some(address)).collect())
    }
}

/// Whether IPVS is in the kernel. Asking for its netlink family would have the kernel load it.
#[must_use]
pub(crate) fn is_loaded() -> bool {
    std::path::Path::new("/proc/thread-self/net/ip_vs").exists()
}

/// The address of a virtual server that has one.
pub(crate) fn address(key: &ServiceKey) -> Option<IpAddr> {
    match key {
        ServiceKey::Address { address, .. } => Some(*address),
        ServiceKey::Mark { .. } => None,
    }
}

/// Of a virtual server that gets no more connections: what is idle goes, what is not drains.
fn steps(key: ServiceKey, servers: &[Destination], now: u32) -> Vec<Request> {
    let draining = servers.iter().map(|each| Destination { weight: 0, ..each.clone() });
    let draining: Vec<_> = draining.collect();
    // An upper threshold is a deadline only where it was set with weight 0.
    let gone = drained(key, &draining, now);
    if gone.len() == servers.len() {
        return vec![Request::DeleteService(key)];
    }
    let stays = |each: &&Destination| {
        each.weight != 0 && !gone.contains(&Request::DeleteDestination(key, each.key()))
    };
    let stopped = servers.iter().filter(stays);
    let stopped =
        stopped.map(|each| Request::SetDestination(key, Destination { weight: 0, ..each.clone() }));
    stopped.chain(gone.iter().cloned()).collect()
}

#[cfg(test)]
mod tests {
    use ipvs_rs::Protocol;

    use super::*;

    #[test]
    fn idle_virtual_servers_go_and_busy_ones_drain() {
        let key = ServiceKey::address([10, 96, 0, 1].into(), Protocol::TCP, 80);
        let server = |last: u8, weight, active_connections| Destination {
            weight,
            active_connections,
            ..Destination::new([10, 0, 0, last].into(), 8080)
        };
        let idle = [server(1, 1, 0), server(2, 0, 0)];
        assert_eq!(steps(key, &idle, 100), [Request::DeleteService(key)]);
        assert_eq!(steps(key, &[], 100), [Request::DeleteService(key)]);
        let busy = [server(1, 1, 0), server(2, 1, 3), server(3, 0, 1)];
        assert_eq!(
            steps(key, &busy, 100),
            [
                Request::SetDestination(key, server(2, 0, 3)),
                Request::DeleteDestination(key, server(1, 1, 0).key()),
            ]
        );
    }
}
