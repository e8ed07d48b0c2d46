//! `shunt run` on a node.

use std::fs::{self, OpenOptions};
use std::io::{Read, Write};
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitStatus, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};
use shunt::status::Status;
use shunt_cluster::{Netns, Process, Signal};

use super::plane::{CLUSTER_CIDR, Plane};
use super::server::tail;
use super::wait::wait_for;
use crate::guest::Clock;
use crate::scenario::shunt_binary;

/// Where the daemon serves its state, in its node's namespace.
const METRICS: SocketAddr =
    SocketAddr::new(std::net::IpAddr::V4(std::net::Ipv4Addr::LOCALHOST), 10249);
/// Patience with the daemon's own answers.
const ANSWER: Duration = Duration::from_secs(10);
/// Patience with its start, API server included; and in the guest, where all have one CPU.
const START: Duration = Duration::from_secs(30);
const START_IN_GUEST: Duration = Duration::from_mins(5);

fn start_patience() -> Duration {
    if Clock::of_this_guest().is_some() { START_IN_GUEST } else { START }
}

/// How to start it.
#[derive(Clone, Debug, Default)]
pub struct DaemonSpec {
    /// Its credentials; `None` takes those of the restricted account.
    pub kubeconfig: Option<PathBuf>,
    /// More flags.
    pub flags: Vec<String>,
}

/// Where a proxy runs, and whom it follows.
#[derive(Clone, Copy)]
pub struct Place<'a> {
    /// The node's name.
    pub node: &'a str,
    /// The node.
    pub netns: &'a Netns,
    /// The proxy's credentials, and the API server's address.
    pub kubeconfig: &'a Path,
    /// A directory for its log.
    pub scratch: &'a Path,
}

/// A running daemon. Dropping it kills it, and leaves in the kernel what it has installed.
pub struct Daemon {
    process: Process,
    node: Netns,
    log: PathBuf,
}

impl Daemon {
    /// Starts it with one capability.
    pub fn start(plane: &Plane, node: &str, spec: &DaemonSpec) -> Result<Self> {
        let netns = plane.cluster().host(node)?.netns();
        let kubeconfig = spec.kubeconfig.as_deref().unwrap_or(plane.kubeconfig());
        Self::start_at(&Place { node, netns, kubeconfig, scratch: plane.scratch() }, &spec.flags)
    }

    /// The same without a plane, with more flags.
    pub fn start_at(place: &Place<'_>, flags: &[String]) -> Result<Self> {
        static COUNT: AtomicU32 = AtomicU32::new(0);
        let number = COUNT.fetch_add(1, Ordering::Relaxed);
        let log = place.scratch.join(format!("shunt-{}-{number}.log", place.node));
        let mut command = Command::new("setpriv");
        command.args([
            "--pdeathsig",
            "KILL",
            "--no-new-privs",
            "--bounding-set",
            "-all,+net_admin",
        ]);
        command.arg("--inh-caps=-all").arg(shunt_binary()?);
        command.args(["run", "--node-name", place.node]);
        command.args(["--cluster-cidr", CLUSTER_CIDR, "-v", "4"]);
        command.arg("--kubeconfig").arg(place.kubeconfig).args(flags);
        command.env_clear().stdin(Stdio::null()).stdout(Stdio::null());
        command.stderr(OpenOptions::new().create(true).append(true).open(&log)?);
        let process = place.netns.spawn(command)?;
        Ok(Self { process, node: place.netns.clone(), log })
    }

    /// What it has logged.
    pub fn log(&self) -> Result<String> {
        Ok(fs::read_to_string(&self.log)?)
    }

    /// Fails if it has logged an error.
    pub fn expect_no_errors(&self) -> Result<()> {
        self.expect_no_line(|line| line.contains(" ERROR ") || line.contains("panicked"))
    }

    /// Fails if the API server has refused it something.
    pub fn expect_permitted(&self) -> Result<()> {
        self.expect_no_line(|line| line.contains("is forbidden: User"))
    }

