//! The thread that learns what network policy drops: packets from the kernel's log, and counters; and what each policy
//! has decided.

use std::os::fd::AsFd;
use std::sync::mpsc::Receiver;
use std::thread;
use std::time::{Duration, Instant};

use anyhow::Context;
use nix::libc::NETLINK_NETFILTER;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use shunt_netlink::Socket;
use shunt_netpolicy_nftables::drop_log::{DropLog, DroppedPacket};
use shunt_netpolicy_nftables::kernel::{Dropped, PolicyCounts, dropped};
use tokio::sync::mpsc::Sender;
use tracing::{debug, warn};

/// How many events may wait for the loop. What comes faster is left out: the log is limited anyway,
/// and the counters count all.
pub const QUEUE: usize = 256;
/// How often the counters are read.
const COUNT_EVERY: Duration = Duration::from_secs(10);

/// What was learnt.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum DropEvent {
    /// A packet was dropped; in an audit, it would have been.
    Packet(DroppedPacket),
    /// So many were since the table was made.
    Counted(Dropped),
    /// What each policy has decided since the daemon began, if that is counted.
    Decided(PolicyCounts),
}

/// Starts the thread. It ends when nobody listens any more.
///
/// # Errors
/// If there can be no thread, or no netlink socket.
pub fn start(
    log: Option<DropLog>,
    decided: Receiver<PolicyCounts>,
    out: Sender<DropEvent>,
) -> anyhow::Result<()> {
    let counters = Socket::open(NETLINK_NETFILTER)?;
    let reader = Reader { log, counters, counted: Dropped::default(), decided, out };
    thread::Builder::new()
        .name("drops".into())
        .spawn(move || reader.run())
        .context("the thread for the log of drops cannot be started")?;
    Ok(())
}

struct Reader {
    log: Option<DropLog>,
    counters: Socket,
    counted: Dropped,
    decided: Receiver<PolicyCounts>,
    out: Sender<DropEvent>,
}

impl Reader {
    fn run(mut self) {
        let mut count_at = Instant::now();
        while !self.out.is_closed() {
            self.wait(count_at.saturating_duration_since(Instant::now()));
            self.read();
            if Instant::now() >= count_at {
                self.count();
                count_at = Instant::now() + COUNT_EVERY;
            }
        }
    }

    /// Until there is something to read, or for so long.
    fn wait(&self, longest: Duration) {
        let log = self.log.as_ref().map(|log| PollFd::new(log.as_fd(), PollFlags::POLLIN));
        let mut fds: Vec<_> = log.into_iter().collect();
        let timeout = PollTimeout::try_from(longest).unwrap_or(PollTimeout::MAX);
        // Interrupted or not, what is there is read.
        let _ = poll(&mut fds, timeout);
    }

    fn read(&mut self) {
        let Some(log) = &mut self.log else { return };
        let out = &self.out;
        let read = log.read(|packet| {
            let _ = out.try_send(DropEvent::Packet(packet));
        });
        if let Err(error) = read {
            warn!("the log of network policy's drops is not read any more: {error}");
            self.log = None;
        }
    }

    fn count(&mut self) {
        if let Some(counts) = self.decided.try_iter().last() {
            // They are sums: what is left out here is in the next.
            let _ = self.out.try_send(DropEvent::Decided(counts));
        }
        match dropped(&mut self.counters) {
            Ok(counted) if counted != self.counted => {
                if self.out.try_send(DropEvent::Counted(counted)).is_ok() {
                    self.counted = counted;
                }
            }
            Ok(_) => {}
            Err(error) => debug!("network policy's counters cannot be read: {error}"),
        }
    }
}
