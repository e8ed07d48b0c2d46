//! What policy says of a connection, in words.

use std::fmt::Write as _;
use std::net::IpAddr;

use anyhow::{Context, Result, bail};
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};
use shunt_netpolicy::object::Direction;
use shunt_netpolicy::oracle::{Ruling, explain};
use shunt_netpolicy::store::Store;
use shunt_netpolicy::table::Packet;

use super::Port;
use super::ends::End;
use super::world::World;

/// What policy says of one packet.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Decision {
    pub(super) allowed: bool,
    /// It is not, and passes all the same: where it would be dropped there is an audit.
    pub(super) audited: bool,
    /// Why the policies of whom connects allow it or not, in one clause.
    pub(super) egress: String,
    /// The same of whom is reached.
    pub(super) ingress: String,
}

/// What is asked of policy, and what it says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Connection {
    from: String,
    to: String,
    port: Port,
    families: Vec<&'static str>,
    decision: Decision,
}

/// The answer for all endpoints and address families that a question comes to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Answer {
    from: String,
    to: String,
    port: Port,
    connections: Vec<Connection>,
}

/// Asks by the words of a question.
///
/// # Errors
/// If a word stands for nothing, or the ends have no address family in common.
pub(super) fn ask(
    world: &World,
    from: &str,
    to: &str,
    port: Port,
    audit: Audit<'_>,
) -> Result<Answer> {
    let sources = world.ends(from).context("who connects")?;
    let targets = world.targets(to, port).context("to whom")?;
    let mut connections: Vec<Connection> = Vec::new();
    for source in &sources {
        for (target, port) in &targets {
            for (a, b) in pairs(source, target) {
                let question = Question { protocol: port.protocol.number(), port: port.number };
                let decision = decide(world, (source, a), b, question, audit);
                let family = if a.is_ipv4() { "IPv4" } else { "IPv6" };
                let (from, to) = (source.name.clone(), target.name.clone());
                let one = Connection { from, to, port: *port, families: Vec::new(), decision };
                let held = connections.iter().position(|held| held.differs_by_family(&one));
                let held = held.unwrap_or_else(|| {
                    connections.push(one);
                    connections.len() - 1
                });
                connections[held].families.push(family);
            }
        }
    }
    let Some(first) = connections.first() else {
        bail!("{from} and {to} have no address family in common");
    };
    // An address is told with who has it.
    let named = |word: &str, name: &str| {
        if name.starts_with(word) { name.to_owned() } else { word.to_owned() }
    };
    let (from, to) = (named(from, &first.from), named(to, &first.to));
    Ok(Answer { from, to, port, connections })
}

/// The pairs of addresses of one family, the first of each.
pub(super) fn pairs(from: &End, to: &End) -> Vec<(IpAddr, IpAddr)> {
    let of = |end: &End, v4: bool| end.addresses.iter().copied().find(|at| at.is_ipv4() == v4);
    [true, false].into_iter().filter_map(|v4| Some((of(from, v4)?, of(to, v4)?))).collect()
}

/// To what.
#[derive(Clone, Copy, Debug)]
pub(super) struct Question {
    /// The number of the protocol.
    pub(super) protocol: u8,
    /// The port, of protocols that have any.
    pub(super) port: u16,
}

/// What policy says of a packet between two addresses.
pub(super) fn decide(
    world: &World,
    (from, source): (&End, IpAddr),
    destination: IpAddr,
    question: Question,
    audit: Audit<'_>,
) -> Decision {
    let Question { protocol, port } = question;
    let from_node = from.node.is_some() && from.node == node_of(&world.store, destination);
    let packet = Packet { source, destination, protocol, port, from_node };
    let [egress, ingress] = judge(&world.store, &packet, audit);
    let allowed = egress.allowed && ingress.allowed;
    Decision {
        allowed,
        audited: !allowed && egress.passes() && ingress.passes(),
        egress: egress.why,
        ingress: ingress.why,
    }
}

