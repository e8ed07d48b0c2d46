//! Real traffic through a node with one proxy, shunt or kube-proxy: what becomes of it while Services change, and what
//! the proxy costs a new connection. Both follow the same small API server ([`crate::kube_proxy::Api`]).

pub mod connect;
mod node;
pub mod soak;

pub use node::{Node, Proxy};
