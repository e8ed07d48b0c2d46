//! Services that are scaled all the time, under new connections all the time.

use std::collections::{BTreeSet, VecDeque};
use std::fmt;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Mutex, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use serde::Serialize;
use serde_json::{Value, json};
use shunt_cluster::{Outcome, Protocol, Shot, volley};

use super::node::{Node, POD_PORT, Proxy, service, slice};
use crate::control_plane::random::Random;

/// How many pods serve; all of them live all the time, so that no connection need fail.
const PODS: usize = 6;
/// Connections at once.
const VOLLEY: usize = 64;
/// Between two volleys.
const PAUSE: Duration = Duration::from_millis(20);
/// Source ports, used in turn.
const SOURCE_PORTS: std::ops::Range<u16> = 10_000..30_000;
/// How long a connection may take.
const PATIENCE: Duration = Duration::from_secs(30);
/// A client's kernel sends a lost SYN again after a second.
const RESENT: Duration = Duration::from_millis(900);
/// How much longer it goes on where the machine is slow, until there was enough of everything.
const LONGEST: Duration = Duration::from_secs(120);
/// How long until a proxy must have a change: kube-proxy waits a second between two syncs.
const GRACE: Duration = Duration::from_secs(5);

/// What to do.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Soak {
    /// How many Services.
    pub services: usize,
    /// For how long, at least.
    pub duration: Duration,
    /// How many changes and how many connections there must be.
    pub fewest: (u64, u64),
    /// Between two changes, each of the endpoints of one Service.
    pub every: Duration,
    /// Which of them, and how.
    pub seed: u64,
}

/// What became of the connections.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Report {
    /// Changes of a Service's endpoints.
    pub changes: u64,
    /// Connections.
    pub connections: u64,
    /// Refused ones.
    pub refused: u64,
    /// Without an answer, or failed otherwise.
    pub lost: u64,
    /// Answered by a pod that had not been an endpoint for five seconds, or never.
    pub misdirected: u64,
    /// Answered by a pod that had just left.
    pub late: u64,
    /// Volleys with a connection that took longer than 900 ms: a SYN was sent again, or the machine was busy.
    pub slow_volleys: u64,
    /// The first of what was wrong.
    pub wrong: Vec<String>,
}

impl Report {
    /// Connections that were not served as they must be.
    #[must_use]
    pub const fn failures(&self) -> u64 {
        self.refused + self.lost + self.misdirected
    }
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "{} changes, {} connections: {} refused, {} lost, {} misdirected, {} to a pod that had just left, {} slow volleys",
            self.changes,
            self.connections,
            self.refused,
            self.lost,
            self.misdirected,
            self.late,
            self.slow_volleys
        )?;
        self.wrong.iter().try_for_each(|text| write!(f, "\n  {text}"))
    }
}

/// The endpoints of a Service, newest first, and since when.
type History = VecDeque<(Instant, BTreeSet<usize>)>;

/// Runs it.
///
/// # Errors
/// If the proxy does not start.
pub fn run(proxy: &Proxy, soak: &Soak) -> Result<Report> {
    let mut random = Random::new(soak.seed);
    let since = Instant::now();
    let histories: Vec<History> =
        (0..soak.services).map(|_| History::from([(since, pods(&mut random))])).collect();
    let node = Node::start(proxy, PODS, &objects(&histories), Duration::from_secs(90))?;
    let histories = Mutex::new(histories);
    let (over, connections) = (AtomicBool::new(false), AtomicU64::new(0));
    let mut report = Report::default();
    thread::scope(|scope| {
        let random_of_asking = Random::part(soak.seed, 1);
        let asking = scope.spawn(|| ask(&node, &histories, &over, &connections, random_of_asking));
        let started = Instant::now();
        let mut changed = Ok(());
        let is_enough = |changes: u64| {
            let enough =
                changes >= soak.fewest.0 && connections.load(Ordering::Relaxed) >= soak.fewest.1;
            started.elapsed() > if enough { soak.duration } else { soak.duration + LONGEST }
        };
        while changed.is_ok() && !is_enough(report.changes) {
            let state = {
                let mut histories = histories.lock().unwrap_or_else(PoisonError::into_inner);
                let index = random.below(soak.services);
                let history = &mut histories[index];
                let next = scale(&history[0].1, &mut random);
                history.push_front((Instant::now(), next));
                history.truncate(64);
                objects(&histories)
            };
            changed = node.replace(&state);
            report.changes += 1;
            thread::sleep(soak.every);
        }
        over.store(true, Ordering::Relaxed);
        let asked = asking.join().ok().context("the asking thread has panicked")??;
        report = Report { changes: report.changes, ..asked };
        changed
    })?;
    Ok(report)
}