/// Which nodes only tell what they would drop, beside what the annotations of Namespaces say.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Audit<'a> {
    /// None, as far as is known.
    Off,
    /// All.
    Everywhere,
    /// This one does. Of others nothing is known.
    On(&'a str),
}

/// What policy says of one direction.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Clause {
    /// Whether it lets the connection pass.
    pub(crate) allowed: bool,
    /// It does not, and the connection passes all the same, in an audit.
    #[serde(default)]
    pub(crate) audited: bool,
    /// Why, in one clause.
    pub(crate) why: String,
}

impl Clause {
    /// Whether the connection passes, by policy or in an audit.
    pub(crate) const fn passes(&self) -> bool {
        self.allowed || self.audited
    }
}

/// What policy says of a packet: for whom it leaves, and for whom it reaches.
pub(crate) fn judge(store: &Store, packet: &Packet, audit: Audit<'_>) -> [Clause; 2] {
    explain(store, packet).map(|(direction, ruling)| {
        let (allowed, mut why) = (ruling.accepts(), why(direction, &ruling));
        let subject = match direction {
            Direction::Egress => packet.source,
            Direction::Ingress => packet.destination,
        };
        if !allowed && direction == Direction::Egress && may_have_a_name(store, packet) {
            why.push_str(BY_NAME);
        }
        let reason = if allowed { None } else { why_audited(store, subject, audit) };
        if let Some(reason) = &reason {
            why.push_str("; it passes all the same: ");
            why.push_str(reason);
        }
        Clause { allowed, audited: reason.is_some(), why }
    })
}

fn may_have_a_name(store: &Store, packet: &Packet) -> bool {
    let asks = || store.pod_at(packet.source).is_some_and(|pod| store.asks_for_names(pod));
    store.names_of(packet.destination).next().is_none() && asks()
}

/// Why nothing is dropped by what policies say of the pod that has an address.
fn why_audited(store: &Store, address: IpAddr, audit: Audit<'_>) -> Option<String> {
    let pod = store.pod_at(address)?;
    let namespace = &pod.key.namespace;
    if store.audits(namespace) {
        return Some(format!("the Namespace {namespace} is audited"));
    }
    match audit {
        Audit::Off => None,
        Audit::Everywhere => Some("all nodes audit".to_owned()),
        Audit::On(here) if pod.is_on(here) => Some(format!("{here} audits")),
        Audit::On(here) => {
            Some(format!("{here} audits, and so does the pod's node if it is run alike"))
        }
    }
}

/// The node of the pod that has an address.
pub(crate) fn node_of(store: &Store, address: IpAddr) -> Option<String> {
    let pod = store.pod_at(address);
    pod.and_then(|pod| pod.node.as_ref()).map(ToString::to_string)
}

/// The verdict of policies in an audit.
const WOULD: &str = "would be denied, but passes: audited";

/// Objects do not tell which addresses have which names; only a node knows, of what its pods have asked DNS for.
const BY_NAME: &str =
    "; a name that DNS has given to the address, and domainNames of a policy, may allow it";

fn of_no_pod() -> String {
    "no policy is for it: it is no pod of the cluster's network".to_owned()
}

/// Why, in one clause.
pub(crate) fn why(direction: Direction, ruling: &Ruling) -> String {
    match ruling {
        Ruling::NoPod => of_no_pod(),
        Ruling::NotIsolated => "allowed: no policy selects it".to_owned(),
        Ruling::Itself => "allowed: a pod reaches itself".to_owned(),
        Ruling::OwnNode => match direction {
            Direction::Egress => "allowed: to its own node".to_owned(),
            Direction::Ingress => "allowed: from its own node".to_owned(),
        },
        Ruling::Decided { tier, policy, rule, accepts } => {
            let (verdict, tier) = (if *accepts { "allowed" } else { "denied" }, tier.word());
            let direction = direction.word();
            format!(
                "{verdict} by ClusterNetworkPolicy {policy} (tier {tier}), spec.{direction}[{rule}]"
            )
        }
        Ruling::Allowed { policy, rule } => {
            format!("allowed by NetworkPolicy {policy}, spec.{}[{rule}]", direction.word())
        }
        Ruling::Denied { policies } => {
            let names: Vec<_> = policies.iter().map(ToString::to_string).collect();
            let policies = if names.len() == 1 { "NetworkPolicy" } else { "NetworkPolicies" };
            format!("denied: isolated by {policies} {}, no rule allows it", names.join(", "))
        }
    }
}

