//! The real thing: a cluster of namespaces, servers on its pods and nodes, a daemon on every node, a directory of manifests.

use std::collections::BTreeMap;
use std::fs;
use std::path::PathBuf;
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use shunt::status::Status;
use shunt_cluster::{Cluster, Connection, EchoServer};
use shunt_model::plan::Plan;

use super::binary::shunt_binary;
use super::daemon::Daemon;
use super::oracle;
use super::probe::Prober;
use super::setup::Setup;
use super::step::Hold;
use super::table;

/// How long the daemons may take to do what a step asks. They take milliseconds; this is for a busy machine.
const PATIENCE: Duration = Duration::from_secs(30);
/// How often they are asked meanwhile.
const INTERVAL: Duration = Duration::from_millis(10);

/// A running scenario. Dropping it ends every process and namespace of it.
pub(super) struct Lab<'a> {
    setup: &'a Setup,
    binary: PathBuf,
    // Before the cluster: they must be gone when their namespaces are.
    daemons: BTreeMap<String, Daemon>,
    held: BTreeMap<String, (Hold, Connection)>,
    _servers: Vec<EchoServer>,
    cluster: Cluster,
    files: tempfile::TempDir,
}

impl<'a> Lab<'a> {
    /// Builds everything but the daemons.
    pub(super) fn build(setup: &'a Setup) -> Result<Self> {
        let binary = shunt_binary()?;
        let cluster = Cluster::build(&setup.cluster)?;
        for host in cluster.hosts() {
            let known = setup.names.resolve(host.name())?;
            ensure!(host.addresses() == known, "{} is not numbered as documented", host.name());
        }
        for (host, address) in &setup.addresses {
            cluster.host(host)?.add_address(*address)?;
        }
        for route in &setup.routes {
            let via = setup.names.host_like(&route.via, route.network.addr())?;
            cluster.host(&route.host)?.add_route(route.network, via)?;
        }
        let mut servers = Vec::new();
        for host in cluster.pods().chain(cluster.nodes()) {
            for port in &setup.ports {
                let name = format!("{}:{port}", host.name());
                servers.push(EchoServer::start(host.netns(), &name, &[*port])?);
            }
        }
        let files = tempfile::Builder::new().prefix("shunt-scenario-").tempdir();
        let files = files.context("a directory for the manifests")?;
        let lab = Self {
            setup,
            binary,
            daemons: BTreeMap::new(),
            held: BTreeMap::new(),
            _servers: servers,
            cluster,
            files,
        };
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

    /// What sends probes.
    pub(super) fn prober(&self) -> Prober<'_> {
        Prober { cluster: &self.cluster, setup: self.setup }
    }

    /// Starts a node's daemon.
    pub(super) fn start(&mut self, node: &str) -> Result<()> {
        let arguments = oracle::arguments(node, &self.manifests(), &self.setup.flags);
        let netns = self.cluster.host(node)?.netns();
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
    pub(super) fn wait(&mut self, node: &str, plan: &Plan, problems: &[&str]) -> Result<()> {
        let deadline = Instant::now() + PATIENCE;
        loop {
            let obstacles = self.obstacles(node, plan, problems)?;
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

    /// Reads every node's ruleset with stock `nft`.
    pub(super) fn rulesets(&self) -> Result<BTreeMap<String, String>> {
        let list =
            |host: &shunt_cluster::Host| Ok((host.name().to_owned(), table::list(host.netns())?));
        self.cluster.nodes().map(list).collect()
    }

    /// After the end: no trace of a Service may be in any table.
    pub(super) fn check_empty(&self) -> Result<()> {
        for node in self.cluster.nodes() {
            let left = table::leftovers(&table::read(node.netns())?);
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

    /// Opens a connection and keeps it.
    pub(super) fn hold(&mut self, hold: &Hold) -> Result<()> {
        let connection = self
            .prober()
            .hold(hold)
            .map_err(|error| hold.place.error(format_args!("{error:#}")))?;
        self.held.insert(hold.name.clone(), (hold.clone(), connection));
        Ok(())
    }

    /// Closes a held connection.
    pub(super) fn release(&mut self, name: &str) -> Result<()> {
        let (_, connection) =
            self.held.remove(name).with_context(|| format!("{name} is not held"))?;
        connection.close().with_context(|| format!("closing the held connection {name}"))
    }

    /// Closes all that is held.
    pub(super) fn release_all(&mut self) -> Result<()> {
        let names: Vec<_> = self.held.keys().cloned().collect();
        names.iter().try_for_each(|name| self.release(name))
    }

    /// Talks on every held connection.
    pub(super) fn use_held(&mut self) -> Result<()> {
        for (name, (hold, connection)) in &mut self.held {
            let lives = connection.exchange("still there?");
            lives.with_context(|| {
                format!("{}: the held connection {name} does not live", hold.place)
            })?;
        }
        Ok(())
    }

    fn daemon(&mut self, node: &str) -> Result<&mut Daemon> {
        self.daemons.get_mut(node).with_context(|| format!("no daemon runs on {node}"))
    }

    /// What keeps a step from being done.
    fn obstacles(&mut self, node: &str, plan: &Plan, problems: &[&str]) -> Result<Vec<String>> {
        let Some(status) = self.status(node)? else {
            return Ok(vec!["the daemon does not answer yet".to_owned()]);
        };
        let mut obstacles = Vec::new();
        if !status.synced || !status.healthy || status.waiting_ms.is_some() {
            obstacles.push(format!("the daemon is at work; it awaits {:?}", status.awaiting));
        }
        obstacles.extend(status.failure.map(|failure| format!("the daemon has failed: {failure}")));
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
        let held = table::read(self.cluster.host(node)?.netns())?;
        let missing = table::differences(plan, &held).into_iter();
        obstacles.extend(missing.map(|difference| format!("the kernel lacks: {difference}")));
        Ok(obstacles)
    }
}
