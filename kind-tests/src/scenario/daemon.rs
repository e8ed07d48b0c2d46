//! One node's daemon: a real process in the node's namespace, asked over its own HTTP address.

use std::fs::{self, File};
use std::io::{Read, Write};
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};
use shunt::status::Status;
use shunt_cluster::{Netns, Process, Signal};

/// Where it answers, inside its namespace.
const ADDRESS: &str = "127.0.0.1:10249";
/// How long one answer may take.
const ANSWER: Duration = Duration::from_secs(30);
/// How long it may take to end.
const FAREWELL: Duration = Duration::from_secs(60);
/// How much of its log a failure shows.
const LOG_LINES: usize = 25;

/// A running daemon. It is killed when dropped, and also when this process is killed.
pub struct Daemon {
    process: Process,
    netns: Netns,
    log: PathBuf,
}

impl Daemon {
    /// Starts it; its log is added to a file.
    pub fn start(binary: &Path, arguments: &[String], netns: &Netns, log: &Path) -> Result<Self> {
        let output = File::options().create(true).append(true).open(log)?;
        let mut command = Command::new("setpriv");
        command.args(["--pdeathsig", "KILL", "--"]).arg(binary).args(arguments);
        command.stdin(Stdio::null()).stdout(output.try_clone()?).stderr(output);
        let process = netns.spawn(command).context("setpriv (util-linux) starts the daemon")?;
        Ok(Self { process, netns: netns.clone(), log: log.to_owned() })
    }

    /// What it says of itself; none while it does not listen yet.
    pub fn status(&mut self) -> Result<Option<Status>> {
        ensure!(self.process.is_running(), "the daemon has ended; its log:\n{}", self.log_tail());
        let Ok(body) = get(&self.netns, "/status") else { return Ok(None) };
        let status: Status =
            serde_json::from_str(&body).with_context(|| format!("/status: {body}"))?;
        Ok((status.pid == self.process.pid()).then_some(status))
    }

    /// Stops its time, or lets it go on.
    pub fn freeze(&mut self, frozen: bool) -> Result<()> {
        self.process.signal(if frozen { Signal::SIGSTOP } else { Signal::SIGCONT })
    }

    /// Kills it, as a crash would.
    pub fn kill(mut self) -> Result<()> {
        self.process.signal(Signal::SIGKILL)?;
        let ended = self.process.wait_timeout(FAREWELL)?;
        ensure!(ended.is_some(), "the daemon outlives SIGKILL");
        Ok(())
    }

    /// Asks it to end, which it must do without a complaint.
    pub fn stop(mut self) -> Result<()> {
        self.process.signal(Signal::SIGTERM)?;
        match self.process.wait_timeout(FAREWELL)? {
            Some(status) if status.success() => Ok(()),
            Some(status) => {
                bail!("after SIGTERM the daemon ended with {status}; its log:\n{}", self.log_tail())
            }
            None => bail!("the daemon still runs {FAREWELL:?} after SIGTERM"),
        }
    }

    /// The end of its log.
    pub fn log_tail(&self) -> String {
        let log = fs::read_to_string(&self.log).unwrap_or_default();
        let lines: Vec<_> = log.lines().collect();
        lines[lines.len().saturating_sub(LOG_LINES)..].join("\n")
    }
}

/// The body of an answer to one HTTP request.
pub fn get(netns: &Netns, path: &str) -> Result<String> {
    let address: SocketAddr = ADDRESS.parse()?;
    let mut stream = netns.tcp_connect(address, ANSWER)?;
    stream.set_read_timeout(Some(ANSWER))?;
    write!(stream, "GET {path} HTTP/1.1\r\nHost: {ADDRESS}\r\nConnection: close\r\n\r\n")?;
    let mut answer = String::new();
    stream.read_to_string(&mut answer)?;
    let (head, body) = answer.split_once("\r\n\r\n").context("an answer without a body")?;
    ensure!(head.starts_with("HTTP/1.1 200"), "{head}");
    Ok(body.to_owned())
}
