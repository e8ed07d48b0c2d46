//! A Kubernetes-like cluster made of network namespaces.

mod cluster;
mod host;
mod link;
mod netlink;
mod netns;
mod numbering;
mod process;
mod routed;
mod socket;

pub use cluster::{CONTROL_PLANE, Cluster, ClusterSpec, ControlPlane, NodeSpec};
pub use host::{Families, Family, Host, Role};
pub use link::{Hop, Links, Peer, Route};
pub use netns::Netns;
pub use process::{Process, Signal, die_with_parent};
