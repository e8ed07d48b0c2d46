//! How the connections of a Service are spread over its endpoints, where it is not the default:
//! each connection for itself, each endpoint with the same chance.

use std::fmt;
use std::str::FromStr;
use std::sync::Arc;

/// The weight of an endpoint of which nothing is said.
pub const WEIGHT: u8 = 1;
/// The greatest weight. What a weight costs is places in maps, so there is an end to it.
pub const GREATEST_WEIGHT: u8 = 100;

/// What a Service says of balancing. Few say anything, so it stands behind a pointer everywhere.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Balancing {
    /// Whether a client comes back to the same endpoint.
    pub affinity: Option<Affinity>,
    /// How an endpoint is picked for a connection that affinity does not decide.
    pub method: Method,
    /// The IPVS scheduler to use in place of the configured one. nftables has none.
    pub scheduler: Option<Scheduler>,
    /// How long connections to an endpoint that left may go on, in seconds. IPVS keeps an
    /// endpoint with weight 0 for so long; nftables never cuts a connection.
    pub drain_seconds: Option<u32>,
    /// The weight of the endpoints on some nodes, by the node's name, sorted, each once. It
    /// replaces what their slices say.
    pub node_weights: Vec<(Arc<str>, u8)>,
}

impl Balancing {
    /// The weight of endpoints on a node, if the Service says it.
    pub(crate) fn node_weight(&self, node: &str) -> Option<u8> {
        let at = self.node_weights.binary_search_by(|(name, _)| (**name).cmp(node)).ok()?;
        Some(self.node_weights[at].1)
    }
}

/// `sessionAffinity: ClientIP`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Affinity {
    /// For how long after its last new connection a client is remembered, in seconds (1-86400).
    pub seconds: u32,
    /// What is remembered of it.
    pub scope: AffinityScope,
}

/// Within what a client keeps its endpoint.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum AffinityScope {
    /// Within each ServicePort, whatever the address it is reached on, as kube-proxy has it.
    #[default]
    Port,
    /// Within the Service: one client, one pod (address), on all ports.
    Service,
}

/// How an endpoint is picked.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Method {
    /// At random.
    #[default]
    Random,
    /// By a hash of the client's address, the same on every node. When one of N endpoints comes or
    /// goes, about 1/N of the clients get another one.
    HashAddress,
    /// The same by a hash of the client's address and port: each connection for itself, but every
    /// node makes the same choice for it.
    HashConnection,
}

/// Gives a closed enum the names by which annotations call its values.
macro_rules! names {
    ($type:ident { $($variant:ident = $name:literal),+ $(,)? }) => {
        impl $type {
            /// All names.
            pub const NAMES: &'static [&'static str] = &[$($name),+];

            /// The name in annotations and output.
            #[must_use]
            pub const fn name(self) -> &'static str {
                match self { $(Self::$variant => $name),+ }
            }
        }

        impl fmt::Display for $type {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(self.name())
            }
        }

        impl FromStr for $type {
            type Err = ();

            fn from_str(text: &str) -> Result<Self, ()> {
                match text { $($name => Ok(Self::$variant),)+ _ => Err(()) }
            }
        }
    };
}

names!(AffinityScope { Port = "port", Service = "service" });
names!(Method { Random = "random", HashAddress = "hash-address", HashConnection = "hash-connection" });

/// A scheduler of IPVS (`net/netfilter/ipvs/ip_vs_*.c`).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Scheduler {
    /// Round robin.
    Rr,
    /// Weighted round robin.
    Wrr,
    /// Least connections.
    Lc,
    /// Weighted least connections.
    Wlc,
    /// Locality-based least connections.
    Lblc,
    /// The same with replication.
    Lblcr,
    /// By a hash of the source.
    Sh,
    /// By a hash of the destination.
    Dh,
    /// Shortest expected delay.
    Sed,
    /// Never queue.
    Nq,
    /// Maglev hashing.
    Mh,
    /// Weighted failover.
    Fo,
    /// Weighted overflow.
    Ovf,
}

names!(Scheduler {
    Rr = "rr", Wrr = "wrr", Lc = "lc", Wlc = "wlc", Lblc = "lblc", Lblcr = "lblcr", Sh = "sh",
    Dh = "dh", Sed = "sed", Nq = "nq", Mh = "mh", Fo = "fo", Ovf = "ovf",
});

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_read_back() {
        for name in Scheduler::NAMES {
            assert_eq!(name.parse::<Scheduler>().unwrap().name(), *name);
        }
        for name in Method::NAMES {
            assert_eq!(name.parse::<Method>().unwrap().to_string(), *name);
        }
        assert_eq!("service".parse(), Ok(AffinityScope::Service));
        assert_eq!("WRR".parse::<Scheduler>(), Err(()));
    }

    #[test]
    fn node_weights_are_found() {
        let node_weights = vec![("a".into(), 2), ("c".into(), 3)];
        let balancing = Balancing { node_weights, ..Balancing::default() };
        assert_eq!(
            ["a", "b", "c"].map(|node| balancing.node_weight(node)),
            [Some(2), None, Some(3)]
        );
    }
}
