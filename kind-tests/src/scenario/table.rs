//! What the kernel of a node holds: compared with a plan, read by the library and by stock `nft`.

use std::process::Command;

use anyhow::{Context, Result, ensure};
use shunt_cluster::Netns;
use shunt_model::plan::Plan;
use shunt_nftables::diff::{Operation, diff};
use shunt_nftables::kernel::{Inventory, inventory};
use shunt_nftables::lower::{References, Wanted};
use shunt_nftables::name::{SetId, SetKind, TABLE};

use super::flow::Flow;

/// How many differences a failure shows.
const DIFFERENCES: usize = 20;
/// nft 1.0.6 prints `update @map` as text, but not as JSON.
const NO_JSON: &str = "warning: stmt ops map have no json callback";
/// How long a table may be to be shown as a whole.
const SHORT: usize = 160;

/// What the kernel holds.
pub(super) fn read(netns: &Netns) -> Result<Inventory> {
    netns.run(inventory).with_context(|| format!("reading the nftables of {}", netns.name()))
}

/// What differs between a plan and what the kernel holds, for people; nothing when the kernel holds just the plan.
pub(super) fn differences(plan: &Plan, held: &Inventory) -> Vec<String> {
    if !held.table.as_ref().is_some_and(|table| table.fit) {
        return vec![format!("there is no table {TABLE}, or none of this release")];
    }
    let references = References::new(held.installed.forwarding).taking(plan, &held.installed);
    let wanted = Wanted::full(plan, &references, &held.installed);
    let steps = diff(&wanted, &held.installed);
    // A test does not know loopback and link-local addresses.
    let known = |operation: &&Operation| match operation {
        Operation::Add(element) => element.set.kind != SetKind::OwnAddresses,
        Operation::Delete(set, _) => set.kind != SetKind::OwnAddresses,
        _ => true,
    };
    let missing = steps.in_order().flatten().filter(known).take(DIFFERENCES);
    missing.map(|operation: &Operation| format!("{operation:?}")).collect()
}

/// What is left of Services in the table.
pub(super) fn leftovers(held: &Inventory) -> Vec<String> {
    let elements = held.installed.elements().filter(|element| !is_of_the_node(element.set.kind));
    elements.map(|element| format!("{element:?}")).collect()
}

/// Whether a set is about the node, not about Services: its addresses, and the networks of its pods (where nothing is
/// known of those, the network of everyone).
fn is_of_the_node(kind: SetKind) -> bool {
    matches!(
        kind,
        SetKind::NodeAddresses
            | SetKind::OwnAddresses
            | SetKind::LocalSources
            | SetKind::LocalPods
            | SetKind::LocalInterfaces
            | SetKind::ServiceNetworks
            | SetKind::BlindLinks
    )
}

/// The whole ruleset, as stock `nft` prints it.
pub(super) fn list(netns: &Netns) -> Result<String> {
    nft(netns, &["list", "ruleset"])
}

/// What is left of Services in the table as stock `nft` sees it.
pub(super) fn listed_elements(netns: &Netns) -> Result<Vec<String>> {
    let text = nft(netns, &["-j", "list", "table", "inet", TABLE])?;
    let listing: serde_json::Value = serde_json::from_str(&text).context("what nft -j prints")?;
    let objects = listing["nftables"].as_array().context("nft -j without objects")?;
    let mut elements = Vec::new();
    for set in objects.iter().filter_map(|object| object.get("set").or_else(|| object.get("map"))) {
        let name = set["name"].as_str().unwrap_or_default();
        // What the kernel remembers of clients ends in time, not with the Service.
        let stays = |set: SetId| is_of_the_node(set.kind) || set.is_dynamic();
        if !SetId::parse(name).is_some_and(stays) {
            let each = set["elem"].as_array().into_iter().flatten();
            elements.extend(each.map(|element| format!("{name}: {element}")));
        }
    }
    Ok(elements)
}

/// The part of a ruleset that concerns a flow.
pub(super) fn excerpt(ruleset: &str, flow: &Flow) -> String {
    let lines: Vec<_> = ruleset.lines().collect();
    if lines.len() <= SHORT {
        return ruleset.to_owned();
    }
    let (address, port) = (flow.to.ip().to_string(), format!(". {} ", flow.to.port()));
    let concerns = |line: &&&str| line.contains(&address) || line.contains(&port);
    lines.iter().filter(concerns).copied().collect::<Vec<_>>().join("\n")
}

/// Runs stock `nft`, which must not complain, and returns what it prints.
pub(super) fn nft(netns: &Netns, arguments: &[&str]) -> Result<String> {
    let mut command = Command::new("nft");
    command.args(arguments);
    let output = netns.run(move || command.output()).context("starting nft")?;
    let error = String::from_utf8_lossy(&output.stderr);
    ensure!(
        output.status.success(),
        "on {}, nft {arguments:?}: {}: {error}",
        netns.name(),
        output.status
    );
    let unknown = error.lines().any(|line| !line.is_empty() && line != NO_JSON);
    ensure!(!unknown, "on {}, nft {arguments:?} complains: {error}", netns.name());
    Ok(String::from_utf8_lossy(&output.stdout).into_owned())
}
