//! One connection, as the kernel remembers it.

use std::net::SocketAddr;

use shunt_model::address::Protocol;
use shunt_netlink::{Message, attributes, nfnetlink};

use crate::attribute::{ID, STATUS, TUPLE_ORIGINAL, TUPLE_REPLY, ZONE};
use crate::filter::{DESTINATION_TRANSLATED, family_number};
use crate::tuple::Tuple;

/// Bytes of `struct nfgenmsg`.
pub(crate) const HEADER: usize = 4;
/// `NFNL_SUBSYS_CTNETLINK << 8 | IPCTNL_MSG_CT_DELETE`.
const DELETE: u16 = 0x102;

/// A connection, tracked by the kernel.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Flow {
    /// The transport protocol.
    pub protocol: Protocol,
    /// Who began it.
    pub client: SocketAddr,
    /// Whom the client believes to talk to.
    pub destination: SocketAddr,
    /// Who answers: another than `destination` where that was translated.
    pub server: SocketAddr,
    /// Whom the server believes to talk to.
    pub peer: SocketAddr,
    /// `IPS_*` bits.
    pub status: u32,
    /// The kernel's number for it, given back when it is ended.
    pub(crate) id: Option<u32>,
    /// The zone that it is in, and the one that only the client's packets are in: without them the kernel looks for it
    /// in vain (`ctnetlink_del_conntrack`).
    pub(crate) zone: Option<u16>,
    pub(crate) client_zone: Option<u16>,
}

impl Flow {
    /// Reads one answer of a dump; `None` for what is no connection of a protocol that Services
    /// use.
    #[must_use]
    pub fn read(payload: &[u8]) -> Option<Self> {
        let (mut original, mut reply) = (Tuple::default(), Tuple::default());
        let (mut status, mut id, mut zone) = (0, None, None);
        for attribute in attributes(payload.get(HEADER..)?) {
            match attribute.kind {
                TUPLE_ORIGINAL => original = Tuple::read(&attribute),
                TUPLE_REPLY => reply = Tuple::read(&attribute),
                STATUS => status = attribute.u32_be().unwrap_or_default(),
                ID => id = attribute.u32_be(),
                ZONE => zone = attribute.payload.try_into().ok().map(u16::from_be_bytes),
                _ => {}
            }
        }
        let client_zone = original.zone;
        let (protocol, client, destination) = original.complete()?;
        let (_, server, peer) = reply.complete()?;
        Some(Self { protocol, client, destination, server, peer, status, id, zone, client_zone })
    }

    /// Whether the client's packets go to another address or port than it believes.
    pub(crate) fn is_translated(&self) -> bool {
        self.server != self.destination
    }

    /// Whether netfilter's NAT translates the destination (`IPS_DST_NAT`); IPVS does it by itself.
    #[must_use]
    pub const fn is_destination_translated(&self) -> bool {
        self.status & DESTINATION_TRANSLATED != 0
    }

    /// Whether IPVS translates the destination: it changes whose answers are expected, and notes nothing in the status
    /// (`ip_vs_update_conntrack`).
    pub(crate) fn is_of_ipvs(&self) -> bool {
        self.is_translated() && !self.is_destination_translated()
    }

    /// The request that ends just this connection: should another have its addresses and ports by
    /// now, its number is another one, and the kernel leaves it.
    #[must_use]
    pub fn delete(&self) -> Message {
        let mut message = Message::new(DELETE, 0);
        message.raw(&nfnetlink(family_number(self.destination.ip()), 0));
        let original = Tuple {
            zone: self.client_zone,
            ..Tuple::full(self.protocol, self.client, self.destination)
        };
        original.write(TUPLE_ORIGINAL, &mut message);
        if let Some(id) = self.id {
            message.u32(ID, id);
        }
        if let Some(zone) = self.zone {
            message.bytes(ZONE, &zone.to_be_bytes());
        }
        message
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// A UDP connection through a ClusterIP, as kernel 6.18 dumped it.
    const CAPTURED: &str = "020000003400018014000180080001000a600001080002000a6000011c000280050001001100\
        00000600020003e9000006000300003500003400028014000180080001000af4000108000200\
        0a6000011c00028005000100110000000600020014e900000600030003e90000080003000000\
        01aa080008000000000008000c007eeb6bfb08000b0000000001080007000000001d";

    #[test]
    fn a_captured_connection_is_read() {
        let bytes: Vec<u8> = (0..CAPTURED.len() / 2)
            .map(|at| u8::from_str_radix(&CAPTURED[at * 2..at * 2 + 2], 16).unwrap())
            .collect();
        let flow = Flow::read(&bytes).unwrap();
        let at = |text: &str| text.parse().unwrap();
        assert_eq!(flow.protocol, Protocol::Udp);
        assert_eq!((flow.client, flow.destination), (at("10.96.0.1:1001"), at("10.96.0.1:53")));
        assert_eq!((flow.server, flow.peer), (at("10.244.0.1:5353"), at("10.96.0.1:1001")));
        assert!(flow.is_translated());
    }

    proptest! {
        /// A reader must take whatever comes.
        #[test]
        fn nothing_makes_the_reader_fail(bytes in prop::collection::vec(any::<u8>(), 0..200)) {
            let _ = Flow::read(&bytes);
        }
    }
}
