//! The API server as a source: one watch for each kind, for ever.
//!
//! Objects are converted one by one as they arrive. Nothing is reported deleted but by the server
//! itself or by a complete list, so an API server that is away, however long, changes nothing.
//!
//! # How kube's watcher behaves (5.0.0, read in its source)
//! - Streaming lists: `Init` comes after the request was accepted. A stream that ends before the
//!   list's closing bookmark starts over, silently, with another `Init`; a server that sends no
//!   such bookmark keeps it waiting for ever.
//! - Paged lists: `Init` comes before each attempt, also before one that fails. So a list is only
//!   announced with its first object, or its end.
//! - A dropped watch resumes at the last version seen, without an event. An error event of code
//!   410 lists anew; any other error event, and HTTP status 410 on resuming, would be tried again
//!   at the same version for ever, which is why [`reaction`] drops the watcher then.

mod complaints;
mod definition;
mod tracker;

#[cfg(test)]
mod tests;

use std::fmt::Debug;
use std::pin::pin;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use futures::{Stream, StreamExt};
use jiff::Timestamp;
use kube::runtime::watcher::{self, Event, InitialListStrategy, watcher};
use kube::{Api, Client};
use serde::de::DeserializeOwned;
use shunt_model::problem::Kind;
use tokio::sync::mpsc::Sender;
use tokio::sync::watch;
use tokio::time::{Instant, timeout_at};
use tracing::{debug, info, warn};

use self::complaints::{Backoff, Complaints, reason};
use self::definition::watch_cluster_policies;
use self::tracker::{Lack, Reaction, Tracker, lack, reaction};
use crate::source::convert::{Converted, Converter, Wire};
use crate::source::wire::{self, cluster, policy};
use crate::source::{SourceEvent, Wanted};

/// How long a streaming list may send nothing before it counts as not supported.
const SILENCE: Duration = Duration::from_secs(10);
/// How long a streaming list may take in all.
const LONGEST_LIST: Duration = Duration::from_secs(90);
/// How often a server is asked for a resource that it has not got.
const WITHOUT: Duration = Duration::from_secs(300);
/// Objects on a page, where lists are paged.
const PAGE: u32 = 500;

/// Watches Services, EndpointSlices, ServiceCIDRs and the Node of that name; returns when nobody listens. With a
/// `wanted`, policies too, and what else it says, for as long as it says so.
pub async fn watch(
    client: Client,
    node_name: &str,
    wanted: Option<watch::Receiver<Wanted>>,
    out: Sender<SourceEvent>,
) {
    let selectors = Selectors::of_kube_proxy(node_name);
    // One for all kinds: a Service and its slices share their names.
    let converter = Arc::new(Mutex::new(Converter::new()));
    let policy = async {
        if let Some(wanted) = wanted {
            watch_policies(&client, wanted, &converter, &out).await;
        }
    };
    tokio::join!(
        follow::<wire::Service>(&client, selectors.services, &converter, &out),
        follow::<wire::EndpointSlice>(&client, selectors.slices, &converter, &out),
        follow::<wire::Node>(&client, selectors.node, &converter, &out),
        follow::<wire::ServiceCidr>(&client, selectors.service_cidrs, &converter, &out),
        policy,
    );
}

/// Watches policies, and Pods, Namespaces and Nodes while there is a use for them.
async fn watch_policies(
    client: &Client,
    wanted: watch::Receiver<Wanted>,
    converter: &Mutex<Converter>,
    out: &Sender<SourceEvent>,
) {
    let all = &watcher::Config::default().streaming_lists().page_size(PAGE);
    // Pods that have ended have no address any more.
    let running = &all.clone().fields("status.phase!=Succeeded,status.phase!=Failed");
    let pods = || async move {
        tokio::join!(
            follow::<policy::Pod>(client, running.clone(), converter, out),
            follow::<policy::Namespace>(client, all.clone(), converter, out),
        );
    };
    let nodes = || follow::<cluster::PeerNode>(client, all.clone(), converter, out);
    tokio::join!(
        follow::<policy::NetworkPolicy>(client, all.clone(), converter, out),
        watch_cluster_policies(client, all.clone(), converter, out),
        on_demand(wanted.clone(), |wanted| wanted.pods, pods),
        on_demand(wanted, |wanted| wanted.nodes, nodes),
    );
}

