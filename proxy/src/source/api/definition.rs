//! ClusterNetworkPolicies, which an API server may not have: their CustomResourceDefinition is
//! watched by its name, and they are while it is there. One idle watch costs the server less than
//! asking now and then, and tells at once.

use std::pin::pin;
use std::sync::Mutex;

use futures::StreamExt;
use kube::runtime::watcher::{self, Event, watcher};
use kube::{Api, Client};
use shunt_model::problem::Kind;
use tokio::sync::mpsc::Sender;
use tokio::sync::watch;
use tokio::time::Instant;
use tracing::{debug, info, warn};

use super::complaints::{Backoff, Complaints, reason};
use super::follow;
use crate::source::SourceEvent;
use crate::source::convert::Converter;
use crate::source::wire::cluster::{ClusterNetworkPolicy, CustomResourceDefinition};

/// The definition's name.
const NAME: &str = "clusternetworkpolicies.policy.networking.k8s.io";

/// Watches ClusterNetworkPolicies whenever the API server has them; where it does not, their list is
/// empty. Returns when nobody listens.
pub(super) async fn watch_cluster_policies(
    client: &Client,
    config: watcher::Config,
    converter: &Mutex<Converter>,
    out: &Sender<SourceEvent>,
) {
    let (sender, mut served) = watch::channel(None);
    let follow = async {
        loop {
            let Ok(there) = served.wait_for(Option::is_some).await.map(|held| *held == Some(true))
            else {
                return;
            };
            let changed = if there {
                tokio::select! {
                    () = follow::<ClusterNetworkPolicy>(client, config.clone(), converter, out) => return,
                    changed = served.wait_for(|held| *held == Some(false)) => changed,
                }
            } else {
                let kind = Kind::ClusterNetworkPolicy;
                for event in [SourceEvent::list_started(kind), SourceEvent::list_done(kind)] {
                    if out.send(event).await.is_err() {
                        return;
                    }
                }
                served.wait_for(|held| *held == Some(true)).await
            };
            if changed.is_err() {
                return;
            }
        }
    };
    tokio::join!(
        async {
            Definition { client, served: sender, out, complaints: Complaints::default() }
                .watch()
                .await;
        },
        follow
    );
}

/// The watch of the definition.
struct Definition<'a> {
    client: &'a Client,
    /// Whether the server serves what it defines; `None`: not known yet.
    served: watch::Sender<Option<bool>>,
    out: &'a Sender<SourceEvent>,
    complaints: Complaints,
}

impl Definition<'_> {
    async fn watch(&mut self) {
        let mut backoff = Backoff::default();
        loop {
            let api = Api::<CustomResourceDefinition>::all(self.client.clone());
            let config = watcher::Config::default().fields(&format!("metadata.name={NAME}"));
            let mut events = pin!(watcher(api, config));
            let mut found = false;
            let error = loop {
                let next = tokio::select! {
                    next = events.next() => next,
                    () = self.out.closed() => return,
                };
                match next {
                    Some(Ok(Event::Init)) => found = false,
                    Some(Ok(Event::InitApply(definition))) => found = is_served(&definition),
                    Some(Ok(Event::InitDone)) => {
                        self.tell(found);
                        backoff.reset();
                        self.complaints.recovered();
                    }
                    Some(Ok(Event::Apply(definition))) => self.tell(is_served(&definition)),
                    Some(Ok(Event::Delete(_))) => self.tell(false),
                    Some(Err(error)) => break error,
                    // kube's watcher never ends.
                    None => return,
                }
            };
            self.complain(&error);
            tokio::select! {
                () = tokio::time::sleep(backoff.next()) => {}
                () = self.out.closed() => return,
            }
        }
    }

    fn tell(&self, served: bool) {
        let changed = self.served.send_if_modified(|held| held.replace(served) != Some(served));
        if changed && served {
            info!("the API server has ClusterNetworkPolicies");
        } else if changed {
            debug!("the API server has no ClusterNetworkPolicies");
        }
    }

    /// Tells of an error. One that a role of an older release, or a server without definitions,
    /// gives must not keep all else waiting.
    fn complain(&mut self, error: &watcher::Error) {
        let reason = reason(error);
        match self.complaints.due(Instant::now()) {
            Some(failures) => warn!(reason, failures, "the definition {NAME} cannot be watched"),
            None => debug!(reason, "the definition {NAME} cannot be watched"),
        }
        if is_refusal(error) && self.served.borrow().is_none() {
            warn!(reason, "ClusterNetworkPolicies are not enforced, as {NAME} may not be watched");
            self.tell(false);
        }
    }
}

/// Whether the server serves what a definition defines.
fn is_served(definition: &CustomResourceDefinition) -> bool {
    let conditions = &definition.status.conditions;
    conditions
        .iter()
        .any(|condition| condition.r#type == "Established" && condition.status == "True")
}

fn is_refusal(error: &watcher::Error) -> bool {
    let error = match error {
        watcher::Error::InitialListFailed(error)
        | watcher::Error::WatchStartFailed(error)
        | watcher::Error::WatchFailed(error) => error,
        _ => return false,
    };
    matches!(error, kube::Error::Api(status) if matches!(status.code, 403 | 404))
}
