//! Invalid objects are data: what is wrong, where, and what was done about it.

use std::fmt;

use crate::object::ObjectKey;

/// The kinds of object that shunt reads.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Kind {
    /// `v1/Service`.
    Service,
    /// `discovery.k8s.io/v1/EndpointSlice`.
    EndpointSlice,
    /// `v1/Node`.
    Node,
    /// `networking.k8s.io/v1/ServiceCIDR`.
    ServiceCidr,
    /// `v1/Pod`.
    Pod,
    /// `v1/Namespace`.
    Namespace,
    /// `networking.k8s.io/v1/NetworkPolicy`.
    NetworkPolicy,
    /// `policy.networking.k8s.io/v1alpha2/ClusterNetworkPolicy`.
    ClusterNetworkPolicy,
    /// Every `v1/Node`, as network policy sees it: a peer with labels and addresses.
    PeerNode,
}

impl Kind {
    /// Whether it is of network policy, and none of Services' concern.
    #[must_use]
    pub const fn is_of_policy(self) -> bool {
        matches!(
            self,
            Self::Pod
                | Self::Namespace
                | Self::NetworkPolicy
                | Self::ClusterNetworkPolicy
                | Self::PeerNode
        )
    }
}

impl fmt::Display for Kind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Service => "Service",
            Self::EndpointSlice => "EndpointSlice",
            Self::Node | Self::PeerNode => "Node",
            Self::ServiceCidr => "ServiceCIDR",
            Self::Pod => "Pod",
            Self::Namespace => "Namespace",
            Self::NetworkPolicy => "NetworkPolicy",
            Self::ClusterNetworkPolicy => "ClusterNetworkPolicy",
        })
    }
}

/// One thing that is wrong with one object. It never stops other objects from being served.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Problem {
    /// The kind of the object.
    pub kind: Kind,
    /// Namespace and name of the object (the namespace is empty for a Node).
    pub object: ObjectKey,
    /// The path of the field, as in the API: `spec.ports[0].port`.
    pub field: String,
    /// What is wrong and what was done, in one clause: `70000 is not a port (1-65535); port skipped`.
    pub reason: String,
}

impl fmt::Display for Problem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {}: {}: {}", self.kind, self.object, self.field, self.reason)
    }
}
