//! Plays a scenario, step by step.

use std::thread;

use anyhow::{Context, Result, bail, ensure};
use shunt_cluster::Family;
use shunt_nftables::forwarding::Forwarding;

use super::Scenario;
use super::difference::Instead;
use super::explained;
use super::flow::Flow;
use super::lab::Lab;
use super::oracle::{self, Plans};
use super::setup::Setup;
use super::step::{self, Act, Files, Step};
use super::table;

/// What was played.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Played {
    /// Steps, without the one that removes everything.
    pub steps: usize,
    /// Flows, each family counted.
    pub flows: usize,
}

/// Plays a scenario: on the oracle and on the real kernel.
pub(super) fn play(scenario: &Scenario) -> Result<Played> {
    let mut lab = Lab::build(&scenario.setup)?;
    let mut player = Player { setup: &scenario.setup, plans: Plans::new(), accepted: Files::new() };
    let mut played = Played::default();
    for (number, step) in scenario.steps.iter().enumerate() {
        if player.setup.forwarding == Forwarding::VirtualServers && step.is_not_for_ipvs() {
            break;
        }
        let result = player.step(&mut lab, step, number == 0);
        result.with_context(|| format!("{}, step {}", scenario.name, step.name))?;
        played.steps += 1;
        played.flows += step.flows.len();
    }
    // Where nothing was played, no daemon has been started.
    if played.steps > 0 {
        player.finish(&mut lab).with_context(|| format!("{}, the end", scenario.name))?;
    }
    Ok(played)
}

struct Player<'a> {
    setup: &'a Setup,
    /// What each node's daemon was last seen to have done.
    plans: Plans,
    /// The manifests as they were last readable.
    accepted: Files,
}

