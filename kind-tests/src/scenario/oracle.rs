//! What the plan says about a flow: the daemon's own way from manifests to a plan, and the model's oracle.

use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, SocketAddr};
use std::path::Path;

use anyhow::{Context, Result, anyhow, bail};
use clap::Parser;
use shunt::cli::{Cli, Command};
use shunt::source::{SourceEvent, manifests};
use shunt_cluster::{Protocol, Way};
use shunt_model::address::{self, Endpoint};
use shunt_model::compile;
use shunt_model::oracle::{Packet, Verdict, verdict};
use shunt_model::plan::{BlindLink, Plan};
use shunt_model::snapshot::{Change, Snapshot};

use super::flow::{Expected, Flow, Server, Source};
use super::policy;
use super::setup::Setup;

/// What a node's daemon does.
pub(super) struct NodeState {
    /// With Services.
    pub(super) plan: Plan,
    /// By network policy.
    pub(super) policy: shunt_netpolicy::snapshot::Snapshot,
}

/// What each node does.
pub(super) type Plans = BTreeMap<String, NodeState>;

/// The arguments of a node's daemon.
pub(super) fn arguments(node: &str, directory: &Path, flags: &[String]) -> Vec<String> {
    let directory = directory.display().to_string();
    let fixed = ["run", "--manifests", &directory, "--node-name", node];
    fixed.into_iter().map(str::to_owned).chain(flags.iter().cloned()).collect()
}

/// The plan that a node's daemon must come to with a directory of manifests.
pub(super) fn plan(node: &str, directory: &Path, setup: &Setup) -> Result<NodeState> {
    let arguments = arguments(node, directory, &setup.flags);
    let cli = Cli::try_parse_from(["shunt".to_owned()].into_iter().chain(arguments))?;
    let Command::Run(run) = cli.command else { bail!("`run` is something else") };
    let settings = run.effective().map(|(effective, _)| effective.settings);
    let settings = settings.map_err(|error| anyhow!("the daemon's flags: {error}"))?;
    let mut snapshot = Snapshot::new();
    let mut of_policy = shunt_netpolicy::snapshot::Snapshot::new();
    let events =
        manifests::load_once(directory).map_err(|error| anyhow!("the manifests: {error}"))?;
    for event in events {
        match event {
            SourceEvent::Change(change) => drop(snapshot.apply(change)),
            SourceEvent::Policy(change) => drop(of_policy.apply(change)),
            // They are demanded of the daemon, by `problem` lines.
            SourceEvent::FileProblems { .. }
            | SourceEvent::Network { .. }
            | SourceEvent::SecondProxy(_)
            | SourceEvent::Triggered(_) => {}
        }
    }
    let local: BTreeSet<IpAddr> = setup.addresses_of(node).collect();
    of_policy.put_machine(&node.into(), local.clone());
    drop(snapshot.apply(Change::LocalAddresses(local)));
    let link = |way: Way| -> Result<BlindLink> {
        let Way { input, output, clients, endpoints } = way;
        let (clients, endpoints) = (clients.into_iter().collect(), endpoints.into_iter().collect());
        Ok(BlindLink { input: input.parse()?, output: output.parse()?, clients, endpoints })
    };
    let links = setup.blind_ways(node).into_iter().map(link).collect::<Result<_>>()?;
    drop(snapshot.apply(Change::BlindLinks(links)));
    Ok(NodeState { plan: compile::full(&settings, &snapshot), policy: of_policy })
}

/// What the plans say becomes of a flow.
pub(super) struct Ruling {
    /// The node that decides; none if no Service is concerned on the way.
    pub(super) node: Option<String>,
    /// What it decides.
    pub(super) verdict: Verdict,
    /// Where the packet may go then, and why policy drops it on the way, if it does.
    pub(super) ways: Vec<(Endpoint, Option<String>)>,
}

/// Asks the plan of each node on the way; the first that has something to say decides.
pub(super) fn rule(
    from: &str,
    protocol: Protocol,
    to: SocketAddr,
    plans: &Plans,
    setup: &Setup,
) -> Result<Ruling> {
    let packet = Packet {
        source: setup.names.host_like(from, to.ip())?,
        destination: to.ip(),
        protocol: match protocol {
            Protocol::Tcp => address::Protocol::Tcp,
            Protocol::Udp => address::Protocol::Udp,
            Protocol::Sctp => address::Protocol::Sctp,
        },
        port: to.port(),
        from_node: false,
        interface: None,
    };
    let flow = (from, protocol, to);
    for node in nodes_on_the_way(from, to.ip(), setup) {
        let from_node = node == from;
        let interface = setup.input(from, node).map(|name| name.parse()).transpose()?;
        let packet = Packet { from_node, interface, ..packet };
        let state = plans.get(node).with_context(|| format!("{node} has no plan"))?;
        match verdict(&state.plan, &packet) {
            Verdict::Pass => {}
            verdict => return with_policy(flow, Some(node), verdict, plans, setup),
        }
    }
    with_policy(flow, None, Verdict::Pass, plans, setup)
}

