//! The event loop: one owner for the snapshot, the plan and the problems. What an event means for Services
//! (`services`) and for network policy (`policy`) has a file of its own each.
//!
//! It waits for events, takes in all that are there, and hands the difference they make to the
//! kernel thread. There is no timer between an event and its order: while the kernel works, more
//! events collect by themselves.

mod event;
mod in_step;
mod policy;
mod questions;
mod services;

use std::collections::BTreeSet;
use std::time::{Duration, Instant};

use jiff::Timestamp;
use shunt_model::compile::Settings;
use shunt_model::problem::Problem;
use shunt_netpolicy_nftables::kernel::Change as PolicyChange;
use tokio::sync::{mpsc, watch};
use tokio::time::MissedTickBehavior;

pub use self::event::{Event, Inputs};
use self::in_step::InStep;
pub use self::questions::Question;
use crate::kernel::{Ended, Kernel, KernelEvent};
use crate::ledger::{Ledger, Origin};
use crate::metrics::Metrics;
use crate::planner::Planner;
use crate::policy::PolicyPlanner;
use crate::progress::{Health, PATIENCE, Progress};
use crate::reporter::{About, Report};
use crate::server::{HealthChecks, Listening};
use crate::source::SourceEvent;

/// How many events are taken in at once, at most, before the plan is compiled.
const BATCH: usize = 1024;
/// How often the loop shows that it turns, while it may be silent.
const TURNS: u32 = 6;

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
            Event::Source(SourceEvent::Triggered(at)) => {
                self.metrics.triggered(self.planner.ordered() + 1, at);
            }
            Event::Source(SourceEvent::Network { problems, switched }) => {
                self.found(Origin::Network, problems.into_iter().collect());
                if let (Some(switched), Some(policy)) = (switched, &mut self.policy) {
                    policy.take_switched(switched, now);
                }
            }
            Event::Source(SourceEvent::SecondProxy(found)) => self.second_proxy(found),
            Event::Source(SourceEvent::FileProblems { file, problems }) => {
                let texts = problems.iter().map(ToString::to_string).collect();
                self.found(Origin::File(file), texts);
            }
            Event::Kernel(event) => self.kernel(event, now),
            Event::PolicyKernel(event) => self.policy_kernel(event, now),
            Event::Drops(event) => self.policy_drops(&event),
            Event::Names(event) => self.policy_names(event, now),
            Event::Nri(event) => self.policy_nri(event, now),
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

    /// Takes in what there is of a second proxy. That it is gone is an event too: it was someone's doing.
    fn second_proxy(&mut self, found: Option<String>) {
        if found.is_none()
            && let Some(reporter) = &self.reporter
        {
            let note = "the rules of kube-proxy beside shunt are gone".to_owned();
            let report =
                Report { about: About::Node, reason: "SecondProxyGone", note, wrong: false };
            let _ = reporter.try_send(report);
        }
        self.found(Origin::SecondProxy, found.into_iter().collect());
    }

    /// Takes in what is wrong by one account, in place of what was before.
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