/// Follows something while it is wanted.
async fn on_demand<F: Future<Output = ()>>(
    mut wanted: watch::Receiver<Wanted>,
    is_wanted: fn(&Wanted) -> bool,
    follow: impl Fn() -> F,
) {
    while wanted.wait_for(is_wanted).await.is_ok() {
        tokio::select! {
            () = follow() => return,
            ended = wanted.wait_for(|wanted| !is_wanted(wanted)) => if ended.is_err() { return },
        }
    }
}

/// What is asked of the server for each kind.
struct Selectors {
    services: watcher::Config,
    slices: watcher::Config,
    node: watcher::Config,
    service_cidrs: watcher::Config,
}

impl Selectors {
    fn of_kube_proxy(node_name: &str) -> Self {
        let all = watcher::Config::default().streaming_lists().page_size(PAGE);
        Self {
            services: all
                .clone()
                .labels("!service.kubernetes.io/service-proxy-name")
                .fields("spec.clusterIP!=None"),
            slices: all.clone().labels("!service.kubernetes.io/headless"),
            service_cidrs: all.clone(),
            node: all.fields(&format!("metadata.name={node_name}")),
        }
    }
}

/// Why a watcher is dropped.
#[derive(Debug, PartialEq, Eq)]
enum End {
    /// Nobody listens any more.
    Closed,
    /// List anew.
    Relist,
    /// List anew, in pages: the server has no streaming lists.
    NoStreaming(String),
}

/// Watches one kind.
async fn follow<K>(
    client: &Client,
    mut config: watcher::Config,
    converter: &Mutex<Converter>,
    out: &Sender<SourceEvent>,
) where
    K: Wire + Clone + Debug + DeserializeOwned + Send + 'static,
    Converted<K::Object>: Into<SourceEvent>,
{
    let mut watch = Watch {
        kind: K::KIND,
        out,
        listed: false,
        complaints: Complaints::default(),
        backoff: Backoff::default(),
    };
    loop {
        let streaming = config.initial_list_strategy == InitialListStrategy::StreamingList;
        let events = watcher(Api::<K>::all(client.clone()), config.clone());
        match watch.follow(pin!(events), converter, Tracker::new(K::KIND, streaming)).await {
            End::Closed => return,
            End::Relist => debug!(kind = %K::KIND, "listing anew"),
            End::NoStreaming(why) => {
                info!(kind = %K::KIND, why, "the API server has no streaming lists; listing in pages");
                config.initial_list_strategy = InitialListStrategy::ListWatch;
            }
        }
    }
}

/// When the endpoints of a slice were changed, by its annotation. Only of a change: what a list
/// tells happened before we were there.
fn trigger_time<K: Wire>(event: &Event<K>) -> Option<Timestamp> {
    let Event::Apply(object) = event else { return None };
    let annotations = object.meta().annotations.as_ref()?;
    annotations.get("endpoints.kubernetes.io/last-change-trigger-time")?.parse().ok()
}

fn locked(converter: &Mutex<Converter>) -> MutexGuard<'_, Converter> {
    converter.lock().unwrap_or_else(PoisonError::into_inner)
}

/// One kind's watch, over all its watchers.
struct Watch<'a> {
    kind: Kind,
    out: &'a Sender<SourceEvent>,
    /// A list has been told.
    listed: bool,
    complaints: Complaints,
    backoff: Backoff,
}

