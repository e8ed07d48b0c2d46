//! Which addresses have which domain names, for as long as DNS says so.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::time::{Duration, Instant};

use shunt_netpolicy::compile::Compiler;
use shunt_netpolicy::domain::DomainName;
use shunt_netpolicy::snapshot::Snapshot;
use shunt_netpolicy::store::Dirty;
use shunt_netpolicy_nftables::kernel::Learnt;
use tokio::sync::mpsc;
use tracing::warn;

use super::waiting::WaitingList;
use crate::names::{Asked, Named, Names as Thread, NamesEvent};

/// How many pairs of an address and a name are held. A pod may ask for as many as it likes.
const MOST: usize = 50_000;
/// What is less of a longer life is not written.
const WORTH: Duration = Duration::from_secs(2);
/// The longest that is believed (RFC 8767, section 4).
const LONGEST: u32 = 7 * 24 * 3600;

/// What an operator chooses of domain names.
#[derive(Clone, Debug, Default)]
pub struct NameOptions {
    /// DNS servers whose answers are believed, beside the cluster's.
    pub servers: BTreeSet<IpAddr>,
    /// How much longer than an answer says.
    pub grace: Duration,
    /// Claim the table.
    pub owner: bool,
    /// What an earlier run has learnt.
    pub learnt: Vec<Learnt>,
    /// An earlier run has left the table.
    pub left: bool,
}

/// What is known of names.
#[derive(Debug)]
pub(super) struct Names {
    options: NameOptions,
    /// The cluster's DNS servers.
    cluster: BTreeSet<IpAddr>,
    servers_are_new: bool,
    out: mpsc::Sender<NamesEvent>,
    thread: Option<Thread>,
    asked: Asked,
    until: BTreeMap<IpAddr, BTreeMap<DomainName, Instant>>,
    count: usize,
    /// When the next one ends.
    next: Option<Instant>,
    changed: BTreeMap<(IpAddr, u32), Option<Instant>>,
    /// Answers that wait.
    held: WaitingList<u32>,
    full: bool,
}

impl Names {
    pub(super) fn new(options: NameOptions, out: mpsc::Sender<NamesEvent>) -> Self {
        Self {
            options,
            cluster: BTreeSet::new(),
            servers_are_new: false,
            out,
            thread: None,
            asked: Asked::default(),
            until: BTreeMap::new(),
            count: 0,
            next: None,
            changed: BTreeMap::new(),
            held: WaitingList::default(),
            full: false,
        }
    }

    /// When something ends.
    pub(super) const fn wake_at(&self) -> Option<Instant> {
        self.next
    }

    /// How many pairs are known.
    pub(super) const fn count(&self) -> usize {
        self.count
    }

    /// Takes the cluster's DNS servers in.
    pub(super) fn take_servers(&mut self, servers: BTreeSet<IpAddr>) {
        self.servers_are_new |= self.cluster != servers;
        self.cluster = servers;
    }

    /// Takes an answer in.
    pub(super) fn learn(
        &mut self,
        snapshot: &mut Snapshot,
        held: Option<u32>,
        found: Vec<Named>,
        now: Instant,
    ) -> Dirty {
        self.held.extend(held);
        let mut dirty = Dirty::default();
        for Named { address, name, seconds } in found {
            let life = Duration::from_secs(seconds.min(LONGEST).into()) + self.options.grace;
            // Policies may have changed since.
            if self.asked.names.contains(&name) && self.hold(address, &name, now + life) {
                dirty.merge(self.tell(snapshot, address));
            }
        }
        dirty
    }

    /// Takes in what an earlier run has learnt, once policies are known.
    pub(super) fn remember(&mut self, snapshot: &mut Snapshot, now: Instant) -> Dirty {
        let learnt = std::mem::take(&mut self.options.learnt);
        let mut dirty = Dirty::default();
        if learnt.is_empty() {
            return dirty;
        }
        let names = snapshot.store().domain_names();
        let names: BTreeMap<u32, DomainName> =
            names.into_iter().map(|name| (name.number(), name.clone())).collect();
        for Learnt { address, name, holds } in learnt {
            let Some(name) = names.get(&name).filter(|_| !holds.is_zero()) else { continue };
            if self.hold(address, name, now + holds) {
                dirty.merge(self.tell(snapshot, address));
            }
        }
        dirty
    }

    /// Forgets what has come to its end.
    pub(super) fn expire(&mut self, snapshot: &mut Snapshot, now: Instant) -> Dirty {
        if self.next.is_none_or(|next| now < next) {
            return Dirty::default();
        }
        self.forget(snapshot, |_, until| *until <= now)
    }

