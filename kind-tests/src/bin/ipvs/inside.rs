//! What happens in the guest: a node each for shunt, for kube-proxy and for the bare requests.

use std::net::{IpAddr, Ipv4Addr};
use std::path::Path;
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use ipvs_rs::{Ipvs, Protocol, Request, ServiceKey};
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};
use shunt_cluster::Netns;
use shunt_kind_tests::kube_proxy::{Api, KubeProxy, Mode, Objects};
use shunt_kind_tests::scenario::daemon::{self, Daemon};
use shunt_netlink::{Message, Socket};

const NODE: &str = "node-1";
const CIDR: &str = "--cluster-cidr=10.128.0.0/9";
/// Endpoints of each Service.
const ENDPOINTS: usize = 5;
/// The longest that a first sync may take; kube-proxy starts an `ipset` for each Service.
const START: Duration = Duration::from_secs(900);
/// The longest that one change may take.
const CHANGE: Duration = Duration::from_secs(300);
/// The longest that all changes of kube-proxy may take, and the most of them.
const KUBE_PROXY_CHANGES: (Duration, usize) = (Duration::from_secs(60), 20);
const DEVICE: &str = "kube-ipvs0";
/// kube-proxy's own time of its last sync, one for each IP family, 0 before the first.
const LAST_SYNC: &str = "kubeproxy_sync_proxy_rules_last_timestamp_seconds";

/// How much is done.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Effort {
    pub(crate) services: usize,
    pub(crate) changes: usize,
    pub(crate) with_kube_proxy: bool,
}

/// All figures, in milliseconds.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct Results {
    pub(crate) services: usize,
    pub(crate) endpoints: usize,
    pub(crate) bare: Bare,
    pub(crate) shunt: Shunt,
    pub(crate) kube_proxy: Option<KubeProxys>,
}

/// The same requests without a daemon.
#[derive(Clone, Copy, Debug, Serialize, Deserialize)]
pub(crate) struct Bare {
    /// How many to IPVS, and how long they took.
    pub(crate) requests: usize,
    pub(crate) ipvs_ms: f64,
    /// How many addresses came to the device, and how long that took.
    pub(crate) addresses: usize,
    pub(crate) addresses_ms: f64,
}

#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct Shunt {
    /// From the start of the process, and what of it was writing.
    pub(crate) synced_ms: f64,
    pub(crate) commit_ms: f64,
    pub(crate) diff_ms: f64,
    /// Until the kernel shows an endpoint, from the answer of the API server on.
    pub(crate) changes_ms: Vec<f64>,
    /// By its own count, from the event to the end of the last request: half, and 99 of 100.
    pub(crate) event_p50_ms: f64,
    pub(crate) event_p99_ms: f64,
    pub(crate) changes_that_read: usize,
}

#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct KubeProxys {
    pub(crate) synced_ms: f64,
    pub(crate) changes_ms: Vec<f64>,
}

/// Measures all.
pub(crate) fn measure(shunt: &Path, effort: Effort) -> Result<Results> {
    let files = tempfile::Builder::new().prefix("shunt-ipvs-bench-").tempdir()?;
    let (shunt, bare) = measure_shunt(shunt, effort, files.path())?;
    let measured = effort.with_kube_proxy.then(|| measure_kube_proxy(effort, files.path()));
    // That it is too slow is a figure too.
    let kube_proxy =
        measured.and_then(|done| done.inspect_err(|error| eprintln!("ipvs: {error:#}")).ok());
    Ok(Results { services: effort.services, endpoints: ENDPOINTS, bare, shunt, kube_proxy })
}

/// A namespace with a node's address and the API server.
fn node(name: &str, services: usize) -> Result<(Netns, Api)> {
    let netns = Netns::new(name)?;
    netns.links().add("dummy", "eth0")?;
    netns.links().set_up("eth0")?;
    netns.links().add_address("eth0", "192.168.77.11/24".parse()?)?;
    let mut objects = Objects::default();
    objects.add(json!({
        "apiVersion": "v1", "kind": "Node", "metadata": { "name": NODE },
        "status": { "addresses": [{ "type": "InternalIP", "address": "192.168.77.11" }] },
    }));
    for number in 0..services {
        objects.add(service(number));
        objects.add(slice(number, pod(number, 0)));
    }
    let mut api = Api::new(&objects);
    api.serve(&netns)?;
    Ok((netns, api))
}

