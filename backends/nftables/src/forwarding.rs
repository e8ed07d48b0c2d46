//! Who forwards packets to endpoints.

/// Who forwards packets to endpoints. The table is the same but for what that asks for.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub enum Forwarding {
    /// This table: it translates their destination.
    #[default]
    Translate,
    /// IPVS, at the hooks for packets to this machine. This table refuses, drops, guards, hides
    /// sources, and translates only for clients inside of the cluster where an external traffic
    /// policy is not for them.
    VirtualServers,
    /// This table, and IPVS what it has forwarded before, or will soon: the addresses of frontends
    /// are this machine's.
    BesideVirtualServers,
}

impl Forwarding {
    /// All.
    pub const ALL: [Self; 3] = [Self::Translate, Self::VirtualServers, Self::BesideVirtualServers];

    /// Whether this table translates the destination of packets to frontends.
    #[must_use]
    pub const fn translates(self) -> bool {
        !matches!(self, Self::VirtualServers)
    }

    /// Whether the addresses of frontends are this machine's: guarded, and the source of what it
    /// sends to them itself.
    pub(crate) const fn has_local_addresses(self) -> bool {
        !matches!(self, Self::Translate)
    }
}
