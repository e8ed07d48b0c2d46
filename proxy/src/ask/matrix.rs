//! `shunt policy matrix`: who may connect to whom.

use std::collections::BTreeMap;
use std::fmt::Write as _;

use serde_json::{Value, json};
use shunt_netpolicy::table::Row;

use super::answer::{Audit, Decision, Question, decide, pairs};
use super::classes::{Class, Segment, classes, segments};
use super::world::World;
use super::{MatrixArgs, Port};

/// What is allowed from one to another.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Verdict {
    /// All that was asked about.
    Everything,
    /// Some ports or protocols.
    Some,
    /// Nothing.
    Nothing,
    /// They have no address family in common.
    Unreachable,
}

impl Verdict {
    pub(super) const fn word(self) -> &'static str {
        match self {
            Self::Everything => "allowed",
            Self::Some => "some",
            Self::Nothing => "denied",
            Self::Unreachable => "no common address family",
        }
    }

    const fn mark(self) -> char {
        match self {
            Self::Everything => '+',
            Self::Some => '~',
            Self::Nothing => '.',
            Self::Unreachable => ' ',
        }
    }
}

/// Ports that share a decision.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Part {
    /// `tcp 80,443; udp 53`.
    pub(super) what: String,
    pub(super) decision: Decision,
}

/// From one to another.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Cell {
    pub(super) verdict: Verdict,
    pub(super) parts: Vec<Part>,
}

impl Cell {
    /// What is allowed, where that is neither everything nor nothing.
    pub(super) fn allowed(&self) -> String {
        let allowed = self.parts.iter().filter(|part| part.decision.allowed);
        allowed.map(|part| part.what.as_str()).collect::<Vec<_>>().join("; ")
    }
}

/// Who may connect to whom.
pub(super) struct Matrix {
    pub(super) port: Option<Port>,
    pub(super) classes: Vec<Class>,
    /// From each class to each.
    pub(super) cells: Vec<Vec<Cell>>,
}

impl Matrix {
    /// The matrix as asked for.
    pub(super) fn new(world: &World, args: &MatrixArgs) -> Self {
        let classes = classes(world, &args.namespace, &args.address);
        let mut known = BTreeMap::new();
        let cells = classes.iter().enumerate().map(|(i, from)| {
            let cell = |(j, to): (usize, &Class)| {
                let asked = known
                    .entry((from.namespace.clone(), to.namespace.clone()))
                    .or_insert_with(|| match args.port {
                        Some(Port { protocol, number }) => {
                            vec![Segment::Ports(protocol, number, number)]
                        }
                        None => segments(&world.store, [&from.namespace, &to.namespace]),
                    });
                cell(world, from, to, i == j, asked)
            };
            classes.iter().enumerate().map(cell).collect()
        });
        let cells = cells.collect();
        Self { port: args.port, classes, cells }
    }

    /// What was asked about.
    pub(super) fn asked(&self) -> String {
        self.port.map_or_else(|| "any port".to_owned(), |port| port.to_string())
    }

    /// For people at a terminal.
    pub(super) fn text(&self) -> String {
        let mut out = format!(
            "who may connect to whom on {}: + allowed, ~ some ports, . denied; columns are numbered as rows\n",
            self.asked()
        );
        let names: Vec<_> = self.classes.iter().map(Class::full_name).collect();
        let width = names.iter().map(String::len).max().unwrap_or_default();
        let digits = names.len().to_string().len();
        let _ = write!(out, "{:width$} {:digits$}", "", "");
        for number in 1..=names.len() {
            let _ = write!(out, " {number:>digits$}");
        }
        out.push('\n');
        for ((number, name), cells) in (1..).zip(&names).zip(&self.cells) {
            let _ = write!(out, "{name:width$} {number:>digits$}");
            for cell in cells {
                let _ = write!(out, " {:>digits$}", cell.verdict.mark());
            }
            out.push('\n');
        }
        for (from, to, cell) in self.pairs().filter(|(.., cell)| cell.verdict == Verdict::Some) {
            let (from, to) = (from.full_name(), to.full_name());
            let _ = writeln!(out, "~ {from} -> {to}: {}", cell.allowed());
        }
        out
    }

