//! The generation of a namespace's ruleset: it goes up with each commit, whoever does it (`iptables` included, whose
//! rules are nftables today).

use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use nix::libc::NETLINK_NETFILTER;
use shunt_cluster::Netns;
use shunt_netlink::{Message, Socket, attributes, nfnetlink};

/// `NFNL_SUBSYS_NFTABLES` and `NFT_MSG_GETGEN`.
const GET: u16 = 10 << 8 | 16;
/// `NFTA_GEN_ID`.
const ID: u16 = 1;
const INTERVAL: Duration = Duration::from_millis(10);

/// Asks on a netfilter socket of the namespace.
///
/// # Errors
/// If the kernel does not answer.
pub fn ask(socket: &mut Socket) -> Result<u32> {
    let mut message = Message::new(GET, 0);
    message.raw(&nfnetlink(0, 0));
    let mut generation = None;
    socket.request("tell its generation", message, |payload| {
        let number = attributes(payload.get(4..).unwrap_or_default()).find(|a| a.kind == ID);
        generation = number.and_then(|attribute| attribute.u32_be());
    })?;
    generation.context("the kernel told no generation")
}

/// A netfilter socket of a namespace.
///
/// # Errors
/// If there can be none.
pub fn socket(netns: &Netns) -> Result<Socket> {
    netns.run(|| Socket::open(NETLINK_NETFILTER)).context("opening a netlink socket")
}

/// Waits until nobody has changed the ruleset of a namespace for so long.
///
/// # Errors
/// If it still changes after `patience`.
pub fn wait_for_quiet(netns: &Netns, quiet: Duration, patience: Duration) -> Result<()> {
    let mut socket = socket(netns)?;
    let deadline = Instant::now() + patience;
    let (mut known, mut since) = (ask(&mut socket)?, Instant::now());
    while since.elapsed() < quiet {
        ensure!(Instant::now() < deadline, "the ruleset still changes after {patience:?}");
        thread::sleep(INTERVAL);
        let now = ask(&mut socket)?;
        if now != known {
            (known, since) = (now, Instant::now());
        }
    }
    Ok(())
}
