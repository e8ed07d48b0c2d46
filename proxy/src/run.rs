//! `shunt run`: everything is made here and wired to each other.

use std::path::Path;
use std::sync::Arc;
use std::time::Instant;

use anyhow::{Context, anyhow};
use jiff::Timestamp;
use shunt_netpolicy_nftables::answers::{self, Answers};
use shunt_netpolicy_nftables::drop_log::DropLog;
use shunt_netpolicy_nftables::kernel::{
    Change as PolicyChange, Options, PolicyCounts, PolicyTable, learnt,
};
use shunt_netpolicy_nftables::layout::Variant;
use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio::sync::{mpsc, watch};
use tokio::task::JoinSet;
use tracing::{info, warn};

use crate::backend;
use crate::cli::{IpvsFallback, LiveConnections, NetworkPolicy, NewPods, RunArgs, TableOwner};
use crate::config::watch::{Content, Watched};
use crate::config::{Effective, Mode, load};
use crate::event_loop::{EventLoop, Identity, Inputs};
use crate::failure::Failure;
use crate::kernel::{Flows, Kernel, Policy};
use crate::logging::Levels;
use crate::metrics::{Metrics, Requests};
use crate::policy::{Demand, NameOptions, PolicyPlanner};
use crate::progress::Health;
use crate::reporter::{About, Report};
use crate::server::{Pages, Site, Sources, serve, serve_or_fail, service_health};
use crate::source::network::Network;
use crate::source::{FileProblem, SourceEvent, Wanted, api, client, local, manifests};
use crate::{drops, heap, logging, machine, names, nri, reporter, rivals};

/// How many source events may wait for the loop. Sources wait when it is full: a first list must
/// not be held in memory before it is taken in.
const SOURCE_QUEUE: usize = 256;
/// How many HTTP questions may wait for the loop.
const QUESTION_QUEUE: usize = 16;

/// Why the daemon ends when its file changes: like kube-proxy, it is started again with the new one.
const CONFIG_CHANGED: &str = "the content of the configuration file was updated";

/// Runs the daemon until a signal ends it. What is installed stays installed.
///
/// # Errors
/// If it is asked for wrongly, the machine lacks something, or a part of it ends.
pub fn run(args: &RunArgs) -> Result<(), Failure> {
    let started = Instant::now();
    let (mut effective, remarks) = args.effective()?;
    if let Some(path) = &args.write_config_to {
        return write_config(path, &effective);
    }
    let levels = logging::start(&effective.log)?;
    let watched = args.config.as_deref().map(Watched::new);
    remarks.iter().for_each(|remark| warn!("--config: {remark}"));
    effective.notes.iter().for_each(|note| info!("{note}"));
    if args.cleanup {
        return rivals::cleanup();
    }
    if args.init_only {
        return init_only(&effective);
    }
    rivals::wait_until_alone();
    heap::keep();
    let (services, lack) = backend::open(&mut effective)?;
    let backends = (services, open_policy(&effective)?, lack);
    // One thread for the loop, the sources and HTTP. Threads for what can only block (reading
    // files, resolving names) cost memory for as long as they live: one is enough.
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .max_blocking_threads(1)
        .build()
        .context("the runtime cannot be started")?;
    let result = runtime.block_on(async {
        let mut end = End::new()?;
        tokio::select! {
            result = work(args, &effective, backends, (levels, started), watched) => result,
            signal = end.signal() => {
                info!("{signal}: ending; what is installed stays");
                Ok(())
            }
        }
    });
    // Whatever still blocks (a name that is being resolved) has nothing to finish.
    runtime.shutdown_background();
    result
}

/// Network policy's side of the kernel.
struct PolicyKernel {
    table: PolicyTable,
    log: Option<DropLog>,
    decided: std::sync::mpsc::Receiver<PolicyCounts>,
    /// Why there is no log, if there should be one.
    no_log: Option<String>,
    names: NameOptions,
}

