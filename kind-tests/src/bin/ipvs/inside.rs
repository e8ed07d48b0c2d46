//! What happens in the guest: a node each for shunt, for kube-proxy and for the bare requests.

use std::hint::black_box;
use std::net::{IpAddr, Ipv4Addr};
use std::path::Path;
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use ipvs_rs::{Ipvs, Protocol, ServiceKey};
use serde::{Deserialize, Serialize};
use shunt::status::Status;
use shunt_cluster::Netns;
use shunt_kind_tests::kube_proxy::{Api, KubeProxy, Mode};
use shunt_kind_tests::scenario::daemon::{self, Daemon};

use crate::bare::{self, Bare};
use crate::world::{ENDPOINTS, NODE, cluster_ip, node, slice};

/// How much of the guest's memory is used before anything is measured, in bytes.
const WARM: usize = 2 << 30;
const CIDR: &str = "--cluster-cidr=10.128.0.0/9";
/// The longest that a first sync may take. kube-proxy starts an `ipset` for each Service; where that is not enough
/// it is told how far it came.
const START: Duration = Duration::from_secs(600);
/// The longest that one change may take.
const CHANGE: Duration = Duration::from_secs(300);
/// The longest that all changes of kube-proxy may take, and the most of them.
const KUBE_PROXY_CHANGES: (Duration, usize) = (Duration::from_secs(60), 20);
/// Between two changes: so that each is alone, the API server's part in the one before included.
const PAUSE: Duration = Duration::from_millis(15);
/// Between two questions to IPVS. It has the same processor as what it waits for.
const LOOK: Duration = Duration::from_micros(250);
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
    pub(crate) event_max_ms: f64,
    pub(crate) changes_that_read: usize,
    /// After the changes.
    pub(crate) resident_bytes: u64,
}

#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct KubeProxys {
    pub(crate) start: Started,
    pub(crate) changes_ms: Vec<f64>,
}

/// How far a start came in the time that it had.
#[derive(Clone, Copy, Debug, Serialize, Deserialize)]
pub(crate) enum Started {
    /// It was done.
    Synced { ms: f64 },
    /// It was not, and IPVS had so many virtual servers.
    Unfinished { ms: f64, servers: usize },
}

/// Measures all.
pub(crate) fn measure(shunt: &Path, effort: Effort) -> Result<Results> {
    warm_up();
    let files = tempfile::Builder::new().prefix("shunt-ipvs-bench-").tempdir()?;
    let (shunt, bare) = measure_shunt(shunt, effort, files.path())?;
    let measured = effort.with_kube_proxy.then(|| measure_kube_proxy(effort, files.path()));
    // That it is too slow is a figure too.
    let kube_proxy =
        measured.and_then(|done| done.inspect_err(|error| eprintln!("ipvs: {error:#}")).ok());
    Ok(Results { services: effort.services, endpoints: ENDPOINTS, bare, shunt, kube_proxy })
}

/// The host gives the guest a page when it is used for the first time, which takes longer than most of what is
/// measured: who comes first would pay for those after it.
fn warm_up() {
    black_box(vec![1u8; WARM]);
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
        // It tells its own times: who asks often only takes the processor.
        thread::sleep(Duration::from_millis(500));
    };
    let bare = bare::measure(&netns, effort.services)?;
    let mut changes_ms = Vec::new();
    let mut changes_that_read = 0;
    for turn in 0..effort.changes {
        thread::sleep(PAUSE);
        changes_ms.push(change(&netns, &api, effort, turn)?);
        // What it still does for this change is not to wait for its own answer, nor the next change for that.
        thread::sleep(PAUSE);
        let status = daemon.status()?.context("no answer")?;
        let last = status.last_sync.context("no sync")?;
        // On a busy machine it may not have told of this change yet; the first sync has read.
        changes_that_read += usize::from(last.reason != "first" && last.read_ms > 0.0);
    }
    let Status { event_to_commit_us: latency, resident_bytes, .. } =
        daemon.status()?.context("no answer")?;
    let shunt = Shunt {
        synced_ms: first.synced_ms,
        commit_ms: first.commit_ms,
        diff_ms: first.diff_ms,
        changes_ms,
        event_p50_ms: f64::from(latency.p50) / 1e3,
        event_p99_ms: f64::from(latency.p99) / 1e3,
        event_max_ms: f64::from(latency.max) / 1e3,
        changes_that_read,
        resident_bytes,
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
    let start = loop {
        process.check_running()?;
        let ms = started.elapsed().as_secs_f64() * 1e3;
        if is_synced(&netns) {
            break Started::Synced { ms };
        }
        if started.elapsed() > START {
            let servers = netns.run(Ipvs::open)?.services()?.len();
            break Started::Unfinished { ms, servers };
        }
        thread::sleep(Duration::from_millis(200));
    };
    let mut changes_ms = Vec::new();
    let (time, most) = KUBE_PROXY_CHANGES;
    let most = if matches!(start, Started::Synced { .. }) { most.min(effort.changes) } else { 0 };
    let began = Instant::now();
    while began.elapsed() < time && changes_ms.len() < most {
        thread::sleep(2 * PAUSE);
        changes_ms.push(change(&netns, &api, effort, changes_ms.len())?);
    }
    process.kill()?;
    Ok(KubeProxys { start, changes_ms })
}

/// Whether kube-proxy has done its first sync, of both families.
fn is_synced(netns: &Netns) -> bool {
    let metrics = daemon::get(netns, "/metrics").unwrap_or_default();
    let times = metrics.lines().filter(|line| line.starts_with(LAST_SYNC));
    let times = times.filter_map(|line| line.rsplit(' ').next()?.parse::<f64>().ok());
    let times: Vec<_> = times.collect();
    times.len() == 2 && times.iter().all(|at| *at > 0.0)
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
        thread::sleep(LOOK);
    }
    bail!("{fresh} does not come to {key}")
}
