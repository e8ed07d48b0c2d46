//! The decision table of a node: all that policy says, resolved, in the form the kernel looks up.
//!
//! Peers that no policy of this node tells apart share an *atom*. For a local pod and an atom the
//! table has a *row*: which protocols and ports are accepted. So a packet costs the same whatever
//! the number of policies: address to atom, pod and atom to row, row and port to verdict.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::sync::Arc;

use shunt_model::address::{Family, Protocol};

use crate::address_map::AddressMap;
use crate::deciders::{Deciders, Decision};
use crate::object::Direction;
use crate::ports::Ports;

/// A class of peers that policy treats alike. 0: those that no peer of a policy matches.
///
/// The number is made of what the class is, so that it is the same after a restart.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Atom(pub u32);

impl Atom {
    /// Those that no peer of any policy matches.
    pub const OTHERS: Self = Self(0);
}

/// The number of a row, made of its content.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct RowId(pub u32);

/// What is accepted of one class of peers.
#[derive(Clone, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Row {
    /// Of TCP.
    pub tcp: Ports,
    /// Of UDP.
    pub udp: Ports,
    /// Of SCTP.
    pub sctp: Ports,
    /// All other protocols.
    pub others: bool,
    /// By whom that is decided, where connections are counted by policy: rows are told apart by it then.
    pub by: Option<Arc<Deciders>>,
}

impl Row {
    /// Everything.
    #[must_use]
    pub fn everything() -> Self {
        Self { tcp: Ports::all(), udp: Ports::all(), sctp: Ports::all(), others: true, by: None }
    }

    /// The ports of a protocol.
    #[must_use]
    pub const fn ports(&self, protocol: Protocol) -> &Ports {
        match protocol {
            Protocol::Tcp => &self.tcp,
            Protocol::Udp => &self.udp,
            Protocol::Sctp => &self.sctp,
        }
    }

    /// The ports of a protocol.
    pub const fn ports_mut(&mut self, protocol: Protocol) -> &mut Ports {
        match protocol {
            Protocol::Tcp => &mut self.tcp,
            Protocol::Udp => &mut self.udp,
            Protocol::Sctp => &mut self.sctp,
        }
    }

    /// Whether it accepts a packet of a protocol (its number) to a port.
    #[must_use]
    pub fn accepts(&self, protocol: u8, port: u16) -> bool {
        Protocol::from_number(protocol)
            .map_or(self.others, |protocol| self.ports(protocol).contains(port))
    }

    /// Adds what another accepts.
    pub fn extend(&mut self, other: &Self) {
        for protocol in Protocol::ALL {
            self.ports_mut(protocol).extend(other.ports(protocol));
        }
        self.others |= other.others;
    }

    /// What both accept.
    #[must_use]
    pub fn within(&self, other: &Self) -> Self {
        self.with(other, Ports::within, self.others && other.others)
    }

    /// What it accepts and another does not.
    #[must_use]
    pub fn without(&self, other: &Self) -> Self {
        self.with(other, Ports::without, self.others && !other.others)
    }

    fn with(&self, other: &Self, ports: impl Fn(&Ports, &Ports) -> Ports, others: bool) -> Self {
        let [tcp, udp, sctp] =
            [(&self.tcp, &other.tcp), (&self.udp, &other.udp), (&self.sctp, &other.sctp)]
                .map(|(a, b)| ports(a, b));
        Self { tcp, udp, sctp, others, by: None }
    }

    /// Whether it accepts all that another does.
    pub(crate) fn covers(&self, other: &Self) -> bool {
        other.without(self) == Self::default()
    }
}

/// What a pod accepts in one direction.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Decisions {
    /// Of peers for whom there is nothing else.
    pub default: RowId,
    /// Of the others.
    pub rows: BTreeMap<Atom, RowId>,
}

impl Decisions {
    /// The row for a class of peers.
    #[must_use]
    pub fn row(&self, atom: Atom) -> RowId {
        self.rows.get(&atom).copied().unwrap_or(self.default)
    }
}

