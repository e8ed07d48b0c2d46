//! The slots of one frontend, as the kernel holds them.

use std::fmt;
use std::sync::Arc;

use shunt_model::address::Endpoint;

/// What the slots of a pool hold, by number. The last one is never empty.
///
/// Most pools are installed as they stand in the plan, so most records share the plan's list: at
/// 100,000 endpoints a list of our own for each pool would be 2 MB.
#[derive(Clone)]
pub struct HeldSlots<T = Endpoint>(Held<T>);

#[derive(Clone)]
enum Held<T> {
    Own(Vec<Option<T>>),
    Shared(Arc<[T]>),
}

impl<T: Copy + Ord> HeldSlots<T> {
    /// How many there are, up to the last that is not empty.
    #[must_use]
    pub fn len(&self) -> usize {
        match &self.0 {
            Held::Own(slots) => slots.len(),
            Held::Shared(slots) => slots.len(),
        }
    }

    /// Whether all are empty.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// What a slot holds.
    #[must_use]
    pub fn get(&self, slot: u32) -> Option<T> {
        let slot = slot as usize;
        match &self.0 {
            Held::Own(slots) => slots.get(slot).copied().flatten(),
            Held::Shared(slots) => slots.get(slot).copied(),
        }
    }

    /// What each slot holds, in order.
    pub fn iter(&self) -> impl Iterator<Item = Option<T>> + '_ {
        let (own, shared) = match &self.0 {
            Held::Own(slots) => (&slots[..], &[][..]),
            Held::Shared(slots) => (&[][..], &slots[..]),
        };
        own.iter().copied().chain(shared.iter().copied().map(Some))
    }

    /// The endpoints in them, sorted.
    #[must_use]
    pub fn sorted(&self) -> Vec<T> {
        let mut endpoints: Vec<_> = self.iter().flatten().collect();
        endpoints.sort_unstable();
        endpoints
    }

    /// Fills or empties one slot.
    pub(super) fn set(&mut self, slot: u32, endpoint: Option<T>) {
        let slot = slot as usize;
        let mut slots = match std::mem::take(&mut self.0) {
            Held::Own(slots) => slots,
            Held::Shared(slots) => slots.iter().copied().map(Some).collect(),
        };
        if endpoint.is_some() && slot >= slots.len() {
            // Exactly: most pools never change their size, and there are many.
            slots.reserve_exact(slot + 1 - slots.len());
            slots.resize(slot + 1, None);
        }
        if let Some(place) = slots.get_mut(slot) {
            *place = endpoint;
        }
        while slots.last() == Some(&None) {
            slots.pop();
        }
        self.0 = Held::Own(slots);
    }

    /// Holds a list in place of its own, if they say the same.
    pub(super) fn share(&mut self, list: &Arc<[T]>) {
        if self.iter().eq(list.iter().copied().map(Some)) {
            self.0 = Held::Shared(Arc::clone(list));
        }
    }
}

impl<T> Default for HeldSlots<T> {
    fn default() -> Self {
        Self(Held::default())
    }
}

impl<T> Default for Held<T> {
    fn default() -> Self {
        Self::Own(Vec::new())
    }
}

impl<T: Copy + Ord> FromIterator<Option<T>> for HeldSlots<T> {
    fn from_iter<I: IntoIterator<Item = Option<T>>>(slots: I) -> Self {
        let mut held = Self::default();
        for (slot, endpoint) in (0u32..).zip(slots) {
            held.set(slot, endpoint);
        }
        held
    }
}

impl<T: Copy + Ord> PartialEq for HeldSlots<T> {
    fn eq(&self, other: &Self) -> bool {
        self.iter().eq(other.iter())
    }
}

impl<T: Copy + Ord> Eq for HeldSlots<T> {}

impl<T: Copy + Ord + fmt::Debug> fmt::Debug for HeldSlots<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_list().entries(self.iter()).finish()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn endpoint(n: u8) -> Endpoint {
        Endpoint { address: [10, 0, 0, n].into(), port: 80 }
    }

    #[test]
    fn a_shared_list_is_left_alone_when_a_slot_changes() {
        let list: Arc<[Endpoint]> = [1, 2, 3].map(endpoint).into();
        let mut slots: HeldSlots = list.iter().copied().map(Some).collect();
        slots.share(&list);
        assert_eq!(Arc::strong_count(&list), 2);
        slots.set(1, None);
        assert_eq!(Arc::strong_count(&list), 1);
        let holed = [Some(endpoint(1)), None, Some(endpoint(3))];
        assert_eq!(slots, holed.into_iter().collect());
        slots.share(&list);
        assert_eq!(Arc::strong_count(&list), 1, "they say something else");
        slots.set(2, None);
        assert_eq!(slots.len(), 1);
    }
}
