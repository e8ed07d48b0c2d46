//! One direction of a connection, `enum ctattr_tuple`, `ctattr_ip`, `ctattr_l4proto`.

use std::net::{IpAddr, SocketAddr};

use shunt_model::address::Protocol;
use shunt_netlink::{Attribute, Message};

const ADDRESSES: u16 = 1;
const TRANSPORT: u16 = 2;
const ZONE: u16 = 3;
const SOURCE_V4: u16 = 1;
const DESTINATION_V4: u16 = 2;
const SOURCE_V6: u16 = 3;
const DESTINATION_V6: u16 = 4;
const NUMBER: u16 = 1;
const SOURCE_PORT: u16 = 2;
const DESTINATION_PORT: u16 = 3;

/// What is known of one direction.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Tuple {
    pub(crate) source: Option<IpAddr>,
    pub(crate) destination: Option<IpAddr>,
    pub(crate) protocol: Option<Protocol>,
    /// The protocol's number, also of those that Services do not use; only read.
    pub(crate) number: Option<u8>,
    pub(crate) source_port: Option<u16>,
    pub(crate) destination_port: Option<u16>,
    /// The zone that packets of this direction alone are looked for in (`ct original zone set`).
    pub(crate) zone: Option<u16>,
}

impl Tuple {
    /// A direction of which all is known.
    pub(crate) fn full(protocol: Protocol, source: SocketAddr, destination: SocketAddr) -> Self {
        Self {
            source: Some(source.ip()),
            destination: Some(destination.ip()),
            protocol: Some(protocol),
            number: None,
            source_port: Some(source.port()),
            destination_port: Some(destination.port()),
            zone: None,
        }
    }

    /// Protocol, source and destination, if all is known.
    pub(crate) fn complete(&self) -> Option<(Protocol, SocketAddr, SocketAddr)> {
        Some((
            self.protocol?,
            SocketAddr::new(self.source?, self.source_port?),
            SocketAddr::new(self.destination?, self.destination_port?),
        ))
    }

    /// Writes what is known.
    pub(crate) fn write(&self, kind: u16, message: &mut Message) {
        message.nest(kind, |message| {
            if self.source.is_some() || self.destination.is_some() {
                message.nest(ADDRESSES, |message| {
                    write_address(message, self.source, SOURCE_V4, SOURCE_V6);
                    write_address(message, self.destination, DESTINATION_V4, DESTINATION_V6);
                });
            }
            message.nest(TRANSPORT, |message| {
                if let Some(protocol) = self.protocol {
                    message.bytes(NUMBER, &[protocol.number()]);
                }
                write_number(message, SOURCE_PORT, self.source_port);
                write_number(message, DESTINATION_PORT, self.destination_port);
            });
            write_number(message, ZONE, self.zone);
        });
    }

    /// Reads what is there and makes sense.
    pub(crate) fn read(attribute: &Attribute<'_>) -> Self {
        let mut tuple = Self::default();
        for part in attribute.nested() {
            match part.kind {
                ADDRESSES => tuple.read_addresses(&part),
                TRANSPORT => tuple.read_transport(&part),
                ZONE => tuple.zone = part.payload.try_into().ok().map(u16::from_be_bytes),
                _ => {}
            }
        }
        tuple
    }

    fn read_addresses(&mut self, part: &Attribute<'_>) {
        for address in part.nested() {
            let value = read_address(address.payload);
            match address.kind {
                SOURCE_V4 | SOURCE_V6 => self.source = value,
                DESTINATION_V4 | DESTINATION_V6 => self.destination = value,
                _ => {}
            }
        }
    }

    fn read_transport(&mut self, part: &Attribute<'_>) {
        for field in part.nested() {
            let port = || field.payload.try_into().ok().map(u16::from_be_bytes);
            match field.kind {
                NUMBER => {
                    self.number = field.payload.first().copied();
                    self.protocol = self.number.and_then(Protocol::from_number);
                }
                SOURCE_PORT => self.source_port = port(),
                DESTINATION_PORT => self.destination_port = port(),
                _ => {}
            }
        }
    }
}

fn write_address(message: &mut Message, address: Option<IpAddr>, v4: u16, v6: u16) {
    match address {
        Some(IpAddr::V4(ip)) => message.bytes(v4, &ip.octets()),
        Some(IpAddr::V6(ip)) => message.bytes(v6, &ip.octets()),
        None => {}
    }
}

fn read_address(payload: &[u8]) -> Option<IpAddr> {
    let v4 = <[u8; 4]>::try_from(payload).ok().map(IpAddr::from);
    v4.or_else(|| <[u8; 16]>::try_from(payload).ok().map(IpAddr::from))
}

fn write_number(message: &mut Message, kind: u16, number: Option<u16>) {
    if let Some(number) = number {
        message.bytes(kind, &number.to_be_bytes());
    }
}
