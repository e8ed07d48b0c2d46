//! Virtual services and their destinations.

use std::fmt;
use std::net::{IpAddr, SocketAddr};

use crate::stats::Stats;

/// An address family.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Family {
    /// IPv4.
    V4,
    /// IPv6.
    V6,
}

impl Family {
    /// The family of an address.
    #[must_use]
    pub const fn of(address: IpAddr) -> Self {
        match address {
            IpAddr::V4(_) => Self::V4,
            IpAddr::V6(_) => Self::V6,
        }
    }

    /// The length of its addresses in bits.
    #[must_use]
    pub const fn bits(self) -> u8 {
        match self {
            Self::V4 => 32,
            Self::V6 => 128,
        }
    }
}

/// A transport protocol by its number (`IPPROTO_*`).
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Protocol(pub u8);

impl Protocol {
    /// TCP.
    pub const TCP: Self = Self(6);
    /// UDP.
    pub const UDP: Self = Self(17);
    /// SCTP.
    pub const SCTP: Self = Self(132);
}

impl fmt::Display for Protocol {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match *self {
            Self::TCP => f.write_str("TCP"),
            Self::UDP => f.write_str("UDP"),
            Self::SCTP => f.write_str("SCTP"),
            Self(other) => write!(f, "protocol {other}"),
        }
    }
}

/// What a virtual service is known by.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum ServiceKey {
    /// Packets to an address, of a protocol, to a port.
    Address {
        /// The address.
        address: IpAddr,
        /// The protocol.
        protocol: Protocol,
        /// The port; 0 for every port of a persistent service.
        port: u16,
    },
    /// Packets with a firewall mark.
    Mark {
        /// The mark; never 0.
        mark: u32,
        /// Of which family.
        family: Family,
    },
}

impl ServiceKey {
    /// The service at an address, protocol and port.
    #[must_use]
    pub const fn address(address: IpAddr, protocol: Protocol, port: u16) -> Self {
        Self::Address { address, protocol, port }
    }

    /// The service of a firewall mark.
    #[must_use]
    pub const fn mark(mark: u32, family: Family) -> Self {
        Self::Mark { mark, family }
    }

    /// Its family.
    #[must_use]
    pub const fn family(&self) -> Family {
        match self {
            Self::Address { address, .. } => Family::of(*address),
            Self::Mark { family, .. } => *family,
        }
    }
}

impl fmt::Display for ServiceKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Address { address, protocol, port } => {
                write!(f, "{protocol} {}", SocketAddr::new(*address, *port))
            }
            Self::Mark { mark, family: Family::V4 } => write!(f, "FWM {mark}"),
            Self::Mark { mark, family: Family::V6 } => write!(f, "FWM {mark} IPv6"),
        }
    }
}

/// Flags of a virtual service (`IP_VS_SVC_F_*`). Persistence is not among them: it is in
/// [`Service::persistence`]. The kernel keeps bits that it does not know.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Flags(pub u32);

impl Flags {
    /// Each packet is scheduled on its own (UDP).
    pub const ONE_PACKET: Self = Self(0x4);
    /// `sh-fallback`, `mh-fallback`: another destination where the chosen one has weight 0.
    pub const HASH_FALLBACK: Self = Self(0x8);
    /// `sh-port`, `mh-port`: the source port is hashed too.
    pub const HASH_PORT: Self = Self(0x10);
    /// The scheduler's third flag; no scheduler of the kernel has one.
    pub const SCHEDULER_3: Self = Self(0x20);
    /// What the kernel keeps there for itself, and persistence.
    pub(crate) const RESERVED: u32 = 0x3;
    pub(crate) const PERSISTENT: u32 = 0x1;

    /// Whether all of these are set.
    #[must_use]
    pub const fn contains(self, other: Self) -> bool {
        self.0 & other.0 == other.0
    }

    /// These and those.
    #[must_use]
    pub const fn union(self, other: Self) -> Self {
        Self(self.0 | other.0)
    }
}

/// All connections of a client go to one destination.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Persistence {
    /// For how long after the last connection, in seconds.
    pub timeout: u32,
    /// Clients that agree in so many leading bits of their address are one. A netmask of the
    /// kernel that has a hole ends at it.
    pub prefix: u8,
}

/// A virtual service.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Service {
    /// What it is known by.
    pub key: ServiceKey,
    /// How a destination is chosen: `rr`, `wrr`, `lc`, `wlc`, `lblc`, `lblcr`, `sh`, `dh`, `sed`,
    /// `nq`, `mh`, `fo`, `ovf`, or another scheduler that the kernel has. At most 15 bytes.
    pub scheduler: String,
    /// Flags.
    pub flags: Flags,
    /// Persistence, if it has any.
    pub persistence: Option<Persistence>,
    /// The persistence engine (`sip`), if it has one.
    pub persistence_engine: Option<String>,
    /// Counters; written by the kernel alone.
    pub stats: Stats,
}

