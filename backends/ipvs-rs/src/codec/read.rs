//! Reading.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use super::{AF_INET, AF_INET6, HEADER, VERSION, command, dest, svc, sync, top};
use crate::attribute::{Attribute, Attributes};
use crate::daemon::{Daemon, DaemonState, Multicast};
use crate::request::Request;
use crate::service::{
    Destination, DestinationKey, Family, Flags, Forward, Info, Persistence, Protocol, Service,
    ServiceKey, Timeouts, Tunnel, TunnelKind,
};
use crate::stats::Stats;

/// Reads a service from an answer.
#[must_use]
pub fn decode_service(payload: &[u8]) -> Option<Service> {
    read_service(body(payload)?.find(top::SERVICE)?.nested())
}

/// Reads a destination from an answer; its service's family decides where the kernel (before 3.18)
/// does not name the destination's.
#[must_use]
pub fn decode_destination(service: Family, payload: &[u8]) -> Option<Destination> {
    read_destination(service, body(payload)?.find(top::DEST)?.nested())
}

/// Reads a sync daemon from an answer.
#[must_use]
pub fn decode_daemon(payload: &[u8]) -> Option<Daemon> {
    read_daemon(body(payload)?.find(top::DAEMON)?.nested())
}

/// Reads the timeouts from an answer.
#[must_use]
pub fn decode_timeouts(payload: &[u8]) -> Option<Timeouts> {
    let body = body(payload)?;
    let number = |kind| body.find(kind).and_then(Attribute::u32).unwrap_or_default();
    Some(Timeouts {
        tcp: number(top::TIMEOUT_TCP),
        tcp_fin: number(top::TIMEOUT_TCP_FIN),
        udp: number(top::TIMEOUT_UDP),
    })
}

/// Reads what the kernel says of itself.
#[must_use]
pub fn decode_info(payload: &[u8]) -> Option<Info> {
    let body = body(payload)?;
    let [_, major, minor, patch] = body.find(1)?.u32()?.to_be_bytes();
    let connection_table_size = body.find(2)?.u32()?;
    Some(Info { version: (major, minor, patch), connection_table_size })
}

/// Reads a request back, for tools that watch and for tests.
#[must_use]
pub fn decode_request(payload: &[u8]) -> Option<Request> {
    let [number, VERSION, ..] = *payload else { return None };
    let body = body(payload)?;
    let service = || body.find(top::SERVICE).map(Attribute::nested);
    let destination = || {
        let key = read_key(service()?)?;
        Some((key, body.find(top::DEST)?.nested()))
    };
    Some(match number {
        command::NEW_SERVICE => Request::AddService(read_service(service()?)?),
        command::SET_SERVICE => Request::SetService(read_service(service()?)?),
        command::DEL_SERVICE => Request::DeleteService(read_key(service()?)?),
        command::NEW_DEST => {
            let (key, attributes) = destination()?;
            Request::AddDestination(key, read_destination(key.family(), attributes)?)
        }
        command::SET_DEST => {
            let (key, attributes) = destination()?;
            Request::SetDestination(key, read_destination(key.family(), attributes)?)
        }
        command::DEL_DEST => {
            let (key, attributes) = destination()?;
            Request::DeleteDestination(key, read_destination_key(key.family(), attributes)?)
        }
        command::NEW_DAEMON => Request::StartDaemon(decode_daemon(payload)?),
        command::DEL_DAEMON => Request::StopDaemon(decode_daemon(payload)?),
        command::SET_CONFIG => Request::SetTimeouts(decode_timeouts(payload)?),
        command::ZERO => match service() {
            Some(attributes) => Request::Zero(Some(read_key(attributes)?)),
            None => Request::Zero(None),
        },
        command::FLUSH => Request::Flush,
        _ => return None,
    })
}

fn body(payload: &[u8]) -> Option<Attributes<'_>> {
    payload.get(HEADER..).map(Attributes)
}

fn read_family(number: u16) -> Option<Family> {
    match number {
        AF_INET => Some(Family::V4),
        AF_INET6 => Some(Family::V6),
        _ => None,
    }
}

fn read_address(family: Family, attribute: Attribute<'_>) -> Option<IpAddr> {
    Some(match family {
        Family::V4 => Ipv4Addr::from(*attribute.payload.first_chunk::<4>()?).into(),
        Family::V6 => Ipv6Addr::from(*attribute.payload.first_chunk::<16>()?).into(),
    })
}

fn read_key(attributes: Attributes<'_>) -> Option<ServiceKey> {
    let family = read_family(attributes.find(svc::AF)?.u16()?)?;
    let mark = attributes.find(svc::FWMARK).and_then(Attribute::u32).filter(|mark| *mark != 0);
    if let Some(mark) = mark {
        return Some(ServiceKey::Mark { mark, family });
    }
    let protocol = u8::try_from(attributes.find(svc::PROTOCOL)?.u16()?).ok()?;
    Some(ServiceKey::Address {
        address: read_address(family, attributes.find(svc::ADDR)?)?,
        protocol: Protocol(protocol),
        port: attributes.find(svc::PORT)?.port()?,
    })
}

