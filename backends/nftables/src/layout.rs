//! The fixed part of the table: chains and rules. They never depend on the cluster.

mod ipvs;

use shunt_model::address::Family;
use shunt_model::balancing::Method;

use crate::expression::{Expression, HASH_SEED, Register, Rejection, Verdict};
use crate::forwarding::Forwarding;
use crate::name::{self, SetId, SetKind};
use crate::pool::{Clients, Draw, PoolChain};
use crate::rule::{Chain, Hook, Rule, fingerprint};

/// Translation of destinations, as kube-proxy and the CNI plugins do it (`NF_IP_PRI_NAT_DST`).
const DESTINATIONS: i32 = -100;
/// Translation of sources (`NF_IP_PRI_NAT_SRC`).
const SOURCES: i32 = 100;

/// The fixed chains, each after those that it goes to.
pub(crate) fn chains(forwarding: Forwarding) -> Vec<Chain> {
    let by_ipvs = forwarding == Forwarding::VirtualServers;
    let mut chains = vec![refuse()];
    if by_ipvs {
        chains.push(ipvs::leave());
        chains.extend(Family::ALL.into_iter().flat_map(ipvs::leave_outsiders));
    }
    for family in Family::ALL {
        chains.push(guard(family));
        let mut services = services(family);
        let mut sources = sources(family);
        if by_ipvs {
            // After the ClusterIPs, before NodePorts.
            services.rules.insert(2, ipvs::undefined(family));
            sources.rules.insert(0, ipvs::own_source(family));
        }
        chains.extend([services, sources]);
    }
    for (name, number, priority_text) in [("prerouting", 0, "dstnat"), ("output", 3, "-100")] {
        let rules = Family::ALL.map(|family| dispatch(family, name::services(family), None));
        let hook = Hook { kind: "nat", name, number, priority: DESTINATIONS, priority_text };
        chains.push(base(hook, rules.to_vec()));
    }
    let mut rules = Vec::from(Family::ALL.map(|family| {
        dispatch(family, name::sources(family), Some(Expression::DestinationTranslated))
    }));
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
    let Draw { slots, method } = chain.draw;
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
fn inside_first(chain: PoolChain) -> [Rule; 2] {
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

    let mut of_node = vec![Expression::SourceIsLocal];
    of_node.extend(loads);
    of_node.push(lookup);
    [
        Rule::new(format!("{} saddr @{pods} {key} vmap @{set}", ip(family)), of_pods),
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

/// Translates the destination to the endpoint in one of the first `slots` slots, if there is one.
fn draw(chain: PoolChain, slots: u32) -> Rule {
    let family = chain.family;
    let kind = match (chain.clients, chain.node_port) {
        (Clients::Inside, false) => SetKind::InsideEndpoints,
        (Clients::Inside, true) => SetKind::InsideNodePortEndpoints,
        (Clients::All | Clients::Outside, false) => SetKind::Endpoints,
        (Clients::All | Clients::Outside, true) => SetKind::NodePortEndpoints,
    };
    let set = SetId::new(kind, family);
    let (key, loads, slot) = frontend_of_packet(chain);
    let (address, port) = (Register(0), after_address(family));
    let mut expressions = vec![Expression::ServiceProtocol];
    if chain.node_port && chain.draw.method != Method::Random {
        // As in `frontend_of_packet`: the hash has an address in it.
        expressions.push(Expression::FamilyIs(family));
    }
    expressions.extend(loads);
    let (number, pick) = pick(chain, slots, slot);
    expressions.extend(pick);
    expressions.extend([
        Expression::Map { set, key: Register(0), value: address },
        Expression::TranslateDestination { family, address, port },
    ]);
    let text = format!("{SERVICE_PROTOCOLS} dnat {} to {key} . {number} map @{set}", ip(family),);
    Rule::new(text, expressions)
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

/// The fingerprint of everything that is fixed. A table with another one is replaced.
pub(crate) fn layout_fingerprint(forwarding: Forwarding) -> u64 {
    let mut text = String::new();
    let pools = PoolChain::stems().flat_map(|stem| {
        [Method::Random, Method::HashAddress, Method::HashConnection].map(|method| {
            let draw = Draw { slots: 4, method };
            pool(PoolChain { draw, ..stem })
        })
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

fn dispatch(family: Family, chain: String, condition: Option<Expression>) -> Rule {
    let prefix = if condition.is_some() { "ct status dnat " } else { "" };
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
/// undefined on a ClusterIP, then NodePorts.
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
    ];
    Chain { name: name::services(family), hook: None, rules }
}

/// Whose source address is hidden, decided by the connection's original destination: no packet
/// mark is set or read, so none of a CNI's is disturbed.
fn sources(family: Family) -> Chain {
    let ip = ip(family);
    let set = |kind| SetId::new(kind, family);
    let key = Register(0);
    let within = |set| Expression::In { set, key, inverted: false };
    let original = Expression::LoadOriginalDestination(family, key);

    let mut rules = Vec::new();
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
    let (cluster_ips, local) = (set(SetKind::ClusterIps), set(SetKind::LocalSources));
    let outsiders = [
        original,
        within(cluster_ips),
        Expression::FamilyIs(family),
        Expression::LoadSource(family, key),
        Expression::In { set: local, key, inverted: true },
    ];
    let text = format!("ct original {ip} daddr @{cluster_ips} {ip} saddr != @{local}");
    rules.push(source_rule(text, [&outsiders, &[]]));
    Chain { name: name::sources(family), hook: None, rules }
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
