//! Which connections the kernel is asked for.

use std::net::IpAddr;

use shunt_model::address::{Family, Protocol};
use shunt_netlink::{Message, nfnetlink};

use crate::attribute::{FILTER, STATUS, STATUS_MASK, TUPLE_ORIGINAL, TUPLE_REPLY};
use crate::tuple::Tuple;

/// `NFNL_SUBSYS_CTNETLINK << 8 | IPCTNL_MSG_CT_GET`.
const GET: u16 = 0x101;
/// `CTA_FILTER_ORIG_FLAGS` and `CTA_FILTER_REPLY_FLAGS`: which fields of a tuple must agree, in
/// the machine's byte order; `CTA_FILTER_FLAG`, `include/net/netfilter/nf_conntrack.h`.
const ORIGINAL_FLAGS: u16 = 1;
const REPLY_FLAGS: u16 = 2;
const SOURCE: u32 = 1 << 0;
const DESTINATION: u32 = 1 << 1;
const PROTOCOL: u32 = 1 << 3;
const SOURCE_PORT: u32 = 1 << 4;
const DESTINATION_PORT: u32 = 1 << 5;
/// `IPS_DST_NAT`.
pub(crate) const DESTINATION_TRANSLATED: u32 = 1 << 5;

/// Which connections the kernel is asked for. It is the kernel that passes over the others, from
/// release 5.8 on (the status from 5.16); older ones pass over those of the other family only, so
/// what comes is looked at again.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Filter {
    /// Of this family.
    pub family: Family,
    /// And of this protocol.
    pub protocol: Protocol,
    /// Whose client believes to talk to this address.
    pub destination: Option<IpAddr>,
    /// And port.
    pub destination_port: Option<u16>,
    /// That this address answers.
    pub server: Option<IpAddr>,
    /// And port.
    pub server_port: Option<u16>,
    /// Only those whose destination was translated.
    pub translated: bool,
}

impl Filter {
    /// Every connection of a family and protocol.
    #[must_use]
    pub const fn all(family: Family, protocol: Protocol) -> Self {
        Self {
            family,
            protocol,
            destination: None,
            destination_port: None,
            server: None,
            server_port: None,
            translated: false,
        }
    }

    /// The tightest filter that lets through what either does.
    #[must_use]
    pub(crate) fn or(&self, other: &Self) -> Self {
        Self {
            destination: self.destination.filter(|_| self.destination == other.destination),
            destination_port: self
                .destination_port
                .filter(|_| self.destination_port == other.destination_port),
            server: self.server.filter(|_| self.server == other.server),
            server_port: self.server_port.filter(|_| self.server_port == other.server_port),
            translated: self.translated && other.translated,
            ..*self
        }
    }

    /// The request for a dump.
    #[must_use]
    pub fn dump(&self) -> Message {
        let mut message = Message::new(GET, 0);
        let family = match self.family {
            Family::V4 => V4,
            Family::V6 => V6,
        };
        message.raw(&nfnetlink(family, 0));
        let protocol = Some(self.protocol);
        // Of IPv6 addresses the kernel takes every other one (`ctnetlink_filter_match_tuple` has
        // the comparison the wrong way round, seen in 6.18): ports must do.
        let usable = |ip: Option<IpAddr>| ip.filter(IpAddr::is_ipv4);
        let (destination, server) = (usable(self.destination), usable(self.server));
        let original = Tuple {
            destination,
            destination_port: self.destination_port,
            protocol,
            ..Tuple::default()
        };
        original.write(TUPLE_ORIGINAL, &mut message);
        let reply =
            Tuple { source: server, source_port: self.server_port, protocol, ..Tuple::default() };
        reply.write(TUPLE_REPLY, &mut message);
        let flag = |given: bool, flag| if given { flag } else { 0 };
        let original = PROTOCOL
            | flag(destination.is_some(), DESTINATION)
            | flag(self.destination_port.is_some(), DESTINATION_PORT);
        let reply = PROTOCOL
            | flag(server.is_some(), SOURCE)
            | flag(self.server_port.is_some(), SOURCE_PORT);
        message.nest(FILTER, |message| {
            message.bytes(ORIGINAL_FLAGS, &original.to_ne_bytes());
            message.bytes(REPLY_FLAGS, &reply.to_ne_bytes());
        });
        if self.translated {
            message.u32(STATUS, DESTINATION_TRANSLATED);
            message.u32(STATUS_MASK, DESTINATION_TRANSLATED);
        }
        message
    }
}

/// `AF_INET` and `AF_INET6`.
const V4: u8 = 2;
const V6: u8 = 10;

/// The number of an address's family, in a netlink header.
pub(crate) const fn family_number(address: IpAddr) -> u8 {
    match address {
        IpAddr::V4(_) => V4,
        IpAddr::V6(_) => V6,
    }
}
