//! Events in the API: what is wrong with a Service where its owner looks, and with this node.
//!
//! Reports of one object that come within a second are one event. An event's name is made of its
//! object and its words, so that what all nodes find wrong with a Service is told once in the
//! cluster, and not again while that event is kept (an hour). What comes too fast is dropped, and
//! counted: the problems themselves stay in the log, in metrics and in the status.

use std::collections::BTreeMap;
use std::hash::{DefaultHasher, Hash, Hasher};
use std::time::Duration;

use jiff::Timestamp;
use k8s_openapi::api::core::v1::ObjectReference;
use k8s_openapi::api::events::v1::Event;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{MicroTime, ObjectMeta};
use kube::api::PostParams;
use kube::{Api, Client};
use shunt_model::problem::Kind;
use tokio::sync::mpsc;
use tokio::time::Instant;
use tracing::{debug, warn};

use crate::ledger::Origin;

/// How many reports may wait; more are dropped.
pub const QUEUE: usize = 256;
/// How long reports of one object are collected.
const COLLECT: Duration = Duration::from_secs(1);
/// How many events may be sent at once, and how often one more.
const BURST: u32 = 25;
const REFILL: Duration = Duration::from_secs(10);
/// The most that the API takes as a note, in bytes.
const LONGEST: usize = 1024;

/// Something to tell.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Report {
    /// Of what.
    pub about: About,
    /// Why, in one word.
    pub reason: &'static str,
    /// In words.
    pub note: String,
    /// Whether it is wrong, or only to know.
    pub wrong: bool,
}

/// The object that an event is about.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum About {
    /// Our Node.
    Node,
    /// An object in a namespace.
    Object {
        /// `Service`, `EndpointSlice` or a kind of policy.
        kind: &'static str,
        /// Its namespace.
        namespace: String,
        /// Its name.
        name: String,
    },
}

impl Report {
    /// A problem that was found; `None` for one that has no object in the API.
    #[must_use]
    pub fn problem(origin: &Origin, note: &str) -> Option<Self> {
        let object = |kind, key: &shunt_model::object::ObjectKey| About::Object {
            kind,
            namespace: key.namespace.to_string(),
            name: key.name.to_string(),
        };
        let (about, reason) = match origin {
            Origin::Plan(key) | Origin::Object(Kind::Service, key) => {
                (object("Service", key), "ServiceProblem")
            }
            Origin::Object(Kind::EndpointSlice, key) => {
                (object("EndpointSlice", key), "EndpointSliceProblem")
            }
            // Kube-proxy's word.
            Origin::HealthCheck(key, _) => {
                (object("Service", key), "FailedToStartServiceHealthcheck")
            }
            Origin::Object(Kind::NetworkPolicy, key) => {
                (object("NetworkPolicy", key), "NetworkPolicyProblem")
            }
            Origin::Object(Kind::ClusterNetworkPolicy, key) => {
                (object("ClusterNetworkPolicy", key), "ClusterNetworkPolicyProblem")
            }
            Origin::Kernel => (About::Node, "RejectedByKernel"),
            Origin::Machine => (About::Node, "NotSet"),
            Origin::Network => (About::Node, "PodsUnseen"),
            // Objects are in files only without an API; this is the configuration.
            Origin::File(_) => (About::Node, "ConfigurationRefused"),
            Origin::SecondProxy => (About::Node, "SecondProxy"),
            Origin::Object(..) => (About::Node, "NodeProblem"),
            _ => return None,
        };
        Some(Self { about, reason, note: note.to_owned(), wrong: true })
    }
}

/// Sends what is reported, until nobody reports any more.
pub async fn run(client: Client, node: String, mut reports: mpsc::Receiver<Report>) {
    let mut allowance = Allowance::new(Instant::now());
    while let Some(first) = reports.recv().await {
        let mut collected: BTreeMap<_, Report> = BTreeMap::new();
        collect(&mut collected, first);
        let end = Instant::now() + COLLECT;
        while let Ok(Some(more)) = tokio::time::timeout_at(end, reports.recv()).await {
            collect(&mut collected, more);
        }
        for report in collected.into_values() {
            if !allowance.take(Instant::now()) {
                debug!(note = report.note, "too many events: not sent");
                continue;
            }
            send(&client, event(&node, &report, Timestamp::now())).await;
        }
    }
}

