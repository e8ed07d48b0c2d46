//! Writing.

use std::net::IpAddr;

use super::{AF_INET, AF_INET6, VERSION, command, dest, svc, sync, top};
use crate::attribute::Writer;
use crate::daemon::Daemon;
use crate::request::Request;
use crate::service::{
    Destination, DestinationKey, Family, Flags, Forward, Persistence, Service, ServiceKey, Timeouts,
};

/// A question, whose answer is data.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Question {
    /// All services (a dump), or one.
    Services(Option<ServiceKey>),
    /// The destinations of a service (a dump).
    Destinations(ServiceKey),
    /// The sync daemons (a dump).
    Daemons,
    /// The timeouts.
    Timeouts,
    /// Version and table size.
    Info,
}

/// A request as the payload of a netlink message.
#[must_use]
pub fn encode_request(request: &Request) -> Vec<u8> {
    let mut out = Vec::with_capacity(160);
    append_request(&mut out, request);
    out
}

/// Appends a request to a message; what is there ends at a multiple of four.
pub(crate) fn append_request(out: &mut Vec<u8>, request: &Request) {
    let number = match request {
        Request::AddService(_) => command::NEW_SERVICE,
        Request::SetService(_) => command::SET_SERVICE,
        Request::DeleteService(_) => command::DEL_SERVICE,
        Request::AddDestination(..) => command::NEW_DEST,
        Request::SetDestination(..) => command::SET_DEST,
        Request::DeleteDestination(..) => command::DEL_DEST,
        Request::StartDaemon(_) => command::NEW_DAEMON,
        Request::StopDaemon(_) => command::DEL_DAEMON,
        Request::SetTimeouts(_) => command::SET_CONFIG,
        Request::Zero(_) => command::ZERO,
        Request::Flush => command::FLUSH,
    };
    out.extend_from_slice(&[number, VERSION, 0, 0]);
    let mut writer = Writer(out);
    match request {
        Request::AddService(service) | Request::SetService(service) => {
            writer.nest(top::SERVICE, |writer| write_service(writer, service));
        }
        Request::DeleteService(key) | Request::Zero(Some(key)) => write_key(&mut writer, key),
        Request::AddDestination(key, destination) | Request::SetDestination(key, destination) => {
            write_key(&mut writer, key);
            writer.nest(top::DEST, |writer| write_destination(writer, destination));
        }
        Request::DeleteDestination(key, destination) => {
            write_key(&mut writer, key);
            writer.nest(top::DEST, |writer| write_destination_key(writer, destination));
        }
        Request::StartDaemon(daemon) | Request::StopDaemon(daemon) => {
            writer.nest(top::DAEMON, |writer| write_daemon(writer, daemon));
        }
        Request::SetTimeouts(timeouts) => write_timeouts(&mut writer, timeouts),
        Request::Zero(None) | Request::Flush => {}
    }
}

/// A question as the payload of a netlink message.
#[must_use]
pub fn encode_question(question: &Question) -> Vec<u8> {
    let mut out = Vec::with_capacity(64);
    let number = match question {
        Question::Services(_) => command::GET_SERVICE,
        Question::Destinations(_) => command::GET_DEST,
        Question::Daemons => command::GET_DAEMON,
        Question::Timeouts => command::GET_CONFIG,
        Question::Info => command::GET_INFO,
    };
    out.extend_from_slice(&[number, VERSION, 0, 0]);
    if let Question::Services(Some(key)) | Question::Destinations(key) = question {
        write_key(&mut Writer(&mut out), key);
    }
    out
}

fn write_key(writer: &mut Writer<'_>, key: &ServiceKey) {
    writer.nest(top::SERVICE, |writer| write_key_attributes(writer, key));
}

fn write_key_attributes(writer: &mut Writer<'_>, key: &ServiceKey) {
    writer.u16(svc::AF, family_number(key.family()));
    match key {
        ServiceKey::Address { address, protocol, port } => {
            writer.u16(svc::PROTOCOL, u16::from(protocol.0));
            writer.bytes(svc::ADDR, &address_bytes(*address));
            writer.bytes(svc::PORT, &port.to_be_bytes());
        }
        ServiceKey::Mark { mark, .. } => writer.u32(svc::FWMARK, *mark),
    }
}

