//! The fixed part of the table: chains and rules. They never depend on the cluster.

mod ipvs;
mod pools;

use shunt_model::address::Family;
use shunt_model::balancing::Method;

pub(crate) use self::pools::pool;
use crate::expression::{Expression, Register, Rejection, Verdict};
use crate::forwarding::Forwarding;
use crate::name::{self, SetId, SetKind};
use crate::pool::{Draw, PoolChain};
use crate::rule::{Chain, Hook, Rule, fingerprint};

/// Translation of destinations, as kube-proxy and the CNI plugins do it (`NF_IP_PRI_NAT_DST`).
const DESTINATIONS: i32 = -100;
/// Translation of sources (`NF_IP_PRI_NAT_SRC`).
const SOURCES: i32 = 100;

/// The fixed chains, each after those that it goes to.
pub(crate) fn chains(forwarding: Forwarding) -> Vec<Chain> {
    let by_ipvs = !forwarding.translates();
    let local = forwarding.has_local_addresses();
    let mut chains = vec![refuse()];
    if by_ipvs {
        chains.push(ipvs::leave());
        chains.extend(Family::ALL.into_iter().flat_map(ipvs::leave_outsiders));
    }
    for family in Family::ALL {
        chains.push(guard(family));
        let mut services = services(family);
        let mut sources = sources(family);
        if local {
            // After the ClusterIPs, before NodePorts.
            services.rules.insert(2, ipvs::undefined(family));
            sources.rules.insert(0, ipvs::own_source(family));
        }
        chains.extend([services, sources]);
    }
    for (name, number, priority_text) in [("prerouting", 0, "dstnat"), ("output", 3, "-100")] {
        let condition = local.then_some(Condition::New);
        let mut rules = if name == "prerouting" { forged() } else { Vec::new() };
        let by_family = |family| dispatch(family, name::services(family), condition);
        rules.extend(Family::ALL.map(by_family));
        let hook = Hook { kind: "nat", name, number, priority: DESTINATIONS, priority_text };
        chains.push(base(hook, rules));
    }
    let mut rules = Vec::from(
        Family::ALL
            .map(|family| dispatch(family, name::sources(family), Some(Condition::Translated))),
    );
    if by_ipvs {
        rules.extend(Family::ALL.into_iter().flat_map(ipvs::dispatch));
    }
    let hook = Hook {
        kind: "nat",
        name: "postrouting",
        number: 4,
        priority: SOURCES,
        priority_text: "srcnat",
    };
    chains.push(base(hook, rules));
    chains
}

/// The fingerprint of everything that is fixed. A table with another one is replaced.
pub(crate) fn layout_fingerprint(forwarding: Forwarding) -> u64 {
    let mut text = String::new();
    let pools = PoolChain::stems().flat_map(|stem| {
        let methods = [Method::Random, Method::HashAddress, Method::HashConnection];
        let draws = methods
            .into_iter()
            .flat_map(|method| [None, Some(1)].map(|affinity| Draw { slots: 4, method, affinity }));
        let chains = draws.map(move |draw| PoolChain { draw, ..stem });
        chains.flat_map(PoolChain::with_remember).map(pool)
    });
    for chain in chains(forwarding).into_iter().chain(pools) {
        text.push_str(&chain.name);
        if let Some(hook) = chain.hook {
            text.push_str(&format!(" {} {}", hook.name, hook.priority));
        }
        for rule in chain.rules {
            text.push('\n');
            text.push_str(&rule.text);
        }
    }
    for set in SetId::all() {
        text.push_str(&format!("\n{set} {:?}", crate::declaration::set_type(set).text));
    }
    fingerprint(&text)
}

const SERVICE_PROTOCOLS: &str = "meta l4proto { tcp, udp, sctp }";

fn base(hook: Hook, rules: Vec<Rule>) -> Chain {
    Chain { name: hook.name.to_owned(), hook: Some(hook), rules }
}