    fn expect_no_line(&self, bad: impl Fn(&str) -> bool) -> Result<()> {
        let log = self.log()?;
        let line = log.lines().find(|line| bad(line));
        ensure!(line.is_none(), "in the log of {}: {}", self.node.name(), line.unwrap_or_default());
        Ok(())
    }

    /// Waits for a line with this text in its log.
    pub fn wait_for_log(&self, text: &str) -> Result<()> {
        wait_for(&format!("{text:?} in the log"), start_patience(), || {
            Ok(if self.log()?.contains(text) { Ok(()) } else { Err(tail(&self.log)) })
        })
    }

    /// Its state as it tells it; the inner error is why it does not answer.
    pub fn status(&mut self) -> Result<Result<Status, String>> {
        if !self.process.is_running() {
            bail!("shunt has ended:\n{}", tail(&self.log));
        }
        let answer = match self.get(METRICS, "/status") {
            Ok((200, answer)) => answer,
            Ok((code, answer)) => return Ok(Err(format!("{code}: {answer}"))),
            Err(error) => return Ok(Err(format!("{error:#}"))),
        };
        Ok(Ok(serde_json::from_str(&answer).with_context(|| answer)?))
    }

    /// Waits until its state fulfils a condition.
    pub fn wait_for_status(
        &mut self,
        what: &str,
        condition: impl Fn(&Status) -> bool,
    ) -> Result<Status> {
        wait_for(what, start_patience(), || {
            Ok(self.status()?.and_then(|status| {
                if condition(&status) { Ok(status) } else { Err(format!("{status:?}")) }
            }))
        })
    }

    /// Its state and the end of its log, for whoever wonders.
    pub fn describe(&mut self) -> String {
        let state = self.status();
        format!("{}: {state:?}\n{}", self.node.name(), tail(&self.log))
    }

    /// Waits for its first sync.
    pub fn wait_until_synced(&mut self) -> Result<Status> {
        self.wait_for_status("the first sync", |status| status.synced)
    }

    /// An HTTP request to an address in the node's namespace: status code and body.
    pub fn get(&self, address: SocketAddr, path: &str) -> Result<(u16, String)> {
        http_get(&self.node, address, path)
    }

    /// Stops its time.
    pub fn freeze(&mut self) -> Result<()> {
        self.process.signal(Signal::SIGSTOP)
    }

    /// Lets it go on.
    pub fn thaw(&mut self) -> Result<()> {
        self.process.signal(Signal::SIGCONT)
    }

    /// Ends it with SIGKILL.
    pub fn kill(mut self) -> Result<()> {
        self.process.signal(Signal::SIGKILL)?;
        ensure!(self.process.wait_timeout(ANSWER)?.is_some(), "shunt survives SIGKILL");
        Ok(())
    }

    /// Ends it as a kubelet does.
    pub fn stop(self) -> Result<ExitStatus> {
        self.process.stop(ANSWER)
    }

    /// Waits for it to end by itself: its exit code and what it said.
    pub fn wait_for_end(mut self) -> Result<(Option<i32>, String)> {
        let status = self.process.wait_timeout(START)?;
        let status = status.with_context(|| format!("shunt goes on:\n{}", tail(&self.log)))?;
        Ok((status.code(), self.log()?))
    }
}

/// An HTTP request to an address in a namespace: status code and body.
pub fn http_get(netns: &Netns, address: SocketAddr, path: &str) -> Result<(u16, String)> {
    let mut stream = netns.tcp_connect(address, ANSWER)?;
    stream.set_read_timeout(Some(ANSWER))?;
    // HTTP/1.0, so that no answer comes in chunks.
    write!(stream, "GET {path} HTTP/1.0\r\nHost: shunt\r\n\r\n")?;
    let mut answer = String::new();
    stream.read_to_string(&mut answer)?;
    let code = answer.split(' ').nth(1).and_then(|code| code.parse().ok());
    let body = answer.split_once("\r\n\r\n").map_or("", |(_, body)| body);
    Ok((code.with_context(|| format!("no HTTP: {answer:?}"))?, body.to_owned()))
}
