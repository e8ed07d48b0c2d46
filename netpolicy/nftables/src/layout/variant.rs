//! What an operator chooses of the tables, and what is denied.

use shunt_netpolicy::object::Direction;

/// What an operator chooses of the fixed part.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Variant {
    /// Tell of drops by `NFLOG`, at a limited rate.
    pub log: bool,
    /// Count and log what would be dropped, and drop nothing.
    pub audit: bool,
    /// Drop what goes to or comes from addresses of this node's pods that are not known.
    pub closed: bool,
    /// Count by policy what is accepted and denied: the elements of rows have counters.
    pub counting: bool,
    /// There is a second table, for what is switched on bridges and passes no hook of IP.
    pub switched: Option<Switched>,
}

/// How packets are judged that are switched between two ports of a bridge.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Switched {
    /// The first of each TCP connection, by its header: the kernel tracks no connections there.
    FirstOfTcp,
    /// By the connection, as what is routed (`nf_conntrack_bridge`).
    Tracked,
}

impl Variant {
    /// All of them.
    pub fn all() -> impl Iterator<Item = Self> {
        let chosen = |switched| {
            (0..16u8).map(move |bits| Self {
                log: bits & 1 != 0,
                audit: bits & 2 != 0,
                closed: bits & 4 != 0,
                counting: bits & 8 != 0,
                switched,
            })
        };
        [None, Some(Switched::Tracked), Some(Switched::FirstOfTcp)].into_iter().flat_map(chosen)
    }
}

/// What is not allowed, and goes to a chain of its own.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Denial {
    /// By the policies of a pod for one direction.
    Policy(Direction),
    /// The pod is not known (yet).
    Unknown,
}

impl Denial {
    /// All of them.
    pub const ALL: [Self; 3] =
        [Self::Policy(Direction::Ingress), Self::Policy(Direction::Egress), Self::Unknown];

    /// In one word.
    #[must_use]
    pub const fn word(self) -> &'static str {
        match self {
            Self::Policy(direction) => direction.word(),
            Self::Unknown => "unknown",
        }
    }

    /// What the log's messages begin with. `audited`: the packet passes all the same.
    #[must_use]
    pub const fn prefix(self, audited: bool) -> &'static str {
        match (self, audited) {
            (Self::Policy(Direction::Ingress), false) => "shunt policy ingress",
            (Self::Policy(Direction::Egress), false) => "shunt policy egress",
            (Self::Unknown, false) => "shunt policy unknown",
            (Self::Policy(Direction::Ingress), true) => "shunt audit ingress",
            (Self::Policy(Direction::Egress), true) => "shunt audit egress",
            (Self::Unknown, true) => "shunt audit unknown",
        }
    }

    /// The chain that such packets end in.
    #[must_use]
    pub fn chain(self) -> String {
        format!("denied_{}", self.word())
    }
}
