//! Messages of nf_tables: written and read (`include/uapi/linux/netfilter/nf_tables.h`).

use std::collections::HashMap;
use std::net::IpAddr;
use std::sync::Arc;

use ipnet::IpNet;
use shunt_model::address::Family;
use shunt_netlink::{Attribute, Message, attributes, nfnetlink};

use crate::element::{
    Element, Key, Target, Value, decode_endpoint, decode_key, encode_endpoint, encode_key,
};
use crate::expression::{Expression, NFT_GOTO, Verdict};
use crate::layout::{Chain, Rule, layout_fingerprint};
use crate::name::{SetId, SetKind, TABLE, TABLE_COMMENT};
use crate::userdata::{self, Typeof};

/// `NFNL_SUBSYS_NFTABLES`.
pub(crate) const SUBSYSTEM: u16 = 10;
/// `NFPROTO_INET`.
const INET: u8 = 1;
/// `NLM_F_CREATE`, `NLM_F_APPEND`.
const CREATE: u16 = 0x400;
const APPEND: u16 = 0x800;

/// `NFT_MSG_*`.
pub(crate) mod kind {
    pub(crate) const NEWTABLE: u16 = 0;
    pub(crate) const GETTABLE: u16 = 1;
    pub(crate) const DELTABLE: u16 = 2;
    pub(crate) const NEWCHAIN: u16 = 3;
    pub(crate) const GETCHAIN: u16 = 4;
    pub(crate) const DELCHAIN: u16 = 5;
    pub(crate) const NEWRULE: u16 = 6;
    pub(crate) const GETRULE: u16 = 7;
    pub(crate) const DELRULE: u16 = 8;
    pub(crate) const NEWSET: u16 = 9;
    pub(crate) const GETSET: u16 = 10;
    pub(crate) const NEWSETELEM: u16 = 12;
    pub(crate) const GETSETELEM: u16 = 13;
    pub(crate) const DELSETELEM: u16 = 14;
    pub(crate) const NEWGEN: u16 = 15;
    pub(crate) const GETGEN: u16 = 16;
}

/// `NFT_TABLE_F_OWNER | NFT_TABLE_F_PERSIST`.
pub(crate) const OWNED: u32 = 0x2 | 0x4;
const SET_INTERVAL: u32 = 0x4;
const SET_MAP: u32 = 0x8;
const SET_ANONYMOUS_CONSTANT: u32 = 0x3;
/// `NFT_DATA_VERDICT`.
const DATA_VERDICT: u32 = 0xffff_ff00;
const INTERVAL_END: u32 = 1;
const LIST_ELEMENT: u16 = 1;

/// nft's numbers of data types; a concatenation is six bits for each.
mod datatype {
    pub(super) const INTEGER: u32 = 4;
    pub(super) const IPV4_ADDR: u32 = 7;
    pub(super) const IPV6_ADDR: u32 = 8;
    pub(super) const INET_PROTO: u32 = 12;
    pub(super) const INET_SERVICE: u32 = 13;
}

/// How a set is declared.
#[derive(Clone, Debug)]
pub(crate) struct SetType {
    /// `map` or `set`.
    pub(crate) word: &'static str,
    /// The declaration of its type, as nft prints it.
    pub(crate) text: String,
    pub(crate) interval: bool,
    key: u32,
    key_length: u32,
    data: Option<(u32, u32)>,
    userdata: Vec<u8>,
}

/// The declaration of each set.
pub(crate) fn set_type(set: SetId) -> SetType {
    use SetKind as Kind;
    match set.kind {
        Kind::Endpoints | Kind::NodePortEndpoints => endpoint_type(set),
        Kind::Frontends | Kind::NodePorts => {
            let (types, text, key_length) = frontend_key(set, set.kind == Kind::Frontends);
            SetType {
                word: "map",
                text: format!("type {text} : verdict"),
                interval: false,
                key: concatenated(&types),
                key_length,
                data: Some((DATA_VERDICT, 16)),
                userdata: userdata::verdict_map(),
            }
        }
        Kind::Masquerade | Kind::MasqueradeNodePorts => {
            let (types, text, key_length) = frontend_key(set, set.kind == Kind::Masquerade);
            plain(text, concatenated(&types), key_length, userdata::concat_set())
        }
        Kind::Hairpins => {
            let (address, name, width) = address_type(set.family);
            let key = concatenated(&[address, address]);
            plain(format!("{name} . {name}"), key, 2 * width, userdata::concat_set())
        }
        Kind::NodeAddresses | Kind::ClusterIps | Kind::LocalSources => {
            let (address, name, width) = address_type(set.family);
            let mut described = plain(name.to_owned(), address, width, userdata::plain_set());
            described.interval = set.kind == Kind::LocalSources;
            described
        }
    }
}

