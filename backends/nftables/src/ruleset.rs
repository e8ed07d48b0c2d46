//! The whole ruleset of the network namespace, whoever made it: what other programs do at the
//! hooks that we use, and how to take away what a former service proxy has left.
//!
//! Tables of `iptables-nft` are nf_tables tables like all others. Those of `iptables-legacy` are
//! not seen here.

use std::collections::BTreeSet;

use nix::errno::Errno;
use nix::libc::NETLINK_NETFILTER;
use shunt_netlink::{Attribute, Batch, BatchOutcome, Message, Socket, attributes, nfnetlink};

use crate::error::Error;
use crate::message::{SUBSYSTEM, kind};
use crate::userdata;

/// How many messages a transaction has at most.
const PORTION: usize = 4096;
/// `NFT_JUMP` and `NFT_GOTO`.
const JUMPS: [i32; 2] = [-3, -4];

/// A table.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct TableName {
    /// `NFPROTO_*`.
    pub family: u8,
    /// Its name.
    pub name: String,
}

impl TableName {
    /// The family as `nft` writes it.
    #[must_use]
    pub const fn family(&self) -> &'static str {
        match self.family {
            1 => "inet",
            2 => "ip",
            3 => "arp",
            5 => "netdev",
            7 => "bridge",
            10 => "ip6",
            _ => "unknown",
        }
    }
}

impl std::fmt::Display for TableName {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{} {}", self.family(), self.name)
    }
}

/// What is known of a table.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Table {
    /// Which.
    pub name: TableName,
    /// Its comment.
    pub comment: String,
    /// The netlink port of its living owner, 0 if it has none.
    pub owner: u32,
}

/// A chain.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Chain {
    /// Its table.
    pub table: TableName,
    /// Its name.
    pub name: String,
    /// Where the kernel calls it, if it does.
    pub base: Option<Base>,
}

/// Where the kernel calls a chain.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Base {
    /// `NF_INET_*`: prerouting, input, forward, output, postrouting.
    pub hook: u32,
    /// Its priority: lower ones come first.
    pub priority: i32,
    /// `filter`, `nat` or `route`.
    pub kind: String,
    /// What it does not decide is dropped.
    pub drops: bool,
}

impl Base {
    /// The hook as `nft` writes it.
    #[must_use]
    pub fn hook(&self) -> &'static str {
        let names = ["prerouting", "input", "forward", "output", "postrouting"];
        usize::try_from(self.hook).ok().and_then(|hook| names.get(hook)).copied().unwrap_or("other")
    }
}

/// A rule that goes to another chain.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Jump {
    /// Its table.
    pub table: TableName,
    /// Its chain.
    pub chain: String,
    /// Its handle.
    pub handle: u64,
    /// Where it goes.
    pub to: String,
}

/// The ruleset without the conditions of its rules and without sets.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Ruleset {
    /// All tables.
    pub tables: Vec<Table>,
    /// All chains.
    pub chains: Vec<Chain>,
}

/// Reads tables and chains of all families.
///
/// # Errors
/// If nftables cannot be read.
pub fn read() -> Result<Ruleset, Error> {
    let mut socket = Socket::open(NETLINK_NETFILTER)?;
    let all = |kind| request(kind, 0, 0);
    let tables =
        socket.dump("list all tables", &all(kind::GETTABLE), |tables: &mut Vec<_>, payload| {
            tables.extend(table(payload));
        })?;
    let chains =
        socket.dump("list all chains", &all(kind::GETCHAIN), |chains: &mut Vec<_>, payload| {
            chains.extend(chain(payload));
        })?;
    Ok(Ruleset { tables, chains })
}

/// Something that has a name of its own.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Part {
    /// A table.
    Table(TableName),
    /// A chain of a table.
    Chain(TableName, String),
}

impl std::fmt::Display for Part {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Table(table) => write!(f, "table {table}"),
            Self::Chain(table, chain) => write!(f, "table {table} chain {chain}"),
        }
    }
}

/// Those of the parts that there are. Each is asked for by its name, so that it costs the same whatever else there is.
///
/// # Errors
/// If nftables cannot be read.
pub fn present(parts: &[Part]) -> Result<Vec<Part>, Error> {
    let mut socket = Socket::open(NETLINK_NETFILTER)?;
    let mut found = Vec::new();
    for part in parts {
        let message = match part {
            Part::Table(table) => {
                let mut message = request(kind::GETTABLE, table.family, 0);
                message.text(1, &table.name);
                message
            }
            Part::Chain(table, chain) => of_chain(kind::GETCHAIN, table, 3, chain),
        };
        match socket.request("tell of a table or chain", message, |_| {}) {
            Ok(()) => found.push(part.clone()),
            Err(error) if error.errno() == Some(Errno::ENOENT) => {}
            Err(error) => return Err(error.into()),
        }
    }
    Ok(found)
}

/// What shall go.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Removal {
    /// Whole tables.
    pub tables: Vec<TableName>,
    /// Chains, and the rules of other chains that go to them.
    pub chains: Vec<(TableName, String)>,
}

impl Removal {
    /// Whether nothing shall go.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.tables.is_empty() && self.chains.is_empty()
    }
}

