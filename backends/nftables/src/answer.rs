//! What the kernel answers, read. What is none of ours or malformed is never an error here: a
//! newer kernel may say more than we know.

use std::net::IpAddr;
use std::sync::Arc;

use shunt_netlink::{Attribute, attributes};

use crate::counting::Count;
use crate::declaration::{SetType, set_type};
use crate::element::{Element, Key, Place, Target, Value, decode_endpoint, decode_key};
use crate::expression::NFT_GOTO;
use crate::message::{INTERVAL_END, OURS, SET_ANONYMOUS, Table};
use crate::name::SetId;
use crate::userdata;

/// What the kernel says of a table.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct TableInfo {
    /// `NFT_TABLE_F_*`.
    pub flags: u32,
    /// Its comment.
    pub comment: String,
    /// The port of the socket that owns it, 0 for none.
    pub owner: u32,
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

/// Whether an answer is about a table, and its attributes if so.
fn of_table(table: Table, payload: &[u8]) -> Option<Vec<Attribute<'_>>> {
    if payload.first() != Some(&table.family) {
        return None;
    }
    let all: Vec<_> = body(payload).collect();
    let ours =
        all.iter().any(|attribute| attribute.kind == 1 && attribute.text() == Some(table.name));
    ours.then_some(all)
}

/// The name of a chain of the table, and whether it is a base chain.
#[must_use]
pub fn read_chain(table: Table, payload: &[u8]) -> Option<(String, bool)> {
    let all = of_table(table, payload)?;
    let name = all.iter().find(|attribute| attribute.kind == 3)?.text()?.to_owned();
    Some((name, all.iter().any(|attribute| attribute.kind == 4)))
}

/// Chain and fingerprint of a rule in the table; 0 for a rule that is not ours.
#[must_use]
pub fn read_rule(table: Table, payload: &[u8]) -> Option<(String, u64)> {
    let all = of_table(table, payload)?;
    let chain = all.iter().find(|attribute| attribute.kind == 2)?.text()?.to_owned();
    let userdata = all.iter().find(|attribute| attribute.kind == 7);
    let fingerprint = userdata.and_then(|data| userdata::read_fingerprint(data.payload));
    Some((chain, fingerprint.unwrap_or_default()))
}

/// Chain and packets counted of a rule in the table that has a counter.
#[must_use]
pub fn read_counter(table: Table, payload: &[u8]) -> Option<(String, u64)> {
    let all = of_table(table, payload)?;
    let chain = all.iter().find(|attribute| attribute.kind == 2)?.text()?.to_owned();
    let expressions = all.iter().find(|attribute| attribute.kind == 4)?;
    let count = expressions.nested().find_map(|expression| read_count(&expression))?;
    Some((chain, count.packets))
}

/// What an expression has counted, if it is a counter.
fn read_count(expression: &Attribute<'_>) -> Option<Count> {
    if expression.find(1)?.text()? != "counter" {
        return None;
    }
    let data = expression.find(2)?;
    let number = |kind| Some(u64::from_be_bytes(data.find(kind)?.payload.try_into().ok()?));
    Some(Count { bytes: number(1)?, packets: number(2)? })
}

/// What the kernel says of a set of any table.
#[derive(Clone, Debug)]
pub struct RawSet {
    /// Its name.
    pub name: String,
    flags: u32,
    key_length: u32,
    data: Option<u32>,
    /// How many elements it has room for.
    pub capacity: u32,
    /// How many elements it has, if the kernel is new enough to say (`NFTA_SET_COUNT`).
    pub count: Option<u32>,
    /// Whether every element has a counter (`NFTA_SET_EXPR`).
    pub counts: bool,
}

impl RawSet {
    /// Whether it belongs to a rule.
    #[must_use]
    pub const fn is_anonymous(&self) -> bool {
        self.flags & SET_ANONYMOUS != 0
    }

    /// Whether its type is this.
    #[must_use]
    pub fn is(&self, declared: &SetType) -> bool {
        self.flags == declared.flags()
            && self.key_length == declared.key_length
            && self.data == declared.data.map(|(data, _)| data)
    }
}

