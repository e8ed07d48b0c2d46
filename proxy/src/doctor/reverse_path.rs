//! The kernel's filter on the way back (`rp_filter`; RFC 3704, `Documentation/networking/ip-sysctl.rst`): strict, it drops
//! what comes in by another interface than an answer would leave by. It is for IPv4 alone.

use std::collections::BTreeSet;
use std::fs;
use std::path::Path;

use super::{Finding, Severity};
use crate::links::{Link, bridges};

/// The device of a route that leads nowhere, and the mask of one to a single address, in `/proc/net/route`.
const NOWHERE: &str = "*";
const ALONE: &str = "FFFFFFFF";

/// What follows from /proc below `root`, which is `/` but in tests. Where packets can come from one network alone, besides
/// pods, there is no other way back.
pub(super) fn findings(root: &Path, links: &[Link]) -> Option<Finding> {
    let read = |path: &str| fs::read_to_string(root.join("proc").join(path)).ok();
    let of_pods: BTreeSet<_> = bridges(links).map(|(bridge, _)| bridge.name.as_str()).collect();
    let routes = read("net/route")?;
    let mut devices = with_networks(&routes);
    devices.retain(|device| !of_pods.contains(device));
    let mode = |device: &str| -> u8 {
        let text = read(&format!("sys/net/ipv4/conf/{device}/rp_filter"));
        text.and_then(|text| text.trim().parse().ok()).unwrap_or_default()
    };
    // The larger of the two holds, and 2 is loose.
    let all = mode("all");
    let strict: Vec<_> =
        devices.iter().copied().filter(|device| mode(device).max(all) == 1).collect();
    if devices.len() < 2 || strict.is_empty() {
        return None;
    }
    let dropped = read("net/netstat").as_deref().and_then(dropped).unwrap_or_default();
    let severity = if dropped > 0 { Severity::Warning } else { Severity::Note };
    let set = strict.iter().map(|device| format!("net.ipv4.conf.{device}.rp_filter=2"));
    Some(Finding::new(
        severity,
        format!("rp_filter is strict (1) on {}", strict.join(", ")),
        format!(
            "packets that come in there from an address that would be answered by another \
             interface are dropped: what NodePorts and external IPs get from other networks, and \
             what comes back around a tunnel; {dropped} have been so far"
        ),
        format!(
            "sysctl -w {}, where ways are not the same in both directions",
            set.collect::<Vec<_>>().join(" ")
        ),
    ))
}

/// The interfaces by which routes of `/proc/net/route` lead to networks; a pod's own leads to it alone.
fn with_networks(routes: &str) -> BTreeSet<&str> {
    let lines = routes.lines().skip(1).map(|line| line.split_whitespace().collect::<Vec<_>>());
    let leads = lines.filter_map(|words| match words[..] {
        [device, _, _, _, _, _, _, mask, ..] if device != NOWHERE && mask != ALONE => Some(device),
        _ => None,
    });
    leads.collect()
}

/// How many packets the filter has dropped in this network namespace: `IPReversePathFilter` of `/proc/net/netstat`, whose
/// lines are pairs of names and numbers.
fn dropped(netstat: &str) -> Option<u64> {
    let mut lines = netstat.lines().filter(|line| line.starts_with("TcpExt:"));
    let (names, numbers) = (lines.next()?, lines.next()?);
    let place = names.split_whitespace().position(|name| name == "IPReversePathFilter")?;
    numbers.split_whitespace().nth(place)?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    const ROUTES: &str = "Iface Destination Gateway Flags RefCnt Use Metric Mask MTU Window IRTT\n\
        eth0 00000000 014DA8C0 0003 0 0 0 00000000 0 0 0\n\
        eth0 004DA8C0 00000000 0001 0 0 0 00FFFFFF 0 0 0\n\
        * 00014D0A 00000000 0200 0 0 0 00FFFFFF 0 0 0\n\
        cni0 00014D0A 00000000 0001 0 0 0 00FFFFFF 0 0 0\n\
        veth1 0B014D0A 00000000 0005 0 0 0 FFFFFFFF 0 0 0\n";
    const SECOND: &str = "eth1 0000320A 00000000 0001 0 0 0 00FFFFFF 0 0 0\n";
    const NETSTAT: &str = "TcpExt: SyncookiesSent IPReversePathFilter TCPTimeWait\nTcpExt: 1 7 3\nIpExt: InNoRoutes\nIpExt: 0\n";

    fn given(routes: &str, modes: &[(&str, &str)], netstat: &str) -> Option<Finding> {
        let root = tempfile::tempdir().unwrap();
        let write = |path: &str, text: &str| {
            let path = root.path().join("proc").join(path);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(path, text).unwrap();
        };
        write("net/route", routes);
        write("net/netstat", netstat);
        for (device, mode) in modes {
            write(&format!("sys/net/ipv4/conf/{device}/rp_filter"), mode);
        }
        let bridge =
            Link { index: 7, name: "cni0".into(), kind: "bridge".into(), ..Link::default() };
        let port = Link { master: Some(7), kind: "veth".into(), ..Link::default() };
        findings(root.path(), &[bridge, port])
    }

    #[test]
    fn the_larger_of_two_settings_holds() {
        let routes = format!("{ROUTES}{SECOND}");
        let what = |modes: &[(&str, &str)]| given(&routes, modes, NETSTAT).map(|found| found.what);
        let strict = |on: &str| Some(format!("rp_filter is strict (1) on {on}"));
        assert_eq!(what(&[("all", "1\n"), ("eth0", "0\n")]), strict("eth0, eth1"));
        assert_eq!(what(&[("all", "0\n"), ("eth1", "1\n")]), strict("eth1"));
        assert_eq!(what(&[("all", "1\n"), ("eth0", "2\n"), ("eth1", "1\n")]), strict("eth1"));
        assert_eq!(what(&[("all", "2\n"), ("eth0", "1\n")]), None);
        assert_eq!(what(&[("cni0", "1\n"), ("veth1", "1\n")]), None, "pods have one way");
    }

    #[test]
    fn one_network_has_one_way_back() {
        assert_eq!(given(ROUTES, &[("all", "1\n")], NETSTAT), None);
    }

    #[test]
    fn what_was_dropped_makes_it_worse() {
        let routes = format!("{ROUTES}{SECOND}");
        let found = given(&routes, &[("eth1", "1")], NETSTAT).unwrap();
        assert_eq!(found.severity, Severity::Warning);
        assert!(found.consequence.contains("7 have been"), "{}", found.consequence);
        assert!(found.remedy.starts_with("sysctl -w net.ipv4.conf.eth1.rp_filter=2,"));
        let quiet = NETSTAT.replace(" 7 ", " 0 ");
        assert_eq!(given(&routes, &[("eth1", "1")], &quiet).unwrap().severity, Severity::Note);
    }
}