    fn pairs(&self) -> impl Iterator<Item = (&Class, &Class, &Cell)> {
        self.classes.iter().zip(&self.cells).flat_map(|(from, cells)| {
            self.classes.iter().zip(cells).map(move |(to, cell)| (from, to, cell))
        })
    }

    /// For programs.
    pub(super) fn json(&self) -> Value {
        let ends: Vec<_> = self
            .classes
            .iter()
            .map(|class| {
                let members: Vec<_> = class
                    .members
                    .iter()
                    .map(|end| json!({"name": end.name, "addresses": end.addresses}))
                    .collect();
                json!({"name": class.full_name(), "members": members})
            })
            .collect();
        let connections: Vec<_> = self
            .pairs()
            .map(|(from, to, cell)| {
                let parts: Vec<_> = cell.parts.iter().map(part_json).collect();
                json!({
                    "from": from.full_name(),
                    "to": to.full_name(),
                    "verdict": cell.verdict.word(),
                    "parts": parts,
                })
            })
            .collect();
        json!({"asked": self.asked(), "ends": ends, "connections": connections})
    }
}

fn part_json(part: &Part) -> Value {
    json!({
        "what": part.what,
        "allowed": part.decision.allowed,
        "egress": part.decision.egress,
        "ingress": part.decision.ingress,
    })
}

fn cell(world: &World, from: &Class, to: &Class, same: bool, asked: &[Segment]) -> Cell {
    let (source, target) = match (from.members.as_slice(), to.members.as_slice()) {
        // Of a class with itself it is asked what one pod may do to another, where there are two.
        ([source, ..], [_, target, ..]) if same => (source, target),
        ([source, ..], [target, ..]) => (source, target),
        _ => return Cell { verdict: Verdict::Unreachable, parts: Vec::new() },
    };
    let mut by_family = pairs(source, target).into_iter().map(|(a, b)| {
        let mut decided: Vec<(Decision, Row)> = Vec::new();
        for segment in asked {
            let question = match *segment {
                Segment::Ports(protocol, first, _) => {
                    Question { protocol: protocol.number(), port: first }
                }
                Segment::Others => Question { protocol: 1, port: 0 },
            };
            let decision = decide(world, (source, a), b, question, Audit::Off);
            let at = decided.iter().position(|(held, _)| *held == decision);
            let at = at.unwrap_or_else(|| {
                decided.push((decision, Row::default()));
                decided.len() - 1
            });
            match *segment {
                Segment::Ports(protocol, first, last) => {
                    decided[at].1.ports_mut(protocol).add(first, last);
                }
                Segment::Others => decided[at].1.others = true,
            }
        }
        (if a.is_ipv4() { "IPv4" } else { "IPv6" }, decided)
    });
    let Some((family, mut first)) = by_family.next() else {
        return Cell { verdict: Verdict::Unreachable, parts: Vec::new() };
    };
    let parts = match by_family.next() {
        Some((other, mut second)) if second != first => {
            let mut parts = parts(&mut first, &format!("{family} "));
            parts.extend(self::parts(&mut second, &format!("{other} ")));
            parts
        }
        _ => parts(&mut first, ""),
    };
    let allowed = parts.iter().filter(|part| part.decision.allowed).count();
    let verdict = match allowed {
        0 => Verdict::Nothing,
        allowed if allowed == parts.len() => Verdict::Everything,
        _ => Verdict::Some,
    };
    Cell { verdict, parts }
}

/// The parts, what is allowed first.
fn parts(decided: &mut [(Decision, Row)], prefix: &str) -> Vec<Part> {
    decided.sort_by_key(|(decision, row)| (!decision.allowed, row.others));
    let alone = decided.len() == 1;
    decided
        .iter()
        .map(|(decision, row)| Part {
            what: match (alone, row.others) {
                (true, true) => format!("{prefix}everything"),
                (false, true) => format!("{prefix}everything else"),
                (_, false) => format!("{prefix}{}", ports(row)),
            },
            decision: decision.clone(),
        })
        .collect()
}

/// `tcp 80,443; udp 53`.
fn ports(row: &Row) -> String {
    let protocols = shunt_model::address::Protocol::ALL;
    let named = protocols.into_iter().filter(|protocol| !row.ports(*protocol).is_empty());
    let each = named.map(|protocol| format!("{protocol} {}", row.ports(protocol)));
    each.collect::<Vec<_>>().join("; ").replace(" *", " all ports")
}
