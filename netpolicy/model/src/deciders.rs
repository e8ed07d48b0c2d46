//! Which policies decide about a connection, where that is counted.

use std::collections::BTreeMap;
use std::sync::Arc;

use shunt_model::address::Protocol;

/// Names of policies as people know them, sorted: `shop/web` of a NetworkPolicy, `base` of a ClusterNetworkPolicy.
pub type Policies = Arc<[Arc<str>]>;

/// What becomes of a connection, and by which policies.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Decision {
    /// It is accepted.
    pub accepts: bool,
    /// The policies that accept it, or that deny it: of NetworkPolicies all, of ClusterNetworkPolicies the one whose rule
    /// decides; nobody, if it is accepted because no policy says otherwise.
    pub by: Policies,
}

/// Ports about which the same is decided.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Segment {
    /// The first.
    pub first: u16,
    /// The last.
    pub last: u16,
    /// What is decided.
    pub decision: Decision,
}

/// By whom all that a row decides is decided.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Deciders {
    /// Of each protocol that has ports, in order and without gaps.
    ports: [Vec<Segment>; 3],
    /// Of all other protocols.
    pub others: Decision,
}

impl Deciders {
    /// Asks about every port at which something may change.
    pub(crate) fn new(
        starts: impl Fn(Protocol) -> Vec<u16>,
        decide: impl Fn(Option<(Protocol, u16)>) -> Decision,
    ) -> Self {
        let segments = |protocol| {
            let mut segments: Vec<Segment> = Vec::new();
            for first in starts(protocol) {
                let decision = decide(Some((protocol, first)));
                match segments.last_mut() {
                    Some(before) if before.decision == decision => {}
                    Some(before) => {
                        before.last = first - 1;
                        segments.push(Segment { first, last: u16::MAX, decision });
                    }
                    None => segments.push(Segment { first, last: u16::MAX, decision }),
                }
            }
            segments
        };
        Self { ports: Protocol::ALL.map(segments), others: decide(None) }
    }

    /// What is decided about the ports of a protocol, in order and without gaps.
    #[must_use]
    pub fn segments(&self, protocol: Protocol) -> &[Segment] {
        let all = Protocol::ALL.iter().zip(&self.ports);
        all.into_iter().find(|(of, _)| **of == protocol).map_or(&[], |(_, segments)| segments)
    }

    /// What is decided about a packet of a protocol (its number) to a port.
    #[must_use]
    pub fn decision(&self, protocol: u8, port: u16) -> Option<&Decision> {
        let Some(protocol) = Protocol::from_number(protocol) else { return Some(&self.others) };
        let segments = self.segments(protocol).iter();
        let of_port = |segment: &&Segment| (segment.first..=segment.last).contains(&port);
        segments.filter(of_port).map(|segment| &segment.decision).next()
    }

    /// The decision of this kind that most ports of a protocol have.
    #[must_use]
    pub fn usual(&self, protocol: Protocol, accepts: bool) -> Option<&Decision> {
        let mut counts: BTreeMap<&Decision, u32> = BTreeMap::new();
        for segment in self.segments(protocol).iter().filter(|s| s.decision.accepts == accepts) {
            let ports = u32::from(segment.last - segment.first) + 1;
            *counts.entry(&segment.decision).or_default() += ports;
        }
        counts.into_iter().max_by_key(|(_, ports)| *ports).map(|(decision, _)| decision)
    }
}
