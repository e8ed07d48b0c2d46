//! Numbers made of what they stand for, so that they are the same after a restart.

use std::collections::{BTreeMap, HashMap};
use std::hash::{Hash, Hasher};
use std::sync::Arc;

/// Numbers for values, above 0; 0 is for the default value.
#[derive(Debug)]
pub(super) struct Numbers<T> {
    by_value: HashMap<Arc<T>, u32>,
    by_number: BTreeMap<u32, Arc<T>>,
}

impl<T> Default for Numbers<T> {
    fn default() -> Self {
        Self { by_value: HashMap::new(), by_number: BTreeMap::new() }
    }
}

impl<T: Hash + Eq + Default> Numbers<T> {
    /// The number of a value.
    pub(super) fn number(&mut self, value: T) -> u32 {
        if let Some(number) = self.by_value.get(&value) {
            return *number;
        }
        let number = self.free(if value == T::default() { 0 } else { short(hash(&value)) });
        let value = Arc::new(value);
        self.by_value.insert(Arc::clone(&value), number);
        self.by_number.insert(number, value);
        number
    }

    /// This number, or the next that is free: two values with one hash are rare.
    fn free(&self, mut number: u32) -> u32 {
        while self.by_number.contains_key(&number) {
            // After the greatest comes the least, or whoever writes two policies with that number would stop us.
            number = if number >= GREATEST { 1 } else { number + 1 };
        }
        number
    }

    pub(super) fn get(&self, number: u32) -> Option<&Arc<T>> {
        self.by_number.get(&number)
    }

    pub(super) fn iter(&self) -> impl Iterator<Item = (u32, &Arc<T>)> {
        self.by_number.iter().map(|(number, value)| (*number, value))
    }

    /// Forgets the others.
    pub(super) fn retain(&mut self, keep: impl Fn(u32) -> bool) {
        self.by_number.retain(|number, _| keep(*number));
        self.by_value.retain(|_, number| keep(*number));
    }

    /// Forgets one.
    pub(super) fn forget(&mut self, number: u32) {
        if let Some(value) = self.by_number.remove(&number) {
            self.by_value.remove(&value);
        }
    }
}

/// The traffic control that shares the kernel's field gives the one above a meaning.
const GREATEST: u32 = u32::MAX - 1;

fn short(hash: u64) -> u32 {
    let [a, b, c, d, e, f, g, h] = hash.to_le_bytes();
    u32::from_le_bytes([a ^ e, b ^ f, c ^ g, d ^ h]).clamp(1, GREATEST)
}

/// A hash that is the same in every process.
pub(super) fn hash(value: &impl Hash) -> u64 {
    let mut hasher = Fnv(0xcbf2_9ce4_8422_2325);
    value.hash(&mut hasher);
    hasher.finish()
}

/// FNV-1a: the same in every process, which the standard library's hasher is not.
struct Fnv(u64);

impl Hasher for Fnv {
    fn write(&mut self, bytes: &[u8]) {
        for byte in bytes {
            self.0 = (self.0 ^ u64::from(*byte)).wrapping_mul(0x0100_0000_01b3);
        }
    }

    fn finish(&self) -> u64 {
        self.0
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_same_value_has_the_same_number_in_every_run() {
        let mut numbers = Numbers::<String>::default();
        assert_eq!(numbers.number(String::new()), 0);
        let web = numbers.number("web".to_owned());
        assert_eq!(numbers.number("web".to_owned()), web);
        assert_eq!(Numbers::<String>::default().number("web".to_owned()), web);
        assert_ne!(numbers.number("db".to_owned()), web);
    }

    /// Two values with one hash.
    #[derive(Debug, Default, PartialEq, Eq)]
    struct Alike(u8);

    impl Hash for Alike {
        fn hash<H: Hasher>(&self, state: &mut H) {
            7u8.hash(state);
        }
    }

    #[test]
    fn two_values_with_one_hash_have_two_numbers() {
        let mut numbers = Numbers::<Alike>::default();
        let found = [numbers.number(Alike(1)), numbers.number(Alike(2)), numbers.number(Alike(1))];
        assert_eq!(found[0], found[2]);
        assert_eq!(found[1], found[0] + 1);
    }

    #[test]
    fn after_the_greatest_number_comes_the_least() {
        let mut numbers = Numbers::<String>::default();
        for number in [GREATEST - 1, GREATEST, 1] {
            numbers.by_number.insert(number, Arc::default());
        }
        assert_eq!(numbers.free(GREATEST - 1), 2);
    }
}
