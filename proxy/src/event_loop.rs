//! The event loop: one owner for the snapshot, the plan and the problems.
//!
//! It waits for events, takes in all that are there, and hands the difference they make to the
//! kernel thread. There is no timer between an event and its order: while the kernel works, more
//! events collect by themselves.

mod in_step;
mod policy;
mod questions;

use std::collections::BTreeSet;
use std::time::{Duration, Instant};

use jiff::Timestamp;
use shunt_model::compile::Settings;
use shunt_model::object::ObjectKey;
use shunt_model::plan::PlanDelta;
use shunt_model::problem::{Kind, Problem};
use shunt_model::snapshot::Change;
use shunt_netpolicy_nftables::kernel::Change as PolicyChange;
use tokio::sync::{mpsc, watch};
use tokio::time::MissedTickBehavior;
use tracing::{debug, error, info, warn};

use self::in_step::InStep;
pub use self::questions::Question;
use crate::drops::DropEvent;
use crate::kernel::{Ended, Failed, Kernel, KernelEvent, Order, Reason, Synced};
use crate::ledger::{Ledger, Origin};
use crate::metrics::Metrics;
use crate::names::NamesEvent;
use crate::nri::NriEvent;
use crate::planner::Planner;
use crate::policy::PolicyPlanner;
use crate::progress::{Health, PATIENCE, Progress};
use crate::reporter::Report;
use crate::server::{HealthChecks, Listening};
use crate::source::SourceEvent;

/// How many events are taken in at once, at most, before the plan is compiled.
const BATCH: usize = 1024;
/// How often the loop shows that it turns, while it may be silent.
const TURNS: u32 = 6;
/// How often, at most, a fight over what is ours is warned of.
const REPAIRS_TOLD: Duration = Duration::from_secs(60);

/// Everything that can happen to the loop.
#[derive(Debug)]
pub enum Event {
    /// A source of objects has something to say.
    Source(SourceEvent),
    /// The kernel thread reports.
    Kernel(KernelEvent),
    /// Network policy has dropped something.
    Drops(DropEvent),
    /// A DNS answer has come for a pod whose policies speak of domain names.
    Names(NamesEvent),
    /// The container runtime tells of a pod.
    Nri(NriEvent),
    /// The kernel thread of network policy reports.
    PolicyKernel(KernelEvent),
    /// Someone wants to know something.
    Question(Question),
    /// A health-check node port can be listened on, or cannot.
    Listening(Listening),
}

impl Event {
    /// The value of the label `kind` of `shunt_events_total`.
    #[must_use]
    pub const fn kind(&self) -> &'static str {
        match self {
            Self::Source(SourceEvent::Change(change)) => match change {
                Change::ListStarted(_) => "list_started",
                Change::ListDone(_) => "list_done",
                Change::Applied { .. } => "applied",
                Change::Rejected { .. } => "rejected",
                Change::Deleted { .. } => "deleted",
                Change::LocalAddresses(_) => "local_addresses",
                Change::BlindLinks(_) => "blind_links",
            },
            Self::Source(SourceEvent::Policy(_)) => "policy",
            Self::PolicyKernel(_) => "policy_kernel",
            Self::Drops(_) => "drops",
            Self::Names(_) => "names",
            Self::Nri(_) => "nri",
            Self::Source(SourceEvent::Triggered(_)) => "triggered",
            Self::Source(SourceEvent::FileProblems { .. }) => "file_problems",
            Self::Source(SourceEvent::Network { .. }) => "network",
            Self::Kernel(KernelEvent::Synced(_)) => "synced",
            Self::Kernel(KernelEvent::Failed(_)) => "sync_failed",
            Self::Kernel(KernelEvent::ForeignChange { .. }) => "foreign_change",
            Self::Kernel(KernelEvent::Swept(_)) => "swept",
            Self::Question(_) => "question",
            Self::Listening(_) => "listening",
        }
    }
}