/// Loopback addresses never come over a wire. The kernel sees to that unless `route_localnet` is
/// set, which NodePorts on 127.0.0.1 need: then nobody else may reach what listens there
/// (CVE-2020-8558), nor seem to be the machine itself.
fn forged() -> Vec<Rule> {
    let addresses =
        [("daddr", Expression::DestinationIsLoopback), ("saddr", Expression::SourceIsLoopback)];
    let rule = |(which, is_loopback)| {
        Rule::new(
            format!("ip {which} 127.0.0.0/8 iif != \"lo\" counter packets 0 bytes 0 drop"),
            [
                Expression::FamilyIs(Family::V4),
                is_loopback,
                Expression::InputIsNotLoopback,
                Expression::Counter,
                Expression::End(Verdict::Drop),
            ],
        )
    };
    addresses.map(rule).into()
}

/// Whose first packets a chain is for.
#[derive(Clone, Copy)]
enum Condition {
    /// Connections whose destination was translated.
    Translated,
    /// Connections from their client on. Where addresses of frontends are this machine's, a reset
    /// that refuses the node itself goes to one of them too, and must not be refused in turn.
    New,
}

fn dispatch(family: Family, chain: String, condition: Option<Condition>) -> Rule {
    /// `NF_CT_STATE_BIT(IP_CT_NEW)`
    const NEW: u32 = 8;
    let (prefix, condition) = match condition {
        None => ("", None),
        Some(Condition::Translated) => ("ct status dnat ", Some(Expression::DestinationTranslated)),
        Some(Condition::New) => ("ct state new ", Some(Expression::StateIs(NEW))),
    };
    let nfproto = if family == Family::V4 { "ipv4" } else { "ipv6" };
    let text = format!("{prefix}meta nfproto {nfproto} goto {chain}");
    let mut expressions: Vec<_> = condition.into_iter().collect();
    expressions.push(Expression::FamilyIs(family));
    expressions.push(Expression::End(Verdict::Goto(chain)));
    Rule::new(text, expressions)
}

fn refuse() -> Chain {
    let tcp = [Expression::ProtocolIs(6), Expression::Reject(Rejection::TcpReset)];
    let rules = vec![
        Rule::new("meta l4proto tcp reject with tcp reset", tcp),
        // nft prints "reject with icmpx type port-unreachable" in this short form.
        Rule::new("reject", [Expression::Reject(Rejection::PortUnreachable)]),
    ];
    Chain { name: name::REFUSE.to_owned(), hook: None, rules }
}

/// Lets in whom the source ranges of a Service allow.
fn guard(family: Family) -> Chain {
    let ip = ip(family);
    let key = Register(0);
    let sources = SetId::new(SetKind::AllowedSources, family);
    let frontends = SetId::new(SetKind::AllowedFrontends, family);
    let mut expressions = vec![Expression::FamilyIs(family)];
    expressions.extend(load_frontend(family));
    expressions.push(Expression::LoadSource(family, after_frontend(family)));
    expressions.push(Expression::In { set: sources, key, inverted: false });
    expressions.extend(load_frontend(family));
    expressions.push(Expression::VerdictMap { set: frontends, key });
    let frontend = format!("{ip} daddr . meta l4proto . th dport");
    let text = format!("{frontend} . {ip} saddr @{sources} {frontend} vmap @{frontends}");
    let rules = vec![Rule::new(text, expressions), lost()];
    Chain { name: name::guard(family), hook: None, rules }
}

/// The end of a chain that should not be reached, or only by those who are to be dropped.
fn lost() -> Rule {
    let drop = [Expression::Counter, Expression::End(Verdict::Drop)];
    Rule::new("counter packets 0 bytes 0 drop", drop)
}

