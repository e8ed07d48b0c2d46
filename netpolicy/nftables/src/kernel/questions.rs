//! What the kernel holds and can, asked without a running daemon.

use std::net::IpAddr;
use std::time::Duration;

use nix::libc::NETLINK_NETFILTER;
use shunt_netlink::Socket;
use shunt_netpolicy::object::Direction;
use shunt_nftables::codec::{Error, Table as NftTable, accepts};

use crate::installed::Installed;
use crate::layout::{self, Denial, Switched, Variant};
use crate::readback::{self, ReadBack};
use crate::transaction::{self, BRIDGE};

/// Packets that were dropped since the table was made; in an audit, that would have been.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Dropped {
    /// By ingress policies.
    pub ingress: u64,
    /// By egress policies.
    pub egress: u64,
    /// As the pod was not known.
    pub unknown: u64,
}

/// How this kernel can judge what is switched on bridges; `None`: not at all. It is asked with the rules themselves, and
/// nothing is changed.
///
/// # Errors
/// If nftables cannot be written to.
pub fn switched() -> Result<Option<Switched>, Error> {
    for switched in [Switched::Tracked, Switched::FirstOfTcp] {
        let variant = Variant { switched: Some(switched), ..Variant::default() };
        let (mut messages, mut ids) = (Vec::new(), 0);
        for (table, chains) in layout::tables(variant) {
            // There may be a table of ours.
            if table == BRIDGE {
                messages.extend(transaction::make(PROBE, &chains, false, false, &mut ids));
            }
        }
        if accepts(PROBE, messages)? {
            return Ok(Some(switched));
        }
    }
    Ok(None)
}

/// A table that is never made.
const PROBE: NftTable = NftTable::bridge("shunt-probe");

/// What the table of this network namespace has dropped so far. Needs no running daemon, and changes
/// nothing.
///
/// # Errors
/// If nftables cannot be read.
pub fn dropped(socket: &mut Socket) -> Result<Dropped, Error> {
    let counters = readback::counters(socket)?;
    let of = |denial: Denial| counters.get(&denial.chain()).copied().unwrap_or_default();
    Ok(Dropped {
        ingress: of(Denial::Policy(Direction::Ingress)),
        egress: of(Denial::Policy(Direction::Egress)),
        unknown: of(Denial::Unknown),
    })
}

/// What the kernel of this network namespace holds; `None` if there is no table, or none of this
/// release. Needs no running daemon, and changes nothing.
///
/// # Errors
/// If nftables cannot be read.
pub fn inventory() -> Result<Option<Installed>, Error> {
    let mut socket = Socket::open(NETLINK_NETFILTER)?;
    for variant in Variant::all() {
        match readback::read(&mut socket, variant)? {
            ReadBack::Ours(installed, _) => return Ok(Some(*installed)),
            ReadBack::Nothing => return Ok(None),
            ReadBack::Unfit(..) => {}
        }
    }
    Ok(None)
}

/// A domain name that the kernel of this network namespace knows an address to have.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Learnt {
    /// The address.
    pub address: IpAddr,
    /// The number of the name.
    pub name: u32,
    /// For how long it still holds.
    pub holds: Duration,
}

/// What an earlier run has learnt from DNS. Changes nothing.
///
/// # Errors
/// If nftables cannot be read.
pub fn learnt() -> Result<Vec<Learnt>, Error> {
    readback::learnt(&mut Socket::open(NETLINK_NETFILTER)?)
}