/// Where events come from.
#[derive(Debug)]
pub struct Inputs {
    /// Objects and manifests.
    pub sources: mpsc::Receiver<SourceEvent>,
    /// The kernel thread.
    pub kernel: mpsc::UnboundedReceiver<KernelEvent>,
    /// The kernel thread of network policy, if there is one.
    pub policy: Option<mpsc::UnboundedReceiver<KernelEvent>>,
    /// What network policy drops.
    pub drops: mpsc::Receiver<DropEvent>,
    /// DNS answers.
    pub names: mpsc::Receiver<NamesEvent>,
    /// The container runtime.
    pub nri: mpsc::Receiver<NriEvent>,
    /// The HTTP server.
    pub questions: mpsc::Receiver<Question>,
    /// Health-check node ports.
    pub listening: mpsc::UnboundedReceiver<Listening>,
}

/// Why the loop has ended, which it never does by itself.
#[derive(Debug, thiserror::Error)]
pub enum Stopped {
    /// There is no kernel thread any more.
    #[error(transparent)]
    Kernel(#[from] Ended),
    /// No source is left.
    #[error("all sources of objects have ended")]
    Sources,
}

/// What does not change while the daemon runs.
#[derive(Clone, Debug)]
pub struct Identity {
    /// When the program was started.
    pub started: Instant,
    /// The same as a time of day.
    pub started_at: Timestamp,
    /// The name of our Node.
    pub node: String,
    /// Where objects come from, for people.
    pub source: String,
    /// How long we may be without progress and still call ourselves healthy.
    pub patience: Duration,
    /// Whether there is a Node to know: then load balancers shall not use us before it is known.
    pub has_node: bool,
}

/// The event loop's state.
#[derive(Debug)]
pub struct EventLoop {
    identity: Identity,
    planner: Planner,
    /// Network policy, if it is enforced.
    policy: Option<PolicyPlanner>,
    ledger: Ledger,
    progress: Progress,
    metrics: Metrics,
    health: watch::Sender<Health>,
    /// What health-check node ports say, and who says it.
    in_step: InStep,
    events: u64,
    /// Who tells the API of problems.
    reporter: Option<mpsc::Sender<Report>>,
    /// Who made the last foreign change.
    writer: Option<String>,
    /// When the last repair was told of: while someone keeps writing, that is not each time.
    repair_told: Option<Instant>,
}

impl EventLoop {
    /// A loop that knows nothing yet.
    #[must_use]
    pub fn new(
        identity: Identity,
        settings: Settings,
        metrics: Metrics,
        health: watch::Sender<Health>,
    ) -> Self {
        Self {
            progress: Progress::new(identity.started, identity.patience),
            identity,
            planner: Planner::new(settings),
            policy: None,
            ledger: Ledger::default(),
            metrics,
            health,
            in_step: InStep::default(),
            events: 0,
            reporter: None,
            writer: None,
            repair_told: None,
        }
    }

    /// Has problems told to the API, too. What comes faster than it is taken is left out.
    pub fn report_to(&mut self, reporter: mpsc::Sender<Report>) {
        self.reporter = Some(reporter);
    }

    /// What health-check node ports are to say.
    #[must_use]
    pub fn health_checks(&self) -> watch::Receiver<HealthChecks> {
        self.in_step.said()
    }

    /// Notes what could not be set on the machine: a problem, but none that keeps us from serving.
    pub fn note_machine(&mut self, unset: &[String]) {
        self.found(Origin::Machine, unset.iter().cloned().collect());
    }

    /// Enforces network policy too.
    pub fn enforce(&mut self, policy: PolicyPlanner) {
        self.policy = Some(policy);
    }

