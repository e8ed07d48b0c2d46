//! Directories that go with their test, at the latest when the next test starts.

use std::fs::{self, File, TryLockError};
use std::path::{Path, PathBuf};
use std::sync::Once;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use anyhow::{Context, Result};

/// Short: etcd's sockets lie below, and their paths may have 107 bytes.
const PREFIX: &str = "shunt-cp-";
/// Held locked for as long as the directory is in use.
const LOCK: &str = "in-use";
/// Younger ones may not be locked yet.
const NEW: Duration = Duration::from_secs(30);

/// A temporary directory.
pub(super) struct Scratch {
    path: PathBuf,
    _lock: File,
}

impl Scratch {
    pub(super) fn new() -> Result<Self> {
        static COUNT: AtomicU32 = AtomicU32::new(0);
        static SWEEP: Once = Once::new();
        let parent = std::env::temp_dir();
        SWEEP.call_once(|| sweep(&parent));
        let number = COUNT.fetch_add(1, Ordering::Relaxed);
        let path = parent.join(format!("{PREFIX}{}-{number}", std::process::id()));
        let made = || {
            fs::create_dir(&path)?;
            let lock = File::create(path.join(LOCK))?;
            lock.lock()?;
            Ok::<_, std::io::Error>(lock)
        };
        let lock = made().with_context(|| format!("making {}", path.display()))?;
        Ok(Self { path, _lock: lock })
    }

    pub(super) fn path(&self) -> &Path {
        &self.path
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        // What cannot be removed now, the next test removes.
        let _ = fs::remove_dir_all(&self.path);
    }
}

/// Removes what tests have left that were killed.
fn sweep(parent: &Path) {
    let entries = fs::read_dir(parent).into_iter().flatten().flatten();
    for entry in entries.filter(|e| e.file_name().to_string_lossy().starts_with(PREFIX)) {
        let age = entry.metadata().and_then(|m| m.modified()).ok().and_then(|at| at.elapsed().ok());
        if age.is_none_or(|age| age < NEW) {
            continue;
        }
        let lock = File::open(entry.path().join(LOCK));
        let in_use =
            lock.is_ok_and(|lock| matches!(lock.try_lock(), Err(TryLockError::WouldBlock)));
        if !in_use {
            // Another process may be sweeping, too.
            let _ = fs::remove_dir_all(entry.path());
        }
    }
}
