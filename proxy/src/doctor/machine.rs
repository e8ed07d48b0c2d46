//! The kernel and its settings, from /proc.

use std::fs;
use std::path::Path;

use super::{Finding, Severity};

/// The first kernel with `NFT_TABLE_F_PERSIST`.
const OWNER: (u32, u32) = (6, 9);
/// How full the table of connections may be, in percent.
const FULL: u64 = 80;

/// What follows from /proc below `root`, which is `/` but in tests.
pub(super) fn findings(root: &Path) -> Vec<Finding> {
    let read = |path: &str| {
        fs::read_to_string(root.join("proc").join(path)).ok().map(|text| text.trim().to_owned())
    };
    let mut found = Vec::new();
    found.extend(forwarding(&read));
    found.extend(connections(&read));
    found.extend(kernel(&read));
    found.extend(virtual_servers(&read));
    found
}

fn forwarding(read: &impl Fn(&str) -> Option<String>) -> Vec<Finding> {
    let v6 = read("net/if_inet6").unwrap_or_default();
    let has_v6 = v6.lines().any(|line| {
        let mut fields = line.split_whitespace();
        let address = fields.next().unwrap_or_default();
        fields.next_back() != Some("lo") && !address.starts_with("fe80")
    });
    let mut wanted = vec![("net.ipv4.ip_forward", "sys/net/ipv4/ip_forward")];
    if has_v6 {
        wanted.push(("net.ipv6.conf.all.forwarding", "sys/net/ipv6/conf/all/forwarding"));
    }
    let off = wanted.into_iter().filter(|(_, path)| read(path).as_deref() == Some("0"));
    let finding = |(name, _)| {
        Finding::new(
            Severity::Problem,
            format!("{name} is 0"),
            "the kernel forwards nothing: pods reach no Service, NodePorts only what is on the host",
            format!("sysctl -w {name}=1"),
        )
    };
    off.map(finding).collect()
}

fn connections(read: &impl Fn(&str) -> Option<String>) -> Option<Finding> {
    let number = |name: &str| read(&format!("sys/net/netfilter/{name}"))?.parse::<u64>().ok();
    let Some(most) = number("nf_conntrack_max") else {
        return Some(Finding::new(
            Severity::Warning,
            "connection tracking is not there yet",
            "it comes with the first rule that needs it; until then its limits cannot be set",
            "modprobe nf_conntrack before shunt starts, if its limits matter",
        ));
    };
    let count = number("nf_conntrack_count").unwrap_or_default();
    (count * 100 >= most * FULL).then(|| {
        Finding::new(
            Severity::Warning,
            format!("{count} connections are tracked, of {most} at most"),
            "when the table is full new connections are dropped, whatever they are",
            format!("sysctl -w net.netfilter.nf_conntrack_max={}", most * 2),
        )
    })
}

fn kernel(read: &impl Fn(&str) -> Option<String>) -> Option<Finding> {
    let release = read("sys/kernel/osrelease")?;
    let mut numbers = release.split(['.', '-']).map_while(|part| part.parse::<u32>().ok());
    let version = (numbers.next()?, numbers.next()?);
    (version < OWNER).then(|| {
        Finding::new(
            Severity::Note,
            format!("kernel {release}: a table cannot be closed to other writers (6.9)"),
            "`nft flush ruleset` and others can take our table away; it is put right at once",
            "nothing, or a newer kernel",
        )
    })
}

/// Virtual servers of a proxy in IPVS mode, which only IPVS itself can tell of.
fn virtual_servers(read: &impl Fn(&str) -> Option<String>) -> Option<Finding> {
    let text = read("net/ip_vs")?;
    let protocols = ["TCP", "UDP", "SCTP"];
    let servers = text.lines().filter(|line| protocols.iter().any(|of| line.starts_with(of)));
    let count = servers.count();
    (count > 0).then(|| {
        Finding::new(
            Severity::Note,
            format!("IPVS has {count} virtual servers"),
            "in nftables mode they are a former proxy's, and take connections to its addresses",
            "in nftables mode: `kube-proxy --cleanup`, or `ipvsadm --clear` if all are its",
        )
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn given(files: &[(&str, &str)]) -> Vec<String> {
        let root = tempfile::tempdir().unwrap();
        for (path, text) in files {
            let path = root.path().join("proc").join(path);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(path, text).unwrap();
        }
        findings(root.path()).into_iter().map(|finding| finding.what).collect()
    }

    const GOOD: [(&str, &str); 4] = [
        ("sys/net/ipv4/ip_forward", "1\n"),
        ("sys/net/netfilter/nf_conntrack_max", "1000\n"),
        ("sys/net/netfilter/nf_conntrack_count", "10\n"),
        ("sys/kernel/osrelease", "6.12.3-amd64\n"),
    ];

    #[test]
    fn a_good_machine_has_no_findings() {
        assert_eq!(given(&GOOD), Vec::<String>::new());
    }

    #[test]
    fn virtual_servers_are_counted() {
        let text = "IP Virtual Server version 1.2.1 (size=4096)\nProt LocalAddress:Port Scheduler\n\
                    \x20 -> RemoteAddress:Port\nTCP  0A600001:01BB rr\n  -> 0A4D0115:192B Masq 1 0 0\n\
                    UDP  0A60000A:0035 rr\n";
        let found = given(&[GOOD.as_slice(), &[("net/ip_vs", text)]].concat());
        assert_eq!(found, ["IPVS has 2 virtual servers"]);
    }

    #[test]
    fn what_is_wrong_is_named() {
        let mut bad = GOOD;
        bad[0].1 = "0\n";
        bad[2].1 = "900\n";
        bad[3].1 = "6.1.0-13-amd64\n";
        assert_eq!(
            given(&bad),
            [
                "net.ipv4.ip_forward is 0",
                "900 connections are tracked, of 1000 at most",
                "kernel 6.1.0-13-amd64: a table cannot be closed to other writers (6.9)",
            ]
        );
    }
}
