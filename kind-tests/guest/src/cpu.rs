//! A CPU for each guest. User-mode Linux hands over between processes at each system call; on one CPU that is cheap,
//! between two it is up to ten times slower.

use std::fs::{self, File, TryLockError};

use anyhow::{Context, Result};
use nix::sched::{CpuSet, sched_getaffinity};
use nix::unistd::Pid;

use crate::cache;

/// A CPU that no other guest uses while this lives, unless there are more guests than CPUs.
pub(crate) struct Reserved {
    number: usize,
    _lock: Option<File>,
}

impl Reserved {
    /// Takes the first CPU that is free.
    pub(crate) fn new() -> Result<Self> {
        let directory = cache()?;
        fs::create_dir_all(&directory)?;
        let allowed = allowed()?;
        for number in &allowed {
            let path = directory.join(format!("guest-cpu-{number}.lock"));
            let lock = File::create(&path).with_context(|| path.display().to_string())?;
            match lock.try_lock() {
                Ok(()) => return Ok(Self { number: *number, _lock: Some(lock) }),
                Err(TryLockError::WouldBlock) => {}
                Err(TryLockError::Error(error)) => return Err(error.into()),
            }
        }
        let any = std::process::id() as usize % allowed.len();
        Ok(Self { number: allowed[any], _lock: None })
    }

    /// Its number.
    pub(crate) fn number(&self) -> usize {
        self.number
    }
}

fn allowed() -> Result<Vec<usize>> {
    let set = sched_getaffinity(Pid::from_raw(0)).context("asking for the CPUs of this process")?;
    Ok((0..CpuSet::count()).filter(|number| set.is_set(*number).unwrap_or(false)).collect())
}