/// The table of network policy, if policy is enforced.
fn open_policy(effective: &Effective) -> Result<Option<PolicyKernel>, Failure> {
    let owner = effective.table_owner == TableOwner::Auto;
    let mut table = PolicyTable::open(owner).map_err(Failure::machine)?;
    match effective.network_policy {
        mode @ (NetworkPolicy::Auto | NetworkPolicy::Audit) => {
            let opened = effective.policy_log.then(DropLog::open).transpose();
            let no_log = opened.as_ref().err().map(|error| {
                format!("what network policy drops is counted and not logged: {error}")
            });
            let log = opened.unwrap_or_default();
            let variant = Variant {
                log: log.is_some(),
                audit: mode == NetworkPolicy::Audit,
                closed: effective.new_pods == NewPods::Closed,
                switched: None,
                counting: effective.policy_counters,
            };
            let keep_connections = effective.live_connections == LiveConnections::Keep;
            let (counts, decided) = std::sync::mpsc::channel();
            let table = table.with(Options { variant, keep_connections }).telling(counts);
            let names = NameOptions {
                servers: effective.dns_servers.clone(),
                grace: effective.dns_grace,
                owner,
                learnt: learnt().map_err(Failure::machine)?,
                left: answers::is_there().map_err(Failure::machine)?,
            };
            Ok(Some(PolicyKernel { table, log, decided, no_log, names }))
        }
        NetworkPolicy::Off => {
            // What an earlier run enforced would stay as it was then for ever.
            table.sync(PolicyChange::default()).map_err(Failure::machine)?;
            let nothing = answers::Wanted::default();
            Answers::open(owner)
                .and_then(|mut answers| answers.sync(&nothing))
                .map_err(Failure::machine)?;
            Ok(None)
        }
    }
}

/// The signals that end the daemon.
struct End {
    terminate: Signal,
    interrupt: Signal,
}

impl End {
    fn new() -> anyhow::Result<Self> {
        let catch = |kind| signal(kind).context("signals cannot be caught");
        Ok(Self {
            terminate: catch(SignalKind::terminate())?,
            interrupt: catch(SignalKind::interrupt())?,
        })
    }

    async fn signal(&mut self) -> &'static str {
        tokio::select! {
            _ = self.terminate.recv() => "SIGTERM",
            _ = self.interrupt.recv() => "SIGINT",
        }
    }
}

