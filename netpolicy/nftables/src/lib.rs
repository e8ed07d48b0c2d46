//! The decision table of a node in the kernel: lowered to elements of the fixed sets of one nftables
//! table, compared with what is installed, written in netlink transactions.
//!
//! Everything but [`kernel`], [`live`]'s walks, [`drop_log`] and [`answers`] is pure. The layout and its reasons stand in `netpolicy/README.md`; names are made in [`name`] alone.

pub mod answers;
mod counting;
pub mod drop_log;
pub mod element;
pub mod installed;
pub mod kernel;
pub mod layout;
pub mod live;
pub mod lower;
pub mod name;
mod packet;
mod planned;
mod readback;
mod rows;
pub mod text;
mod transaction;
