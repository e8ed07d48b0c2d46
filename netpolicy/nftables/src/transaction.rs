//! Operations as the messages of one transaction.

use std::collections::BTreeMap;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::time::{Duration, Instant};

use shunt_model::address::{Family, address_after};
use shunt_netlink::Message;
use shunt_netpolicy::table::{Atom, Range};
use shunt_nftables::codec::{Chain, Elements, Table};

use crate::element::{Key, encode, encode_address, encode_end, encode_value};
use crate::layout;
use crate::layout::Variant;
use crate::lower::Operation;
use crate::name::{SetId, TABLE};

/// The table of policy.
pub(crate) const OURS: Table = Table::inet(TABLE);
/// The same for what is switched; it has the same sets with the same elements.
pub(crate) const BRIDGE: Table = Table::bridge(TABLE);
/// The table's comment begins so; what follows is the layout's fingerprint.
const COMMENT: &str = "shunt network policy, layout ";

/// How much longer the kernel holds what it forgets by itself: as long as the daemon lives it removes that in time, and
/// an element that is to be removed must be there.
pub(crate) const SPARE: Duration = Duration::from_secs(30);

/// The comment by which a table of this layout is known.
pub(crate) fn table_comment(chains: &[Chain<SetId>]) -> String {
    format!("{COMMENT}{:016x}", layout::layout_fingerprint(chains))
}

/// The transaction that makes the tables, with operations on them right away, in place of those that are there.
pub(crate) fn create(
    variant: Variant,
    replaced: &[Table],
    owned: bool,
    operations: &[Operation],
) -> Vec<Message> {
    let mut messages: Vec<_> = replaced.iter().map(|table| table.delete()).collect();
    let mut ids = 0;
    for (table, chains) in layout::tables(variant) {
        messages.extend(make(table, &chains, variant.counting, owned, &mut ids));
    }
    messages.extend(change(variant, operations));
    messages
}

/// Makes a table without elements. `counting`: those that rows have will count. `ids` counts the sets of the transaction.
pub(crate) fn make(
    table: Table,
    chains: &[Chain<SetId>],
    counting: bool,
    owned: bool,
    ids: &mut u32,
) -> Vec<Message> {
    let mut messages = vec![table.create(owned, &table_comment(chains))];
    for set in SetId::all() {
        *ids += 1;
        // Without a size the kernel lets them grow.
        let counting = counting && set.is_of_rows();
        messages.push(table.new_set(&set.to_string(), &layout::set_type(set), counting, 0, *ids));
    }
    messages.extend(chains.iter().map(|chain| table.new_chain(chain)));
    for chain in chains {
        for rule in &chain.rules {
            messages.extend(table.new_rule(&chain.name, rule, ids));
        }
    }
    messages
}

/// The transaction for a run of operations, in each table.
pub(crate) fn change(variant: Variant, operations: &[Operation]) -> Vec<Message> {
    let mut messages = change_of(OURS, operations);
    if variant.switched.is_some() {
        messages.extend(change_of(BRIDGE, operations));
    }
    messages
}

/// The same in one of them. What is exchanged is deleted first: the kernel does as
/// the messages say, one after the other, before anything is seen.
fn change_of(table: Table, operations: &[Operation]) -> Vec<Message> {
    let mut messages = Vec::new();
    let mut deleted: BTreeMap<SetId, Vec<&Key>> = BTreeMap::new();
    let mut added: BTreeMap<SetId, Vec<(&Key, Option<u32>)>> = BTreeMap::new();
    let mut limited: BTreeMap<SetId, Vec<Limited<'_>>> = BTreeMap::new();
    for operation in operations {
        match operation {
            Operation::Delete(set, key) => deleted.entry(*set).or_default().push(key),
            Operation::Add(set, key, value) => added.entry(*set).or_default().push((key, *value)),
            Operation::AddUntil(set, key, value, until) => {
                limited.entry(*set).or_default().push((key, *value, *until));
            }
            Operation::ReplaceNetworks(set, networks) => {
                messages.push(table.flush_set(&set.to_string()));
                messages.extend(ranges(table, *set, networks));
            }
        }
    }
    for (set, keys) in deleted {
        messages.extend(lists((table, set), true, keys.into_iter().map(|key| (key, None))));
    }
    for (set, elements) in added {
        messages.extend(lists((table, set), false, elements.into_iter()));
    }
    for (set, elements) in limited {
        messages.extend(limited_lists(table, set, &elements));
    }
    messages
}

