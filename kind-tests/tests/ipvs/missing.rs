//! A kernel without IPVS, as the one that most of these tests run on.

use std::process::Command;

use anyhow::{Result, ensure};
use shunt_kind_tests::scenario::shunt_binary;

use crate::rig::{NODE, POD, Rig, VIP};

/// The name of the netlink family would have the kernel load IPVS: the file does not.
fn here() -> bool {
    std::path::Path::new("/proc/net/ip_vs").exists()
}

#[test]
fn it_ends_and_says_what_to_do() -> Result<()> {
    if here() {
        return Ok(());
    }
    let rig = Rig::new()?;
    let mut command = Command::new(shunt_binary()?);
    command.args(["run", "--manifests", "/tmp", "--node-name", NODE, "--proxy-mode=ipvs"]);
    let output = rig.cluster.host(NODE)?.netns().run(move || command.output())?;
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    ensure!(output.status.code() == Some(3), "{}: {said}", output.status);
    for part in ["has no IPVS", "load ip_vs", "--proxy-mode=nftables", "--ipvs-fallback=nftables"] {
        ensure!(said.contains(part), "{part} is not in: {said}");
    }
    ensure!(rig.on_node(&["nft", "list", "ruleset"])?.is_empty(), "something was written");
    Ok(())
}

#[test]
fn nftables_serves_in_its_place_if_it_may() -> Result<()> {
    if here() {
        return Ok(());
    }
    let mut rig = Rig::new()?;
    rig.write("", &["web-1"])?;
    rig.start(&["--proxy-mode=ipvs", "--ipvs-fallback=nftables"])?;
    ensure!(rig.asks(POD, &format!("{VIP}:80"))? == "web-1");
    let problems = rig.problems()?;
    ensure!(problems.iter().any(|text| text.contains("in place of IPVS")), "{problems:?}");
    ensure!(rig.get("/proxyMode")? == "nftables");
    Ok(())
}
