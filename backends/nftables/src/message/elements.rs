//! Lists of elements, as we write them.

use std::net::IpAddr;

use ipnet::IpNet;
use shunt_model::address::{Family, address_after};
use shunt_netlink::{Mark, Message};

use super::{INTERVAL_END, LIST_ELEMENT, OURS};
use crate::answer::Client;
use crate::counting::Count;
use crate::element::{Element, Key, Place, Value, encode_endpoint, encode_key, encode_key_end};
use crate::expression::Verdict;
use crate::name::SetId;
use crate::userdata;

/// Room for the largest element below a nest's limit.
const LIST_LIMIT: usize = 63 * 1024;

/// A counter that goes on from there.
pub(super) fn write_counter(out: &mut Message, kind: u16, count: Count) {
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
    /// A list at the end of a message that names the set.
    pub(super) fn begun(mut message: Message) -> Self {
        /// `NFTA_SET_ELEM_LIST_ELEMENTS`
        const ELEMENTS: u16 = 3;
        let list = message.begin(ELEMENTS);
        Self { message, list, ends: Vec::new() }
    }

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
