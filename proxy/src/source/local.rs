//! Tells the addresses on this machine's interfaces, now and as they change.
//!
//! Events only say that something has changed; what it has changed to is always read anew, so
//! that neither a lost event nor the order of events and answers matters.

#[cfg(test)]
mod tests;

use std::collections::BTreeSet;
use std::net::IpAddr;
use std::os::fd::AsFd;
use std::time::Duration;

use nix::libc;
use shunt_model::snapshot::Change;
use shunt_netlink::Socket;
use tokio::sync::mpsc::Sender;
use tokio::time::sleep;
use tracing::warn;

use crate::addresses;
use crate::source::SourceEvent;
use crate::source::readiness::Readiness;

/// Changes that come this close together are told together.
const COALESCE: Duration = Duration::from_millis(20);
/// After a failure of netlink.
const RETRY: Duration = Duration::from_secs(5);
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
    let mut events = addresses::Events::open(addresses::GROUPS)?;
    let readiness = Readiness::of(events.as_fd())?;
    let mut socket = Socket::open(libc::NETLINK_ROUTE)?;
    loop {
        let found = read(&mut socket)?;
        if told.as_ref() != Some(&found) {
            *told = Some(found.clone());
            if out.send(Change::LocalAddresses(found).into()).await.is_err() {
                return Ok(());
            }
        }
        loop {
            tokio::select! {
                ready = readiness.wait() => ready?,
                () = out.closed() => return Ok(()),
            }
            sleep(COALESCE).await;
            if events.concern_us()? {
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

fn read(socket: &mut Socket) -> shunt_netlink::Result<BTreeSet<IpAddr>> {
    addresses::read(socket, |address| address.is_usable.then_some(address.own))
}