fn read_service(attributes: Attributes<'_>) -> Option<Service> {
    let key = read_key(attributes)?;
    let flags = attributes.find(svc::FLAGS)?.payload.first_chunk::<4>()?;
    let flags = u32::from_ne_bytes(*flags);
    let persistence = (flags & Flags::PERSISTENT != 0).then(|| {
        let timeout = attributes.find(svc::TIMEOUT).and_then(Attribute::u32).unwrap_or_default();
        let mask = attributes.find(svc::NETMASK).map_or(&[][..], |mask| mask.payload);
        Persistence { timeout, prefix: read_prefix(key.family(), mask) }
    });
    Some(Service {
        key,
        scheduler: attributes.find(svc::SCHED_NAME)?.text()?,
        flags: Flags(flags & !Flags::RESERVED),
        persistence,
        persistence_engine: attributes
            .find(svc::PE_NAME)
            .and_then(Attribute::text)
            .filter(|name| !name.is_empty()),
        stats: read_stats(attributes, svc::STATS64, svc::STATS),
    })
}

fn read_prefix(family: Family, mask: &[u8]) -> u8 {
    let Some(mask) = mask.first_chunk::<4>() else { return family.bits() };
    let prefix = match family {
        Family::V4 => u32::from_be_bytes(*mask).leading_ones(),
        Family::V6 => u32::from_ne_bytes(*mask),
    };
    u8::try_from(prefix).unwrap_or(u8::MAX).min(family.bits())
}

fn read_destination_key(service: Family, attributes: Attributes<'_>) -> Option<DestinationKey> {
    let family = attributes.find(dest::ADDR_FAMILY).and_then(Attribute::u16);
    let family = family.map_or(Some(service), read_family)?;
    Some(DestinationKey {
        address: read_address(family, attributes.find(dest::ADDR)?)?,
        port: attributes.find(dest::PORT)?.port()?,
    })
}

fn read_destination(service: Family, attributes: Attributes<'_>) -> Option<Destination> {
    let key = read_destination_key(service, attributes)?;
    let number = |kind| attributes.find(kind).and_then(Attribute::u32).unwrap_or_default();
    let forward = Forward::from_number(attributes.find(dest::FWD_METHOD)?.u32()?)?;
    let tunnel = |kind| attributes.find(kind).filter(|_| forward == Forward::Tunnel);
    let kind = tunnel(dest::TUN_TYPE).and_then(Attribute::u8);
    Some(Destination {
        forward,
        weight: attributes.find(dest::WEIGHT)?.u32()?,
        upper_threshold: number(dest::U_THRESH),
        lower_threshold: number(dest::L_THRESH),
        tunnel: Tunnel {
            kind: kind.map_or(Some(TunnelKind::Ipip), TunnelKind::from_number)?,
            port: tunnel(dest::TUN_PORT).and_then(Attribute::port).unwrap_or_default(),
            flags: tunnel(dest::TUN_FLAGS).and_then(Attribute::u16).unwrap_or_default(),
        },
        active_connections: number(dest::ACTIVE_CONNS),
        inactive_connections: number(dest::INACT_CONNS),
        persistent_connections: number(dest::PERSIST_CONNS),
        stats: read_stats(attributes, dest::STATS64, dest::STATS),
        ..Destination::new(key.address, key.port)
    })
}

/// The counters of 64 bits, or, from kernels before 4.1, those of 32.
fn read_stats(attributes: Attributes<'_>, wide: u16, narrow: u16) -> Stats {
    let stats = attributes.find(wide).or_else(|| attributes.find(narrow));
    let Some(stats) = stats.map(Attribute::nested) else { return Stats::default() };
    let number = |kind| {
        let found = stats.find(kind);
        found.and_then(|number| number.u64().or(number.u32().map(u64::from))).unwrap_or_default()
    };
    Stats {
        connections: number(1),
        incoming_packets: number(2),
        outgoing_packets: number(3),
        incoming_bytes: number(4),
        outgoing_bytes: number(5),
        connection_rate: number(6),
        incoming_packet_rate: number(7),
        outgoing_packet_rate: number(8),
        incoming_byte_rate: number(9),
        outgoing_byte_rate: number(10),
    }
}

fn read_daemon(attributes: Attributes<'_>) -> Option<Daemon> {
    let group = |kind, family| read_address(family, attributes.find(kind)?);
    let group = group(sync::MCAST_GROUP, Family::V4).or(group(sync::MCAST_GROUP6, Family::V6));
    let multicast = |group| {
        Some(Multicast {
            group,
            port: attributes.find(sync::MCAST_PORT)?.u16()?,
            ttl: attributes.find(sync::MCAST_TTL)?.u8()?,
        })
    };
    Some(Daemon {
        state: DaemonState::from_number(attributes.find(sync::STATE)?.u32()?)?,
        interface: attributes.find(sync::MCAST_IFN)?.text()?,
        sync_id: attributes.find(sync::SYNC_ID)?.u32()?,
        max_length: attributes.find(sync::SYNC_MAXLEN).and_then(Attribute::u16),
        multicast: group.and_then(multicast),
    })
}
