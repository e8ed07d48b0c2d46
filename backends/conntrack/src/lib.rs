//! Connections that the kernel remembers and that a change of the plan has made wrong.
//!
//! The kernel translates the first packet of a connection and remembers what it did. A UDP client
//! that keeps its port is one connection for as long as it talks, so it would go on to an
//! endpoint that has gone, or past a Service that did not exist when it began. Such connections
//! are ended here; the next packet begins a new one.
//!
//! Beside that [`ends`] tells between whom there are connections, for network policy.
//!
//! [`stale`] decides, without a kernel; [`kernel`] asks the kernel and ends; [`filter`] and
//! [`flow`] are what is said over netlink (`NFNL_SUBSYS_CTNETLINK`;
//! `include/uapi/linux/netfilter/nfnetlink_conntrack.h`, `net/netfilter/nf_conntrack_netlink.c`).

pub mod ends;
pub mod filter;
pub mod flow;
pub mod kernel;
pub mod stale;
mod tuple;

/// Attributes of a connection, `enum ctattr_type`.
mod attribute {
    pub(crate) const TUPLE_ORIGINAL: u16 = 1;
    pub(crate) const TUPLE_REPLY: u16 = 2;
    pub(crate) const STATUS: u16 = 3;
    pub(crate) const ID: u16 = 12;
    pub(crate) const ZONE: u16 = 18;
    pub(crate) const FILTER: u16 = 25;
    pub(crate) const STATUS_MASK: u16 = 26;
}
