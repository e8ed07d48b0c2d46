//! Elements of sets and maps: typed, as bytes, and as nft prints them.

mod codec;

use std::fmt;
use std::net::IpAddr;
use std::sync::Arc;

use ipnet::IpNet;
use shunt_model::address::{Endpoint, Family, Frontend, FrontendAddress};
use shunt_model::interface::InterfaceName;

pub(crate) use self::codec::{
    decode_endpoint, decode_key, encode_endpoint, encode_key, encode_key_end,
};
use crate::affinity::{self, Id};
use crate::name::{REFUSE, SetId, SetKind, VIRTUAL, guard, outside_virtual};
use crate::pool::{Clients, Draw, PoolChain};

/// The key of an element. Which variants a set has follows from its [`SetKind`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Key {
    /// An address. In `hairpins` it stands for the pair of it with itself.
    Address(IpAddr),
    /// The interface that leads in, the one that leads out, and a network of clients.
    Way(InterfaceName, InterfaceName, IpNet),
    /// Address . protocol . port, or protocol . port for a NodePort.
    Frontend(Frontend),
    /// The same with a slot of its pool, counted from 0.
    Slot(Frontend, u32),
    /// Address . protocol . port with an endpoint's id.
    Id(Frontend, Id),
    /// The same with a network of clients.
    Source(Frontend, IpNet),
}

impl Key {
    /// What a range is of: the same for all ranges that must not overlap. `None`: not a range.
    pub(crate) fn without_range(&self) -> Option<Self> {
        let whole = IpNet::default();
        Some(match *self {
            Self::Source(frontend, _) => Self::Source(frontend, whole),
            Self::Way(input, output, _) => Self::Way(input, output, whole),
            _ => return None,
        })
    }
}

/// Who meets a frontend's verdict and pool.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum View {
    /// Everyone.
    Everyone,
    /// Clients whom source ranges allow. They share the pool of everyone's view.
    Allowed,
    /// Clients inside of the cluster, where a traffic policy is not for them.
    Inside,
}

/// A frontend as one kind of client meets it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Place {
    /// The frontend.
    pub frontend: Frontend,
    /// For whom.
    pub view: View,
}

/// What happens to a new connection to a frontend.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Target {
    /// An endpoint that is drawn so gets it.
    Pool(Draw),
    /// The same for those outside; who is inside meets the frontend in the other view. Zero
    /// slots: there is none for those outside.
    OutsidePool(Draw),
    /// IPVS forwards it.
    Virtual,
    /// The same for those outside; who is inside meets the frontend in the other view.
    OutsideVirtual,
    /// Source ranges decide: who is allowed meets the frontend in that view.
    Guard,
    /// It is refused.
    Refuse,
    /// It is dropped.
    Drop,
}

/// The value of an element.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Value {
    /// An element of a plain set.
    Member,
    /// An element of a verdict map, with a comment for readers of the listing.
    Target(Target, Arc<str>),
    /// An element of an endpoint map.
    Endpoint(Endpoint),
    /// An element of a map to groups or ids.
    Id(Id),
}

/// One element with its place.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Element {
    /// The set or map.
    pub set: SetId,
    /// The key.
    pub key: Key,
    /// The value.
    pub value: Value,
}

impl fmt::Display for Place {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let from = match self.view {
            View::Everyone => "",
            View::Allowed => " if allowed",
            View::Inside => " from inside",
        };
        write!(f, "{}{from}", self.frontend)
    }
}

impl Place {
    /// A frontend as everyone meets it.
    #[must_use]
    pub const fn everyone(frontend: Frontend) -> Self {
        Self { frontend, view: View::Everyone }
    }

    /// A frontend as clients inside of the cluster meet it.
    #[must_use]
    pub const fn inside(frontend: Frontend) -> Self {
        Self { frontend, view: View::Inside }
    }

    /// The map of groups in which the frontend stands, whoever meets it.
    #[must_use]
    pub const fn groups(&self) -> SetId {
        by_address(&self.frontend, SetKind::AffinityGroups, SetKind::NodePortAffinityGroups)
    }