fn measure_shunt(binary: &Path, effort: Effort, files: &Path) -> Result<(Shunt, Bare)> {
    let (netns, api) = node("shunt", effort.services)?;
    let kubeconfig = files.join("kubeconfig");
    std::fs::write(&kubeconfig, Api::kubeconfig())?;
    let kubeconfig = kubeconfig.display().to_string();
    let run = ["run", "--proxy-mode=ipvs", "--node-name", NODE, "--kubeconfig", &kubeconfig, CIDR];
    let arguments = run.map(str::to_owned);
    let mut daemon = Daemon::start(binary, &arguments, &netns, &files.join("shunt.log"))?;
    let deadline = Instant::now() + START;
    let first = loop {
        let status = daemon.status()?.filter(|status| status.synced);
        if let Some(first) = status.and_then(|status| status.first_sync) {
            break first;
        }
        ensure!(Instant::now() < deadline, "shunt is not synced:\n{}", daemon.log_tail());
        thread::sleep(Duration::from_millis(100));
    };
    let bare = measure_bare(&netns, effort)?;
    let mut changes_ms = Vec::new();
    let mut changes_that_read = 0;
    for turn in 0..effort.changes {
        changes_ms.push(change(&netns, &api, effort, turn)?);
        let status = daemon.status()?.context("no answer")?;
        let last = status.last_sync.context("no sync")?;
        // It may not have told of this change yet; the first sync has read.
        changes_that_read += usize::from(last.reason != "first" && last.read_ms > 0.0);
    }
    let latency = daemon.status()?.context("no answer")?.event_to_commit_us;
    let shunt = Shunt {
        synced_ms: first.synced_ms,
        commit_ms: first.commit_ms,
        diff_ms: first.diff_ms,
        changes_ms,
        event_p50_ms: f64::from(latency.p50) / 1e3,
        event_p99_ms: f64::from(latency.p99) / 1e3,
        changes_that_read,
    };
    daemon.stop()?;
    Ok((shunt, bare))
}

fn measure_kube_proxy(effort: Effort, files: &Path) -> Result<KubeProxys> {
    let (netns, api) = node("kube-proxy", effort.services)?;
    // The last of a flag's values counts.
    let flags = [CIDR, "--proxy-mode=ipvs", "--ipvs-min-sync-period=10ms"].map(str::to_owned);
    let log = files.join("kube-proxy.log");
    let started = Instant::now();
    let mut process = KubeProxy::start(Mode::Nftables, NODE, &flags, &netns, &log)?;
    loop {
        process.check_running()?;
        let metrics = daemon::get(&netns, "/metrics").unwrap_or_default();
        let times = metrics.lines().filter(|line| line.starts_with(LAST_SYNC));
        let times = times.filter_map(|line| line.rsplit(' ').next()?.parse::<f64>().ok());
        let times: Vec<_> = times.collect();
        if times.len() == 2 && times.iter().all(|at| *at > 0.0) {
            break;
        }
        let late = started.elapsed() > START;
        ensure!(!late, "kube-proxy is not synced:\n{}", process.log_tail());
        thread::sleep(Duration::from_millis(200));
    }
    let synced_ms = started.elapsed().as_secs_f64() * 1e3;
    let mut changes_ms = Vec::new();
    let (time, most) = KUBE_PROXY_CHANGES;
    let began = Instant::now();
    while began.elapsed() < time && changes_ms.len() < most.min(effort.changes) {
        changes_ms.push(change(&netns, &api, effort, changes_ms.len())?);
    }
    process.kill()?;
    Ok(KubeProxys { synced_ms, changes_ms })
}

