//! What a scenario needs of the kernel that not every kernel has.

use anyhow::{Result, bail};
use shunt_cluster::has_sctp;

use crate::guest::Clock;

/// One thing that a scenario needs.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Need {
    /// SCTP sockets: every pod and node then listens with SCTP too.
    Sctp,
    /// A clock that jumps while everybody waits.
    TimeTravel,
}

impl Need {
    /// Reads its name.
    pub(super) fn parse(name: &str) -> Result<Self> {
        match name {
            "sctp" => Ok(Self::Sctp),
            "time-travel" => Ok(Self::TimeTravel),
            _ => bail!("{name} is nothing that can be needed; sctp and time-travel are"),
        }
    }

    /// Whether this kernel has it.
    pub(super) fn is_met(self) -> bool {
        match self {
            Self::Sctp => has_sctp(),
            Self::TimeTravel => Clock::of_this_guest() == Some(Clock::TimeTravel),
        }
    }
}
