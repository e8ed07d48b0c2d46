//! The addresses of frontends on the dummy device, through rtnetlink
//! (`include/uapi/linux/if_link.h`, `if_addr.h`).

use std::collections::HashMap;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::os::fd::{AsFd, BorrowedFd};

use nix::errno::Errno;
use nix::libc;
use nix::net::if_::if_nametoindex;
use shunt_netlink::{Message, Socket, attributes};

use crate::error::Error;
use crate::sources;

/// The name that kube-proxy gave it; tools know it.
pub(crate) const DEVICE: &str = "kube-ipvs0";
/// The mark of an address of ours: a route priority, which means nothing for an address without a
/// network, and which kernels from 4.18 keep for both families.
const OURS: u32 = 0x7368_756e;

/// `struct ifinfomsg` and `struct ifaddrmsg`.
const LINK_HEADER: [u8; 16] = [0; 16];
const ADDRESS_HEADER: usize = 8;
/// How many requests are made and sent at once.
const PORTION: usize = 100;
/// `NLM_F_CREATE | NLM_F_EXCL`.
const NEW: u16 = 0x600;
/// `NLM_F_CREATE | NLM_F_REPLACE`: where it is there, it gets our mark.
const TAKE: u16 = 0x500;
/// `IFLA_INFO_KIND`.
const INFO_KIND: u16 = 1;
/// `IFA_RT_PRIORITY`.
const ROUTE_PRIORITY: u16 = 9;
/// `RTNLGRP_IPV4_IFADDR` and `RTNLGRP_IPV6_IFADDR`: the groups that tell of addresses.
const GROUPS: [u32; 2] = [5, 9];
/// `RT_SCOPE_HOST`: the address is never chosen for what the node itself sends elsewhere.
const SCOPE_HOST: u8 = 254;
/// `IFA_F_NODAD | IFA_F_NOPREFIXROUTE`.
const FLAGS: u32 = 0x202;

/// The device's addresses.
#[derive(Debug)]
pub(crate) struct Addresses {
    socket: Socket,
    events: Socket,
    device: Option<u32>,
}

impl Addresses {
    /// Opens the sockets. Nothing is made.
    pub(crate) fn open() -> Result<Self, Error> {
        let socket = Socket::open(libc::NETLINK_ROUTE)?;
        let events = Socket::open(libc::NETLINK_ROUTE)?;
        Ok(Self { socket, events, device: if_nametoindex(DEVICE).ok() })
    }

    /// From now on [`Self::lost`] is told of addresses that go. Those that come would only be a message for each that we
    /// add.
    pub(crate) fn listen(&mut self) -> Result<(), Error> {
        self.events.only(libc::RTM_DELADDR)?;
        GROUPS.into_iter().try_for_each(|group| Ok(self.events.listen(group, true)?))
    }

