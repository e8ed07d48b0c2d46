//! What IPVS and its device hold on a node: compared with a plan, and read by stock `ipvsadm`.

use std::process::Command;

use anyhow::{Context, Result, ensure};
use shunt_cluster::Netns;
use shunt_ipvs::diff::diff;
use shunt_ipvs::lower::Lowering;
use shunt_ipvs::{Inventory, Settings, inventory};
use shunt_model::plan::Plan;

/// What the kernel holds.
pub(super) fn read(netns: &Netns) -> Result<Inventory> {
    netns.run(inventory).with_context(|| format!("reading the IPVS of {}", netns.name()))
}

/// What differs between a plan and what the kernel holds, for people. Real servers that drain are as they shall be.
pub(super) fn differences(plan: &Plan, held: &Inventory) -> Vec<String> {
    let settings = Settings::default();
    let wanted = Lowering::new(settings.clone()).full(plan, &held.installed);
    let steps = diff(&wanted, &held.installed, &settings, 0);
    let requests = steps.prepare.iter().chain(&steps.retire).map(|request| format!("{request:?}"));
    let addresses = steps.announce.iter().map(|address| format!("{address} on the device"));
    let gone = steps.withdraw.iter().map(|address| format!("{address} off the device"));
    requests.chain(addresses).chain(gone).collect()
}

/// After everything was deleted: virtual servers by stock `ipvsadm`, and addresses.
pub(super) fn leftovers(netns: &Netns) -> Result<Vec<String>> {
    let mut command = Command::new("ipvsadm");
    command.args(["--save", "--numeric"]);
    let output = netns.run(move || command.output()).context("starting ipvsadm")?;
    ensure!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let servers = String::from_utf8_lossy(&output.stdout).lines().map(str::to_owned).collect();
    let addresses = read(netns)?.installed.addresses.into_keys().map(|address| address.to_string());
    Ok([servers, addresses.collect::<Vec<_>>()].concat())
}
