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
}

impl Forwarding {
    /// Both.
    pub const ALL: [Self; 2] = [Self::Translate, Self::VirtualServers];
}