/// An address of a pod on this node that some policy speaks of. Its decisions are shared with the
/// pods that the same policies select.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Local {
    /// Connections to it; `None`: no policy speaks of this direction.
    pub ingress: Option<Arc<Decisions>>,
    /// Connections from it.
    pub egress: Option<Arc<Decisions>>,
    /// Connections from it to its own node are judged, too, as ClusterNetworkPolicies speak of what
    /// it sends; NetworkPolicies never forbid them.
    pub to_node: bool,
    /// What is not accepted is logged and passes all the same.
    pub audit: bool,
}

impl Local {
    /// The decisions of a direction.
    #[must_use]
    pub const fn decisions(&self, direction: Direction) -> Option<&Arc<Decisions>> {
        match direction {
            Direction::Ingress => self.ingress.as_ref(),
            Direction::Egress => self.egress.as_ref(),
        }
    }
}

/// A range of addresses, both ends included.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Range {
    /// The first.
    pub first: IpAddr,
    /// The last.
    pub last: IpAddr,
}

/// The decision table of a node.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Table {
    /// Pods and nodes of the cluster that a selector tells apart, and the addresses of this machine
    /// if pods on it are isolated in what they send; all others by their network.
    pub peers: AddressMap<Atom>,
    /// Addresses that DNS has given names to which policies ask for; they count before `peers`, in egress alone.
    pub named: BTreeMap<IpAddr, Atom>,
    /// Ranges that an ipBlock tells apart, sorted and disjoint.
    pub networks: Vec<(Range, Atom)>,
    /// Addresses of isolated pods on this node.
    pub locals: BTreeMap<IpAddr, Local>,
    /// Every row that is used.
    pub rows: BTreeMap<RowId, Arc<Row>>,
}

/// The first packet of a connection, after a Service was translated and before any masquerade.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Packet {
    /// Who opens it.
    pub source: IpAddr,
    /// Whom it reaches.
    pub destination: IpAddr,
    /// `IPPROTO_*`.
    pub protocol: u8,
    /// The port it reaches; 0 for protocols without.
    pub port: u16,
    /// It comes from this node itself (kubelet, pods on the host's network).
    pub from_node: bool,
}

/// What becomes of a packet.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Verdict {
    /// It passes.
    Accept,
    /// It is dropped, by the policies of this direction.
    Drop(Direction),
}

impl Table {
    /// The class that an address is in for whoever sends to it.
    pub(crate) fn destination_atom(&self, address: IpAddr) -> Atom {
        self.named.get(&address).copied().unwrap_or_else(|| self.atom(address))
    }

    /// The class that an address is in, whatever its names.
    #[must_use]
    pub fn atom(&self, address: IpAddr) -> Atom {
        if let Some(atom) = self.peers.get(address) {
            return *atom;
        }
        network_atom(&self.networks, address)
    }

    /// What the policies of one direction decide about a packet, and which, where connections are counted by policy.
    #[must_use]
    pub fn decision(&self, direction: Direction, packet: &Packet) -> Option<&Decision> {
        let (local, atom) = match direction {
            Direction::Egress => (packet.source, self.destination_atom(packet.destination)),
            Direction::Ingress => (packet.destination, self.atom(packet.source)),
        };
        let decisions = self.locals.get(&local)?.decisions(direction)?;
        let deciders = self.rows.get(&decisions.row(atom))?.by.as_ref()?;
        deciders.decision(packet.protocol, packet.port)
    }

    /// What this node does with a packet that it forwards, or that a pod sends to it. The node at
    /// the other end decides for its own pods.
    #[must_use]
    pub fn verdict(&self, packet: &Packet) -> Verdict {
        if packet.from_node || packet.source == packet.destination {
            return Verdict::Accept;
        }
        let accepted = |direction, local: IpAddr, peer: IpAddr| {
            let decisions = self.locals.get(&local).and_then(|local| local.decisions(direction));
            let audit = self.locals.get(&local).is_some_and(|local| local.audit);
            audit
                || decisions.is_none_or(|decisions| {
                    let atom = match direction {
                        Direction::Egress => self.destination_atom(peer),
                        Direction::Ingress => self.atom(peer),
                    };
                    let row = self.rows.get(&decisions.row(atom));
                    row.is_some_and(|row| row.accepts(packet.protocol, packet.port))
                })
        };
        if !accepted(Direction::Egress, packet.source, packet.destination) {
            return Verdict::Drop(Direction::Egress);
        }
        if !accepted(Direction::Ingress, packet.destination, packet.source) {
            return Verdict::Drop(Direction::Ingress);
        }
        Verdict::Accept
    }
}

