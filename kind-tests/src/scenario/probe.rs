//! A flow on the real kernel.

use std::cell::RefCell;
use std::collections::{BTreeMap, BTreeSet};
use std::io::{ErrorKind, Read, Write};
use std::net::{IpAddr, SocketAddr};
use std::sync::atomic::{AtomicU16, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use shunt_cluster::{Cluster, Connection, Netns, Outcome, ProbeOptions, Protocol, UdpFlow, probe};

use super::flow::{Expected, Flow, Passed, Server, Source};
use super::setup::Setup;
use super::step::{Asks, Hold, NOBODY};

/// How long an answer may take. An answer takes a millisecond; this is for a busy machine.
const PATIENCE: Duration = Duration::from_secs(10);
/// How long silence lasts that counts as silence.
const SILENCE: Duration = Duration::from_millis(300);
/// How often a flow is tried that must not lead to a pod.
const REPEATS: usize = 2;
/// How often a flow is tried that must lead to one pod: by chance three pods would do it in one of 100,000 runs.
const REPEATS_OF_SAME: usize = 12;
/// How often each pod of a pool is asked on average, so that one that does not belong there shows up.
const ROUNDS: usize = 4;

/// Where probes go.
#[derive(Clone, Copy)]
pub(super) struct Prober<'a> {
    /// What they are sent in.
    pub(super) cluster: &'a Cluster,
    /// What is known of it.
    pub(super) setup: &'a Setup,
    /// What they have met so far.
    pub(super) memory: &'a RefCell<Memory>,
}

/// What probes have met so far in a scenario.
#[derive(Default)]
pub(super) struct Memory {
    /// The pods of `| same NAME`, by name and family.
    same: BTreeMap<(String, bool), String>,
    /// Where connections came from, and where to they were.
    connections: BTreeSet<(SocketAddr, SocketAddr)>,
}

