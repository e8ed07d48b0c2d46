//! The decision table of a node in the kernel: lowered to elements of the fixed sets of one nftables
//! table, compared with what is installed, written in netlink transactions.
//!
//! Everything but [`kernel`] is pure. The layout and its reasons stand in `netpolicy/README.md`; names are made in [`name`] alone.

pub mod element;
pub mod installed;
pub mod kernel;
mod layout;
pub mod lower;
pub mod name;
mod readback;
pub mod text;
mod transaction;
