//! How a packet is judged: its atom, its row, what the row accepts.

use shunt_model::address::Family;
use shunt_netpolicy::object::Direction;
use shunt_nftables::codec::{Expression, Register, Rule};

use super::keys::Keys;
use super::{
    ALLOWED, Denial, PolicyChain, PolicyExpression, PolicyRule, Variant, after_address, chain, goto,
};
use crate::name::{SetId, suffix};

/// Whether the row in the register accepts the packet.
pub(super) fn judge(keys: Keys, direction: Direction, variant: Variant) -> PolicyChain {
    let (name, ports) = judges(keys, direction);
    let denied = Denial::Policy(direction).chain();
    let others = |set, to: &str| {
        let expressions = [Expression::LoadPriority(Register(0)), within(set), goto(to)];
        Rule::new(format!("meta priority @{set} goto {to}"), expressions)
    };
    let mut rules = vec![
        Rule::new(
            format!("meta l4proto {{ tcp, udp, sctp }} goto {ports}"),
            [Expression::ServiceProtocol, goto(&ports)],
        ),
        others(SetId::Others, ALLOWED),
    ];
    if variant.counting {
        rules.push(others(SetId::DeniedOthers, &denied));
    }
    rules.push(Rule::new(format!("goto {denied}"), [goto(&denied)]));
    chain(name, rules)
}

/// The names of the chains that judge by a row: all packets, and those that have ports.
fn judges(keys: Keys, direction: Direction) -> (String, String) {
    let name = format!("{}judge_{}", keys.prefix(), direction.word());
    let ports = format!("{name}_ports");
    (name, ports)
}

/// Where connections are counted the protocol alone is asked for last: who decides about most ports stands there.
pub(super) fn judge_ports(keys: Keys, direction: Direction, variant: Variant) -> PolicyChain {
    let denied = Denial::Policy(direction).chain();
    let mut rules = match variant.counting {
        false => vec![
            protocol_in(SetId::Protocols, ALLOWED),
            port_in(SetId::Ports, keys, ALLOWED),
            port_in(SetId::Ranges, keys, ALLOWED),
        ],
        true => vec![
            port_in(SetId::Ports, keys, ALLOWED),
            port_in(SetId::Ranges, keys, ALLOWED),
            port_in(SetId::DeniedPorts, keys, &denied),
            port_in(SetId::DeniedRanges, keys, &denied),
            protocol_in(SetId::Protocols, ALLOWED),
            protocol_in(SetId::DeniedProtocols, &denied),
        ],
    };
    rules.push(Rule::new(format!("goto {denied}"), [goto(&denied)]));
    chain(judges(keys, direction).1, rules)
}

fn protocol_in(set: SetId, to: &str) -> PolicyRule {
    let expressions = [
        Expression::LoadPriority(Register(0)),
        Expression::LoadProtocol(Register(1)),
        within(set),
        goto(to),
    ];
    Rule::new(format!("meta priority . meta l4proto @{set} goto {to}"), expressions)
}

fn port_in(set: SetId, keys: Keys, to: &str) -> PolicyRule {
    let port = keys.port();
    // nft reads a port of a connection only after its protocol.
    let text = format!(
        "meta l4proto {{ tcp, udp, sctp }} meta priority . meta l4proto . {port} @{set} goto {to}"
    );
    let mut expressions = vec![Expression::ServiceProtocol, Expression::LoadPriority(Register(0))];
    if set.has_port_ranges() {
        expressions.push(Expression::ToNetworkOrder(Register(0)));
    }
    expressions.extend([
        Expression::LoadProtocol(Register(1)),
        keys.load_port(Register(2)),
        within(set),
        goto(to),
    ]);
    Rule::new(text, expressions)
}

/// From peer to atom, from pod and atom to row.
pub(super) fn isolated(keys: Keys, direction: Direction, family: Family) -> PolicyChain {
    let (source, destination) = (keys.source(family), keys.destination(family));
    let (local, peer) = match direction {
        Direction::Ingress => (destination, source),
        Direction::Egress => (source, destination),
    };
    let load_local = || load(keys, direction == Direction::Egress, family);
    let load_peer = || load(keys, direction == Direction::Ingress, family);
    let (judge, _) = judges(keys, direction);
    let named = SetId::Named(family);
    let (peers, networks) = (SetId::Peers(family), SetId::Networks(family));
    let (rows, default) = (SetId::Rows(direction, family), SetId::Isolated(direction, family));

    let mut by_name = load_peer();
    by_name.extend(set_from(named));
    let mut by_pod = match direction {
        Direction::Ingress => Vec::new(),
        Direction::Egress => vec![Expression::PriorityIsClear],
    };
    let unnamed = if by_pod.is_empty() { "" } else { "meta priority none " };
    by_pod.extend(load_peer());
    by_pod.extend(set_from(peers));
    let mut by_network = vec![Expression::PriorityIsClear];
    by_network.extend(load_peer());
    by_network.extend(set_from(networks));
    let mut by_row = load_local();
    by_row.push(Expression::LoadPriority(after_address(family)));
    by_row.extend(set_from(rows));
    by_row.push(goto(&judge));
    let mut by_default = load_local();
    by_default.extend(set_from(default));
    by_default.push(goto(&judge));
    let mut rules = vec![Rule::new("meta priority set none", [Expression::ClearPriority])];
    // Names are of those that pods send to.
    if direction == Direction::Egress {
        rules.push(Rule::new(format!("meta priority set {peer} map @{named}"), by_name));
    }
    rules.extend([
        Rule::new(format!("{unnamed}meta priority set {peer} map @{peers}"), by_pod),
        Rule::new(
            format!("meta priority none meta priority set {peer} map @{networks}"),
            by_network,
        ),
        Rule::new(
            format!("meta priority set {local} . meta priority map @{rows} goto {judge}"),
            by_row,
        ),
        Rule::new(format!("meta priority set {local} map @{default} goto {judge}"), by_default),
        // It was isolated a moment ago.
        Rule::new(format!("goto {ALLOWED}"), [goto(ALLOWED)]),
    ]);
    chain(name_of(keys, direction, family), rules)
}

pub(super) fn name_of(keys: Keys, direction: Direction, family: Family) -> String {
    format!("{}{}_{}", keys.prefix(), direction.word(), suffix(family))
}

/// Who opens the connection, or who is reached, in the first registers.
pub(super) fn load(keys: Keys, source: bool, family: Family) -> Vec<PolicyExpression> {
    let mut expressions = keys.check(family);
    expressions.push(if source {
        keys.load_source(family, Register(0))
    } else {
        keys.load_destination(family, Register(0))
    });
    expressions
}

/// The register set to what a map has for the key in the first registers.
pub(super) fn set_from(set: SetId) -> [PolicyExpression; 2] {
    let key = Register(0);
    [Expression::Map { set, key, value: Register(0) }, Expression::SetPriority(Register(0))]
}

pub(super) fn within(set: SetId) -> PolicyExpression {
    Expression::In { set, key: Register(0), inverted: false }
}
