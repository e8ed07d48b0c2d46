//! What a Service costs on an overlay: the processor time that bytes of one TCP connection take from a pod to a pod of
//! another node, straight and through a ClusterIP.
//!
//! The throughput that a clock shows depends on which processors the two ends happen to run on and on who else uses
//! them; two runs differ by more than the goal. So everything runs on one processor and its time is counted: what it can
//! carry in a second of its own. All ways are open at once and take turns of some milliseconds. One of them is a second
//! connection straight to the pod, which must cost what the first does; another is translated by nothing but a rule of
//! `nft`, which is what the kernel's own translation costs.
//!
//! What a connection costs also depends on how its memory happens to lie and how its windows have grown: it differs by
//! a fifth between two of the same way, for as long as they live. So there are many sets of connections, and a set is
//! one sample.

mod clock;
mod lane;
mod site;

use std::path::Path;
use std::time::Duration;

use anyhow::Result;
use serde::Serialize;
use shunt_cluster::{Family, Network};

use self::clock::Clock;
use self::lane::Lane;
use self::site::Site;

/// Bytes that say how fast a network is, about.
const SOUNDING: u64 = 16 << 20;
/// Turns that each way has with one set of connections.
const TURNS: usize = 8;

/// The ways to the pod.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Way {
    /// Straight to it.
    Straight,
    /// The same again, as a control: its ratio says how well this run measures.
    Control,
    /// Translated by one rule of stock `nft`.
    BareRule,
    /// Through a ClusterIP.
    ClusterIp,
}

impl Way {
    /// All; the first is what the others are compared with.
    pub const ALL: [Self; 4] = [Self::Straight, Self::Control, Self::BareRule, Self::ClusterIp];
}

/// What a way carries, in shares of what [`Way::Straight`] does.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub struct Share {
    /// The median of the sets of connections.
    pub median: f64,
    /// The median's confidence interval of 95 %.
    pub low: f64,
    /// Its other end.
    pub high: f64,
}

/// What was found on a network.
#[derive(Clone, Debug, Serialize)]
pub struct Throughput {
    /// Its name.
    pub network: String,
    /// Straight to the pod: the median, in Gbit for a second of one processor.
    pub straight: f64,
    /// The other ways, in the order of [`Way::ALL`].
    pub shares: [Share; 3],
}

/// Measures a network with so many sets of connections; each way's turn takes about `each`.
///
/// # Errors
/// If the network cannot be built here, the daemon does not come up, or a connection breaks.
pub fn measure(
    network: Network,
    family: Family,
    shunt: &Path,
    sets: usize,
    each: Duration,
) -> Result<Throughput> {
    // Before the threads of the cluster's namespaces start: they stay there, too.
    let clock = Clock::of_one_processor()?;
    let site = Site::build(network, family, shunt)?;
    let mut sounding = site.lanes(&[0])?;
    sounding[0].carry(SOUNDING)?;
    let pace = time(&clock, &mut sounding[0], SOUNDING)?;
    drop(sounding);
    let pace = Duration::from_secs_f64(pace).as_nanos().max(1);
    let bytes = u64::try_from(u128::from(SOUNDING) * each.as_nanos() / pace)?.max(1 << 20);
    let mut costs = Vec::new();
    for set in 0..sets {
        costs.push(of_a_set(&clock, &site, set, bytes)?);
    }
    let gigabits = bytes as f64 * 8.0 / 1e9;
    let share = |way: usize| Share::of(costs.iter().map(|cost| cost[0] / cost[way]).collect());
    Ok(Throughput {
        network: network.name().to_owned(),
        straight: Share::of(costs.iter().map(|cost| gigabits / cost[0]).collect()).median,
        shares: [share(1), share(2), share(3)],
    })
}

/// The median of each way's turns with one set of connections, in seconds of the processor.
fn of_a_set(clock: &Clock, site: &Site, set: usize, bytes: u64) -> Result<[f64; Way::ALL.len()]> {
    let order = |turn: usize| ORDERS[(set + turn) % ORDERS.len()];
    let mut lanes = site.lanes(&order(0))?;
    for lane in &mut lanes {
        lane.carry(2 * bytes)?;
    }
    let mut times = [const { Vec::new() }; Way::ALL.len()];
    for turn in 0..TURNS {
        for way in order(turn) {
            times[way].push(time(clock, &mut lanes[way], bytes)?);
        }
    }
    Ok(times.map(|times| Share::of(times).median))
}

/// A Latin square in which everyone follows everyone else once (Williams 1949).
const ORDERS: [[usize; 4]; 4] = [[0, 1, 3, 2], [1, 2, 0, 3], [2, 3, 1, 0], [3, 0, 2, 1]];

/// Seconds of the processor.
fn time(clock: &Clock, lane: &mut Lane, bytes: u64) -> Result<f64> {
    let before = clock.now()?;
    lane.carry(bytes)?;
    Ok((clock.now()? - before).as_secs_f64())
}

impl Share {
    /// Of samples; the interval is that of the order statistics, which assumes nothing of their distribution.
    fn of(mut samples: Vec<f64>) -> Self {
        samples.sort_by(f64::total_cmp);
        let middle = samples.len() / 2;
        // 0.98 times the square root, rounded up.
        let half = (samples.len() * 9604 / 10_000).isqrt() + 1;
        let last = samples.len().saturating_sub(1);
        let at = |rank: usize| samples.get(rank.min(last)).copied().unwrap_or(f64::NAN);
        Self { median: at(middle), low: at(middle.saturating_sub(half)), high: at(middle + half) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_median_has_an_interval_of_ranks() {
        let share = Share::of((0..100).rev().map(f64::from).collect());
        // 50 -+ 0.98 * 10, outwards
        assert_eq!(share, Share { median: 50.0, low: 40.0, high: 60.0 });
        let one = Share::of(vec![1.5]);
        assert_eq!(one, Share { median: 1.5, low: 1.5, high: 1.5 });
    }

    #[test]
    fn everyone_follows_everyone_else_once() {
        let mut pairs: Vec<_> =
            ORDERS.iter().flat_map(|order| order.windows(2).map(|two| (two[0], two[1]))).collect();
        pairs.sort_unstable();
        pairs.dedup();
        assert_eq!(pairs.len(), 12);
        assert!(pairs.iter().all(|(one, next)| one != next));
    }
}
