//! For how long a pod's live connections are judged packet by packet.
//!
//! A pod from which a change takes something goes into `@watched`, in the same transaction. From
//! then on no connection of its own begins that its policies do not allow, so those that they do
//! not allow become fewer. When the kernel's table of connections holds none any more, the pod
//! leaves: its established packets pass by the first rules. A pod that stays too long is slower,
//! nothing else; so whatever is not certain leaves it where it is.
//!
//! A pod that goes leaves connections behind that nobody has taken anything from; who has its address
//! next may take them up. So the pods that have any with it go into `@watched`, too: the table
//! allows them nobody's.

use std::collections::{BTreeMap, BTreeSet, HashSet};
use std::net::IpAddr;
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use shunt_conntrack::ends::Ends;
use shunt_conntrack::kernel::Conntrack;

/// How long after a transaction connections may still appear that were judged before it: a first
/// packet is judged, and then becomes a connection that a walk sees, within one pass through the
/// stack, which takes microseconds.
pub const SETTLE: Duration = Duration::from_secs(5);
/// The longest that a pod waits for the next look at its connections.
const LONGEST: Duration = Duration::from_secs(300);
/// How many times as long as a walk has taken no other one begins.
const REST: u32 = 9;
/// How often it is asked whether a walk has ended.
const LOOK: Duration = Duration::from_millis(20);
/// How many addresses that pods have left are waited with at most; they are looked for every few seconds.
const MOST_LEFT: usize = 10_000;

/// Since when the kernel watches which pods, and when it is time to look at their connections.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Watch {
    pods: BTreeMap<IpAddr, Since>,
    /// Addresses that pods have left, and when it is time to look for connections of theirs.
    left: BTreeMap<IpAddr, Instant>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Since {
    /// No later than this the kernel has held what takes something from the pod.
    committed: Instant,
    look_at: Instant,
}

impl Watch {
    /// Something is about to be taken from these pods (again).
    pub(crate) fn again(&mut self, pods: impl IntoIterator<Item = IpAddr>) {
        for pod in pods {
            self.pods.remove(&pod);
        }
    }

    /// The kernel holds what was about to be, and watches these pods.
    pub(crate) fn committed(&mut self, watched: &BTreeSet<IpAddr>, now: Instant) {
        self.pods.retain(|pod, _| watched.contains(pod));
        let since = Since { committed: now, look_at: now + SETTLE };
        for pod in watched {
            self.pods.entry(*pod).or_insert(since);
        }
    }

    /// Pods have left these addresses: after a while, in which connections come and go, it is looked for what is left of
    /// theirs. Until then it may be taken for another pod's, if that comes to the address and to a port at once.
    pub(crate) fn leave(&mut self, addresses: impl IntoIterator<Item = IpAddr>, now: Instant) {
        for address in addresses {
            if self.left.len() < MOST_LEFT || self.left.contains_key(&address) {
                self.left.insert(address, now + SETTLE);
            }
        }
    }

    /// The addresses that pods have left.
    pub(crate) fn left(&self) -> impl Iterator<Item = IpAddr> {
        self.left.keys().copied()
    }

    /// Those of them that a walk that began then has looked for.
    pub(crate) fn looked_for(&mut self, began: Instant) -> BTreeSet<IpAddr> {
        let (looked_for, left) =
            std::mem::take(&mut self.left).into_iter().partition(|(_, at)| *at <= began);
        self.left = left;
        BTreeMap::into_keys(looked_for).collect()
    }

    /// No pod is isolated any more.
    pub(crate) fn forget_left(&mut self) {
        self.left.clear();
    }

    /// When it is time to look at connections.
    pub(crate) fn look_at(&self) -> Option<Instant> {
        self.pods.values().map(|since| since.look_at).chain(self.left.values().copied()).min()
    }

