//! What can go wrong between us and the kernel.

use nix::errno::Errno;

/// The result of a netlink operation.
pub type Result<T> = std::result::Result<T, Error>;

/// What can go wrong between us and the kernel.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The kernel refused a request. `detail` is its extended ack, if it gave one.
    #[error("the kernel refused to {what}: {}{}", errno.desc(), suffix(detail))]
    Refused {
        /// What was asked, as the end of "the kernel refused to".
        what: &'static str,
        /// Its error number.
        errno: Errno,
        /// The text of `NLMSGERR_ATTR_MSG`; may be empty.
        detail: String,
    },
    /// A system call on the socket failed.
    #[error("cannot {what} a netlink socket")]
    Socket {
        /// The verb.
        what: &'static str,
        /// Why.
        #[source]
        source: std::io::Error,
    },
    /// A dump was cut short by a change in the kernel, again and again.
    #[error("the kernel's state changed during each of {attempts} attempts to read it")]
    Interrupted {
        /// How often it was tried.
        attempts: u32,
    },
    /// The kernel sent what its headers do not describe.
    #[error("the kernel sent a message that makes no sense: {0}")]
    Malformed(&'static str),
}

impl Error {
    pub(crate) fn socket(what: &'static str, source: impl Into<std::io::Error>) -> Self {
        Self::Socket { what, source: source.into() }
    }

    /// The kernel's error number, if it refused.
    #[must_use]
    pub fn errno(&self) -> Option<Errno> {
        match self {
            Self::Refused { errno, .. } => Some(*errno),
            Self::Socket { source, .. } => source.raw_os_error().map(Errno::from_raw),
            Self::Interrupted { .. } | Self::Malformed(_) => None,
        }
    }
}

fn suffix(detail: &str) -> String {
    if detail.is_empty() { String::new() } else { format!(" ({detail})") }
}