fn plain(text: String, key: u32, key_length: u32, userdata: Vec<u8>) -> SetType {
    let text = format!("type {text}");
    SetType { word: "set", text, interval: false, key, key_length, data: None, userdata }
}

fn endpoint_type(set: SetId) -> SetType {
    let with_address = set.kind == SetKind::Endpoints;
    let (mut types, _, key_length) = frontend_key(set, with_address);
    types.push(datatype::INTEGER);
    let (address, _, width) = address_type(set.family);
    let (daddr, daddr_text) = match set.family {
        Family::V4 => (Typeof::Ip4Daddr, "ip daddr"),
        Family::V6 => (Typeof::Ip6Daddr, "ip6 daddr"),
    };
    let mut key = vec![Typeof::L4Proto, Typeof::ThDport, Typeof::Slot];
    let mut prefix = String::new();
    if with_address {
        key.insert(0, daddr);
        prefix = format!("{daddr_text} . ");
    }
    SetType {
        word: "map",
        text: format!(
            "typeof {prefix}meta l4proto . th dport . numgen random mod 65536 : {daddr_text} . th dport"
        ),
        interval: false,
        key: concatenated(&types),
        key_length: key_length + 4,
        data: Some((concatenated(&[address, datatype::INET_SERVICE]), width + 4)),
        userdata: userdata::typeof_map(&key, &[daddr, Typeof::ThDport]),
    }
}

/// Types, text and length of address . protocol . port, with or without the address.
fn frontend_key(set: SetId, with_address: bool) -> (Vec<u32>, String, u32) {
    let (address, name, width) = address_type(set.family);
    let mut types = vec![datatype::INET_PROTO, datatype::INET_SERVICE];
    let text = "inet_proto . inet_service";
    if with_address {
        types.insert(0, address);
        return (types, format!("{name} . {text}"), width + 8);
    }
    (types, text.to_owned(), 8)
}

const fn address_type(family: Family) -> (u32, &'static str, u32) {
    match family {
        Family::V4 => (datatype::IPV4_ADDR, "ipv4_addr", 4),
        Family::V6 => (datatype::IPV6_ADDR, "ipv6_addr", 16),
    }
}

fn concatenated(types: &[u32]) -> u32 {
    types.iter().fold(0, |all, one| all << 6 | one)
}

/// Room for each set: twice what is there, so that a set is seldom made anew.
pub(crate) fn capacities(counts: &HashMap<SetId, u32>) -> HashMap<SetId, u32> {
    const LEAST: u32 = 1024;
    let room = |set: SetId| {
        let count = counts.get(&set).copied().unwrap_or_default();
        (set, count.saturating_mul(2).max(LEAST).checked_next_power_of_two().unwrap_or(u32::MAX))
    };
    SetId::all().map(room).collect()
}

/// The comment by which our table of this layout is known.
pub(crate) fn table_comment() -> String {
    format!("{TABLE_COMMENT}{:016x}", layout_fingerprint())
}

/// A message of a kind, with the family header and the table's name.
fn message(kind: u16, flags: u16) -> Message {
    let mut message = Message::new(SUBSYSTEM << 8 | kind, flags);
    message.raw(&nfnetlink(INET, 0));
    message.text(1, TABLE);
    message
}

/// A request for one of the `GET` kinds, for our table.
pub(crate) fn get(kind: u16) -> Message {
    message(kind, 0)
}

/// A request for the generation of the ruleset.
pub(crate) fn get_generation() -> Message {
    let mut message = Message::new(SUBSYSTEM << 8 | kind::GETGEN, 0);
    message.raw(&nfnetlink(0, 0));
    message
}

/// A request for the elements of a set.
pub(crate) fn get_elements(set: SetId) -> Message {
    let mut request = get(kind::GETSETELEM);
    request.text(2, &set.to_string());
    request
}

/// Makes the table.
pub(crate) fn new_table(owned: bool) -> Message {
    let mut table = message(kind::NEWTABLE, CREATE);
    if owned {
        table.u32(2, OWNED);
    }
    table.bytes(6, &userdata::comment(&table_comment()));
    table
}

