//! What kube-proxy's IPVS mode has left.
//!
//! A virtual server that goes takes its connections with it, so who calls this waits for their end.
//! Nothing tells whose an unmarked virtual server is. But kube-proxy's IPVS mode makes its ipsets
//! always and first of all, and removes every virtual server that is not its own: where its sets
//! are, the addresses on the device are its, and what stands at them or at a node port in its sets.

use std::collections::{BTreeSet, HashSet};
use std::net::IpAddr;

use ipnet::IpNet;
use ipvs_rs::{Destination, Ipvs, Protocol, Request, ServiceKey};

use crate::addresses::Addresses;
use crate::cleanup::Removed;
use crate::connections::established;
use crate::error::Error;
use crate::former::{address, is_loaded};
use crate::ipset::Sets;
use crate::settings::OURS;
use crate::sources;

/// What is to go.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Scope {
    /// The device too, once it has no address: we do not use IPVS.
    pub device: bool,
    /// Virtual servers in these networks stay.
    pub exclude: Vec<IpNet>,
}

/// A virtual server that is to go.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Leaving {
    /// Which.
    pub key: ServiceKey,
    /// Its connections that are established (IPVS counts none of UDP so).
    pub connections: u32,
}

impl Leaving {
    /// Whether it is one of UDP, whose connections have no end.
    #[must_use]
    pub const fn is_udp(&self) -> bool {
        matches!(self.key, ServiceKey::Address { protocol: Protocol::UDP, .. })
    }
}

/// What kube-proxy's IPVS mode has left.
#[derive(Debug)]
pub struct KubeProxy {
    scope: Scope,
    ipvs: Option<Ipvs>,
    addresses: Addresses,
    sets: Sets,
    node_ports: BTreeSet<u16>,
}

impl KubeProxy {
    /// Looks for it. Nothing is changed, nor a module loaded.
    ///
    /// # Errors
    /// If the kernel cannot be read.
    pub fn find(scope: Scope) -> Result<Self, Error> {
        let mut sets = Sets::find()?;
        let node_ports = sets.node_ports()?;
        let ipvs = is_loaded().then(Ipvs::open).and_then(Result::ok);
        Ok(Self { scope, ipvs, addresses: Addresses::open()?, sets, node_ports })
    }

    /// Whether it was there at all.
    #[must_use]
    pub fn was_here(&self) -> bool {
        !self.sets.is_empty()
    }

    /// The virtual servers that are to go.
    ///
    /// # Errors
    /// If the kernel cannot be read.
    pub fn leaving(&mut self) -> Result<Vec<Leaving>, Error> {
        let Some(mut ipvs) = self.ipvs.take() else { return Ok(Vec::new()) };
        let found = self.leaving_of(&mut ipvs);
        self.ipvs = Some(ipvs);
        found
    }

    fn leaving_of(&mut self, ipvs: &mut Ipvs) -> Result<Vec<Leaving>, Error> {
        let mut leaving = Vec::new();
        if !self.was_here() {
            return Ok(leaving);
        }
        let held = self.addresses.read()?;
        let established = established();
        let active = |each: &Destination| each.active_connections;
        for service in ipvs.services()? {
            let ServiceKey::Address { address, port, .. } = service.key else { continue };
            let theirs = held.contains_key(&address) || self.node_ports.contains(&port);
            if theirs
                && !service.flags.contains(OURS)
                && !self.scope.exclude.iter().any(|network| network.contains(&address))
            {
                let connections = match &established {
                    Ok(counts) => counts.get(&service.key).copied().unwrap_or_default(),
                    Err(_) => ipvs.destinations(&service.key)?.iter().map(active).sum(),
                };
                leaving.push(Leaving { key: service.key, connections });
            }
        }
        Ok(leaving)
    }

    /// Has new connections of the node itself to the addresses that are to go begin at another one:
    /// those that there are keep theirs. Where we use IPVS it is not known yet which go.
    ///
    /// # Errors
    /// If the kernel refuses.
    pub fn steer(&mut self) -> Result<(), Error> {
        if !self.scope.device || !self.was_here() {
            return Ok(());
        }
        let held = self.addresses.read()?;
        let theirs: Vec<_> = held.into_iter().filter(|(_, ours)| !ours).map(|(ip, _)| ip).collect();
        self.addresses.steer(&theirs)
    }

    /// Takes virtual servers away, and the addresses that neither a virtual server nor a connection
    /// of the node itself needs any more. Says what went, and how many addresses only the node needs.
    ///
    /// # Errors
    /// If the kernel refuses. What was taken away by then stays away.
    pub fn remove(&mut self, gone: &[ServiceKey]) -> Result<(Removed, usize), Error> {
        let mut removed = Removed { virtual_servers: gone.len(), ..Removed::default() };
        let mut needed = BTreeSet::new();
        if let Some(ipvs) = &mut self.ipvs {
            let requests: Vec<_> = gone.iter().map(|key| Request::DeleteService(*key)).collect();
            ipvs.submit(&requests)?;
            needed = ipvs.services()?.iter().filter_map(|service| address(&service.key)).collect();
        }
        let held = self.addresses.read()?;
        let goes = |ours: bool| !ours && self.was_here();
        let unused = held.iter().filter(|(ip, ours)| goes(**ours) && !needed.contains(*ip));
        let used = if self.scope.device { sources::in_use() } else { HashSet::new() };
        let (kept, unused): (Vec<IpAddr>, Vec<_>) =
            unused.map(|(ip, _)| *ip).partition(|ip| used.contains(ip));
        self.addresses.remove(&unused)?;
        removed.addresses = unused.len();
        if self.scope.device && held.len() == unused.len() && !held.is_empty() {
            self.addresses.remove_device()?;
            removed.device = true;
        }
        Ok((removed, kept.len()))
    }

    /// Destroys kube-proxy's ipsets, those of IPv6 too, once nothing is left to be known by them, and
    /// removes routes of ours ([`Self::steer`]) to addresses that another program has taken away.
    /// Returns how many ipsets are left because rules use them.
    ///
    /// # Errors
    /// If the kernel refuses.
    pub fn forget(&mut self) -> Result<usize, Error> {
        self.addresses.sweep()?;
        Ok(self.sets.destroy()?)
    }
}
