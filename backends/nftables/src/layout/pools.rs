//! The chains that pick an endpoint.

use shunt_model::address::Family;
use shunt_model::balancing::Method;

use super::{SERVICE_PROTOCOLS, after_address, after_frontend, ip, load_frontend, lost, width};
use crate::expression::{Expression, HASH_SEED, Register, Verdict};
use crate::name::{SetId, SetKind};
use crate::pool::{Clients, Draw, PoolChain};
use crate::rule::{Chain, Rule};

/// How often a chain draws a slot. More than half of its slots are taken, so at most one in 256
/// packets finds none of them; it then gets one of the first half, all of which are taken.
const DRAWS: u32 = 8;

/// The chain that picks one of a pool's endpoints: it draws a slot, and again where the slot is
/// empty, so that the same chain serves every pool that fills more than half of it. An endpoint
/// that comes or goes is then one element of a data map; the verdict map, whose every change has
/// the kernel validate the whole table, changes only when a pool outgrows its chain.
///
/// Two lookups of one packet can fall into two generations of the ruleset. A packet that still
/// finds no endpoint is dropped and sent again by its client, where otherwise its connection
/// would be bound to no endpoint for good.
pub(crate) fn pool(chain: PoolChain) -> Chain {
    let mut rules = Vec::new();
    if chain.clients == Clients::Outside {
        rules.extend(inside_first(chain));
    }
    if chain.remembers() {
        return Chain { name: chain.to_string(), hook: None, rules: remember(chain) };
    }
    if chain.remember().is_some() {
        rules.extend(recall(chain));
    }
    let Draw { slots, method, .. } = chain.draw;
    match (method, slots) {
        (_, 0) => {}
        (Method::Random, 2..) => {
            rules.extend((0..DRAWS).map(|_| draw(chain, slots)));
            rules.push(draw(chain, slots / 2));
        }
        _ => rules.push(draw(chain, slots)),
    }
    rules.push(lost());
    Chain { name: chain.to_string(), hook: None, rules }
}

/// Sends local pods and the node itself to the frontend as those inside meet it.
pub(super) fn inside_first(chain: PoolChain) -> [Rule; 3] {
    let family = chain.family;
    let kind = if chain.node_port { SetKind::InsideNodePorts } else { SetKind::InsideFrontends };
    let (set, pods) = (SetId::new(kind, family), SetId::new(SetKind::LocalPods, family));
    let (key, loads, _) = frontend_of_packet(chain);
    let lookup = Expression::VerdictMap { set, key: Register(0) };

    let mut of_pods = vec![
        Expression::FamilyIs(family),
        Expression::LoadSource(family, Register(0)),
        Expression::In { set: pods, key: Register(0), inverted: false },
    ];
    of_pods.extend(loads.iter().filter(|load| !matches!(load, Expression::FamilyIs(_))).cloned());
    of_pods.push(lookup.clone());

    let interfaces = SetId::new(SetKind::LocalInterfaces, family);
    let mut by_interface = vec![
        Expression::LoadInputName(Register(0)),
        Expression::In { set: interfaces, key: Register(0), inverted: false },
    ];
    by_interface.extend(loads.iter().cloned());
    by_interface.push(lookup.clone());

    let mut of_node = vec![Expression::SourceIsLocal];
    of_node.extend(loads);
    of_node.push(lookup);
    [
        Rule::new(format!("{} saddr @{pods} {key} vmap @{set}", ip(family)), of_pods),
        Rule::new(format!("iifname @{interfaces} {key} vmap @{set}"), by_interface),
        Rule::new(format!("fib saddr type local {key} vmap @{set}"), of_node),
    ]
}

/// The frontend that a packet goes to, as nft writes it and as it is loaded, from register 0 on;
/// and the register after it.
fn frontend_of_packet(chain: PoolChain) -> (String, Vec<Expression>, Register) {
    let family = chain.family;
    let mut loads = Vec::new();
    if chain.node_port {
        loads.push(Expression::LoadProtocol(Register(0)));
        loads.push(Expression::LoadPort(Register(1)));
        return ("meta l4proto . th dport".to_owned(), loads, Register(2));
    }
    // nft prints an address of a family as such only after this check; without an address it
    // would print the check itself, which the chain's callers have made.
    loads.push(Expression::FamilyIs(family));
    loads.extend(load_frontend(family));
    let text = format!("{} daddr . meta l4proto . th dport", ip(family));
    (text, loads, after_frontend(family))
}

/// Translates the destination to the endpoint in one of the first `slots` slots, if there is one;
/// has it remembered before, if clients are.
fn draw(chain: PoolChain, slots: u32) -> Rule {
    let family = chain.family;
    let (key, loads, slot) = frontend_of_packet(chain);
    let (number, pick) = pick(chain, slots, slot);
    let key = format!("{key} . {number}");
    let (value, address, port) = (Register(0), Register(0), after_address(family));
    let mut expressions = Vec::new();
    if chain.remember().is_none() {
        expressions.push(Expression::ServiceProtocol);
    }
    if chain.node_port && chain.draw.method != Method::Random {
        // As in `frontend_of_packet`: the hash has an address in it.
        expressions.push(Expression::FamilyIs(family));
    }
    expressions.extend([loads, pick].concat());
    let Some(next) = chain.remember() else {
        let set = chain.place().endpoints();
        expressions.push(Expression::Map { set, key: Register(0), value });
        expressions.push(Expression::TranslateDestination { family, address, port });
        let ip = ip(family);
        return Rule::new(
            format!("{SERVICE_PROTOCOLS} dnat {ip} to {key} map @{set}"),
            expressions,
        );
    };
    let set = chain.place().sticky_slots();
    expressions.push(Expression::Map { set, key: Register(0), value });
    expressions.push(Expression::SetPriority(value));
    expressions.push(Expression::End(Verdict::Goto(next.to_string())));
    Rule::new(format!("meta priority set {key} map @{set} goto {next}"), expressions)
}

