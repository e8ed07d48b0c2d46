//! What a Service costs on an overlay: the throughput of one connection to a pod of another node, straight to the pod
//! and through a ClusterIP, in turn.

use std::fs;
use std::io::{Read, Write};
use std::net::{SocketAddr, TcpListener};
use std::path::Path;
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, anyhow, ensure};
use serde::Serialize;
use serde_json::json;
use shunt_cluster::{Cluster, ClusterSpec, Netns, Network, NodeSpec};

use crate::scenario::daemon::Daemon;

const NODE: &str = "node-1";
const CLIENT: &str = "client-pod";
const SERVER: &str = "server-pod";
const PORT: u16 = 8080;
const SERVICE: &str = "10.96.0.11";
const SERVICE_PORT: u16 = 80;
/// What is written at a time, in bytes.
const CHUNK: usize = 128 << 10;
const PATIENCE: Duration = Duration::from_secs(30);

/// What was found on a network.
#[derive(Clone, Debug, Serialize)]
pub struct Throughput {
    /// Its name.
    pub network: String,
    /// The median straight to the pod, in Gbit/s.
    pub direct: f64,
    /// The same through a ClusterIP.
    pub service: f64,
    /// The median of what each sample through the Service was of the one before it, straight.
    pub ratio: f64,
}

/// Measures a network with so many pairs of samples.
///
/// # Errors
/// If the network cannot be built here, the daemon does not come up, or a connection breaks.
pub fn measure(network: Network, shunt: &Path, pairs: usize, each: Duration) -> Result<Throughput> {
    let cluster = Cluster::build(&ClusterSpec {
        nodes: vec![NodeSpec::new(NODE, &[CLIENT]), NodeSpec::new("node-2", &[SERVER])],
        network,
        ..ClusterSpec::default()
    })?;
    let server = cluster.host(SERVER)?;
    let files = tempfile::Builder::new().prefix("shunt-overlay-").tempdir()?;
    let _daemon = start(shunt, &cluster, files.path())?;
    let to_pod = SocketAddr::new(server.ip(), PORT);
    let to_service = SocketAddr::new(SERVICE.parse()?, SERVICE_PORT);
    let client = cluster.host(CLIENT)?.netns();
    // One pair more, to warm up.
    let sink = sink(server.netns(), 2 * (pairs + 1))?;
    let (mut direct, mut service, mut ratios) = (Vec::new(), Vec::new(), Vec::new());
    for pair in 0..=pairs {
        let one = send(client, to_pod, each)?;
        let other = send(client, to_service, each)?;
        if pair > 0 {
            direct.push(one);
            service.push(other);
            ratios.push(other / one);
        }
    }
    sink.join().map_err(|_| anyhow!("the sink has panicked"))??;
    Ok(Throughput {
        network: network.name().to_owned(),
        direct: median(direct),
        service: median(service),
        ratio: median(ratios),
    })
}

/// A daemon on the client's node, once it serves.
fn start(shunt: &Path, cluster: &Cluster, files: &Path) -> Result<Daemon> {
    let manifests = files.join("manifests");
    fs::create_dir(&manifests)?;
    let endpoint = cluster.host(SERVER)?.ip();
    let objects = json!({ "apiVersion": "v1", "kind": "List", "items": [
        { "apiVersion": "v1", "kind": "Service",
          "metadata": { "name": "sink", "namespace": "default" },
          "spec": { "clusterIP": SERVICE, "clusterIPs": [SERVICE],
                    "ports": [{ "name": "sink", "port": SERVICE_PORT, "protocol": "TCP", "targetPort": PORT }] } },
        { "apiVersion": "discovery.k8s.io/v1", "kind": "EndpointSlice", "addressType": "IPv4",
          "metadata": { "name": "sink-1", "namespace": "default",
                        "labels": { "kubernetes.io/service-name": "sink" } },
          "ports": [{ "name": "sink", "port": PORT, "protocol": "TCP" }],
          "endpoints": [{ "addresses": [endpoint] }] },
    ]});
    fs::write(manifests.join("sink.yaml"), objects.to_string())?;
    let manifests = manifests.display().to_string();
    let mut arguments = vec!["run", "--manifests", &manifests, "--node-name", NODE];
    if cluster.network().is_blind() {
        arguments.push("--masquerade-all");
    }
    let arguments: Vec<_> = arguments.into_iter().map(str::to_owned).collect();
    let netns = cluster.host(NODE)?.netns();
    let mut daemon = Daemon::start(shunt, &arguments, netns, &files.join("shunt.log"))?;
    let deadline = Instant::now() + PATIENCE;
    while !daemon.status()?.is_some_and(|status| status.synced && status.endpoints == 1) {
        ensure!(Instant::now() < deadline, "shunt is not there:\n{}", daemon.log_tail());
        thread::sleep(Duration::from_millis(20));
    }
    Ok(daemon)
}

/// Swallows what so many connections say, one after the other.
fn sink(netns: &Netns, connections: usize) -> Result<JoinHandle<Result<()>>> {
    let listener = netns.run(|| TcpListener::bind(("0.0.0.0", PORT)))?;
    listener.set_nonblocking(true)?;
    netns.thread("sink", move || {
        let mut buffer = vec![0; CHUNK];
        for _ in 0..connections {
            let mut stream = accept(&listener)?;
            stream.set_read_timeout(Some(PATIENCE))?;
            while stream.read(&mut buffer)? > 0 {}
        }
        Ok(())
    })
}

fn accept(listener: &TcpListener) -> Result<std::net::TcpStream> {
    let deadline = Instant::now() + PATIENCE;
    loop {
        match listener.accept() {
            Ok((stream, _)) => {
                stream.set_nonblocking(false)?;
                return Ok(stream);
            }
            Err(_) if Instant::now() < deadline => thread::sleep(Duration::from_millis(1)),
            Err(error) => return Err(error).context("nobody connects"),
        }
    }
}

/// Sends for so long; Gbit/s.
fn send(from: &Netns, to: SocketAddr, duration: Duration) -> Result<f64> {
    let mut stream = from.tcp_connect(to, PATIENCE).with_context(|| to.to_string())?;
    stream.set_write_timeout(Some(PATIENCE))?;
    let chunk = vec![0; CHUNK];
    let mut bytes = 0_u64;
    let started = Instant::now();
    while started.elapsed() < duration {
        bytes += stream.write(&chunk)? as u64;
    }
    Ok(bytes as f64 * 8.0 / started.elapsed().as_secs_f64() / 1e9)
}

fn median(mut samples: Vec<f64>) -> f64 {
    samples.sort_by(f64::total_cmp);
    samples.get(samples.len() / 2).copied().unwrap_or_default()
}
