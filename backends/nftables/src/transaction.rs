//! Operations as the messages of one transaction.

use std::collections::BTreeMap;

use shunt_netlink::{Message, Rejection};

use crate::answer::{Client, Stranger};
use crate::counting::Carried;
use crate::diff::Operation;
use crate::element::{Key, encode_key, encode_key_end};
use crate::installed::Installed;
use crate::layout;
use crate::message::{self, ElementList};
use crate::name::SetId;
use crate::rule::Chain;

/// The messages of one transaction, and which operation each element came from.
#[derive(Default)]
pub(crate) struct Transaction {
    pub(crate) messages: Vec<Message>,
    /// For a message that lists elements: where each ends, and its operation.
    origins: BTreeMap<usize, Vec<(usize, usize)>>,
    anonymous_sets: u32,
}

/// What only the kernel knows of a table, handed on to the one that replaces it.
#[derive(Default)]
pub(crate) struct Kept {
    /// What elements have counted.
    pub(crate) counts: Carried,
    /// The clients that session affinity remembers.
    pub(crate) clients: Vec<(SetId, Vec<Client>)>,
}

impl Transaction {
    /// One transaction for a run of operations. An element that is exchanged is deleted first:
    /// the kernel does as the messages say, one after the other, before anything is seen.
    pub(crate) fn of(operations: &[Operation]) -> Self {
        Self::carrying(operations, &Carried::new())
    }

    /// The same, with elements that count on from what others have counted.
    pub(crate) fn carrying(operations: &[Operation], carried: &Carried) -> Self {
        let mut transaction = Self::default();
        transaction.extend(operations, carried);
        transaction
    }

    /// Adds a run of operations.
    fn extend(&mut self, operations: &[Operation], carried: &Carried) {
        for operation in operations {
            match operation {
                Operation::AddPool(pool) => self.chain(&layout::pool(*pool)),
                Operation::ReplaceNetworks(set, networks) => {
                    self.messages.push(message::flush_set(*set));
                    if !networks.is_empty() {
                        self.messages.push(message::interval_list(*set, networks));
                    }
                }
                Operation::DeletePool(_) | Operation::Add(_) | Operation::Delete(..) => {}
            }
        }
        self.elements(operations, true, carried);
        self.elements(operations, false, carried);
        // Emptied first: one may go to another.
        for remove in [message::flush_chain, message::delete_chain] {
            for operation in operations {
                if let Operation::DeletePool(pool) = operation {
                    self.messages.push(remove(&pool.to_string()));
                }
            }
        }
    }

    /// Adds a chain with its rules.
    pub(crate) fn chain(&mut self, chain: &Chain) {
        self.messages.push(message::new_chain(chain));
        self.rules(chain);
    }

    /// Adds the rules of a chain that is there.
    pub(crate) fn rules(&mut self, chain: &Chain) {
        for rule in &chain.rules {
            let messages = message::new_rule(&chain.name, rule, &mut self.anonymous_sets);
            self.messages.extend(messages);
        }
    }

    /// The transaction that makes the table, with operations on it right away; where there is one it
    /// is replaced, and hands on what only the kernel knew.
    pub(crate) fn table(
        installed: &Installed,
        replace: bool,
        owned: bool,
        operations: &[Operation],
        kept: &Kept,
    ) -> Self {
        let mut transaction = Self::default();
        if replace {
            transaction.messages.push(message::delete_table());
        }
        transaction.messages.push(message::new_table(owned, installed.forwarding));
        for set in SetId::all() {
            let id = transaction.set_id();
            let capacity = installed.capacity.get(&set).copied().unwrap_or_default();
            transaction.messages.push(message::new_set(set, installed.counting, capacity, id));
        }
        let chains = layout::chains(installed.forwarding);
        for chain in &chains {
            transaction.messages.push(message::new_chain(chain));
        }
        for chain in &chains {
            transaction.rules(chain);
        }
        transaction.extend(operations, &kept.counts);
        for (set, clients) in &kept.clients {
            transaction.clients(*set, clients);
        }
        transaction
    }

    /// Has clients remembered.
    fn clients(&mut self, set: SetId, clients: &[Client]) {
        let mut list = ElementList::new(set, false);
        for client in clients {
            list.push_client(client);
            if list.is_full() {
                let full = std::mem::replace(&mut list, ElementList::new(set, false));
                self.messages.push(full.finish());
            }
        }
        if !list.ends().is_empty() {
            self.messages.push(list.finish());
        }
    }

    /// An id for a set, distinct from those of the anonymous sets so far.
    fn set_id(&mut self) -> u32 {
        self.anonymous_sets += 1;
        self.anonymous_sets
    }

    /// The operation that the kernel rejected, if it can be told.
    pub(crate) fn blame(&self, rejection: &Rejection) -> Option<usize> {
        let elements = self.origins.get(&rejection.message?)?;
        let offset = rejection.offset?;
        elements.iter().find(|(end, _)| offset < *end).map(|(_, operation)| *operation)
    }

    fn elements(&mut self, operations: &[Operation], delete: bool, carried: &Carried) {
        let mut by_set: BTreeMap<SetId, Vec<usize>> = BTreeMap::new();
        for (position, operation) in operations.iter().enumerate() {
            match operation {
                Operation::Delete(set, _) if delete => {
                    by_set.entry(*set).or_default().push(position);
                }
                Operation::Add(element) if !delete => {
                    by_set.entry(element.set).or_default().push(position);
                }
                _ => {}
            }
        }
        for (set, positions) in by_set {
            self.lists((set, delete), &positions, operations, carried);
        }
    }

