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

use std::fmt::{self, Display, Formatter};
use std::path::Path;
use std::time::Duration;

use anyhow::{Context, Result};
use clap::ValueEnum;
use serde::{Deserialize, Serialize};
use shunt_cluster::{Family, Network};

use self::clock::Clock;
use self::lane::Lane;
use self::site::Site;

/// Bytes that say how fast a network is, about.
const SOUNDING: u64 = 16 << 20;
/// Turns that each way has with one set of connections.
const TURNS: usize = 8;

/// The ways to the pod.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
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
    /// Not translated, but through the client's node, as whatever is for a Service goes.
    ThroughNode,
}

impl Way {
    /// Those that a network has; the first is what the others are compared with.
    pub const fn on(network: Network) -> &'static [Self] {
        const ROUTED: &[Way] = &[Way::Straight, Way::Control, Way::BareRule, Way::ClusterIp];
        const ON_LINK: &[Way] =
            &[Way::Straight, Way::Control, Way::BareRule, Way::ClusterIp, Way::ThroughNode];
        // Elsewhere the node is on the straight way.
        if network.is_on_link() { ON_LINK } else { ROUTED }
    }
}

/// The backend of the daemon that serves the ClusterIP.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, ValueEnum)]
#[serde(rename_all = "lowercase")]
pub enum Backend {
    /// nftables
    Nftables,
    /// IPVS
    Ipvs,
}

impl Display for Backend {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Nftables => "nftables",
            Self::Ipvs => "ipvs",
        })
    }
}

/// What is measured, and how long.
#[derive(Clone, Copy, Debug)]
pub struct Setting<'a> {
    /// Where.
    pub network: Network,
    /// With which addresses.
    pub family: Family,
    /// Who serves the ClusterIP.
    pub backend: Backend,
    /// The daemon.
    pub shunt: &'a Path,
    /// How many sets of connections, one for each way.
    pub sets: usize,
    /// How long a turn takes, about.
    pub each: Duration,
    /// Whether time is that of the wall. In user-mode Linux that of a process is counted in jiffies; its one processor
    /// has nothing else to do.
    pub by_the_wall: bool,
}

/// What a way carries, in shares of what another does.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct Share {
    /// The median of the sets of connections.
    pub median: f64,
    /// The median's confidence interval of 95 %.
    pub low: f64,
    /// Its other end.
    pub high: f64,
}

/// What was found on a network.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Throughput {
    /// Its name.
    pub network: String,
    /// Who served the ClusterIP.
    pub backend: Backend,
    /// Straight to the pod: the median, in Gbit for a second of one processor.
    pub straight: f64,
    /// The same straight way again.
    pub control: Share,
    /// By the bare rule.
    pub bare_rule: Share,
    /// Through the ClusterIP.
    pub cluster_ip: Share,
    /// That as a share of [`Way::ThroughNode`], where there is that way.
    pub of_through_node: Option<Share>,
}

/// Measures a network.
///
/// # Errors
/// If the network cannot be built here, the daemon does not come up, or a connection breaks.
pub fn measure(setting: &Setting<'_>) -> Result<Throughput> {
    // Before the threads of the cluster's namespaces start: they stay there, too.
    let clock = Clock::of_one_processor(setting.by_the_wall)?;
    let site = Site::build(setting)?;
    let mut sounding = site.lanes(&[0])?;
    sounding[0].carry(SOUNDING)?;
    let pace = time(&clock, &mut sounding[0], SOUNDING)?;
    drop(sounding);
    let pace = Duration::from_secs_f64(pace).as_nanos().max(1);
    let bytes = u64::try_from(u128::from(SOUNDING) * setting.each.as_nanos() / pace)?.max(1 << 20);
    let mut costs = Vec::new();
    for set in 0..setting.sets {
        costs.push(of_a_set(&clock, &site, set, bytes)?);
    }
    let of = |way: Way| site.ways().iter().position(|each| *each == way);
    let share = |way: Way, of_way: Way| {
        let (way, of_way) = of(way).zip(of(of_way))?;
        Some(Share::of(costs.iter().map(|cost| cost[of_way] / cost[way]).collect()))
    };
    let of_straight = |way| share(way, Way::Straight).context("every network has this way");
    let gigabits = bytes as f64 * 8.0 / 1e9;
    Ok(Throughput {
        network: setting.network.name().to_owned(),
        backend: setting.backend,
        straight: Share::of(costs.iter().map(|cost| gigabits / cost[0]).collect()).median,
        control: of_straight(Way::Control)?,
        bare_rule: of_straight(Way::BareRule)?,
        cluster_ip: of_straight(Way::ClusterIp)?,
        of_through_node: share(Way::ClusterIp, Way::ThroughNode),
    })
}

/// What each way's turns take with one set of connections, in seconds.
fn of_a_set(clock: &Clock, site: &Site, set: usize, bytes: u64) -> Result<Vec<f64>> {
    let ways = site.ways().len();
    let mut lanes = site.lanes(&order(ways, set))?;
    for lane in &mut lanes {
        lane.carry(2 * bytes)?;
    }
    let mut times = vec![Vec::new(); ways];
    for turn in 0..TURNS {
        for way in order(ways, set + turn) {
            times[way].push(time(clock, &mut lanes[way], bytes)?);
        }
    }
    Ok(times.into_iter().map(|times| clock.typical(times)).collect())
}

/// An order of the ways for a turn: over twice as many turns as there are ways, everyone follows everyone else equally
/// often (Williams 1949).
fn order(ways: usize, turn: usize) -> Vec<usize> {
    let zigzag = |at: usize| if at % 2 == 1 { at.div_ceil(2) } else { ways - at / 2 };
    let mut order: Vec<_> = (0..ways).map(|at| (zigzag(at) + turn) % ways).collect();
    if turn / ways % 2 == 1 {
        order.reverse();
    }
    order
}

/// What it takes, in seconds.
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
    use std::collections::BTreeMap;

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
    fn everyone_follows_everyone_else_equally_often() {
        for ways in [4, 5] {
            let mut followed = BTreeMap::new();
            for order in (0..2 * ways).map(|turn| order(ways, turn)) {
                for pair in order.windows(2) {
                    *followed.entry((pair[0], pair[1])).or_insert(0) += 1;
                }
            }
            assert_eq!(followed.len(), ways * (ways - 1));
            assert!(followed.iter().all(|((one, next), times)| one != next && *times == 2));
        }
    }
}