    /// Readable when [`Self::lost`] may have something to say.
    pub(crate) fn events(&self) -> BorrowedFd<'_> {
        self.events.as_fd()
    }

    /// Whether one of our addresses that are known to be on the device has gone from it, by itself or with the device. The
    /// kernel tells of those that we take away, too, and not of whose doing it was. Does not block.
    pub(crate) fn lost(&mut self, held: &HashMap<IpAddr, bool>) -> Result<bool, Error> {
        let device = self.device;
        let mut gone = false;
        let missed = self.events.drain(|_, payload, _| {
            let address = device.and_then(|device| address_on(device, payload));
            gone |= address.is_some_and(|(address, _)| held.get(&address) == Some(&true));
        })?;
        if !(gone || missed) {
            return Ok(false);
        }
        let there = self.read()?;
        Ok(held.iter().any(|(address, ours)| *ours && there.get(address) != Some(&true)))
    }

    /// Makes the device, unless it is there. It stays down: its addresses are local even so, and
    /// nothing is ever sent on it.
    pub(crate) fn make_device(&mut self) -> Result<(), Error> {
        self.device = if_nametoindex(DEVICE).ok();
        if self.device.is_some() {
            return Ok(());
        }
        let mut link = Message::new(libc::RTM_NEWLINK, NEW);
        link.raw(&LINK_HEADER);
        link.text(libc::IFLA_IFNAME, DEVICE);
        link.nest(libc::IFLA_LINKINFO, |link| link.text(INFO_KIND, "dummy"));
        match self.socket.request("make a dummy device", link, |_| {}) {
            Ok(()) => {}
            Err(error) if error.errno() == Some(Errno::EEXIST) => {}
            Err(error) if error.errno() == Some(Errno::EOPNOTSUPP) => {
                return Err(Error::NoDummy(error));
            }
            Err(error) => return Err(error.into()),
        }
        self.device = if_nametoindex(DEVICE).ok();
        Ok(())
    }

    /// The addresses on the device, and which are ours.
    pub(crate) fn read(&mut self) -> Result<HashMap<IpAddr, bool>, Error> {
        self.device = if_nametoindex(DEVICE).ok();
        let Some(device) = self.device else { return Ok(HashMap::new()) };
        let mut request = Message::new(libc::RTM_GETADDR, 0);
        request.raw(&[0; ADDRESS_HEADER]);
        let each = |found: &mut HashMap<IpAddr, bool>, payload: &[u8]| {
            found.extend(address_on(device, payload));
        };
        Ok(self.socket.dump("list addresses", &request, each)?)
    }

    /// Adds addresses. One that is there gets our mark.
    pub(crate) fn add(&mut self, addresses: &[IpAddr]) -> Result<(), Error> {
        let Some(device) = self.device else { return Ok(()) };
        self.submit("add an address", addresses, Errno::EEXIST, |address| {
            request(libc::RTM_NEWADDR, TAKE, device, address)
        })
    }

    /// Has new connections of the node to these addresses, which are to go, begin at another one.
    pub(crate) fn steer(&mut self, addresses: &[IpAddr]) -> Result<(), Error> {
        sources::steer(&mut self.socket, addresses)
    }

    /// Takes back [`Self::steer`] for addresses that are not on the device any more, whoever took
    /// them away: a route outlives its address.
    pub(crate) fn sweep(&mut self) -> Result<(), Error> {
        let mut routes = sources::routes(sources::OURS)?;
        if !routes.is_empty() {
            let held = self.read()?;
            routes.retain(|address| !held.contains_key(address));
        }
        sources::release(&mut self.socket, routes)
    }

    /// Takes back all of [`Self::steer`]. An address of IPv6 that has lost its own route to it is
    /// made again: that is how the kernel makes the route, and nothing of the address tells.
    pub(crate) fn give_back(&mut self) -> Result<(), Error> {
        sources::release(&mut self.socket, sources::routes(sources::OURS)?)?;
        let mut bare: Vec<_> = self.read()?.into_keys().filter(IpAddr::is_ipv6).collect();
        let Some(device) = self.device.filter(|_| !bare.is_empty()) else { return Ok(()) };
        let routes = sources::routes(libc::RTPROT_KERNEL)?;
        bare.retain(|address| !routes.contains(address));
        // One after the other, so that each is away for microseconds.
        let again = |address: &IpAddr| {
            [(libc::RTM_DELADDR, 0), (libc::RTM_NEWADDR, NEW)]
                .map(|(kind, flags)| unmarked(kind, flags, device, *address))
        };
        let refused = self.socket.submit(bare.iter().flat_map(again).collect())?;
        match refused.first() {
            None => Ok(()),
            Some((position, errno)) => {
                let (what, detail) = ("make again the address", bare[position / 2].to_string());
                Err(shunt_netlink::Error::Refused { what, errno: *errno, detail }.into())
            }
        }
    }

    /// Removes addresses, and our routes to them. One that is not there is no error.
    pub(crate) fn remove(&mut self, addresses: &[IpAddr]) -> Result<(), Error> {
        sources::release(&mut self.socket, addresses.iter().copied())?;
        let Some(device) = self.device else { return Ok(()) };
        self.submit("remove an address", addresses, Errno::EADDRNOTAVAIL, |address| {
            request(libc::RTM_DELADDR, 0, device, address)
        })
    }

    /// Removes the device. If it is not there that is no error.
    pub(crate) fn remove_device(&mut self) -> Result<(), Error> {
        let Some(device) = self.device.take() else { return Ok(()) };
        let mut link = Message::new(libc::RTM_DELLINK, 0);
        let mut header = LINK_HEADER;
        // `ifi_index`.
        header[4..8].copy_from_slice(&device.to_ne_bytes());
        link.raw(&header);
        match self.socket.request("remove the dummy device", link, |_| {}) {
            Err(error) if error.errno() == Some(Errno::ENODEV) => Ok(()),
            result => Ok(result?),
        }
    }

    fn submit(
        &mut self,
        what: &'static str,
        addresses: &[IpAddr],
        harmless: Errno,
        message: impl Fn(IpAddr) -> Message,
    ) -> Result<(), Error> {
        for portion in addresses.chunks(PORTION) {
            let messages = portion.iter().map(|address| message(*address)).collect();
            let refused = self.socket.submit(messages)?;
            if let Some((position, errno)) =
                refused.into_iter().find(|(_, errno)| *errno != harmless)
            {
                let detail = portion[position].to_string();
                return Err(shunt_netlink::Error::Refused { what, errno, detail }.into());
            }
        }
        Ok(())
    }
}