/// Adds what policy says of each endpoint.
fn with_policy(
    flow: policy::Way<'_>,
    node: Option<&str>,
    verdict: Verdict,
    plans: &Plans,
    setup: &Setup,
) -> Result<Ruling> {
    let endpoints = match &verdict {
        Verdict::Forward(pool) => pool.clone(),
        Verdict::Pass => {
            vec![(Endpoint { address: flow.2.ip(), port: flow.2.port() }, false)]
        }
        Verdict::Reject | Verdict::Drop => Vec::new(),
    };
    let mut ways = Vec::new();
    for (endpoint, masqueraded) in endpoints {
        let hidden_by = node.filter(|_| masqueraded);
        ways.push((endpoint, policy::denies(flow, endpoint, hidden_by, plans, setup)?));
    }
    Ok(Ruling { node: node.map(ToOwned::to_owned), verdict, ways })
}

/// The nodes that see the packet before it is sent elsewhere.
fn nodes_on_the_way<'a>(from: &'a str, to: IpAddr, setup: &'a Setup) -> Vec<&'a str> {
    let own = setup.node_of(from);
    let routed = || setup.next_hop(from, to);
    let first = own.or_else(routed);
    let target = setup.names.host_of(to).and_then(|host| setup.node_of(host));
    let last = target.filter(|node| Some(*node) != first);
    first.into_iter().chain(last).collect()
}

impl Ruling {
    /// Compares it with what a person expects. Gives back the expectation with what it left open filled in: whom each
    /// server sees.
    pub(super) fn check(&self, flow: &Flow, setup: &Setup) -> Result<Expected> {
        let denied = self.ways.iter().find_map(|(_, denied)| denied.as_deref());
        let all_denied =
            !self.ways.is_empty() && self.ways.iter().all(|(_, denied)| denied.is_some());
        match (&flow.expected, denied) {
            (Expected::Denied, Some(_)) if all_denied => return Ok(Expected::Denied),
            (Expected::Denied, None) => bail!("no policy denies it"),
            (_, Some(reason)) => bail!("policy says: {reason}"),
            (_, None) => {}
        }
        match (&flow.expected, &self.verdict) {
            (Expected::Refused, Verdict::Reject)
            | (Expected::Dropped, Verdict::Drop)
            | (Expected::Pass(_), Verdict::Pass) => Ok(flow.expected.clone()),
            (Expected::Served(servers), Verdict::Forward(pool)) => {
                let node = self.node.as_deref().unwrap_or_default();
                let filled = fill_in(servers, pool, node, &flow.from, setup)?;
                Ok(Expected::Served(filled))
            }
            _ => bail!(
                "the plan of {} says: {}",
                self.node.as_deref().unwrap_or("no node"),
                self.describe(setup)
            ),
        }
    }

    fn describe(&self, setup: &Setup) -> String {
        match &self.verdict {
            Verdict::Pass => "pass, no Service is concerned".to_owned(),
            Verdict::Reject => "refused".to_owned(),
            Verdict::Drop => "dropped".to_owned(),
            Verdict::Forward(pool) => describe_pool(pool, setup),
        }
    }
}

/// Matches each endpoint of the pool with one expected server.
fn fill_in(
    servers: &[Server],
    pool: &[(Endpoint, bool)],
    node: &str,
    from: &str,
    setup: &Setup,
) -> Result<Vec<Server>> {
    let mut filled = Vec::new();
    for (endpoint, masqueraded) in pool {
        let is_it = |server: &&Server| {
            setup.names.host_of(endpoint.address) == Some(server.pod.as_str())
                && server.port.is_none_or(|port| port == endpoint.port)
        };
        let Some(server) = servers.iter().find(is_it) else {
            bail!(
                "the plan of {node} has {}, which is not expected",
                describe_pool(&[(*endpoint, *masqueraded)], setup)
            );
        };
        let sees = if *masqueraded { Source::Node(node.to_owned()) } else { Source::Kept };
        // A process of the node has the node's address anyway.
        let same = |wanted: &Source| {
            *wanted == sees
                || (from == node && *wanted == Source::Node(from.to_owned()))
                // Who is on the endpoint's own link is masqueraded there, whatever the scenario says.
                || (setup.is_blind() && *masqueraded)
        };
        if let Some(wanted) = server.sees.as_ref().filter(|wanted| !same(wanted)) {
            bail!("{} shall see {wanted:?}, by the plan of {node} it sees {sees:?}", server.pod);
        }
        filled.push(Server {
            pod: server.pod.clone(),
            port: Some(endpoint.port),
            sees: Some(sees),
        });
    }
    let missing = servers.iter().find(|server| {
        !filled.iter().any(|there| {
            there.pod == server.pod && server.port.is_none_or(|port| there.port == Some(port))
        })
    });
    match missing {
        None => Ok(filled),
        Some(server) => bail!(
            "the plan of {node} does not have {server}; it has {}",
            describe_pool(pool, setup)
        ),
    }
}

fn describe_pool(pool: &[(Endpoint, bool)], setup: &Setup) -> String {
    let each = pool.iter().map(|(endpoint, masqueraded)| {
        let pod = setup.names.host_of(endpoint.address).unwrap_or("a stranger");
        let masqueraded = if *masqueraded { ", masqueraded" } else { "" };
        format!("{pod} ({endpoint}{masqueraded})")
    });
    each.collect::<Vec<_>>().join(" ")
}
