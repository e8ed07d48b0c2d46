//! Keys and values as the kernel has them.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use ipnet::{IpNet, Ipv4Subnets, Ipv6Subnets};
use shunt_model::address::{Endpoint, Family, Frontend, FrontendAddress, Protocol};
use shunt_model::interface::InterfaceName;

use super::Key;
use crate::name::{SetId, SetKind};

/// The key's bytes: each part padded to four bytes, in network order but for slots and ids, which
/// the kernel makes in the host's.
pub(crate) fn encode_key(set: SetId, key: &Key) -> Vec<u8> {
    let mut out = Vec::with_capacity(28);
    match key {
        Key::Address(address) => {
            put_address(&mut out, *address);
            if set.kind == SetKind::Hairpins {
                put_address(&mut out, *address);
            }
        }
        Key::Way(input, output, network) => {
            put_name(&mut out, input);
            put_name(&mut out, output);
            put_address(&mut out, network.network());
        }
        Key::Frontend(frontend) => put_frontend(&mut out, frontend),
        Key::Slot(frontend, number) | Key::Id(frontend, number) => {
            put_frontend(&mut out, frontend);
            out.extend_from_slice(&number.to_ne_bytes());
        }
        Key::Source(frontend, network) => {
            put_frontend(&mut out, frontend);
            put_address(&mut out, network.network());
        }
    }
    out
}

/// The bytes of the other end of a key that is a range; `None` for all others.
pub(crate) fn encode_key_end(key: &Key) -> Option<Vec<u8>> {
    let mut out = Vec::with_capacity(48);
    let network = match key {
        Key::Source(frontend, network) => {
            put_frontend(&mut out, frontend);
            network
        }
        Key::Way(input, output, network) => {
            put_name(&mut out, input);
            put_name(&mut out, output);
            network
        }
        _ => return None,
    };
    put_address(&mut out, network.broadcast());
    Some(out)
}

/// The value's bytes in an endpoint map.
pub(crate) fn encode_endpoint(endpoint: &Endpoint) -> Vec<u8> {
    let mut out = Vec::with_capacity(20);
    put_address(&mut out, endpoint.address);
    put_port(&mut out, endpoint.port);
    out
}

/// Reads a key, and its other end if it is a range. `None`: not a key that we write into this set.
pub(crate) fn decode_key(set: SetId, bytes: &[u8], end: Option<&[u8]>) -> Option<Key> {
    let mut reader = Reader { bytes };
    let key = match set.kind {
        SetKind::AllowedSources => {
            let (frontend, start) = (reader.frontend(set.family)?, reader.address(set.family)?);
            let mut last = Reader { bytes: end.unwrap_or(bytes) };
            let same = last.frontend(set.family)? == frontend;
            let network = network_between(start, last.address(set.family)?)?;
            Key::Source(frontend, same.then_some(network)?)
        }
        SetKind::NodeAddresses
        | SetKind::ClusterIps
        | SetKind::LocalSources
        | SetKind::LocalPods
        | SetKind::LocalInterfaces
        | SetKind::ServiceNetworks
        | SetKind::VirtualAddresses
        | SetKind::OwnAddresses => Key::Address(reader.address(set.network_family())?),
        SetKind::BlindLinks => {
            let way = (reader.name()?, reader.name()?);
            let start = reader.address(set.family)?;
            let mut last = Reader { bytes: end.unwrap_or(bytes) };
            let same = (last.name()?, last.name()?) == way;
            let network = network_between(start, last.address(set.family)?)?;
            Key::Way(way.0, way.1, same.then_some(network)?)
        }
        SetKind::Hairpins => {
            let address = reader.address(set.family)?;
            (reader.address(set.family)? == address).then_some(Key::Address(address))?
        }
        SetKind::Frontends
        | SetKind::InsideFrontends
        | SetKind::AllowedFrontends
        | SetKind::AffinityGroups
        | SetKind::Masquerade
        | SetKind::MasqueradeOwn
        | SetKind::VirtualServers => Key::Frontend(reader.frontend(set.family)?),
        SetKind::NodePorts
        | SetKind::InsideNodePorts
        | SetKind::NodePortAffinityGroups
        | SetKind::MasqueradeNodePorts
        | SetKind::MasqueradeOwnNodePorts
        | SetKind::VirtualNodePorts => Key::Frontend(reader.node_port(set.family)?),
        SetKind::Endpoints
        | SetKind::InsideEndpoints
        | SetKind::AffinitySlots
        | SetKind::InsideAffinitySlots => Key::Slot(reader.frontend(set.family)?, reader.number()?),
        SetKind::NodePortEndpoints
        | SetKind::InsideNodePortEndpoints
        | SetKind::NodePortAffinitySlots
        | SetKind::InsideNodePortAffinitySlots => {
            Key::Slot(reader.node_port(set.family)?, reader.number()?)
        }
        SetKind::AffinityEndpoints | SetKind::InsideAffinityEndpoints => {
            Key::Id(reader.frontend(set.family)?, reader.number()?)
        }
        SetKind::NodePortAffinityEndpoints | SetKind::InsideNodePortAffinityEndpoints => {
            Key::Id(reader.node_port(set.family)?, reader.number()?)
        }
        SetKind::Affinity => return None,
    };
    reader.bytes.is_empty().then_some(key)
}

