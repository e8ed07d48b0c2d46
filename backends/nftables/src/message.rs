//! Messages of nf_tables, as we write them (`include/uapi/linux/netfilter/nf_tables.h`).

use std::fmt::Display;
use std::net::IpAddr;

use ipnet::IpNet;
use shunt_model::address::{Family, address_after};
use shunt_netlink::{Mark, Message, nfnetlink};

use crate::answer::Client;
use crate::counting::{Count, Counting};
use crate::declaration::{self, SetType, set_type};
use crate::element::{Element, Key, Place, Value, encode_endpoint, encode_key, encode_key_end};
use crate::expression::{Expression, Verdict};
use crate::forwarding::Forwarding;
use crate::layout::layout_fingerprint;
use crate::name::{SetId, TABLE, TABLE_COMMENT};
use crate::rule::{Chain, Rule};
use crate::userdata;

/// `NFNL_SUBSYS_NFTABLES`.
pub(crate) const SUBSYSTEM: u16 = 10;
/// `NFPROTO_INET`, `NFPROTO_BRIDGE`.
pub(crate) const INET: u8 = 1;
const BRIDGE: u8 = 7;
/// `NLM_F_CREATE`, `NLM_F_APPEND`.
const CREATE: u16 = 0x400;
const APPEND: u16 = 0x800;

/// `NFT_MSG_*`.
pub mod kind {
    /// Makes or adds.
    pub const NEWTABLE: u16 = 0;
    /// Asks for.
    pub const GETTABLE: u16 = 1;
    /// Removes.
    pub const DELTABLE: u16 = 2;
    /// Makes or adds.
    pub const NEWCHAIN: u16 = 3;
    /// Asks for.
    pub const GETCHAIN: u16 = 4;
    /// Removes.
    pub const DELCHAIN: u16 = 5;
    /// Makes or adds.
    pub const NEWRULE: u16 = 6;
    /// Asks for.
    pub const GETRULE: u16 = 7;
    /// Removes.
    pub const DELRULE: u16 = 8;
    /// Makes or adds.
    pub const NEWSET: u16 = 9;
    /// Asks for.
    pub const GETSET: u16 = 10;
    /// Makes or adds.
    pub const NEWSETELEM: u16 = 12;
    /// Asks for.
    pub const GETSETELEM: u16 = 13;
    /// Removes.
    pub const DELSETELEM: u16 = 14;
    /// Makes or adds.
    pub const NEWGEN: u16 = 15;
    /// Asks for.
    pub const GETGEN: u16 = 16;
}

/// `NFT_TABLE_F_PERSIST`: the table outlives its owner.
pub(crate) const PERSIST: u32 = 0x4;
/// `NFT_TABLE_F_OWNER | NFT_TABLE_F_PERSIST`.
pub(crate) const OWNED: u32 = 0x2 | PERSIST;
pub(crate) const SET_INTERVAL: u32 = 0x4;
/// `NFT_SET_TIMEOUT`, `NFT_SET_EVAL`.
pub(crate) const SET_TIMEOUT: u32 = 0x10;
pub(crate) const SET_EVAL: u32 = 0x20;
pub(crate) const SET_MAP: u32 = 0x8;
pub(crate) const SET_CONCAT: u32 = 0x80;
pub(crate) const SET_ANONYMOUS: u32 = 0x1;
const SET_CONSTANT: u32 = 0x2;
pub(crate) const INTERVAL_END: u32 = 1;
const LIST_ELEMENT: u16 = 1;

/// The comment by which our table of this layout is known.
pub(crate) fn table_comment(forwarding: Forwarding) -> String {
    format!("{TABLE_COMMENT}{:016x}", layout_fingerprint(forwarding))
}

/// The messages about one table.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Table {
    /// Its name.
    pub name: &'static str,
    /// `NFPROTO_*`.
    pub(crate) family: u8,
}

/// The table of Services.
pub(crate) const OURS: Table = Table::inet(TABLE);

impl Table {
    /// One of family `inet`.
    #[must_use]
    pub const fn inet(name: &'static str) -> Self {
        Self { name, family: INET }
    }

