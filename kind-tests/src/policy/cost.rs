//! What a connection costs an isolated pod, beside one without policy.

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::path::Path;
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use serde::Serialize;
use shunt_cluster::connect_times;
use shunt_netpolicy_nftables::kernel::inventory;
use shunt_netpolicy_nftables::name::SetId;

use super::layout::Layout;
use super::scene::{ISOLATED, PLAIN, PORT, Scene};
use crate::traffic::{Node, Proxy};

/// Connections before it counts.
const WARM_UP: usize = 200;
/// Exchanges over an established connection for each new one.
const EXCHANGES: usize = 4;
const PATIENCE: Duration = Duration::from_secs(5);
/// The longest that pods are watched of which all connections are allowed.
const WATCHED: Duration = Duration::from_secs(30);
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
    /// The same under shunt's rules just after a change, while each packet is judged.
    pub judged: Option<Pair>,
    /// What the daemon has resident, in bytes; 0 where there is none.
    pub resident: u64,
}

/// Measures under shunt's rules.
///
/// # Errors
/// If it is not synced in time, or a connection fails.
pub fn of_shunt(binary: &Path, scene: &Scene, rounds: usize) -> Result<Cost> {
    let mut node = Node::start(&Proxy::Shunt(binary.to_owned()), 2, &scene.objects(), START)?;
    let judged = exchanges(&node, rounds)?;
    ensure!(watched(&node)? > 0, "the exchanges took longer than packets are judged");
    let connect = connects(&node, PORT, rounds)?;
    wait_until_unwatched(&node)?;
    let mut cost = Cost { connect, exchange: exchanges(&node, rounds)?, ..Cost::default() };
    cost.judged = Some(judged);
    cost.resident = node.status()?.map_or(0, |status| status.resident_bytes);
    Ok(cost)
}

/// What an operator may choose.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Choice {
    /// Connections are counted by policy.
    Counters,
    /// Nothing is dropped.
    Audit,
}

impl Choice {
    /// Both.
    pub const ALL: [Self; 2] = [Self::Counters, Self::Audit];

    /// How it is chosen.
    #[must_use]
    pub const fn flag(self) -> &'static str {
        match self {
            Self::Counters => "--policy-counters",
            Self::Audit => "--network-policy=audit",
        }
    }
}

/// A new connection under what an operator has chosen.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize)]
pub struct Chosen {
    /// To a port that policy allows.
    pub allowed: Pair,
    /// In an audit, to one that it does not.
    pub denied: Option<Pair>,
    /// What the daemon has resident, in bytes.
    pub resident: u64,
}

/// Measures under shunt's rules with a flag.
///
/// # Errors
/// If it is not synced in time, or a connection fails.
pub fn of_choice(binary: &Path, choice: Choice, scene: &Scene, rounds: usize) -> Result<Chosen> {
    let proxy = Proxy::ShuntWith(binary.to_owned(), vec![choice.flag().to_owned()]);
    let mut node = Node::start(&proxy, 2, &scene.objects(), START)?;
    let allowed = connects(&node, PORT, rounds)?;
    let denied = (choice == Choice::Audit).then(|| connects(&node, DENIED, rounds)).transpose()?;
    let resident = node.status()?.map_or(0, |status| status.resident_bytes);
    Ok(Chosen { allowed, denied, resident })
}

/// Measures under the rules of another layout.
///
/// # Errors
/// If `nft` does not take them, or a connection fails.
pub fn of_layout(layout: Layout, scene: &Scene, rounds: usize) -> Result<Cost> {
    let node = Node::start(&Proxy::None, 2, &[], START)?;
    layout.load(scene, node.netns()?)?;
    let connect = connects(&node, PORT, rounds)?;
    Ok(Cost { connect, exchange: exchanges(&node, rounds)?, ..Cost::default() })
}

/// Until live connections are not judged any more.
fn wait_until_unwatched(node: &Node) -> Result<()> {
    let deadline = Instant::now() + WATCHED;
    while watched(node)? > 0 {
        if Instant::now() > deadline {
            bail!("live connections of {} pods are judged for ever", watched(node)?);
        }
        thread::sleep(Duration::from_millis(200));
    }
    Ok(())
}

/// Of how many pods live connections are judged.
fn watched(node: &Node) -> Result<usize> {
    let installed = node.netns()?.run(inventory)?.context("there is no table of policy")?;
    let watched = |(set, _): &&(SetId, _)| matches!(set, SetId::Watched(_));
    Ok(installed.elements.keys().filter(watched).count())
}

const PODS: [usize; 2] = [PLAIN, ISOLATED];

/// Where no policy lets anybody connect to.
const DENIED: u16 = 9999;

fn destinations(port: u16) -> [SocketAddr; 2] {
    PODS.map(|pod| SocketAddr::new(Node::pod(pod), port))
}

fn listeners(node: &Node, port: u16) -> Result<Vec<TcpListener>> {
    PODS.iter().map(|pod| node.listen(*pod, port)).collect()
}

/// New connections.
fn connects(node: &Node, port: u16, rounds: usize) -> Result<Pair> {
    let to = destinations(port);
    connect_times(node.client()?, listeners(node, port)?, &to, WARM_UP).context("warming up")?;
    Ok(pair(connect_times(node.client()?, listeners(node, port)?, &to, rounds)?))
}

/// A byte there and one back, over connections that are established.
fn exchanges(node: &Node, rounds: usize) -> Result<Pair> {
    let mut open = Vec::new();
    for (listener, destination) in listeners(node, PORT)?.into_iter().zip(destinations(PORT)) {
        open.push(Established::open(node, &listener, destination)?);
    }
    let mut times = vec![Vec::new(); open.len()];
    for round in 0..rounds * EXCHANGES {
        for place in 0..open.len() {
            let place = (place + round) % open.len();
            times[place].push(open[place].exchange()?);
        }
    }
    Ok(pair(times))
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
