//! The sync daemons: kernel threads that tell other directors of connections.

use std::net::IpAddr;

/// Which of the two daemons.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum DaemonState {
    /// It tells.
    Master,
    /// It listens.
    Backup,
}

impl DaemonState {
    /// `IP_VS_STATE_*`.
    pub(crate) const fn number(self) -> u32 {
        match self {
            Self::Master => 1,
            Self::Backup => 2,
        }
    }

    pub(crate) const fn from_number(number: u32) -> Option<Self> {
        match number {
            1 => Some(Self::Master),
            2 => Some(Self::Backup),
            _ => None,
        }
    }
}

/// Where a daemon sends, where it is not the default (224.0.0.81, port 8848).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Multicast {
    /// The group.
    pub group: IpAddr,
    /// The first port.
    pub port: u16,
    /// The time to live.
    pub ttl: u8,
}

/// One sync daemon.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Daemon {
    /// Which one.
    pub state: DaemonState,
    /// The interface on which it tells or listens. At most 15 bytes.
    pub interface: String,
    /// Directors that talk to each other agree on it; a backup with 0 hears all.
    pub sync_id: u32,
    /// The most bytes in one datagram; `None`: as the interface allows.
    pub max_length: Option<u16>,
    /// Where it sends; `None`: the default.
    pub multicast: Option<Multicast>,
}
