//! The measurements at one size, in their order.

use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use serde_json::{Value, json};
use shunt_cluster::{Load, LoadSpec, Netns, Protocol};
use shunt_kind_tests::control_plane::{Id, expect, verbs};
use shunt_model::plan::Plan;
use shunt_nftables::forwarding::Forwarding;
use shunt_nftables::kernel::floor::{BareLoad, Spread, bare_load};

use crate::figures::{
    Change, ChangeKind, FloorResult, ProxyResult, RestartResult, SizeResult, Start, milliseconds,
};
use crate::kernel::{self, Listener, Sign, Watch};
use crate::lister;
use crate::machine;
use crate::proxy::{Kind, Proxy};
use crate::world::{NAMESPACE, Size, World, node_name};

/// How much is done.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Effort {
    /// Until measuring begins after objects were created.
    pub(crate) settle: Duration,
    /// Starts of shunt and of the lister; the median counts.
    pub(crate) starts: usize,
    /// Changes of each kind for shunt.
    pub(crate) changes: usize,
    /// How long changes may go on for kube-proxy, which needs seconds for one.
    pub(crate) kube_proxy_changes: Duration,
    /// Bare loads.
    pub(crate) floors: usize,
}

/// The longest that one change may take.
const CHANGE: Duration = Duration::from_secs(60);
/// The longest that all changes for shunt may take.
const LONGEST_CHANGES: Duration = Duration::from_secs(120);
/// Between two changes for shunt: so that each is alone.
const PAUSE: Duration = Duration::from_millis(15);
/// kube-proxy waits so long between two syncs (its default `minSyncPeriod`). Changes come after
/// it, so that no wait counts.
const MIN_SYNC_PERIOD: Duration = Duration::from_millis(1100);
/// After a start: until a proxy has done what it puts off.
const QUIET: Duration = Duration::from_secs(3);
/// New connections during a restart, in a second, and how long each may take: less than a second,
/// after which the client's kernel would send a lost SYN again and hide the loss.
const CONNECTIONS: u32 = 500;
const CONNECTION: Duration = Duration::from_millis(900);
const MOST_RESTART: Duration = Duration::from_secs(60);

/// One size at one of its nodes.
pub(crate) struct Run<'a> {
    pub(crate) world: &'a World,
    pub(crate) index: usize,
    pub(crate) size: Size,
    pub(crate) effort: Effort,
    pub(crate) with_kube_proxy: bool,
}

