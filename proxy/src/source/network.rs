//! Whether the machine's network lets us see what pods say to one another.
//!
//! A sysctl changes without an event, and a CNI makes its bridge with the first pod, so it is looked at now and then.

use std::path::Path;
use std::time::Duration;

use tokio::sync::mpsc::Sender;
use tokio::time::sleep;

use crate::doctor;
use crate::source::SourceEvent;

/// How often.
const INTERVAL: Duration = Duration::from_secs(10);

/// Tells what keeps packets between pods from us, now and whenever that has changed; returns when nobody listens. To be
/// called on a thread of the network namespace.
pub async fn watch(out: Sender<SourceEvent>) {
    let mut told = Vec::new();
    loop {
        // What cannot be read is as it was.
        let found = doctor::unseen_pods(Path::new("/")).unwrap_or_else(|| told.clone());
        if found != told {
            told.clone_from(&found);
            if out.send(SourceEvent::Network { problems: found }).await.is_err() {
                return;
            }
        }
        tokio::select! {
            () = sleep(INTERVAL) => {}
            () = out.closed() => return,
        }
    }
}