async fn work(
    args: &RunArgs,
    effective: &Effective,
    (services, policy, lack): (backend::Services, Option<PolicyKernel>, Option<String>),
    (levels, started): (Levels, Instant),
    watched: Option<Watched>,
) -> Result<(), Failure> {
    let (changes, sources) = mpsc::channel(SOURCE_QUEUE);
    let node = effective.settings.node_name.to_string();
    let mut tasks = JoinSet::new();
    let (wanted, seen) = watch::channel(Wanted::default());
    let seen = policy.is_some().then_some(seen);
    let (metrics, registry) = Metrics::new();
    let requests = metrics.requests();
    let (source, reporter) =
        start_sources(args, effective, requests, seen, changes.clone(), &mut tasks).await?;
    // Not before it is known that we can work.
    let mut unset = prepare_machine(effective);
    unset.extend(lack);
    info!(version = env!("CARGO_PKG_VERSION"), node, source, "shunt is starting");

    let (reports, kernel_reports) = mpsc::unbounded_channel();
    let verified = Policy::verified(effective.verify_interval);
    let flows = Flows::start(effective.settings.reset_tcp, reports.clone());
    let kernel = Kernel::start("kernel", services, flows, verified, reports)
        .context("the kernel thread cannot be started")?;
    let (reports, policy_reports) = mpsc::unbounded_channel();
    let (drop_events, dropped) = mpsc::channel(drops::QUEUE);
    let (name_events, answers) = mpsc::channel(names::QUEUE);
    let (nri_events, new_pods) = mpsc::channel(nri::QUEUE);
    let mut policy_kernel = None;
    let mut name_options = NameOptions::default();
    if let Some(PolicyKernel { table, log, decided, no_log, names }) = policy {
        name_options = names;
        unset.extend(no_log);
        drops::start(log, decided, drop_events)?;
        let verified = Policy::verified(effective.verify_interval);
        let started = Kernel::start("policy", table, None, verified, reports);
        let context = "the kernel thread of network policy cannot be started";
        policy_kernel = Some(started.context(context)?);
    }

    let (health, health_seen) = watch::channel(Health::STARTING);
    let (questions, asked) = mpsc::channel(QUESTION_QUEUE);
    let registry = Arc::new(registry);
    let health_asked = health_seen.clone();
    let pages = Arc::new(Pages::new(effective, started));
    let served = Sources {
        questions,
        health: health_seen,
        metrics: metrics.clone(),
        registry,
        pages,
        levels,
        reporter: reporter.clone(),
    };
    start_servers(effective, &served).await?;
    let scope = backend::of_kube_proxy(effective)?;
    tokio::spawn(rivals::take_over(served.health.clone(), scope, changes.clone()));
    if effective.settings.localhost_node_ports {
        tokio::spawn(machine::open_localhost(served.health.clone()));
    }
    drop(served);

    let identity = identity(args, effective, started, source);
    let (listens, listening) = mpsc::unbounded_channel();
    let policy = policy_kernel.is_some().then_some(policy_reports);
    let inputs = Inputs {
        sources,
        kernel: kernel_reports,
        policy,
        drops: dropped,
        names: answers,
        nri: new_pods,
        questions: asked,
        listening,
    };
    let mut event_loop = EventLoop::new(identity, effective.settings.clone(), metrics, health);
    if let Some(reporter) = reporter {
        event_loop.report_to(reporter);
    }
    tokio::spawn(service_health::serve(event_loop.health_checks(), health_asked, listens));
    if policy_kernel.is_some() {
        let demand = match args.own.manifests {
            Some(_) => Demand::Always,
            None => Demand::Told(wanted),
        };
        let audit = effective.network_policy == NetworkPolicy::Audit;
        let closed = effective.new_pods == NewPods::Closed;
        let planner = PolicyPlanner::new(&effective.settings.node_name, demand);
        let planner = planner.counting(effective.policy_counters).with_modes(audit, closed);
        let planner = planner.with_names(name_options, name_events);
        event_loop.enforce(planner);
        if let Some(socket) = &effective.nri_socket {
            let node = Arc::clone(&effective.settings.node_name);
            tokio::spawn(nri::follow(socket.clone(), node, nri_events));
        }
    }
    event_loop.note_machine(&unset);
    tokio::select! {
        stopped = event_loop.run(inputs, &kernel, policy_kernel.as_ref()) => Ok(stopped?),
        failure = source_ended(&mut tasks) => Err(failure),
        () = config_changed(watched, args, &changes) => Err(anyhow!(CONFIG_CHANGED).into()),
    }
}

/// What does not change while the daemon runs.
fn identity(args: &RunArgs, effective: &Effective, started: Instant, source: String) -> Identity {
    Identity {
        started,
        started_at: Timestamp::now(),
        node: effective.settings.node_name.to_string(),
        source,
        patience: effective.patience,
        has_node: args.own.manifests.is_none(),
    }
}

/// Sets what is set once; returns what could not be.
fn prepare_machine(effective: &Effective) -> Vec<String> {
    machine::set_oom_score(effective.oom_score_adj);
    machine::ask_for_conntrack();
    let mut unset = machine::limit_conntrack(Path::new("/"), &effective.conntrack);
    if effective.settings.localhost_node_ports {
        unset.extend(machine::localhost_is_closed(Path::new("/")));
    }
    unset
}

/// Starts what objects come from, each on a task of its own; returns its name for people, and
/// who tells it of problems.
async fn start_sources(
    args: &RunArgs,
    effective: &Effective,
    requests: Requests,
    wanted: Option<watch::Receiver<Wanted>>,
    changes: mpsc::Sender<SourceEvent>,
    tasks: &mut JoinSet<Result<(), Failure>>,
) -> Result<(String, Option<mpsc::Sender<Report>>), Failure> {
    let mut network = Network::new(
        effective.bridge_netfilter,
        wanted.is_some(),
        effective.masquerade_same_link,
        effective.settings.masquerade_all,
    );
    let out = changes.clone();
    tasks.spawn(async {
        // Before the machine's addresses, without which nothing is done.
        network.look(&out).await;
        tokio::join!(local::watch(out.clone()), network.watch(out));
        Ok(())
    });
    if let Some(directory) = &args.own.manifests {
        let watched = manifests::watch(directory.clone(), changes);
        tasks.spawn(async { watched.await.map_err(Failure::usage) });
        return Ok((format!("manifests in {}", directory.display()), None));
    }
    let master = args.kube_proxy.master.as_deref();
    let client = client::client(effective.kubeconfig.as_deref(), master, requests);
    let client = client.await.map_err(Failure::usage)?;
    let node = effective.settings.node_name.to_string();
    let (reporter, reports) = mpsc::channel(reporter::QUEUE);
    let started = Report {
        about: About::Node,
        reason: "Starting",
        note: format!("shunt {} is starting", env!("CARGO_PKG_VERSION")),
        wrong: false,
    };
    // The queue is empty.
    let _ = reporter.try_send(started);
    tokio::spawn(reporter::run(client.clone(), node.clone(), reports));
    tasks.spawn(async move {
        api::watch(client, &node, wanted, changes).await;
        Ok(())
    });
    Ok(("API server".into(), Some(reporter)))
}

