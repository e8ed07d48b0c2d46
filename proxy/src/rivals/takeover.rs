//! Taking away: what kube-proxy has left, and what we have.

use std::fs;
use std::path::Path;
use std::time::Duration;

use anyhow::{Context, bail};
use shunt_ipvs::kube_proxy::Scope;
use shunt_nftables::name::TABLE_COMMENT;
use shunt_nftables::ruleset::{self, Removal, Table};
use tokio::sync::{mpsc, watch};
use tracing::{debug, info, warn};

use super::{beside, leftovers, running, virtual_servers};
use crate::cli;
use crate::config::kube_proxy::HEALTHZ_PORT;
use crate::failure::Failure;
use crate::progress::Health;
use crate::source::SourceEvent;

/// How often it is tried, and after which pause.
const ATTEMPTS: u32 = 10;
const PAUSE: Duration = Duration::from_secs(30);

/// Takes away what kube-proxy has left, once our own rules are installed: its nftables tables and
/// iptables chains, then its IPVS. From then on tells `out` of what comes anew.
pub async fn take_over(
    mut health: watch::Receiver<Health>,
    scope: Scope,
    out: mpsc::Sender<SourceEvent>,
) {
    if health.wait_for(|health| health.synced).await.is_err() {
        return;
    }
    for _ in 0..ATTEMPTS {
        match tokio::task::spawn_blocking(remove_leftovers).await {
            Ok(Ok(())) => break,
            Ok(Err(error)) => warn!("kube-proxy's rules cannot be removed: {error:#}"),
            Err(error) => debug!(%error, "the removal has ended early"),
        }
        tokio::time::sleep(PAUSE).await;
    }
    tell_of_the_rest(Path::new("/"));
    // The last of its connections may take hours.
    tokio::join!(retire(&scope), beside::watch(out));
}

async fn retire(scope: &Scope) {
    for _ in 0..ATTEMPTS {
        match virtual_servers::retire(scope).await {
            Ok(()) => break,
            Err(error) => warn!("kube-proxy's IPVS cannot be removed: {error:#}"),
        }
        tokio::time::sleep(PAUSE).await;
    }
}

fn remove_leftovers() -> anyhow::Result<()> {
    let found = leftovers(&ruleset::read()?);
    if found.is_empty() {
        return Ok(());
    }
    ruleset::remove(&found)?;
    let rest = leftovers(&ruleset::read()?);
    if !rest.is_empty() {
        bail!("{} of its tables and chains have come back", rest.tables.len() + rest.chains.len());
    }
    let (tables, chains) = (found.tables.len(), found.chains.len());
    info!(tables, chains, "kube-proxy's rules are removed: shunt has taken over");
    Ok(())
}

/// Tells what a former proxy may have left that we cannot take away.
fn tell_of_the_rest(root: &Path) {
    for text in rest(root) {
        warn!("{text}");
    }
}

/// What nf_tables does not show of a former proxy, with its remedy. `root` is `/`, but in tests.
pub(crate) fn rest(root: &Path) -> Vec<String> {
    let mut found = Vec::new();
    for (file, command) in
        [("ip_tables_names", "iptables-legacy"), ("ip6_tables_names", "ip6tables-legacy")]
    {
        let names = fs::read_to_string(root.join("proc/net").join(file)).unwrap_or_default();
        let names: Vec<_> = names.split_whitespace().collect();
        if names.contains(&"nat") {
            found.push(format!(
                "{command} has tables ({}), which shunt cannot change (docs/migration.md): if \
                 kube-proxy has written to them, run `{command}-save | grep -v KUBE- | \
                 {command}-restore` on this node, or connections go to endpoints of that time",
                names.join(", ")
            ));
        }
    }
    found
}

/// `shunt cleanup`: takes away all that is ours, and nothing else.
///
/// # Errors
/// If a daemon still runs, or the kernel refuses.
pub fn cleanup() -> Result<(), Failure> {
    let ruleset = ruleset::read().map_err(Failure::machine)?;
    let ours: Vec<_> = ruleset.tables.iter().filter(|table| is_ours(table)).collect();
    if let Some(held) = ours.iter().find(|table| table.owner != 0) {
        let text = anyhow::anyhow!(
            "table {} belongs to a running shunt (netlink port {}): end it first",
            held.name,
            held.owner
        );
        return Err(Failure::Runtime(text));
    }
    if !ours.is_empty() && running::is_ours() {
        let text = anyhow::anyhow!("a running shunt answers at port {HEALTHZ_PORT}: end it first");
        return Err(Failure::Runtime(text));
    }
    let tables: Vec<_> = ours.into_iter().map(|table| table.name.clone()).collect();
    // What forwards goes before what guards it.
    let ipvs = shunt_ipvs::cleanup().context("our virtual servers cannot be removed")?;
    let removal = Removal { tables, chains: Vec::new() };
    ruleset::remove(&removal).context("our tables cannot be removed")?;
    cli::print(&removed(&removal, ipvs))
}

/// What was removed, in words.
fn removed(removal: &Removal, ipvs: shunt_ipvs::Removed) -> String {
    let mut parts: Vec<_> = removal.tables.iter().map(|name| format!("table {name}")).collect();
    if ipvs.virtual_servers + ipvs.addresses > 0 {
        let device = if ipvs.device { " with its device" } else { "" };
        let (servers, addresses) = (ipvs.virtual_servers, ipvs.addresses);
        parts.push(format!("{servers} virtual servers, {addresses} addresses{device}"));
    }
    match parts.as_slice() {
        [] => "nothing of shunt's is there\n".to_owned(),
        parts => format!("removed: {}\n", parts.join(", ")),
    }
}

/// A table of this or another release of shunt: they all carry such a comment.
fn is_ours(table: &Table) -> bool {
    // `NFPROTO_INET`, `NFPROTO_BRIDGE`.
    const FAMILIES: [u8; 2] = [1, 7];
    let maker = TABLE_COMMENT.split(' ').next().unwrap_or(TABLE_COMMENT);
    FAMILIES.contains(&table.name.family)
        && table.name.name.starts_with(maker)
        && table.comment.split(' ').next() == Some(maker)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tables_of_legacy_iptables_are_told_of() {
        let root = tempfile::tempdir().unwrap();
        let net = root.path().join("proc/net");
        fs::create_dir_all(&net).unwrap();
        fs::write(net.join("ip_tables_names"), "").unwrap();
        assert!(rest(root.path()).is_empty());
        fs::write(net.join("ip_tables_names"), "filter\nnat\n").unwrap();
        let told = rest(root.path());
        assert!(told[0].starts_with("iptables-legacy has tables (filter, nat)"), "{told:?}");
    }
}