/// A number below `slots`, as nft writes it and as it is made in a register.
fn pick(chain: PoolChain, slots: u32, register: Register) -> (String, Vec<Expression>) {
    let family = chain.family;
    let from = Register(register.0 + 1);
    let mut loads = vec![Expression::LoadSource(family, from)];
    let (length, what) = match chain.draw.method {
        Method::Random => {
            let expressions = vec![Expression::Random(register, slots)];
            return (format!("numgen random mod {slots}"), expressions);
        }
        Method::HashAddress => (width(family), format!("{} saddr", ip(family))),
        Method::HashConnection => {
            loads.push(Expression::LoadSourcePort(Register(from.0 + width(family) / 4)));
            (width(family) + 4, format!("{} saddr . th sport", ip(family)))
        }
    };
    loads.push(Expression::Hash { from, length, register, modulus: slots });
    (format!("jhash {what} mod {slots} seed {HASH_SEED:#x}"), loads)
}

/// Translates to the client's former endpoint, if it is still in the pool, and remembers it for
/// another while. If it is not, it is forgotten, because the kernel never changes the value of an
/// element that it meets while a packet passes; then the group is in `meta priority`, or the
/// former id. A connection looks its endpoint up once, so that the elements' counters count it
/// once.
///
/// The priority of a packet is the one place from which a lookup can take what another has found
/// such that nft 1.0.6 can print it, and that no one needs before the packet leaves.
fn recall(chain: PoolChain) -> [Rule; 4] {
    let affinity = SetId::new(SetKind::Affinity, chain.family);
    let groups = chain.place().groups();
    let (key, mut group, _) = frontend_of_packet(chain);
    let client = format!("{} saddr", ip(chain.family));

    group.push(Expression::Map { set: groups, key: Register(0), value: Register(0) });
    group.push(Expression::SetPriority(Register(0)));

    let mut former = vec![
        Expression::FamilyIs(chain.family),
        Expression::LoadPriority(Register(0)),
        Expression::LoadSource(chain.family, Register(1)),
        Expression::Map { set: affinity, key: Register(0), value: Register(0) },
        Expression::SetPriority(Register(0)),
    ];
    let (for_longer, update) = remember_client(chain);
    // The family is known.
    former.extend(update.into_iter().filter(|one| !matches!(one, Expression::FamilyIs(_))));

    let (client_key, mut forget, value) = remembered_client(chain.family);
    forget.push(Expression::Forget { set: affinity, key: Register(0), value });
    let recalled = format!("meta priority set meta priority . {client} map @{affinity}");
    [
        Rule::new(format!("meta priority set {key} map @{groups}"), group),
        Rule::new(format!("{recalled} {for_longer}"), former),
        translate_remembered(chain),
        Rule::new(format!("delete @{affinity} {{ {client_key} : meta priority }}"), forget),
    ]
}

/// Remembers the endpoint whose id is in `meta priority` for the client, and translates to it.
/// Where there is no room to remember one more client, that rule alone comes to nothing.
fn remember(chain: PoolChain) -> Vec<Rule> {
    let (text, update) = remember_client(chain);
    vec![Rule::new(text, update), translate_remembered(chain), lost()]
}

/// Remembers the id in `meta priority` for the client, or for another while.
fn remember_client(chain: PoolChain) -> (String, Vec<Expression>) {
    let set = SetId::new(SetKind::Affinity, chain.family);
    let seconds = chain.draw.affinity.unwrap_or_default();
    let (client, mut update, value) = remembered_client(chain.family);
    update.push(Expression::Remember { set, key: Register(0), value, seconds });
    let timeout = duration(seconds);
    (format!("update @{set} {{ {client} timeout {timeout} : meta priority }}"), update)
}

/// Translates the destination to the endpoint whose id is in `meta priority`, if the pool has it.
fn translate_remembered(chain: PoolChain) -> Rule {
    let family = chain.family;
    let endpoints = chain.place().sticky_endpoints();
    let (key, loads, after) = frontend_of_packet(chain);
    let (address, port) = (Register(0), after_address(family));
    let mut translate = vec![Expression::ServiceProtocol];
    translate.extend(loads);
    translate.extend([
        Expression::LoadPriority(after),
        Expression::Map { set: endpoints, key: Register(0), value: address },
        Expression::TranslateDestination { family, address, port },
    ]);
    let ip = ip(family);
    let text = format!("{SERVICE_PROTOCOLS} dnat {ip} to {key} . meta priority map @{endpoints}");
    Rule::new(text, translate)
}

/// The key of a client's memory, from the id in `meta priority`, and where the id itself is.
fn remembered_client(family: Family) -> (String, Vec<Expression>, Register) {
    let value = Register(1 + width(family) / 4);
    let loads = vec![
        Expression::FamilyIs(family),
        Expression::LoadGroup(Register(0)),
        Expression::LoadSource(family, Register(1)),
        Expression::LoadPriority(value),
    ];
    (format!("meta priority & ffff:0 . {} saddr", ip(family)), loads, value)
}

/// A time as nft prints it.
fn duration(seconds: u32) -> String {
    let parts = [(seconds / 86_400, 'd'), (seconds / 3600 % 24, 'h'), (seconds / 60 % 60, 'm')];
    let all = parts.into_iter().chain([(seconds % 60, 's')]);
    all.filter(|(number, _)| *number > 0).map(|(number, unit)| format!("{number}{unit}")).collect()
}
