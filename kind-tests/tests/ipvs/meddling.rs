//! Someone else takes away what is ours while the daemon runs, of which IPVS tells nobody.

use std::thread;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use shunt_cluster::Families;

use crate::rig::{POD, Rig, VIP, until};

/// What people and other daemons do to the device, which rtnetlink tells of.
const OF_THE_DEVICE: [&str; 3] = [
    "ip address delete 10.96.0.11/32 dev kube-ipvs0",
    "ip address flush dev kube-ipvs0",
    "ip link delete kube-ipvs0",
];

#[test]
#[ignore = "needs IPVS; a test runs it in the guest"]
fn addresses_are_back_at_once() -> Result<()> {
    let mut rig = Rig::of(Families::Dual)?;
    rig.write("", &["web-1"])?;
    rig.start(&["--proxy-mode=ipvs", "--verify-interval=0"])?;
    for meddling in OF_THE_DEVICE {
        rig.on_node(&meddling.split(' ').collect::<Vec<_>>())?;
        served_again(&rig, meddling)?;
    }
    // What we take away ourselves is nobody's meddling.
    let before = noticed(&rig)?;
    for text in ["", "the Service"] {
        match text {
            "" => rig.write_text("")?,
            _ => rig.write("", &["web-1"])?,
        }
        until(|| {
            let addresses = rig.on_node(&["ip", "-o", "address", "show", "kube-ipvs0"])?;
            ensure!(addresses.contains(VIP) != text.is_empty(), "{addresses}\n{}", rig.log());
            Ok(())
        })?;
    }
    served_again(&rig, "its return")?;
    let after = noticed(&rig)?;
    ensure!(before == after, "{before}, then {after}:\n{}", rig.log());
    Ok(())
}

#[test]
#[ignore = "needs IPVS; a test runs it in the guest"]
fn virtual_servers_are_back_after_the_sync_period() -> Result<()> {
    let mut rig = Rig::new()?;
    rig.write("", &["web-1"])?;
    rig.start(&["--proxy-mode=ipvs", "--ipvs-sync-period=2s", "--verify-interval=0"])?;
    for meddling in ["ipvsadm -C", "ipvsadm -d -t 10.96.0.11:80 -r 10.77.1.11:8080"] {
        rig.on_node(&meddling.split(' ').collect::<Vec<_>>())?;
        served_again(&rig, meddling)?;
    }
    rig.on_node(&["ipvsadm", "-E", "-t", "10.96.0.11:80", "-s", "lc"])?;
    until(|| {
        let listing = rig.on_node(&["ipvsadm", "-Ln"])?;
        ensure!(!listing.contains(":80 lc"), "{listing}\n{}", rig.log());
        Ok(())
    })?;
    // It is put right before it is counted.
    until(|| {
        let line = noticed(&rig)?;
        let count = line.rsplit(' ').next().and_then(|count| count.parse::<u64>().ok());
        ensure!(count >= Some(3), "{line}, of three\n{}", rig.log());
        Ok(())
    })?;
    // As long as nobody meddles, nothing is noticed, also of a real server that drains.
    rig.write("", &["web-2"])?;
    let before = noticed(&rig)?;
    thread::sleep(Duration::from_secs(7));
    let after = noticed(&rig)?;
    ensure!(before == after, "{before}, then {after}:\n{}", rig.log());
    Ok(())
}

/// How often the daemon has noticed that others changed something.
fn noticed(rig: &Rig) -> Result<String> {
    let metrics = rig.get("/metrics")?;
    let line = metrics.lines().find(|line| line.starts_with("shunt_foreign_changes_total"));
    Ok(line.context("there is no such metric")?.to_owned())
}

fn served_again(rig: &Rig, after: &str) -> Result<()> {
    until(|| {
        let by = rig.asks(POD, &format!("{VIP}:80"))?;
        ensure!(by == "web-1", "after {after}: {by}");
        Ok(())
    })
}
