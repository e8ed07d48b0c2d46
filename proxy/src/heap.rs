//! What the allocator does with memory that is free.
//!
//! It gives that back to the kernel at once (`.cargo/config.toml`): most of it was needed for the first load only. During
//! that load it is kept, since each portion of it is made in the memory of the one before, and a page that was given back
//! is a page fault when it is used again.

use tikv_jemalloc_ctl::{Access, AsName};
use tracing::debug;

/// For how long free memory is kept during the first load, in milliseconds. What a longer one has not used since is given
/// back meanwhile.
const KEPT: isize = 10_000;

/// Keeps what gets free, until [`give_back`].
pub fn keep() {
    set(KEPT);
}

/// Gives what is free back to the kernel, now and from now on.
pub fn give_back() {
    set(0);
}

fn set(milliseconds: isize) {
    // There is one arena. Where jemalloc is not the program's allocator (in tests), it has nothing to give.
    if let Err(error) = "arena.0.dirty_decay_ms\0".name().write(milliseconds) {
        debug!(%error, "jemalloc cannot be told when to give memory back");
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn jemalloc_knows_the_setting_by_this_name() {
        keep();
        let now: isize = "arena.0.dirty_decay_ms\0".name().read().unwrap();
        assert_eq!(now, KEPT);
        give_back();
        let now: isize = "arena.0.dirty_decay_ms\0".name().read().unwrap();
        assert_eq!(now, 0);
    }
}
