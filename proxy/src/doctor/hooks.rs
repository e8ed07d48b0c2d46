//! Other programs' chains at the hooks that we use.

use std::collections::BTreeSet;

use shunt_nftables::name::TABLE;
use shunt_nftables::ruleset::{Chain, Ruleset, TableName};

use super::{Finding, Severity};
use crate::rivals;

/// `NF_INET_LOCAL_IN`, `NF_INET_FORWARD`, `NF_INET_LOCAL_OUT`.
const FILTERED: [u32; 3] = [1, 2, 3];
/// `NF_IP_PRI_NAT_DST`, where we choose an endpoint.
const OUR_PRIORITY: i32 = -100;
/// How the chains or tables of policy engines begin.
const POLICY: [(&str, &str); 8] = [
    ("cali-", "Calico"),
    ("KUBE-NWPLCY", "kube-router"),
    ("KUBE-POD-FW", "kube-router"),
    ("CILIUM_", "Cilium"),
    ("ANTREA-", "Antrea"),
    ("WEAVE-NPC", "Weave"),
    ("AZURE-NPM", "Azure NPM"),
    ("kube-network-policies", "kube-network-policies"),
];

/// What follows from a ruleset.
pub(super) fn findings(ruleset: &Ruleset) -> Vec<Finding> {
    let others: Vec<_> = ruleset.chains.iter().filter(|chain| !is_ours(chain)).collect();
    let mut found: Vec<_> = others.iter().filter_map(|chain| dropping(chain)).collect();
    found.extend(left_by_kube_proxy(ruleset));
    found.extend(earlier(&others));
    found.extend(policy(ruleset));
    found
}

fn is_ours(chain: &Chain) -> bool {
    chain.table.family() == "inet" && chain.table.name.starts_with(TABLE)
}

/// A base chain that drops what none of its rules allows.
fn dropping(chain: &Chain) -> Option<Finding> {
    let base = chain.base.as_ref()?;
    (base.drops && base.kind == "filter" && FILTERED.contains(&base.hook)).then(|| {
        let hook = base.hook();
        Finding::new(
            Severity::Warning,
            format!("table {}, chain {}: drops at {hook} by default", chain.table, chain.name),
            format!(
                "traffic of Services through {hook} that no rule of that table accepts is lost; \
                 what another table accepts does not count there"
            ),
            "have that firewall accept the pods' networks, and connections with `ct status dnat`",
        )
    })
}

fn left_by_kube_proxy(ruleset: &Ruleset) -> Option<Finding> {
    let left = rivals::leftovers(ruleset);
    (!left.is_empty()).then(|| {
        let tables: Vec<_> = left.tables.iter().map(ToString::to_string).collect();
        let chains = left.chains.len();
        let what = match (tables.is_empty(), chains) {
            (false, 0) => {
                format!("kube-proxy's rules of nftables mode: table {}", tables.join(", "))
            }
            (true, _) => format!("kube-proxy's rules in iptables-nft: {chains} chains"),
            (false, _) => format!(
                "kube-proxy's rules: table {}, and {chains} chains in iptables-nft",
                tables.join(", ")
            ),
        };
        Finding::new(
            Severity::Warning,
            what,
            "they send connections to endpoints of the day when kube-proxy ended",
            "start shunt, or restart it if it runs: once its own are installed it removes them",
        )
    })
}

/// Other programs that may change the destination before we do.
fn earlier(others: &[&Chain]) -> Option<Finding> {
    let first = others.iter().filter(|chain| {
        let base = chain.base.as_ref();
        base.is_some_and(|base| {
            base.kind == "nat" && matches!(base.hook, 0 | 3) && base.priority < OUR_PRIORITY
        })
    });
    let names: BTreeSet<_> =
        first.map(|chain| format!("table {}, chain {}", chain.table, chain.name)).collect();
    (!names.is_empty()).then(|| {
        Finding::new(
            Severity::Note,
            format!("other programs choose destinations before shunt: {}", list(&names)),
            "what they rewrite never reaches a Service's frontend",
            "nothing, unless a Service is not reached: then look at their rules",
        )
    })
}

/// Other programs that have the packets of one connection looked for in different zones of connection tracking.
pub(super) fn zones(found: &BTreeSet<(TableName, String)>) -> Option<Finding> {
    let names: BTreeSet<_> =
        found.iter().map(|(table, chain)| format!("table {table}, chain {chain}")).collect();
    (!names.is_empty()).then(|| {
        Finding::new(
            Severity::Warning,
            format!("some packets are put into zones of connection tracking: {}", list(&names)),
            "an answer that no such rule puts into the zone of what it answers is not translated back: whoever \
             asked a Service gets it from an address that it did not ask",
            "put only what asks into a zone (`ct original zone set`, iptables' CT --zone-orig), unless the rules \
             put what comes from clients, from pods and from this node into the same",
        )
    })
}

fn policy(ruleset: &Ruleset) -> Option<Finding> {
    let chains = ruleset.chains.iter().map(|chain| chain.name.as_str());
    let tables = ruleset.tables.iter().map(|table| table.name.name.as_str());
    let of = |name: &str| POLICY.iter().find(|(start, _)| name.starts_with(start));
    let engines: BTreeSet<_> =
        chains.chain(tables).filter_map(of).map(|(_, engine)| (*engine).to_owned()).collect();
    (!engines.is_empty()).then(|| {
        Finding::new(
            Severity::Note,
            format!("another policy engine is at work: {}", list(&engines)),
            "with policy in shunt too, a connection must be allowed by both",
            "let one of them enforce NetworkPolicies",
        )
    })
}

fn list(names: &BTreeSet<String>) -> String {
    names.iter().map(String::as_str).collect::<Vec<_>>().join("; ")
}
