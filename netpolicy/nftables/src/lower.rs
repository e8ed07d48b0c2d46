//! The decision table as elements.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::time::Instant;

use ipnet::IpNet;
use shunt_model::address::Family;
use shunt_netpolicy::object::Direction;
use shunt_netpolicy::table::{Atom, Delta, Local, Range, Row, RowId, Table};

use crate::element::{Key, Value};
use crate::installed::Installed;
use crate::name::SetId;
use crate::rows;

/// One change of the table.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Operation {
    /// Add an element.
    Add(SetId, Key, Value),
    /// The same of one that the kernel is to forget at that time by itself.
    AddUntil(SetId, Key, Value, Instant),
    /// Remove an element.
    Delete(SetId, Key),
    /// Replace all ranges of addresses of a set. In one that has no atoms they are all 0.
    ReplaceNetworks(SetId, Vec<(Range, Atom)>),
}

/// What the table shall hold, as far as it is in question.
#[derive(Clone, Debug, Default)]
pub struct Wanted {
    /// Elements with their values; `None`: shall not be there.
    pub elements: BTreeMap<(SetId, Key), Option<Value>>,
    /// All ranges of addresses of a set.
    pub networks: BTreeMap<SetId, Vec<(Range, Atom)>>,
    /// Until when the kernel is to hold elements that it forgets by itself.
    pub until: BTreeMap<(SetId, Key), Instant>,
    /// Elements that are written again if they are there, as they hold for longer now.
    pub renewed: BTreeSet<(SetId, Key)>,
}

/// What is installed beside the decision table.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Beside {
    /// The addresses of this machine.
    pub own: BTreeSet<IpAddr>,
    /// Addresses of isolated pods whose live connections are judged packet by packet.
    pub watched: BTreeSet<IpAddr>,
    /// The ranges that this node gives its pods addresses out of, where those of unknown pods are
    /// closed.
    pub pod_networks: BTreeSet<IpNet>,
    /// The addresses in them whose pods are known.
    pub known: BTreeSet<IpAddr>,
    /// Until when addresses have domain names, by the names' numbers.
    pub learnt: BTreeMap<(IpAddr, u32), Instant>,
}

impl Beside {
    /// Until when an address has any name.
    fn named_until(&self, address: IpAddr) -> Option<Instant> {
        let names = self.learnt.range((address, 0)..=(address, u32::MAX));
        names.map(|(_, until)| *until).max()
    }
}

impl Wanted {
    /// What a delta asks for; `table` is as it was before.
    #[must_use]
    pub fn change(table: &Table, delta: &Delta) -> Self {
        let mut wanted = Self::default();
        for (address, atom) in &delta.peers {
            let value = atom.map(|atom| Some(atom.0));
            wanted
                .elements
                .insert((SetId::Peers(Family::of(*address)), Key::Address(*address)), value);
        }
        for (address, atom) in &delta.named {
            let place = (SetId::Named(Family::of(*address)), Key::Address(*address));
            wanted.elements.insert(place, atom.map(|atom| Some(atom.0)));
        }
        for (address, local) in &delta.locals {
            if let Some(old) = table.locals.get(address) {
                each_of_local(*address, old, |place, _| wanted.without(place));
            }
            if let Some(new) = local {
                each_of_local(*address, new, |place, value| wanted.with(place, value));
            }
        }
        for (id, row) in &delta.rows {
            if let Some(old) = table.rows.get(id) {
                each_of_row(*id, old, |place, _| wanted.without(place));
            }
            if let Some(new) = row {
                each_of_row(*id, new, |place, value| wanted.with(place, value));
            }
        }
        if let Some(networks) = &delta.networks {
            wanted.networks = by_family(SetId::Networks, networks);
        }
        wanted
    }

    /// What the whole table asks for, given what is installed.
    #[must_use]
    pub fn full(table: &Table, beside: &Beside, installed: &Installed) -> Self {
        let networks = by_family(SetId::Networks, &table.networks);
        let mut wanted = Self { networks, ..Self::default() };
        wanted.pod_networks(&beside.pod_networks);
        for place in installed.elements.keys() {
            wanted.without(*place);
        }
        for (address, atom) in table.peers.iter() {
            let place = (SetId::Peers(Family::of(address)), Key::Address(address));
            wanted.with(place, Some(atom.0));
        }
        for (address, atom) in &table.named {
            let place = (SetId::Named(Family::of(*address)), Key::Address(*address));
            wanted.with(place, Some(atom.0));
        }
        for (address, local) in &table.locals {
            each_of_local(*address, local, |place, value| wanted.with(place, value));
        }
        for (id, row) in &table.rows {
            each_of_row(*id, row, |place, value| wanted.with(place, value));
        }
        wanted.beside(&Beside::default(), beside);
        wanted.learnt(&Beside::default(), beside, |address| table.named.get(&address).copied());
        wanted.renewed.clear();
        wanted
    }

