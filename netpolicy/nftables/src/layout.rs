//! The fixed part of the tables: sets, chains and rules. They never depend on the cluster.
//!
//! `meta priority` is the one register: the atom of the peer, then the row. A rule whose lookup
//! finds nothing ends there, so what follows a lookup in a rule is for those that are found.

mod bridge;

use shunt_model::address::Family;
use shunt_netpolicy::object::Direction;
use shunt_nftables::codec::{
    Chain, Expression, Hook, Register, Rule, SetType, Table, Verdict, address_type, concat_map,
    concat_set, concatenated, datatype, fingerprint, number_set, plain_map, plain_set,
};

use crate::drop_log::GROUP;
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
/// How often a second each kind of drop is logged, and how many at once.
const LOG_RATE: u32 = 10;
const LOG_BURST: u32 = 20;
/// How much of a packet is logged, in bytes: the headers.
const LOG_LENGTH: u32 = 96;

/// What an operator chooses of the fixed part.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Variant {
    /// Tell of drops by `NFLOG`, at a limited rate.
    pub log: bool,
    /// Count and log what would be dropped, and drop nothing.
    pub audit: bool,
    /// Drop what goes to or comes from addresses of this node's pods that are not known.
    pub closed: bool,
    /// Count by policy what is accepted and denied: the elements of rows have counters.
    pub counting: bool,
    /// There is a second table, for what is switched on bridges and passes no hook of IP.
    pub switched: Option<Switched>,
}

/// How packets are judged that are switched between two ports of a bridge.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Switched {
    /// The first of each TCP connection, by its header: the kernel tracks no connections there.
    FirstOfTcp,
    /// By the connection, as what is routed (`nf_conntrack_bridge`).
    Tracked,
}

impl Variant {
    /// All of them.
    pub fn all() -> impl Iterator<Item = Self> {
        let chosen = |switched| {
            (0..16u8).map(move |bits| Self {
                log: bits & 1 != 0,
                audit: bits & 2 != 0,
                closed: bits & 4 != 0,
                counting: bits & 8 != 0,
                switched,
            })
        };
        [None, Some(Switched::Tracked), Some(Switched::FirstOfTcp)].into_iter().flat_map(chosen)
    }
}

/// What is not allowed, and goes to a chain of its own.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Denial {
    /// By the policies of a pod for one direction.
    Policy(Direction),
    /// The pod is not known (yet).
    Unknown,
}

impl Denial {
    /// All of them.
    pub const ALL: [Self; 3] =
        [Self::Policy(Direction::Ingress), Self::Policy(Direction::Egress), Self::Unknown];

    /// In one word.
    #[must_use]
    pub const fn word(self) -> &'static str {
        match self {
            Self::Policy(direction) => direction.word(),
            Self::Unknown => "unknown",
        }
    }

    /// What the log's messages begin with. `audited`: the packet passes all the same.
    #[must_use]
    pub const fn prefix(self, audited: bool) -> &'static str {
        match (self, audited) {
            (Self::Policy(Direction::Ingress), false) => "shunt policy ingress",
            (Self::Policy(Direction::Egress), false) => "shunt policy egress",
            (Self::Unknown, false) => "shunt policy unknown",
            (Self::Policy(Direction::Ingress), true) => "shunt audit ingress",
            (Self::Policy(Direction::Egress), true) => "shunt audit egress",
            (Self::Unknown, true) => "shunt audit unknown",
        }
    }

    /// The chain that such packets end in.
    #[must_use]
    pub fn chain(self) -> String {
        format!("denied_{}", self.word())
    }
}

/// By what a packet's ends are told.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Keys {
    /// By the connection: who opened it and who answers, after the destination was translated and
    /// whatever becomes of the source. The same in both directions.
    Connection,
    /// By the packet's header: conntrack does not know it.
    Header,
}

impl Keys {
    const ALL: [Self; 2] = [Self::Connection, Self::Header];

    const fn prefix(self) -> &'static str {
        match self {
            Self::Connection => "",
            Self::Header => "untracked_",
        }
    }

    fn source(self, family: Family) -> String {
        match self {
            Self::Connection => format!("ct original {} saddr", ip(family)),
            Self::Header => format!("{} saddr", ip(family)),
        }
    }

    fn destination(self, family: Family) -> String {
        match self {
            Self::Connection => format!("ct reply {} saddr", ip(family)),
            Self::Header => format!("{} daddr", ip(family)),
        }
    }

    const fn port(self) -> &'static str {
        match self {
            Self::Connection => "ct reply proto-src",
            Self::Header => "th dport",
        }
    }

    /// What a rule begins with that loads addresses of a family: nft prints an address from a
    /// header as such only after this check.
    fn check(self, family: Family) -> Vec<PolicyExpression> {
        match self {
            Self::Connection => Vec::new(),
            Self::Header => vec![Expression::FamilyIs(family)],
        }
    }

    const fn load_source(self, family: Family, register: Register) -> PolicyExpression {
        match self {
            Self::Connection => Expression::LoadOriginalSource(family, register),
            Self::Header => Expression::LoadSource(family, register),
        }
    }

    const fn load_destination(self, family: Family, register: Register) -> PolicyExpression {
        match self {
            Self::Connection => Expression::LoadReplySource(family, register),
            Self::Header => Expression::LoadDestination(family, register),
        }
    }

    const fn load_port(self, register: Register) -> PolicyExpression {
        match self {
            Self::Connection => Expression::LoadReplyPort(register),
            Self::Header => Expression::LoadPort(register),
        }
    }
}

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

