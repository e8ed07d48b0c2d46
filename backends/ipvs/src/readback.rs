//! Kernel to record.

use ipvs_rs::{DestinationKey, Ipvs, ServiceKey};
use shunt_nftables::kernel::Inventory as Table;

use crate::addresses::Addresses;
use crate::error::Error;
use crate::installed::{Installed, InstalledDestination, InstalledVirtual};

/// Reads IPVS and the device. The real servers of virtual servers that are neither ours nor
/// `concern` us are not looked at.
pub(crate) fn read(
    ipvs: &mut Ipvs,
    addresses: &mut Addresses,
    mut concern: impl FnMut(&ServiceKey) -> bool,
) -> Result<Installed, Error> {
    let mut installed = Installed::default();
    installed.addresses = addresses.read()?;
    for service in ipvs.services()? {
        let mut server = InstalledVirtual::of(&service);
        if server.ours() || concern(&service.key) {
            read_destinations(ipvs, &service.key, &mut server)?;
        }
        installed.insert(service.key, server);
    }
    Ok(installed)
}

/// Reads one virtual server, if it is there.
pub(crate) fn virtual_server(
    ipvs: &mut Ipvs,
    key: &ServiceKey,
) -> Result<Option<InstalledVirtual>, Error> {
    let Some(service) = ipvs.service(key)? else { return Ok(None) };
    let mut server = InstalledVirtual::of(&service);
    read_destinations(ipvs, key, &mut server)?;
    Ok(Some(server))
}

fn read_destinations(
    ipvs: &mut Ipvs,
    key: &ServiceKey,
    server: &mut InstalledVirtual,
) -> Result<(), Error> {
    let destinations = ipvs.destinations(key)?;
    let each = destinations.iter().map(|it| (it.key(), InstalledDestination::of(it)));
    server.destinations = each.collect();
    Ok(())
}

/// What the kernel holds, for whoever asks: no daemon is needed, and nothing is changed.
#[derive(Clone, Debug, Default)]
pub struct Inventory {
    /// IPVS and the device.
    pub installed: Installed,
    /// The nftables table beside them.
    pub table: Table,
}

/// How many connections a virtual server of ours was given, and its real servers.
#[derive(Clone, Debug)]
pub struct Scheduled {
    /// The virtual server.
    pub key: ServiceKey,
    /// Since it was made.
    pub connections: u64,
    /// Of each real server that serves, since it is one.
    pub destinations: Vec<(DestinationKey, u64)>,
}

/// What IPVS has counted of our virtual servers; needs no running daemon.
///
/// # Errors
/// If IPVS cannot be read.
pub fn scheduled() -> Result<Vec<Scheduled>, Error> {
    let mut ipvs = Ipvs::open().map_err(Error::Unavailable)?;
    let mut all = Vec::new();
    for service in ipvs.services()? {
        if InstalledVirtual::of(&service).ours() {
            let key = service.key;
            let destinations = ipvs.destinations(&key)?;
            let serving = destinations.iter().filter(|each| each.weight > 0);
            let destinations = serving.map(|each| (each.key(), each.stats.connections)).collect();
            all.push(Scheduled { key, connections: service.stats.connections, destinations });
        }
    }
    Ok(all)
}

/// Reads the kernel; needs no running daemon.
///
/// # Errors
/// If IPVS, rtnetlink or nftables cannot be read.
pub fn inventory() -> Result<Inventory, Error> {
    let mut ipvs = Ipvs::open().map_err(Error::Unavailable)?;
    let installed = read(&mut ipvs, &mut Addresses::open()?, |_| true)?;
    Ok(Inventory { installed, table: shunt_nftables::kernel::inventory()? })
}
