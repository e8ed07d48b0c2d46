//! Kernel = plan = API server: the plan from a fresh list of the API, by the daemon's own pure
//! functions, against what is read from the kernel of a node.

use std::fmt::Debug;
use std::time::Duration;

use anyhow::{Context, Result};
use futures::future::try_join4;
use kube::Client;
use kube::api::ListParams;
use serde::de::DeserializeOwned;
use shunt::source::convert::{Converter, Wire};
use shunt::source::wire;
use shunt_cluster::Netns;
use shunt_model::compile::{LocalSources, NodePortAddresses, Settings, full};
use shunt_model::plan::Plan;
use shunt_model::problem::Kind;
use shunt_model::snapshot::{Change, Object, Snapshot};
use shunt_nftables::diff::{Operation, diff};
use shunt_nftables::kernel::inventory;
use shunt_nftables::lower::{References, Wanted};

use super::api::Api;
use super::plane::{CLUSTER_CIDR, Plane};
use super::wait::wait_for;

/// Differences told; there can be thousands.
const TOLD: usize = 8;
/// Patience with daemons that have everything they need.
const SETTLED: Duration = Duration::from_secs(30);

/// What the API server holds. Nothing is left out when it is asked: what shunt's selectors keep
/// away, conversion must leave out as well.
pub fn snapshot(api: &Api) -> Result<Snapshot> {
    let (services, slices, nodes, cidrs) = api.run(|client| async move {
        let converted = try_join4(
            list::<wire::Service>(&client),
            list::<wire::EndpointSlice>(&client),
            list::<wire::Node>(&client),
            list::<wire::ServiceCidr>(&client),
        );
        converted.await
    })?;
    let mut snapshot = Snapshot::new();
    let lists = [
        (Kind::Service, services),
        (Kind::EndpointSlice, slices),
        (Kind::Node, nodes),
        (Kind::ServiceCidr, cidrs),
    ];
    for (kind, changes) in lists {
        snapshot.apply(Change::ListStarted(kind));
        for change in changes {
            snapshot.apply(change);
        }
        snapshot.apply(Change::ListDone(kind));
    }
    Ok(snapshot)
}

async fn list<K>(client: &Client) -> Result<Vec<Change>>
where
    K: Wire<Object = Object> + Clone + Debug + DeserializeOwned,
{
    let mut converter = Converter::new();
    let listed = kube::Api::<K>::all(client.clone()).list(&ListParams::default()).await?;
    Ok(listed.items.iter().map(|object| object.convert(&mut converter).into_change()).collect())
}

/// The plan of a node that runs a [`super::Daemon`].
#[must_use]
pub fn plan(node: &str, snapshot: &Snapshot) -> Plan {
    let networks = CLUSTER_CIDR.split(',').filter_map(|network| network.parse().ok());
    let settings = Settings {
        node_name: node.into(),
        node_port_addresses: NodePortAddresses::Primary,
        local_sources: LocalSources::Cidrs(networks.collect()),
        masquerade_all: false,
        external_ips: true,
        reset_tcp: false,
        localhost_node_ports: false,
    };
    full(&settings, snapshot)
}

/// Compares a plan with the kernel of a node; the inner error tells the first differences.
pub fn compare(node: &Netns, plan: &Plan) -> Result<Result<(), String>> {
    let read = node.run(inventory).context("reading the kernel")?;
    let Some(table) = read.table else { return Ok(Err("there is no table".to_owned())) };
    if !table.fit {
        return Ok(Err("the table has another layout".to_owned()));
    }
    // Which numbers session affinity has given to endpoints depends on what was before.
    let installed = &read.installed;
    let wanted = Wanted::full(plan, &References::of(plan, installed), installed);
    let steps = diff(&wanted, installed);
    let mut differences: Vec<_> = steps.in_order().flatten().map(described).collect();
    if differences.is_empty() {
        return Ok(Ok(()));
    }
    let more = differences.len().saturating_sub(TOLD);
    differences.truncate(TOLD);
    Ok(Err(format!("{}\n(and {more} more)", differences.join("\n"))))
}

/// What the kernel lacks or has too much, by what would have to be done.
fn described(operation: &Operation) -> String {
    match operation {
        Operation::Delete(..) | Operation::DeletePool(_) => format!("too much: {operation:?}"),
        _ => format!("missing: {operation:?}"),
    }
}

/// Waits until the kernels of these nodes hold what the API server asks for; returns the plan of
/// the last of them.
pub fn settle(plane: &Plane, nodes: &[&str]) -> Result<Plan> {
    let mut settled = Plan::default();
    for node in nodes {
        let netns = plane.cluster().host(node)?.netns();
        settled = wait_for(&format!("{node} to hold what the API server says"), SETTLED, || {
            let plan = plan(node, &snapshot(plane.api())?);
            Ok(compare(netns, &plan)?.map(|()| plan))
        })?;
    }
    Ok(settled)
}
