//! What kube-proxy leaves in the kernel, what is other programs', and that just the former goes.

use std::time::{Duration, Instant};

use anyhow::{Result, ensure};
use shunt_cluster::Netns;

use super::print;

/// What kube-proxy leaves in one of its modes.
#[derive(Clone, Copy)]
pub(super) struct Left {
    ipvs: bool,
}

/// Parts of names of its chains and tables.
const RULES: [&str; 6] = [
    "KUBE-SVC",
    "KUBE-SERVICES",
    "KUBE-SEP",
    "KUBE-POSTROUTING",
    "KUBE-IPVS",
    "table ip kube-proxy",
];
/// How long its IPVS may take to go once the connections have ended.
const PATIENCE: Duration = Duration::from_secs(60);

impl Left {
    pub(super) fn of(mode: &str) -> Self {
        Self { ipvs: mode == "ipvs" }
    }

    /// Puts there what is other programs' and stays: the kubelet's chain, an ipset, a virtual server;
    /// where the kernel has it, a table of legacy iptables.
    pub(super) fn put_others(self, netns: &Netns) -> Result<()> {
        if !self.ipvs {
            print(netns, "iptables-legacy", &["-t", "nat", "-N", "KUBE-SERVICES"])?;
        }
        print(netns, "nft", &["add", "table", "ip", "mangle"])?;
        print(netns, "nft", &["add", "chain", "ip", "mangle", "KUBE-KUBELET-CANARY"])?;
        if self.ipvs {
            print(netns, "ipset", &["create", "KUBE-ROUTER", "hash:ip"])?;
            print(netns, "ipvsadm", &["-A", "-t", "192.0.2.1:80", "-s", "rr"])?;
            // A connection whose end IPVS has missed is counted for 15 minutes, by default.
            print(netns, "ipvsadm", &["--set", "20", "20", "20"])?;
        }
        Ok(())
    }

    /// What the daemon must have told of: what it cannot take away.
    pub(super) const fn told(self) -> &'static str {
        if self.ipvs {
            "shunt has taken over"
        } else {
            "run `iptables-legacy-save | grep -v KUBE- | iptables-legacy-restore` on this node"
        }
    }

    /// Fails if there is nothing of kube-proxy's that could go.
    pub(super) fn expect_kube_proxys(self, netns: &Netns) -> Result<()> {
        if self.ipvs {
            let sets = print(netns, "ipset", &["list", "-n"])?;
            ensure!(sets.contains("KUBE-6-CLUSTER-IP"), "{sets}");
            let device = print(netns, "ip", &["address", "show", "dev", "kube-ipvs0"])?;
            ensure!(device.contains("inet6 fd"), "{device}");
            let servers = print(netns, "ipvsadm", &["-Ln"])?;
            ensure!(servers.contains("TCP  ["), "{servers}");
        }
        let ruleset = print(netns, "nft", &["list", "ruleset"])?;
        ensure!(RULES.iter().any(|rule| ruleset.contains(rule)), "{ruleset}");
        Ok(())
    }

    /// Fails unless all of it goes, and nothing of others: rules at once, IPVS when `end` has ended
    /// the connections through it. Returns how long that took.
    pub(super) fn expect_all_gone(
        self,
        netns: &Netns,
        to: &str,
        end: impl FnOnce() -> Result<()>,
    ) -> Result<Duration> {
        let ruleset = print(netns, "nft", &["list", "ruleset"])?;
        for theirs in RULES {
            ensure!(!ruleset.contains(theirs), "{theirs} is still there:\n{ruleset}");
        }
        ensure!(ruleset.contains("KUBE-KUBELET-CANARY"), "{ruleset}");
        end()?;
        let began = Instant::now();
        while self.ipvs
            && let Some(rest) = rest(netns, to)?
        {
            if began.elapsed() > PATIENCE {
                anyhow::bail!("still there: {rest}\n{}", print(netns, "ipvsadm", &["-Lnc"])?);
            }
            std::thread::sleep(Duration::from_millis(200));
        }
        Ok(began.elapsed())
    }
}

/// What of kube-proxy's IPVS mode is still there. Fails if something of others is not.
fn rest(netns: &Netns, to: &str) -> Result<Option<String>> {
    let sets = print(netns, "ipset", &["list", "-n"])?;
    ensure!(sets.contains("KUBE-ROUTER"), "{sets}");
    if sets.lines().any(|set| set != "KUBE-ROUTER") {
        return Ok(Some(sets));
    }
    let servers = print(netns, "ipvsadm", &["-Sn"])?;
    ensure!(servers.contains("192.0.2.1:80"), "{servers}");
    let links = print(netns, "ip", &["-o", "address"])?;
    let addresses: Vec<_> = links.lines().filter(|line| line.contains("kube-ipvs0")).collect();
    if to == "ipvs" {
        // All are ours by now.
        let foreign = addresses.iter().find(|line| !line.contains(" metric 1936225646 "));
        return Ok(foreign.map(|line| (*line).to_owned()));
    }
    let others = servers.lines().find(|line| line.starts_with("-A") && !line.contains("192.0.2.1"));
    Ok(others.or(addresses.first().copied()).map(ToOwned::to_owned))
}
