//! A directory of manifests as a source.
//!
//! Every `*.yaml`, `*.yml` and `*.json` in it is read; hidden files and sub-directories are not.
//! A file that cannot be read as a whole keeps the last good state of its objects. An object that
//! two files define is taken from the first by name.
//!
//! Changes are told by inotify: a file when it is closed after writing, moved in or out, or
//! linked, so that a file is not read while it is written in one go; and everything when the
//! `..data` link of a ConfigMap's mount is swapped. A link's target outside of the directory is
//! not watched.

mod directory;
mod document;

#[cfg(test)]
mod tests;

use std::os::fd::AsFd;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::time::Duration;
use std::{fs, io, panic};

use nix::errno::Errno;
use nix::sys::inotify::{AddWatchFlags, InitFlags, Inotify};
use tokio::sync::mpsc::Sender;
use tokio::time::{Instant, sleep, sleep_until};
use tracing::{error, info, warn};

use self::directory::{Directory, Touched};
use crate::source::readiness::Readiness;
use crate::source::{FileProblem, SourceEvent};

/// Changes that come this close together are read together.
const COALESCE: Duration = Duration::from_millis(20);
/// How often it is checked that the directory is still the one that is watched.
const CHECK: Duration = Duration::from_secs(1);

/// Why a directory cannot be read or watched.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// It cannot be read.
    #[error("the directory of manifests {} cannot be read", path.display())]
    Read {
        /// Its path.
        path: PathBuf,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// It cannot be watched.
    #[error("the directory of manifests {} cannot be watched", path.display())]
    Watch {
        /// Its path.
        path: PathBuf,
        /// Why.
        #[source]
        source: io::Error,
    },
}

/// Reads a directory once: a list of each kind, and what is wrong with files.
///
/// # Errors
/// If the directory cannot be read.
pub fn load_once(path: &Path) -> Result<Vec<SourceEvent>, Error> {
    let mut events = Vec::new();
    Directory::new(path)
        .list(&mut |event| events.push(event))
        .map_err(|source| Error::Read { path: path.to_owned(), source })?;
    Ok(events)
}

/// Reads a directory and tells its changes; returns when nobody listens.
///
/// # Errors
/// If the directory cannot be read or watched at first (also logged). Later that is reported as a
/// problem of the directory, and everything stays as it is until it is there again.
pub async fn watch(path: PathBuf, out: Sender<SourceEvent>) -> Result<(), Error> {
    let mut source = Source { directory: Some(Directory::new(&path)), path, out };
    source.run().await.inspect_err(|problem| {
        let reason: &dyn std::error::Error = problem;
        error!(reason, "manifests are not read");
    })
}

struct Source {
    path: PathBuf,
    out: Sender<SourceEvent>,
    /// Away only while another thread reads it.
    directory: Option<Directory>,
}

/// What the watch on the directory says.
enum Seen {
    Touched(Touched),
    /// The directory is not what it was: removed, replaced, or not to be watched.
    Lost,
    /// Nobody listens.
    Closed,
}

impl Source {
    async fn run(&mut self) -> Result<(), Error> {
        let fail = |path: &Path, source| Error::Watch { path: path.to_owned(), source };
        // Watched before it is read, so that nothing is missed in between.
        let mut watcher = Watcher::open(&self.path).map_err(|error| fail(&self.path, error))?;
        let listed = self.read(None).await;
        listed.map_err(|source| Error::Read { path: self.path.clone(), source })?;
        loop {
            match watcher.next(&self.path, &self.out).await {
                Seen::Closed => return Ok(()),
                Seen::Touched(touched) => {
                    if self.read(Some(touched)).await.is_ok() {
                        continue;
                    }
                }
                Seen::Lost => {}
            }
            match self.regain().await {
                Some(regained) => watcher = regained,
                None => return Ok(()),
            }
        }
    }

    /// Reads what was touched, or lists everything for the first time, on another thread: a large
    /// file takes longer than the event loop may be kept waiting.
    async fn read(&mut self, touched: Option<Touched>) -> io::Result<()> {
        let Some(mut directory) = self.directory.take() else { return Ok(()) };
        let out = self.out.clone();
        let reading = tokio::task::spawn_blocking(move || {
            // If nobody listens any more, that is noticed when waiting for the next change.
            let mut tell = |event| drop(out.blocking_send(event));
            let result = match touched {
                None => directory.list(&mut tell),
                Some(touched) => directory.update(&touched, &mut tell),
            };
            (directory, result)
        });
        match reading.await {
            Ok((directory, result)) => {
                self.directory = Some(directory);
                result
            }
            Err(failure) if failure.is_panic() => panic::resume_unwind(failure.into_panic()),
            // The runtime is shutting down.
            Err(failure) => Err(io::Error::other(failure)),
        }
    }