    /// Runs until an input ends.
    ///
    /// # Errors
    /// Always in the end: what it needs has gone.
    pub async fn run(
        mut self,
        mut inputs: Inputs,
        kernel: &Kernel,
        policy_kernel: Option<&Kernel<PolicyChange>>,
    ) -> Result<(), Stopped> {
        let mut batch = Vec::new();
        let mut turn = tokio::time::interval(self.identity.patience.min(PATIENCE) / TURNS);
        turn.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            let of_policy = self.policy.as_ref().and_then(PolicyPlanner::wake_at);
            let wake_at = self.planner.wake_at().into_iter().chain(of_policy).min();
            tokio::select! {
                taken = inputs.sources.recv_many(&mut batch, BATCH) => {
                    if taken == 0 {
                        return Err(Stopped::Sources);
                    }
                    let now = Instant::now();
                    for event in batch.drain(..) {
                        self.handle(Event::Source(event), now);
                    }
                }
                report = inputs.kernel.recv() => {
                    self.handle(Event::Kernel(report.ok_or(Ended)?), Instant::now());
                }
                report = next_of(&mut inputs.policy) => {
                    self.handle(Event::PolicyKernel(report.ok_or(Ended)?), Instant::now());
                }
                Some(event) = inputs.drops.recv() => {
                    self.handle(Event::Drops(event), Instant::now());
                }
                Some(event) = inputs.names.recv() => {
                    self.handle(Event::Names(event), Instant::now());
                }
                Some(event) = inputs.nri.recv() => {
                    self.handle(Event::Nri(event), Instant::now());
                }
                Some(question) = inputs.questions.recv() => {
                    self.handle(Event::Question(question), Instant::now());
                }
                Some(listening) = inputs.listening.recv() => {
                    self.handle(Event::Listening(listening), Instant::now());
                }
                () = sleep_until(wake_at) => {}
                _ = turn.tick() => {
                    let now = Instant::now();
                    self.progress.turned(kernel.beats(), now);
                    if let Some(kernel) = policy_kernel {
                        self.progress.policy().turned(kernel.beats(), now);
                    }
                    self.publish_health();
                }
            }
            if let Some(order) = self.next_order(Instant::now()) {
                kernel.submit(order)?;
            }
            if let (Some(kernel), Some(order)) =
                (policy_kernel, self.next_policy_order(Instant::now()))
            {
                kernel.submit(order)?;
            }
            if let Some(policy) = &mut self.policy {
                policy.release();
            }
        }
    }

    /// Publishes what the health answers are made of.
    fn publish_health(&mut self) {
        let node = self.planner.snapshot().node(&self.identity.node);
        let eligible = node.map_or(!self.identity.has_node, |node| !node.leaving);
        self.progress.node_is_eligible(eligible);
        self.health.send_replace(self.progress.health());
    }

    /// Takes one event in.
    pub fn handle(&mut self, event: Event, now: Instant) {
        self.events += 1;
        self.metrics.event(event.kind());
        match event {
            Event::Source(SourceEvent::Change(change)) => self.change(change, now),
            Event::Source(SourceEvent::Policy(change)) => self.policy_change(change, now),
            Event::PolicyKernel(event) => self.policy_kernel(event, now),
            Event::Drops(event) => self.policy_drops(&event),
            Event::Names(event) => self.policy_names(event, now),
            Event::Nri(event) => self.policy_nri(event, now),
            Event::Source(SourceEvent::Triggered(at)) => {
                self.metrics.triggered(self.planner.ordered() + 1, at);
            }
            Event::Source(SourceEvent::Network { problems, switched }) => {
                self.found(Origin::Network, problems.into_iter().collect());
                if let (Some(switched), Some(policy)) = (switched, &mut self.policy) {
                    policy.take_switched(switched, now);
                }
            }
            Event::Source(SourceEvent::FileProblems { file, problems }) => {
                let texts = problems.iter().map(ToString::to_string).collect();
                self.found(Origin::File(file), texts);
            }
            Event::Kernel(KernelEvent::Synced(synced)) => self.synced(&synced, now),
            Event::Kernel(KernelEvent::Failed(failed)) => self.failed(failed, now),
            Event::Kernel(KernelEvent::ForeignChange { writer }) => {
                self.metrics.foreign_change();
                self.writer = writer;
            }
            Event::Kernel(KernelEvent::Swept(swept)) => {
                self.metrics.swept(&swept);
                self.progress.swept(swept.ended);
            }
            Event::Listening(Listening { service, address, obstacle }) => {
                let text = obstacle.map(|reason| {
                    format!(
                        "Service {service}: spec.healthCheckNodePort: cannot listen on {address}, \
                         trying again: {reason}"
                    )
                });
                self.found(Origin::HealthCheck(service, address), text.into_iter().collect());
            }
            Event::Question(question) => self.answer(question, now),
        }
    }