/// The network that begins and ends with these addresses, if there is one.
fn network_between(first: IpAddr, last: IpAddr) -> Option<IpNet> {
    let mut networks: Vec<IpNet> = match (first, last) {
        (IpAddr::V4(first), IpAddr::V4(last)) => {
            Ipv4Subnets::new(first, last, 0).map(IpNet::from).take(2).collect()
        }
        (IpAddr::V6(first), IpAddr::V6(last)) => {
            Ipv6Subnets::new(first, last, 0).map(IpNet::from).take(2).collect()
        }
        _ => return None,
    };
    networks.pop().filter(|_| networks.is_empty())
}

/// Reads the value of an endpoint map.
pub(crate) fn decode_endpoint(family: Family, bytes: &[u8]) -> Option<Endpoint> {
    let mut reader = Reader { bytes };
    Some(Endpoint { address: reader.address(family)?, port: reader.port()? })
}

fn put_address(out: &mut Vec<u8>, address: IpAddr) {
    match address {
        IpAddr::V4(address) => out.extend_from_slice(&address.octets()),
        IpAddr::V6(address) => out.extend_from_slice(&address.octets()),
    }
}

/// A name of an interface: 16 bytes, with zeros at its end (`IFNAMSIZ`).
fn put_name(out: &mut Vec<u8>, name: &InterfaceName) {
    out.extend_from_slice(name.padded());
    out.push(0);
}

fn put_port(out: &mut Vec<u8>, port: u16) {
    out.extend_from_slice(&port.to_be_bytes());
    out.extend_from_slice(&[0; 2]);
}

fn put_frontend(out: &mut Vec<u8>, frontend: &Frontend) {
    if let FrontendAddress::Ip(address) = frontend.address {
        put_address(out, address);
    }
    out.extend_from_slice(&[frontend.protocol.number(), 0, 0, 0]);
    put_port(out, frontend.port);
}

struct Reader<'a> {
    bytes: &'a [u8],
}

impl Reader<'_> {
    fn take<const N: usize>(&mut self) -> Option<[u8; N]> {
        let (head, rest) = self.bytes.split_first_chunk::<N>()?;
        self.bytes = rest;
        Some(*head)
    }

    fn address(&mut self, family: Family) -> Option<IpAddr> {
        Some(match family {
            Family::V4 => Ipv4Addr::from(self.take::<4>()?).into(),
            Family::V6 => Ipv6Addr::from(self.take::<16>()?).into(),
        })
    }

    fn name(&mut self) -> Option<InterfaceName> {
        let bytes = self.take::<16>()?;
        let name = bytes.split(|byte| *byte == 0).next()?;
        str::from_utf8(name).ok()?.parse().ok()
    }

    fn port(&mut self) -> Option<u16> {
        let [high, low, _, _] = self.take::<4>()?;
        Some(u16::from_be_bytes([high, low]))
    }

    fn number(&mut self) -> Option<u32> {
        self.take::<4>().map(u32::from_ne_bytes)
    }

    fn frontend(&mut self, family: Family) -> Option<Frontend> {
        let address = FrontendAddress::Ip(self.address(family)?);
        self.at(address)
    }

    fn node_port(&mut self, family: Family) -> Option<Frontend> {
        self.at(FrontendAddress::Node(family))
    }

    fn at(&mut self, address: FrontendAddress) -> Option<Frontend> {
        let [protocol, ..] = self.take::<4>()?;
        let protocol = Protocol::from_number(protocol)?;
        Some(Frontend { address, protocol, port: self.port()? })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn check(set: SetId, key: Key, length: usize) {
        let bytes = encode_key(set, &key);
        assert_eq!(bytes.len(), length);
        let end = encode_key_end(&key);
        assert_eq!(decode_key(set, &bytes, end.as_deref()), Some(key));
        assert_eq!(decode_key(set, &bytes[1..], None), None);
    }

    #[test]
    fn keys_survive_the_way_to_the_kernel_and_back() {
        for (ip, width) in [("10.0.0.1", 4), ("fd00::1", 16)] {
            let ip: IpAddr = ip.parse().expect("an address");
            let family = Family::of(ip);
            let set = |kind| SetId::new(kind, family);
            let frontend =
                Frontend { address: FrontendAddress::Ip(ip), protocol: Protocol::Udp, port: 53 };
            let node = Frontend { address: FrontendAddress::Node(family), ..frontend };
            check(set(SetKind::ClusterIps), Key::Address(ip), width);
            check(set(SetKind::Hairpins), Key::Address(ip), 2 * width);
            check(set(SetKind::Frontends), Key::Frontend(frontend), width + 8);
            check(set(SetKind::NodePorts), Key::Frontend(node), 8);
            check(set(SetKind::Endpoints), Key::Slot(frontend, 70_000), width + 12);
            check(set(SetKind::NodePortEndpoints), Key::Slot(node, 3), 12);
            check(set(SetKind::AffinityEndpoints), Key::Id(frontend, 0x8001_0002), width + 12);
            check(set(SetKind::NodePortAffinitySlots), Key::Slot(node, 3), 12);
            let network = IpNet::new(ip, 8).expect("a network").trunc();
            let [input, output] = ["eth0", "shim0"].map(|name| name.parse().expect("a name"));
            check(set(SetKind::BlindLinks), Key::Way(input, output, network), 32 + width);
            check(set(SetKind::AllowedSources), Key::Source(frontend, network), 2 * width + 8);
            let endpoint = Endpoint { address: ip, port: 8080 };
            let bytes = encode_endpoint(&endpoint);
            assert_eq!(decode_endpoint(family, &bytes), Some(endpoint));
        }
    }
}
