//! Health while the kernel thread is at work: the loop, its thread, and a backend that takes long.

use std::os::fd::BorrowedFd;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;

use shunt_model::plan::PlanDelta;
use shunt_netlink::Pulse;
use tokio::sync::mpsc;

use super::tests::{event_loop_with, lists};
use super::*;
use crate::backend::{Backend, BackendError, SyncReport};
use crate::kernel::Policy;

const PATIENCE: Duration = Duration::from_millis(600);
/// A programming lasts so many of these, and commits a portion after each.
const PORTION: Duration = Duration::from_millis(50);
const PORTIONS: u32 = 40;
/// A pause that took so long says that it was not us who ran.
const LATE: Duration = Duration::from_millis(200);
/// How often it is tried until the machine lets us run all the time.
const TRIES: usize = 100;

/// What commits portion by portion, or hangs.
struct Slow {
    pulse: Pulse,
    hangs: bool,
    disturbed: Arc<AtomicBool>,
}

impl Backend for Slow {
    type Delta = PlanDelta;

    fn sync(&mut self, _: PlanDelta) -> Result<SyncReport, BackendError> {
        let mut began = Instant::now();
        for _ in 0..PORTIONS {
            thread::sleep(PORTION);
            began = note(began, &self.disturbed);
            if !self.hangs {
                self.pulse.beat();
            }
        }
        Ok(SyncReport::default())
    }

    fn forget(&mut self) {}

    fn foreign_change(&mut self) -> Result<bool, BackendError> {
        Ok(false)
    }

    fn last_writer(&self) -> Option<String> {
        None
    }

    fn events(&self) -> Vec<BorrowedFd<'_>> {
        Vec::new()
    }

    fn pulse(&self) -> Pulse {
        self.pulse.clone()
    }
}

/// Takes down whether a pause that began then was longer than it should be; the next one begins now.
fn note(began: Instant, disturbed: &AtomicBool) -> Instant {
    let now = Instant::now();
    disturbed.fetch_or(now - began > PORTION + LATE, Ordering::Relaxed);
    now
}

/// What health says during a programming of several times the patience.
struct Told {
    /// Whether the loop was always alive.
    alive: bool,
    took: Duration,
    /// Whether others had the CPU for so long that a loop that is alive may look as if it were not.
    disturbed: bool,
}

async fn program(hangs: bool) -> Told {
    let disturbed = Arc::new(AtomicBool::new(false));
    let (health, mut seen) = watch::channel(Health::STARTING);
    let began = Instant::now();
    let state = event_loop_with(began, PATIENCE, health);
    let (reports, kernel_reports) = mpsc::unbounded_channel();
    let backend = Slow { pulse: Pulse::default(), hangs, disturbed: Arc::clone(&disturbed) };
    let policy = Policy { verify_every: None };
    let kernel = Kernel::start("kernel", backend, None, policy, reports).unwrap();
    let (changes, sources) = mpsc::channel(64);
    for change in lists() {
        changes.send(SourceEvent::Change(change)).await.unwrap();
    }
    let (_questions, questions) = mpsc::channel(1);
    let (_listening, listening) = mpsc::unbounded_channel();
    let (_dropped, drops) = mpsc::channel(1);
    let inputs = Inputs {
        sources,
        kernel: kernel_reports,
        policy: None,
        drops,
        names: mpsc::channel(1).1,
        nri: mpsc::channel(1).1,
        questions,
        listening,
    };
    let watched = async {
        let (mut alive, mut paused) = (true, began);
        while !seen.borrow_and_update().synced {
            alive &= seen.borrow().is_alive(Instant::now());
            tokio::time::sleep(PORTION).await;
            paused = note(paused, &disturbed);
        }
        let disturbed = disturbed.load(Ordering::Relaxed);
        Told { alive, took: began.elapsed(), disturbed }
    };
    tokio::select! {
        stopped = state.run(inputs, &kernel, None) => panic!("{stopped:?}"),
        watched = watched => watched,
    }
}

#[tokio::test]
async fn a_long_programming_is_no_standstill() {
    for _ in 0..TRIES {
        let Told { alive, took, disturbed } = program(false).await;
        assert!(took > PATIENCE * 3, "{took:?}");
        if !disturbed {
            assert!(alive);
            return;
        }
    }
    panic!("the machine never lets us run for two seconds");
}

#[tokio::test]
async fn a_kernel_that_does_nothing_is() {
    assert!(!program(true).await.alive);
}
