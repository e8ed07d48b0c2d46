//! Whether the configuration file has changed since it was read.

use std::path::{Path, PathBuf};
use std::time::Duration;

/// How often the file is read again. A ConfigMap's volume takes a minute to change anyway.
const PERIOD: Duration = Duration::from_secs(5);

/// The file a configuration was read from.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Watched {
    path: PathBuf,
    /// What is in force.
    read: Vec<u8>,
    /// What was seen last.
    seen: Vec<u8>,
}

/// What a file has changed to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Content {
    /// What is in force.
    InForce,
    /// Something else.
    Other,
}

impl Watched {
    /// The file as it is now.
    #[must_use]
    pub fn new(path: &Path) -> Self {
        let read = std::fs::read(path).unwrap_or_default();
        Self { path: path.to_owned(), seen: read.clone(), read }
    }

    /// Which file.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Waits until the file can be read and has another content than it was seen with last. A file that was only touched
    /// has not changed, nor one that is missing for a moment, as it is while an editor or the kubelet puts another in
    /// its place.
    pub async fn changed(&mut self) -> Content {
        loop {
            tokio::time::sleep(PERIOD).await;
            match tokio::fs::read(&self.path).await {
                Ok(text) if text != self.seen => {
                    self.seen = text;
                    return if self.seen == self.read { Content::InForce } else { Content::Other };
                }
                Ok(_) | Err(_) => {}
            }
        }
    }
}
