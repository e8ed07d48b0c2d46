//! The chains that pick an endpoint, by what they draw from.

use std::fmt;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use shunt_model::address::{Family, Frontend, FrontendAddress, Protocol};
use shunt_model::balancing::Method;

use crate::element::{Place, View};
use crate::name::suffix;

/// Whose connections a chain of a pool is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Clients {
    /// Everyone's.
    All,
    /// Everyone's but those from inside of the cluster, who are sent elsewhere first.
    Outside,
    /// Those from inside, where a traffic policy is not for them.
    Inside,
}

impl Clients {
    /// All of them.
    pub const ALL: [Self; 3] = [Self::All, Self::Outside, Self::Inside];

    const fn prefix(self) -> &'static str {
        match self {
            Self::All => "",
            Self::Outside => "outside_",
            Self::Inside => "inside_",
        }
    }
}

/// How an endpoint is drawn.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Draw {
    /// From how many slots: a power of two, or zero if there is none.
    pub slots: u32,
    /// By what. At random more than half of the slots are taken, by a hash all of them are.
    pub method: Method,
    /// For how many seconds a client is remembered with its endpoint. Then the slots hold ids.
    pub affinity: Option<u32>,
}

impl Draw {
    /// At random, from slots for so many endpoints.
    #[must_use]
    pub fn random(endpoints: usize) -> Self {
        let endpoints = u32::try_from(endpoints).unwrap_or(u32::MAX);
        let slots = endpoints.checked_next_power_of_two().unwrap_or(1 << 31);
        Self { slots, method: Method::Random, affinity: None }
    }

    fn parse(text: &str) -> Option<Self> {
        let (text, affinity) = match text.split_once("_for_") {
            Some((text, seconds)) => (text, Some(seconds.strip_suffix('s')?.parse().ok()?)),
            None => (text, None),
        };
        let (slots, method) = match text.split_once('_') {
            Some((slots, "hash_address")) => (slots, Method::HashAddress),
            Some((slots, "hash_connection")) => (slots, Method::HashConnection),
            Some(_) => return None,
            None => (text, Method::Random),
        };
        let slots: u32 = slots.parse().ok()?;
        (slots == 0 || slots.is_power_of_two()).then_some(Self { slots, method, affinity })
    }
}

impl fmt::Display for Draw {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let method = match self.method {
            Method::Random => "",
            Method::HashAddress => "_hash_address",
            Method::HashConnection => "_hash_connection",
        };
        write!(f, "{}{method}", self.slots)?;
        match self.affinity {
            Some(seconds) => write!(f, "_for_{seconds}s"),
            None => Ok(()),
        }
    }
}

/// The chain that picks one of a pool's endpoints. There is one for each way to draw, not for
/// each pool: a pool of five to eight endpoints uses the one with eight slots.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct PoolChain {
    /// The family.
    pub family: Family,
    /// For whom it is.
    pub clients: Clients,
    /// Whether it reads the endpoints of NodePorts.
    pub node_port: bool,
    /// How it draws. There are no slots for `Outside` where the traffic policy leaves no endpoint
    /// to those outside, and for the chain that remembers an endpoint after it was drawn.
    pub draw: Draw,
}

impl PoolChain {
    /// The chain that draws so for a frontend's pool.
    #[must_use]
    pub const fn of(frontend: &Frontend, clients: Clients, draw: Draw) -> Self {
        let node_port = matches!(frontend.address, FrontendAddress::Node(_));
        Self { family: frontend.family(), clients, node_port, draw }
    }

    /// The chain that this one goes to with an endpoint, if clients are remembered.
    #[must_use]
    pub fn remember(self) -> Option<Self> {
        let clients = match self.clients {
            Clients::All | Clients::Outside => Clients::All,
            Clients::Inside => Clients::Inside,
        };
        let draw = Draw { affinity: Some(self.draw.affinity?), ..Draw::default() };
        (self.draw.slots > 0).then_some(Self { clients, draw, ..self })
    }

    /// The chain, and the one that it goes to.
    pub(crate) fn with_remember(self) -> impl Iterator<Item = Self> {
        self.remember().into_iter().chain([self])
    }

    /// A place whose maps it reads; the frontend is any.
    pub(crate) const fn place(&self) -> Place {
        let address = match (self.node_port, self.family) {
            (true, family) => FrontendAddress::Node(family),
            (false, Family::V4) => FrontendAddress::Ip(IpAddr::V4(Ipv4Addr::UNSPECIFIED)),
            (false, Family::V6) => FrontendAddress::Ip(IpAddr::V6(Ipv6Addr::UNSPECIFIED)),
        };
        let view = match self.clients {
            Clients::All | Clients::Outside => View::Everyone,
            Clients::Inside => View::Inside,
        };
        Place { frontend: Frontend { address, protocol: Protocol::Tcp, port: 0 }, view }
    }

    /// Whether it is the chain that remembers.
    pub(crate) const fn remembers(&self) -> bool {
        self.draw.slots == 0 && self.draw.affinity.is_some()
    }

    /// The chain with this name.
    #[must_use]
    pub fn parse(name: &str) -> Option<Self> {
        let parse = |stem: Self| {
            let draw = Draw::parse(name.strip_prefix(&stem.stem())?.strip_prefix('_')?)?;
            let chain = Self { draw, ..stem };
            let sound = draw.slots > 0 || (stem.clients == Clients::Outside) != chain.remembers();
            (sound && chain.to_string() == name).then_some(chain)
        };
        Self::stems().find_map(parse)
    }

    /// Every combination of the other parts, without a draw.
    pub(crate) fn stems() -> impl Iterator<Item = Self> {
        let draw = Draw::default();
        Clients::ALL.into_iter().flat_map(move |clients| {
            Family::ALL.into_iter().flat_map(move |family| {
                [false, true].map(|node_port| Self { family, clients, node_port, draw })
            })
        })
    }

    fn stem(&self) -> String {
        let kind = if self.node_port { "node_port_pool" } else { "pool" };
        format!("{}{kind}_{}", self.clients.prefix(), suffix(self.family))
    }
}

impl fmt::Display for PoolChain {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}_{}", self.stem(), self.draw)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_read_back() {
        for stem in PoolChain::stems() {
            for method in [Method::Random, Method::HashAddress, Method::HashConnection] {
                for affinity in [None, Some(10_800)] {
                    let chain = PoolChain { draw: Draw { slots: 8, method, affinity }, ..stem };
                    assert_eq!(PoolChain::parse(&chain.to_string()), Some(chain));
                    if let Some(chain) = chain.remember() {
                        assert_eq!(PoolChain::parse(&chain.to_string()), Some(chain));
                    }
                }
            }
        }
        for wrong in ["pool_v4_0", "pool_v4_3", "pool_v4_08", "pool_v4_8_", "pool_v4", "pool_v5_8"]
        {
            assert_eq!(PoolChain::parse(wrong), None, "{wrong}");
        }
        assert!(PoolChain::parse("outside_pool_v4_0").is_some());
    }
}
