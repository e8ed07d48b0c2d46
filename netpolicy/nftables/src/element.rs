//! Elements of the sets: typed, as bytes, and as nft prints them.

use std::fmt;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use shunt_model::address::{Family, Protocol};
use shunt_netpolicy::table::{Atom, RowId};

use crate::name::SetId;

/// The key of an element. Which variant a set has follows from the set.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Key {
    /// An address. In `itself` it stands for the pair of it with itself.
    Address(IpAddr),
    /// Address of a pod . atom of its peer; in `learnt` an address . the number of a domain name.
    Pair(IpAddr, Atom),
    /// A row.
    Row(RowId),
    /// Row . protocol.
    Protocol(RowId, Protocol),
    /// Row . protocol . port.
    Port(RowId, Protocol, u16),
    /// Row . protocol . first and last port.
    Range(RowId, Protocol, u16, u16),
}

/// The atom or row that a map has for a key; sets have none.
pub type Value = Option<u32>;

/// The key's bytes: each part padded to four bytes. Addresses, protocols and ports are in network
/// order, atoms and rows in the host's, as the kernel keeps `meta priority`; but for rows of ranges,
/// which are compared.
#[must_use]
pub fn encode(set: SetId, key: &Key) -> Vec<u8> {
    let mut out = Vec::with_capacity(32);
    match *key {
        Key::Address(address) => {
            put_address(&mut out, address);
            if matches!(set, SetId::Itself(_)) {
                put_address(&mut out, address);
            }
        }
        Key::Pair(address, atom) => {
            put_address(&mut out, address);
            out.extend_from_slice(&encode_value(atom.0));
        }
        Key::Row(row) => out.extend_from_slice(&encode_value(row.0)),
        Key::Protocol(row, protocol) => put_protocol(&mut out, encode_value(row.0), protocol),
        Key::Port(row, protocol, port) => {
            put_port(&mut out, encode_value(row.0), protocol, port);
        }
        Key::Range(row, protocol, first, _) => {
            put_port(&mut out, row.0.to_be_bytes(), protocol, first);
        }
    }
    out
}

/// The bytes of the other end of a key that is a range; `None` for all others.
pub(crate) fn encode_end(key: &Key) -> Option<Vec<u8>> {
    let Key::Range(row, protocol, _, last) = *key else { return None };
    let mut out = Vec::with_capacity(12);
    put_port(&mut out, row.0.to_be_bytes(), protocol, last);
    Some(out)
}

/// An atom or a row as the kernel keeps it.
pub(crate) const fn encode_value(value: u32) -> [u8; 4] {
    value.to_ne_bytes()
}

/// Reads an atom or a row.
pub(crate) fn decode_value(bytes: &[u8]) -> Option<u32> {
    bytes.try_into().ok().map(u32::from_ne_bytes)
}

/// Reads a key, and its other end if it is a range. `None`: not a key that we write into this set.
#[must_use]
pub fn decode(set: SetId, bytes: &[u8], end: Option<&[u8]>) -> Option<Key> {
    let mut reader = Reader(bytes);
    let key = match set {
        SetId::Protocols | SetId::DeniedProtocols => {
            Key::Protocol(reader.row()?, reader.protocol()?)
        }
        SetId::Ports | SetId::DeniedPorts => {
            Key::Port(reader.row()?, reader.protocol()?, reader.port()?)
        }
        SetId::Ranges | SetId::DeniedRanges => {
            let mut last = Reader(end.unwrap_or(bytes));
            let (row, protocol) = (reader.row_of_range()?, reader.protocol()?);
            let same = last.row_of_range()? == row && last.protocol()? == protocol;
            let key = Key::Range(row, protocol, reader.port()?, last.port()?);
            same.then_some(key)?
        }
        SetId::Others | SetId::DeniedOthers => Key::Row(reader.row()?),
        SetId::Peers(family)
        | SetId::Named(family)
        | SetId::Networks(family)
        | SetId::Isolated(_, family)
        | SetId::Own(family)
        | SetId::ToNode(family)
        | SetId::Watched(family)
        | SetId::Audited(family)
        | SetId::PodNetworks(family)
        | SetId::Known(family) => Key::Address(reader.address(family)?),
        SetId::Rows(_, family) | SetId::Learnt(family) => {
            Key::Pair(reader.address(family)?, Atom(reader.row()?.0))
        }
        SetId::Itself(family) => {
            let address = reader.address(family)?;
            (reader.address(family)? == address).then_some(Key::Address(address))?
        }
    };
    reader.0.is_empty().then_some(key)
}

