//! The addresses of this machine's interfaces, from rtnetlink.
//!
//! In IPVS mode there are thousands more, those of Services on a device of their own: they are none of the node's.

#[cfg(test)]
mod tests;

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::os::fd::{AsFd, BorrowedFd};

use ipnet::IpNet;
use nix::libc;
use nix::net::if_::if_nametoindex;
use shunt_netlink::{Message, Socket, attributes};

/// The dummy device that holds the addresses of Services in IPVS mode.
pub(crate) const SERVICE_DEVICE: &str = "kube-ipvs0";
/// `RTNLGRP_IPV4_IFADDR` and `RTNLGRP_IPV6_IFADDR`: the groups that tell of addresses.
pub(crate) const GROUPS: [u32; 2] = [5, 9];
/// `struct ifaddrmsg`: family, prefix length, flags, scope, interface.
const HEADER: usize = 8;

/// An address of an interface.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Address {
    /// The index of the interface.
    pub(crate) interface: u32,
    /// The address, of two ends of a link ours.
    pub(crate) own: IpAddr,
    /// The network that is reached by it, with the address that the kernel has for it: of two ends of a link the other.
    pub(crate) network: IpNet,
    /// Whether the kernel answers for it: an IPv6 address is not before it is known to be unique, and never if it is not. A
    /// deprecated one still is, for those who know it.
    pub(crate) is_usable: bool,
}

/// What is made of all addresses of the current network namespace but those of Services.
///
/// # Errors
/// If netlink fails.
pub(crate) fn read<T: Default + Extend<U>, U>(
    socket: &mut Socket,
    of: impl Fn(Address) -> Option<U>,
) -> shunt_netlink::Result<T> {
    let mut request = Message::new(libc::RTM_GETADDR, 0);
    request.raw(&[0; HEADER]);
    let services = service_device();
    socket.dump("list addresses", &request, |all: &mut T, payload| {
        let address = decode(payload).filter(|address| services != Some(address.interface));
        all.extend(address.and_then(&of));
    })
}

/// Tells that addresses or links of a network namespace have changed. Our own comings and goings on the Services' device
/// are thousands, and nobody's concern.
#[derive(Debug)]
pub(crate) struct Events {
    socket: Socket,
    /// The interface of which the kernel does not tell us.
    ignored: Option<u32>,
}

impl Events {
    /// Listens to these groups of the current network namespace (`RTNLGRP_*`).
    ///
    /// # Errors
    /// If netlink fails.
    pub(crate) fn open(groups: impl IntoIterator<Item = u32>) -> shunt_netlink::Result<Self> {
        let mut events = Self { socket: Socket::open(libc::NETLINK_ROUTE)?, ignored: None };
        events.ignore(service_device())?;
        for group in groups {
            events.socket.listen(group, true)?;
        }
        Ok(events)
    }

    /// Takes those that wait; tells whether what they are about must be read anew. To be called on a thread of the network
    /// namespace.
    ///
    /// # Errors
    /// If netlink fails.
    pub(crate) fn concern_us(&mut self) -> shunt_netlink::Result<bool> {
        let services = service_device();
        // Before they are taken: of a new device that has thousands of addresses, most are still to come.
        self.ignore(services)?;
        let mut concerned = false;
        let lost = self.socket.drain(|_, payload, _| {
            concerned |= services.is_none() || interface(payload) != services;
        })?;
        Ok(concerned || lost)
    }

    /// Each of them would be a read of its own, on the processor that puts the addresses there.
    fn ignore(&mut self, services: Option<u32>) -> shunt_netlink::Result<()> {
        if let Some(index) = services.filter(|_| services != self.ignored) {
            self.socket.ignore_interface(index)?;
            self.ignored = services;
        }
        Ok(())
    }
}

impl AsFd for Events {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.socket.as_fd()
    }
}

fn service_device() -> Option<u32> {
    if_nametoindex(SERVICE_DEVICE).ok()
}

/// The index of the interface, which is at the same place in `struct ifaddrmsg` and `struct ifinfomsg`.
fn interface(payload: &[u8]) -> Option<u32> {
    Some(u32::from_ne_bytes(payload.get(4..HEADER)?.try_into().ok()?))
}

/// The address in a message.
fn decode(payload: &[u8]) -> Option<Address> {
    let family = i32::from(*payload.first()?);
    let prefix = *payload.get(1)?;
    let mut flags = u32::from(*payload.get(2)?);
    let (mut own, mut peer_or_own) = (None, None);
    for attribute in attributes(payload.get(HEADER..)?) {
        match attribute.kind {
            libc::IFA_LOCAL => own = ip(family, attribute.payload),
            libc::IFA_ADDRESS => peer_or_own = ip(family, attribute.payload),
            // All 32 bits, where the header has 8.
            libc::IFA_FLAGS => {
                flags = attribute.payload.try_into().map_or(flags, u32::from_ne_bytes);
            }
            _ => {}
        }
    }
    let is_optimistic = flags & libc::IFA_F_OPTIMISTIC != 0;
    let is_tentative = flags & libc::IFA_F_TENTATIVE != 0 && !is_optimistic;
    Some(Address {
        interface: interface(payload)?,
        own: own.or(peer_or_own)?,
        network: IpNet::new(peer_or_own.or(own)?, prefix).ok()?,
        is_usable: !is_tentative && flags & libc::IFA_F_DADFAILED == 0,
    })
}

fn ip(family: i32, bytes: &[u8]) -> Option<IpAddr> {
    match family {
        libc::AF_INET => Some(Ipv4Addr::from(<[u8; 4]>::try_from(bytes).ok()?).into()),
        libc::AF_INET6 => Some(Ipv6Addr::from(<[u8; 16]>::try_from(bytes).ok()?).into()),
        _ => None,
    }
}
