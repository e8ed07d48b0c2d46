//! Other service proxies on this machine: whether one runs, and what one has left.
//!
//! A Service must have one proxy. While another one runs, shunt writes nothing; what one has left
//! is taken away once our own rules are installed, so that no connection meets none. One that starts
//! after that is told of.

mod beside;
mod running;
mod takeover;
mod virtual_servers;

use shunt_nftables::ruleset::{Removal, Ruleset, TableName};

pub use self::running::{running, wait_until_alone};
pub(crate) use self::takeover::rest;
pub use self::takeover::{cleanup, take_over};

/// Chains of kube-proxy's in iptables and IPVS mode (`pkg/proxy/iptables`, `pkg/proxy/ipvs`).
/// KUBE-FIREWALL, KUBE-KUBELET-CANARY and the like are the kubelet's, and stay.
const CHAINS: [&str; 13] = [
    "KUBE-SERVICES",
    "KUBE-EXTERNAL-SERVICES",
    "KUBE-NODEPORTS",
    "KUBE-POSTROUTING",
    "KUBE-MARK-MASQ",
    "KUBE-FORWARD",
    "KUBE-PROXY-FIREWALL",
    "KUBE-PROXY-CANARY",
    "KUBE-NODE-PORT",
    "KUBE-LOAD-BALANCER",
    "KUBE-SOURCE-RANGES-FIREWALL",
    "KUBE-IPVS-FILTER",
    "KUBE-IPVS-OUT-FILTER",
];
/// The beginnings of its chains for one ServicePort or endpoint.
const PREFIXES: [&str; 6] =
    ["KUBE-SVC-", "KUBE-SVL-", "KUBE-SEP-", "KUBE-EXT-", "KUBE-FW-", "KUBE-XLB-"];
/// Its table in nftables mode.
const TABLE: &str = "kube-proxy";
/// The tables of iptables.
const IPTABLES: [&str; 3] = ["filter", "nat", "mangle"];
/// `NFPROTO_IPV4`, `NFPROTO_IPV6`.
const FAMILIES: [u8; 2] = [2, 10];

/// Everything in nf_tables that kube-proxy has made.
#[must_use]
pub fn leftovers(ruleset: &Ruleset) -> Removal {
    let of_family = |table: &TableName| FAMILIES.contains(&table.family);
    let tables = ruleset.tables.iter().map(|table| &table.name);
    let chains = ruleset.chains.iter().filter(|chain| {
        of_family(&chain.table)
            && IPTABLES.contains(&chain.table.name.as_str())
            && chain.base.is_none()
            && is_kube_proxys(&chain.name)
    });
    Removal {
        tables: tables.filter(|table| of_family(table) && table.name == TABLE).cloned().collect(),
        chains: chains.map(|chain| (chain.table.clone(), chain.name.clone())).collect(),
    }
}

fn is_kube_proxys(chain: &str) -> bool {
    CHAINS.contains(&chain) || PREFIXES.iter().any(|prefix| chain.starts_with(prefix))
}

#[cfg(test)]
mod tests {
    use shunt_nftables::ruleset::{Base, Chain, Table};

    use super::*;

    fn name(family: u8, name: &str) -> TableName {
        TableName { family, name: name.into() }
    }

    fn chain(table: &TableName, name: &str) -> Chain {
        Chain { table: table.clone(), name: name.into(), base: None }
    }

    #[test]
    fn only_what_is_kube_proxys_is_taken() {
        let (nat, other) = (name(2, "nat"), name(2, "cni"));
        let base = Base { hook: 0, priority: -100, kind: "nat".into(), drops: false };
        let ruleset = Ruleset {
            tables: [nat.clone(), name(10, "kube-proxy"), name(1, "kube-proxy")]
                .map(|name| Table { name, comment: String::new(), owner: 0 })
                .to_vec(),
            chains: vec![
                Chain { base: Some(base), ..chain(&nat, "PREROUTING") },
                chain(&nat, "KUBE-SERVICES"),
                chain(&nat, "KUBE-SVC-ABC"),
                chain(&nat, "KUBE-KUBELET-CANARY"),
                chain(&nat, "KUBE-FIREWALL"),
                chain(&nat, "CNI-HOSTPORT-DNAT"),
                chain(&other, "KUBE-SERVICES"),
            ],
        };
        let removal = leftovers(&ruleset);
        assert_eq!(removal.tables, [name(10, "kube-proxy")]);
        let chains: Vec<_> = removal.chains.iter().map(|(_, name)| name.as_str()).collect();
        assert_eq!(chains, ["KUBE-SERVICES", "KUBE-SVC-ABC"]);
    }
}
