//! Values by address. There are as many as pods in the cluster, most of them by the four bytes of IPv4, so each
//! family has a map of its own. They are sorted: blocks ask for ranges.

use std::collections::BTreeMap;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use crate::table::Range;

/// A map whose keys are addresses of both families.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct AddressMap<V> {
    v4: BTreeMap<Ipv4Addr, V>,
    v6: BTreeMap<Ipv6Addr, V>,
}

impl<V> Default for AddressMap<V> {
    fn default() -> Self {
        Self { v4: BTreeMap::new(), v6: BTreeMap::new() }
    }
}

impl<V> AddressMap<V> {
    /// How many addresses there are.
    #[must_use]
    pub fn len(&self) -> usize {
        self.v4.len() + self.v6.len()
    }

    /// Whether there are none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// The value of an address.
    #[must_use]
    pub fn get(&self, address: IpAddr) -> Option<&V> {
        match address {
            IpAddr::V4(address) => self.v4.get(&address),
            IpAddr::V6(address) => self.v6.get(&address),
        }
    }

    /// The value of an address, to be changed.
    pub fn get_mut(&mut self, address: IpAddr) -> Option<&mut V> {
        match address {
            IpAddr::V4(address) => self.v4.get_mut(&address),
            IpAddr::V6(address) => self.v6.get_mut(&address),
        }
    }

    /// Sets the value of an address; returns the former one.
    pub fn insert(&mut self, address: IpAddr, value: V) -> Option<V> {
        match address {
            IpAddr::V4(address) => self.v4.insert(address, value),
            IpAddr::V6(address) => self.v6.insert(address, value),
        }
    }

    /// Removes an address; returns its value.
    pub fn remove(&mut self, address: IpAddr) -> Option<V> {
        match address {
            IpAddr::V4(address) => self.v4.remove(&address),
            IpAddr::V6(address) => self.v6.remove(&address),
        }
    }

    /// All addresses and their values, sorted.
    pub fn iter(&self) -> impl Iterator<Item = (IpAddr, &V)> {
        let v4 = self.v4.iter().map(|(address, value)| (IpAddr::V4(*address), value));
        v4.chain(self.v6.iter().map(|(address, value)| (IpAddr::V6(*address), value)))
    }

    /// The addresses of a range, sorted.
    pub(crate) fn within(&self, range: &Range) -> impl Iterator<Item = IpAddr> {
        let (v4, v6) = match (range.first, range.last) {
            (IpAddr::V4(first), IpAddr::V4(last)) => (Some(self.v4.range(first..=last)), None),
            (IpAddr::V6(first), IpAddr::V6(last)) => (None, Some(self.v6.range(first..=last))),
            _ => (None, None),
        };
        let v4 = v4.into_iter().flatten().map(|(address, _)| IpAddr::V4(*address));
        v4.chain(v6.into_iter().flatten().map(|(address, _)| IpAddr::V6(*address)))
    }

    /// All values, sorted by address.
    pub fn values(&self) -> impl Iterator<Item = &V> {
        self.v4.values().chain(self.v6.values())
    }

    /// Forgets all.
    pub fn clear(&mut self) {
        *self = Self::default();
    }
}

impl<V> Extend<(IpAddr, V)> for AddressMap<V> {
    fn extend<T: IntoIterator<Item = (IpAddr, V)>>(&mut self, entries: T) {
        for (address, value) in entries {
            self.insert(address, value);
        }
    }
}