/// The class that an address is in by the range it belongs to.
pub(crate) fn network_atom(networks: &[(Range, Atom)], address: IpAddr) -> Atom {
    range_with(networks, address).copied().unwrap_or(Atom::OTHERS)
}

/// What is said of the range with an address; they are sorted and disjoint.
pub(crate) fn range_with<T>(ranges: &[(Range, T)], address: IpAddr) -> Option<&T> {
    let family = Family::of(address);
    let after = ranges
        .partition_point(|(range, _)| (Family::of(range.first), range.first) <= (family, address));
    let (range, found) = &ranges[after.checked_sub(1)?];
    (Family::of(range.last) == family && address <= range.last).then_some(found)
}

/// What changes of a table.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Delta {
    /// Peers that are new, different or gone.
    pub peers: BTreeMap<IpAddr, Option<Atom>>,
    /// Addresses with names that are new, different or gone.
    pub named: BTreeMap<IpAddr, Option<Atom>>,
    /// All ranges, if they change.
    pub networks: Option<Vec<(Range, Atom)>>,
    /// Local addresses that are new, different or gone.
    pub locals: BTreeMap<IpAddr, Option<Local>>,
    /// Rows that are new or gone.
    pub rows: BTreeMap<RowId, Option<Arc<Row>>>,
    /// Local addresses that accept less of somebody than before, so that connections of theirs may
    /// live that are not allowed any more.
    pub tightened: BTreeSet<IpAddr>,
    /// Addresses that a pod has left while there are isolated ones: what the kernel remembers of its connections is not
    /// for whoever has the address next.
    pub left: BTreeSet<IpAddr>,
}

impl Delta {
    /// Whether nothing changes.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.peers.is_empty()
            && self.named.is_empty()
            && self.networks.is_none()
            && self.locals.is_empty()
            && self.rows.is_empty()
            && self.left.is_empty()
    }

    /// Whether an address is that of an isolated pod afterwards; `before`: the table that this changes.
    #[must_use]
    pub fn keeps_local(&self, before: &Table, address: IpAddr) -> bool {
        match self.locals.get(&address) {
            Some(changed) => changed.is_some(),
            None => before.locals.contains_key(&address),
        }
    }

    /// The class that an address is in by its names afterwards; `before`: the table that this changes.
    #[must_use]
    pub fn name_atom(&self, before: &Table, address: IpAddr) -> Option<Atom> {
        match self.named.get(&address) {
            Some(changed) => *changed,
            None => before.named.get(&address).copied(),
        }
    }

    /// Adds a later change.
    pub fn merge(&mut self, later: Self) {
        self.peers.extend(later.peers);
        self.named.extend(later.named);
        self.networks = later.networks.or(self.networks.take());
        self.locals.extend(later.locals);
        self.rows.extend(later.rows);
        self.tightened.extend(later.tightened);
        self.left.extend(later.left);
    }
}

impl Table {
    /// Changes it.
    pub fn apply(&mut self, delta: &Delta) {
        for (address, atom) in &delta.peers {
            match atom {
                Some(atom) => drop(self.peers.insert(*address, *atom)),
                None => drop(self.peers.remove(*address)),
            }
        }
        for (address, atom) in &delta.named {
            match atom {
                Some(atom) => self.named.insert(*address, *atom),
                None => self.named.remove(address),
            };
        }
        if let Some(networks) = &delta.networks {
            self.networks.clone_from(networks);
        }
        for (address, local) in &delta.locals {
            match local {
                Some(local) => drop(self.locals.insert(*address, local.clone())),
                None => drop(self.locals.remove(address)),
            }
        }
        for (id, row) in &delta.rows {
            match row {
                Some(row) => drop(self.rows.insert(*id, Arc::clone(row))),
                None => drop(self.rows.remove(id)),
            }
        }
    }
}