    /// The order for the kernel thread that all events so far amount to, if there is one.
    pub fn next_order(&mut self, now: Instant) -> Option<Order> {
        let order = self.planner.order(now)?;
        let first = order.number == 1;
        self.compiled(&order.delta);
        self.in_step.ordered(order.number, &order.delta);
        self.progress.ordered(order.number, now);
        let totals = self.planner.totals();
        self.metrics.ordered(order.number, totals);
        self.publish_health();
        if first {
            info!(
                services = totals.services,
                endpoints = totals.endpoints,
                "the first lists are complete"
            );
            let missing = self.planner.missing();
            if !missing.is_empty() {
                warn!("going on without {}: NodePorts may be incomplete", missing.join(" and "));
            }
        }
        Some(order)
    }

    fn change(&mut self, change: Change, now: Instant) {
        match &change {
            Change::Applied { object, .. } => self.metrics.changed(object.kind()),
            Change::Deleted { kind, .. } => self.metrics.changed(*kind),
            _ => {}
        }
        let listed = match &change {
            Change::Applied { object, problems } => {
                self.found(Origin::Object(object.kind(), object.key()), texts(problems));
                None
            }
            Change::Rejected { kind, key, problems } => {
                self.found(Origin::Object(*kind, key.clone()), texts(problems));
                None
            }
            Change::Deleted { kind, key } => {
                self.found(Origin::Object(*kind, key.clone()), BTreeSet::new());
                None
            }
            Change::ListDone(kind) => Some(*kind),
            Change::ListStarted(_) | Change::LocalAddresses(_) | Change::BlindLinks(_) => None,
        };
        if let (Change::LocalAddresses(addresses), Some(policy)) = (&change, &mut self.policy) {
            policy.take_addresses(addresses, now);
        }
        let of_node = is_of_node(&change);
        self.planner.take(change, now);
        if let Some(kind) = listed {
            self.forget_unlisted(kind);
        }
        if of_node {
            self.publish_health();
        }
    }

    /// After a list: objects that it did not name have no problems any more.
    fn forget_unlisted(&mut self, kind: Kind) {
        let held = self.planner.snapshot().problems();
        let held: BTreeSet<ObjectKey> = held
            .filter(|problem| problem.kind == kind)
            .map(|problem| problem.object.clone())
            .collect();
        for key in self.ledger.objects(kind) {
            if !held.contains(&key) {
                self.found(Origin::Object(kind, key), BTreeSet::new());
            }
        }
    }

    /// Notes what compiling has found wrong.
    fn compiled(&mut self, delta: &PlanDelta) {
        for (key, service) in &delta.services {
            let found = service.as_ref().map(|service| texts(&service.problems));
            self.found(Origin::Plan(key.clone()), found.unwrap_or_default());
        }
    }

    fn found(&mut self, origin: Origin, texts: BTreeSet<String>) {
        let of = self.reporter.is_some().then(|| origin.clone());
        let news = self.ledger.replace(origin, texts);
        if let (Some(reporter), Some(of)) = (&self.reporter, of) {
            for report in news.appeared.iter().filter_map(|text| Report::problem(&of, text)) {
                let _ = reporter.try_send(report);
            }
        }
        if news != crate::ledger::News::default() {
            news.log();
            self.metrics.problems(&self.ledger);
        }
    }

