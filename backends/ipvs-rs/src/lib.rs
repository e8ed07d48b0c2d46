//! The kernel's IP Virtual Server (IPVS) over generic netlink.
//!
//! What `ipvsadm` does, as a library: virtual services by address or firewall mark, their
//! destinations, schedulers, flags, persistence, timeouts, statistics of 64 bits and the sync
//! daemons, of both address families. No process is started and no C library is linked.
//!
//! ```no_run
//! use ipvs_rs::{Destination, Ipvs, Protocol, Request, Service, ServiceKey};
//!
//! # fn main() -> Result<(), ipvs_rs::Error> {
//! let mut ipvs = Ipvs::open()?;
//! let web = ServiceKey::address("192.0.2.1".parse().unwrap(), Protocol::TCP, 80);
//! // Many requests go out in one send; the kernel's answers are read after it.
//! ipvs.submit(&[
//!     Request::AddService(Service::new(web, "rr")),
//!     Request::AddDestination(web, Destination::new("10.0.0.1".parse().unwrap(), 8080)),
//!     Request::AddDestination(web, Destination::new("10.0.0.2".parse().unwrap(), 8080)),
//! ])?;
//! for destination in ipvs.destinations(&web)? {
//!     println!("{}: {} connections", destination.address, destination.active_connections);
//! }
//! # Ok(())
//! # }
//! ```
//!
//! Encoding and decoding are pure functions ([`codec`]); only [`Ipvs`] does I/O. The format is that
//! of `include/uapi/linux/ip_vs.h`. The calls block; the kernel answers at once.

mod attribute;
pub mod codec;
mod daemon;
mod error;
mod request;
mod service;
mod socket;
mod stats;

pub use daemon::{Daemon, DaemonState, Multicast};
pub use error::{Error, Rejection};
/// The kernel's error numbers.
pub use nix::errno::Errno;
pub use request::Request;
pub use service::{
    Destination, DestinationKey, Family, Flags, Forward, Info, Persistence, Protocol, Service,
    ServiceKey, Timeouts, Tunnel, TunnelKind,
};
pub use socket::Ipvs;
pub use stats::Stats;

/// The example in the README is true.
#[cfg(doctest)]
#[doc = include_str!("../README.md")]
struct Readme;