/// Adds a report to those of its object and reason.
fn collect(collected: &mut BTreeMap<(About, &'static str), Report>, report: Report) {
    match collected.get_mut(&(report.about.clone(), report.reason)) {
        Some(held) if held.note.len() + report.note.len() < LONGEST => {
            held.note.push_str("; ");
            held.note.push_str(&report.note);
        }
        Some(_) => {}
        None => drop(collected.insert((report.about.clone(), report.reason), report)),
    }
}

async fn send(client: &Client, event: Event) {
    let namespace = event.metadata.namespace.clone().unwrap_or_default();
    let api: Api<Event> = Api::namespaced(client.clone(), &namespace);
    match api.create(&PostParams::default(), &event).await {
        Ok(_) => {}
        // Another node, or we before a restart, have told it.
        Err(kube::Error::Api(status)) if status.code == 409 => {}
        Err(kube::Error::Api(status)) if status.code == 403 => {
            warn!(reason = status.message, "events may not be written");
        }
        Err(error) => debug!(%error, "an event was not taken"),
    }
}

/// The event that tells a report.
fn event(node: &str, report: &Report, now: Timestamp) -> Event {
    let (kind, namespace, name, uid) = match &report.about {
        // As the kubelet and kube-proxy do: a Node's events are found by its name as uid.
        About::Node => ("Node", "", node, Some(node.to_owned())),
        About::Object { kind, namespace, name } => (*kind, namespace.as_str(), name.as_str(), None),
    };
    let mut note = report.note.clone();
    note.truncate(note.floor_char_boundary(LONGEST));
    let mut hasher = DefaultHasher::new();
    (&report.about, report.reason, &note).hash(&mut hasher);
    // What is wrong is told once; that something has happened, each time.
    (!report.wrong).then_some(now).hash(&mut hasher);
    let text = |text: &str| (!text.is_empty()).then(|| text.to_owned());
    Event {
        metadata: ObjectMeta {
            name: Some(format!("{name}.{:016x}", hasher.finish())),
            // Events of what has no namespace are in this one.
            namespace: text(namespace).or_else(|| text("default")),
            ..ObjectMeta::default()
        },
        action: Some("Sync".into()),
        event_time: Some(MicroTime(now)),
        note: Some(note),
        reason: Some(report.reason.into()),
        regarding: Some(ObjectReference {
            api_version: Some(api_version(kind).into()),
            kind: Some(kind.into()),
            name: Some(name.into()),
            namespace: text(namespace),
            uid,
            ..ObjectReference::default()
        }),
        reporting_controller: Some("shunt.dev/shunt".into()),
        reporting_instance: Some(format!("shunt-{node}")),
        type_: Some(if report.wrong { "Warning" } else { "Normal" }.into()),
        ..Event::default()
    }
}

/// In which API objects of a kind are.
fn api_version(kind: &str) -> &'static str {
    match kind {
        "EndpointSlice" => "discovery.k8s.io/v1",
        "NetworkPolicy" => "networking.k8s.io/v1",
        "ClusterNetworkPolicy" => "policy.networking.k8s.io/v1alpha2",
        _ => "v1",
    }
}

/// How many events may be sent: a bucket of tokens.
struct Allowance {
    left: u32,
    since: Instant,
}

impl Allowance {
    const fn new(now: Instant) -> Self {
        Self { left: BURST, since: now }
    }

    fn take(&mut self, now: Instant) -> bool {
        while self.left < BURST && now.saturating_duration_since(self.since) >= REFILL {
            self.left += 1;
            self.since += REFILL;
        }
        if self.left == BURST {
            self.since = now;
        }
        let may = self.left > 0;
        self.left -= u32::from(may);
        may
    }
}

#[cfg(test)]
mod tests {
    use shunt_model::object::ObjectKey;

    use super::*;

    fn report(name: &str, note: &str) -> Report {
        let origin = Origin::Plan(ObjectKey::new("default", name));
        Report::problem(&origin, note).unwrap()
    }

    #[test]
    fn reports_of_one_object_are_one_event() {
        let mut collected = BTreeMap::new();
        for report in [report("a", "one"), report("b", "x"), report("a", "two")] {
            collect(&mut collected, report);
        }
        let notes: Vec<_> = collected.values().map(|report| report.note.as_str()).collect();
        assert_eq!(notes, ["one; two", "x"]);
    }

    #[test]
    fn a_health_check_that_cannot_listen_is_told_of_its_service() {
        let address = "192.0.2.1:30100".parse().unwrap();
        let origin = Origin::HealthCheck(ObjectKey::new("default", "web"), address);
        let report = Report::problem(&origin, "cannot listen").unwrap();
        let event = event("n1", &report, Timestamp::UNIX_EPOCH);
        let regarding = event.regarding.unwrap();
        assert_eq!(regarding.kind.as_deref(), Some("Service"));
        assert_eq!(regarding.name.as_deref(), Some("web"));
        assert_eq!(event.reason.as_deref(), Some("FailedToStartServiceHealthcheck"));
        assert_eq!(event.type_.as_deref(), Some("Warning"));
    }

    #[test]
    fn all_nodes_give_an_event_of_a_service_the_same_name() {
        let name = |node: &str, note: &str, at| {
            event(node, &report("web", note), Timestamp::from_second(at).unwrap()).metadata.name
        };
        assert_eq!(name("n1", "x", 1), name("node-2", "x", 2));
        assert_ne!(name("n1", "x", 1), name("n1", "y", 1));
    }

    #[test]
    fn events_are_few() {
        let start = Instant::now();
        let mut allowance = Allowance::new(start);
        let sent = (0..100).filter(|_| allowance.take(start)).count();
        assert_eq!(sent, 25);
        assert!(!allowance.take(start + REFILL / 2));
        assert!(allowance.take(start + REFILL));
        assert!(!allowance.take(start + REFILL));
    }
}
