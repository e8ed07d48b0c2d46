//! What waits until the kernel holds what was known when it came: DNS answers, sandboxes of pods.

/// What waits: for the next order, or for one with a number.
#[derive(Debug)]
pub(super) struct WaitingList<T> {
    new: Vec<T>,
    ordered: Vec<(u64, T)>,
}

impl<T> Default for WaitingList<T> {
    fn default() -> Self {
        Self { new: Vec::new(), ordered: Vec::new() }
    }
}

impl<T> WaitingList<T> {
    /// Puts more on it.
    pub(super) fn extend(&mut self, more: impl IntoIterator<Item = T>) {
        self.new.extend(more);
    }

    /// Takes off what waits no more. All that has come is in the order of the number `ordered` by now, and the kernel
    /// holds what was ordered with `synced`.
    pub(super) fn release(
        &mut self,
        ordered: u64,
        synced: u64,
    ) -> impl Iterator<Item = T> + use<T> {
        self.ordered.extend(self.new.drain(..).map(|new| (ordered, new)));
        let released: Vec<_> =
            self.ordered.extract_if(.., |(number, _)| *number <= synced).collect();
        released.into_iter().map(|(_, waited)| waited)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_waits_for_the_order_that_it_came_before() {
        let mut list = WaitingList::default();
        list.extend(["a"]);
        assert_eq!(list.release(1, 0).count(), 0);
        list.extend(["b"]);
        assert_eq!(list.release(2, 1).collect::<Vec<_>>(), ["a"]);
        assert_eq!(list.release(2, 2).collect::<Vec<_>>(), ["b"]);
        list.extend(["c"]);
        assert_eq!(list.release(2, 2).collect::<Vec<_>>(), ["c"], "it has changed nothing");
    }
}
