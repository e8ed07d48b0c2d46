//! What the elements of the table count, and how it outlives an element.
//!
//! A connection looks its frontend up once, and its endpoint once, with its first packet; conntrack
//! knows all others. So a counter in an element counts connections, and the bytes beside it are
//! those of first packets.

use std::collections::{HashMap, HashSet};
use std::ops::AddAssign;

use shunt_model::address::{Endpoint, Frontend};

use crate::diff::{Operation, Steps};
use crate::element::{Element, Key, Place, Value};
use crate::installed::Installed;
use crate::name::{SetId, SetKind};

/// What the elements of the table count.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Counting {
    /// Nothing.
    #[default]
    Nothing,
    /// Connections to each frontend, whether they are served, refused or dropped.
    Frontends,
    /// The same, and those that each endpoint of each frontend has got.
    Endpoints,
}

impl Counting {
    /// All.
    pub const ALL: [Self; 3] = [Self::Nothing, Self::Frontends, Self::Endpoints];

    /// Whether the elements of a set count.
    #[must_use]
    pub const fn counts(self, set: SetId) -> bool {
        let (frontends, endpoints) = match self {
            Self::Nothing => (false, false),
            Self::Frontends => (true, false),
            Self::Endpoints => (true, true),
        };
        match set.kind {
            SetKind::Frontends
            | SetKind::NodePorts
            | SetKind::InsideFrontends
            | SetKind::InsideNodePorts => frontends,
            SetKind::Endpoints
            | SetKind::NodePortEndpoints
            | SetKind::InsideEndpoints
            | SetKind::InsideNodePortEndpoints
            | SetKind::AffinityEndpoints
            | SetKind::NodePortAffinityEndpoints
            | SetKind::InsideAffinityEndpoints
            | SetKind::InsideNodePortAffinityEndpoints => endpoints,
            _ => false,
        }
    }

    /// What is counted where these sets count; `None` if it is no choice of ours.
    pub(crate) fn of(counted: &HashSet<SetId>) -> Option<Self> {
        let is = |one: &Self| SetId::all().all(|set| one.counts(set) == counted.contains(&set));
        Self::ALL.into_iter().find(is)
    }
}

/// What an element has counted.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Count {
    /// First packets of connections. What is refused or dropped may be sent again.
    pub packets: u64,
    /// Their bytes.
    pub bytes: u64,
}

impl AddAssign for Count {
    fn add_assign(&mut self, other: Self) {
        self.packets += other.packets;
        self.bytes += other.bytes;
    }
}

/// What the table has counted.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Counts {
    /// By frontend. What comes from inside of the cluster to a frontend that has a place for it
    /// counts in both.
    pub frontends: HashMap<Place, Count>,
    /// By endpoint of a frontend's pool, in whichever slots it is.
    pub endpoints: HashMap<(Place, Endpoint), Count>,
}

/// What new elements begin to count from.
pub(crate) type Carried = HashMap<(SetId, Key), Count>;

impl Counts {
    pub(crate) fn add(&mut self, element: &Element, count: Count) {
        let Some(place) = Place::of(element.set, &element.key) else { return };
        match element.value {
            Value::Target(..) => *self.frontends.entry(place).or_default() += count,
            Value::Endpoint(endpoint) => {
                *self.endpoints.entry((place, endpoint)).or_default() += count;
            }
            Value::Member | Value::Id(_) => {}
        }
    }

    /// Hands what was counted on to the elements that take the place of those that counted it.
    pub(crate) fn hand_on<'a>(
        mut self,
        operations: impl Iterator<Item = &'a Operation>,
        counting: Counting,
    ) -> Carried {
        let added = operations.filter_map(|operation| match operation {
            Operation::Add(element) if counting.counts(element.set) => Some(element),
            _ => None,
        });
        let mut carried = Carried::new();
        for element in added {
            let Some(place) = Place::of(element.set, &element.key) else { continue };
            let count = match element.value {
                Value::Target(..) => self.frontends.remove(&place),
                Value::Endpoint(endpoint) => self.endpoints.remove(&(place, endpoint)),
                Value::Member | Value::Id(_) => None,
            };
            if let Some(count) = count {
                carried.insert((element.set, element.key), count);
            }
        }
        carried
    }
}

/// The elements that count and are removed.
pub(crate) fn removed(steps: &Steps, counting: Counting) -> impl Iterator<Item = (SetId, Key)> {
    steps.in_order().flatten().filter_map(move |operation| match operation {
        Operation::Delete(set, key) if counting.counts(*set) => Some((*set, *key)),
        _ => None,
    })
}

/// Has an endpoint that gives up some of its slots, and gets no others, keep what they have
/// counted: one of those that it has left is made anew, and counts on from there.
pub(crate) fn keep_counts(steps: &mut Steps, installed: &Installed) {
    let held = |set, frontend: Frontend, slot| {
        let place = Place::of(set, &Key::Slot(frontend, slot))?;
        installed.frontends.get(&place)?.slots.get(slot)
    };
    let (mut gone, mut leaving, mut fed) = (HashSet::new(), Vec::new(), HashSet::new());
    for operation in steps.in_order().flatten() {
        match operation {
            Operation::Delete(set, key) if installed.counting.counts(*set) => {
                gone.insert((*set, *key));
                if let Key::Slot(frontend, slot) = *key
                    && let Some(endpoint) = held(*set, frontend, slot)
                {
                    leaving.push((*set, frontend, endpoint));
                }
            }
            Operation::Add(Element {
                set,
                key: Key::Slot(frontend, _),
                value: Value::Endpoint(endpoint),
            }) => {
                fed.insert((*set, *frontend, *endpoint));
            }
            _ => {}
        }
    }
    for (set, frontend, endpoint) in leaving {
        // What was kept once is fed.
        if !fed.insert((set, frontend, endpoint)) {
            continue;
        }
        let place = Place::of(set, &Key::Slot(frontend, 0));
        let Some(there) = place.and_then(|place| installed.frontends.get(&place)) else { continue };
        let mut slots = (0u32..).zip(there.slots.iter());
        let left = slots.find(|(slot, other)| {
            *other == Some(endpoint) && !gone.contains(&(set, Key::Slot(frontend, *slot)))
        });
        if let Some((slot, _)) = left {
            let key = Key::Slot(frontend, slot);
            steps.switch.push(Operation::Delete(set, key));
            let value = Value::Endpoint(endpoint);
            steps.switch.push(Operation::Add(Element { set, key, value }));
        }
    }
}