impl Watch<'_> {
    /// Passes on what one watcher says, until it must be dropped.
    async fn follow<K: Wire>(
        &mut self,
        mut events: impl Stream<Item = watcher::Result<Event<K>>> + Unpin,
        converter: &Mutex<Converter>,
        mut tracker: Tracker,
    ) -> End
    where
        Converted<K::Object>: Into<SourceEvent>,
    {
        let mut list_began = Instant::now();
        loop {
            let next = if tracker.awaits_bookmark() {
                let limit = (Instant::now() + SILENCE).min(list_began + LONGEST_LIST);
                match timeout_at(limit, self.next(&mut events)).await {
                    Ok(next) => next,
                    Err(_) => return End::NoStreaming("no end of the list was sent".to_owned()),
                }
            } else {
                self.next(&mut events).await
            };
            // kube's watcher never ends.
            let Some(next) = next else { return End::Closed };
            match next {
                Ok(event) => {
                    if matches!(event, Event::Init) {
                        list_began = Instant::now();
                        if tracker.lists_broken_off() {
                            return End::NoStreaming("the list ended half-way".to_owned());
                        }
                    }
                    let triggered = trigger_time(&event);
                    let changes = tracker.changes(&mut locked(converter), event);
                    if let Some(at) = triggered
                        && self.out.send(SourceEvent::Triggered(at)).await.is_err()
                    {
                        return End::Closed;
                    }
                    if !self.pass(changes, &tracker).await {
                        return End::Closed;
                    }
                }
                Err(error) => {
                    if let Some(end) = self.recover(&error, &mut tracker).await {
                        return end;
                    }
                }
            }
        }
    }

    /// The next event, or nothing once nobody listens.
    async fn next<S: Stream + Unpin>(&self, events: &mut S) -> Option<S::Item> {
        tokio::select! {
            next = events.next() => next,
            () = self.out.closed() => None,
        }
    }

    async fn pass(
        &mut self,
        events: impl IntoIterator<Item = SourceEvent>,
        tracker: &Tracker,
    ) -> bool {
        for event in events {
            if self.out.send(event).await.is_err() {
                return false;
            }
        }
        // Not before: a list that breaks off half-way each time is no success.
        if tracker.is_watching() {
            self.listed = true;
            self.backoff.reset();
            if let Some(outage) = self.complaints.recovered() {
                info!(kind = %self.kind, failures = outage.failures, "the watch works again");
            }
        }
        true
    }

    /// Says what went wrong, waits, and tells whether this watcher can go on.
    async fn recover(&mut self, error: &watcher::Error, tracker: &mut Tracker) -> Option<End> {
        let end = match reaction(error, tracker) {
            Reaction::Resume => None,
            Reaction::Relist => Some(End::Relist),
            Reaction::PagedLists => return Some(End::NoStreaming(reason(error))),
        };
        tracker.note_failure();
        let reason = reason(error);
        match self.complaints.due(Instant::now()) {
            Some(failures) => {
                warn!(kind = %self.kind, reason, failures, "the watch fails; trying again");
            }
            None => debug!(kind = %self.kind, reason, "the watch fails"),
        }
        if self.kind == Kind::ServiceCidr
            && let Some(lack) = lack(error)
        {
            return self.do_without(lack, end).await;
        }
        let delay = self.backoff.next();
        self.wait(delay, end).await
    }

    /// Goes on without a resource that old servers have not got, or that an account made for an
    /// older release may not read: as long as nothing was listed it counts as empty.
    async fn do_without(&mut self, lack: Lack, end: Option<End>) -> Option<End> {
        if !self.listed {
            self.listed = true;
            for event in [SourceEvent::list_started(self.kind), SourceEvent::list_done(self.kind)] {
                if self.out.send(event).await.is_err() {
                    return Some(End::Closed);
                }
            }
        }
        let delay = match lack {
            Lack::Resource => WITHOUT,
            Lack::Right => self.backoff.next(),
        };
        self.wait(delay, end).await
    }

    async fn wait(&self, delay: Duration, end: Option<End>) -> Option<End> {
        tokio::select! {
            () = tokio::time::sleep(delay) => end,
            () = self.out.closed() => Some(End::Closed),
        }
    }
}
