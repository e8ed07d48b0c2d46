//! Rules that put some packets into a zone of connection tracking, whoever made them.
//!
//! A connection is translated in the zone of its first packet. A rule that is for the packets of both directions, and not
//! for all packets, may have an answer looked for in another, where it belongs to nothing.

use std::collections::BTreeSet;

use nix::libc::NETLINK_NETFILTER;
use shunt_netlink::{Attribute, Socket};

use crate::error::Error;
use crate::message::kind;
use crate::ruleset::{TableName, answer, find, request, text};

/// `NFTA_RULE_TABLE`, `NFTA_RULE_CHAIN`, `NFTA_RULE_EXPRESSIONS`, `NFTA_EXPR_NAME`, `NFTA_EXPR_DATA`, `NFTA_CT_KEY`,
/// `NFTA_CT_DIRECTION`, `NFTA_CT_SREG`, `NFTA_TARGET_NAME`, `NFTA_TARGET_INFO`
/// (`include/uapi/linux/netfilter/nf_tables.h`, `nf_tables_compat.h`).
const TABLE: u16 = 1;
const CHAIN: u16 = 2;
const EXPRESSIONS: u16 = 4;
const NAME: u16 = 1;
const DATA: u16 = 2;
const CT_KEY: u16 = 2;
const CT_DIRECTION: u16 = 3;
const CT_SREG: u16 = 4;
const TARGET_NAME: u16 = 1;
const TARGET_INFO: u16 = 3;
/// `NFT_CT_ZONE`.
const ZONE: u32 = 17;
/// `XT_CT_ZONE_DIR_ORIG`, `XT_CT_ZONE_DIR_REPL`, `XT_CT_ZONE_MARK` (`include/uapi/linux/netfilter/xt_CT.h`).
const ONE_DIRECTION: u16 = 1 << 2 | 1 << 3;
const BY_MARK: u16 = 1 << 4;
/// What is no condition of a rule.
const UNCONDITIONAL: [&str; 4] = ["immediate", "counter", "ct", "target"];

/// The chains, with their tables, of rules that put some packets of both directions into a zone (`ct zone set`, iptables'
/// `CT --zone`). What is for all packets, or for one direction (`ct original zone set`, `CT --zone-orig`), is not told.
///
/// # Errors
/// If nftables cannot be read.
pub fn read() -> Result<BTreeSet<(TableName, String)>, Error> {
    let mut socket = Socket::open(NETLINK_NETFILTER)?;
    let all = request(kind::GETRULE, 0, 0);
    Ok(socket.dump("list all rules", &all, |chains: &mut BTreeSet<_>, payload| {
        chains.extend(chain(payload));
    })?)
}

/// The chain of such a rule.
fn chain(payload: &[u8]) -> Option<(TableName, String)> {
    let (family, all) = answer(payload)?;
    let expressions: Vec<_> = find(&all, EXPRESSIONS)?.nested().collect();
    let name = |expression: &Attribute<'_>| expression.find(NAME)?.text().map(ToOwned::to_owned);
    let is_condition = |name: &String| !UNCONDITIONAL.contains(&name.as_str());
    let has_condition = expressions.iter().filter_map(name).any(|name| is_condition(&name));
    let zones = has_condition && expressions.iter().any(|expression| zones(expression).is_some());
    zones.then_some((TableName { family, name: text(&all, TABLE)? }, text(&all, CHAIN)?))
}

/// Whether an expression puts packets of both directions into a zone.
fn zones(expression: &Attribute<'_>) -> Option<()> {
    let data = expression.find(DATA)?;
    let both = match expression.find(NAME)?.text()? {
        "ct" => {
            let is_zone = data.find(CT_KEY)?.u32_be()? == ZONE && data.find(CT_SREG).is_some();
            is_zone && data.find(CT_DIRECTION).is_none()
        }
        "target" if data.find(TARGET_NAME)?.text()? == "CT" => {
            let info = data.find(TARGET_INFO)?.payload;
            let word = |at| info.get(at..at + 2)?.try_into().ok().map(u16::from_ne_bytes);
            let (flags, zone) = (word(0)?, word(2)?);
            flags & ONE_DIRECTION == 0 && (zone != 0 || flags & BY_MARK != 0)
        }
        _ => false,
    };
    both.then_some(())
}
