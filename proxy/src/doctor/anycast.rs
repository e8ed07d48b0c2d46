//! Addresses of IPv6 that are anycast addresses, too: the first of a network is that of all its routers (RFC 4291, section
//! 2.6.1). A router whose route there names no gateway tells such an address nothing of what it has dropped
//! (`ipv6_anycast_destination`, `include/net/ip6_route.h`).

use std::fs;
use std::net::Ipv6Addr;
use std::path::Path;

use super::{Finding, Severity};

const SYSCTL: &str = "net.ipv6.icmp.error_anycast_as_unicast";
/// `RTF_GATEWAY`, `RTF_REJECT`, `RTF_ANYCAST` and `RTF_LOCAL` (`include/uapi/linux/route.h`, `ipv6_route.h`).
const NOT_BY_DEVICE: u32 = 0x2 | 0x200 | 0x10_0000 | 0x8000_0000;

/// What follows from /proc below `root`, which is `/` but in tests. The other nodes are taken to have routes and settings
/// like this one's.
pub(super) fn findings(root: &Path) -> Vec<Finding> {
    let read = |path: &str| fs::read_to_string(root.join("proc").join(path)).unwrap_or_default();
    if read(&format!("sys/{}", SYSCTL.replace('.', "/"))).trim() == "1" {
        return Vec::new();
    }
    let (routes, addresses) = (read("net/ipv6_route"), read("net/if_inet6"));
    let routes: Vec<_> = routes.lines().filter_map(by_device).collect();
    let is_first = |address: Ipv6Addr, of: &str| {
        routes.iter().any(|(device, length)| {
            *device == of && u128::from(address).trailing_zeros() >= 128 - length
        })
    };
    let addresses = addresses.lines().filter_map(address);
    let first = addresses.filter(|(device, address)| is_first(*address, device));
    first.map(|(device, address)| finding(device, address)).collect()
}

fn finding(device: &str, address: Ipv6Addr) -> Finding {
    Finding::new(
        Severity::Warning,
        format!("{device} has {address}, the first address of a network: an anycast address, too"),
        "other nodes with a route there by a device, without a gateway, do not tell it what they \
         have dropped: clients that are masqueraded as this address do not hear that a packet was \
         too long",
        format!("sysctl -w {SYSCTL}=1 on each node, or another address for {device}"),
    )
}

/// A route of `/proc/net/ipv6_route` that leads to a network by a device alone: its device, and the network's length.
fn by_device(line: &str) -> Option<(&str, u32)> {
    let words: Vec<_> = line.split_whitespace().collect();
    let [network, length, _, _, _, _, _, _, flags, device] = words[..] else { return None };
    let length = u32::from_str_radix(length, 16).ok()?;
    let flags = u32::from_str_radix(flags, 16).ok()?;
    // With 127 bits both addresses are hosts' (RFC 6164). Every link has fe80::/64 and ff00::/8.
    let of_links = network.starts_with("fe80") || network.starts_with("ff00");
    let leads = (1..127).contains(&length) && !of_links;
    (leads && flags & NOT_BY_DEVICE == 0).then_some((device, length))
}

/// An address of `/proc/net/if_inet6`, and its device.
fn address(line: &str) -> Option<(&str, Ipv6Addr)> {
    let words: Vec<_> = line.split_whitespace().collect();
    let [address, _, _, _, _, device] = words[..] else { return None };
    Some((device, u128::from_str_radix(address, 16).ok()?.into()))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// As kernel 6.18 wrote them: `d0` has fd00:10:77:1::/128, and a route to one network by itself.
    const ROUTES: &str = "\
        fd000010007700010000000000000000 80 00000000000000000000000000000000 00 00000000000000000000000000000000 00000100 00000004 00000000 00000001       d0\n\
        fd000010007700020000000000000000 40 00000000000000000000000000000000 00 00000000000000000000000000000000 00000400 00000002 00000000 00000001       d0\n\
        fd000099000000000000000000000000 40 00000000000000000000000000000000 00 00000000000000000000000000000000 00000100 00000001 00000000 00000001       d1\n\
        fe800000000000000000000000000000 40 00000000000000000000000000000000 00 00000000000000000000000000000000 00000100 00000001 00000000 00000001       d0\n\
        fd000010007700010000000000000000 80 00000000000000000000000000000000 00 00000000000000000000000000000000 00000000 00000004 00000000 80200001       d0\n\
        ff000000000000000000000000000000 08 00000000000000000000000000000000 00 00000000000000000000000000000000 00000100 00000002 00000000 00000001       d1\n";
    const ADDRESSES: &str = "\
        fd000010007700010000000000000000 03 80 00 82       d0\n\
        fd000099000000000000000000000001 02 40 00 82       d1\n\
        fe8000000000000014caf3fffe52c648 03 40 20 c0       d0\n";

    fn given(routes: &str, addresses: &str, sysctl: &str) -> Vec<String> {
        let root = tempfile::tempdir().unwrap();
        let write = |path: &str, text: &str| {
            let path = root.path().join("proc").join(path);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(path, text).unwrap();
        };
        write("net/ipv6_route", routes);
        write("net/if_inet6", addresses);
        write("sys/net/ipv6/icmp/error_anycast_as_unicast", sysctl);
        findings(root.path()).into_iter().map(|found| found.what).collect()
    }

    #[test]
    fn the_first_address_of_a_network_is_named() {
        let found = given(ROUTES, ADDRESSES, "0\n");
        assert_eq!(found.len(), 1, "{found:?}");
        assert!(found[0].starts_with("d0 has fd00:10:77:1::, the first address"), "{found:?}");
        assert_eq!(given(ROUTES, ADDRESSES, "1\n"), [""; 0], "routers tell it all the same");
        let another = ADDRESSES.replacen("10000000000000000 ", "10000000000000001 ", 1);
        assert_eq!(given(ROUTES, &another, "0\n"), [""; 0]);
    }

    #[test]
    fn a_route_with_a_gateway_makes_no_anycast_address() {
        let gateway = "fd000010007700020000000000000000";
        let route = format!(" 00 {} ", "0".repeat(32));
        let through =
            ROUTES.replace(&route, &format!(" 00 {gateway} ")).replace("00000001 ", "00000003 ");
        assert_eq!(given(&through, ADDRESSES, "0\n"), [""; 0]);
    }
}
