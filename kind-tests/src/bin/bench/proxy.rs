//! The programs that are measured, as processes in a node's namespace.

use std::fs::{self, File};
use std::io::{Read, Write};
use std::net::SocketAddr;
use std::path::PathBuf;
use std::process::{Command, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use shunt::status::Status;
use shunt_cluster::{Netns, Process, Signal};

use crate::figures::{Usage, milliseconds};
use crate::kernel::{Sign, Watch};
use crate::machine;

/// Where both answer, inside their namespaces.
const ADDRESS: &str = "127.0.0.1:10249";
const ANSWER: Duration = Duration::from_secs(10);
/// How long either may take to end.
const FAREWELL: Duration = Duration::from_secs(10);
/// kube-proxy's own time of its last sync, one for each IP family, 0 before the first.
const LAST_SYNC: &str = "kubeproxy_sync_proxy_rules_last_timestamp_seconds";

/// Which proxy.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Kind {
    Shunt,
    KubeProxy,
}

impl Kind {
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Shunt => "shunt",
            Self::KubeProxy => "kube-proxy",
        }
    }

    /// What shows in the kernel that it has changed an endpoint.
    pub(crate) fn sign(self) -> Sign {
        match self {
            Self::Shunt => Sign::EndpointMap,
            Self::KubeProxy => Sign::Rule,
        }
    }

    /// The longest that a first sync may take before the run is given up.
    fn patience(self) -> Duration {
        match self {
            Self::Shunt => Duration::from_secs(60),
            Self::KubeProxy => Duration::from_secs(180),
        }
    }

    /// How often it is asked whether it is synced: an answer of kube-proxy's costs more.
    fn question_every(self) -> Duration {
        match self {
            Self::Shunt => Duration::from_millis(25),
            Self::KubeProxy => Duration::from_millis(200),
        }
    }
}

/// How to start a proxy.
#[derive(Clone, Debug)]
pub(crate) struct Program {
    pub(crate) kind: Kind,
    pub(crate) path: PathBuf,
    pub(crate) arguments: Vec<String>,
    pub(crate) log: PathBuf,
}

impl Program {
    /// shunt for a node. The networks tell local pods from others, for both proxies alike.
    pub(crate) fn shunt(
        path: PathBuf,
        kubeconfig: &str,
        node: &str,
        cidr: &str,
        log: PathBuf,
    ) -> Self {
        let mut arguments = vec!["run".to_owned()];
        arguments.extend(shared_flags(kubeconfig, node, cidr));
        Self { kind: Kind::Shunt, path, arguments, log }
    }

    /// kube-proxy for a node. Machine-wide settings of connection tracking are left alone: they
    /// cannot be set from a namespace.
    pub(crate) fn kube_proxy(
        path: PathBuf,
        kubeconfig: &str,
        node: &str,
        cidr: &str,
        log: PathBuf,
    ) -> Self {
        let own =
            ["--proxy-mode=nftables", "--conntrack-max-per-core=0", "--conntrack-min=0", "--v=2"];
        let mut arguments = own.map(str::to_owned).to_vec();
        arguments.extend(shared_flags(kubeconfig, node, cidr));
        Self { kind: Kind::KubeProxy, path, arguments, log }
    }
}

fn shared_flags(kubeconfig: &str, node: &str, cidr: &str) -> [String; 5] {
    [
        format!("--kubeconfig={kubeconfig}"),
        format!("--hostname-override={node}"),
        format!("--cluster-cidr={cidr}"),
        format!("--metrics-bind-address={ADDRESS}"),
        "--healthz-bind-address=127.0.0.1:10256".to_owned(),
    ]
}

/// A running proxy. It is killed when dropped, and also when this process is killed.
pub(crate) struct Proxy {
    process: Process,
    netns: Netns,
    program: Program,
}

impl Proxy {
    /// Starts it and waits until it calls itself synced. With it comes how many milliseconds
    /// after the start of the process the kernel has changed last; 0 if it has not.
    pub(crate) fn start(program: &Program, netns: &Netns, watch: &Watch) -> Result<(Self, f64)> {
        let output = File::options().create(true).append(true).open(&program.log)?;
        let mut command = Command::new("setpriv");
        command.args(["--pdeathsig", "KILL", "--"]).arg(&program.path).args(&program.arguments);
        command.stdin(Stdio::null()).stdout(output.try_clone()?).stderr(output);
        let started = Instant::now();
        let process = netns.spawn(command).context("setpriv (util-linux) starts the proxy")?;
        let mut proxy = Self { process, netns: netns.clone(), program: program.clone() };
        proxy.wait_until_synced(started)?;
        let last = watch.last_change().map(|last| last.saturating_duration_since(started));
        Ok((proxy, milliseconds(last.unwrap_or_default())))
    }

    fn wait_until_synced(&mut self, started: Instant) -> Result<()> {
        let kind = self.program.kind;
        while started.elapsed() < kind.patience() {
            ensure!(
                self.process.is_running(),
                "{} has ended; its log:\n{}",
                kind.name(),
                self.log_tail()
            );
            let synced = match kind {
                Kind::Shunt => self.status().is_ok_and(|status| status.synced),
                Kind::KubeProxy => self.has_synced_all().unwrap_or(false),
            };
            if synced {
                return Ok(());
            }
            thread::sleep(kind.question_every());
        }
        bail!(
            "{} is not synced after {:?}; its log:\n{}",
            kind.name(),
            kind.patience(),
            self.log_tail()
        )
    }

    /// What shunt says of itself.
    pub(crate) fn status(&self) -> Result<Status> {
        let body = get(&self.netns, "/status")?;
        serde_json::from_str(&body).with_context(|| format!("/status: {body}"))
    }

    /// Whether kube-proxy has synced each IP family once.
    fn has_synced_all(&self) -> Result<bool> {
        let metrics = get(&self.netns, "/metrics")?;
        let lines = metrics.lines().filter(|line| line.starts_with(LAST_SYNC));
        let times = lines.filter_map(|line| line.rsplit(' ').next()?.parse::<f64>().ok());
        let times: Vec<_> = times.collect();
        Ok(!times.is_empty() && times.iter().all(|at| *at > 0.0))
    }

    pub(crate) fn usage(&self) -> Result<Usage> {
        machine::usage(self.process.pid())
    }

    /// Asks it to end.
    pub(crate) fn stop(mut self) -> Result<()> {
        self.process.signal(Signal::SIGTERM)?;
        let ended = self.process.wait_timeout(FAREWELL)?;
        ensure!(
            ended.is_some(),
            "{} still runs {FAREWELL:?} after SIGTERM",
            self.program.kind.name()
        );
        Ok(())
    }

    fn log_tail(&self) -> String {
        let log = fs::read_to_string(&self.program.log).unwrap_or_default();
        let lines: Vec<_> = log.lines().collect();
        lines[lines.len().saturating_sub(15)..].join("\n")
    }
}

/// The body of an answer. HTTP/1.0, so that it is never sent in chunks.
fn get(netns: &Netns, path: &str) -> Result<String> {
    let address: SocketAddr = ADDRESS.parse()?;
    let mut stream = netns.tcp_connect(address, ANSWER)?;
    stream.set_read_timeout(Some(ANSWER))?;
    write!(stream, "GET {path} HTTP/1.0\r\nHost: {ADDRESS}\r\n\r\n")?;
    let mut answer = String::new();
    stream.read_to_string(&mut answer)?;
    let (head, body) = answer.split_once("\r\n\r\n").context("an answer without a body")?;
    ensure!(head.lines().next().is_some_and(|line| line.contains(" 200")), "{head}");
    Ok(body.to_owned())
}
