//! Every name in the table of policy.

use std::fmt;

use shunt_model::address::Family;
use shunt_netpolicy::object::Direction;

/// The table, of family `inet`.
pub const TABLE: &str = "shunt-policy";

/// The sets and maps.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum SetId {
    /// Set: row . protocol: all ports of it.
    Protocols,
    /// Set: row . protocol . port.
    Ports,
    /// Set: row . protocol . range of ports.
    Ranges,
    /// Set: rows that accept other protocols than TCP, UDP and SCTP.
    Others,
    /// The same four of what is denied, where connections are counted by policy; otherwise nothing asks for them.
    DeniedProtocols,
    /// See there.
    DeniedPorts,
    /// See there.
    DeniedRanges,
    /// See there.
    DeniedOthers,
    /// Map: address of a pod to its atom.
    Peers(Family),
    /// Map: address that has names by DNS to its atom, for whoever sends to it; for as long as the names hold.
    Named(Family),
    /// Set: address . number of a domain name that DNS has given to it, for as long as it holds. No rule asks: it is what
    /// is known after a restart.
    Learnt(Family),
    /// Map: range of addresses to its atom.
    Networks(Family),
    /// Map: address of an isolated local pod to its default row.
    Isolated(Direction, Family),
    /// Map: address of an isolated local pod . atom to a row.
    Rows(Direction, Family),
    /// Set: pairs address . address of isolated local pods: a pod may reach itself.
    Itself(Family),
    /// Set: addresses of this machine, which may reach the pods on it.
    Own(Family),
    /// Set: isolated local pods of whom connections to this machine are judged, too.
    ToNode(Family),
    /// Set: isolated local pods whose live connections are judged packet by packet, as policy has
    /// taken something from them.
    Watched(Family),
    /// Set: isolated local pods of whom nothing is dropped, only logged.
    Audited(Family),
    /// Set: ranges that this node gives its pods addresses out of.
    PodNetworks(Family),
    /// Set: addresses of this node's pods that are known.
    Known(Family),
}

impl SetId {
    /// All of them, in the order of the listing.
    pub fn all() -> impl Iterator<Item = Self> {
        let fixed = [
            Self::Protocols,
            Self::Ports,
            Self::Ranges,
            Self::Others,
            Self::DeniedProtocols,
            Self::DeniedPorts,
            Self::DeniedRanges,
            Self::DeniedOthers,
        ];
        let of_family = |family| {
            [
                Self::Peers(family),
                Self::Named(family),
                Self::Learnt(family),
                Self::Networks(family),
                Self::Isolated(Direction::Ingress, family),
                Self::Rows(Direction::Ingress, family),
                Self::Isolated(Direction::Egress, family),
                Self::Rows(Direction::Egress, family),
                Self::Itself(family),
                Self::Own(family),
                Self::ToNode(family),
                Self::Watched(family),
                Self::Audited(family),
                Self::PodNetworks(family),
                Self::Known(family),
            ]
        };
        fixed.into_iter().chain(Family::ALL.into_iter().flat_map(of_family))
    }

    /// Whether it tells what a row decides.
    pub(crate) const fn is_of_rows(self) -> bool {
        matches!(
            self,
            Self::Protocols
                | Self::Ports
                | Self::Ranges
                | Self::Others
                | Self::DeniedProtocols
                | Self::DeniedPorts
                | Self::DeniedRanges
                | Self::DeniedOthers
        )
    }

    /// Whether it holds ranges of ports.
    pub(crate) const fn has_port_ranges(self) -> bool {
        matches!(self, Self::Ranges | Self::DeniedRanges)
    }

    /// The set with this name.
    #[must_use]
    pub fn parse(name: &str) -> Option<Self> {
        Self::all().find(|set| set.to_string() == name)
    }
}

impl fmt::Display for SetId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (stem, family) = match self {
            Self::Protocols => return f.write_str("protocols"),
            Self::Ports => return f.write_str("ports"),
            Self::Ranges => return f.write_str("ranges"),
            Self::Others => return f.write_str("others"),
            Self::DeniedProtocols => return f.write_str("denied_protocols"),
            Self::DeniedPorts => return f.write_str("denied_ports"),
            Self::DeniedRanges => return f.write_str("denied_ranges"),
            Self::DeniedOthers => return f.write_str("denied_others"),
            Self::Peers(family) => ("peers", family),
            Self::Named(family) => ("named", family),
            Self::Learnt(family) => ("learnt", family),
            Self::Networks(family) => ("networks", family),
            Self::Isolated(direction, family) => (direction.word(), family),
            Self::Rows(Direction::Ingress, family) => ("ingress_rows", family),
            Self::Rows(Direction::Egress, family) => ("egress_rows", family),
            Self::Itself(family) => ("itself", family),
            Self::Own(family) => ("own", family),
            Self::ToNode(family) => ("to_node", family),
            Self::Watched(family) => ("watched", family),
            Self::Audited(family) => ("audited", family),
            Self::PodNetworks(family) => ("pod_networks", family),
            Self::Known(family) => ("known", family),
        };
        write!(f, "{stem}_{}", suffix(*family))
    }
}

/// How names of a family end.
#[must_use]
pub const fn suffix(family: Family) -> &'static str {
    match family {
        Family::V4 => "v4",
        Family::V6 => "v6",
    }
}