fn write_service(writer: &mut Writer<'_>, service: &Service) {
    write_key_attributes(writer, &service.key);
    writer.text(svc::SCHED_NAME, &service.scheduler);
    let mut flags = service.flags.0 & !Flags::RESERVED;
    if service.persistence.is_some() {
        flags |= Flags::PERSISTENT;
    }
    // `struct ip_vs_flags`: the flags, and which of them are meant: all.
    let both = [flags.to_ne_bytes(), u32::MAX.to_ne_bytes()].concat();
    writer.bytes(svc::FLAGS, &both);
    let family = service.key.family();
    let all = Persistence { timeout: 0, prefix: family.bits() };
    let persistence = service.persistence.unwrap_or(all);
    writer.u32(svc::TIMEOUT, persistence.timeout);
    writer.bytes(svc::NETMASK, &netmask(family, persistence.prefix));
    if let Some(engine) = &service.persistence_engine {
        writer.text(svc::PE_NAME, engine);
    }
}

/// A mask in network order for IPv4; for IPv6 the length of the prefix as a number.
fn netmask(family: Family, prefix: u8) -> [u8; 4] {
    let prefix = u32::from(prefix.min(family.bits()));
    match family {
        Family::V4 => u32::MAX.checked_shl(32 - prefix).unwrap_or(0).to_be_bytes(),
        Family::V6 => prefix.to_ne_bytes(),
    }
}

fn write_destination_key(writer: &mut Writer<'_>, key: &DestinationKey) {
    writer.bytes(dest::ADDR, &address_bytes(key.address));
    writer.bytes(dest::PORT, &key.port.to_be_bytes());
    writer.u16(dest::ADDR_FAMILY, family_number(Family::of(key.address)));
}

fn write_destination(writer: &mut Writer<'_>, destination: &Destination) {
    write_destination_key(writer, &destination.key());
    writer.u32(dest::FWD_METHOD, destination.forward.number());
    writer.u32(dest::WEIGHT, destination.weight);
    writer.u32(dest::U_THRESH, destination.upper_threshold);
    writer.u32(dest::L_THRESH, destination.lower_threshold);
    if destination.forward == Forward::Tunnel {
        writer.u8(dest::TUN_TYPE, destination.tunnel.kind.number());
        writer.bytes(dest::TUN_PORT, &destination.tunnel.port.to_be_bytes());
        writer.u16(dest::TUN_FLAGS, destination.tunnel.flags);
    }
}

fn write_daemon(writer: &mut Writer<'_>, daemon: &Daemon) {
    writer.u32(sync::STATE, daemon.state.number());
    writer.text(sync::MCAST_IFN, &daemon.interface);
    writer.u32(sync::SYNC_ID, daemon.sync_id);
    if let Some(length) = daemon.max_length {
        writer.u16(sync::SYNC_MAXLEN, length);
    }
    if let Some(multicast) = &daemon.multicast {
        match multicast.group {
            IpAddr::V4(group) => writer.bytes(sync::MCAST_GROUP, &group.octets()),
            IpAddr::V6(group) => writer.bytes(sync::MCAST_GROUP6, &group.octets()),
        }
        writer.u16(sync::MCAST_PORT, multicast.port);
        writer.u8(sync::MCAST_TTL, multicast.ttl);
    }
}

fn write_timeouts(writer: &mut Writer<'_>, timeouts: &Timeouts) {
    writer.u32(top::TIMEOUT_TCP, timeouts.tcp);
    writer.u32(top::TIMEOUT_TCP_FIN, timeouts.tcp_fin);
    writer.u32(top::TIMEOUT_UDP, timeouts.udp);
}

const fn family_number(family: Family) -> u16 {
    match family {
        Family::V4 => AF_INET,
        Family::V6 => AF_INET6,
    }
}

/// `union nf_inet_addr`: sixteen bytes for both families.
fn address_bytes(address: IpAddr) -> [u8; 16] {
    match address {
        IpAddr::V6(address) => address.octets(),
        IpAddr::V4(address) => {
            let mut bytes = [0; 16];
            bytes[..4].copy_from_slice(&address.octets());
            bytes
        }
    }
}
