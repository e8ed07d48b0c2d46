//! Where a packet ends that is not allowed.

use shunt_model::address::Family;
use shunt_netpolicy::object::Direction;
use shunt_nftables::codec::{Expression, Rule, Verdict};

use super::judge::{load, within};
use super::keys::Keys;
use super::{ALLOWED, Denial, PolicyChain, PolicyRule, UNKNOWN, Variant, chain, goto};
use crate::drop_log::GROUP;
use crate::name::SetId;

/// How often a second each kind of drop is logged, and how many at once.
const LOG_RATE: u32 = 10;
const LOG_BURST: u32 = 20;
/// How much of a packet is logged, in bytes: the headers.
const LOG_LENGTH: u32 = 96;

/// Where a packet ends that is not allowed; in an audit it goes on.
pub(super) fn denied(denial: Denial, variant: Variant, keys: &[Keys]) -> Vec<PolicyChain> {
    let mut chains = Vec::new();
    let mut rules = Vec::new();
    if let (Denial::Policy(direction), false) = (denial, variant.audit) {
        let to = match variant.log {
            true => {
                let name = format!("audited_{}", direction.word());
                let pass = Rule::new(format!("goto {ALLOWED}"), [goto(ALLOWED)]);
                chains.push(chain(name.clone(), vec![log(denial, true), pass]));
                name
            }
            false => ALLOWED.to_owned(),
        };
        let tracked = keys.contains(&Keys::Connection);
        let each = keys.iter().flat_map(|keys| Family::ALL.map(|family| (*keys, family)));
        rules.extend(each.map(|(keys, family)| audited(keys, tracked, direction, family, &to)));
    }
    if variant.log {
        rules.push(log(denial, variant.audit));
    }
    let (word, end) = match variant.audit {
        true => (format!("goto {ALLOWED}"), goto(ALLOWED)),
        false => ("drop".to_owned(), Expression::End(Verdict::Drop)),
    };
    rules.push(Rule::new(format!("counter packets 0 bytes 0 {word}"), [Expression::Counter, end]));
    chains.push(chain(denial.chain(), rules));
    chains
}

/// Tells of a packet, but not of all where there are many.
fn log(denial: Denial, audited: bool) -> PolicyRule {
    let (prefix, group, length) = (denial.prefix(audited), GROUP, LOG_LENGTH);
    let text = format!(
        "limit rate {LOG_RATE}/second burst {LOG_BURST} packets \
         log prefix \"{prefix}\" group {group} snaplen {length}"
    );
    let limit = Expression::Limit { rate: LOG_RATE, burst: LOG_BURST };
    Rule::new(text, [limit, Expression::Log { prefix, group, length }])
}

/// What is not allowed goes there if the pod's namespace is audited. `tracked`: some are known by their connections.
fn audited(
    keys: Keys,
    tracked: bool,
    direction: Direction,
    family: Family,
    to: &str,
) -> PolicyRule {
    let set = SetId::Audited(family);
    let local = match direction {
        Direction::Ingress => keys.destination(family),
        Direction::Egress => keys.source(family),
    };
    let (text, mut expressions) = match keys {
        Keys::Header if tracked => {
            ("ct state invalid,untracked ", vec![Expression::StateIs(UNKNOWN)])
        }
        Keys::Header | Keys::Connection => ("", Vec::new()),
    };
    expressions.extend(load(keys, direction == Direction::Egress, family));
    expressions.extend([within(set), goto(to)]);
    Rule::new(format!("{text}{local} @{set} goto {to}"), expressions)
}
