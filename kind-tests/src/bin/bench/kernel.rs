//! The observer in the kernel: it sees of both proxies the same, and asks neither.

use std::os::fd::AsFd;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{self, Receiver, RecvTimeoutError};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use anyhow::{Result, bail};
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use shunt_cluster::Netns;
use shunt_kind_tests::generation::{self, socket};
use shunt_netlink::{Batch, BatchOutcome, Message, attributes, nfnetlink};
use shunt_nftables::name::TABLE;

/// `NFNL_SUBSYS_NFTABLES`.
const SUBSYSTEM: u16 = 10;
/// `NFNLGRP_NFTABLES`.
const EVENTS: u32 = 7;
/// `NFPROTO_INET`.
const INET: u8 = 1;
/// How often the generation is asked for: a request of some microseconds that takes no lock.
const EVERY: Duration = Duration::from_millis(1);

/// `NFT_MSG_*`.
mod kind {
    pub(super) const DELTABLE: u16 = 2;
    pub(super) const NEWCHAIN: u16 = 3;
    pub(super) const GETCHAIN: u16 = 4;
    pub(super) const NEWRULE: u16 = 6;
    pub(super) const GETRULE: u16 = 7;
    pub(super) const NEWSETELEM: u16 = 12;
    pub(super) const DELSETELEM: u16 = 14;
}

fn message(kind: u16, family: u8) -> Message {
    let mut message = Message::new(SUBSYSTEM << 8 | kind, 0);
    message.raw(&nfnetlink(family, 0));
    message
}

/// The generation of a namespace's ruleset: it goes up with each commit, whoever does it.
pub(crate) fn generation(netns: &Netns) -> Result<u32> {
    generation::ask(&mut socket(netns)?)
}

/// How many chains and rules there are in a namespace, all tables together.
pub(crate) fn chains_and_rules(netns: &Netns) -> Result<(u64, u64)> {
    let mut socket = socket(netns)?;
    let mut count = |kind| -> Result<u64> {
        Ok(socket.dump("list its rules", &message(kind, 0), |count: &mut u64, _| *count += 1)?)
    };
    Ok((count(kind::GETCHAIN)?, count(kind::GETRULE)?))
}

/// Removes the table that a shunt which is gone has left.
pub(crate) fn remove_table(netns: &Netns) -> Result<()> {
    let mut socket = socket(netns)?;
    let mut removal = message(kind::DELTABLE, INET);
    removal.text(1, TABLE);
    let mut batch = Batch::new(&mut socket, SUBSYSTEM, None);
    batch.push(&mut socket, &removal);
    match batch.send(&mut socket, SUBSYSTEM)? {
        BatchOutcome::Committed => Ok(()),
        other => bail!("removing the table: {other:?}"),
    }
}

/// Notes when the ruleset of a namespace has changed last. It polls the generation: events would
/// cost the kernel a message for each element of a first load.
pub(crate) struct Watch {
    state: Arc<Mutex<Option<Instant>>>,
    end: Arc<AtomicBool>,
    thread: Option<JoinHandle<()>>,
}

impl Watch {
    pub(crate) fn start(netns: &Netns) -> Result<Self> {
        let mut socket = socket(netns)?;
        let mut known = generation::ask(&mut socket)?;
        let state = Arc::new(Mutex::new(None));
        let end = Arc::new(AtomicBool::new(false));
        let (seen, over) = (Arc::clone(&state), Arc::clone(&end));
        let thread = thread::Builder::new().name("watch".into()).spawn(move || {
            while !over.load(Ordering::Relaxed) {
                // An answer that was lost is asked for again.
                if let Ok(now) = generation::ask(&mut socket)
                    && now != known
                {
                    known = now;
                    *seen.lock().unwrap_or_else(PoisonError::into_inner) = Some(Instant::now());
                }
                thread::sleep(EVERY);
            }
        })?;
        Ok(Self { state, end, thread: Some(thread) })
    }

