//! What the table has more where IPVS forwards packets.

use shunt_model::address::Family;

use super::pools::inside_first;
use super::{SERVICE_PROTOCOLS, after_address, ip, source_rule};
use crate::expression::{Expression, Register, Verdict};
use crate::name::{self, SetId, SetKind};
use crate::pool::{Clients, Draw, PoolChain};
use crate::rule::{Chain, Rule};

/// Leaves a packet to IPVS, which takes it where it comes in for this machine.
pub(super) fn leave() -> Chain {
    Chain { name: name::VIRTUAL.to_owned(), hook: None, rules: vec![accept()] }
}

/// The same for who is outside. IPVS has one virtual server for an address, so the others'
/// destination is translated by this table, and their packets never come in for this machine.
pub(super) fn leave_outsiders(family: Family) -> [Chain; 2] {
    [false, true].map(|node_port| {
        let pool =
            PoolChain { family, clients: Clients::Outside, node_port, draw: Draw::default() };
        let mut rules = Vec::from(inside_first(pool));
        rules.push(accept());
        Chain { name: name::outside_virtual(family, node_port), hook: None, rules }
    })
}

fn accept() -> Rule {
    Rule::new("accept", [Expression::End(Verdict::Accept)])
}

/// Addresses of frontends are this machine's, so what is no frontend there would reach whatever
/// listens on all addresses. An address that the machine has by itself keeps what it has.
pub(super) fn undefined(family: Family) -> Rule {
    let (ip, key) = (ip(family), Register(0));
    let set = |kind| SetId::new(kind, family);
    let (guarded, own) = (set(SetKind::VirtualAddresses), set(SetKind::OwnAddresses));
    let expressions = [
        Expression::FamilyIs(family),
        Expression::LoadDestination(family, key),
        Expression::In { set: guarded, key, inverted: false },
        Expression::FamilyIs(family),
        Expression::LoadDestination(family, key),
        Expression::In { set: own, key, inverted: true },
        Expression::End(Verdict::Goto(name::REFUSE.to_owned())),
    ];
    let text = format!("{ip} daddr @{guarded} {ip} daddr != @{own} goto {}", name::REFUSE);
    Rule::new(text, expressions)
}

/// Finds the connections that IPVS forwards by their original destination: conntrack does not
/// count them as translated.
pub(super) fn dispatch(family: Family) -> [Rule; 2] {
    let (ip, key) = (ip(family), Register(0));
    let set = |kind| SetId::new(kind, family);
    let within = |set| Expression::In { set, key, inverted: false };
    let sources = name::sources(family);
    let original = Expression::LoadOriginalDestination(family, key);
    let end = Expression::End(Verdict::Goto(sources.clone()));

    let servers = set(SetKind::VirtualServers);
    let next = after_address(family).0;
    let by_address = [
        Expression::ServiceProtocol,
        original.clone(),
        Expression::LoadProtocol(Register(next)),
        Expression::LoadOriginalPort(Register(next + 1)),
        within(servers),
        end.clone(),
    ];
    let (addresses, ports) = (set(SetKind::NodeAddresses), set(SetKind::VirtualNodePorts));
    let by_node_port = [
        original,
        within(addresses),
        Expression::ServiceProtocol,
        Expression::LoadProtocol(Register(0)),
        Expression::LoadOriginalPort(Register(1)),
        within(ports),
        end,
    ];
    [
        Rule::new(
            format!(
                "{SERVICE_PROTOCOLS} ct original {ip} daddr . meta l4proto . ct original proto-dst @{servers} goto {sources}"
            ),
            by_address,
        ),
        Rule::new(
            format!(
                "ct original {ip} daddr @{addresses} {SERVICE_PROTOCOLS} meta l4proto . ct original proto-dst @{ports} goto {sources}"
            ),
            by_node_port,
        ),
    ]
}

/// The node itself reaches a frontend from the frontend's own address, since that is local: no one
/// elsewhere could answer it.
pub(super) fn own_source(family: Family) -> Rule {
    let addresses = SetId::new(SetKind::VirtualAddresses, family);
    let conditions = [
        Expression::FamilyIs(family),
        Expression::LoadSource(family, Register(0)),
        Expression::In { set: addresses, key: Register(0), inverted: false },
    ];
    source_rule(format!("{} saddr @{addresses}", ip(family)), [&conditions, &[]])
}
