//! Datagrams that were dropped for their checksum, where a tunnel is in UDP: a device that computes what it should not,
//! or ends that do not agree whether there is one over IPv6 (RFC 6935).

use std::fs;
use std::path::Path;

use super::{Finding, Severity};
use crate::links::Link;

/// The kernel's names of tunnels whose datagrams may have a checksum or none.
const IN_UDP: [&str; 2] = ["vxlan", "geneve"];

/// What follows from /proc below `root`, which is `/` but in tests.
pub(super) fn findings(root: &Path, links: &[Link]) -> Option<Finding> {
    let tunnels = links.iter().filter(|link| link.is_up && IN_UDP.contains(&link.kind.as_str()));
    let tunnels: Vec<_> = tunnels.map(|link| link.name.as_str()).collect();
    let read =
        |path: &str| fs::read_to_string(root.join("proc/net").join(path)).unwrap_or_default();
    let dropped =
        dropped(&read("snmp")).unwrap_or_default() + dropped_v6(&read("snmp6")).unwrap_or_default();
    if tunnels.is_empty() || dropped == 0 {
        return None;
    }
    let off =
        tunnels.iter().map(|tunnel| format!("ethtool -K {tunnel} tx-checksum-ip-generic off"));
    Some(Finding::new(
        Severity::Warning,
        format!(
            "{dropped} datagrams have come to this machine with a wrong checksum, or over IPv6 with none"
        ),
        format!(
            "they were dropped; if they were those of {}, connections to pods of other nodes stall",
            tunnels.join(", ")
        ),
        format!(
            "if the number grows (nstat -az UdpInCsumErrors Udp6InCsumErrors), on the nodes that send: \
             {}; over IPv6, the same of udp6zerocsumtx and udp6zerocsumrx at all ends",
            off.collect::<Vec<_>>().join("; ")
        ),
    ))
}

/// `InCsumErrors` of UDP in `/proc/net/snmp`, whose lines are pairs of names and numbers.
fn dropped(snmp: &str) -> Option<u64> {
    let mut lines = snmp.lines().filter(|line| line.starts_with("Udp:"));
    let (names, numbers) = (lines.next()?, lines.next()?);
    let place = names.split_whitespace().position(|name| name == "InCsumErrors")?;
    numbers.split_whitespace().nth(place)?.parse().ok()
}

/// The same in `/proc/net/snmp6`, which has a line for each number.
fn dropped_v6(snmp6: &str) -> Option<u64> {
    let mut lines = snmp6.lines().filter_map(|line| line.split_once(char::is_whitespace));
    lines.find(|(name, _)| *name == "Udp6InCsumErrors")?.1.trim().parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn given(v4: u64, v6: u64, kind: &str) -> Option<Finding> {
        let root = tempfile::tempdir().unwrap();
        let net = root.path().join("proc/net");
        fs::create_dir_all(&net).unwrap();
        let snmp = format!(
            "Tcp: InSegs InCsumErrors\nTcp: 9 9\nUdp: InDatagrams InErrors InCsumErrors MemErrors\nUdp: 8 7 {v4} 5\n"
        );
        fs::write(net.join("snmp"), snmp).unwrap();
        fs::write(net.join("snmp6"), format!("Udp6InErrors  7\nUdp6InCsumErrors \t{v6}\n"))
            .unwrap();
        let link =
            Link { name: "flannel.1".into(), kind: kind.into(), is_up: true, ..Link::default() };
        findings(root.path(), &[link])
    }

    #[test]
    fn what_was_dropped_of_both_families_counts() {
        let found = given(2, 3, "vxlan").unwrap();
        assert!(found.what.starts_with("5 datagrams"), "{}", found.what);
        assert!(found.remedy.contains("ethtool -K flannel.1 tx-"), "{}", found.remedy);
        assert!(given(0, 1, "geneve").is_some());
        assert_eq!(given(0, 0, "vxlan"), None);
        assert_eq!(given(2, 3, "ipip"), None, "no tunnel is in UDP");
    }
}
