//! The fixed part of the tables: sets, chains and rules. They never depend on the cluster.
//!
//! `meta priority` is the one register: the atom of the peer, then the row. A rule whose lookup
//! finds nothing ends there, so what follows a lookup in a rule is for those that are found.

mod bridge;
mod denied;
mod judge;
mod keys;
mod sets;
mod variant;

use shunt_model::address::Family;
use shunt_netpolicy::object::Direction;
use shunt_nftables::codec::{Chain, Expression, Hook, Register, Rule, Table, Verdict, fingerprint};

use self::denied::denied;
use self::judge::{isolated, judge, judge_ports, load, name_of, set_from, within};
use self::keys::Keys;
pub(crate) use self::sets::{has_ranges, set_type};
pub use self::variant::{Denial, Switched, Variant};
use crate::name::{SetId, suffix};
use crate::transaction::{BRIDGE, OURS};

type PolicyRule = Rule<SetId>;
type PolicyExpression = Expression<SetId>;
type PolicyChain = Chain<SetId>;

/// Before source translation (`NF_IP_PRI_NAT_SRC`, 100), so that who is masqueraded is still seen;
/// after the forward hook, which what IPVS serves does not pass.
const PRIORITY: i32 = 90;
/// After IPVS has taken what is for its Services (`NF_IP_PRI_NAT_SRC` - 1).
const INPUT_PRIORITY: i32 = 110;
/// `NF_CT_STATE_BIT` of established, related and new.
const ESTABLISHED: u32 = 1 << 1;
const RELATED: u32 = 1 << 2;
const NEW: u32 = 1 << 3;
/// Invalid and untracked: those of which conntrack knows nothing.
const UNKNOWN: u32 = 1 | 1 << 6;
/// Where a packet goes that one direction accepts.
const ALLOWED: &str = "allowed";

/// The tables, each with its chains.
pub(crate) fn tables(variant: Variant) -> Vec<(Table, Vec<PolicyChain>)> {
    let switched = variant.switched.map(|switched| (BRIDGE, bridge::chains(variant, switched)));
    std::iter::once((OURS, chains(variant))).chain(switched).collect()
}

/// All chains, each after those that it goes to.
pub(crate) fn chains(variant: Variant) -> Vec<PolicyChain> {
    let mut chains = judging(variant, &Keys::ALL);
    chains.extend(Family::ALL.map(live));
    chains.extend(Family::ALL.map(live_to_node));
    chains.extend([postrouting(), input()]);
    chains
}

/// The chains that judge, by one of these.
fn judging(variant: Variant, keys: &[Keys]) -> Vec<PolicyChain> {
    let mut chains = vec![allowed()];
    chains.extend(Denial::ALL.into_iter().flat_map(|denial| denied(denial, variant, keys)));
    for keys in keys.iter().copied() {
        for direction in Direction::ALL {
            chains.extend([judge_ports(keys, direction, variant), judge(keys, direction, variant)]);
        }
        for family in Family::ALL {
            for direction in Direction::ALL {
                chains.push(isolated(keys, direction, family));
            }
            chains.extend([forwarded(keys, family, variant), to_node(keys, family)]);
        }
    }
    chains
}

/// The fingerprint of everything that is fixed. A table with another one is replaced.
pub(crate) fn layout_fingerprint(chains: &[PolicyChain]) -> u64 {
    let chains: String = chains.iter().map(Chain::text).collect();
    let sets: String = SetId::all().map(|set| format!("{set} {}\n", set_type(set).text)).collect();
    fingerprint(&(chains + &sets))
}

fn chain(name: impl Into<String>, rules: Vec<PolicyRule>) -> PolicyChain {
    Chain { name: name.into(), hook: None, rules }
}

fn goto(chain: &str) -> PolicyExpression {
    Expression::End(Verdict::Goto(chain.to_owned()))
}

/// Back to the chain that asked, with the register clear.
fn allowed() -> PolicyChain {
    chain(ALLOWED, vec![Rule::new("meta priority set none", [Expression::ClearPriority])])
}

/// What is forwarded from pod to pod: both ends are asked, the one that opens first.
fn forwarded(keys: Keys, family: Family, variant: Variant) -> PolicyChain {
    let (source, destination) = (keys.source(family), keys.destination(family));
    let mut itself = load(keys, true, family);
    itself.push(keys.load_destination(family, after_address(family)));
    itself.extend([within(SetId::Itself(family)), Expression::End(Verdict::Accept)]);
    // What a pod sends to the machine itself comes here only as an answer of a live connection.
    let own = |source| {
        let mut own = load(keys, source, family);
        own.extend([within(SetId::Own(family)), Expression::End(Verdict::Accept)]);
        own
    };
    let jump = |direction, local: &str| {
        let set = SetId::Isolated(direction, family);
        let name = name_of(keys, direction, family);
        let mut expressions = load(keys, direction == Direction::Egress, family);
        expressions.extend(set_from(set));
        expressions.push(Expression::End(Verdict::Jump(name.clone())));
        Rule::new(format!("meta priority set {local} map @{set} jump {name}"), expressions)
    };
    let mut rules = vec![
        Rule::new(format!("{source} . {destination} @{} accept", SetId::Itself(family)), itself),
        Rule::new(format!("{source} @{} accept", SetId::Own(family)), own(true)),
        Rule::new(format!("{destination} @{} accept", SetId::Own(family)), own(false)),
    ];
    if variant.closed {
        let (networks, known) = (SetId::PodNetworks(family), SetId::Known(family));
        for (is_source, text) in [(true, &source), (false, &destination)] {
            let mut unknown = load(keys, is_source, family);
            unknown.push(within(networks));
            unknown.extend(load(keys, is_source, family));
            unknown.push(Expression::In { set: known, key: Register(0), inverted: true });
            unknown.push(goto(&Denial::Unknown.chain()));
            let to = Denial::Unknown.chain();
            let text = format!("{text} @{networks} {text} != @{known} goto {to}");
            rules.push(Rule::new(text, unknown));
        }
    }
    rules.extend([jump(Direction::Egress, &source), jump(Direction::Ingress, &destination)]);
    chain(format!("{}forwarded_{}", keys.prefix(), suffix(family)), rules)
}

