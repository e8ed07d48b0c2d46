//! What the event loop is asked, and its answers.

use std::time::Instant;

use shunt_model::plan::Plan;
use shunt_netpolicy::store::Store;
use tokio::sync::oneshot;

use super::EventLoop;
use crate::ask::{Audit, Known};
use crate::explain::{Asked, Explanation, Facts};
use crate::metrics::resident_bytes;
use crate::policy::PolicyPlanner;
use crate::status::{Counters, Status};

/// What the loop is asked by the HTTP server.
#[derive(Debug)]
pub enum Question {
    /// How are you?
    Status(oneshot::Sender<Status>),
    /// What is the plan? The copy shares all its parts with the loop's.
    Plan(oneshot::Sender<Plan>),
    /// Where do these packets go? What is wrong with the question is told.
    Explain(Asked, oneshot::Sender<Result<Vec<Explanation>, String>>),
}

impl EventLoop {
    /// Answers; whoever asked may have gone meanwhile.
    pub(super) fn answer(&self, question: Question, now: Instant) {
        match question {
            Question::Status(answer) => {
                let _ = answer.send(self.status(now));
            }
            Question::Plan(answer) => {
                let _ = answer.send(self.planner.plan().clone());
            }
            Question::Explain(asked, answer) => {
                let explained = self.facts(|facts| facts.explain(&asked));
                let _ = answer.send(explained.map_err(|error| format!("{error:#}")));
            }
        }
    }

    /// The state, for people and benchmarks.
    #[must_use]
    pub fn status(&self, now: Instant) -> Status {
        let health = self.progress.health();
        let totals = self.planner.totals();
        let waited =
            health.services.waiting_since.map(|since| now.saturating_duration_since(since));
        Status {
            version: env!("CARGO_PKG_VERSION").into(),
            pid: std::process::id(),
            started: self.identity.started_at.to_string(),
            node: self.identity.node.clone(),
            source: self.identity.source.clone(),
            synced: health.synced,
            healthy: health.is_healthy(now),
            awaiting: self.planner.awaited().iter().map(ToString::to_string).collect(),
            waiting_ms: waited.map(|waited| u64::try_from(waited.as_millis()).unwrap_or(u64::MAX)),
            failure: self.progress.failure().map(|failed| failed.error.clone()),
            first_sync: self.progress.first().cloned(),
            last_sync: self.progress.last().cloned(),
            event_to_commit_us: self.progress.latency(),
            counters: Counters {
                events: self.events,
                orders: self.planner.ordered(),
                ..*self.progress.counters()
            },
            services: totals.services,
            frontends: totals.frontends,
            endpoints: totals.endpoints,
            network_policy: self.policy.as_ref().map(PolicyPlanner::status),
            resident_bytes: resident_bytes(),
            problems: self.ledger.iter().map(|(_, text)| text.to_owned()).collect(),
        }
    }

    /// What there is to explain packets by.
    fn facts<T>(&self, explain: impl FnOnce(&Facts<'_>) -> T) -> T {
        let none = Store::new();
        let policy = self.policy.as_ref();
        explain(&Facts {
            node: &self.identity.node,
            plan: self.planner.plan(),
            known: Known {
                store: policy.map_or(&none, PolicyPlanner::store),
                services: self.planner.snapshot(),
            },
            enforced: policy.is_some(),
            audit: match policy.is_some_and(PolicyPlanner::is_audit) {
                true => Audit::On(&self.identity.node),
                false => Audit::Off,
            },
        })
    }
}