/// Adopts a table that has lost its owner.
pub(crate) fn adopt_table() -> Message {
    let mut table = message(kind::NEWTABLE, 0);
    table.u32(2, OWNED);
    table
}

pub(crate) fn delete_table() -> Message {
    message(kind::DELTABLE, 0)
}

pub(crate) fn new_chain(chain: &Chain) -> Message {
    let mut out = message(kind::NEWCHAIN, CREATE);
    out.text(3, &chain.name);
    if let Some(hook) = chain.hook {
        out.nest(4, |out| {
            out.u32(1, hook.number);
            out.u32(2, u32::from_ne_bytes(hook.priority.to_ne_bytes()));
        });
        out.u32(5, 1);
        out.text(7, "nat");
    }
    out
}

pub(crate) fn delete_chain(name: &str) -> Message {
    let mut out = message(kind::DELCHAIN, 0);
    out.text(3, name);
    out
}

/// Removes all rules of a chain.
pub(crate) fn flush_chain(name: &str) -> Message {
    let mut out = message(kind::DELRULE, 0);
    out.text(2, name);
    out
}

/// Appends a rule; its anonymous set, if it has one, comes first. `ids` counts the anonymous
/// sets of the transaction.
pub(crate) fn new_rule(chain: &str, rule: &Rule, ids: &mut u32) -> Vec<Message> {
    let mut out = Vec::new();
    if rule.expressions.contains(&Expression::ServiceProtocol) {
        *ids += 1;
        out.extend(service_protocols(*ids));
    }
    let mut message = message(kind::NEWRULE, CREATE | APPEND);
    message.text(2, chain);
    message.nest(4, |message| {
        for expression in &rule.expressions {
            expression.write(message, *ids);
        }
    });
    message.bytes(7, &userdata::fingerprint(rule.fingerprint()));
    out.push(message);
    out
}

/// The anonymous set `{ tcp, udp, sctp }`.
fn service_protocols(id: u32) -> [Message; 2] {
    const NAME: &str = "__set%d";
    let mut set = message(kind::NEWSET, CREATE);
    set.text(2, NAME);
    set.u32(3, SET_ANONYMOUS_CONSTANT);
    set.u32(4, datatype::INET_PROTO);
    set.u32(5, 1);
    set.u32(10, id);
    set.nest(9, |set| set.u32(1, 3));
    let mut elements = message(kind::NEWSETELEM, CREATE);
    elements.text(2, NAME);
    elements.u32(4, id);
    elements.nest(3, |elements| {
        for protocol in shunt_model::address::Protocol::ALL {
            elements.nest(LIST_ELEMENT, |element| {
                element.nest(1, |key| key.bytes(1, &[protocol.number()]));
            });
        }
    });
    [set, elements]
}

pub(crate) fn new_set(set: SetId, capacity: u32, id: u32) -> Message {
    let described = set_type(set);
    let mut out = message(kind::NEWSET, CREATE);
    out.text(2, &set.to_string());
    let mut flags = 0;
    if described.interval {
        flags |= SET_INTERVAL;
    }
    if let Some((data, length)) = described.data {
        flags |= SET_MAP;
        out.u32(6, data);
        out.u32(7, length);
    }
    out.u32(3, flags);
    out.u32(4, described.key);
    out.u32(5, described.key_length);
    out.u32(10, id);
    out.nest(9, |out| out.u32(1, capacity));
    out.bytes(13, &described.userdata);
    out
}

/// A list of elements being written; full well before a nest's 64 KiB.
pub(crate) struct ElementList {
    pub(crate) set: SetId,
    message: Message,
    list: shunt_netlink::Mark,
    /// Where each element ends, to find the one that the kernel points at.
    pub(crate) ends: Vec<usize>,
}

/// Room for the largest element below a nest's limit.
const LIST_LIMIT: usize = 63 * 1024;

impl ElementList {
    pub(crate) fn new(set: SetId, delete: bool) -> Self {
        let (kind, flags) = if delete { (kind::DELSETELEM, 0) } else { (kind::NEWSETELEM, CREATE) };
        let mut message = message(kind, flags);
        message.text(2, &set.to_string());
        let list = message.begin(3);
        Self { set, message, list, ends: Vec::new() }
    }

    pub(crate) fn is_full(&self) -> bool {
        self.message.len() > LIST_LIMIT
    }

    pub(crate) fn push_key(&mut self, key: &[u8]) {
        self.push(key, |_| {});
    }

