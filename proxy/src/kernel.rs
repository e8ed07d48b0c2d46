//! The kernel thread: carries orders out, and keeps what is installed as ordered.
//!
//! The thread owns the backend and its sockets, and may block in the kernel for as long as it
//! likes: the event loop never waits for it. Orders that arrive meanwhile are merged, so that
//! only the newest state of each Service is ever written.

mod flows;
mod worker;

use std::os::fd::{AsFd, BorrowedFd};
use std::sync::Arc;
use std::sync::mpsc::{Receiver, Sender, TryRecvError, channel};
use std::thread;
use std::time::{Duration, Instant};

use nix::errno::Errno;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::eventfd::{EfdFlags, EventFd};
use shunt_model::plan::PlanDelta;
use shunt_netlink::Pulse;
use tokio::sync::mpsc::UnboundedSender;

pub use self::flows::{Flows, Swept};
pub use self::worker::Policy;
use self::worker::Worker;
use crate::backend::{Backend, Delta, SyncReport};

/// The longest wait in one poll; what is due later is asked for again.
const LONGEST_POLL: Duration = Duration::from_secs(60);

/// A change of the plan that is to be installed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Order<D = PlanDelta> {
    /// Counts the orders, from 1.
    pub number: u64,
    /// What changes. The first order's delta is everything.
    pub delta: D,
    /// When the oldest event in it was received.
    pub since: Instant,
}

/// Why a sync was done.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Reason {
    /// The first order.
    First,
    /// An order.
    Change,
    /// A sync had failed.
    Retry,
    /// Another writer may have changed what is ours.
    Repair,
    /// It was time to compare all that is installed with the plan.
    Verify,
}

impl Reason {
    /// All of them.
    pub const ALL: [Self; 5] = [Self::First, Self::Change, Self::Retry, Self::Repair, Self::Verify];

    /// The reason as one word, for logs and metrics.
    #[must_use]
    pub const fn word(self) -> &'static str {
        match self {
            Self::First => "first",
            Self::Change => "change",
            Self::Retry => "retry",
            Self::Repair => "repair",
            Self::Verify => "verify",
        }
    }
}

/// A sync that has succeeded.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Synced {
    /// Why it was done.
    pub reason: Reason,
    /// The number of the newest order that is installed now.
    pub order: u64,
    /// How many Services its orders named (after failures some may be counted twice).
    pub services: usize,
    /// When it began: orders it did not take were submitted later.
    pub began: Instant,
    /// From the oldest event in it to the end of the last transaction; `None` without an order.
    pub latency: Option<Duration>,
    /// What was done.
    pub report: SyncReport,
}

/// A sync that has failed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Failed {
    /// Why it was done.
    pub reason: Reason,
    /// How many have failed in a row, with this one.
    pub attempts: u32,
    /// The whole chain of the error.
    pub error: String,
    /// When it is tried again.
    pub retry_in: Duration,
}

/// What the kernel thread reports.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum KernelEvent {
    /// A sync has succeeded.
    Synced(Box<Synced>),
    /// A sync has failed.
    Failed(Failed),
    /// Another writer has committed something. A repair follows, if one is not under way.
    ForeignChange {
        /// The process that did, if the kernel told.
        writer: Option<String>,
    },
    /// Connections that a change of the plan has made wrong were looked for.
    Swept(Swept),
}

/// The kernel thread, as its orderer sees it. When it is dropped the thread ends by itself, and
/// leaves what is installed as it is.
#[derive(Debug)]
pub struct Kernel<D = PlanDelta> {
    orders: Option<Sender<Order<D>>>,
    wake: Arc<EventFd>,
    pulse: Pulse,
}

/// The kernel thread has ended, which it never does by itself.
#[derive(Debug, thiserror::Error)]
#[error("the kernel thread has ended")]
pub struct Ended;

