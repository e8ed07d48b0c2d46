//! What the kernel holds, for whoever asks: no daemon is needed, and nothing is changed.

use nix::libc::NETLINK_NETFILTER;
use shunt_netlink::Socket;

use crate::answer::TableInfo;
use crate::counting::{Counting, Counts};
use crate::error::Error;
use crate::installed::Installed;
use crate::message::OWNED;
use crate::readback::{self, ReadBack};

/// What the kernel holds, without regard to a plan.
#[derive(Clone, Debug, Default)]
pub struct Inventory {
    /// Whether there is a table, and if it is of this release's layout.
    pub table: Option<TableState>,
    /// Everything in it, if it is.
    pub installed: Installed,
}

/// What is known of a table.
#[derive(Clone, Debug, Default)]
pub struct TableState {
    /// It is as this release makes it.
    pub fit: bool,
    /// It outlives its owner and lets no one else write.
    pub owned: bool,
    /// The netlink port of its living owner, 0 if it has none.
    pub owner: u32,
}

/// Reads the kernel; needs no running daemon.
///
/// # Errors
/// If nftables cannot be read.
pub fn inventory() -> Result<Inventory, Error> {
    let mut socket = Socket::open(NETLINK_NETFILTER)?;
    let state = |fit, table: TableInfo| {
        Some(TableState { fit, owned: table.flags & OWNED == OWNED, owner: table.owner })
    };
    Ok(match readback::read(&mut socket)? {
        ReadBack::Nothing => Inventory::default(),
        ReadBack::Unfit(_, table) => {
            Inventory { table: state(false, table), ..Inventory::default() }
        }
        ReadBack::Ours(installed, _, table) => {
            Inventory { table: state(true, table), installed: *installed }
        }
    })
}

/// What the table has counted; `None` if it counts nothing, or there is none. Needs no running
/// daemon. Only the sets that count are read.
///
/// # Errors
/// If nftables cannot be read.
pub fn counts() -> Result<Option<Counts>, Error> {
    let mut socket = Socket::open(NETLINK_NETFILTER)?;
    let counting = readback::counting(&readback::sets(&mut socket)?).unwrap_or_default();
    if counting == Counting::Nothing {
        return Ok(None);
    }
    readback::counts(&mut socket, counting).map(Some)
}
