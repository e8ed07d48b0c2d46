//! DNS answers on their way to pods whose policies speak of domain names: a table of its own, which is there only while
//! there are such pods, and what it hands over.
//!
//! Where the kernel can (`nft_queue`), an answer waits until its addresses are in the policy's table (`NFQUEUE`,
//! `include/uapi/linux/netfilter/nfnetlink_queue.h`), so that the connection that follows finds them there. If nobody
//! listens it does not wait. Elsewhere the answer goes on, and a copy comes here (`NFLOG`).

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::net::IpAddr;
use std::os::fd::{AsFd, BorrowedFd};
use std::time::Instant;

use nix::libc::NETLINK_NETFILTER;
use shunt_model::address::Family;
use shunt_netlink::{Message, Socket, attributes, nfnetlink};
use shunt_netpolicy::dns::stream::{Flow, Streams};
use shunt_nftables::codec::{
    Chain, Error, Expression, Hook, Register, Rule, Session, SetType, Table, address_type,
    fingerprint, plain_set, rejected, table,
};

use crate::drop_log;
use crate::element::encode_address;
use crate::name::suffix;
use crate::packet::parts;

/// The queue, and the group of the log, that answers come by.
pub const QUEUE: u16 = 21_321;
const OURS: Table = Table::inet("shunt-names");
const COMMENT: &str = "shunt domain names, layout ";
/// Before the policy's own chain.
const PRIORITY: i32 = 80;
const UDP: u8 = 17;
const TCP: u8 = 6;
const DNS: u16 = 53;
/// The length of a UDP header.
const HEADER: usize = 8;
/// `NF_CT_STATE_UNTRACKED_BIT`.
const UNTRACKED: u32 = 1 << 6;
/// All of a packet.
const WHOLE: u32 = 65_535;
/// `NFNL_SUBSYS_QUEUE << 8` with `NFQNL_MSG_PACKET`, `NFQNL_MSG_VERDICT` and `NFQNL_MSG_CONFIG`.
const PACKET: u16 = 3 << 8;
const VERDICT: u16 = PACKET | 1;
const CONFIG: u16 = PACKET | 2;
/// `NFQNL_CFG_CMD_BIND`, `NFQNL_COPY_PACKET`, `NF_ACCEPT`.
const BIND: u8 = 1;
const COPY_PACKET: u8 = 2;
const ACCEPT: u8 = 1;
/// `NFQA_CFG_F_FAIL_OPEN`: what does not fit into the queue goes on.
const FAIL_OPEN: u32 = 1;
/// How many answers wait at most.
const LONGEST: u32 = 1024;

/// A packet of a DNS server's.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Answer {
    /// By what it is let go; `None`: it did not wait.
    pub held: Option<u32>,
    /// The connection that it is of; `None`: UDP.
    pub flow: Option<Flow>,
    /// The DNS messages that are complete with it: of TCP also several, or none.
    pub messages: Vec<Vec<u8>>,
}

/// Which answers are handed over.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Wanted {
    /// To these pods.
    pub pods: BTreeSet<IpAddr>,
    /// From these servers, by the addresses that pods ask; and from this machine itself.
    pub servers: BTreeSet<IpAddr>,
}

/// How they are.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Way {
    /// They wait.
    Queue,
    /// They do not.
    Copy,
}

/// The sets.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum SetId {
    /// Addresses of pods.
    Pods(Family),
    /// Addresses of DNS servers.
    Servers(Family),
}

impl fmt::Display for SetId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Pods(family) => write!(f, "pods_{}", suffix(*family)),
            Self::Servers(family) => write!(f, "servers_{}", suffix(*family)),
        }
    }
}

/// Whether this network namespace has the table: an earlier run may have left it. Changes nothing.
///
/// # Errors
/// If nftables cannot be read.
pub fn is_there() -> Result<bool, Error> {
    Ok(table(&mut Socket::open(NETLINK_NETFILTER)?, OURS)?.is_some())
}

/// The table of this network namespace, and who listens.
#[derive(Debug)]
pub struct Answers {
    session: Session,
    owner: bool,
    way: Way,
    listener: Option<Socket>,
    /// What is installed; `None`: not known.
    installed: Option<Wanted>,
    /// Answers over TCP.
    streams: Streams,
}