    fn lists(
        &mut self,
        (set, delete): (SetId, bool),
        positions: &[usize],
        operations: &[Operation],
        carried: &Carried,
    ) {
        let mut list = ElementList::new(set, delete);
        let mut first = 0;
        for (count, position) in positions.iter().enumerate() {
            match &operations[*position] {
                Operation::Add(element) => {
                    let count = carried.get(&(element.set, element.key)).copied();
                    list.push_element(element, count);
                }
                Operation::Delete(set, key) => {
                    list.push_key(&encode_key(*set, key), encode_key_end(key).as_deref());
                }
                _ => {}
            }
            if list.is_full() {
                let full = std::mem::replace(&mut list, ElementList::new(set, delete));
                self.list(full, &positions[first..=count]);
                first = count + 1;
            }
        }
        if first < positions.len() {
            self.list(list, &positions[first..]);
        }
    }

    fn list(&mut self, list: ElementList, operations: &[usize]) {
        let origins = list.ends().iter().copied().zip(operations.iter().copied()).collect();
        self.origins.insert(self.messages.len(), origins);
        self.messages.push(list.finish());
    }

    /// Removes elements that are none of ours by their keys.
    pub(crate) fn remove_strangers(&mut self, strangers: &[Stranger]) {
        for stranger in strangers {
            let mut list = ElementList::new(stranger.set, true);
            list.push_key(&stranger.key, stranger.end.as_deref());
            self.messages.push(list.finish());
        }
    }
}

/// Most operations in one transaction: about 15 ms of the kernel's time, during which nobody
/// else in the network namespace can change nftables.
const BATCH_LIMIT: usize = 20_000;

/// Cuts a step into transactions of bounded size, never between the removal of an element and
/// its return with another value, nor between the ranges of one frontend, some of which may give
/// way to others: a client in both would be refused in between.
pub(crate) fn chunks(mut operations: &[Operation]) -> impl Iterator<Item = &[Operation]> {
    std::iter::from_fn(move || {
        if operations.is_empty() {
            return None;
        }
        let mut end = operations.len().min(BATCH_LIMIT);
        while end < operations.len() && inseparable(&operations[end - 1], &operations[end]) {
            end += 1;
        }
        let (chunk, rest) = operations.split_at(end);
        operations = rest;
        Some(chunk)
    })
}

fn inseparable(first: &Operation, second: &Operation) -> bool {
    let first = concerned(first);
    first.is_some() && first == concerned(second)
}

/// The element that an operation writes, or what its range is of.
fn concerned(operation: &Operation) -> Option<(SetId, Key)> {
    let (set, key) = match operation {
        Operation::Add(element) => (element.set, element.key),
        Operation::Delete(set, key) => (*set, *key),
        Operation::AddPool(_) | Operation::DeletePool(_) | Operation::ReplaceNetworks(..) => {
            return None;
        }
    };
    Some((set, key.without_range().unwrap_or(key)))
}

#[cfg(test)]
mod tests {
    use shunt_model::address::{Family, Frontend, FrontendAddress, Protocol};

    use super::*;
    use crate::element::{Element, Value};
    use crate::name::SetKind;

    fn frontend(port: u16) -> Frontend {
        let address = FrontendAddress::Ip([203, 0, 113, 4].into());
        Frontend { address, protocol: Protocol::Tcp, port }
    }

    fn delete(kind: SetKind, key: Key) -> Operation {
        Operation::Delete(SetId::new(kind, Family::V4), key)
    }

    fn add(kind: SetKind, key: Key) -> Operation {
        Operation::Add(Element { set: SetId::new(kind, Family::V4), key, value: Value::Member })
    }

    fn source(port: u16, network: &str) -> Key {
        Key::Source(frontend(port), network.parse().expect("a network"))
    }

    #[track_caller]
    fn check_cut(last: impl IntoIterator<Item = Operation>, expected: [usize; 2]) {
        let slots = 0..u32::try_from(BATCH_LIMIT).expect("a number") - 1;
        let slot = |slot| add(SetKind::Endpoints, Key::Slot(frontend(1), slot));
        let operations: Vec<_> = slots.map(slot).chain(last).collect();
        let found: Vec<usize> = chunks(&operations).map(<[_]>::len).collect();
        assert_eq!(found, expected);
    }

    #[test]
    fn what_an_element_gives_way_to_is_in_the_same_transaction() {
        let limit = BATCH_LIMIT;
        let port = |port| Key::Frontend(frontend(port));
        let (kind, ranges) = (SetKind::Frontends, SetKind::AllowedSources);
        check_cut([add(kind, port(1)), add(kind, port(2))], [limit, 1]);
        check_cut([delete(kind, port(1)), add(kind, port(2))], [limit, 1]);
        check_cut([delete(kind, port(1)), add(kind, port(1)), add(kind, port(2))], [limit + 1, 1]);
        let narrower = [
            delete(ranges, source(1, "10.0.0.0/8")),
            add(ranges, source(1, "10.1.0.0/16")),
            add(ranges, source(1, "10.2.0.0/16")),
            add(ranges, source(2, "10.2.0.0/16")),
        ];
        check_cut(narrower, [limit + 2, 1]);
    }
}
