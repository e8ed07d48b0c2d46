//! Taking away all that is ours.

use std::collections::BTreeSet;
use std::net::IpAddr;

use ipvs_rs::{Ipvs, Request};

use crate::addresses::Addresses;
use crate::error::Error;
use crate::former::{address, is_loaded};
use crate::readback;

/// What was taken away.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Removed {
    /// Virtual servers.
    pub virtual_servers: usize,
    /// Addresses on the dummy device.
    pub addresses: usize,
    /// The device itself, on which no other address was.
    pub device: bool,
}

/// Takes away the virtual servers, addresses and routes that carry our mark, and the device, if it
/// holds none of someone else's. No daemon may run. A kernel without IPVS has nothing of ours.
///
/// # Errors
/// If the kernel refuses. What was taken away by then stays away.
pub fn cleanup() -> Result<Removed, Error> {
    let mut addresses = Addresses::open()?;
    let mut removed = Removed::default();
    let mut others = BTreeSet::new();
    if is_loaded() {
        let mut ipvs = Ipvs::open().map_err(Error::Unavailable)?;
        let installed = readback::read(&mut ipvs, &mut addresses, |_| false)?;
        let (ours, theirs): (Vec<_>, Vec<_>) =
            installed.virtuals.iter().partition(|(_, server)| server.ours());
        others.extend(theirs.iter().filter_map(|(key, _)| address(key)));
        let requests: Vec<_> = ours.iter().map(|(key, _)| Request::DeleteService(**key)).collect();
        ipvs.submit(&requests)?;
        removed.virtual_servers = requests.len();
    }
    let held = addresses.read()?;
    // An address that we made, and that has another proxy's virtual server by now, is needed.
    let ours = held.iter().filter(|(ip, ours)| **ours && !others.contains(*ip));
    let ours: Vec<_> = ours.map(|(ip, _)| *ip).collect();
    removed.addresses = ours.len();
    removed.device = remove_addresses(&mut addresses, &ours)?;
    // A daemon may have been killed while it waited for the end of the connections of these.
    addresses.give_back()?;
    Ok(removed)
}

/// Removes addresses, and the device if no other was on it; tells whether it went.
pub(crate) fn remove_addresses(addresses: &mut Addresses, gone: &[IpAddr]) -> Result<bool, Error> {
    addresses.remove(gone)?;
    // A device without addresses that were ours may be someone else's.
    let last = !gone.is_empty() && addresses.read()?.is_empty();
    if last {
        addresses.remove_device()?;
    }
    Ok(last)
}
