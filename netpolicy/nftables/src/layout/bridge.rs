//! The table for what is switched: the same decisions, at the hook that only packets between two ports of a bridge pass.
//!
//! What a pod sends to its node, or through it, is routed, and does not pass here. What is not IP (ARP) meets no rule.

use shunt_model::address::Family;
use shunt_nftables::codec::{Chain, Expression, Hook, Rule, Verdict};

use super::keys::Keys;
use super::{PolicyChain, PolicyRule, Switched, Variant, dispatch, judging, live, suffix};

/// `NF_BR_FORWARD` and `NF_BR_PRI_FILTER_BRIDGED`: after conntrack, which is at prerouting.
const FORWARD: Hook =
    Hook { kind: "filter", name: "forward", number: 2, priority: -200, priority_text: "filter" };

/// All chains, each after those that it goes to.
pub(super) fn chains(variant: Variant, switched: Switched) -> Vec<PolicyChain> {
    let (mut chains, rules) = match switched {
        Switched::Tracked => {
            let mut chains = judging(variant, &Keys::ALL);
            chains.extend(Family::ALL.map(live));
            (chains, dispatch("live", "forwarded", None))
        }
        Switched::FirstOfTcp => {
            (judging(variant, &[Keys::Header]), Family::ALL.map(first_of_tcp).into())
        }
    };
    chains.push(Chain { name: FORWARD.name.to_owned(), hook: Some(FORWARD), rules });
    for rule in chains.iter_mut().flat_map(|chain| &mut chain.rules) {
        on_bridge(rule);
    }
    chains
}

fn first_of_tcp(family: Family) -> PolicyRule {
    let nfproto = if family == Family::V4 { "ipv4" } else { "ipv6" };
    let to = format!("untracked_forwarded_{}", suffix(family));
    let text = format!("meta nfproto {nfproto} tcp flags syn / syn,ack goto {to}");
    let end = Expression::End(Verdict::Goto(to));
    Rule::new(text, [Expression::FamilyIs(family), Expression::FirstOfTcp, end])
}

/// At hooks of a bridge `meta nfproto` is the bridge's.
fn on_bridge(rule: &mut PolicyRule) {
    for expression in &mut rule.expressions {
        if let Expression::FamilyIs(family) = *expression {
            *expression = Expression::SwitchedFamilyIs(family);
        }
    }
    let text = rule.text.replace("meta nfproto ipv4", "meta protocol ip");
    rule.text = text.replace("meta nfproto ipv6", "meta protocol ip6");
}