/// Another address for an endpoint of some Service; how long it takes until IPVS has it.
fn change(netns: &Netns, api: &Api, effort: Effort, turn: usize) -> Result<f64> {
    let number = turn * 97 % effort.services;
    let fresh = Ipv4Addr::from(u32::from(Ipv4Addr::new(10, 250, 0, 0)) + u32::try_from(turn)?);
    let mut ipvs = netns.run(Ipvs::open)?;
    let key = ServiceKey::address(cluster_ip(number).into(), Protocol::TCP, 80);
    api.put(slice(number, fresh));
    let began = Instant::now();
    while began.elapsed() < CHANGE {
        let servers = ipvs.destinations(&key)?;
        if servers.iter().any(|each| each.address == IpAddr::V4(fresh) && each.weight > 0) {
            return Ok(began.elapsed().as_secs_f64() * 1e3);
        }
        thread::sleep(Duration::from_micros(100));
    }
    bail!("{fresh} does not come to {key}")
}

/// Repeats in a namespace of its own what a node's IPVS and device have been told.
fn measure_bare(node: &Netns, effort: Effort) -> Result<Bare> {
    let mut requests = Vec::new();
    let mut of_node = node.run(Ipvs::open)?;
    for service in of_node.services()? {
        let key = service.key;
        requests.push(Request::AddService(service));
        let servers = of_node.destinations(&key)?;
        requests.extend(servers.into_iter().map(|server| Request::AddDestination(key, server)));
    }
    ensure!(requests.len() == effort.services * (1 + ENDPOINTS), "{} requests", requests.len());
    let netns = Netns::new("bare")?;
    netns.links().add("dummy", DEVICE)?;
    let device = netns.links().index(DEVICE)?;
    let mut ipvs = netns.run(Ipvs::open)?;
    let began = Instant::now();
    ipvs.submit(&requests)?;
    let ipvs_ms = began.elapsed().as_secs_f64() * 1e3;
    let addresses: Vec<_> =
        (0..effort.services).map(|number| new_address(device, cluster_ip(number))).collect();
    let count = addresses.len();
    let mut socket = netns.run(|| Socket::open(nix::libc::NETLINK_ROUTE))?;
    let began = Instant::now();
    let refused = socket.submit(addresses)?;
    let addresses_ms = began.elapsed().as_secs_f64() * 1e3;
    ensure!(refused.is_empty(), "addresses are refused: {:?}", refused.first());
    Ok(Bare { requests: requests.len(), ipvs_ms, addresses: count, addresses_ms })
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

fn cluster_ip(number: usize) -> Ipv4Addr {
    let number = u32::try_from(number + 1).unwrap_or(u32::MAX);
    Ipv4Addr::from(u32::from(Ipv4Addr::new(10, 96, 0, 0)) + number)
}

fn pod(service: usize, endpoint: usize) -> Ipv4Addr {
    let number = u32::try_from(service * ENDPOINTS + endpoint).unwrap_or(u32::MAX);
    Ipv4Addr::from(u32::from(Ipv4Addr::new(10, 128, 0, 1)) + number)
}

fn service(number: usize) -> Value {
    json!({
        "apiVersion": "v1", "kind": "Service",
        "metadata": { "name": format!("s{number}"), "namespace": "default" },
        "spec": {
            "clusterIP": cluster_ip(number), "clusterIPs": [cluster_ip(number)],
            "ports": [{ "name": "http", "port": 80, "protocol": "TCP", "targetPort": 8080 }],
        },
    })
}

/// The endpoints of a Service; the first one is given.
fn slice(number: usize, first: Ipv4Addr) -> Value {
    let others = (1..ENDPOINTS).map(|endpoint| pod(number, endpoint));
    let endpoints = [first].into_iter().chain(others);
    let endpoints = endpoints.map(|pod| json!({ "addresses": [pod], "nodeName": "elsewhere" }));
    json!({
        "apiVersion": "discovery.k8s.io/v1", "kind": "EndpointSlice", "addressType": "IPv4",
        "metadata": {
            "name": format!("s{number}-1"), "namespace": "default",
            "labels": { "kubernetes.io/service-name": format!("s{number}") },
        },
        "ports": [{ "name": "http", "port": 8080, "protocol": "TCP" }],
        "endpoints": endpoints.collect::<Vec<_>>(),
    })
}