impl Player<'_> {
    fn step(&mut self, lab: &mut Lab<'_>, step: &Step, first: bool) -> Result<()> {
        for act in &step.acts {
            if let Act::Kill(node) = act {
                lab.kill(node)?;
            }
        }
        lab.site_mut().use_held().context("before the manifests change")?;
        self.write(lab, step)?;
        for node in &self.setup.cluster.nodes {
            if first && !step.has(&Act::Kill(node.name.clone()))
                || step.has(&Act::Start(node.name.clone()))
            {
                lab.start(&node.name)?;
            }
        }
        self.wait(lab, &step.problems())?;
        lab.site_mut().follow(&step.acts)?;
        lab.site_mut().use_held().context("after the manifests have changed")?;
        self.check_flows(lab, step)?;
        for act in &step.acts {
            match act {
                Act::Hold(hold) => lab.site_mut().hold(hold)?,
                Act::Release(name) => lab.site_mut().release(name)?,
                Act::WritesNothing(node) => check_nothing_written(lab, node)?,
                Act::Wait(duration) => thread::sleep(*duration),
                _ => {}
            }
        }
        lab.site_mut().use_held().context("after the flows")?;
        // What a step must not change is still as it was.
        self.wait(lab, &step.problems())
    }

    /// The implied last step: everything goes.
    fn finish(&mut self, lab: &mut Lab<'_>) -> Result<()> {
        lab.site_mut().release_all()?;
        step::write_files(&lab.manifests(), &Files::new(), &lab.aside())?;
        step::write_files(&lab.accepted(), &Files::new(), &lab.aside())?;
        self.wait(lab, &[])?;
        lab.check_empty()?;
        for node in lab.running() {
            check_smooth(lab, &node)?;
        }
        lab.stop()?;
        lab.rulesets().map(drop)
    }

    fn write(&mut self, lab: &Lab<'_>, step: &Step) -> Result<()> {
        let accepted = step.readable(&self.accepted);
        step::write_files(&lab.accepted(), &accepted, &lab.aside())?;
        step::write_files(&lab.manifests(), &step.files, &lab.aside())?;
        self.accepted = accepted;
        Ok(())
    }

    fn wait(&mut self, lab: &mut Lab<'_>, problems: &[&str]) -> Result<()> {
        for node in lab.running() {
            let state = oracle::plan(&node, &lab.accepted(), self.setup)?;
            lab.wait(&node, &state, problems)?;
            self.plans.insert(node, state);
        }
        Ok(())
    }

    /// Checks each flow on the oracle and on the wire; all that fail are told.
    fn check_flows(&self, lab: &Lab<'_>, step: &Step) -> Result<()> {
        let rulesets = lab.rulesets()?;
        let mut failures = Vec::new();
        for flow in &step.flows {
            let ruling = oracle::rule(&flow.from, flow.protocol, flow.to, &self.plans, self.setup)?;
            if let Err(error) = self.check_flow(lab, flow, &ruling) {
                let node = ruling.node.as_deref();
                let shown = node
                    .or_else(|| self.setup.node_of(&flow.from))
                    .and_then(|node| rulesets.get(node));
                let ruleset = shown.map_or(String::new(), |ruleset| table::excerpt(ruleset, flow));
                failures.push((format!("{flow}\n  {error:#}"), ruleset));
            }
        }
        let Some((_, ruleset)) = failures.first() else { return Ok(()) };
        let texts: Vec<_> = failures.iter().map(|(text, _)| text.as_str()).collect();
        bail!(
            "{} of {} flows:\n{}\nThe ruleset of the first:\n{ruleset}",
            texts.len(),
            step.flows.len(),
            texts.join("\n")
        )
    }

    /// What IPVS makes of a flow where it cannot do what the plan says.
    fn physics<'f>(&self, flow: &'f Flow) -> Option<&'f Instead> {
        if self.setup.forwarding != Forwarding::VirtualServers {
            return None;
        }
        let family = Family::of(flow.to.ip());
        let declared = flow.differences.iter().find(|each| each.concerns_ipvs(family));
        declared.map(|difference| &difference.instead)
    }

    fn check_flow(&self, lab: &Lab<'_>, flow: &Flow, ruling: &oracle::Ruling) -> Result<()> {
        // What the oracle says is tried on the wire even if a person expects something else: who is wrong?
        let expected = ruling.check(flow, self.setup);
        let on_the_wire = match self.physics(flow) {
            Some(Instead::Flow(otherwise)) => lab.site().prober().check(flow, otherwise),
            Some(Instead::Chance | Instead::Absent) => Ok(()),
            None => lab.site().prober().check(flow, expected.as_ref().unwrap_or(&flow.expected)),
        };
        match (expected, on_the_wire) {
            (Ok(_), Ok(())) => explained::check(lab, flow, ruling, self.setup),
            (Ok(_), Err(wire)) => Err(wire.context("the plan is right")),
            (Err(plan), Ok(())) => bail!("{plan:#}; on the wire all is as expected"),
            (Err(plan), Err(wire)) => bail!("{plan:#}; {wire:#}"),
        }
    }
}

fn check_nothing_written(lab: &mut Lab<'_>, node: &str) -> Result<()> {
    let status = lab.status(node)?.context("no answer of the daemon")?;
    let counters = status.counters;
    ensure!(
        counters.operations == 0 && counters.transactions == 0,
        "nothing differed, but the daemon of {node} wrote {} operations in {} transactions",
        counters.operations,
        counters.transactions
    );
    Ok(())
}

/// No sync may have failed, and nothing may have had to be repaired: nobody else writes here.
fn check_smooth(lab: &mut Lab<'_>, node: &str) -> Result<()> {
    let status = lab.status(node)?.context("no answer of the daemon")?;
    let counters = status.counters;
    let (failures, repairs, drifts) = (counters.failures, counters.repairs, counters.drifts);
    ensure!(
        (failures, repairs, drifts) == (0, 0, 0),
        "the daemon of {node} counts {failures} failures, {repairs} repairs, {drifts} drifts"
    );
    Ok(())
}
