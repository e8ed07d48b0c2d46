//! kube-proxy as a process in a node's namespace.

use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use shunt_cluster::{Netns, Process, Signal};

use super::{Api, Mode};

/// How long it may take to end.
const FAREWELL: Duration = Duration::from_secs(60);
/// How much of its log a failure shows.
const LOG_LINES: usize = 25;

/// A running kube-proxy. It is killed when dropped, and also when this process is killed.
pub struct KubeProxy {
    process: Process,
    log: PathBuf,
}

impl KubeProxy {
    /// Starts it for a node, with the API of its namespace; its log is added to a file.
    ///
    /// # Errors
    /// If it has not been built.
    pub fn start(
        mode: Mode,
        node: &str,
        flags: &[String],
        netns: &Netns,
        log: &Path,
    ) -> Result<Self> {
        let output = File::options().create(true).append(true).open(log)?;
        let mut command = Command::new("setpriv");
        command.args(["--pdeathsig", "KILL", "--"]).arg(program()?).args([
            &format!("--proxy-mode={}", mode.name()),
            &format!("--master={}", Api::url()),
            &format!("--hostname-override={node}"),
            "--kube-api-content-type=application/json",
            // For every mode, whatever its name says. Its default, a second, is all that a step would wait for.
            "--iptables-min-sync-period=10ms",
            // Machine-wide settings cannot be set from a namespace.
            "--conntrack-max-per-core=0",
            "--conntrack-min=0",
            "--metrics-bind-address=127.0.0.1:10249",
            // What it may not set it tries for a while.
            "--oom-score-adj=0",
        ]);
        command.args(flags);
        command.stdin(Stdio::null()).stdout(output.try_clone()?).stderr(output);
        let process = netns.spawn(command).context("setpriv (util-linux) starts kube-proxy")?;
        Ok(Self { process, log: log.to_owned() })
    }

    /// Fails if it has ended.
    ///
    /// # Errors
    /// With the end of its log.
    pub fn check_running(&mut self) -> Result<()> {
        ensure!(self.process.is_running(), "kube-proxy has ended; its log:\n{}", self.log_tail());
        Ok(())
    }

    /// Its process id.
    #[must_use]
    pub fn pid(&self) -> u32 {
        self.process.pid()
    }

    /// Kills it; what it has installed stays.
    ///
    /// # Errors
    /// If it survives that.
    pub fn kill(mut self) -> Result<()> {
        self.process.signal(Signal::SIGKILL)?;
        let ended = self.process.wait_timeout(FAREWELL)?;
        ensure!(ended.is_some(), "kube-proxy outlives SIGKILL");
        Ok(())
    }

    /// The end of its log.
    #[must_use]
    pub fn log_tail(&self) -> String {
        let log = fs::read_to_string(&self.log).unwrap_or_default();
        let lines: Vec<_> = log.lines().collect();
        lines[lines.len().saturating_sub(LOG_LINES)..].join("\n")
    }
}

/// The program that `make controlplane` builds.
///
/// # Errors
/// If it is missing.
pub fn program() -> Result<PathBuf> {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../target/controlplane/kube-proxy");
    ensure!(path.is_file(), "{} is missing: make controlplane", path.display());
    Ok(path)
}
