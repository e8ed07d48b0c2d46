//! What a proxy costs a new connection: through Services among many others, beside a connection straight to the pod,
//! which is tracked as well.

use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::time::Duration;

use anyhow::{Context, Result};
use serde::Serialize;
use serde_json::{Value, json};
use shunt_cluster::connect_times;

use super::node::{Node, Proxy, service, slice};

/// Connections before it counts.
const WARM_UP: usize = 200;
/// Where the pod listens, and nobody waits.
const PORT: u16 = 9000;

/// The ways to a pod that are compared.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Way {
    /// Straight to the pod.
    Direct,
    /// A ClusterIP.
    Plain,
    /// A ClusterIP with session affinity.
    Affinity,
    /// A balancer's address without source ranges; the pods' network is short-circuited to it.
    Balancer,
    /// The same with source ranges.
    Ranges,
    /// A ClusterIP with `internalTrafficPolicy: Local`.
    Local,
}

impl Way {
    /// All.
    pub const ALL: [Self; 6] =
        [Self::Direct, Self::Plain, Self::Affinity, Self::Balancer, Self::Ranges, Self::Local];

    /// What it is compared with.
    #[must_use]
    pub const fn base(self) -> Self {
        match self {
            Self::Direct | Self::Plain => Self::Direct,
            Self::Affinity | Self::Balancer | Self::Local => Self::Plain,
            Self::Ranges => Self::Balancer,
        }
    }

    /// The most that its median may be, in those of what it is compared with.
    #[must_use]
    pub const fn goal(self) -> Option<f64> {
        match self {
            Self::Direct | Self::Balancer => None,
            Self::Plain => Some(1.2),
            Self::Affinity | Self::Ranges | Self::Local => Some(1.1),
        }
    }

    fn address(self) -> IpAddr {
        match self {
            Self::Direct => Node::pod(1),
            Self::Plain => Ipv4Addr::new(10, 96, 0, 11).into(),
            Self::Affinity => Ipv4Addr::new(10, 96, 0, 12).into(),
            Self::Balancer => Ipv4Addr::new(203, 0, 113, 13).into(),
            Self::Ranges => Ipv4Addr::new(203, 0, 113, 14).into(),
            Self::Local => Ipv4Addr::new(10, 96, 0, 15).into(),
        }
    }

    fn objects(self) -> Vec<Value> {
        let (name, last) = match self {
            Self::Direct => return Vec::new(),
            Self::Plain => ("plain", 11),
            Self::Affinity => ("affinity", 12),
            Self::Balancer => ("balancer", 13),
            Self::Ranges => ("ranges", 14),
            Self::Local => ("local", 15),
        };
        let mut spec = json!({});
        match self {
            Self::Affinity => spec["sessionAffinity"] = json!("ClientIP"),
            Self::Local => spec["internalTrafficPolicy"] = json!("Local"),
            Self::Balancer | Self::Ranges => spec["type"] = json!("LoadBalancer"),
            Self::Direct | Self::Plain => {}
        }
        if self == Self::Ranges {
            spec["loadBalancerSourceRanges"] = json!(["192.0.2.0/24", "10.77.0.0/16"]);
        }
        let mut made = service(name, Ipv4Addr::new(10, 96, 0, last).into(), &spec);
        if matches!(self, Self::Balancer | Self::Ranges) {
            made["status"] = json!({ "loadBalancer": { "ingress": [{ "ip": self.address() }] } });
        }
        vec![made, slice(name, [1], PORT)]
    }
}

/// The median of each way, in microseconds, in the order of [`Way::ALL`].
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize)]
pub struct Medians(pub [f64; Way::ALL.len()]);

impl Medians {
    /// The median of a way.
    #[must_use]
    pub fn of(&self, way: Way) -> f64 {
        let place = Way::ALL.iter().position(|one| *one == way).unwrap_or(0);
        self.0[place]
    }

    /// How many times what it is compared with.
    #[must_use]
    pub fn ratio(&self, way: Way) -> f64 {
        self.of(way) / self.of(way.base())
    }
}

/// Measures `rounds` connections of each way, in turn, among so many Services.
///
/// # Errors
/// If the proxy is not synced within `patience`, or a connection fails.
pub fn measure(
    proxy: &Proxy,
    services: usize,
    rounds: usize,
    patience: Duration,
) -> Result<Medians> {
    let others = (0..services).flat_map(|index| {
        let name = format!("other-{index}");
        [service(&name, other(index), &json!({})), slice(&name, [1], PORT)]
    });
    let own = Way::ALL.into_iter().flat_map(Way::objects);
    let objects: Vec<_> = others.chain(own).collect();
    let node = Node::start(proxy, 1, &objects, patience)?;
    drop(objects);
    let destinations = Way::ALL.map(|way| match way {
        Way::Direct => SocketAddr::new(way.address(), PORT),
        _ => SocketAddr::new(way.address(), 80),
    });
    let listener = node.listen(1, PORT)?;
    let again = vec![listener.try_clone()?];
    let warming = connect_times(node.client()?, again, &destinations, WARM_UP);
    warming.context("warming up")?;
    let times = connect_times(node.client()?, vec![listener], &destinations, rounds)?;
    let mut medians = Medians::default();
    for (median, mut times) in medians.0.iter_mut().zip(times) {
        times.sort_unstable();
        *median = times.get(times.len() / 2).map_or(f64::NAN, |time| time.as_secs_f64() * 1e6);
    }
    Ok(medians)
}

/// The ClusterIP of another Service.
fn other(index: usize) -> IpAddr {
    let [_, high, middle, low] = u32::try_from(index).unwrap_or(u32::MAX).to_be_bytes();
    Ipv4Addr::new(10, 100 + high, middle, low).into()
}
