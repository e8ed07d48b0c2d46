//! Who may reach whom.
//!
//! Pods, Namespaces, NetworkPolicies ([`object`]), ClusterNetworkPolicies and Nodes ([`cluster`]) go in, the [`store`] holds the newest of each,
//! [`compile`] resolves them to the [`table`] that a node needs, and the [`oracle`] answers the same
//! questions from the objects alone, without the compiler. Nothing here does I/O.

pub mod address_map;
pub mod cluster;
pub mod compile;
pub mod deciders;
pub mod dns;
pub mod domain;
pub mod object;
pub mod oracle;
pub mod ports;
pub mod sandbox;
pub mod selector;
pub mod snapshot;
pub mod store;
pub mod table;

#[cfg(test)]
mod testing;
