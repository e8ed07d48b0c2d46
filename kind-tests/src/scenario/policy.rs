//! What network policy says of a flow, by the oracle of `shunt-netpolicy`, and what the kernel must hold of it.

use std::net::{IpAddr, SocketAddr};

use anyhow::{Context, Result};
use shunt::source::local::addresses;
use shunt_cluster::{Netns, Protocol};
use shunt_model::address::{self, Endpoint};
use shunt_netpolicy::compile::full;
use shunt_netpolicy::object::Direction;
use shunt_netpolicy::oracle::{Ruling, explain};
use shunt_netpolicy::snapshot::Snapshot;
use shunt_netpolicy::table::Packet;
use shunt_netpolicy_nftables::installed::Installed;
use shunt_netpolicy_nftables::kernel::inventory;
use shunt_netpolicy_nftables::lower::Beside;
use shunt_netpolicy_nftables::name::SetId;
use shunt_netpolicy_nftables::text::fresh;

use super::oracle::Plans;
use super::setup::Setup;

/// How many differences a failure shows.
const DIFFERENCES: usize = 20;

/// Who asks, by what, and whom.
pub(super) type Way<'a> = (&'a str, Protocol, SocketAddr);

/// Why policy drops a flow on its way to an endpoint; nothing if it does not. `hidden_by` is the node that masquerades
/// it on the way.
pub(super) fn denies(
    (from, protocol, to): Way<'_>,
    endpoint: Endpoint,
    hidden_by: Option<&str>,
    plans: &Plans,
    setup: &Setup,
) -> Result<Option<String>> {
    let source = setup.names.host_like(from, to.ip())?;
    let target = setup.names.host_of(endpoint.address).and_then(|host| setup.node_of(host));
    // Only another node sees whom the first one has put in the client's place.
    let seen = match hidden_by.filter(|node| Some(*node) != target) {
        Some(node) => setup.names.host_like(node, endpoint.address)?,
        None => source,
    };
    let protocol = match protocol {
        Protocol::Tcp => address::Protocol::Tcp,
        Protocol::Udp => address::Protocol::Udp,
        Protocol::Sctp => address::Protocol::Sctp,
    };
    let packet = |source: IpAddr, node: Option<&str>| Packet {
        source,
        destination: endpoint.address,
        protocol: protocol.number(),
        port: endpoint.port,
        from_node: node.is_some_and(|node| setup.addresses_of(node).any(|own| own == source)),
    };
    let ends =
        [(Direction::Egress, setup.node_of(from), source), (Direction::Ingress, target, seen)];
    for (direction, node, source) in ends {
        let Some(state) = node.and_then(|node| plans.get(node)) else { continue };
        let rulings = explain(state.policy.store(), &packet(source, node));
        for (of, ruling) in rulings {
            if of == direction && !ruling.accepts() {
                return Ok(Some(describe(direction, &ruling)));
            }
        }
    }
    Ok(None)
}

fn describe(direction: Direction, ruling: &Ruling) -> String {
    let by = match ruling {
        Ruling::Denied { policies } => {
            policies.iter().map(ToString::to_string).collect::<Vec<_>>().join(", ")
        }
        Ruling::Decided { policy, rule, .. } => format!("rule {rule} of {policy}"),
        ruling => return format!("{ruling:?}"),
    };
    format!("{} is denied by {by}", direction.word())
}

/// What differs between policy and what the kernel of a node holds of it.
pub(super) fn differences(node: &str, policy: &Snapshot, netns: &Netns) -> Result<Vec<String>> {
    let held = netns.run(inventory).with_context(|| format!("reading the policy of {node}"))?;
    let mut held = held.unwrap_or_default();
    let own = netns.run(addresses).with_context(|| format!("reading the addresses of {node}"))?;
    let mut policy = policy.clone();
    policy.put_machine(&node.into(), own);
    let table = full(node, policy.store());
    let wanted = if table.locals.is_empty() {
        Installed::default()
    } else {
        fresh(&table, &Beside::default())
    };
    // The machine's addresses, and whose connections are watched, follow from more than the objects.
    held.elements.retain(|(set, _), _| !matches!(set, SetId::Own(_) | SetId::Watched(_)));
    let missing =
        wanted.elements.iter().filter(|(key, value)| held.elements.get(key) != Some(value));
    let missing = missing.map(|element| format!("policy lacks {element:?}"));
    let more = held.elements.iter().filter(|(key, _)| !wanted.elements.contains_key(key));
    let more = more.map(|element| format!("policy has {element:?}"));
    let mut differences: Vec<_> = missing.chain(more).take(DIFFERENCES).collect();
    if held.networks.values().flatten().ne(wanted.networks.values().flatten()) {
        differences.push(format!("policy has {:?}, not {:?}", held.networks, wanted.networks));
    }
    Ok(differences)
}
