//! The nftables backend: a plan is lowered to elements of fixed sets and maps, compared with what
//! the kernel holds, and the difference is written in a few netlink transactions.
//!
//! Everything but [`kernel`] is pure. The layout and its reasons stand in the README beside this
//! crate; the names of tables, chains and sets are made in [`name`] alone.

pub mod affinity;
mod answer;
pub mod codec;
pub mod counting;
mod declaration;
pub mod diff;
pub mod element;
mod error;
mod expression;
pub mod forwarding;
pub mod installed;
mod interfaces;
pub mod inventory;
pub mod kernel;
mod layout;
pub mod lower;
mod message;
pub mod name;
pub mod pool;
pub mod quarantine;
mod readback;
mod report;
mod rule;
pub mod ruleset;
mod session;
pub mod slots;
pub mod text;
mod transaction;
mod userdata;
pub mod zones;
