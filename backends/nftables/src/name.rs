//! Every name in our table is made here.

use std::fmt;

use shunt_model::address::Family;

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
    /// Map: as `endpoints`, for clients inside of the cluster where a traffic policy is not for them.
    InsideEndpoints,
    /// Map: as `node_port_endpoints`, for clients inside.
    InsideNodePortEndpoints,
    /// Verdict map: as `frontends`, for clients inside.
    InsideFrontends,
    /// Verdict map: as `node_ports`, for clients inside.
    InsideNodePorts,
    /// Verdict map: as `frontends`, for clients whom a Service with source ranges allows.
    AllowedFrontends,
    /// Address . protocol . port . network: whom a Service with source ranges allows.
    AllowedSources,
    /// Map: address . protocol . port to the group within which its clients keep their endpoint.
    AffinityGroups,
    /// The same for NodePorts, without address.
    NodePortAffinityGroups,
    /// Map: as `endpoints`, of frontends with session affinity, to the endpoint's id.
    AffinitySlots,
    /// The same for NodePorts.
    NodePortAffinitySlots,
    /// Map: as `affinity_slots`, for clients inside.
    InsideAffinitySlots,
    /// The same for NodePorts.
    InsideNodePortAffinitySlots,
    /// Map: address . protocol . port . id to the endpoint, as long as it is in the pool.
    AffinityEndpoints,
    /// The same for NodePorts.
    NodePortAffinityEndpoints,
    /// Map: as `affinity_endpoints`, for clients inside.
    InsideAffinityEndpoints,
    /// The same for NodePorts.
    InsideNodePortAffinityEndpoints,
    /// Map: group . client to the id of its endpoint. The kernel fills it, and forgets in time.
    Affinity,
    /// Addresses on which NodePorts are served.
    NodeAddresses,
    /// ClusterIPs: what is no frontend there is refused.
    ClusterIps,
    /// Networks of local pods; other sources of ClusterIP traffic are masqueraded.
    LocalSources,
    /// Networks of local pods, as far as they are known.
    LocalPods,
    /// Names of interfaces by which local pods' packets come in.
    LocalInterfaces,
    /// Networks that ClusterIPs are taken from: what no Service has there is dropped.
    ServiceNetworks,
    /// interface . interface . clients of links whose hosts reach one another past this machine.
    BlindLinks,
    /// Pairs address . address: an endpoint that reached itself.
    Hairpins,
    /// Frontends whose clients are masqueraded.
    Masquerade,
    /// NodePorts whose clients are masqueraded.
    MasqueradeNodePorts,
    /// Frontends where only the node's own connections are masqueraded.
    MasqueradeOwn,
    /// NodePorts where only the node's own connections are masqueraded.
    MasqueradeOwnNodePorts,
    /// Frontends that IPVS has a virtual server for.
    VirtualServers,
    /// NodePorts that IPVS has virtual servers for.
    VirtualNodePorts,
    /// Addresses of frontends, which IPVS needs on an interface of this machine.
    VirtualAddresses,
    /// Addresses that the machine has by itself.
    OwnAddresses,
}

impl SetKind {
    /// All kinds, in the order of the listing.
    pub const ALL: [Self; 37] = [
        Self::Endpoints,
        Self::NodePortEndpoints,
        Self::Frontends,
        Self::NodePorts,
        Self::InsideEndpoints,
        Self::InsideNodePortEndpoints,
        Self::InsideFrontends,
        Self::InsideNodePorts,
        Self::AllowedFrontends,
        Self::AllowedSources,
        Self::AffinityGroups,
        Self::NodePortAffinityGroups,
        Self::AffinitySlots,
        Self::NodePortAffinitySlots,
        Self::InsideAffinitySlots,
        Self::InsideNodePortAffinitySlots,
        Self::AffinityEndpoints,
        Self::NodePortAffinityEndpoints,
        Self::InsideAffinityEndpoints,
        Self::InsideNodePortAffinityEndpoints,
        Self::Affinity,
        Self::NodeAddresses,
        Self::ClusterIps,
        Self::LocalSources,
        Self::LocalPods,
        Self::LocalInterfaces,
        Self::ServiceNetworks,
        Self::BlindLinks,
        Self::Hairpins,
        Self::Masquerade,
        Self::MasqueradeNodePorts,
        Self::MasqueradeOwn,
        Self::MasqueradeOwnNodePorts,
        Self::VirtualServers,
        Self::VirtualNodePorts,
        Self::VirtualAddresses,
        Self::OwnAddresses,
    ];

