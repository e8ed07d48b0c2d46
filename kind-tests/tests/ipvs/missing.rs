//! Kernels that lack what IPVS mode needs: the one that most of these tests run on, which has no IPVS; and Debian's
//! stock one, which loads modules on demand and is kept from it.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Result, ensure};
use shunt_kind_tests::guest::Clock;
use shunt_kind_tests::scenario::shunt_binary;

use crate::rig::{NODE, POD, Rig, VIP, WEB};

/// The ways out that are told.
const WAYS_OUT: [&str; 2] = ["--proxy-mode=nftables", "--ipvs-fallback=nftables"];

/// The name of the netlink family would have the kernel load IPVS: the file does not.
fn here() -> bool {
    Path::new("/proc/net/ip_vs").exists()
}

#[test]
fn it_ends_and_says_what_to_do() -> Result<()> {
    if here() {
        return Ok(());
    }
    ends(&["has no IPVS", "load ip_vs"])
}

#[test]
fn nftables_serves_in_its_place_if_it_may() -> Result<()> {
    if here() {
        return Ok(());
    }
    nftables_serves("has no IPVS")
}

/// The daemon ends with the code for machines that lack something, says this and the ways out, and writes nothing.
fn ends(parts: &[&str]) -> Result<()> {
    let rig = Rig::new()?;
    let mut command = Command::new(shunt_binary()?);
    command.args(["run", "--manifests", "/tmp", "--node-name", NODE, "--proxy-mode=ipvs"]);
    let output = rig.cluster.host(NODE)?.netns().run(move || command.output())?;
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    ensure!(output.status.code() == Some(3), "{}: {said}", output.status);
    for part in parts.iter().chain(&WAYS_OUT) {
        ensure!(said.contains(part), "{part} is not in: {said}");
    }
    ensure!(rig.on_node(&["nft", "list", "ruleset"])?.is_empty(), "something was written");
    Ok(())
}

/// With the fallback the Service is served, and it is told why not by IPVS.
fn nftables_serves(lack: &str) -> Result<()> {
    let mut rig = Rig::new()?;
    rig.write("", &["web-1"])?;
    rig.start(&["--proxy-mode=ipvs", "--ipvs-fallback=nftables"])?;
    ensure!(rig.asks(POD, &format!("{VIP}:80"))? == "web-1");
    let problems = rig.problems()?;
    let told = |text: &String| text.contains("in place of IPVS") && text.contains(lack);
    ensure!(problems.iter().any(told), "{problems:?}");
    ensure!(rig.get("/proxyMode")? == "nftables");
    Ok(())
}

/// A module that this guest's kernel is kept from loading, while this lives.
struct Forbidden(PathBuf);

impl Forbidden {
    fn new(module: &str) -> Result<Self> {
        ensure!(Clock::of_this_guest().is_some(), "not on the host");
        let loaded = Path::new("/sys/module").join(module).exists();
        ensure!(!loaded, "{module} is there already");
        let path = PathBuf::from(format!("/etc/modprobe.d/without-{module}.conf"));
        fs::write(&path, format!("install {module} /bin/false\n"))?;
        Ok(Self(path))
    }
}

impl Drop for Forbidden {
    fn drop(&mut self) {
        // The guest goes anyway.
        let _ = fs::remove_file(&self.0);
    }
}

/// On a kernel with modules.
pub(super) mod modules {
    use super::*;

    #[test]
    #[ignore = "needs Debian's kernel before it has loaded anything; a test runs it in the guest"]
    fn each_that_is_missing_is_told_of_and_then_all_is_served() -> Result<()> {
        for (module, lack, way_out) in [
            ("ip_vs", "has no IPVS", "load ip_vs"),
            ("dummy", "has no dummy devices", "load the module dummy"),
        ] {
            let _forbidden = Forbidden::new(module)?;
            ends(&[lack, way_out])?;
            nftables_serves(lack)?;
        }
        let _forbidden = Forbidden::new("ip_vs_wlc")?;
        let mut rig = Rig::new()?;
        rig.write("shunt.dev/ipvs-scheduler: wlc", &["web-1"])?;
        rig.start(&["--proxy-mode=ipvs"])?;
        ensure!(rig.asks(POD, &format!("{VIP}:80"))? == "web-1");
        let problems = rig.problems()?;
        let told = |text: &String| text.contains("no IPVS scheduler wlc; rr is used");
        ensure!(problems.iter().any(told), "{problems:?}");
        rig.expect(WEB, &[("web-1", 1)])
    }
}
