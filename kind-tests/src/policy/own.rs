//! Our own time for a change: from an object of the API to the kernel's answer, with nothing of the network between.

use std::net::IpAddr;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use serde::Serialize;
use serde::de::DeserializeOwned;
use serde_json::Value;
use shunt::policy::{Demand, PolicyPlanner};
use shunt::source::SourceEvent;
use shunt::source::convert::{Converted, Converter, Wire};
use shunt::source::wire::policy as wire;
use shunt_cluster::Netns;
use shunt_model::problem::Kind;
use shunt_netpolicy::snapshot::{Change, Object};
use shunt_netpolicy_nftables::kernel::PolicyTable;

use super::scene::{
    NODE, PORT, Scene, at_home, class_name, everywhere, local_address, pod, policy, policy_name,
    team_name,
};

/// Times in microseconds.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize)]
pub struct Times {
    /// The median.
    pub p50: f64,
    /// What 99 of 100 do not exceed.
    pub p99: f64,
}

/// What was found.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize)]
pub struct Own {
    /// Everything at once, from empty.
    pub first_ms: f64,
    /// A pod elsewhere, of a class that is known.
    pub remote_pod: Times,
    /// A pod of our node, of a class that is known: it gets its decisions.
    pub local_pod: Times,
    /// Another port in a policy.
    pub known_peers: Times,
    /// Peers in a policy that no policy asked for before, so that every pod is looked at.
    pub new_peers: Times,
}

/// Measures so many changes of each kind in a cluster of this size.
///
/// # Errors
/// If the kernel refuses something.
pub fn measure(scene: &Scene, changes: usize) -> Result<Own> {
    let netns = Netns::new("policy-own")?;
    let mut rig = Rig::new(&netns)?;
    let first_ms = rig.load(scene)?.as_secs_f64() * 1e3;
    let some = |make: &mut dyn FnMut(usize) -> Result<Duration>, count| -> Result<Times> {
        let times: Result<Vec<_>> = (0..count).map(make).collect();
        Ok(times_of(times?))
    };
    let remote_pod = some(&mut |n| rig.apply(&new_pod(n, "node-2", &class_name(n % 7))), changes)?;
    let local_pod = some(
        &mut |n| {
            let name = format!("late-server-{n}");
            // All teams but the last have a policy.
            let team = team_name(n % scene.teams().saturating_sub(1).max(1));
            rig.apply(&pod(&team, &name, "server", NODE, late(n)))
        },
        changes.min(100),
    )?;
    let policies = changes.div_ceil(10);
    let known_peers = some(
        &mut |n| {
            let port = PORT + 1 + u16::try_from(n).unwrap_or(0);
            let from = everywhere(&class_name(0));
            rig.apply(&policy(&team_name(0), &policy_name(0), &from, port))
        },
        policies,
    )?;
    let new_peers = some(
        &mut |n| rig.apply(&policy(&team_name(0), &policy_name(0), &at_home(n), PORT)),
        policies,
    )?;
    Ok(Own { first_ms, remote_pod, local_pod, known_peers, new_peers })
}

/// What the daemon has for network policy, without what brings objects to it.
#[derive(Debug)]
pub struct Rig {
    converter: Converter,
    /// The objects and the table made of them.
    pub planner: PolicyPlanner,
    /// The table in the kernel.
    pub table: PolicyTable,
}

impl Rig {
    /// With an empty table in a network namespace.
    ///
    /// # Errors
    /// If nftables cannot be opened.
    pub fn new(netns: &Netns) -> Result<Self> {
        // The planner may stay on this thread; the table's sockets belong to the namespace they were opened in.
        let table = netns.run(|| PolicyTable::open(true))?;
        let planner = PolicyPlanner::new(NODE, Demand::Always);
        Ok(Self { converter: Converter::new(), planner, table })
    }

    /// Takes in all objects of a scene; returns how long that took, once they were converted.
    ///
    /// # Errors
    /// If the kernel refuses something.
    pub fn load(&mut self, scene: &Scene) -> Result<Duration> {
        let kinds = [Kind::Namespace, Kind::Pod, Kind::NetworkPolicy, Kind::ClusterNetworkPolicy];
        let changes: Result<Vec<_>> =
            scene.objects().iter().map(|object| self.convert(object)).collect();
        let changes = changes?;
        let started = Instant::now();
        self.planner.take_addresses(&[IpAddr::from([192, 168, 77, 1])].into(), started);
        for kind in kinds {
            self.planner.take(Change::ListStarted(kind), started);
        }
        for change in changes {
            self.planner.take(change, started);
        }
        for kind in kinds {
            self.planner.take(Change::ListDone(kind), started);
        }
        self.sync()?;
        let took = started.elapsed();
        let status = self.planner.status();
        ensure!(status.pods >= scene.pods && status.isolated >= 90, "{status:?}");
        Ok(took)
    }

    /// Takes an object in, as the source of objects does, and brings the kernel there.
    fn apply(&mut self, object: &Value) -> Result<Duration> {
        let text = serde_json::to_string(object)?;
        let started = Instant::now();
        let change = self.convert(&serde_json::from_str(&text)?)?;
        self.planner.take(change, started);
        self.sync()?;
        Ok(started.elapsed())
    }

    fn sync(&mut self) -> Result<()> {
        let order = self.planner.order(Instant::now()).context("nothing changes")?;
        let report = self.table.sync(order.delta)?;
        ensure!(report.operations > 0, "nothing was written");
        Ok(())
    }

    fn convert(&mut self, object: &Value) -> Result<Change> {
        match object["kind"].as_str() {
            Some("Pod") => self.read::<wire::Pod>(object),
            Some("Namespace") => self.read::<wire::Namespace>(object),
            _ => self.read::<wire::NetworkPolicy>(object),
        }
    }

    fn read<W>(&mut self, object: &Value) -> Result<Change>
    where
        W: Wire<Object = Object> + DeserializeOwned,
    {
        let converted: Converted<Object> = W::deserialize(object)?.convert(&mut self.converter);
        match SourceEvent::from(converted) {
            SourceEvent::Policy(change) => Ok(change),
            other => anyhow::bail!("{other:?}"),
        }
    }
}

/// A pod that comes late, on another node.
fn new_pod(n: usize, node: &str, class: &str) -> Value {
    let [_, _, high, low] = u32::try_from(n).unwrap_or(u32::MAX).to_be_bytes();
    let address = IpAddr::from([10, 250, high, low]);
    pod(&team_name(n % 7), &format!("late-{n}"), class, node, address)
}

/// The address of a pod that comes late on our node.
fn late(n: usize) -> IpAddr {
    local_address(110 + n)
}

fn times_of(mut times: Vec<Duration>) -> Times {
    times.sort_unstable();
    let at = |percent: usize| {
        let rank = (times.len() * percent).div_ceil(100).max(1);
        times.get(rank - 1).map_or(f64::NAN, |time| time.as_secs_f64() * 1e6)
    };
    Times { p50: at(50), p99: at(99) }
}
