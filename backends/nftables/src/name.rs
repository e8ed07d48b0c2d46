//! Every name in our table is made here.

use std::fmt;

use shunt_model::address::{Family, Frontend, FrontendAddress};

/// The table, of family `inet`.
pub const TABLE: &str = "shunt";

/// Comment of a table of another layout, or of none of ours, never equals this prefix and the
/// layout's fingerprint.
pub const TABLE_COMMENT: &str = "shunt service proxy, layout ";

/// The kinds of set and map; each exists once for each family.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum SetKind {
    /// Map: address . protocol . port of an endpoint slot to the endpoint.
    Endpoints,
    /// The same for NodePorts, without address.
    NodePortEndpoints,
    /// Verdict map: address . protocol . port to what happens there.
    Frontends,
    /// Verdict map: protocol . port on the node's addresses.
    NodePorts,
    /// Addresses on which NodePorts are served.
    NodeAddresses,
    /// ClusterIPs: what is no frontend there is refused.
    ClusterIps,
    /// Networks of local pods; other sources of ClusterIP traffic are masqueraded.
    LocalSources,
    /// Pairs address . address: an endpoint that reached itself.
    Hairpins,
    /// Frontends whose clients are masqueraded.
    Masquerade,
    /// NodePorts whose clients are masqueraded.
    MasqueradeNodePorts,
}

impl SetKind {
    /// All kinds, in the order of the listing.
    pub const ALL: [Self; 10] = [
        Self::Endpoints,
        Self::NodePortEndpoints,
        Self::Frontends,
        Self::NodePorts,
        Self::NodeAddresses,
        Self::ClusterIps,
        Self::LocalSources,
        Self::Hairpins,
        Self::Masquerade,
        Self::MasqueradeNodePorts,
    ];

    const fn stem(self) -> &'static str {
        match self {
            Self::Endpoints => "endpoints",
            Self::NodePortEndpoints => "node_port_endpoints",
            Self::Frontends => "frontends",
            Self::NodePorts => "node_ports",
            Self::NodeAddresses => "node_addresses",
            Self::ClusterIps => "cluster_ips",
            Self::LocalSources => "local_sources",
            Self::Hairpins => "hairpins",
            Self::Masquerade => "masquerade",
            Self::MasqueradeNodePorts => "masquerade_node_ports",
        }
    }
}

/// One set or map of the table.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct SetId {
    /// What it holds.
    pub kind: SetKind,
    /// Of which family.
    pub family: Family,
}

impl SetId {
    /// The set of this kind and family.
    #[must_use]
    pub const fn new(kind: SetKind, family: Family) -> Self {
        Self { kind, family }
    }

    /// All sets, in the order of the listing.
    pub fn all() -> impl Iterator<Item = Self> {
        Family::ALL
            .into_iter()
            .flat_map(|family| SetKind::ALL.into_iter().map(move |kind| Self::new(kind, family)))
    }

    /// The set with this name.
    #[must_use]
    pub fn parse(name: &str) -> Option<Self> {
        Self::all().find(|set| set.to_string() == name)
    }
}

impl fmt::Display for SetId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}_{}", self.kind.stem(), suffix(self.family))
    }
}

/// The chain that picks one of a pool's endpoints. There is one for each power of two, not for
/// each pool: a pool of five to eight endpoints uses the one with eight slots.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct PoolChain {
    /// The family.
    pub family: Family,
    /// Whether it reads the endpoints of NodePorts.
    pub node_port: bool,
    /// How many slots it draws from: a power of two.
    pub slots: u32,
}

impl PoolChain {
    /// The chain with so many slots for a frontend's pool.
    #[must_use]
    pub const fn of(frontend: &Frontend, slots: u32) -> Self {
        let node_port = matches!(frontend.address, FrontendAddress::Node(_));
        Self { family: frontend.family(), node_port, slots }
    }

    /// The chain with this name.
    #[must_use]
    pub fn parse(name: &str) -> Option<Self> {
        let (node_port, rest) = match name.strip_prefix("node_port_pool_") {
            Some(rest) => (true, rest),
            None => (false, name.strip_prefix("pool_")?),
        };
        let (family, slots) = rest.split_once('_')?;
        let family = Family::ALL.into_iter().find(|known| suffix(*known) == family)?;
        Some(Self {
            family,
            node_port,
            slots: slots.parse().ok().filter(|slots: &u32| slots.is_power_of_two())?,
        })
    }
}

impl fmt::Display for PoolChain {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let stem = if self.node_port { "node_port_pool" } else { "pool" };
        write!(f, "{stem}_{}_{}", suffix(self.family), self.slots)
    }
}

/// The chain that refuses: TCP reset, or ICMP port unreachable.
pub const REFUSE: &str = "refuse";

/// The chain that finds the frontend of a new connection.
#[must_use]
pub fn services(family: Family) -> String {
    format!("services_{}", suffix(family))
}

/// The chain that decides whose source address is hidden.
#[must_use]
pub fn sources(family: Family) -> String {
    format!("sources_{}", suffix(family))
}

const fn suffix(family: Family) -> &'static str {
    match family {
        Family::V4 => "v4",
        Family::V6 => "v6",
    }
}
