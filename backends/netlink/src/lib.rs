//! Blocking netlink for the kernel thread: messages and attributes, one socket kept for life,
//! nfnetlink batches, and the kernel's own words (extended acks) in every error.
//!
//! Formats: `include/uapi/linux/netlink.h`, `include/uapi/linux/netfilter/nfnetlink.h`.

mod attribute;
mod batch;
mod error;
mod filter;
mod message;
mod pulse;
mod socket;

pub use attribute::{Attribute, attributes};
pub use batch::{Batch, BatchOutcome, Rejection};
pub use error::{Error, Result};
pub use message::{Mark, Message, nfnetlink};
pub use pulse::Pulse;
pub use socket::Socket;
