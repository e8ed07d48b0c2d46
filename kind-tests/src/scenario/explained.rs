//! What a daemon says of a flow when `shunt explain` asks it, beside what the oracle says of its plan.

use std::collections::BTreeSet;

use anyhow::{Context, Result, ensure};
use shunt::ask::Port;
use shunt::explain::{self, Asked, Explanation, Fate};
use shunt_model::address::{Endpoint, Protocol};
use shunt_model::oracle::Verdict;

use super::flow::Flow;
use super::lab::Lab;
use super::oracle::Ruling;
use super::setup::Setup;

/// Asks the node that decides about the flow, or else the one where it begins, if its daemon runs.
pub(super) fn check(lab: &Lab<'_>, flow: &Flow, ruling: &Ruling, setup: &Setup) -> Result<()> {
    let begins = || setup.node_of(&flow.from).map(str::to_owned);
    let Some(node) = ruling.node.clone().or_else(begins) else { return Ok(()) };
    let from = setup.names.host_like(&flow.from, flow.to.ip())?.to_string();
    let port = Port { protocol: protocol(flow.protocol), number: flow.to.port() };
    let interface = setup.input(&flow.from, &node).map(|name| name.parse()).transpose()?;
    let asked = Asked { from, to: flow.to.ip().to_string(), port, interface };
    let path = format!("{}?{}", explain::PATH, asked.query());
    let Some(body) = lab.ask(&node, &path)? else { return Ok(()) };
    let answers: Vec<Explanation> = serde_json::from_str(&body).with_context(|| body.clone())?;
    let [answer] = answers.as_slice() else { anyhow::bail!("one answer is expected: {body}") };
    ensure!(answer.node == node, "{body}");
    // What a dead daemon's node still enforces, no other can know.
    let all_run = lab.running().len() == setup.cluster.nodes.len();
    let ruling = (&ruling.verdict, ruling.ways.as_slice());
    let compared = compare(answer, ruling);
    let compared =
        compared.and_then(|()| if all_run { compare_policy(answer, ruling.1) } else { Ok(()) });
    compared.with_context(|| format!("`shunt explain` on {node} says {body}"))
}

const fn protocol(protocol: shunt_cluster::Protocol) -> Protocol {
    match protocol {
        shunt_cluster::Protocol::Tcp => Protocol::Tcp,
        shunt_cluster::Protocol::Udp => Protocol::Udp,
        shunt_cluster::Protocol::Sctp => Protocol::Sctp,
    }
}

/// Where packets may go, and why policy denies it.
type Ways = [(Endpoint, Option<String>)];

fn compare(answer: &Explanation, (verdict, ways): (&Verdict, &Ways)) -> Result<()> {
    let fate = match verdict {
        Verdict::Pass => Fate::Pass,
        Verdict::Forward(_) => Fate::Forward,
        Verdict::Reject => Fate::Reject,
        Verdict::Drop => Fate::Drop,
    };
    ensure!(answer.fate == fate, "the plan says {fate:?}");
    let ends: BTreeSet<_> = answer.ends.iter().map(|end| end.endpoint.clone()).collect();
    let ways: BTreeSet<_> = ways.iter().map(|(endpoint, _)| endpoint.to_string()).collect();
    ensure!(ends == ways, "the plan has {ways:?}");
    if let Verdict::Forward(pool) = verdict {
        for (endpoint, hidden) in pool {
            let end = answer.ends.iter().find(|end| end.endpoint == endpoint.to_string());
            let kept = end.is_some_and(|end| end.seen_as == answer.from.address);
            ensure!(kept != *hidden, "{endpoint}: by the plan the client is hidden: {hidden}");
        }
    }
    Ok(())
}

fn compare_policy(answer: &Explanation, ways: &Ways) -> Result<()> {
    for (endpoint, denied) in ways {
        let end = answer.ends.iter().find(|end| end.endpoint == endpoint.to_string());
        let allows = end.and_then(|end| end.policy.as_ref()).is_none_or(|policy| policy.allows());
        ensure!(allows == denied.is_none(), "{endpoint}: policy says: {denied:?}");
    }
    Ok(())
}
