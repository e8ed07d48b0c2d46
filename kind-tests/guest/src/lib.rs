//! Runs a command in a guest kernel, for what the machine's own kernel cannot show: IPVS, SCTP, timers of hours.
//!
//! The guest is user-mode Linux: a process like any other, up in a fifth of a second, at nearly native speed. It sees
//! the host's files below an overlay of its own, so the binaries of the checkout and the host's tools are there, and
//! what it writes is gone with it, but for directories that are lent to it. It has no network but what is made inside.
//!
//! ```no_run
//! use std::process::Command;
//! use shunt_guest::Guest;
//!
//! # fn main() -> anyhow::Result<()> {
//! let mut command = Command::new("ipvsadm");
//! command.args(["-A", "-t", "10.96.0.11:80"]).env("LANG", "C");
//! let outcome = Guest::builder().memory(512).run(&command)?;
//! assert_eq!(outcome.code, 0, "{}", outcome.stderr);
//! # Ok(())
//! # }
//! ```

mod child;
mod cpu;
mod home;
mod qemu;
mod user_mode;

use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};

use child::{Child, End};
use home::Home;

/// How much of a console a failure shows.
const CONSOLE_LINES: usize = 40;

/// Which kernel a guest runs.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Kernel {
    /// User-mode Linux, with everything built in.
    #[default]
    UserMode,
    /// Debian's stock 6.1 in QEMU, with its modules: ten times slower. Needs root.
    Debian6_1,
    /// The same with Debian's stock 5.10.
    Debian5_10,
}

/// A guest to be: every [`Guest::run`] boots it anew.
#[derive(Clone, Debug)]
pub struct Guest {
    kernel: Kernel,
    memory: u32,
    time_travel: bool,
    echo: bool,
    timeout: Duration,
    writable: Vec<PathBuf>,
}

/// What became of a command.
#[derive(Clone, Debug)]
pub struct Outcome {
    /// Its exit code; 128 and the signal's number when a signal ended it, as a shell says it.
    pub code: i32,
    /// What it wrote to standard output.
    pub stdout: String,
    /// What it wrote to standard error.
    pub stderr: String,
    /// The end of what the kernel wrote to its console.
    pub console: String,
}

impl Guest {
    /// A guest with 2 GiB, ten minutes and nothing to write to.
    #[must_use]
    pub fn builder() -> Self {
        Self {
            kernel: Kernel::default(),
            memory: 2048,
            time_travel: false,
            echo: false,
            timeout: Duration::from_mins(10),
            writable: Vec::new(),
        }
    }

    /// Another kernel than user-mode Linux.
    #[must_use]
    pub fn kernel(mut self, kernel: Kernel) -> Self {
        self.kernel = kernel;
        self
    }

    /// Its memory in MiB. Only what it uses is taken from the host.
    #[must_use]
    pub fn memory(mut self, mebibytes: u32) -> Self {
        self.memory = mebibytes;
        self
    }

    /// Its clock jumps to the next timer whenever nothing runs, and stands still while something does: hours of
    /// waiting take no time, and programs seem infinitely fast (`time-travel=inf-cpu`). A loop that polls the clock
    /// without sleeping never ends. User-mode Linux only.
    #[must_use]
    pub fn time_travel(mut self) -> Self {
        self.time_travel = true;
        self
    }

    /// The command's output is also written to this process's, while it runs.
    #[must_use]
    pub fn echo(mut self) -> Self {
        self.echo = true;
        self
    }

    /// How long it may take by the host's clock; then it is killed, and that is an error.
    #[must_use]
    pub fn timeout(mut self, timeout: Duration) -> Self {
        self.timeout = timeout;
        self
    }

    /// A directory of the host where what the guest writes stays.
    #[must_use]
    pub fn writable(mut self, directory: impl Into<PathBuf>) -> Self {
        self.writable.push(directory.into());
        self
    }

    /// Boots the guest, runs the command in it as root, and turns the guest off. Program, arguments, working directory
    /// and the variables that are set on the command are taken over, nothing of this process's own environment is.
    ///
    /// # Errors
    /// If the guest does not start, dies, or takes too long: with the end of its console and output. A command that
    /// fails is no error.
    pub fn run(&self, command: &Command) -> Result<Outcome> {
        let home = Home::new(command, &self.writable)?;
        let cpu = cpu::Reserved::new()?;
        let start = match self.kernel {
            Kernel::UserMode => user_mode::start(&user_mode::kernel()?, &home, self, cpu.number())?,
            Kernel::Debian6_1 => self.start_qemu("6.1", &home)?,
            Kernel::Debian5_10 => self.start_qemu("5.10", &home)?,
        };
        let mut child = Child::spawn(start)?;
        let end = child.wait(&home, self.echo, self.timeout)?;
        drop(child);
        let console = tail(&home.console());
        match (end, home.status()?) {
            (End::Exited(_), Some(code)) => {
                Ok(Outcome { code, stdout: home.stdout(), stderr: home.stderr(), console })
            }
            (End::Exited(status), None) => {
                bail!("the guest died ({status}){}", last_words(&home, &console))
            }
            (End::Late, _) => {
                bail!(
                    "the guest was killed after {:?}{}",
                    self.timeout,
                    last_words(&home, &console)
                )
            }
        }
    }
}

impl Guest {
    fn start_qemu(&self, series: &str, home: &Home) -> Result<Command> {
        ensure!(!self.time_travel, "only user-mode Linux travels in time");
        qemu::start(&qemu::kernel(series)?, home, self.memory)
    }
}

fn last_words(home: &Home, console: &str) -> String {
    format!(
        "; the end of its console:\n{console}\nof standard output:\n{}\nof standard error:\n{}",
        tail(&home.stdout()),
        tail(&home.stderr())
    )
}

fn tail(text: &str) -> String {
    let lines: Vec<_> = text.lines().collect();
    lines[lines.len().saturating_sub(CONSOLE_LINES)..].join("\n")
}

/// Where tools and kernels are kept between runs: `~/.cache/shunt-tools`.
fn cache() -> Result<PathBuf> {
    let base = match std::env::var_os("XDG_CACHE_HOME") {
        Some(cache) => PathBuf::from(cache),
        None => Path::new(&std::env::var_os("HOME").context("HOME is not set")?).join(".cache"),
    };
    Ok(base.join("shunt-tools"))
}
