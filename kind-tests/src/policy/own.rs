//! Our own time for a change: from an object of the API to the kernel's answer, with nothing of the network between.

use std::net::IpAddr;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use serde::Serialize;
use serde::de::DeserializeOwned;
use serde_json::Value;
use shunt::policy::{Demand, PolicyPlanner};
use shunt::source::SourceEvent;
use shunt::source::convert::{Converted, Converter, Wire};
use shunt::source::wire::{cluster, policy as wire};
use shunt_cluster::Netns;
use shunt_model::problem::Kind;
use shunt_netpolicy::snapshot::{Change as Told, Object};
use shunt_netpolicy_nftables::kernel::PolicyTable;

use super::changes;
use super::scene::{NODE, PORT, Scene, class_name, everywhere, policy};

/// Times in microseconds.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize)]
pub struct Times {
    /// The median.
    pub p50: f64,
    /// What 99 of 100 do not exceed.
    pub p99: f64,
}

/// A kind of change.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Change {
    /// Of what.
    pub what: String,
    /// How long it took.
    pub times: Times,
    /// The goal of the median, in milliseconds.
    pub limit: f64,
}

/// What was found.
#[derive(Clone, Debug, Default, PartialEq, Serialize)]
pub struct Own {
    /// Everything at once, from empty.
    pub first_ms: f64,
    /// Each kind of change.
    pub changes: Vec<Change>,
}

/// Measures so many changes of each kind in a cluster of this size.
///
/// # Errors
/// If the kernel refuses something.
pub fn measure(scene: &Scene, changes: usize) -> Result<Own> {
    let netns = Netns::new("policy-own")?;
    let mut rig = Rig::new(&netns)?;
    let mut own = Own { first_ms: rig.load(scene)?.as_secs_f64() * 1e3, ..Own::default() };
    for node in changes::nodes() {
        rig.take(&node)?;
    }
    for kind in changes::all(scene, changes) {
        let times: Result<Vec<_>> = (0..kind.times).map(|n| rig.apply(&(kind.object)(n))).collect();
        let times = times_of(times.with_context(|| kind.what.to_owned())?);
        own.changes.push(Change { what: kind.what.to_owned(), times, limit: kind.limit });
    }
    drop((rig, netns));
    let times = first_isolated(scene, changes.div_ceil(10))?;
    own.changes.push(Change {
        what: "policy: the first isolated pod".to_owned(),
        times,
        limit: 50.0,
    });
    Ok(own)
}

/// A policy that isolates the first pods of the node, and is gone again each time. There is another one, for pods
/// elsewhere, or Pods would not be watched.
fn first_isolated(scene: &Scene, changes: usize) -> Result<Times> {
    let netns = Netns::new("policy-first")?;
    let mut rig = Rig::new(&netns)?;
    let mut objects = scene.objects();
    objects.retain(|object| object["kind"] != "NetworkPolicy");
    objects.push(policy("elsewhere", "other", &everywhere(&class_name(0)), PORT));
    rig.take_all(&objects)?;
    let first = scene.policy(0);
    let Told::Applied { object, .. } = rig.convert(&first)? else { bail!("{first}") };
    let mut times = Vec::new();
    for _ in 0..changes {
        times.push(rig.apply(&first)?);
        let now = Instant::now();
        rig.planner.take(Told::Deleted { kind: object.kind(), key: object.key() }, now);
        rig.write()?;
    }
    Ok(times_of(times))
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
        let took = self.take_all(&scene.objects())?;
        let status = self.planner.status();
        ensure!(status.pods >= scene.pods && status.isolated >= 90, "{status:?}");
        Ok(took)
    }

    fn take_all(&mut self, objects: &[Value]) -> Result<Duration> {
        let kinds = [
            Kind::Namespace,
            Kind::Pod,
            Kind::NetworkPolicy,
            Kind::ClusterNetworkPolicy,
            Kind::PeerNode,
        ];
        let changes: Result<Vec<_>> = objects.iter().map(|object| self.convert(object)).collect();
        let changes = changes?;
        let started = Instant::now();
        self.planner.take_addresses(&[IpAddr::from([192, 168, 77, 1])].into(), started);
        for kind in kinds {
            self.planner.take(Told::ListStarted(kind), started);
        }
        for change in changes {
            self.planner.take(change, started);
        }
        for kind in kinds {
            self.planner.take(Told::ListDone(kind), started);
        }
        self.sync()?;
        Ok(started.elapsed())
    }

    /// Takes an object in, as the source of objects does, and brings the kernel there.
    fn apply(&mut self, object: &Value) -> Result<Duration> {
        let text = serde_json::to_string(object)?;
        let started = Instant::now();
        self.take(&serde_json::from_str(&text)?)?;
        self.write()?;
        Ok(started.elapsed())
    }

    fn take(&mut self, object: &Value) -> Result<()> {
        let change = self.convert(object)?;
        self.planner.take(change, Instant::now());
        Ok(())
    }

    fn write(&mut self) -> Result<()> {
        ensure!(self.sync()? > 0, "nothing was written");
        Ok(())
    }

    /// Returns how many operations that took.
    fn sync(&mut self) -> Result<usize> {
        let order = self.planner.order(Instant::now()).context("nothing changes")?;
        Ok(self.table.sync(order.delta)?.operations)
    }

    fn convert(&mut self, object: &Value) -> Result<Told> {
        match object["kind"].as_str() {
            Some("Pod") => self.read::<wire::Pod>(object),
            Some("Namespace") => self.read::<wire::Namespace>(object),
            Some("Node") => self.read::<cluster::PeerNode>(object),
            Some("ClusterNetworkPolicy") => self.read::<cluster::ClusterNetworkPolicy>(object),
            _ => self.read::<wire::NetworkPolicy>(object),
        }
    }

    fn read<W>(&mut self, object: &Value) -> Result<Told>
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

fn times_of(mut times: Vec<Duration>) -> Times {
    times.sort_unstable();
    let at = |percent: usize| {
        let rank = (times.len() * percent).div_ceil(100).max(1);
        times.get(rank - 1).map_or(f64::NAN, |time| time.as_secs_f64() * 1e6)
    };
    Times { p50: at(50), p99: at(99) }
}
