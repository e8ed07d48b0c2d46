//! Plays a scenario on the real kube-proxy: the same cluster, manifests and flows; what is to be otherwise is declared.

use std::collections::BTreeMap;
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use serde_json::json;
use shunt_cluster::Family;

use super::Scenario;
use super::difference::{Difference, Instead};
use super::flow::Flow;
use super::run::Played;
use super::setup::Setup;
use super::site::Site;
use super::step::{Act, Files, Step};
use crate::generation;
use crate::kube_proxy::{Api, KubeProxy, Mode, Objects, Resource, mark};

/// How long kube-proxy may take for what a step asks. It takes a second to start; this is for a busy machine.
const PATIENCE: Duration = Duration::from_secs(30);
/// How often its ruleset is read meanwhile.
const INTERVAL: Duration = Duration::from_millis(50);
/// So long nothing has changed when it is done: it may write the same twice, and a packet that meets that moment may
/// find half a chain; and at last it removes flows from connection tracking.
const QUIET: Duration = Duration::from_millis(100);
/// A Node changes so long before the other objects: no mark tells when it has been seen.
const NODES_FIRST: Duration = Duration::from_millis(300);

/// Plays a scenario as far as kube-proxy plays it.
pub(super) fn play(scenario: &Scenario, mode: Mode) -> Result<Played> {
    let mut played = Played::default();
    let mut game: Option<Game<'_>> = None;
    for step in &scenario.steps {
        if step.absent(mode) {
            break;
        }
        let context = || format!("{} on {mode}, step {}", scenario.name, step.name);
        let first = game.is_none();
        let game = match &mut game {
            Some(game) => game,
            none => none.insert(Game::start(&scenario.setup, mode)?),
        };
        game.step(step, first).with_context(context)?;
        played.steps += 1;
        played.flows += step.flows.len();
    }
    let Some(mut game) = game else { return Ok(played) };
    game.site.release_all()?;
    match game.failures.as_slice() {
        [] => Ok(played),
        failures => bail!(
            "{} on {mode}: {} of {} flows:\n{}",
            scenario.name,
            failures.len(),
            played.flows,
            failures.join("\n")
        ),
    }
}

/// A site with kube-proxy on its nodes.
pub(super) struct Game<'a> {
    setup: &'a Setup,
    mode: Mode,
    // Before the site: they must be gone when their namespaces are.
    proxies: BTreeMap<String, KubeProxy>,
    api: Api,
    site: Site<'a>,
    logs: tempfile::TempDir,
    /// The manifests as they were last readable.
    accepted: Files,
    objects: Objects,
    marks: u16,
    failures: Vec<String>,
}

impl<'a> Game<'a> {
    /// Builds everything but the proxies.
    pub(super) fn start(setup: &'a Setup, mode: Mode) -> Result<Self> {
        let site = Site::build(setup)?;
        let mut api = Api::new(&Objects::default());
        for node in site.cluster().nodes() {
            api.serve(node.netns())?;
        }
        Ok(Self {
            setup,
            mode,
            proxies: BTreeMap::new(),
            api,
            site,
            logs: tempfile::Builder::new().prefix("shunt-peer-").tempdir()?,
            accepted: Files::new(),
            objects: Objects::default(),
            marks: 0,
            failures: Vec::new(),
        })
    }

    fn step(&mut self, step: &Step, first: bool) -> Result<()> {
        for act in &step.acts {
            if let Act::Kill(node) = act
                && let Some(proxy) = self.proxies.remove(node)
            {
                proxy.kill()?;
            }
        }
        self.site.use_held().context("before the manifests change")?;
        self.accepted = step.readable(&self.accepted);
        self.change(Objects::read(self.accepted.values().map(String::as_str))?);
        for node in &self.setup.cluster.nodes {
            if first && !step.has(&Act::Kill(node.name.clone()))
                || step.has(&Act::Start(node.name.clone()))
            {
                self.launch(&node.name)?;
            }
        }
        self.wait()?;
        self.site.follow(&step.acts)?;
        self.site.use_held().context("after the manifests have changed")?;
        for flow in &step.flows {
            if let Err(error) = self.check(flow) {
                self.failures.push(format!("{flow}\n  {error:#}\n{}", self.excerpt(flow)));
            }
        }
        for act in &step.acts {
            match act {
                Act::Hold(hold) => self.site.hold(hold)?,
                Act::Release(name) => self.site.release(name)?,
                Act::Wait(duration) => thread::sleep(*duration),
                // These are about shunt's daemon.
                _ => {}
            }
        }
        self.site.use_held().context("after the flows")
    }

