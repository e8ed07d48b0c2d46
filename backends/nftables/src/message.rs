//! Messages of nf_tables, as we write them (`include/uapi/linux/netfilter/nf_tables.h`).

use std::net::IpAddr;

use ipnet::IpNet;
use shunt_model::address::Family;
use shunt_netlink::{Mark, Message, nfnetlink};

use crate::declaration::{self, set_type};
use crate::element::{Element, Key, Place, Value, encode_endpoint, encode_key, encode_key_end};
use crate::expression::{Expression, Verdict};
use crate::layout::{Chain, Rule, layout_fingerprint};
use crate::name::{SetId, TABLE, TABLE_COMMENT};
use crate::userdata;

/// `NFNL_SUBSYS_NFTABLES`.
pub(crate) const SUBSYSTEM: u16 = 10;
/// `NFPROTO_INET`.
pub(crate) const INET: u8 = 1;
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

/// `NFT_TABLE_F_PERSIST`: the table outlives its owner.
pub(crate) const PERSIST: u32 = 0x4;
/// `NFT_TABLE_F_OWNER | NFT_TABLE_F_PERSIST`.
pub(crate) const OWNED: u32 = 0x2 | PERSIST;
pub(crate) const SET_INTERVAL: u32 = 0x4;
pub(crate) const SET_MAP: u32 = 0x8;
pub(crate) const SET_CONCAT: u32 = 0x80;
pub(crate) const SET_ANONYMOUS: u32 = 0x1;
const SET_CONSTANT: u32 = 0x2;
pub(crate) const INTERVAL_END: u32 = 1;
const LIST_ELEMENT: u16 = 1;

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
    set.u32(3, SET_ANONYMOUS | SET_CONSTANT);
    set.u32(4, declaration::INET_PROTO);
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
    if !described.fields.is_empty() {
        flags |= SET_CONCAT;
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
    out.nest(9, |out| {
        out.u32(1, capacity);
        if !described.fields.is_empty() {
            out.nest(2, |out| {
                for length in &described.fields {
                    out.nest(LIST_ELEMENT, |out| out.u32(1, *length));
                }
            });
        }
    });
    out.bytes(13, &described.userdata);
    out
}

/// A list of elements being written; full well before a nest's 64 KiB.
pub(crate) struct ElementList {
    pub(crate) set: SetId,
    message: Message,
    list: Mark,
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

    /// A key alone, with its other end if it is a range.
    pub(crate) fn push_key(&mut self, key: &[u8], end: Option<&[u8]>) {
        self.push(key, |message| write_end(message, end));
    }

    pub(crate) fn push_element(&mut self, element: &Element) {
        self.push(&encode_key(element.set, &element.key), |message| match &element.value {
            Value::Member => write_end(message, encode_key_end(&element.key).as_deref()),
            Value::Endpoint(endpoint) => {
                message.nest(2, |data| data.bytes(1, &encode_endpoint(endpoint)));
            }
            Value::Target(target, comment) => {
                let place = Place::of(element.set, &element.key);
                let chain = place.and_then(|place| target.chain(&place));
                let verdict = chain.map_or(Verdict::Drop, Verdict::Goto);
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

fn write_end(message: &mut Message, end: Option<&[u8]>) {
    if let Some(end) = end {
        message.nest(10, |data| data.bytes(1, end));
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
