//! A child process that does not outlive its guard.

use std::io;
use std::process::{Child, ChildStderr, ChildStdin, ChildStdout, Command, ExitStatus};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use nix::sys::prctl;
pub use nix::sys::signal::Signal;
use nix::sys::signal::kill;
use nix::unistd::Pid;

use crate::netns::Netns;

/// A running child process. Dropping it kills the process and waits for it.
pub struct Process {
    child: Child,
    program: String,
    /// The parent is the namespace's thread: were that to end first, it could take the process along.
    _netns: Netns,
}

/// Starts a process from the calling thread, in that thread's network namespace. With it comes the program's name.
pub(crate) fn start(mut command: Command) -> Result<(Child, String)> {
    let program = command.get_program().to_string_lossy().into_owned();
    let child = command.spawn().with_context(|| format!("starting {program}"))?;
    Ok((child, program))
}

impl Process {
    pub(crate) fn new(child: Child, program: String, netns: Netns) -> Self {
        Self { child, program, _netns: netns }
    }

    /// Its process id.
    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    /// What the command piped: standard input, output and error, each at most once.
    pub fn pipes(&mut self) -> (Option<ChildStdin>, Option<ChildStdout>, Option<ChildStderr>) {
        let child = &mut self.child;
        (child.stdin.take(), child.stdout.take(), child.stderr.take())
    }

    /// Sends a signal. That it has ended already is no error.
    pub fn signal(&mut self, signal: Signal) -> Result<()> {
        // Asked first: until it is waited for, its process id cannot be another's.
        if self.child.try_wait()?.is_some() {
            return Ok(());
        }
        let pid = Pid::from_raw(self.child.id().cast_signed());
        kill(pid, signal).with_context(|| format!("sending {signal} to {}", self.program))
    }

    /// Waits for its end; none when it still runs after `timeout`.
    pub fn wait_timeout(&mut self, timeout: Duration) -> io::Result<Option<ExitStatus>> {
        let deadline = Instant::now() + timeout;
        let mut pause = Duration::from_millis(1);
        loop {
            if let Some(status) = self.child.try_wait()? {
                return Ok(Some(status));
            }
            let left = deadline.saturating_duration_since(Instant::now());
            if left.is_zero() {
                return Ok(None);
            }
            thread::sleep(pause.min(left));
            pause = (pause * 2).min(Duration::from_millis(20));
        }
    }

    /// Asks it to end with SIGTERM, and kills it after `patience`.
    pub fn stop(mut self, patience: Duration) -> Result<ExitStatus> {
        self.signal(Signal::SIGTERM)?;
        if let Some(status) = self.wait_timeout(patience)? {
            return Ok(status);
        }
        self.child.kill()?;
        Ok(self.child.wait()?)
    }

    /// True until it has ended.
    pub fn is_running(&mut self) -> bool {
        matches!(self.child.try_wait(), Ok(None))
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        // Both fail only when it is gone already.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// For the first line of a child's own `main`: have the kernel kill it when the thread that started it ends. For a child
/// of [`Netns::spawn`] that is the namespace's thread, so it ends with its parent, also when that is killed by SIGKILL.
/// A parent cannot set this for its child without unsafe code. Programs that are not ours can be started through
/// `setpriv --pdeathsig KILL`.
pub fn die_with_parent() -> Result<()> {
    prctl::set_pdeathsig(Signal::SIGKILL).context("setting the parent death signal")
}