    pub(crate) fn push_element(&mut self, element: &Element) {
        self.push(&encode_key(element.set, &element.key), |message| match &element.value {
            Value::Member => {}
            Value::Endpoint(endpoint) => {
                message.nest(2, |data| data.bytes(1, &encode_endpoint(endpoint)));
            }
            Value::Target(target, comment) => {
                let Key::Frontend(frontend) = element.key else {
                    return;
                };
                let verdict = target.chain(&frontend).map_or(Verdict::Drop, Verdict::Goto);
                message.nest(2, |data| verdict.write(data));
                message.bytes(6, &userdata::comment(comment));
            }
        });
    }

    fn push_bound(&mut self, address: IpAddr, end: bool) {
        self.push(&encode_key(self.set, &Key::Address(address)), |message| {
            if end {
                message.u32(3, INTERVAL_END);
            }
        });
    }

    fn push(&mut self, key: &[u8], rest: impl FnOnce(&mut Message)) {
        self.message.nest(LIST_ELEMENT, |message| {
            message.nest(1, |data| data.bytes(1, key));
            rest(message);
        });
        self.ends.push(self.message.len());
    }

    pub(crate) fn finish(mut self) -> Message {
        self.message.end(self.list);
        self.message
    }
}

/// Removes every element of a set.
pub(crate) fn flush_set(set: SetId) -> Message {
    let mut out = message(kind::DELSETELEM, 0);
    out.text(2, &set.to_string());
    out
}

/// Networks as the bounds of intervals: each start, and the address after each end.
pub(crate) fn interval_list(set: SetId, networks: &[IpNet]) -> Message {
    let mut list = ElementList::new(set, false);
    let unspecified = match set.family {
        Family::V4 => IpNet::from(ipnet::Ipv4Net::default()).network(),
        Family::V6 => IpNet::from(ipnet::Ipv6Net::default()).network(),
    };
    if networks.first().is_some_and(|first| first.network() != unspecified) {
        list.push_bound(unspecified, true);
    }
    for (position, network) in networks.iter().enumerate() {
        list.push_bound(network.network(), false);
        let Some(after) = after(network.broadcast()) else {
            continue;
        };
        // The end of one is the start of the next, if they touch.
        if networks.get(position + 1).is_none_or(|next| next.network() != after) {
            list.push_bound(after, true);
        }
    }
    list.finish()
}

fn after(address: IpAddr) -> Option<IpAddr> {
    match address {
        IpAddr::V4(address) => {
            u32::from(address).checked_add(1).map(|next| IpAddr::V4(next.into()))
        }
        IpAddr::V6(address) => {
            u128::from(address).checked_add(1).map(|next| IpAddr::V6(next.into()))
        }
    }
}

/// What the kernel says of a table.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct TableInfo {
    pub(crate) flags: u32,
    pub(crate) comment: String,
    /// The port of the socket that owns it, 0 for none.
    pub(crate) owner: u32,
}

pub(crate) fn read_table(payload: &[u8]) -> TableInfo {
    let mut info = TableInfo::default();
    for attribute in body(payload) {
        match attribute.kind {
            2 => info.flags = attribute.u32_be().unwrap_or_default(),
            6 => {
                let comment = userdata::read_comment(attribute.payload).unwrap_or_default();
                comment.clone_into(&mut info.comment);
            }
            7 => info.owner = attribute.u32_be().unwrap_or_default(),
            _ => {}
        }
    }
    info
}

/// Whether an answer is about our table, and its attributes if so.
fn of_our_table(payload: &[u8]) -> Option<Vec<Attribute<'_>>> {
    if payload.first() != Some(&INET) {
        return None;
    }
    let all: Vec<_> = body(payload).collect();
    let ours = all.iter().any(|attribute| attribute.kind == 1 && attribute.text() == Some(TABLE));
    ours.then_some(all)
}

/// The name of a chain of ours, and whether it is a base chain.
pub(crate) fn read_chain(payload: &[u8]) -> Option<(String, bool)> {
    let all = of_our_table(payload)?;
    let name = all.iter().find(|attribute| attribute.kind == 3)?.text()?.to_owned();
    Some((name, all.iter().any(|attribute| attribute.kind == 4)))
}

/// Chain and fingerprint of a rule in our table; 0 for a rule that is not ours.
pub(crate) fn read_rule(payload: &[u8]) -> Option<(String, u64)> {
    let all = of_our_table(payload)?;
    let chain = all.iter().find(|attribute| attribute.kind == 2)?.text()?.to_owned();
    let userdata = all.iter().find(|attribute| attribute.kind == 7);
    let fingerprint = userdata.and_then(|data| userdata::read_fingerprint(data.payload));
    Some((chain, fingerprint.unwrap_or_default()))
}