impl<D: Delta> Kernel<D> {
    /// Starts a thread of this name. What it has installed it tells to `flows`, if there is one.
    ///
    /// # Errors
    /// If the system has no thread or file descriptor left.
    pub fn start<B: Backend<Delta = D> + Send + 'static>(
        name: &str,
        backend: B,
        flows: Option<Flows<D>>,
        policy: Policy,
        reports: UnboundedSender<KernelEvent>,
    ) -> std::io::Result<Self> {
        let flags = EfdFlags::EFD_CLOEXEC | EfdFlags::EFD_NONBLOCK;
        let wake = Arc::new(EventFd::from_value_and_flags(0, flags)?);
        let (orders, inbox) = channel();
        let inbox = Inbox { orders: inbox, wake: Arc::clone(&wake) };
        let pulse = backend.pulse();
        let worker = Worker::new(backend, flows, policy, Instant::now());
        thread::Builder::new()
            .name(name.to_owned())
            .spawn(move || serve(worker, &inbox, &reports))?;
        Ok(Self { orders: Some(orders), wake, pulse })
    }

    /// Hands an order over. Never blocks.
    ///
    /// # Errors
    /// If the thread has ended.
    pub fn submit(&self, order: Order<D>) -> Result<(), Ended> {
        let orders = self.orders.as_ref().ok_or(Ended)?;
        orders.send(order).map_err(|_| Ended)?;
        self.wake();
        Ok(())
    }
}

impl<D> Kernel<D> {
    /// How many portions the kernel has committed: they are the progress within a sync.
    #[must_use]
    pub fn beats(&self) -> u64 {
        self.pulse.beats()
    }

    fn wake(&self) {
        // It fails only when the counter is full, and then the thread is awake anyway.
        let _ = self.wake.write(1);
    }
}

impl<D> Drop for Kernel<D> {
    fn drop(&mut self) {
        self.orders = None;
        self.wake();
    }
}

/// Where orders arrive.
struct Inbox<D> {
    orders: Receiver<Order<D>>,
    wake: Arc<EventFd>,
}

impl<D> Inbox<D> {
    /// Takes all orders that wait; false if none can come any more.
    fn drain(&self, mut take: impl FnMut(Order<D>)) -> bool {
        // Reset before the orders are read: one that arrives in between wakes us again.
        let _ = self.wake.read();
        loop {
            match self.orders.try_recv() {
                Ok(order) => take(order),
                Err(TryRecvError::Empty) => return true,
                Err(TryRecvError::Disconnected) => return false,
            }
        }
    }
}

/// The thread: waits, takes what has come, does what is due.
fn serve<B: Backend>(
    mut worker: Worker<B>,
    inbox: &Inbox<B::Delta>,
    reports: &UnboundedSender<KernelEvent>,
) {
    loop {
        let now = Instant::now();
        let wait =
            worker.deadline(now).map_or(LONGEST_POLL, |at| at.saturating_duration_since(now));
        wait_for(inbox.wake.as_fd(), worker.watched(now), wait.min(LONGEST_POLL));
        if !inbox.drain(|order| worker.take(order)) {
            return;
        }
        let now = Instant::now();
        let noticed = worker.look_for_foreign_changes(now);
        let done = worker.work(now);
        worker.tend(now);
        for event in noticed.into_iter().chain(done) {
            if reports.send(event).is_err() {
                return;
            }
        }
    }
}

/// Waits until one of the descriptors is readable (level-triggered) or the time is over.
fn wait_for(orders: BorrowedFd<'_>, events: Vec<BorrowedFd<'_>>, wait: Duration) {
    // poll counts in milliseconds: rounded up, or the last one would be spent spinning.
    let milliseconds = u32::try_from(wait.as_micros().div_ceil(1000)).unwrap_or(u32::MAX);
    let timeout = PollTimeout::try_from(milliseconds).unwrap_or(PollTimeout::MAX);
    let readable = |fd| PollFd::new(fd, PollFlags::POLLIN);
    let mut waited: Vec<_> = std::iter::once(orders).chain(events).map(readable).collect();
    match poll(&mut waited, timeout) {
        Ok(_) | Err(Errno::EINTR) => {}
        // Out of memory at worst. Not to be cured here, and not to be spun upon.
        Err(_) => thread::sleep(wait.min(Duration::from_millis(100))),
    }
}

#[cfg(test)]
mod fake;
#[cfg(test)]
mod tests;