impl Answers {
    /// Opens the kernel's nftables. Nothing is changed. `owner`: claim the table where the kernel can.
    ///
    /// # Errors
    /// If the kernel has none, or does not let us.
    pub fn open(owner: bool) -> Result<Self, Error> {
        let session = Session::open(OURS)?;
        Ok(Self {
            session,
            owner,
            way: Way::Queue,
            listener: None,
            installed: None,
            streams: Streams::default(),
        })
    }

    /// How answers come.
    #[must_use]
    pub const fn way(&self) -> Way {
        self.way
    }

    /// Brings the kernel to what is wanted.
    ///
    /// # Errors
    /// If the kernel refuses. It is read again the next time.
    pub fn sync(&mut self, wanted: &Wanted) -> Result<(), Error> {
        if self.installed.as_ref() == Some(wanted) {
            return Ok(());
        }
        let nothing = wanted.pods.is_empty();
        let was_nothing = self.installed.as_ref().is_some_and(|held| held.pods.is_empty());
        if nothing && was_nothing {
            self.installed = Some(wanted.clone());
            return Ok(());
        }
        self.installed = None;
        let found = if was_nothing { None } else { table(&mut self.session.socket, OURS)? };
        if let Some(found) = &found {
            self.session.adopt(found)?;
        }
        match (found, nothing) {
            (None, true) => self.listener = None,
            (Some(_), true) => {
                self.commit(&[OURS.delete()])?;
                self.listener = None;
            }
            (found, false) => {
                let as_made = [Way::Queue, Way::Copy]
                    .into_iter()
                    .find(|way| found.as_ref().is_some_and(|table| table.comment == comment(*way)));
                match as_made {
                    // The chain stays: when one goes, the kernel drops what waits in any queue.
                    Some(way) => {
                        self.listen(way)?;
                        self.commit(&filled(wanted))?;
                    }
                    None => self.make(found.is_some(), wanted)?,
                }
            }
        }
        self.installed = Some(wanted.clone());
        Ok(())
    }

    /// Whether someone else has changed the table since the last sync; then the next one puts it right.
    ///
    /// # Errors
    /// If the kernel cannot be asked.
    pub fn foreign_change(&mut self) -> Result<bool, Error> {
        let there = self.installed.as_ref().is_some_and(|held| !held.pods.is_empty());
        let comment = comment(self.way);
        let changed = self.session.foreign_change(|socket| {
            Ok(table(socket, OURS)?.is_some_and(|table| table.comment == comment) == there)
        })?;
        if changed {
            self.installed = None;
        }
        Ok(changed)
    }

    /// Hands over what waits to be read.
    ///
    /// # Errors
    /// If the socket fails.
    pub fn read(&mut self, mut each: impl FnMut(Answer)) -> Result<(), Error> {
        let Self { listener: Some(listener), streams, .. } = self else { return Ok(()) };
        listener.drain(|kind, payload, _| match kind {
            PACKET => queued(payload, streams).into_iter().for_each(&mut each),
            drop_log::PACKET => copied(payload, streams).into_iter().for_each(&mut each),
            _ => {}
        })?;
        Ok(())
    }

    /// Lets an answer go on.
    ///
    /// # Errors
    /// If the socket fails.
    pub fn release(&mut self, held: u32) -> Result<(), Error> {
        let Some(listener) = &mut self.listener else { return Ok(()) };
        let mut message = Message::new(VERDICT, 0);
        message.raw(&nfnetlink(0, QUEUE));
        message.bytes(2, &[[0, 0, 0, ACCEPT], held.to_be_bytes()].concat());
        Ok(listener.post(message)?)
    }

    /// Readable when there are answers; `None` while none can come.
    #[must_use]
    pub fn events(&self) -> Option<BorrowedFd<'_>> {
        self.listener.as_ref().map(AsFd::as_fd)
    }

    fn make(&mut self, replace: bool, wanted: &Wanted) -> Result<(), Error> {
        let mut result = Ok(());
        for way in [Way::Queue, Way::Copy] {
            result = self.listen(way).and_then(|()| {
                self.session.make(self.owner, |owned| create(way, replace, owned, wanted))?;
                Ok(())
            });
            if result.is_ok() {
                break;
            }
        }
        result
    }

    /// Listens before anything can come.
    fn listen(&mut self, way: Way) -> Result<(), Error> {
        if self.listener.is_some() && self.way == way {
            return Ok(());
        }
        // The other one goes first.
        self.listener = None;
        self.listener = Some(match way {
            Way::Queue => listen_to_queue()?,
            Way::Copy => listen_to_log()?,
        });
        self.way = way;
        Ok(())
    }

    fn commit(&mut self, messages: &[Message]) -> Result<(), Error> {
        let committed = self.session.commit(messages, |_| Ok(true))?;
        committed.map(drop).map_err(|rejections| rejected(&rejections))
    }
}

