//! Whether the configuration file has changed since it was read.

use std::path::{Path, PathBuf};
use std::time::Duration;

/// How often the file is read again. A ConfigMap's volume takes a minute to change anyway.
const PERIOD: Duration = Duration::from_secs(5);

/// The text a configuration was read from.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Watched {
    path: PathBuf,
    text: Vec<u8>,
}

impl Watched {
    /// The file as it is now.
    #[must_use]
    pub fn new(path: &Path) -> Self {
        Self { path: path.to_owned(), text: std::fs::read(path).unwrap_or_default() }
    }

    /// Waits until the file can be read and has another content. kube-proxy ends with an error
    /// when its file is written to, and so do we, for its DaemonSet counts on that; but not for
    /// a file that was only touched, and not for one that is missing for a moment, as it is while
    /// an editor or the kubelet puts another in its place.
    pub async fn changed(&self) {
        loop {
            tokio::time::sleep(PERIOD).await;
            match tokio::fs::read(&self.path).await {
                Ok(text) if text != self.text => return,
                Ok(_) | Err(_) => {}
            }
        }
    }
}
