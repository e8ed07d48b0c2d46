//! A cluster of namespaces with a real API server in it, and `shunt run` on its nodes.
//!
//! [`Plane`] starts etcd, kube-apiserver and the controllers that make EndpointSlices on the
//! cluster's control-plane host, plays the kubelet of all nodes, and makes the restricted account
//! of `manifests/`. [`Daemon`] is a `shunt run` with that account on a node, with the capability
//! `CAP_NET_ADMIN` and no other. [`expect`] says what the kernel of a node should hold, from a
//! fresh list of the API, and compares. [`Flannel`] is a plane whose network Flannel's own daemon makes.
//!
//! Everything ends with its guard, and with the test's process, whatever ends that.

mod api;
mod daemon;
pub mod expect;
mod flannel;
mod kube_proxy;
mod kubelet;
mod plane;
pub mod random;
mod scratch;
mod server;
mod wait;

pub use api::{Api, Id, verbs};
pub use daemon::{Daemon, DaemonSpec, Place, http_get};
pub use flannel::{Flannel, Rules};
pub use kube_proxy::KubeProxy;
pub use kubelet::{PodPort, container_ports};
pub use plane::{CLUSTER_CIDR, Plane, PlaneSpec};
pub use server::{ApiServer, Request};
pub use wait::wait_for;