    fn synced(&mut self, synced: &Synced, now: Instant) {
        if let Some(failed) = self.progress.failure() {
            info!(attempts = failed.attempts, "syncing works again");
        }
        self.metrics.synced(synced);
        let rejected = synced.report.rejected.iter().map(|(key, _)| key);
        self.in_step.installed(synced.order, rejected);
        self.progress.synced(synced, now, Timestamp::now());
        self.publish_health();
        let rejected = synced.report.rejected.iter().map(|(key, reason)| {
            format!("Service {key}: the kernel rejects it, so it is not served: {reason}")
        });
        let degraded = synced.report.degraded.iter();
        let degraded = degraded.map(|(key, how)| format!("Service {key}: {how}"));
        self.found(Origin::Kernel, rejected.chain(degraded).collect());
        self.tell_of_repair(synced, now);
        log_sync(synced);
    }

    /// Warns when something had to be put right that we have not broken.
    fn tell_of_repair(&mut self, synced: &Synced, now: Instant) {
        if synced.report.operations == 0 && synced.report.rebuilt.is_none() {
            return;
        }
        match synced.reason {
            Reason::Repair => {
                let told = self.repair_told.map(|told| now.saturating_duration_since(told));
                if told.is_none_or(|told| told >= REPAIRS_TOLD) {
                    self.repair_told = Some(now);
                    let writer = self.writer.as_deref().unwrap_or("unknown");
                    warn!(writer, "another process has changed what is ours; it is put right");
                }
            }
            Reason::Verify => warn!("the kernel did not hold what it should; it is put right"),
            Reason::First | Reason::Change | Reason::Retry => {}
        }
    }

    fn failed(&mut self, failed: Failed, now: Instant) {
        self.metrics.failed();
        let (attempts, retry_in) = (failed.attempts, failed.retry_in);
        let reason = failed.reason.word();
        let text = failed.error.clone();
        if self.progress.failed(failed, now) {
            error!(reason, ?retry_in, "sync failed: {text}");
        } else {
            debug!(reason, attempts, ?retry_in, "sync failed again: {text}");
        }
        self.publish_health();
    }
}

/// One line for each sync that did something.
fn log_sync(synced: &Synced) {
    let report = &synced.report;
    if report.operations == 0 && report.rebuilt.is_none() && synced.reason != Reason::First {
        debug!(reason = synced.reason.word(), read_back = report.read_back, "nothing to write");
        return;
    }
    let milliseconds = |duration: Duration| duration.as_secs_f64() * 1e3;
    info!(
        reason = synced.reason.word(),
        rebuilt = report.rebuilt,
        services = synced.services,
        operations = report.operations,
        transactions = report.transactions,
        read_ms = format_args!("{:.3}", milliseconds(report.read)),
        diff_ms = format_args!("{:.3}", milliseconds(report.diff)),
        commit_ms = format_args!("{:.3}", milliseconds(report.commit)),
        latency_ms = synced.latency.map(|latency| format!("{:.3}", milliseconds(latency))),
        "synced"
    );
}

/// Whether a change may be one of our Node.
const fn is_of_node(change: &Change) -> bool {
    match change {
        Change::Applied { object, .. } => matches!(object.kind(), Kind::Node),
        Change::ListDone(kind) | Change::Rejected { kind, .. } | Change::Deleted { kind, .. } => {
            matches!(kind, Kind::Node)
        }
        Change::ListStarted(_) | Change::LocalAddresses(_) | Change::BlindLinks(_) => false,
    }
}

fn texts(problems: &[Problem]) -> BTreeSet<String> {
    problems.iter().map(ToString::to_string).collect()
}

/// The next of what may not be there at all.
async fn next_of(events: &mut Option<mpsc::UnboundedReceiver<KernelEvent>>) -> Option<KernelEvent> {
    match events {
        Some(events) => events.recv().await,
        None => std::future::pending().await,
    }
}

async fn sleep_until(at: Option<Instant>) {
    match at {
        Some(at) => tokio::time::sleep_until(at.into()).await,
        None => std::future::pending().await,
    }
}

#[cfg(test)]
mod health_tests;
#[cfg(test)]
mod tests;
