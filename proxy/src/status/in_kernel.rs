//! What the kernel holds, in the words of the status.

use std::collections::HashMap;
use std::net::IpAddr;

use ipvs_rs::ServiceKey;
use shunt_model::address::{Endpoint, Family, Frontend, FrontendAddress};
use shunt_nftables::element::{Place, Target, View};
use shunt_nftables::forwarding::Forwarding;
use shunt_nftables::installed::Installed;
use shunt_nftables::kernel::{TableState, inventory};

use super::FrontendRow;
use crate::counted::Counted;

/// What the kernel holds.
#[derive(Clone, Debug, Default, PartialEq)]
pub(super) struct InKernel {
    /// The table, in one clause.
    pub(super) table: String,
    /// Its frontends.
    pub(super) rows: Vec<FrontendRow>,
}

/// Reads the kernel.
///
/// # Errors
/// If it cannot be read.
pub(super) fn read() -> anyhow::Result<InKernel> {
    let inventory = inventory()?;
    let Some(table) = &inventory.table else {
        return Ok(InKernel { table: "none".into(), rows: Vec::new() });
    };
    let installed = &inventory.installed;
    let servers = match installed.forwarding {
        Forwarding::Translate | Forwarding::BesideVirtualServers => Servers::default(),
        Forwarding::VirtualServers => virtual_servers()?,
    };
    let known = |frontend: &Frontend| installed.frontends.contains_key(&Place::everyone(*frontend));
    let counted = Counted::read(installed.forwarding == Forwarding::VirtualServers, known)?;
    let rows = installed
        .frontends
        .keys()
        .filter_map(|place| row(place, installed, &servers, &counted))
        .collect();
    Ok(InKernel { table: describe(table), rows })
}

fn describe(table: &TableState) -> String {
    let fit = if table.fit { "inet shunt" } else { "inet shunt of another release" };
    match (table.owned, table.owner) {
        (true, 0) => format!("{fit}, closed to other writers, its owner has ended"),
        (true, port) => format!("{fit}, owned by netlink port {port}, closed to other writers"),
        (false, _) => format!("{fit}, open to other writers"),
    }
}

/// What IPVS has, by protocol and port.
type Servers = HashMap<(u8, u16), Vec<(IpAddr, Endpoint)>>;

fn virtual_servers() -> anyhow::Result<Servers> {
    let mut servers = Servers::new();
    for (key, server) in shunt_ipvs::inventory()?.installed.virtuals {
        let ServiceKey::Address { address, protocol, port } = key else { continue };
        let serving = server.destinations.iter().filter(|(_, there)| there.weight > 0);
        let endpoints =
            serving.map(|(each, _)| Endpoint { address: each.address, port: each.port });
        let held = servers.entry((protocol.0, port)).or_default();
        held.extend(endpoints.map(|endpoint| (address, endpoint)));
    }
    Ok(servers)
}

/// The real servers of a frontend; of a NodePort, those at any address that is no frontend's own.
fn real_servers(frontend: &Frontend, servers: &Servers) -> Vec<Endpoint> {
    let held = servers.get(&(frontend.protocol.number(), frontend.port)).into_iter().flatten();
    let at_it = |(address, _): &&(IpAddr, Endpoint)| match frontend.address {
        FrontendAddress::Ip(own) => own == *address,
        FrontendAddress::Node(family) => family == Family::of(*address),
    };
    held.filter(at_it).map(|(_, endpoint)| *endpoint).collect()
}

/// One frontend. Of the Service the kernel only knows the comment: namespace/name:port.
fn row(
    place: &Place,
    installed: &Installed,
    servers: &Servers,
    counted: &Counted,
) -> Option<FrontendRow> {
    let held = installed.frontends.get(place)?;
    let (mut target, comment) = held.verdict.clone()?;
    if target == Target::Guard {
        // What those meet who are allowed draws from these slots.
        let allowed = Place { view: View::Allowed, ..*place };
        target = installed.frontends.get(&allowed)?.verdict.as_ref()?.0;
    }
    if place.view == View::Allowed {
        return None;
    }
    let (service, port) = comment.split_once(':').unwrap_or((&*comment, ""));
    let (namespace, name) = service.split_once('/').unwrap_or(("", service));
    let (action, slots) = match target {
        Target::OutsidePool(draw) if draw.slots == 0 => ("drop", 0),
        Target::Pool(draw) | Target::OutsidePool(draw) => ("forward", draw.slots as usize),
        Target::Virtual | Target::OutsideVirtual => ("forward", 0),
        Target::Refuse => ("reject", 0),
        Target::Guard | Target::Drop => ("drop", 0),
    };
    let remembered = held.sticky.iter().flat_map(|sticky| sticky.endpoints.values().copied());
    let drawn = held.slots.iter().take(slots).flatten();
    let mut endpoints: Vec<_> = match target.draw().and_then(|draw| draw.affinity) {
        Some(_) => remembered.collect(),
        None => drawn.collect(),
    };
    if matches!(target, Target::Virtual | Target::OutsideVirtual) {
        endpoints = real_servers(&place.frontend, servers);
    }
    endpoints.sort_unstable();
    endpoints.dedup();
    Some(FrontendRow {
        namespace: namespace.into(),
        name: name.into(),
        port: port.into(),
        kind: match place.frontend.address {
            FrontendAddress::Ip(_) => String::new(),
            FrontendAddress::Node(_) => "NodePort".into(),
        },
        frontend: super::met_by(&place.frontend, place.view == View::Inside),
        action: action.into(),
        masquerade: String::new(),
        endpoints: endpoints.iter().map(ToString::to_string).collect(),
        connections: counted.frontend(place),
        endpoint_connections: endpoints
            .iter()
            .filter_map(|each| Some((each.to_string(), counted.endpoint(place, *each)?)))
            .collect(),
    })
}
