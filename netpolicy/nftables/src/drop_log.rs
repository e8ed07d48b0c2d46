//! The log of drops: what the rules hand over by `NFLOG`, read over netlink
//! (`include/uapi/linux/netfilter/nfnetlink_log.h`).

use std::net::IpAddr;
use std::os::fd::{AsFd, BorrowedFd};

use nix::libc::NETLINK_NETFILTER;
use shunt_netlink::{Error, Message, Socket, attributes, nfnetlink};

use crate::layout::Denial;
use crate::packet::parts;

/// The group that our rules log to.
pub const GROUP: u16 = 21_320;
/// `NFNL_SUBSYS_ULOG << 8` with `NFULNL_MSG_PACKET` and `NFULNL_MSG_CONFIG`.
pub(crate) const PACKET: u16 = 4 << 8;
pub(crate) const CONFIG: u16 = PACKET | 1;
/// `NFULNL_CFG_CMD_BIND`.
const BIND: u8 = 1;
/// `NFULNL_COPY_PACKET`.
pub(crate) const COPY_PACKET: u8 = 2;
/// How long the kernel may collect messages, in hundredths of a second.
const COLLECT: u32 = 20;

/// A packet that was dropped; in an audit, that would have been.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct DroppedPacket {
    /// By what.
    pub denial: Denial,
    /// It was let through, in an audit.
    pub audited: bool,
    /// From its header, as it was to leave the node.
    pub source: IpAddr,
    /// The same: a Service's address is already its endpoint's.
    pub destination: IpAddr,
    /// The number of its protocol.
    pub protocol: u8,
    /// Its ports, source first, if its protocol has any.
    pub ports: Option<(u16, u16)>,
}

/// Listens to the log.
#[derive(Debug)]
pub struct DropLog {
    socket: Socket,
}

impl DropLog {
    /// Listens from now on, in this network namespace.
    ///
    /// # Errors
    /// If the kernel has no `NFLOG`, does not let us, or another process listens to our group.
    pub fn open() -> Result<Self, Error> {
        let mut mode = Message::new(CONFIG, 0);
        mode.raw(&nfnetlink(0, GROUP));
        // All of what the rule gives.
        mode.bytes(2, &[0, 0, 0xff, 0xff, COPY_PACKET, 0]);
        mode.u32(4, COLLECT);
        let socket = bind(GROUP, mode)?;
        Ok(Self { socket })
    }

    /// Hands over what waits to be read. `true`: the kernel had to leave some out.
    ///
    /// # Errors
    /// If the socket fails.
    pub fn read(&mut self, mut each: impl FnMut(DroppedPacket)) -> Result<bool, Error> {
        self.socket.drain(|kind, payload, _| {
            if kind == PACKET {
                parse(payload).into_iter().for_each(&mut each);
            }
        })
    }
}

/// A socket that listens to a group; `mode` says how.
pub(crate) fn bind(group: u16, mode: Message) -> Result<Socket, Error> {
    let mut socket = Socket::open(NETLINK_NETFILTER)?;
    let mut message = Message::new(CONFIG, 0);
    message.raw(&nfnetlink(0, group));
    message.bytes(1, &[BIND]);
    socket.request("listen to what rules log", message, |_| {})?;
    socket.request("set the log of rules up", mode, |_| {})?;
    Ok(socket)
}

impl AsFd for DropLog {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.socket.as_fd()
    }
}

/// Reads a message; nothing if it is not one of our rules'.
fn parse(payload: &[u8]) -> Option<DroppedPacket> {
    let (mut prefix, mut packet) = (None, None);
    for attribute in attributes(payload.get(4..)?) {
        match attribute.kind {
            9 => packet = Some(attribute.payload),
            10 => prefix = attribute.text(),
            _ => {}
        }
    }
    let mut denials = Denial::ALL.into_iter().flat_map(|denial| [(denial, false), (denial, true)]);
    let (denial, audited) =
        denials.find(|(denial, audited)| Some(denial.prefix(*audited)) == prefix)?;
    let packet = packet?;
    let (source, destination, protocol, rest) = parts(packet)?;
    let port = |at: usize| Some(u16::from_be_bytes(rest?.get(at..at + 2)?.try_into().ok()?));
    let has_ports = matches!(protocol, 6 | 17 | 132);
    let ports = if has_ports { port(0).zip(port(2)) } else { None };
    Some(DroppedPacket { denial, audited, source, destination, protocol, ports })
}

#[cfg(test)]
mod tests {
    use shunt_netpolicy::object::Direction;

    use super::*;

    fn message(prefix: &str, packet: &[u8]) -> Vec<u8> {
        let mut bytes = vec![0; 4];
        for (kind, value) in [(10u16, [prefix.as_bytes(), b"\0"].concat()), (9, packet.to_vec())] {
            let length = u16::try_from(value.len() + 4).unwrap();
            bytes.extend(length.to_ne_bytes());
            bytes.extend(kind.to_ne_bytes());
            bytes.extend(&value);
            bytes.resize(bytes.len().next_multiple_of(4), 0);
        }
        bytes
    }

    #[test]
    fn a_packet_is_read_with_its_ports() {
        let mut v4 = vec![0x45, 0, 0, 40, 0, 0, 0x40, 0, 64, 6, 0, 0, 10, 0, 0, 1, 10, 0, 0, 2];
        v4.extend([0x9c, 0x40, 0x15, 0x38, 0, 0, 0, 0]);
        let read = parse(&message("shunt policy ingress", &v4)).unwrap();
        assert_eq!((read.denial, read.audited), (Denial::Policy(Direction::Ingress), false));
        let let_through = parse(&message("shunt audit ingress", &v4)).unwrap();
        assert_eq!(let_through, DroppedPacket { audited: true, ..read });
        assert_eq!((read.source, read.destination), ([10, 0, 0, 1].into(), [10, 0, 0, 2].into()));
        assert_eq!((read.protocol, read.ports), (6, Some((40000, 5432))));
        // A later fragment has no ports.
        v4[7] = 9;
        assert_eq!(parse(&message("shunt policy egress", &v4)).unwrap().ports, None);
        for length in 0..20 {
            assert_eq!(parse(&message("shunt policy egress", &v4[..length])), None);
        }
        assert_eq!(parse(&message("another", &v4)), None);
    }

    #[test]
    fn extension_headers_are_passed_over() {
        let mut v6 = vec![0x60, 0, 0, 0, 0, 16, 0, 64];
        v6.extend([0xfd; 16]);
        v6.extend([0xfc; 16]);
        v6.extend([17, 0, 1, 4, 0, 0, 0, 0]);
        v6.extend([0, 53, 0x30, 0x39, 0, 8, 0, 0]);
        let read = parse(&message("shunt policy unknown", &v6)).unwrap();
        assert_eq!(
            (read.denial, read.protocol, read.ports),
            (Denial::Unknown, 17, Some((53, 12345)))
        );
        assert_eq!(read.source, IpAddr::from([0xfd; 16]));
    }
}
