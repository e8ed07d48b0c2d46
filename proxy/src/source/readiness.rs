//! Waiting for a file descriptor that tokio has no type for.

use std::io;
use std::os::fd::{BorrowedFd, OwnedFd};

use tokio::io::Interest;
use tokio::io::unix::AsyncFd;

/// Tells when a file descriptor can be read. Holds a duplicate of it, so that it stays open.
#[derive(Debug)]
pub(super) struct Readiness(AsyncFd<OwnedFd>);

impl Readiness {
    /// For a file descriptor, which must not block. To be called in a tokio runtime.
    pub(super) fn of(fd: BorrowedFd<'_>) -> io::Result<Self> {
        let fd = fd.try_clone_to_owned()?;
        #[allow(
            deprecated,
            reason = "its successor is unsafe because a type may lie about the descriptor it \
                      owns; the standard library's OwnedFd does not"
        )]
        AsyncFd::with_interest(fd, Interest::READABLE).map(Self)
    }

    /// Waits until something can be read that came after the last wait. The caller then reads
    /// until nothing is left.
    pub(super) async fn wait(&self) -> io::Result<()> {
        self.0.readable().await?.clear_ready();
        Ok(())
    }
}
