//! The real kube-proxy on a node.

use std::fs::{self, File};
use std::path::PathBuf;
use std::process::{Command, Stdio};
use std::time::Duration;

use anyhow::{Result, ensure};
use shunt_cluster::{Netns, Process, Signal};

use super::daemon::{Place, http_get};
use super::plane::{CLUSTER_CIDR, Plane};
use super::server::tail;
use super::wait::wait_for;
use crate::kube_proxy::program;

/// Patience with its first sync, with few Services.
const START: Duration = Duration::from_secs(60);

/// A running kube-proxy. Dropping it kills it, and leaves in the kernel what it has installed.
pub struct KubeProxy {
    process: Process,
    node: Netns,
    log: PathBuf,
}

impl KubeProxy {
    /// Starts it in one of its modes.
    pub fn start(plane: &Plane, node: &str, mode: &str) -> Result<Self> {
        Self::start_with(plane, node, mode, &[])
    }

    /// The same with more flags.
    pub fn start_with(plane: &Plane, node: &str, mode: &str, flags: &[&str]) -> Result<Self> {
        let netns = plane.cluster().host(node)?.netns();
        let kubeconfig = &plane.server().kubeconfig();
        Self::start_at(&Place { node, netns, kubeconfig, scratch: plane.scratch() }, mode, flags)
    }

    /// The same without a plane.
    pub fn start_at(place: &Place<'_>, mode: &str, flags: &[&str]) -> Result<Self> {
        let log = place.scratch.join(format!("kube-proxy-{}.log", place.node));
        let output = File::options().create(true).append(true).open(&log)?;
        let mut command = Command::new("setpriv");
        command.args(["--pdeathsig", "KILL", "--"]).arg(program()?);
        // The machine's settings of connection tracking are not for a namespace to change.
        command.args(["--conntrack-max-per-core=0", "--conntrack-min=0"]);
        command.arg(format!("--proxy-mode={mode}"));
        command.arg(format!("--cluster-cidr={CLUSTER_CIDR}"));
        command.arg(format!("--kubeconfig={}", place.kubeconfig.display()));
        command.arg(format!("--hostname-override={}", place.node)).args(flags);
        command.stdin(Stdio::null()).stdout(output.try_clone()?).stderr(output);
        Ok(Self { process: place.netns.spawn(command)?, node: place.netns.clone(), log })
    }

    /// Waits until it has synced both families once.
    pub fn wait_until_synced(&self) -> Result<()> {
        self.wait_until_synced_within(START)
    }

    /// The same with more patience: with thousands of Services it takes minutes in some modes.
    pub fn wait_until_synced_within(&self, patience: Duration) -> Result<()> {
        let synced = "kubeproxy_sync_proxy_rules_last_timestamp_seconds{ip_family=";
        wait_for("kube-proxy's first sync", patience, || {
            let address = ([127, 0, 0, 1], 10249).into();
            let metrics = http_get(&self.node, address, "/metrics").map(|(_, body)| body);
            let metrics = metrics.unwrap_or_default();
            let times = metrics.lines().filter_map(|line| line.strip_prefix(synced));
            let done = times.filter(|line| !line.ends_with(" 0")).count();
            Ok(if done == 2 { Ok(()) } else { Err(tail(&self.log)) })
        })
    }

    /// Ends it as a kubelet does; its rules stay.
    pub fn stop(mut self) -> Result<()> {
        self.process.signal(Signal::SIGTERM)?;
        let ended = self.process.wait_timeout(Duration::from_secs(10))?;
        ensure!(ended.is_some(), "kube-proxy goes on: {}", fs::read_to_string(&self.log)?);
        Ok(())
    }
}