    const fn stem(self) -> &'static str {
        match self {
            Self::Endpoints => "endpoints",
            Self::NodePortEndpoints => "node_port_endpoints",
            Self::Frontends => "frontends",
            Self::NodePorts => "node_ports",
            Self::InsideEndpoints => "inside_endpoints",
            Self::InsideNodePortEndpoints => "inside_node_port_endpoints",
            Self::InsideFrontends => "inside_frontends",
            Self::InsideNodePorts => "inside_node_ports",
            Self::AllowedFrontends => "allowed_frontends",
            Self::AllowedSources => "allowed_sources",
            Self::AffinityGroups => "affinity_groups",
            Self::NodePortAffinityGroups => "node_port_affinity_groups",
            Self::AffinitySlots => "affinity_slots",
            Self::NodePortAffinitySlots => "node_port_affinity_slots",
            Self::InsideAffinitySlots => "inside_affinity_slots",
            Self::InsideNodePortAffinitySlots => "inside_node_port_affinity_slots",
            Self::AffinityEndpoints => "affinity_endpoints",
            Self::NodePortAffinityEndpoints => "node_port_affinity_endpoints",
            Self::InsideAffinityEndpoints => "inside_affinity_endpoints",
            Self::InsideNodePortAffinityEndpoints => "inside_node_port_affinity_endpoints",
            Self::Affinity => "affinity",
            Self::NodeAddresses => "node_addresses",
            Self::ClusterIps => "cluster_ips",
            Self::LocalSources => "local_sources",
            Self::LocalPods => "local_pods",
            Self::LocalInterfaces => "local_interfaces",
            Self::ServiceNetworks => "service_networks",
            Self::BlindLinks => "blind_links",
            Self::Hairpins => "hairpins",
            Self::Masquerade => "masquerade",
            Self::MasqueradeNodePorts => "masquerade_node_ports",
            Self::MasqueradeOwn => "masquerade_own",
            Self::MasqueradeOwnNodePorts => "masquerade_own_node_ports",
            Self::VirtualServers => "virtual_servers",
            Self::VirtualNodePorts => "virtual_node_ports",
            Self::VirtualAddresses => "virtual_addresses",
            Self::OwnAddresses => "own_addresses",
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

    /// Whether it is a set of intervals.
    #[must_use]
    pub const fn holds_networks(self) -> bool {
        matches!(
            self.kind,
            SetKind::LocalSources
                | SetKind::LocalPods
                | SetKind::LocalInterfaces
                | SetKind::ServiceNetworks
        )
    }

    /// The family of the networks that it holds, if it does. A name of an interface is 16 bytes,
    /// and those that begin alike are an interval: they are held as IPv6 networks are.
    pub(crate) const fn network_family(self) -> Family {
        match self.kind {
            SetKind::LocalInterfaces => Family::V6,
            _ => self.family,
        }
    }

    /// Whether its values are groups or ids of session affinity.
    pub(crate) const fn holds_ids(self) -> bool {
        matches!(
            self.kind,
            SetKind::AffinityGroups
                | SetKind::NodePortAffinityGroups
                | SetKind::AffinitySlots
                | SetKind::NodePortAffinitySlots
                | SetKind::InsideAffinitySlots
                | SetKind::InsideNodePortAffinitySlots
        )
    }

    /// Whether the kernel fills it by itself: it is no part of what we want or compare.
    #[must_use]
    pub const fn is_dynamic(self) -> bool {
        matches!(self.kind, SetKind::Affinity)
    }

    /// Whether a frontend's address is in its keys; where not, they are of NodePorts.
    pub(crate) const fn has_address(self) -> bool {
        !matches!(
            self.kind,
            SetKind::NodePorts
                | SetKind::NodePortEndpoints
                | SetKind::InsideNodePorts
                | SetKind::InsideNodePortEndpoints
                | SetKind::MasqueradeNodePorts
                | SetKind::MasqueradeOwnNodePorts
                | SetKind::VirtualNodePorts
                | SetKind::NodePortAffinityGroups
                | SetKind::NodePortAffinitySlots
                | SetKind::InsideNodePortAffinitySlots
                | SetKind::NodePortAffinityEndpoints
                | SetKind::InsideNodePortAffinityEndpoints
        )
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

/// The chain that refuses: TCP reset, or ICMP port unreachable.
pub(crate) const REFUSE: &str = "refuse";

/// The chain that leaves a packet to IPVS.
pub(crate) const VIRTUAL: &str = "virtual";

/// The chain that leaves a packet to IPVS, but for those from inside of the cluster, who are sent
/// elsewhere first.
pub(crate) fn outside_virtual(family: Family, node_port: bool) -> String {
    let kind = if node_port { "node_port_virtual" } else { "virtual" };
    format!("outside_{kind}_{}", suffix(family))
}

/// The chain that lets in whom source ranges allow.
#[must_use]
pub fn guard(family: Family) -> String {
    format!("guard_{}", suffix(family))
}

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

pub(crate) const fn suffix(family: Family) -> &'static str {
    match family {
        Family::V4 => "v4",
        Family::V6 => "v6",
    }
}