fn listen_to_queue() -> Result<Socket, Error> {
    let mut socket = Socket::open(NETLINK_NETFILTER)?;
    let mut message = Message::new(CONFIG, 0);
    message.raw(&nfnetlink(0, QUEUE));
    message.bytes(1, &[BIND, 0, 0, 0]);
    message.bytes(2, &[0, 0, 0xff, 0xff, COPY_PACKET]);
    message.u32(3, LONGEST);
    message.u32(4, FAIL_OPEN);
    message.u32(5, FAIL_OPEN);
    socket.request("listen to the queue of DNS answers", message, |_| {})?;
    Ok(socket)
}

fn listen_to_log() -> Result<Socket, Error> {
    let mut mode = Message::new(drop_log::CONFIG, 0);
    mode.raw(&nfnetlink(0, QUEUE));
    mode.bytes(2, &[0, 0, 0xff, 0xff, drop_log::COPY_PACKET, 0]);
    // Each at once.
    mode.u32(5, 1);
    Ok(drop_log::bind(QUEUE, mode)?)
}

/// The table's comment: which layout it has.
fn comment(way: Way) -> String {
    format!("{COMMENT}{:016x}", fingerprint(&chain(way).text()))
}

fn create(way: Way, replace: bool, owned: bool, wanted: &Wanted) -> Vec<Message> {
    let mut messages = Vec::new();
    if replace {
        messages.push(OURS.delete());
    }
    messages.push(OURS.create(owned, &comment(way)));
    let mut ids = 0;
    for set in sets() {
        ids += 1;
        messages.push(OURS.new_set(&set.to_string(), &set_type(set), false, 0, ids));
    }
    let chain = chain(way);
    messages.push(OURS.new_chain(&chain));
    for rule in &chain.rules {
        messages.extend(OURS.new_rule(&chain.name, rule, &mut ids));
    }
    messages.extend(filled(wanted));
    messages
}

/// The sets emptied and filled: they are small.
fn filled(wanted: &Wanted) -> Vec<Message> {
    let mut messages = Vec::new();
    let mut contents: BTreeMap<SetId, Vec<IpAddr>> = sets().map(|set| (set, Vec::new())).collect();
    let of = |address: &IpAddr| Family::of(*address);
    for pod in &wanted.pods {
        contents.entry(SetId::Pods(of(pod))).or_default().push(*pod);
    }
    for server in &wanted.servers {
        contents.entry(SetId::Servers(of(server))).or_default().push(*server);
    }
    for (set, addresses) in contents {
        messages.push(OURS.flush_set(&set.to_string()));
        let mut addresses = addresses.into_iter().peekable();
        while addresses.peek().is_some() {
            let mut list = OURS.elements(&set.to_string(), false);
            while !list.is_full()
                && let Some(address) = addresses.next()
            {
                list.push_value(&encode_address(address), None, None);
            }
            messages.push(list.finish());
        }
    }
    messages
}

fn sets() -> impl Iterator<Item = SetId> {
    Family::ALL.into_iter().flat_map(|family| [SetId::Pods(family), SetId::Servers(family)])
}

fn set_type(set: SetId) -> SetType {
    let (SetId::Pods(family) | SetId::Servers(family)) = set;
    let (key, name, key_length) = address_type(family);
    SetType::plain(name, key, key_length, plain_set())
}

/// All packets of DNS servers.
fn chain(way: Way) -> Chain<SetId> {
    let hook = Hook {
        kind: "filter",
        name: "postrouting",
        number: 4,
        priority: PRIORITY,
        priority_text: "srcnat - 20",
    };
    let all = Family::ALL.into_iter().flat_map(|family| [(family, UDP), (family, TCP)]);
    let rules = all.flat_map(|(family, protocol)| rules(way, family, protocol)).collect();
    Chain { name: "answers".to_owned(), hook: Some(hook), rules }
}

