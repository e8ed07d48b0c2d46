//! The IPVS backend: a plan is lowered to virtual servers with their real servers, addresses on a
//! dummy device and the nftables table beside them, compared with what the kernel holds, and the
//! difference is written.
//!
//! [`lower`], [`diff`] and [`installed`] are pure; [`kernel`] carries out. How the parts play
//! together stands in the README beside this crate.

mod addresses;
mod cleanup;
mod connections;
pub mod diff;
mod error;
mod former;
pub mod installed;
mod ipset;
pub mod kernel;
pub mod kube_proxy;
pub mod lower;
mod readback;
mod record;
mod rounds;
mod settings;
mod sources;
mod sysctl;

pub use cleanup::{Removed, cleanup};
pub use error::Error;
pub use former::Former;
pub use readback::{Inventory, Scheduled, inventory, scheduled};
pub use settings::{OURS, Settings};
pub use sysctl::set_all as set_sysctls;
