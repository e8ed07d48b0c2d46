//! Taking away all that is ours.

use std::net::IpAddr;

use ipvs_rs::{Ipvs, Request};

use crate::addresses::Addresses;
use crate::error::Error;
use crate::former::is_loaded;
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

/// Takes away the virtual servers and addresses that carry our mark, and the device, if it holds
/// none of someone else's. No daemon may run. A kernel without IPVS has nothing of ours.
///
/// # Errors
/// If the kernel refuses. What was taken away by then stays away.
pub fn cleanup() -> Result<Removed, Error> {
    let mut addresses = Addresses::open()?;
    let mut removed = Removed::default();
    if is_loaded() {
        let mut ipvs = Ipvs::open().map_err(Error::Unavailable)?;
        let installed = readback::read(&mut ipvs, &mut addresses, |_| false)?;
        let ours = installed.virtuals.iter().filter(|(_, server)| server.ours());
        let requests: Vec<_> = ours.map(|(key, _)| Request::DeleteService(*key)).collect();
        ipvs.submit(&requests)?;
        removed.virtual_servers = requests.len();
    }
    let held = addresses.read()?;
    let ours: Vec<_> = held.iter().filter(|(_, ours)| **ours).map(|(ip, _)| *ip).collect();
    removed.addresses = ours.len();
    removed.device = remove_addresses(&mut addresses, &ours)?;
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