    /// One of family `bridge`: for what is switched.
    #[must_use]
    pub const fn bridge(name: &'static str) -> Self {
        Self { name, family: BRIDGE }
    }

    /// A message of a kind, with the family header and the table's name.
    fn message(self, kind: u16, flags: u16) -> Message {
        let mut message = Message::new(SUBSYSTEM << 8 | kind, flags);
        message.raw(&nfnetlink(self.family, 0));
        message.text(1, self.name);
        message
    }

    /// A request for one of the `GET` kinds.
    #[must_use]
    pub fn get(self, kind: u16) -> Message {
        self.message(kind, 0)
    }

    /// A request for the elements of a set.
    #[must_use]
    pub fn get_elements(self, set: &str) -> Message {
        let mut request = self.get(kind::GETSETELEM);
        request.text(2, set);
        request
    }

    /// Makes the table.
    #[must_use]
    pub fn create(self, owned: bool, comment: &str) -> Message {
        let mut table = self.message(kind::NEWTABLE, CREATE);
        if owned {
            table.u32(2, OWNED);
        }
        table.bytes(6, &userdata::comment(comment));
        table
    }

    /// Adopts a table that has lost its owner.
    pub(crate) fn adopt(self) -> Message {
        let mut table = self.message(kind::NEWTABLE, 0);
        table.u32(2, OWNED);
        table
    }

    /// Removes the table with all that is in it.
    #[must_use]
    pub fn delete(self) -> Message {
        self.message(kind::DELTABLE, 0)
    }

    /// Makes a chain without rules.
    #[must_use]
    pub fn new_chain<S>(self, chain: &Chain<S>) -> Message {
        let mut out = self.message(kind::NEWCHAIN, CREATE);
        out.text(3, &chain.name);
        if let Some(hook) = chain.hook {
            out.nest(4, |out| {
                out.u32(1, hook.number);
                out.u32(2, u32::from_ne_bytes(hook.priority.to_ne_bytes()));
            });
            out.u32(5, 1);
            out.text(7, hook.kind);
        }
        out
    }

    pub(crate) fn delete_chain(self, name: &str) -> Message {
        let mut out = self.message(kind::DELCHAIN, 0);
        out.text(3, name);
        out
    }

    fn flush_chain(self, name: &str) -> Message {
        let mut out = self.message(kind::DELRULE, 0);
        out.text(2, name);
        out
    }