    /// What a walk that began then says: pods with a connection that they do not allow stay, and
    /// are looked at again after as long as they have been watched; returns who leaves.
    pub(crate) fn walked(
        &mut self,
        began: Instant,
        now: Instant,
        is_entangled: impl Fn(IpAddr) -> bool,
    ) -> BTreeSet<IpAddr> {
        let mut leave = BTreeSet::new();
        for (pod, since) in &mut self.pods {
            if since.committed + SETTLE > began {
                continue;
            }
            if is_entangled(*pod) {
                let watched = now.saturating_duration_since(since.committed);
                since.look_at = now + watched.clamp(SETTLE, LONGEST);
            } else {
                leave.insert(*pod);
            }
        }
        leave
    }

    /// A walk has failed: it is tried again.
    pub(crate) fn failed(&mut self, now: Instant) {
        for since in self.pods.values_mut() {
            since.look_at = since.look_at.max(now + LONGEST);
        }
        for look_at in self.left.values_mut() {
            *look_at = (*look_at).max(now + LONGEST);
        }
    }
}

/// What a walk through the kernel's connections has found.
#[derive(Debug)]
pub(crate) struct Walked {
    pub(crate) began: Instant,
    pub(crate) ends: Result<HashSet<Ends>, shunt_netlink::Error>,
}

/// Walks, on a thread that lives as long as the walk.
#[derive(Debug)]
pub(crate) struct Walker {
    state: State,
    rest_until: Option<Instant>,
}

#[derive(Debug)]
enum State {
    /// Nobody walks; `None`: the kernel tells nobody of its connections.
    Idle(Option<Box<Conntrack>>),
    Walks {
        began: Instant,
        look_at: Instant,
        thread: JoinHandle<End>,
    },
}

type End = (Conntrack, Result<HashSet<Ends>, shunt_netlink::Error>);

impl Walker {
    /// Opens the table of connections of this network namespace.
    pub(crate) fn open() -> Self {
        let conntrack = Conntrack::open().ok().map(Box::new);
        Self { state: State::Idle(conntrack), rest_until: None }
    }

    /// When there is something to do, if connections shall be looked at then.
    pub(crate) fn due(&self, look_at: Option<Instant>) -> Option<Instant> {
        match &self.state {
            State::Walks { look_at, .. } => Some(*look_at),
            State::Idle(Some(_)) => Some(look_at?.max(self.rest_until.unwrap_or(look_at?))),
            State::Idle(None) => None,
        }
    }

    /// Begins a walk that looks for connections of these pods, unless one is under way.
    pub(crate) fn begin(&mut self, pods: BTreeSet<IpAddr>, now: Instant) {
        let State::Idle(conntrack) = &mut self.state else { return };
        let Some(mut conntrack) = conntrack.take() else { return };
        let walk = move || {
            let ends =
                conntrack.ends(|ends| pods.contains(&ends.client) || pods.contains(&ends.server));
            (*conntrack, ends)
        };
        // Without a thread the socket is lost, and with it the walks: pods stay watched.
        let started = thread::Builder::new().name("policy-flows".into()).spawn(walk);
        self.state = match started {
            Ok(thread) => State::Walks { began: now, look_at: now + LOOK, thread },
            Err(_) => State::Idle(None),
        };
    }

    /// What a walk has found that has ended since.
    pub(crate) fn end(&mut self, now: Instant) -> Option<Walked> {
        if let State::Walks { look_at, thread, .. } = &mut self.state
            && !thread.is_finished()
        {
            *look_at = now + LOOK;
            return None;
        }
        let (began, thread) = match std::mem::replace(&mut self.state, State::Idle(None)) {
            State::Walks { began, thread, .. } => (began, thread),
            idle @ State::Idle(_) => {
                self.state = idle;
                return None;
            }
        };
        let (conntrack, ends) = thread.join().ok()?;
        self.rest_until = Some(now + now.saturating_duration_since(began) * REST);
        self.state = State::Idle(Some(Box::new(conntrack)));
        Some(Walked { began, ends })
    }
}

#[cfg(test)]
mod tests;
