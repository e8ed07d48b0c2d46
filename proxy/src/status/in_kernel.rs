//! What the kernel holds, in the words of the status.

use shunt_model::address::FrontendAddress;
use shunt_nftables::element::{Place, Target, View};
use shunt_nftables::installed::Installed;
use shunt_nftables::kernel::{Error, TableState, inventory};

use super::FrontendRow;

/// What the kernel holds.
#[derive(Clone, Debug, Default, PartialEq)]
pub(super) struct InKernel {
    /// The table, in one clause.
    pub(super) table: String,
    /// Its frontends, sorted by Service.
    pub(super) rows: Vec<FrontendRow>,
}

/// Reads the kernel.
///
/// # Errors
/// If it cannot be read.
pub(super) fn read() -> Result<InKernel, Error> {
    let inventory = inventory()?;
    let installed = &inventory.installed;
    let mut rows: Vec<_> =
        installed.frontends.keys().filter_map(|place| row(place, installed)).collect();
    rows.sort_unstable_by(|a, b| {
        (&a.namespace, &a.name, &a.frontend).cmp(&(&b.namespace, &b.name, &b.frontend))
    });
    Ok(InKernel { table: inventory.table.as_ref().map_or("none".into(), describe), rows })
}

fn describe(table: &TableState) -> String {
    let fit = if table.fit { "inet shunt" } else { "inet shunt of another release" };
    match (table.owned, table.owner) {
        (true, 0) => format!("{fit}, closed to other writers, its owner has ended"),
        (true, port) => format!("{fit}, owned by netlink port {port}, closed to other writers"),
        (false, _) => format!("{fit}, open to other writers"),
    }
}

/// One frontend. Of the Service the kernel only knows the comment: namespace/name:port.
fn row(place: &Place, installed: &Installed) -> Option<FrontendRow> {
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
        Target::Refuse => ("reject", 0),
        Target::Guard | Target::Drop => ("drop", 0),
    };
    let mut endpoints: Vec<_> = held.slots.iter().take(slots).flatten().copied().collect();
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
    })
}
