//! Between whom a connection is, of whatever protocol.

use std::collections::HashSet;
use std::net::IpAddr;

use shunt_netlink::{Error, Message, attributes, nfnetlink};

use crate::attribute::{TUPLE_ORIGINAL, TUPLE_REPLY};
use crate::flow::HEADER;
use crate::kernel::Conntrack;
use crate::tuple::Tuple;

/// `NFNL_SUBSYS_CTNETLINK << 8 | IPCTNL_MSG_CT_GET`.
const GET: u16 = 0x101;
/// `AF_UNSPEC`: of both families.
const BOTH: u8 = 0;

/// Who opened a connection, and who answers. Many connections have the same.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Ends {
    /// Who opened it, before any masquerade: `ct original saddr`.
    pub client: IpAddr,
    /// Who answers, after a Service was translated: `ct reply saddr`.
    pub server: IpAddr,
    /// `IPPROTO_*`.
    pub protocol: u8,
    /// The port that answers; 0 for protocols without.
    pub port: u16,
}

impl Ends {
    /// Reads one answer of a dump; `None` for what is no connection.
    #[must_use]
    pub fn read(payload: &[u8]) -> Option<Self> {
        let (mut original, mut reply) = (Tuple::default(), Tuple::default());
        for attribute in attributes(payload.get(HEADER..)?) {
            match attribute.kind {
                TUPLE_ORIGINAL => original = Tuple::read(&attribute),
                TUPLE_REPLY => reply = Tuple::read(&attribute),
                _ => {}
            }
        }
        Some(Self {
            client: original.source?,
            server: reply.source?,
            protocol: original.number?,
            port: reply.source_port.unwrap_or_default(),
        })
    }
}

impl Conntrack {
    /// Between whom there are connections, of those that `wanted` wants. Every connection that
    /// lives from the beginning to the end of this is seen: the kernel locks each bucket of its
    /// table as it goes, and a connection stays in its bucket.
    ///
    /// # Errors
    /// If the kernel refuses, or the socket fails.
    pub fn ends(&mut self, wanted: impl Fn(&Ends) -> bool) -> Result<HashSet<Ends>, Error> {
        let mut message = Message::new(GET, 0);
        message.raw(&nfnetlink(BOTH, 0));
        self.socket.dump("list connections", &message, |ends: &mut HashSet<Ends>, payload| {
            ends.extend(Ends::read(payload).filter(&wanted));
        })
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn attribute(kind: u16, content: &[u8]) -> Vec<u8> {
        let length = u16::try_from(content.len() + 4).unwrap();
        let mut bytes = [length.to_ne_bytes(), kind.to_ne_bytes()].concat();
        bytes.extend(content);
        bytes.resize(bytes.len().next_multiple_of(4), 0);
        bytes
    }

    /// A ping through a masquerade, laid out as `ctnetlink_fill_info` does.
    #[test]
    fn a_connection_without_ports_is_read() {
        let tuple = |kind, source: [u8; 4], destination: [u8; 4]| {
            let addresses = [attribute(1, &source), attribute(2, &destination)].concat();
            // CTA_PROTO_NUM, CTA_PROTO_ICMP_ID
            let transport = [attribute(1, &[1]), attribute(4, &[0, 7])].concat();
            attribute(kind, &[attribute(1, &addresses), attribute(2, &transport)].concat())
        };
        let original = tuple(TUPLE_ORIGINAL, [10, 0, 0, 1], [192, 0, 2, 1]);
        let reply = tuple(TUPLE_REPLY, [192, 0, 2, 1], [192, 0, 2, 9]);
        let ends = Ends::read(&[vec![2, 0, 0, 0], original, reply].concat()).unwrap();
        let (client, server) = ([10, 0, 0, 1].into(), [192, 0, 2, 1].into());
        assert_eq!(ends, Ends { client, server, protocol: 1, port: 0 });
    }

    proptest! {
        /// A reader must take whatever comes.
        #[test]
        fn nothing_makes_the_reader_fail(bytes in prop::collection::vec(any::<u8>(), 0..200)) {
            let _ = Ends::read(&bytes);
        }
    }
}