/// A set of the table.
#[must_use]
pub fn read_raw_set(table: Table, payload: &[u8]) -> Option<RawSet> {
    let all = of_table(table, payload)?;
    let find = |kind| all.iter().find(|attribute| attribute.kind == kind);
    let number = |kind| find(kind).and_then(Attribute::u32_be);
    let capacity = find(9).and_then(|desc| desc.find(1)).and_then(|size| size.u32_be());
    Some(RawSet {
        name: find(2)?.text()?.to_owned(),
        flags: number(3).unwrap_or_default(),
        key_length: number(5).unwrap_or_default(),
        data: number(6),
        capacity: capacity.unwrap_or_default(),
        count: number(20),
        counts: find(17).is_some_and(|expression| read_count(expression).is_some()),
    })
}

/// What the kernel says of a set.
pub(crate) struct SetInfo {
    pub(crate) name: String,
    pub(crate) capacity: u32,
    /// Whether its type is the one that we declare.
    pub(crate) as_declared: bool,
    /// Anonymous sets belong to a rule.
    pub(crate) anonymous: bool,
    /// How many elements it has, if the kernel is new enough to say (`NFTA_SET_COUNT`).
    pub(crate) count: Option<u32>,
    /// Whether its elements count.
    pub(crate) counts: bool,
}

pub(crate) fn read_set(payload: &[u8]) -> Option<SetInfo> {
    let set = read_raw_set(OURS, payload)?;
    let as_declared = SetId::parse(&set.name).is_some_and(|id| set.is(&set_type(id)));
    let anonymous = set.is_anonymous();
    let RawSet { name, capacity, count, counts, .. } = set;
    Some(SetInfo { name, capacity, as_declared, anonymous, count, counts })
}

/// An element of any set, as the kernel tells it.
#[derive(Clone, Copy, Debug)]
pub struct RawElement<'a> {
    /// The key.
    pub key: &'a [u8],
    /// The other end of the key, if it is a range.
    pub end: Option<&'a [u8]>,
    /// The value, of a data map.
    pub value: Option<&'a [u8]>,
    /// Whether it only ends an interval.
    pub ends_interval: bool,
    /// In how many milliseconds the kernel forgets it, if it does.
    pub expires: Option<u64>,
    /// What it has counted, if it has a counter.
    pub count: Option<Count>,
}

/// The elements in one answer of a dump of a set.
pub fn read_raw_elements(payload: &[u8], mut each: impl FnMut(RawElement<'_>)) {
    let lists = body(payload).filter(|attribute| attribute.kind == 3);
    for element in lists.flat_map(|list| list.nested()) {
        let Some(key) = element.find(1).and_then(|key| key.find(1)) else { continue };
        let part = |kind| element.find(kind).and_then(|part| part.find(1)).map(|data| data.payload);
        let flags = element.find(3).and_then(|flags| flags.u32_be()).unwrap_or_default();
        each(RawElement {
            key: key.payload,
            end: part(10),
            value: part(2),
            ends_interval: flags & INTERVAL_END != 0,
            expires: element
                .find(5)
                .and_then(|expires| expires.payload.try_into().ok().map(u64::from_be_bytes)),
            count: element.find(7).and_then(|expression| read_count(&expression)),
        });
    }
}

/// One element read back.
pub(crate) enum Found {
    /// One that we could have written.
    Ours(Element),
    /// A bound of an interval.
    Bound(IpAddr, bool),
    /// Anything else.
    Stranger(Stranger),
}

/// An element that we would never write, by its key.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Stranger {
    pub(crate) set: SetId,
    pub(crate) key: Vec<u8>,
    /// The other end of the key, if it is a range.
    pub(crate) end: Option<Vec<u8>>,
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

/// The elements of ours in an answer that have counted, and what.
pub(crate) fn read_counts(set: SetId, payload: &[u8], mut each: impl FnMut(&Element, Count)) {
    let lists = body(payload).filter(|attribute| attribute.kind == 3);
    for element in lists.flat_map(|list| list.nested()) {
        let count = element.find(7).and_then(|expression| read_count(&expression));
        if let (Some(Found::Ours(element)), Some(count)) = (read_element(set, &element), count) {
            each(&element, count);
        }
    }
}

/// A client that session affinity remembers, in the kernel's own words: we only pass it on.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Client {
    pub(crate) key: Vec<u8>,
    pub(crate) value: Vec<u8>,
    /// For how long it is remembered after a connection, in milliseconds.
    pub(crate) timeout: u64,
    /// How long it still is, in milliseconds.
    pub(crate) expires: u64,
}

