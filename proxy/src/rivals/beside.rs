//! A kube-proxy that starts beside the running daemon: it is known by what it makes in nf_tables, in each of its modes.
//!
//! Two tables and two chains are asked for by their names, so a look costs the same whatever else is in the kernel. Nothing
//! of the other proxy's is touched: who goes back to kube-proxy starts it like this.

use std::time::Duration;

use shunt_nftables::ruleset::{self, Part, TableName};
use tokio::sync::mpsc::Sender;
use tokio::time::sleep;
use tracing::debug;

use super::{FAMILIES, TABLE, running};
use crate::source::SourceEvent;

/// How often it is looked for.
const LOOK: Duration = Duration::from_secs(10);
/// The table of iptables, and the chain in it, that kube-proxy has in iptables and in IPVS mode.
const IPTABLES: (&str, &str) = ("nat", "KUBE-SERVICES");

/// Tells what there is of a second proxy whenever that has changed; returns when nobody listens.
pub(super) async fn watch(out: Sender<SourceEvent>) {
    let signs = signs();
    let mut told = None;
    while !out.is_closed() {
        match look(&signs).await {
            Ok(found) if told == found => {}
            Ok(found) => {
                told.clone_from(&found);
                if out.send(SourceEvent::SecondProxy(found)).await.is_err() {
                    return;
                }
            }
            // What cannot be read is as it was.
            Err(error) => debug!("another proxy's rules cannot be looked for: {error:#}"),
        }
        tokio::select! {
            () = sleep(LOOK) => {}
            () = out.closed() => return,
        }
    }
}

/// What kube-proxy makes.
fn signs() -> Vec<Part> {
    let table = |family, name: &str| TableName { family, name: name.into() };
    let (nat, chain) = IPTABLES;
    let tables = FAMILIES.map(|family| Part::Table(table(family, TABLE)));
    let chains = FAMILIES.map(|family| Part::Chain(table(family, nat), chain.into()));
    tables.into_iter().chain(chains).collect()
}

/// What there is of a second proxy, in words.
async fn look(signs: &[Part]) -> anyhow::Result<Option<String>> {
    let found = ruleset::present(signs)?;
    if found.is_empty() {
        return Ok(None);
    }
    // To read all of /proc is work, and done only now.
    let process = tokio::task::spawn_blocking(running::of_the_same_namespace).await?;
    Ok(Some(words(&found, process)))
}

fn words(found: &[Part], process: Option<u32>) -> String {
    let parts: Vec<_> = found.iter().map(ToString::to_string).collect();
    let parts = parts.join(", ");
    let who = process.map_or_else(String::new, |pid| format!(", which runs as process {pid}"));
    format!(
        "beside this shunt there are rules of kube-proxy{who}: {parts}: a Service must have one \
         proxy; remove kube-proxy from this node and then restart shunt here, which takes away \
         what it has left"
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_there_is_named_and_who_made_it_where_that_is_seen() {
        let found = &signs()[1..3];
        let text = words(found, Some(7));
        let start = "beside this shunt there are rules of kube-proxy, which runs as process 7: \
                     table ip6 kube-proxy, table ip nat chain KUBE-SERVICES: a Service";
        assert!(text.starts_with(start), "{text}");
        let text = words(found, None);
        assert!(text.starts_with("beside this shunt there are rules of kube-proxy: table ip6"));
    }
}
