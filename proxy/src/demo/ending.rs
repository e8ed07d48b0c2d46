//! How the demo ends before its end: by a signal, or by a panic.
//!
//! Namespaces and daemons end with this process whatever happens to it. What would stay is the
//! directory of manifests.

use std::fs::{self, DirBuilder};
use std::io::{ErrorKind, Write};
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, anyhow};
use nix::sys::signal::{SigSet, Signal};

use crate::failure::Failure;

/// How long an orderly end may take after a signal.
const PATIENCE: Duration = Duration::from_secs(5);
/// How often a pause looks whether a signal has come.
const GLANCE: Duration = Duration::from_millis(20);

/// The directory of manifests and logs. Dropping it removes it.
pub(super) struct Directory {
    path: PathBuf,
}

impl Directory {
    /// Makes it, closed to others.
    pub(super) fn new() -> anyhow::Result<Self> {
        let process = std::process::id();
        for attempt in 0..100 {
            let path = std::env::temp_dir().join(format!("shunt-demo-{process}-{attempt}"));
            match DirBuilder::new().mode(0o700).create(&path) {
                Ok(()) => return Ok(Self { path }),
                // An earlier process with our number was killed.
                Err(error) if error.kind() == ErrorKind::AlreadyExists => {}
                Err(error) => {
                    return Err(error).with_context(|| format!("cannot make {}", path.display()));
                }
            }
        }
        Err(anyhow!("the directory for temporary files is full of old shunt-demo-*"))
    }

    /// Its path.
    pub(super) fn path(&self) -> &Path {
        &self.path
    }

    /// Replaces a file in it: whoever reads sees the old text or the new one.
    pub(super) fn replace(&self, name: &str, text: &str) -> anyhow::Result<()> {
        // The name of a manifest ends in .yaml; this one is none.
        let draft = self.path.join(format!(".{name}.new"));
        fs::write(&draft, text)
            .and_then(|()| fs::rename(&draft, self.path.join(name)))
            .with_context(|| format!("cannot write {name} in {}", self.path.display()))
    }
}

impl Drop for Directory {
    fn drop(&mut self) {
        remove(&self.path);
    }
}

fn remove(directory: &Path) {
    // There is no one left to tell.
    let _ = fs::remove_dir_all(directory);
}

/// Knows whether a signal wants the demo to end. Copies know the same.
#[derive(Clone)]
pub(super) struct Ending {
    wanted: Arc<AtomicBool>,
}

impl Ending {
    /// Takes SIGINT, SIGTERM and SIGHUP from now on; to be called before other threads start,
    /// which inherit that these are blocked.
    pub(super) fn watch(directory: &Path) -> Result<Self, Failure> {
        let signals: SigSet =
            [Signal::SIGINT, Signal::SIGTERM, Signal::SIGHUP].into_iter().collect();
        signals.thread_block().context("signals cannot be blocked")?;
        remove_at_panic(directory);
        let wanted = Arc::new(AtomicBool::new(false));
        let (tell, directory) = (Arc::clone(&wanted), directory.to_owned());
        thread::Builder::new()
            .name("signals".into())
            .spawn(move || {
                if signals.wait().is_ok() {
                    tell.store(true, Ordering::SeqCst);
                    thread::sleep(PATIENCE);
                    remove(&directory);
                    std::process::exit(1);
                }
            })
            .context("cannot start a thread")?;
        Ok(Self { wanted })
    }

    /// An error once a signal has come.
    pub(super) fn check(&self) -> Result<(), Failure> {
        if self.wanted.load(Ordering::SeqCst) {
            return Err(anyhow!("interrupted; everything is cleaned up").into());
        }
        Ok(())
    }

    /// Waits for so long, or until a signal comes.
    pub(super) fn pause(&self, duration: Duration) -> Result<(), Failure> {
        let until = Instant::now() + duration;
        loop {
            self.check()?;
            let left = until.saturating_duration_since(Instant::now());
            if left.is_zero() {
                return Ok(());
            }
            thread::sleep(left.min(GLANCE));
        }
    }
}

/// A release build aborts at a panic and drops nothing.
fn remove_at_panic(directory: &Path) {
    let directory = directory.to_owned();
    let usual = std::panic::take_hook();
    std::panic::set_hook(Box::new(move |panic| {
        remove(&directory);
        usual(panic);
        let _ = std::io::stderr().flush();
    }));
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_directory_is_replaced_into_and_goes_with_its_guard() {
        let directory = Directory::new().unwrap();
        let path = directory.path().to_owned();
        directory.replace("a.yaml", "1").unwrap();
        directory.replace("a.yaml", "2").unwrap();
        assert_eq!(fs::read_to_string(path.join("a.yaml")).unwrap(), "2");
        assert_eq!(fs::read_dir(&path).unwrap().count(), 1);
        drop(directory);
        assert!(!path.exists());
    }
}