/// The clients in an answer.
pub(crate) fn read_clients(payload: &[u8], mut each: impl FnMut(Client)) {
    let lists = body(payload).filter(|attribute| attribute.kind == 3);
    for element in lists.flat_map(|list| list.nested()) {
        let data = |kind| Some(element.find(kind)?.find(1)?.payload.to_vec());
        let time = |kind| Some(u64::from_be_bytes(element.find(kind)?.payload.try_into().ok()?));
        let client = || {
            let (timeout, expires) = (time(4)?, time(5)?);
            Some(Client { key: data(1)?, value: data(2)?, timeout, expires })
        };
        client().into_iter().for_each(&mut each);
    }
}

fn read_element(set: SetId, element: &Attribute<'_>) -> Option<Found> {
    let key = element.find(1)?.find(1)?.payload;
    let end = element.find(10).and_then(|end| end.find(1)).map(|end| end.payload);
    let stranger =
        || Found::Stranger(Stranger { set, key: key.to_vec(), end: end.map(<[u8]>::to_vec) });
    let Some(decoded) = decode_key(set, key, end) else {
        return Some(stranger());
    };
    if let (true, Key::Address(address)) = (set.holds_networks(), decoded) {
        let flags = element.find(3).and_then(|flags| flags.u32_be()).unwrap_or_default();
        return Some(Found::Bound(address, flags & INTERVAL_END != 0));
    }
    let value = match (Place::of(set, &decoded), decoded) {
        (Some(_), _) if set.holds_ids() => read_id(element),
        (Some(_), Key::Slot(..) | Key::Id(..)) => read_endpoint(set, element),
        (Some(place), _) => read_target(&place, element),
        (None, _) => Some(Value::Member),
    };
    Some(value.map_or_else(stranger, |value| Found::Ours(Element { set, key: decoded, value })))
}

fn read_id(element: &Attribute<'_>) -> Option<Value> {
    let value = element.find(2)?.find(1)?.payload;
    Some(Value::Id(u32::from_ne_bytes(value.try_into().ok()?)))
}

fn read_endpoint(set: SetId, element: &Attribute<'_>) -> Option<Value> {
    let value = element.find(2)?.find(1)?.payload;
    decode_endpoint(set.family, value).map(Value::Endpoint)
}

fn read_target(place: &Place, element: &Attribute<'_>) -> Option<Value> {
    let verdict = element.find(2)?.find(2)?;
    let target = match verdict.find(1)?.u32_be()? {
        0 => Target::Drop,
        NFT_GOTO => {
            let name = verdict.find(2)?.text()?;
            // A chain of ours, but not of this place, is no target of this place.
            Target::of_chain(name).filter(|target| target.chain(place).as_deref() == Some(name))?
        }
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

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::message::INET;

    proptest! {
        #[test]
        fn no_answer_makes_a_reader_fail(payload in proptest::collection::vec(any::<u8>(), 0..200)) {
            let mut ours = vec![INET, 0, 0, 0, 10, 0, 1, 0];
            ours.extend_from_slice(b"shunt\0\0\0");
            ours.extend_from_slice(&payload);
            for payload in [&payload, &ours] {
                read_table(payload);
                let _ = read_chain(OURS, payload);
                let _ = read_rule(OURS, payload);
                read_raw_elements(payload, |_| {});
                read_set(payload);
                read_generation(payload);
                read_clients(payload, |_| {});
                for set in SetId::all() {
                    read_elements(set, payload, |_| {});
                    read_counts(set, payload, |_, _| {});
                }
            }
        }
    }
}
