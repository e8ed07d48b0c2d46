//! What the kernel holds for a frontend with session affinity.

use std::collections::BTreeMap;

use shunt_model::address::Endpoint;

use super::HeldSlots;
use crate::affinity::Id;
use crate::element::{Element, Key, Place, Value};
use crate::name::SetId;

/// What the kernel holds for a frontend with session affinity.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct InstalledSticky {
    /// The group of its clients; it is the same for all views, and stands with everyone's.
    pub group: Option<Id>,
    /// Its slots, by number.
    pub slots: HeldSlots<Id>,
    /// Its endpoints, by id.
    pub endpoints: BTreeMap<Id, Endpoint>,
}

impl InstalledSticky {
    pub(super) fn is_empty(&self) -> bool {
        self.group.is_none() && self.slots.is_empty() && self.endpoints.is_empty()
    }

    /// Records an element, or its end.
    pub(super) fn set(&mut self, set: SetId, key: &Key, value: Option<&Value>) {
        let id = match value {
            Some(Value::Id(id)) => Some(*id),
            _ => None,
        };
        match (key, value) {
            (Key::Slot(_, slot), _) => self.slots.set(*slot, id),
            (Key::Id(_, id), Some(Value::Endpoint(endpoint))) => {
                self.endpoints.insert(*id, *endpoint);
            }
            (Key::Id(_, id), _) => drop(self.endpoints.remove(id)),
            (Key::Frontend(_), _) if set.holds_ids() => self.group = id,
            _ => {}
        }
    }

    /// Forgets what stands in one map.
    pub(super) fn empty(&mut self, place: &Place, set: SetId) {
        if set == place.groups() {
            self.group = None;
        } else if set == place.sticky_slots() {
            self.slots = HeldSlots::default();
        } else if set == place.sticky_endpoints() {
            self.endpoints.clear();
        }
    }

    /// Its elements at a place.
    pub(super) fn elements<'a>(&'a self, place: &'a Place) -> impl Iterator<Item = Element> + 'a {
        let frontend = place.frontend;
        let group = self.group.map(|id| (place.groups(), Key::Frontend(frontend), Value::Id(id)));
        let slots = (0u32..).zip(self.slots.iter()).filter_map(move |(slot, id)| {
            Some((place.sticky_slots(), Key::Slot(frontend, slot), Value::Id(id?)))
        });
        let endpoints = self.endpoints.iter().map(move |(id, endpoint)| {
            (place.sticky_endpoints(), Key::Id(frontend, *id), Value::Endpoint(*endpoint))
        });
        let all = group.into_iter().chain(slots).chain(endpoints);
        all.map(|(set, key, value)| Element { set, key, value })
    }
}