    /// Appends a rule; its anonymous set, if it has one, comes first. `ids` counts the anonymous
    /// sets of the transaction.
    pub fn new_rule<S: Display + PartialEq>(
        self,
        chain: &str,
        rule: &Rule<S>,
        ids: &mut u32,
    ) -> Vec<Message> {
        let mut out = Vec::new();
        if rule.expressions.contains(&Expression::ServiceProtocol) {
            *ids += 1;
            out.extend(self.service_protocols(*ids));
        }
        let mut message = self.message(kind::NEWRULE, CREATE | APPEND);
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
    fn service_protocols(self, id: u32) -> [Message; 2] {
        const NAME: &str = "__set%d";
        let mut set = self.message(kind::NEWSET, CREATE);
        set.text(2, NAME);
        set.u32(3, SET_ANONYMOUS | SET_CONSTANT);
        set.u32(4, declaration::INET_PROTO);
        set.u32(5, 1);
        set.u32(10, id);
        set.nest(9, |set| set.u32(1, 3));
        let mut elements = self.message(kind::NEWSETELEM, CREATE);
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

    /// Makes a set; `id` is one of the transaction's own.
    #[must_use]
    pub fn new_set(
        self,
        name: &str,
        described: &SetType,
        counting: bool,
        capacity: u32,
        id: u32,
    ) -> Message {
        /// `NFTA_SET_EXPR`: what every element begins with.
        const EXPRESSION: u16 = 17;
        let mut out = self.message(kind::NEWSET, CREATE);
        out.text(2, name);
        if let Some((data, length)) = described.data {
            out.u32(6, data);
            out.u32(7, length);
        }
        out.u32(3, described.flags());
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
        if counting {
            write_counter(&mut out, EXPRESSION, Count::default());
        }
        out
    }

    /// Removes every element of a set.
    #[must_use]
    pub fn flush_set(self, set: &str) -> Message {
        let mut out = self.message(kind::DELSETELEM, 0);
        out.text(2, set);
        out
    }

    /// A list of elements to add or delete.
    #[must_use]
    pub fn elements(self, set: &str, delete: bool) -> Elements {
        let (kind, flags) = if delete { (kind::DELSETELEM, 0) } else { (kind::NEWSETELEM, CREATE) };
        let mut message = self.message(kind, flags);
        message.text(2, set);
        let list = message.begin(3);
        Elements { message, list, ends: Vec::new() }
    }

    /// A list of elements of a set to ask for.
    pub(crate) fn look_up(self, set: &str) -> Elements {
        let mut message = self.get_elements(set);
        let list = message.begin(3);
        Elements { message, list, ends: Vec::new() }
    }
}

/// A request for the generation of the ruleset.
pub(crate) fn get_generation() -> Message {
    let mut message = Message::new(SUBSYSTEM << 8 | kind::GETGEN, 0);
    message.raw(&nfnetlink(0, 0));
    message
}

/// A request for one of the `GET` kinds, for our table.
pub(crate) fn get(kind: u16) -> Message {
    OURS.get(kind)
}

/// A request for the elements of a set.
pub(crate) fn get_elements(set: SetId) -> Message {
    OURS.get_elements(&set.to_string())
}

/// Makes the table.
pub(crate) fn new_table(owned: bool, forwarding: Forwarding) -> Message {
    OURS.create(owned, &table_comment(forwarding))
}

pub(crate) fn delete_table() -> Message {
    OURS.delete()
}

pub(crate) fn new_chain(chain: &Chain) -> Message {
    OURS.new_chain(chain)
}

pub(crate) fn delete_chain(name: &str) -> Message {
    OURS.delete_chain(name)
}

/// Removes all rules of a chain.
pub(crate) fn flush_chain(name: &str) -> Message {
    OURS.flush_chain(name)
}

/// Appends a rule; see [`Table::new_rule`].
pub(crate) fn new_rule(chain: &str, rule: &Rule, ids: &mut u32) -> Vec<Message> {
    OURS.new_rule(chain, rule, ids)
}

pub(crate) fn new_set(set: SetId, counting: Counting, capacity: u32, id: u32) -> Message {
    OURS.new_set(&set.to_string(), &set_type(set), counting.counts(set), capacity, id)
}

/// A counter that goes on from there.
fn write_counter(out: &mut Message, kind: u16, count: Count) {
    out.nest(kind, |out| {
        out.text(1, "counter");
        out.nest(2, |out| {
            out.bytes(1, &count.bytes.to_be_bytes());
            out.bytes(2, &count.packets.to_be_bytes());
        });
    });
}

/// A list of elements of any set being written; full well before a nest's 64 KiB.
pub struct Elements {
    message: Message,
    list: Mark,
    ends: Vec<usize>,
}

impl Elements {
    /// Whether another list has to be begun.
    #[must_use]
    pub fn is_full(&self) -> bool {
        self.message.len() > LIST_LIMIT
    }

    /// Adds a key, and what `rest` writes beside it.
    pub fn push(&mut self, key: &[u8], rest: impl FnOnce(&mut Message)) {
        self.message.nest(LIST_ELEMENT, |message| {
            message.nest(1, |data| data.bytes(1, key));
            rest(message);
        });
        self.ends.push(self.message.len());
    }

    /// Adds a key, with its other end if it is a range, and its value if it is of a map.
    pub fn push_value(&mut self, key: &[u8], end: Option<&[u8]>, value: Option<&[u8]>) {
        self.push(key, |message| {
            if let Some(value) = value {
                message.nest(2, |data| data.bytes(1, value));
            }
            write_end(message, end);
        });
    }

    /// The same of an element that the kernel forgets after so many milliseconds.
    pub fn push_for(&mut self, key: &[u8], value: Option<&[u8]>, milliseconds: u64) {
        self.push(key, |message| {
            if let Some(value) = value {
                message.nest(2, |data| data.bytes(1, value));
            }
            message.bytes(4, &milliseconds.to_be_bytes());
        });
    }

    /// Adds a bound of an interval, which begins with a value or ends.
    pub fn push_bound(&mut self, address: &[u8], end: bool, value: Option<&[u8]>) {
        self.push(address, |message| {
            if end {
                message.u32(3, INTERVAL_END);
            }
            if let Some(value) = value {
                message.nest(2, |data| data.bytes(1, value));
            }
        });
    }

    /// The message.
    #[must_use]
    pub fn finish(mut self) -> Message {
        self.message.end(self.list);
        self.message
    }
}

/// A list of elements of a set of ours being written.
pub(crate) struct ElementList {
    pub(crate) set: SetId,
    elements: Elements,
}

/// Room for the largest element below a nest's limit.
const LIST_LIMIT: usize = 63 * 1024;

impl ElementList {
    pub(crate) fn new(set: SetId, delete: bool) -> Self {
        Self { set, elements: OURS.elements(&set.to_string(), delete) }
    }

    pub(crate) fn is_full(&self) -> bool {
        self.elements.is_full()
    }

    /// Where each element ends, to find the one that the kernel points at.
    pub(crate) fn ends(&self) -> &[usize] {
        &self.elements.ends
    }

    /// A key alone, with its other end if it is a range.
    pub(crate) fn push_key(&mut self, key: &[u8], end: Option<&[u8]>) {
        self.push(key, |message| write_end(message, end));
    }

    /// An element, which counts on from there, if that is given.
    pub(crate) fn push_element(&mut self, element: &Element, count: Option<Count>) {
        /// `NFTA_SET_ELEM_EXPR`
        const EXPRESSION: u16 = 7;
        self.push(&encode_key(element.set, &element.key), |message| {
            write_value(message, element);
            if let Some(count) = count {
                write_counter(message, EXPRESSION, count);
            }
        });
    }

    /// A client that is remembered.
    pub(crate) fn push_client(&mut self, client: &Client) {
        self.push(&client.key, |message| {
            message.nest(2, |data| data.bytes(1, &client.value));
            message.bytes(4, &client.timeout.to_be_bytes());
            message.bytes(5, &client.expires.to_be_bytes());
        });
    }

    fn push_bound(&mut self, address: IpAddr, end: bool) {
        self.elements.push_bound(&encode_key(self.set, &Key::Address(address)), end, None);
    }

    fn push(&mut self, key: &[u8], rest: impl FnOnce(&mut Message)) {
        self.elements.push(key, rest);
    }

    pub(crate) fn finish(self) -> Message {
        self.elements.finish()
    }
}

/// What stands beside an element's key.
fn write_value(message: &mut Message, element: &Element) {
    match &element.value {
        Value::Member => write_end(message, encode_key_end(&element.key).as_deref()),
        Value::Id(id) => message.nest(2, |data| data.bytes(1, &id.to_ne_bytes())),
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
    }
}

fn write_end(message: &mut Message, end: Option<&[u8]>) {
    if let Some(end) = end {
        message.nest(10, |data| data.bytes(1, end));
    }
}

/// Removes every element of a set.
pub(crate) fn flush_set(set: SetId) -> Message {
    OURS.flush_set(&set.to_string())
}

/// Networks as the bounds of intervals: each start, and the address after each end.
pub(crate) fn interval_list(set: SetId, networks: &[IpNet]) -> Message {
    let mut list = ElementList::new(set, false);
    let unspecified = match set.network_family() {
        Family::V4 => IpNet::from(ipnet::Ipv4Net::default()).network(),
        Family::V6 => IpNet::from(ipnet::Ipv6Net::default()).network(),
    };
    if networks.first().is_some_and(|first| first.network() != unspecified) {
        list.push_bound(unspecified, true);
    }
    for network in networks {
        list.push_bound(network.network(), false);
        // Also where the next one begins right there: the kernel wants each to end.
        if let Some(after) = address_after(network.broadcast()) {
            list.push_bound(after, true);
        }
    }
    list.finish()
}