impl Prober<'_> {
    /// Tries a flow until all that is expected has been seen.
    pub(super) fn check(self, flow: &Flow, expected: &Expected) -> Result<()> {
        let single = |pod: &str| Server {
            pod: pod.to_owned(),
            port: Some(flow.to.port()),
            sees: Some(Source::Kept),
        };
        match expected {
            Expected::Served(servers) => self.check_served(flow, servers),
            Expected::Pass(Passed::Answered(pod)) => self.check_served(flow, &[single(pod)]),
            Expected::Refused | Expected::Pass(Passed::Refused) => {
                self.check_failing(flow, PATIENCE, |outcome| *outcome == Outcome::Refused)
            }
            Expected::Dropped | Expected::Denied => self.check_failing(flow, SILENCE, |outcome| {
                *outcome == Outcome::TimedOut
                    || is_barred(outcome)
                    || (flow.bytes > 0 && is_too_long(outcome))
            }),
            Expected::Pass(Passed::Unanswered) => self.check_failing(flow, SILENCE, |outcome| {
                matches!(outcome, Outcome::TimedOut | Outcome::Unreachable(_))
            }),
        }
    }

    /// Opens a connection that leads to the wanted pod.
    pub(super) fn hold(self, hold: &Hold) -> Result<Held> {
        let netns = self.cluster.host(&hold.from)?.netns();
        let options = ProbeOptions::within(PATIENCE);
        for _ in 0..tries(self.setup.cluster.nodes.iter().map(|node| node.pods.len()).sum()) {
            match hold.protocol {
                Protocol::Tcp | Protocol::Sctp => {
                    let open = match hold.protocol {
                        Protocol::Sctp => Connection::open_sctp,
                        _ => Connection::open,
                    };
                    let connection = open(netns, hold.to, &options)?;
                    if is_of(connection.by(), &hold.pod) {
                        return Ok(Held::Tcp(connection));
                    }
                }
                Protocol::Udp => {
                    let flow = UdpFlow::open(netns, hold.to, &options)?;
                    if served(&flow, &hold.pod) {
                        return Ok(Held::Udp(flow));
                    }
                }
            }
        }
        bail!("no connection led to {}", hold.pod)
    }

    /// Asks a health-check node port until it answers as it should.
    pub(super) fn asks(self, asks: &Asks) -> Result<()> {
        let netns = self.cluster.host(&asks.from)?.netns();
        let wanted = format!("{} {}", asks.code, asks.endpoints);
        for to in &asks.to {
            let deadline = Instant::now() + PATIENCE;
            loop {
                let said = health_answer(netns, *to).unwrap_or_else(|error| format!("{error:#}"));
                if said == wanted {
                    break;
                }
                if Instant::now() > deadline {
                    return Err(asks.place.error(format_args!("{to} says {said:?}")));
                }
                std::thread::sleep(Duration::from_millis(20));
            }
        }
        Ok(())
    }

    fn ask(self, flow: &Flow, patience: Duration) -> Result<Outcome> {
        let netns = self.cluster.host(&flow.from)?.netns();
        let options = ProbeOptions::within(patience);
        let outcome = match flow.protocol {
            Protocol::Tcp if flow.bytes > 0 => long_stream(netns, flow, &options)?,
            Protocol::Tcp | Protocol::Sctp => probe(netns, flow.protocol, flow.to, &options),
            Protocol::Udp => {
                let udp = UdpFlow::open(netns, flow.to, &options.from_port(fresh_port()))?;
                let text = format!("first{}", filler(flow));
                let first = udp.exchange(&text, patience);
                // To a process of the node itself, the kernel tells a refusal like a drop, and only the second time
                // that it was one. Who is told that a packet was too long sends it again.
                if is_barred(&first) || is_too_long(&first) {
                    udp.exchange(&text, patience)
                } else {
                    first
                }
            }
        };
        Ok(outcome)
    }

    fn check_failing(
        self,
        flow: &Flow,
        patience: Duration,
        wanted: impl Fn(&Outcome) -> bool,
    ) -> Result<()> {
        for _ in 0..REPEATS {
            let outcome = self.ask(flow, patience)?;
            ensure!(wanted(&outcome), "on the wire: {outcome}");
        }
        Ok(())
    }

    fn check_served(self, flow: &Flow, servers: &[Server]) -> Result<()> {
        let mut seen: BTreeMap<String, usize> = BTreeMap::new();
        let mut same = 0;
        for asked in 1..=tries(servers.len()) {
            if let Some(seconds) = flow.pause {
                thread::sleep(Duration::from_secs(seconds));
            }
            let outcome = self.ask(flow, PATIENCE)?;
            let Outcome::Answer { by, seen_source, local } = &outcome else {
                bail!("on the wire, try {asked}: {outcome} (before: {seen:?})");
            };
            let answers = |server: &&Server| is_called(server, by);
            let Some(server) = servers.iter().find(answers) else {
                bail!(
                    "on the wire, try {asked}: {outcome}, which is not expected (before: {seen:?})"
                );
            };
            self.check_source(flow, server, *seen_source, *local)?;
            *seen.entry(by.clone()).or_default() += 1;
            let is_new = self.memory.borrow_mut().connections.insert((*local, flow.to));
            if let Some(name) = &flow.same {
                // What IPVS remembers of a former connection from that port outweighs the client's affinity.
                if is_new {
                    self.check_same(flow, name, &server.pod)?;
                    same += 1;
                }
                if same == REPEATS_OF_SAME {
                    return Ok(());
                }
                continue;
            }
            // Each try takes long where the client pauses.
            let enough = flow.pause.is_some() || asked >= ROUNDS * servers.len();
            if seen.len() == servers.len() && enough {
                return Ok(());
            }
        }
        bail!("on the wire, not all were reached in {} tries: {seen:?}", tries(servers.len()))
    }

    fn check_same(self, flow: &Flow, name: &str, pod: &str) -> Result<()> {
        let mut memory = self.memory.borrow_mut();
        let place = (name.to_owned(), flow.to.is_ipv4());
        let first = memory.same.entry(place).or_insert_with(|| pod.to_owned());
        ensure!(first == pod, "on the wire: {pod} answers, but {name} was {first} before");
        Ok(())
    }

    fn check_source(
        self,
        flow: &Flow,
        server: &Server,
        seen: SocketAddr,
        local: SocketAddr,
    ) -> Result<()> {
        // What shunt leaves alone, the network may masquerade.
        let hidden = self.setup.hidden_by_network(&flow.from, &server.pod);
        let hidden = hidden.filter(|_| server.sees == Some(Source::Kept));
        let sees = hidden.map(|node| Source::Node(node.to_owned())).or_else(|| server.sees.clone());
        let is_shown = |node: &String| self.setup.cannot_hide(node, &flow.from, &server.pod);
        let sees = match sees {
            Some(Source::Node(node)) if is_shown(&node) => Some(Source::Kept),
            sees => sees,
        };
        let fits = |address: IpAddr| match &sees {
            None => true,
            // With IPVS a node connects to a local address, from that address, and its own is seen instead.
            Some(Source::Kept) => {
                let mut own = self.setup.addresses_of(&flow.from);
                address == local.ip() || local.ip() == flow.to.ip() && own.any(|own| own == address)
            }
            Some(Source::Node(node)) => self.setup.addresses_of(node).any(|own| own == address),
        };
        ensure!(
            fits(seen.ip()),
            "on the wire: {server}, but it saw {}; the client is {}",
            seen.ip(),
            local.ip()
        );
        Ok(())
    }
}

