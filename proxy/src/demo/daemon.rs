//! The daemon of a node: this program again, in the node's namespace.

use std::fs::{self, File};
use std::io::{Read, Write};
use std::net::{Ipv4Addr, SocketAddr};
use std::os::unix::process::{CommandExt, ExitStatusExt, parent_id};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, anyhow, bail};
use nix::sys::signal::SigSet;
use shunt_cluster::{Host, Netns, Process, Signal, die_with_parent};

use super::ending::Ending;
use super::manifests::POD_NETWORKS;
use crate::failure::Failure;
use crate::status::{FrontendRow, Status};

/// Tells a daemon of the demo which process it belongs to.
const PARENT: &str = "SHUNT_DEMO_PROCESS";
/// Where the daemon answers, by default.
const ANSWERS: SocketAddr = SocketAddr::new(std::net::IpAddr::V4(Ipv4Addr::LOCALHOST), 10249);
/// How long the daemon may take for an answer, and for a change.
const PATIENCE: Duration = Duration::from_secs(60);
/// How long until the daemon is asked again.
const AGAIN: Duration = Duration::from_millis(1);
/// The exit code of a daemon that misses something in this machine.
const MACHINE: i32 = 3;

/// For the first line of `main`: a daemon of the demo ends with it, however that ends, and does
/// not inherit that it takes its signals by a thread.
pub fn end_with_demo() {
    let Ok(demo) = std::env::var(PARENT) else {
        return;
    };
    let bound = die_with_parent().is_ok() && SigSet::all().thread_unblock().is_ok();
    // What ended before this line ran cannot take us along: our parent is another one then.
    if !bound || parent_id().to_string() != demo {
        std::process::exit(1);
    }
}

/// A running daemon. Dropping it kills it.
pub(super) struct Daemon {
    process: Process,
    node: String,
    netns: Netns,
    log: PathBuf,
}

/// What a daemon says about itself and its frontends, at one moment.
pub(super) struct Answer {
    pub(super) status: Status,
    pub(super) rows: Vec<FrontendRow>,
}

impl Answer {
    /// Whether the kernel has all that the daemon knows, and every frontend so many endpoints.
    pub(super) fn serves(&self, frontends: usize, endpoints: usize) -> bool {
        self.status.synced
            && self.status.waiting_ms.is_none()
            && self.rows.len() == frontends
            && self.rows.iter().all(|row| row.endpoints.len() == endpoints)
    }
}

/// This program as another process.
fn program() -> Command {
    let mut command = Command::new("/proc/self/exe");
    // A signal from the keyboard is for the demo, which then ends what it has started.
    command.process_group(0).stdin(Stdio::null());
    command.env(PARENT, std::process::id().to_string());
    command
}

impl Daemon {
    /// Starts it on a node; it has not synced yet when this returns.
    pub(super) fn start(node: &Host, directory: &Path) -> anyhow::Result<Self> {
        let log = directory.join(format!("{}.log", node.name()));
        let mut command = program();
        command.args(["run", "--node-name", node.name()]);
        command.args(["--cluster-cidr", POD_NETWORKS, "--manifests"]);
        let written = File::options().create(true).append(true).open(&log)?;
        command.arg(directory).stdout(Stdio::null()).stderr(written);
        Ok(Self {
            process: node.netns().spawn(command)?,
            node: node.name().to_owned(),
            netns: node.netns().clone(),
            log,
        })
    }

    /// The node's name.
    pub(super) fn node(&self) -> &str {
        &self.node
    }

    /// Its process id.
    pub(super) fn pid(&self) -> u32 {
        self.process.pid()
    }

    /// Waits until it serves what was written.
    pub(super) fn wait(
        &mut self,
        ending: &Ending,
        done: impl Fn(&Answer) -> bool,
    ) -> Result<Answer, Failure> {
        let deadline = Instant::now() + PATIENCE;
        loop {
            ending.check()?;
            let late = match self.ask() {
                Ok(answer) if done(&answer) => return Ok(answer),
                Ok(_) => anyhow!("its answers are not what the manifests say"),
                Err(error) => error,
            };
            let ended = self.process.wait_timeout(AGAIN)?;
            if let Some(status) = ended {
                let ended = anyhow!("{}\nit ended: {status}", self.last_words());
                let failure = ended.context(format!("the daemon of {}", self.node));
                return Err(match status.code() {
                    Some(MACHINE) => Failure::Machine(failure),
                    _ => Failure::Runtime(failure),
                });
            }
            if Instant::now() > deadline {
                let late = late.context(format!(
                    "the daemon of {} is late; it says:\n{}",
                    self.node,
                    self.last_words()
                ));
                return Err(late.into());
            }
        }
    }

    /// Asks it.
    pub(super) fn ask(&self) -> anyhow::Result<Answer> {
        // The rows first: what they show was ordered before the status is asked for.
        let rows = self.get("/status/services")?;
        let rows = rows.lines().map(serde_json::from_str);
        let rows = rows.collect::<Result<_, _>>().context("/status/services is not understood")?;
        let status = self.get("/status")?;
        let status = serde_json::from_str(&status).context("/status is not understood")?;
        Ok(Answer { status, rows })
    }

    fn get(&self, path: &str) -> anyhow::Result<String> {
        let mut stream = self.netns.tcp_connect(ANSWERS, PATIENCE)?;
        stream.set_read_timeout(Some(PATIENCE))?;
        // HTTP/1.0 comes without chunks and ends with the connection.
        write!(stream, "GET {path} HTTP/1.0\r\nHost: {ANSWERS}\r\n\r\n")?;
        let mut answer = String::new();
        stream.read_to_string(&mut answer)?;
        match answer.split_once("\r\n\r\n") {
            Some((head, body)) if head.contains(" 200 ") => Ok(body.to_owned()),
            _ => bail!("{path}: {}", answer.lines().next().unwrap_or_default()),
        }
    }

    /// Kills it as nothing else does: it cannot tidy up.
    pub(super) fn kill(mut self) -> Result<(), Failure> {
        self.process.signal(Signal::SIGKILL)?;
        let status = self.process.wait_timeout(PATIENCE)?;
        match status.and_then(|status| status.signal()) {
            Some(9) => Ok(()),
            _ => Err(anyhow!("the daemon of {} was not killed: {status:?}", self.node).into()),
        }
    }

    /// Ends it in order.
    pub(super) fn stop(self) -> Result<(), Failure> {
        let status = self.process.stop(PATIENCE)?;
        if status.success() {
            return Ok(());
        }
        Err(anyhow!("the daemon of {} ended badly: {status}", self.node).into())
    }

    /// The last lines of its log.
    pub(super) fn last_words(&self) -> String {
        let log = fs::read_to_string(&self.log).unwrap_or_default();
        let lines: Vec<_> = log.lines().collect();
        lines[lines.len().saturating_sub(5)..].join("\n")
    }
}

/// What `shunt status` prints on a node.
pub(super) fn status_on(node: &Host) -> anyhow::Result<String> {
    let mut command = program();
    command.arg("status").stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut process = node.netns().spawn(command)?;
    let (_, out, err) = process.pipes();
    let mut text = String::new();
    out.context("no pipe")?.read_to_string(&mut text)?;
    let status = process.wait_timeout(PATIENCE)?.context("shunt status does not end")?;
    if status.success() {
        return Ok(text);
    }
    let mut complaint = String::new();
    err.context("no pipe")?.read_to_string(&mut complaint)?;
    bail!("shunt status: {status}: {complaint}");
}