    /// The map of ids by slot, if its clients are remembered.
    pub(crate) const fn sticky_slots(&self) -> SetId {
        let (ip, node_port) = match self.view {
            View::Everyone | View::Allowed => {
                (SetKind::AffinitySlots, SetKind::NodePortAffinitySlots)
            }
            View::Inside => (SetKind::InsideAffinitySlots, SetKind::InsideNodePortAffinitySlots),
        };
        by_address(&self.frontend, ip, node_port)
    }

    /// The map of endpoints by id, if its clients are remembered.
    pub(crate) const fn sticky_endpoints(&self) -> SetId {
        let (ip, node_port) = match self.view {
            View::Everyone | View::Allowed => {
                (SetKind::AffinityEndpoints, SetKind::NodePortAffinityEndpoints)
            }
            View::Inside => {
                (SetKind::InsideAffinityEndpoints, SetKind::InsideNodePortAffinityEndpoints)
            }
        };
        by_address(&self.frontend, ip, node_port)
    }

    /// The map of verdicts in which it stands.
    #[must_use]
    pub const fn verdicts(&self) -> SetId {
        match self.view {
            View::Everyone => by_address(&self.frontend, SetKind::Frontends, SetKind::NodePorts),
            // NodePorts are not for load balancers.
            View::Allowed => SetId::new(SetKind::AllowedFrontends, self.frontend.family()),
            View::Inside => {
                by_address(&self.frontend, SetKind::InsideFrontends, SetKind::InsideNodePorts)
            }
        }
    }

    /// The map of endpoints for its pool.
    #[must_use]
    pub const fn endpoints(&self) -> SetId {
        let (ip, node_port) = match self.view {
            View::Everyone | View::Allowed => (SetKind::Endpoints, SetKind::NodePortEndpoints),
            View::Inside => (SetKind::InsideEndpoints, SetKind::InsideNodePortEndpoints),
        };
        by_address(&self.frontend, ip, node_port)
    }

    /// The place that an element of one of those maps belongs to; `None` for other sets.
    #[must_use]
    pub const fn of(set: SetId, key: &Key) -> Option<Self> {
        let frontend = match key {
            Key::Frontend(frontend) | Key::Slot(frontend, _) | Key::Id(frontend, _) => *frontend,
            Key::Address(_) | Key::Way(..) | Key::Source(..) => return None,
        };
        let view = match set.kind {
            SetKind::Frontends
            | SetKind::NodePorts
            | SetKind::Endpoints
            | SetKind::NodePortEndpoints
            | SetKind::AffinityGroups
            | SetKind::NodePortAffinityGroups
            | SetKind::AffinitySlots
            | SetKind::NodePortAffinitySlots
            | SetKind::AffinityEndpoints
            | SetKind::NodePortAffinityEndpoints => View::Everyone,
            SetKind::InsideFrontends
            | SetKind::InsideNodePorts
            | SetKind::InsideEndpoints
            | SetKind::InsideNodePortEndpoints
            | SetKind::InsideAffinitySlots
            | SetKind::InsideNodePortAffinitySlots
            | SetKind::InsideAffinityEndpoints
            | SetKind::InsideNodePortAffinityEndpoints => View::Inside,
            SetKind::AllowedFrontends => View::Allowed,
            _ => return None,
        };
        Some(Self { frontend, view })
    }
}

/// The set of frontends whose clients are all masqueraded.
pub(crate) const fn masquerade_set(frontend: &Frontend) -> SetId {
    by_address(frontend, SetKind::Masquerade, SetKind::MasqueradeNodePorts)
}

/// The set of frontends that IPVS has virtual servers for.
pub(crate) const fn virtual_set(frontend: &Frontend) -> SetId {
    by_address(frontend, SetKind::VirtualServers, SetKind::VirtualNodePorts)
}

/// The set of frontends where only the node's own connections are masqueraded.
pub(crate) const fn masquerade_own_set(frontend: &Frontend) -> SetId {
    by_address(frontend, SetKind::MasqueradeOwn, SetKind::MasqueradeOwnNodePorts)
}

const fn by_address(frontend: &Frontend, ip: SetKind, node_port: SetKind) -> SetId {
    match frontend.address {
        FrontendAddress::Ip(_) => SetId::new(ip, frontend.family()),
        FrontendAddress::Node(family) => SetId::new(node_port, family),
    }
}