fn ask(
    node: &Node,
    histories: &Mutex<Vec<History>>,
    over: &AtomicBool,
    connections: &AtomicU64,
    mut random: Random,
) -> Result<Report> {
    let mut report = Report::default();
    let mut ports = SOURCE_PORTS.cycle();
    let client = node.client()?;
    let services = histories.lock().unwrap_or_else(PoisonError::into_inner).len();
    while !over.load(Ordering::Relaxed) {
        let asked: Vec<_> = (0..VOLLEY).map(|_| random.below(services)).collect();
        let shot = |index: &usize| Shot {
            protocol: Protocol::Tcp,
            destination: SocketAddr::new(address(*index), 80),
            source_port: ports.next().unwrap_or(SOURCE_PORTS.start),
        };
        let shots: Vec<_> = asked.iter().map(shot).collect();
        let sent = Instant::now();
        let outcomes = volley(client, &shots, PATIENCE);
        report.slow_volleys += u64::from(sent.elapsed() > RESENT);
        let histories = histories.lock().unwrap_or_else(PoisonError::into_inner);
        for (index, outcome) in asked.into_iter().zip(outcomes) {
            report.count(&histories[index], sent, &outcome);
        }
        drop(histories);
        connections.store(report.connections, Ordering::Relaxed);
        thread::sleep(PAUSE);
    }
    Ok(report)
}

impl Report {
    fn count(&mut self, history: &History, sent: Instant, outcome: &Outcome) {
        self.connections += 1;
        let wrong = match outcome {
            Outcome::Answer { by, .. } => {
                let pod =
                    by.strip_prefix("pod-").and_then(|number| number.parse().ok()).unwrap_or(0);
                let had_at = |moment: Instant| had(history, moment, pod);
                if had_at(sent) {
                    return;
                }
                if had_at(sent - GRACE) {
                    self.late += 1;
                    return;
                }
                self.misdirected += 1;
                format!("answered by {by}, not by one of {:?}", history[0].1)
            }
            Outcome::Refused => {
                self.refused += 1;
                outcome.to_string()
            }
            _ => {
                self.lost += 1;
                outcome.to_string()
            }
        };
        if self.wrong.len() < 10 {
            self.wrong.push(wrong);
        }
    }
}

/// Whether a pod was an endpoint at this moment or later.
fn had(history: &History, moment: Instant, pod: usize) -> bool {
    for (since, pods) in history {
        if pods.contains(&pod) {
            return true;
        }
        if *since <= moment {
            return false;
        }
    }
    false
}

/// One more or one less, never none; or others.
fn scale(now: &BTreeSet<usize>, random: &mut Random) -> BTreeSet<usize> {
    let mut next = now.clone();
    let pod = 1 + random.below(PODS);
    if random.chance(10) {
        return pods(random);
    }
    if !next.remove(&pod) || next.is_empty() {
        next.insert(pod);
        if next == *now {
            next.insert(pod % PODS + 1);
        }
    }
    next
}

fn pods(random: &mut Random) -> BTreeSet<usize> {
    let all: Vec<_> = (1..=PODS).collect();
    let mut some: BTreeSet<_> = random.some_of(&all, PODS).into_iter().collect();
    some.insert(1 + random.below(PODS));
    some
}

fn objects(histories: &[History]) -> Vec<Value> {
    let of_service = |(index, history): (usize, &History)| {
        let name = format!("service-{index}");
        [
            service(&name, address(index), &json!({})),
            slice(&name, history[0].1.iter().copied(), POD_PORT),
        ]
    };
    histories.iter().enumerate().flat_map(of_service).collect()
}

fn address(index: usize) -> IpAddr {
    let index = u16::try_from(index).unwrap_or(u16::MAX).to_be_bytes();
    Ipv4Addr::new(10, 96, 1 + index[0], index[1]).into()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn who_has_left_is_known_for_a_while() {
        let now = Instant::now();
        let history = History::from([
            (now, BTreeSet::from([1])),
            (now - Duration::from_secs(1), BTreeSet::from([1, 2])),
            (now - Duration::from_secs(60), BTreeSet::from([3])),
        ]);
        assert!(had(&history, now, 1) && !had(&history, now, 2));
        assert!(had(&history, now - GRACE, 2) && had(&history, now - GRACE, 3));
        let mut report = Report::default();
        let answer = |by: &str| Outcome::Answer {
            by: by.to_owned(),
            seen_source: "10.0.0.1:1".parse().unwrap(),
            local: "10.0.0.1:1".parse().unwrap(),
        };
        report.count(&history, now, &answer("pod-2"));
        report.count(&history, now, &answer("pod-4"));
        report.count(&history, now, &Outcome::Refused);
        assert_eq!((report.late, report.misdirected, report.refused), (1, 1, 1));
        assert_eq!(report.failures(), 2);
    }

    #[test]
    fn scaling_changes_something_and_leaves_someone() {
        let mut random = Random::new(1);
        let mut now = pods(&mut random);
        for _ in 0..1000 {
            now = scale(&now, &mut random);
            assert!(!now.is_empty() && now.iter().all(|pod| (1..=PODS).contains(pod)));
        }
    }
}
