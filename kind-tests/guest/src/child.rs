//! The guest's process on the host.

use std::fs::File;
use std::io::{self, Read, Write};
use std::path::Path;
use std::process::{Command, ExitStatus, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result};

use crate::home::Home;

/// How often a running guest is looked at.
const PAUSE: Duration = Duration::from_millis(10);

/// A running guest; dropping it kills it.
pub(crate) struct Child(std::process::Child);

/// How a guest ended.
pub(crate) enum End {
    /// By itself.
    Exited(ExitStatus),
    /// It was killed when its time was over.
    Late,
}

impl Child {
    /// Starts it, so that it also ends with the calling thread.
    pub(crate) fn spawn(start: Command) -> Result<Self> {
        let mut command = Command::new("setpriv");
        command.args(["--pdeathsig", "KILL", "--"]).arg(start.get_program()).args(start.get_args());
        for (name, value) in start.get_envs() {
            if let Some(value) = value {
                command.env(name, value);
            }
        }
        command.stdin(Stdio::null());
        Ok(Self(command.spawn().context("starting setpriv (util-linux)")?))
    }

    /// Waits until it ends or `timeout` is over, and copies its output meanwhile if `echo`.
    pub(crate) fn wait(&mut self, home: &Home, echo: bool, timeout: Duration) -> Result<End> {
        let deadline = Instant::now() + timeout;
        let mut out = Follower::new(&home.stdout_path())?;
        let mut err = Follower::new(&home.stderr_path())?;
        loop {
            // Asked before the output is read, so that nothing is missed.
            let ended = self.0.try_wait()?;
            if echo {
                out.copy(&mut io::stdout())?;
                err.copy(&mut io::stderr())?;
            }
            match ended {
                Some(status) => return Ok(End::Exited(status)),
                None if Instant::now() >= deadline => {
                    self.0.kill()?;
                    self.0.wait()?;
                    return Ok(End::Late);
                }
                None => thread::sleep(PAUSE),
            }
        }
    }
}

impl Drop for Child {
    fn drop(&mut self) {
        // Both fail only when it is gone already.
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// A file that grows.
struct Follower(File);

impl Follower {
    fn new(path: &Path) -> Result<Self> {
        Ok(Self(File::open(path).with_context(|| path.display().to_string())?))
    }

    fn copy(&mut self, to: &mut impl Write) -> io::Result<()> {
        let mut new = Vec::new();
        self.0.read_to_end(&mut new)?;
        to.write_all(&new)?;
        to.flush()
    }
}