/// From a new connection's destination to its frontend: the exact address first, then what is
/// undefined on a ClusterIP, then NodePorts, then what no Service has.
fn services(family: Family) -> Chain {
    let ip = ip(family);
    let set = |kind| SetId::new(kind, family);
    let key = Register(0);

    let frontends = set(SetKind::Frontends);
    let mut lookup = vec![Expression::FamilyIs(family)];
    lookup.extend(load_frontend(family));
    lookup.push(Expression::VerdictMap { set: frontends, key });

    let cluster_ips = set(SetKind::ClusterIps);
    let undefined = [
        Expression::FamilyIs(family),
        Expression::LoadDestination(family, key),
        Expression::In { set: cluster_ips, key, inverted: false },
        Expression::End(Verdict::Goto(name::REFUSE.to_owned())),
    ];

    let (addresses, ports) = (set(SetKind::NodeAddresses), set(SetKind::NodePorts));
    let node_ports = [
        Expression::FamilyIs(family),
        Expression::LoadDestination(family, key),
        Expression::In { set: addresses, key, inverted: false },
        Expression::LoadProtocol(Register(0)),
        Expression::LoadPort(Register(1)),
        Expression::VerdictMap { set: ports, key },
    ];
    let rules = vec![
        Rule::new(format!("{ip} daddr . meta l4proto . th dport vmap @{frontends}"), lookup),
        Rule::new(format!("{ip} daddr @{cluster_ips} goto {}", name::REFUSE), undefined),
        Rule::new(
            format!("{ip} daddr @{addresses} meta l4proto . th dport vmap @{ports}"),
            node_ports,
        ),
        unallocated(family),
    ];
    Chain { name: name::services(family), hook: None, rules }
}

/// What could be a ClusterIP and is none belongs to no one, and must not wander off to a default
/// route. An address that the machine has by itself keeps what it has.
fn unallocated(family: Family) -> Rule {
    let key = Register(0);
    let networks = SetId::new(SetKind::ServiceNetworks, family);
    let ip = ip(family);
    let text =
        format!("{ip} daddr @{networks} fib daddr type != local counter packets 0 bytes 0 drop");
    let expressions = [
        Expression::FamilyIs(family),
        Expression::LoadDestination(family, key),
        Expression::In { set: networks, key, inverted: false },
        Expression::DestinationIsForeign,
        Expression::Counter,
        Expression::End(Verdict::Drop),
    ];
    Rule::new(text, expressions)
}

