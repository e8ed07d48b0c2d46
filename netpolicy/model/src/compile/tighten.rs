//! From whom a change takes something: live connections of theirs must be judged again.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::sync::Arc;

use crate::object::Direction;
use crate::store::{Dirty, Presence};
use crate::table::{Atom, Decisions, Delta, Local, Row, RowId, Table};

/// The local addresses that accept less of somebody after a change than before. Those that are gone have no connections
/// any more. Those that have appeared may have some of the pod that had the address before: a client of UDP that goes on
/// sending keeps them alive.
pub(super) fn tightened(old: &Table, delta: &Delta, dirty: &Dirty) -> BTreeSet<IpAddr> {
    let presence = &dirty.presence;
    if delta.is_empty() {
        return BTreeSet::new();
    }
    let new = After { old, delta };
    let mut moved = moved(&new, presence);
    moved.extend(moved_by_name(&new, dirty));
    // Who has other decisions may lose something of peers that stay in their class, too.
    let changed = |address: &IpAddr| delta.locals.contains_key(address);
    let any_changed = delta.locals.keys().any(|address| !presence.contains_key(address));
    let stay = if any_changed { stay(old, delta) } else { BTreeSet::new() };
    let mut addresses: BTreeSet<&IpAddr> = delta.locals.keys().collect();
    if !moved.is_empty() {
        addresses.extend(old.locals.keys());
    }
    let loses = |address: &&&IpAddr| {
        let nothing = Local::default();
        let before = old.locals.get(**address).unwrap_or(&nothing);
        let after = match delta.locals.get(**address) {
            Some(changed) => changed.as_ref().unwrap_or(&nothing),
            None => before,
        };
        let presence = presence.get(**address);
        if presence == Some(&Presence::Gone) {
            return false;
        }
        if after.audit || before.audit || presence.is_some() {
            return !after.audit && *after != nothing;
        }
        let stay = stay.iter().filter(|_| changed(address)).map(|atom| (*atom, *atom));
        Direction::ALL.into_iter().any(|direction| {
            let moves = moved.iter().copied().chain(stay.clone());
            new.loses(before.decisions(direction), after.decisions(direction), moves)
        })
    };
    addresses.iter().filter(loses).map(|address| **address).collect()
}

/// From which class to which peers have gone; most stay in theirs.
fn moved(new: &After<'_>, presence: &BTreeMap<IpAddr, Presence>) -> BTreeSet<(Atom, Atom)> {
    let After { old, delta } = new;
    let mut addresses: BTreeSet<IpAddr> =
        delta.peers.keys().copied().filter(|address| !presence.contains_key(address)).collect();
    if let Some(networks) = &delta.networks {
        // Where neither the old ranges nor the new ones change, one address stands for all.
        for (range, _) in old.networks.iter().chain(networks) {
            addresses.extend([range.first, range.last]);
        }
    }
    let moves = addresses.iter().map(|address| (old.atom(*address), new.atom(*address)));
    moves.filter(|(from, to)| from != to).collect()
}

/// The same of peers that have names by DNS. A name that has come or gone alone moves nobody: what it allowed may go on.
fn moved_by_name<'a>(
    new: &'a After<'_>,
    dirty: &'a Dirty,
) -> impl Iterator<Item = (Atom, Atom)> + 'a {
    let by_name_alone = |address: &&IpAddr| {
        !dirty.everything && dirty.names.contains(*address) && !dirty.addresses.contains(*address)
    };
    let concerned = new.delta.named.keys().filter(move |address| !by_name_alone(address));
    let moves = concerned
        .map(|address| (new.old.destination_atom(*address), new.destination_atom(*address)));
    moves.filter(|(from, to)| from != to)
}

/// The classes that peers may stay in.
fn stay(old: &Table, delta: &Delta) -> BTreeSet<Atom> {
    let locals = old.locals.values().chain(delta.locals.values().flatten());
    let decisions = locals.flat_map(|local| local.ingress.iter().chain(&local.egress));
    // Many pods share theirs.
    let shared: BTreeMap<_, _> = decisions.map(|shared| (Arc::as_ptr(shared), shared)).collect();
    let atoms = shared.values().flat_map(|decisions| decisions.rows.keys().copied());
    atoms.chain([Atom::OTHERS]).collect()
}

/// A table as it is after a change.
struct After<'a> {
    old: &'a Table,
    delta: &'a Delta,
}

impl After<'_> {
    fn atom(&self, address: IpAddr) -> Atom {
        let peer = match self.delta.peers.get(&address) {
            Some(changed) => *changed,
            None => self.old.peers.get(address).copied(),
        };
        peer.unwrap_or_else(|| {
            let networks = self.delta.networks.as_ref().unwrap_or(&self.old.networks);
            crate::table::network_atom(networks, address)
        })
    }

    fn destination_atom(&self, address: IpAddr) -> Atom {
        let named = self.delta.name_atom(self.old, address);
        named.unwrap_or_else(|| self.atom(address))
    }

    fn row(&self, id: RowId) -> Option<&Arc<Row>> {
        match self.delta.rows.get(&id) {
            Some(changed) => changed.as_ref(),
            None => self.old.rows.get(&id),
        }
    }

    fn loses(
        &self,
        before: Option<&Arc<Decisions>>,
        after: Option<&Arc<Decisions>>,
        mut moves: impl Iterator<Item = (Atom, Atom)>,
    ) -> bool {
        let Some(after) = after else { return false };
        moves.any(|(from, to)| {
            let new = after.row(to);
            let Some(before) = before else {
                return self.row(new).is_none_or(|row| !row.covers(&Row::everything()));
            };
            let old = before.row(from);
            if old == new {
                return false;
            }
            let (Some(old), Some(new)) = (self.old.rows.get(&old), self.row(new)) else {
                return true;
            };
            !new.covers(old)
        })
    }
}