    /// Tells the thread what policies ask for now.
    pub(super) fn ask(&mut self, snapshot: &mut Snapshot, compiler: &Compiler) -> Dirty {
        self.servers_are_new = false;
        let store = snapshot.store();
        let names: BTreeSet<_> = store.domain_names().into_iter().cloned().collect();
        let mut asked = Asked { names, ..Asked::default() };
        if !asked.names.is_empty() {
            let locals = compiler.table().locals.keys().copied();
            let asks = |address: &IpAddr| {
                store.pod_at(*address).is_some_and(|pod| store.asks_for_names(pod))
            };
            asked.answers.pods = locals.filter(asks).collect();
            asked.answers.servers = self.cluster.union(&self.options.servers).copied().collect();
        }
        if asked == self.asked {
            return Dirty::default();
        }
        let fewer = !self.asked.names.is_subset(&asked.names);
        self.asked = asked.clone();
        let dirty = match fewer {
            true => self.forget(snapshot, |name, _| !asked.names.contains(name)),
            false => Dirty::default(),
        };
        self.tell_thread(asked);
        dirty
    }

    fn tell_thread(&mut self, asked: Asked) {
        let needed = self.options.left || !asked.answers.pods.is_empty();
        if self.thread.is_none() && needed {
            match Thread::start(self.options.owner, self.out.clone()) {
                Ok(thread) => self.thread = Some(thread),
                Err(error) => {
                    let text = format!(
                        "DNS answers cannot be read, so domainNames allow nothing: {error:#}"
                    );
                    let _ = self.out.try_send(NamesEvent::State(Some(text)));
                }
            }
        }
        if let Some(thread) = &self.thread {
            thread.ask(asked);
        }
    }

    /// What the kernel is to be told.
    pub(super) fn take_changes(&mut self) -> BTreeMap<(IpAddr, u32), Option<Instant>> {
        std::mem::take(&mut self.changed)
    }

    /// Whether there is something for the kernel, or for the thread.
    pub(super) fn has_changes(&self) -> bool {
        !self.changed.is_empty() || self.servers_are_new
    }

    /// All that is known was ordered with this number, and the kernel holds what was ordered with that one.
    pub(super) fn release(&mut self, ordered: u64, synced: u64) {
        for held in self.held.release(ordered, synced) {
            if let Some(thread) = &self.thread {
                thread.release(held);
            }
        }
    }

    /// Notes until when an address has a name; whether the name is new to it.
    fn hold(&mut self, address: IpAddr, name: &DomainName, until: Instant) -> bool {
        let names = self.until.entry(address).or_default();
        let held = names.get(name).copied();
        if held.is_some_and(|held| until < held + WORTH) {
            return false;
        }
        if held.is_none() && self.count >= MOST {
            if !std::mem::replace(&mut self.full, true) {
                warn!(
                    "{MOST} addresses of domain names are known: no more are learnt until some end"
                );
            }
            if names.is_empty() {
                self.until.remove(&address);
            }
            return false;
        }
        names.insert(name.clone(), until);
        self.count += usize::from(held.is_none());
        self.next = Some(self.next.map_or(until, |next| next.min(until)));
        self.changed.insert((address, name.number()), Some(until));
        held.is_none()
    }

    fn forget(
        &mut self,
        snapshot: &mut Snapshot,
        ends: impl Fn(&DomainName, &Instant) -> bool,
    ) -> Dirty {
        let mut concerned = Vec::new();
        let changed = &mut self.changed;
        for (address, names) in &mut self.until {
            let before = names.len();
            names.retain(|name, until| {
                let ended = ends(name, until);
                if ended {
                    changed.insert((*address, name.number()), None);
                }
                !ended
            });
            if names.len() < before {
                self.count -= before - names.len();
                self.full = false;
                concerned.push(*address);
            }
        }
        let mut dirty = Dirty::default();
        for address in concerned {
            dirty.merge(self.tell(snapshot, address));
        }
        self.until.retain(|_, names| !names.is_empty());
        self.next = self.until.values().flat_map(BTreeMap::values).min().copied();
        dirty
    }

    /// Tells the objects which names an address has.
    fn tell(&self, snapshot: &mut Snapshot, address: IpAddr) -> Dirty {
        let names = self.until.get(&address).into_iter().flat_map(BTreeMap::keys);
        snapshot.put_names(address, names.cloned().collect())
    }
}