/// What makes a question as long as it shall be.
fn filler(flow: &Flow) -> String {
    "x".repeat(flow.bytes)
}

/// A connection that says as much as it shall, and hears it again.
fn long_stream(netns: &Netns, flow: &Flow, options: &ProbeOptions) -> Result<Outcome> {
    let mut connection = Connection::open(netns, flow.to, options)?;
    connection.exchange(&filler(flow))?;
    Ok(Outcome::Answer {
        by: connection.by().to_owned(),
        seen_source: connection.seen_source(),
        local: connection.local(),
    })
}

/// A port that no probe has had lately: the kernel may choose the one of a flow whose endpoint has gone since, some
/// milliseconds before that flow is forgotten.
fn fresh_port() -> u16 {
    static NEXT: AtomicU16 = AtomicU16::new(0);
    20_000 + NEXT.fetch_add(1, Ordering::Relaxed) % 8192
}

/// The code and the number of endpoints that a health-check node port answers.
fn health_answer(netns: &Netns, to: SocketAddr) -> Result<String> {
    let mut stream = netns.tcp_connect(to, PATIENCE)?;
    stream.set_read_timeout(Some(PATIENCE))?;
    write!(stream, "GET / HTTP/1.1\r\nHost: {to}\r\nConnection: close\r\n\r\n")?;
    let mut answer = String::new();
    stream.read_to_string(&mut answer)?;
    let (head, body) = answer.split_once("\r\n\r\n").context("an answer without a body")?;
    let code = head.split(' ').nth(1).context("an answer without a code")?;
    let body: serde_json::Value = serde_json::from_str(body).with_context(|| body.to_owned())?;
    let endpoints = body["localEndpoints"].as_u64().context("no localEndpoints")?;
    let weight = format!("x-load-balancing-endpoint-weight: {endpoints}");
    ensure!(head.to_lowercase().contains(&weight), "the header says otherwise: {head}");
    ensure!(body["serviceProxyHealthy"] == true, "unhealthy: {body}");
    Ok(format!("{code} {endpoints}"))
}

/// A connection that is held.
pub(super) enum Held {
    /// One of TCP, or an SCTP association.
    Tcp(Connection),
    /// A UDP socket with a port of its own.
    Udp(UdpFlow),
}

impl Held {
    /// Talks on it: the pod must answer.
    pub(super) fn exchange(&mut self, pod: &str) -> Result<()> {
        match self {
            Self::Tcp(connection) => connection.exchange("still there?"),
            Self::Udp(flow) => {
                ensure!(served(flow, pod), "the UDP flow is not served by {pod}");
                Ok(())
            }
        }
    }

