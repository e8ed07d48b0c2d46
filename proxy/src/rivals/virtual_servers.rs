//! The virtual servers of kube-proxy's IPVS mode: they leave once their connections have ended.
//!
//! New connections are ours from the first sync on: our table translates them before IPVS sees
//! them, or IPVS has taken over what stands at the same address. So those that there are only get
//! fewer.

use std::collections::HashSet;
use std::time::{Duration, Instant};

use ipvs_rs::{Protocol as IpProtocol, ServiceKey};
use shunt_conntrack::filter::Filter;
use shunt_conntrack::kernel::Conntrack;
use shunt_ipvs::kube_proxy::{KubeProxy, Leaving, Scope};
use shunt_model::address::{Family, Protocol};
use tracing::info;

/// How long a connection may take to be established, or to say its last word: IPVS does not tell
/// these from connections that have ended.
const SETTLED: Duration = Duration::from_secs(10);
/// How often it is looked for connections.
const LOOK: Duration = Duration::from_secs(2);

/// Takes the virtual servers, addresses and ipsets of a former proxy away. Returns only when they
/// are gone, which is when the last connection through them has ended.
///
/// # Errors
/// If the kernel refuses.
pub(super) async fn retire(scope: &Scope) -> anyhow::Result<()> {
    let began = Instant::now();
    let mut told = false;
    let of = scope.clone();
    tokio::task::spawn_blocking(move || KubeProxy::find(of)?.steer()).await??;
    loop {
        let (scope, settled) = (scope.clone(), began.elapsed() >= SETTLED);
        let look = tokio::task::spawn_blocking(move || look(scope, settled));
        match look.await?? {
            Look::Nothing if !told => return Ok(()),
            Look::Nothing => {
                info!(seconds = began.elapsed().as_secs(), "kube-proxy's IPVS is removed");
                return Ok(());
            }
            Look::Left { virtual_servers, connections, addresses } if !told && settled => {
                told = true;
                info!(
                    virtual_servers,
                    connections,
                    addresses,
                    "connections through kube-proxy's IPVS or of the node from its addresses, or \
                     rules that use its ipsets; it goes when they have gone"
                );
            }
            Look::Left { .. } => told |= settled,
            Look::Removed => told = true,
        }
        tokio::time::sleep(LOOK).await;
    }
}

/// What one look has found and done.
enum Look {
    /// Nothing is there.
    Nothing,
    /// What was there is gone.
    Removed,
    /// This is still there; addresses that the node itself uses.
    Left { virtual_servers: usize, connections: u32, addresses: usize },
}

fn look(scope: Scope, settled: bool) -> anyhow::Result<Look> {
    let mut left_by = KubeProxy::find(scope)?;
    let leaving = left_by.leaving()?;
    let (gone, left): (Vec<_>, Vec<_>) = leaving.into_iter().partition(|each| goes(each, settled));
    if !gone.is_empty() {
        // First, so that the next packet finds its way through our table.
        end_flows(&gone)?;
    }
    let keys: Vec<_> = gone.iter().map(|each| each.key).collect();
    let (removed, addresses) = left_by.remove(&keys)?;
    if !left.is_empty() || addresses > 0 {
        let connections = left.iter().map(|each| each.connections).sum();
        return Ok(Look::Left { virtual_servers: left.len(), connections, addresses });
    }
    let sets = left_by.was_here();
    if left_by.forget()? > 0 {
        return Ok(Look::Left { virtual_servers: 0, connections: 0, addresses: 0 });
    }
    let nothing = removed.virtual_servers + removed.addresses == 0 && !sets;
    Ok(if nothing { Look::Nothing } else { Look::Removed })
}

/// Whether a virtual server can go. A client of UDP that goes on sending is sent our way.
const fn goes(leaving: &Leaving, settled: bool) -> bool {
    leaving.is_udp() || settled && leaving.connections == 0
}

/// Ends what conntrack remembers of UDP to these virtual servers: it would keep the clients'
/// packets from our table.
fn end_flows(gone: &[Leaving]) -> anyhow::Result<()> {
    if !gone.iter().any(Leaving::is_udp) {
        return Ok(());
    }
    let gone: HashSet<_> = gone.iter().map(|each| each.key).collect();
    let mut conntrack = Conntrack::open()?;
    for family in [Family::V4, Family::V6] {
        let flows = conntrack.list(&Filter::all(family, Protocol::Udp), |flow| {
            let (address, port) = (flow.destination.ip(), flow.destination.port());
            let key = ServiceKey::address(address, IpProtocol::UDP, port);
            // What our table translates is not IPVS's.
            !flow.is_destination_translated() && gone.contains(&key)
        })?;
        for flow in flows {
            conntrack.end(&flow)?;
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn connections_are_waited_for_and_udp_is_not() {
        let of = |protocol, connections| Leaving {
            key: ServiceKey::address([10, 96, 0, 1].into(), protocol, 80),
            connections,
        };
        assert!(!goes(&of(IpProtocol::TCP, 0), false), "it may be about to be established");
        assert!(goes(&of(IpProtocol::TCP, 0), true));
        assert!(!goes(&of(IpProtocol::TCP, 1), true));
        assert!(goes(&of(IpProtocol::UDP, 0), false));
    }
}
