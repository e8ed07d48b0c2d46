//! TCP connections that stay open and talk, for as long as they are wanted.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread::{self, JoinHandle};
use std::time::Duration;

use anyhow::{Context, anyhow};
use shunt_cluster::{Connection, ProbeOptions};

use super::traffic::Way;

/// How long an answer may take.
const PATIENCE: Duration = Duration::from_secs(30);
/// Between one line and the next.
const PACE: Duration = Duration::from_millis(2);

/// Connections that talk in turn. Dropping it ends them.
pub(super) struct Held {
    wanted: Arc<AtomicBool>,
    lines: Arc<AtomicU64>,
    count: usize,
    thread: Option<JoinHandle<anyhow::Result<Vec<Connection>>>>,
}

impl Held {
    /// Opens so many by each way.
    pub(super) fn open(ways: &[&Way], each: usize) -> anyhow::Result<Self> {
        let mut connections = Vec::new();
        for way in ways {
            for _ in 0..each {
                let options = ProbeOptions::within(PATIENCE);
                connections.push(Connection::open(way.from.netns(), way.to, &options)?);
            }
        }
        let wanted = Arc::new(AtomicBool::new(true));
        let lines = Arc::new(AtomicU64::new(0));
        let count = connections.len();
        let (go_on, counter) = (Arc::clone(&wanted), Arc::clone(&lines));
        let thread = thread::Builder::new()
            .name("held".into())
            .spawn(move || talk(connections, &go_on, &counter))?;
        Ok(Self { wanted, lines, count, thread: Some(thread) })
    }

    /// How many there are.
    pub(super) const fn count(&self) -> usize {
        self.count
    }

    /// How many lines were answered so far, each by the pod that answered the first.
    pub(super) fn lines(&self) -> u64 {
        self.lines.load(Ordering::SeqCst)
    }

    /// Closes them; returns how many were closed in order, and how many lines were answered.
    ///
    /// An error if one has broken, or another pod has answered on it.
    pub(super) fn close(mut self) -> anyhow::Result<(usize, u64)> {
        self.wanted.store(false, Ordering::SeqCst);
        let thread = self.thread.take().context("closed twice")?;
        let connections = thread.join().map_err(|_| anyhow!("the thread panicked"))?;
        let mut closed = 0;
        for connection in connections.context("a held connection was lost")? {
            connection.close().context("a held connection was not closed in order")?;
            closed += 1;
        }
        Ok((closed, self.lines()))
    }
}

impl Drop for Held {
    fn drop(&mut self) {
        self.wanted.store(false, Ordering::SeqCst);
        if let Some(thread) = self.thread.take() {
            // Whoever wants to know how it went calls `close`.
            let _ = thread.join();
        }
    }
}

fn talk(
    mut connections: Vec<Connection>,
    go_on: &AtomicBool,
    lines: &AtomicU64,
) -> anyhow::Result<Vec<Connection>> {
    let mut number = 0_usize;
    while go_on.load(Ordering::SeqCst) {
        let turn = number % connections.len().max(1);
        if let Some(connection) = connections.get_mut(turn) {
            connection.exchange(&format!("line {number}"))?;
            lines.fetch_add(1, Ordering::SeqCst);
        }
        number += 1;
        thread::sleep(PACE);
    }
    Ok(connections)
}