/// Takes tables and chains away. First, in one transaction, what leads to the chains, so that no
/// packet meets half of them; then the chains, in portions; each whole table in a transaction.
///
/// # Errors
/// If the kernel refuses. What was taken away by then stays away.
pub fn remove(removal: &Removal) -> Result<(), Error> {
    let mut socket = Socket::open(NETLINK_NETFILTER)?;
    let gone: BTreeSet<_> = removal.chains.iter().map(|(of, name)| (of, name.as_str())).collect();
    let tables: BTreeSet<_> = removal.chains.iter().map(|(table, _)| table).collect();
    let mut unhook = Vec::new();
    for table in tables {
        for jump in jumps(&mut socket, table)? {
            let stays = !gone.contains(&(table, jump.chain.as_str()));
            if stays && gone.contains(&(table, jump.to.as_str())) {
                let mut rule = of_chain(kind::DELRULE, table, 2, &jump.chain);
                rule.bytes(3, &jump.handle.to_be_bytes());
                unhook.push(rule);
            }
        }
    }
    commit(&mut socket, unhook)?;
    let flush = |(table, name): &(TableName, String)| of_chain(kind::DELRULE, table, 2, name);
    let delete = |(table, name): &(TableName, String)| of_chain(kind::DELCHAIN, table, 3, name);
    // A chain can go when no rule leads to it.
    for portion in removal.chains.chunks(PORTION) {
        commit(&mut socket, portion.iter().map(flush).collect())?;
    }
    for portion in removal.chains.chunks(PORTION) {
        commit(&mut socket, portion.iter().map(delete).collect())?;
    }
    for table in &removal.tables {
        let mut message = request(kind::DELTABLE, table.family, 0);
        message.text(1, &table.name);
        commit(&mut socket, vec![message])?;
    }
    Ok(())
}

fn commit(socket: &mut Socket, messages: Vec<Message>) -> Result<(), Error> {
    if messages.is_empty() {
        return Ok(());
    }
    let mut batch = Batch::new(socket, SUBSYSTEM, None);
    for message in &messages {
        batch.push(socket, message);
    }
    match batch.send(socket, SUBSYSTEM)? {
        BatchOutcome::Committed => Ok(()),
        BatchOutcome::Unknown => Err(Error::Lost),
        BatchOutcome::Rejected(rejections) => {
            let first = rejections.into_iter().next();
            Err(first.map_or(Error::Lost, |first| Error::Rejected {
                errno: first.errno,
                detail: first.detail,
            }))
        }
    }
}

/// The rules of a table that go to a chain.
fn jumps(socket: &mut Socket, table: &TableName) -> Result<Vec<Jump>, Error> {
    let mut request = request(kind::GETRULE, table.family, 0);
    request.text(1, &table.name);
    Ok(socket.dump("list the rules of a table", &request, |jumps: &mut Vec<_>, payload| {
        jumps.extend(jump(payload).filter(|jump| jump.table == *table));
    })?)
}

pub(crate) fn request(kind: u16, family: u8, flags: u16) -> Message {
    let mut message = Message::new(SUBSYSTEM << 8 | kind, flags);
    message.raw(&nfnetlink(family, 0));
    message
}

/// A message about a chain, whose name is the attribute of this number.
fn of_chain(kind: u16, table: &TableName, attribute: u16, chain: &str) -> Message {
    let mut message = request(kind, table.family, 0);
    message.text(1, &table.name);
    message.text(attribute, chain);
    message
}

/// The family of an answer, and its attributes.
pub(crate) fn answer(payload: &[u8]) -> Option<(u8, Vec<Attribute<'_>>)> {
    Some((*payload.first()?, attributes(payload.get(4..)?).collect()))
}

pub(crate) fn find<'a>(attributes: &[Attribute<'a>], kind: u16) -> Option<Attribute<'a>> {
    attributes.iter().find(|attribute| attribute.kind == kind).copied()
}

pub(crate) fn text(attributes: &[Attribute<'_>], kind: u16) -> Option<String> {
    find(attributes, kind)?.text().map(ToOwned::to_owned)
}

fn table(payload: &[u8]) -> Option<Table> {
    let (family, all) = answer(payload)?;
    Some(Table {
        name: TableName { family, name: text(&all, 1)? },
        comment: find(&all, 6)
            .and_then(|data| userdata::read_comment(data.payload).map(ToOwned::to_owned))
            .unwrap_or_default(),
        owner: find(&all, 7).and_then(|owner| owner.u32_be()).unwrap_or_default(),
    })
}

fn chain(payload: &[u8]) -> Option<Chain> {
    let (family, all) = answer(payload)?;
    let base = find(&all, 4).map(|hook| {
        let number = |kind| hook.find(kind).and_then(|value| value.u32_be()).unwrap_or_default();
        Base {
            hook: number(1),
            priority: i32::from_ne_bytes(number(2).to_ne_bytes()),
            kind: text(&all, 7).unwrap_or_default(),
            drops: find(&all, 5).and_then(|policy| policy.u32_be()) == Some(0),
        }
    });
    Some(Chain { table: TableName { family, name: text(&all, 1)? }, name: text(&all, 3)?, base })
}

fn jump(payload: &[u8]) -> Option<Jump> {
    let (family, all) = answer(payload)?;
    let to = find(&all, 4)?.nested().find_map(|expression| target(&expression))?;
    Some(Jump {
        table: TableName { family, name: text(&all, 1)? },
        chain: text(&all, 2)?,
        handle: u64::from_be_bytes(find(&all, 3)?.payload.try_into().ok()?),
        to,
    })
}

/// Where an `immediate` expression with a verdict goes.
fn target(expression: &Attribute<'_>) -> Option<String> {
    if expression.find(1)?.text()? != "immediate" {
        return None;
    }
    let verdict = expression.find(2)?.find(2)?.find(2)?;
    let code = i32::from_ne_bytes(verdict.find(1)?.u32_be()?.to_ne_bytes());
    let chain = verdict.find(2)?.text()?.to_owned();
    JUMPS.contains(&code).then_some(chain)
}
