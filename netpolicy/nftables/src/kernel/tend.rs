//! Pods whose live connections are judged packet by packet, and until when.

use std::collections::{BTreeSet, HashSet};
use std::net::IpAddr;
use std::time::Instant;

use shunt_conntrack::ends::Ends;
use shunt_netpolicy::table::{Packet, Verdict};
use shunt_nftables::codec::{Error, Report};

use super::PolicyTable;
use crate::element::Key;
use crate::installed::{Installed, Steps};
use crate::live::Walked;
use crate::lower::{Beside, Operation, Wanted};
use crate::name::SetId;
use crate::planned::Planned;

impl PolicyTable {
    /// When [`tend`](Self::tend) has something to do.
    #[must_use]
    pub fn tend_at(&self) -> Option<Instant> {
        let look_at = self.counts().and_then(|_| self.walker.due(self.watch.look_at()));
        look_at.into_iter().chain(self.teller.as_ref().map(|teller| teller.at)).min()
    }

    /// Looks, beside this thread, whether pods whose live connections are judged packet by packet
    /// have any left that they do not allow; those that have none are watched no more. And whether others have some with
    /// an address that a pod has left; they are watched from now on. Returns how many operations that took.
    ///
    /// # Errors
    /// If the kernel refuses it; what is installed is to be read anew then.
    pub fn tend(&mut self, now: Instant) -> Result<usize, Error> {
        if self.teller.as_ref().is_some_and(|teller| teller.at <= now) {
            let counted = self.counted().ok();
            self.teller.iter_mut().for_each(|teller| teller.tell(counted.clone(), now));
        }
        if self.counts().is_none() {
            return Ok(0);
        }
        match self.walker.end(now) {
            Some(Walked { began, ends: Ok(ends) }) => {
                let entangled = self.entangled(&ends);
                let leave = self.watch.walked(began, now, |pod| entangled.contains(&pod));
                let left = self.watch.looked_for(began);
                let enter = self.entangled_with(&ends, &left);
                self.rewatch(enter, &leave)
            }
            // Without knowing the connections pods stay watched.
            Some(Walked { ends: Err(_), .. }) => {
                self.watch.failed(now);
                Ok(0)
            }
            None => {
                if self.walker.due(self.watch.look_at()).is_some_and(|at| at <= now) {
                    let addresses = self.beside.watched.iter().copied().chain(self.watch.left());
                    self.walker.begin(addresses.collect(), now);
                }
                Ok(0)
            }
        }
    }

    /// Has the live connections of pods judged packet by packet from now on.
    pub(super) fn watch(&mut self, addresses: impl IntoIterator<Item = IpAddr>) {
        // An audit tells of connections, not of each of their packets.
        if !self.options.keep_connections && !self.options.variant.audit {
            for address in addresses {
                self.watch.again([address]);
                self.beside.watched.insert(address);
            }
        }
    }

    /// Has it looked for what is left of the connections of pods that have gone.
    pub(super) fn leave(&mut self, addresses: &BTreeSet<IpAddr>) {
        if !self.options.keep_connections && !self.options.variant.audit {
            self.watch.leave(addresses.iter().copied(), Instant::now());
        }
    }

    /// The pods that have connections, which are not allowed, with these addresses.
    fn entangled_with(&self, ends: &HashSet<Ends>, left: &BTreeSet<IpAddr>) -> BTreeSet<IpAddr> {
        let is_left = |ends: &&Ends| left.contains(&ends.client) || left.contains(&ends.server);
        let denied = ends.iter().filter(is_left).filter(|ends| !self.allows(ends));
        let both = denied.flat_map(|ends| [ends.client, ends.server]);
        let watched = &self.beside.watched;
        both.filter(|end| self.table.locals.contains_key(end) && !watched.contains(end)).collect()
    }

    /// The ends of connections that are not allowed.
    fn entangled(&self, ends: &HashSet<Ends>) -> BTreeSet<IpAddr> {
        let denied = ends.iter().filter(|ends| !self.allows(ends));
        denied.flat_map(|ends| [ends.client, ends.server]).collect()
    }

    /// Whether the table accepts packets of such a connection.
    fn allows(&self, ends: &Ends) -> bool {
        let Ends { client, server, protocol, port } = *ends;
        let Beside { own, pod_networks, known, .. } = &self.beside;
        let is_own = |address| own.contains(&address);
        let is_closed = |address| {
            pod_networks.iter().any(|network| network.contains(&address))
                && !known.contains(&address)
        };
        if !is_own(client) && !is_own(server) && (is_closed(client) || is_closed(server)) {
            return false;
        }
        let from_node = is_own(client);
        let packet = Packet { source: client, destination: server, protocol, port, from_node };
        self.table.verdict(&packet) == Verdict::Accept
    }

    /// Watches some, and others no more.
    fn rewatch(
        &mut self,
        enter: BTreeSet<IpAddr>,
        leave: &BTreeSet<IpAddr>,
    ) -> Result<usize, Error> {
        let before = self.beside.clone();
        self.watch(enter);
        let all = self.beside.watched.clone();
        self.beside.watched.retain(|pod| !leave.contains(pod));
        let mut wanted = Wanted::default();
        wanted.beside(&before, &self.beside);
        let steps = Steps::between(&Planned { table: &self.table, beside: &before }, &wanted);
        let mut report = Report::default();
        match self.commit_steps(&steps, &mut report) {
            Ok(()) => self.watch.committed(&self.beside.watched, Instant::now()),
            Err(error) => {
                self.beside.watched = all;
                self.installed = None;
                return Err(error);
            }
        }
        Ok(report.operations)
    }
}

/// The local pods whose decisions a change touches.
pub(super) fn concerned(steps: &Steps) -> BTreeSet<IpAddr> {
    let local = |operation: &Operation| match operation {
        Operation::Add(
            SetId::Isolated(..) | SetId::ToNode(_) | SetId::Audited(_),
            Key::Address(address),
            _,
        )
        | Operation::Delete(
            SetId::Isolated(..) | SetId::ToNode(_) | SetId::Audited(_),
            Key::Address(address),
        )
        | Operation::Add(SetId::Rows(..), Key::Pair(address, _), _)
        | Operation::Delete(SetId::Rows(..), Key::Pair(address, _)) => Some(*address),
        _ => None,
    };
    steps.in_order().flatten().filter_map(local).collect()
}

/// Whether peers may be in another class than before.
pub(super) const fn takes_a_class(operation: &Operation) -> bool {
    matches!(operation, Operation::ReplaceNetworks(..) | Operation::Delete(SetId::Peers(_), _))
}

pub(super) fn held_watched(installed: &Installed) -> BTreeSet<IpAddr> {
    let watched = |(set, key): &(SetId, Key)| match (set, key) {
        (SetId::Watched(_), Key::Address(address)) => Some(*address),
        _ => None,
    };
    installed.elements.keys().filter_map(watched).collect()
}
