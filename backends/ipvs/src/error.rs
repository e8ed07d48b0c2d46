//! What can go wrong.

use std::io;

/// What can go wrong.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// No IPVS.
    #[error(
        "{0}; load ip_vs (and ip_vs_rr, ip_vs_sh, ... for schedulers) on the host, or use \
         --proxy-mode=nftables or --ipvs-fallback=nftables"
    )]
    Unavailable(#[source] ipvs_rs::Error),
    /// IPVS does not work.
    #[error("IPVS")]
    Ipvs(#[from] ipvs_rs::Error),
    /// The nftables table beside it does not work.
    #[error("nftables")]
    Nftables(#[from] shunt_nftables::kernel::Error),
    /// Addresses cannot be read or written.
    #[error("the addresses of Services")]
    Addresses(#[from] shunt_netlink::Error),
    /// No dummy devices.
    #[error(
        "the kernel has no dummy devices, which the addresses of Services need: load the module \
         dummy on the host, or use --proxy-mode=nftables or --ipvs-fallback=nftables"
    )]
    NoDummy(#[source] shunt_netlink::Error),
    /// A sysctl that must be set is not and cannot be.
    #[error("{path} must be {value} and cannot be written")]
    Sysctl {
        /// Its file.
        path: String,
        /// What it must be.
        value: &'static str,
        /// Why it cannot be written.
        #[source]
        source: io::Error,
    },
    /// The kernel keeps refusing what it should not.
    #[error("IPVS refuses to {request}: {reason}")]
    Refused {
        /// What was asked.
        request: String,
        /// Why it refuses.
        reason: String,
    },
}

impl Error {
    /// Whether the machine lacks something that IPVS mode needs, and nftables alone does not.
    #[must_use]
    pub const fn is_a_lack(&self) -> bool {
        matches!(
            self,
            Self::Unavailable(ipvs_rs::Error::Unavailable) | Self::NoDummy(_) | Self::Sysctl { .. }
        )
    }
}