/// What the kernel says of a set.
pub(crate) struct SetInfo {
    pub(crate) name: String,
    pub(crate) capacity: u32,
    /// Whether its type is the one that we declare.
    pub(crate) as_declared: bool,
    /// Anonymous sets belong to a rule.
    pub(crate) anonymous: bool,
}

pub(crate) fn read_set(payload: &[u8]) -> Option<SetInfo> {
    let all = of_our_table(payload)?;
    let find = |kind| all.iter().find(|attribute| attribute.kind == kind);
    let number = |kind| find(kind).and_then(Attribute::u32_be).unwrap_or_default();
    let name = find(2)?.text()?.to_owned();
    let capacity = find(9).and_then(|desc| desc.find(1)).and_then(|size| size.u32_be());
    let as_declared = SetId::parse(&name).is_some_and(|set| {
        let declared = set_type(set);
        let map = if declared.data.is_some() { SET_MAP } else { 0 };
        let interval = if declared.interval { SET_INTERVAL } else { 0 };
        number(3) == map | interval
            && number(5) == declared.key_length
            && find(6).and_then(Attribute::u32_be) == declared.data.map(|(data, _)| data)
    });
    let anonymous = number(3) & 1 != 0;
    Some(SetInfo { name, capacity: capacity.unwrap_or_default(), as_declared, anonymous })
}

/// One element read back.
pub(crate) enum Found {
    /// One that we could have written.
    Ours(Element),
    /// A bound of an interval.
    Bound(IpAddr, bool),
    /// Anything else, by its key.
    Stranger(Vec<u8>),
}

/// The elements in one answer of a dump of a set.
pub(crate) fn read_elements(set: SetId, payload: &[u8], mut each: impl FnMut(Found)) {
    let lists = body(payload).filter(|attribute| attribute.kind == 3);
    for element in lists.flat_map(|list| list.nested()) {
        if let Some(found) = read_element(set, &element) {
            each(found);
        }
    }
}

fn read_element(set: SetId, element: &Attribute<'_>) -> Option<Found> {
    let key = element.find(1)?.find(1)?.payload;
    let stranger = || Found::Stranger(key.to_vec());
    let Some(decoded) = decode_key(set, key) else {
        return Some(stranger());
    };
    if let (SetKind::LocalSources, Key::Address(address)) = (set.kind, decoded) {
        let flags = element.find(3).and_then(|flags| flags.u32_be()).unwrap_or_default();
        return Some(Found::Bound(address, flags & INTERVAL_END != 0));
    }
    let value = match set.kind {
        SetKind::Endpoints | SetKind::NodePortEndpoints => read_endpoint(set, element),
        SetKind::Frontends | SetKind::NodePorts => read_target(element),
        _ => Some(Value::Member),
    };
    Some(value.map_or_else(stranger, |value| Found::Ours(Element { set, key: decoded, value })))
}

fn read_endpoint(set: SetId, element: &Attribute<'_>) -> Option<Value> {
    let value = element.find(2)?.find(1)?.payload;
    decode_endpoint(set.family, value).map(Value::Endpoint)
}

fn read_target(element: &Attribute<'_>) -> Option<Value> {
    let verdict = element.find(2)?.find(2)?;
    let target = match verdict.find(1)?.u32_be()? {
        0 => Target::Drop,
        NFT_GOTO => Target::of_chain(verdict.find(2)?.text()?)?,
        _ => return None,
    };
    let userdata = element.find(6);
    let comment = userdata.and_then(|data| userdata::read_comment(data.payload));
    Some(Value::Target(target, Arc::from(comment.unwrap_or_default())))
}

/// The generation in an answer to [`get_generation`], or in an event, and who made it.
pub(crate) fn read_generation(payload: &[u8]) -> (u32, Option<String>) {
    let mut generation = (0, None);
    for attribute in body(payload) {
        match attribute.kind {
            1 => generation.0 = attribute.u32_be().unwrap_or_default(),
            3 => generation.1 = attribute.text().map(ToOwned::to_owned),
            _ => {}
        }
    }
    generation
}

/// The attributes after `struct nfgenmsg`.
fn body(payload: &[u8]) -> impl Iterator<Item = Attribute<'_>> {
    attributes(payload.get(4..).unwrap_or(&[]))
}