/// The bytes of an address.
pub(crate) fn encode_address(address: IpAddr) -> Vec<u8> {
    let mut out = Vec::with_capacity(16);
    put_address(&mut out, address);
    out
}

fn put_address(out: &mut Vec<u8>, address: IpAddr) {
    match address {
        IpAddr::V4(address) => out.extend_from_slice(&address.octets()),
        IpAddr::V6(address) => out.extend_from_slice(&address.octets()),
    }
}

fn put_protocol(out: &mut Vec<u8>, row: [u8; 4], protocol: Protocol) {
    out.extend_from_slice(&row);
    out.extend_from_slice(&[protocol.number(), 0, 0, 0]);
}

fn put_port(out: &mut Vec<u8>, row: [u8; 4], protocol: Protocol, port: u16) {
    put_protocol(out, row, protocol);
    out.extend_from_slice(&port.to_be_bytes());
    out.extend_from_slice(&[0; 2]);
}

struct Reader<'a>(&'a [u8]);

impl Reader<'_> {
    fn take<const N: usize>(&mut self) -> Option<[u8; N]> {
        let (head, rest) = self.0.split_first_chunk::<N>()?;
        self.0 = rest;
        Some(*head)
    }

    fn address(&mut self, family: Family) -> Option<IpAddr> {
        Some(match family {
            Family::V4 => Ipv4Addr::from(self.take::<4>()?).into(),
            Family::V6 => Ipv6Addr::from(self.take::<16>()?).into(),
        })
    }

    fn row(&mut self) -> Option<RowId> {
        self.take::<4>().map(u32::from_ne_bytes).map(RowId)
    }

    fn row_of_range(&mut self) -> Option<RowId> {
        self.take::<4>().map(u32::from_be_bytes).map(RowId)
    }

    fn protocol(&mut self) -> Option<Protocol> {
        let [number, ..] = self.take::<4>()?;
        Protocol::from_number(number)
    }

    fn port(&mut self) -> Option<u16> {
        let [high, low, ..] = self.take::<4>()?;
        Some(u16::from_be_bytes([high, low]))
    }
}

/// An atom or a row as nft prints it: a class of traffic control.
#[derive(Clone, Copy, Debug)]
pub struct Class(pub u32);

impl fmt::Display for Class {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.0 {
            0 => f.write_str("none"),
            class => write!(f, "{:x}:{:x}", class >> 16, class & 0xffff),
        }
    }
}

/// An element as nft prints it.
#[must_use]
pub fn text(set: SetId, key: &Key, value: Value) -> String {
    let key = match *key {
        Key::Address(address) if matches!(set, SetId::Itself(_)) => {
            format!("{address} . {address}")
        }
        Key::Address(address) => address.to_string(),
        Key::Pair(address, atom) => format!("{address} . {}", Class(atom.0)),
        Key::Row(row) => Class(row.0).to_string(),
        Key::Protocol(row, protocol) => format!("{} . {protocol}", Class(row.0)),
        Key::Port(row, protocol, port) => format!("{} . {protocol} . {port}", Class(row.0)),
        Key::Range(row, protocol, first, last) => {
            format!("{} . {protocol} . {first}-{last}", Class(row.0))
        }
    };
    value.map_or_else(|| key.clone(), |value| format!("{key} : {}", Class(value)))
}

#[cfg(test)]
mod tests {
    use shunt_netpolicy::object::Direction;

    use super::*;

    #[test]
    fn what_is_written_is_read_again() {
        let (v4, v6): (IpAddr, IpAddr) = ([10, 0, 0, 1].into(), "fd00::1".parse().unwrap());
        let row = RowId(0x1234_5678);
        let keys = [
            (SetId::Protocols, Key::Protocol(row, Protocol::Sctp)),
            (SetId::Ports, Key::Port(row, Protocol::Tcp, 443)),
            (SetId::Ranges, Key::Range(row, Protocol::Udp, 100, 60000)),
            (SetId::Others, Key::Row(row)),
            (SetId::Peers(Family::V4), Key::Address(v4)),
            (SetId::Itself(Family::V6), Key::Address(v6)),
            (SetId::Rows(Direction::Egress, Family::V6), Key::Pair(v6, Atom(7))),
        ];
        for (set, key) in keys {
            let end = encode_end(&key);
            assert_eq!(decode(set, &encode(set, &key), end.as_deref()), Some(key), "{set}");
            assert_eq!(decode(set, &encode(set, &key)[1..], None), None, "{set}");
        }
    }
}
