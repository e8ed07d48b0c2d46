//! What was dropped, with the names of pods and policies.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;

use shunt_netpolicy::oracle::{Ruling, explain};
use shunt_netpolicy::store::Store;
use shunt_netpolicy::table::Packet;
use shunt_netpolicy_nftables::drop_log::DroppedPacket;
use shunt_netpolicy_nftables::kernel::{Count, Dropped, PolicyCounts};
use shunt_netpolicy_nftables::layout::Denial;

use crate::ask::why;
use crate::status::DecidedStatus;

/// How many policies are counted by name; what others drop is counted together.
const NAMED: usize = 200;
/// The name of those others.
const OTHERS: &str = "others";

/// A dropped packet in words.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DropRecord {
    /// `ingress`, `egress`, or `unknown`.
    pub denied: &'static str,
    /// Who opened the connection: `shop/web (10.0.0.1)`.
    pub source: String,
    /// To whom.
    pub destination: String,
    /// `5432/tcp`; the protocol alone if it has no ports, or is not known.
    pub port: String,
    /// It was no first packet, but an answer of a connection that policy has taken away.
    pub answer: bool,
    /// Which policies decided, or the isolation, in one clause.
    pub by: String,
    /// It was let through, in an audit.
    pub audited: bool,
    /// The policies, for counting.
    pub policies: Vec<String>,
}

/// What is known of drops.
#[derive(Clone, Debug, Default)]
pub(super) struct Drops {
    /// What the kernel has counted.
    pub(super) counted: Dropped,
    /// Logged drops by policy.
    pub(super) by_policy: BTreeMap<String, u64>,
    /// What each policy has decided, if that is counted.
    pub(super) decided: BTreeMap<String, Count>,
}

impl Drops {
    /// Counts a record; returns the names that it counts under.
    pub(super) fn record(&mut self, record: &mut DropRecord) {
        for policy in &mut record.policies {
            if !self.by_policy.contains_key(policy) && self.by_policy.len() >= NAMED {
                OTHERS.clone_into(policy);
            }
            *self.by_policy.entry(policy.clone()).or_default() += 1;
        }
    }
}

impl Drops {
    /// Takes in what each policy has decided. Who has a name of its own keeps it.
    pub(super) fn decide(&mut self, counts: &PolicyCounts) {
        let before = std::mem::take(&mut self.decided);
        let room = NAMED.saturating_sub(before.len());
        let new = counts.keys().filter(|name| !before.contains_key(name.as_ref()));
        let new: BTreeSet<&str> = new.take(room).map(AsRef::as_ref).collect();
        for (policy, count) in counts {
            let has_name = before.contains_key(policy.as_ref()) || new.contains(policy.as_ref());
            let name = if has_name { policy.as_ref() } else { OTHERS };
            *self.decided.entry(name.to_owned()).or_default() += *count;
        }
    }

    /// The same for people.
    pub(super) fn decided_status(&self) -> BTreeMap<String, DecidedStatus> {
        let status =
            |count: &Count| DecidedStatus { accepted: count.accepted, denied: count.denied };
        self.decided.iter().map(|(name, count)| (name.clone(), status(count))).collect()
    }
}

/// Finds out who and why. A packet of a live connection may be an answer: then its ends are the other
/// way round.
pub(super) fn describe(store: &Store, packet: &DroppedPacket) -> DropRecord {
    let (from, to) = packet.ports.unwrap_or_default();
    let asked = Packet {
        source: packet.source,
        destination: packet.destination,
        protocol: packet.protocol,
        port: to,
        from_node: false,
    };
    let reversed =
        Packet { source: asked.destination, destination: asked.source, port: from, ..asked };
    let denied = |packet: &Packet, direction| {
        explain(store, packet)
            .into_iter()
            .find(|(of, ruling)| *of == direction && !ruling.accepts())
            .map(|(_, ruling)| ruling)
    };
    let (found, answer) = match packet.denial {
        Denial::Unknown => (None, false),
        Denial::Policy(direction) => match denied(&asked, direction) {
            Some(ruling) => (Some((direction, ruling)), false),
            None => {
                let found = denied(&reversed, direction).map(|ruling| (direction, ruling));
                let answer = found.is_some();
                (found, answer)
            }
        },
    };
    let shown = if answer { reversed } else { asked };
    let by = match (&found, packet.denial) {
        (Some((direction, ruling)), _) => why(*direction, ruling),
        (None, Denial::Unknown) => "the pod that has the address is not known (yet)".to_owned(),
        (None, Denial::Policy(_)) => "policies have changed since".to_owned(),
    };
    DropRecord {
        denied: packet.denial.word(),
        source: named(store, shown.source),
        destination: named(store, shown.destination),
        port: port(packet, shown.port),
        answer,
        audited: packet.audited,
        by,
        policies: found.map_or_else(Vec::new, |(_, ruling)| policies(&ruling)),
    }
}

fn named(store: &Store, address: IpAddr) -> String {
    let pod = store.pod_at(address);
    pod.map_or_else(|| address.to_string(), |pod| format!("{} ({address})", pod.key))
}

fn port(packet: &DroppedPacket, port: u16) -> String {
    let protocol = match packet.protocol {
        1 => "icmp".to_owned(),
        6 => "tcp".to_owned(),
        17 => "udp".to_owned(),
        58 => "icmpv6".to_owned(),
        132 => "sctp".to_owned(),
        other => format!("protocol {other}"),
    };
    if packet.ports.is_some() { format!("{port}/{protocol}") } else { protocol }
}

/// The policies that deny it.
fn policies(ruling: &Ruling) -> Vec<String> {
    match ruling {
        Ruling::Denied { policies } => policies.iter().map(ToString::to_string).collect(),
        Ruling::Decided { policy, .. } => vec![policy.to_string()],
        _ => Vec::new(),
    }
}