    /// Talks on it until the pod answers.
    pub(super) fn becomes(&self, pod: &str) -> Result<()> {
        let Self::Udp(flow) = self else { bail!("only UDP flows move to another pod") };
        let deadline = Instant::now() + PATIENCE;
        let mut last = String::new();
        while Instant::now() < deadline {
            let outcome = flow.exchange("where?", SILENCE);
            if outcome.by().is_some_and(|by| is_of(by, pod)) {
                return Ok(());
            }
            last = outcome.to_string();
        }
        bail!("the UDP flow does not move to {pod}: {last}")
    }

    /// Says so much on it. A datagram that the client believes to fit is lost, and its socket hears of that by ICMP;
    /// the next one comes in fragments.
    pub(super) fn learns(&mut self, pod: &str, bytes: usize) -> Result<()> {
        let text = "x".repeat(bytes);
        let flow = match self {
            Self::Tcp(connection) => return connection.exchange(&text),
            Self::Udp(flow) => flow,
        };
        let first = flow.exchange(&text, PATIENCE);
        ensure!(is_too_long(&first), "the first datagram of {bytes} bytes: {first}");
        let second = flow.exchange(&text, PATIENCE);
        ensure!(second.by().is_some_and(|by| is_of(by, pod)), "the second one: {second}");
        Ok(())
    }

    /// Talks on it until it gets a reset.
    pub(super) fn expect_reset(self) -> Result<()> {
        let Self::Tcp(mut connection) = self else { bail!("only TCP connections are reset") };
        let deadline = Instant::now() + PATIENCE;
        while Instant::now() < deadline {
            let Err(error) = connection.exchange("still there?") else { continue };
            let cause = error.downcast_ref::<std::io::Error>().map(std::io::Error::kind);
            ensure!(cause == Some(ErrorKind::ConnectionReset), "no reset: {error:#}");
            return Ok(());
        }
        bail!("the connection still lives")
    }

    /// Talks on it until nobody answers, or it is aborted: the packets of an association that is not translated any
    /// more go to whoever has the address.
    pub(super) fn expect_end(self) -> Result<()> {
        let Self::Tcp(mut connection) = self else { bail!("only associations end") };
        let deadline = Instant::now() + PATIENCE;
        while Instant::now() < deadline {
            let Err(error) = connection.exchange("still there?") else { continue };
            ensure!(error.downcast_ref::<std::io::Error>().is_some(), "no end: {error:#}");
            return Ok(());
        }
        bail!("the association still lives")
    }

    /// Closes it.
    pub(super) fn close(self) -> Result<()> {
        match self {
            Self::Tcp(connection) => connection.close(),
            Self::Udp(_) => Ok(()),
        }
    }
}

/// Whether just this pod answers, or nobody.
fn served(flow: &UdpFlow, pod: &str) -> bool {
    if pod == NOBODY {
        return flow.exchange("anyone?", SILENCE).by().is_none();
    }
    flow.exchange("still there?", PATIENCE).by().is_some_and(|by| is_of(by, pod))
}

/// Whether a server, named `pod:port`, is the pod's.
fn is_of(by: &str, pod: &str) -> bool {
    by.split(':').next() == Some(pod)
}

/// Whether the node's own firewall has dropped what one of its processes sent (EPERM).
pub(super) fn is_barred(outcome: &Outcome) -> bool {
    matches!(outcome, Outcome::Unreachable(reason) if reason == "Operation not permitted")
}

/// Whether a router on the way has told the client's socket that a packet was too long (EMSGSIZE).
fn is_too_long(outcome: &Outcome) -> bool {
    matches!(outcome, Outcome::Failed(reason) if reason == "Message too long")
}

/// Enough to see each of `servers` with near certainty when they are picked at random.
fn tries(servers: usize) -> usize {
    40 + 12 * servers
}

/// Servers are named `pod:port`.
fn is_called(server: &Server, name: &str) -> bool {
    match (name.split_once(':'), server.port) {
        (Some((pod, port)), Some(wanted)) => pod == server.pod && port == wanted.to_string(),
        (Some((pod, _)), None) => pod == server.pod,
        (None, _) => false,
    }
}
