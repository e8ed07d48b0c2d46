//! A daemon that is killed on the way from kube-proxy's rules to its own: something serves at every moment, and the next
//! daemon, or `shunt cleanup`, brings it to an end. That of IPVS mode is played in `tests/ipvs/interrupted.rs`.

use std::fmt::Write as _;
use std::fs;
use std::path::Path;
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Result, ensure};
use shunt_cluster::{Netns, Process, Signal};

use super::cleanup::MANIFESTS;
use crate::once::{shell, start};

/// How many moments of a takeover, from its beginning to its end, are played.
const MOMENTS: u32 = 12;
/// How many Services kube-proxy has served.
const SERVICES: u32 = 1000;
const PATIENCE: Duration = Duration::from_secs(60);
const ENDED: Duration = Duration::from_secs(10);

/// What kube-proxy leaves in iptables and nftables mode, and a chain of the kubelet's.
fn former_rules() -> Result<String> {
    let mut rules = "\
add table ip nat
add chain ip nat PREROUTING { type nat hook prerouting priority -100; }
add chain ip nat KUBE-KUBELET-CANARY
add chain ip nat KUBE-SERVICES
add rule ip nat PREROUTING jump KUBE-SERVICES
add table ip kube-proxy
add table ip6 kube-proxy
"
    .to_owned();
    for number in 0..SERVICES {
        let (high, low) = (number / 256, number % 256);
        writeln!(rules, "add chain ip nat KUBE-SEP-{number}")?;
        writeln!(rules, "add chain ip nat KUBE-SVC-{number}")?;
        writeln!(rules, "add rule ip nat KUBE-SVC-{number} jump KUBE-SEP-{number}")?;
        writeln!(
            rules,
            "add rule ip nat KUBE-SERVICES ip daddr 10.96.{high}.{low} jump KUBE-SVC-{number}"
        )?;
    }
    Ok(rules)
}

struct Scene<'a> {
    netns: &'a Netns,
    scratch: &'a Path,
    manifests: String,
}

impl Scene<'_> {
    fn ruleset(&self) -> Result<String> {
        Ok(shell(self.netns, "nft list ruleset")?.1)
    }

    /// Puts kube-proxy's rules in place of all there are.
    fn kube_proxy_was_here(&self) -> Result<()> {
        let file = self.scratch.join("rules");
        fs::write(&file, former_rules()?)?;
        let line = format!("nft flush ruleset; nft -f {}", file.display());
        let (code, told) = shell(self.netns, &line)?;
        ensure!(code == Some(0), "{told}");
        Ok(())
    }

    fn start(&self) -> Result<Process> {
        let flags = ["--proxy-mode=nftables", "--manifests", &self.manifests];
        start(self.netns, self.scratch, &flags, |_| Ok(true))
    }

    /// How long it takes until nothing of kube-proxy's is left.
    fn until_taken_over(&self, began: Instant) -> Result<Duration> {
        loop {
            let ruleset = self.ruleset()?;
            if !has_theirs(&ruleset) {
                ensure!(serves(&ruleset), "{ruleset}");
                ensure!(ruleset.contains("KUBE-KUBELET-CANARY"), "{ruleset}");
                return Ok(began.elapsed());
            }
            let log = || fs::read_to_string(self.scratch.join("log")).unwrap_or_default();
            ensure!(began.elapsed() < PATIENCE, "{}", log());
            thread::sleep(Duration::from_millis(20));
        }
    }
}

fn kill(mut daemon: Process) -> Result<()> {
    daemon.signal(Signal::SIGKILL)?;
    ensure!(daemon.wait_timeout(ENDED)?.is_some(), "it survives SIGKILL");
    Ok(())
}

fn has_theirs(ruleset: &str) -> bool {
    ["KUBE-SERVICES", "KUBE-SVC-", "KUBE-SEP-", " kube-proxy {"]
        .iter()
        .any(|theirs| ruleset.contains(theirs))
}

/// Whether all of ours is there.
fn has_ours(ruleset: &str) -> bool {
    ruleset.contains("table inet shunt {") && ruleset.contains("10.96.0.9 . tcp . 80")
}

/// Whether packets to a Service find rules: ours, or all of theirs.
fn serves(ruleset: &str) -> bool {
    let theirs = ruleset.contains("jump KUBE-SERVICES")
        && ruleset.matches(" jump KUBE-SVC-").count() == SERVICES as usize;
    has_ours(ruleset) || theirs
}

#[test]
fn a_takeover_that_is_killed_at_any_moment() -> Result<()> {
    let (netns, scratch) = (Netns::new("interrupted")?, tempfile::tempdir()?);
    let manifests = scratch.path().join("manifests");
    fs::create_dir(&manifests)?;
    fs::write(manifests.join("all.yaml"), MANIFESTS)?;
    let manifests = manifests.display().to_string();
    let scene = Scene { netns: &netns, scratch: scratch.path(), manifests };
    scene.kube_proxy_was_here()?;
    let daemon = scene.start()?;
    let took = scene.until_taken_over(Instant::now())?;
    kill(daemon)?;
    let (mut ours, mut amid) = (0, 0);
    for moment in 0..MOMENTS {
        scene.kube_proxy_was_here()?;
        let daemon = scene.start()?;
        thread::sleep(took * moment * 5 / (MOMENTS * 4));
        kill(daemon)?;
        let ruleset = scene.ruleset()?;
        let installed = has_ours(&ruleset);
        ours += u32::from(installed);
        amid += u32::from(installed && has_theirs(&ruleset));
        ensure!(serves(&ruleset), "killed {moment} of {MOMENTS} into {took:.1?}:\n{ruleset}");
        // By the next daemon, or not.
        if moment % 2 == 0 {
            let daemon = scene.start()?;
            scene.until_taken_over(Instant::now())?;
            kill(daemon)?;
        }
        let (code, told) = shell(&netns, "shunt cleanup")?;
        ensure!(code == Some(0), "{told}");
        let ruleset = scene.ruleset()?;
        ensure!(!ruleset.contains("shunt"), "{ruleset}");
        ensure!(ruleset.contains("KUBE-KUBELET-CANARY"), "{ruleset}");
    }
    println!(
        "{ours} of {MOMENTS} kills met our rules, {amid} theirs beside them; undisturbed it takes {took:.1?}"
    );
    ensure!(ours > 0 && ours < MOMENTS, "all were too early or too late");
    Ok(())
}
