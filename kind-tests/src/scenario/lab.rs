//! The real thing: a site with a daemon on every node, and a directory of manifests.

use std::collections::BTreeMap;
use std::fs;
use std::path::PathBuf;
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use shunt::status::Status;
use shunt_nftables::forwarding::Forwarding;

use super::binary::shunt_binary;
use super::daemon::{self, Daemon};
use super::oracle::{self, NodeState};
use super::policy;
use super::setup::Setup;
use super::site::Site;
use super::{table, virtual_servers};

/// How long the daemons may take to do what a step asks. They take milliseconds; this is for a busy machine, and for one
/// that is emulated.
const PATIENCE: Duration = Duration::from_secs(90);
/// How often they are asked meanwhile.
const INTERVAL: Duration = Duration::from_millis(10);

/// A running scenario. Dropping it ends every process and namespace of it.
pub(super) struct Lab<'a> {
    setup: &'a Setup,
    binary: PathBuf,
    // Before the cluster: they must be gone when their namespaces are.
    daemons: BTreeMap<String, Daemon>,
    site: Site<'a>,
    files: tempfile::TempDir,
}

impl<'a> Lab<'a> {
    /// Builds everything but the daemons.
    pub(super) fn build(setup: &'a Setup) -> Result<Self> {
        let binary = shunt_binary()?;
        let site = Site::build(setup)?;
        let files = tempfile::Builder::new().prefix("shunt-scenario-").tempdir();
        let files = files.context("a directory for the manifests")?;
        let lab = Self { setup, binary, daemons: BTreeMap::new(), site, files };
        for directory in [lab.manifests(), lab.accepted(), lab.aside()] {
            fs::create_dir(directory)?;
        }
        Ok(lab)
    }

    /// What the daemons follow.
    pub(super) fn manifests(&self) -> PathBuf {
        self.files.path().join("manifests")
    }

    /// The same with what unreadable files said before; for the oracle.
    pub(super) fn accepted(&self) -> PathBuf {
        self.files.path().join("accepted")
    }

    /// Where files are written before they are moved into place.
    pub(super) fn aside(&self) -> PathBuf {
        self.files.path().join("aside")
    }

    /// The nodes whose daemon runs.
    pub(super) fn running(&self) -> Vec<String> {
        self.daemons.keys().cloned().collect()
    }

