//! Requests, and what became of them.

use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, SocketAddr};
use std::time::{Duration, Instant};

use shunt_cluster::{Family, Host, Outcome, ProbeOptions, Protocol, probe};

use super::ending::Ending;
use super::manifests::{cluster_ip, node_port, port};
use crate::failure::Failure;

/// How long a request may take.
const PATIENCE: Duration = Duration::from_secs(30);

/// One way to a Service: who asks whom by what.
#[derive(Clone)]
pub(super) struct Way {
    pub(super) from: Host,
    pub(super) protocol: Protocol,
    pub(super) to: SocketAddr,
}

impl Way {
    /// To the ClusterIP.
    pub(super) fn cluster_ip(from: &Host, protocol: Protocol, family: Family) -> Self {
        let to = SocketAddr::new(cluster_ip(family), port(protocol));
        Self { from: from.clone(), protocol, to }
    }

    /// To the NodePort of a node; none without an address in the family.
    pub(super) fn node_port(
        from: &Host,
        node: &Host,
        protocol: Protocol,
        family: Family,
    ) -> Option<Self> {
        let to = SocketAddr::new(node.address(family)?, node_port(protocol));
        Some(Self { from: from.clone(), protocol, to })
    }

    /// In words: protocol and address.
    pub(super) fn name(&self) -> String {
        format!("{} {}", self.protocol, self.to)
    }

    /// Asks once from this port, or from any; with it comes how long it took.
    pub(super) fn ask(&self, source_port: Option<u16>) -> (Outcome, Duration) {
        let asked = Instant::now();
        let options = ProbeOptions { source_port, ..ProbeOptions::within(PATIENCE) };
        let outcome = probe(self.from.netns(), self.protocol, self.to, &options);
        (outcome, asked.elapsed())
    }

    /// Asks so many times, one after the other.
    pub(super) fn ask_often(&self, count: u64, ending: &Ending) -> Result<Spread, Failure> {
        let mut spread = Spread::default();
        for _ in 0..count {
            ending.check()?;
            let (outcome, elapsed) = self.ask(None);
            spread.slowest = spread.slowest.max(elapsed);
            match outcome {
                Outcome::Answer { by, seen_source, .. } => {
                    *spread.answered.entry(by).or_default() += 1;
                    spread.sources.insert(seen_source.ip());
                }
                other => spread.losses.push(format!("{}: {other}", self.name())),
            }
        }
        Ok(spread)
    }
}

/// What became of requests.
#[derive(Default)]
pub(super) struct Spread {
    /// How many were answered, by pod.
    pub(super) answered: BTreeMap<String, u64>,
    /// Whom the pods saw.
    pub(super) sources: BTreeSet<IpAddr>,
    /// Those that were not answered.
    pub(super) losses: Vec<String>,
    /// The slowest.
    pub(super) slowest: Duration,
}

impl Spread {
    /// How many were answered.
    pub(super) fn answers(&self) -> u64 {
        self.answered.values().sum()
    }

    /// Adds others.
    pub(super) fn add(&mut self, other: Self) {
        for (pod, count) in other.answered {
            *self.answered.entry(pod).or_default() += count;
        }
        self.sources.extend(other.sources);
        self.losses.extend(other.losses);
        self.slowest = self.slowest.max(other.slowest);
    }
}

/// A duration in milliseconds, for people.
pub(super) fn milliseconds(duration: Duration) -> String {
    format!("{:.1} ms", duration.as_secs_f64() * 1e3)
}