/// Whose source address is hidden, decided by the connection's original destination: no packet
/// mark is set or read, so none of a CNI's is disturbed.
fn sources(family: Family) -> Chain {
    let ip = ip(family);
    let set = |kind| SetId::new(kind, family);
    let key = Register(0);
    let within = |set| Expression::In { set, key, inverted: false };
    let original = Expression::LoadOriginalDestination(family, key);

    // What session affinity has left in the packet.
    let mut rules = vec![Rule::new(
        "meta priority & 8000:0 == 8000:0 meta priority set none",
        [Expression::PriorityIsId, Expression::ClearPriority],
    )];
    // The node's own connections carry an address of the machine.
    let own = [Expression::SourceIsLocal];
    let whose = [
        (SetKind::Masquerade, SetKind::MasqueradeNodePorts, "", &[][..]),
        (SetKind::MasqueradeOwn, SetKind::MasqueradeOwnNodePorts, " fib saddr type local", &own),
    ];
    for (frontends, node_ports, text, condition) in whose {
        let (frontends, node_ports) = (set(frontends), set(node_ports));
        rules.push(source_rule(
            format!("{SERVICE_PROTOCOLS} ct original {ip} daddr . meta l4proto . ct original proto-dst @{frontends}{text}"),
            [
                &[
                    Expression::ServiceProtocol,
                    original.clone(),
                    Expression::LoadProtocol(after_address(family)),
                    Expression::LoadOriginalPort(Register(after_address(family).0 + 1)),
                    within(frontends),
                ],
                condition,
            ],
        ));
        let addresses = set(SetKind::NodeAddresses);
        rules.push(source_rule(
            format!("ct original {ip} daddr @{addresses} {SERVICE_PROTOCOLS} meta l4proto . ct original proto-dst @{node_ports}{text}"),
            [
                &[
                    original.clone(),
                    within(addresses),
                    Expression::ServiceProtocol,
                    Expression::LoadProtocol(Register(0)),
                    Expression::LoadOriginalPort(Register(1)),
                    within(node_ports),
                ],
                condition,
            ],
        ));
    }
    let hairpins = set(SetKind::Hairpins);
    let hairpin = [
        Expression::FamilyIs(family),
        Expression::LoadSource(family, Register(0)),
        Expression::LoadDestination(family, after_address(family)),
        within(hairpins),
    ];
    rules.push(source_rule(format!("{ip} saddr . {ip} daddr @{hairpins}"), [&hairpin, &[]]));
    // The hosts of such a link reach one another past this machine: a reply would not be translated back.
    let links = set(SetKind::BlindLinks);
    let goes_back = [
        Expression::FamilyIs(family),
        Expression::LoadInputName(Register(0)),
        Expression::LoadOutputName(Register(4)),
        Expression::LoadSource(family, Register(8)),
        within(links),
    ];
    let text = format!("iifname . oifname . {ip} saddr @{links}");
    rules.push(source_rule(text, [&goes_back, &[]]));
    let (cluster_ips, local) = (set(SetKind::ClusterIps), set(SetKind::LocalSources));
    let interfaces = set(SetKind::LocalInterfaces);
    // While another proxy's IPVS, or ours, still has the addresses on its device the node reaches
    // them from themselves: no one elsewhere could answer that.
    let itself =
        [Expression::FamilyIs(family), Expression::LoadSource(family, key), within(cluster_ips)];
    rules.push(source_rule(format!("{ip} saddr @{cluster_ips}"), [&itself, &[]]));
    rules.push(from_a_local_bridge(interfaces));
    let outsiders = [
        original,
        within(cluster_ips),
        Expression::FamilyIs(family),
        Expression::LoadSource(family, key),
        Expression::In { set: local, key, inverted: true },
        Expression::LoadInputName(key),
        Expression::In { set: interfaces, key, inverted: true },
    ];
    let text = format!(
        "ct original {ip} daddr @{cluster_ips} {ip} saddr != @{local} iifname != @{interfaces}"
    );
    rules.push(source_rule(text, [&outsiders, &[]]));
    Chain { name: name::sources(family), hook: None, rules }
}

/// What a local bridge has switched from one of its ports to another has come in by no interface here, and leaves by the
/// one that it came in by (`br_nf_post_routing`, net/bridge/br_netfilter_hooks.c). What this machine itself sends there has
/// an address of the machine anyway.
fn from_a_local_bridge(interfaces: SetId) -> Rule {
    let key = Register(0);
    let expressions = vec![
        Expression::InputIsNone,
        Expression::LoadOutputName(key),
        Expression::In { set: interfaces, key, inverted: false },
        Expression::End(Verdict::Accept),
    ];
    Rule::new(format!("iif 0 oifname @{interfaces} accept"), expressions)
}

/// A rule that masquerades under a condition.
fn source_rule(text: String, conditions: [&[Expression]; 2]) -> Rule {
    let mut expressions = conditions.concat();
    expressions.push(Expression::Masquerade);
    Rule::new(format!("{text} masquerade fully-random"), expressions)
}

fn load_frontend(family: Family) -> Vec<Expression> {
    let next = after_address(family).0;
    vec![
        Expression::LoadDestination(family, Register(0)),
        Expression::LoadProtocol(Register(next)),
        Expression::LoadPort(Register(next + 1)),
    ]
}

/// The length of an address in bytes.
const fn width(family: Family) -> u32 {
    match family {
        Family::V4 => 4,
        Family::V6 => 16,
    }
}

/// The register after an address in register 0.
const fn after_address(family: Family) -> Register {
    Register(width(family) / 4)
}

/// The register after address, protocol and port.
const fn after_frontend(family: Family) -> Register {
    Register(after_address(family).0 + 2)
}

const fn ip(family: Family) -> &'static str {
    match family {
        Family::V4 => "ip",
        Family::V6 => "ip6",
    }
}
