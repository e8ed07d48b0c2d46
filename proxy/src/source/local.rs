//! The addresses on this machine's interfaces, from rtnetlink.
//!
//! Events only say that something has changed; what it has changed to is always read anew, so
//! that neither a lost event nor the order of events and answers matters.

#[cfg(test)]
mod tests;

use std::collections::BTreeSet;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::os::fd::AsFd;
use std::time::Duration;

use nix::libc;
use nix::net::if_::if_nametoindex;
use shunt_model::snapshot::Change;
use shunt_netlink::{Message, Socket, attributes};
use tokio::sync::mpsc::Sender;
use tokio::time::sleep;
use tracing::warn;

use crate::source::SourceEvent;
use crate::source::readiness::Readiness;

/// Changes that come this close together are told together.
const COALESCE: Duration = Duration::from_millis(20);
/// After a failure of netlink.
const RETRY: Duration = Duration::from_secs(5);
/// The dummy device that holds the addresses of Services in IPVS mode: none of the node's own.
const SERVICE_DEVICE: &str = "kube-ipvs0";

/// `struct ifaddrmsg`: family, prefix length, flags, scope, interface.
const HEADER: usize = 8;
/// `RTNLGRP_IPV4_IFADDR` and `RTNLGRP_IPV6_IFADDR`.
const GROUPS: [u32; 2] = [5, 9];
/// `NLM_F_REQUEST`; the socket adds what a dump needs.
const REQUEST: u16 = 1;

/// Tells the addresses of this network namespace, now and whenever they change; returns when
/// nobody listens. To be called on a thread of that namespace.
pub async fn watch(out: Sender<SourceEvent>) {
    let mut told = None;
    loop {
        match follow(&out, &mut told).await {
            Ok(()) => return,
            Err(error) => {
                let reason: &dyn std::error::Error = &error;
                warn!(reason, "addresses of interfaces cannot be watched; trying again");
            }
        }
        tokio::select! {
            () = sleep(RETRY) => {}
            () = out.closed() => return,
        }
    }
}

/// The addresses of the current network namespace.
///
/// # Errors
/// If netlink fails.
pub fn addresses() -> shunt_netlink::Result<BTreeSet<IpAddr>> {
    read(&mut Socket::open(libc::NETLINK_ROUTE)?)
}

async fn follow(
    out: &Sender<SourceEvent>,
    told: &mut Option<BTreeSet<IpAddr>>,
) -> Result<(), Error> {
    // Listening before reading, so that nothing is missed in between.
    let mut events = Socket::open(libc::NETLINK_ROUTE)?;
    for group in GROUPS {
        events.listen(group, true)?;
    }
    let readiness = Readiness::of(events.as_fd())?;
    let mut socket = Socket::open(libc::NETLINK_ROUTE)?;
    loop {
        let addresses = read(&mut socket)?;
        if told.as_ref() != Some(&addresses) {
            *told = Some(addresses.clone());
            if out.send(Change::LocalAddresses(addresses).into()).await.is_err() {
                return Ok(());
            }
        }
        loop {
            tokio::select! {
                ready = readiness.wait() => ready?,
                () = out.closed() => return Ok(()),
            }
            sleep(COALESCE).await;
            if concerns_us(&mut events)? {
                break;
            }
        }
    }
}

#[derive(Debug, thiserror::Error)]
enum Error {
    #[error(transparent)]
    Netlink(#[from] shunt_netlink::Error),
    #[error("the socket cannot be waited for")]
    Wait(#[from] std::io::Error),
}

/// Takes the waiting events; tells whether addresses must be read anew. Our own comings and goings
/// on the Services' device are thousands, and nobody's concern.
fn concerns_us(events: &mut Socket) -> shunt_netlink::Result<bool> {
    let services = service_device();
    let mut concerned = false;
    let lost = events.drain(|_, payload, _| {
        concerned |= services.is_none() || interface(payload) != services;
    })?;
    Ok(concerned || lost)
}

fn service_device() -> Option<u32> {
    if_nametoindex(SERVICE_DEVICE).ok()
}

fn read(socket: &mut Socket) -> shunt_netlink::Result<BTreeSet<IpAddr>> {
    let mut request = Message::new(libc::RTM_GETADDR, REQUEST);
    request.raw(&[0; HEADER]);
    let services = service_device();
    socket.dump("list addresses", &request, |addresses: &mut BTreeSet<IpAddr>, payload| {
        if services.is_none() || interface(payload) != services {
            addresses.extend(address(payload));
        }
    })
}

fn interface(payload: &[u8]) -> Option<u32> {
    Some(u32::from_ne_bytes(payload.get(4..HEADER)?.try_into().ok()?))
}

/// The address in a message, if it can be used.
///
/// An IPv6 address is not before it is known to be unique, and never if it is not: the kernel
/// does not answer for it. A deprecated one still is, for those who know it.
fn address(payload: &[u8]) -> Option<IpAddr> {
    let family = i32::from(*payload.first()?);
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
    let optimistic = flags & libc::IFA_F_OPTIMISTIC != 0;
    let tentative = flags & libc::IFA_F_TENTATIVE != 0 && !optimistic;
    if tentative || flags & libc::IFA_F_DADFAILED != 0 {
        return None;
    }
    own.or(peer_or_own)
}

fn ip(family: i32, bytes: &[u8]) -> Option<IpAddr> {
    match family {
        libc::AF_INET => Some(Ipv4Addr::from(<[u8; 4]>::try_from(bytes).ok()?).into()),
        libc::AF_INET6 => Some(Ipv6Addr::from(<[u8; 16]>::try_from(bytes).ok()?).into()),
        _ => None,
    }
}