    /// When it changed last, if it did.
    pub(crate) fn last_change(&self) -> Option<Instant> {
        *self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Waits until nothing has changed for so long.
    pub(crate) fn wait_for_quiet(&self, quiet: Duration, limit: Duration) {
        let started = Instant::now();
        while started.elapsed() < limit {
            let last = self.last_change().unwrap_or(started).max(started);
            let left = quiet.saturating_sub(last.elapsed());
            if left.is_zero() {
                return;
            }
            thread::sleep(left);
        }
    }
}

impl Drop for Watch {
    fn drop(&mut self) {
        self.end.store(true, Ordering::Relaxed);
        if let Some(thread) = self.thread.take() {
            // It cannot panic but by a bug, which has been printed then.
            let _ = thread.join();
        }
    }
}

/// What in the kernel shows that a proxy has done a change of endpoints.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Sign {
    /// An element of one of shunt's maps of endpoints is written or removed.
    EndpointMap,
    /// A rule is written, as kube-proxy does for each endpoint and for each pick of one.
    Rule,
    /// Anything is written or removed but a table and its flags.
    Content,
}

impl Sign {
    fn is_shown_by(self, message: u16, payload: &[u8]) -> bool {
        match self {
            Self::Rule => message == SUBSYSTEM << 8 | kind::NEWRULE,
            // All events between are of chains, rules, sets and their elements.
            Self::Content => {
                let content = SUBSYSTEM << 8 | kind::NEWCHAIN..=SUBSYSTEM << 8 | kind::DELSETELEM;
                content.contains(&message)
            }
            Self::EndpointMap => {
                let written =
                    [kind::NEWSETELEM, kind::DELSETELEM].map(|kind| SUBSYSTEM << 8 | kind);
                written.contains(&message) && names_an_endpoint_map(payload)
            }
        }
    }
}

fn names_an_endpoint_map(payload: &[u8]) -> bool {
    let body = payload.get(4..).unwrap_or_default();
    let set = attributes(body).find(|attribute| attribute.kind == 2);
    set.and_then(|set| set.text().map(|name| name.starts_with("endpoints_"))).unwrap_or(false)
}

/// Listens to nftables' events in a namespace and tells when the sign was seen: the kernel sends
/// the events of a transaction when it has committed it.
pub(crate) struct Listener {
    seen: Receiver<Instant>,
    end: Arc<AtomicBool>,
    thread: Option<JoinHandle<()>>,
}

impl Listener {
    pub(crate) fn start(netns: &Netns, sign: Sign) -> Result<Self> {
        let mut socket = socket(netns)?;
        socket.listen(EVENTS, true)?;
        let (tell, seen) = mpsc::channel();
        let end = Arc::new(AtomicBool::new(false));
        let over = Arc::clone(&end);
        let thread = thread::Builder::new().name("listener".into()).spawn(move || {
            while !over.load(Ordering::Relaxed) {
                let mut waited = [PollFd::new(socket.as_fd(), PollFlags::POLLIN)];
                let _ = poll(&mut waited, PollTimeout::from(50u8));
                let now = Instant::now();
                let mut shown = false;
                let drained = socket.drain(|message, payload, _| {
                    shown |= sign.is_shown_by(message, payload);
                });
                if shown && tell.send(now).is_err() || drained.is_err() {
                    return;
                }
            }
        })?;
        Ok(Self { seen, end, thread: Some(thread) })
    }

    /// Forgets what was seen so far.
    pub(crate) fn forget(&self) {
        while self.seen.try_recv().is_ok() {}
    }

    /// When the next sign was seen; none within the limit.
    pub(crate) fn next(&self, limit: Duration) -> Result<Option<Instant>> {
        match self.seen.recv_timeout(limit) {
            Ok(seen) => Ok(Some(seen)),
            Err(RecvTimeoutError::Timeout) => Ok(None),
            Err(RecvTimeoutError::Disconnected) => bail!("the listener has ended"),
        }
    }
}

impl Drop for Listener {
    fn drop(&mut self) {
        self.end.store(true, Ordering::Relaxed);
        if let Some(thread) = self.thread.take() {
            // As above.
            let _ = thread.join();
        }
    }
}