    /// The cluster and what else is in it.
    pub(super) const fn site(&self) -> &Site<'a> {
        &self.site
    }

    /// The cluster, to hold and release connections in it.
    pub(super) const fn site_mut(&mut self) -> &mut Site<'a> {
        &mut self.site
    }

    /// Starts a node's daemon.
    pub(super) fn start(&mut self, node: &str) -> Result<()> {
        let arguments = oracle::arguments(node, &self.manifests(), &self.setup.flags);
        let netns = self.site.cluster().host(node)?.netns();
        let log = self.files.path().join(format!("{node}.log"));
        let daemon = Daemon::start(&self.binary, &arguments, netns, &log)?;
        self.daemons.insert(node.to_owned(), daemon);
        Ok(())
    }

    /// Kills a node's daemon.
    pub(super) fn kill(&mut self, node: &str) -> Result<()> {
        let daemon = self.daemons.remove(node);
        daemon.with_context(|| format!("no daemon runs on {node}"))?.kill()
    }

    /// Ends all daemons as a service manager does.
    pub(super) fn stop(&mut self) -> Result<()> {
        for (node, daemon) in std::mem::take(&mut self.daemons) {
            daemon.stop().with_context(|| format!("on {node}"))?;
        }
        Ok(())
    }

    /// Waits until a node's daemon has brought the kernel to just this plan, and reports just these problems.
    pub(super) fn wait(&mut self, node: &str, state: &NodeState, problems: &[&str]) -> Result<()> {
        let deadline = Instant::now() + PATIENCE;
        loop {
            let obstacles = self.obstacles(node, state, problems)?;
            if obstacles.is_empty() {
                return Ok(());
            }
            if Instant::now() > deadline {
                let log = self.daemon(node)?.log_tail();
                bail!(
                    "after {PATIENCE:?}, on {node}:\n{}\nThe daemon's log:\n{log}",
                    obstacles.join("\n")
                );
            }
            thread::sleep(INTERVAL);
        }
    }

    /// What the node's daemon says of itself.
    pub(super) fn status(&mut self, node: &str) -> Result<Option<Status>> {
        self.daemon(node)?.status().with_context(|| format!("on {node}"))
    }

    /// What a node's daemon answers to a question; none if it does not run.
    pub(super) fn ask(&self, node: &str, path: &str) -> Result<Option<String>> {
        if !self.daemons.contains_key(node) {
            return Ok(None);
        }
        let netns = self.site.cluster().host(node)?.netns();
        daemon::get(netns, path).map(Some).with_context(|| format!("{node}, {path}"))
    }

    /// Reads every node's ruleset with stock `nft`.
    pub(super) fn rulesets(&self) -> Result<BTreeMap<String, String>> {
        let list =
            |host: &shunt_cluster::Host| Ok((host.name().to_owned(), table::list(host.netns())?));
        self.site.cluster().nodes().map(list).collect()
    }

    /// After the end: no trace of a Service may be in any table.
    pub(super) fn check_empty(&self) -> Result<()> {
        for node in self.site.cluster().nodes() {
            let mut left = table::leftovers(&table::read(node.netns())?);
            if self.setup.forwarding == Forwarding::VirtualServers {
                left.extend(virtual_servers::leftovers(node.netns())?);
            }
            ensure!(
                left.is_empty(),
                "{} still holds, after everything was deleted:\n{}",
                node.name(),
                left.join("\n")
            );
            let listed = table::listed_elements(node.netns())?;
            ensure!(
                listed.is_empty(),
                "nft still lists on {}:\n{}",
                node.name(),
                listed.join("\n")
            );
        }
        Ok(())
    }

    fn daemon(&mut self, node: &str) -> Result<&mut Daemon> {
        self.daemons.get_mut(node).with_context(|| format!("no daemon runs on {node}"))
    }

    /// What keeps a step from being done.
    fn obstacles(
        &mut self,
        node: &str,
        state: &NodeState,
        problems: &[&str],
    ) -> Result<Vec<String>> {
        let Some(status) = self.status(node)? else {
            return Ok(vec!["the daemon does not answer yet".to_owned()]);
        };
        let mut obstacles = Vec::new();
        if !status.synced || !status.healthy || status.waiting_ms.is_some() {
            obstacles.push(format!("the daemon is at work; it awaits {:?}", status.awaiting));
        }
        obstacles.extend(status.failure.map(|failure| format!("the daemon has failed: {failure}")));
        let of_network = self.setup.problems_of_network();
        let problems: Vec<_> = problems.iter().chain(of_network).copied().collect();
        let mentions = |problem: &String, wanted: &&str| problem.contains(*wanted);
        for wanted in
            problems.iter().filter(|wanted| !status.problems.iter().any(|p| mentions(p, wanted)))
        {
            obstacles.push(format!("the daemon does not report a problem with {wanted:?}"));
        }
        for problem in
            status.problems.iter().filter(|problem| !problems.iter().any(|w| mentions(problem, w)))
        {
            obstacles.push(format!("the daemon reports a problem that is not expected: {problem}"));
        }
        let netns = self.site.cluster().host(node)?.netns();
        // A table can be replaced by another while it is read.
        let held = match table::read(netns) {
            Ok(held) => held,
            Err(error) => return Ok(vec![format!("{error:#}")]),
        };
        let mut missing = table::differences(&state.plan, &held);
        if held.installed.forwarding != self.setup.forwarding {
            missing.push(format!("a table of {:?}", self.setup.forwarding));
        }
        if self.setup.forwarding == Forwarding::VirtualServers {
            let held = virtual_servers::read(netns)?;
            missing.extend(virtual_servers::differences(&state.plan, &held));
        }
        let missing = missing.into_iter();
        obstacles.extend(missing.map(|difference| format!("the kernel lacks: {difference}")));
        let netns = self.site.cluster().host(node)?.netns();
        match policy::differences(node, &state.policy, netns) {
            Ok(differences) => obstacles.extend(differences),
            // As above.
            Err(error) => obstacles.push(format!("{error:#}")),
        }
        Ok(obstacles)
    }
}