impl Service {
    /// A service with this scheduler, and nothing else.
    #[must_use]
    pub fn new(key: ServiceKey, scheduler: &str) -> Self {
        Self {
            key,
            scheduler: scheduler.to_owned(),
            flags: Flags::default(),
            persistence: None,
            persistence_engine: None,
            stats: Stats::default(),
        }
    }
}

/// How a packet gets to a destination.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Forward {
    /// Its destination is translated (`-m`).
    #[default]
    Masquerade,
    /// It stays on this machine.
    Local,
    /// It is encapsulated (`-i`).
    Tunnel,
    /// It is sent to the destination's link address as it is (`-g`).
    DirectRoute,
    /// To where it was going; made by the kernel itself.
    Bypass,
}

impl Forward {
    /// `IP_VS_CONN_F_*`.
    pub(crate) const fn number(self) -> u32 {
        match self {
            Self::Masquerade => 0,
            Self::Local => 1,
            Self::Tunnel => 2,
            Self::DirectRoute => 3,
            Self::Bypass => 4,
        }
    }

    pub(crate) const fn from_number(number: u32) -> Option<Self> {
        Some(match number & 7 {
            0 => Self::Masquerade,
            1 => Self::Local,
            2 => Self::Tunnel,
            3 => Self::DirectRoute,
            4 => Self::Bypass,
            _ => return None,
        })
    }
}

/// How packets are encapsulated.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub struct Tunnel {
    /// The kind.
    pub kind: TunnelKind,
    /// The destination's port, for GUE.
    pub port: u16,
    /// `IP_VS_TUNNEL_ENCAP_FLAG_*`: checksums.
    pub flags: u16,
}

/// Kinds of encapsulation.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub enum TunnelKind {
    /// IP in IP.
    #[default]
    Ipip,
    /// Generic UDP encapsulation.
    Gue,
    /// GRE.
    Gre,
}

impl TunnelKind {
    pub(crate) const fn number(self) -> u8 {
        match self {
            Self::Ipip => 0,
            Self::Gue => 1,
            Self::Gre => 2,
        }
    }

    pub(crate) const fn from_number(number: u8) -> Option<Self> {
        Some(match number {
            0 => Self::Ipip,
            1 => Self::Gue,
            2 => Self::Gre,
            _ => return None,
        })
    }
}

/// What a destination is known by within its service.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct DestinationKey {
    /// Its address.
    pub address: IpAddr,
    /// Its port.
    pub port: u16,
}

/// A destination of a virtual service (a real server).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Destination {
    /// Its address. Its family may differ from the service's only with [`Forward::Tunnel`].
    pub address: IpAddr,
    /// Its port.
    pub port: u16,
    /// How packets get there.
    pub forward: Forward,
    /// Its share of new connections: 0 gets none and keeps what it has. At most `i32::MAX`.
    pub weight: u32,
    /// It gets no more connections once it has so many; 0: no limit.
    pub upper_threshold: u32,
    /// After that it gets some again when it has fewer than these; 0: three quarters of the upper.
    pub lower_threshold: u32,
    /// How packets are encapsulated, with [`Forward::Tunnel`].
    pub tunnel: Tunnel,
    /// Connections that are established; written by the kernel alone, as all that follows.
    pub active_connections: u32,
    /// Connections in all other states: ending, UDP.
    pub inactive_connections: u32,
    /// Clients that persistence binds to it.
    pub persistent_connections: u32,
    /// Counters.
    pub stats: Stats,
}

impl Destination {
    /// A destination whose packets are translated, of weight 1.
    #[must_use]
    pub fn new(address: IpAddr, port: u16) -> Self {
        Self {
            address,
            port,
            forward: Forward::default(),
            weight: 1,
            upper_threshold: 0,
            lower_threshold: 0,
            tunnel: Tunnel::default(),
            active_connections: 0,
            inactive_connections: 0,
            persistent_connections: 0,
            stats: Stats::default(),
        }
    }

    /// What it is known by.
    #[must_use]
    pub const fn key(&self) -> DestinationKey {
        DestinationKey { address: self.address, port: self.port }
    }
}

/// For how long the kernel remembers idle connections, in seconds. Where one is set to 0 it stays
/// as it is.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Timeouts {
    /// Established TCP.
    pub tcp: u32,
    /// TCP after a FIN.
    pub tcp_fin: u32,
    /// UDP.
    pub udp: u32,
}

/// What the kernel says of itself.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Info {
    /// Major, minor and patch version.
    pub version: (u8, u8, u8),
    /// The number of buckets of the table of connections.
    pub connection_table_size: u32,
}
