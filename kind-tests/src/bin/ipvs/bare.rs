//! The same without a daemon: the floor under a first load.

use std::net::Ipv4Addr;
use std::time::Instant;

use anyhow::{Context, Result, ensure};
use ipvs_rs::{Ipvs, Request};
use serde::{Deserialize, Serialize, de::DeserializeOwned};
use serde_json::Value;
use shunt::source::convert::{Converter, Wire};
use shunt::source::wire;
use shunt_cluster::Netns;
use shunt_kind_tests::control_plane::expect;
use shunt_model::plan::Plan;
use shunt_model::problem::Kind;
use shunt_model::snapshot::{Change, Object, Snapshot};
use shunt_netlink::{Message, Socket};
use shunt_nftables::forwarding::Forwarding;
use shunt_nftables::kernel::floor::{Spread, bare_load};
use shunt_nftables::kernel::inventory;

use crate::world::{ENDPOINTS, NODE, cluster_ip, node_object, pod, service, slice};

const DEVICE: &str = "kube-ipvs0";

/// The same requests and the same table without a daemon.
#[derive(Clone, Copy, Debug, Serialize, Deserialize)]
pub(crate) struct Bare {
    /// How many to IPVS, and how long they took.
    pub(crate) requests: usize,
    pub(crate) ipvs_ms: f64,
    /// How many addresses came to the device, and how long that took.
    pub(crate) addresses: usize,
    pub(crate) addresses_ms: f64,
    /// How many elements came to the nftables table beside them, and how long that took, the making of the table
    /// included.
    pub(crate) elements: usize,
    pub(crate) table_ms: f64,
}

/// Repeats in a namespace of its own what a node's IPVS, device and table have been told. All messages are made
/// beforehand.
pub(crate) fn measure(node: &Netns, services: usize) -> Result<Bare> {
    let requests = requests(node, services)?;
    let netns = Netns::new("bare")?;
    netns.links().add("dummy", DEVICE)?;
    let device = netns.links().index(DEVICE)?;
    let mut ipvs = netns.run(Ipvs::open)?;
    let began = Instant::now();
    ipvs.submit(&requests)?;
    let ipvs_ms = began.elapsed().as_secs_f64() * 1e3;
    let addresses: Vec<_> =
        (0..services).map(|number| new_address(device, cluster_ip(number))).collect();
    let count = addresses.len();
    let mut socket = netns.run(|| Socket::open(nix::libc::NETLINK_ROUTE))?;
    let began = Instant::now();
    let refused = socket.submit(addresses)?;
    let addresses_ms = began.elapsed().as_secs_f64() * 1e3;
    ensure!(refused.is_empty(), "addresses are refused: {:?}", refused.first());
    let (elements, table_ms) = table(node, &netns, services)?;
    Ok(Bare {
        requests: requests.len(),
        ipvs_ms,
        addresses: count,
        addresses_ms,
        elements,
        table_ms,
    })
}

/// What the node's IPVS has been told.
fn requests(node: &Netns, services: usize) -> Result<Vec<Request>> {
    let mut requests = Vec::new();
    let mut of_node = node.run(Ipvs::open)?;
    for service in of_node.services()? {
        let key = service.key;
        requests.push(Request::AddService(service));
        let servers = of_node.destinations(&key)?;
        requests.extend(servers.into_iter().map(|server| Request::AddDestination(key, server)));
    }
    ensure!(requests.len() == services * (1 + ENDPOINTS), "{} requests", requests.len());
    Ok(requests)
}

/// Loads the node's table; how many elements, and how many milliseconds.
fn table(node: &Netns, bare: &Netns, services: usize) -> Result<(usize, f64)> {
    let plan = plan(services)?;
    let load = bare.run(move || bare_load(&plan, Forwarding::VirtualServers, Spread::Bounded))?;
    let frontends =
        |netns: &Netns| Ok::<_, anyhow::Error>(netns.run(inventory)?.installed.frontends);
    ensure!(frontends(bare)? == frontends(node)?, "the bare table is another than the node's");
    Ok((load.operations, load.send.as_secs_f64() * 1e3))
}

/// The plan of the node.
fn plan(services: usize) -> Result<Plan> {
    let mut snapshot = Snapshot::new();
    let numbers = 0..services;
    let slices = numbers.clone().map(|number| slice(number, pod(number, 0)));
    list::<wire::Service>(&mut snapshot, Kind::Service, numbers.map(service))?;
    list::<wire::EndpointSlice>(&mut snapshot, Kind::EndpointSlice, slices)?;
    list::<wire::Node>(&mut snapshot, Kind::Node, [node_object()])?;
    list::<wire::ServiceCidr>(&mut snapshot, Kind::ServiceCidr, [])?;
    Ok(expect::plan(NODE, &snapshot))
}

fn list<K: Wire<Object = Object> + DeserializeOwned>(
    snapshot: &mut Snapshot,
    kind: Kind,
    objects: impl IntoIterator<Item = Value>,
) -> Result<()> {
    let mut converter = Converter::new();
    snapshot.apply(Change::ListStarted(kind));
    for object in objects {
        let object: K = serde_json::from_value(object).context("an object of the benchmark")?;
        snapshot.apply(object.convert(&mut converter).into_change());
    }
    snapshot.apply(Change::ListDone(kind));
    Ok(())
}

/// `RTM_NEWADDR` with `struct ifaddrmsg`, `IFA_ADDRESS` and `IFA_LOCAL`.
fn new_address(device: u32, address: Ipv4Addr) -> Message {
    let mut message = Message::new(20, 0x600);
    let mut header = [2, 32, 0, 254, 0, 0, 0, 0];
    header[4..].copy_from_slice(&device.to_ne_bytes());
    message.raw(&header);
    message.bytes(1, &address.octets());
    message.bytes(2, &address.octets());
    message
}
