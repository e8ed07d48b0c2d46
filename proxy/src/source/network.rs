//! Whether the machine's network lets us see what pods say to one another, and what can be done that it does.
//!
//! A CNI makes its bridge with the first pod, and a port of it for each, which the kernel tells; a sysctl changes without an
//! event, so it is looked at now and then, too.

#[cfg(test)]
mod tests;

use std::collections::{BTreeMap, BTreeSet};
use std::os::fd::AsFd;
use std::path::Path;
use std::time::Duration;

use shunt_model::plan::BlindLink;
use shunt_model::snapshot::Change;
use shunt_netpolicy_nftables::layout::Switched;
use tokio::sync::mpsc::Sender;
use tokio::time::sleep;
use tracing::{info, warn};

use crate::addresses;
use crate::cli::BridgeNetfilter as Mode;
use crate::doctor::{self, Instead};
use crate::links::{self, BridgeNetfilter};
use crate::source::SourceEvent;
use crate::source::readiness::Readiness;

/// How often at least.
const INTERVAL: Duration = Duration::from_secs(10);
/// Changes that come this close together are looked at together.
const COALESCE: Duration = Duration::from_millis(20);
/// `RTNLGRP_LINK`.
const LINKS: u32 = 1;

/// What was found.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Found {
    /// What is wrong.
    problems: Vec<String>,
    /// How what netfilter does not see is judged, if there is any.
    switched: Option<Switched>,
    /// Where connections that go back to their link are to be masqueraded.
    blind: BTreeSet<BlindLink>,
}

/// Looks at the machine's network.
#[derive(Debug)]
pub struct Network {
    mode: Mode,
    told: Option<Found>,
    /// What is done where netfilter does not see what is switched, once that was asked.
    instead: Option<Instead>,
    has_policy: bool,
    /// Connections that come from a link and go back to it are masqueraded where that is due.
    masquerade: bool,
    /// And so are all to ClusterIPs.
    masquerade_all: bool,
    /// Bridges that the kernel has refused to change, and why.
    refused: BTreeMap<String, String>,
}

impl Network {
    /// Nothing is known yet. `has_policy`: policy is ours to enforce; `masquerade`: what goes back to the link that it came
    /// from is masqueraded where that is due; `masquerade_all`: and whatever goes to a ClusterIP.
    #[must_use]
    pub const fn new(mode: Mode, has_policy: bool, masquerade: bool, masquerade_all: bool) -> Self {
        let refused = BTreeMap::new();
        Self { mode, told: None, instead: None, has_policy, masquerade, masquerade_all, refused }
    }

    /// Looks now, sets what may be set, and tells what has changed since it was looked at last; whether anyone listens.
    /// To be called on a thread of the network namespace.
    pub async fn look(&mut self, out: &Sender<SourceEvent>) -> bool {
        let Some(found) = self.find() else {
            // What cannot be read is as it was.
            return !out.is_closed();
        };
        if self.told.as_ref() == Some(&found) {
            return true;
        }
        self.told = Some(found.clone());
        let Found { problems, switched, blind } = found;
        let network = SourceEvent::Network { problems, switched };
        out.send(network).await.is_ok() && out.send(Change::BlindLinks(blind).into()).await.is_ok()
    }

    fn find(&mut self) -> Option<Found> {
        let mut found = links::read()?;
        let netfilter = BridgeNetfilter::read(Path::new("/"));
        if self.mode == Mode::Auto && self.show(&found, netfilter) {
            found = links::read()?;
        }
        let mut switched = None;
        let mut problems = Vec::new();
        let is_unseen = links::any_unseen(&found, netfilter);
        let is_past_us = is_unseen || links::beside_pods(&found).next().is_some();
        if is_past_us {
            let no_policy = !self.has_policy;
            let Self { masquerade, masquerade_all, .. } = *self;
            let ask = || Instead { no_policy, masquerade, masquerade_all, ..Instead::possible() };
            let instead = *self.instead.get_or_insert_with(ask);
            problems = doctor::unseen_pods(&found, netfilter, instead);
            switched = instead.policy.filter(|_| self.has_policy && is_unseen);
        }
        let refused = self.refused.iter();
        problems.extend(
            refused.map(|(name, reason)| format!("bridge {name} is left as it is: {reason}")),
        );
        // In IPVS mode the machine has an address for each Service: they are read only where there is a use for them.
        let blind = match self.masquerade && is_past_us {
            true => links::blind(&found, netfilter, &links::networks()?),
            false => BTreeSet::new(),
        };
        Some(Found { problems, switched, blind })
    }

    /// Has bridges of pods show their packets; whether any was changed.
    fn show(&mut self, links: &[links::Link], netfilter: BridgeNetfilter) -> bool {
        let names: BTreeSet<_> = links.iter().map(|link| &link.name).collect();
        self.refused.retain(|name, _| names.contains(name));
        let mut changed = false;
        for (bridge, _) in links::bridges(links).filter(|_| netfilter.is_there()) {
            if netfilter.unseen(bridge).next().is_none() {
                self.refused.remove(&bridge.name);
                continue;
            }
            match links::show(bridge) {
                Ok(()) => {
                    info!(
                        bridge = bridge.name,
                        "netfilter sees from now on what is switched on it"
                    );
                    changed = true;
                }
                Err(error) => {
                    self.refused.insert(bridge.name.clone(), error.to_string());
                }
            }
        }
        changed
    }

    /// The same now and whenever it may have changed; returns when nobody listens.
    pub async fn watch(mut self, out: Sender<SourceEvent>) {
        let events = match Events::open() {
            Ok(events) => Some(events),
            Err(error) => {
                warn!(error, "interfaces cannot be watched; they are looked at every {INTERVAL:?}");
                None
            }
        };
        let mut events = events;
        while self.look(&out).await {
            tokio::select! {
                () = sleep(INTERVAL) => {}
                () = Events::next(events.as_mut()) => {}
                () = out.closed() => return,
            }
        }
    }
}

/// Tells that interfaces have changed.
struct Events {
    events: addresses::Events,
    readiness: Readiness,
}

impl Events {
    fn open() -> Result<Self, String> {
        let groups = addresses::GROUPS.into_iter().chain([LINKS]);
        let events = addresses::Events::open(groups).map_err(|error| error.to_string())?;
        let readiness = Readiness::of(events.as_fd()).map_err(|error| error.to_string())?;
        Ok(Self { events, readiness })
    }

    /// The next changes; never, if they are not told.
    async fn next(events: Option<&mut Self>) {
        let Some(Self { events, readiness }) = events else { return std::future::pending().await };
        loop {
            if readiness.wait().await.is_err() {
                return std::future::pending().await;
            }
            sleep(COALESCE).await;
            // What they are is read anew; lost ones, too.
            if events.concern_us().unwrap_or(true) {
                return;
            }
        }
    }
}
