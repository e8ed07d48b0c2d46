//! The flow thread: ends connections that a change of the plan has made wrong.
//!
//! To find them the kernel walks its whole table of connections, 0.25 s for a million, so that is
//! done beside the kernel thread, after the change is installed, once for all changes that have
//! collected meanwhile, and never for more than a tenth of a processor's time.

use std::sync::mpsc::{Receiver, RecvTimeoutError, Sender, channel};
use std::thread;
use std::time::{Duration, Instant};

use nix::time::{ClockId, clock_gettime};
use shunt_conntrack::kernel::Conntrack;
use shunt_conntrack::stale::Record;
use shunt_model::address::Family;
use shunt_model::plan::PlanDelta;
use tokio::sync::mpsc::UnboundedSender;
use tracing::{info, warn};

use super::KernelEvent;

/// How many times as long as a walk has kept a processor busy no other one begins.
const REST: u32 = 9;
/// How long after a failure it is tried again.
const RETRY: Duration = Duration::from_secs(5);

/// The table of connections was walked.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Swept {
    /// Of this family.
    pub family: Family,
    /// How many connections were ended.
    pub ended: usize,
    /// How long that took.
    pub took: Duration,
}

/// The flow thread, as the kernel thread sees it. It ends when this is dropped.
#[derive(Debug)]
pub struct Flows<D = PlanDelta> {
    installed: Sender<D>,
}

impl Flows {
    /// Starts the thread. Without conntrack in the kernel connections are not ended, and that is
    /// said; Services are served all the same.
    #[must_use]
    pub fn start(tcp: bool, reports: UnboundedSender<KernelEvent>) -> Option<Self> {
        let (installed, inbox) = channel();
        let started = Conntrack::open().map_err(anyhow::Error::from).and_then(|conntrack| {
            let sweeper = Sweeper { conntrack, record: Record::new(tcp), reports, failing: false };
            thread::Builder::new().name("flows".into()).spawn(move || serve(sweeper, &inbox))?;
            Ok(Self { installed })
        });
        started
            .inspect_err(|error| {
                warn!("UDP clients may keep talking to endpoints that are gone: {error:#}");
            })
            .ok()
    }
}

impl<D> Flows<D> {
    /// Tells what the kernel has been brought to.
    pub(super) fn installed(&self, delta: D) {
        // The thread ends only after us.
        let _ = self.installed.send(delta);
    }
}

struct Sweeper {
    conntrack: Conntrack,
    record: Record,
    reports: UnboundedSender<KernelEvent>,
    failing: bool,
}

/// Takes deltas in until there can be no more; sweeps when it is time.
fn serve(mut sweeper: Sweeper, inbox: &Receiver<PlanDelta>) {
    let mut rest_until = Instant::now();
    loop {
        let next = if sweeper.record.is_settled() {
            inbox.recv().map_err(|_| RecvTimeoutError::Disconnected)
        } else {
            inbox.recv_timeout(rest_until.saturating_duration_since(Instant::now()))
        };
        match next {
            Ok(delta) => sweeper.record.take(&delta),
            Err(RecvTimeoutError::Timeout) => rest_until = sweeper.sweep(),
            Err(RecvTimeoutError::Disconnected) => return,
        }
    }
}

impl Sweeper {
    /// Ends what is wrong, and says when that may be done again.
    fn sweep(&mut self) -> Instant {
        let before = busy();
        match self.try_sweep() {
            Ok(()) => {
                self.failing = false;
                self.record.settle();
                Instant::now() + busy().saturating_sub(before) * REST
            }
            Err(error) => {
                if !self.failing {
                    warn!("connections to endpoints that are gone are not ended: {error}");
                }
                self.failing = true;
                Instant::now() + RETRY
            }
        }
    }

    fn try_sweep(&mut self) -> Result<(), shunt_netlink::Error> {
        for filter in self.record.filters() {
            let began = Instant::now();
            let ended = self.conntrack.sweep(&self.record, &filter)?;
            let swept = Swept { family: filter.family, ended, took: began.elapsed() };
            if ended > 0 {
                let (protocol, took) = (filter.protocol, swept.took);
                info!(%protocol, ended, ?took, "connections that a change made wrong were ended");
            }
            // The loop has gone: so will this thread.
            let _ = self.reports.send(KernelEvent::Swept(swept));
        }
        Ok(())
    }
}

/// How long this thread has kept a processor busy so far. What others took meanwhile, on a loaded
/// machine most of the time, is no reason to let wrong connections live.
fn busy() -> Duration {
    clock_gettime(ClockId::CLOCK_THREAD_CPUTIME_ID).map_or(Duration::ZERO, Duration::from)
}
