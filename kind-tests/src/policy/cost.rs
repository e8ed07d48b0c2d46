//! What a connection costs an isolated pod, beside one without policy.

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::path::Path;
use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use serde::Serialize;
use shunt_cluster::connect_times;

use super::layout::Layout;
use super::scene::{ISOLATED, PLAIN, PORT, Scene};
use crate::traffic::{Node, Proxy};

/// Connections before it counts.
const WARM_UP: usize = 200;
/// Exchanges over an established connection for each new one.
const EXCHANGES: usize = 4;
const PATIENCE: Duration = Duration::from_secs(5);
/// The longest that the first sync may take.
const START: Duration = Duration::from_secs(120);

/// Medians in microseconds: of the pod without policy, and of the isolated one.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize)]
pub struct Pair {
    /// Without policy.
    pub plain: f64,
    /// Isolated.
    pub isolated: f64,
}

impl Pair {
    /// How many times the one is the other.
    #[must_use]
    pub fn ratio(&self) -> f64 {
        self.isolated / self.plain
    }
}

/// What was found under one kind of rules.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize)]
pub struct Cost {
    /// A new connection.
    pub connect: Pair,
    /// A byte there and one back, over a connection that is established.
    pub exchange: Pair,
    /// What the daemon has resident, in bytes; 0 where there is none.
    pub resident: u64,
}

/// Measures under shunt's rules.
///
/// # Errors
/// If it is not synced in time, or a connection fails.
pub fn of_shunt(binary: &Path, scene: &Scene, rounds: usize) -> Result<Cost> {
    let mut node = Node::start(&Proxy::Shunt(binary.to_owned()), 2, &scene.objects(), START)?;
    let mut cost = measure(&node, rounds)?;
    cost.resident = node.status()?.map_or(0, |status| status.resident_bytes);
    Ok(cost)
}

/// Measures under the rules of another layout.
///
/// # Errors
/// If `nft` does not take them, or a connection fails.
pub fn of_layout(layout: Layout, scene: &Scene, rounds: usize) -> Result<Cost> {
    let node = Node::start(&Proxy::None, 2, &[], START)?;
    layout.load(scene, node.netns()?)?;
    measure(&node, rounds)
}

fn measure(node: &Node, rounds: usize) -> Result<Cost> {
    let pods = [PLAIN, ISOLATED];
    let destinations = pods.map(|pod| SocketAddr::new(Node::pod(pod), PORT));
    let listeners =
        || -> Result<Vec<TcpListener>> { pods.iter().map(|pod| node.listen(*pod, PORT)).collect() };
    connect_times(node.client()?, listeners()?, &destinations, WARM_UP).context("warming up")?;
    let times = connect_times(node.client()?, listeners()?, &destinations, rounds)?;
    let connect = pair(times);
    let mut open = Vec::new();
    for (listener, destination) in listeners()?.into_iter().zip(destinations) {
        open.push(Established::open(node, &listener, destination)?);
    }
    let mut times = vec![Vec::new(); open.len()];
    for round in 0..rounds * EXCHANGES {
        for place in 0..open.len() {
            let place = (place + round) % open.len();
            times[place].push(open[place].exchange()?);
        }
    }
    Ok(Cost { connect, exchange: pair(times), resident: 0 })
}

fn pair(times: Vec<Vec<Duration>>) -> Pair {
    let mut medians = times.into_iter().map(|mut times| {
        times.sort_unstable();
        times.get(times.len() / 2).map_or(f64::NAN, |time| time.as_secs_f64() * 1e6)
    });
    let mut next = || medians.next().unwrap_or(f64::NAN);
    Pair { plain: next(), isolated: next() }
}

/// Both ends of a connection, in one hand: nobody has to be woken up.
struct Established {
    client: TcpStream,
    server: TcpStream,
}

impl Established {
    fn open(node: &Node, listener: &TcpListener, destination: SocketAddr) -> Result<Self> {
        let client = node.client()?.tcp_connect(destination, PATIENCE)?;
        listener.set_nonblocking(false)?;
        let (server, _) = listener.accept()?;
        for stream in [&client, &server] {
            stream.set_nodelay(true)?;
            stream.set_nonblocking(false)?;
            stream.set_read_timeout(Some(PATIENCE))?;
        }
        Ok(Self { client, server })
    }

    fn exchange(&mut self) -> Result<Duration> {
        let mut byte = [0];
        let started = Instant::now();
        self.client.write_all(&[1])?;
        self.server.read_exact(&mut byte)?;
        self.server.write_all(&byte)?;
        self.client.read_exact(&mut byte)?;
        Ok(started.elapsed())
    }
}
