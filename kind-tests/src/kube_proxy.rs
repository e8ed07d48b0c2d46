//! The real kube-proxy, as a peer that plays what shunt plays.
//!
//! It follows an API server of ours, [`Api`], which serves just the objects that it is given, read only. A real one
//! would refuse many objects that scenarios need (addresses outside its range, two owners of a NodePort, a Service that
//! is older than another), takes seconds to start, and would have to be cleaned between scenarios; and kube-proxy asks
//! it for nothing but four lists. What a real one fills in where an object says nothing, [`Objects`] fills in.
//!
//! Tests know that kube-proxy has seen everything by a [`mark`]: a Service that changes last in each step, and whose
//! newest numbers must show in the ruleset.

mod api;
mod http;
pub mod mark;
mod objects;
mod process;

use std::fmt;

pub use api::Api;
pub use objects::{Key, Objects, Resource};
pub use process::{KubeProxy, program};

/// How kube-proxy programs the kernel.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Mode {
    /// By `nft`.
    Nftables,
    /// By `iptables-restore`.
    Iptables,
}

impl Mode {
    /// Both.
    pub const ALL: [Self; 2] = [Self::Nftables, Self::Iptables];

    /// What `--proxy-mode` takes.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Nftables => "nftables",
            Self::Iptables => "iptables",
        }
    }
}

impl fmt::Display for Mode {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "kube-proxy-{}", self.name())
    }
}