    /// Adds what changes beside the decision table.
    pub fn beside(&mut self, old: &Beside, new: &Beside) {
        self.addresses(SetId::Own, &old.own, &new.own);
        self.addresses(SetId::Watched, &old.watched, &new.watched);
        self.addresses(SetId::Known, &old.known, &new.known);
        if old.pod_networks != new.pod_networks {
            self.pod_networks(&new.pod_networks);
        }
    }

    /// Adds the names that addresses have by DNS, and until when; `named`: which classes they are in after the change.
    pub fn learnt(&mut self, old: &Beside, new: &Beside, named: impl Fn(IpAddr) -> Option<Atom>) {
        let mut addresses: BTreeSet<IpAddr> = BTreeSet::new();
        for (name, until) in &new.learnt {
            if old.learnt.get(name) != Some(until) {
                let place = learnt(name);
                self.with(place, None);
                self.until.insert(place, *until);
                self.renewed.insert(place);
                addresses.insert(name.0);
            }
        }
        for name in old.learnt.keys().filter(|name| !new.learnt.contains_key(name)) {
            self.without(learnt(name));
        }
        let is_named = |place: &&(SetId, Key)| matches!(place.0, SetId::Named(_));
        let changed = self.elements.keys().filter(is_named).filter_map(|(_, key)| match key {
            Key::Address(address) => Some(*address),
            _ => None,
        });
        addresses.extend(changed.collect::<Vec<_>>());
        for address in addresses {
            let (Some(atom), Some(until)) = (named(address), new.named_until(address)) else {
                continue;
            };
            let place = (SetId::Named(Family::of(address)), Key::Address(address));
            self.with(place, Some(atom.0));
            self.until.insert(place, until);
            self.renewed.insert(place);
        }
    }

    fn pod_networks(&mut self, networks: &BTreeSet<IpNet>) {
        self.networks.extend(by_family(SetId::PodNetworks, &ranges(networks)));
    }

    fn addresses(
        &mut self,
        set: impl Fn(Family) -> SetId,
        old: &BTreeSet<IpAddr>,
        new: &BTreeSet<IpAddr>,
    ) {
        let place = |address: &IpAddr| (set(Family::of(*address)), Key::Address(*address));
        old.difference(new).for_each(|address| self.without(place(address)));
        new.difference(old).for_each(|address| self.with(place(address), None));
    }

    fn with(&mut self, place: (SetId, Key), value: Value) {
        self.elements.insert(place, Some(value));
    }

    fn without(&mut self, place: (SetId, Key)) {
        self.elements.insert(place, None);
    }
}

fn learnt((address, name): &(IpAddr, u32)) -> (SetId, Key) {
    (SetId::Learnt(Family::of(*address)), Key::Pair(*address, Atom(*name)))
}

fn ranges(networks: &BTreeSet<IpNet>) -> Vec<(Range, Atom)> {
    let range = |net: &IpNet| (Range { first: net.network(), last: net.broadcast() }, Atom(0));
    networks.iter().map(range).collect()
}

/// All ranges of addresses that a set has.
pub(crate) fn ranges_of(set: SetId, table: &Table, beside: &Beside) -> Vec<(Range, Atom)> {
    let mut all = by_family(SetId::Networks, &table.networks);
    all.extend(by_family(SetId::PodNetworks, &ranges(&beside.pod_networks)));
    all.remove(&set).unwrap_or_default()
}

fn by_family(
    set: impl Fn(Family) -> SetId,
    networks: &[(Range, Atom)],
) -> BTreeMap<SetId, Vec<(Range, Atom)>> {
    let of = |family| {
        let of_family = |(range, _): &&(Range, Atom)| Family::of(range.first) == family;
        networks.iter().filter(of_family).copied().collect()
    };
    Family::ALL.into_iter().map(|family| (set(family), of(family))).collect()
}

fn each_of_local(address: IpAddr, local: &Local, mut each: impl FnMut((SetId, Key), Value)) {
    let family = Family::of(address);
    for direction in Direction::ALL {
        let Some(decisions) = local.decisions(direction) else { continue };
        let isolated = SetId::Isolated(direction, family);
        each((isolated, Key::Address(address)), Some(decisions.default.0));
        for (atom, row) in &decisions.rows {
            let rows = SetId::Rows(direction, family);
            each((rows, Key::Pair(address, *atom)), Some(row.0));
        }
    }
    each((SetId::Itself(family), Key::Address(address)), None);
    if local.to_node {
        each((SetId::ToNode(family), Key::Address(address)), None);
    }
    if local.audit {
        each((SetId::Audited(family), Key::Address(address)), None);
    }
}

fn each_of_row(id: RowId, row: &Row, mut each: impl FnMut((SetId, Key), Value)) {
    rows::elements(id, row).into_iter().for_each(|(place, _)| each(place, None));
}
