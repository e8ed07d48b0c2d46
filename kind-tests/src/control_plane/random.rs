//! Random numbers that a seed repeats.

/// Splitmix64: small, and good enough to choose changes.
#[derive(Clone, Debug)]
pub struct Random {
    state: u64,
}

impl Random {
    /// The sequence of this seed.
    #[must_use]
    pub const fn new(seed: u64) -> Self {
        Self { state: seed }
    }

    /// A sequence of its own for part `index` of a whole.
    #[must_use]
    pub fn part(seed: u64, index: u64) -> Self {
        let mut whole = Self::new(seed ^ index.wrapping_mul(0xa076_1d64_78bd_642f));
        Self::new(whole.number())
    }

    /// The next number.
    pub fn number(&mut self) -> u64 {
        self.state = self.state.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.state;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    /// A number below `end`, which is not 0.
    pub fn below(&mut self, end: usize) -> usize {
        let end = u64::try_from(end).unwrap_or(u64::MAX);
        usize::try_from(self.number() % end).unwrap_or(0)
    }

    /// True in `percent` of 100 cases.
    pub fn chance(&mut self, percent: usize) -> bool {
        self.below(100) < percent
    }

    /// One of these.
    pub fn one_of<T: Copy>(&mut self, choices: &[T]) -> T {
        choices[self.below(choices.len())]
    }

    /// Some of these, at most `most`, in their order.
    pub fn some_of<T: Copy>(&mut self, choices: &[T], most: usize) -> Vec<T> {
        let wanted = self.below(most.min(choices.len()) + 1);
        let mut left = choices.len();
        let mut missing = wanted;
        let mut chosen = Vec::with_capacity(wanted);
        for choice in choices {
            if self.below(left) < missing {
                chosen.push(*choice);
                missing -= 1;
            }
            left -= 1;
        }
        chosen
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_seed_repeats_and_parts_differ() {
        let numbers = |mut random: Random| [random.number(), random.number()];
        assert_eq!(numbers(Random::part(1, 2)), numbers(Random::part(1, 2)));
        assert_ne!(numbers(Random::part(1, 2)), numbers(Random::part(1, 3)));
        let mut random = Random::new(7);
        for _ in 0..100 {
            let some = random.some_of(&[1, 2, 3], 2);
            assert!(some.len() <= 2 && some.is_sorted());
        }
    }
}