/// How each set is declared.
pub(crate) fn set_type(set: SetId) -> SetType {
    use datatype::{CLASSID, INET_PROTO, INET_SERVICE};
    let row = (CLASSID, "classid", 4);
    let address = |family| address_type(family);
    match set {
        SetId::Protocols | SetId::DeniedProtocols => concat(&[row, (INET_PROTO, "inet_proto", 4)]),
        SetId::Ports | SetId::Ranges | SetId::DeniedPorts | SetId::DeniedRanges => {
            let parts = [row, (INET_PROTO, "inet_proto", 4), (INET_SERVICE, "inet_service", 4)];
            let mut described = concat(&parts);
            if set.has_port_ranges() {
                described.interval = true;
                described.fields = vec![4, 1, 2];
            }
            described
        }
        SetId::Others | SetId::DeniedOthers => {
            SetType { userdata: number_set(), ..plain((CLASSID, "classid", 4)) }
        }
        SetId::Named(family) => SetType { timeouts: true, ..map(plain(address(family))) },
        SetId::Learnt(family) => SetType { timeouts: true, ..concat(&[address(family), row]) },
        SetId::Peers(family) | SetId::Isolated(_, family) => map(plain(address(family))),
        SetId::Networks(family) => SetType { interval: true, ..map(plain(address(family))) },
        SetId::Rows(_, family) => map(concat(&[address(family), row])),
        SetId::Itself(family) => concat(&[address(family), address(family)]),
        SetId::Own(family)
        | SetId::ToNode(family)
        | SetId::Watched(family)
        | SetId::Audited(family)
        | SetId::Known(family) => plain(address(family)),
        SetId::PodNetworks(family) => SetType { interval: true, ..plain(address(family)) },
    }
}

/// Whether the elements of a set are ranges of addresses, which are replaced all at once.
pub(crate) const fn has_ranges(set: SetId) -> bool {
    matches!(set, SetId::Networks(_) | SetId::PodNetworks(_))
}

fn plain((key, name, key_length): (u32, &'static str, u32)) -> SetType {
    SetType::plain(name, key, key_length, plain_set())
}

fn concat(parts: &[(u32, &'static str, u32)]) -> SetType {
    let names: Vec<_> = parts.iter().map(|(_, name, _)| *name).collect();
    let types: Vec<_> = parts.iter().map(|(number, ..)| *number).collect();
    SetType {
        text: format!("type {}", names.join(" . ")),
        key: concatenated(&types),
        key_length: parts.iter().map(|(.., length)| length).sum(),
        userdata: concat_set(),
        ..plain(parts[0])
    }
}

/// A map of such keys to atoms or rows.
fn map(keys: SetType) -> SetType {
    let plain_key = keys.userdata == plain_set();
    SetType {
        word: "map",
        text: format!("{} : classid", keys.text),
        data: Some((datatype::CLASSID, 4)),
        userdata: if plain_key { plain_map() } else { concat_map() },
        ..keys
    }
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

/// Where a packet ends that is not allowed; in an audit it goes on.
fn denied(denial: Denial, variant: Variant, keys: &[Keys]) -> Vec<PolicyChain> {
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

/// Whether the row in the register accepts the packet.
fn judge(keys: Keys, direction: Direction, variant: Variant) -> PolicyChain {
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
fn judge_ports(keys: Keys, direction: Direction, variant: Variant) -> PolicyChain {
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
fn isolated(keys: Keys, direction: Direction, family: Family) -> PolicyChain {
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

fn name_of(keys: Keys, direction: Direction, family: Family) -> String {
    format!("{}{}_{}", keys.prefix(), direction.word(), suffix(family))
}

/// Who opens the connection, or who is reached, in the first registers.
fn load(keys: Keys, source: bool, family: Family) -> Vec<PolicyExpression> {
    let mut expressions = keys.check(family);
    expressions.push(if source {
        keys.load_source(family, Register(0))
    } else {
        keys.load_destination(family, Register(0))
    });
    expressions
}

/// The register set to what a map has for the key in the first registers.
fn set_from(set: SetId) -> [PolicyExpression; 2] {
    let key = Register(0);
    [Expression::Map { set, key, value: Register(0) }, Expression::SetPriority(Register(0))]
}

fn within(set: SetId) -> PolicyExpression {
    Expression::In { set, key: Register(0), inverted: false }
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