/// What pods send to this machine: only ClusterNetworkPolicies forbid any of it. The machine's
/// addresses are peers like others then.
fn to_node(keys: Keys, family: Family) -> PolicyChain {
    let (set, egress) = (SetId::ToNode(family), name_of(keys, Direction::Egress, family));
    let text = format!("{} @{set} jump {egress}", keys.source(family));
    let mut expressions = load(keys, true, family);
    expressions.extend([within(set), Expression::End(Verdict::Jump(egress))]);
    let name = format!("{}to_node_{}", keys.prefix(), suffix(family));
    chain(name, vec![Rule::new(text, expressions)])
}

/// The same for connections that have begun.
fn live_to_node(family: Family) -> PolicyChain {
    let (watched, again) = (SetId::Watched(family), format!("to_node_{}", suffix(family)));
    let text = format!("{} @{watched} goto {again}", Keys::Connection.source(family));
    let mut expressions = load(Keys::Connection, true, family);
    expressions.extend([within(watched), goto(&again)]);
    chain(format!("live_to_node_{}", suffix(family)), vec![Rule::new(text, expressions)])
}

/// Packets of connections that have begun: only those of pods from whom policy has taken something
/// are judged again.
fn live(family: Family) -> PolicyChain {
    let watched = SetId::Watched(family);
    let again = format!("forwarded_{}", suffix(family));
    let rule = |source: bool| {
        let keys = Keys::Connection;
        let text = if source { keys.source(family) } else { keys.destination(family) };
        let mut expressions = load(keys, source, family);
        expressions.extend([within(watched), goto(&again)]);
        Rule::new(format!("{text} @{watched} goto {again}"), expressions)
    };
    chain(format!("live_{}", suffix(family)), vec![rule(true), rule(false)])
}

fn postrouting() -> PolicyChain {
    let hook = Hook {
        kind: "filter",
        name: "postrouting",
        number: 4,
        priority: PRIORITY,
        priority_text: "srcnat - 10",
    };
    Chain {
        name: hook.name.to_owned(),
        hook: Some(hook),
        rules: dispatch("live", "forwarded", OWN),
    }
}

fn input() -> PolicyChain {
    let hook = Hook {
        kind: "filter",
        name: "input",
        number: 1,
        priority: INPUT_PRIORITY,
        priority_text: "110",
    };
    let rules = dispatch("live_to_node", "to_node", OWN);
    Chain { name: hook.name.to_owned(), hook: Some(hook), rules }
}

/// What this machine sends is not judged.
const OWN: Option<(&str, PolicyExpression)> =
    Some(("fib saddr type local accept", Expression::SourceIsLocal));

/// The rules of a base chain: where packets of connections that have begun go, and where others; `own` passes.
fn dispatch(live: &str, new: &str, own: Option<(&str, PolicyExpression)>) -> Vec<PolicyRule> {
    let mut rules = Vec::new();
    let mut by_state = |text: &str, state: Option<u32>, name: &str, family: Family| {
        let nfproto = if family == Family::V4 { "ipv4" } else { "ipv6" };
        let to = format!("{name}_{}", suffix(family));
        let text = format!("{text}meta nfproto {nfproto} goto {to}");
        let mut expressions: Vec<_> = state.map(Expression::StateIs).into_iter().collect();
        expressions.extend([Expression::FamilyIs(family), goto(&to)]);
        rules.push(Rule::new(text, expressions));
    };
    for family in Family::ALL {
        by_state("ct state established ", Some(ESTABLISHED), live, family);
    }
    for family in Family::ALL {
        by_state("ct state new ", Some(NEW), new, family);
    }
    let accept = || Expression::End(Verdict::Accept);
    let mut pass = vec![
        // Errors about connections, path MTU discovery among them.
        ("ct state related accept", Expression::StateIs(RELATED)),
        // What conntrack does not know is judged packet by packet, by its header: an answer looks
        // like a question then, so of TCP only what opens a connection is.
        ("icmpv6 type 133-137 accept", Expression::NeighbourDiscovery),
        ("tcp flags != syn / syn,ack accept", Expression::NotFirstOfTcp),
    ];
    if let Some(own) = own {
        pass.insert(2, own);
    }
    let pass = pass.into_iter().map(|(text, condition)| Rule::new(text, [condition, accept()]));
    rules.extend(pass);
    for family in Family::ALL {
        let nfproto = if family == Family::V4 { "ipv4" } else { "ipv6" };
        let to = format!("untracked_{new}_{}", suffix(family));
        let text = format!("meta nfproto {nfproto} goto {to}");
        rules.push(Rule::new(text, [Expression::FamilyIs(family), goto(&to)]));
    }
    rules
}

const fn after_address(family: Family) -> Register {
    match family {
        Family::V4 => Register(1),
        Family::V6 => Register(4),
    }
}

const fn ip(family: Family) -> &'static str {
    match family {
        Family::V4 => "ip",
        Family::V6 => "ip6",
    }
}