/// Answers of connections that a pod has opened to a server; and what this machine itself answers where connections to it
/// are not tracked, as a cache of DNS on each node has it. An address of this machine comes from nowhere else.
fn rules(way: Way, family: Family, protocol: u8) -> [Rule<SetId>; 2] {
    let (ip, nfproto) = match family {
        Family::V4 => ("ip", "ipv4"),
        Family::V6 => ("ip6", "ipv6"),
    };
    let l4proto = if protocol == TCP { "tcp" } else { "udp" };
    let (pods, servers) = (SetId::Pods(family), SetId::Servers(family));
    let within = |set| Expression::In { set, key: Register(0), inverted: false };
    let (end, word) = match way {
        Way::Queue => (Expression::Queue(QUEUE), format!("queue flags bypass to {QUEUE}")),
        Way::Copy => {
            let log = Expression::Log { prefix: "shunt names", group: QUEUE, length: WHOLE };
            (log, format!("log prefix \"shunt names\" group {QUEUE} snaplen {WHOLE}"))
        }
    };
    let text = format!(
        "meta l4proto {l4proto} meta nfproto {nfproto} ct direction reply ct original proto-dst {DNS} \
         ct original {ip} saddr @{pods} ct original {ip} daddr @{servers} {word}"
    );
    let tracked = [
        Expression::ProtocolIs(protocol),
        Expression::FamilyIs(family),
        Expression::IsAnswer,
        Expression::OriginalPortIs(DNS),
        Expression::LoadOriginalSource(family, Register(0)),
        within(pods),
        Expression::LoadOriginalDestination(family, Register(0)),
        within(servers),
        end.clone(),
    ];
    let tracked = Rule::new(text, tracked);
    let text = format!(
        "meta l4proto {l4proto} meta nfproto {nfproto} ct state untracked {l4proto} sport {DNS} \
         {ip} daddr @{pods} fib saddr type local {word}"
    );
    let untracked = [
        Expression::ProtocolIs(protocol),
        Expression::FamilyIs(family),
        Expression::StateIs(UNTRACKED),
        Expression::SourcePortIs(DNS),
        Expression::LoadDestination(family, Register(0)),
        within(pods),
        Expression::SourceIsLocal,
        end,
    ];
    [tracked, Rule::new(text, untracked)]
}

/// A message of the queue.
fn queued(payload: &[u8], streams: &mut Streams) -> Option<Answer> {
    let (mut held, mut packet) = (None, None);
    for attribute in attributes(payload.get(4..)?) {
        match attribute.kind {
            1 => held = attribute.payload.first_chunk().copied().map(u32::from_be_bytes),
            10 => packet = Some(attribute.payload),
            _ => {}
        }
    }
    // Whatever it is, it must be let go.
    let read = packet.and_then(|packet| read(packet, streams));
    let (flow, messages) = read.unwrap_or_default();
    Some(Answer { held: Some(held?), flow, messages })
}

/// A message of the log.
fn copied(payload: &[u8], streams: &mut Streams) -> Option<Answer> {
    let packet = attributes(payload.get(4..)?).find(|attribute| attribute.kind == 9)?;
    let (flow, messages) = read(packet.payload, streams)?;
    Some(Answer { held: None, flow, messages })
}

/// The messages that are complete with a packet, and of which connection it is.
fn read(packet: &[u8], streams: &mut Streams) -> Option<(Option<Flow>, Vec<Vec<u8>>)> {
    match parts(packet)? {
        (_, _, UDP, Some(rest)) => Some((None, vec![datagram(rest)?])),
        (server, client, TCP, Some(segment)) => {
            let (flow, messages) = streams.take((server, client), segment, Instant::now())?;
            Some((Some(flow), messages))
        }
        _ => None,
    }
}

/// What a UDP packet carries, from its header on.
fn datagram(packet: &[u8]) -> Option<Vec<u8>> {
    let length = usize::from(u16::from_be_bytes(packet.get(4..6)?.try_into().ok()?));
    Some(packet.get(HEADER..length)?.to_vec())
}
