//! What the plan has in a place. Whenever the kernel is known to hold the plan, this is what it holds: so nothing is
//! recorded of it a second time.

use shunt_netpolicy::table::{Atom, Range, Table};

use crate::element::{Key, Value};
use crate::installed::Held;
use crate::lower::{Beside, ranges_of};
use crate::name::SetId;
use crate::rows;

/// All that the kernel holds when it is in step.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Planned<'a> {
    pub(crate) table: &'a Table,
    pub(crate) beside: &'a Beside,
}

impl Held for Planned<'_> {
    fn value(&self, set: SetId, key: &Key) -> Option<Value> {
        match *key {
            Key::Address(address) => self.of_address(set, address),
            Key::Pair(address, atom) => match set {
                SetId::Rows(direction, _) => {
                    let decisions = self.table.locals.get(&address)?.decisions(direction)?;
                    decisions.rows.get(&atom).map(|row| Some(row.0))
                }
                _ => self.beside.learnt.contains_key(&(address, atom.0)).then_some(None),
            },
            Key::Row(id) | Key::Protocol(id, _) | Key::Port(id, ..) | Key::Range(id, ..) => {
                let row = self.table.rows.get(&id)?;
                let there = rows::elements(id, row).iter().any(|(place, _)| *place == (set, *key));
                there.then_some(None)
            }
        }
    }

    fn networks(&self, set: SetId) -> Vec<(Range, Atom)> {
        ranges_of(set, self.table, self.beside)
    }
}

impl Planned<'_> {
    fn of_address(&self, set: SetId, address: std::net::IpAddr) -> Option<Value> {
        let Self { table, beside } = self;
        let is_there = match set {
            SetId::Peers(_) => return table.peers.get(address).map(|atom| Some(atom.0)),
            SetId::Named(_) => return table.named.get(&address).map(|atom| Some(atom.0)),
            SetId::Isolated(direction, _) => {
                let decisions = table.locals.get(&address)?.decisions(direction)?;
                return Some(Some(decisions.default.0));
            }
            SetId::Itself(_) => table.locals.contains_key(&address),
            SetId::ToNode(_) => table.locals.get(&address).is_some_and(|local| local.to_node),
            SetId::Audited(_) => table.locals.get(&address).is_some_and(|local| local.audit),
            SetId::Own(_) => beside.own.contains(&address),
            SetId::Watched(_) => beside.watched.contains(&address),
            SetId::Known(_) => beside.known.contains(&address),
            _ => false,
        };
        is_there.then_some(None)
    }
}
