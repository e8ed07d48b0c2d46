//! What runs all the time while one proxy follows another.

use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, anyhow, ensure};
use shunt_cluster::{Connection, Load, LoadSpec, ProbeOptions, Protocol, probe};

use super::NODE;
use super::ground::Ground;
use crate::site::WEB_1;

/// How long a held connection says nothing, and how long it waits for an answer.
const SILENCE: Duration = Duration::from_secs(1);
const PATIENCE: Duration = Duration::from_secs(60);
/// How many connections tell what the machine can.
const DIRECT: u32 = 500;

/// Connections that are held open and talk all the time: IPVS is told to forget those that are silent.
pub(super) struct Held {
    over: Arc<AtomicBool>,
    talk: JoinHandle<Result<Vec<Connection>>>,
}

impl Held {
    /// Opens some, from a pod and the node, in both families.
    pub(super) fn open(ground: &Ground) -> Result<Self> {
        let from_to = ["shop-1", NODE]
            .into_iter()
            .flat_map(|from| ground.cluster_ips().iter().map(move |ip| (from, ip)));
        let open = |(from, ip): (&str, &IpAddr)| {
            let options = ProbeOptions::within(PATIENCE);
            Connection::open(ground.host(from).netns(), SocketAddr::new(*ip, 80), &options)
        };
        let mut connections: Vec<_> = from_to.map(open).collect::<Result<_>>()?;
        let over = Arc::new(AtomicBool::new(false));
        let ended = Arc::clone(&over);
        let talk = move || {
            let began = Instant::now();
            while !ended.load(Ordering::Relaxed) {
                for connection in &mut connections {
                    let told = connection.exchange("still there");
                    told.with_context(|| format!("after {:.1?}", began.elapsed()))?;
                }
                thread::sleep(SILENCE);
            }
            Ok(connections)
        };
        Ok(Self { over, talk: thread::spawn(talk) })
    }

    /// Ends them; fails if one did not answer to its end.
    pub(super) fn end(self) -> Result<()> {
        self.over.store(true, Ordering::Relaxed);
        let connections = self.talk.join().map_err(|_| anyhow!("who talks has panicked"))??;
        connections.into_iter().try_for_each(Connection::close)
    }
}

/// Constant load of so many new connections a second on a Service, from a pod, the node and outside.
pub(super) fn loads(ground: &Ground, per_second: u32) -> Result<Vec<Load>> {
    let ips = ground.cluster_ips();
    let flows = [
        ("shop-1", SocketAddr::new(ips[0], 80)),
        ("shop-1", SocketAddr::new(ips[1], 80)),
        (NODE, SocketAddr::new(ips[0], 80)),
        ("outside", SocketAddr::new(ground.host(NODE).ip(), ground.node_port())),
    ];
    let per_second = per_second / u32::try_from(flows.len())?;
    let start = |(from, destination): (&str, _)| {
        let spec = LoadSpec {
            protocol: Protocol::Tcp,
            destination,
            per_second,
            duration: Duration::from_secs(3600),
            timeout: Duration::from_secs(10),
        };
        Load::start(ground.host(from).netns(), &spec)
    };
    flows.into_iter().map(start).collect()
}

/// How many connections a second a pod makes to another one on the same node, one after the other, past all proxies and
/// with nothing else to do: on one CPU that is what it can.
pub(super) fn most_direct(ground: &Ground) -> Result<f64> {
    let to = SocketAddr::new(ground.host("web-1").ip(), WEB_1[0].number);
    let began = Instant::now();
    for _ in 0..DIRECT {
        let netns = ground.host("shop-1").netns();
        let outcome = probe(netns, Protocol::Tcp, to, &ProbeOptions::within(PATIENCE));
        ensure!(outcome.by() == Some("web-1"), "{outcome}");
    }
    Ok(f64::from(DIRECT) / began.elapsed().as_secs_f64())
}