impl Target {
    /// The chain of its pool at a place, if it has one.
    pub(crate) const fn pool_chain(self, place: &Place) -> Option<PoolChain> {
        let (clients, draw) = match (self, place.view) {
            (Self::Pool(draw), View::Everyone | View::Allowed) => (Clients::All, draw),
            (Self::Pool(draw), View::Inside) => (Clients::Inside, draw),
            (Self::OutsidePool(draw), _) => (Clients::Outside, draw),
            (Self::Virtual | Self::OutsideVirtual | Self::Guard | Self::Refuse | Self::Drop, _) => {
                return None;
            }
        };
        Some(PoolChain::of(&place.frontend, clients, draw))
    }

    /// The chain that the verdict goes to; `None` for a plain drop.
    #[must_use]
    pub fn chain(self, place: &Place) -> Option<String> {
        match self {
            Self::Refuse => Some(REFUSE.to_owned()),
            Self::Guard => Some(guard(place.frontend.family())),
            Self::Virtual => Some(VIRTUAL.to_owned()),
            Self::OutsideVirtual => {
                let node_port = matches!(place.frontend.address, FrontendAddress::Node(_));
                Some(outside_virtual(place.frontend.family(), node_port))
            }
            _ => self.pool_chain(place).map(|chain| chain.to_string()),
        }
    }

    /// The target that a chain's name stands for.
    pub(crate) fn of_chain(name: &str) -> Option<Self> {
        if name == REFUSE {
            return Some(Self::Refuse);
        }
        if name == VIRTUAL {
            return Some(Self::Virtual);
        }
        let outside = |family| [false, true].map(|node_port| outside_virtual(family, node_port));
        if Family::ALL.into_iter().flat_map(outside).any(|chain| chain == name) {
            return Some(Self::OutsideVirtual);
        }
        if Family::ALL.into_iter().any(|family| name == guard(family)) {
            return Some(Self::Guard);
        }
        let pool = PoolChain::parse(name)?;
        Some(match pool.clients {
            Clients::All | Clients::Inside => Self::Pool(pool.draw),
            Clients::Outside => Self::OutsidePool(pool.draw),
        })
    }

    /// How it draws from the endpoint map, if it does.
    #[must_use]
    pub const fn draw(self) -> Option<Draw> {
        match self {
            Self::Pool(draw) | Self::OutsidePool(draw) => Some(draw),
            Self::Virtual | Self::OutsideVirtual | Self::Guard | Self::Refuse | Self::Drop => None,
        }
    }
}

impl fmt::Display for Element {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.key {
            Key::Address(address) if self.set.kind == SetKind::Hairpins => {
                write!(f, "{address} . {address}")?;
            }
            Key::Address(address) => write!(f, "{address}")?,
            Key::Way(input, output, network) => {
                write!(f, "\"{input}\" . \"{output}\" . {network}")?;
            }
            Key::Frontend(frontend) => write_frontend(f, frontend)?,
            Key::Slot(frontend, slot) => {
                write_frontend(f, frontend)?;
                write!(f, " . {slot}")?;
            }
            Key::Id(frontend, id) => {
                write_frontend(f, frontend)?;
                write!(f, " . {}", affinity::display(*id))?;
            }
            Key::Source(frontend, network) => {
                write_frontend(f, frontend)?;
                // nft prints the network of one address as the address.
                if network.prefix_len() == network.max_prefix_len() {
                    write!(f, " . {}", network.addr())?;
                } else {
                    write!(f, " . {network}")?;
                }
            }
        }
        match &self.value {
            Value::Member => Ok(()),
            Value::Endpoint(endpoint) => write!(f, " : {} . {}", endpoint.address, endpoint.port),
            Value::Id(id) => write!(f, " : {}", affinity::display(*id)),
            Value::Target(target, comment) => {
                write!(f, " comment \"{comment}\" : ")?;
                let chain = Place::of(self.set, &self.key).and_then(|place| target.chain(&place));
                match chain {
                    Some(chain) => write!(f, "goto {chain}"),
                    None => f.write_str("drop"),
                }
            }
        }
    }
}

fn write_frontend(f: &mut fmt::Formatter<'_>, frontend: &Frontend) -> fmt::Result {
    if let FrontendAddress::Ip(address) = frontend.address {
        write!(f, "{address} . ")?;
    }
    write!(f, "{} . {}", frontend.protocol, frontend.port)
}