impl Run<'_> {
    /// Measures everything. `wrong` takes what is not as it must be.
    pub(crate) fn measure(&self, wrong: &mut Vec<String>) -> Result<SizeResult> {
        let mut result = SizeResult {
            services: self.size.services,
            endpoints_each: self.size.endpoints,
            load_average: machine::load(),
            ..SizeResult::default()
        };
        let node = self.world.node(Kind::Shunt, self.index)?;
        let watch = Watch::start(&node)?;
        say(&format!("{}: starting shunt, and the lists alone", result.name()));
        let proxy = self.start_shunt(&node, &watch, &mut result)?;
        let shunt = &mut result.shunt;
        self.look(&proxy, &node, &watch, shunt)?;
        let plan = self.check(&node, "after the first sync", wrong)?;
        drop(watch);
        say("changes of endpoints for shunt");
        shunt.changes = self.changes(Kind::Shunt, &node, wrong)?;
        shunt.after_changes = proxy.usage()?;
        shunt.event_to_commit_us = Some(proxy.status()?.event_to_commit_us);
        self.check(&node, "after the changes", wrong)?;
        say("restart of shunt under a load of new connections");
        result.restart = self.restart(proxy, &node, wrong)?;
        self.check(&node, "after the restart", wrong)?;
        say("the same elements, bare");
        result.floor = self.floor(&plan)?;
        if self.with_kube_proxy {
            result.kube_proxy = Some(self.kube_proxy(wrong)?);
        }
        Ok(result)
    }

    /// The lists alone and shunt's starts in turn, so that both meet the same machine. The last
    /// shunt goes on.
    fn start_shunt(&self, node: &Netns, watch: &Watch, result: &mut SizeResult) -> Result<Proxy> {
        let program = self.world.program(Kind::Shunt, self.index);
        let name = node_name(Kind::Shunt, self.index);
        loop {
            result.listing_ms.push(lister::measure(node, &self.world.kubeconfig(), &name)?);
            let (proxy, last_rule_ms) = Proxy::start(&program, node, watch)?;
            let reported = proxy.status()?.first_sync;
            result.shunt.starts.push(Start { last_rule_ms, reported });
            if result.shunt.starts.len() >= self.effort.starts {
                return Ok(proxy);
            }
            proxy.stop()?;
            kernel::remove_table(node)?;
        }
    }

    /// What a proxy has used, and what it has installed, once it is quiet.
    fn look(
        &self,
        proxy: &Proxy,
        node: &Netns,
        watch: &Watch,
        result: &mut ProxyResult,
    ) -> Result<()> {
        watch.wait_for_quiet(QUIET, 10 * QUIET);
        result.after_sync = proxy.usage()?;
        (result.chains, result.rules) = kernel::chains_and_rules(node)?;
        Ok(())
    }

    /// Compares shunt's kernel with a plan made from a fresh list of the API; returns the plan.
    fn check(&self, node: &Netns, when: &str, wrong: &mut Vec<String>) -> Result<Plan> {
        let snapshot = expect::snapshot(self.world.plane.api())?;
        let plan = expect::plan(&node_name(Kind::Shunt, self.index), &snapshot);
        if let Err(differences) = expect::compare(node, &plan)? {
            wrong.push(format!("the kernel is not as planned {when}: {differences}"));
        }
        Ok(plan)
    }

    /// Changes endpoints in turns of all kinds, with a pause after each, until there are so many
    /// turns or the time is over.
    fn changes(&self, kind: Kind, node: &Netns, wrong: &mut Vec<String>) -> Result<Vec<Change>> {
        let (turns, limit, pause) = match kind {
            Kind::Shunt => (self.effort.changes, LONGEST_CHANGES, PAUSE),
            Kind::KubeProxy => {
                (self.effort.changes, self.effort.kube_proxy_changes, MIN_SYNC_PERIOD)
            }
        };
        let listener = Listener::start(node, kind.sign())?;
        let started = Instant::now();
        let mut changes = Vec::new();
        for (turn, change) in (0..turns).flat_map(|turn| ChangeKind::ALL.map(|kind| (turn, kind))) {
            if started.elapsed() >= limit && !changes.is_empty() {
                break;
            }
            match self.change(&listener, change, turn)? {
                Some(change) => changes.push(change),
                None => wrong.push(format!("{} has not done: {}", kind.name(), change.name())),
            }
            thread::sleep(pause);
        }
        Ok(changes)
    }

    /// Changes one endpoint and waits until the kernel has it. In a turn, one endpoint of a
    /// Service is replaced, one is added and one removed, so its size is the same in the end.
    fn change(&self, listener: &Listener, kind: ChangeKind, turn: usize) -> Result<Option<Change>> {
        // Spread over the Services; every tenth has a node port and is passed over.
        let services = usize::try_from(self.size.services)?;
        let service = (turn * 7919 % services) / 10 * 10 + 1 + turn % 9;
        let id = Id::slice(NAMESPACE, &format!("svc-{}-0", service.min(services - 1)));
        let before = self.world.plane.api().get(&id)?;
        let mut endpoints =
            before["endpoints"].as_array().context("a slice without endpoints")?.clone();
        let newcomer = newcomer(&endpoints[0]);
        match kind {
            ChangeKind::Replace => {
                let place = turn % endpoints.len();
                endpoints[place] = newcomer;
            }
            ChangeKind::Add => endpoints.push(newcomer),
            ChangeKind::Remove => drop(endpoints.remove(turn % endpoints.len())),
        }
        listener.forget();
        let (asked, answered) = self.world.plane.api().run(|client| async move {
            let asked = Instant::now();
            verbs::patch(&client, &id, json!({ "endpoints": endpoints })).await?;
            anyhow::Ok((asked, Instant::now()))
        })?;
        Ok(listener.next(CHANGE)?.map(|seen| Change {
            kind,
            from_request_us: signed_us(asked, seen),
            from_answer_us: signed_us(answered, seen),
        }))
    }

    fn restart(
        &self,
        proxy: Proxy,
        node: &Netns,
        wrong: &mut Vec<String>,
    ) -> Result<RestartResult> {
        let (client, destination) = self.world.client(self.index)?;
        let load = Load::start(
            client.netns(),
            &LoadSpec {
                protocol: Protocol::Tcp,
                destination,
                per_second: CONNECTIONS,
                duration: MOST_RESTART,
                timeout: CONNECTION,
            },
        )?;
        thread::sleep(Duration::from_millis(300));
        let before = kernel::generation(node)?;
        let listener = Listener::start(node, Sign::Content)?;
        proxy.stop()?;
        let watch = Watch::start(node)?;
        let started = Instant::now();
        let program = self.world.program(Kind::Shunt, self.index);
        let (proxy, _) = Proxy::start(&program, node, &watch)?;
        let synced_ms = milliseconds(started.elapsed());
        thread::sleep(Duration::from_millis(500));
        let report = load.stop()?;
        let status = proxy.status()?;
        let generations = kernel::generation(node)?.wrapping_sub(before);
        let usage = proxy.usage()?;
        proxy.stop()?;
        if report.losses() > 0 || report.answers() == 0 {
            wrong.push(format!("connections lost during the restart: {report}"));
        }
        if status.counters.operations > 0 {
            wrong.push(format!("{} operations written at the restart", status.counters.operations));
        }
        // The kernel's own word for it. Claiming the table again is one change, of its flags alone.
        if generations > 1 || listener.next(Duration::ZERO)?.is_some() {
            wrong.push(format!("{generations} changes of the ruleset at the restart"));
        }
        let reported = status.first_sync.unwrap_or_default();
        Ok(RestartResult {
            synced_ms,
            reported,
            operations: status.counters.operations,
            transactions: status.counters.transactions,
            generations,
            connections: report.sent,
            lost: report.losses(),
            slowest_ms: milliseconds(report.slowest),
            usage,
        })
    }

    /// Bare loads, each into a namespace of its own.
    fn floor(&self, plan: &Plan) -> Result<FloorResult> {
        let mut result = FloorResult::default();
        for _ in 0..self.effort.floors {
            let one = bare(plan, Spread::One)?;
            let bounded = bare(plan, Spread::Bounded)?;
            result.one_ms.push(milliseconds(one.send));
            result.encode_ms.push(milliseconds(one.encode));
            result.bounded_ms.push(milliseconds(bounded.send));
            result.operations = one.operations;
            result.bytes = one.bytes;
            result.transactions = bounded.transactions;
        }
        Ok(result)
    }

    fn kube_proxy(&self, wrong: &mut Vec<String>) -> Result<ProxyResult> {
        say("starting kube-proxy");
        let node = self.world.node(Kind::KubeProxy, self.index)?;
        let watch = Watch::start(&node)?;
        let program = self.world.program(Kind::KubeProxy, self.index);
        let mut result = ProxyResult::default();
        let (proxy, last_rule_ms) = Proxy::start(&program, &node, &watch)?;
        result.starts.push(Start { last_rule_ms, reported: None });
        self.look(&proxy, &node, &watch, &mut result)?;
        drop(watch);
        say("changes of endpoints for kube-proxy");
        result.changes = self.changes(Kind::KubeProxy, &node, wrong)?;
        result.after_changes = proxy.usage()?;
        proxy.stop()?;
        Ok(result)
    }
}

/// An endpoint with an address that no other has had, on a node that is not measured.
fn newcomer(like: &Value) -> Value {
    use std::sync::atomic::{AtomicU32, Ordering};
    static NEXT: AtomicU32 = AtomicU32::new(1);
    let [_, high, middle, low] = NEXT.fetch_add(1, Ordering::Relaxed).to_be_bytes();
    let mut endpoint = like.clone();
    endpoint["addresses"] = json!([format!("10.{}.{middle}.{low}", 120 + high)]);
    endpoint["nodeName"] = json!("elsewhere-0");
    endpoint
}

fn bare(plan: &Plan, spread: Spread) -> Result<BareLoad> {
    let netns = Netns::new("bare")?;
    let plan = plan.clone();
    Ok(netns.run(move || bare_load(&plan, Forwarding::Translate, spread))?)
}

/// Microseconds from one moment to another; negative if that was before.
fn signed_us(from: Instant, to: Instant) -> f64 {
    match to.checked_duration_since(from) {
        Some(after) => after.as_secs_f64() * 1e6,
        None => -(from.duration_since(to).as_secs_f64() * 1e6),
    }
}

/// Tells on the terminal what is going on.
pub(crate) fn say(what: &str) {
    eprintln!("bench: {what}");
}
