//! Which address belongs to whom: the table in the crate's documentation, as code. Everything follows from the order of
//! the specification.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use ipnet::{IpNet, Ipv4Net, Ipv6Net};

use crate::host::{Families, Family};

/// The number of the gateway on the underlay, and of the node in the network of its pods where it has an address there.
pub(crate) const GATEWAY: u8 = 1;
/// The number of a node's tunnel device in the network of its pods, as with Flannel.
pub(crate) const VTEP: u8 = 0;
/// The number of the control plane on the underlay.
pub(crate) const CONTROL_PLANE: u8 = 200;
/// Nodes and pods are numbered from above this.
const FIRST: u8 = 10;
/// Clients are numbered from above this.
const FIRST_CLIENT: u8 = 100;

/// The gateway every pod has: no one's address, the node answers for it (as with Calico).
pub(crate) const POD_GATEWAY_V4: Ipv4Addr = Ipv4Addr::new(169, 254, 1, 1);
/// The same for IPv6: an address of the node's end of the veth pair.
pub(crate) const POD_GATEWAY_V6: Ipv6Addr = Ipv6Addr::new(0xfe80, 0, 0, 0, 0, 0, 0, 1);

/// The underlay's number of node `index` (from 1).
pub(crate) fn node_number(index: usize) -> Option<u8> {
    number(FIRST, index, 89)
}

/// The underlay's number of client `index` (from 1).
pub(crate) fn client_number(index: usize) -> Option<u8> {
    number(FIRST_CLIENT, index, 99)
}

/// The number of pod `index` (from 1) in its node's network.
pub(crate) fn pod_number(index: usize) -> Option<u8> {
    number(FIRST, index, 244)
}

/// The addresses of an underlay number.
pub(crate) fn underlay(families: Families, number: u8) -> Vec<IpAddr> {
    let v6 = Ipv6Addr::new(0xfd00, 0x77, 0, 0, 0, 0, 0, digits(number));
    both(families, Ipv4Addr::new(192, 168, 77, number), v6)
}

/// The number of an underlay address.
pub(crate) fn of_underlay(address: IpAddr) -> u8 {
    match address {
        IpAddr::V4(address) => address.octets()[3],
        IpAddr::V6(address) => {
            let [high, low] = address.segments()[7].to_be_bytes();
            high * 100 + (low >> 4) * 10 + (low & 15)
        }
    }
}

/// The address in a family of whoever has this underlay address.
pub(crate) fn in_family(address: IpAddr, family: Family) -> IpAddr {
    underlay(family.into(), of_underlay(address))[0]
}

/// An underlay address with the length of its network.
pub(crate) fn in_underlay(address: IpAddr) -> IpNet {
    match address {
        IpAddr::V4(a) => IpNet::V4(Ipv4Net::new_assert(a, 24)),
        IpAddr::V6(a) => IpNet::V6(Ipv6Net::new_assert(a, 64)),
    }
}

/// The addresses of a pod.
pub(crate) fn pod(families: Families, node: u8, number: u8) -> Vec<IpAddr> {
    let v6 = Ipv6Addr::new(0xfd00, 0x10, 0x77, digits(node), 0, 0, 0, digits(number));
    both(families, Ipv4Addr::new(10, 77, node, number), v6)
}

/// The pod networks of a node.
pub(crate) fn pod_networks(families: Families, node: u8) -> Vec<IpNet> {
    let addresses = pod(families, node, 0).into_iter();
    addresses.map(|a| in_underlay(a).trunc()).collect()
}

/// A pod's or node's address with the length of the node's pod network.
pub(crate) fn in_pod_network(address: IpAddr) -> IpNet {
    in_underlay(address)
}

/// A pod's or node's address with the length of the network of all pods.
pub(crate) fn in_all_pods(address: IpAddr) -> IpNet {
    match address {
        IpAddr::V4(a) => IpNet::V4(Ipv4Net::new_assert(a, 16)),
        IpAddr::V6(a) => IpNet::V6(Ipv6Net::new_assert(a, 48)),
    }
}

/// The address with this number in a node's pod network.
pub(crate) fn in_network(network: IpNet, number: u8) -> IpAddr {
    match network.network() {
        IpAddr::V4(a) => Ipv4Addr::from(u32::from(a) | u32::from(number)).into(),
        IpAddr::V6(a) => Ipv6Addr::from(u128::from(a) | u128::from(digits(number))).into(),
    }
}

/// The gateway of a pod where that is an address of its node.
pub(crate) fn own_gateway(pod: IpAddr) -> IpAddr {
    in_network(in_pod_network(pod).trunc(), GATEWAY)
}

/// The gateway of routed pods, in the family of this address.
pub(crate) fn pod_gateway(like: IpAddr) -> IpAddr {
    match like {
        IpAddr::V4(_) => POD_GATEWAY_V4.into(),
        IpAddr::V6(_) => POD_GATEWAY_V6.into(),
    }
}

fn both(families: Families, v4: Ipv4Addr, v6: Ipv6Addr) -> Vec<IpAddr> {
    let address = |family: &Family| match family {
        Family::V4 => IpAddr::V4(v4),
        Family::V6 => IpAddr::V6(v6),
    };
    families.each().iter().map(address).collect()
}

fn number(base: u8, index: usize, last: usize) -> Option<u8> {
    let index = u8::try_from(index).ok()?;
    let fits = index >= 1 && usize::from(index) <= last;
    fits.then(|| base.checked_add(index)).flatten()
}

/// The hexadecimal number whose digits are the decimal digits of this one.
fn digits(number: u8) -> u16 {
    let number = u16::from(number);
    (number / 100) << 8 | (number / 10 % 10) << 4 | (number % 10)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ipv6_reads_like_ipv4() {
        let addresses = pod(Families::Dual, 12, pod_number(244).unwrap());
        let text: Vec<_> = addresses.iter().map(ToString::to_string).collect();
        assert_eq!(text, ["10.77.12.254", "fd00:10:77:12::254"]);
        let networks = pod_networks(Families::Dual, 1);
        let text: Vec<_> = networks.iter().map(ToString::to_string).collect();
        assert_eq!(text, ["10.77.1.0/24", "fd00:10:77:1::/64"]);
    }

    #[test]
    fn an_underlay_address_tells_the_one_of_the_other_family() {
        for number in [1, 42, 200] {
            let [v4, v6] = underlay(Families::Dual, number)[..] else { panic!() };
            assert_eq!((in_family(v4, Family::V6), in_family(v6, Family::V4)), (v6, v4));
        }
    }

    #[test]
    fn numbers_stay_in_their_range() {
        assert_eq!(node_number(0), None);
        assert_eq!(node_number(89), Some(99));
        assert_eq!(node_number(90), None);
        assert_eq!(client_number(99), Some(199));
        assert_eq!(client_number(100), None);
        assert_eq!(pod_number(245), None);
    }
}