/// An element that the kernel forgets, and when.
type Limited<'a> = (&'a Key, Option<u32>, Instant);

/// Elements that the kernel forgets.
fn limited_lists(table: Table, set: SetId, elements: &[Limited<'_>]) -> Vec<Message> {
    let (name, now) = (set.to_string(), Instant::now());
    let mut lists = Lists::new(table, &name, false);
    for (key, value, until) in elements {
        let time = until.saturating_duration_since(now) + SPARE;
        let value = value.map(encode_value);
        let value = value.as_ref().map(<[u8; 4]>::as_slice);
        let milliseconds = u64::try_from(time.as_millis()).unwrap_or(u64::MAX);
        lists.next().push_for(&encode(set, key), value, milliseconds);
    }
    lists.finish()
}

fn lists<'a>(
    (table, set): (Table, SetId),
    delete: bool,
    elements: impl Iterator<Item = (&'a Key, Option<u32>)>,
) -> Vec<Message> {
    let name = set.to_string();
    let mut lists = Lists::new(table, &name, delete);
    for (key, value) in elements {
        let value = value.map(encode_value);
        let value = value.as_ref().map(<[u8; 4]>::as_slice);
        lists.next().push_value(&encode(set, key), encode_end(key).as_deref(), value);
    }
    lists.finish()
}

/// Ranges as bounds: each start with its value, and the address after each end.
fn ranges(table: Table, set: SetId, networks: &[(Range, Atom)]) -> Vec<Message> {
    let unspecified: IpAddr = match networks.first().map(|(range, _)| Family::of(range.first)) {
        Some(Family::V6) => Ipv6Addr::UNSPECIFIED.into(),
        _ => Ipv4Addr::UNSPECIFIED.into(),
    };
    let name = set.to_string();
    let has_atoms = layout::set_type(set).data.is_some();
    let mut lists = Lists::new(table, &name, false);
    if networks.first().is_some_and(|(range, _)| range.first != unspecified) {
        lists.next().push_bound(&encode_address(unspecified), true, None);
    }
    for (range, atom) in networks {
        let value = has_atoms.then(|| encode_value(atom.0));
        let value = value.as_ref().map(<[u8; 4]>::as_slice);
        lists.next().push_bound(&encode_address(range.first), false, value);
        if let Some(after) = address_after(range.last) {
            lists.next().push_bound(&encode_address(after), true, None);
        }
    }
    lists.finish()
}

/// Lists of elements, each as long as a message can be.
struct Lists<'a> {
    table: Table,
    set: &'a str,
    delete: bool,
    open: Option<Elements>,
    messages: Vec<Message>,
}

impl<'a> Lists<'a> {
    const fn new(table: Table, set: &'a str, delete: bool) -> Self {
        Self { table, set, delete, open: None, messages: Vec::new() }
    }

    /// Where the next element goes.
    fn next(&mut self) -> &mut Elements {
        if let Some(full) = self.open.take_if(|list| list.is_full()) {
            self.messages.push(full.finish());
        }
        let Self { table, set, delete, .. } = *self;
        self.open.get_or_insert_with(|| table.elements(set, delete))
    }

    fn finish(mut self) -> Vec<Message> {
        self.messages.extend(self.open.take().map(Elements::finish));
        self.messages
    }
}