    /// Reports that the directory is lost and waits for it. `None`: nobody listens.
    async fn regain(&mut self) -> Option<Watcher> {
        let mut reported = false;
        loop {
            match Watcher::open(&self.path) {
                Ok(watcher) => {
                    if self.read(Some(Touched::All)).await.is_ok() {
                        if reported {
                            info!(directory = %self.path.display(), "the directory of manifests is back");
                            self.report(Vec::new()).await?;
                        }
                        return Some(watcher);
                    }
                }
                Err(error) if !reported => {
                    reported = true;
                    let reason = format!("cannot be read: {error}; everything stays as it was");
                    warn!(directory = %self.path.display(), reason, "the directory of manifests is lost");
                    let file = self.path.clone();
                    self.report(vec![FileProblem { file, line: None, field: None, reason }])
                        .await?;
                }
                Err(_) => {}
            }
            tokio::select! {
                () = sleep(CHECK) => {}
                () = self.out.closed() => return None,
            }
        }
    }

    async fn report(&self, problems: Vec<FileProblem>) -> Option<()> {
        let event = SourceEvent::FileProblems { file: self.path.clone(), problems };
        self.out.send(event).await.ok()
    }
}

/// An inotify watch on one directory.
struct Watcher {
    inotify: Inotify,
    readiness: Readiness,
    /// Device and inode of what is watched.
    identity: (u64, u64),
}

impl Watcher {
    fn open(path: &Path) -> io::Result<Self> {
        let inotify = Inotify::init(InitFlags::IN_NONBLOCK | InitFlags::IN_CLOEXEC)?;
        let events = AddWatchFlags::IN_CLOSE_WRITE
            | AddWatchFlags::IN_CREATE
            | AddWatchFlags::IN_DELETE
            | AddWatchFlags::IN_MOVED_FROM
            | AddWatchFlags::IN_MOVED_TO
            | AddWatchFlags::IN_DELETE_SELF
            | AddWatchFlags::IN_MOVE_SELF
            | AddWatchFlags::IN_ONLYDIR;
        inotify.add_watch(path, events)?;
        let readiness = Readiness::of(inotify.as_fd())?;
        Ok(Self { inotify, readiness, identity: identity(path)? })
    }

    /// Waits until something was touched, and then until that calms down.
    async fn next(&self, path: &Path, out: &Sender<SourceEvent>) -> Seen {
        let mut check = Instant::now() + CHECK;
        let mut touched = Touched::none();
        while touched.is_none() {
            tokio::select! {
                ready = self.readiness.wait() => match ready {
                    Ok(()) => sleep(COALESCE).await,
                    Err(_) => return Seen::Lost,
                },
                // A directory above it may be moved, or something mounted over it.
                () = sleep_until(check) => {
                    check = Instant::now() + CHECK;
                    if identity(path).ok() != Some(self.identity) {
                        return Seen::Lost;
                    }
                }
                () = out.closed() => return Seen::Closed,
            }
            if !self.drain(path, &mut touched) {
                // Also what was touched in it: removing a directory begins with its files.
                return Seen::Lost;
            }
        }
        Seen::Touched(touched)
    }

    /// Takes in all that happened. `false`: the directory is lost.
    fn drain(&self, path: &Path, touched: &mut Touched) -> bool {
        let lost = AddWatchFlags::IN_DELETE_SELF
            | AddWatchFlags::IN_MOVE_SELF
            | AddWatchFlags::IN_UNMOUNT
            | AddWatchFlags::IN_IGNORED;
        loop {
            let events = match self.inotify.read_events() {
                Ok(events) => events,
                Err(Errno::EAGAIN) => return true,
                Err(Errno::EINTR) => continue,
                Err(_) => return false,
            };
            for event in events {
                if event.mask.intersects(lost) {
                    return false;
                }
                if event.mask.contains(AddWatchFlags::IN_Q_OVERFLOW) {
                    *touched = Touched::All;
                    continue;
                }
                let Some(name) = event.name else { continue };
                if name.as_encoded_bytes().starts_with(b"..") {
                    // How the kubelet swaps what is in a ConfigMap's mount.
                    *touched = Touched::All;
                } else if !event.mask.contains(AddWatchFlags::IN_CREATE)
                    || is_complete(&path.join(&name))
                {
                    touched.add(&name);
                }
            }
        }
    }
}

/// Whether a file that appeared will see no close after writing: a link, symbolic or not.
fn is_complete(path: &Path) -> bool {
    fs::symlink_metadata(path).is_ok_and(|metadata| metadata.is_symlink() || metadata.nlink() > 1)
}

fn identity(path: &Path) -> io::Result<(u64, u64)> {
    let metadata = fs::metadata(path)?;
    Ok((metadata.dev(), metadata.ino()))
}