fn request(kind: u16, flags: u16, device: u32, address: IpAddr) -> Message {
    let mut message = unmarked(kind, flags, device, address);
    if address.is_ipv6() {
        // `struct ifa_cacheinfo`: deprecated from the start, so that it is never chosen for
        // what the node itself sends elsewhere; valid for ever.
        let lifetimes = [0u32, u32::MAX, 0, 0].map(u32::to_ne_bytes).concat();
        message.bytes(libc::IFA_CACHEINFO, &lifetimes);
    }
    message.bytes(ROUTE_PRIORITY, &OURS.to_ne_bytes());
    message
}

/// An address as other programs make it.
fn unmarked(kind: u16, flags: u16, device: u32, address: IpAddr) -> Message {
    let mut message = Message::new(kind, flags);
    let (family, bits, scope) = match address {
        IpAddr::V4(_) => (libc::AF_INET, 32, SCOPE_HOST),
        IpAddr::V6(_) => (libc::AF_INET6, 128, 0),
    };
    let mut header = [u8::try_from(family).unwrap_or_default(), bits, 0, scope, 0, 0, 0, 0];
    header[4..].copy_from_slice(&device.to_ne_bytes());
    message.raw(&header);
    match address {
        IpAddr::V4(address) => {
            message.bytes(libc::IFA_LOCAL, &address.octets());
            message.bytes(libc::IFA_ADDRESS, &address.octets());
        }
        IpAddr::V6(address) => message.bytes(libc::IFA_ADDRESS, &address.octets()),
    }
    message.bytes(libc::IFA_FLAGS, &FLAGS.to_ne_bytes());
    message
}

/// Reads an address, if it is on the device.
fn address_on(device: u32, payload: &[u8]) -> Option<(IpAddr, bool)> {
    let header = payload.first_chunk::<ADDRESS_HEADER>()?;
    if u32::from_ne_bytes([header[4], header[5], header[6], header[7]]) != device {
        return None;
    }
    let (mut found, mut ours) = (None, false);
    for attribute in attributes(&payload[ADDRESS_HEADER..]) {
        match (attribute.kind, i32::from(header[0])) {
            (libc::IFA_LOCAL, libc::AF_INET) => {
                let bytes: Option<[u8; 4]> = attribute.payload.try_into().ok();
                found = bytes.map(|bytes| Ipv4Addr::from(bytes).into());
            }
            (libc::IFA_ADDRESS, libc::AF_INET6) => {
                let bytes: Option<[u8; 16]> = attribute.payload.try_into().ok();
                found = bytes.map(|bytes| Ipv6Addr::from(bytes).into());
            }
            (ROUTE_PRIORITY, _) => {
                ours = attribute.payload == OURS.to_ne_bytes();
            }
            _ => {}
        }
    }
    // The kernel's own link-local addresses are nobody's business.
    let link_local = |ip: &IpAddr| matches!(ip, IpAddr::V6(ip) if ip.is_unicast_link_local());
    found.filter(|ip| !link_local(ip)).map(|ip| (ip, ours))
}