    fn launch(&mut self, node: &str) -> Result<()> {
        let netns = self.site.cluster().host(node)?.netns();
        let log = self.logs.path().join(format!("{node}.log"));
        let proxy = KubeProxy::start(self.mode, node, &self.setup.peer_flags, netns, &log)?;
        self.proxies.insert(node.to_owned(), proxy);
        Ok(())
    }

    /// The cluster.
    pub(super) const fn site(&self) -> &Site<'a> {
        &self.site
    }

    /// The mode.
    pub(super) const fn mode(&self) -> Mode {
        self.mode
    }

    /// Puts objects before kube-proxy, which is started if none of it runs, and waits until the kernel has them.
    pub(super) fn put(&mut self, objects: Objects) -> Result<()> {
        self.change(objects);
        if self.proxies.is_empty() {
            for node in &self.setup.cluster.nodes {
                self.launch(&node.name)?;
            }
        }
        self.wait()
    }

    /// Puts objects before kube-proxy.
    fn change(&mut self, mut objects: Objects) {
        self.add_nodes(&mut objects);
        self.marks += 1;
        mark::add(&mut objects, self.setup.cluster.families, self.marks);
        if objects.hand_over(&mut self.objects, &[Resource::Node, Resource::ServiceCidr]) {
            self.api.replace(&self.objects);
            thread::sleep(NODES_FIRST);
        }
        self.api.replace(&objects);
        self.objects = objects;
    }

    /// Without its Node kube-proxy waits for half a minute when it starts; every cluster has them.
    fn add_nodes(&self, objects: &mut Objects) {
        for node in &self.setup.cluster.nodes {
            let built = self.setup.names.resolve(&node.name).unwrap_or_default();
            let address = |ip| json!({ "type": "InternalIP", "address": ip });
            objects.add(json!({
                "kind": "Node",
                "metadata": { "name": node.name },
                "status": { "addresses": built.iter().map(address).collect::<Vec<_>>() },
            }));
        }
    }

    /// Waits until the rulesets of all running proxies show the newest mark.
    fn wait(&mut self) -> Result<()> {
        let deadline = Instant::now() + PATIENCE;
        let families = self.setup.cluster.families;
        for (node, proxy) in &mut self.proxies {
            let netns = self.site.cluster().host(node)?.netns();
            while !mark::shows(netns, self.mode, families, self.marks)? {
                proxy.check_running()?;
                if Instant::now() > deadline {
                    bail!(
                        "on {node} nothing shows of the step after {PATIENCE:?}; its log:\n{}",
                        proxy.log_tail()
                    );
                }
                thread::sleep(INTERVAL);
            }
        }
        for node in self.proxies.keys() {
            generation::wait_for_quiet(self.site.cluster().host(node)?.netns(), QUIET, PATIENCE)?;
        }
        Ok(())
    }

    fn check(&self, flow: &Flow) -> Result<()> {
        let family = Some(Family::of(flow.to.ip()));
        let mut differences = flow.differences.iter();
        let declared = differences.find(|difference| difference.concerns(self.mode, family));
        let (expected, otherwise) = match declared.map(|difference| &difference.instead) {
            Some(Instead::Chance) => return Ok(()),
            Some(Instead::Flow(expected)) => {
                (expected, "it is declared to be otherwise than shunt, but is otherwise again")
            }
            Some(Instead::Absent) | None => {
                (&flow.expected, "it is otherwise than shunt, and this is not declared")
            }
        };
        self.site.prober().check(flow, expected).context(otherwise)
    }

    /// The rules about a flow, on the node that its client is on or is routed through.
    fn excerpt(&self, flow: &Flow) -> String {
        let to = flow.to.ip();
        let node = self.setup.node_of(&flow.from).or_else(|| self.setup.next_hop(&flow.from, to));
        let node = node.or_else(|| self.setup.names.host_of(to));
        let Some(Ok(host)) = node.map(|node| self.site.cluster().host(node)) else {
            return String::new();
        };
        let ruleset = mark::ruleset(host.netns(), self.mode, Family::of(to)).unwrap_or_default();
        let port = flow.to.port().to_string();
        let concerns = |line: &&str| {
            line.contains(&to.to_string()) || line.split(' ').any(|word| word == port)
        };
        ruleset.lines().filter(concerns).collect::<Vec<_>>().join("\n")
    }
}

impl Step {
    fn absent(&self, mode: Mode) -> bool {
        self.absences.iter().any(|absence: &Difference| absence.concerns(mode, None))
    }
}
