//! Sets of ports, as sorted ranges.

use std::fmt;

/// Ports as sorted, disjoint ranges that do not touch, both ends included. Port 0 counts: policy
/// that names no port speaks of every packet.
#[derive(Clone, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Ports(Vec<(u16, u16)>);

impl Ports {
    /// All of them.
    #[must_use]
    pub fn all() -> Self {
        Self(vec![(0, u16::MAX)])
    }

    /// Whether there is none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Whether none is missing.
    #[must_use]
    pub fn is_all(&self) -> bool {
        self.0 == [(0, u16::MAX)]
    }

    /// Whether a port is among them.
    #[must_use]
    pub fn contains(&self, port: u16) -> bool {
        let after = self.0.partition_point(|(first, _)| *first <= port);
        after > 0 && port <= self.0[after - 1].1
    }

    /// The ranges.
    #[must_use]
    pub fn ranges(&self) -> &[(u16, u16)] {
        &self.0
    }

    /// Adds a range, which may overlap.
    pub fn add(&mut self, first: u16, last: u16) {
        if first > last {
            return;
        }
        let (mut first, mut last) = (u32::from(first), u32::from(last));
        let mut merged = Vec::with_capacity(self.0.len() + 1);
        let mut rest = Vec::new();
        for &(a, b) in &self.0 {
            let (low, high) = (u32::from(a), u32::from(b));
            if high + 1 < first {
                merged.push((a, b));
            } else if last + 1 < low {
                rest.push((a, b));
            } else {
                (first, last) = (first.min(low), last.max(high));
            }
        }
        let fit = |bound: u32| u16::try_from(bound).unwrap_or(u16::MAX);
        merged.push((fit(first), fit(last)));
        merged.extend(rest);
        self.0 = merged;
    }

    /// Adds all of others.
    pub fn extend(&mut self, others: &Self) {
        for (first, last) in &others.0 {
            self.add(*first, *last);
        }
    }

    /// Those that are among others, too.
    #[must_use]
    pub fn within(&self, others: &Self) -> Self {
        if others.is_all() { self.clone() } else { self.without(&self.without(others)) }
    }

    /// Those that are not among others.
    #[must_use]
    pub fn without(&self, others: &Self) -> Self {
        let mut left = self.0.clone();
        for &(first, last) in &others.0 {
            let mut next = Vec::with_capacity(left.len() + 1);
            for (a, b) in left {
                if b < first || last < a {
                    next.push((a, b));
                    continue;
                }
                if a < first {
                    next.push((a, first - 1));
                }
                if last < b {
                    next.push((last + 1, b));
                }
            }
            left = next;
        }
        Self(left)
    }
}

/// `80,443,8000-9000`, or `*` for all.
impl fmt::Display for Ports {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.is_all() {
            return f.write_str("*");
        }
        let each = self.0.iter().map(|(first, last)| {
            if first == last { first.to_string() } else { format!("{first}-{last}") }
        });
        f.write_str(&each.collect::<Vec<_>>().join(","))
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn of(ranges: &[(u16, u16)]) -> Ports {
        let mut ports = Ports::default();
        ranges.iter().for_each(|(first, last)| ports.add(*first, *last));
        ports
    }

    #[test]
    fn ranges_that_touch_are_one() {
        assert_eq!(of(&[(80, 80), (82, 90), (81, 81)]), of(&[(80, 90)]));
        assert_eq!(of(&[(0, 65534), (65535, 65535)]), Ports::all());
        assert_eq!(of(&[(80, 80), (443, 443)]).to_string(), "80,443");
    }

    proptest! {
        #[test]
        fn sums_and_differences_hold_port_by_port(
            a in proptest::collection::vec((any::<u16>(), 0..300u16), 0..6),
            b in proptest::collection::vec((any::<u16>(), 0..300u16), 0..6),
            edge in any::<u16>(),
        ) {
            let set = |ranges: &[(u16, u16)]| {
                of(&ranges.iter().map(|(f, n)| (*f, f.saturating_add(*n))).collect::<Vec<_>>())
            };
            let (a, b) = (set(&a), set(&b));
            let mut both = a.clone();
            both.extend(&b);
            let (difference, shared) = (a.without(&b), a.within(&b));
            let edges = a.ranges().iter().chain(b.ranges()).flat_map(|(f, l)| [*f, *l]);
            for port in edges.flat_map(|p| [p.saturating_sub(1), p, p.saturating_add(1)]).chain([edge]) {
                prop_assert_eq!(both.contains(port), a.contains(port) || b.contains(port));
                prop_assert_eq!(difference.contains(port), a.contains(port) && !b.contains(port));
                prop_assert_eq!(shared.contains(port), a.contains(port) && b.contains(port));
            }
        }
    }
}
