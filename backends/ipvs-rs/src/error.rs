//! What can go wrong.

use nix::errno::Errno;

/// What can go wrong.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The kernel has no IPVS, or its module is not loaded and cannot be loaded on demand.
    #[error("the kernel has no IPVS: build it in, or load the module ip_vs")]
    Unavailable,
    /// A system call on the socket failed.
    #[error("cannot {what} a netlink socket")]
    Socket {
        /// The verb.
        what: &'static str,
        /// Why.
        #[source]
        source: std::io::Error,
    },
    /// The kernel refused a question.
    #[error("the kernel refused to {what}: {}", errno.desc())]
    Refused {
        /// What was asked, as the end of "the kernel refused to".
        what: &'static str,
        /// Its error number.
        errno: Errno,
    },
    /// The kernel refused requests of a submission; all others were carried out.
    #[error("{}", describe(.0))]
    Rejected(Vec<Rejection>),
    /// A list changed while it was read, again and again.
    #[error("the kernel's tables changed during each of {attempts} attempts to read them")]
    Interrupted {
        /// How often it was tried.
        attempts: u32,
    },
}

/// A request that the kernel refused.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Rejection {
    /// Which of the submitted requests, counted from 0.
    pub index: usize,
    /// Why: `ESRCH` no such service, `ENOENT` no such destination or scheduler, `EEXIST` it is
    /// there, `EPERM` no `CAP_NET_ADMIN`, `EINVAL` it makes no sense.
    pub errno: Errno,
}

impl Error {
    pub(crate) fn socket(what: &'static str, source: impl Into<std::io::Error>) -> Self {
        Self::Socket { what, source: source.into() }
    }

    /// The kernel's error number, where it gave one.
    #[must_use]
    pub fn errno(&self) -> Option<Errno> {
        match self {
            Self::Unavailable => Some(Errno::ENOENT),
            Self::Refused { errno, .. } => Some(*errno),
            Self::Rejected(rejections) => rejections.first().map(|rejection| rejection.errno),
            Self::Socket { source, .. } => source.raw_os_error().map(Errno::from_raw),
            Self::Interrupted { .. } => None,
        }
    }
}

fn describe(rejections: &[Rejection]) -> String {
    match rejections {
        [] => "the kernel refused a request".to_owned(),
        [first, rest @ ..] => {
            let more =
                if rest.is_empty() { String::new() } else { format!(" ({} more)", rest.len()) };
            format!("the kernel refused request {}: {}{more}", first.index, first.errno.desc())
        }
    }
}
