//! The pure heart of shunt.
//!
//! Objects as the API server states them go in ([`object`]), the [`snapshot`] holds the newest of
//! each, [`compile`] resolves them to a complete [`plan`], and the [`oracle`] says what the plan
//! does with a packet. Nothing here does I/O, reads a clock or knows Kubernetes' wire types.

pub mod address;
pub mod balancing;
mod check;
pub mod compile;
pub mod interface;
pub mod object;
pub mod oracle;
pub mod plan;
pub mod problem;
pub mod snapshot;
#[cfg(test)]
mod testing;