impl Connection {
    /// Whether another one is the same, whatever its address family.
    fn differs_by_family(&self, other: &Self) -> bool {
        let same = (&self.from, &self.to, self.port) == (&other.from, &other.to, other.port);
        same && self.decision == other.decision
    }

    /// Allowed or not, in words.
    const fn verdict(&self) -> &'static str {
        match (self.decision.allowed, self.decision.audited) {
            (true, _) => "allowed",
            (false, true) => WOULD,
            (false, false) => "denied",
        }
    }

    /// Why, in two lines.
    fn reasons(&self, indent: &str) -> String {
        let Decision { egress, ingress, .. } = &self.decision;
        let (from, to) = (&self.from, &self.to);
        format!("{indent}egress of {from}: {egress}\n{indent}ingress of {to}: {ingress}\n")
    }
}

impl Answer {
    /// Whether all of it is allowed, or nothing; `None`: it depends.
    pub(super) fn verdict(&self) -> Option<bool> {
        let first = self.connections.first()?.decision.allowed;
        self.connections.iter().all(|one| one.decision.allowed == first).then_some(first)
    }

    /// Any of the connections, if the verdict is the same for all.
    fn alike(&self) -> Option<&Connection> {
        let first = self.connections.first()?;
        self.connections.iter().all(|one| one.verdict() == first.verdict()).then_some(first)
    }

    /// For people.
    pub(super) fn text(&self) -> String {
        let allowed = self.connections.iter().filter(|one| one.decision.allowed).count();
        let verdict = match self.alike() {
            Some(one) => one.verdict().to_owned(),
            None => format!("{allowed} of {} allowed", self.connections.len()),
        };
        let mut out = format!("{} -> {} {}: {verdict}\n", self.from, self.to, self.port);
        let plain = matches!(self.connections.as_slice(), [one] if one.to == self.to && one.from == self.from);
        for one in &self.connections {
            if plain {
                out.push_str(&one.reasons("  "));
                continue;
            }
            let (from, to, port, families) =
                (&one.from, &one.to, one.port, one.families.join(", "));
            let verdict = one.verdict();
            let _ = writeln!(out, "  {from} -> {to} {port} ({families}): {verdict}");
            out.push_str(&one.reasons("    "));
        }
        out
    }

    /// Why those are decided as they are that are not as expected.
    pub(super) fn reasons_against(&self, expected: bool) -> String {
        let wrong = self.connections.iter().filter(|one| one.decision.allowed != expected);
        wrong.map(|one| one.reasons("    ")).collect()
    }

    /// For programs.
    pub(super) fn json(&self) -> Value {
        let connections: Vec<_> = self
            .connections
            .iter()
            .map(|one| {
                json!({
                    "from": one.from,
                    "to": one.to,
                    "port": one.port.number,
                    "protocol": one.port.protocol.to_string(),
                    "families": one.families,
                    "allowed": one.decision.allowed,
                    "audited": one.decision.audited,
                    "egress": one.decision.egress,
                    "ingress": one.decision.ingress,
                })
            })
            .collect();
        json!({
            "from": self.from,
            "to": self.to,
            "port": self.port.number,
            "protocol": self.port.protocol.to_string(),
            "verdict": match self.alike().map(|one| &one.decision) {
                Some(Decision { allowed: true, .. }) => "allowed",
                Some(Decision { audited: true, .. }) => "audited",
                Some(_) => "denied",
                None => "depends",
            },
            "connections": connections,
        })
    }
}
