//! The lists alone: shunt's own source, and nobody who wants its objects.
//!
//! It runs in a process of its own, started like the proxies: so loading the program, TLS and
//! the first request count here as they do there.

use std::collections::BTreeSet;
use std::env;
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use shunt::metrics::Requests;
use shunt::source::{SourceEvent, api, client};
use shunt_cluster::Netns;
use shunt_model::problem::Kind;
use shunt_model::snapshot::Change;
use tokio::runtime::Builder;
use tokio::sync::mpsc;

use crate::figures::milliseconds;

/// The longest that the lists may take.
const PATIENCE: Duration = Duration::from_secs(120);
/// As in shunt.
const QUEUE: usize = 256;

/// Starts a process that takes the lists, and returns the milliseconds from its start to its end.
pub(crate) fn measure(netns: &Netns, kubeconfig: &str, node: &str) -> Result<f64> {
    let mut command = Command::new("setpriv");
    command.args(["--pdeathsig", "KILL", "--"]).arg(env::current_exe()?);
    command.args(["--list-alone", node, "--kubeconfig", kubeconfig]).stdin(Stdio::null());
    let started = Instant::now();
    let mut process = netns.spawn(command)?;
    let status = process.wait_timeout(PATIENCE)?.context("the lists do not end")?;
    ensure!(status.success(), "the lists alone: {status}");
    Ok(milliseconds(started.elapsed()))
}

/// What that process does.
pub(crate) fn run(kubeconfig: &Path, node: &str) -> Result<()> {
    let runtime = Builder::new_current_thread().enable_all().max_blocking_threads(1).build()?;
    runtime.block_on(async {
        let client = client::client(Some(kubeconfig), None, Requests::default()).await?;
        let (changes, mut arriving) = mpsc::channel(QUEUE);
        let node = node.to_owned();
        tokio::spawn(async move { api::watch(client, &node, None, changes).await });
        let mut missing = BTreeSet::from([Kind::Service, Kind::EndpointSlice, Kind::Node]);
        while !missing.is_empty() {
            let event = arriving.recv().await.context("the source has ended")?;
            if let SourceEvent::Change(Change::ListDone(kind)) = event {
                missing.remove(&kind);
            }
        }
        Ok(())
    })
}
