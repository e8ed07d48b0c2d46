//! What can go wrong between the plan and the kernel.

use nix::errno::Errno;

/// What can go wrong between the plan and the kernel.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The process may not change the network.
    #[error(
        "the kernel does not let this process change nftables: it needs the capability CAP_NET_ADMIN in its network namespace"
    )]
    Permission,
    /// The kernel has no nftables.
    #[error(
        "this kernel has no nftables (nf_tables, nft_chain_nat and nft_fib must be built in or loaded): load them, or choose another backend"
    )]
    Unsupported,
    /// Another process holds our table.
    #[error(
        "table inet {table} belongs to another running process (netlink port {port}): only one shunt can run in a network namespace"
    )]
    Owned {
        /// Its name.
        table: &'static str,
        /// The netlink port of its owner.
        port: u32,
    },
    /// The kernel rejected a transaction as a whole.
    #[error("the kernel rejected a transaction: {}{}", errno.desc(), suffix(detail))]
    Rejected {
        /// Its error number.
        errno: Errno,
        /// Its own words; may be empty.
        detail: String,
    },
    /// Another writer has changed our table.
    #[error("another writer changed our table while it was written; it is read anew")]
    Changed,
    /// Others kept writing while we did.
    #[error("other writers changed nftables during each of {attempts} attempts to write")]
    Contended {
        /// How often it was tried.
        attempts: u32,
    },
    /// The answers were lost.
    #[error("the kernel's answer to a transaction was lost; its state is read anew")]
    Lost,
    /// The socket failed, or a request was refused.
    #[error("reading or writing nftables failed")]
    Netlink(#[source] shunt_netlink::Error),
}

impl From<shunt_netlink::Error> for Error {
    fn from(error: shunt_netlink::Error) -> Self {
        match error.errno() {
            Some(Errno::EPERM | Errno::EACCES) => Self::Permission,
            Some(Errno::EPROTONOSUPPORT | Errno::EAFNOSUPPORT | Errno::EINVAL) => Self::Unsupported,
            _ => Self::Netlink(error),
        }
    }
}

fn suffix(detail: &str) -> String {
    if detail.is_empty() { String::new() } else { format!(" ({detail})") }
}
