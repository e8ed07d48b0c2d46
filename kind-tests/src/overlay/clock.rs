//! The time that one processor works for us.

use std::fs;
use std::time::Duration;

use anyhow::{Context, Result};
use nix::sched::{CpuSet, sched_getaffinity, sched_setaffinity};
use nix::time::{ClockId, clock_gettime};
use nix::unistd::Pid;

/// The clock of this process, all of whose threads run on one processor, and of that processor's `ksoftirqd`: what the
/// kernel does for packets is done in the name of whoever runs just then, and of that thread when it becomes much.
pub(super) struct Clock {
    by_the_wall: bool,
    softirqs: Option<String>,
}

impl Clock {
    /// Binds this thread, and all that it will start, to the last processor that it may use.
    pub(super) fn of_one_processor(by_the_wall: bool) -> Result<Self> {
        let allowed = sched_getaffinity(Pid::from_raw(0))?;
        let last = (0..CpuSet::count()).rev().find(|cpu| allowed.is_set(*cpu).unwrap_or(false));
        let last = last.context("no processor is allowed")?;
        let mut one = CpuSet::new();
        one.set(last)?;
        sched_setaffinity(Pid::from_raw(0), &one)?;
        Ok(Self { by_the_wall, softirqs: softirqs(last) })
    }

    /// The time since some beginning.
    pub(super) fn now(&self) -> Result<Duration> {
        if self.by_the_wall {
            return Ok(clock_gettime(ClockId::CLOCK_MONOTONIC)?.into());
        }
        let own = Duration::from(clock_gettime(ClockId::CLOCK_PROCESS_CPUTIME_ID)?);
        let Some(file) = &self.softirqs else { return Ok(own) };
        let text = fs::read_to_string(file)?;
        let spent = text.split_whitespace().next().context("an empty schedstat")?;
        Ok(own + Duration::from_nanos(spent.parse()?))
    }

    /// Of times measured by it, the one that stands for them: the median, or the shortest by the wall, where all that
    /// others do besides makes a time longer.
    pub(super) fn typical(&self, mut times: Vec<f64>) -> f64 {
        times.sort_by(f64::total_cmp);
        let at = if self.by_the_wall { 0 } else { times.len() / 2 };
        times.get(at).copied().unwrap_or(f64::NAN)
    }
}

/// The file that says how long `ksoftirqd` of a processor has run, if it is to be seen.
fn softirqs(cpu: usize) -> Option<String> {
    let name = format!("ksoftirqd/{cpu}");
    let processes = fs::read_dir("/proc").ok()?.flatten().map(|entry| entry.path());
    let mut named = processes.filter(|process| {
        fs::read_to_string(process.join("comm")).is_ok_and(|comm| comm.trim_end() == name)
    });
    let file = named.next()?.join("schedstat").display().to_string();
    fs::read_to_string(&file).is_ok().then_some(file)
}
