//! A Kubernetes-like cluster made of network namespaces: nodes, pods, clients and a place for an API server, with
//! servers to ask and traffic to count.
//!
//! Everything is done by this process over netlink and system calls; no program is run (but for Flannel's rules, which
//! `nft` writes, WireGuard's keys, CNI plugins and BGP daemons) and nothing is written to the file system. Namespaces have no names: they end with their handles, also when the process is killed. All traffic
//! stays between them.
//!
//! # Addresses
//! They follow from the order of the [`ClusterSpec`]. IPv6 numbers are the decimal digits of the IPv4 ones.
//!
//! | who | IPv4 | IPv6 |
//! |---|---|---|
//! | underlay: nodes, clients, control plane | 192.168.77.0/24 | fd00:77::/64 |
//! | default gateway of nodes; nothing is behind it | 192.168.77.1 | fd00:77::1 |
//! | node i, from 1 | 192.168.77.(10+i) | fd00:77::(10+i) |
//! | client k, from 1 | 192.168.77.(100+k) | fd00:77::(100+k) |
//! | control plane | 192.168.77.200 | fd00:77::200 |
//! | pods of node i | 10.77.i.0/24 | fd00:10:77:i::/64 |
//! | pod j of node i, from 1 | 10.77.i.(10+j) | fd00:10:77:i::(10+j) |
//! | gateway of routed pods | 169.254.1.1 | fe80::1 |
//! | gateway of other pods, on their node: `cni0`, `shim0` | 10.77.i.1 | fd00:10:77:i::1 |
//! | node i in the tunnel: `flannel.1`, `flannel0`, `gre-12`, `wg0` | 10.77.i.0 | fd00:10:77:i:: |
//!
//! Every host has its addresses on `eth0`. The node's end of the veth pair of pod j is `veth(10+j)`. How pods are
//! connected is a choice: [`Network`].
//!
//! # Example
//! ```no_run
//! use std::net::SocketAddr;
//! use shunt_cluster::{Cluster, ClusterSpec, EchoServer, NodeSpec, ProbeOptions, Protocol, probe};
//!
//! # fn main() -> anyhow::Result<()> {
//! shunt_cluster::enter_user_namespace()?; // nothing to do for root; before any thread is started
//! let cluster = Cluster::build(&ClusterSpec {
//!     nodes: vec![NodeSpec::new("node-1", &["web-1"]), NodeSpec::new("node-2", &["web-2"])],
//!     clients: vec!["client".to_owned()],
//!     ..ClusterSpec::default()
//! })?;
//! let web = cluster.host("web-2")?;
//! let _server = EchoServer::start(web.netns(), web.name(), &[80])?;
//! let from = cluster.host("web-1")?;
//! let to = SocketAddr::new(web.ip(), 80);
//! let outcome = probe(from.netns(), Protocol::Tcp, to, &ProbeOptions::default());
//! assert_eq!(outcome.by(), Some("web-2"));
//! # Ok(())
//! # }
//! ```

mod capture;
mod cluster;
mod connection;
mod datagram;
mod devices;
mod dns;
mod echo;
mod fabric;
mod handshake;
mod host;
mod latency;
mod link;
mod load;
mod netlink;
mod netns;
mod network;
mod numbering;
mod probe;
mod process;
mod socket;
mod userns;
mod volley;

pub use capture::Capture;
pub use cluster::{CONTROL_PLANE, Cluster, ClusterSpec, ControlPlane, NodeSpec};
pub use connection::Connection;
pub use devices::Sharing;
pub use dns::{DnsServer, Record, TcpResolver, resolve};
pub use echo::EchoServer;
pub use handshake::{first_packet_arrives, sent_again};
pub use host::{Families, Family, Host, Role};
pub use latency::connect_times;
pub use link::{Hop, Links, Peer, Route};
pub use load::{Load, LoadSpec, Report};
pub use netns::Netns;
pub use network::cni::Settings;
pub use network::{Network, Way};
pub use probe::{Outcome, ProbeOptions, Protocol, UdpFlow, probe};
pub use process::{Process, Signal, die_with_parent};
pub use socket::has_sctp;
pub use userns::{Privilege, enter_user_namespace};
pub use volley::{Shot, volley};