/// Waits for a source to end, which none does as long as the loop listens, unless it fails.
async fn source_ended(tasks: &mut JoinSet<Result<(), Failure>>) -> Failure {
    match tasks.join_next().await {
        Some(Ok(Err(failure))) => failure,
        Some(Err(panic)) => Failure::from(panic),
        Some(Ok(Ok(()))) | None => anyhow!("a source of objects has ended").into(),
    }
}

async fn start_servers(effective: &Effective, sources: &Sources) -> Result<(), Failure> {
    let sites = [(Site::Metrics, effective.metrics), (Site::Health, effective.healthz)];
    for (site, address) in sites {
        match address {
            Some(address) if effective.bind_hard_fail => {
                let served = serve_or_fail(site, address, sources.clone()).await;
                served.with_context(|| format!("cannot listen on {address}"))?;
            }
            Some(address) => {
                tokio::spawn(serve(site, address, sources.clone()));
            }
            None => {}
        }
    }
    Ok(())
}

/// The end of `--init-only`: what a later run without privileges counts on is there, or not.
fn init_only(effective: &Effective) -> Result<(), Failure> {
    machine::ask_for_conntrack();
    let mut unset = machine::limit_conntrack(Path::new("/"), &effective.conntrack);
    if effective.mode == Mode::Ipvs {
        let strict_arp = effective.configuration.ipvs.strict_arp;
        match shunt_ipvs::set_sysctls(strict_arp) {
            Ok(others) => unset.extend(others),
            // The run that follows finds out for itself.
            Err(error)
                if error.is_a_lack() && effective.ipvs_fallback == IpvsFallback::Nftables =>
            {
                warn!("{error}");
            }
            Err(error) => return Err(Failure::machine(error)),
        }
    }
    if unset.is_empty() {
        return Ok(());
    }
    Err(Failure::machine(anyhow!("{}", unset.join("\n"))))
}

fn write_config(path: &Path, effective: &Effective) -> Result<(), Failure> {
    let text = load::print(&effective.configuration)?;
    std::fs::write(path, text)
        .with_context(|| format!("--write-config-to {}", path.display()))
        .map_err(Failure::Usage)
}

/// Waits until the configuration file has changed to one that can be run with; for ever without one. kube-proxy ends with an
/// error when its file is written to, and so do we, for its DaemonSet counts on that. But whoever ended for a file with a
/// mistake in it would not come back, on all nodes at once: that is a problem, and the former one stays in force.
async fn config_changed(watched: Option<Watched>, args: &RunArgs, out: &mpsc::Sender<SourceEvent>) {
    let Some(mut watched) = watched else { return std::future::pending().await };
    loop {
        let content = watched.changed().await;
        let refused = match content {
            Content::InForce => None,
            Content::Other => match args.effective() {
                Ok(_) => return,
                Err(failure) => Some(failure.to_string().replace('\n', "; ")),
            },
        };
        let file = watched.path().to_owned();
        let problem = |why| FileProblem {
            file: file.clone(),
            line: None,
            field: None,
            reason: format!(
                "has changed and cannot be run with; the former one stays in force: {why}"
            ),
        };
        let problems = refused.map(problem).into_iter().collect();
        // Nobody listens only at the end.
        let _ = out.send(SourceEvent::FileProblems { file, problems }).await;
    }
}
